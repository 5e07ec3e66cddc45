// SPDX-License-Identifier: MIT
// All 2^32 binary32 numbers to the two FP8 formats of the OCP, in both overflow modes. Expected
// codes come from a table of thresholds, each found by bisection over the search of the oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "format_cases.hpp"
#include "unit_scaling/formats/convert.hpp"

namespace conversion_exhaustive_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr std::uint32_t infinity_bits = 0x7f80'0000U;

/// Codes of a stretch of magnitudes.
struct Stretch {
  std::uint32_t begin;  // bits of the first magnitude
  std::uint32_t code;
};

/// Magnitudes up to infinity in ascending order fall into stretches of equal code.
std::vector<Stretch> stretches(const FormatOracle& oracle, bool saturate) {
  const auto code_of = [&](std::uint32_t bits) {
    return oracle.encode(static_cast<double>(std::bit_cast<float>(bits)), saturate);
  };
  std::vector<Stretch> result{{0, code_of(0)}};
  while (result.back().code != code_of(infinity_bits)) {
    std::uint32_t same = result.back().begin;
    std::uint32_t different = infinity_bits;
    while (different - same > 1) {
      const std::uint32_t middle = same + (different - same) / 2;
      (code_of(middle) == result.back().code ? same : different) = middle;
    }
    result.push_back({different, code_of(different)});
  }
  return result;
}

template <class Case> class EveryFloat : public testing::Test {};
using Formats = testing::Types<E4m3fn, E5m2>;
TYPED_TEST_SUITE(EveryFloat, Formats, FormatNames);

TYPED_TEST(EveryFloat, BecomesTheCodeThatTheSearchFinds) {
  using T = typename TypeParam::type;
  const FormatOracle oracle(TypeParam::layout());
  constexpr std::size_t chunk = std::size_t{1} << 20;
  std::vector<float> numbers(chunk);
  std::vector<T> codes(chunk);
  std::vector<std::uint8_t> expected(chunk);
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    const std::vector<Stretch> table = stretches(oracle, overflow == Overflow::saturate);
    for (const std::uint32_t sign : {0U, 0x8000'0000U}) {
      std::size_t stretch = 0;
      for (std::uint64_t first = 0; first < 0x8000'0000U; first += chunk) {
        for (std::size_t i = 0; i < chunk; ++i) {
          const auto magnitude = static_cast<std::uint32_t>(first + i);
          numbers[i] = std::bit_cast<float>(magnitude | sign);
          while (stretch + 1 < table.size() && magnitude >= table[stretch + 1].begin) ++stretch;
          expected[i] =
              static_cast<std::uint8_t>(table[stretch].code | (sign != 0 ? oracle.sign() : 0U));
        }
        encode(std::span<const float>(numbers), std::span<T>(codes), overflow);
        for (std::size_t i = 0; i < chunk; ++i) {
          const std::uint64_t magnitude = first + i;
          if (magnitude > infinity_bits) {
            ASSERT_TRUE(oracle.is_nan(codes[i].bits())) << numbers[i];
          } else {
            ASSERT_EQ(codes[i].bits(), expected[i]) << numbers[i];
          }
        }
      }
    }
  }
}

// The scalar conversion is the same source for another lane; a sample of each exponent suffices to
// see that it is compiled right, and the whole is quick enough.
TYPED_TEST(EveryFloat, IsTheSameAsAScalar) {
  using T = typename TypeParam::type;
  constexpr std::size_t chunk = std::size_t{1} << 20;
  std::vector<float> numbers(chunk);
  std::vector<T> codes(chunk);
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    for (std::uint64_t first = 0; first <= std::numeric_limits<std::uint32_t>::max();
         first += chunk) {
      for (std::size_t i = 0; i < chunk; ++i) {
        numbers[i] = std::bit_cast<float>(static_cast<std::uint32_t>(first + i));
      }
      encode(std::span<const float>(numbers), std::span<T>(codes), overflow);
      for (std::size_t i = 0; i < chunk; ++i) {
        ASSERT_EQ(codes[i].bits(), T::from_float(numbers[i], overflow).bits()) << numbers[i];
      }
    }
  }
}

}  // namespace conversion_exhaustive_test
