// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: the operands of a tape's products, each rounded once, as its recipe says.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/kept_operands.hpp"
#include "unit_scaling/autograd/recipe_in_use.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Where the ops of a tape get their operands from: what is kept, else the tape's recipe, if it has
/// one, else the policy. One op at a time.
class TapeOperands final : public ops::OperandSource {
 public:
  enum class Pass { forward, backward };

  /// @param memory of the tape.
  /// @param is_saved whether the tape keeps what ops save for their backward passes.
  TapeOperands(RecipeInUse& recipe, std::pmr::memory_resource& memory, bool is_saved)
      : recipe_(&recipe), memory_(&memory), is_saved_(is_saved) {}

  /// Begins a pass of an op, whose arguments follow.
  [[gnu::noinline]] void begin(Pass pass, std::string_view module, std::string_view op) {
    pass_ = pass;
    module_ = module;
    op_ = op;
    arguments_.clear();
  }
  /// An argument of the op or, in its backward pass, the gradient of an output.
  [[gnu::noinline]] OperandArgument& add(const void* elements, const Format& held) {
    OperandArgument& argument = arguments_.emplace_back();
    argument.elements = elements;
    argument.held = held;
    return argument;
  }

  /// Those that have become operands tell so.
  [[nodiscard]] const OperandArgument& argument(std::size_t index) const& {
    return arguments_[index];
  }
  const OperandArgument& argument(std::size_t index) const&& = delete;

  /// The operand of a constant, for the next op.
  [[gnu::noinline]] void add_constant(std::size_t value, ContentVersion content,
                                      const kernels::Operand& operand) {
    OperandArgument& constant = constants_.emplace_back();
    constant.value = value;
    constant.version = content;
    constant.operand = operand;
  }

  /// Frees what the last op had.
  [[gnu::noinline]] void end() {
    arguments_.clear();
    constants_.clear();
  }

  /// Also what is not kept for the next step.
  void end_step() {
    end();
    kept_.end_step();
  }
  /// Frees all.
  void clear() {
    end();
    kept_ = {};
  }

  [[nodiscard]] bool has_recipe() const override { return static_cast<bool>(*recipe_); }
  [[nodiscard]] bool is_saved() const override { return is_saved_; }

  [[nodiscard, gnu::noinline]] kernels::Operand operand(const ops::OperandUse& use,
                                                        const ops::OperandArray& array) override {
    OperandArgument* const argument = argument_of(use, array.elements);
    if (argument != nullptr && find(*argument, use)) return *argument->operand;
    bool is_lasting = true;
    kernels::Operand result =
        *recipe_ ? make(use, array, argument, is_lasting) : array.make(array.array, memory_);
    if (argument == nullptr) return result;
    argument->operand = result;
    if (pass_ == Pass::forward && is_lasting) kept_.keep(*argument, site_of(use), result);
    return result;
  }

 private:
  /// Null unless these are the elements of that argument, not of what an op has made of it.
  [[nodiscard]] OperandArgument* argument_of(const ops::OperandUse& use, const void* elements) {
    const bool is_gradient = use.role == ops::OperandRole::gradient;
    if (is_gradient != (pass_ == Pass::backward) || use.argument >= arguments_.size()) {
      return nullptr;
    }
    OperandArgument& argument = arguments_[use.argument];
    return argument.elements == elements ? &argument : nullptr;
  }

  [[nodiscard]] KeptOperands::Site site_of(const ops::OperandUse& use) const {
    if (!*recipe_) return {};
    return {.module = module_, .op = op_, .argument = use.argument};
  }

  /// Whether the argument has its operand, which may be one that is kept.
  [[nodiscard]] bool find(OperandArgument& argument, const ops::OperandUse& use) {
    if (argument.operand) return true;
    // Under a recipe, ops that read one value ask for operands of their own.
    if (pass_ == Pass::backward || (*recipe_ && argument.parameter == nullptr)) return false;
    for (const OperandArgument& constant : constants_) {
      if (constant.value == argument.value && constant.version == argument.version) {
        argument.operand = constant.operand;
        return true;
      }
    }
    const kernels::Operand* const kept = kept_.find(argument, site_of(use));
    if (kept == nullptr) return false;
    argument.operand = *kept;
    // As if it was made anew, so that draws do not depend on what is kept.
    RecipeSite site;
    if (*recipe_) recipe_->count(site);
    return true;
  }

  /// As the recipe has it, or else the policy.
  [[nodiscard]] kernels::Operand make(const ops::OperandUse& use, const ops::OperandArray& array,
                                      const OperandArgument* argument, bool& is_lasting) {
    const EncodedArray view = array.view(array.array);
    auto made = recipe_->make({{.module = module_, .op = op_, .argument = use.argument},
                               use.role,
                               argument != nullptr ? argument->held : view.format(),
                               memory_,
                               made_before(argument)},
                              view);
    if (!made) {
      // Not to be offered to the recipe as its own.
      is_lasting = argument != nullptr && argument->parameter != nullptr;
      return array.make(array.array, memory_);
    }
    is_lasting = made->second;
    return std::move(made->first);
  }

  /// What the recipe may give again.
  [[nodiscard]] const kernels::Operand* made_before(const OperandArgument* argument) {
    const bool may_be_kept =
        argument != nullptr && argument->parameter == nullptr && pass_ == Pass::forward;
    return may_be_kept ? kept_.find(*argument, {}) : nullptr;
  }

  RecipeInUse* recipe_;
  std::pmr::memory_resource* memory_;
  bool is_saved_;
  KeptOperands kept_;
  Pass pass_ = Pass::forward;
  std::string_view module_;
  std::string_view op_;
  std::vector<OperandArgument> arguments_;  ///< its memory is used again
  std::vector<OperandArgument> constants_;  ///< those that came with their operands
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
