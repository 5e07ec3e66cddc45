// SPDX-License-Identifier: MIT
// What --simulate and --recipe name.
#pragma once

#include <memory>
#include <string>

#include "options.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"

namespace bert_mlp {

/// The variant with its numbers rounded by these rules, in the way that the options ask for.
/// @throws std::invalid_argument if there are no such rules, or its precision is no carrier.
[[nodiscard]] Variant simulated(const Options& options, Variant variant, const std::string& rules);

/// The variant with its products under this recipe.
/// @throws std::invalid_argument if there is none of that name.
[[nodiscard]] Variant under_recipe(Variant variant, const std::string& name);

/// A new recipe for a variant, under the seed of the run; null: none.
[[nodiscard]] std::shared_ptr<us::RecipeOfTape> recipe_of(const Options& options,
                                                          const Variant& variant);

/// Whether what the recipe of a variant does to a batch depends on the batches before it.
[[nodiscard]] bool keeps_state(const Options& options, const Variant& variant);

/// Gives a recipe the state that another one of the same kind has; nothing where both are null.
void copy_state(us::RecipeOfTape* from, us::RecipeOfTape* to);

/// "amax, delayed, …", each with what it is.
[[nodiscard]] std::string recipes_in_words();

}  // namespace bert_mlp
