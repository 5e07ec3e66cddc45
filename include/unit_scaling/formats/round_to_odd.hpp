// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Rounding to odd in binary64: how an exact result that binary64 cannot hold is
/// carried to a narrower format without rounding twice.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::detail {

/// The number itself, of which the compiler is to know nothing, so that it neither reassociates
/// what made it with what is made of it, nor takes its reciprocal. Under -ffast-math, which lets
/// compilers do so, GCC has no other way to forbid it in part of a file.
template <std::floating_point T>
[[nodiscard, gnu::always_inline]] constexpr T opaque(T value) noexcept {
  if (!std::is_constant_evaluated()) {
#if defined(__SSE2__)
    if constexpr (sizeof(T) <= sizeof(double)) {
      asm("" : "+x"(value));
    } else {
      asm("" : "+m"(value));
    }
#elif defined(__aarch64__)
    asm("" : "+w"(value));
#else
    asm("" : "+m"(value));
#endif
  }
  return value;
}

/// Rounds an exact number to odd, given a neighbour of it and on which side of that it lies.
///
/// A number that binary64 does not hold goes to the one of its two neighbours whose last bit is
/// set. Rounding the result in any mode to a format that is narrower by two bits or more gives what
/// rounding the exact number would (Boldo and Melquiond, "Emulation of FMA and correctly rounded
/// sums: proved algorithms using rounding to odd", IEEE Transactions on Computers 57(4), 2008).
/// @param value a binary64 number next to the exact one or equal to it. An infinity or a NaN is
///        returned as it is, and so is zero.
/// @param remainder of the sign of the exact number less `value`.
[[nodiscard]] constexpr double round_to_odd(double value, double remainder) noexcept {
  constexpr std::uint64_t sign_mask = std::uint64_t{1} << 63;
  constexpr std::uint64_t infinity = 0x7ff0'0000'0000'0000U;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint64_t magnitude = bits & ~sign_mask;
  const bool is_even = (bits & 1U) == 0U;
  if (magnitude == 0U || magnitude >= infinity || !is_even || remainder == 0.0) return value;
  const bool is_larger = (remainder > 0.0) == ((bits & sign_mask) == 0U);
  return std::bit_cast<double>(is_larger ? bits + 1U : bits - 1U);
}

}  // namespace UNIT_SCALING_NAMESPACE::detail

UNIT_SCALING_IEEE_END
