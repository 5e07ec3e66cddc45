// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/cross_entropy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"
#include "unit_scaling/ops/reshape.hpp"

namespace cross_entropy_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

using Labels = Array<std::int32_t>;

/// The upstream gradient of a training step.
template <class Y> Y one_like(const Y& y) { return Y::filled(y.shape(), 1); }

template <Precision P, class T>
auto run_training_step(P precision, const ops::CrossEntropy& op, const Array<T>& logits,
                       const Labels& labels) {
  return run_op_with(
      precision, op, op.scales(logits, labels), [](const auto& y) { return one_like(y); }, logits,
      labels);
}

TEST(CrossEntropy, BackwardIsTheScaledGradient) {
  for (const auto reduction : {ops::Reduction::mean, ops::Reduction::sum}) {
    for (const std::size_t items : {1, 5}) {
      expect_scaled_gradients_under_all_rules(ops::CrossEntropy{.reduction = reduction},
                                              normal_array<double>({items, 7}, 1),
                                              id_array({items}, 7, 2));
    }
  }
}

// The scaled op's gradient is β (softmax(m x) − onehot), without the m; rule none has it in β.
TEST(CrossEntropy, BackwardIsTheScaledGradientWithAMultiplier) {
  const auto x = normal_array<double>({5, 7}, 3);
  const auto labels = id_array({5}, 7, 4);
  constexpr double mult = 0.6;
  expect_scaled_gradients(ops::CrossEntropy{.mult = mult}, mult, x, labels);
  expect_scaled_gradients(ops::CrossEntropy{.scaling = scaling::none, .mult = mult}, mult, x,
                          labels);
}

TEST(CrossEntropy, WithoutScalingTheGradientIsTheTrueOne) {
  const auto x = normal_array<double>({5, 7}, 3);
  const auto labels = id_array({5}, 7, 4);
  const ops::CrossEntropy op{.scaling = scaling::none, .mult = 0.6};
  const auto run = run_training_step(precision::fp64{}, op, x, labels);
  expect_numeric_gradient(std::get<0>(run.gradients), 1, x, [&](const Array<double>& moved) {
    return inner_product(run.dy, op.forward(precision::fp64{}, run.scales, moved, labels).output);
  });
}

/// Σ over items that count of −Σ_j t_j log softmax(x)_j, in double.
double smoothed_loss(const Array<double>& x, const Labels& labels, std::int32_t ignored,
                     double smoothing) {
  double total = 0;
  for (std::size_t i = 0; i < x.rows(); ++i) {
    if (labels.data()[i] == ignored) continue;
    double normaliser = 0;
    for (std::size_t j = 0; j < x.columns(); ++j) normaliser += std::exp(x.row(i)[j]);
    for (std::size_t j = 0; j < x.columns(); ++j) {
      const double target = (static_cast<std::size_t>(labels.data()[i]) == j ? 1 - smoothing : 0) +
                            smoothing / static_cast<double>(x.columns());
      total -= target * (x.row(i)[j] - std::log(normaliser));
    }
  }
  return total;
}

TEST(CrossEntropy, SmoothedAndIgnoredLabelsFollowTheDefinition) {
  const auto x = normal_array<double>({6, 7}, 1);
  const Labels labels(Shape{6}, {3, -100, 0, 6, -100, 2});
  for (const double smoothing : {0.0, 0.3}) {
    const double expected = smoothed_loss(x, labels, -100, smoothing);
    const auto loss = [&](const Scaling& scaling, ops::Reduction reduction) {
      return *ops::cross_entropy(x, labels,
                                 {.scaling = scaling,
                                  .reduction = reduction,
                                  .ignore_index = -100,
                                  .label_smoothing = smoothing})
                  .data();
    };
    EXPECT_NEAR(loss(scaling::paper, ops::Reduction::sum), expected, 1e-12);
    EXPECT_NEAR(loss(scaling::paper, ops::Reduction::mean), expected / 6, 1e-12);
    EXPECT_NEAR(loss(scaling::none, ops::Reduction::mean), expected / 4, 1e-12);
    expect_scaled_gradients_under_all_rules(
        ops::CrossEntropy{.ignore_index = -100, .label_smoothing = smoothing}, x, labels);
  }
}

TEST(CrossEntropy, IgnoredItemsGiveNothingWhateverTheirLogits) {
  auto x = normal_array<float>({3, 5}, 1);
  x.mutable_data()[7] = std::numeric_limits<float>::quiet_NaN();
  const Labels labels(Shape{3}, {1, 9, 4});
  const auto run =
      run_training_step(precision::fp32{}, ops::CrossEntropy{.ignore_index = 9}, x, labels);
  EXPECT_TRUE(std::isfinite(*run.y.data()));
  for (std::size_t j = 0; j < 5; ++j) {
    EXPECT_EQ(std::get<0>(run.gradients).row(1)[j], 0);
    EXPECT_NE(std::get<0>(run.gradients).row(0)[j], 0);
  }
  const Labels none = Labels::filled({3}, 9);
  for (const Scaling& rule : {scaling::none, scaling::paper}) {
    EXPECT_EQ(*ops::cross_entropy(x, none, {.scaling = rule, .ignore_index = 9}).data(), 0);
  }
}

TEST(CrossEntropy, SmoothedLabelsKeepUnitScale) {
  for (const std::uint32_t classes : {65U, 1000U}) {
    const auto run =
        run_training_step(precision::fp32{}, ops::CrossEntropy{.label_smoothing = 0.2},
                          normal_array<float>({1024, classes}, 5), id_array({1024}, classes, 6));
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << classes;
  }
}

TEST(CrossEntropy, RefusesImpossibleSmoothing) {
  const auto x = normal_array<float>({2, 3}, 1);
  for (const double smoothing : {-0.1, 1.0, std::numeric_limits<double>::quiet_NaN()}) {
    expect_domain_error(
        [&] { (void)ops::cross_entropy(x, id_array({2}, 3, 1), {.label_smoothing = smoothing}); },
        {"cross_entropy", "label_smoothing"});
  }
}

// The paper's claim of unit scale, to the ±0.1 of its own tests. The element of the label carries
// nearly all of a row's mean square, (1 − p)²: the standard error over 1000 rows is below 0.01.
TEST(CrossEntropy, GradientHasUnitScaleForGaussianLogits) {
  struct Size {
    std::size_t items;
    std::uint32_t classes;
  };
  for (const auto [items, classes] : {Size{2048, 65}, Size{1001, 257}, Size{1024, 1000}}) {
    for (const auto reduction : {ops::Reduction::mean, ops::Reduction::sum}) {
      const auto run = run_training_step(
          precision::fp32{}, ops::CrossEntropy{.reduction = reduction},
          normal_array<float>({items, classes}, 5), id_array({items}, classes, 6));
      EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << items << " " << classes;
    }
  }
}

// For large s the mean over x ~ N(0,1) is ln s + ½, with standard deviation 1 per item; the
// normaliser is biased by −(e−1)/2s and adds no more than 0.05 to the deviation.
TEST(CrossEntropy, MeanLossOfGaussianLogitsIsLogClassesPlusOneHalf) {
  constexpr std::size_t items = 4000, classes = 1000;
  const auto loss =
      ops::cross_entropy(normal_array<float>({items, classes}, 7), id_array({items}, classes, 8));
  EXPECT_EQ(loss.shape(), Shape{});
  EXPECT_NEAR(loss.data()[0], std::log(1000.0) + 0.5, 5 * 1.05 / std::sqrt(items) + 0.001);
}

TEST(CrossEntropy, FactorsAreThoseOfThePaper) {
  const Array<float> x(Shape{4, 17});
  const Labels labels(Shape{4});
  for (const Scaling& scaling : {scaling::paper, scaling::umup}) {
    EXPECT_EQ((ops::CrossEntropy{.scaling = scaling}.scales(x, labels)),
              (Scales<1>{.forward = 1.0 / 4, .backward = {17.0 / 4}}));
    EXPECT_EQ(
        (ops::CrossEntropy{.scaling = scaling, .reduction = ops::Reduction::sum}.scales(x, labels)),
        (Scales<1>{.forward = 1, .backward = {17.0 / 4}}));
  }
  EXPECT_EQ((ops::CrossEntropy{.scaling = scaling::none, .mult = 3}.scales(x, labels)),
            (Scales<1>{.forward = 1.0 / 4, .backward = {3.0 / 4}}));
  EXPECT_EQ((ops::CrossEntropy{.scaling = scaling::none, .reduction = ops::Reduction::sum}.scales(
                x, labels)),
            Scales<1>{});
}

TEST(CrossEntropy, FlatLogitsCostTheLogarithmOfTheClasses) {
  const auto loss =
      ops::cross_entropy(Array<float>::filled(Shape({3, 8}), 2.5F), Labels(Shape{3}, {0, 7, 3}));
  EXPECT_EQ(loss.data()[0], static_cast<float>(std::log(8.0)));
}

TEST(CrossEntropy, LargeLogitsDoNotOverflow) {
  const Array<float> x(Shape{1, 3}, {3e38F, -3e38F, 3e38F});
  EXPECT_EQ(ops::cross_entropy(x, Labels(Shape{1}, {0})).data()[0],
            static_cast<float>(std::log(2.0)));
}

TEST(CrossEntropy, RejectsLabelsOutsideTheClasses) {
  const auto x = normal_array<float>({2, 5}, 9);
  expect_domain_error(
      [&] {
        (void)ops::cross_entropy(x, Labels(Shape{2}, {0, 5}));
      },
      {"cross_entropy", "[0, 5)", "got 5"});
  expect_domain_error(
      [&] {
        (void)ops::cross_entropy(x, Labels(Shape{2}, {-1, 0}));
      },
      {"cross_entropy", "[0, 5)", "got -1"});
}

TEST(CrossEntropy, RejectsFewerThanTwoClasses) {
  for (const std::size_t classes : {0, 1}) {
    expect_domain_error(
        [&] {
          (void)ops::cross_entropy(normal_array<float>({2, classes}, 10), Labels(Shape{2}, {0, 0}));
        },
        {"cross_entropy", "two classes"});
  }
}

TEST(CrossEntropy, RejectsShapesThatDoNotFit) {
  const auto reject = [](const Shape& x, const Shape& labels) {
    expect_shape_error(
        [&] { (void)ops::cross_entropy(normal_array<float>(x, 11), id_array(labels, 3, 12)); },
        {"cross_entropy", to_string(x), to_string(labels)});
  };
  reject({2, 3}, {3});
  reject({2, 3}, {2, 1});
  reject({2, 2, 3}, {4});
  reject({3}, {});
  const auto x = normal_array<float>({2, 3}, 11);
  const auto labels = id_array({2}, 3, 12);
  const ops::CrossEntropy op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x, labels), x, labels);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x, labels), forward.saved,
                          normal_array<float>({2}, 13));
      },
      {"cross_entropy", "(2)", "()"});
}

TEST(CrossEntropy, OfSequencesIsThatOfTheirRows) {
  constexpr std::size_t batch = 3;
  constexpr std::size_t positions = 5;
  constexpr std::size_t classes = 7;
  const auto logits = normal_array<double>({batch, positions, classes}, 1);
  const auto labels = id_array({batch, positions}, classes, 2);
  const auto loss =
      ops::cross_entropy(ops::reshape(logits, {.shape = {batch * positions, classes}}),
                         labels.reshaped({batch * positions}));
  double expected = 0;
  for (std::size_t b = 0; b < batch; ++b) {
    for (std::size_t p = 0; p < positions; ++p) {
      const double* x = logits.data() + (b * positions + p) * classes;
      double sum = 0;
      for (std::size_t c = 0; c < classes; ++c) sum += std::exp(x[c]);
      expected += std::log(sum) - x[labels.data()[b * positions + p]];
    }
  }
  EXPECT_NEAR(loss.data()[0], expected / (batch * positions), 1e-12);
}

TEST(CrossEntropy, NoItemsCostNothing) {
  const auto run = run_training_step(precision::fp8{}, ops::CrossEntropy{},
                                     Array<float16>(Shape{0, 5}), Labels(Shape{0}));
  EXPECT_EQ(run.y.data()[0], 0);
  EXPECT_EQ(std::get<0>(run.gradients).shape(), (Shape{0, 5}));
}

TEST(CrossEntropy, NanOrPlusInfinityMakesTheLossNan) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF}) {
    for (std::size_t i = 0; i < 3 * 17; ++i) {
      auto x = normal_array<float>({3, 17}, 14);
      x.mutable_data()[i] = bad;
      EXPECT_TRUE(std::isnan(ops::cross_entropy(x, Labels(Shape{3}, {0, 16, 5})).data()[0])) << i;
    }
  }
}

TEST(CrossEntropy, MinusInfinityIsAProbabilityOfZero) {
  const Array<float> x(Shape{1, 3}, {1, -HUGE_VALF, 1});
  const auto run =
      run_training_step(precision::fp32{}, ops::CrossEntropy{}, x, Labels(Shape{1}, {0}));
  EXPECT_EQ(run.y.data()[0], static_cast<float>(std::log(2.0)));
  EXPECT_EQ(std::get<0>(run.gradients).data()[1], 0);
  EXPECT_EQ(ops::cross_entropy(x, Labels(Shape{1}, {1})).data()[0], HUGE_VALF);
}

// m x rounds by more than anything here, but the largest logit differs from itself by nothing.
TEST(CrossEntropy, HugeLogitsOfTheLabelCostNothing) {
  for (const float logit : {1e5F, 3e6F, 1e9F, 1e12F, 1e30F}) {
    for (const double mult : {1.0, 1.1, 0.7}) {
      const Array<float> x(Shape{1, 3}, {logit, 0, -logit});
      const auto run = run_training_step(precision::fp32{}, ops::CrossEntropy{.mult = mult}, x,
                                         Labels(Shape{1}, {0}));
      EXPECT_EQ(run.y.data()[0], 0) << logit << " " << mult;
      for (const float slope : std::get<0>(run.gradients).span()) EXPECT_EQ(slope, 0);
    }
  }
}

template <class P> class CrossEntropyIn : public testing::Test {};
TYPED_TEST_SUITE(CrossEntropyIn, StoragePrecisions, PrecisionNames);

// The exponentials and their sum as in the test of softmax: (2u + 5) + (s/16 + 5) units with u the
// spread of a row. The logarithm turns the relative error of the sum into an absolute one.
TYPED_TEST(CrossEntropyIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  constexpr std::size_t items = 19, classes = 45;
  const auto x = normal_array<T>({items, classes}, 15);
  const auto labels = id_array({items}, classes, 16);
  const auto run = run_training_step(TypeParam{}, ops::CrossEntropy{}, x, labels);
  static_assert(std::is_same_v<decltype(run.y), Array<float>>);
  double loss = 0;
  double loss_error = 0;
  std::vector<Reference> dx;
  for (std::size_t i = 0; i < items; ++i) {
    double max = -HUGE_VAL;
    double min = HUGE_VAL;
    for (std::size_t j = 0; j < classes; ++j) {
      max = std::max(max, static_cast<double>(x.row(i)[j]));
      min = std::min(min, static_cast<double>(x.row(i)[j]));
    }
    double sum = 0;
    for (std::size_t j = 0; j < classes; ++j) {
      sum += std::exp(static_cast<double>(x.row(i)[j]) - max);
    }
    const double units = 2 * (max - min) + 5 + classes / 16.0 + 5;
    const auto label = static_cast<std::size_t>(labels.data()[i]);
    loss += (max + std::log(sum) - static_cast<double>(x.row(i)[label])) / items;
    loss_error += units * float_unit / items;
    for (std::size_t j = 0; j < classes; ++j) {
      const double p = std::exp(static_cast<double>(x.row(i)[j]) - max) / sum;
      const double value = run.scales.backward[0] * (p - (j == label ? 1 : 0));
      dx.push_back(
          {value, float_unit * (run.scales.backward[0] * p * (units + 4) + 4 * std::abs(value))});
    }
  }
  expect_rounded(run.y, {{loss, loss_error}});
  expect_rounded(std::get<0>(run.gradients), dx);
}

TYPED_TEST(CrossEntropyIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::CrossEntropy{},
                                     normal_array<T>({633, 77}, 17), id_array({633}, 77, 18));
}

}  // namespace cross_entropy_test
