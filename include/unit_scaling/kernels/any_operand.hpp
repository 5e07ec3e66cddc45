// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: an array whose format and scales are chosen at run time, as an operand of matrix
/// products.
///
/// It compiles the products of all formats, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/bit_packing.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/kernels/code_table.hpp"
#include "unit_scaling/kernels/element_kernels.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/kernels/words.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

inline void PreparedOperand::use_codes(const FormatSpec& format, const std::uint8_t* data) {
  data_ = data;
  element_bytes_ = 1;
  kernels_ = detail::find_code_kernels(format);
  table_ = &own_table_.emplace(format);
}

namespace detail {

/// Decodes an array, scales included.
inline void prepare_decoded(const EncodedArray& array, PreparedOperand& to) {
  const std::size_t size = array.size();
  if (!is_held_by_bfloat16(array)) {
    auto* floats = to.make_room<float>(size);
    array.decode({floats, size});
    return to.use(static_cast<const float*>(floats));
  }
  auto* numbers = to.make_room<bfloat16>(size);
  parallel_ranges(size, std::size_t{1} << 14, [&](std::size_t begin, std::size_t end) {
    float floats[1024];
    for (std::size_t first = begin; first < end; first += std::size(floats)) {
      const std::size_t count = std::min(std::size(floats), end - first);
      array.decode(first, {floats, count});
      unit_scaling::encode(std::span<const float>(floats, count), std::span(numbers + first, count),
                           Overflow::infinity_or_nan);
    }
  });
  to.use(static_cast<const bfloat16*>(numbers));
}

/// Notes the scales of an array for its sums. False, if they differ along what is summed over, or
/// sums are not to have any.
[[nodiscard]] inline bool keep_scales(const EncodedArray& array, SummedExtent summed,
                                      PreparedOperand& to) {
  if (summed == SummedExtent::both_with_scales) return !array.has_scales();
  const ScaleLayout& layout = array.scale_layout();
  const bool one_across = layout.tiles_across(array.columns()) <= 1;
  const bool one_down = layout.tiles_down(array.rows()) <= 1;
  if (array.scale_count() == 0 || (one_across && one_down)) {
    if (array.scale_count() != 0) to.set_scale(array.scale(0));
    return true;
  }
  if (summed == SummedExtent::columns && one_across) {
    float* scales = to.make_room_for_scales(array.rows());
    for (std::size_t i = 0; i < array.rows(); ++i) scales[i] = array.scale_of(i, 0);
    return true;
  }
  if (summed == SummedExtent::rows && one_down) {
    float* scales = to.make_room_for_scales(array.columns());
    for (std::size_t j = 0; j < array.columns(); ++j) scales[j] = array.scale_of(0, j);
    return true;
  }
  return false;
}

/// As `Operand::Encode`, in any format.
inline void encode_any(const Format& format, std::span<const float> numbers,
                       std::span<std::uint8_t> codes) {
  format.encode(numbers, codes, {.overflow = Overflow::infinity_or_nan});
}

/// For any array.
inline void prepare_any(const EncodedArray& array, SummedExtent summed, PreparedOperand& to) {
  if (!keep_scales(array, summed, to)) return prepare_decoded(array, to);
  const Format& format = array.format();
  const std::uint8_t* codes = array.codes().data();
  if (format.is_binary32()) return to.use(reinterpret_cast<const float*>(codes));
  if (format == Format::of<bfloat16>()) return to.use(reinterpret_cast<const bfloat16*>(codes));
  if (format == Format::of<float16>()) return to.use(reinterpret_cast<const float16*>(codes));
  if (!format.is_binary64() && has_code_table(format.spec())) {
    if (format.storage_bits() < 8) {
      auto* bytes = to.make_room<std::uint8_t>(array.size());
      unit_scaling::detail::unpack_codes(format.spec().bits(), array.codes(),
                                         {bytes, array.size()});
      codes = bytes;
    }
    return to.use_codes(format.spec(), codes);
  }
  // Without its scales, which the sums are multiplied with.
  prepare_decoded(array.without_scales(), to);
}

/// The same, of products in double. Scales are in the numbers.
inline void prepare_any_double(const EncodedArray& array, SummedExtent /*summed*/,
                               PreparedOperand& to) {
  if (array.format().is_binary64()) {
    return to.use(reinterpret_cast<const double*>(array.codes().data()));
  }
  auto* numbers = to.make_room<double>(array.size());
  const Array<float> floats = array.decode(&scratch_memory());
  for (std::size_t i = 0; i < array.size(); ++i) numbers[i] = static_cast<double>(floats.data()[i]);
  to.use(static_cast<const double*>(numbers));
}

}  // namespace detail

/// An array as an operand of any product in float. Its float64 elements are rounded to float.
/// Where scales belong to what a product does not sum over, sums are multiplied with them
/// afterwards: see `SumScales`.
[[nodiscard]] inline Operand make_operand(EncodedArray array) {
  return {
      .array = std::move(array), .prepare = &detail::prepare_any, .encode = &detail::encode_any};
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
