// SPDX-License-Identifier: MIT
// The rules of --simulate.
#pragma once

#include <memory>
#include <string>

#include "options.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"

namespace bert_mlp {

/// The variant with its numbers rounded by these rules, in the way that the options ask for.
/// @throws std::invalid_argument if there are no such rules, or its precision is no carrier.
[[nodiscard]] Variant simulated(const Options& options, Variant variant, const std::string& rules);

/// The recipe of a variant, under the seed of the run; null: none.
[[nodiscard]] std::shared_ptr<us::RecipeOfTape> recipe_of(const Options& options,
                                                          const Variant& variant);

}  // namespace bert_mlp
