// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Block formats against an account in double, which tries every element of the
/// format. tests/peer_vectors/ compares them with microxcaling.

#include "unit_scaling/formats/mx_block.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "format_oracle.hpp"
#include "support/errors.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {
namespace mx_block_test {

using unit_scaling::float8_e8m0fnu;
using unit_scaling::MxArray;
using unit_scaling::MxEncodeOptions;
using unit_scaling::MxInt8;
using unit_scaling::Rounding;
using unit_scaling::ScaleRounding;

/// An element format, written down by hand: its magnitudes, in ascending order of their codes.
struct ElementOracle {
  std::vector<double> magnitudes;
  bool has_negative_zero = true;

  [[nodiscard]] double max() const { return magnitudes.back(); }

  /// The element for a number, which saturates.
  [[nodiscard]] double round(double number, Rounding rounding) const {
    const bool is_negative = std::signbit(number);
    const double magnitude = std::fabs(number);
    std::size_t lower = 0;
    for (std::size_t i = 0; i < magnitudes.size(); ++i) {
      if (magnitudes[i] <= magnitude) lower = i;
    }
    const std::size_t upper = std::min(lower + 1, magnitudes.size() - 1);
    const double to_lower = magnitude - magnitudes[lower];
    const double to_upper = magnitudes[upper] - magnitude;
    bool goes_up = false;
    switch (rounding) {
      case Rounding::nearest_even:
        goes_up = to_upper < to_lower || (to_upper == to_lower && upper % 2 == 0);
        break;
      case Rounding::nearest_away:
        goes_up = to_upper <= to_lower;
        break;
      case Rounding::toward_positive:
        goes_up = !is_negative && to_lower > 0;
        break;
      case Rounding::toward_negative:
        goes_up = is_negative && to_lower > 0;
        break;
      case Rounding::toward_zero:
      case Rounding::stochastic:
        break;
    }
    const double result = magnitudes[goes_up ? upper : lower];
    return is_negative && (result != 0 || has_negative_zero) ? -result : result;
  }
};

ElementOracle oracle_of(const Layout& layout) {
  const FormatOracle format(layout);
  ElementOracle result;
  for (std::uint32_t code = 0; code <= format.max_code(); ++code) {
    result.magnitudes.push_back(format.value(code));
  }
  return result;
}

/// An element format under test.
struct MxFp8E4m3 {
  using type = unit_scaling::float8_e4m3fn;
  static Layout layout() { return {"fp8_e4m3", 4, 3, 7, UpperEnd::one_nan}; }
};
struct MxFp8E5m2 {
  using type = unit_scaling::float8_e5m2;
  static Layout layout() { return {"fp8_e5m2", 5, 2, 15, UpperEnd::infinity_and_nan}; }
};
struct MxFp6E2m3 {
  using type = unit_scaling::float6_e2m3fn;
  static Layout layout() { return {"fp6_e2m3", 2, 3, 1, UpperEnd::finite}; }
};
struct MxFp6E3m2 {
  using type = unit_scaling::float6_e3m2fn;
  static Layout layout() { return {"fp6_e3m2", 3, 2, 3, UpperEnd::finite}; }
};
struct MxFp4E2m1 {
  using type = unit_scaling::float4_e2m1fn;
  static Layout layout() { return {"fp4_e2m1", 2, 1, 1, UpperEnd::finite}; }
};
struct MxInt8Case {
  using type = MxInt8;
  static Layout layout() { return {"int8", 0, 0, 0, UpperEnd::finite}; }
};

template <class Case> ElementOracle element_oracle() {
  if constexpr (std::is_same_v<typename Case::type, MxInt8>) {
    ElementOracle result{.magnitudes = {}, .has_negative_zero = false};
    for (int n = 0; n <= 127; ++n) result.magnitudes.push_back(n / 64.0);
    return result;
  } else {
    return oracle_of(Case::layout());
  }
}

/// The number that a code stands for, by the layout.
template <class Case> double decode_code(std::uint32_t code) {
  if constexpr (std::is_same_v<typename Case::type, MxInt8>) {
    return (code < 128 ? static_cast<double>(code) : static_cast<double>(code) - 256.0) / 64.0;
  } else {
    return FormatOracle(Case::layout()).decode(code);
  }
}

template <class E> constexpr std::size_t code_count() {
  if constexpr (std::is_same_v<E, MxInt8>) {
    return 256;
  } else {
    return std::size_t{1} << E::format.bits();
  }
}

/// What encoding and decoding a block should give.
struct ExpectedBlock {
  int scale_code = 255;  ///< 255 is NaN.
  std::vector<float> numbers;
};

int scale_exponent(double amax, const ElementOracle& elements, ScaleRounding rounding) {
  int exponent = -127;
  if (rounding == ScaleRounding::floor) {
    if (amax > 0) exponent = std::ilogb(amax) - std::ilogb(elements.max());
  } else {
    while (exponent < 127 && amax > std::ldexp(elements.max(), exponent)) ++exponent;
  }
  return std::clamp(exponent, -127, 127);
}

ExpectedBlock expected_block(std::span<const float> in, const ElementOracle& elements,
                             const MxEncodeOptions& options) {
  ExpectedBlock result;
  double amax = 0;
  for (const float number : in) {
    if (!std::isfinite(number)) {
      result.numbers.assign(in.size(), std::numeric_limits<float>::quiet_NaN());
      return result;
    }
    amax = std::max(amax, std::fabs(static_cast<double>(number)));
  }
  const int exponent = scale_exponent(amax, elements, options.scale_rounding);
  result.scale_code = exponent + 127;
  for (const float number : in) {
    const double scaled = std::ldexp(static_cast<double>(number), -exponent);
    const double element = elements.round(scaled, options.rounding);
    result.numbers.push_back(static_cast<float>(std::ldexp(element, exponent)));
  }
  return result;
}

/// Equal to the bit, but for the payload and sign of NaNs.
::testing::AssertionResult same_bits(float actual, float expected) {
  if (std::isnan(actual) && std::isnan(expected)) return ::testing::AssertionSuccess();
  if (std::bit_cast<std::uint32_t>(actual) == std::bit_cast<std::uint32_t>(expected)) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure()
         << std::hexfloat << actual << " where " << expected << " was expected";
}

/// What the library makes of numbers.
struct Converted {
  std::vector<int> scale_codes;
  std::vector<float> numbers;
};

/// Encodes and decodes. `flush` makes the processor flush subnormal numbers meanwhile.
template <class E, std::size_t block_size>
Converted converted(std::span<const float> in, std::size_t rows, std::size_t columns,
                    const MxEncodeOptions& options, bool flush) {
  MxArray<E, block_size> array(rows, columns);
  Converted result{.scale_codes = {}, .numbers = std::vector<float>(in.size())};
  const auto convert = [&] {
    array.encode(in, options);
    array.decode(result.numbers);
  };
  if (flush) {
    const FlushSubnormals flushing;
    convert();
  } else {
    convert();
  }
  for (const float8_e8m0fnu scale : array.scales()) result.scale_codes.push_back(scale.bits());
  return result;
}

/// Compares every number and scale with what the oracle expects.
void expect_as_the_oracle(const Converted& actual, std::span<const float> in, std::size_t rows,
                          std::size_t columns, std::size_t block_size,
                          const ElementOracle& elements, const MxEncodeOptions& options) {
  std::size_t block = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; column += block_size, ++block) {
      const std::size_t first = row * columns + column;
      const std::size_t count = std::min(block_size, columns - column);
      const ExpectedBlock expected = expected_block(in.subspan(first, count), elements, options);
      ASSERT_LT(block, actual.scale_codes.size());
      ASSERT_EQ(actual.scale_codes[block], expected.scale_code)
          << "block " << block << " of " << rows << " by " << columns;
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_TRUE(same_bits(actual.numbers[first + i], expected.numbers[i]))
            << "element " << first + i << ", which is " << std::hexfloat << in[first + i];
      }
    }
  }
  EXPECT_EQ(block, actual.scale_codes.size());
}

/// Encodes, decodes and compares with the oracle.
template <class E, std::size_t block_size = 32>
void check(std::span<const float> in, std::size_t rows, std::size_t columns,
           const ElementOracle& elements, const MxEncodeOptions& options = {}, bool flush = false) {
  expect_as_the_oracle(converted<E, block_size>(in, rows, columns, options, flush), in, rows,
                       columns, block_size, elements, options);
}

/// Floats with exponents, as of powers of two, from `lowest` to `highest`, both signs; below -126
/// they are subnormal.
std::vector<float> random_floats(RandomBits& random, std::size_t count, int lowest, int highest) {
  std::vector<float> result;
  for (std::size_t i = 0; i < count; ++i) {
    const int exponent =
        lowest + static_cast<int>((random() >> 8) % static_cast<unsigned>(highest - lowest + 1));
    const double fraction = 1 + (random() >> 9) * 0x1p-23;
    const auto number = static_cast<float>(std::ldexp(fraction, exponent));
    result.push_back((random() >> 16) % 2 == 0 ? number : -number);
  }
  return result;
}

const std::vector<Rounding> deterministic_modes{Rounding::nearest_even, Rounding::nearest_away,
                                                Rounding::toward_zero, Rounding::toward_positive,
                                                Rounding::toward_negative};

template <class Case> class MxBlock : public ::testing::Test {
 protected:
  const ElementOracle elements = element_oracle<Case>();
};
struct CaseNames {
  template <class Case> static std::string GetName(int /*index*/) { return Case::layout().name; }
};
using ElementFormats =
    ::testing::Types<MxFp8E4m3, MxFp8E5m2, MxFp6E2m3, MxFp6E3m2, MxFp4E2m1, MxInt8Case>;
TYPED_TEST_SUITE(MxBlock, ElementFormats, CaseNames);

TYPED_TEST(MxBlock, AgreesWithTheOracleWhateverTheSize) {
  using E = typename TypeParam::type;
  RandomBits random;
  for (const std::size_t columns : {0U, 1U, 31U, 32U, 33U, 50U, 96U, 100U}) {
    for (const std::size_t rows : {0U, 1U, 3U}) {
      const auto in = random_floats(random, rows * columns, -6, 1);
      check<E>(in, rows, columns, this->elements);
    }
  }
}

TYPED_TEST(MxBlock, AgreesWithTheOracleInEveryModeAndRange) {
  using E = typename TypeParam::type;
  RandomBits random;
  const std::map<int, int> ranges{{-8, 2},      {-30, 20},    {-126, 127},
                                  {-149, 127},  {-149, -120}, {-149, -145},
                                  {-130, -110}, {100, 127},   {126, 127}};
  for (const auto& [lowest, highest] : ranges) {
    for (const auto scale_rounding : {ScaleRounding::floor, ScaleRounding::round_up}) {
      for (const Rounding rounding : deterministic_modes) {
        const auto in = random_floats(random, 4 * 50, lowest, highest);
        const MxEncodeOptions options{.scale_rounding = scale_rounding, .rounding = rounding};
        for (const bool flush : {false, true}) {
          check<E>(in, 4, 50, this->elements, options, flush);
        }
      }
    }
  }
}

TYPED_TEST(MxBlock, AgreesWithTheOracleAtEveryElementAndTie) {
  using E = typename TypeParam::type;
  const auto& magnitudes = this->elements.magnitudes;
  for (const int exponent : {-127, -120, -40, 0, 40, 111}) {
    for (const Rounding rounding : deterministic_modes) {
      std::vector<float> in;
      for (std::size_t i = 0; i < magnitudes.size(); ++i) {
        const double next = i + 1 < magnitudes.size() ? magnitudes[i + 1] : 2 * magnitudes[i];
        for (const double number : {magnitudes[i], (magnitudes[i] + next) / 2}) {
          const auto scaled = static_cast<float>(std::ldexp(number, exponent));
          for (const float near : {std::nextafter(scaled, 0.0F), scaled,
                                   std::nextafter(scaled, std::numeric_limits<float>::max())}) {
            // With the largest number as company, so that the scale is 2^exponent.
            const auto largest = static_cast<float>(std::ldexp(magnitudes.back(), exponent));
            if (near > largest) continue;
            for (const float number_of_block : {near, -near, largest, -largest}) {
              in.push_back(number_of_block);
            }
          }
        }
      }
      check<E, 4>(in, 1, in.size(), this->elements, {.rounding = rounding});
      check<E, 4>(in, 1, in.size(), this->elements, {.rounding = rounding}, true);
    }
  }
}

TYPED_TEST(MxBlock, EveryCodeTimesEveryScaleDecodesExactly) {
  using E = typename TypeParam::type;
  constexpr std::size_t codes = code_count<E>();
  std::vector<E> row;
  std::vector<double> values;
  for (std::size_t code = 0; code < codes; ++code) {
    row.push_back(E::from_bits(static_cast<std::uint8_t>(code)));
    values.push_back(decode_code<TypeParam>(static_cast<std::uint32_t>(code)));
  }
  using Array = MxArray<E, codes>;
  for (unsigned scale = 0; scale < 255; ++scale) {
    const Array array(1, codes, {float8_e8m0fnu::from_bits(static_cast<std::uint8_t>(scale))},
                      typename Array::Elements(row));
    std::vector<float> out(codes);
    std::vector<float> flushed(codes);
    array.decode(out);
    {
      const FlushSubnormals flushing;
      array.decode(flushed);
    }
    for (std::size_t code = 0; code < codes; ++code) {
      const double exact = std::ldexp(values[code], static_cast<int>(scale) - 127);
      const auto expected = static_cast<float>(exact);
      ASSERT_TRUE(same_bits(out[code], expected)) << "scale " << scale << ", code " << code;
      ASSERT_TRUE(same_bits(flushed[code], expected)) << "scale " << scale << ", code " << code;
      // The oracle's own rounding to binary32 must not hide one of the library.
      if (std::isfinite(expected)) {
        ASSERT_EQ(static_cast<double>(expected), exact);
      }
    }
  }
}

TYPED_TEST(MxBlock, AScaleOfNanMakesItsBlockNan) {
  using E = typename TypeParam::type;
  using Array = MxArray<E, 2>;
  const std::vector<E> ones(4, E::from_bits(1));
  const Array array(1, 4, {float8_e8m0fnu::from_bits(255), float8_e8m0fnu::from_bits(127)},
                    typename Array::Elements(ones));
  std::vector<float> out(4);
  array.decode(out);
  EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]));
  EXPECT_EQ(out[2], static_cast<float>(this->elements.magnitudes[1]));
  EXPECT_EQ(out[3], out[2]);
}

TYPED_TEST(MxBlock, ANumberThatIsNotFiniteMakesItsBlockNanAndNoOther) {
  using E = typename TypeParam::type;
  RandomBits random;
  std::vector<float> special{std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity()};
  for (const std::uint32_t bits : nan_bits()) special.push_back(std::bit_cast<float>(bits));
  for (const float number : special) {
    for (const std::size_t position : {32U, 47U, 63U}) {
      for (const bool flush : {false, true}) {
        auto in = random_floats(random, 70, -5, 5);
        in[position] = number;
        check<E>(in, 1, 70, this->elements, {}, flush);
        MxArray<E> array(70);
        array.encode(in);
        EXPECT_FALSE(isnan(array.scales()[0]));
        EXPECT_TRUE(isnan(array.scales()[1]));
        EXPECT_FALSE(isnan(array.scales()[2]));
        for (std::size_t i = 32; i < 64; ++i) EXPECT_EQ(array.elements()[i].bits(), 0);
      }
    }
  }
}

TYPED_TEST(MxBlock, ABlockOfZerosHasTheSmallestScaleAndKeepsTheirSigns) {
  using E = typename TypeParam::type;
  const std::vector<float> in{0.0F, -0.0F, 0.0F};
  for (const auto scale_rounding : {ScaleRounding::floor, ScaleRounding::round_up}) {
    MxArray<E> array(3);
    array.encode(in, {.scale_rounding = scale_rounding});
    EXPECT_EQ(array.scales()[0].bits(), 0);
    std::vector<float> out(3, 1.0F);
    array.decode(out);
    EXPECT_TRUE(same_bits(out[0], 0.0F));
    EXPECT_TRUE(same_bits(out[1], this->elements.has_negative_zero ? -0.0F : 0.0F));
    EXPECT_TRUE(same_bits(out[2], 0.0F));
  }
}

TYPED_TEST(MxBlock, ANewOneDecodesToZeros) {
  const MxArray<typename TypeParam::type> array(2, 33);
  EXPECT_EQ(array.scales().size(), 4U);
  std::vector<float> out(66, 1.0F);
  array.decode(out);
  for (const float number : out) EXPECT_TRUE(same_bits(number, 0.0F));
}

TYPED_TEST(MxBlock, RoundUpNeverSaturates) {
  using E = typename TypeParam::type;
  const double max = this->elements.max();
  RandomBits random;
  std::vector<float> amaxes = random_floats(random, 2000, -149, 127);
  for (int exponent = -149; exponent <= 127; ++exponent) {
    // The largest number of the format and its neighbours, times every power of two.
    const auto critical = static_cast<float>(std::ldexp(max, exponent));
    if (!std::isfinite(critical)) continue;
    amaxes.push_back(std::nextafter(critical, 0.0F));
    amaxes.push_back(critical);
    amaxes.push_back(std::nextafter(critical, std::numeric_limits<float>::max()));
  }
  for (const float amax : amaxes) {
    const double magnitude = std::fabs(static_cast<double>(amax));
    MxArray<E> array(1);
    array.encode(std::span(&amax, 1), {.scale_rounding = ScaleRounding::round_up});
    const int exponent = int{array.scales()[0].bits()} - 127;
    if (magnitude > std::ldexp(max, 127)) {  // only MxInt8: there is no larger scale
      EXPECT_EQ(exponent, 127);
      continue;
    }
    EXPECT_LE(magnitude, std::ldexp(max, exponent)) << std::hexfloat << amax;
    if (exponent > -127) {
      EXPECT_GT(magnitude, std::ldexp(max, exponent - 1)) << std::hexfloat << amax;
    }
  }
}

TYPED_TEST(MxBlock, FloorSaturatesAndRoundUpDoesNotJustBelowAPowerOfTwo) {
  using E = typename TypeParam::type;
  // 1.998 is beyond the largest significand of every element format but INT8, 127/64 = 1.984.
  const float number = 1.998F;
  MxArray<E> array(1);
  float out = 0;
  array.encode(std::span(&number, 1));
  array.decode(std::span(&out, 1));
  const double max = this->elements.max();
  EXPECT_EQ(static_cast<double>(out), max / std::exp2(std::ilogb(max)));
  array.encode(std::span(&number, 1), {.scale_rounding = ScaleRounding::round_up});
  array.decode(std::span(&out, 1));
  EXPECT_EQ(out, 2.0F);
}

TYPED_TEST(MxBlock, NoBlockReachesIntoTheNextRow) {
  using E = typename TypeParam::type;
  RandomBits random;
  const auto in = random_floats(random, 3 * 50, -20, 20);
  MxArray<E> all(3, 50);
  all.encode(in);
  EXPECT_EQ(all.blocks_per_row(), 2U);
  for (std::size_t row = 0; row < 3; ++row) {
    MxArray<E> one(50);
    one.encode(std::span(in).subspan(row * 50, 50));
    for (std::size_t i = 0; i < 50; ++i) {
      EXPECT_EQ(one.elements()[i].bits(), all.elements()[row * 50 + i].bits());
    }
    EXPECT_EQ(one.scales()[0].bits(), all.scales()[2 * row].bits());
    EXPECT_EQ(one.scales()[1].bits(), all.scales()[2 * row + 1].bits());
  }
}

TYPED_TEST(MxBlock, ServesOtherBlockSizes) {
  using E = typename TypeParam::type;
  RandomBits random;
  for (const std::size_t columns : {1U, 15U, 16U, 17U, 50U, 130U}) {
    const auto in = random_floats(random, 2 * columns, -10, 10);
    check<E, 1>(in, 2, columns, this->elements);
    check<E, 5>(in, 2, columns, this->elements);
    check<E, 16>(in, 2, columns, this->elements);
    check<E, 128>(in, 2, columns, this->elements);
  }
}

TYPED_TEST(MxBlock, EncodingOverwritesWhatWasThere) {
  using E = typename TypeParam::type;
  RandomBits random;
  MxArray<E> reused(50);
  reused.encode(std::vector<float>(50, std::numeric_limits<float>::quiet_NaN()));
  reused.encode(random_floats(random, 50, -9, 9));
  const auto in = random_floats(random, 50, -3, 3);
  MxArray<E> fresh(50);
  reused.encode(in);
  fresh.encode(in);
  for (std::size_t i = 0; i < 50; ++i) {
    EXPECT_EQ(reused.elements()[i].bits(), fresh.elements()[i].bits());
  }
  EXPECT_EQ(reused.scales()[1].bits(), fresh.scales()[1].bits());
}

TYPED_TEST(MxBlock, StochasticRoundingIsRightInTheMean) {
  using E = typename TypeParam::type;
  // Each block has a number half a step and one a quarter step beyond an element, and the largest
  // element, which sets the scale to one.
  const auto& magnitudes = this->elements.magnitudes;
  const double lower = magnitudes[2];
  const double upper = magnitudes[3];
  const double largest = magnitudes.back();
  constexpr std::size_t blocks = 20000;
  std::vector<float> in;
  for (std::size_t i = 0; i < blocks; ++i) {
    in.push_back(static_cast<float>((lower + upper) / 2));
    in.push_back(-static_cast<float>(0.75 * lower + 0.25 * upper));
    in.push_back(static_cast<float>(largest));
  }
  for (const int bits : {8, 16, 32}) {
    const unit_scaling::StochasticRounding random(unit_scaling::Random(7), bits);
    MxArray<E, 3> array(in.size());
    array.encode(in, {.rounding = Rounding::stochastic, .random = random});
    std::vector<float> out(in.size());
    array.decode(out);
    double half = 0;
    double quarter = 0;
    for (std::size_t i = 0; i < in.size(); i += 3) {
      half += (static_cast<double>(out[i]) - lower) / (upper - lower);
      quarter += (-static_cast<double>(out[i + 1]) - lower) / (upper - lower);
      ASSERT_EQ(static_cast<double>(out[i + 2]), largest);
    }
    // Five standard deviations of the mean of `blocks` draws of variance 1/4 or less.
    const double tolerance = 5 * 0.5 / std::sqrt(static_cast<double>(blocks));
    EXPECT_NEAR(half / blocks, 0.5, tolerance) << bits;
    EXPECT_NEAR(quarter / blocks, 0.25, tolerance) << bits;
  }
}

TYPED_TEST(MxBlock, StochasticRoundingTakesTheWordOfEachElement) {
  using E = typename TypeParam::type;
  RandomBits bits;
  const auto in = random_floats(bits, 5 * 77, -7, 0);
  const unit_scaling::StochasticRounding random(unit_scaling::Random(3), 16);
  MxArray<E> array(5, 77);
  array.encode(in, {.rounding = Rounding::stochastic, .random = random});
  for (std::size_t i = 0; i < in.size(); ++i) {
    const std::size_t block = i / 77 * array.blocks_per_row() + i % 77 / 32;
    const double scaled =
        std::ldexp(static_cast<double>(in[i]), 127 - int{array.scales()[block].bits()});
    if constexpr (std::is_same_v<E, MxInt8>) {
      // With 16 bits, the fraction plus the random one carries or not.
      const double units = std::fabs(scaled) * 64 + (random.word(i) >> 16) * 0x1p-16;
      const double expected = std::min(std::floor(units + 0x1p-17), 127.0) / 64;
      EXPECT_EQ(std::fabs(static_cast<double>(static_cast<float>(array.elements()[i]))), expected)
          << scaled;
    } else {
      const E expected = E::from_float(static_cast<float>(scaled), unit_scaling::Overflow::saturate,
                                       Rounding::stochastic, random.word(i));
      EXPECT_EQ(array.elements()[i].bits(), expected.bits()) << scaled;
    }
  }
}

TEST(MxFormats, TakeTheBitsThatTheSpecificationSays) {
  EXPECT_EQ(unit_scaling::mxfp8_e4m3(4, 64).bytes(), 4U * 64U + 8U);
  EXPECT_EQ(unit_scaling::mxfp8_e5m2(4, 64).bytes(), 4U * 64U + 8U);
  EXPECT_EQ(unit_scaling::mxint8(4, 64).bytes(), 4U * 64U + 8U);
  EXPECT_EQ(unit_scaling::mxfp6_e2m3(4, 64).bytes(), 4U * 48U + 8U);
  EXPECT_EQ(unit_scaling::mxfp6_e3m2(4, 64).bytes(), 4U * 48U + 8U);
  EXPECT_EQ(unit_scaling::mxfp4_e2m1(4, 64).bytes(), 4U * 32U + 8U);
}

TEST(MxFormats, AreTheOnesOfTheSpecification) {
  // 3e38 is 1.76 times 2^127. The largest elements: OCP MX 1.0, section 5.3.
  const auto element_of_3e38 = []<class E>(E /*element*/) {
    const std::vector<float> in{3e38F, -3e38F};
    MxArray<E> array(2);
    array.encode(in, {.rounding = Rounding::toward_zero});
    return static_cast<float>(array.elements()[1]);
  };
  EXPECT_EQ(element_of_3e38(unit_scaling::float8_e4m3fn()), -448.0F);
  EXPECT_EQ(element_of_3e38(unit_scaling::float8_e5m2()), -57344.0F);
  EXPECT_EQ(element_of_3e38(unit_scaling::float6_e2m3fn()), -7.0F);
  EXPECT_EQ(element_of_3e38(unit_scaling::float6_e3m2fn()), -28.0F);
  EXPECT_EQ(element_of_3e38(unit_scaling::float4_e2m1fn()), -6.0F);
  EXPECT_EQ(element_of_3e38(MxInt8()), -112.0F / 64.0F);
}

TEST(MxInt8, IsAnIntegerOfTwosComplementInSixtyFourths) {
  for (unsigned code = 0; code < 256; ++code) {
    const auto number = MxInt8::from_bits(static_cast<std::uint8_t>(code));
    EXPECT_EQ(static_cast<double>(static_cast<float>(number)), decode_code<MxInt8Case>(code));
    EXPECT_EQ(number.bits(), code);
  }
  EXPECT_EQ(static_cast<float>(MxInt8()), 0.0F);
  EXPECT_NE(MxInt8(), MxInt8::from_bits(1));
}

TEST(MxInt8, EncodingNeverGivesMinusTwo) {
  const std::vector<float> in{-1.999F, 1.999F};
  MxArray<MxInt8> array(2);
  array.encode(in);
  EXPECT_EQ(array.elements()[0].bits(), 0x81);
  EXPECT_EQ(array.elements()[1].bits(), 0x7f);
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

template <class E> void expect_uncountable_mx_arrays_to_be_refused() {
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  for (const std::size_t size : {most, most - 1, most / 2 + 1, most / 8 + 1}) {
    for (const auto& [rows, columns] :
         {std::pair{size, std::size_t{1}}, {1, size}, {size / 2, 2}}) {
      expect_shape_error(
          [rows = rows, columns = columns] { (unit_scaling::MxArray<E>(rows, columns)); },
          {"MxArray", "count"});
    }
  }
  EXPECT_EQ((unit_scaling::MxArray<E>(most, 0).rows()), most);
}

TEST(MxArray, RefusesSizesWhoseBitsCannotBeCounted) {
  expect_uncountable_mx_arrays_to_be_refused<unit_scaling::float8_e4m3fn>();
  expect_uncountable_mx_arrays_to_be_refused<unit_scaling::float6_e2m3fn>();
  expect_uncountable_mx_arrays_to_be_refused<unit_scaling::float4_e2m1fn>();
}

TEST(MxArray, ErrorsNameTheFunctionAndTheSizes) {
  using Array = unit_scaling::mxfp8_e4m3;
  Array array(3, 50);
  std::vector<float> numbers(149);
  EXPECT_EQ(error_of([&] { array.encode(numbers); }),
            "unit_scaling::MxArray::encode: 3 rows of 50 columns, in blocks of 32, have 150 "
            "numbers, got 149");
  EXPECT_EQ(error_of([&] { array.decode(numbers); }),
            "unit_scaling::MxArray::decode: 3 rows of 50 columns, in blocks of 32, have 150 "
            "numbers, got 149");
  numbers.resize(150);
  EXPECT_EQ(error_of([&] { array.encode(numbers, {.rounding = Rounding::stochastic}); }),
            "unit_scaling::MxArray::encode: stochastic rounding, expected MxEncodeOptions::random");
  EXPECT_EQ(error_of([&] {
              static_cast<void>(Array(3, 50, std::vector<float8_e8m0fnu>(5), Array::Elements(150)));
            }),
            "unit_scaling::MxArray: 3 rows of 50 columns, in blocks of 32, have 6 scales, got 5");
  EXPECT_EQ(error_of([&] {
              static_cast<void>(Array(3, 50, std::vector<float8_e8m0fnu>(6), Array::Elements(9)));
            }),
            "unit_scaling::MxArray: 3 rows of 50 columns, in blocks of 32, have 150 elements, got "
            "9");
}

}  // namespace mx_block_test
}  // namespace unit_scaling_test
