// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: the recipe that a tape uses, or none.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Asks a recipe, and numbers the arrays of a step that it asks about.
class RecipeInUse {
 public:
  /// Uses this recipe, which begins a step now; null: none.
  /// @param in_double whether products are computed in double.
  void use(std::shared_ptr<RecipeOfTape> recipe, bool in_double, std::uint64_t step) {
    recipe_ = std::move(recipe);
    in_double_ = in_double;
    begin_step(step);
  }

  explicit operator bool() const { return recipe_ != nullptr; }
  RecipeOfTape* operator->() const { return recipe_.get(); }

  void begin_step(std::uint64_t step) {
    step_ = step;
    next_tensor_ = 0;
    if (recipe_) recipe_->begin_step();
  }
  void set_step(std::uint64_t step) { step_ = step; }

  /// Gives a number to an array that the recipe is, or would be, asked about.
  void count(RecipeSite& site) {
    site.step = step_;
    site.tensor = next_tensor_++;
  }

  /// The operand as the recipe has it.
  /// @throws ShapeError if that has another shape; std::invalid_argument if one of its scales in
  ///         binary32 is neither finite and above 0 nor NaN.
  [[nodiscard]] std::optional<std::pair<kernels::Operand, bool>> make(OperandSite site,
                                                                      const EncodedArray& array) {
    count(site);
    auto forms = recipe_->operand(site, array);
    if (!forms) return {};
    require_same_shape("Recipe::operand", "the operand and its array", forms->array.shape(),
                       array.shape());
    if (forms->over_rows) {
      require_same_shape("Recipe::operand", "the second form and its array",
                         forms->over_rows->shape(), array.shape());
    }
    require_scales(site, forms->array);
    if (forms->over_rows) require_scales(site, *forms->over_rows);
    const bool is_lasting = forms->is_lasting;
    return std::pair{recipe_->make_operand(std::move(*forms), in_double_), is_lasting};
  }

  /// What is saved in place of an array; none: the array itself.
  /// @throws ShapeError if that has another shape.
  [[nodiscard]] std::optional<EncodedArray> save(SavedSite site, const EncodedArray& array) {
    site.step = step_;
    std::optional<EncodedArray> saved = recipe_->saved(site, array);
    if (saved) {
      require_same_shape("Recipe::saved", "what is saved and its array", saved->shape(),
                         array.shape());
    }
    return saved;
  }

  /// The numbers of an array, rounded to T, without an array of floats on the way.
  template <class T>
  [[nodiscard]] Array<T> decode(const EncodedArray& array,
                                std::pmr::memory_resource* memory) const {
    Array<T> result(array.shape(), memory);
    T* const to = result.mutable_data();
    if constexpr (std::is_same_v<T, float>) {
      recipe_->decode(array, 0, {to, array.size()});
    } else {
      parallel_ranges(array.size(), kernels::map_grain, [&](std::size_t begin, std::size_t end) {
        constexpr std::size_t chunk = 1024;
        float numbers[chunk];
        for (std::size_t first = begin; first < end; first += chunk) {
          const std::size_t count = std::min(chunk, end - first);
          recipe_->decode(array, first, {numbers, count});
          kernels::for_lanes<float>(count, [&](std::size_t i, auto some) {
            kernels::store<Overflow::infinity_or_nan, float>(
                kernels::load<float>(numbers + i, some), to + first + i, some);
          });
        }
      });
    }
    return result;
  }

  /// Whether what is written under policy P has been rounded to nothing before.
  template <Precision P>
  static constexpr bool can_write = std::conjunction_v<std::is_same<typename P::storage, float>,
                                                       std::is_same<typename P::compute, float>>;

  /// Rounds what an op writes under policy P, if the recipe says so.
  /// @returns the format that it has then; none: it was left as it is.
  /// @throws std::invalid_argument if rounding it has not the bits of a policy that stores that
  ///         format.
  template <Precision P>
  std::optional<Format> write(WriteSite site, Array<typename P::storage>& numbers) {
    if (!recipe_) return {};
    count(site);
    const std::optional<Format> format = recipe_->written(site);
    if (!format) return {};
    if (site.rounds_within) {
      refuse(site, "no format for what it writes, as it rounds numbers within, which no tape sees");
    }
    if constexpr (can_write<P>) {
      recipe_->write(site, *format, numbers.mutable_span());
    } else {
      refuse(site, "a policy that stores float, as what an op writes is rounded to " +
                       std::string(storage_name<typename P::storage>) + " of policy " +
                       std::string(P::name) + " before");
    }
    return format;
  }

  [[noreturn]] static void refuse(const RecipeSite& site, const std::string& expected) {
    throw std::invalid_argument("recipe: " + std::string(site.op) +
                                (site.module.empty() ? "" : " in " + std::string(site.module)) +
                                ": expected " + expected);
  }

 private:
  /// A scale of 0 would show later, as NaN among the gradients.
  static void require_scales(const RecipeSite& site, const EncodedArray& array) {
    if (array.scale_layout().format != ScaleFormat::binary32) return;
    for (std::size_t i = 0; i < array.scale_count(); ++i) {
      const float scale = array.scale(i);
      if (std::isnan(scale) || (scale > 0 && std::isfinite(scale))) continue;
      refuse(site, "scales above 0 for argument " + std::to_string(site.argument) + ", got " +
                       std::to_string(scale));
    }
  }

  std::shared_ptr<RecipeOfTape> recipe_;
  bool in_double_ = false;
  std::uint64_t step_ = 0;
  std::uint32_t next_tensor_ = 0;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
