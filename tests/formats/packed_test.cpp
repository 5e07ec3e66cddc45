// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Packed arrays against an account of the layout that moves single bits, and against
/// bytes written down by hand.

#include "unit_scaling/formats/packed.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "format_oracle.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {
namespace packed_test {

using unit_scaling::FormatSpec;
using unit_scaling::Minifloat;
using unit_scaling::packed_bytes;

using Bytes = std::vector<std::uint8_t>;
const std::vector<std::size_t> sizes{0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50, 1500};

/// The bytes of a stream in which bit j of element i is bit i * bits + j.
template <class T> Bytes pack_bit_by_bit(const std::vector<T>& values) {
  const auto bits = static_cast<std::size_t>(T::format.bits());
  Bytes bytes((values.size() * bits + 7) / 8);
  for (std::size_t i = 0; i < values.size(); ++i) {
    for (std::size_t j = 0; j < bits; ++j) {
      const std::size_t k = i * bits + j;
      const unsigned bit = (values[i].bits() >> j) & 1U;
      bytes[k / 8] = static_cast<std::uint8_t>(bytes[k / 8] | bit << (k % 8));
    }
  }
  return bytes;
}

template <class T> T from_code(std::uint32_t code) {
  return T::from_bits(static_cast<typename T::storage_type>(code));
}

template <class T> std::vector<T> random_numbers(std::size_t count) {
  RandomBits random;
  std::vector<T> values;
  for (std::size_t i = 0; i < count; ++i) values.push_back(from_code<T>(random() >> 8));
  return values;
}

template <class T> Bytes packed(const std::vector<T>& values) {
  Bytes bytes(packed_bytes<T>(values.size()));
  unit_scaling::pack<T>(values, bytes);
  return bytes;
}

template <class T> std::vector<std::uint32_t> codes_of(const std::vector<T>& values) {
  std::vector<std::uint32_t> codes;
  for (const T value : values) codes.push_back(value.bits());
  return codes;
}

/// What an invalid_argument says that `function` throws; empty if it throws none.
template <class Function> std::string error_of(Function function) {
  try {
    function();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

template <class T> class Packed : public ::testing::Test {};
struct NumberNames {
  template <class T> static std::string GetName(int /*index*/) {
    return std::string(unit_scaling::storage_name<T>);
  }
};
// The three of the catalogue, and widths that divide nothing.
using PackedFormats =
    ::testing::Types<unit_scaling::float6_e2m3fn, unit_scaling::float6_e3m2fn,
                     unit_scaling::float4_e2m1fn, Minifloat<FormatSpec::finite(1, 1)>,
                     Minifloat<FormatSpec::ieee(2, 2)>, Minifloat<FormatSpec::ieee(3, 3)>>;
TYPED_TEST_SUITE(Packed, PackedFormats, NumberNames);

TEST(PackedLayout, TwoNumbersOfFourBitsShareAByteTheFirstInTheLowHalf) {
  using T = unit_scaling::float4_e2m1fn;
  EXPECT_EQ(packed<T>({T(0.5F), T(-6.0F), T(1.0F)}), (Bytes{0xf1, 0x02}));
}

TEST(PackedLayout, FourNumbersOfSixBitsShareThreeBytesLowBitsFirst) {
  using T = unit_scaling::float6_e2m3fn;
  const Bytes bytes = packed<T>(
      {from_code<T>(0b100001), from_code<T>(0b110010), from_code<T>(0b111011), from_code<T>(0x15)});
  EXPECT_EQ(bytes, (Bytes{0b10'100001, 0b1011'1100, 0b010101'11}));
}

TYPED_TEST(Packed, LayoutIsTheStreamOfBitsAndUnpackRevertsPackWhateverTheSize) {
  for (const std::size_t size : sizes) {
    const auto values = random_numbers<TypeParam>(size);
    const Bytes bytes = packed(values);
    EXPECT_EQ(bytes, pack_bit_by_bit(values)) << size;
    std::vector<TypeParam> back(size);
    unit_scaling::unpack<TypeParam>(bytes, back);
    EXPECT_EQ(codes_of(back), codes_of(values)) << size;
  }
}

TEST(PackedLayout, TakesThreeQuartersOrHalfOfAByteForEachElement) {
  EXPECT_EQ(packed_bytes<unit_scaling::float6_e3m2fn>(1024), 768U);
  EXPECT_EQ(packed_bytes<unit_scaling::float4_e2m1fn>(1024), 512U);
  EXPECT_EQ(packed_bytes<unit_scaling::float6_e3m2fn>(5), 4U);
}

TEST(PackedLayout, ErrorsNameTheFunctionAndTheSizes) {
  using Fp6 = unit_scaling::float6_e2m3fn;
  std::vector<Fp6> numbers(5);
  Bytes bytes(3);
  EXPECT_EQ(error_of([&] { unit_scaling::pack<Fp6>(numbers, bytes); }),
            "unit_scaling::pack: 5 elements of 6 bits fill 4 bytes, but there are 3");
  EXPECT_EQ(error_of([&] { unit_scaling::unpack<Fp6>(bytes, numbers); }),
            "unit_scaling::unpack: 5 elements of 6 bits fill 4 bytes, but there are 3");
}

}  // namespace packed_test
}  // namespace unit_scaling_test
