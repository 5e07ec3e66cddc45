// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: arrays that ops have saved, in the form that a recipe saves in their place.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <memory_resource>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/op_node.hpp"
#include "unit_scaling/autograd/recipe_in_use.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/precision.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// What a recipe saves in place of arrays of nodes, from the recording of the nodes to their
/// backward passes, which come in reverse order.
template <Precision P> class EncodedSaves {
 public:
  /// @param recipe of the tape, and `memory` of it.
  EncodedSaves(RecipeInUse& recipe, std::pmr::memory_resource& memory)
      : recipe_(&recipe), memory_(&memory) {}

  /// Takes those arrays of the node recorded last for which the recipe saves something else.
  /// @param activations where the elements of the op's inputs and outputs are: the recipe is asked
  ///        for no other arrays.
  [[gnu::noinline]] void take_from(detail::Node<P>& node,
                                   std::initializer_list<const void*> activations) {
    std::size_t argument = 0;
    const auto save = [&](const detail::SavedItem<P>& item) {
      const std::size_t index = argument++;
      const bool is_activation =
          std::find(activations.begin(), activations.end(), item.elements) != activations.end();
      if (item.array == nullptr || item.bytes == 0 || !is_activation) return;
      auto encoded =
          recipe_->save({{.module = node.module, .op = node.name, .argument = index}, memory_},
                        EncodedArray::view(*item.array));
      if (!encoded) return;
      saves_.emplace_back(item.array, std::move(*encoded));
      *item.array = {};
      ++node.encoded;
    };
    node.for_each_saved(std::cref(save));  // a copy would be allocated
  }

  /// Gives the last node that is still to run its arrays back.
  /// @param is_read whether it is going to read them.
  void give_back_to(const detail::Node<P>& node, bool is_read) {
    for (std::size_t i = 0; i < node.encoded; ++i, saves_.pop_back()) {
      const auto& [array, encoded] = saves_.back();
      if (is_read) *array = recipe_->decode<typename P::storage>(encoded, memory_);
    }
  }

  void clear() { saves_.clear(); }

  /// Memory that the codes and their scales take.
  [[nodiscard]] std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const auto& [array, encoded] : saves_) {
      bytes += encoded.codes().size() + encoded.scale_codes().size();
    }
    return bytes;
  }

 private:
  RecipeInUse* recipe_;
  std::pmr::memory_resource* memory_;
  std::vector<std::pair<Array<typename P::storage>*, EncodedArray>> saves_;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
