// SPDX-License-Identifier: MIT
/// @file
/// Layer core: files that are written as a whole or not at all.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// A file in the making. It is written under a temporary name in the folder where it belongs and
/// then renamed, so that no moment and no failure leaves half a file there; only of a machine that
/// goes down it is not known what had reached the disk. It deletes itself unless it is finished.
///
///     AtomicFile file("model.bin");
///     file.append(bytes);
///     file.finish();
class AtomicFile {
 public:
  /// @throws std::runtime_error naming the file, if none can be created beside it.
  explicit AtomicFile(const std::filesystem::path& target) : target_(target) {
    // "x" creates a new file or fails, so that two writers never share one.
    for (int number = 0; number < 1000 && file_ == nullptr; ++number) {
      path_ = target;
      path_ += ".tmp" + std::to_string(number);
      errno = 0;
      file_ = std::fopen(path_.c_str(), "wbx");
      if (file_ == nullptr && errno != EEXIST) break;
    }
    if (file_ == nullptr) fail("cannot create a file beside it");
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (file_ != nullptr) std::fclose(file_);
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove(path_, ignored);
  }

  /// @throws std::runtime_error naming the file, if it cannot be written.
  /// @throws std::logic_error if it is finished.
  void append(std::span<const std::byte> bytes) {
    require_open();
    if (bytes.empty()) return;
    errno = 0;
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) fail("cannot write");
  }

  /// Puts the file in its place, replacing any other. Nothing may be appended afterwards.
  /// @throws std::runtime_error naming the file, if it cannot be written or replaced.
  /// @throws std::logic_error if it is finished.
  void finish() {
    require_open();
    errno = 0;
    // Only now may a full disk show.
    if (std::fclose(std::exchange(file_, nullptr)) != 0) fail("cannot write");
    std::error_code error;
    std::filesystem::rename(path_, target_, error);
    if (error) {
      throw std::runtime_error("'" + target_.string() + "': cannot replace it: " + error.message());
    }
    path_.clear();
  }

 private:
  void require_open() const {
    if (file_ == nullptr) throw std::logic_error("'" + target_.string() + "': already finished");
  }

  [[noreturn]] void fail(const std::string& what) const {
    const std::string reason = std::generic_category().message(errno);
    throw std::runtime_error("'" + target_.string() + "': " + what + ": " + reason);
  }

  std::filesystem::path target_;
  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
};

/// Writes a file, replacing any other, as AtomicFile does.
/// @throws std::runtime_error naming the file, if it cannot be written.
inline void write_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.append(std::as_bytes(std::span(text)));
  file.finish();
}

}  // namespace UNIT_SCALING_NAMESPACE
