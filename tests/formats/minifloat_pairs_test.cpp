// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Every pair of codes of every format of up to eight bits: comparison, hashes and
/// arithmetic. The results of arithmetic are found in integers, as multiples of the smallest number
/// of the format, without a floating-point operation.

#include <gtest/gtest.h>

#include <cmath>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "format_cases.hpp"
#include "format_oracle.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/minifloat.hpp"

namespace unit_scaling_test {
namespace minifloat_pairs_test {

using unit_scaling::float8_e8m0fnu;

__extension__ using Integer = __int128;

/// What the operators of comparison say of a pair.
struct Comparisons {
  bool equal, unequal, less, less_or_equal, greater, greater_or_equal;
  std::partial_ordering order;

  friend bool operator==(const Comparisons&, const Comparisons&) = default;
};

/// Not to be inlined: of both pairs in one expression, GCC 12.2 makes wrong code at -O3.
template <class T> [[gnu::noinline]] Comparisons comparisons(T left, T right) {
  return {left == right, left != right, left<right, left <= right, left> right, left >= right,
          left <=> right};
}

template <class Case> class MinifloatPairs : public ::testing::Test {
 public:
  using Number = typename Case::type;
  static_assert(sizeof(Number) == 1);

  static Number from_code(std::uint32_t code) {
    return Number::from_bits(static_cast<typename Number::storage_type>(code));
  }
  template <class Function> static void for_each_pair(Function f) {
    for (std::uint32_t left = 0; left < oracle.code_count(); ++left) {
      for (std::uint32_t right = 0; right < oracle.code_count(); ++right) {
        f(left, right);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }

  /// 2^unit_exponent() times the smallest positive number is 1.
  static int unit_exponent() { return oracle.layout().bias - 1 + oracle.layout().mantissa_bits; }
  /// A finite number as a multiple of the smallest one.
  static Integer units(std::uint32_t code) {
    return static_cast<Integer>(std::ldexp(oracle.decode(code), unit_exponent()));
  }
  /// Code of the number numerator / denominator, counted in units, which is not zero: how many of
  /// the midpoints between neighbouring magnitudes lie below it, a midpoint itself going to even.
  static std::uint32_t nearest(Integer numerator, Integer denominator) {
    const bool is_negative = (numerator < 0) != (denominator < 0);
    if (numerator < 0) numerator = -numerator;
    if (denominator < 0) denominator = -denominator;
    std::uint32_t first = 0;
    std::uint32_t last = oracle.max_code() + 1U;
    while (first < last) {
      const std::uint32_t code = (first + last) / 2;
      const Integer twice_midpoint = magnitudes[code] + magnitudes[code + 1];
      const Integer side = 2 * numerator - twice_midpoint * denominator;
      if (side > 0 || (side == 0 && code % 2U == 1U)) {
        first = code + 1;
      } else {
        last = code;
      }
    }
    const double magnitude = oracle.value(first);
    return oracle.encode(is_negative ? -magnitude : magnitude, false);
  }

  static inline const FormatOracle oracle{Case::layout()};
  static inline const std::vector<Integer> magnitudes = [] {
    std::vector<Integer> result;
    for (std::uint32_t code = 0; code <= oracle.max_code() + 1U; ++code) {
      result.push_back(static_cast<Integer>(std::ldexp(oracle.value(code), unit_exponent())));
    }
    return result;
  }();
};

using SmallFormats = ::testing::Types<E4m3fn, E5m2, E4m3, E3m4, E4m3fnuz, E5m2fnuz, E4m3b11fnuz,
                                      E2m3fn, E3m2fn, E2m1fn>;
TYPED_TEST_SUITE(MinifloatPairs, SmallFormats, FormatNames);

TYPED_TEST(MinifloatPairs, CompareAsTheirNumbers) {
  this->for_each_pair([this](std::uint32_t left, std::uint32_t right) {
    const double x = this->oracle.decode(left);
    const double y = this->oracle.decode(right);
    ASSERT_TRUE(comparisons(this->from_code(left), this->from_code(right)) == comparisons(x, y))
        << x << ' ' << y;
  });
}

TYPED_TEST(MinifloatPairs, HaveEqualHashesIfEqual) {
  const std::hash<typename TypeParam::type> hash;
  this->for_each_pair([&](std::uint32_t left, std::uint32_t right) {
    if (this->oracle.decode(left) != this->oracle.decode(right)) return;
    ASSERT_EQ(hash(this->from_code(left)), hash(this->from_code(right))) << left << ' ' << right;
  });
}

TYPED_TEST(MinifloatPairs, AddSubtractMultiplyAndDivideRoundingOnce) {
  using T = typename TypeParam::type;
  const FormatOracle& exact = this->oracle;
  const Integer one = Integer{1} << this->unit_exponent();
  this->for_each_pair([&](std::uint32_t left, std::uint32_t right) {
    const T a = this->from_code(left);
    const T b = this->from_code(right);
    const double x = exact.decode(left);
    const double y = exact.decode(right);
    const bool is_finite = std::isfinite(x) && std::isfinite(y);
    const Integer i = is_finite ? this->units(left) : 0;
    const Integer j = is_finite ? this->units(right) : 0;
    // `special` is the result by IEEE 754 where that is zero, infinite or NaN.
    const auto expect = [&](T result, Integer numerator, Integer denominator, double special) {
      if (numerator != 0 && denominator != 0) {
        return std::uint32_t{result.bits()} == this->nearest(numerator, denominator);
      }
      if (std::isnan(special)) return isnan(result) || !std::numeric_limits<T>::has_quiet_NaN;
      return std::uint32_t{result.bits()} == exact.encode(special, false);
    };
    ASSERT_TRUE(expect(a + b, i + j, 1, x + y)) << x << " + " << y;
    ASSERT_TRUE(expect(a - b, i - j, 1, x - y)) << x << " - " << y;
    ASSERT_TRUE(expect(a * b, i * j, one, x * y)) << x << " * " << y;
    ASSERT_TRUE(expect(a / b, i * one, j, x / y)) << x << " / " << y;
    T c = a;
    ASSERT_EQ((c += b).bits(), (a + b).bits());
    c = a;
    ASSERT_EQ((c -= b).bits(), (a - b).bits());
    c = a;
    ASSERT_EQ((c *= b).bits(), (a * b).bits());
    c = a;
    ASSERT_EQ((c /= b).bits(), (a / b).bits());
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
