// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/recurrent_highway.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/matrix_reference.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace recurrent_highway_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

struct Sizes {
  std::size_t batch, positions, input, hidden;
};

template <Storage T> auto arguments(const Sizes& n) {
  return std::tuple{normal_array<T>({n.batch, n.positions, n.input}, 1),
                    normal_array<T>({2 * n.hidden, n.input + n.hidden}, 2),
                    normal_array<T>({2 * n.hidden}, 3), normal_array<T>({n.hidden}, 4)};
}

/// The definition, element by element in double, with states and operands rounded where the op
/// says that it rounds.
template <Precision P, class T>
std::vector<double> textbook(const Sizes& n, double alpha, double rebias, const Array<T>& x,
                             const Array<T>& w, const Array<T>& b, const Array<T>& initial) {
  using Operand = typename P::matmul_operand;
  std::vector<double> y;
  y.resize(n.batch * n.positions * n.hidden);
  for (std::size_t i = 0; i < n.batch; ++i) {
    std::vector<double> h(initial.data(), initial.data() + n.hidden);
    for (std::size_t p = 0; p < n.positions; ++p) {
      std::vector<double> gates(2 * n.hidden);
      for (std::size_t k = 0; k < 2 * n.hidden; ++k) {
        double total = static_cast<double>(b.data()[k]);
        for (std::size_t j = 0; j < n.input; ++j) {
          total += rounded_to<Operand>(x.data()[(i * n.positions + p) * n.input + j]) *
                   rounded_to<Operand>(w.row(k)[j]);
        }
        for (std::size_t j = 0; j < n.hidden; ++j) {
          total += rounded_to<Operand>(static_cast<T>(h[j])) *
                   rounded_to<Operand>(w.row(k)[n.input + j]);
        }
        gates[k] = static_cast<double>(static_cast<T>(alpha * total));
      }
      for (std::size_t k = 0; k < n.hidden; ++k) {
        const double gate = 1 / (1 + std::exp(rebias - gates[n.hidden + k]));
        h[k] = static_cast<double>(static_cast<T>((1 - gate) * h[k] + gate * std::tanh(gates[k])));
        y[(i * n.positions + p) * n.hidden + k] = h[k];
      }
    }
  }
  return y;
}

TEST(RecurrentHighway, IsTheTextbookRecurrence) {
  for (const Sizes& n : {Sizes{1, 1, 1, 1}, Sizes{2, 5, 3, 7}, Sizes{3, 4, 17, 19}}) {
    for (const Scaling& rule : {scaling::none, scaling::paper, scaling::umup}) {
      const ops::RecurrentHighway op{.scaling = rule, .rebias = 0.7};
      std::apply(
          [&](const auto&... each) {
            const auto y = ops::recurrent_highway(each..., op);
            const auto expected =
                textbook<precision::fp64>(n, op.scales(each...).forward, op.rebias, each...);
            for (std::size_t i = 0; i < y.size(); ++i) {
              EXPECT_NEAR(y.data()[i], expected[i], 1e-13);
            }
          },
          arguments<double>(n));
    }
  }
}

TEST(RecurrentHighway, BackwardIsTheScaledGradientThroughTime) {
  for (const Sizes& n : {Sizes{1, 1, 1, 1}, Sizes{2, 5, 3, 4}}) {
    std::apply(
        [&](const auto&... each) {
          expect_scaled_gradients_under_all_rules(ops::RecurrentHighway{.rebias = 0.4}, each...);
        },
        arguments<double>(n));
  }
}

// The gates are sums of input + hidden + 1 products; with h small they fall short of unit variance
// by the share of the state, which is at most a half here.
TEST(RecurrentHighway, StateAndGradientsKeepASaneScaleAtAnySize) {
  for (const Sizes& n : {Sizes{16, 32, 64, 64}, Sizes{8, 128, 128, 64}, Sizes{4, 64, 64, 256}}) {
    std::apply(
        [&](const auto&... each) {
          const auto run = run_op(precision::fp32{}, ops::RecurrentHighway{}, each...);
          EXPECT_GT(rms(run.y), 0.2);
          EXPECT_LT(rms(run.y), 0.7);
          const auto in_band = [](double scale) { return scale > 0.1 && scale < 2; };
          EXPECT_TRUE(in_band(rms(std::get<0>(run.gradients)))) << rms(std::get<0>(run.gradients));
          EXPECT_TRUE(in_band(rms(std::get<1>(run.gradients)))) << rms(std::get<1>(run.gradients));
          EXPECT_TRUE(in_band(rms(std::get<2>(run.gradients)))) << rms(std::get<2>(run.gradients));
        },
        arguments<float>(n));
  }
}

TEST(RecurrentHighway, FactorsAreTheGeometricMeanOfTheLinearLayersOnes) {
  const Sizes n{3, 5, 7, 11};
  std::apply(
      [&](const auto&... each) {
        const Scales<4> s = ops::RecurrentHighway{}.scales(each...);
        EXPECT_NEAR(s.forward, std::pow(2.0 * 18 * 11, -0.25), 1e-14);
        EXPECT_EQ(s.backward[0], s.forward);
        EXPECT_NEAR(s.backward[1], 1 / std::sqrt(15.0), 1e-15);
        EXPECT_EQ(s.backward[2], s.backward[1]);
        EXPECT_EQ((ops::RecurrentHighway{.scaling = scaling::none}.scales(each...)), Scales<4>{});
      },
      arguments<float>(n));
}

TEST(RecurrentHighway, RejectsShapesThatDoNotFit) {
  const auto [x, w, b, initial] = arguments<float>({2, 3, 5, 7});
  const auto wrong = normal_array<float>({14, 11}, 1);
  expect_shape_error([&, &x = x, &b = b,
                      &initial = initial] { (void)ops::recurrent_highway(x, wrong, b, initial); },
                     {"recurrent_highway", "(2, 3, 5)", "(14, 11)", "(14)", "(7)"});
  const auto flat = normal_array<float>({3, 5}, 1);
  expect_shape_error([&, &w = w, &b = b,
                      &initial = initial] { (void)ops::recurrent_highway(flat, w, b, initial); },
                     {"recurrent_highway", "(3, 5)"});
  expect_domain_error(
      [&, &x = x, &w = w, &b = b, &initial = initial] {
        (void)ops::recurrent_highway(x, w, b, initial, {.rebias = HUGE_VAL});
      },
      {"recurrent_highway", "rebias"});
}

TEST(RecurrentHighway, TakesEmptySizesAndOnes) {
  for (const Sizes& n : {Sizes{0, 3, 2, 2}, Sizes{2, 0, 2, 2}, Sizes{2, 3, 0, 2}, Sizes{2, 3, 2, 0},
                         Sizes{1, 1, 1, 1}}) {
    std::apply(
        [](const auto&... each) {
          expect_gradients_have_argument_shapes(precision::fp8{}, ops::RecurrentHighway{}, each...);
        },
        arguments<float16>(n));
  }
}

template <class P> class RecurrentHighwayIn : public testing::Test {};
TYPED_TEST_SUITE(RecurrentHighwayIn, StoragePrecisions, PrecisionNames);

// A gate that rounds the other way moves the state by up to an ulp of it, and the states after it
// by what the gates let through: the sum of a few ulps of numbers below two.
TYPED_TEST(RecurrentHighwayIn, ResultIsTheTextbookRecurrenceWithEveryRounding) {
  using T = typename TypeParam::storage;
  const Sizes n{2, 5, 13, 19};
  std::apply(
      [&](const auto&... each) {
        const ops::RecurrentHighway op;
        const auto y = ops::recurrent_highway(TypeParam{}, each..., op);
        const auto expected =
            textbook<TypeParam>(n, op.scales(each...).forward, op.rebias, each...);
        for (std::size_t i = 0; i < y.size(); ++i) {
          EXPECT_NEAR(static_cast<double>(y.data()[i]), expected[i],
                      4 * ulp<T>(1) + 64 * float_unit +
                          (std::is_same_v<TypeParam, precision::fp8> ? 0.02 : 0))
              << i;
        }
      },
      arguments<T>(n));
}

TYPED_TEST(RecurrentHighwayIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  std::apply(
      [](const auto&... each) {
        expect_thread_count_changes_no_bit(TypeParam{}, ops::RecurrentHighway{}, each...);
      },
      arguments<T>({67, 5, 65, 129}));
}

}  // namespace recurrent_highway_test
