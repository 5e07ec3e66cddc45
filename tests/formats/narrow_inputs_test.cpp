// SPDX-License-Identifier: MIT
// Every float16 and every bfloat16 number to every format, against the search of the oracle.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "format_cases.hpp"
#include "unit_scaling/formats/convert.hpp"

namespace narrow_inputs_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

template <class Case> class EveryNarrowNumber : public testing::Test {};
TYPED_TEST_SUITE(EveryNarrowNumber, AllFormats, FormatNames);

template <class From, class T> void convert_all(const FormatOracle& from, const FormatOracle& to) {
  std::vector<From> numbers(65536);
  for (std::uint32_t code = 0; code < numbers.size(); ++code) {
    numbers[code] = From::from_bits(static_cast<std::uint16_t>(code));
  }
  std::vector<float> floats(numbers.size());
  decode(std::span<From>(numbers), std::span<float>(floats));
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    std::vector<T> codes(numbers.size());
    encode(std::span<const float>(floats), std::span<T>(codes), overflow);
    for (std::uint32_t code = 0; code < numbers.size(); ++code) {
      const double value = from.decode(code);
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(floats[code]));
        ASSERT_TRUE(isnan(codes[code]) || codes[code].bits() == to.sign());
        continue;
      }
      ASSERT_EQ(static_cast<double>(floats[code]), value);
      ASSERT_EQ(codes[code].bits(), to.encode(value, overflow == Overflow::saturate)) << value;
    }
  }
  // Straight from one format to the other, alone and in bulk.
  std::vector<T> codes(numbers.size());
  encode(std::span<const From>(numbers), std::span<T>(codes), Overflow::infinity_or_nan);
  for (std::uint32_t code = 0; code < numbers.size(); ++code) {
    const double value = from.decode(code);
    if (!std::isnan(value)) {
      ASSERT_EQ(T(numbers[code]).bits(), to.encode(value, false)) << value;
      ASSERT_EQ(codes[code].bits(), to.encode(value, false)) << value;
    }
  }
}

TYPED_TEST(EveryNarrowNumber, OfFloat16RoundsToTheNearest) {
  convert_all<float16, typename TypeParam::type>(FormatOracle(Float16::layout()),
                                                 FormatOracle(TypeParam::layout()));
}

TYPED_TEST(EveryNarrowNumber, OfBfloat16RoundsToTheNearest) {
  convert_all<bfloat16, typename TypeParam::type>(FormatOracle(Bfloat16::layout()),
                                                  FormatOracle(TypeParam::layout()));
}

}  // namespace narrow_inputs_test
