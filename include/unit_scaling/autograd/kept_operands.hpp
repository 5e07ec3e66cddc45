// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: the operands of a tape's products that are used again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// An array that may be an operand: an argument of an op or, in its backward pass, the gradient of
/// an output.
struct OperandArgument {
  const Parameter* parameter = nullptr;  ///< whose value it is; null: of none
  ContentVersion version = {};           ///< without elements: of someone else, not kept
  std::size_t value = 0;                 ///< its number in the step
  const void* elements = nullptr;
  Shape shape = {};
  Format held = {};                              ///< as `OperandSite::held`
  std::optional<kernels::Operand> operand = {};  ///< what the op has got of it
};

/// The operands of parameters, each for as long as its elements stay as they are, and the operand
/// of the last other value, which the next op may read as well.
///
/// A parameter's is kept from step to step: for all micro-batches of a step, for each use, and for
/// inference. One that a step has not used is freed. Under a recipe each site has its own.
class KeptOperands {
 public:
  /// Where the operand of a parameter is for; one for all sites has no name.
  struct Site {
    std::string_view module = {};  ///< the same memory each time
    std::string_view op = {};
    std::size_t argument = 0;
    friend bool operator==(const Site&, const Site&) = default;
  };

  /// @return null if none is kept.
  [[nodiscard]] const kernels::Operand* find(const OperandArgument& argument, const Site& site) {
    if (argument.version.elements == 0) return nullptr;
    if (argument.parameter == nullptr) {
      return last_.version == argument.version && last_value_ == argument.value ? &last_.operand
                                                                                : nullptr;
    }
    const auto entry = of_parameters_.find({argument.parameter, site});
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

  void keep(const OperandArgument& argument, const Site& site, const kernels::Operand& operand) {
    if (argument.version.elements == 0) return;
    // The elements themselves are left to their owner, who could not write to them otherwise.
    if (static_cast<const void*>(operand.array.codes().data()) == argument.elements) return;
    if (argument.parameter == nullptr) {
      last_ = {argument.version, operand};
      last_value_ = argument.value;
    } else {
      of_parameters_[{argument.parameter, site}] = {argument.version, operand};
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
  struct Key {
    const Parameter* parameter;
    Site site;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const {
      const std::hash<const void*> hash;
      return hash(key.parameter) + 31 * hash(key.site.module.data()) + key.site.argument;
    }
  };
  struct Kept {
    ContentVersion version = {};
    kernels::Operand operand = {};
    bool is_used = true;
  };

  std::unordered_map<Key, Kept, Hash> of_parameters_;
  Kept last_;
  std::size_t last_value_ = 0;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
