// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Rounding to an `EncodedArray`, and decoding one: its members `encode` and
/// `decode`, which are declared in encoded_array.hpp.
///
/// They work for every format and every kind of scale, which takes time to compile, so this header
/// is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

/// Products in binary32, one by one. `out` may be `left`.
/// @pre in default arithmetic
[[gnu::noinline]] inline void multiply_chunk(const float* left, const float* right,
                                             std::size_t count, float* out) {
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    store(load<float32x16>(left + i) * load<float32x16>(right + i), out + i);
  }
  for (; i < count; ++i) out[i] = left[i] * right[i];
}

/// Quotients in binary32, one by one. `out` may be `left`.
/// @pre in default arithmetic
[[gnu::noinline]] inline void divide_chunk(const float* left, const float* right, std::size_t count,
                                           float* out) {
  std::size_t i = 0;
#if !defined(__RECIPROCAL_MATH__) && !defined(__FAST_MATH__)
  // With these options GCC makes a product with an approximate reciprocal of a quotient of vectors.
  for (; i + lanes <= count; i += lanes) {
    store(load<float32x16>(left + i) / load<float32x16>(right + i), out + i);
  }
#endif
  for (; i < count; ++i) out[i] = opaque(left[i]) / opaque(right[i]);
}

/// The code in float8_e8m0fnu of a power of two or NaN; nothing else has one.
[[nodiscard]] inline bool find_power_code(float scale, std::uint8_t& code) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(scale);
  if ((bits & float_magnitude_mask) > float_infinity_bits) {
    code = 0xff;
  } else if (bits == float_hidden_bit >> 1) {
    code = 0;  // 2^-127, subnormal in binary32
  } else {
    code = static_cast<std::uint8_t>(bits >> float_mantissa_bits);
    const bool is_power = (bits & (float_sign_mask | float_fraction_mask)) == 0;
    return is_power && bits != 0 && bits != float_infinity_bits;
  }
  return true;
}

}  // namespace detail

template <class Scale>
void EncodedArray::read_scales(std::size_t first, std::size_t count, float* out,
                               const Scale& scale) const {
  if (scale_count() == 1) {
    std::fill_n(out, count, scale(0));
    return;
  }
  const std::size_t width = layout_.tile_columns;
  std::size_t row = first / columns();
  std::size_t column = first % columns();
  for (float* const end = out + count; out != end; ++row, column = 0) {
    const std::size_t in_row = std::min(columns() - column, static_cast<std::size_t>(end - out));
    std::size_t index = layout_.index(row, column, columns());
    if (width == 1) {
      for (std::size_t i = 0; i < in_row; ++i) out[i] = scale(index + i);
      out += in_row;
    } else {
      std::size_t left_in_tile = width - column % width;
      for (float* const row_end = out + in_row; out != row_end; ++index, left_in_tile = width) {
        const auto left_in_row = static_cast<std::size_t>(row_end - out);
        out = std::fill_n(out, std::min(left_in_tile, left_in_row), scale(index));
      }
    }
  }
}

inline void EncodedArray::write_scales(std::span<const float> scales) {
  if (scales.empty()) return;
  std::uint8_t* const to = scales_.mutable_data();
  if (layout_.format == ScaleFormat::binary32) {
    std::memcpy(to, scales.data(), scales.size_bytes());
    return;
  }
  for (std::size_t i = 0; i < scales.size(); ++i) {
    require(detail::find_power_code(scales[i], to[i]), "EncodedArray::encode",
            "expected a power of two from 2^-127 to 2^127 or NaN as scale ", i, ", got ",
            scales[i]);
  }
}

inline void EncodedArray::decode_chunk(std::size_t first, std::size_t count, float* out) const {
  // Codes that share bytes begin where a group of them does.
  const std::size_t head = format_.storage_bits() < 8 ? first % detail::packed_group : 0;
  const std::size_t at = format_.code_bytes(first - head);
  const auto bytes = codes().subspan(at, format_.code_bytes(first + count) - at);
  if (head == 0) {
    format_.decode(bytes, {out, count});
  } else {
    float numbers[detail::code_chunk + detail::packed_group];
    format_.decode(bytes, {numbers, head + count});
    std::copy_n(numbers + head, count, out);
  }
  if (!has_scales()) return;
  float scales[detail::code_chunk];
  if (layout_.format == ScaleFormat::binary32) {
    read_scales(first, count, scales, [this](std::size_t index) { return float_scale(index); });
  } else {
    read_scales(first, count, scales,
                [this](std::size_t index) { return power(scales_.data()[index]); });
  }
  detail::multiply_chunk(out, scales, count, out);
}

inline void EncodedArray::divide_by_scales(std::size_t first, std::size_t count,
                                           float* numbers) const {
  float scales[detail::code_chunk];
  if (layout_.format == ScaleFormat::binary32) {
    read_scales(first, count, scales, [this](std::size_t index) { return float_scale(index); });
    detail::divide_chunk(numbers, scales, count, numbers);
    return;
  }
  // The reciprocals of the powers of two are such, and binary32 holds all: products with them are
  // the quotients.
  read_scales(first, count, scales, [this](std::size_t index) {
    const std::uint8_t code = scales_.data()[index];
    return power(code == 0xff ? code : static_cast<std::uint8_t>(254 - code));
  });
  detail::multiply_chunk(numbers, scales, count, numbers);
}

inline void EncodedArray::write_codes(const EncodedArray& source, const EncodeOptions& options) {
  const std::span<std::uint8_t> codes = codes_.mutable_span();
  const bool is_float = source.format_.is_binary32() && !source.has_scales();
  parallel_ranges(size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    // Without anything on the way, the whole range at once.
    const std::size_t step = is_float && !has_scales() ? detail::convert_grain : detail::code_chunk;
    for (std::size_t first = begin; first < end; first += step) {
      const std::size_t count = std::min(step, end - first);
      float numbers[detail::code_chunk];
      const float* in = numbers;
      if (is_float) {
        in = reinterpret_cast<const float*>(source.codes_.data()) + first;
      } else {
        source.decode_chunk(first, count, numbers);
      }
      EncodeOptions part = options;
      part.first_element += first;
      if (has_scales()) {
        detail::scale_chunk(in, count, options.scale, numbers);
        part.scale = 1;
        divide_by_scales(first, count, numbers);
        in = numbers;
      }
      const std::size_t at = format_.code_bytes(first);
      format_.encode({in, count}, codes.subspan(at, format_.code_bytes(first + count) - at), part);
    }
  });
}

inline EncodedArray EncodedArray::encode(const EncodedArray& source, const Format& format,
                                         const ScaleLayout& layout, std::span<const float> scales,
                                         const EncodeOptions& options,
                                         std::pmr::memory_resource* resource) {
  detail::check_options(options);
  const bool is_same = format == source.format_ && !layout.has_scales() && !source.has_scales() &&
                       options.scale == 1;
  require(is_same || !source.format_.is_binary64(), "EncodedArray::encode",
          "expected an array that binary32 holds, to round it to ", format, ", got one of float64");
  require_layout("EncodedArray::encode", format, layout);
  require_scale_count(source.shape_, layout, scales.size());
  if (is_same) return source;
  EncodedArray result(source.shape_, format, layout,
                      resource != nullptr ? resource : source.resource());
  result.write_scales(scales);
  result.write_codes(source, options);
  return result;
}

inline EncodedArray EncodedArray::encode(const EncodedArray& source, const Format& format,
                                         const EncodeOptions& options,
                                         std::pmr::memory_resource* resource) {
  return encode(source, format, {}, {}, options, resource);
}

inline EncodedArray EncodedArray::with_scale(ScaleFormat scales, float scale,
                                             std::pmr::memory_resource* resource) const {
  constexpr std::string_view name = "EncodedArray::with_scale";
  const ScaleLayout layout = ScaleLayout::per_tensor(scales);
  require_layout(name, format_, layout);
  EncodedArray result = without_scales();
  result.layout_ = layout;
  result.scales_ = Array<std::uint8_t>(Shape{scale_bytes(shape_, format_, layout)},
                                       resource != nullptr ? resource : this->resource());
  if (scales == ScaleFormat::power_of_two) {
    require(detail::find_power_code(scale, *result.scales_.mutable_data()), name,
            "expected a power of two from 2^-127 to 2^127 or NaN as scale");
  } else {
    require(scales == ScaleFormat::binary32, name, "expected a scale in power_of_two or binary32");
    std::memcpy(result.scales_.mutable_data(), &scale, sizeof(scale));
  }
  return result;
}

inline void EncodedArray::decode(std::size_t first, std::span<float> out) const {
  require_shape(
      first <= size() && out.size() <= size() - first, "EncodedArray::decode",
      [&] {
        return "no more elements than there are from number " + std::to_string(first) + " on";
      },
      shape_, Shape{out.size()});
  parallel_ranges(out.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; i += detail::code_chunk) {
      decode_chunk(first + i, std::min(detail::code_chunk, end - i), &out[i]);
    }
  });
}

inline void EncodedArray::decode(std::span<float> out) const {
  require_shape(out.size() == size(), "EncodedArray::decode", "room for each element", shape_,
                Shape{out.size()});
  decode(0, out);
}

inline Array<float> EncodedArray::decode(std::pmr::memory_resource* resource) const {
  Array<float> result(shape_, resource != nullptr ? resource : this->resource());
  decode(result.mutable_span());
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
