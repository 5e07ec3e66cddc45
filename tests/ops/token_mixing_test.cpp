// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/token_mixing.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/matrix_reference.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/operand.hpp"

namespace token_mixing_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

TEST(TokenMixing, BackwardIsTheScaledGradient) {
  const auto w = normal_array<double>({3, 5}, 1);
  for (const Shape& shape : {Shape{5, 1}, Shape{5, 7}, Shape{2, 5, 3}, Shape{2, 2, 5, 2}}) {
    expect_scaled_gradients_under_all_rules(ops::TokenMixing{}, normal_array<double>(shape, 2), w);
  }
}

// The paper's claim of unit scale, to the ±0.1 of its own tests. The elements of w are the fewest:
// the standard error of their mean square alone is (2 · positions · out_positions)^-½ < 0.02.
TEST(TokenMixing, OutputAndGradientsHaveUnitScaleForGaussianInput) {
  struct Size {
    std::size_t batch, positions, out_positions, channels;
  };
  for (const auto [batch, positions, out_positions, channels] :
       {Size{8, 64, 256, 128}, Size{4, 300, 129, 257}, Size{32, 128, 128, 64}}) {
    SCOPED_TRACE(testing::Message() << batch << " " << positions << " " << channels);
    const auto run = run_op(precision::fp32{}, ops::TokenMixing{.scaling = ideal},
                            normal_array<float>({batch, positions, channels}, 3),
                            normal_array<float>({out_positions, positions}, 4));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1);
  }
}

TEST(TokenMixing, FactorsAreThoseOfALinearLayerAcrossPositions) {
  const Array<float> x(Shape{4, 16, 9});
  const Array<float> w(Shape{64, 16});
  EXPECT_EQ((ops::TokenMixing{.scaling = ideal}.scales(x, w)),
            (Scales<2>{.forward = 1.0 / 4, .backward = {1.0 / 8, 1.0 / 6}}));
  // (16 · 64)^-¼ = 2^-2.5, within the rounding of exp(log) in double.
  const Scales<2> paper = ops::TokenMixing{}.scales(x, w);
  EXPECT_NEAR(paper.forward, std::pow(2, -2.5), 1e-15);
  EXPECT_EQ(paper.backward[0], paper.forward);
  EXPECT_EQ(paper.backward[1], 1.0 / 6);
  EXPECT_EQ((ops::TokenMixing{.scaling = scaling::umup}.scales(x, w)),
            (Scales<2>{.forward = 1.0 / 4, .backward = {1.0 / 4, 1.0 / 6}}));
  EXPECT_EQ((ops::TokenMixing{.scaling = scaling::none}.scales(x, w)), Scales<2>{});
}

TEST(TokenMixing, RejectsShapesThatDoNotFit) {
  const auto reject = [](const Shape& x, const Shape& w) {
    expect_shape_error(
        [&] { (void)ops::token_mixing(normal_array<float>(x, 5), normal_array<float>(w, 6)); },
        {"token_mixing", to_string(x), to_string(w)});
  };
  reject({2, 5, 3}, {5, 3});
  reject({5}, {3, 5});
  reject({5, 3}, {5});
  const auto x = normal_array<float>({2, 5, 3}, 5);
  const auto w = normal_array<float>({4, 5}, 6);
  const ops::TokenMixing op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x, w), x, w);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x, w), forward.saved,
                          normal_array<float>({2, 5, 3}, 7));
      },
      {"token_mixing", "(2, 5, 3)", "(2, 4, 3)"});
}

TEST(TokenMixing, TakesEmptyArrays) {
  struct Size {
    std::size_t batch, positions, out_positions, channels;
  };
  for (const auto [batch, positions, out_positions, channels] :
       {Size{0, 5, 3, 2}, Size{2, 0, 3, 2}, Size{2, 5, 0, 2}, Size{2, 5, 3, 0}, Size{1, 1, 1, 1},
        Size{3, 17, 33, 15}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::TokenMixing{},
                                          normal_array<float16>({batch, positions, channels}, 8),
                                          normal_array<float16>({out_positions, positions}, 9));
  }
}

TEST(TokenMixing, WithoutSequencesTheWeightGradientIsZero) {
  const auto run = run_op(precision::fp32{}, ops::TokenMixing{}, Array<float>(Shape{0, 5, 2}),
                          normal_array<float>({3, 5}, 10));
  EXPECT_EQ(std::get<1>(run.gradients), Array<float>::filled(Shape({3, 5}), 0));
}

TEST(TokenMixing, UnwantedGradientsAreLeftEmpty) {
  const auto x = normal_array<float>({2, 5, 3}, 11);
  const auto w = normal_array<float>({4, 5}, 12);
  const ops::TokenMixing op;
  const auto all = run_op(precision::fp32{}, op, x, w);
  for (unsigned mask = 0; mask < 4; ++mask) {
    const std::array wanted{(mask & 1) != 0, (mask & 2) != 0};
    const auto some = op.backward(precision::fp32{}, all.scales, all.saved, all.dy, wanted);
    const Array<float> empty;
    EXPECT_EQ(std::get<0>(some), wanted[0] ? std::get<0>(all.gradients) : empty);
    EXPECT_EQ(std::get<1>(some), wanted[1] ? std::get<1>(all.gradients) : empty);
  }
}

TEST(TokenMixing, NanAndInfinityStayInTheirSequenceAndChannel) {
  auto x = normal_array<float>({2, 3, 2}, 13);
  x.mutable_data()[0] = std::numeric_limits<float>::quiet_NaN();     // sequence 0, channel 0
  x.mutable_data()[6 + 1] = std::numeric_limits<float>::infinity();  // sequence 1, channel 1
  const auto y = ops::token_mixing(x, Array<float>::filled(Shape{4, 3}, 1));
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(std::isnan(y.data()[2 * i]));
    EXPECT_TRUE(std::isfinite(y.data()[2 * i + 1]));
    EXPECT_TRUE(std::isfinite(y.data()[8 + 2 * i]));
    EXPECT_TRUE(std::isinf(y.data()[8 + 2 * i + 1]));
  }
}

template <class P> class TokenMixingIn : public testing::Test {};
TYPED_TEST_SUITE(TokenMixingIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(TokenMixingIn, ResultsAreTheDoubleReferenceOfTheRoundedOperandsRoundedOnce) {
  using P = TypeParam;
  using T = typename P::storage;
  using Operand = typename P::matmul_operand;
  constexpr std::size_t batch = 3, positions = 19, out_positions = 35, channels = 7;
  auto x = normal_array<T>({batch, positions, channels}, 14);
  x.mutable_data()[3] = T(1000.0F);  // saturates in E4M3
  const auto w = normal_array<T>({out_positions, positions}, 15);
  const auto run = run_op(P{}, ops::TokenMixing{.scaling = ideal}, x, w);
  for (const kernels::Operand& operand : {std::get<0>(run.saved), std::get<1>(run.saved)}) {
    EXPECT_EQ(operand.array.format(), Format::of<Operand>());
    EXPECT_FALSE(operand.array.has_scales());
  }
  static_assert(!std::is_same_v<P, precision::fp8> || sizeof(Operand) == 1);

  const auto ws = rounded_matrix<Operand>(w);
  std::vector<Reference> y;
  std::vector<Reference> dx;
  // The weight gradient is one sum over sequences and channels: the sequences side by side.
  Matrix all_x{positions, batch * channels, std::vector<double>(positions * batch * channels)};
  Matrix all_g{out_positions, batch * channels,
               std::vector<double>(out_positions * batch * channels)};
  const auto append = [](std::vector<Reference>& to, const std::vector<Reference>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  const auto place = [&](Matrix& to, const Matrix& from, std::size_t b) {
    for (std::size_t i = 0; i < from.rows; ++i) {
      for (std::size_t j = 0; j < channels; ++j) {
        to.elements[i * to.columns + b * channels + j] = from(i, j);
      }
    }
  };
  for (std::size_t b = 0; b < batch; ++b) {
    const auto xs =
        rounded_matrix<Operand>(x.data() + b * positions * channels, positions, channels);
    const auto gs = rounded_matrix<typename P::matmul_gradient>(
        run.dy.data() + b * out_positions * channels, out_positions, channels);
    append(y, product_reference(ws, xs, run.scales.forward));
    append(dx, product_reference(transposed(ws), gs, run.scales.backward[0]));
    place(all_x, xs, b);
    place(all_g, gs, b);
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
  expect_rounded(std::get<1>(run.gradients),
                 product_reference(all_g, transposed(all_x), run.scales.backward[1]));
}

TYPED_TEST(TokenMixingIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::TokenMixing{},
                                     normal_array<T>({7, 65, 130}, 16),
                                     normal_array<T>({40, 65}, 17));
}

}  // namespace token_mixing_test
