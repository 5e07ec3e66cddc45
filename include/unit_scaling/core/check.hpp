// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the errors of the library, and the checks that throw them.
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdio>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

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

// Attributes: the numbers that ops, modules and optimisers are told. All are double, and act in
// P::compute, which is float under every policy but fp64. They are checked as floats whatever the
// policy, so that what is accepted once is accepted everywhere: a number that float cannot hold is
// refused, and so is one that float takes for 0.

/// @throws DomainError "`operation`: expected `attribute` `expected`, got `value`".
[[noreturn]] inline void throw_attribute_error(std::string_view operation,
                                               std::string_view attribute,
                                               std::string_view expected, double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.9g", value);
  throw_domain_error(operation, {"expected ", attribute, " ", expected, ", got ", text.data()});
}

/// True for 0, and for what is normal and finite as a float.
[[nodiscard]] inline bool is_float(double value) {
  constexpr auto least = static_cast<double>(std::numeric_limits<float>::min());
  constexpr auto largest = static_cast<double>(std::numeric_limits<float>::max());
  const double magnitude = std::abs(value);
  return value == 0 || (magnitude >= least && magnitude <= largest);
}

/// @throws DomainError unless `value` is finite as a float, and not 0 there without being 0.
inline void require_finite(std::string_view operation, std::string_view attribute, double value) {
  if (!is_float(value)) {
    throw_attribute_error(operation, attribute, "that is finite as a float", value);
  }
}

/// @throws DomainError unless `value` is at least `least`, and as in `require_finite`.
inline void require_at_least(std::string_view operation, std::string_view attribute, int least,
                             double value) {
  if (!is_float(value) || !(value >= least)) {
    throw_attribute_error(operation, attribute,
                          "of at least " + std::to_string(least) + " that is finite as a float",
                          value);
  }
}

/// @throws DomainError unless `value` is at least 0, and as in `require_finite`.
inline void require_not_negative(std::string_view operation, std::string_view attribute,
                                 double value) {
  require_at_least(operation, attribute, 0, value);
}

/// @throws DomainError unless `value` is above 0, and it and its reciprocal are finite as floats.
inline void require_positive(std::string_view operation, std::string_view attribute, double value) {
  if (!is_float(value) || !(value > 0) || !is_float(1 / value)) {
    throw_attribute_error(operation, attribute,
                          "above 0 that is finite as a float, and so is its reciprocal", value);
  }
}

/// For what multiplies the input of a function, whose slope has its square: `mult`.
/// @throws DomainError unless `value` is above 0, and its square is as in `require_positive`.
inline void require_multiplier(std::string_view operation, std::string_view attribute,
                               double value) {
  if (!(value > 0) || value == std::numeric_limits<double>::infinity() ||
      !is_float(value * value) || value * value == 0 || !is_float(1 / (value * value))) {
    throw_attribute_error(operation, attribute,
                          "above 0, finite and with a square that a float can hold", value);
  }
}

/// For probabilities, and for what is kept of a moving average.
/// @throws DomainError unless `value` is in [0, 1) as a float.
inline void require_share(std::string_view operation, std::string_view attribute, double value) {
  if (!is_float(value) || !(value >= 0) || !(static_cast<float>(value) < 1)) {
    throw_attribute_error(operation, attribute, "in [0, 1) as a float", value);
  }
}

/// For sizes of which 0 makes parameters of no elements, so that a model trains nothing.
/// @throws DomainError if `value` is 0.
inline void require_size(std::string_view operation, std::string_view size, std::size_t value) {
  require(value > 0, operation, "expected ", size, " of at least 1, got 0");
}

}  // namespace UNIT_SCALING_NAMESPACE
