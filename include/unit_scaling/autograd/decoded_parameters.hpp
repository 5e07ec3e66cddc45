// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: the numbers of parameters whose master copies are codes, within a step.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// What was decoded of parameters: one array for all who hold it at one time, freed with the last
/// of them.
class DecodedParameters {
 public:
  /// @param memory of the tape.
  explicit DecodedParameters(std::pmr::memory_resource& memory) : memory_(&memory) {}

  /// The numbers of a parameter in codes.
  [[nodiscard]] Array<float> floats_of(const Parameter& parameter) {
    std::erase_if(decoded_, [](const Decoded& each) { return !each.numbers.is_shared(); });
    const ContentVersion contents = parameter.version();
    for (const Decoded& each : decoded_) {
      if (each.parameter == &parameter && each.version == contents) return each.numbers;
    }
    decoded_.push_back({&parameter, contents, parameter.floats(memory_)});
    return decoded_.back().numbers;
  }

  void clear() { decoded_.clear(); }

 private:
  struct Decoded {
    const Parameter* parameter;  ///< an address, not to be read
    ContentVersion version;
    Array<float> numbers;
  };

  std::pmr::memory_resource* memory_;
  std::vector<Decoded> decoded_;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
