// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a residual branch with its layer normalisation, before the branch or after the sum.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "unit_scaling/nn/layer_norm.hpp"
#include "unit_scaling/ops/residual.hpp"

namespace unit_scaling::nn {

/// Where a residual connection is normalised.
enum class NormPlacement {
  pre,   ///< x + branch(norm(x))
  post,  ///< norm(x + branch(x))
};

/// A residual connection round `branch`, weighted by τ under unit scaling.
template <class Branch> class Residual {
 public:
  Residual(Initialiser& initialiser, const std::string& name, std::size_t hidden_size,
           NormPlacement placement, double tau, Branch branch)
      : op_{.scaling = initialiser.scaling(), .tau = tau},
        placement_(placement),
        norm_(initialiser, name + ".norm", hidden_size),
        branch_(std::move(branch)) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const {
    if (placement_ == NormPlacement::post) return norm_(ops::residual_apply(x, branch_, op_));
    return ops::residual_apply(
        x, [&](const auto& h) { return branch_(norm_(h)); }, op_);
  }

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    norm_.for_each_parameter(visit);
    branch_.for_each_parameter(visit);
  }

 private:
  ops::ResidualAdd op_;
  NormPlacement placement_;
  LayerNorm norm_;
  Branch branch_;
};

/// τ of the `index`-th residual branch of a model for which the skip connection after each branch
/// is the mean of everything before it: 1 / (index + 2).
/// @see Blake et al. 2023, arXiv:2303.11257, "running mean" residual.
[[nodiscard]] constexpr double running_mean_tau(std::size_t index) {
  return 1.0 / static_cast<double>(index + 2);
}

}  // namespace unit_scaling::nn
