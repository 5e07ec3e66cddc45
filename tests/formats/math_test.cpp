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
#include <string>
#include <type_traits>
#include <vector>

#include "format_cases.hpp"
#include "format_oracle.hpp"
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

template <class Case> class MinifloatMath : public ::testing::Test {
 public:
  using Number = typename Case::type;

  static Number from_code(std::uint32_t code) {
    return Number::from_bits(static_cast<typename Number::storage_type>(code));
  }
  /// Whether the result is the exact one, rounded once.
  static bool is_rounded(Number result, long double exact) {
    if (std::isnan(exact)) return isnan(result) || !std::numeric_limits<Number>::has_quiet_NaN;
    return std::uint32_t{result.bits()} == oracle.encode(as_double(exact), false);
  }
  /// Calls `f` with all pairs of codes of a format of up to eight bits, random ones of others.
  template <class Function> static void for_each_pair(Function f) {
    const std::uint32_t count = oracle.code_count();
    RandomBits random;
    const bool is_small = count <= 256;
    for (std::uint32_t pair = 0; pair < (is_small ? count * count : 100'000U); ++pair) {
      f(is_small ? pair / count : random() % count, is_small ? pair % count : random() % count);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }

  static inline const FormatOracle oracle{Case::layout()};
};
TYPED_TEST_SUITE(MinifloatMath, AllFormats, FormatNames);

/// A function of one number, for the type under test and for long double.
template <class T> struct UnaryCase {
  const char* name;
  T (*function)(T);
  long double (*exact)(long double);
};

template <class T> std::vector<UnaryCase<T>> unary_cases() {
  return {
      {"fabs", [](T x) { return fabs(x); }, [](long double x) { return std::fabs(x); }},
      {"sqrt", [](T x) { return sqrt(x); }, [](long double x) { return std::sqrt(x); }},
      {"cbrt", [](T x) { return cbrt(x); }, [](long double x) { return std::cbrt(x); }},
      {"exp", [](T x) { return exp(x); }, [](long double x) { return std::exp(x); }},
      {"exp2", [](T x) { return exp2(x); }, [](long double x) { return std::exp2(x); }},
      {"expm1", [](T x) { return expm1(x); }, [](long double x) { return std::expm1(x); }},
      {"log", [](T x) { return log(x); }, [](long double x) { return std::log(x); }},
      {"log2", [](T x) { return log2(x); }, [](long double x) { return std::log2(x); }},
      {"log10", [](T x) { return log10(x); }, [](long double x) { return std::log10(x); }},
      {"log1p", [](T x) { return log1p(x); }, [](long double x) { return std::log1p(x); }},
      {"sin", [](T x) { return sin(x); }, [](long double x) { return std::sin(x); }},
      {"cos", [](T x) { return cos(x); }, [](long double x) { return std::cos(x); }},
      {"tan", [](T x) { return tan(x); }, [](long double x) { return std::tan(x); }},
      {"asin", [](T x) { return asin(x); }, [](long double x) { return std::asin(x); }},
      {"acos", [](T x) { return acos(x); }, [](long double x) { return std::acos(x); }},
      {"atan", [](T x) { return atan(x); }, [](long double x) { return std::atan(x); }},
      {"sinh", [](T x) { return sinh(x); }, [](long double x) { return std::sinh(x); }},
      {"cosh", [](T x) { return cosh(x); }, [](long double x) { return std::cosh(x); }},
      {"tanh", [](T x) { return tanh(x); }, [](long double x) { return std::tanh(x); }},
      {"asinh", [](T x) { return asinh(x); }, [](long double x) { return std::asinh(x); }},
      {"acosh", [](T x) { return acosh(x); }, [](long double x) { return std::acosh(x); }},
      {"atanh", [](T x) { return atanh(x); }, [](long double x) { return std::atanh(x); }},
      {"erf", [](T x) { return erf(x); }, [](long double x) { return std::erf(x); }},
      {"erfc", [](T x) { return erfc(x); }, [](long double x) { return std::erfc(x); }},
      {"floor", [](T x) { return floor(x); }, [](long double x) { return std::floor(x); }},
      {"ceil", [](T x) { return ceil(x); }, [](long double x) { return std::ceil(x); }},
      {"trunc", [](T x) { return trunc(x); }, [](long double x) { return std::trunc(x); }},
      {"round", [](T x) { return round(x); }, [](long double x) { return std::round(x); }},
      {"rint", [](T x) { return rint(x); }, [](long double x) { return std::rint(x); }},
      {"nearbyint", [](T x) { return nearbyint(x); },
       [](long double x) { return std::nearbyint(x); }},
      {"logb", [](T x) { return logb(x); }, [](long double x) { return std::logb(x); }},
  };
}

TYPED_TEST(MinifloatMath, RoundsEveryFunctionOfEveryCodeOnce) {
  using T = typename TypeParam::type;
  for (const auto& [name, function, exact] : unary_cases<T>()) {
    for (std::uint32_t code = 0; code < this->oracle.code_count(); ++code) {
      const long double number = this->oracle.decode(code);
      ASSERT_TRUE(this->is_rounded(function(this->from_code(code)), exact(number)))
          << name << '(' << number << ")";
    }
  }
}

template <class T> struct BinaryCase {
  const char* name;
  T (*function)(T, T);
  long double (*exact)(long double, long double);
};

TYPED_TEST(MinifloatMath, RoundsEveryFunctionOfTwoNumbersOnce) {
  using T = typename TypeParam::type;
  using L = long double;
  const BinaryCase<T> cases[] = {
      {"pow", [](T x, T y) { return pow(x, y); }, [](L x, L y) { return std::pow(x, y); }},
      {"hypot", [](T x, T y) { return hypot(x, y); }, [](L x, L y) { return std::hypot(x, y); }},
      {"atan2", [](T x, T y) { return atan2(x, y); }, [](L x, L y) { return std::atan2(x, y); }},
      {"fmod", [](T x, T y) { return fmod(x, y); }, [](L x, L y) { return std::fmod(x, y); }},
  };
  for (const auto& [name, function, exact] : cases) {
    this->for_each_pair(
        [&, &f = function, &g = exact, &n = name](std::uint32_t x, std::uint32_t y) {
          const L left = this->oracle.decode(x);
          const L right = this->oracle.decode(y);
          ASSERT_TRUE(this->is_rounded(f(this->from_code(x), this->from_code(y)), g(left, right)))
              << n << '(' << left << ", " << right << ')';
        });
  }
}

TYPED_TEST(MinifloatMath, TakesTheSmallerAndTheLargerNumberAndNoNan) {
  this->for_each_pair([&](std::uint32_t x, std::uint32_t y) {
    const auto left = this->from_code(x);
    const auto right = this->from_code(y);
    const double a = this->oracle.decode(x);
    const double b = this->oracle.decode(y);
    const auto smaller = fmin(left, right);
    const auto larger = fmax(left, right);
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

TYPED_TEST(MinifloatMath, CopiesTheSign) {
  const bool has_zero_sign = this->oracle.layout().upper_end != UpperEnd::nan_at_negative_zero;
  this->for_each_pair([&](std::uint32_t x, std::uint32_t y) {
    const auto result = copysign(this->from_code(x), this->from_code(y));
    const bool has_sign = has_zero_sign || (x & ~this->oracle.sign()) != 0U;
    const bool wants_sign =
        (y & this->oracle.sign()) != 0U && (has_zero_sign || y != this->oracle.sign());
    const std::uint32_t magnitude = x & ~this->oracle.sign();
    ASSERT_EQ(std::uint32_t{result.bits()},
              !has_sign ? x : magnitude | (wants_sign ? this->oracle.sign() : 0U))
        << x << ' ' << y;
  });
}

TYPED_TEST(MinifloatMath, StepsToTheNextNumberOfTheFormat) {
  const FormatOracle& formats = this->oracle;
  std::vector<double> numbers;
  for (std::uint32_t code = 0; code < formats.code_count(); ++code) {
    if (!formats.is_nan(code)) numbers.push_back(formats.decode(code));
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  this->for_each_pair([&](std::uint32_t x, std::uint32_t y) {
    const double from = formats.decode(x);
    const double toward = formats.decode(y);
    const auto result = nextafter(this->from_code(x), this->from_code(y));
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

TYPED_TEST(MinifloatMath, ScalesByPowersOfTwo) {
  const int exponents[] = {INT_MIN, -300, -141, -20, -9, -3, -1, 0, 1, 2, 5, 17, 139, 300, INT_MAX};
  for (std::uint32_t code = 0; code < this->oracle.code_count(); ++code) {
    const long double number = this->oracle.decode(code);
    for (const int exponent : exponents) {
      // Long double has the range to keep the number apart from zero and infinity.
      const long double exact = std::ldexp(number, std::clamp(exponent, -1000, 1000));
      ASSERT_TRUE(this->is_rounded(ldexp(this->from_code(code), exponent), exact))
          << number << ' ' << exponent;
      ASSERT_EQ(scalbn(this->from_code(code), exponent).bits(),
                ldexp(this->from_code(code), exponent).bits());
    }
    ASSERT_EQ(ilogb(this->from_code(code)), std::ilogb(number)) << number;
  }
}

TYPED_TEST(MinifloatMath, SplitsOffThePowerOfTwoExactlyOrNotAtAll) {
  using T = typename TypeParam::type;
  constexpr bool has_frexp = requires(T x, int* exponent) { frexp(x, exponent); };
  // In formats with a bias of 1, numbers below 1 are subnormal and have fewer bits.
  EXPECT_EQ(has_frexp, this->oracle.layout().bias > 1);
  if constexpr (has_frexp) {
    for (std::uint32_t code = 0; code < this->oracle.code_count(); ++code) {
      const double number = this->oracle.decode(code);
      int exponent = 7;
      const T fraction = frexp(this->from_code(code), &exponent);
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

TYPED_TEST(MinifloatMath, ClassifiesEveryCode) {
  const std::uint32_t min_normal = std::uint32_t{1} << this->oracle.layout().mantissa_bits;
  for (std::uint32_t code = 0; code < this->oracle.code_count(); ++code) {
    const std::uint32_t magnitude = code & ~this->oracle.sign();
    const int expected = this->oracle.is_nan(code)        ? FP_NAN
                         : this->oracle.is_infinity(code) ? FP_INFINITE
                         : magnitude == 0U                ? FP_ZERO
                         : magnitude < min_normal         ? FP_SUBNORMAL
                                                          : FP_NORMAL;
    ASSERT_EQ(fpclassify(this->from_code(code)), expected) << code;
    ASSERT_EQ(isnormal(this->from_code(code)), expected == FP_NORMAL) << code;
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

TYPED_TEST(MinifloatMath, RoundsTheExactFusedMultiplyAddOnce) {
  const FormatOracle& formats = this->oracle;
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
    const auto result = fma(this->from_code(x), this->from_code(y), this->from_code(z));
    ASSERT_TRUE(this->is_rounded(result, exact)) << a << " * " << b << " + " << c;
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
