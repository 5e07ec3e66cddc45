// SPDX-License-Identifier: MIT
/// @file
/// Layer recipes: the recipes of the library by name, for a command line.
///
/// It compiles the products of all formats, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <array>
#include <charconv>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/recipes/block_scaling.hpp"
#include "unit_scaling/recipes/coat.hpp"
#include "unit_scaling/recipes/tensor_scaling.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A recipe that `recipe_named` knows.
struct NamedRecipe {
  std::string_view name;
  std::string_view meaning;  ///< half a line, for a list of them
};

/// What `recipe_named` knows, in the order of a list.
inline constexpr std::array named_recipes{
    NamedRecipe{"amax", "a power of two for each tensor, from its own maximum"},
    NamedRecipe{"delayed", "a factor for each tensor, from the maxima of the steps before"},
    NamedRecipe{"constant:BIAS", "every tensor times 2^BIAS"},
    NamedRecipe{"mxfp8", "E4M3 in blocks of 32, scales rounded down as OCP has them"},
    NamedRecipe{"mxfp8_round_up", "the same, scales rounded up so that nothing saturates"},
    NamedRecipe{"mxfp6", "E2M3 in blocks of 32"},
    NamedRecipe{"mxfp4", "E2M1 in blocks of 32"},
    NamedRecipe{"deepseek", "E4M3 in blocks of 128, weights in tiles of 128 x 128"},
    NamedRecipe{"nvfp4", "E2M1 in blocks of 16, gradients stochastically"},
    NamedRecipe{"coat", "a float for each tensor; what other ops save is in E4M3 too"},
};

/// "amax, delayed, constant:BIAS, …"
[[nodiscard]] inline std::string names_of_recipes() {
  std::string text;
  for (const NamedRecipe& each : named_recipes) {
    text.append(text.empty() ? "" : ", ").append(each.name);
  }
  return text;
}

/// A new recipe by its name in `named_recipes`, with a number in place of BIAS.
/// @param seed of random draws, if the recipe has any.
/// @throws std::invalid_argument for another name, or a bias beyond −127 to 127.
[[nodiscard]] inline std::shared_ptr<Recipe> recipe_named(std::string_view name,
                                                          std::uint64_t seed) {
  if (name == "amax") return std::make_shared<TensorScaling>();
  if (name == "delayed") return std::make_shared<DelayedScaling>();
  if (name == "mxfp8") return std::make_shared<BlockScaling>(BlockScaling::mxfp8());
  if (name == "mxfp8_round_up") {
    return std::make_shared<BlockScaling>(BlockScaling::mxfp8_round_up());
  }
  if (name == "mxfp6") {
    return std::make_shared<BlockScaling>(BlockScaling::mxfp6(Format::of<float6_e2m3fn>()));
  }
  if (name == "mxfp4") return std::make_shared<BlockScaling>(BlockScaling::mxfp4());
  if (name == "deepseek") return std::make_shared<BlockScaling>(BlockScaling::deepseek());
  if (name == "nvfp4") return std::make_shared<BlockScaling>(BlockScaling::nvfp4(seed));
  if (name == "coat") return std::make_shared<Coat>();
  constexpr std::string_view constant = "constant:";
  if (name.starts_with(constant)) {
    int bias = 0;
    const char* const end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + constant.size(), end, bias);
    // One spelling for each: a name stands in checkpoints.
    const bool is_number =
        error == std::errc{} && rest == end && name.substr(constant.size()) == std::to_string(bias);
    if (is_number && bias >= -127 && bias <= 127) {
      return std::make_shared<ConstantScaling>(ConstantScalingOptions{.bias = bias});
    }
  }
  throw std::invalid_argument("recipe " + in_quotes(name) + ": expected one of " +
                              names_of_recipes() + ", with a BIAS from -127 to 127");
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
