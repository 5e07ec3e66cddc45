// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. `float16` and `bfloat16` as the extended floating-point types of C++23 and back,
/// where the compiler has those. The types of Eigen are served by eigen_traits.hpp.
#pragma once

#if defined(__has_include)
#if __has_include(<stdfloat>)
#include <stdfloat>
#endif
#endif

#if defined(__STDCPP_FLOAT16_T__) || defined(__STDCPP_BFLOAT16_T__)
#include <bit>
#include <cstdint>

#include "unit_scaling/formats/catalogue.hpp"
#endif

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

#if defined(__STDCPP_FLOAT16_T__)
/// The same number, code for code, as a type of the language.
[[nodiscard]] constexpr std::float16_t to_std(float16 value) noexcept {
  return std::bit_cast<std::float16_t>(value.bits());
}
/// The same number, code for code.
[[nodiscard]] constexpr float16 from_std(std::float16_t value) noexcept {
  return float16::from_bits(std::bit_cast<std::uint16_t>(value));
}
#endif

#if defined(__STDCPP_BFLOAT16_T__)
/// The same number, code for code, as a type of the language.
[[nodiscard]] constexpr std::bfloat16_t to_std(bfloat16 value) noexcept {
  return std::bit_cast<std::bfloat16_t>(value.bits());
}
/// The same number, code for code.
[[nodiscard]] constexpr bfloat16 from_std(std::bfloat16_t value) noexcept {
  return bfloat16::from_bits(std::bit_cast<std::uint16_t>(value));
}
#endif

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
