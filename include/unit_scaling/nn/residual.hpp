// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a residual branch with its normalisation, before the branch or after the sum.
#pragma once

#include <string>
#include <utility>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/layer_norm.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/scaling/residual_rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Where a residual connection is normalised.
enum class NormPlacement {
  pre,   ///< x + branch(norm(x))
  post,  ///< norm(x + branch(x))
};

/// The residual rule that a model of these scale rules takes unless told another: u-μP's for a
/// transformer; the paper's running mean before a pre-norm sum, which grows, and equal weights
/// where each sum is normalised again.
[[nodiscard]] inline ResidualRule default_residual_rule(Rule rule, NormPlacement placement) {
  if (rule == Rule::umup) return transformer_residual_scaling_rule();
  return placement == NormPlacement::pre ? running_mean_residual_rule() : fixed_residual_rule(0.5);
}

/// A residual connection round `branch`, weighted by τ under unit scaling, with its normalisation.
/// Its own ops go under the name given, which is best the branch's.
/// Whatever else it is called with, such as a mask, goes on to the branch.
template <class Branch, class Norm = LayerNorm> class Residual {
 public:
  /// @throws DomainError as ops::residual_weights.
  Residual(const Initialiser& initialiser, std::string name, NormPlacement placement, double tau,
           Branch branch, Norm norm)
      : name_(std::move(name)),
        op_{.scaling = initialiser.scaling(), .tau = tau},
        placement_(placement),
        norm_(std::move(norm)),
        branch_(std::move(branch)) {
    op_.require_attributes();
  }

  template <Precision P, class... More>
  [[nodiscard]] Variable<P> operator()(const Variable<P>& x, const More&... more) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    norm_.for_each_parameter(visit);
    branch_.for_each_parameter(visit);
  }

  /// Shows the other states of the branch to `visit(name, state)`.
  template <class Visitor>
  requires requires(Branch& branch, const Visitor& visit) { branch.for_each_state(visit); }
  void for_each_state(const Visitor& visit) { branch_.for_each_state(visit); }

 private:
  std::string name_;
  ops::ResidualAdd op_;
  NormPlacement placement_;
  Norm norm_;
  Branch branch_;
};

template <class Branch, class Norm>
template <Precision P, class... More>
Variable<P> Residual<Branch, Norm>::operator()(const Variable<P>& x, const More&... more) const {
  const auto module = x.tape().enter(name_);
  if (placement_ == NormPlacement::post) {
    return norm_(ops::residual_apply(
        x, [&](const auto& h) { return branch_(h, more...); }, op_));
  }
  return ops::residual_apply(
      x, [&](const auto& h) { return branch_(norm_(h), more...); }, op_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
