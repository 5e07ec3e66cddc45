// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Arrays of formats chosen at run time against the layout formula, against a stream
/// of bits written bit by bit, and, for scales, against arithmetic in binary64.

#include "unit_scaling/formats/encoded_array.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <memory_resource>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "formats/format_oracle.hpp"
#include "formats/rounding_modes.hpp"
#include "support/errors.hpp"
#include "support/thread_arithmetic.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"

namespace encoded_array_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

using Bytes = std::vector<std::uint8_t>;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr Overflow overflows[] = {Overflow::saturate, Overflow::infinity_or_nan};

/// Every format of the catalogue that has a zero, and formats of which there is no type: of 3, 5,
/// 6, 7, 12 and 19 bits.
const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all{
      {"float8_e4m3fn", 4, 3, 7, UpperEnd::one_nan},
      {"float8_e5m2", 5, 2, 15, UpperEnd::infinity_and_nan},
      {"float8_e4m3", 4, 3, 7, UpperEnd::infinity_and_nan},
      {"float8_e3m4", 3, 4, 3, UpperEnd::infinity_and_nan},
      {"float8_e4m3fnuz", 4, 3, 8, UpperEnd::nan_at_negative_zero},
      {"float8_e5m2fnuz", 5, 2, 16, UpperEnd::nan_at_negative_zero},
      {"float8_e4m3b11fnuz", 4, 3, 11, UpperEnd::nan_at_negative_zero},
      {"float6_e2m3fn", 2, 3, 1, UpperEnd::finite},
      {"float6_e3m2fn", 3, 2, 3, UpperEnd::finite},
      {"float4_e2m1fn", 2, 1, 1, UpperEnd::finite},
      {"float16", 5, 10, 15, UpperEnd::infinity_and_nan},
      {"bfloat16", 8, 7, 127, UpperEnd::infinity_and_nan},
      {"int3", 1, 1, 0, UpperEnd::finite},
      {"float5_e2m2", 2, 2, 1, UpperEnd::infinity_and_nan},
      {"float5_e3m1", 3, 1, 3, UpperEnd::infinity_and_nan},
      {"float5_e2m2nan", 2, 2, 1, UpperEnd::one_nan},
      {"float7_e5m1", 5, 1, 15, UpperEnd::infinity_and_nan},
      {"float12_e4m7fnuz", 4, 7, 8, UpperEnd::nan_at_negative_zero},
      {"float19_e8m10", 8, 10, 127, UpperEnd::infinity_and_nan}};
  return all;
}

Layout layout_of(const std::string& name) {
  for (const Layout& layout : layouts()) {
    if (layout.name == name) return layout;
  }
  throw std::logic_error("no layout of " + name);
}

/// Bits that an element takes in memory.
std::size_t memory_bits(const Layout& layout) {
  const auto bits = static_cast<std::size_t>(1 + layout.exponent_bits + layout.mantissa_bits);
  return bits <= 8 ? bits : bits <= 16 ? 16 : 32;
}

/// Bit j of element i is bit i * bits + j of the stream.
Bytes stream_of(const std::vector<std::uint32_t>& codes, std::size_t bits) {
  Bytes bytes((codes.size() * bits + 7) / 8);
  for (std::size_t k = 0; k < codes.size() * bits; ++k) {
    bytes[k / 8] =
        static_cast<std::uint8_t>(bytes[k / 8] | ((codes[k / bits] >> (k % bits)) & 1U) << (k % 8));
  }
  return bytes;
}
std::vector<std::uint32_t> codes_of(std::span<const std::uint8_t> bytes, std::size_t bits,
                                    std::size_t count) {
  std::vector<std::uint32_t> codes(count);
  for (std::size_t k = 0; k < count * bits; ++k) {
    codes[k / bits] |= ((bytes[k / 8] >> (k % 8)) & 1U) << (k % bits);
  }
  return codes;
}

Bytes copy_of(std::span<const std::uint8_t> bytes) { return {bytes.begin(), bytes.end()}; }

EncodedArray view_of(const std::vector<float>& numbers, const Shape& shape) {
  return EncodedArray::view(Array<float>::borrow(std::span<const float>(numbers), shape));
}
EncodedArray view_of(const std::vector<float>& numbers) {
  return view_of(numbers, Shape{numbers.size()});
}

std::vector<float> decoded(const EncodedArray& array) {
  std::vector<float> numbers(array.size());
  array.decode(numbers);
  return numbers;
}

/// Where the elements are; the argument may be a temporary that shares them with another array.
const void* address_of(const EncodedArray& array) { return array.codes().data(); }
template <class T> const void* address_of(const Array<T>& array) { return array.data(); }

bool is_same_number(float actual, float expected) {
  if (std::isnan(expected)) return std::isnan(actual);
  return std::bit_cast<std::uint32_t>(actual) == std::bit_cast<std::uint32_t>(expected);
}

/// What a conversion to nearest gives; a NaN for all codes that stand for one. Formats without NaN
/// make -0 of it.
void expect_code(const FormatOracle& oracle, std::uint32_t code, float number, Overflow overflow,
                 const std::string& where) {
  if (std::isnan(number)) {
    const bool has_nan = oracle.layout().upper_end != UpperEnd::finite;
    ASSERT_TRUE(has_nan ? oracle.is_nan(code) : code == oracle.sign()) << where;
  } else {
    const std::uint32_t expected =
        oracle.encode(static_cast<double>(number), overflow == Overflow::saturate);
    // Any code of a NaN will do.
    ASSERT_TRUE(code == expected || (oracle.is_nan(code) && oracle.is_nan(expected)))
        << where << ": " << number << " is " << code << ", not " << expected;
  }
}

/// Ordinary numbers and all that is not.
std::vector<float> spread_numbers(std::size_t count) {
  const float special[] = {0.0F,      -0.0F,   infinity, -infinity, nan,      0x1p-149F, -1e-40F,
                           0x1p-126F, 3.4e38F, -448.0F,  464.0F,    464.001F, 1.0F,      -6.0F};
  RandomBits random;
  std::vector<float> numbers(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto significand = static_cast<float>(static_cast<std::int32_t>(random()));
    numbers[i] = std::ldexp(significand, -31 + static_cast<int>(random() % 24) - 14);
    if (i % 5 == 3) numbers[i] = special[i / 5 % std::size(special)];
  }
  return numbers;
}

TEST(EncodedArray, HoldsTheCodesThatTheLayoutFormulaGives) {
  for (const Layout& layout : layouts()) {
    SCOPED_TRACE(layout.name);
    const Format format = Format::parse(layout.name);
    EXPECT_EQ(to_string(format), layout.name);
    const FormatOracle oracle(layout);
    const std::size_t bits = memory_bits(layout);
    const std::vector<float> all = critical_floats(oracle);
    std::vector<float> numbers{nan, -nan};
    const std::size_t stride = all.size() > 20'000 ? 97 : 1;
    for (std::size_t i = 0; i < all.size(); i += stride) {
      numbers.push_back(all[i]);
    }
    if (numbers.size() % 8 == 0) numbers.pop_back();
    for (const Overflow overflow : overflows) {
      const auto array = EncodedArray::encode(view_of(numbers), format, {.overflow = overflow});
      const std::vector<std::uint32_t> codes = codes_of(array.codes(), bits, numbers.size());
      ASSERT_EQ(copy_of(array.codes()), stream_of(codes, bits));  // nothing in the bits left over
      EXPECT_EQ(array.bytes(), (numbers.size() * bits + 7) / 8);
      const std::vector<float> back = decoded(array);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        ASSERT_NO_FATAL_FAILURE(expect_code(oracle, codes[i], numbers[i], overflow, ""));
        ASSERT_TRUE(is_same_number(back[i], static_cast<float>(oracle.decode(codes[i])))) << i;
      }
    }
  }
}

TEST(EncodedArray, HasOneElementAfterTheOtherWhateverTheSize) {
  for (const char* name : {"int3", "float4_e2m1fn", "float5_e3m1", "float6_e3m2fn", "float7_e5m1",
                           "float8_e3m4", "float12_e4m7fnuz", "float19_e8m10"}) {
    const FormatOracle oracle(layout_of(name));
    const std::size_t bits = memory_bits(oracle.layout());
    for (const std::size_t size : {0U, 1U, 2U, 7U, 8U, 9U, 15U, 16U, 17U, 1023U, 1025U, 3000U}) {
      std::vector<float> numbers = spread_numbers(size);
      std::vector<std::uint32_t> expected(size);
      for (std::size_t i = 0; i < size; ++i) {
        if (std::isnan(numbers[i])) numbers[i] = 1;
        expected[i] = oracle.encode(static_cast<double>(numbers[i]), true);
      }
      const auto array = EncodedArray::encode(view_of(numbers), Format::parse(name));
      ASSERT_EQ(copy_of(array.codes()), stream_of(expected, bits)) << name << " " << size;
      // From any element on.
      for (const std::size_t first : {0U, 1U, 5U, 8U, 13U}) {
        if (first > size) continue;
        std::vector<float> rest(size - first);
        array.decode(first, rest);
        for (std::size_t i = first; i < size; ++i) {
          ASSERT_EQ(rest[i - first], static_cast<float>(oracle.decode(expected[i]))) << i;
        }
      }
    }
  }
}

/// Which scale each element has, by numbering tiles as they are met.
std::vector<std::size_t> scale_numbers(const ScaleLayout& layout, std::size_t rows,
                                       std::size_t columns) {
  std::map<std::pair<std::size_t, std::size_t>, std::size_t> number_of;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      number_of[{row / layout.tile_rows, column / layout.tile_columns}] = 0;
    }
  }
  std::size_t next = 0;
  for (auto& [tile, number] : number_of) number = next++;  // row by row, as the pairs are ordered
  std::vector<std::size_t> result;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      result.push_back(number_of.at({row / layout.tile_rows, column / layout.tile_columns}));
    }
  }
  return result;
}

std::vector<ScaleLayout> scale_layouts(ScaleFormat format) {
  return {ScaleLayout::per_tensor(format),
          ScaleLayout::per_row(format),
          ScaleLayout::per_column(format),
          ScaleLayout::per_block_of_columns(format, 1),
          ScaleLayout::per_block_of_columns(format, 16),
          ScaleLayout::per_block_of_columns(format, 32),
          ScaleLayout::per_block_of_rows(format, 3),
          ScaleLayout::per_block_of_rows(format, 32),
          {format, 2, 4}};
}

std::vector<float> scales_for(ScaleFormat format, std::size_t count) {
  const std::vector<float> powers{1.0F, 0x1p-3F, 0x1p5F, 0x1p-127F, 0x1p127F, 0x1p-126F, nan};
  const std::vector<float> floats{0.7F,     -3.1F,    1e-40F, 3.3e38F, 0.0F,
                                  infinity, 1.00001F, nan,    -0.0F,   5e-3F};
  const std::vector<float> narrow{1.0F, 0x1p-9F, 448.0F, nan, 0.0F, -1.125F, 26.0F, -0.0F};
  const std::vector<float>& from = format == ScaleFormat::power_of_two ? powers
                                   : format == ScaleFormat::two_level  ? narrow
                                                                       : floats;
  std::vector<float> scales;
  for (std::size_t i = 0; i < count; ++i) scales.push_back(from[(i + count) % from.size()]);
  // What all have in common, which makes some of the scales subnormal or infinite.
  const float common[] = {1.1F, 0x1.3p-130F, 3e38F, 0x1.fffffep-120F};
  if (format == ScaleFormat::two_level) scales.push_back(common[count % 4]);
  return scales;
}

TEST(EncodedArray, DividesByScalesAndMultipliesByThemRoundingOnceEach) {
  const std::vector<Shape> shapes{Shape{},         Shape{0},      Shape{1, 1},       Shape{0, 4},
                                  Shape{4, 0},     Shape{3, 5},   Shape{1, 33},      Shape{33, 1},
                                  Shape{2, 3, 17}, Shape{7, 130}, Shape{2, 2, 3, 5}, Shape{40, 3},
                                  Shape{11, 301}};
  for (const char* name :
       {"float8_e4m3fn", "float4_e2m1fn", "float5_e3m1", "float16", "bfloat16"}) {
    const FormatOracle oracle(layout_of(name));
    const std::size_t bits = memory_bits(oracle.layout());
    for (const ScaleFormat scale_format :
         {ScaleFormat::power_of_two, ScaleFormat::binary32, ScaleFormat::two_level}) {
      const bool is_two_level = scale_format == ScaleFormat::two_level;
      for (const ScaleLayout& layout : scale_layouts(scale_format)) {
        for (const Shape& shape : shapes) {
          const std::string where =
              std::string(name) + ", " + to_string(layout) + ", " + to_string(shape) + ", ";
          const std::vector<float> numbers = spread_numbers(shape.size());
          const auto numbering = scale_numbers(layout, shape.rows(), shape.columns());
          const std::size_t count = layout.count(shape.rows(), shape.columns());
          if (!numbering.empty()) {
            ASSERT_EQ(count, 1 + *std::max_element(numbering.begin(), numbering.end())) << where;
          }
          const std::vector<float> scales = scales_for(scale_format, count);
          const auto array =
              EncodedArray::encode(view_of(numbers, shape), Format::parse(name), layout, scales);
          ASSERT_EQ(array.scale_count(), count);
          EXPECT_EQ(array.bytes(), (shape.size() * bits + 7) / 8 +
                                       count * (scale_format == ScaleFormat::binary32 ? 4 : 1) +
                                       (is_two_level ? 4 : 0));
          const double common = is_two_level ? static_cast<double>(scales.back()) : 1;
          EXPECT_EQ(static_cast<double>(array.common_scale()), common);
          const auto codes = codes_of(array.codes(), bits, shape.size());
          const std::vector<float> back = decoded(array);
          for (std::size_t i = 0; i < shape.size(); ++i) {
            const auto scale =
                static_cast<float>(static_cast<double>(scales[numbering[i]]) * common);
            ASSERT_TRUE(
                is_same_number(array.scale_of(i / shape.columns(), i % shape.columns()), scale))
                << where << i;
            // Exact where binary64 holds it, and otherwise so near that binary32 rounds it right.
            const double quotient = static_cast<double>(numbers[i]) / static_cast<double>(scale);
            ASSERT_NO_FATAL_FAILURE(expect_code(oracle, codes[i], static_cast<float>(quotient),
                                                Overflow::saturate, where + std::to_string(i)));
            const double product = oracle.decode(codes[i]) * static_cast<double>(scale);
            ASSERT_TRUE(is_same_number(back[i], static_cast<float>(product)))
                << where << i << ": " << back[i] << ", not " << product;
          }
        }
      }
    }
  }
}

TEST(EncodedArray, OfNumbersAndScalesTimesAPowerOfTwoHasTheSameCodes) {
  const Shape shape{6, 37};
  std::vector<float> numbers = spread_numbers(shape.size());
  for (float& number : numbers) {
    if (!(std::fabs(number) < 1e6F && std::fabs(number) > 1e-6F)) number = 0.3F;
  }
  for (const ScaleLayout& layout : scale_layouts(ScaleFormat::power_of_two)) {
    std::vector<float> scales(layout.count(shape.rows(), shape.columns()));
    for (std::size_t i = 0; i < scales.size(); ++i) {
      scales[i] = std::ldexp(1.0F, static_cast<int>(i % 7) - 3);
    }
    for (const char* name : {"float8_e4m3fn", "float6_e2m3fn", "float5_e3m1"}) {
      const auto expected =
          EncodedArray::encode(view_of(numbers, shape), Format::parse(name), layout, scales);
      for (const int power : {-90, -31, -1, 1, 17, 90}) {
        std::vector<float> moved = numbers;
        std::vector<float> moved_scales = scales;
        for (float& number : moved) number = std::ldexp(number, power);
        for (float& scale : moved_scales) scale = std::ldexp(scale, power);
        const auto array =
            EncodedArray::encode(view_of(moved, shape), Format::parse(name), layout, moved_scales);
        EXPECT_EQ(copy_of(array.codes()), copy_of(expected.codes())) << name << " " << power;
        const std::vector<float> back = decoded(array);
        const std::vector<float> original = decoded(expected);
        for (std::size_t i = 0; i < back.size(); ++i) {
          ASSERT_EQ(back[i], std::ldexp(original[i], power));
        }
      }
    }
  }
}

/// Bytes of conversions of every kind: each mode, with and without scales, from floats and from
/// other formats, and back.
Bytes bytes_of_conversions(const std::vector<float>& numbers, const Shape& shape) {
  Bytes result;
  const auto append = [&](const EncodedArray& array) {
    result.insert(result.end(), array.codes().begin(), array.codes().end());
    for (float number : decoded(array)) {
      if (std::isnan(number)) number = nan;
      const auto bytes = std::bit_cast<std::array<std::uint8_t, 4>>(number);
      result.insert(result.end(), bytes.begin(), bytes.end());
    }
  };
  const EncodedArray source = view_of(numbers, shape);
  const StochasticRounding random(Random(3, RandomStream::rounding), 8);
  for (const char* name :
       {"float8_e4m3fn", "float4_e2m1fn", "float16", "bfloat16", "float12_e4m7fnuz"}) {
    const Format format = Format::parse(name);
    for (const Rounding rounding : all_modes) {
      const EncodeOptions options{.rounding = rounding, .random = random, .first_element = 5};
      append(EncodedArray::encode(source, format, options));
      for (const ScaleLayout& layout :
           {ScaleLayout::per_block_of_rows(ScaleFormat::binary32, 2),
            ScaleLayout::per_block_of_columns(ScaleFormat::two_level, 16),
            ScaleLayout::per_block_of_rows(ScaleFormat::two_level, 1),
            ScaleLayout::per_block_of_columns(ScaleFormat::power_of_two, 32)}) {
        const std::vector<float> scales =
            scales_for(layout.format, layout.count(shape.rows(), shape.columns()));
        const auto scaled = EncodedArray::encode(source, format, layout, scales, options);
        append(scaled);
        append(EncodedArray::encode(scaled, Format::of<float8_e5m2>(), options));
      }
    }
  }
  return result;
}

TEST(EncodedArray, DoesNotDependOnTheArithmeticOfTheThread) {
  const Shape shape{5, 211};
  const std::vector<float> numbers = spread_numbers(shape.size());
  const Bytes expected = bytes_of_conversions(numbers, shape);
  for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
    Bytes actual;
    bool stayed = false;
    {
      const ThreadArithmetic arithmetic(mode);
      actual = bytes_of_conversions(numbers, shape);
      stayed = is_in_mode(mode);
    }
    EXPECT_TRUE(stayed) << mode.name;
    EXPECT_TRUE(actual == expected) << mode.name;
  }
}

TEST(EncodedArray, DoesNotDependOnTheNumberOfThreads) {
  const Shape shape{151, 1001};  // three pieces of work
  const std::vector<float> numbers = spread_numbers(shape.size());
  const Bytes expected = bytes_of_conversions(numbers, shape);
  for (const std::size_t threads : {2U, 3U, 7U}) {
    const ThreadCountScope scope(threads);
    EXPECT_TRUE(bytes_of_conversions(numbers, shape) == expected) << threads;
  }
}

TEST(EncodedArray, DrawsRandomBitsByTheNumberOfTheElement) {
  const std::vector<float> numbers = spread_numbers(5000);
  const Format format = Format::parse("e3m4");
  const StochasticRounding random(Random(9, RandomStream::rounding), 16);
  EncodeOptions options{.rounding = Rounding::stochastic, .random = random, .first_element = 3};
  const auto whole = EncodedArray::encode(view_of(numbers), format, options);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const float expected =
        format.quantise(numbers[i], Overflow::saturate, Rounding::stochastic, random.word(i + 3));
    float actual = 0;
    whole.decode(i, {&actual, 1});
    ASSERT_TRUE(is_same_number(actual, expected)) << i;
  }
  const std::vector<float> tail(numbers.begin() + 1234, numbers.end());
  options.first_element += 1234;
  const auto part = EncodedArray::encode(view_of(tail), format, options);
  EXPECT_EQ(copy_of(part.codes()), copy_of(whole.codes().subspan(1234)));
}

TEST(EncodedArray, RoundsWhatAnotherFormatStandsFor) {
  const Shape shape{9, 123};
  const auto halves =
      EncodedArray::encode(view_of(spread_numbers(shape.size()), shape), Format::of<float16>(),
                           {.overflow = Overflow::infinity_or_nan});
  const ScaleLayout layout = ScaleLayout::per_row(ScaleFormat::binary32);
  const std::vector<float> scales{0.3F, 1, 2, 3, 4, 5, 6, 7, 8};
  const auto nibbles = EncodedArray::encode(halves, Format::parse("float4_e2m1fn"), layout, scales);
  for (const EncodedArray& source : {halves, nibbles}) {
    const auto direct = EncodedArray::encode(source, Format::parse("e4m3fn"), layout, scales);
    const auto by_floats = EncodedArray::encode(view_of(decoded(source), shape),
                                                Format::parse("e4m3fn"), layout, scales);
    EXPECT_EQ(direct, by_floats);
  }
  // A factor multiplies before the division.
  std::vector<float> numbers = decoded(nibbles);
  const auto with_factor =
      EncodedArray::encode(nibbles, Format::parse("e4m3fn"), layout, scales, {.scale = 1.7F});
  for (float& number : numbers) number *= 1.7F;
  EXPECT_EQ(with_factor,
            EncodedArray::encode(view_of(numbers, shape), Format::parse("e4m3fn"), layout, scales));
}

TEST(EncodedArray, UnderScalesThatAreStoredAlreadyIsThatUnderTheirNumbers) {
  const Shape shape{9, 123};
  const std::vector<float> numbers = spread_numbers(shape.size());
  const Format format = Format::of<float6_e2m3fn>();
  for (const ScaleFormat scale_format :
       {ScaleFormat::power_of_two, ScaleFormat::binary32, ScaleFormat::two_level}) {
    const ScaleLayout layout{scale_format, 2, 7};
    const std::vector<float> scales = scales_for(scale_format, layout.count(9, 123));
    const auto expected = EncodedArray::encode(view_of(numbers, shape), format, layout, scales);
    const Array<std::uint8_t> stored(Shape{expected.scale_codes().size()}, expected.scale_codes());
    EXPECT_EQ(EncodedArray::encode_under(view_of(numbers, shape), format, layout, stored),
              expected);
    expect_shape_error(
        [&] {
          (void)EncodedArray::encode_under(view_of(numbers, shape), format, layout,
                                           Array<std::uint8_t>(Shape{stored.size() - 1}));
        },
        {"EncodedArray", "bytes of scales"});
  }
  expect_domain_error(
      [&] {
        (void)EncodedArray::encode_under(EncodedArray::view(Array<double>(Shape{2})), format,
                                         ScaleLayout::per_tensor(ScaleFormat::power_of_two),
                                         Array<std::uint8_t>(Shape{1}));
      },
      {"EncodedArray::encode_under", "float64"});
}

TEST(EncodedArray, OfTwoLevelsOfScalesTakesAnotherCommonScaleAndRefusesWhatFloat8DoesNotHold) {
  const ScaleLayout layout = ScaleLayout::per_block_of_columns(ScaleFormat::two_level, 2);
  const std::vector<float> numbers{1, 2, 3, 4};
  const auto view = view_of(numbers, {1, 4});
  const auto array = EncodedArray::encode(view, Format::of<float4_e2m1fn>(), layout,
                                          std::vector<float>{0.5F, 2, 0.25F});
  EXPECT_EQ(array.scale(1), 0.5F);
  const auto other = array.with_common_scale(3);
  EXPECT_EQ(other.scale(0), 1.5F);
  EXPECT_EQ(other.scale(1), 6.0F);
  EXPECT_EQ(array.scale(1), 0.5F) << "a copy";
  EXPECT_EQ(address_of(other), address_of(array));
  for (const float scale : {0x1p-10F, 1.0625F, 449.0F, infinity}) {
    expect_domain_error(
        [&] {
          (void)EncodedArray::encode(view, Format::of<float4_e2m1fn>(), layout,
                                     std::vector<float>{1, scale, 1});
        },
        {"EncodedArray::encode", "float8_e4m3fn", "scale 1"});
  }
  expect_shape_error(
      [&] {
        (void)EncodedArray::encode(view, Format::of<float4_e2m1fn>(), layout,
                                   std::vector<float>{1, 1});
      },
      {"EncodedArray::encode", "3 numbers"});
  expect_domain_error([&] { (void)view.with_common_scale(1); },
                      {"EncodedArray::with_common_scale", "no scale"});
}

TEST(EncodedArray, SharesTheElementsOfTypedArraysBothWays) {
  const Array<float8_e4m3fn> typed({2, 3}, std::vector<float8_e4m3fn>(6, float8_e4m3fn(1.5F)));
  const EncodedArray view = EncodedArray::view(typed);
  EXPECT_EQ(view.format(), Format::parse("float8_e4m3fn"));
  EXPECT_EQ(address_of(view), address_of(typed));
  EXPECT_EQ(decoded(view), std::vector<float>(6, 1.5F));
  EXPECT_EQ(address_of(view.array<float8_e4m3fn>()), address_of(typed));
  EXPECT_EQ(view.array<float8_e4m3fn>().shape(), typed.shape());

  const Array<double> wide({2}, {1.0 / 3, 1e300});
  const EncodedArray wide_view = EncodedArray::view(wide);
  EXPECT_EQ(wide_view.bytes(), 16U);
  EXPECT_EQ(address_of(wide_view.array<double>()), address_of(wide));
  EXPECT_EQ(decoded(wide_view), (std::vector<float>{1.0F / 3, infinity}));
  EXPECT_EQ(address_of(EncodedArray::encode(wide_view, Format::of<double>())), address_of(wide));

  // Rounding to the format that is there already copies nothing and changes nothing.
  const Array<float> floats({3}, {1.1F, infinity, nan});
  const auto same = EncodedArray::encode(EncodedArray::view(floats), Format::of<float>());
  EXPECT_EQ(address_of(same.array<float>()), address_of(floats));
  EXPECT_EQ(address_of(same.reshaped({3, 1})), address_of(floats));

  const Array<float4_e2m1fn> narrow(
      {1, 3}, std::vector{float4_e2m1fn(0.5F), float4_e2m1fn(-6.0F), float4_e2m1fn(1.0F)});
  const EncodedArray packed = EncodedArray::pack(narrow);
  EXPECT_EQ(copy_of(packed.codes()), (Bytes{0xf1, 0x02}));
  EXPECT_EQ(packed.unpack<float4_e2m1fn>(), narrow);
}

TEST(EncodedArray, IsAValueThatCopiesWhenWrittenTo) {
  const std::vector<float> numbers{1, 2, 3, 4};
  const auto array = EncodedArray::encode(view_of(numbers, {2, 2}), Format::of<float8_e5m2>(),
                                          ScaleLayout::per_row(ScaleFormat::power_of_two),
                                          std::vector<float>{1, 2});
  EncodedArray copy = array;
  EXPECT_EQ(copy.codes().data(), array.codes().data());
  EXPECT_EQ(copy.scale_codes().data(), array.scale_codes().data());
  EXPECT_EQ(copy, array);
  copy.mutable_codes()[3] = 0;
  EXPECT_NE(copy, array);
  EXPECT_EQ(decoded(array), numbers);
  EXPECT_EQ(decoded(copy), (std::vector<float>{1, 2, 3, 0}));
  copy = array;
  copy.mutable_scale_codes()[0] = 130;  // 2^3
  EXPECT_NE(copy, array);
  EXPECT_EQ(decoded(array), numbers);
  EXPECT_EQ(decoded(copy), (std::vector<float>{8, 16, 3, 4}));

  EncodedArray moved = std::move(copy);
  EXPECT_EQ(copy, EncodedArray());  // NOLINT(bugprone-use-after-move): it is told what is left
  EXPECT_EQ(copy.bytes(), 0U);
  EXPECT_EQ(moved.scale(0), 8);
  EXPECT_NE(array.reshaped(Shape{1, 2, 2}), array);
  EXPECT_EQ(array.reshaped(Shape{1, 2, 2}).scale_of(1, 0), 2);
}

TEST(EncodedArray, LivesInTheMemoryItIsTold) {
  RecyclingResource memory;
  RecyclingResource other;
  Array<float> numbers({64, 32}, &memory);
  std::fill_n(numbers.mutable_data(), numbers.size(), 1.0F);
  const std::vector<float> scales(64, 2.0F);
  std::size_t after_one = 0;
  for (int step = 0; step < 3; ++step) {
    const auto array =
        EncodedArray::encode(EncodedArray::view(numbers), Format::of<float4_e2m1fn>(),
                             ScaleLayout::per_row(ScaleFormat::binary32), scales);
    EXPECT_EQ(array.resource(), &memory);
    EXPECT_EQ(array.bytes(), 64U * 16 + 64 * 4);
    EXPECT_EQ(array.decode().resource(), &memory);
    if (step == 0) after_one = memory.upstream_allocations();
  }
  EXPECT_EQ(memory.upstream_allocations(), after_one);
  const auto elsewhere =
      EncodedArray::encode(EncodedArray::view(numbers), Format::of<float16>(), {}, &other);
  EXPECT_EQ(elsewhere.resource(), &other);
  EXPECT_GE(other.bytes_in_use(), numbers.size() * 2);
}

TEST(EncodedArray, ClearsBitsOfForeignMemoryThatBelongToNoCode) {
  const Bytes bytes{0xff, 0xff};
  const auto borrow = [](const Bytes& memory) {
    return Array<std::uint8_t>::borrow(std::span<const std::uint8_t>(memory), Shape{memory.size()});
  };
  const EncodedArray three(Shape{3}, Format::parse("float4_e2m1fn"), borrow(bytes));
  EXPECT_EQ(copy_of(three.codes()), (Bytes{0xff, 0x0f}));
  EXPECT_EQ(bytes, (Bytes{0xff, 0xff}));
  const EncodedArray four(Shape{4}, Format::parse("float4_e2m1fn"), borrow(bytes));
  EXPECT_EQ(four.codes().data(), bytes.data());

  alignas(2) const std::uint8_t wide[] = {0x34, 0xf2};
  const EncodedArray twelve(Shape{1}, Format::parse("float12_e4m7fnuz"),
                            Array<std::uint8_t>::borrow(std::span<const std::uint8_t>(wide), {2}));
  EXPECT_EQ(copy_of(twelve.codes()), (Bytes{0x34, 0x02}));
}

TEST(EncodedArray, TakesOneScaleForAllAndSharesItsCodes) {
  const Format format = Format::of<float8_e4m3fn>();
  const EncodedArray codes =
      EncodedArray::encode(view_of({1, -2.5F, 0, 448, infinity}, {5, 1}), format, {.scale = 0.5F});
  for (const auto& [scales, scale] :
       {std::pair{ScaleFormat::power_of_two, 2.0F}, std::pair{ScaleFormat::power_of_two, 0x1p-127F},
        std::pair{ScaleFormat::binary32, -0.3F}}) {
    const EncodedArray scaled = codes.with_scale(scales, scale);
    EXPECT_EQ(scaled.codes().data(), codes.codes().data());
    EXPECT_EQ(scaled.scale_layout(), ScaleLayout::per_tensor(scales));
    EXPECT_EQ(scaled.scale(0), scale);
    const Array<float> numbers = scaled.decode();
    const float expected[] = {0.5F, -1.25F, 0, 224, 448};
    for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(numbers.data()[i], expected[i] * scale);
    EXPECT_EQ(scaled.with_scale(scales, 1).decode().data()[3], 224) << "instead of the one before";
  }
  const EncodedArray of_none = EncodedArray::encode(view_of({}, {0, 3}), format);
  EXPECT_EQ(of_none.with_scale(ScaleFormat::binary32, 3).scale(0), 3);
  for (const float scale : {3.0F, 0.0F, -2.0F, 0x1p-128F}) {
    expect_domain_error([&] { (void)codes.with_scale(ScaleFormat::power_of_two, scale); },
                        {"EncodedArray::with_scale", "power of two from 2^-127 to 2^127"});
  }
  expect_domain_error([&] { (void)codes.with_scale(ScaleFormat::none, 1); },
                      {"EncodedArray::with_scale", "power_of_two or binary32"});
  expect_domain_error(
      [&] {
        (void)EncodedArray::view(Array<double>(Shape{1})).with_scale(ScaleFormat::binary32, 1);
      },
      {"EncodedArray::with_scale", "no scale for float64"});
}

TEST(EncodedArray, SaysWhatItRefuses) {
  const std::vector<float> numbers(24, 1.0F);
  const EncodedArray source = view_of(numbers, {4, 6});
  const Format format = Format::of<float8_e4m3fn>();
  const auto encode = [&](const ScaleLayout& layout, const std::vector<float>& scales) {
    static_cast<void>(EncodedArray::encode(source, format, layout, scales));
  };
  constexpr ScaleFormat power = ScaleFormat::power_of_two;
  expect_shape_error(
      [&] {
        encode(ScaleLayout::per_row(power), {1, 1, 1});
      },
      {"EncodedArray::encode", "4 numbers", "tiles of 1 x all", "(4, 6)", "(3)"});
  expect_shape_error([&] { encode({}, {1}); }, {"0 numbers for no scale", "(1)"});
  expect_domain_error([&] { encode(ScaleLayout::per_block_of_columns(power, 0), {}); },
                      {"EncodedArray::encode", "at least 1 x 1", "tiles of 1 x 0"});
  for (const float scale : {3.0F, 0.0F, -2.0F, infinity, 0x1p-128F, 0x1p-149F}) {
    expect_domain_error([&] { encode(ScaleLayout::per_tensor(power), {scale}); },
                        {"EncodedArray::encode", "power of two from 2^-127 to 2^127", "scale 0"});
  }
  expect_domain_error(
      [&] {
        static_cast<void>(EncodedArray::encode(source, Format::of<double>(),
                                               ScaleLayout::per_tensor(power), numbers));
      },
      {"no scale for float64", "power_of_two scales"});
  expect_domain_error(
      [&] {
        const auto wide = EncodedArray::view(Array<double>({1}, {1.0}));
        static_cast<void>(EncodedArray::encode(wide, format));
      },
      {"EncodedArray::encode", "float8_e4m3fn", "float64"});
  expect_error<std::invalid_argument>(
      [&] {
        static_cast<void>(EncodedArray::encode(source, format, {.rounding = Rounding::stochastic}));
      },
      {"stochastic"});

  const auto bytes = [](std::size_t size) { return Array<std::uint8_t>::filled({size}, 0); };
  expect_shape_error(
      [&] {
        (void)EncodedArray(Shape{3, 5}, Format::parse("e2m1fn"), bytes(7));
      },
      {"EncodedArray", "8 bytes of codes", "float4_e2m1fn", "(3, 5)", "(7)"});
  expect_shape_error(
      [&] {
        (void)EncodedArray(Shape{3, 5}, format, bytes(15),
                           ScaleLayout::per_column(ScaleFormat::binary32), bytes(5));
      },
      {"20 bytes of scales", "binary32 scales of tiles of all x 1", "(5)"});
  const std::size_t half = std::numeric_limits<std::size_t>::max() / 2;
  expect_shape_error([&] { (void)EncodedArray(Shape{half}, Format::of<double>(), bytes(1)); },
                     {"EncodedArray", "std::size_t can count"});
  alignas(4) const std::uint8_t memory[9] = {};
  expect_domain_error(
      [&] {
        const auto codes = std::span<const std::uint8_t>(memory).subspan(1);
        (void)EncodedArray(Shape{2}, Format::of<float>(),
                           Array<std::uint8_t>::borrow(codes, Shape{8}));
      },
      {"EncodedArray", "float32", "multiple of 4 bytes"});

  expect_domain_error([&] { (void)source.array<float16>(); },
                      {"EncodedArray::array", "expected float16 with no scale", "got float32"});
  const auto scaled = EncodedArray::encode(source, format, ScaleLayout::per_row(power),
                                           std::vector<float>(4, 1.0F));
  expect_domain_error([&] { (void)scaled.array<float8_e4m3fn>(); }, {"tiles of 1 x all"});
  expect_shape_error(
      [&] {
        (void)scaled.reshaped(Shape{6, 4});
      },
      {"reshaped", "tiles of 1 x all", "(4, 6)", "(6, 4)"});
  expect_shape_error([&] { (void)source.reshaped(Shape{5}); }, {"reshaped", "(4, 6)", "(5)"});
  std::vector<float> room(23);
  expect_shape_error([&] { scaled.decode(room); }, {"EncodedArray::decode", "(4, 6)", "(23)"});
  expect_shape_error([&] { scaled.decode(2, room); },
                     {"EncodedArray::decode", "from number 2 on", "(4, 6)", "(23)"});
  expect_shape_error([&] { scaled.decode(half, room); }, {"EncodedArray::decode", "from number"});
  expect_domain_error([&] { (void)ScaleLayout::per_block_of_columns(power, 0).count(4, 4); },
                      {"ScaleLayout", "at least 1 x 1"});
}

TEST(EncodedArray, OfOneBitHasEightElementsInAByte) {
  const Format format = Format::parse("e1m0b127fnu");
  ASSERT_EQ(format.code_bytes(9), 2U);
  const std::uint8_t memory[] = {0b0100'1101, 1};
  std::vector<float> decoded(9);
  format.decode(memory, decoded);
  const float one = std::ldexp(1.0F, -127);
  const float none = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> expected = {none, one, none, none, one, one, none, one, none};
  for (std::size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(std::isnan(decoded[i]), std::isnan(expected[i])) << i;
    if (!std::isnan(expected[i])) {
      EXPECT_EQ(decoded[i], expected[i]) << i;
    }
  }
  std::uint8_t encoded[3] = {0, 0, 0xaa};
  format.encode(decoded, std::span(encoded).first(2), {.overflow = Overflow::infinity_or_nan});
  EXPECT_EQ(encoded[0], memory[0]);
  EXPECT_EQ(encoded[1], memory[1]);
  EXPECT_EQ(encoded[2], 0xaa);
}

TEST(EncodedArray, WithoutScalesHasOneLayout) {
  const Array<float> source({2, 2}, {1, 2, 3, 4});
  const ScaleLayout tiles{ScaleFormat::none, 1, 1};
  const EncodedArray shared = EncodedArray::encode(EncodedArray::view(source), Format(), tiles, {});
  EXPECT_EQ(shared, EncodedArray::encode(EncodedArray::view(source), Format()));
  EXPECT_EQ(shared.scale_layout(), ScaleLayout{});
  const EncodedArray rounded =
      EncodedArray::encode(EncodedArray::view(source), Format::of<float16>(), tiles, {});
  EXPECT_EQ(rounded.scale_layout(), ScaleLayout{});
}

}  // namespace encoded_array_test
