// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: the arrays of a tape, rounded as a simulator says.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "unit_scaling/autograd/simulator.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Whether binary32, in which simulators round, holds every number that P stores.
template <Precision P>
inline constexpr bool can_simulate = !std::is_same_v<typename P::storage, double> &&
                                     !std::is_same_v<typename P::matmul_operand, double> &&
                                     !std::is_same_v<typename P::matmul_gradient, double>;

/// What must be known of an op to round its numbers.
struct SimulatedOpTraits {
  std::string_view name;
  bool has_products = false;
  bool rounds_within = false;  ///< as `OpTraits::rounds_within`
  /// As `ops::rounds_weights_as`.
  bool (*rounds_weights_as)(const FormatSpec& operand, const FormatSpec& gradient) =
      [](const FormatSpec&, const FormatSpec&) { return true; };
};

/// Those of an op under policy P.
template <ops::ScaledOp Op, Precision P>
inline constexpr SimulatedOpTraits simulated_op_traits{
    .name = Op::name,
    .has_products = Op::traits.has_products() || Op::traits.rounds_within,
    .rounds_within = Op::traits.rounds_within,
    .rounds_weights_as = &ops::rounds_weights_as<Op, P>};

/// How the tensors of an op that are rounded are numbered, from `SimulatedOp::first_tensor` on.
template <std::size_t inputs, std::size_t outputs> struct SimulatedTensors {
  static constexpr std::uint32_t count = 3 * inputs + 2 * outputs;
  static constexpr std::uint32_t operand(std::size_t i) { return number(i); }
  static constexpr std::uint32_t output_gradient(std::size_t k) { return number(inputs + k); }
  static constexpr std::uint32_t output(std::size_t k) { return number(inputs + outputs + k); }
  /// The one after it is that of the sum which the gradient goes into.
  static constexpr std::uint32_t input_gradient(std::size_t i) {
    return number(inputs + 2 * (outputs + i));
  }

 private:
  static constexpr std::uint32_t number(std::size_t i) { return static_cast<std::uint32_t>(i); }
};

namespace detail {

/// How many arrays the output of an op is.
template <class Output> inline constexpr std::size_t array_count = std::tuple_size_v<Output>;
template <class T> inline constexpr std::size_t array_count<Array<T>> = 1;

}  // namespace detail

/// Rounds arrays of a tape under policy P, in copies in its memory, as its simulator says.
template <Precision P> class SimulatedRounding {
  using Operand = typename P::matmul_operand;
  using Gradient = typename P::matmul_gradient;
  using Storage = typename P::storage;

 public:
  explicit SimulatedRounding(RecyclingResource& memory) : memory_(&memory) {}

  /// Rounds as this simulator says, which begins a step now, instead of any before it.
  template <std::derived_from<Simulator> S> void use(S simulator) {
    simulator_ = std::make_unique<S>(std::move(simulator));
    require_exact_ = &require_exact;
    round_stored_ = &round_stored;
    simulator_->begin_step();
  }
  /// Rounds nothing.
  void use_none() { simulator_ = nullptr; }
  /// Whether a simulator is in use; the pointers are null if not.
  explicit operator bool() const { return simulator_ != nullptr; }
  Simulator* operator->() { return simulator_.get(); }
  const Simulator* operator->() const { return simulator_.get(); }

  /// Asks the simulator about an op.
  /// @throws std::invalid_argument if the op rounded so would not have the bits of one under a
  ///         policy with these formats.
  [[nodiscard]] SimulatedOp begin_op(const SimulatedOpTraits& traits, std::string_view module,
                                     std::uint32_t tensors) {
    const SimulatedOp op = simulator_->begin_op(traits.name, module, traits.has_products, tensors);
    if constexpr (can_simulate<P>) {
      if (op.rounds_products() || op.rounds_writes()) require_exact_(traits, op, module);
    }
    return op;
  }

  /// The array as an operand of products in a format.
  /// @param now what it was rounded to before; null: T. As with real formats, what is in the format
  ///        is not converted, so its infinities remain.
  template <class T>
  [[nodiscard]] Array<T> operand(const Array<T>& array, const SimulatedFormat* now,
                                 const SimulatedFormat& format, std::uint64_t step,
                                 std::uint32_t tensor) const {
    if (format.spec == (now != nullptr ? now->spec : format_spec<T>)) return array;
    return rounded(array, format, Overflow::saturate, step, tensor);
  }

  /// The array as an op writes it.
  template <class T>
  [[nodiscard]] Array<T> written(const Array<T>& array, const SimulatedFormat& format,
                                 std::uint64_t step, std::uint32_t tensor) const {
    return rounded(array, format, Overflow::infinity_or_nan, step, tensor);
  }

  /// Rounds a gradient as an op writes it.
  void round_gradient(Array<Storage>& gradient, const SimulatedGradient& rounding) const {
    if constexpr (can_simulate<P>) {
      if (rounding.format == nullptr) return;
      gradient = written(gradient, *rounding.format, rounding.step, rounding.tensor);
    }
  }

  /// Rounds a sum of gradients, of which this is the last one.
  void round_sum(Array<Storage>& sum, const SimulatedGradient& rounding) const {
    if constexpr (can_simulate<P>) {
      if (rounding.format == nullptr) return;
      sum = written(sum, *rounding.format, rounding.step, rounding.tensor + 1);
    }
  }

  /// Rounds the outputs of an op, also where it has saved them.
  /// @param tensor of the first output.
  template <class Result>
  void round_outputs(Result& result, const SimulatedFormat& format, std::uint64_t step,
                     std::uint32_t tensor) const {
    const auto saved = std::apply(
        [](auto&... each) {
          return std::array<Array<Storage>*, sizeof...(each)>{storage_array(each)...};
        },
        result.saved);
    const auto round_output = [&](Array<Storage>& output) {
      round_output_and_saved(output, saved, format, step, tensor++);
    };
    if constexpr (is_array<decltype(result.output)>) {
      round_output(result.output);
    } else {
      std::apply([&](auto&... output) { (round_output(output), ...); }, result.output);
    }
  }

 private:
  [[nodiscard]] static Array<Storage>* storage_array(Array<Storage>& array) { return &array; }
  template <class T> [[nodiscard]] static Array<Storage>* storage_array(T& /*other*/) {
    return nullptr;
  }

  void round_output_and_saved(Array<Storage>& output, std::span<Array<Storage>* const> saved,
                              const SimulatedFormat& format, std::uint64_t step,
                              std::uint32_t tensor) const {
    const Array<Storage> before = std::exchange(output, written(output, format, step, tensor));
    for (Array<Storage>* const each : saved) {
      if (each != nullptr && each->data() == before.data() && each->size() == before.size()) {
        *each = output.reshaped(each->shape());
      }
    }
  }

  template <class T>
  [[nodiscard]] Array<T> rounded(const Array<T>& array, const SimulatedFormat& format,
                                 Overflow overflow, std::uint64_t step,
                                 std::uint32_t tensor) const {
    if constexpr (std::is_same_v<T, float>) {
      Array<float> result(array.shape(), memory_);
      simulator_->round(format, overflow, step, tensor, array.span(), result.mutable_span());
      return result;
    } else {
      return round_stored_(*this, array, format, overflow, step, tensor);
    }
  }

  static Array<Storage> round_stored(const SimulatedRounding& self, const Array<Storage>& array,
                                     const SimulatedFormat& format, Overflow overflow,
                                     std::uint64_t step, std::uint32_t tensor) {
    auto floats = kernels::convert<float, Overflow::infinity_or_nan>(array, self.memory_);
    self.simulator_->round(format, overflow, step, tensor, floats.span(), floats.mutable_span());
    return kernels::convert<Storage, Overflow::infinity_or_nan>(floats, self.memory_);
  }

  static void require_exact(const SimulatedOpTraits& traits, const SimulatedOp& op,
                            std::string_view module) {
    const auto refuse = [&](const std::string& expected) {
      throw std::invalid_argument("simulation: " + std::string(traits.name) +
                                  (module.empty() ? "" : " in " + std::string(module)) +
                                  ": expected " + expected);
    };
    if (traits.rounds_within) {
      refuse("no format for it, as it rounds numbers within, which a tape does not see");
    }
    const auto require_held = [&]<class T>(const SimulatedFormat& format, std::type_identity<T>) {
      if (format_spec<T>.holds(format.spec)) return;
      refuse("formats whose numbers " + std::string(storage_name<T>) + " of policy " +
             std::string(P::name) + " holds, got " + format.name);
    };
    if (op.operand != nullptr) {
      require_held(*op.operand, std::type_identity<Storage>{});
      require_held(*op.operand, std::type_identity<Operand>{});
    }
    if (op.gradient != nullptr) {
      require_held(*op.gradient, std::type_identity<Storage>{});
      require_held(*op.gradient, std::type_identity<Gradient>{});
    }
    if (op.rounds_products() &&
        !traits.rounds_weights_as(op.operand ? op.operand->spec : format_spec<Operand>,
                                  op.gradient ? op.gradient->spec : format_spec<Gradient>)) {
      refuse(
          "a policy with the attention_weight that policies of these formats have, which is "
          "bfloat16 if that holds both; precision::with_bfloat16_attention makes one");
    }
    if (op.rounds_writes() &&
        !(std::is_same_v<Storage, float> && std::is_same_v<typename P::compute, float>)) {
      refuse("a policy that stores float, as what an op writes is rounded to " +
             std::string(storage_name<Storage>) + " of policy " + std::string(P::name) + " before");
    }
  }

  RecyclingResource* memory_;
  std::unique_ptr<Simulator> simulator_;
  // Called by pointers that `use` sets, so that only who simulates compiles what they point to.
  decltype(&require_exact) require_exact_ = nullptr;
  decltype(&round_stored) round_stored_ = nullptr;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
