// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: gradients in one byte for a number, from when they are known to the step.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory_resource>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/automatic_scale.hpp"
#include "unit_scaling/optim/optimiser.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// Gradients in E4M3, as FP8-LM keeps them from the backward pass to the step:
///
///     optim::EncodedGradients gradients(parameters);
///     for (each step) {
///       tape.clear();
///       tape.backward(model.loss(tape, next_batch()));
///       gradients.take(tape);
///       optimiser.step(gradients, rate, /*loss_scale=*/gradients.factor());
///     }
///
/// A gradient is multiplied with the factor μ of an AutomaticScale and rounded to nearest even.
/// Numbers beyond the format saturate. Infinite ones become NaN, which the optimiser refuses.
/// Unit-scaled gradients need no μ that follows them: `least` and `largest` of 1 keep it at 1.
/// `gradient_norm` of these is μ times that of the gradients.
/// @see Peng et al. 2023, arXiv:2310.18313, section 2.1.
class EncodedGradients {
 public:
  /// @param parameters that gradients are wanted of; they must stay in place.
  /// @throws DomainError as AutomaticScale; if a parameter is null or given twice, or two have one
  ///         name.
  explicit EncodedGradients(const std::vector<Parameter*>& parameters)
      : EncodedGradients(parameters, AutomaticScale::Options{}) {}
  EncodedGradients(const std::vector<Parameter*>& parameters,
                   const AutomaticScale::Options& options)
      : automatic_(options), factor_(options.initial) {
    detail::DistinctParameters distinct("EncodedGradients");
    for (const Parameter* parameter : parameters) {
      distinct.add(parameter);
      gradients_[parameter];
    }
  }

  /// Rounds the gradients of a step, in the place of those of the step before. μ follows. If the
  /// source throws, there are none until the next call.
  template <GradientSource Gradients> void take(const Gradients& gradients) {
    const DefaultArithmetic arithmetic;
    is_taken_ = false;
    std::size_t saturated = 0;
    std::size_t numbers = 0;
    for (auto& [parameter, codes] : gradients_) {
      const auto& gradient = gradients.gradient(*parameter);
      if (codes.shape() != gradient.shape()) codes = Array<float8_e4m3fn>(gradient.shape());
      saturated += round(detail::gradient_elements(gradient), gradient.size(),
                         static_cast<float>(automatic_.factor()), codes.mutable_data());
      numbers += gradient.size();
    }
    factor_ = automatic_.factor();
    is_taken_ = true;
    automatic_.end_step(saturated, numbers);
  }

  /// The gradient of a parameter times `factor()`; empty if there was none.
  [[nodiscard]] const Array<float8_e4m3fn>& gradient(const Parameter& parameter) const& {
    static const Array<float8_e4m3fn> none;
    const auto found = gradients_.find(&parameter);
    return found == gradients_.end() || !is_taken_ ? none : found->second;
  }
  [[nodiscard]] Array<float8_e4m3fn> gradient(const Parameter& parameter) const&& {
    return gradient(parameter);
  }

  /// μ of the gradients that were taken last: what a step is to divide by.
  [[nodiscard]] double factor() const { return factor_; }

  /// Memory that the gradients take.
  [[nodiscard]] std::size_t bytes() const {
    std::size_t result = 0;
    for (const auto& [parameter, codes] : gradients_) result += codes.bytes();
    return result;
  }

  /// Shows μ of the next step to `visit(name, state)` as AutomaticScale does, between steps.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    automatic_.for_each_state(visit);
  }

 private:
  /// Rounds numbers times μ. @return how many are at the largest of the format, or NaN
  template <class T>
  static std::size_t round(const T* numbers, std::size_t size, float factor, float8_e4m3fn* codes) {
    const std::size_t pieces = (size + kernels::map_grain - 1) / kernels::map_grain;
    std::pmr::vector<std::size_t> saturated(pieces, &scratch_memory());
    parallel_for(pieces, [&](std::size_t piece) {
      const std::size_t begin = piece * kernels::map_grain;
      const std::size_t end = std::min(size, begin + kernels::map_grain);
      kernels::for_lanes<float>(end - begin, [&](std::size_t i, auto count) {
        constexpr std::int32_t infinity = 0x7f80'0000;
        const auto x = kernels::load<float>(numbers + begin + i, count);
        const auto magnitude = bit_cast_to<int32x16>(bit_cast_to<uint32x16>(x) & 0x7fff'ffffU);
        const auto y = select(is_less(magnitude, splat<int32x16>(infinity)), x * factor,
                              splat<float32x16>(std::numeric_limits<float>::quiet_NaN()));
        kernels::store<Overflow::saturate, float>(y, codes + begin + i, count);
      });
      for (std::size_t i = begin; i < end; ++i) {
        saturated[piece] += (codes[i].bits() & 0x7fU) >= largest_code ? 1U : 0U;
      }
    });
    std::size_t total = 0;
    for (const std::size_t each : saturated) total += each;
    return total;
  }

  static constexpr unsigned largest_code = 0x7e;  ///< 448; 0x7f is NaN

  std::map<const Parameter*, Array<float8_e4m3fn>> gradients_;
  AutomaticScale automatic_;
  double factor_;
  bool is_taken_ = false;
};

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
