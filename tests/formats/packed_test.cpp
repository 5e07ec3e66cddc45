// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Packed arrays against an account of the layout that moves single bits, and against
/// bytes written down by hand.

#include "unit_scaling/formats/packed.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "format_oracle.hpp"
#include "support/errors.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {
namespace packed_test {

using unit_scaling::FormatSpec;
using unit_scaling::Minifloat;
using unit_scaling::Overflow;
using unit_scaling::packed_bytes;
using unit_scaling::PackedArray;

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

template <class T> PackedArray<T> packed(const std::vector<T>& values) {
  return PackedArray<T>(std::span<const T>(values));
}

Bytes bytes_of(std::span<const std::uint8_t> bytes) { return {bytes.begin(), bytes.end()}; }

template <class T> std::vector<std::uint32_t> codes_of(const PackedArray<T>& array) {
  std::vector<std::uint32_t> codes;
  for (std::size_t i = 0; i < array.size(); ++i) codes.push_back(array[i].bits());
  return codes;
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
  const auto array = packed<T>({T(0.5F), T(-6.0F), T(1.0F)});
  EXPECT_EQ(bytes_of(array.bytes()), (Bytes{0xf1, 0x02}));
}

TEST(PackedLayout, FourNumbersOfSixBitsShareThreeBytesLowBitsFirst) {
  using T = unit_scaling::float6_e2m3fn;
  const auto array = packed<T>(
      {from_code<T>(0b100001), from_code<T>(0b110010), from_code<T>(0b111011), from_code<T>(0x15)});
  EXPECT_EQ(bytes_of(array.bytes()), (Bytes{0b10'100001, 0b1011'1100, 0b010101'11}));
}

TYPED_TEST(Packed, LayoutIsTheStreamOfBitsWhateverTheSize) {
  for (const std::size_t size : sizes) {
    const auto values = random_numbers<TypeParam>(size);
    const auto array = packed(values);
    EXPECT_EQ(array.size(), size);
    EXPECT_EQ(array.bytes().size(), packed_bytes<TypeParam>(size));
    EXPECT_EQ(bytes_of(array.bytes()), pack_bit_by_bit(values)) << size;
    EXPECT_EQ(codes_of(array), codes_of(values)) << size;
  }
}

TYPED_TEST(Packed, UnpackRevertsPack) {
  for (const std::size_t size : sizes) {
    const auto values = random_numbers<TypeParam>(size);
    Bytes bytes(packed_bytes<TypeParam>(size));
    unit_scaling::pack<TypeParam>(values, bytes);
    EXPECT_EQ(bytes, pack_bit_by_bit(values));
    std::vector<TypeParam> back(size);
    unit_scaling::unpack<TypeParam>(bytes, back);
    EXPECT_EQ(codes_of(back), codes_of(values)) << size;
  }
}

TYPED_TEST(Packed, SetReplacesOneElementAndNoOther) {
  const std::uint32_t all_ones = (1U << TypeParam::format.bits()) - 1U;
  for (const std::size_t size : {1U, 8U, 19U}) {
    for (std::size_t index = 0; index < size; ++index) {
      for (std::uint32_t code = 0; code <= all_ones; ++code) {
        // Between ones and between zeros, so that a bit too many would show.
        for (const std::uint32_t background : {0U, all_ones}) {
          std::vector<TypeParam> values(size, from_code<TypeParam>(background));
          auto array = packed(values);
          values[index] = from_code<TypeParam>(code);
          array.set(index, values[index]);
          ASSERT_EQ(bytes_of(array.bytes()), pack_bit_by_bit(values));
          ASSERT_EQ(array[index].bits(), code);
        }
      }
    }
  }
}

TYPED_TEST(Packed, ReadAndWriteTakeAnyRange) {
  const auto background = random_numbers<TypeParam>(37);
  const auto source = random_numbers<TypeParam>(37 + 37);
  for (std::size_t first = 0; first <= background.size(); ++first) {
    for (std::size_t count = 0; count <= background.size() - first; ++count) {
      auto values = background;
      auto array = packed(values);
      const std::span<const TypeParam> part = std::span(source).subspan(37, count);
      for (std::size_t i = 0; i < count; ++i) values[first + i] = part[i];
      array.write(first, part);
      ASSERT_EQ(bytes_of(array.bytes()), pack_bit_by_bit(values)) << first << ", " << count;
      std::vector<TypeParam> back(count);
      array.read(first, back);
      ASSERT_EQ(codes_of(back), codes_of(std::vector<TypeParam>(part.begin(), part.end())));
    }
  }
}

TYPED_TEST(Packed, EncodeAndDecodeAgreeWithTheScalarConversions) {
  RandomBits random;
  for (const std::size_t size : sizes) {
    std::vector<float> in;
    for (std::size_t i = 0; i < size; ++i) {
      // Exponents about that of one, where the narrow formats live; now and then any float.
      const std::uint32_t bits = random();
      in.push_back(std::bit_cast<float>(
          i % 8 == 7 ? bits : (bits & 0x807fffffU) | (117U + (bits >> 8) % 20U) << 23));
    }
    for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
      PackedArray<TypeParam> array(size);
      unit_scaling::encode(in, array, overflow);
      std::vector<float> out(size);
      unit_scaling::decode(array, out);
      for (std::size_t i = 0; i < size; ++i) {
        const TypeParam expected = TypeParam::from_float(in[i], overflow);
        ASSERT_EQ(array[i].bits(), expected.bits()) << in[i];
        ASSERT_EQ(std::bit_cast<std::uint32_t>(out[i]),
                  std::bit_cast<std::uint32_t>(static_cast<float>(expected)));
      }
      EXPECT_EQ(bytes_of(array.bytes()).size(), packed_bytes<TypeParam>(size));
    }
  }
}

TYPED_TEST(Packed, IsEqualWhenSizesAndCodesAre) {
  const auto values = random_numbers<TypeParam>(11);
  const auto array = packed(values);
  EXPECT_EQ(array, packed(values));
  for (std::size_t index = 0; index < values.size(); ++index) {
    auto other = array;
    other.set(index, from_code<TypeParam>(other[index].bits() ^ 1U));
    EXPECT_NE(array, other);
  }
  EXPECT_NE(PackedArray<TypeParam>(), PackedArray<TypeParam>(1));
}

TYPED_TEST(Packed, BitsThatBelongToNoElementAreCleared) {
  for (const std::size_t size : sizes) {
    const Bytes ones(packed_bytes<TypeParam>(size), std::uint8_t{0xff});
    const PackedArray<TypeParam> array(size, ones);
    const auto all_ones = from_code<TypeParam>(0xff);
    EXPECT_EQ(array, packed(std::vector<TypeParam>(size, all_ones))) << size;
    EXPECT_EQ(bytes_of(array.bytes()), pack_bit_by_bit(std::vector<TypeParam>(size, all_ones)));
  }
}

TEST(PackedArray, ANewOneHoldsPositiveZeros) {
  const PackedArray<unit_scaling::float4_e2m1fn> array(5);
  EXPECT_EQ(bytes_of(array.bytes()), (Bytes{0, 0, 0}));
  EXPECT_EQ(PackedArray<unit_scaling::float4_e2m1fn>().size(), 0U);
}

TEST(PackedArray, TakesThreeQuartersOrHalfOfAByteForEachElement) {
  EXPECT_EQ(packed_bytes<unit_scaling::float6_e3m2fn>(1024), 768U);
  EXPECT_EQ(packed_bytes<unit_scaling::float4_e2m1fn>(1024), 512U);
  EXPECT_EQ(packed_bytes<unit_scaling::float6_e3m2fn>(5), 4U);
}

TYPED_TEST(Packed, RefusesSizesWhoseBitsCannotBeCounted) {
  constexpr auto bits = std::size_t{TypeParam::format.bits()};
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  for (const std::size_t size : {most, most - 1, most / 2 + 1, most / bits + 1}) {
    if (size <= most / bits) continue;
    expect_shape_error([&] { PackedArray<TypeParam>{size}; },
                       {"PackedArray", std::to_string(size)});
  }
}

TEST(PackedArray, ErrorsNameTheFunctionAndTheSizes) {
  using Fp6 = unit_scaling::float6_e2m3fn;
  std::vector<Fp6> numbers(5);
  Bytes bytes(3);
  PackedArray<Fp6> array(5);
  std::vector<float> floats(4);
  EXPECT_EQ(error_of([&] { unit_scaling::pack<Fp6>(numbers, bytes); }),
            "unit_scaling::pack: 5 elements of 6 bits fill 4 bytes, but there are 3");
  EXPECT_EQ(error_of([&] { unit_scaling::unpack<Fp6>(bytes, numbers); }),
            "unit_scaling::unpack: 5 elements of 6 bits fill 4 bytes, but there are 3");
  EXPECT_EQ(error_of([&] { static_cast<void>(PackedArray<Fp6>(5, bytes)); }),
            "unit_scaling::PackedArray: 5 elements of 6 bits fill 4 bytes, but there are 3");
  EXPECT_EQ(error_of([&] { array.read(1, numbers); }),
            "unit_scaling::PackedArray::read: 5 elements from 1 on, of an array that has 5");
  EXPECT_EQ(error_of([&] { array.write(6, {}); }),
            "unit_scaling::PackedArray::write: 0 elements from 6 on, of an array that has 5");
  EXPECT_EQ(error_of([&] { unit_scaling::encode(floats, array, Overflow::saturate); }),
            "unit_scaling::encode: the input has 4 elements and the output 5");
  EXPECT_EQ(error_of([&] { unit_scaling::decode(array, floats); }),
            "unit_scaling::decode: the input has 5 elements and the output 4");
}

}  // namespace packed_test
}  // namespace unit_scaling_test
