// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. The functions of <cmath> for Minifloat against those for long double, which have
/// eleven bits more than the binary64 they compute in, and against exact integer arithmetic.

#include "unit_scaling/formats/math.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "format_oracle.hpp"
#include "number_format.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {
namespace math_test {

using unit_scaling::bfloat16;
using unit_scaling::float16;
using unit_scaling::float4_e2m1fn;
using unit_scaling::float6_e2m3fn;
using unit_scaling::float8_e3m4;
using unit_scaling::float8_e4m3fn;
using unit_scaling::float8_e5m2;
using unit_scaling::float8_e8m0fnu;

/// A double that every format here rounds as it would round the number. Only a midpoint, which has
/// few bits, could hide on which side of it the number lies.
double as_double(long double number) {
  const auto nearest = static_cast<double>(number);
  constexpr std::uint64_t trailing_bits = (std::uint64_t{1} << 40) - 1U;
  const bool may_be_midpoint = (std::bit_cast<std::uint64_t>(nearest) & trailing_bits) == 0U;
  if (!may_be_midpoint || nearest == number || std::isnan(number)) return nearest;
  const double infinity = std::numeric_limits<double>::infinity();
  return std::nextafter(nearest, nearest < number ? infinity : -infinity);
}

FORMAT_TEST_SUITE(MinifloatMath, signed_formats())

/// Whether the result is the exact one, rounded once.
bool is_rounded(Number result, long double exact) {
  if (std::isnan(exact)) return isnan(result) || !result.format().spec().has_nan();
  return result.bits() == result.format().oracle().encode(as_double(exact), false);
}

/// Calls `f` with all pairs of codes of a format of up to eight bits, random ones of others.
template <class Function> void for_each_pair(const FormatOracle& oracle, Function f) {
  const std::uint32_t count = oracle.code_count();
  RandomBits random;
  const bool is_small = count <= 256;
  for (std::uint32_t pair = 0; pair < (is_small ? count * count : 100'000U); ++pair) {
    f(is_small ? pair / count : random() % count, is_small ? pair % count : random() % count);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

/// The functions of one number, for long double.
const std::map<std::string_view, long double (*)(long double)>& exact_functions_of_one() {
  using L = long double;
  static const std::map<std::string_view, L (*)(L)> result = {
      {"fabs", [](L x) { return std::fabs(x); }},
      {"sqrt", [](L x) { return std::sqrt(x); }},
      {"cbrt", [](L x) { return std::cbrt(x); }},
      {"exp", [](L x) { return std::exp(x); }},
      {"exp2", [](L x) { return std::exp2(x); }},
      {"expm1", [](L x) { return std::expm1(x); }},
      {"log", [](L x) { return std::log(x); }},
      {"log2", [](L x) { return std::log2(x); }},
      {"log10", [](L x) { return std::log10(x); }},
      {"log1p", [](L x) { return std::log1p(x); }},
      {"sin", [](L x) { return std::sin(x); }},
      {"cos", [](L x) { return std::cos(x); }},
      {"tan", [](L x) { return std::tan(x); }},
      {"asin", [](L x) { return std::asin(x); }},
      {"acos", [](L x) { return std::acos(x); }},
      {"atan", [](L x) { return std::atan(x); }},
      {"sinh", [](L x) { return std::sinh(x); }},
      {"cosh", [](L x) { return std::cosh(x); }},
      {"tanh", [](L x) { return std::tanh(x); }},
      {"asinh", [](L x) { return std::asinh(x); }},
      {"acosh", [](L x) { return std::acosh(x); }},
      {"atanh", [](L x) { return std::atanh(x); }},
      {"erf", [](L x) { return std::erf(x); }},
      {"erfc", [](L x) { return std::erfc(x); }},
      {"floor", [](L x) { return std::floor(x); }},
      {"ceil", [](L x) { return std::ceil(x); }},
      {"trunc", [](L x) { return std::trunc(x); }},
      {"round", [](L x) { return std::round(x); }},
      {"rint", [](L x) { return std::rint(x); }},
      {"nearbyint", [](L x) { return std::nearbyint(x); }},
      {"logb", [](L x) { return std::logb(x); }},
  };
  return result;
}

FORMAT_TEST(MinifloatMath, RoundsEveryFunctionOfEveryCodeOnce) {
  const FormatOracle& oracle = format.oracle();
  std::size_t compared = 0;
  for (const FunctionOfOne& function : format.functions_of_one()) {
    ++compared;
    const auto exact = exact_functions_of_one().at(function.name);
    for (std::uint32_t code = 0; code < oracle.code_count(); ++code) {
      const long double number = oracle.decode(code);
      ASSERT_TRUE(is_rounded(function.apply(format.from_code(code)), exact(number)))
          << function.name << '(' << number << ")";
    }
  }
  EXPECT_EQ(compared, exact_functions_of_one().size());
}

FORMAT_TEST(MinifloatMath, RoundsEveryFunctionOfTwoNumbersOnce) {
  using L = long double;
  // The other functions of two numbers have tests of their own.
  static const std::map<std::string_view, L (*)(L, L)> exact_functions = {
      {"pow", [](L x, L y) { return std::pow(x, y); }},
      {"hypot", [](L x, L y) { return std::hypot(x, y); }},
      {"atan2", [](L x, L y) { return std::atan2(x, y); }},
      {"fmod", [](L x, L y) { return std::fmod(x, y); }},
  };
  for (const auto& [name, exact] : exact_functions) {
    const FunctionOfTwo& function = format.function_of_two(name);
    for_each_pair(format.oracle(), [&, &g = exact](std::uint32_t x, std::uint32_t y) {
      const L left = format.oracle().decode(x);
      const L right = format.oracle().decode(y);
      ASSERT_TRUE(
          is_rounded(function.apply(format.from_code(x), format.from_code(y)), g(left, right)))
          << function.name << '(' << left << ", " << right << ')';
    });
  }
}

FORMAT_TEST(MinifloatMath, TakesTheSmallerAndTheLargerNumberAndNoNan) {
  const FunctionOfTwo& fmin = format.function_of_two("fmin");
  const FunctionOfTwo& fmax = format.function_of_two("fmax");
  for_each_pair(format.oracle(), [&](std::uint32_t x, std::uint32_t y) {
    const auto left = format.from_code(x);
    const auto right = format.from_code(y);
    const double a = format.oracle().decode(x);
    const double b = format.oracle().decode(y);
    const auto smaller = fmin.apply(left, right);
    const auto larger = fmax.apply(left, right);
    if (std::isnan(a) || std::isnan(b)) {
      const auto other = std::isnan(a) ? right : left;
      ASSERT_EQ(smaller.bits(), other.bits());
      ASSERT_EQ(larger.bits(), other.bits());
      return;
    }
    ASSERT_EQ(static_cast<double>(smaller), std::min(a, b)) << a << ' ' << b;
    ASSERT_EQ(static_cast<double>(larger), std::max(a, b)) << a << ' ' << b;
    ASSERT_EQ(signbit(smaller), std::signbit(a) || std::signbit(b) ? std::min(a, b) <= 0
                                                                   : std::signbit(std::min(a, b)))
        << a << ' ' << b;
    ASSERT_EQ(signbit(larger), std::max(a, b) < 0 || (std::signbit(a) && std::signbit(b)))
        << a << ' ' << b;
  });
}

FORMAT_TEST(MinifloatMath, CopiesTheSign) {
  const FunctionOfTwo& copysign = format.function_of_two("copysign");
  const bool has_zero_sign = format.oracle().layout().upper_end != UpperEnd::nan_at_negative_zero;
  for_each_pair(format.oracle(), [&](std::uint32_t x, std::uint32_t y) {
    const auto result = copysign.apply(format.from_code(x), format.from_code(y));
    const bool has_sign = has_zero_sign || (x & ~format.oracle().sign()) != 0U;
    const bool wants_sign =
        (y & format.oracle().sign()) != 0U && (has_zero_sign || y != format.oracle().sign());
    const std::uint32_t magnitude = x & ~format.oracle().sign();
    ASSERT_EQ(std::uint32_t{result.bits()},
              !has_sign ? x : magnitude | (wants_sign ? format.oracle().sign() : 0U))
        << x << ' ' << y;
  });
}

FORMAT_TEST(MinifloatMath, StepsToTheNextNumberOfTheFormat) {
  const FunctionOfTwo& nextafter = format.function_of_two("nextafter");
  const FormatOracle& formats = format.oracle();
  std::vector<double> numbers;
  for (std::uint32_t code = 0; code < formats.code_count(); ++code) {
    if (!formats.is_nan(code)) numbers.push_back(formats.decode(code));
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  for_each_pair(format.oracle(), [&](std::uint32_t x, std::uint32_t y) {
    const double from = formats.decode(x);
    const double toward = formats.decode(y);
    const auto result = nextafter.apply(format.from_code(x), format.from_code(y));
    if (std::isnan(from) || std::isnan(toward)) {
      ASSERT_TRUE(isnan(result));
    } else if (from == toward) {
      ASSERT_EQ(std::uint32_t{result.bits()}, y);
    } else {
      const auto at = std::lower_bound(numbers.begin(), numbers.end(), from);
      const double expected = *(from < toward ? at + 1 : at - 1);
      ASSERT_EQ(static_cast<double>(result), expected) << from << " to " << toward;
      ASSERT_FALSE(isnan(result)) << from << " to " << toward;
      if (expected == 0) {
        const bool has_sign = formats.layout().upper_end != UpperEnd::nan_at_negative_zero;
        ASSERT_EQ(signbit(result), has_sign && from < 0);
      }
    }
  });
}

FORMAT_TEST(MinifloatMath, ScalesByPowersOfTwo) {
  const int exponents[] = {INT_MIN, -300, -141, -20, -9, -3, -1, 0, 1, 2, 5, 17, 139, 300, INT_MAX};
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    const long double number = format.oracle().decode(code);
    for (const int exponent : exponents) {
      // Long double has the range to keep the number apart from zero and infinity.
      const long double exact = std::ldexp(number, std::clamp(exponent, -1000, 1000));
      ASSERT_TRUE(is_rounded(ldexp(format.from_code(code), exponent), exact))
          << number << ' ' << exponent;
      ASSERT_EQ(scalbn(format.from_code(code), exponent).bits(),
                ldexp(format.from_code(code), exponent).bits());
    }
    ASSERT_EQ(ilogb(format.from_code(code)), std::ilogb(number)) << number;
  }
}

FORMAT_TEST(MinifloatMath, SplitsOffThePowerOfTwoExactlyOrNotAtAll) {
  const bool has_frexp = format.has_frexp();
  // In formats with a bias of 1, numbers below 1 are subnormal and have fewer bits.
  EXPECT_EQ(has_frexp, format.oracle().layout().bias > 1);
  if (has_frexp) {
    for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
      const double number = format.oracle().decode(code);
      int exponent = 7;
      const Number fraction = frexp(format.from_code(code), &exponent);
      if (number == 0 || !std::isfinite(number)) {
        ASSERT_EQ(std::uint32_t{fraction.bits()}, code);
        ASSERT_EQ(exponent, 0);
        continue;
      }
      ASSERT_EQ(std::ldexp(static_cast<double>(fraction), exponent), number);
      ASSERT_GE(std::fabs(static_cast<double>(fraction)), 0.5);
      ASSERT_LT(std::fabs(static_cast<double>(fraction)), 1.0);
    }
  }
}

FORMAT_TEST(MinifloatMath, ClassifiesEveryCode) {
  const std::uint32_t min_normal = std::uint32_t{1} << format.oracle().layout().mantissa_bits;
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    const std::uint32_t magnitude = code & ~format.oracle().sign();
    const int expected = format.oracle().is_nan(code)        ? FP_NAN
                         : format.oracle().is_infinity(code) ? FP_INFINITE
                         : magnitude == 0U                   ? FP_ZERO
                         : magnitude < min_normal            ? FP_SUBNORMAL
                                                             : FP_NORMAL;
    ASSERT_EQ(fpclassify(format.from_code(code)), expected) << code;
    ASSERT_EQ(isnormal(format.from_code(code)), expected == FP_NORMAL) << code;
  }
}

__extension__ using Integer = __int128;

/// x y + z as an integer of units 2^-unit, exactly, then a double that rounds as it does.
double exact_fma(double x, double y, double z, int unit) {
  const double units = std::ldexp(1.0, unit);
  // Each factor has few digits, so the product is exact in double, and so is the product's count of
  // units.
  const Integer sum = static_cast<Integer>(x * y * units) + static_cast<Integer>(z * units);
  if (sum == 0) return x * y + z;  // exact, and the sign of zero is that of IEEE 754
  Integer magnitude = sum < 0 ? -sum : sum;
  int exponent = -unit;
  bool is_inexact = false;
  for (; magnitude >> 53 != 0; magnitude >>= 1, ++exponent) {
    is_inexact = is_inexact || (magnitude & 1) != 0;
  }
  if (is_inexact) magnitude |= 1;
  const double result = std::ldexp(static_cast<double>(magnitude), exponent);
  return sum < 0 ? -result : result;
}

FORMAT_TEST(MinifloatMath, RoundsTheExactFusedMultiplyAddOnce) {
  const FormatOracle& formats = format.oracle();
  const Layout& layout = formats.layout();
  const bool is_wide = layout.exponent_bits == 8;
  // bfloat16 within 2^±20, so that products and sums fit the integer.
  const int unit =
      is_wide ? 2 * (20 + layout.mantissa_bits) : 2 * (layout.bias - 1 + layout.mantissa_bits);
  const auto check = [&](std::uint32_t x, std::uint32_t y, std::uint32_t z) {
    const double a = formats.decode(x);
    const double b = formats.decode(y);
    const double c = formats.decode(z);
    const bool is_finite = std::isfinite(a) && std::isfinite(b) && std::isfinite(c);
    const double exact = is_finite ? exact_fma(a, b, c, unit) : a * b + c;
    const auto result = fma(format.from_code(x), format.from_code(y), format.from_code(z));
    ASSERT_TRUE(is_rounded(result, exact)) << a << " * " << b << " + " << c;
  };
  RandomBits random;
  const std::uint32_t count = formats.code_count();
  const auto draw = [&]() -> std::uint32_t {
    if (!is_wide) return random() % count;
    const std::uint32_t exponent = 127U - 20U + random() % 41U;
    return (exponent << layout.mantissa_bits) | (random() & 0x807fU);
  };
  if (count <= 64) {
    for (std::uint32_t triple = 0; triple < count * count * count; ++triple) {
      check(triple % count, triple / count % count, triple / count / count);
    }
  } else {
    const bool is_small = count <= 256;
    for (std::uint32_t pair = 0; pair < (is_small ? 65536U : 400'000U); ++pair) {
      const std::uint32_t x = is_small ? pair / 256 : draw();
      const std::uint32_t y = is_small ? pair % 256 : draw();
      check(x, y, draw());
      // An addend near the product with the other sign, which cancels it.
      const double product = formats.decode(x) * formats.decode(y);
      if (std::isfinite(product) && !is_wide) check(x, y, formats.encode(-product, true));
    }
  }
}

TEST(FusedMultiplyAdd, SeesATinyAddendBesideATieThatBinary64CannotHold) {
  const FormatOracle oracle(Bfloat16::layout());
  const bfloat16 tiny = std::numeric_limits<bfloat16>::denorm_min();
  const double infinity = std::numeric_limits<double>::infinity();
  int ties = 0;
  for (std::uint16_t left = 0x3f80; left < 0x4000; ++left) {
    for (std::uint16_t right = 0x3f80; right < 0x4000; ++right) {
      const bfloat16 x = bfloat16::from_bits(left);
      const bfloat16 y = bfloat16::from_bits(right);
      const double product = oracle.decode(left) * oracle.decode(right);  // exact: 16 digits
      const std::uint32_t above = oracle.encode(std::nextafter(product, infinity), false);
      const std::uint32_t below = oracle.encode(std::nextafter(product, 0.0), false);
      if (above != below) ++ties;
      ASSERT_EQ(fma(x, y, tiny).bits(), above) << product;
      ASSERT_EQ(fma(x, y, -tiny).bits(), below) << product;
      ASSERT_EQ(fma(-x, y, tiny).bits(), below | oracle.sign()) << product;
    }
  }
  EXPECT_GT(ties, 0) << "No product is a tie.";
  EXPECT_EQ(fma(bfloat16(1.75F), bfloat16(37.0F / 64), -tiny).bits(),
            bfloat16(129.0F / 128).bits());
}

TEST(MathFunctions, IsFoundBesideTheFunctionsOfStd) {
  const auto root = [](auto x) {
    using std::sqrt;
    return sqrt(x);
  };
  EXPECT_EQ(root(float8_e4m3fn(2.25F)), float8_e4m3fn(1.5F));
  EXPECT_EQ(root(2.25F), 1.5F);
}

TEST(MathFunctions, OverflowsByTheRuleOfTheFormat) {
  EXPECT_TRUE(isinf(exp(float8_e5m2(16.0F))));
  EXPECT_TRUE(isnan(exp(float8_e4m3fn(16.0F))));
  EXPECT_EQ(exp(float4_e2m1fn(6.0F)), float4_e2m1fn(6.0F));
  EXPECT_TRUE(isinf(ceil(float8_e3m4(15.5F))));
  EXPECT_EQ(ceil(float6_e2m3fn(7.5F)), float6_e2m3fn(7.5F));
  EXPECT_TRUE(isinf(fma(float16(256.0F), float16(256.0F), float16(-15.0F))));
  EXPECT_EQ(fma(float16(256.0F), float16(256.0F), float16(-32.0F)), float16(65504.0F));
}

TEST(MathFunctions, NeedsNoRunTimeWhereCodesDecide) {
  static_assert(fabs(float16(-2.0F)) == float16(2.0F));
  static_assert(fmin(float16(1.0F), float16(2.0F)) == float16(1.0F));
  static_assert(fmax(float16(1.0F), float16(2.0F)) == float16(2.0F));
  static_assert(copysign(float16(1.0F), float16(-2.0F)) == float16(-1.0F));
  static_assert(nextafter(float16(1.0F), float16(2.0F)) == float16(1.0F + 0x1p-10F));
  static_assert(fpclassify(float16(0x1p-20F)) == FP_SUBNORMAL);
}

TEST(MathFunctions, ServesAFormatOfPowersOfTwo) {
  using T = float8_e8m0fnu;
  for (int exponent = -127; exponent <= 127; ++exponent) {
    const T number = T(std::ldexp(1.0, exponent));
    ASSERT_EQ(ilogb(number), exponent);
    ASSERT_EQ(fpclassify(number), FP_NORMAL) << exponent;
    ASSERT_EQ(fabs(number), number);
    ASSERT_EQ(copysign(number, T(1.0F)), number);
    ASSERT_EQ(ldexp(T(1.0F), exponent), number);
    if (exponent % 2 == 0) {
      ASSERT_EQ(sqrt(number), T(std::ldexp(1.0, exponent / 2)));
    }
    if (exponent < 127) {
      const T next = T(std::ldexp(1.0, exponent + 1));
      ASSERT_EQ(nextafter(number, next), next);
      ASSERT_EQ(nextafter(next, number), number);
      ASSERT_EQ(fmin(number, next), number);
      ASSERT_EQ(fmax(number, next), next);
    }
    int power = 0;
    ASSERT_EQ(frexp(number, &power), T(0.5F));
    ASSERT_EQ(power, exponent + 1);
  }
  EXPECT_TRUE(isnan(sqrt(std::numeric_limits<T>::quiet_NaN())));
  EXPECT_EQ(fpclassify(std::numeric_limits<T>::quiet_NaN()), FP_NAN);
}

}  // namespace math_test
}  // namespace unit_scaling_test
