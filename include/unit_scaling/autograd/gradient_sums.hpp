// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: the gradients of a backward pass, added up.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/gradient_factor.hpp"
#include "unit_scaling/autograd/recipe_in_use.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/kernels/map.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// The gradient of each value of a step under policy P, as the sum of what the ops that used the
/// value have computed; and which products of batch-dependent factors it carries.
///
/// The gradient of a parameter is kept in parts, one for each product, until `add_up_parts`. That
/// of any other value is one sum, freed when it is taken.
template <Precision P> class GradientSums {
 public:
  using Storage = typename P::storage;
  using Compute = typename P::compute;

  /// @param memory where arrays live that no op has made.
  GradientSums(RecyclingResource& memory, RecipeInUse& recipe)
      : memory_(&memory), recipe_(&recipe) {}

  /// Forgets every gradient and every product.
  void clear();

  /// Begins a backward pass over so many values, numbered from 0.
  void begin(std::size_t values);

  /// The gradient that the pass begins with.
  template <class T> void add_loss(std::size_t value, Array<T> seed) {
    sums_[value].is_reached = true;
    array_of<T>(sums_[value]) = std::move(seed);
  }

  /// Adds what an op computed for a value.
  /// @param factor what the gradient took on its way through the op.
  /// @param site where a recipe rounds it, and the sum.
  void add(std::size_t value, Array<Storage>&& gradient, const GradientFactor& factor,
           const WriteSite& site);

  /// The gradient of a value of this shape that an op made, no longer kept here. Zeros if none has
  /// reached it: an output that nothing used, beside one that something did.
  template <class T> [[nodiscard]] Array<T> take(std::size_t value, const Shape& shape) {
    Sum& sum = sums_[value];
    if constexpr (is_loss<T>) {
      // A loss that went on into another op: that op's gradient is in P::storage like any other.
      if (!sum.gradient.empty()) {
        accumulate(sum.loss_gradient, kernels::convert<Compute, Overflow::infinity_or_nan>(
                                          std::exchange(sum.gradient, {}), memory_));
      }
    }
    Array<T> gradient = std::exchange(array_of<T>(sum), {});
    if (gradient.empty()) return Array<T>::filled(shape, T{}, memory_);
    return gradient;
  }

  /// Which products the gradients of `count` values from number `first` on carry, joined, if any
  /// of them is reached by one.
  [[nodiscard]] std::optional<std::size_t> factor_of(std::size_t first, std::size_t count);

  /// The gradient of a parameter, from its parts: once, when no more come.
  void add_up_parts(std::size_t value);

  /// The gradient of a parameter after `add_up_parts`, or of an input. Of an op's output it is the
  /// sum so far, and empty once it was taken.
  [[nodiscard]] const Array<Storage>& of(std::size_t value) const& {
    static const Array<Storage> none;
    return value < sums_.size() ? sums_[value].gradient : none;
  }
  const Array<Storage>& of(std::size_t value) const&& = delete;

  /// Whose numbers the gradient of a value of type T has: what a recipe has rounded it to, else T.
  template <class T> [[nodiscard]] Format held(std::size_t value) const {
    const auto format = value < sums_.size() ? sums_[value].format : std::nullopt;
    return format.value_or(Format::of<T>());
  }

  /// The products that gradients carry; none before `begin`.
  [[nodiscard]] std::span<const GradientFactor> factors() const& { return factors_.all(); }
  std::span<const GradientFactor> factors() const&& = delete;

  /// Calls `visit(factor, gradient)` for each part of a parameter's gradient.
  template <class Visit> void for_each_part(std::size_t value, const Visit& visit) const {
    if (value >= sums_.size()) return;
    for (std::size_t k = sums_[value].first_part; k != no_part; k = parts_[k].next) {
      visit(parts_[k].factor, parts_[k].gradient);
    }
  }

 private:
  static constexpr std::size_t no_part = static_cast<std::size_t>(-1);

  /// The gradient of one value.
  struct Sum {
    bool is_reached = false;  ///< by a gradient, which has no elements where the value has none
    std::size_t factor = 0;   ///< a number of `factors_`
    std::size_t first_part = no_part;  ///< of a parameter's gradient, a number of `parts_`
    std::size_t last_part = no_part;
    Array<Storage> gradient = {};
    /// The gradient of a loss, which is one number of P::compute and no less precise than that.
    Array<Compute> loss_gradient = {};
    std::optional<Format> format = {};
  };

  /// The sum of those gradients of a parameter that carry the same product of factors.
  struct Part {
    std::size_t factor;  ///< a number of `factors_`
    std::size_t next;    ///< part of the same parameter
    Array<Storage> gradient = {};
    WriteSite site = {};  ///< of a sum with it
  };

  /// True for the element type of a loss, whose gradient is kept in full.
  template <class T>
  static constexpr bool is_loss = std::is_same_v<T, Compute> && !std::is_same_v<T, Storage>;

  template <class T> static Array<T>& array_of(Sum& sum) {
    if constexpr (is_loss<T>) {
      return sum.loss_gradient;
    } else {
      return sum.gradient;
    }
  }

  template <class T> static void accumulate(Array<T>& sum, Array<T> gradient) {
    if (sum.empty()) {
      sum = std::move(gradient);
    } else {
      kernels::map_into<Compute>(
          sum.mutable_data(), sum.size(), [](auto a, auto b) { return a + b; }, sum.data(),
          gradient.data());
    }
  }

  /// The part of a parameter's gradient that a gradient with this factor belongs to.
  Part& part_of(std::size_t value, const GradientFactor& factor);

  /// Adds a gradient, rounded if a recipe says so; and so is the sum.
  /// @returns the format that it is in then, if so.
  std::optional<Format> add_to(Array<Storage>& sum, Array<Storage>&& gradient,
                               const WriteSite& site);

  RecyclingResource* memory_;
  std::vector<Sum> sums_;
  std::vector<Part> parts_;  ///< of the gradients of parameters
  GradientFactors factors_;
  RecipeInUse* recipe_;
};

// Apart from the class, so that it is not inline: compiled once for each policy, and not at all in
// a program that has it compiled elsewhere.

template <Precision P> void GradientSums<P>::clear() {
  sums_.clear();
  parts_.clear();
  factors_.clear();
}

template <Precision P> void GradientSums<P>::begin(std::size_t values) {
  sums_.resize(values);
  factors_.begin();
}

template <Precision P>
void GradientSums<P>::add(std::size_t value, Array<Storage>&& gradient,
                          const GradientFactor& factor, const WriteSite& site) {
  Sum& sum = sums_[value];
  const bool is_first = !std::exchange(sum.is_reached, true);
  if (factor.parameter == nullptr) {
    const std::size_t product =
        factor.count.depends_on_batch() ? factors_.number_of(factor) : factor.of;
    sum.factor = is_first ? product : factors_.joined(sum.factor, product);
    sum.format = add_to(sum.gradient, std::move(gradient), site);
    return;
  }
  Part& part = part_of(value, factor);
  part.site = site;
  sum.format = add_to(part.gradient, std::move(gradient), site);
}

template <Precision P>
std::optional<std::size_t> GradientSums<P>::factor_of(std::size_t first, std::size_t count) {
  std::optional<std::size_t> factor;
  for (std::size_t value = first; value < first + count; ++value) {
    const Sum& sum = sums_[value];
    if (sum.is_reached) factor = factor ? factors_.joined(*factor, sum.factor) : sum.factor;
  }
  return factor;
}

template <Precision P>
typename GradientSums<P>::Part& GradientSums<P>::part_of(std::size_t value,
                                                         const GradientFactor& factor) {
  Sum& sum = sums_[value];
  std::size_t product = factor.of;
  if (factor.count.depends_on_batch()) {
    const std::size_t last = sum.last_part == no_part ? 0 : parts_[sum.last_part].factor;
    product = factors_.number_of(factor, last);
  }
  for (std::size_t k = sum.first_part; k != no_part; k = parts_[k].next) {
    if (parts_[k].factor == product) return parts_[k];
  }
  (sum.last_part == no_part ? sum.first_part : parts_[sum.last_part].next) = parts_.size();
  sum.last_part = parts_.size();
  return parts_.emplace_back(Part{.factor = product, .next = no_part});
}

template <Precision P> void GradientSums<P>::add_up_parts(std::size_t value) {
  Sum& sum = sums_[value];
  for (std::size_t k = sum.first_part; k != no_part; k = parts_[k].next) {
    const bool is_sum = !sum.gradient.empty();
    accumulate(sum.gradient, parts_[k].gradient);
    if (is_sum) recipe_->write<P>(parts_[k].site, sum.gradient);
  }
}

template <Precision P>
std::optional<Format> GradientSums<P>::add_to(Array<Storage>& sum, Array<Storage>&& gradient,
                                              const WriteSite& site) {
  const bool is_sum = !sum.empty();
  const std::optional<Format> format = recipe_->write<P>(site, gradient);
  accumulate(sum, std::move(gradient));
  return is_sum ? recipe_->write<P>(site, sum) : format;
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
