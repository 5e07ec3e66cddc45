// SPDX-License-Identifier: MIT
/// @file
/// Layer recipes: activations that wait for the backward pass in FP8, as COAT has them.
///
/// It compiles the products of all formats, so it is not in the umbrella header.
/// @see Xi et al. 2024, arXiv:2410.19313. Its optimiser states are in
/// optim/encoded_state_format.hpp.
// unit_scaling: optional
#pragma once

#include <cstddef>
#include <optional>

#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/formats/tile_maxima_encoding.hpp"
#include "unit_scaling/recipes/tensor_scaling.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

struct CoatOptions {
  /// Of the operands of matrix products, which linear layers save too.
  TensorScalingOptions products = {.scales = ScaleFormat::binary32};
  /// Of what other ops save.
  Format saved = Format::of<float8_e4m3fn>();
  /// How many elements of a row of that share a scale.
  std::size_t group = 16;
  /// How these scales are stored. COAT's code has them in BF16, at 2 bytes each; binary32 takes 4.
  ScaleFormat scales = ScaleFormat::binary32;
};

/// Keeps activations for the backward pass in FP8. A linear layer saves the operands of its
/// products, which have one scale for each tensor. Other ops, such as a norm or an activation
/// function, save their input in groups of 16 that share a scale. What an op computes forward is
/// not rounded by this; its backward pass reads what was saved.
///
/// The scale of a group is its largest magnitude divided by the largest number of the format
/// (`encode_by_tile_maxima`). COAT's code adds 1e-10 to that magnitude first.
///
///     tape.use_recipe(Coat());
///
/// @see Xi et al. 2024, arXiv:2410.19313, section 5.
class Coat final : public Recipe {
 public:
  /// @throws DomainError as `TensorScaling` does, for a format that `require_tile_format` refuses,
  ///         for groups of no elements, and for no scales.
  explicit Coat(const CoatOptions& options = {}) : products_(options.products), options_(options) {
    require_tile_format("Coat", options_.saved);
    require_size("Coat", "a group", options_.group);
    require(options_.scales != ScaleFormat::none, "Coat", "expected a format of scales");
  }

  [[nodiscard]] const CoatOptions& options() const& { return options_; }
  [[nodiscard]] CoatOptions options() const&& { return options_; }

  [[nodiscard]] std::optional<OperandForms> operand(const OperandSite& site,
                                                    const EncodedArray& array) override {
    return products_.operand(site, array);
  }

  [[nodiscard]] std::optional<EncodedArray> saved(const SavedSite& site,
                                                  const EncodedArray& array) override {
    return encode_by_tile_maxima(array, options_.saved,
                                 ScaleLayout::per_block_of_columns(options_.scales, options_.group),
                                 ScaleRounding::round_up, {}, site.memory);
  }

 private:
  TensorScaling products_;
  CoatOptions options_;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
