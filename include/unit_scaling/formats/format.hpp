// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. A number format chosen at run time, simulated in binary32.
#pragma once

#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/format_spec.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A number format known at run time: any exponent of 1 to 8 bits and fraction of up to 23, as long
/// as binary32 holds its numbers. It rounds binary32 numbers to numbers of the format, which stay
/// binary32. Where a `Minifloat` of the format exists, the results are the same to the bit.
class Format {
 public:
  /// @throws std::invalid_argument if binary32 does not hold the numbers of the format.
  explicit Format(const FormatSpec& spec) : spec_(spec) {
    if (!spec.is_within_binary32()) {
      throw std::invalid_argument(
          "Format: expected 1 to 8 exponent bits, 0 to 23 mantissa bits, in a format with "
          "infinities at least 2 and 1, and numbers within binary32, got " +
          std::to_string(spec.exponent_bits) + " and " + std::to_string(spec.mantissa_bits) +
          " with bias " + std::to_string(spec.bias));
    }
  }

  /// The format of a name such as "float8_e4m3fn", "e4m3fn", "e5m2", "e3m7" (laid out as IEEE 754
  /// prescribes), "e4m3b11fnuz", "float16" or "bfloat16". The suffix finite, which no name of the
  /// field has, is for formats without NaN, and the field's float6 and float4 formats mean it by
  /// fn.
  /// @throws std::invalid_argument for anything else.
  [[nodiscard]] static Format parse(std::string_view name) {
    if (name == "float16") return Format(float16::format);
    if (name == "bfloat16") return Format(bfloat16::format);
    if (name == "float32") return Format(FormatSpec::ieee(8, 23));
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
          "e4m3fn or e4m3b11fnuz; or float16, bfloat16 or float32");
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
      // So the Microscaling formats are called, though they have no NaN.
      const bool is_finite = exponent_bits + mantissa_bits < 6;
      spec = is_finite ? FormatSpec::finite(exponent_bits, mantissa_bits)
                       : FormatSpec::fn(exponent_bits, mantissa_bits);
    } else if (rest == "fnuz") {
      spec = FormatSpec::fnuz(exponent_bits, mantissa_bits);
    } else if (rest == "finite") {
      spec = FormatSpec::finite(exponent_bits, mantissa_bits);
    } else if (rest == "fnu" && mantissa_bits == 0) {
      spec = FormatSpec::fnu(exponent_bits);
    } else {
      fail("one of the suffixes fn, fnuz, finite, fnu (of e8m0) or none");
    }
    if (has_bias) spec.bias = bias;
    if (declared_bits != 0 && declared_bits != spec.bits()) fail("as many bits as it declares");
    return Format(spec);
  }

  [[nodiscard]] const FormatSpec& spec() const& noexcept { return spec_; }
  [[nodiscard]] FormatSpec spec() const&& noexcept { return spec_; }

  /// The number of the format that `value` rounds to.
  /// @param random for Rounding::stochastic, as StochasticRounding::word() gives it.
  [[nodiscard]] constexpr float quantise(float value, Overflow overflow,
                                         Rounding rounding = Rounding::nearest_even,
                                         std::uint32_t random = 0) const noexcept {
    return std::bit_cast<float>(
        quantise_lanes(overflow, rounding, std::bit_cast<std::uint32_t>(value), random));
  }

  /// Rounds every element, times the scale. `out` may be `in`, but must not overlap it otherwise.
  /// @throws std::invalid_argument if the sizes differ, or for stochastic rounding without its
  /// bits.
  void quantise(std::span<const float> in, std::span<float> out,
                const EncodeOptions& options = {}) const {
    detail::check_sizes("unit_scaling::Format::quantise", in.size(), out.size());
    detail::check_options(options);
    detail::with_encode_modes(options.overflow, options.rounding, [&]<class Modes>(Modes) {
      parallel_ranges(in.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
        detail::for_encoded_vectors<Modes::rounding == Rounding::stochastic>(
            &in[begin], &out[begin], end - begin, options, options.first_element + begin,
            [&](uint32x16, uint32x16 bits, uint32x16 random, float* to)
                __attribute__((always_inline)) {
                  store(bit_cast_to<float32x16>(
                            quantise_lanes(Modes::overflow, Modes::rounding, bits, random)),
                        to);
                });
      });
    });
  }

  friend bool operator==(const Format&, const Format&) = default;

 private:
  template <class U>
  [[nodiscard, gnu::always_inline]] constexpr U quantise_lanes(Overflow overflow, Rounding rounding,
                                                               U bits, U random) const noexcept {
    const FormatSpec spec = spec_;  // a copy, which the compiler knows not to change in the loop
    return detail::decode_lanes(spec, detail::encode_lanes(spec, overflow, rounding, bits, random));
  }

  FormatSpec spec_;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
