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
#include <type_traits>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/bit_packing.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/rounding.hpp"
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

/// Writes codes of a byte of numbers times, or divided by, others, in binary32, and rounded to
/// nearest once more, saturating. Each of the others is for a run of numbers.
/// @pre in default arithmetic; run is 1 or a multiple of 16, and then count is one of the run
using EncodeScaled = void (*)(const float* in, const float* by, std::size_t run, std::size_t count,
                              std::uint8_t* to);

/// Codes of a format known to the compiler: where it is not, half of the time goes into what
/// depends on it.
template <AnyMinifloat T, bool divides>
void encode_scaled(const float* in, const float* by, std::size_t run, std::size_t count,
                   std::uint8_t* to) {
  const auto encode_at = [](const float* from, float32x16 scales, std::uint8_t* target)
      __attribute__((always_inline)) {
    constexpr FormatSpec spec = T::format;
    const auto numbers = load<float32x16>(from);
    const float32x16 scaled = divides ? numbers / scales : numbers * scales;
    const auto bits = bit_cast_to<uint32x16>(scaled);
    store_words<std::uint8_t>(encode_by_sum(spec, Overflow::saturate, bits), target);
  };
  if (run != 1) {
    for (std::size_t first = 0; first < count; first += run, ++by) {
      const auto scales = splat<float32x16>(*by);
      for (std::size_t i = first; i < first + run; i += lanes) encode_at(in + i, scales, to + i);
    }
    return;
  }
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) encode_at(in + i, load<float32x16>(by + i), to + i);
  if (i < count) {
    float padded[2][lanes] = {};
    std::uint8_t codes[lanes];
    std::copy_n(in + i, count - i, padded[0]);
    std::copy_n(by + i, count - i, padded[1]);
    encode_at(padded[0], load<float32x16>(padded[1]), codes);
    std::copy_n(codes, count - i, to + i);
  }
}

/// Null for a format that is not often scaled, and where quotients of vectors are not exact.
template <bool divides>
[[nodiscard]] inline EncodeScaled find_encode_scaled(const FormatSpec& format) {
#if defined(__RECIPROCAL_MATH__) || defined(__FAST_MATH__)
  if (divides) return nullptr;
#endif
  EncodeScaled result = nullptr;
  const auto look_at = [&]<class T>(std::type_identity<T>) {
    if (format == T::format) result = &encode_scaled<T, divides>;
  };
  look_at(std::type_identity<float8_e4m3fn>{});
  look_at(std::type_identity<float8_e5m2>{});
  look_at(std::type_identity<float6_e2m3fn>{});
  look_at(std::type_identity<float6_e3m2fn>{});
  look_at(std::type_identity<float4_e2m1fn>{});
  return result;
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

/// The code of a number in float8_e4m3fn, or of NaN, if it has one.
[[nodiscard]] inline bool find_float8_code(float scale, std::uint8_t& code) noexcept {
  const auto rounded = float8_e4m3fn::from_float(scale, Overflow::saturate);
  code = rounded.bits();
  return isnan(rounded) || std::bit_cast<std::uint32_t>(static_cast<float>(rounded)) ==
                               std::bit_cast<std::uint32_t>(scale);
}

/// Room for the scales of a chunk of elements, which are written in whole vectors.
inline constexpr std::size_t scale_chunk_room = code_chunk + lanes;

/// The bits of the powers of two, or NaN, of codes in float8_e8m0fnu, in lanes. Of codes
/// subtracted from 254, the reciprocals: `flip` is that, or 0.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U power_bits(U codes, std::uint32_t flip) noexcept {
  const U flipped = flip == 0 ? codes : flip - codes;
  U bits = flipped << float_mantissa_bits;
  bits = select(is_below(flipped, 1U), splat<U>(float_hidden_bit >> 1), bits);  // 2^-127
  return select(is_above(codes, 254U), splat<U>(float_infinity_bits | float_quiet_bit), bits);
}
[[nodiscard]] inline float power_of_code(std::uint8_t code, std::uint32_t flip) noexcept {
  return std::bit_cast<float>(power_bits(std::uint32_t{code}, flip));
}
[[nodiscard]] inline float32x16 powers_of_codes(const std::uint8_t* codes,
                                                std::uint32_t flip) noexcept {
  return bit_cast_to<float32x16>(power_bits(convert_to<uint32x16>(load<uint8x16>(codes)), flip));
}

}  // namespace detail

inline std::size_t EncodedArray::read_scales(std::size_t first, std::size_t count, ReadScales what,
                                             float* out) const {
  switch (layout_.format) {
    case ScaleFormat::power_of_two: {
      // The reciprocals of the powers of two are such, and binary32 holds all.
      const std::uint32_t flip = what == ReadScales::scales ? 0U : 254U;
      return read_scales(
          first, count, what, out,
          [this, flip](std::size_t index) {
            return detail::power_of_code(scales_.data()[index], flip);
          },
          [this, flip](std::size_t index) {
            return detail::powers_of_codes(scales_.data() + index, flip);
          });
    }
    case ScaleFormat::two_level: {
      const float common = common_scale();
      return read_scales(
          first, count, what, out,
          [this, common](std::size_t index) {
            return static_cast<float>(float8_e4m3fn::from_bits(scales_.data()[index])) * common;
          },
          [this, common](std::size_t index) {
            return load_float(reinterpret_cast<const float8_e4m3fn*>(scales_.data() + index)) *
                   common;
          });
    }
    default:
      return read_scales(
          first, count, what, out, [this](std::size_t index) { return float_scale(index); },
          [this](std::size_t index) {
            float32x16 scales;
            std::memcpy(&scales, scales_.data() + index * sizeof(float), sizeof(scales));
            return scales;
          });
  }
}

template <class Scale, class Scales>
std::size_t EncodedArray::read_scales(std::size_t first, std::size_t count, ReadScales what,
                                      float* out, const Scale& scale,
                                      const Scales& sixteen_scales) const {
  const auto fill = [](float* to, std::size_t size, float value) {
    const auto values = splat<float32x16>(value);
    for (std::size_t i = 0; i < size; i += lanes) store(values, to + i);
  };
  const auto read = [&](std::size_t index, std::size_t size, float* to) {
    std::size_t i = 0;
    for (; i + lanes <= size; i += lanes) store(sixteen_scales(index + i), to + i);
    for (; i < size; ++i) to[i] = scale(index + i);
  };
  const std::size_t scales = scale_count();
  if (scales == 1) {
    fill(out, count, scale(0));
    return 1;
  }
  const std::size_t width = layout_.tile_columns;
  // Where no tile is cut off in a row, all rows of elements are as good as one.
  const bool is_one_row =
      layout_.tile_rows == 1 && width != ScaleLayout::all && columns() % width == 0;
  if (what == ReadScales::divisors_of_runs && is_one_row && width % lanes == 0 &&
      first % width == 0 && count % width == 0) {
    read(first / width, count / width, out);
    return width;
  }
  const std::size_t row_size = is_one_row ? size() : columns();
  // Scales that follow each other, sixteen at a time.
  float sixteen[lanes];
  std::size_t first_of_sixteen = scales;
  const auto read_scale = [&](std::size_t index) {
    if (index - first_of_sixteen >= lanes) {
      if (index + lanes > scales) return scale(index);
      store(sixteen_scales(index), sixteen);
      first_of_sixteen = index;
    }
    return sixteen[index - first_of_sixteen];
  };
  const float* const begin = out;
  std::size_t row = first / row_size;
  std::size_t column = first % row_size;
  for (float* const end = out + count; out != end; ++row, column = 0) {
    const std::size_t in_row = std::min(row_size - column, static_cast<std::size_t>(end - out));
    std::size_t index = is_one_row ? column / width : layout_.index(row, column, row_size);
    const bool is_row_before =
        row % layout_.tile_rows != 0 && static_cast<std::size_t>(out - begin) >= row_size;
    if (is_row_before) {
      std::copy_n(out - row_size, in_row, out);
      out += in_row;
    } else if (width == 1) {
      read(index, in_row, out);
      out += in_row;
    } else {
      std::size_t left_in_tile = width - column % width;
      for (float* const row_end = out + in_row; out != row_end; ++index, left_in_tile = width) {
        const std::size_t in_tile = std::min(left_in_tile, static_cast<std::size_t>(row_end - out));
        fill(out, in_tile, read_scale(index));
        out += in_tile;
      }
    }
  }
  return 1;
}

inline void EncodedArray::write_scales(std::span<const float> scales) {
  if (scales.empty()) return;
  std::uint8_t* const to = scales_.mutable_data();
  if (layout_.format == ScaleFormat::binary32) {
    std::memcpy(to, scales.data(), scales.size_bytes());
    return;
  }
  const bool is_power = layout_.format == ScaleFormat::power_of_two;
  const std::size_t count = scale_count();
  for (std::size_t i = 0; i < count; ++i) {
    require(is_power ? detail::find_power_code(scales[i], to[i])
                     : detail::find_float8_code(scales[i], to[i]),
            "EncodedArray::encode", "expected ",
            is_power ? "a power of two from 2^-127 to 2^127 or NaN"
                     : "a number of float8_e4m3fn or NaN",
            " as scale ", i, ", got ", scales[i]);
  }
  if (has_common_scale(layout_.format)) std::memcpy(to + count, &scales[count], sizeof(float));
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
  float scales[detail::scale_chunk_room];
  read_scales(first, count, ReadScales::scales, scales);
  detail::multiply_chunk(out, scales, count, out);
}

inline void EncodedArray::read_scales(std::size_t first, std::span<float> out) const {
  require_elements("EncodedArray::read_scales", first, out.size());
  for (std::size_t i = 0; i < out.size(); i += detail::code_chunk) {
    float scales[detail::scale_chunk_room];
    const std::size_t count = std::min(detail::code_chunk, out.size() - i);
    read_scales(first + i, count, ReadScales::scales, scales);
    std::copy_n(scales, count, &out[i]);
  }
}

inline void EncodedArray::divide_by_scales(std::size_t first, std::size_t count, const float* in,
                                           float* out) const {
  float scales[detail::scale_chunk_room];
  read_scales(first, count, ReadScales::divisors, scales);
  if (layout_.format == ScaleFormat::power_of_two) {
    detail::multiply_chunk(in, scales, count, out);  // with reciprocals
  } else {
    detail::divide_chunk(in, scales, count, out);
  }
}

inline void EncodedArray::write_codes(const EncodedArray& source, const EncodeOptions& options) {
  const std::span<std::uint8_t> codes = codes_.mutable_span();
  const bool is_float = source.format_.is_binary32() && !source.has_scales();
  detail::EncodeScaled encode_scaled = nullptr;
  if (has_scales() && is_float && options.scale == 1 &&
      options.rounding == Rounding::nearest_even && options.overflow == Overflow::saturate) {
    encode_scaled = layout_.format == ScaleFormat::power_of_two
                        ? detail::find_encode_scaled<false>(format_.spec())
                        : detail::find_encode_scaled<true>(format_.spec());
  }
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
      const std::size_t at = format_.code_bytes(first);
      const auto to = codes.subspan(at, format_.code_bytes(first + count) - at);
      if (encode_scaled != nullptr) {
        float scales[detail::scale_chunk_room];
        const std::size_t run = read_scales(first, count, ReadScales::divisors_of_runs, scales);
        std::uint8_t bytes[detail::code_chunk];
        std::uint8_t* const unpacked = format_.storage_bits() == 8 ? to.data() : bytes;
        encode_scaled(in, scales, run, count, unpacked);
        if (unpacked == bytes) {
          detail::pack_codes(format_.spec().bits(), {bytes, count}, to.data());
        }
        continue;
      }
      EncodeOptions part = options;
      part.first_element += first;
      if (has_scales()) {
        if (options.scale != 1) {
          detail::scale_chunk(in, count, options.scale, numbers);
          in = numbers;
        }
        part.scale = 1;
        divide_by_scales(first, count, in, numbers);
        in = numbers;
      }
      format_.encode({in, count}, to, part);
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

inline EncodedArray EncodedArray::encode_under(const EncodedArray& source, const Format& format,
                                               const ScaleLayout& layout,
                                               Array<std::uint8_t> scale_codes,
                                               const EncodeOptions& options,
                                               std::pmr::memory_resource* resource) {
  Array<std::uint8_t> codes(Shape{code_bytes(source.shape_, format)},
                            resource != nullptr ? resource : source.resource());
  return encode_under(source, format, layout, std::move(scale_codes), std::move(codes), options);
}

inline EncodedArray EncodedArray::encode_under(const EncodedArray& source, const Format& format,
                                               const ScaleLayout& layout,
                                               Array<std::uint8_t> scale_codes,
                                               Array<std::uint8_t> codes,
                                               const EncodeOptions& options) {
  detail::check_options(options);
  require(!source.format_.is_binary64(), "EncodedArray::encode_under",
          "expected an array that binary32 holds, to round it to ", format, ", got one of float64");
  EncodedArray result(source.shape_, format, std::move(codes), layout, std::move(scale_codes));
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
  require_elements("EncodedArray::decode", first, out.size());
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
