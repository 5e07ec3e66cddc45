// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/mse_loss.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"
#include "support/threads.hpp"

namespace mse_loss_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

template <Precision P, class T>
auto run_training_step(P precision, const ops::MseLoss& op, const Array<T>& x,
                       const Array<T>& target) {
  return run_op_with(
      precision, op, op.scales(x, target),
      [](const auto& y) { return std::remove_cvref_t<decltype(y)>::filled(y.shape(), 1); }, x,
      target);
}

TEST(MseLoss, BackwardIsTheScaledGradient) {
  for (const auto reduction : {ops::Reduction::mean, ops::Reduction::sum}) {
    for (const Shape& shape : {Shape{1}, Shape{3, 7}}) {
      expect_scaled_gradients_under_all_rules(ops::MseLoss{.reduction = reduction},
                                              normal_array<double>(shape, 1),
                                              normal_array<double>(shape, 2));
    }
  }
}

TEST(MseLoss, IsTheTextbookLossAndItsGradientWithoutScaling) {
  const auto x = normal_array<double>({5, 7}, 3);
  const auto target = normal_array<double>({5, 7}, 4);
  const auto run =
      run_training_step(precision::fp64{}, ops::MseLoss{.scaling = scaling::none}, x, target);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum += std::pow(x.data()[i] - target.data()[i], 2);
    EXPECT_NEAR(std::get<0>(run.gradients).data()[i], 2 * (x.data()[i] - target.data()[i]) / 35,
                1e-15);
  }
  EXPECT_NEAR(*run.y.data(), sum / 35, 1e-14);
}

// The relative standard error of the rms of 10^4 normal numbers is 0.007.
TEST(MseLoss, GradientHasUnitScaleForGaussianInputWhateverTheSize) {
  for (const auto reduction : {ops::Reduction::mean, ops::Reduction::sum}) {
    for (const Shape& shape : {Shape{10007}, Shape{129, 257}, Shape{4, 64, 512}}) {
      const auto run =
          run_training_step(precision::fp32{}, ops::MseLoss{.reduction = reduction},
                            normal_array<float>(shape, 5), normal_array<float>(shape, 6));
      EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
      EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1);
    }
  }
}

TEST(MseLoss, RejectsOtherShapes) {
  const auto x = normal_array<float>({2, 3}, 5);
  expect_shape_error(
      [&] {
        (void)ops::mse_loss(x, normal_array<float>({3, 2}, 6));
      },
      {"mse_loss", "(2, 3)", "(3, 2)"});
}

TEST(MseLoss, OfNothingIsZero) {
  const Array<float> none(Shape{0, 3});
  const auto run = run_training_step(precision::fp32{}, ops::MseLoss{}, none, none);
  EXPECT_EQ(*run.y.data(), 0);
  EXPECT_EQ(std::get<0>(run.gradients).shape(), none.shape());
}

TEST(MseLoss, ShowsNumbersThatAreNotFinite) {
  const Array<float> x(Shape{2}, {1, std::numeric_limits<float>::infinity()});
  EXPECT_EQ(*ops::mse_loss(x, normal_array<float>({2}, 7)).data(),
            std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(*ops::mse_loss(x, x).data()));
}

template <class P> class MseLossIn : public testing::Test {};
TYPED_TEST_SUITE(MseLossIn, StoragePrecisions, PrecisionNames);

// A difference and two products are three roundings of each gradient. The loss is a sum in which no
// term meets more than 1100 additions (16384 / 16 in a lane, and those of the lanes).
TYPED_TEST(MseLossIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({37, 29}, 8);
  const auto target = normal_array<T>({37, 29}, 9);
  const auto run = run_training_step(TypeParam{}, ops::MseLoss{}, x, target);
  std::vector<Reference> dx;
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference =
        static_cast<double>(x.data()[i]) - static_cast<double>(target.data()[i]);
    const double value = 2 / std::sqrt(8.0) * difference;
    dx.push_back({value, 4 * float_unit * std::abs(value)});
    sum += difference * difference;
  }
  expect_rounded(std::get<0>(run.gradients), dx);
  const double mean = sum / static_cast<double>(x.size());
  EXPECT_NEAR(static_cast<double>(*run.y.data()), mean, 1100 * float_unit * mean);
}

TYPED_TEST(MseLossIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({211, 233}, 10);
  const auto target = normal_array<T>({211, 233}, 11);
  const auto one = run_training_step(TypeParam{}, ops::MseLoss{}, x, target);
  const ThreadCountScope threads(2);
  const auto two = run_training_step(TypeParam{}, ops::MseLoss{}, x, target);
  EXPECT_TRUE(same_bits(one.y, two.y));
  EXPECT_TRUE(same_bits(std::get<0>(one.gradients), std::get<0>(two.gradients)));
}

}  // namespace mse_loss_test
