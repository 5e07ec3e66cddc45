// SPDX-License-Identifier: MIT
/// @file
/// Layer train: the folder that a run writes its results to. For POSIX systems, so it is not in the
/// umbrella header.
///
///     const auto folder = train::RunFolder::take_new("runs/a");  // else runs/a-2, and so on
///     folder.claim(fingerprint);
///     train::Checkpoints checkpoints(folder.path(), fingerprint);
///     …
///     folder.write("losses.csv", losses);
// unit_scaling: optional
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/file_descriptor.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/input_file.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/fingerprint.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// A folder that one run, and no other, writes to until this is gone. What it made of folders it
/// takes away again if nothing was put there.
class RunFolder {
 public:
  RunFolder(RunFolder&& other) noexcept
      : path_(std::move(other.path_)),
        made_(std::exchange(other.made_, {})),
        lock_(std::move(other.lock_)) {}
  RunFolder& operator=(RunFolder&&) = delete;
  ~RunFolder() {
    std::for_each(made_.rbegin(), made_.rend(), [](const auto& each) { rmdir(each.c_str()); });
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Takes `path`, which is made, with the folders above it, unless it is there.
  /// @throws FileError if it cannot be had, such as while another run has it.
  [[nodiscard]] static RunFolder take(const std::filesystem::path& path) {
    RunFolder folder;
    folder.make(path);
    if (!folder.lock()) {
      throw FileError(path.string(), "another run writes there; give another folder");
    }
    return folder;
  }

  /// Takes `wanted`, or `wanted`-2, `wanted`-3 and so on: the first that does not exist.
  /// @throws FileError if it cannot be made, or is a name such as "/" or "..".
  [[nodiscard]] static RunFolder take_new(const std::filesystem::path& wanted) {
    const std::filesystem::path first = wanted.has_filename() ? wanted : wanted.parent_path();
    const std::filesystem::path last_part = first.filename();
    if (!wanted.empty() && (last_part.empty() || last_part == "." || last_part == "..")) {
      throw FileError(wanted.string(), "expected the name of a new folder");
    }
    for (std::size_t number = 1;; ++number) {
      std::filesystem::path path = first;
      if (number > 1) path += "-" + std::to_string(number);
      RunFolder folder;
      if (folder.make(path) && folder.lock()) return folder;
    }
  }

  /// Fails now rather than after the training.
  /// @throws FileError if no file of that name can be written there.
  void require_writable(const std::filesystem::path& name) const {
    // Deletes itself, as it is not finished.
    AtomicFile(path_ / name).append(std::as_bytes(std::span("?")));
  }

  /// Writes a text to a file of the folder, whole or not at all.
  /// @throws FileError if it cannot be written.
  void write(const std::filesystem::path& name, std::string_view text) const {
    write_file(path_ / name, text);
  }

  /// Makes the folder that of one training, which is written down in its training.txt. Nothing
  /// happens where it is that of the same training.
  /// @param overwrite whether results of another training there may be replaced.
  /// @throws FileError unless they may, with what differs in its text; or if training.txt cannot be
  ///         read or written.
  void claim(const Fingerprint& training, bool overwrite = false) const {
    const std::filesystem::path file = path_ / "training.txt";
    std::error_code error;
    if (!overwrite && std::filesystem::exists(file, error)) {
      const Fingerprint there = training_in(file);
      if (there == training) return;
      throw FileError(path_.string(), "holds the results of another training: " +
                                          Fingerprint::difference(there, training) +
                                          "; give another folder");
    }
    write_file(file, training.to_string() + "\n");
  }

 private:
  RunFolder() = default;

  /// @returns whether the folder is new: it was made by this call and by no other program.
  bool make(const std::filesystem::path& path) {
    path_ = path;
    if (path.empty()) refuse("the name is empty");
    bool is_new = false;
    std::filesystem::path part;
    for (const std::filesystem::path& name : path) {
      if (name.empty()) continue;  // behind a last slash
      part /= name;
      require_no_control_characters(name, part);
      is_new = mkdir(part.c_str(), S_IRWXU | S_IRWXG | S_IRWXO) == 0;
      if (is_new) made_.push_back(part);
    }
    const int reason = is_new ? 0 : errno;
    std::error_code error;
    if (reason == EEXIST && !std::filesystem::exists(path, error)) {
      refuse(error ? error.message() : "it is a symbolic link to nothing");
    }
    // Another program may have made it since, or it may be a name that is taken.
    if (is_new || std::filesystem::exists(path, error)) return is_new;
    refuse(std::generic_category().message(reason));
  }

  /// A name that moves the cursor, or is two lines, is given to no new folder.
  void require_no_control_characters(const std::string& name,
                                     const std::filesystem::path& part) const {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(name[i]); };
    for (std::size_t i = 0; i < name.size(); ++i) {
      // U+0080 to U+009F are of two bytes in UTF-8.
      const bool is_long = byte(i) == 0xc2 && i + 1 < name.size() && byte(i + 1) < 0xa0;
      if (byte(i) >= 0x20 && byte(i) != 0x7f && !is_long) continue;
      std::error_code error;
      // Names end at a zero byte, so what exists is another folder.
      if (byte(i) != 0 && std::filesystem::exists(part, error)) continue;
      throw FileError(path_.string(),
                      "expected a name without control characters for a new folder");
    }
  }

  /// @returns whether no other run has the folder. What was made is that run's if one has it.
  bool lock() {
    if (try_lock()) return true;
    made_.clear();
    return false;
  }

  bool try_lock() {
    lock_ = unit_scaling::detail::FileDescriptor(path_, O_RDONLY | O_DIRECTORY);
    if (!lock_.is_open()) {
      if (errno == ENOENT) return false;  // taken away by the run that had it
      refuse(std::generic_category().message(errno));
    }
    // Some network file systems cannot lock a folder; two runs at once then are the user's affair.
    if (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) return errno != EWOULDBLOCK;
    // The run that had it may have taken it away.
    struct stat held {};
    struct stat named {};
    return fstat(lock_.get(), &held) == 0 && stat(path_.c_str(), &named) == 0 &&
           held.st_dev == named.st_dev && held.st_ino == named.st_ino;
  }

  [[nodiscard]] static Fingerprint training_in(const std::filesystem::path& file) {
    auto [stream, size] = unit_scaling::detail::open_to_read(file);
    stream.seekg(0);
    std::string line;
    std::getline(stream, line);
    return unit_scaling::detail::with_file_errors(file.string(),
                                                  [&] { return Fingerprint::parse(line); });
  }

  [[noreturn]] void refuse(const std::string& reason) const {
    throw FileError(path_.string(), "expected a folder, or that one can be made: " + reason);
  }

  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_;  // from the outermost on
  unit_scaling::detail::FileDescriptor lock_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
