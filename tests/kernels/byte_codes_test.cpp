// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/byte_codes.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "unit_scaling/formats/catalogue.hpp"

namespace {

namespace kernels = unit_scaling::kernels;

TEST(ByteCodes, AreThoseOfFp8) {
#if defined(UNIT_SCALING_HAS_BYTE_CODES)
  EXPECT_TRUE(kernels::has_byte_codes(unit_scaling::float8_e4m3fn::format));
  EXPECT_TRUE(kernels::has_byte_codes(unit_scaling::float8_e5m2::format));
#endif
  // Of other widths, without a sign, and with more numbers below the smallest normal one.
  EXPECT_FALSE(kernels::has_byte_codes(unit_scaling::float16::format));
  EXPECT_FALSE(kernels::has_byte_codes(unit_scaling::float8_e8m0fnu::format));
  EXPECT_FALSE(kernels::has_byte_codes(unit_scaling::float8_e3m4::format));
}

#if defined(UNIT_SCALING_HAS_BYTE_CODES)
template <class T> class ByteCodesOf : public testing::Test {};
using Formats = testing::Types<unit_scaling::float8_e4m3fn, unit_scaling::float8_e5m2,
                               unit_scaling::float8_e4m3, unit_scaling::float8_e4m3fnuz,
                               unit_scaling::float8_e5m2fnuz, unit_scaling::float8_e4m3b11fnuz>;
TYPED_TEST_SUITE(ByteCodesOf, Formats);

// The oracle is the conversion of a single number, which tests in formats/ compare with tables.
TYPED_TEST(ByteCodesOf, AreDecodedToTheBitsOfEachNumberInEachPlace) {
  using Codes = kernels::ByteCodes<TypeParam>;
  constexpr std::size_t size = sizeof(typename Codes::Words);
  for (unsigned first = 0; first < 256; ++first) {
    std::uint8_t codes[size];
    for (std::size_t i = 0; i < size; ++i) codes[i] = static_cast<std::uint8_t>(first + 37 * i);
    typename Codes::Words words;
    std::memcpy(&words, codes, size);
    typename Codes::Words floats[4];
    Codes::decode(words, floats);
    for (std::size_t i = 0; i < size; ++i) {
      const auto number = static_cast<float>(TypeParam::from_bits(codes[i]));
      EXPECT_EQ(floats[i % 4][i / 4], std::bit_cast<std::uint32_t>(number)) << int{codes[i]};
    }
  }
}
#endif

}  // namespace
