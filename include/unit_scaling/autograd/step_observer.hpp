// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: shows the tensors of whole steps to whoever observes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory_resource>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/gradient_sums.hpp"
#include "unit_scaling/autograd/observation.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/recipe_in_use.hpp"
#include "unit_scaling/autograd/tape_operands.hpp"
#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// How an observer names an op.
struct ObservedOp {
  std::string_view name;
  std::string_view module;
  std::size_t index = 0;  ///< the op's number on the tape
};

/// Shows tensors of a step under policy P to an observer, decoded, if the step is to be observed,
/// and keeps the names of parameters, which the backward pass needs.
template <Precision P> class StepObserver {
 public:
  using Observer = std::function<void(const Observation&)>;

  /// @param recipe of the tape, and `memory` of it: for what products read.
  StepObserver(const RecipeInUse& recipe, std::pmr::memory_resource& memory)
      : recipe_(&recipe), memory_(&memory) {}

  /// Shows what follows to `observer`, or to nobody (`nullptr`), in steps that `every` divides.
  /// @throws std::invalid_argument if `every` is 0.
  void use(Observer observer, std::uint64_t every, std::uint64_t step);

  /// Says which step it is, which decides whether it is observed.
  void choose(std::uint64_t step) { is_observing_ = observer_ && step % every_ == 0; }

  /// Forgets what it has kept of the step.
  void clear() { parameters_.clear(); }

  /// Whether this step is observed. What follows is to be called only then.
  explicit operator bool() const { return is_observing_; }

  /// Shows what an op has computed.
  /// @param formats one for each output: what a recipe has rounded it to, if it has.
  template <class... T>
  [[gnu::cold]] void show_outputs(const ObservedOp& op,
                                  std::span<const std::optional<Format>> formats,
                                  const Array<T>&... outputs) const {
    Observation seen = observation(op, TensorRole::value);
    ((show(seen, formats[seen.argument].value_or(Format::of<T>()), {}, outputs), ++seen.argument),
     ...);
  }

  /// Shows what entered matrix products, as it was before it was rounded there.
  /// @param operands has the operands of the op, of which `args` are the arguments.
  template <class... Args>
  [[gnu::cold]] void show_operands(const ObservedOp& op, const TapeOperands& operands,
                                   const Args&... args) const {
    Observation seen = observation(op, TensorRole::operand);
    const auto show_one = [&]<class Arg>(const Arg& arg) {
      if constexpr (is_variable<Arg>) {
        const auto& operand = operands.argument(seen.argument).operand;
        if (operand) show(seen, {}, operand, arg.value());
        ++seen.argument;
      }
    };
    (show_one(args), ...);
  }

  /// Shows the gradients of an op's outputs as they entered it.
  /// @param operands has them as operands, for an op with products; null for others.
  /// @param sums knows the gradients, of which the first is that of value `first_output`.
  template <class... T>
  [[gnu::cold]] void show_gradients(const ObservedOp& op, const TapeOperands* operands,
                                    const GradientSums<P>& sums, std::size_t first_output,
                                    const Array<T>&... gradients) const {
    Observation seen = observation(op, TensorRole::gradient);
    const auto operand_of = [&](std::size_t k) {
      return operands != nullptr ? operands->argument(k).operand : std::nullopt;
    };
    ((show(seen, sums.template held<T>(first_output + seen.argument), operand_of(seen.argument),
           gradients),
      ++seen.argument),
     ...);
  }

  /// Shows a parameter, number `index` of the step, that is used for the first time in it.
  /// @param value its number among the values of the step.
  void show_parameter(const Parameter& parameter, std::size_t index, std::size_t value);

  /// Shows the gradient of each parameter shown, by the name noted: it may have been moved since.
  void show_parameter_gradients(const GradientSums<P>& sums) const;

 private:
  /// What is noted of a parameter of this step.
  struct ShownParameter {
    std::string name;
    std::size_t index;
    std::size_t value;
  };

  [[nodiscard]] static Observation observation(const ObservedOp& op, TensorRole role) {
    return {.name = op.name, .module = op.module, .index = op.index, .role = role};
  }

  /// Completes `seen` with the array and shows it.
  /// @param held the format that the array has.
  /// @param operand what it has become, if it is one: its format is told then.
  template <class T>
  void show(Observation seen, const Format& held, const std::optional<kernels::Operand>& operand,
            const Array<T>& array) const {
    const std::string format = to_string(operand ? operand->array.format() : held);
    seen.format = format;
    Array<float> rounded;
    if (*recipe_ && operand) {
      rounded = recipe_->template decode<float>(operand->array, memory_);
      seen.rounded = rounded.span();
    }
    const auto elements = kernels::convert<float, Overflow::infinity_or_nan>(array);
    seen.shape = array.shape();
    seen.elements = elements.span();
    observer_(seen);
  }

  const RecipeInUse* recipe_;
  std::pmr::memory_resource* memory_;
  Observer observer_;
  std::uint64_t every_ = 1;
  bool is_observing_ = false;
  std::vector<ShownParameter> parameters_;  ///< of this step, in the order of their use
};

// Apart from the class, so that it is not inline: compiled once for each policy, and not at all in
// a program that has it compiled elsewhere.

template <Precision P>
void StepObserver<P>::use(Observer observer, std::uint64_t every, std::uint64_t step) {
  if (every == 0) throw std::invalid_argument("observe_with: expected every to be at least 1");
  observer_ = std::move(observer);
  every_ = every;
  choose(step);
}

template <Precision P>
void StepObserver<P>::show_parameter(const Parameter& parameter, std::size_t index,
                                     std::size_t value) {
  parameters_.push_back({parameter.name, index, value});
  show({.name = parameter.name, .index = index, .role = TensorRole::parameter}, Format::of<float>(),
       {}, parameter.floats(memory_));
}

template <Precision P>
void StepObserver<P>::show_parameter_gradients(const GradientSums<P>& sums) const {
  for (const ShownParameter& parameter : parameters_) {
    show({.name = parameter.name, .index = parameter.index, .role = TensorRole::parameter_gradient},
         sums.template held<typename P::storage>(parameter.value), {}, sums.of(parameter.value));
  }
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
