// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: how FP8-LM and COAT keep what Adam keeps, as options of Adam and AdamW.
///
///     optim::AdamW adam(parameters, optim::with_coat_states({.weight_decay = 0x1p-13}));
// unit_scaling: optional
#pragma once

#include <memory>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/encoded_state_format.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// FP8-LM's first moment in FP8 (E4M3), second moment and master weights in FP16. Each has a power
/// of two as the scale of the tensor, found anew in every step: for a moment from a bound on its
/// magnitudes, for the weights from the largest of them. With gradients in FP8
/// (optim/encoded_gradients.hpp) these are 2 + 1 + 2 + 1 = 6 bytes for a parameter from step to
/// step, in place of 16. An op that reads a parameter decodes it, and keeps the floats if it saves
/// them. A step decodes one parameter at a time, to scratch memory, which stays: 4 bytes for each
/// element of the largest parameter.
/// @see Peng et al. 2023, arXiv:2310.18313, section 2.2.
[[nodiscard]] inline Adam::Options with_fp8_lm_states(Adam::Options options) {
  const auto two_bytes = std::make_shared<const EncodedStateFormat>(
      EncodedStateFormat::Options{.format = Format::of<float16>()});
  options.first_moment = std::make_shared<const EncodedStateFormat>(
      EncodedStateFormat::Options{.format = Format::of<float8_e4m3fn>()});
  options.second_moment = two_bytes;
  options.master_weights = two_bytes;
  return options;
}

/// COAT's moments, both in FP8 (E4M3) in groups of 128, the range of each of which is expanded. The
/// optimiser keeps 2.125 bytes for a parameter in place of 8.
/// @param expansion with the constant of the code, of the paper, or none.
/// @see Xi et al. 2024, arXiv:2410.19313.
[[nodiscard]] inline Adam::Options with_coat_states(
    Adam::Options options, RangeExpansion expansion = RangeExpansion::coat_code) {
  options.first_moment = options.second_moment = std::make_shared<const EncodedStateFormat>(
      EncodedStateFormat::Options{.format = Format::of<float8_e4m3fn>(),
                                  .scale = StateScale::per_group,
                                  .group = 128,
                                  .expansion = expansion});
  return options;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
