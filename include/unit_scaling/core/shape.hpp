// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the extents of a row-major array, and products and sums of sizes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// Arrays whose shapes do not fit the operation; the text names it, the shapes and what it expects.
/// Also sizes that no memory can have.
class ShapeError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

namespace detail {

[[noreturn]] inline void throw_uncountable(std::string_view operation, std::string_view separator,
                                           std::span<const std::size_t> sizes) {
  std::string text(operation);
  text += ": expected a size that std::size_t can count, got ";
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (i != 0) text += separator;
    text += std::to_string(sizes[i]);
  }
  throw ShapeError(text);
}

}  // namespace detail

/// The product of `first` and sizes, or nothing if std::size_t cannot count it. A size of 0 does
/// not hide that the product of the others cannot be counted. For callers that throw an error of
/// their own.
template <std::ranges::input_range Sizes>
[[nodiscard]] constexpr std::optional<std::size_t> countable_product(const Sizes& sizes,
                                                                     std::size_t first = 1) {
  std::size_t product = first;
  bool is_empty = false;
  for (const auto size : sizes) {
    if (size == 0) {
      is_empty = true;
    } else if (__builtin_mul_overflow(product, size, &product)) {
      return std::nullopt;
    }
  }
  return is_empty ? 0 : product;
}

/// The product of sizes, for `operation`. Every size that is computed from others goes through it,
/// before memory is asked for or an index is trusted.
/// @throws ShapeError if std::size_t cannot count it, as `countable_product`.
[[nodiscard]] constexpr std::size_t size_product(std::string_view operation,
                                                 std::span<const std::size_t> sizes) {
  const std::optional<std::size_t> product = countable_product(sizes);
  if (!product) detail::throw_uncountable(operation, " * ", sizes);
  return *product;
}
[[nodiscard]] constexpr std::size_t size_product(std::string_view operation,
                                                 std::initializer_list<std::size_t> sizes) {
  return size_product(operation, std::span<const std::size_t>(sizes.begin(), sizes.size()));
}

/// The sum of sizes, for `operation`.
/// @throws ShapeError if std::size_t cannot count it.
[[nodiscard]] constexpr std::size_t size_sum(std::string_view operation,
                                             std::initializer_list<std::size_t> sizes) {
  std::size_t sum = 0;
  for (const std::size_t size : sizes) {
    if (__builtin_add_overflow(sum, size, &sum)) {
      detail::throw_uncountable(operation, " + ", {sizes.begin(), sizes.size()});
    }
  }
  return sum;
}

/// Extents of a row-major array of up to `max_rank` dimensions; the last one is contiguous.
/// A default-constructed shape has rank 0 and size 1: a scalar. Any extent may be 0.
class Shape {
 public:
  static constexpr std::size_t max_rank = 6;

  constexpr Shape() = default;

  /// @throws ShapeError if there are more than `max_rank` extents, or more elements than
  /// std::size_t can count; an extent of 0 does not hide the others.
  constexpr Shape(std::initializer_list<std::size_t> extents)
      : Shape(std::span<const std::size_t>(extents.begin(), extents.size())) {}

  /// @throws ShapeError if there are more than `max_rank` extents, or more elements than
  /// std::size_t can count; an extent of 0 does not hide the others.
  constexpr explicit Shape(std::span<const std::size_t> extents) : rank_(extents.size()) {
    if (rank_ > max_rank) throw ShapeError("Shape: more than 6 dimensions");
    std::copy(extents.begin(), extents.end(), extents_.begin());
    count_rows();
  }

  [[nodiscard]] constexpr std::size_t rank() const { return rank_; }

  /// Number of elements: the product of the extents.
  [[nodiscard]] constexpr std::size_t size() const { return rows_ * columns(); }

  [[nodiscard]] constexpr std::size_t operator[](std::size_t dimension) const {
    return extents_[dimension];
  }

  /// The contiguous extent; 1 for a scalar.
  [[nodiscard]] constexpr std::size_t columns() const {
    return rank_ == 0 ? 1 : extents_[rank_ - 1];
  }

  /// How many contiguous rows of `columns()` elements there are: the product of all other extents.
  [[nodiscard]] constexpr std::size_t rows() const { return rows_; }

  /// This shape with its last extent replaced.
  [[nodiscard]] constexpr Shape with_columns(std::size_t columns) const {
    Shape result = *this;
    if (result.rank_ == 0) result.rank_ = 1;
    result.extents_[result.rank_ - 1] = columns;
    result.count_rows();
    return result;
  }

  /// This shape with one more, contiguous, extent behind the others.
  /// @throws ShapeError if the rank is `max_rank` already.
  [[nodiscard]] constexpr Shape append(std::size_t columns) const {
    if (rank_ == max_rank) throw ShapeError("Shape: more than 6 dimensions");
    Shape result = *this;
    result.extents_[result.rank_++] = columns;
    result.count_rows();
    return result;
  }

  // Of a temporary they would point to what is gone.
  [[nodiscard]] constexpr const std::size_t* begin() const& { return extents_.data(); }
  [[nodiscard]] constexpr const std::size_t* end() const& { return extents_.data() + rank_; }
  const std::size_t* begin() const&& = delete;
  const std::size_t* end() const&& = delete;

  friend constexpr bool operator==(const Shape& a, const Shape& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  /// Of these extents. No product of extents may leave std::size_t; an extent of 0 must not hide
  /// that of the others.
  constexpr void count_rows() {
    static_cast<void>(size_product("Shape", {begin(), rank_}));
    rows_ = 1;
    for (std::size_t i = 0; i + 1 < rank_; ++i) rows_ *= extents_[i];
  }

  std::array<std::size_t, max_rank> extents_{};
  std::size_t rank_ = 0;
  std::size_t rows_ = 1;  // kept, for the many places that ask
};

/// "(2, 5, 7)", for messages.
[[nodiscard]] inline std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.rank(); ++i) {
    if (i != 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  text += ")";
  return text;
}

}  // namespace UNIT_SCALING_NAMESPACE
