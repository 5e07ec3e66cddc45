// SPDX-License-Identifier: MIT
#include "unit_scaling/scaling/homogeneity.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/random_arrays.hpp"
#include "unit_scaling/analysis/scale_rules.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/ops/elementwise.hpp"
#include "unit_scaling/ops/scaled.hpp"

namespace homogeneity_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Arrays = std::vector<Array<double>>;

/// What an op made of its inputs, and what it says of factors on them.
struct OpAnswer {
  std::vector<double> output;
  Homogeneity homogeneity;
};

template <class Op, class... Arguments> OpAnswer run(const Op& op, const Arguments&... x) {
  const auto scales = op.scales(x...);
  OpAnswer result{.output = {}, .homogeneity = ops::homogeneity(op, scales, x...)};
  const auto append = [&](const auto& array) {
    result.output.insert(result.output.end(), array.span().begin(), array.span().end());
  };
  const auto forward = op.forward(precision::fp64{}, scales, x...);
  if constexpr (is_array<std::decay_t<decltype(forward.output)>>) {
    append(forward.output);
  } else {
    std::apply([&](const auto&... each) { (append(each), ...); }, forward.output);
  }
  return result;
}

Array<double> times(const Array<double>& x, double factor) {
  Array<double> result(x.shape());
  std::transform(x.data(), x.data() + x.size(), result.mutable_data(),
                 [=](double element) { return factor * element; });
  return result;
}

Arrays times(const Arrays& x, const std::vector<double>& factors) {
  Arrays result;
  for (std::size_t i = 0; i < x.size(); ++i) result.push_back(times(x[i], factors[i]));
  return result;
}

double value_of(const Monomial& monomial, const std::vector<double>& factors) {
  double value = monomial.coefficient;
  for (std::size_t i = 0; i < factors.size(); ++i)
    value *= std::pow(factors[i], monomial.powers[i]);
  return value;
}

/// The largest distance of b from `ratio` a, over the largest element.
double distance(const std::vector<double>& a, const std::vector<double>& b, double ratio) {
  double largest = 0;
  double result = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max({largest, std::abs(ratio * a[i]), std::abs(b[i])});
    result = std::max(result, std::abs(b[i] - ratio * a[i]));
  }
  return result / largest;
}

/// The ratio that brings a closest to b.
double best_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  double product = 0;
  double square = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    product += a[i] * b[i];
    square += a[i] * a[i];
  }
  return product / square;
}

/// Checks the statement of Homogeneity for one op and another of its kind, and that outputs are in
/// no ratio at all if something that is said to be fixed is not.
/// @param run_op called with each op and its differentiable inputs.
template <class Op, class RunOp>
void check_pair(const Op& op, const Op& other_op, const Arrays& x, const RunOp& run_op) {
  const OpAnswer first = run_op(op, x);
  const Homogeneity other = run_op(other_op, x).homogeneity;
  ASSERT_EQ(first.homogeneity.fixed.size(), other.fixed.size());
  // Any factors, of which one for each fixed monomial is then chosen so that it is fixed.
  std::vector<double> factors;
  for (std::size_t i = 0; i < x.size(); ++i) factors.push_back(0.7 + 0.9 * static_cast<double>(i));
  const std::vector<double> ones(x.size(), 1);
  std::set<std::size_t> chosen;
  for (std::size_t k = 0; k < other.fixed.size(); ++k) {
    const double wanted = value_of(first.homogeneity.fixed[k], ones);
    for (std::size_t i = x.size(); i-- > 0;) {
      const int power = other.fixed[k].powers[i];
      if (power == 0 || !chosen.insert(i).second) continue;
      factors[i] *= std::pow(wanted / value_of(other.fixed[k], factors), 1.0 / power);
      break;
    }
    EXPECT_NEAR(value_of(other.fixed[k], factors) / wanted, 1, 1e-12);
  }
  ASSERT_EQ(chosen.size(), other.fixed.size());
  const double ratio = value_of(other.output, factors) / value_of(first.homogeneity.output, ones);
  const OpAnswer second = run_op(other_op, times(x, factors));
  EXPECT_LT(distance(first.output, second.output, ratio), 1e-12);
  for (const std::size_t i : chosen) {
    std::vector<double> off = factors;
    off[i] *= 1.5;
    const OpAnswer third = run_op(other_op, times(x, off));
    const bool is_one_number = third.output.size() == 1;
    const double closest = is_one_number ? ratio : best_ratio(first.output, third.output);
    EXPECT_GT(distance(first.output, third.output, closest), 1e-3) << "input " << i;
  }
}

/// Checks an op under one scaling against the same under another.
template <class Op, class RunOp> void check(const Op& op, const Arrays& x, const RunOp& run_op) {
  const auto under = [&](const Scaling& rules) {
    Op result = op;
    if constexpr (requires { result.scaling = rules; }) result.scaling = rules;
    return result;
  };
  for (const auto& [rules, other_rules] :
       {std::pair(scaling::none, scaling::paper), std::pair(scaling::none, scaling::umup),
        std::pair(scaling::umup, scaling::paper.on_cut_edge())}) {
    SCOPED_TRACE(std::string(Op::name) + " under " + std::string(to_string(rules.rule)) + " and " +
                 std::string(to_string(other_rules.rule)));
    check_pair(under(rules), under(other_rules), x, run_op);
  }
}

Array<double> normal(const Shape& shape, std::uint64_t seed) {
  return normal_array<double>(shape, seed);
}

TEST(Homogeneity, IsWhatTheOutputsOfEveryOpShow) {
  std::set<std::string_view> checked;
  const auto one = [&]<class Op>(const Op& op, const Shape& x) {
    checked.insert(Op::name);
    check(op, {normal(x, 1)}, [](const auto& o, const Arrays& a) { return run(o, a[0]); });
  };
  const auto two = [&]<class Op>(const Op& op, const Shape& x, const Shape& y) {
    checked.insert(Op::name);
    check(op, {normal(x, 1), normal(y, 2)},
          [](const auto& o, const Arrays& a) { return run(o, a[0], a[1]); });
  };
  const auto three = [&]<class Op>(const Op& op, const Shape& x, const Shape& y, const Shape& z) {
    checked.insert(Op::name);
    check(op, {normal(x, 1), normal(y, 2), normal(z, 3)},
          [](const auto& o, const Arrays& a) { return run(o, a[0], a[1], a[2]); });
  };
  const auto four = [&]<class Op>(const Op& op, const Shape& x, const Shape& y, const Shape& z,
                                  const Shape& u) {
    checked.insert(Op::name);
    check(op, {normal(x, 1), normal(y, 2), normal(z, 3), normal(u, 4)},
          [](const auto& o, const Arrays& a) { return run(o, a[0], a[1], a[2], a[3]); });
  };
  const Shape rows{3, 8};
  two(ops::Add{}, rows, {8});
  two(ops::Conv1d{}, {2, 4, 9}, {6, 4, 3});
  three(ops::Conv1d{.groups = 2}, {2, 4, 9}, {6, 2, 3}, {6});
  checked.insert(ops::CrossEntropy::name);
  check(ops::CrossEntropy{.mult = 2, .label_smoothing = 0.1}, {normal(rows, 1)},
        [](const auto& op, const Arrays& a) { return run(op, a[0], id_array({3}, 8, 2)); });
  one(ops::Dropout{.probability = 0.25}, rows);
  checked.insert(ops::Embedding::name);
  check(ops::Embedding{}, {normal(rows, 1)},
        [](const auto& op, const Arrays& a) { return run(op, id_array({5}, 3, 2), a[0]); });
  one(ops::Gelu{.mult = 0.5}, rows);
  one(ops::LayerNorm{.epsilon = 0}, rows);
  three(ops::LayerNorm{.epsilon = 0}, rows, {8}, {8});
  two(ops::Linear{}, rows, {4, 8});
  three(ops::Linear{}, rows, {4, 8}, {4});
  two(ops::LinearReadout{}, rows, {4, 8});
  three(ops::LinearReadout{}, rows, {4, 8}, {4});
  two(ops::Matmul{}, rows, {8, 5});
  one(ops::Mean{}, rows);
  one(ops::MergeHeads{}, {2, 4, 3, 2});
  two(ops::MseLoss{}, rows, rows);
  two(ops::Mul{}, rows, rows);
  four(ops::RecurrentHighway{}, {2, 3, 4}, {10, 9}, {10}, {5});
  one(ops::Relu{}, rows);
  one(ops::Reshape{.shape = {4, 6}}, rows);
  two(ops::ResidualAdd{.tau = 0.3}, rows, rows);
  one(ops::ResidualSplit{.tau = 0.3}, rows);
  one(ops::RmsNorm{.epsilon = 0}, rows);
  two(ops::RmsNorm{.epsilon = 0}, rows, {8});
  one(ops::Rotary{}, rows);
  one(ops::ScaleBackward{.factor = 0.5}, rows);
  one(ops::ScaleForward{.factor = -0.5}, rows);
  const Shape heads{2, 2, 5, 4};
  three(ops::ScaledDotProductAttention{.mult = 2}, heads, heads, heads);
  four(ops::ScaledDotProductAttention{}, heads, heads, heads, {2, 9, 4});
  one(ops::SeparateHeads{.heads = 2}, rows);
  one(ops::Sigmoid{}, rows);
  one(ops::Silu{.mult = 0.5}, rows);
  two(ops::SiluGlu{.mult = 2}, rows, rows);
  one(ops::Softmax{.mult = 2}, rows);
  one(ops::SplitHeads{.heads = 2}, {3, 12});
  one(ops::Sum{}, rows);
  one(ops::Tanh{}, rows);
  two(ops::TokenMixing{}, {2, 3, 4}, {5, 3});

  // Two ops in one: its factors are those of its parts.
  checked.insert(ops::GeluLinear::name);
  const auto with_parts = [](const auto& rules, const auto&... x) {
    return run(ops::GeluLinear{.gelu = {.scaling = rules.scaling, .mult = 0.5},
                               .linear = {.scaling = rules.scaling}},
               x...);
  };
  check(ops::Linear{}, {normal(rows, 1), normal({4, 8}, 2)},
        [&](const auto& o, const Arrays& a) { return with_parts(o, a[0], a[1]); });
  check(ops::Linear{}, {normal(rows, 1), normal({4, 8}, 2), normal({4}, 3)},
        [&](const auto& o, const Arrays& a) { return with_parts(o, a[0], a[1], a[2]); });

  for (const auto& row : analysis::scale_rules()) {
    EXPECT_TRUE(checked.contains(row.op)) << row.op;
  }
}

TEST(Homogeneity, HasTheMultiplierOfAFunction) {
  const Arrays x{normal({3, 8}, 1), normal({3, 8}, 2)};
  const auto of_one = [](const auto& op, const Arrays& a) { return run(op, a[0]); };
  const auto of_two = [](const auto& op, const Arrays& a) { return run(op, a[0], a[1]); };
  check_pair(ops::Gelu{.mult = 0.5}, ops::Gelu{.mult = 2}, {x[0]}, of_one);
  check_pair(ops::Silu{.mult = 0.5}, ops::Silu{.mult = 2}, {x[0]}, of_one);
  check_pair(ops::Softmax{.mult = 0.5}, ops::Softmax{.mult = 2}, {x[0]}, of_one);
  check_pair(ops::SiluGlu{.mult = 0.5}, ops::SiluGlu{.mult = 2}, x, of_two);
  check_pair(ops::GeluLinear{.gelu = {.mult = 0.5}}, ops::GeluLinear{.gelu = {.mult = 2}},
             {x[0], normal({4, 8}, 3), normal({4}, 4)},
             [](const auto& op, const Arrays& a) { return run(op, a[0], a[1], a[2]); });
  check_pair(ops::ResidualAdd{.tau = 0.3}, ops::ResidualAdd{.tau = 0.6}, x, of_two);
}

TEST(Homogeneity, OfAnOpThatSaysNothingIsThatOfAFunctionThatAnswersToNoFactor) {
  const auto f = [](auto v) { return v / (1 + v * v); };
  const auto op = ops::scaled(ops::Elementwise(f, f), 1.5, {1.5}).op;
  const Homogeneity found = ops::homogeneity(op, op.scales(normal({4}, 1)), normal({4}, 1));
  EXPECT_EQ(found.output.coefficient, 1.5);
  EXPECT_EQ(found.output.powers, std::vector{0});
  ASSERT_EQ(found.fixed.size(), 1U);
  EXPECT_EQ(found.fixed[0].powers, std::vector{1});
  EXPECT_EQ(found.fixed[0].coefficient, 1);
}

TEST(Homogeneity, OfANormalisationWeighsTheScaleOfItsInputAgainstEpsilon) {
  const Array<double> x = normal({3, 8}, 1);
  const auto ratio_of = [&](const auto& op, const auto& other) {
    const OpAnswer first = run(op, x);
    const OpAnswer second = run(other, x);
    const double ratio = first.homogeneity.nearly_fixed.at(0).coefficient /
                         second.homogeneity.nearly_fixed.at(0).coefficient;
    // Under this factor on the input of the second both see the same but for its scale.
    const OpAnswer third = run(other, times(x, ratio));
    EXPECT_LT(distance(first.output, third.output, 1), 1e-12);
    EXPECT_GT(distance(first.output, second.output, 1), 1e-3);
    return ratio;
  };
  EXPECT_DOUBLE_EQ(ratio_of(ops::LayerNorm{.epsilon = 0.1}, ops::LayerNorm{.epsilon = 0.4}), 2);
  EXPECT_DOUBLE_EQ(ratio_of(ops::RmsNorm{.epsilon = 0.1}, ops::RmsNorm{.epsilon = 0.4}), 2);
  EXPECT_TRUE(run(ops::LayerNorm{.epsilon = 0}, x).homogeneity.nearly_fixed.empty());
}

}  // namespace homogeneity_test
