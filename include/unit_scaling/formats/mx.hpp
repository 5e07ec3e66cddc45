// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. The OCP Microscaling (MX) formats as forms of an `EncodedArray`: numbers of
/// eight bits or fewer that share a power of two in blocks of 32.
///
/// Source: OCP Microscaling Formats (MX) Specification, revision 1.0. Its element formats are
/// float8_e4m3fn, float8_e5m2, float6_e2m3fn, float6_e3m2fn, float4_e2m1fn and `mx_int8()`.
// unit_scaling: optional (encodes formats chosen at run time, slow to compile)
#pragma once

#include <memory_resource>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/scale_layout.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Blocks of 32 elements that follow each other in a row, one scale in E8M0 each.
inline constexpr ScaleLayout mx_blocks =
    ScaleLayout::per_block_of_columns(ScaleFormat::power_of_two, 32);

/// The numbers of the element INT8: the multiples of 2^-6 from -127/64 to 127/64. Codes are sign
/// and magnitude, where those of the specification are of two's complement; so there is a negative
/// zero, and no -2, which the specification lets encoders leave out.
[[nodiscard]] inline Format mx_int8() { return Format(FormatSpec{1, 6, 1, Specials::finite}); }

/// Rounds an array to an element format under the scales that `power_of_two_block_scales` gives: an
/// element is divided by the scale of its block, which is exact down to 2^-126, and rounded once to
/// the format. What lies beyond its largest number saturates, unless `options` say otherwise.
///
/// If a number of a block is infinite or NaN, the scale is NaN and so is every number of the block,
/// as the specification and microxcaling have it.
/// @param blocks those of the specification, or tiles of any other shape.
/// @param resource of the result; by default that of the array.
/// @throws DomainError for a format of float64, for a layout without scales or elements, and unless
///         `options.scale` is 1; std::invalid_argument for stochastic rounding without its bits.
[[nodiscard]] inline EncodedArray encode_mx(const EncodedArray& source, const Format& elements,
                                            const ScaleLayout& blocks = mx_blocks,
                                            ScaleRounding scale_rounding = ScaleRounding::floor,
                                            const EncodeOptions& options = {},
                                            std::pmr::memory_resource* resource = nullptr) {
  require(options.scale == 1, "encode_mx", "expected a factor of 1, as blocks have scales, got ",
          options.scale);
  const Array<float> scales =
      power_of_two_block_scales(source, blocks, elements, scale_rounding, resource);
  return EncodedArray::encode(source, elements, blocks, scales.span(), options, resource);
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
