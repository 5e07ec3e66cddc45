// SPDX-License-Identifier: MIT
// The optimisers that can be asked for.
#pragma once

#include <utility>
#include <variant>
#include <vector>

#include "options.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace bert_mlp {

using AnyOptimiser = std::variant<us::optim::AdamW, us::optim::Sgd>;

/// The optimiser that was asked for. It is not to look for gradients that are not finite, which the
/// training does.
inline AnyOptimiser make_optimiser(const Options& options, const Variant& variant,
                                   std::vector<us::Parameter*> parameters) {
  if (options.optimizer == "sgd") {
    return us::optim::Sgd(
        std::move(parameters),
        {.momentum = 0.9, .weight_decay = options.weight_decay, .allow_non_finite = true});
  }
  return us::optim::AdamW(std::move(parameters), {.weight_decay = options.weight_decay,
                                                  .decay = us::optim::WeightDecay::decoupled,
                                                  .rule = variant.scaling.rule,
                                                  .allow_non_finite = true});
}

/// Calls `visit(name, state)` for all that the optimiser must save.
template <class Visit> void for_each_state(AnyOptimiser& optimiser, const Visit& visit) {
  std::visit([&](auto& each) { each.for_each_state(visit); }, optimiser);
}

}  // namespace bert_mlp
