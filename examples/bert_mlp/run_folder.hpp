// SPDX-License-Identifier: MIT
// The folder that a run writes its results to, and what it may replace there.
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
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "one_line.hpp"
#include "options.hpp"
#include "summary.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/input_file.hpp"

namespace bert_mlp {

/// A folder that one run, and no other, writes to until this is gone. What it made of folders it
/// takes away again if nothing was put there.
class RunFolder {
 public:
  RunFolder() = default;
  RunFolder(RunFolder&& other) noexcept
      : path_(std::move(other.path_)),
        made_(std::exchange(other.made_, {})),
        lock_(std::move(other.lock_)) {}
  RunFolder& operator=(RunFolder&&) = delete;
  ~RunFolder() {
    for (auto each = made_.rbegin(); each != made_.rend(); ++each) rmdir(each->c_str());
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Takes `path`, which is made, with the folders above it, unless it is there.
  /// @throws std::invalid_argument if it cannot be had.
  static RunFolder take(const std::filesystem::path& path) {
    RunFolder folder;
    folder.make(path);
    if (!folder.lock()) {
      throw std::invalid_argument("--out " + quoted_path(path.string()) +
                                  ": another run writes there; give another folder");
    }
    return folder;
  }

  /// Takes `wanted`, or `wanted`-2, `wanted`-3 and so on: the first that does not exist.
  /// @throws std::invalid_argument if it cannot be made.
  static RunFolder take_new(const std::filesystem::path& wanted) {
    for (std::size_t number = 1;; ++number) {
      std::filesystem::path path = wanted;
      if (number > 1) path += "-" + std::to_string(number);
      RunFolder folder;
      if (folder.make(path) && folder.lock()) return folder;
    }
  }

  /// Fails now rather than after the training.
  /// @throws std::invalid_argument if no checkpoint can be written there.
  void require_writable() const {
    try {
      // Deletes itself, as it is not finished.
      us::AtomicFile(path_ / "checkpoint.safetensors").append(std::as_bytes(std::span("?")));
    } catch (const us::FileError& error) {
      throw std::invalid_argument(std::string("--out ") + error.what());
    }
  }

 private:
  /// @returns whether the folder is new: it was made by this call and by no other program.
  bool make(const std::filesystem::path& path) {
    path_ = path;
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

  /// A name that moves the cursor, or is two lines, is no folder's that this program makes.
  void require_no_control_characters(const std::string& name,
                                     const std::filesystem::path& part) const {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(name[i]); };
    for (std::size_t i = 0; i < name.size(); ++i) {
      // U+0080 to U+009F are of two bytes in UTF-8.
      const bool is_long = byte(i) == 0xc2 && i + 1 < name.size() && byte(i + 1) < 0xa0;
      std::error_code error;
      if ((byte(i) >= 0x20 && byte(i) != 0x7f && !is_long) ||
          std::filesystem::exists(part, error)) {
        continue;
      }
      throw std::invalid_argument("--out " + quoted_path(path_.string()) +
                                  ": expected a name without control characters for a new folder");
    }
  }

  /// @returns whether no other run has the folder. What was made is that run's if one has it.
  bool lock() {
    if (try_lock()) return true;
    made_.clear();
    return false;
  }

  bool try_lock() {
    lock_ = us::detail::FileDescriptor(path_, O_RDONLY | O_DIRECTORY);
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

  [[noreturn]] void refuse(const std::string& reason) const {
    throw std::invalid_argument("--out " + quoted_path(path_.string()) +
                                ": expected a folder, or that one can be made: " + reason);
  }

  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_;  // from the outermost on
  us::detail::FileDescriptor lock_;
};

/// A command without its first word, the program: one program has many paths.
inline std::string arguments_of(const std::string& command) {
  const std::size_t space = command.find(' ');
  return space == std::string::npos ? "" : command.substr(space + 1);
}

/// Whether `folder` is that of the training which --resume continues, and of no other: then the
/// results there become those of the whole training. The folder of a comparison is not.
inline bool is_folder_of_resumed(const Options& options, const std::filesystem::path& folder) {
  if (options.resume.empty()) return false;
  std::error_code error;
  const auto holder = std::filesystem::absolute(options.resume, error).parent_path();
  if (!std::filesystem::equivalent(holder, folder, error)) return false;
  if (!std::filesystem::exists(folder / "summary.json", error)) return true;
  const auto summary = summary_in(folder);
  return summary && summary->runs == 1;
}

/// Whether the folder for results has those of all trainings of the same command: what a part of
/// them gives is there already.
inline bool has_results_of_all(const Options& options) {
  const auto summary = summary_in(options.out);
  return summary && !summary->was_stopped &&
         arguments_of(summary->command) == arguments_of(options.command);
}

/// @throws std::invalid_argument if `folder` holds what the run must not replace.
inline void require_replaceable(const Options& options, const std::filesystem::path& folder) {
  if (options.overwrite || is_folder_of_resumed(options, folder)) return;
  const std::string name = "--out " + quoted_path(folder.string());
  std::error_code error;
  if (std::filesystem::exists(folder / "summary.json", error)) {
    const auto summary = summary_in(folder);
    if (summary && arguments_of(summary->command) == arguments_of(options.command)) return;
    throw std::invalid_argument(name +
                                " holds the results of another command, which its summary.json "
                                "names; give another folder, or --overwrite");
  }
  if (std::filesystem::exists(folder / "checkpoint.safetensors", error)) {
    throw std::invalid_argument(name +
                                " holds the checkpoint of a run that did not end; go on with "
                                "--resume, or give another folder or --overwrite");
  }
}

/// "fp8-unit", "compare": what the folder of a run is called unless the user says.
inline std::string default_folder_name(const Options& options) {
  if (options.loss_scale_window) return "loss-scale-window";
  if (options.sweep_bits > 0) return "format-sweep-" + std::to_string(options.sweep_bits);
  const Variant& variant = options.variants.back();
  const bool is_compared =
      std::count_if(options.variants.begin(), options.variants.end(),
                    [&](const Variant& each) { return each.simulation == variant.simulation; }) > 1;
  if (is_compared) return "compare";
  return variant.precision + "-" + variant.scaling_name() +
         (variant.recipe.empty() ? "" : "-" + variant.recipe) +
         (variant.simulation.empty() ? "" : "-simulated");
}

/// Chooses and takes the folder for results: the one that --out names, else that of the training
/// which --resume continues, else a new one below runs/.
/// @throws std::invalid_argument if it cannot be written to, is another run's, or holds what must
///         not be replaced.
inline RunFolder claim_run_folder(const Options& options) {
  std::filesystem::path path = options.out;
  if (path.empty() && !options.resume.empty()) {
    path = options.resume.parent_path();
    if (path.empty()) path = ".";
    if (!is_folder_of_resumed(options, path)) path.clear();
  }
  const bool is_named = !path.empty();
  RunFolder folder =
      is_named ? RunFolder::take(path)
               : RunFolder::take_new(std::filesystem::path("runs") / default_folder_name(options));
  // Only now, as another run may have put its results there until it let the folder go.
  if (is_named) require_replaceable(options, path);
  folder.require_writable();
  return folder;
}

}  // namespace bert_mlp
