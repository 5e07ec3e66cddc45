// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Every pair of codes of every format of up to eight bits: comparison, hashes and
/// arithmetic. The results of arithmetic are found in integers, as multiples of the smallest number
/// of the format, without a floating-point operation.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "number_format.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/minifloat.hpp"

namespace unit_scaling_test {
namespace minifloat_pairs_test {

using unit_scaling::float8_e8m0fnu;

__extension__ using Integer = __int128;

FORMAT_TEST_SUITE(MinifloatPairs, one_byte_formats())

/// Calls `f` with all pairs of codes.
template <class Function> void for_each_pair(const FormatOracle& oracle, Function f) {
  for (std::uint32_t left = 0; left < oracle.code_count(); ++left) {
    for (std::uint32_t right = 0; right < oracle.code_count(); ++right) {
      f(left, right);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

/// The numbers of a format in integers.
class Units {
 public:
  explicit Units(const FormatOracle& oracle) : oracle_(oracle) {
    for (std::uint32_t code = 0; code <= oracle.max_code() + 1U; ++code) {
      magnitudes_.push_back(static_cast<Integer>(std::ldexp(oracle.value(code), exponent())));
    }
  }

  /// 2^exponent() times the smallest positive number is 1.
  [[nodiscard]] int exponent() const {
    return oracle_.layout().bias - 1 + oracle_.layout().mantissa_bits;
  }
  /// A finite number as a multiple of the smallest one.
  [[nodiscard]] Integer of(std::uint32_t code) const {
    return static_cast<Integer>(std::ldexp(oracle_.decode(code), exponent()));
  }
  /// Code of the number numerator / denominator, counted in units, which is not zero: how many of
  /// the midpoints between neighbouring magnitudes lie below it, a midpoint itself going to even.
  [[nodiscard]] std::uint32_t nearest(Integer numerator, Integer denominator) const {
    const bool is_negative = (numerator < 0) != (denominator < 0);
    if (numerator < 0) numerator = -numerator;
    if (denominator < 0) denominator = -denominator;
    std::uint32_t first = 0;
    std::uint32_t last = oracle_.max_code() + 1U;
    while (first < last) {
      const std::uint32_t code = (first + last) / 2;
      const Integer twice_midpoint = magnitudes_[code] + magnitudes_[code + 1];
      const Integer side = 2 * numerator - twice_midpoint * denominator;
      if (side > 0 || (side == 0 && code % 2U == 1U)) {
        first = code + 1;
      } else {
        last = code;
      }
    }
    const double magnitude = oracle_.value(first);
    return oracle_.encode(is_negative ? -magnitude : magnitude, false);
  }

 private:
  const FormatOracle& oracle_;
  std::vector<Integer> magnitudes_;
};

FORMAT_TEST(MinifloatPairs, CompareAsTheirNumbers) {
  const FormatOracle& oracle = format.oracle();
  for_each_pair(oracle, [&](std::uint32_t left, std::uint32_t right) {
    const double x = oracle.decode(left);
    const double y = oracle.decode(right);
    ASSERT_TRUE(format.compare(format.from_code(left), format.from_code(right)) ==
                comparisons(x, y))
        << x << ' ' << y;
  });
}

FORMAT_TEST(MinifloatPairs, HaveEqualHashesIfEqual) {
  const FormatOracle& oracle = format.oracle();
  for_each_pair(oracle, [&](std::uint32_t left, std::uint32_t right) {
    if (oracle.decode(left) != oracle.decode(right)) return;
    ASSERT_EQ(format.hash(format.from_code(left)), format.hash(format.from_code(right)))
        << left << ' ' << right;
  });
}

FORMAT_TEST(MinifloatPairs, AddSubtractMultiplyAndDivideRoundingOnce) {
  const FormatOracle& exact = format.oracle();
  const Units units(exact);
  const bool has_nan = format.limits().has_quiet_nan;
  const Integer one = Integer{1} << units.exponent();
  for_each_pair(exact, [&](std::uint32_t left, std::uint32_t right) {
    const Number a = format.from_code(left);
    const Number b = format.from_code(right);
    const double x = exact.decode(left);
    const double y = exact.decode(right);
    const bool is_finite = std::isfinite(x) && std::isfinite(y);
    const Integer i = is_finite ? units.of(left) : 0;
    const Integer j = is_finite ? units.of(right) : 0;
    // `special` is the result by IEEE 754 where that is zero, infinite or NaN.
    const auto expect = [&](Number result, Integer numerator, Integer denominator, double special) {
      if (numerator != 0 && denominator != 0) {
        return result.bits() == units.nearest(numerator, denominator);
      }
      if (std::isnan(special)) return isnan(result) || !has_nan;
      return result.bits() == exact.encode(special, false);
    };
    const auto [of_pair, in_place] = format.arithmetic_and_in_place(a, b);
    ASSERT_TRUE(expect(of_pair.sum, i + j, 1, x + y)) << x << " + " << y;
    ASSERT_TRUE(expect(of_pair.difference, i - j, 1, x - y)) << x << " - " << y;
    ASSERT_TRUE(expect(of_pair.product, i * j, one, x * y)) << x << " * " << y;
    ASSERT_TRUE(expect(of_pair.quotient, i * one, j, x / y)) << x << " / " << y;
    ASSERT_EQ(in_place.sum.bits(), of_pair.sum.bits());
    ASSERT_EQ(in_place.difference.bits(), of_pair.difference.bits());
    ASSERT_EQ(in_place.product.bits(), of_pair.product.bits());
    ASSERT_EQ(in_place.quotient.bits(), of_pair.quotient.bits());
  });
}

TEST(PowerOfTwoPairs, CompareMultiplyAndDivideAsTheirExponents) {
  using T = float8_e8m0fnu;
  const std::hash<T> hash;
  const auto number = [](int code) {
    return code == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, code - 127);
  };
  for (int left = 0; left < 256; ++left) {
    for (int right = 0; right < 256; ++right) {
      const T a = T::from_bits(static_cast<std::uint8_t>(left));
      const T b = T::from_bits(static_cast<std::uint8_t>(right));
      ASSERT_TRUE(comparisons(a, b) == comparisons(number(left), number(right)));
      if (a == b) {
        ASSERT_EQ(hash(a), hash(b));
      }
      const bool is_number = left != 255 && right != 255;
      const int product = left + right - 127;
      const int quotient = left - right + 127;
      // What lies beyond either end is not of this test.
      if (!is_number || product > 254) {
        ASSERT_TRUE(isnan(a * b)) << left << ' ' << right;
      }
      if (!is_number || quotient > 254) {
        ASSERT_TRUE(isnan(a / b)) << left << ' ' << right;
      }
      if (is_number && product >= 0 && product < 255) {
        ASSERT_EQ(int{(a * b).bits()}, product);
      }
      if (is_number && quotient >= 0 && quotient < 255) {
        ASSERT_EQ(int{(a / b).bits()}, quotient);
      }
    }
  }
}

}  // namespace minifloat_pairs_test
}  // namespace unit_scaling_test
