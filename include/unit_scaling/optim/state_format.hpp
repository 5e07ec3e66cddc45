// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: what an optimiser keeps of a parameter, in binary32 or in a format of its own.
///
/// This header has what optimisers need to know. optim/encoded_state_format.hpp has the formats,
/// which take time to compile: whoever keeps states in binary32 does not compile them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// One state of one parameter: numbers of binary32, or codes with what decodes them.
struct OptimiserState {
  bool is_encoded = false;
  Array<float> numbers = {};  ///< in the shape of the parameter, unless the state is encoded
  EncodedArray codes = {};    ///< in the shape of the parameter, without scales, if it is
  /// Of each group; or that of the tensor, followed by its largest magnitude; empty where there
  /// are none.
  Array<float> scales = {};
  Array<float> exponents = {};  ///< of each group; empty unless its range is expanded

  /// Of the parameter.
  [[nodiscard]] Shape shape() const { return is_encoded ? codes.shape() : numbers.shape(); }
  /// Memory that the state takes.
  [[nodiscard]] std::size_t bytes() const {
    return numbers.bytes() + codes.bytes() + scales.bytes() + exponents.bytes();
  }
};

/// Where the parts of an encoded state are while several threads write to it.
struct StateMemory {
  std::uint8_t* codes;
  float* scales;
  float* exponents;
  /// Of the elements of the whole state, if it has one scale: that of the codes.
  float tensor_scale;
};

/// Which state of which step is rounded: random bits depend on it.
struct StateSite {
  std::uint64_t step;
  std::uint32_t state;  ///< its number among all states of all parameters
};

/// A format of states. Objects have no state of their own, so optimisers share them.
///
/// Elements are read and written in *chunks* of `chunk` elements, of which the last may be shorter.
/// Different threads may do so for different chunks.
class StateFormat {
 public:
  /// So few that their numbers stay in the first cache.
  static constexpr std::size_t chunk = 256;

  StateFormat() = default;
  StateFormat(const StateFormat&) = delete;
  StateFormat& operator=(const StateFormat&) = delete;
  virtual ~StateFormat() = default;

  /// The state of a parameter of this shape: zeros.
  [[nodiscard]] virtual OptimiserState zeros(const Shape& shape) const = 0;
  /// The master copy of a parameter of this shape: zeros, under one scale if there is one.
  /// @throws DomainError if there are scales of groups.
  [[nodiscard]] virtual EncodedMasterCopy master_copy(const Shape& shape) const = 0;
  /// Whether the master copy of a parameter is codes such as `master_copy` gives.
  [[nodiscard]] virtual bool is_master_copy_of(const Parameter& parameter) const = 0;
  /// Writes the numbers of a parameter to codes that `master_copy` has made.
  /// @param largest of their finite magnitudes.
  virtual void encode_master_copy(const Array<float>& numbers, float largest, const StateSite& site,
                                  EncodedMasterCopy& to) const = 0;
  /// Makes codes of the master copies of parameters, as an optimiser with these `master_weights`
  /// does when it is made. So a model that is only to be used can load what such a training saved.
  /// @throws DomainError as `master_copy`. Nothing is changed then.
  virtual void encode_master_weights(std::span<Parameter* const> parameters) const = 0;
  /// Whether it could be such a state, by its format and by the sizes of its arrays.
  [[nodiscard]] virtual bool fits(const OptimiserState& state) const = 0;

  /// Whether one scale serves the whole state, so that a bound on its magnitudes must be known
  /// before anything is encoded.
  [[nodiscard]] virtual bool has_tensor_scale() const = 0;
  /// The scale for finite numbers of at most this magnitude.
  /// @param before the scale so far, which remains if `largest` is 0.
  [[nodiscard]] virtual float tensor_scale(float largest, float before) const = 0;

  /// What the finite magnitudes of numbers up to `largest` do not exceed once they are stored.
  [[nodiscard]] virtual float stored_bound(float largest, float tensor_scale) const = 0;

  /// The numbers of a chunk. @pre count <= chunk, and `first` is a multiple of chunk
  virtual void decode(const StateMemory& from, std::size_t first, std::size_t count,
                      float* out) const = 0;
  /// Encodes a chunk. @pre as above
  /// @param tensor_scale as `tensor_scale` gives it; ignored if there is none.
  virtual void encode(const float* in, std::size_t first, std::size_t count, float tensor_scale,
                      const StateSite& site, const StateMemory& to) const = 0;
};

namespace detail {

/// How many elements before their use memory is brought into the first cache. Chunks of codes are
/// too short for the processor to foresee where the next one is.
inline constexpr std::size_t elements_ahead = 2 * StateFormat::chunk;

/// Brings the line of an element that will be read and written into the first cache.
template <class T> [[gnu::always_inline]] inline void prefetch_line(const T* element) {
  constexpr int to_be_written = 1;
  __builtin_prefetch(element, to_be_written);
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

/// The largest finite magnitude of some numbers.
class LargestMagnitude {
 public:
  [[gnu::always_inline]] void add(float32x16 numbers) {
    constexpr std::int32_t infinity = 0x7f80'0000;
    const auto bits = bit_cast_to<int32x16>(bit_cast_to<uint32x16>(numbers) & 0x7fff'ffffU);
    const int32x16 finite = select(is_less(bits, splat<int32x16>(infinity)), bits, int32x16{});
    bits_ = unit_scaling::detail::greater_lanes(bits_, finite);
  }
  /// Its bits.
  [[nodiscard]] std::uint32_t bits() const {
    std::int32_t largest = 0;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      largest = std::max<std::int32_t>(largest, bits_[lane]);
    }
    return static_cast<std::uint32_t>(largest);
  }

 private:
  int32x16 bits_{};
};

/// The largest finite magnitude of elements; 0 if there is none.
template <class T> [[nodiscard]] float largest_finite(const T* elements, std::size_t size) {
  kernels::SharedLargestMagnitude largest;
  parallel_ranges(size, kernels::map_grain, [&](std::size_t begin, std::size_t end) {
    LargestMagnitude of_part;
    kernels::for_lanes<float>(end - begin, [&](std::size_t i, auto some) {
      of_part.add(kernels::load<float>(elements + begin + i, some));
    });
    largest.raise_to(of_part.bits());
  });
  return std::bit_cast<float>(largest.bits());
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
  void add_largest(const LargestMagnitude& part) { largest_.raise_to(part.bits()); }
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

/// A state of zeros for each parameter. @param format null for binary32.
inline std::vector<OptimiserState> zeros_like(const std::vector<ParameterSetting>& settings,
                                              const StateFormat* format) {
  std::vector<OptimiserState> result;
  result.reserve(settings.size());
  for (const ParameterSetting& setting : settings) {
    if (format != nullptr) {
      result.push_back(format->zeros(setting.shape));
    } else {
      result.push_back({.numbers = Array<float>::filled(setting.shape, 0)});
    }
  }
  return result;
}

/// What somebody may have put in the place of a state. @param format null for binary32.
/// @throws DomainError if the state of a parameter is not in the format.
inline void require_encoded(std::string_view name, const std::vector<ParameterSetting>& settings,
                            const std::vector<OptimiserState>& states, const StateFormat* format) {
  if (format == nullptr) return;
  for (std::size_t k = 0; k < settings.size(); ++k) {
    require(format->fits(states[k]), name, "step: expected the states of '", settings[k].name,
            "' in the format and of the sizes that they had when the optimiser was made");
  }
}

/// Shows the arrays of a state of a parameter to `visit(name, array)`.
template <class Visitor>
void visit_state(const std::string& kind, const std::string& parameter, OptimiserState& state,
                 const Visitor& visit) {
  if (!state.is_encoded) return visit(kind + "." + parameter, state.numbers);
  visit(kind + "." + parameter, state.codes);
  if (!state.scales.empty()) visit(kind + "_scales." + parameter, state.scales);
  if (!state.exponents.empty()) visit(kind + "_exponents." + parameter, state.exponents);
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
