// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. A test that reads files.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <ios>
#include <string_view>

#include "support/temporary_folder.hpp"

namespace unit_scaling_test {

/// Has a folder of its own, removed at its end.
class FileTest : public testing::Test {
 protected:
  /// Writes a file to the folder. @returns its path
  std::filesystem::path write(std::string_view name, std::string_view bytes) {
    const std::filesystem::path path = folder() / name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

}  // namespace unit_scaling_test
