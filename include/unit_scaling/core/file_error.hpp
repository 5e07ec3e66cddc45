// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the error of all that reads and writes files.
#pragma once

#include <exception>
#include <new>
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

namespace detail {

/// What `body()` returns. Whatever it throws becomes a FileError of that path.
template <class Body> decltype(auto) with_file_errors(std::string_view path, const Body& body) {
  try {
    return body();
  } catch (const FileError&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw FileError(path, "there is not enough memory for it");
  } catch (const std::exception& error) {
    throw FileError(path, printable(error.what(), 300));
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE
