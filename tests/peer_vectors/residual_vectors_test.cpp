// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/residual.hpp"

namespace peer_vectors {
namespace {

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

// The branch of these cases is a linear layer under the default constraint, as their names say.
const RegisterOp apply("residual_apply", [](auto& run) {
  const auto input = run.input("input");
  const auto weight = run.input("weight");
  const auto branch = [&](const auto& x) {
    return unit_scaling::ops::linear(x, weight, {.scaling = unit_scaling::scaling::umup});
  };
  run.finish(unit_scaling::ops::residual_apply(
      input, branch, {.scaling = run.scaling(), .tau = run.template parameter<double>("tau", 1)}));
});

}  // namespace
}  // namespace peer_vectors
