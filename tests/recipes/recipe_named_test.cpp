// SPDX-License-Identifier: MIT
#include "unit_scaling/recipes/recipe_named.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "support/errors.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/format.hpp"

namespace recipe_named_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

template <class R> const R& as(const std::shared_ptr<Recipe>& recipe) {
  return dynamic_cast<const R&>(*recipe);
}

TEST(RecipeNamed, MakesEachOfTheList) {
  for (const NamedRecipe& each : named_recipes) {
    const std::string name = each.name == "constant:BIAS" ? "constant:3" : std::string(each.name);
    EXPECT_NE(recipe_named(name, 1), nullptr) << name;
  }
  EXPECT_EQ(as<TensorScaling>(recipe_named("amax", 0)).options().scales, ScaleFormat::power_of_two);
  EXPECT_EQ(as<DelayedScaling>(recipe_named("delayed", 0)).options().history_length, 1024U);
  EXPECT_EQ(as<BlockScaling>(recipe_named("mxfp8", 0)).options(), BlockScaling::mxfp8().options());
  EXPECT_EQ(as<BlockScaling>(recipe_named("mxfp8_round_up", 0)).options().scale_rounding,
            ScaleRounding::round_up);
  EXPECT_EQ(as<BlockScaling>(recipe_named("mxfp6", 0)).options().operands.gradient.format,
            Format::of<float6_e2m3fn>());
  EXPECT_EQ(as<BlockScaling>(recipe_named("mxfp4", 0)).options(), BlockScaling::mxfp4().options());
  EXPECT_EQ(as<BlockScaling>(recipe_named("deepseek", 0)).options(),
            BlockScaling::deepseek().options());
  EXPECT_EQ(as<Coat>(recipe_named("coat", 0)).options().group, 16U);
}

TEST(RecipeNamed, GivesTheSeedToRandomDraws) {
  EXPECT_EQ(as<BlockScaling>(recipe_named("nvfp4", 7)).options(), BlockScaling::nvfp4(7).options());
}

TEST(RecipeNamed, ReadsABias) {
  for (const int bias : {-127, -3, 0, 127}) {
    EXPECT_EQ(
        as<ConstantScaling>(recipe_named("constant:" + std::to_string(bias), 0)).options().bias,
        bias);
  }
}

TEST(RecipeNamed, RefusesWhatIsNotInTheList) {
  for (const std::string_view name :
       {"", "AMAX", "amax ", "constant", "constant:", "constant:+3", "constant:128",
        "constant:-128", "constant:3x", "constant:03", "constant:-0", "constant:BIAS",
        "constant:99999999999999999999"}) {
    const std::string quoted = "recipe '" + std::string(name) + "'";
    expect_error<std::invalid_argument>(
        [&] { (void)recipe_named(name, 0); },
        {quoted, "expected one of amax, delayed, constant:BIAS", "-127 to 127"});
  }
}

}  // namespace recipe_named_test
