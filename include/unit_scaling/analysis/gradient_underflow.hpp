// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: which gradients a precision loses, against float on the same step.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/observation.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// Shares of the gradient elements of one step, over the gradient of every op's output as the op
/// consumes it (rounded to P::matmul_gradient, or as a recipe has it, where it does) and of every
/// parameter.
struct GradientUnderflow {
  double underflowed = 0;  ///< zero here, though not in float
  double non_finite = 0;   ///< NaN or infinite here
};

namespace detail {

/// Counts what became of the gradients of a step, one after another.
class GradientCounts {
 public:
  /// @param nonzero for each gradient of the step in float, which elements are not zero.
  explicit GradientCounts(const std::vector<std::vector<bool>>& nonzero) : nonzero_(nonzero) {}

  /// The next gradient: its elements as the op consumes them.
  /// @throws std::invalid_argument if the step in float has none of that size there.
  void add(std::string_view name, std::span<const float> elements) {
    if (next_ == nonzero_.size() || nonzero_[next_].size() != elements.size()) {
      throw std::invalid_argument(
          "gradient_underflow: expected the same step under both precisions, got another gradient "
          "of " +
          std::string(name));
    }
    const std::vector<bool>& nonzero = nonzero_[next_++];
    for (std::size_t i = 0; i < nonzero.size(); ++i) {
      if (!std::isfinite(elements[i])) ++non_finite_;
      if (nonzero[i] && elements[i] == 0) ++lost_;
    }
    total_ += nonzero.size();
  }

  [[nodiscard]] GradientUnderflow shares() const {
    const auto share = [&](std::size_t count) {
      return total_ == 0 ? 0 : static_cast<double>(count) / static_cast<double>(total_);
    };
    return {share(lost_), share(non_finite_)};
  }

 private:
  const std::vector<std::vector<bool>>& nonzero_;
  std::size_t next_ = 0;
  std::size_t total_ = 0;
  std::size_t lost_ = 0;
  std::size_t non_finite_ = 0;
};

}  // namespace detail

/// Runs one step in float and one under P and compares their gradients element by element.
///
/// Unlike Tracker, which tells what each rounding loses of what is there, it tells what is gone
/// altogether: a gradient that underflowed on the way makes all zero that follows from it.
/// @param record `record(tape)` records the step on a tape of any precision, with the same
///        parameters and the same batch, and returns the loss.
/// @param loss_scale gradient of the loss, in both.
/// @param recipe of the step under P, and of that only; null: none. A step is begun for it, so
///        stochastic rounding draws as in the first step of a tape, and its state goes on.
/// @throws std::invalid_argument if the two steps have other gradients, or as `use_recipe` and
///         `backward` of a tape if the recipe fits neither the model nor P.
template <Precision P, class Record>
[[nodiscard]] GradientUnderflow gradient_underflow(const Record& record, float loss_scale = 1,
                                                   std::shared_ptr<RecipeOfTape> recipe = nullptr) {
  std::vector<std::vector<bool>> nonzero;
  {
    Tape<precision::fp32> float_tape;
    float_tape.observe_with([&](const Observation& seen) {
      if (is_forward(seen.role)) return;
      std::vector<bool>& elements = nonzero.emplace_back(seen.elements.size());
      for (std::size_t i = 0; i < elements.size(); ++i) elements[i] = seen.elements[i] != 0;
    });
    float_tape.backward(record(float_tape), loss_scale);
  }  // its memory is not held while the other takes its own

  using Gradient = typename P::matmul_gradient;
  detail::GradientCounts counts(nonzero);
  Tape<P> tape;
  tape.use_recipe(std::move(recipe));
  std::vector<float> rounded;
  tape.observe_with([&](const Observation& seen) {
    if (is_forward(seen.role)) return;
    if (!seen.rounded.empty()) return counts.add(seen.name, seen.rounded);
    // An op whose gradient is in its format already takes it as it is, infinities included.
    if (std::is_same_v<Gradient, typename P::storage> || seen.format != storage_name<Gradient>) {
      return counts.add(seen.name, seen.elements);
    }
    rounded.resize(seen.elements.size());
    Format::of<Gradient>().quantise(seen.elements, rounded, {.overflow = Overflow::saturate});
    counts.add(seen.name, rounded);
  });
  tape.backward(record(tape), loss_scale);
  return counts.shares();
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
