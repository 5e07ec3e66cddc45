// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. float16 and bfloat16 against the extended floating-point types of C++23.

#include "unit_scaling/formats/interop.hpp"

#include <gtest/gtest.h>

#include <cstdint>

#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {
namespace interop_test {

#if defined(__STDCPP_FLOAT16_T__)
TEST(Interop, Float16IsTheTypeOfTheLanguageCodeForCode) {
  using unit_scaling::float16;
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const float16 number = float16::from_bits(static_cast<std::uint16_t>(code));
    const std::float16_t other = unit_scaling::to_std(number);
    ASSERT_EQ(unit_scaling::from_std(other).bits(), number.bits());
    if (!isnan(number)) {
      ASSERT_EQ(static_cast<double>(other), static_cast<double>(number));
    }
  }
}
#endif

#if defined(__STDCPP_BFLOAT16_T__)
TEST(Interop, Bfloat16IsTheTypeOfTheLanguageCodeForCode) {
  using unit_scaling::bfloat16;
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const bfloat16 number = bfloat16::from_bits(static_cast<std::uint16_t>(code));
    const std::bfloat16_t other = unit_scaling::to_std(number);
    ASSERT_EQ(unit_scaling::from_std(other).bits(), number.bits());
    if (!isnan(number)) {
      ASSERT_EQ(static_cast<double>(other), static_cast<double>(number));
    }
  }
}
#endif

#if !defined(__STDCPP_FLOAT16_T__) && !defined(__STDCPP_BFLOAT16_T__)
TEST(Interop, NeedsTheTypesOfCpp23) { GTEST_SKIP() << "This compiler has no <stdfloat> types."; }
#endif

}  // namespace interop_test
}  // namespace unit_scaling_test
