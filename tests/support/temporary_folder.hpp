// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. A place for files that no other test, run or user shares.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): mkdtemp is POSIX's, not of <cstdlib>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>

namespace unit_scaling_test {

/// An empty folder of a name of its own, which is gone with all that is in it when this is.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = std::filesystem::path(testing::TempDir()) / "unit_scaling.XXXXXX";
    if (mkdtemp(name.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), name);
    }
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace unit_scaling_test
