// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: a step on a parameter whose moments, or which itself, are codes.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/state_format.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim::detail {

/// The bits of the largest finite magnitude of a chunk of numbers.
[[nodiscard]] inline std::uint32_t largest_finite_bits(const float* numbers, std::size_t count) {
  return kernels::detail::largest_magnitude_bits_here<kernels::Magnitudes::finite>(numbers, count);
}

/// Calls `body(first, count, part)` for each chunk of a state, shared among threads, with a Part
/// for the chunks that a thread takes in a row, and `finish(part)` after them.
template <class Part, class Body, class Finish>
void for_each_chunk(std::size_t size, const Body& body, const Finish& finish) {
  static_assert(kernels::map_grain % StateFormat::chunk == 0);
  parallel_ranges(size, kernels::map_grain, [&](std::size_t begin, std::size_t end) {
    Part part;
    for (; begin < end; begin += StateFormat::chunk) {
      body(begin, std::min(StateFormat::chunk, end - begin), part);
    }
    finish(part);
  });
}

/// Calls `body(first, count)` for each chunk of a state, shared among threads.
template <class Body> void for_each_chunk(std::size_t size, const Body& body) {
  struct Nothing {};
  for_each_chunk<Nothing>(
      size, [&](std::size_t first, std::size_t count, Nothing&) { body(first, count); },
      [](Nothing) {});
}

/// A state while a step reads and writes it by chunks, on several threads.
class StateInStep {
 public:
  /// @param format null for a state of binary32.
  StateInStep(const StateFormat* format, OptimiserState& state, const StateSite& site)
      : format_(format), site_(site), size_(state.shape().size()) {
    if (format == nullptr) {
      numbers_ = state.numbers.mutable_data();
      codes_ = reinterpret_cast<const std::uint8_t*>(numbers_);
      return;
    }
    code_format_ = state.codes.format();
    memory_ = {.codes = state.codes.mutable_codes().data(),
               .scales = state.scales.empty() ? nullptr : state.scales.mutable_data(),
               .exponents = state.exponents.empty() ? nullptr : state.exponents.mutable_data(),
               .tensor_scale = has_tensor_scale() ? *state.scales.data() : 1.0F};
    tensor_scale_ = memory_.tensor_scale;
    codes_ = memory_.codes;
  }

  [[nodiscard]] bool has_tensor_scale() const {
    return format_ != nullptr && format_->has_tensor_scale();
  }

  /// The numbers of a chunk: in `room`, unless they are floats where they lie.
  [[nodiscard]] float* read(std::size_t first, std::size_t count, float* room) const {
    if (format_ == nullptr) return numbers_ + first;
    format_->decode(memory_, first, count, room);
    return room;
  }
  /// Tells that the chunk from element `first` on, if there is one, will be read and written.
  void prefetch(std::size_t first) const {
    const std::size_t end = code_format_.code_bytes(std::min(size_, first + StateFormat::chunk));
    constexpr std::size_t line = unit_scaling::detail::line_bytes;
    for (std::size_t byte = code_format_.code_bytes(first); byte < end; byte += line) {
      prefetch_line(codes_ + byte);
    }
  }
  void write(std::size_t first, std::size_t count, const float* numbers) const {
    if (format_ != nullptr) {
      format_->encode(numbers, first, count, tensor_scale_, site_, memory_);
    }
  }

  /// The largest finite magnitude of the state, if it has one scale: when the step began.
  [[nodiscard]] float largest() const { return has_tensor_scale() ? memory_.scales[1] : 0.0F; }
  /// Tells what the finite magnitudes that are to be written do not exceed.
  void bound(double magnitude) {
    if (!has_tensor_scale()) return;
    // What is computed in float may exceed it by roundings.
    const double most =
        std::min(magnitude * (1 + 0x1p-20), static_cast<double>(std::numeric_limits<float>::max()));
    tensor_scale_ = format_->tensor_scale(static_cast<float>(most), memory_.tensor_scale);
  }
  /// Tells of what is written.
  void add_largest(std::uint32_t bits) { largest_.raise_to(bits); }
  /// When everything is written.
  void finish() {
    if (!has_tensor_scale()) return;
    const auto largest = std::bit_cast<float>(largest_.bits());
    memory_.scales[0] = tensor_scale_;
    memory_.scales[1] = format_->stored_bound(largest, tensor_scale_);
  }

 private:
  const StateFormat* format_;
  StateSite site_;
  std::size_t size_;
  float* numbers_ = nullptr;
  /// Where the elements are, numbers or codes.
  const std::uint8_t* codes_ = nullptr;
  Format code_format_ = Format::of<float>();
  StateMemory memory_{};
  float tensor_scale_ = 1;
  kernels::SharedLargestMagnitude largest_;
};

/// What `StateFormat::take_step` says.
inline void take_step_on_codes(const EncodedNumbers& numbers, bool needs_largest_weight,
                               const StateSite& site, const StepOnCodes& step) {
  Parameter& parameter = numbers.parameter;
  const StateFormat* const master_format = numbers.formats.master_weights;
  Array<float> decoded;
  StateMemory codes{};  // each chunk of which is decoded when its turn comes
  if (master_format != nullptr && master_format->is_master_copy_of(parameter) &&
      !needs_largest_weight) {
    decoded = Array<float>(parameter.shape(), &scratch_memory());
    EncodedArray& encoded = parameter.encoded->codes;
    codes = {encoded.mutable_codes().data(), nullptr, nullptr,
             master_format->has_tensor_scale() ? encoded.scale(0) : 1.0F};
  } else if (parameter.is_encoded()) {
    decoded = parameter.floats(&scratch_memory());
  }
  Array<float>& weights = parameter.is_encoded() ? decoded : parameter.value;
  float* const p = weights.mutable_data();
  StateInStep first(numbers.formats.first_moment, numbers.first_moment, site);
  StateInStep second(numbers.formats.second_moment, numbers.second_moment,
                     {site.step, site.state + 1});
  const bool has_tensor_scale = first.has_tensor_scale() || second.has_tensor_scale();
  if (has_tensor_scale) {
    const float largest_weight =
        needs_largest_weight ? kernels::largest_finite_magnitude(p, weights.size()) : 0.0F;
    first.bound(step.bound(0, first.largest(), largest_weight));
    second.bound(step.bound(1, second.largest(), largest_weight));
  }
  struct Largest {
    std::uint32_t first = 0;
    std::uint32_t second = 0;
    std::uint32_t weights = 0;
  };
  const bool has_master_weights = master_format != nullptr;
  kernels::SharedLargestMagnitude of_weights;
  const auto move_chunk = [&](std::size_t begin, std::size_t count, Largest& largest) {
    first.prefetch(begin + elements_ahead);
    second.prefetch(begin + elements_ahead);
    float m_memory[StateFormat::chunk];
    float v_memory[StateFormat::chunk];
    float* const m = first.read(begin, count, m_memory);
    float* const v = second.read(begin, count, v_memory);
    if (codes.codes != nullptr) master_format->decode(codes, begin, count, p + begin);
    step.move(begin, count, p, m, v);
    if (has_tensor_scale) {
      largest.first = std::max(largest.first, largest_finite_bits(m, count));
      largest.second = std::max(largest.second, largest_finite_bits(v, count));
    }
    if (has_master_weights) {
      largest.weights = std::max(largest.weights, largest_finite_bits(p + begin, count));
    }
    first.write(begin, count, m);
    second.write(begin, count, v);
  };
  for_each_chunk<Largest>(weights.size(), move_chunk, [&](const Largest& largest) {
    first.add_largest(largest.first);
    second.add_largest(largest.second);
    of_weights.raise_to(largest.weights);
  });
  first.finish();
  second.finish();
  if (!has_master_weights) return;
  if (!master_format->is_master_copy_of(parameter)) {
    parameter.encoded = master_format->master_copy(weights.shape());
  }
  master_format->encode_master_copy(weights, std::bit_cast<float>(of_weights.bits()),
                                    {site.step, site.state + 2}, *parameter.encoded);
  parameter.value = {};
}

}  // namespace UNIT_SCALING_NAMESPACE::optim::detail

UNIT_SCALING_IEEE_END
