// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: what an optimiser keeps of a parameter, in binary32 or in a format of its own.
///
/// This header has what optimisers need to know. optim/encoded_state_format.hpp has the formats,
/// which take time to compile: whoever keeps states in binary32 does not compile them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
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

/// What a step does to one parameter of which a moment, or the parameter itself, is codes.
class StepOnCodes {
 public:
  StepOnCodes() = default;
  StepOnCodes(const StepOnCodes&) = delete;
  StepOnCodes& operator=(const StepOnCodes&) = delete;

  /// A bound on the finite magnitudes of a moment after the step.
  /// @param index which moment it is, from 0 on.
  /// @param before its largest finite magnitude so far.
  /// @param largest_weight the largest finite magnitude of the parameter before the step, or 0 if
  ///        the step does without.
  [[nodiscard]] virtual double bound(std::size_t index, float before,
                                     float largest_weight) const = 0;
  /// Moves `count` elements of the parameter, from element `first` on, and those of its moments.
  /// Different threads may do so for different elements.
  /// @param p the elements of the whole parameter.
  /// @param m, v those of the moments from `first` on.
  virtual void move(std::size_t first, std::size_t count, float* p, float* m, float* v) const = 0;

 protected:
  ~StepOnCodes() = default;
};

class StateFormat;

/// What `StateFormat::take_step` moves.
struct EncodedNumbers {
  /// How the numbers are kept; null for binary32.
  struct Formats {
    const StateFormat* first_moment;
    const StateFormat* second_moment;
    const StateFormat* master_weights;
  };
  Formats formats;
  Parameter& parameter;
  OptimiserState& first_moment;
  OptimiserState& second_moment;
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

  /// Takes a step on one parameter, chunk by chunk on all threads: decodes what is codes, lets
  /// `step` move the numbers and encodes them again. This format need not be one of theirs: the
  /// function is virtual so that programs without codes do not compile it.
  /// @param needs_largest_weight whether `step` asks for it in `bound`.
  /// @param site of the first moment; those of the second one and of the parameter follow it.
  virtual void take_step(const EncodedNumbers& numbers, bool needs_largest_weight,
                         const StateSite& site, const StepOnCodes& step) const = 0;
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

/// A state of zeros for each parameter, without elements for those that are kept elsewhere.
/// @param format null for binary32.
inline std::vector<OptimiserState> zeros_like(const std::vector<ParameterSetting>& settings,
                                              const StateFormat* format) {
  std::vector<OptimiserState> result;
  result.reserve(settings.size());
  for (const ParameterSetting& setting : settings) {
    if (format != nullptr) {
      result.push_back(format->zeros(setting.state_shape));
    } else {
      result.push_back({.numbers = Array<float>::filled(setting.state_shape, 0)});
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
