// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the numbers of codes of at most a byte each, for operands of products that are
/// decoded by looking them up.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Whether a `CodeTable` holds the numbers of a format: codes take at most a byte, code 0 is zero,
/// bfloat16 holds every number, and the highest of eight bits is the sign of any number.
[[nodiscard]] constexpr bool has_code_table(const FormatSpec& format) {
  return bfloat16::format.holds(format) && format.has_zero() &&
         (format.bits() < 8 || (format.bits() == 8 && format.has_negative_zero()));
}

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)

/// Whether to look codes up takes a third of the instructions that computing their numbers does.
inline constexpr bool looks_codes_up_fast = true;

/// Lower and upper bytes of the bfloat16 numbers of codes without their eighth bit, which is the
/// sign of a code of eight bits.
struct CodeTable {
  alignas(64) std::array<std::uint8_t, 128> lower{};
  alignas(64) std::array<std::uint8_t, 128> upper{};

  /// @pre has_code_table(format)
  explicit constexpr CodeTable(const FormatSpec& format) {
    const std::uint32_t codes = format.bits() < 8 ? 1U << format.bits() : 128;
    for (std::uint32_t code = 0; code < codes; ++code) {
      const std::uint32_t bits = unit_scaling::detail::decode_lanes(format, code);
      lower[code] = static_cast<std::uint8_t>(bits >> 16);
      upper[code] = static_cast<std::uint8_t>(bits >> 24);
    }
  }
};

#else

inline constexpr bool looks_codes_up_fast = false;

/// The numbers of codes.
struct CodeTable {
  std::array<float, 256> numbers{};

  /// @pre has_code_table(format)
  explicit constexpr CodeTable(const FormatSpec& format) {
    const std::uint32_t codes = 1U << format.bits();
    for (std::uint32_t code = 0; code < codes; ++code) {
      numbers[code] = std::bit_cast<float>(unit_scaling::detail::decode_lanes(format, code));
    }
  }
};

#endif

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
