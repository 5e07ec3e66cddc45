// SPDX-License-Identifier: MIT
/// @file
/// Layer core: files that are read as memory, without being loaded. For POSIX systems.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "unit_scaling/core/file_descriptor.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/input_file.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// The bytes of a file as memory. The system reads a page of the file when a byte of it is first
/// asked for, and may drop the page again, so a file may be larger than memory.
///
/// Whoever writes to the file meanwhile changes the bytes. Whoever makes it shorter takes pages
/// away, and a read of those ends the process (SIGBUS). A file that `AtomicFile` replaces does
/// neither: the old file stays mapped.
class MappedFile {
 public:
  /// @throws FileError if the file is missing, cannot be read or mapped, or is not a regular one.
  explicit MappedFile(const std::filesystem::path& path) {
    detail::require_regular_file(path);
    const auto fail = [&](int reason) {
      throw FileError(path.string(),
                      "cannot be opened: " + std::generic_category().message(reason));
    };
    // Never to wait for a pipe that has been put there meanwhile.
    const detail::FileDescriptor file(path, O_RDONLY | O_NONBLOCK);
    struct stat status {};
    if (!file.is_open() || ::fstat(file.get(), &status) != 0) fail(errno);
    if (!S_ISREG(status.st_mode)) throw FileError(path.string(), "is not a regular file");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (size > std::numeric_limits<std::size_t>::max()) fail(ENOMEM);
    if (size == 0) return;  // which cannot be mapped
    void* const memory = ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ, MAP_SHARED,
                                file.get(), /*offset=*/0);
    if (memory == MAP_FAILED) fail(errno);
    bytes_ = {static_cast<const std::byte*>(memory), static_cast<std::size_t>(size)};
  }
  /// What is moved from has no bytes.
  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  /// All of the file; none of an empty one.
  [[nodiscard]] std::span<const std::byte> bytes() const& { return bytes_; }
  std::span<const std::byte> bytes() const&& = delete;

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace UNIT_SCALING_NAMESPACE
