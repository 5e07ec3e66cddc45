// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what a tape shows of its ops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/scaling/constraint.hpp"
#include "unit_scaling/scaling/homogeneity.hpp"
#include "unit_scaling/scaling/rule.hpp"
#include "unit_scaling/scaling/scales.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// One op that a tape recorded: what it reads, what it makes, and its factors. Values are numbered
/// within a step, parameters and inputs included.
struct OpRecord {
  struct Input {
    std::size_t value = 0;
    Shape shape = {};
    const Parameter* parameter = nullptr;  ///< whose value it is; null for other values
    bool is_wanted = false;                ///< a gradient is asked for, or passes through
    double backward = 1;                   ///< the op's backward factor β for it
    double ideal_backward = 1;             ///< what it would be without a constraint
  };
  struct Output {
    std::size_t value = 0;
    Shape shape = {};
    /// For each input: what the op multiplies the true gradient from here to there with, β/α.
    std::vector<double> gradient_factors = {};
  };

  std::string name = {};
  std::string module = {};  ///< path of the module that the op belongs to, as in `Tape::enter`
  std::size_t index = 0;
  std::vector<Input> inputs = {};  ///< differentiable ones, in order
  std::vector<Output> outputs = {};
  double forward = 1;                   ///< the op's forward factor α
  double ideal_forward = 1;             ///< what it would be without a constraint
  std::optional<Scaling> scaling = {};  ///< the op's rule and constraint, if it has any
  /// The rule of the op whose work a fused op does besides that of `scaling`; empty for others.
  std::optional<Rule> fused_rule = {};
  std::optional<Constraint> constraint = {};  ///< the one in force, as `ops::constraint_on`
  bool tells_positions = false;               ///< as `ops::tells_positions`
  bool is_outside_batch = false;              ///< as in `Tape::outside_batch`
  /// Which recording it belongs to: each tape begins another one, and again with each clear.
  std::uint64_t recording = 0;
  Homogeneity homogeneity = {};  ///< how it answers to factors on its inputs
};

/// Completes a record that knows its inputs and outputs by what an op with these factors, called
/// with `x`, says of itself.
template <ops::ScaledOp Op, std::size_t inputs, class... Arrays>
[[gnu::cold]] void describe_op(OpRecord& record, const Op& op, const Scales<inputs>& scales,
                               const Arrays&... x) {
  const Scales<inputs> ideal = ops::without_constraint(op).scales(x...);
  record.name = Op::name;
  record.forward = scales.forward;
  record.ideal_forward = ideal.forward;
  record.homogeneity = ops::homogeneity(op, scales, x...);
  record.constraint = ops::constraint_on(op);
  record.tells_positions = ops::tells_positions(op);
  if constexpr (ops::detail::has_scaling<Op>) record.scaling = op.scaling;
  if constexpr (Op::traits.has_followed_scalings) {
    const auto [scaling, fused] = op.followed_scalings();
    record.scaling = scaling;
    record.fused_rule = fused.rule;
  }
  for (std::size_t i = 0; i < inputs; ++i) {
    record.inputs[i].backward = scales.backward[i];
    record.inputs[i].ideal_backward = ideal.backward[i];
    for (std::size_t k = 0; k < record.outputs.size(); ++k) {
      record.outputs[k].gradient_factors[i] = ops::gradient_factor(op, scales, i, k);
    }
  }
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
