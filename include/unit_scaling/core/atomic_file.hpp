// SPDX-License-Identifier: MIT
/// @file
/// Layer core: files that are written as a whole or not at all. For POSIX systems.
#pragma once

#include <fcntl.h>
#include <stdio.h>  // NOLINT(modernize-deprecated-headers): fdopen is POSIX's, not of <cstdio>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <exception>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "unit_scaling/core/file_descriptor.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

/// Whether the file that is open still has that name, and no other file has.
[[nodiscard]] inline bool has_name(int descriptor, const std::filesystem::path& path) {
  struct stat open_file {};
  struct stat named {};
  return ::fstat(descriptor, &open_file) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         open_file.st_dev == named.st_dev && open_file.st_ino == named.st_ino;
}

/// Names of unfinished files: `.unit_scaling-`, sixteen hexadecimal digits for the machine, `-`, as
/// many for time and process, and `.tmp`. They do not grow with the name of the file that is
/// written.
class UnfinishedFiles {
 public:
  /// A name that no file has had, but for one of the same nanosecond.
  [[nodiscard]] static std::string new_name() {
    std::timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    constexpr std::uint64_t nanoseconds = 1'000'000'000;
    constexpr unsigned process_shift = 42;  // above what changes within an hour
    const std::uint64_t number = (static_cast<std::uint64_t>(now.tv_sec) * nanoseconds +
                                  static_cast<std::uint64_t>(now.tv_nsec)) ^
                                 static_cast<std::uint64_t>(::getpid()) << process_shift;
    return std::string(prefix) + digits(machine()) + "-" + digits(number) + std::string(suffix);
  }

  /// Removes those whose writers are dead. A writer holds a lock on its file from before it writes
  /// until the file has its own name, and the system takes the lock from a process that ends,
  /// however it ends. So what can be locked is dead, whatever process has its number now. Some
  /// network file systems keep locks on each machine by itself: what another machine has begun is
  /// left alone for a day after its last change. What cannot be removed, or is not known to be
  /// dead, stays.
  static void remove_dead(const std::filesystem::path& folder) noexcept {
    try {
      const std::string own_machine = digits(machine());
      std::error_code error;
      for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
           entry.increment(error)) {
        const std::string name = entry->path().filename().string();
        if (!is_name(name)) continue;
        remove_if_dead(entry->path(),
                       name.substr(prefix.size(), own_machine.size()) == own_machine);
      }
    } catch (const std::exception&) {
      // Out of memory; the next writer will clear up.
    }
  }

 private:
  static constexpr std::string_view prefix = ".unit_scaling-";
  static constexpr std::string_view suffix = ".tmp";
  static constexpr std::size_t digit_count = 16;
  static constexpr std::time_t seconds_a_day = 86400;

  [[nodiscard]] static std::string digits(std::uint64_t number) {
    std::string text(digit_count, '0');
    for (std::size_t i = 0; i < digit_count; ++i, number >>= 4U) {
      text[digit_count - 1 - i] = "0123456789abcdef"[number & 15U];
    }
    return text;
  }

  [[nodiscard]] static bool is_name(std::string_view name) {
    if (name.size() != prefix.size() + 2 * digit_count + 1 + suffix.size()) return false;
    if (!name.starts_with(prefix) || !name.ends_with(suffix)) return false;
    const std::string_view numbers = name.substr(prefix.size(), 2 * digit_count + 1);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const bool is_digit = std::string_view("0123456789abcdef").find(numbers[i]) != name.npos;
      if (i == digit_count ? numbers[i] != '-' : !is_digit) return false;
    }
    return true;
  }

  /// A number of the machine's name.
  [[nodiscard]] static std::uint64_t machine() {
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) != 0) name.front() = '\0';
    return text_hash(name.data());
  }

  static void remove_if_dead(const std::filesystem::path& path, bool is_of_this_machine) {
    // For writing, as network file systems ask of who wants a lock; a file that must not be written
    // to can still be locked on others. Never to wait for what has been put there instead.
    constexpr int flags = O_NOFOLLOW | O_NONBLOCK;
    FileDescriptor file(path, O_RDWR | flags);
    if (!file.is_open()) file = FileDescriptor(path, O_RDONLY | flags);
    struct stat status {};
    if (!file.is_open() || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return;
    if (!is_of_this_machine && std::time(nullptr) - status.st_mtime < seconds_a_day) return;
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) return;
    // Its writer may have finished between opening and locking.
    if (has_name(file.get(), path)) ::unlink(path.c_str());
  }
};

}  // namespace detail

/// A file in the making. It is written under a temporary name in the folder where it belongs, put
/// on the disk and then renamed, so that no moment and no failure leaves half a file there.
///
///     AtomicFile file("model.bin");
///     file.append(bytes);
///     file.finish();
///
/// - Unless it is finished, it deletes itself. What a killed process leaves, a hidden file
///   `.unit_scaling-….tmp`, the next `AtomicFile` in that folder removes, and never one that
///   someone is still writing, be it another thread, process or machine.
/// - If the machine goes down, the name stands for the old file or for the whole new one; which of
///   them is not known, as the folder itself is not forced to the disk.
/// - Where the target is a symbolic link, the file that the link leads to is replaced, or made, and
///   the link stays.
/// - Permissions of a file that is replaced stay, and owner and group where the process may give
///   files to them. A new file has the permissions that the process gives by its umask. Other
///   names of the old file (hard links) keep the old contents; access lists are not copied.
/// - A file that may not be written to is replaced nevertheless, where its folder may be. Folders,
///   devices, pipes and sockets are refused.
///
/// Several threads or processes may write one target at once: the last to finish wins.
class AtomicFile {
 public:
  /// @throws FileError if the target is no file, or none can be created beside it.
  explicit AtomicFile(const std::filesystem::path& target) : name_(target.string()) {
    if (name_.empty()) fail("expected the name of a file");
    if (name_.find('\0') != std::string::npos) fail("the name has a zero byte");
    target_ = followed(target);
    if (!target_.has_filename()) fail("is the name of a folder");
    struct stat old {};
    const bool replaces = status_of_target(old);

    const std::filesystem::path folder = target_.has_parent_path() ? target_.parent_path() : ".";
    detail::UnfinishedFiles::remove_dead(folder);
    // Nobody else may read what is to become a private file.
    const mode_t mode = replaces ? S_IRUSR | S_IWUSR : 0666;
    constexpr int attempts = 100;
    detail::FileDescriptor file;
    for (int attempt = 0; attempt < attempts && !file.is_open(); ++attempt) {
      path_ = folder / detail::UnfinishedFiles::new_name();
      // A new file or none, so that two writers never share one.
      file = detail::FileDescriptor(path_, O_RDWR | O_CREAT | O_EXCL, mode);
      if (!file.is_open()) {
        const int reason = errno;
        path_.clear();
        if (reason == EEXIST) continue;
        fail("cannot create a file beside it", reason);
      }
      // Until it is locked, another writer in the folder may take it for dead. Where nothing can be
      // locked, nothing is taken for dead.
      while (::flock(file.get(), LOCK_EX) != 0 && errno == EINTR) continue;
      if (!detail::has_name(file.get(), path_)) {
        path_.clear();
        file = {};
      }
    }
    if (!file.is_open()) fail("cannot create a file beside it, as others remove it");
    file_ = ::fdopen(file.get(), "wb");
    if (file_ == nullptr) {
      const int reason = errno;
      remove();
      fail("cannot create a file beside it", reason);
    }
    file.release();
    if (replaces) mode_ = old.st_mode & permissions;
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    remove();
    if (file_ != nullptr) std::fclose(file_);
  }

  /// @throws FileError if the file cannot be written.
  /// @throws std::logic_error if it is finished.
  void append(std::span<const std::byte> bytes) {
    require_open();
    if (bytes.empty()) return;
    errno = 0;
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) {
      fail("cannot write", errno);
    }
  }

  /// Puts the file in its place, replacing any other. Nothing may be appended afterwards.
  /// @throws FileError if the file cannot be written or replaced. There is then no file to append
  ///         to any more.
  /// @throws std::logic_error if it is finished.
  void finish() {
    require_open();
    try {
      put_in_place();
    } catch (...) {
      remove();
      std::fclose(std::exchange(file_, nullptr));
      throw;
    }
    path_.clear();
    // The lock goes only now. All bytes are on the disk, so there is nothing left that could fail.
    std::fclose(std::exchange(file_, nullptr));
  }

 private:
  static constexpr mode_t permissions = S_IRWXU | S_IRWXG | S_IRWXO;

  void put_in_place() {
    errno = 0;
    // Only now may a full disk show, or a file system that writes later.
    if (std::fflush(file_) != 0) fail("cannot write", errno);
    const int descriptor = ::fileno(file_);
    if (::fsync(descriptor) != 0 && errno != EINVAL && errno != ENOTSUP && errno != ENOSYS) {
      fail("cannot write", errno);
    }
    struct stat old {};
    if (status_of_target(old)) {
      // Owner first, as giving a file away takes permissions from it. Most processes may not.
      static_cast<void>(::fchown(descriptor, old.st_uid, static_cast<gid_t>(-1)) == 0);
      static_cast<void>(::fchown(descriptor, static_cast<uid_t>(-1), old.st_gid) == 0);
      mode_ = old.st_mode & permissions;
    }
    struct stat made {};
    if (mode_ && (::fstat(descriptor, &made) != 0 || (made.st_mode & permissions) != *mode_) &&
        ::fchmod(descriptor, *mode_) != 0) {
      fail("cannot give the new file the permissions of the old one", errno);
    }
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail("cannot replace it", errno);
  }

  /// Where a chain of symbolic links ends, whether or not there is a file.
  [[nodiscard]] std::filesystem::path followed(std::filesystem::path path) const {
    constexpr int longest_chain = 40;  // as Linux has it
    for (int i = 0; i < longest_chain; ++i) {
      std::error_code error;
      if (!std::filesystem::is_symlink(std::filesystem::symlink_status(path, error))) return path;
      const auto next = std::filesystem::read_symlink(path, error);
      if (error) fail("cannot follow the link", error.value());
      path = path.parent_path() / next;
    }
    fail("cannot follow the link", ELOOP);
  }

  /// Whether there is a file to be replaced, and its status.
  bool status_of_target(struct stat& status) const {
    if (::lstat(target_.c_str(), &status) != 0) {
      if (errno != ENOENT) fail("cannot create a file beside it", errno);
      return false;
    }
    if (S_ISDIR(status.st_mode)) fail("cannot replace it: it is a folder");
    if (!S_ISREG(status.st_mode)) fail("cannot replace it: it is not a regular file");
    return true;
  }

  void remove() noexcept {
    if (!path_.empty()) ::unlink(path_.c_str());
    path_.clear();
  }

  void require_open() const {
    if (file_ == nullptr) throw std::logic_error(in_quotes(name_) + ": already finished");
  }

  [[noreturn]] void fail(const std::string& what) const { throw FileError(name_, what); }
  [[noreturn]] void fail(const std::string& what, int reason) const {
    fail(what + ": " + std::generic_category().message(reason));
  }

  std::string name_;              ///< Of the target, as it was given.
  std::filesystem::path target_;  ///< Where links lead.
  std::filesystem::path path_;    ///< Of the unfinished file; empty if there is none.
  std::FILE* file_ = nullptr;     ///< Locked as long as `path_` is not empty.
  std::optional<mode_t> mode_;    ///< Permissions of the file that is replaced.
};

/// Writes a file, replacing any other, as AtomicFile does.
/// @throws FileError if it cannot be written.
inline void write_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.append(std::as_bytes(std::span(text)));
  file.finish();
}

}  // namespace UNIT_SCALING_NAMESPACE
