// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the error of all that reads and writes files.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// A file that cannot be read or written, or does not hold what it must. The text begins with the
/// path, "'model.safetensors': there is no such file", on one line: see `printable`.
class FileError : public std::runtime_error {
 public:
  FileError(std::string_view path, std::string_view what)
      : std::runtime_error(in_quotes(path, longest_path) + ": " + std::string(what)) {}

 private:
  /// Of Linux. Paths are shown whole, unlike the names in files.
  static constexpr std::size_t longest_path = 4096;
};

}  // namespace UNIT_SCALING_NAMESPACE
