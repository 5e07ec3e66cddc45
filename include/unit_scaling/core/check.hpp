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

/// A piece of a message, kept as what it is made from and made into text only if the message is
/// needed, so that a check that holds allocates nothing. Must not outlive what it is made from.
class MessagePiece {
 public:
  /// A text; a number; what `to_string`, found by its type, makes a text of; or a function without
  /// arguments that returns one of these.
  template <class T>
  MessagePiece(const T& value) {  // NOLINT(google-explicit-constructor): pieces are listed
    if constexpr (std::convertible_to<const T&, std::string_view>) {
      text_ = value;
    } else {
      value_ = &value;
      append_ = [](std::string& text, const void* from) {
        const T& piece = *static_cast<const T*>(from);
        if constexpr (std::invocable<const T&>) {
          MessagePiece(piece()).append_to(text);
        } else if constexpr (std::floating_point<T>) {
          std::array<char, 32> digits{};
          std::snprintf(digits.data(), digits.size(), "%.9g", static_cast<double>(piece));
          text += digits.data();
        } else {
          using std::to_string;
          text += to_string(piece);
        }
      };
    }
  }

  void append_to(std::string& text) const {
    text += text_;
    if (append_ != nullptr) append_(text, value_);
  }

 private:
  std::string_view text_;
  const void* value_ = nullptr;
  void (*append_)(std::string&, const void*) = nullptr;
};

/// @throws ShapeError "`operation`: expected `expected`, got (a) and (b)".
template <class... Shapes>
[[noreturn]] void throw_shape_error(std::string_view operation, const MessagePiece& expected,
                                    const Shapes&... shapes) {
  std::string text(operation);
  text += ": expected ";
  expected.append_to(text);
  text += ", got";
  std::string_view separator = " ";
  ((text += std::exchange(separator, " and "), text += to_string(shapes)), ...);
  throw ShapeError(text);
}

/// As above, unless `condition`.
/// @param expected a piece of a message, made into text only if it is needed.
template <class Expected, class... Shapes>
void require_shape(bool condition, std::string_view operation, const Expected& expected,
                   const Shapes&... shapes) {
  if (!condition) throw_shape_error(operation, expected, shapes...);
}

/// @throws ShapeError unless the two shapes are equal.
inline void require_same_shape(std::string_view operation, std::string_view what, const Shape& a,
                               const Shape& b) {
  require_shape(
      a == b, operation, [&] { return std::string(what) + " of one shape"; }, a, b);
}

/// @throws DomainError "`operation`: " followed by the pieces of `message`.
[[noreturn]] inline void throw_domain_error(std::string_view operation,
                                            std::initializer_list<MessagePiece> message) {
  std::string text(operation);
  text += ": ";
  for (const MessagePiece& piece : message) piece.append_to(text);
  throw DomainError(text);
}

/// As above, unless `condition`: the pieces are made into text only if they are needed.
template <class... Pieces>
requires(sizeof...(Pieces) > 0) void require(bool condition, std::string_view operation,
                                             const Pieces&... message) {
  if (!condition) throw_domain_error(operation, {message...});
}

// Attributes: the numbers that ops, modules and optimisers are told. All are double, and act in
// P::compute, which is float under every policy but fp64. They are checked as floats whatever the
// policy, so that what is accepted once is accepted everywhere: a number that float cannot hold is
// refused, and so is one that float takes for 0.

/// @throws DomainError "`operation`: expected `attribute` `expected`, got `value`", unless
///         `condition`.
template <class Attribute, class Expected>
void require_attribute(bool condition, std::string_view operation, const Attribute& attribute,
                       const Expected& expected, double value) {
  require(condition, operation, "expected ", attribute, " ", expected, ", got ", value);
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
  require_attribute(is_float(value), operation, attribute, "that is finite as a float", value);
}

/// @throws DomainError unless `value` is at least `least`, and as in `require_finite`.
inline void require_at_least(std::string_view operation, std::string_view attribute, int least,
                             double value) {
  require(is_float(value) && value >= least, operation, "expected ", attribute, " of at least ",
          least, " that is finite as a float, got ", value);
}

/// @throws DomainError unless `value` is at least 0, and as in `require_finite`.
inline void require_not_negative(std::string_view operation, std::string_view attribute,
                                 double value) {
  require_at_least(operation, attribute, 0, value);
}

/// @throws DomainError unless `value` is above 0, and it and its reciprocal are finite as floats.
inline void require_positive(std::string_view operation, std::string_view attribute, double value) {
  require_attribute(is_float(value) && value > 0 && is_float(1 / value), operation, attribute,
                    "above 0 that is finite as a float, and so is its reciprocal", value);
}

/// For what multiplies the input of a function, whose slope has its square: `mult`.
/// @throws DomainError unless `value` is above 0, and its square is as in `require_positive`.
inline void require_multiplier(std::string_view operation, std::string_view attribute,
                               double value) {
  const double square = value * value;
  require_attribute(value > 0 && value != std::numeric_limits<double>::infinity() &&
                        is_float(square) && square != 0 && is_float(1 / square),
                    operation, attribute, "above 0, finite and with a square that a float can hold",
                    value);
}

/// For probabilities, and for what is kept of a moving average.
/// @throws DomainError unless `value` is in [0, 1) as a float.
inline void require_share(std::string_view operation, std::string_view attribute, double value) {
  require_attribute(is_float(value) && value >= 0 && static_cast<float>(value) < 1, operation,
                    attribute, "in [0, 1) as a float", value);
}

/// For sizes of which 0 makes parameters of no elements, so that a model trains nothing.
/// @throws DomainError if `value` is 0.
inline void require_size(std::string_view operation, std::string_view size, std::size_t value) {
  require(value > 0, operation, "expected ", size, " of at least 1, got 0");
}

}  // namespace UNIT_SCALING_NAMESPACE
