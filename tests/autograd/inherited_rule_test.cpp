// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/op_record.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/mul.hpp"
#include "unit_scaling/ops/reshape.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/scaling/constraint.hpp"
#include "unit_scaling/scaling/rule.hpp"

namespace unit_scaling_test {
namespace inherited_rule_test {

using unit_scaling::Array;
using unit_scaling::OpRecord;
using unit_scaling::Parameter;
using unit_scaling::Rule;
using unit_scaling::Scaling;
using unit_scaling::Shape;
using unit_scaling::Tape;
namespace constraint = unit_scaling::constraint;
namespace nn = unit_scaling::nn;
namespace ops = unit_scaling::ops;
namespace precision = unit_scaling::precision;
namespace scaling = unit_scaling::scaling;

using Fp32 = Tape<precision::fp32>;

/// The ops that `build` records.
template <class Build> [[nodiscard]] std::vector<OpRecord> records_of(const Build& build) {
  std::vector<OpRecord> records;
  Fp32 tape;
  tape.trace_with([&](const OpRecord& record) { records.push_back(record); });
  static_cast<void>(build(tape));
  return records;
}

const Array<float>& x() {
  static const Array<float> value = normal_array<float>({4, 8}, 1);
  return value;
}

class InheritedRule : public testing::TestWithParam<Rule> {};

TEST_P(InheritedRule, IsThatOfTheModelForOpsThatAreToldNone) {
  const Scaling scaling{GetParam()};
  nn::Initialiser initialiser(1, scaling);
  const nn::Linear layer(initialiser, "layer", 8, 8);
  const Array<std::int32_t> labels = id_array({4}, 8, 2);
  // One pass told nothing, and one told the rule of the model: bits agree.
  const auto loss_of = [&](Fp32& tape, const Scaling& told) {
    auto h = layer(tape.input(x()));
    h = ops::gelu(h, {.scaling = told});
    h = ops::reshape(h, {.shape = {4, 8}});  // has no factors, and passes the rule on
    h = ops::add(h, ops::softmax(h, {.scaling = told}), {.scaling = told});
    return ops::cross_entropy(h, labels, {.scaling = told});
  };
  Fp32 untold_tape;
  Fp32 told_tape;
  const auto untold = loss_of(untold_tape, scaling::inherited);
  const auto told = loss_of(told_tape, scaling);
  EXPECT_EQ(*untold.value().data(), *told.value().data());
  for (const OpRecord& record :
       records_of([&](Fp32& tape) { return loss_of(tape, scaling::inherited); })) {
    EXPECT_EQ(record.scaling.value_or(Scaling{GetParam()}).rule, GetParam()) << record.name;
  }
}

TEST_P(InheritedRule, ReachesBothOpsOfAFusedOne) {
  nn::Initialiser initialiser(1, Scaling{GetParam()});
  const Parameter w = initialiser.weight("w", {8, 8});
  const auto records =
      records_of([&](Fp32& tape) { return ops::gelu_linear(ops::linear(tape.input(x()), w), w); });
  ASSERT_EQ(records.size(), 2U);
  EXPECT_EQ(records[1].scaling->rule, GetParam());
  EXPECT_EQ(records[1].fused_rule, GetParam());
}

TEST_P(InheritedRule, KeepsAConstraintThatTheOpIsTold) {
  nn::Initialiser initialiser(1, Scaling{GetParam()});
  const Parameter w = initialiser.weight("w", {8, 8});
  const auto records = records_of([&](Fp32& tape) {
    return ops::gelu(ops::linear(tape.input(x()), w),
                     {.scaling = scaling::inherited.with(constraint::none)});
  });
  EXPECT_EQ(records[1].scaling->rule, GetParam());
  EXPECT_EQ(records[1].scaling->constraint->name, constraint::none.name);
}

INSTANTIATE_TEST_SUITE_P(Rules, InheritedRule, testing::Values(Rule::none, Rule::paper, Rule::umup),
                         [](const auto& each) { return std::string(to_string(each.param)); });

TEST(InheritedRule, GivesWayToARuleThatAnOpIsToldAndStaysThatOfTheModelBehindIt) {
  nn::Initialiser initialiser(1, scaling::umup);
  const Parameter w = initialiser.weight("w", {8, 8});
  const auto records = records_of([&](Fp32& tape) {
    const auto told = ops::gelu(ops::linear(tape.input(x()), w), {.scaling = scaling::none});
    return ops::gelu(told);
  });
  EXPECT_EQ(records[1].scaling->rule, Rule::none);
  EXPECT_EQ(records[2].scaling->rule, Rule::umup);
}

TEST(InheritedRule, IsThatOfAnOpBeforeWhereParametersHaveNone) {
  const Parameter w{.name = "w", .value = normal_array<float>({8, 8}, 2)};
  const auto records = records_of([&](Fp32& tape) {
    return ops::gelu(ops::linear(tape.input(x()), w, {.scaling = scaling::umup}));
  });
  EXPECT_EQ(records[1].scaling->rule, Rule::umup);
}

TEST(InheritedRule, IsThePapersWhereNothingHasOneAndOnArrays) {
  const auto records = records_of([&](Fp32& tape) { return ops::gelu(tape.input(x())); });
  EXPECT_EQ(records[0].scaling->rule, Rule::paper);
  const Array<float> untold = ops::gelu(x());
  const Array<float> told = ops::gelu(x(), {.scaling = scaling::paper});
  EXPECT_TRUE(std::equal(untold.data(), untold.data() + untold.size(), told.data()));
}

TEST(InheritedRule, IsThatOfAParameterBeforeThatOfAnythingElse) {
  nn::Initialiser of_umup(1, scaling::umup);
  nn::Initialiser of_paper(1, scaling::paper);
  const Parameter u = of_umup.weight("u", {8, 8});
  const Parameter p = of_paper.weight("p", {8, 8});
  const auto records = records_of([&](Fp32& tape) {
    const auto under_umup = ops::linear(tape.constant(x()), u);
    return ops::gelu(ops::linear(under_umup, p));
  });
  EXPECT_EQ(records[0].scaling->rule, Rule::umup);
  EXPECT_EQ(records[1].scaling->rule, Rule::paper);
  EXPECT_EQ(records[2].scaling->rule, Rule::paper);
}

TEST(InheritedRule, OfAnOpOnPlainDataGivesWayToThatOfTheModel) {
  nn::Initialiser initialiser(1, scaling::umup);
  const Parameter w = initialiser.weight("w", {8, 8});
  const auto records = records_of([&](Fp32& tape) {
    const auto data = ops::mul(tape.constant(x()), tape.constant(x()), {.scaling = scaling::none});
    // Of a weight first, and then of what comes from one, in whatever order.
    const auto h = ops::linear(data, w);
    return ops::gelu(ops::add(data, ops::gelu(h)));
  });
  ASSERT_EQ(records.size(), 5U);
  EXPECT_EQ(records[0].scaling->rule, Rule::none);
  for (std::size_t k = 1; k < 5; ++k) EXPECT_EQ(records[k].scaling->rule, Rule::umup) << k;
}

TEST(InheritedRule, OfAFusedOpIsThatOfTheOneOfTheTwoThatWasTold) {
  const Parameter w{.name = "w", .value = normal_array<float>({8, 8}, 2)};
  const auto records = records_of([&](Fp32& tape) {
    return ops::gelu(ops::gelu_linear(tape.input(x()), w, {.gelu = {.scaling = scaling::umup}}));
  });
  EXPECT_EQ(records[1].scaling->rule, Rule::umup);
}

}  // namespace inherited_rule_test
}  // namespace unit_scaling_test
