// SPDX-License-Identifier: MIT
// Numbers that ops are told and that could only end in NaN or infinity are refused by every op.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/dropout.hpp"
#include "unit_scaling/ops/estimate_scales.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/heads.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/recurrent_highway.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/rms_norm.hpp"
#include "unit_scaling/ops/rotary.hpp"
#include "unit_scaling/ops/scale.hpp"
#include "unit_scaling/ops/scaled.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/silu.hpp"
#include "unit_scaling/ops/silu_glu.hpp"
#include "unit_scaling/ops/softmax.hpp"

namespace attributes_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr double infinity = std::numeric_limits<double>::infinity();
const double nan = std::numeric_limits<double>::quiet_NaN();

/// Expects that `compute(value)` throws an error of the op that names the attribute.
template <class Compute>
void expect_refused(const char* op, const char* attribute, const std::vector<double>& values,
                    const Compute& compute) {
  for (const double value : values) {
    SCOPED_TRACE(testing::Message() << op << ", " << attribute << " " << value);
    expect_domain_error([&] { (void)compute(value); }, {op, attribute});
  }
}

TEST(Attributes, EveryMultIsPositiveAndWithItsSquareInTheRangeOfFloat) {
  const std::vector<double> bad{0, -1, -0.0, nan, infinity, -infinity, 1e-320, 1e-40, 1e39, 1e300};
  const auto x = normal_array<float>({3, 4}, 1);
  const auto labels = id_array(Shape{3}, 4, 2);
  expect_refused("gelu", "mult", bad, [&](double m) { return ops::gelu(x, {.mult = m}); });
  expect_refused("silu", "mult", bad, [&](double m) { return ops::silu(x, {.mult = m}); });
  expect_refused("silu_glu", "mult", bad,
                 [&](double m) { return ops::silu_glu(x, x, {.mult = m}); });
  expect_refused("softmax", "mult", bad, [&](double m) { return ops::softmax(x, {.mult = m}); });
  expect_refused("cross_entropy", "mult", bad,
                 [&](double m) { return ops::cross_entropy(x, labels, {.mult = m}); });
  expect_refused("scaled_dot_product_attention", "mult", bad,
                 [&](double m) { return ops::scaled_dot_product_attention(x, x, x, {.mult = m}); });
}

TEST(Attributes, EveryShareIsInZeroToOneAsAFloat) {
  const std::vector<double> bad{-0.1, 1, 1 - 1e-12, 2, nan, infinity, 1e-320};
  const auto x = normal_array<float>({3, 4}, 1);
  const auto labels = id_array(Shape{3}, 4, 2);
  expect_refused("dropout", "probability", bad,
                 [&](double p) { return ops::dropout(x, {.probability = p}); });
  expect_refused("cross_entropy", "label_smoothing", bad,
                 [&](double p) { return ops::cross_entropy(x, labels, {.label_smoothing = p}); });
  expect_refused("scaled_dot_product_attention", "dropout_probability", bad, [&](double p) {
    return ops::scaled_dot_product_attention(x, x, x, {.dropout_probability = p});
  });
}

TEST(Attributes, TheEpsilonOfEveryNormIsNotNegativeAndAFloat) {
  const std::vector<double> bad{-1, -1e-5, nan, infinity, 1e-320, 1e-40, 1e39};
  const auto x = normal_array<float>({3, 4}, 1);
  const auto g = Array<float>::filled(Shape{4}, 1);
  expect_refused("layer_norm", "epsilon", bad,
                 [&](double e) { return ops::layer_norm(x, {.epsilon = e}); });
  expect_refused("layer_norm", "epsilon", bad,
                 [&](double e) { return ops::layer_norm(x, g, g, {.epsilon = e}); });
  expect_refused("rms_norm", "epsilon", bad,
                 [&](double e) { return ops::rms_norm(x, {.epsilon = e}); });
  expect_refused("rms_norm", "epsilon", bad,
                 [&](double e) { return ops::rms_norm(x, g, {.epsilon = e}); });
}

TEST(Attributes, WithoutEpsilonAConstantRowIsZeroAndPassesNoGradient) {
  const auto check = [](const auto& op, float value) {
    const auto x = Array<float>::filled({2, 5}, value);
    const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
    EXPECT_EQ(forward.output, Array<float>::filled({2, 5}, 0));
    const auto dx = std::get<0>(op.backward(precision::fp32{}, op.scales(x), forward.saved,
                                            normal_array<float>({2, 5}, 3)));
    EXPECT_EQ(dx, Array<float>::filled({2, 5}, 0));
  };
  for (const float value : {0.0F, 3.3F, -1e30F, 1e-30F}) check(ops::LayerNorm{.epsilon = 0}, value);
  check(ops::RmsNorm{.epsilon = 0}, 0);
}

TEST(Attributes, OtherNumbersAreInTheRangeOfFloatToo) {
  const std::vector<double> bad{nan, infinity, -infinity, 1e39, 1e300};
  const auto x = normal_array<float>({2, 4}, 1);
  expect_refused("scale_fwd", "factor", bad,
                 [&](double f) { return ops::scale_fwd(x, {.factor = f}); });
  expect_refused("scale_bwd", "factor", bad,
                 [&](double f) { return ops::scale_bwd(x, {.factor = f}); });
  expect_refused("rotary", "base", bad, [&](double b) { return ops::rotary(x, {.base = b}); });
  for (const Rule rule : {Rule::paper, Rule::umup}) {
    expect_refused("residual", "tau", bad,
                   [&](double tau) { return ops::residual_weights(rule, tau).branch; });
  }
  expect_refused("scaled", "factors", bad,
                 [&](double f) { return ops::scaled(ops::Softmax{}, f, {1})(x); });
  expect_refused("scaled", "factors", {0, -1, 1e-320, nan, 1e39},
                 [&](double f) { return ops::scaled(ops::Softmax{}, 1, {f})(x); });
}

TEST(Attributes, HeadsThatCannotBeCountedAreRefused) {
  const auto x = normal_array<float>({2, 4, 12}, 1);
  for (const std::size_t heads : {std::numeric_limits<std::size_t>::max() / 3 + 1,
                                  std::numeric_limits<std::size_t>::max(), std::size_t{1} << 63}) {
    expect_shape_error([&] { (void)ops::split_heads(x, {.heads = heads}); }, {"split_heads"});
    expect_shape_error([&] { (void)ops::separate_heads(x, {.heads = heads}); }, {"separate_heads"});
  }
}

TEST(Attributes, AMaskThatCouldMeanTwoThingsIsRefused) {
  const auto q = normal_array<float>({4, 4, 3}, 1);
  const auto mask = Array<std::int32_t>::filled({4, 4}, 1);
  expect_shape_error([&] { (void)ops::scaled_dot_product_attention(q, q, q, {.mask = mask}); },
                     {"scaled_dot_product_attention", "(batch, 1, keys)", "(4, 4)"});
  const auto named = ops::scaled_dot_product_attention(q, q, q, {.mask = mask.reshaped({4, 1, 4})});
  EXPECT_EQ(named, ops::scaled_dot_product_attention(q, q, q));
  // Other numbers of queries leave one meaning.
  const auto fewer = normal_array<float>({4, 3, 3}, 1);
  EXPECT_EQ(ops::scaled_dot_product_attention(fewer, q, q, {.mask = mask}),
            ops::scaled_dot_product_attention(fewer, q, q, {.mask = mask.reshaped({4, 1, 4})}));
}

TEST(Attributes, TheFactorsOfALossAreEstimatedByItsGradient) {
  // E[(2 (x − t))²] = 8.
  const auto squared = ops::estimate_scales(ops::MseLoss{.reduction = ops::Reduction::sum},
                                            Shape{4000}, Shape{4000});
  EXPECT_EQ(squared.scales.forward, 1);
  EXPECT_NEAR(squared.scales.backward[0], 1 / std::sqrt(8.0), 0.01);
  const auto labels = id_array(Shape{2000}, 64, 3);
  const auto entropy = ops::estimate_scales(ops::CrossEntropy{.reduction = ops::Reduction::sum},
                                            Shape{2000, 64}, labels);
  EXPECT_EQ(entropy.scales.forward, 1);
  // The factor is for flat probabilities; logits ~ N(0, 1) give some per cent less.
  EXPECT_NEAR(entropy.scales.backward[0], 64 / std::sqrt(63.0), 0.3);
}

}  // namespace attributes_test
