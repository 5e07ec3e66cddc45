// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Vector and bulk conversions against the scalar ones, which minifloat_test.cpp
/// holds to an independent account of the formats.

#include "unit_scaling/formats/convert.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "format_oracle.hpp"
#include "number_format.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/random.hpp"

namespace unit_scaling_test {
namespace convert_test {

using unit_scaling::lanes;

std::vector<float> test_floats(const FormatOracle& oracle, std::size_t random_count) {
  std::vector<float> result = critical_floats(oracle);
  for (const std::uint32_t bits : nan_bits()) result.push_back(std::bit_cast<float>(bits));
  RandomBits random;
  for (std::size_t i = 0; i < random_count; ++i) {
    const std::uint32_t bits = random();
    // Every other number with an exponent near that of one, where the narrow formats live.
    result.push_back(std::bit_cast<float>(
        i % 2 == 0 ? bits : (bits & 0x807fffffU) | (107U + (bits >> 8) % 40U) << 23));
  }
  return result;
}

Numbers all_codes(const NumberFormat& format) {
  Numbers result;
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    result.push_back(format.from_code(code));
  }
  return result;
}

std::vector<std::uint32_t> float_bits(std::span<const float> floats) {
  std::vector<std::uint32_t> result(floats.size());
  std::memcpy(result.data(), floats.data(), floats.size_bytes());
  return result;
}

FORMAT_TEST_SUITE(Conversion, signed_formats())

FORMAT_TEST(Conversion, EncodesAsTheScalarDoesToTheBit) {
  const std::vector<float> in = test_floats(format.oracle(), 2'000'000);
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    const Numbers out = format.encode(in, overflow);
    for (std::size_t i = 0; i < in.size(); ++i) {
      ASSERT_EQ(out[i].bits(), format.from_float(in[i], overflow).bits())
          << std::hexfloat << in[i] << " bits " << std::bit_cast<std::uint32_t>(in[i]);
    }
  }
}

FORMAT_TEST(Conversion, DecodesAsTheScalarDoesToTheBit) {
  const Numbers in = all_codes(format);
  std::vector<float> out(in.size());
  format.decode(in, out);
  std::vector<double> doubles(in.size());
  format.decode(in, doubles);
  const std::vector<std::uint32_t> bits = float_bits(out);
  for (std::size_t code = 0; code < in.size(); ++code) {
    ASSERT_EQ(bits[code], std::bit_cast<std::uint32_t>(static_cast<float>(in[code]))) << code;
    ASSERT_EQ(std::bit_cast<std::uint64_t>(doubles[code]),
              std::bit_cast<std::uint64_t>(static_cast<double>(in[code])))
        << code;
  }
}

FORMAT_TEST(Conversion, GivesTheSameBitsWhenTheProcessorFlushesSubnormalNumbers) {
  if (!FlushSubnormals::is_effective) GTEST_SKIP() << "No such mode on this processor.";
  const std::vector<float> in = test_floats(format.oracle(), 100'000);
  const Numbers codes = all_codes(format);
  std::vector<float> expected_floats(codes.size());
  std::vector<float> floats(codes.size());
  format.decode(codes, expected_floats);
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    const Numbers expected = format.encode(in, overflow);
    Numbers out;
    {
      const FlushSubnormals flush;
      out = format.encode(in, overflow);
      format.decode(codes, floats);
    }
    for (std::size_t i = 0; i < in.size(); ++i) ASSERT_EQ(out[i].bits(), expected[i].bits()) << i;
    ASSERT_EQ(float_bits(floats), float_bits(expected_floats));
  }
}

// Codes behind the end are looked at by NumberFormat::encode().
FORMAT_TEST(Conversion, TreatsTailsOfEveryLengthAlike) {
  RandomBits random;
  std::vector<float> numbers;
  for (int i = 0; i < 33; ++i) numbers.push_back(static_cast<float>(random()) * 0x1p-31F - 1.0F);
  for (std::size_t size = 0; size <= numbers.size(); ++size) {
    const Numbers codes =
        format.encode(std::span<const float>(numbers).first(size), Overflow::saturate);
    std::vector<float> floats(size + lanes, 3.0F);
    format.decode(codes, std::span<float>(floats).first(size));
    for (std::size_t i = 0; i < size; ++i) {
      EXPECT_EQ(codes[i].bits(), format.number(numbers[i]).bits())
          << "size " << size << " element " << i;
      EXPECT_EQ(floats[i], static_cast<float>(format.number(numbers[i])))
          << "size " << size << " element " << i;
    }
    for (std::size_t i = size; i < size + lanes; ++i) {
      EXPECT_EQ(floats[i], 3.0F) << "wrote past the end, size " << size;
    }
  }
}

FORMAT_TEST(Conversion, FillsAPartialVectorWithPositiveZeros) {
  for (std::size_t count = 0; count <= lanes; ++count) {
    const Numbers in(count, format.number(1.0F));
    std::vector<float> vector(lanes, 3.0F);
    format.load_partial_lanes(in, vector);
    Numbers out(lanes, format.number(2.0F));
    format.store_lanes(vector, out, count, Overflow::saturate);
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const float number = vector[lane];
      EXPECT_EQ(std::bit_cast<std::uint32_t>(number), lane < count ? 0x3f800000U : 0U);
      EXPECT_EQ(out[lane].bits(), format.number(lane < count ? 1.0F : 2.0F).bits());
    }
  }
}

FORMAT_TEST(Conversion, EncodesDoublesAsTheScalarDoes) {
  const std::vector<double> in = {1.0, 1.0 + 0x1p-11 + 0x1p-40, -1e300, 0x1p-1074, -0.0};
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    const Numbers out = format.encode(in, overflow);
    for (std::size_t i = 0; i < in.size(); ++i) {
      EXPECT_EQ(out[i].bits(), format.from_double(in[i], overflow).bits());
    }
  }
}

// So large that results go past the caches, a line at a time, from wherever a line begins.
template <class T> void expect_large_arrays_convert(std::size_t offset) {
  std::vector<float> numbers((std::size_t{1} << 23) + 37);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<float>(static_cast<int>(i * 2654435761U)) * 0x1p-22F;
  }
  const std::size_t size = numbers.size() - offset;
  std::vector<T> codes(numbers.size());
  std::vector<float> decoded(numbers.size());
  unit_scaling::encode(std::span<const float>(numbers).last(size),
                       std::span<T>(codes).subspan(offset), Overflow::saturate);
  unit_scaling::decode(std::span<const T>(codes).last(size),
                       std::span<float>(decoded).subspan(offset));
  for (std::size_t i = offset; i < numbers.size(); ++i) {
    const T expected = T::from_float(numbers[i], Overflow::saturate);
    ASSERT_EQ(codes[i].bits(), expected.bits()) << i;
    ASSERT_EQ(decoded[i], static_cast<float>(expected)) << i;
  }
}

TEST(Conversion, OfLargeArraysIsTheSameToTheBit) {
  for (const std::size_t offset : {0U, 1U, 17U}) {
    expect_large_arrays_convert<unit_scaling::float8_e4m3fn>(offset);
    expect_large_arrays_convert<unit_scaling::float16>(offset);
    const ThreadCountScope two(2);
    expect_large_arrays_convert<unit_scaling::bfloat16>(offset);
  }
}

TEST(Conversion, ThreadCountChangesNoBit) {
  std::vector<float> numbers(200'003);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = 300 * static_cast<float>(unit_scaling::Random(1).normal(i));
  }
  const auto convert = [&] {
    std::vector<unit_scaling::float8_e4m3fn> codes(numbers.size());
    unit_scaling::encode(std::span<const float>(numbers), std::span(codes), Overflow::saturate);
    std::vector<float> decoded(numbers.size());
    unit_scaling::decode(std::span<const unit_scaling::float8_e4m3fn>(codes), std::span(decoded));
    return decoded;
  };
  const std::vector<float> expected = convert();
  const ThreadCountScope two(2);
  EXPECT_EQ(convert(), expected);
}

TEST(Conversion, RefusesSpansOfDifferentSizes) {
  const std::vector<float> in(3);
  std::vector<unit_scaling::float16> out(2);
  try {
    unit_scaling::encode<unit_scaling::float16>(std::span<const float>(in), out,
                                                Overflow::saturate);
    FAIL() << "The sizes differ.";
  } catch (const std::invalid_argument& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("encode"), std::string::npos) << text;
    EXPECT_NE(text.find('3'), std::string::npos) << text;
    EXPECT_NE(text.find('2'), std::string::npos) << text;
  }
  std::vector<float> floats(3);
  EXPECT_THROW(unit_scaling::decode<unit_scaling::float16>(out, std::span<float>(floats)),
               std::invalid_argument);
}

TEST(Conversion, PassesFloatAndDoubleThrough) {
  std::vector<float> in;
  for (int i = 0; i < 37; ++i) in.push_back(static_cast<float>(i) - 18.5F);
  in.push_back(std::numeric_limits<float>::infinity());
  std::vector<float> floats(in.size());
  std::vector<double> doubles(in.size());
  std::vector<double> doubles_again(in.size());
  std::vector<float> floats_again(in.size());
  unit_scaling::encode<float>(std::span<const float>(in), floats, Overflow::saturate);
  unit_scaling::encode<double>(std::span<const float>(in), doubles, Overflow::saturate);
  unit_scaling::encode<double>(std::span<const double>(doubles), doubles_again, Overflow::saturate);
  unit_scaling::decode<double>(doubles_again, std::span<float>(floats_again));
  EXPECT_EQ(float_bits(floats), float_bits(in));
  EXPECT_EQ(float_bits(floats_again), float_bits(in));
}

#if defined(__F16C__)
TEST(Float16, AgreesWithTheInstructionsOfTheProcessor) {
  using unit_scaling::float16;
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const float16 number = float16::from_bits(static_cast<std::uint16_t>(code));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(static_cast<float>(number)),
              std::bit_cast<std::uint32_t>(_cvtsh_ss(static_cast<std::uint16_t>(code))))
        << code;
  }
  for (const float number : test_floats(FormatOracle(Float16::layout()), 4'000'000)) {
    const __m128i codes = _mm_cvtps_ph(_mm_set_ss(number), _MM_FROUND_TO_NEAREST_INT);
    ASSERT_EQ(int{float16(number).bits()}, _mm_extract_epi16(codes, 0))
        << std::bit_cast<std::uint32_t>(number);
  }
}
#endif

TEST(Simd, SelectsAndSplatsByLanes) {
  using unit_scaling::float32x16;
  using unit_scaling::int32x16;
  const float32x16 negative_zeros = unit_scaling::splat<float32x16>(-0.0F);
  int32x16 mask{};
  for (std::size_t lane = 0; lane < lanes; lane += 2) mask[lane] = -1;
  const float32x16 ones = unit_scaling::splat<float32x16>(1.0F);
  const float32x16 selected = unit_scaling::select(mask, ones, negative_zeros);
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    const float number = selected[lane];
    EXPECT_EQ(std::bit_cast<std::uint32_t>(number), lane % 2 == 0 ? 0x3f800000U : 0x80000000U);
  }
  EXPECT_EQ(unit_scaling::select(true, 1.0F, 2.0F), 1.0F);
  EXPECT_EQ(unit_scaling::splat<float>(3.0F), 3.0F);
}

}  // namespace convert_test
}  // namespace unit_scaling_test
