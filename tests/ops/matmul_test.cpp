// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/matmul.hpp"

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

namespace matmul_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

TEST(Matmul, BackwardIsTheScaledGradient) {
  expect_scaled_gradients_under_all_rules(ops::Matmul{}, normal_array<double>({1, 1}, 1),
                                          normal_array<double>({1, 1}, 2));
  expect_scaled_gradients_under_all_rules(ops::Matmul{}, normal_array<double>({3, 5}, 1),
                                          normal_array<double>({5, 7}, 2));
  expect_scaled_gradients_under_all_rules(ops::Matmul{}, normal_array<double>({2, 3, 3, 5}, 3),
                                          normal_array<double>({2, 3, 5, 2}, 4));
}

// The paper's claim of unit scale, to the ±0.1 of its own tests; the standard error is near
// (1/m + 1/k + 1/n)^½ / √2, which is below 0.06 for one product of these and divided by √batch.
TEST(Matmul, OutputAndGradientsHaveUnitScaleForGaussianInput) {
  struct Size {
    std::size_t batch, m, k, n;
  };
  for (const auto [batch, m, k, n] :
       {Size{8, 384, 512, 640}, Size{64, 128, 64, 128}, Size{16, 257, 300, 129}}) {
    SCOPED_TRACE(testing::Message() << batch << " " << m << " " << k << " " << n);
    const auto run =
        run_op(precision::fp32{}, ops::Matmul{.scaling = ideal},
               normal_array<float>({batch, m, k}, 5), normal_array<float>({batch, k, n}, 6));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1);
  }
}

TEST(Matmul, FactorsAreTheRootsOfTheExtents) {
  const Array<float> l(Shape{2, 64, 16});
  const Array<float> r(Shape{2, 16, 4});
  EXPECT_EQ((ops::Matmul{.scaling = ideal}.scales(l, r)),
            (Scales<2>{.forward = 1.0 / 4, .backward = {1.0 / 2, 1.0 / 8}}));
  // All three edges are bound: (¼ · ½ · ⅛)^⅓ = ¼, within the rounding of exp(log) in double.
  const Scales<2> paper = ops::Matmul{}.scales(l, r);
  EXPECT_NEAR(paper.forward, 0.25, 1e-15);
  EXPECT_EQ(paper.backward[0], paper.forward);
  EXPECT_EQ(paper.backward[1], paper.forward);
  EXPECT_EQ((ops::Matmul{.scaling = scaling::umup}.scales(l, r)),
            (Scales<2>{.forward = 1.0 / 4, .backward = {1.0 / 4, 1.0 / 4}}));
  EXPECT_EQ((ops::Matmul{.scaling = scaling::none}.scales(l, r)), Scales<2>{});
}

TEST(Matmul, RejectsShapesThatDoNotFit) {
  const auto reject = [](const Shape& l, const Shape& r) {
    expect_shape_error(
        [&] { (void)ops::matmul(normal_array<float>(l, 7), normal_array<float>(r, 8)); },
        {"matmul", to_string(l), to_string(r)});
  };
  reject({2, 3}, {2, 3});
  reject({3}, {3, 2});
  reject({3, 3}, {3});
  reject({2, 3, 4}, {4, 5});
  reject({2, 3, 4}, {3, 4, 5});
  const auto l = normal_array<float>({2, 3}, 7);
  const auto r = normal_array<float>({3, 4}, 8);
  const ops::Matmul op;
  const auto forward = op.forward(precision::fp32{}, op.scales(l, r), l, r);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(l, r), forward.saved,
                          normal_array<float>({4, 2}, 9));
      },
      {"matmul", "(4, 2)", "(2, 4)"});
}

TEST(Matmul, TakesEmptyArrays) {
  struct Size {
    std::size_t batch, m, k, n;
  };
  for (const auto [batch, m, k, n] : {Size{0, 3, 5, 7}, Size{2, 0, 5, 7}, Size{2, 3, 0, 7},
                                      Size{2, 3, 5, 0}, Size{1, 1, 1, 1}, Size{3, 17, 15, 33}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Matmul{},
                                          normal_array<float16>({batch, m, k}, 10),
                                          normal_array<float16>({batch, k, n}, 11));
  }
}

TEST(Matmul, AnEmptyInnerExtentGivesZeros) {
  const auto y = ops::matmul(Array<float>(Shape{2, 3, 0}), Array<float>(Shape{2, 0, 4}));
  EXPECT_EQ(y, Array<float>::filled(Shape({2, 3, 4}), 0));
}

TEST(Matmul, UnwantedGradientsAreLeftEmpty) {
  const auto l = normal_array<float>({4, 3}, 12);
  const auto r = normal_array<float>({3, 5}, 13);
  const ops::Matmul op;
  const auto all = run_op(precision::fp32{}, op, l, r);
  for (unsigned mask = 0; mask < 4; ++mask) {
    const std::array wanted{(mask & 1) != 0, (mask & 2) != 0};
    const auto some = op.backward(precision::fp32{}, all.scales, all.saved, all.dy, wanted);
    const Array<float> empty;
    EXPECT_EQ(std::get<0>(some), wanted[0] ? std::get<0>(all.gradients) : empty);
    EXPECT_EQ(std::get<1>(some), wanted[1] ? std::get<1>(all.gradients) : empty);
  }
}

TEST(Matmul, NanAndInfinityReachTheResultsThatDependOnThem) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Array<float> l(Shape{3, 2}, {nan, 1, infinity, 1, 1, 1});
  const Array<float> r(Shape{2, 1}, {1, 1});
  const auto y = ops::matmul(l, r);
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], infinity);
  EXPECT_TRUE(std::isfinite(y.data()[2]));
  // Operands in fp8 saturate: an infinity becomes 448, a NaN remains one.
  const auto y8 = ops::matmul(precision::fp8{}, l, r, {.scaling = scaling::none});
  EXPECT_TRUE(isnan(y8.data()[0]));
  EXPECT_EQ(static_cast<float>(y8.data()[1]), 449.0F);
}

template <class P> class MatmulIn : public testing::Test {};
TYPED_TEST_SUITE(MatmulIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(MatmulIn, SavesTheRoundedOperands) {
  using P = TypeParam;
  using Operand = typename P::matmul_operand;
  const auto l = normal_array<typename P::storage>({4, 3}, 14);
  const auto run = run_op(P{}, ops::Matmul{}, l, normal_array<typename P::storage>({3, 5}, 15));
  for (const kernels::Operand& operand : {std::get<0>(run.saved), std::get<1>(run.saved)}) {
    EXPECT_EQ(operand.array.format(), Format::of<Operand>());
    EXPECT_FALSE(operand.array.has_scales());
  }
  static_assert(!std::is_same_v<P, precision::fp8> || sizeof(Operand) == 1);
  const Array<Operand> saved = std::get<0>(run.saved).array.template array<Operand>();
  for (std::size_t i = 0; i < l.size(); ++i) {
    EXPECT_EQ(static_cast<double>(saved.data()[i]), rounded_to<Operand>(l.data()[i]));
  }
}

TYPED_TEST(MatmulIn, ResultsAreTheDoubleReferenceOfTheRoundedOperandsRoundedOnce) {
  using P = TypeParam;
  using T = typename P::storage;
  using Operand = typename P::matmul_operand;
  constexpr std::size_t batch = 3, m = 9, k = 35, n = 21;
  const auto l = normal_array<T>({batch, m, k}, 16);
  auto r = normal_array<T>({batch, k, n}, 17);
  r.mutable_data()[7] = T(-1000.0F);  // saturates in E4M3
  const auto run = run_op(P{}, ops::Matmul{.scaling = ideal}, l, r);
  std::vector<Reference> y;
  std::vector<Reference> dl;
  std::vector<Reference> dr;
  const auto append = [](std::vector<Reference>& to, const std::vector<Reference>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (std::size_t i = 0; i < batch; ++i) {
    const auto ls = rounded_matrix<Operand>(l.data() + i * m * k, m, k);
    const auto rs = rounded_matrix<Operand>(r.data() + i * k * n, k, n);
    const auto gs = rounded_matrix<typename P::matmul_gradient>(run.dy.data() + i * m * n, m, n);
    append(y, product_reference(ls, rs, run.scales.forward));
    append(dl, product_reference(gs, transposed(rs), run.scales.backward[0]));
    append(dr, product_reference(transposed(ls), gs, run.scales.backward[1]));
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dl);
  expect_rounded(std::get<1>(run.gradients), dr);
}

TYPED_TEST(MatmulIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  // Threads share out the batch, or the rows of a single product.
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Matmul{}, normal_array<T>({5, 70, 33}, 18),
                                     normal_array<T>({5, 33, 41}, 19));
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Matmul{}, normal_array<T>({301, 270}, 20),
                                     normal_array<T>({270, 77}, 21));
}

}  // namespace matmul_test
