// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Gradients of parameters, without a tape.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/shape.hpp"

namespace unit_scaling_test {

/// A GradientSource of arrays. A parameter that it has none for has no gradient.
struct GivenGradients {
  std::map<const unit_scaling::Parameter*, unit_scaling::Array<float>> arrays;

  [[nodiscard]] const unit_scaling::Array<float>& gradient(
      const unit_scaling::Parameter& parameter) const {
    static const unit_scaling::Array<float> none;
    const auto found = arrays.find(&parameter);
    return found == arrays.end() ? none : found->second;
  }
};

/// Parameters of so many elements each, in one dimension.
struct GivenParameters {
  explicit GivenParameters(const std::vector<std::size_t>& sizes) {
    parameters.reserve(sizes.size());
    for (std::size_t k = 0; k < sizes.size(); ++k) {
      parameters.push_back({.name = "p" + std::to_string(k),
                            .value = unit_scaling::Array<float>::filled({sizes[k]}, 0)});
    }
  }

  [[nodiscard]] std::vector<unit_scaling::Parameter*> pointers() {
    std::vector<unit_scaling::Parameter*> result;
    for (auto& each : parameters) result.push_back(&each);
    return result;
  }

  /// The numbers, one parameter after the other, as gradients.
  [[nodiscard]] GivenGradients gradients(std::span<const float> numbers) const {
    GivenGradients result;
    std::size_t begin = 0;
    for (const auto& each : parameters) {
      const std::size_t size = each.shape().size();
      result.arrays[&each] = unit_scaling::Array<float>({size}, numbers.subspan(begin, size));
      begin += size;
    }
    return result;
  }

  /// The bits of the gradients of a source, one parameter after the other.
  template <class Source>
  [[nodiscard]] std::vector<std::uint32_t> bits(const Source& source) const {
    std::vector<std::uint32_t> result;
    for (const auto& each : parameters) {
      for (const float number : source.gradient(each).span()) {
        result.push_back(std::bit_cast<std::uint32_t>(number));
      }
    }
    return result;
  }

  std::vector<unit_scaling::Parameter> parameters;
};

/// The sum of terms [begin, end), split after the largest power of two that is less than all: the
/// definition of the order, as a recursion. Each sum is that of two floats, rounded once.
template <class Term>
[[nodiscard]] float tree_sum(std::size_t begin, std::size_t end, const Term& term) {
  if (end - begin == 1) return term(begin);
  const std::size_t middle = begin + std::bit_floor(end - begin - 1);
  return static_cast<float>(static_cast<double>(tree_sum(begin, middle, term)) +
                            static_cast<double>(tree_sum(middle, end, term)));
}

}  // namespace unit_scaling_test
