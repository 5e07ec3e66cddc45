// SPDX-License-Identifier: MIT
/// @file
/// Layer core: open files of the operating system. For POSIX systems.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE::detail {

/// An open file of the operating system.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  /// Opens a file; there is none, and errno says why, if that fails.
  FileDescriptor(const std::filesystem::path& path, int flags, mode_t mode = 0)
      : number_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor() {
    if (is_open()) ::close(number_);
  }

  [[nodiscard]] bool is_open() const { return number_ >= 0; }
  [[nodiscard]] int get() const { return number_; }
  /// Gives it to someone else, who closes it.
  int release() { return std::exchange(number_, -1); }

 private:
  int number_ = -1;
};

}  // namespace UNIT_SCALING_NAMESPACE::detail
