// SPDX-License-Identifier: MIT
// Elementwise ops at finite numbers of any magnitude: a result overflows only if it is itself
// beyond the range, and none is NaN.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <string>
#include <tuple>
#include <vector>

#include "support/rounding_check.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/relu.hpp"
#include "unit_scaling/ops/sigmoid.hpp"
#include "unit_scaling/ops/silu.hpp"
#include "unit_scaling/ops/silu_glu.hpp"
#include "unit_scaling/ops/tanh.hpp"

namespace far_elements_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Exact = long double;  // its range holds every product here

Exact gate(Exact u) { return 1 / (1 + std::exp(-u)); }
Exact below(Exact u) { return std::erfc(-u / std::numbers::sqrt2_v<Exact>) / 2; }
Exact density(Exact u) { return std::exp(-u * u / 2) / std::sqrt(2 * std::numbers::pi_v<Exact>); }
Exact cubic_gate(Exact u) {
  return gate(2 * std::sqrt(2 / std::numbers::pi_v<Exact>) * (u + 0.044715L * u * u * u));
}

template <class T> std::vector<T> far_elements() {
  std::vector<T> result;
  for (const double magnitude : {0.0, 1e-45, 1e-38, 1e-20, 0.3, 1.0, 30.0, 100.0, 200.0, 1e4, 6e4,
                                 1e10, 1e20, 1e30, 1e38, 2e38, 2.1e38, 3e38, 3.38e38}) {
    for (const double sign : {1.0, -1.0}) {
      const T value = static_cast<T>(static_cast<float>(sign * magnitude));
      if (std::isfinite(static_cast<double>(value))) result.push_back(value);
    }
  }
  return result;
}

/// Every pair of far elements, as two arrays.
template <class T> std::array<Array<T>, 2> far_pairs() {
  const auto elements = far_elements<T>();
  std::array<Array<T>, 2> pairs{Array<T>(Shape{elements.size() * elements.size()}),
                                Array<T>(Shape{elements.size() * elements.size()})};
  for (std::size_t i = 0; i < pairs[0].size(); ++i) {
    pairs[0].mutable_data()[i] = elements[i / elements.size()];
    pairs[1].mutable_data()[i] = elements[i % elements.size()];
  }
  return pairs;
}

/// Infinite only near or beyond the end of the range, never NaN, and right to 1 % of `scale`, the
/// greatest term of the exact value. `what` returns the text that tells where it is not.
template <class What, class T>
void expect_right(const What& what, T actual, Exact expected, Exact scale) {
  const auto value = static_cast<double>(actual);
  const auto largest = static_cast<Exact>(largest_finite<T>());
  const auto least = static_cast<Exact>(std::numeric_limits<T>::denorm_min());
  ASSERT_FALSE(std::isnan(value)) << what();
  if (std::abs(expected) > largest * 1.01L) {
    ASSERT_TRUE(std::isinf(value)) << what() << ": " << value;
    ASSERT_EQ(std::signbit(value), std::signbit(expected)) << what();
  } else if (std::abs(expected) < largest * 0.99L) {
    ASSERT_NEAR(value, static_cast<double>(expected),
                static_cast<double>(0.01L * scale + 2 * least))
        << what();
  }
}

template <class P> class FarElementsIn : public testing::Test {};
TYPED_TEST_SUITE(FarElementsIn, AllPrecisions, PrecisionNames);

/// y and dx of an op of one argument against α f(m x) / m and β dy f'(m x).
template <Precision P, class Op, class F, class Slope>
void expect_function(const Op& op, double mult, const F& f, const Slope& slope) {
  using T = typename P::storage;
  const auto [x, dy] = far_pairs<T>();
  const auto s = op.scales(x);
  const auto forward = op.forward(P{}, s, x);
  const auto dx = std::get<0>(op.backward(P{}, s, forward.saved, dy));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<Exact>(static_cast<double>(x.data()[i]));
    const auto g = static_cast<Exact>(static_cast<double>(dy.data()[i]));
    const auto what = [&](const char* result) {
      return [=] {
        return std::string(Op::name) + " mult " + std::to_string(std::log10(mult)) + " at " +
               std::to_string(static_cast<double>(v)) + " of " +
               std::to_string(static_cast<double>(g)) + " " + result;
      };
    };
    const Exact y = s.forward * f(mult * v) / mult;
    ASSERT_NO_FATAL_FAILURE(expect_right(what("y"), forward.output.data()[i], y,
                                         std::abs(y) + 1.2e-36L * (1 + std::abs(v))));
    const Exact factor = s.backward[0] * g;
    const Exact gradient = factor * slope(mult * v);
    ASSERT_NO_FATAL_FAILURE(expect_right(what("dx"), dx.data()[i], gradient,
                                         std::abs(gradient) + 1e-4L * std::abs(factor)));
  }
}

TYPED_TEST(FarElementsIn, OverflowOnlyWhereTheResultDoes) {
  using P = TypeParam;
  for (const Scaling& rule : {scaling::paper, scaling::umup, scaling::none}) {
    const auto silu_slope = [](Exact u) { return gate(u) * (1 + u * gate(-u)); };
    const auto gelu_slope = [](Exact u) { return below(u) + u * density(u); };
    const auto cubic_slope = [](Exact u) {
      const Exact inner = 2 * std::sqrt(2 / std::numbers::pi_v<Exact>) * (1 + 0.134145L * u * u);
      return cubic_gate(u) + u * cubic_gate(u) * cubic_gate(-u) * inner;
    };
    for (const double mult : {1.0, 1e-10, 1e10, 1e18}) {
      expect_function<P>(
          ops::Silu{.scaling = rule, .mult = mult}, mult, [](Exact u) { return u * gate(u); },
          silu_slope);
      expect_function<P>(
          ops::Gelu{.scaling = rule, .mult = mult}, mult, [](Exact u) { return u * below(u); },
          gelu_slope);
      expect_function<P>(
          ops::Gelu{.scaling = rule, .mult = mult, .form = ops::GeluForm::tanh_approximation}, mult,
          [](Exact u) { return u * cubic_gate(u); }, cubic_slope);
    }
    expect_function<P>(
        ops::Tanh{.scaling = rule}, 1, [](Exact u) { return std::tanh(u); },
        [](Exact u) { return 1 / (std::cosh(u) * std::cosh(u)); });
    expect_function<P>(ops::Sigmoid{.scaling = rule}, 1, gate,
                       [](Exact u) { return gate(u) * gate(-u); });
    expect_function<P>(
        ops::Relu{.scaling = rule}, 1, [](Exact u) { return u > 0 ? u : 0; },
        [](Exact u) { return u > 0 ? Exact{1} : Exact{0}; });
  }
}

TYPED_TEST(FarElementsIn, OfAGatedUnitOverflowOnlyWhereTheResultDoes) {
  using P = TypeParam;
  using T = typename P::storage;
  const auto pairs = far_pairs<T>();
  const auto& x = pairs[0];
  const auto& g = pairs[1];
  for (const Scaling& rule : {scaling::paper, scaling::umup, scaling::none}) {
    for (const double mult : {1.0, 1e-10, 1e10}) {
      const ops::SiluGlu op{.scaling = rule, .mult = mult};
      const auto s = op.scales(x, g);
      const auto forward = op.forward(P{}, s, x, g);
      const auto what = [&](const std::string& result, std::size_t i) {
        return [&, i] {
          return "mult " + std::to_string(std::log10(mult)) + ", x " +
                 std::to_string(static_cast<double>(x.data()[i])) + ", gate " +
                 std::to_string(static_cast<double>(g.data()[i])) + ", " + result;
        };
      };
      const std::string of_y = "y";
      std::vector<Exact> open(x.size());  // the gate times its own opening
      std::vector<Exact> slope(x.size());
      for (std::size_t i = 0; i < x.size(); ++i) {
        const auto v = static_cast<Exact>(static_cast<double>(x.data()[i]));
        const auto u = static_cast<Exact>(static_cast<double>(g.data()[i]));
        open[i] = u * gate(mult * u);
        slope[i] = gate(mult * u) * (1 + mult * u * gate(-mult * u));
        const Exact y = s.forward * v * open[i];
        ASSERT_NO_FATAL_FAILURE(expect_right(what(of_y, i), forward.output.data()[i], y,
                                             std::abs(y) + 1e-37L * std::abs(v)));
      }
      for (const T upstream : far_elements<T>()) {
        const auto [dx, dgate] =
            op.backward(P{}, s, forward.saved, Array<T>::filled(x.shape(), upstream));
        const auto d = static_cast<Exact>(static_cast<double>(upstream));
        const std::string of_x = "dx of dy " + std::to_string(static_cast<double>(d));
        const std::string of_gate = "dgate of dy " + std::to_string(static_cast<double>(d));
        for (std::size_t i = 0; i < x.size(); ++i) {
          const auto v = static_cast<Exact>(static_cast<double>(x.data()[i]));
          const Exact to_x = s.backward[0] * d * open[i];
          const Exact to_gate = s.backward[1] * d * v * slope[i];
          ASSERT_NO_FATAL_FAILURE(expect_right(what(of_x, i), dx.data()[i], to_x,
                                               std::abs(to_x) + 1e-37L * std::abs(d)));
          ASSERT_NO_FATAL_FAILURE(
              expect_right(what(of_gate, i), dgate.data()[i], to_gate,
                           std::abs(to_gate) + 1e-4L * std::abs(d * v) + 1e-42L * std::abs(v)));
        }
      }
    }
  }
}

}  // namespace far_elements_test
