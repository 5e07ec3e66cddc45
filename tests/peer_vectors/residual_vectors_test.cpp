// SPDX-License-Identifier: MIT
#include <stdexcept>
#include <string>

#include "op_vectors.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/residual.hpp"

namespace peer_vectors {
namespace residual_vectors_test {

using unit_scaling::ops::residual_split;

const RegisterOp split("residual_split", [](auto& run) {
  const auto input = run.input("input");
  const auto [branch, skip] = residual_split(
      input, {.scaling = run.scaling(), .tau = run.template parameter<double>("tau", 1)});
  run.finish(branch, skip);
});

const RegisterOp add("residual_add", [](auto& run) {
  const auto branch = run.input("residual");
  const auto skip = run.input("skip");
  run.finish(unit_scaling::ops::residual_add(
      branch, skip, {.scaling = run.scaling(), .tau = run.template parameter<double>("tau", 1)}));
});

/// The constraint of the linear layer that a case has for its branch, which its name alone says:
/// "tau=0.2,fn=linear(to_output_scale)".
unit_scaling::Constraint constraint_of_branch(const std::string& name) {
  const std::string prefix = "fn=linear(";
  const std::size_t begin = name.find(prefix);
  const std::size_t end = name.find(')', begin == std::string::npos ? name.size() : begin);
  if (end == std::string::npos) {
    throw std::runtime_error("expected a name with fn=linear(CONSTRAINT), got '" + name + "'");
  }
  return named_constraint(name.substr(begin + prefix.size(), end - begin - prefix.size()));
}

const RegisterOp apply("residual_apply", [](auto& run) {
  const auto input = run.input("input");
  const auto weight = run.input("weight");
  const unit_scaling::ops::Linear op{
      .scaling = unit_scaling::scaling::umup.with(constraint_of_branch(run.name()))};
  const auto branch = [&](const auto& x) { return unit_scaling::ops::linear(x, weight, op); };
  run.finish(unit_scaling::ops::residual_apply(
      input, branch, {.scaling = run.scaling(), .tau = run.template parameter<double>("tau", 1)}));
});

}  // namespace residual_vectors_test
}  // namespace peer_vectors
