// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the errors of the library, and the checks that throw them.
#pragma once

#include <concepts>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// Arrays whose shapes do not fit the operation; the text names it, the shapes and what it expects.
class ShapeError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A value outside an operation's domain: a negative probability, a label beyond the vocabulary.
class DomainError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// @throws ShapeError "`operation`: `what`" followed by "; got (a), (b)".
template <class... Shapes>
[[noreturn]] void throw_shape_error(std::string_view operation, std::string_view expected,
                                    const Shapes&... shapes) {
  std::string text(operation);
  text += ": expected ";
  text += expected;
  text += ", got";
  std::string_view separator = " ";
  ((text += std::exchange(separator, " and "), text += to_string(shapes)), ...);
  throw ShapeError(text);
}

/// @throws ShapeError unless the two shapes are equal.
inline void require_same_shape(std::string_view operation, std::string_view what, const Shape& a,
                               const Shape& b) {
  if (a != b) throw_shape_error(operation, std::string(what) + " of one shape", a, b);
}

/// @throws DomainError "`operation`: " followed by the parts of `message`.
[[noreturn]] inline void throw_domain_error(std::string_view operation,
                                            std::initializer_list<std::string_view> message) {
  std::string text(operation);
  text += ": ";
  for (const std::string_view part : message) text += part;
  throw DomainError(text);
}

/// As above, unless `condition`: the parts are joined only if they are needed.
template <std::convertible_to<std::string_view>... Parts>
requires(sizeof...(Parts) > 0) void require(bool condition, std::string_view operation,
                                            const Parts&... message) {
  if (!condition) throw_domain_error(operation, {message...});
}

}  // namespace UNIT_SCALING_NAMESPACE
