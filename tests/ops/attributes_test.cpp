// SPDX-License-Identifier: MIT
// Numbers that ops are told and that could only end in NaN or infinity are refused by every op.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/ops/conv1d.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/dropout.hpp"
#include "unit_scaling/ops/estimate_scales.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/heads.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/linear.hpp"
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
#include "unit_scaling/ops/sinusoidal_positions.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/scaling/constraint.hpp"
#include "unit_scaling/scaling/residual_rule.hpp"

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
  expect_refused("gelu", "mult", bad, [&](double m) {
    return ops::gelu_linear(x, normal_array<float>({5, 4}, 3), {.gelu = {.mult = m}});
  });
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

/// Expects no NaN from either pass, in P, for values of the attribute.
template <class P, class Op, class... Arrays>
void expect_no_nan(double Op::*attribute, const std::vector<double>& values, const Arrays&... x) {
  for (const Rule rule : {Rule::none, Rule::paper, Rule::umup}) {
    for (const double value : values) {
      SCOPED_TRACE(testing::Message() << Op::name << " " << value << " " << P::name);
      Op op;
      if constexpr (requires { op.scaling; }) op.scaling = {rule};
      op.*attribute = value;
      const auto check = []<class T>(const Array<T>& array) {
        for (const T element : array.span()) {
          ASSERT_FALSE(std::isnan(static_cast<double>(element)));
        }
      };
      const auto scales = op.scales(x...);
      auto forward = op.forward(P{}, scales, x...);
      if constexpr (is_array<decltype(forward.output)>) {
        check(forward.output);
        using T = typename decltype(forward.output)::value_type;
        const auto gradients =
            op.backward(P{}, scales, forward.saved, normal_array<T>(forward.output.shape(), 3));
        std::apply([&](const auto&... each) { (check(each), ...); }, gradients);
      }
    }
  }
}

TEST(Attributes, ThatAreTakenAreNoNaNInEitherPass) {
  const auto x = normal_array<float>({4, 6}, 1);
  const auto heads = normal_array<float>({2, 3, 4}, 3);
  const auto labels = id_array(Shape{4}, 6, 4);
  // As wide as `require_multiplier` allows.
  const std::vector<double> multipliers{0x1p-62, 1e-10, 0.1, 1, 7, 1e10, 0x1p62};
  using P = precision::fp32;
  expect_no_nan<P>(&ops::Gelu::mult, multipliers, x);
  expect_no_nan<P>(&ops::Silu::mult, multipliers, x);
  expect_no_nan<P>(&ops::SiluGlu::mult, multipliers, x, x);
  expect_no_nan<P>(&ops::Softmax::mult, multipliers, x);
  expect_no_nan<P>(&ops::CrossEntropy::mult, multipliers, x, labels);
  expect_no_nan<P>(&ops::ScaledDotProductAttention::mult, multipliers, heads, heads, heads);
  for (const float value : {0.0F, 3.3F, -1e10F}) {
    const auto constant = Array<float>::filled({3, 768}, value);
    const std::vector<double> epsilons{0, 1e-37, 1e-12, 1e-5, 1, 1e30};
    expect_no_nan<P>(&ops::LayerNorm::epsilon, epsilons, constant);
    expect_no_nan<P>(&ops::RmsNorm::epsilon, epsilons, constant);
  }
  const std::vector<double> shares{0, 1e-30, 0.5, 1 - 0x1p-20};
  expect_no_nan<P>(&ops::Dropout::probability, shares, x);
  expect_no_nan<P>(&ops::CrossEntropy::label_smoothing, shares, x, labels);
  expect_no_nan<P>(&ops::ScaledDotProductAttention::dropout_probability, shares, heads, heads,
                   heads);
  expect_no_nan<P>(&ops::ScaleForward::factor, {-1, 0, -0.0, 1e-37, 1e37}, x);
  expect_no_nan<P>(&ops::Rotary::base, {1, 10000, 1e38}, x);
}

TEST(Attributes, OtherNumbersAreInTheRangeOfFloatToo) {
  const std::vector<double> bad{nan, infinity, -infinity, 1e39, 1e300};
  const auto x = normal_array<float>({2, 4}, 1);
  expect_refused("scale_fwd", "factor", bad,
                 [&](double f) { return ops::scale_fwd(x, {.factor = f}); });
  expect_refused("scale_bwd", "factor", bad,
                 [&](double f) { return ops::scale_bwd(x, {.factor = f}); });
  const std::vector<double> bad_period{nan, infinity, -infinity, 1e39, 1e300, 0.999, 0, -1};
  expect_refused("rotary", "base", bad_period,
                 [&](double b) { return ops::rotary(x, {.base = b}); });
  expect_refused("sinusoidal_positions", "max_period", bad_period,
                 [&](double p) { return ops::sinusoidal_positions<float>(3, 4, p); });
  expect_refused("recurrent_highway", "rebias", bad, [&](double rebias) {
    return ops::recurrent_highway(normal_array<float>({2, 3, 4}, 1),
                                  normal_array<float>({10, 9}, 2), normal_array<float>({10}, 3),
                                  normal_array<float>({5}, 4), {.rebias = rebias});
  });
  expect_refused("scaled", "factor", bad,
                 [&](double f) { return ops::scaled(ops::Softmax{}, f, {1})(x); });
  expect_refused("scaled", "factor", {0, -1, 1e-320, nan, 1e39},
                 [&](double f) { return ops::scaled(ops::Softmax{}, 1, {f})(x); });
}

/// Calls `compute(power, scaling)` with each of three powers wrong.
template <class Compute>
void expect_powers_refused(const char* op, const std::vector<double>& values, const char* attribute,
                           const std::vector<Scaling>& scalings, const Compute& compute) {
  for (std::size_t i = 0; i < 3; ++i) {
    for (const Scaling& scaling : scalings) {
      expect_refused(op, attribute, values, [&](double value) {
        std::array<double, 3> power{0.5, 0.5, 0.5};
        power[i] = value;
        return compute(power, scaling);
      });
    }
  }
}

TEST(Attributes, EveryPowerIsANumberThatGivesFactorsInTheRangeOfFloat) {
  const auto check = [](const char* op, const auto& compute) {
    expect_powers_refused(op, {nan, infinity, -infinity, 1e39, 1e300, -1e300}, "power",
                          {scaling::none, scaling::paper, scaling::umup, Scaling{Rule::paper}},
                          compute);
    // Numbers that no float holds as an exponent of sizes from 4 on.
    expect_powers_refused(op, {200, -200, 1e10, -1e10, 70, -70}, "factor",
                          {scaling::paper.with(constraint::none), Scaling{Rule::paper}}, compute);
  };
  const auto x = normal_array<float>({4, 8}, 1);
  const auto w = normal_array<float>({6, 8}, 2);
  const auto b = normal_array<float>({6}, 3);
  using Power = std::array<double, 3>;
  check("linear", [&](const Power& p, const Scaling& s) {
    return ops::linear(x, w, {.scaling = s, .power = p});
  });
  check("linear", [&](const Power& p, const Scaling& s) {
    return ops::linear(x, w, b, {.scaling = s, .power = p});
  });
  check("linear", [&](const Power& p, const Scaling& s) {
    return ops::gelu_linear(x, w, {.linear = {.scaling = s, .power = p}});
  });
  check("linear", [&](const Power& p, const Scaling& s) {
    return ops::gelu_linear(x, w, b, {.linear = {.scaling = s, .power = p}});
  });
  check("conv1d", [&](const Power& p, const Scaling& s) {
    return ops::conv1d(normal_array<float>({2, 4, 5}, 1), normal_array<float>({5, 4, 2}, 2),
                       {.scaling = s, .power = p});
  });
  // Others are taken.
  for (const double p : {-1.0, 0.0, 0.25, 1.0, 2.0}) {
    for (const Power& power : {Power{p, 0.5, 0.5}, Power{0.5, p, 0.5}, Power{0.5, 0.5, p}}) {
      const auto scales =
          ops::Linear{.scaling = scaling::paper.with(constraint::none), .power = power}.scales(x,
                                                                                               w);
      EXPECT_DOUBLE_EQ(scales.forward, std::pow(8, -power[0]));
      EXPECT_DOUBLE_EQ(scales.backward[0], std::pow(6, -power[1]));
      EXPECT_DOUBLE_EQ(scales.backward[1], std::pow(4, -power[2]));
    }
  }
}

TEST(Attributes, TheWeightOfAResidualBranchIsCheckedByBothItsOps) {
  const auto x = normal_array<float>({2, 4}, 1);
  std::vector<double> bad{nan, infinity, -infinity, -1, -1e-300, 1e-320, 1e39, 1e300};
  for (const Rule rule : {Rule::umup, Rule::paper}) {
    expect_refused("residual", "tau", bad, [&](double tau) {
      return ops::residual_split(x, {.scaling = {rule}, .tau = tau});
    });
    expect_refused("residual", "tau", bad, [&](double tau) {
      return ops::residual_add(x, x, {.scaling = {rule}, .tau = tau});
    });
    bad.push_back(1.5);  // under the paper's rules
  }
  for (const double tau : {0.0, 1e-37, 1e-30, 1.0, 1e30, 1e37}) {
    const auto weights = ops::residual_weights(Rule::umup, tau);
    EXPECT_NEAR(weights.branch * weights.branch + weights.skip * weights.skip, 1, 1e-12) << tau;
  }
  const std::vector<double> never{nan, infinity, -infinity, -1, 1e-320, 1e39, 1e300};
  expect_refused("transformer_residual_scaling_rule", "mult", never,
                 [](double mult) { return transformer_residual_scaling_rule(mult); });
  expect_refused("transformer_residual_scaling_rule", "ratio", never,
                 [](double ratio) { return transformer_residual_scaling_rule(1, ratio); });
  expect_refused("fixed_residual_rule", "tau", never,
                 [](double tau) { return fixed_residual_rule(tau); });
}

TEST(Attributes, AConstraintThatGivesNoFactorIsRefused) {
  static double given = 0;
  const Constraint own{"of_own", [](double, std::span<const double>) { return given; }};
  const auto x = normal_array<float>({2, 4}, 1);
  const auto w = normal_array<float>({3, 4}, 2);
  const std::vector<double> bad{0, -1, nan, infinity, -infinity, 1e-320, 1e300};
  const auto with = [&](double value) {
    given = value;
    return scaling::paper.with(own);
  };
  expect_refused("constraint", "of_own", bad,
                 [&](double value) { return ops::gelu(x, {.scaling = with(value)}); });
  expect_refused("constraint", "of_own", bad,
                 [&](double value) { return ops::linear(x, w, {.scaling = with(value)}); });
  EXPECT_EQ(ops::Gelu{.scaling = with(2)}.scales(x).backward[0], 2);
}

TEST(Attributes, PositionsThatCannotBeCountedAreRefused) {
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  const auto x = normal_array<float>({3, 4}, 1);
  for (const std::size_t first : {most, most - 1, most - 2}) {
    expect_shape_error([&] { (void)ops::rotary(x, {.first_position = first}); }, {"rotary"});
  }
  (void)ops::rotary(x, {.first_position = most - 3});
  for (const std::ptrdiff_t first :
       {std::numeric_limits<std::ptrdiff_t>::max(), std::numeric_limits<std::ptrdiff_t>::min()}) {
    const auto table = ops::sinusoidal_positions<float>(3, 4, 100, first);
    for (const float element : table.span()) EXPECT_TRUE(std::isfinite(element));
  }
  // Of arrays without elements, whose sizes memory does not bound.
  const Array<float> q(Shape{0, 0, std::size_t{1} << 63, 0});
  expect_shape_error(
      [&] {
        (void)ops::scaled_dot_product_attention(q, q, q, Array<float>(Shape{0, 0, 0}));
      },
      {"scaled_dot_product_attention", " + "});
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
