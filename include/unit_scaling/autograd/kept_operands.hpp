// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: operands of products that a tape keeps, so that each is rounded once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <unordered_map>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// The operands of parameters, each for as long as its elements stay as they are, and the operand
/// of the last other value, which the next op may read as well.
///
/// A parameter's is kept from step to step: for all micro-batches of a step, for each use, and for
/// inference. One that a step has not used is freed.
class KeptOperands {
 public:
  /// An argument of an op.
  struct Argument {
    const Parameter* parameter = nullptr;  ///< whose value it is; null: of none
    std::uint64_t version = 0;             ///< of the elements; 0: of someone else, not kept
    std::size_t value = 0;                 ///< its number in the step
    const void* elements = nullptr;
    Shape shape = {};
  };

  /// @return null if none is kept.
  [[nodiscard]] const kernels::Operand* find(const Argument& argument) {
    if (argument.version == 0) return nullptr;
    if (argument.parameter == nullptr) {
      return last_.version == argument.version && last_value_ == argument.value ? &last_.operand
                                                                                : nullptr;
    }
    const auto entry = of_parameters_.find(argument.parameter);
    if (entry == of_parameters_.end()) return nullptr;
    Kept& kept = entry->second;
    // The same elements may have been given another shape.
    if (kept.version != argument.version || kept.operand.shape() != argument.shape) {
      kept = {};  // first, so that the next one can have its memory
      return nullptr;
    }
    kept.is_used = true;
    return &kept.operand;
  }

  void keep(const Argument& argument, const kernels::Operand& operand) {
    if (argument.version == 0) return;
    if (argument.parameter == nullptr) {
      last_ = {argument.version, operand};
      last_value_ = argument.value;
    } else {
      of_parameters_[argument.parameter] = {argument.version, operand};
    }
  }

  /// Frees the operand of the last value, and those of parameters that were not used since this was
  /// called before.
  void end_step() {
    last_ = {};
    for (auto entry = of_parameters_.begin(); entry != of_parameters_.end();) {
      if (entry->second.is_used) {
        entry->second.is_used = false;
        ++entry;
      } else {
        entry = of_parameters_.erase(entry);
      }
    }
  }

 private:
  struct Kept {
    std::uint64_t version = 0;  ///< 0: of no elements
    kernels::Operand operand = {};
    bool is_used = true;
  };

  std::unordered_map<const Parameter*, Kept> of_parameters_;
  Kept last_;
  std::size_t last_value_ = 0;
};

/// The operands of one op's arguments among those that are kept.
class KeptOperandsOfOp final : public ops::OperandKeeper {
 public:
  /// @param memory of the tape.
  KeptOperandsOfOp(KeptOperands& kept, std::span<const KeptOperands::Argument> arguments,
                   std::pmr::memory_resource* memory)
      : kept_(&kept), arguments_(arguments), memory_(memory) {}

  [[nodiscard]] std::pmr::memory_resource* memory() const override { return memory_; }

  [[nodiscard]] const kernels::Operand* find(std::size_t argument,
                                             const void* elements) const override {
    return is_argument(argument, elements) ? kept_->find(arguments_[argument]) : nullptr;
  }
  void keep(std::size_t argument, const void* elements, const kernels::Operand& operand) override {
    if (is_argument(argument, elements)) kept_->keep(arguments_[argument], operand);
  }

 private:
  /// Whether these are the elements of that argument, not of what an op has made of it.
  [[nodiscard]] bool is_argument(std::size_t argument, const void* elements) const {
    return argument < arguments_.size() && arguments_[argument].elements == elements;
  }

  KeptOperands* kept_;
  std::span<const KeptOperands::Argument> arguments_;
  std::pmr::memory_resource* memory_;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
