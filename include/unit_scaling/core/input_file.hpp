// SPDX-License-Identifier: MIT
/// @file
/// Layer core: files opened for reading.
#pragma once

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <system_error>
#include <utility>

#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE::detail {

/// That there is a file of that name, and one that has a size: a folder has none, nor has a device
/// or a pipe, which might wait for ever.
/// @throws FileError
inline void require_regular_file(const std::filesystem::path& path) {
  const std::string name = path.string();
  const auto fail = [&](const std::string& what) { throw FileError(name, what); };
  if (name.find('\0') != std::string::npos) fail("the name has a zero byte");
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) fail("there is no such file");
  if (!std::filesystem::status_known(status)) fail("cannot be opened: " + error.message());
  if (!std::filesystem::is_regular_file(status)) fail("is not a regular file");
}

/// Opens a file and tells its size.
/// @throws FileError as `require_regular_file`, or if the file cannot be opened.
[[nodiscard]] inline std::pair<std::ifstream, std::uint64_t> open_to_read(
    const std::filesystem::path& path) {
  require_regular_file(path);
  const auto fail = [&](const std::string& what) { throw FileError(path.string(), what); };
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) fail("cannot be opened: " + std::generic_category().message(errno));
  stream.seekg(0, std::ios::end);
  const std::streamoff size = stream.tellg();
  if (!stream || size < 0) fail("its size cannot be told");
  return {std::move(stream), static_cast<std::uint64_t>(size)};
}

}  // namespace UNIT_SCALING_NAMESPACE::detail
