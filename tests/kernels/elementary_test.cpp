// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/elementary.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include "support/rounding_check.hpp"

namespace elementary_test {

using namespace unit_scaling;
using unit_scaling_test::float_unit;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Calls `check(x, y)` for every x, in sixteens, where y is f(x).
template <class F, class Check>
void for_each_result(const std::vector<float>& xs, const F& f, const Check& check) {
  for (std::size_t i = 0; i < xs.size(); i += lanes) {
    float32x16 x{};
    const std::size_t count = std::min(lanes, xs.size() - i);
    for (std::size_t lane = 0; lane < count; ++lane) x[lane] = xs[i + lane];
    const auto y = f(x);
    for (std::size_t lane = 0; lane < count; ++lane) check(xs[i + lane], y, lane);
  }
}

/// f(x) in the first lane.
template <class F> float one(const F& f, float x) { return f(splat<float32x16>(x))[0]; }

/// The numbers `least`, ... up to `greatest`, evenly spaced, and both ends.
std::vector<float> grid(float least, float greatest, std::size_t count) {
  std::vector<float> result(count + 1);
  for (std::size_t i = 0; i <= count; ++i) {
    result[i] = static_cast<float>(least + (static_cast<double>(greatest) - least) *
                                               static_cast<double>(i) / static_cast<double>(count));
  }
  return result;
}

/// Every 4001st float of either sign up to `magnitude` in absolute value: all binades alike.
std::vector<float> all_binades(float magnitude) {
  std::vector<float> result;
  for (std::uint32_t bits = 0; bits <= std::bit_cast<std::uint32_t>(magnitude); bits += 4001) {
    result.push_back(std::bit_cast<float>(bits));
    result.push_back(-std::bit_cast<float>(bits));
  }
  return result;
}

const auto float_exp = [](const float32x16& x) { return kernels::exp(x); };
const auto float_exp_of_nonpositive = [](const float32x16& x) {
  return kernels::exp_of_nonpositive(x);
};
const auto float_exp_of_minus_half_square = [](const float32x16& x) {
  return kernels::detail::exp_of_minus_half_square(x);
};
const auto float_sqrt = [](const float32x16& x) { return kernels::sqrt(x); };
const auto float_normal = [](const float32x16& x) { return kernels::normal(x); };
const auto float_sigmoid = [](const float32x16& x) { return kernels::sigmoid(x); };

// The bound of the header.
TEST(Elementary, ExpIsWithinTheStatedUlps) {
  double worst = 0;
  float worst_x = 0;
  for (const std::vector<float>& xs :
       {grid(-87.3365F, 88.7228F, 4'000'000), grid(-1, 1, 1'000'000), all_binades(87.33F)}) {
    for_each_result(xs, float_exp, [&](float x, const float32x16& y, std::size_t lane) {
      const double expected = std::exp(static_cast<double>(x));
      const double error = std::abs(y[lane] - expected) / unit_scaling_test::ulp<float>(expected);
      if (!(error <= worst)) {
        worst = error;
        worst_x = x;
      }
    });
  }
  EXPECT_LT(worst, 1.1) << "at " << worst_x;
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(Elementary, ExpHasTheDocumentedSpecialValues) {
  EXPECT_EQ(one(float_exp, 0.0F), 1);
  EXPECT_EQ(one(float_exp, -0.0F), 1);
  EXPECT_EQ(one(float_exp, std::numeric_limits<float>::denorm_min()), 1);
  EXPECT_EQ(one(float_exp, infinity), infinity);
  EXPECT_EQ(one(float_exp, -infinity), 0);
  EXPECT_FALSE(std::signbit(one(float_exp, -infinity)));
  EXPECT_TRUE(std::isnan(one(float_exp, nan)));
  EXPECT_TRUE(std::isnan(one(float_exp, -nan)));
  for (const float x : {88.73F, 89.0F, 1e3F, 1e10F, 3e38F}) {
    EXPECT_EQ(one(float_exp, x), infinity) << x;
    EXPECT_EQ(one(float_exp, -x), 0) << x;
  }
  EXPECT_TRUE(std::isfinite(one(float_exp, 88.72F)));
  EXPECT_TRUE(std::isnormal(one(float_exp, -87.33F)));
}

TEST(Elementary, ExpOfNonpositiveIsExpToTheBit) {
  const auto special = [](float x) { return one(float_exp_of_nonpositive, x); };
  std::size_t different = 0;
  for (const std::vector<float>& xs : {grid(-90, 0, 4'000'000), all_binades(3e38F)}) {
    for_each_result(xs, float_exp_of_nonpositive,
                    [&](float x, const float32x16& y, std::size_t lane) {
                      if (x > 0) return;
                      different += std::bit_cast<std::uint32_t>(float{y[lane]}) !=
                                   std::bit_cast<std::uint32_t>(one(float_exp, x));
                    });
  }
  EXPECT_EQ(different, 0U);
  EXPECT_EQ(special(-infinity), 0);
  EXPECT_FALSE(std::signbit(special(-infinity)));
  EXPECT_TRUE(std::isnan(special(nan)));
}

TEST(Elementary, ANanOfAnyPayloadStaysOne) {
  for (const std::uint32_t bits : {0x7f800001U, 0x7fc00001U, 0x7fffffffU, 0xff800003U}) {
    const auto x = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(one(float_exp, x)));
    EXPECT_TRUE(std::isnan(one(float_exp_of_nonpositive, x)));
    EXPECT_TRUE(std::isnan(kernels::normal(splat<float32x16>(x)).distribution[0]));
    EXPECT_TRUE(std::isnan(kernels::normal(splat<float32x16>(x)).density[0]));
  }
}

TEST(Elementary, LanesDoNotInfluenceEachOther) {
  const float32x16 x{nan, 1, infinity, -infinity, 0, -1, 2, 1e30F, -1e30F, 1, 1, 1, 1, nan, 3, 1};
  const float32x16 y = kernels::exp(x);
  const kernels::Normal<float32x16> z = kernels::normal(x);
  for (std::size_t i = 0; i < lanes; ++i) {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(float{y[i]}),
              std::bit_cast<std::uint32_t>(one(float_exp, x[i])));
    const auto alone = kernels::normal(splat<float32x16>(x[i]));
    EXPECT_EQ(std::bit_cast<std::uint32_t>(float{z.distribution[i]}),
              std::bit_cast<std::uint32_t>(float{alone.distribution[0]}));
  }
}

/// φ and Φ by the standard library, in double.
double density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }
double distribution(double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }

// The bounds of the header.
TEST(Elementary, DistributionIsWithinTheStatedErrors) {
  double worst = 0;
  double worst_relative = 0;
  for (const std::vector<float>& xs :
       {grid(-14, 14, 3'000'000), grid(-1, 1, 1'000'000), all_binades(1e30F)}) {
    for_each_result(xs, float_normal,
                    [&](float x, const kernels::Normal<float32x16>& y, std::size_t lane) {
                      const double expected = distribution(x);
                      const double error = std::abs(y.distribution[lane] - expected);
                      worst = std::max(worst, error);
                      if (x >= -9) worst_relative = std::max(worst_relative, error / expected);
                    });
  }
  EXPECT_LT(worst, 2.1e-7);
  EXPECT_LT(worst_relative, 3.5e-6);
  RecordProperty("worst", std::to_string(worst * 1e7) + "e-7");
  RecordProperty("worst_relative", std::to_string(worst_relative * 1e6) + "e-6");
}

// The bound of the header: a² is rounded once, which moves the exponential by up to a²/2 units.
TEST(Elementary, ExpOfMinusHalfSquareIsWithinTheStatedError) {
  const float greatest = kernels::detail::greatest_half_square_argument;
  double worst = 0;
  for (const std::vector<float>& xs :
       {grid(0, greatest, 4'000'000), grid(0, 2, 1'000'000), all_binades(greatest)}) {
    for_each_result(xs, float_exp_of_minus_half_square,
                    [&](float x, const float32x16& y, std::size_t lane) {
                      if (std::signbit(x)) return;
                      const double half_square = static_cast<double>(x) * x / 2;
                      const double expected = std::exp(-half_square);
                      const double bound = (half_square + 2.8) * float_unit * expected;
                      worst = std::max(worst, std::abs(y[lane] - expected) / bound);
                    });
  }
  EXPECT_LT(worst, 1);
}

// The bound of the header.
TEST(Elementary, DensityHasTheErrorOfItsArgument) {
  double worst = 0;
  for_each_result(grid(-13, 13, 2'000'000), float_normal,
                  [&](float x, const kernels::Normal<float32x16>& y, std::size_t lane) {
                    const double expected = density(x);
                    const double bound =
                        (static_cast<double>(x) * x / 2 + 4.3) * float_unit * expected;
                    worst = std::max(worst, std::abs(y.density[lane] - expected) / bound);
                  });
  EXPECT_LT(worst, 1);
}

TEST(Elementary, NormalIsZeroBeyondItsGreatestArgument) {
  const float last = kernels::detail::greatest_half_square_argument;
  const float next = std::nextafter(last, infinity);
  const auto normal = [](float x) { return kernels::normal(splat<float32x16>(x)); };
  EXPECT_NEAR(normal(last).density[0] / density(last), 1, 1e-5);
  EXPECT_NEAR(normal(-last).distribution[0] / distribution(-last), 1, 1e-5);
  for (const float x : {next, -next}) {
    EXPECT_EQ(normal(x).density[0], 0);
    EXPECT_EQ(normal(x).distribution[0], x > 0 ? 1 : 0);
  }
}

TEST(Elementary, NormalHasTheLimitsAtInfinityAndNanForNan) {
  for (const float x : {15.0F, 100.0F, 1e10F, 1e20F, 3e38F, infinity}) {
    const auto above = kernels::normal(splat<float32x16>(x));
    const auto below = kernels::normal(splat<float32x16>(-x));
    EXPECT_EQ(above.distribution[0], 1) << x;
    EXPECT_EQ(below.distribution[0], 0) << x;
    EXPECT_EQ(above.density[0], 0) << x;
    EXPECT_EQ(below.density[0], 0) << x;
  }
  const auto undefined = kernels::normal(splat<float32x16>(nan));
  EXPECT_TRUE(std::isnan(undefined.distribution[0]));
  EXPECT_TRUE(std::isnan(undefined.density[0]));
  for (const float zero : {0.0F, -0.0F}) {
    EXPECT_EQ(kernels::normal(splat<float32x16>(zero)).distribution[0], 0.5F);
    EXPECT_NEAR(kernels::normal(splat<float32x16>(zero)).density[0], 0.3989422804, float_unit);
  }
}

// Reference values of Φ and φ to 16 digits; a double form that calls the standard library is
// within a few units of 2^-53 of them, relatively.
TEST(Elementary, NormalInDoubleHasTheTabulatedValues) {
  EXPECT_EQ(kernels::normal(0.0).distribution, 0.5);
  EXPECT_NEAR(kernels::normal(1.0).distribution, 0.8413447460685429, 4e-16);
  EXPECT_NEAR(kernels::normal(-1.0).distribution, 0.1586552539314571, 4e-16);
  EXPECT_NEAR(kernels::normal(0.0).density, 0.3989422804014327, 4e-16);
  EXPECT_NEAR(kernels::normal(1.0).density, 0.2419707245191434, 4e-16);
  EXPECT_NEAR(kernels::normal(-10.0).distribution / 7.619853024160527e-24, 1, 1e-13);
}

// A correctly rounded result is the double square root rounded to float: binary64 has more than
// twice the digits of binary32, so rounding twice is rounding once.
TEST(Elementary, SqrtIsCorrectlyRounded) {
  std::size_t wrong = 0;
  for_each_result(all_binades(std::numeric_limits<float>::max()), float_sqrt,
                  [&](float x, const float32x16& y, std::size_t lane) {
                    if (std::signbit(x) && x != 0) {
                      wrong += !std::isnan(y[lane]);
                    } else {
                      const auto expected = static_cast<float>(std::sqrt(static_cast<double>(x)));
                      wrong += std::bit_cast<std::uint32_t>(float{y[lane]}) !=
                               std::bit_cast<std::uint32_t>(expected);
                    }
                  });
  EXPECT_EQ(wrong, 0U);
  EXPECT_EQ(one(float_sqrt, infinity), infinity);
  EXPECT_TRUE(std::isnan(one(float_sqrt, -infinity)));
  EXPECT_TRUE(std::isnan(one(float_sqrt, nan)));
  EXPECT_EQ(kernels::sqrt(2.25), 1.5);
}

// 1 / (1 + e): a relative error of e of 1.1 ulp, at most 2.2 units, counts e / (1 + e) times; the
// sum and the quotient add a unit each; and a little for products of errors.
TEST(Elementary, SigmoidIsWithinTheErrorOfItsExponential) {
  double worst = 0;
  for (const std::vector<float>& xs : {grid(-87, 40, 2'000'000), all_binades(87)}) {
    for_each_result(xs, float_sigmoid, [&](float x, const float32x16& y, std::size_t lane) {
      const double e = std::exp(-static_cast<double>(x));
      const double expected = 1 / (1 + e);
      const double bound = (2.2 * e / (1 + e) + 2.001) * float_unit * expected;
      worst = std::max(worst, std::abs(y[lane] - expected) / bound);
    });
  }
  EXPECT_LT(worst, 1);
}

TEST(Elementary, SigmoidHasTheLimitsAtInfinityAndNanForNan) {
  EXPECT_EQ(one(float_sigmoid, 0.0F), 0.5F);
  EXPECT_EQ(one(float_sigmoid, -0.0F), 0.5F);
  for (const float x : {100.0F, 1e30F, infinity}) {
    EXPECT_EQ(one(float_sigmoid, x), 1) << x;
    EXPECT_EQ(one(float_sigmoid, -x), 0) << x;
  }
  EXPECT_TRUE(std::isnan(one(float_sigmoid, nan)));
  EXPECT_EQ(kernels::sigmoid(0.0), 0.5);
  EXPECT_NEAR(kernels::sigmoid(1.0), 0.7310585786300049, 4e-16);
}

}  // namespace elementary_test
