// SPDX-License-Identifier: MIT
#include "recipe.hpp"

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "options.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/recipes/recipe_named.hpp"
#include "unit_scaling/recipes/simulation.hpp"

namespace bert_mlp {

Variant simulated(const Options& options, Variant variant, const std::string& rules) {
  if (!variant.recipe.empty()) {
    throw std::invalid_argument("--simulate '" + rules + "' is a recipe, and " + variant.name() +
                                " has one already");
  }
  auto simulation = with_option("--simulate", rules, [&] { return us::Simulation::parse(rules); });
  if (options.simulated_rounding) {
    if (options.simulated_rounding == us::Rounding::nearest_even &&
        rules.find('~') != std::string::npos) {
      throw std::invalid_argument("--simulate-rounding nearest contradicts --simulate '" + rules +
                                  "': ~ is for stochastic rounding");
    }
    simulation = simulation.with_rounding(*options.simulated_rounding);
  }
  if (variant.precision != "fp32" && variant.precision != "fp16") {
    throw std::invalid_argument(
        "--simulate goes with precision fp32 or fp16, which carry the "
        "numbers: got " +
        variant.precision);
  }
  variant.simulation = to_string(simulation);
  return variant;
}

Variant under_recipe(Variant variant, const std::string& name) {
  static_cast<void>(us::recipe_named(name, 0));
  variant.recipe = name;
  return variant;
}

std::shared_ptr<us::RecipeOfTape> recipe_of(const Options& options, const Variant& variant) {
  if (!variant.recipe.empty()) return us::recipe_named(variant.recipe, options.seed);
  if (variant.simulation.empty()) return nullptr;
  return std::make_shared<us::Simulation>(us::Simulation::parse(variant.simulation, options.seed));
}

bool keeps_state(const Options& options, const Variant& variant) {
  bool keeps = false;
  if (const auto recipe = recipe_of(options, variant)) {
    recipe->for_each_state([&](std::string_view, const auto&) { keeps = true; });
  }
  return keeps;
}

void copy_state(us::RecipeOfTape* from, us::RecipeOfTape* to) {
  if (from != nullptr && to != nullptr) us::copy_state(*from, *to);
}

std::string recipes_in_words() {
  std::string text;
  for (const us::NamedRecipe& each : us::named_recipes) {
    text.append(text.empty() ? "" : "; ").append(each.name).append(", ").append(each.meaning);
  }
  return text;
}

}  // namespace bert_mlp
