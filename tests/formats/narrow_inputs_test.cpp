// SPDX-License-Identifier: MIT
// Every float16 and every bfloat16 number to every format, against the search of the oracle.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "number_format.hpp"

namespace narrow_inputs_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

FORMAT_TEST_SUITE(EveryNarrowNumber, signed_formats())

void convert_all(const NumberFormat& narrow, const NumberFormat& format) {
  const FormatOracle& from = narrow.oracle();
  const FormatOracle& to = format.oracle();
  Numbers numbers;
  for (std::uint32_t code = 0; code < 65536; ++code) numbers.push_back(narrow.from_code(code));
  std::vector<float> floats(numbers.size());
  narrow.decode(numbers, floats);
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    const Numbers codes = format.encode(floats, overflow);
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
  const Numbers codes = format.encode_from(numbers, Overflow::infinity_or_nan);
  for (std::uint32_t code = 0; code < numbers.size(); ++code) {
    const double value = from.decode(code);
    if (!std::isnan(value)) {
      ASSERT_EQ(format.number(numbers[code]).bits(), to.encode(value, false)) << value;
      ASSERT_EQ(codes[code].bits(), to.encode(value, false)) << value;
    }
  }
}

FORMAT_TEST(EveryNarrowNumber, OfFloat16RoundsToTheNearest) {
  convert_all(format_of<Float16>(), format);
}

FORMAT_TEST(EveryNarrowNumber, OfBfloat16RoundsToTheNearest) {
  convert_all(format_of<Bfloat16>(), format);
}

}  // namespace narrow_inputs_test
