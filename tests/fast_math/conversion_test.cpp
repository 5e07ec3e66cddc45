// SPDX-License-Identifier: MIT
// Conversions in a program compiled and linked with -ffast-math, which lets the compiler reorder
// sums and forget NaN and infinity, and makes the processor flush subnormal numbers.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "formats/format_cases.hpp"
#include "unit_scaling/formats/encode.hpp"

#if !defined(__FAST_MATH__)
#error "compile this with -ffast-math"
#endif

namespace conversion_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr std::uint32_t infinity_bits = 0x7f80'0000U;

/// The number of bits of binary32 in binary64, by integers: the processor would flush some.
double value_of(std::uint32_t bits) {
  const std::uint32_t field = bits >> 23 & 0xffU;
  const std::uint32_t significand = (bits & 0x7f'ffffU) | (field != 0 ? 0x80'0000U : 0U);
  const double magnitude =
      std::ldexp(static_cast<double>(significand), static_cast<int>(field != 0 ? field : 1U) - 150);
  return bits >> 31 != 0 ? -magnitude : magnitude;
}

/// Bits about every number of the format and every midpoint, and a sample of all others. Finite.
std::vector<std::uint32_t> critical_bits(const FormatOracle& oracle) {
  std::vector<std::uint32_t> result;
  const auto add = [&](std::uint32_t bits) {
    for (std::uint32_t near = bits == 0 ? 0 : bits - 1; near <= bits + 1; ++near) {
      if (near >= infinity_bits) continue;
      result.push_back(near);
      result.push_back(near | 0x8000'0000U);
    }
  };
  for (std::uint32_t code = 0; code < oracle.max_code(); ++code) {
    const auto middle = static_cast<float>(oracle.value(code) / 2 + oracle.value(code + 1) / 2);
    add(std::bit_cast<std::uint32_t>(static_cast<float>(oracle.value(code))));
    add(std::bit_cast<std::uint32_t>(middle));
  }
  for (std::uint32_t bits = 0; bits < infinity_bits; bits += 65537) add(bits);
  for (std::uint32_t bits = 1; bits < infinity_bits; bits *= 2) add(bits);
  return result;
}

template <class Case> class FastMath : public testing::Test {};
TYPED_TEST_SUITE(FastMath, AllFormats, FormatNames);

TYPED_TEST(FastMath, ChangesNoConversion) {
  using T = typename TypeParam::type;
  const FormatOracle oracle(TypeParam::layout());
  const std::vector<std::uint32_t> bits = critical_bits(oracle);
  std::vector<float> numbers(bits.size());
  std::memcpy(numbers.data(), bits.data(), bits.size() * sizeof(float));
  std::vector<T> codes(bits.size());
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    encode(std::span<const float>(numbers), std::span<T>(codes), overflow);
    std::vector<T> counted(bits.size());
    encode_with_statistics(std::span<const float>(numbers), std::span<T>(counted),
                           {.overflow = overflow});
    for (std::size_t i = 0; i < bits.size(); ++i) {
      const std::uint32_t sign = bits[i] >> 31 << (T::format.bits() - 1);
      std::uint32_t expected =
          oracle.encode(std::fabs(value_of(bits[i])), overflow == Overflow::saturate);
      const bool is_unsigned =
          !T::format.has_negative_zero() && (expected == 0 || expected == oracle.sign());
      if (!is_unsigned) expected |= sign;
      ASSERT_EQ(codes[i].bits(), expected) << std::hex << bits[i];
      ASSERT_EQ(counted[i].bits(), expected) << std::hex << bits[i];
      ASSERT_EQ(T::from_float(numbers[i], overflow).bits(), expected) << std::hex << bits[i];
    }
  }
}

/// Code of a magnitude under a mode other than nearest_even, saturating: its two neighbours in the
/// format, and the one that the mode chooses.
std::uint32_t rounded_magnitude(const FormatOracle& oracle, double magnitude, Rounding rounding,
                                bool is_negative) {
  std::uint32_t below = 0;
  while (below <= oracle.max_code() && oracle.value(below + 1U) <= magnitude) ++below;
  if (below >= oracle.max_code()) return oracle.max_code();
  const double to_below = magnitude - oracle.value(below);
  const double to_above = oracle.value(below + 1U) - magnitude;
  const bool leads_away =
      rounding == (is_negative ? Rounding::toward_negative : Rounding::toward_positive);
  const bool goes_up =
      rounding == Rounding::nearest_away ? to_above <= to_below : leads_away && to_below > 0;
  return below + (goes_up ? 1U : 0U);
}

TYPED_TEST(FastMath, ChangesNoRoundingMode) {
  using T = typename TypeParam::type;
  const FormatOracle oracle(TypeParam::layout());
  std::vector<std::uint32_t> bits = critical_bits(oracle);
  if (oracle.max_code() > 4096) bits.resize(4096);  // the search is slow
  for (std::uint32_t subnormal = 1; subnormal < 0x80'0000U; subnormal *= 3) {
    bits.push_back(subnormal);
    bits.push_back(subnormal | 0x8000'0000U);
  }
  std::vector<float> numbers(bits.size());
  std::memcpy(numbers.data(), bits.data(), bits.size() * sizeof(float));
  std::vector<T> codes(bits.size());
  std::vector<T> counted(bits.size());
  for (const Rounding rounding : {Rounding::nearest_away, Rounding::toward_zero,
                                  Rounding::toward_positive, Rounding::toward_negative}) {
    const EncodeOptions options{.rounding = rounding};
    encode(std::span<const float>(numbers), std::span<T>(codes), options);
    encode_with_statistics(std::span<const float>(numbers), std::span<T>(counted), options);
    for (std::size_t i = 0; i < bits.size(); ++i) {
      const bool is_negative = bits[i] >> 31 != 0;
      std::uint32_t expected =
          rounded_magnitude(oracle, std::fabs(value_of(bits[i])), rounding, is_negative);
      if (is_negative && (expected != 0 || T::format.has_negative_zero())) {
        expected |= oracle.sign();
      }
      ASSERT_EQ(codes[i].bits(), expected) << std::hex << bits[i];
      ASSERT_EQ(counted[i].bits(), expected) << std::hex << bits[i];
      ASSERT_EQ(T::from_float(numbers[i], Overflow::saturate, rounding).bits(), expected)
          << std::hex << bits[i];
    }
  }
}

TYPED_TEST(FastMath, LosesNoNanAndNoInfinity) {
  using T = typename TypeParam::type;
  for (const std::uint32_t bits : nan_bits()) {
    const T code = T::from_float(std::bit_cast<float>(bits), Overflow::saturate);
    EXPECT_TRUE(isnan(code) || !T::format.has_nan());
    if (T::format.has_nan()) {
      const auto back = std::bit_cast<std::uint32_t>(static_cast<float>(code));
      EXPECT_GT(back & 0x7fff'ffffU, infinity_bits);
    }
  }
  const T infinity = T::from_float(std::bit_cast<float>(infinity_bits), Overflow::infinity_or_nan);
  EXPECT_EQ(isinf(infinity), T::format.has_infinity());
  EXPECT_EQ(isnan(infinity), !T::format.has_infinity() && T::format.has_nan());
}

TYPED_TEST(FastMath, ChangesNoDecodedNumber) {
  using T = typename TypeParam::type;
  const FormatOracle oracle(TypeParam::layout());
  std::vector<T> codes;
  for (std::uint32_t code = 0; code <= oracle.max_code(); ++code) {
    codes.push_back(T::from_bits(static_cast<typename T::storage_type>(code)));
  }
  std::vector<float> numbers(codes.size());
  decode(std::span<const T>(codes), std::span<float>(numbers));
  for (std::uint32_t code = 0; code <= oracle.max_code(); ++code) {
    ASSERT_EQ(value_of(std::bit_cast<std::uint32_t>(numbers[code])), oracle.value(code));
  }
}

}  // namespace conversion_test
