// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what a tape keeps of a recorded op, and the op's backward pass.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <memory_resource>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "unit_scaling/autograd/tape_operands.hpp"
#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/operand.hpp"
#include "unit_scaling/scaling/item_count.hpp"
#include "unit_scaling/scaling/scales.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

template <Precision P> class Tape;

namespace detail {

/// Memory that an op has saved for its backward pass.
template <Precision P> struct SavedItem {
  const void* elements;
  std::size_t bytes;
  Array<typename P::storage>* array;  ///< that it is of; null: of none, or of other elements
};

/// One recorded op, as far as ops are alike. What does with them what does not depend on the op
/// is compiled once, not once for each op.
template <Precision P> struct Node {
  Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  virtual ~Node() = default;
  /// From the gradients of its outputs to those of its inputs.
  /// @param factor what the former carry, a number of `gradient_factors()`.
  virtual void backward(Tape<P>& tape, std::size_t factor) = 0;
  virtual void for_each_saved(const std::function<void(const SavedItem<P>&)>& visit) = 0;
  /// Destroys the node and gives its memory back to `records`, where it came from.
  virtual void discard(RecyclingResource& records) = 0;

  std::string_view name = {};    ///< of the op
  std::string_view module = {};  ///< that it belongs to, if somebody is told
  bool rounds_within = false;    ///< as `OpTraits::rounds_within`
  std::size_t module_hash = 0;   ///< tells the module if a factor depends on the batch; else 0
  std::size_t index = 0;         ///< the op's number on the tape, for observers
  std::size_t first_output = 0;
  std::size_t outputs = 0;
  std::size_t encoded = 0;  ///< how many of its saved arrays a recipe has encoded
  std::span<const std::size_t> input_slots = {};  ///< of the differentiable inputs
  std::span<const ItemCount> counts = {};         ///< of their backward factors
};
/// Gives the memory of a node back to where it came from.
struct DiscardNode {
  RecyclingResource* records;
  template <Precision P> void operator()(Node<P>* node) const { node->discard(*records); }
};

template <Precision P> using NodePointer = std::unique_ptr<Node<P>, DiscardNode>;

/// One recorded op with `inputs` differentiable inputs and outputs of the given element types.
template <Precision P, class Op, std::size_t inputs, class Saved, class... Outputs>
struct OpNode final : Node<P> {
  OpNode(const Op& op_, const Scales<inputs>& scales_, Saved saved_,
         const std::array<std::size_t, inputs>& slots_of_inputs,
         const std::array<ItemCount, inputs>& counts_of_inputs)
      : op(op_),
        scales(scales_),
        saved(std::move(saved_)),
        own_input_slots(slots_of_inputs),
        own_counts(counts_of_inputs) {
    this->name = Op::name;
    this->rounds_within = Op::traits.rounds_within;
    this->outputs = sizeof...(Outputs);
    this->input_slots = own_input_slots;
    this->counts = own_counts;
  }

  void backward(Tape<P>& tape, std::size_t factor) override {
    auto output_gradients = [&]<std::size_t... i>(std::index_sequence<i...>) {
      return std::tuple{tape.template take_gradient<Outputs>(this->first_output + i)...};
    }
    (std::index_sequence_for<Outputs...>{});
    std::array<bool, inputs> wanted{};
    for (std::size_t i = 0; i < inputs; ++i) wanted[i] = tape.slots_[own_input_slots[i]].wanted;
    auto input_gradients = gradients_of_inputs(tape, output_gradients, wanted);
    static_assert(std::tuple_size_v<decltype(input_gradients)> == inputs,
                  "backward must return one gradient for each differentiable input");
    if (tape.observer_) {
      std::apply(
          [&](const auto&... gradient) {
            tape.observer_.show_gradients({this->name, this->module, this->index},
                                          Op::traits.has_products ? &tape.operands_ : nullptr,
                                          tape.sums_, this->first_output, gradient...);
          },
          output_gradients);
    }
    if constexpr (Op::traits.has_products) tape.operands_.end();
    std::apply([&](auto&... gradient) { tape.add_gradients(*this, {&gradient...}, factor); },
               input_gradients);
  }

  /// The gradients of the inputs, from those of the outputs.
  auto gradients_of_inputs(Tape<P>& tape, const std::tuple<Array<Outputs>...>& output_gradients,
                           [[maybe_unused]] const std::array<bool, inputs>& wanted) const {
    const auto& dy = unwrap(output_gradients);
    const auto backward = [&](auto precision) {
      if constexpr (requires { op.backward(precision, scales, saved, dy, wanted); }) {
        return op.backward(precision, scales, saved, dy, wanted);
      } else {
        return op.backward(precision, scales, saved, dy);
      }
    };
    if constexpr (Op::traits.has_products) {
      tape.operands_.begin(TapeOperands::Pass::backward, this->module, this->name);
      std::size_t value = this->first_output;
      std::apply(
          [&]<class... T>(const Array<T>&... gradient) {
            (tape.operands_.add(gradient.data(), tape.sums_.template held<T>(value++)), ...);
          },
          output_gradients);
      return backward(ops::WithOperandSource<P>{{}, &tape.operands_});
    } else {
      return backward(P{});
    }
  }

  void for_each_saved(const std::function<void(const SavedItem<P>&)>& visit) override {
    std::apply(
        [&](auto&... item) {
          [[maybe_unused]] const auto visit_array = [&]<class T>(T& value) {
            if constexpr (std::is_same_v<T, Array<typename P::storage>>) {
              visit({value.data(), value.bytes(), &value});
            } else if constexpr (is_array<T>) {
              visit({value.data(), value.bytes(), nullptr});
            } else if constexpr (std::is_same_v<T, kernels::Operand>) {
              value.for_each_part([&](const void* elements, std::size_t bytes) {
                visit({elements, bytes, nullptr});
              });
            }
          };
          (visit_array(item), ...);
        },
        saved);
  }

  void discard(RecyclingResource& records) override {
    std::pmr::polymorphic_allocator<>(&records).delete_object(this);
  }

  /// An op with one output takes its gradient as an array, others as a tuple.
  static const auto& unwrap(const auto& gradients) {
    if constexpr (sizeof...(Outputs) == 1) {
      return std::get<0>(gradients);
    } else {
      return gradients;
    }
  }

  Op op;
  Scales<inputs> scales;
  Saved saved;
  std::array<std::size_t, inputs> own_input_slots;
  std::array<ItemCount, inputs> own_counts;
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
