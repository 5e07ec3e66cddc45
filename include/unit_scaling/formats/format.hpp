// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. A number format chosen at run time: its numbers in binary32, and its codes.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/bit_packing.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/format_spec.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

/// Codes of formats known at run time that bulk conversions hold, each in a word of its own; they
/// stay in the cache. A multiple of every StochasticRounding::group_size().
inline constexpr std::size_t code_chunk = 1024;

/// The codes of numbers, times options.scale, of which the first is element `first` of the tensor,
/// rounded as Modes say.
/// @pre count <= code_chunk, in default arithmetic
template <class Modes>
void encode_chunk_with(FormatSpec spec, const float* in, std::size_t count,
                       const EncodeOptions& options, std::uint64_t first, std::uint32_t* codes) {
  for_encoded_vectors<Modes::rounding == Rounding::stochastic>(
      in, codes, count, options, first,
      [spec](uint32x16, uint32x16 bits, uint32x16 random, std::uint32_t * to)
          __attribute__((always_inline)) {
            store(encode_lanes(spec, Modes::overflow, Modes::rounding, bits, random), to);
          });
}

/// The same, rounded as the options say.
inline void encode_chunk(FormatSpec spec, const float* in, std::size_t count,
                         const EncodeOptions& options, std::uint64_t first, std::uint32_t* codes) {
  with_encode_modes(options.overflow, options.rounding, [&]<class Modes>(Modes) {
    encode_chunk_with<Modes>(spec, in, count, options, first, codes);
  });
}

/// The numbers that codes stand for.
inline void decode_chunk(FormatSpec spec, const std::uint32_t* codes, std::size_t count,
                         float* out) {
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const uint32x16 bits = decode_lanes(spec, load<uint32x16>(codes + i));
    store(bit_cast_to<float32x16>(bits), out + i);
  }
  for (; i < count; ++i) out[i] = std::bit_cast<float>(decode_lanes(spec, codes[i]));
}

/// Numbers times `scale`, in binary32; copies of them if that is 1.
/// @pre in default arithmetic
[[gnu::noinline]] inline void scale_chunk(const float* in, std::size_t count, float scale,
                                          float* out) {
  if (scale == 1) {
    std::memmove(out, in, count * sizeof(float));
  } else {
    for (std::size_t i = 0; i < count; ++i) out[i] = in[i] * scale;
  }
}

/// Sixteen words as codes of so many bytes each, at `to`, which need not be aligned.
template <class Code>
[[gnu::always_inline]] inline void store_words(uint32x16 words, std::uint8_t* to) {
  const auto codes = convert_to<std::conditional_t<sizeof(Code) == 1, uint8x16, uint16x16>>(words);
  std::memcpy(to, &codes, sizeof(codes));
}

/// Writes words at `to` as codes of so many bytes each.
template <class Code>
void narrow_codes(const std::uint32_t* codes, std::size_t count, std::uint8_t* to) {
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    store_words<Code>(load<uint32x16>(codes + i), to + i * sizeof(Code));
  }
  for (; i < count; ++i) {
    const auto code = static_cast<Code>(codes[i]);
    std::memcpy(to + i * sizeof(Code), &code, sizeof(code));
  }
}
/// The reverse.
template <class Code>
void widen_codes(const std::uint8_t* from, std::size_t count, std::uint32_t* codes) {
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    std::conditional_t<sizeof(Code) == 1, uint8x16, uint16x16> narrow;
    std::memcpy(&narrow, from + i * sizeof(Code), sizeof(narrow));
    store(convert_to<uint32x16>(narrow), codes + i);
  }
  for (; i < count; ++i) {
    Code code;
    std::memcpy(&code, from + i * sizeof(Code), sizeof(code));
    codes[i] = code;
  }
}

/// Codes of one or two bytes of numbers rounded to nearest, ties to even, without words on the way.
/// @pre has_rounding_sum(spec), and in default arithmetic
template <class Code>
[[gnu::noinline]] inline void encode_to_nearest(const FormatSpec& of, Overflow overflow,
                                                const float* in, std::size_t count,
                                                std::uint8_t* to) {
  const FormatSpec spec = of;  // a copy, which the compiler knows not to change in the loop
  const auto encode_at = [=](const float* from, std::uint8_t* target)
      __attribute__((always_inline)) {
    const auto bits = bit_cast_to<uint32x16>(load<float32x16>(from));
    store_words<Code>(encode_by_sum(spec, overflow, bits), target);
  };
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) encode_at(in + i, to + i * sizeof(Code));
  if (i < count) {
    float padded[lanes] = {};
    std::uint8_t codes[lanes * sizeof(Code)];
    std::copy_n(in + i, count - i, padded);
    encode_at(padded, codes);
    std::memcpy(to + i * sizeof(Code), codes, (count - i) * sizeof(Code));
  }
}

}  // namespace detail

/// A number format known at run time: any exponent of 1 to 8 bits and fraction of up to 23, as long
/// as binary32 holds its numbers; or binary64, which holds all of binary32.
///
/// It rounds binary32 numbers to numbers of the format, which stay binary32 (`quantise`) or become
/// its codes in bytes (`encode`, `decode`). Where a `Minifloat` of the format exists, the results
/// are the same to the bit. Binary32 and binary64 take the numbers unchanged whatever the options
/// say, but for the factor.
///
/// Codes narrower than a byte follow each other without gaps, as bit_packing.hpp says. Wider ones
/// take whole bytes, in the order of the processor: 1 for a code of 8 bits, 2 up to 16, 4 up to 32,
/// and 8 in binary64.
class Format {
 public:
  /// Binary32.
  constexpr Format() noexcept : Format(FormatSpec::ieee(8, 23), 32) {}

  /// @throws std::invalid_argument if binary32 does not hold the numbers of the format.
  explicit Format(const FormatSpec& spec)
      : Format(spec, spec.is_within_binary32() ? spec.bits() : 0) {
    if (!spec.is_within_binary32()) {
      throw std::invalid_argument(
          "Format: expected 1 to 8 exponent bits, 0 to 23 mantissa bits, in a format with "
          "infinities at least 2 and 1, and numbers within binary32, got " +
          std::to_string(spec.exponent_bits) + " and " + std::to_string(spec.mantissa_bits) +
          " with bias " + std::to_string(spec.bias));
    }
  }

  /// The format of a storage type.
  template <Storage T> [[nodiscard]] static constexpr Format of() noexcept {
    if constexpr (std::same_as<T, double>) {
      return {FormatSpec{11, 52, 1023, Specials::ieee}, 64};
    } else if constexpr (std::same_as<T, float>) {
      return {};
    } else {
      return {T::format, T::format.bits()};
    }
  }

  /// The format of a name such as "float8_e4m3fn", "e4m3fn", "e5m2", "e3m7" (laid out as IEEE 754
  /// prescribes), "e4m3b11fnuz", "float16", "bfloat16", "float32" or "float64". The suffix finite,
  /// which no name of the field has, is for formats without NaN, and the field's float6 and float4
  /// formats mean it by fn; so formats of that width whose one NaN has all magnitude bits set, as
  /// fn means it in wider ones, have the suffix nan. "int2" to "int8" are the integers from
  /// -(2^(bits - 1) - 1) to 2^(bits - 1) - 1, int8 from -127 to 127, as FormatSpec::integer has
  /// them.
  /// @throws std::invalid_argument for anything else.
  [[nodiscard]] static Format parse(std::string_view name) {
    if (name == "float16") return of<float16>();
    if (name == "bfloat16") return of<bfloat16>();
    if (name == "float32") return of<float>();
    if (name == "float64") return of<double>();
    const auto fail = [&](const char* why) {
      throw std::invalid_argument("format '" + std::string(name) + "': expected " + why);
    };
    std::string_view rest = name;
    int declared_bits = 0;
    const auto number_after = [&](std::string_view prefix, int& number) {
      if (!rest.starts_with(prefix)) return false;
      const char* begin = rest.data() + prefix.size();
      const char* end = rest.data() + rest.size();
      // A sign or a leading zero is in no name.
      if (begin == end || *begin == '-' ||
          (*begin == '0' && begin + 1 != end && begin[1] >= '0' && begin[1] <= '9'))
        return false;
      const auto [after, error] = std::from_chars(begin, end, number);
      if (error != std::errc{}) return false;
      rest.remove_prefix(static_cast<std::size_t>(after - rest.data()));
      return true;
    };
    if (number_after("int", declared_bits)) {
      if (!rest.empty() || declared_bits < 2 || declared_bits > detail::widest_named_integer) {
        fail("one of int2 to int8");
      }
      return Format(FormatSpec::integer(declared_bits));
    }
    if (number_after("float", declared_bits)) {
      if (declared_bits == 0) fail("as many bits as it declares");
      if (!rest.starts_with('_')) fail("float8_e4m3fn or the like");
      rest.remove_prefix(1);
    }
    int exponent_bits = 0;
    int mantissa_bits = 0;
    if (!number_after("e", exponent_bits) || !number_after("m", mantissa_bits)) {
      fail(
          "e, exponent bits, m, mantissa bits and maybe b with a bias and a suffix, such as e3m4, "
          "e4m3fn or e4m3b11fnuz; or int2 to int8, float16, bfloat16, float32 or float64");
    }
    if (exponent_bits < 1 || exponent_bits > 8 || mantissa_bits < 0 || mantissa_bits > 23) {
      fail("1 to 8 exponent bits and 0 to 23 mantissa bits");
    }
    int bias = 0;
    const bool has_bias = number_after("b", bias);
    FormatSpec spec{};
    if (rest.empty()) {
      spec = FormatSpec::ieee(exponent_bits, mantissa_bits);
    } else if (rest == "fn") {
      spec = detail::is_fn_without_nan(exponent_bits, mantissa_bits)
                 ? FormatSpec::finite(exponent_bits, mantissa_bits)
                 : FormatSpec::fn(exponent_bits, mantissa_bits);
    } else if (rest == "nan" && detail::is_fn_without_nan(exponent_bits, mantissa_bits)) {
      spec = FormatSpec::fn(exponent_bits, mantissa_bits);
    } else if (rest == "fnuz") {
      spec = FormatSpec::fnuz(exponent_bits, mantissa_bits);
    } else if (rest == "finite") {
      spec = FormatSpec::finite(exponent_bits, mantissa_bits);
    } else if (rest == "fnu" && mantissa_bits == 0) {
      spec = FormatSpec::fnu(exponent_bits);
    } else {
      fail("one of the suffixes fn, fnuz, finite, fnu (of e8m0), nan or none");
    }
    if (has_bias) spec.bias = bias;
    if (declared_bits != 0 && declared_bits != spec.bits()) fail("as many bits as it declares");
    return Format(spec);
  }

  /// @throws std::invalid_argument for binary64, which is beyond what a FormatSpec can describe.
  [[nodiscard]] const FormatSpec& spec() const& {
    if (is_binary64()) {
      throw std::invalid_argument("Format: expected a format within binary32, got float64");
    }
    return spec_;
  }
  [[nodiscard]] FormatSpec spec() const&& { return spec(); }

  [[nodiscard]] constexpr bool is_binary32() const noexcept {
    return spec_ == FormatSpec::ieee(8, 23);
  }
  [[nodiscard]] constexpr bool is_binary64() const noexcept { return storage_bits_ == 64; }

  /// Bits that a code takes in memory: its own below a byte, else 8, 16, 32 or 64.
  [[nodiscard]] constexpr std::size_t storage_bits() const noexcept { return storage_bits_; }

  /// Bytes that the codes of `count` numbers take.
  /// @throws ShapeError if std::size_t cannot count them.
  [[nodiscard]] constexpr std::size_t code_bytes(std::size_t count) const {
    return storage_bits_ <= 8 ? detail::packed_code_bytes(storage_bits_, count)
                              : size_product("Format::code_bytes", {count, storage_bits_ / 8});
  }

  /// The number of the format that `value` rounds to.
  /// @param random for Rounding::stochastic, as StochasticRounding::word() gives it.
  [[nodiscard]] constexpr float quantise(float value, Overflow overflow,
                                         Rounding rounding = Rounding::nearest_even,
                                         std::uint32_t random = 0) const noexcept {
    if (keeps_binary32()) return value;
    return std::bit_cast<float>(detail::decode_lanes(
        spec_, detail::encode_lanes(spec_, overflow, rounding, std::bit_cast<std::uint32_t>(value),
                                    random)));
  }

  /// Rounds every element, times the scale. `out` may be `in`, but must not overlap it otherwise.
  /// @throws std::invalid_argument if the sizes differ, or for stochastic rounding without its
  /// bits.
  void quantise(std::span<const float> in, std::span<float> out,
                const EncodeOptions& options = {}) const {
    detail::check_sizes("unit_scaling::Format::quantise", in.size(), out.size());
    detail::check_options(options);
    for_each_chunk(in.size(), [&](std::size_t first, std::size_t count) {
      if (keeps_binary32()) {
        detail::scale_chunk(&in[first], count, options.scale, &out[first]);
      } else if (storage_bits_ >= 8 && options.rounding == Rounding::nearest_even &&
                 has_short_way()) {
        std::uint8_t codes[detail::code_chunk * sizeof(std::uint16_t)];
        encode_some(&in[first], count, options, 0, codes);
        decode_some({codes, code_bytes(count)}, count, &out[first]);
      } else {
        std::uint32_t codes[detail::code_chunk];
        detail::encode_chunk(spec_, &in[first], count, options, options.first_element + first,
                             codes);
        detail::decode_chunk(spec_, codes, count, &out[first]);
      }
    });
  }

  /// The codes of every element, times the scale, rounded. The spans must not overlap.
  /// @throws std::invalid_argument if there are not code_bytes(in.size()) bytes, or for stochastic
  /// rounding without its bits.
  void encode(std::span<const float> in, std::span<std::uint8_t> codes,
              const EncodeOptions& options = {}) const {
    check_bytes("unit_scaling::Format::encode", in.size(), codes.size());
    detail::check_options(options);
    for_each_chunk(in.size(), [&](std::size_t first, std::size_t count) {
      encode_some(&in[first], count, options, options.first_element + first,
                  &codes[code_bytes(first)]);
    });
  }

  /// The numbers that codes stand for: exactly, but that of binary64 rounds to nearest. The spans
  /// must not overlap. @pre bits of whole bytes that belong to no code are zero
  /// @throws std::invalid_argument if there are not code_bytes(out.size()) bytes.
  void decode(std::span<const std::uint8_t> codes, std::span<float> out) const {
    check_bytes("unit_scaling::Format::decode", out.size(), codes.size());
    for_each_chunk(out.size(), [&](std::size_t first, std::size_t count) {
      const std::size_t begin = code_bytes(first);
      decode_some(codes.subspan(begin, code_bytes(first + count) - begin), count, &out[first]);
    });
  }

  friend constexpr bool operator==(const Format&, const Format&) = default;

 private:
  constexpr Format(const FormatSpec& spec, int bits) noexcept
      : spec_(spec),
        storage_bits_(bits <= 8 ? static_cast<std::size_t>(bits)
                                : std::bit_ceil(static_cast<std::size_t>(bits))) {}

  /// Whether every binary32 number is one of the format.
  [[nodiscard]] constexpr bool keeps_binary32() const noexcept {
    return is_binary32() || is_binary64();
  }

  /// Calls `body(first, count)` for every code_chunk of elements, in default arithmetic.
  template <class Body> static void for_each_chunk(std::size_t size, const Body& body) {
    parallel_ranges(size, detail::convert_grain, [&](std::size_t begin, std::size_t end) {
      for (std::size_t first = begin; first < end; first += detail::code_chunk) {
        body(first, std::min(detail::code_chunk, end - first));
      }
    });
  }

  void check_bytes(std::string_view function, std::size_t elements, std::size_t bytes) const;

  /// Of a chunk.
  void encode_some(const float* in, std::size_t count, const EncodeOptions& options,
                   std::uint64_t first, std::uint8_t* to) const {
    const bool is_to_nearest = options.rounding == Rounding::nearest_even;
    if (!keeps_binary32() && !(is_to_nearest && has_short_way())) {
      std::uint32_t codes[detail::code_chunk];
      detail::encode_chunk(spec_, in, count, options, first, codes);
      if (storage_bits_ == 32) {
        std::memcpy(to, codes, count * sizeof(codes[0]));
      } else if (storage_bits_ == 16) {
        detail::narrow_codes<std::uint16_t>(codes, count, to);
      } else {
        with_bytes(count, to, [&](std::uint8_t* bytes) {
          detail::narrow_codes<std::uint8_t>(codes, count, bytes);
        });
      }
      return;
    }
    float scaled[detail::code_chunk];
    if (options.scale != 1) {
      detail::scale_chunk(in, count, options.scale, scaled);
      in = scaled;
    }
    if (is_binary32()) {
      std::memcpy(to, in, count * sizeof(float));
    } else if (is_binary64()) {
      double wide[detail::code_chunk];
      for (std::size_t i = 0; i < count; ++i) wide[i] = static_cast<double>(in[i]);
      std::memcpy(to, wide, count * sizeof(double));
    } else if (spec_ == float16::format) {
      encode_as<float16>(in, count, options.overflow, to);
    } else if (spec_ == bfloat16::format) {
      encode_as<bfloat16>(in, count, options.overflow, to);
    } else if (storage_bits_ == 16) {
      detail::encode_to_nearest<std::uint16_t>(spec_, options.overflow, in, count, to);
    } else {
      with_bytes(count, to, [&](std::uint8_t* bytes) {
        detail::encode_to_nearest<std::uint8_t>(spec_, options.overflow, in, count, bytes);
      });
    }
  }

  /// Whether rounding to nearest takes fewer instructions than the other modes do.
  [[nodiscard]] bool has_short_way() const noexcept {
    return detail::has_rounding_sum(spec_) || spec_.is_upper_half_of_binary32();
  }

  /// As the storage type, for which the processor may have an instruction.
  template <AnyMinifloat T>
  static void encode_as(const float* in, std::size_t count, Overflow overflow, std::uint8_t* to) {
    T codes[detail::code_chunk];
    unit_scaling::encode(std::span(in, count), std::span(codes, count), overflow);
    std::memcpy(to, codes, count * sizeof(T));
  }

  /// Calls `write` with room for codes of one byte each, and packs them if they are narrower.
  template <class Write>
  void with_bytes(std::size_t count, std::uint8_t* to, const Write& write) const {
    if (storage_bits_ == 8) return write(to);
    std::uint8_t bytes[detail::code_chunk];
    write(bytes);
    detail::pack_codes(spec_.bits(), {bytes, count}, to);
  }

  void decode_some(std::span<const std::uint8_t> from, std::size_t count, float* out) const {
    if (is_binary32()) {
      std::memcpy(out, from.data(), count * sizeof(float));
      return;
    }
    if (is_binary64()) {
      double wide[detail::code_chunk];
      std::memcpy(wide, from.data(), count * sizeof(double));
      for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(wide[i]);
      return;
    }
    if (spec_ == float16::format) {
      float16 codes[detail::code_chunk];
      std::memcpy(static_cast<void*>(codes), from.data(), count * sizeof(float16));
      unit_scaling::decode(std::span<const float16>(codes, count), std::span(out, count));
      return;
    }
    std::uint32_t codes[detail::code_chunk];
    if (storage_bits_ < 8) {
      std::uint8_t bytes[detail::code_chunk];
      detail::unpack_codes(spec_.bits(), from, {bytes, count});
      detail::widen_codes<std::uint8_t>(bytes, count, codes);
    } else if (storage_bits_ == 8) {
      detail::widen_codes<std::uint8_t>(from.data(), count, codes);
    } else if (storage_bits_ == 16) {
      detail::widen_codes<std::uint16_t>(from.data(), count, codes);
    } else {
      std::memcpy(codes, from.data(), count * sizeof(codes[0]));
    }
    detail::decode_chunk(spec_, codes, count, out);
  }

  FormatSpec spec_;
  std::size_t storage_bits_;
};

/// The name that Format::parse() takes: that of the field where it has one, such as
/// "float8_e4m3fn". Formats of a negative bias have a name of the same form, which it does not
/// take.
[[nodiscard]] inline std::string to_string(const Format& format) {
  if (format.is_binary64()) return std::string(storage_name<double>);
  const detail::FormatName name = detail::make_format_name(format.spec());
  return {name.characters.data(), name.size};
}

inline void Format::check_bytes(std::string_view function, std::size_t elements,
                                std::size_t bytes) const {
  if (bytes == code_bytes(elements)) return;
  throw std::invalid_argument(std::string(function) + ": expected " +
                              std::to_string(code_bytes(elements)) + " bytes for " +
                              std::to_string(elements) + " codes of " + to_string(*this) +
                              ", got " + std::to_string(bytes));
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
