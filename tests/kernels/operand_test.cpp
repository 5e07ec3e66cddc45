// SPDX-License-Identifier: MIT
// Products of operands in formats that are chosen at run time, with every kind of scale, against
// sums in double.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "support/threads.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/formats/bit_packing.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/kernels/any_operand.hpp"
#include "unit_scaling/kernels/matmul.hpp"

namespace operand_test {

using namespace unit_scaling;
using kernels::SummedExtent;

constexpr ScaleFormat power = ScaleFormat::power_of_two;
constexpr ScaleFormat number = ScaleFormat::binary32;
constexpr ScaleFormat two_level = ScaleFormat::two_level;

constexpr std::array layouts{
    ScaleLayout{},
    ScaleLayout::per_tensor(power),
    ScaleLayout::per_tensor(number),
    ScaleLayout::per_row(power),
    ScaleLayout::per_row(number),
    ScaleLayout::per_column(power),
    ScaleLayout::per_column(number),
    ScaleLayout::per_block_of_columns(power, 32),
    ScaleLayout::per_block_of_columns(number, 7),
    ScaleLayout::per_block_of_rows(power, 16),
    ScaleLayout{number, 3, 5},
    ScaleLayout::per_tensor(two_level),
    ScaleLayout::per_row(two_level),
    ScaleLayout::per_block_of_columns(two_level, 16),
    ScaleLayout{two_level, 4, 4},
};

/// What the elements of an operand are beside ordinary numbers.
enum class Content { ordinary, with_zeros_and_subnormals, with_infinities_and_nan };

/// A random number in [0, 2^32) for each index.
std::uint32_t random_word(std::uint64_t seed, std::size_t index) {
  return Random(seed).block(index / 4)[index % 4];
}

/// Random codes of a format, (rows, columns), under scales between 1/8 and 8.
EncodedArray random_array(const Shape& shape, const Format& format, const ScaleLayout& layout,
                          Content content, std::uint64_t seed) {
  Array<float> numbers(shape);
  const float largest = std::min(4.0F, static_cast<float>(format.spec().max_finite()));
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::uint32_t word = random_word(seed, i);
    float value = (static_cast<float>(word >> 8) * 0x1p-23F - 1) * largest;
    if (content == Content::with_zeros_and_subnormals && word % 3 == 0) {
      value = word % 2 == 0
                  ? -0.0F
                  : static_cast<float>(std::ldexp(1.0, format.spec().min_subnormal_exponent()));
    }
    if (content == Content::with_infinities_and_nan && word % 61 == 0) {
      value = word % 2 == 0 ? std::numeric_limits<float>::quiet_NaN()
                            : std::numeric_limits<float>::infinity();
    }
    numbers.mutable_data()[i] = value;
  }
  std::vector<float> scales(layout.count(shape.rows(), shape.columns()));
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const std::uint32_t word = random_word(seed + 1, i);
    scales[i] = std::ldexp(1.0F, static_cast<int>(word % 7) - 3);
    if (layout.format == number) scales[i] *= 1 + static_cast<float>(word >> 8) * 0x1p-24F;
  }
  const EncodedArray unscaled = EncodedArray::encode(EncodedArray::view(numbers), format,
                                                     {.overflow = Overflow::infinity_or_nan});
  const auto codes = unscaled.codes();
  const std::size_t common_bytes = has_common_scale(layout.format) ? sizeof(float) : 0;
  Array<std::uint8_t> scale_codes(Shape{scales.size() * scale_bytes(layout.format) + common_bytes});
  if (common_bytes != 0) {
    const float common = 0.7F;
    std::memcpy(scale_codes.mutable_data() + scales.size(), &common, sizeof(common));
  }
  for (std::size_t i = 0; i < scales.size(); ++i) {
    if (layout.format == power) {
      scale_codes.mutable_data()[i] = static_cast<std::uint8_t>(127 + std::ilogb(scales[i]));
    } else if (layout.format == two_level) {
      scale_codes.mutable_data()[i] = float8_e4m3fn(scales[i]).bits();
    } else {
      std::memcpy(scale_codes.mutable_data() + 4 * i, &scales[i], 4);
    }
  }
  return {shape, format, Array<std::uint8_t>(Shape{codes.size()}, codes), layout, scale_codes};
}

/// The exact elements: number of the code times scale.
struct Exact {
  explicit Exact(const EncodedArray& array)
      : columns(array.columns()), numbers(array.without_scales().decode()), encoded(array) {}

  double operator()(std::size_t row, std::size_t column) const {
    return static_cast<double>(numbers.data()[row * columns + column]) *
           static_cast<double>(encoded.scale_of(row, column));
  }

  std::size_t columns;
  Array<float> numbers;
  EncodedArray encoded;
};

/// An operand with `outer` rows of `inner` elements that a product sums over; it lies in memory as
/// `summed` says.
EncodedArray operand_array(std::size_t outer, std::size_t inner, SummedExtent summed,
                           const Format& format, const ScaleLayout& layout, Content content,
                           std::uint64_t seed) {
  const Shape shape = summed == SummedExtent::columns ? Shape{outer, inner} : Shape{inner, outer};
  return random_array(shape, format, layout, content, seed);
}

std::vector<float> product(const EncodedArray& left, SummedExtent left_summed,
                           const EncodedArray& right, SummedExtent right_summed,
                           const kernels::MatmulSize& size,
                           const kernels::Epilogue<float>& epilogue = {}) {
  std::vector<float> out(size.rows * size.columns, -12345.0F);
  const kernels::Operand left_operand = kernels::make_operand(left);
  const kernels::Operand right_operand = kernels::make_operand(right);
  const kernels::PreparedOperand a(left_operand, left_summed);
  const kernels::PreparedOperand b(right_operand, right_summed);
  kernels::matmul<float>(size, a.part(), b.part(), out.data(), size.columns, epilogue);
  return out;
}

/// Compares a product with the sums of exact elements in double. Bound: each of `inner` steps, the
/// decoding of an element of either operand, a scale of two levels of either, the scales and the
/// epilogue round once, u = 2^-24, and AMX takes products below 2^-126 for zero.
void expect_product_of_exact_elements(const EncodedArray& left, SummedExtent left_summed,
                                      const EncodedArray& right, SummedExtent right_summed,
                                      const kernels::MatmulSize& size) {
  std::vector<float> bias(size.columns);
  for (std::size_t j = 0; j < size.columns; ++j) bias[j] = 0.25F * static_cast<float>(j % 5) - 0.5F;
  const kernels::Epilogue<float> epilogue{.scale = 0.7F, .bias = bias.data()};
  const std::vector<float> out = product(left, left_summed, right, right_summed, size, epilogue);
  const Exact a(left);
  const Exact b(right);
  const auto at = [](const Exact& exact, SummedExtent summed, std::size_t outer, std::size_t p) {
    return summed == SummedExtent::columns ? exact(outer, p) : exact(p, outer);
  };
  for (std::size_t i = 0; i < size.rows; ++i) {
    for (std::size_t j = 0; j < size.columns; ++j) {
      double sum = 0;
      double magnitudes = 0;
      for (std::size_t p = 0; p < size.inner; ++p) {
        const double term = at(a, left_summed, i, p) * at(b, right_summed, j, p);
        sum += term;
        magnitudes += std::abs(term);
      }
      const double scale = static_cast<double>(0.7F);
      const double expected = scale * (sum + static_cast<double>(bias[j]));
      const auto actual = static_cast<double>(out[i * size.columns + j]);
      if (!std::isfinite(expected)) {
        ASSERT_TRUE(std::isnan(expected) ? std::isnan(actual) : actual == expected)
            << "(" << i << ", " << j << "): expected " << expected << ", got " << actual;
        continue;
      }
      const auto steps = static_cast<double>(size.inner);
      const double bound = (steps + 8) * 0x1p-24 * scale * (magnitudes + 0.5) + steps * 0x1p-126;
      ASSERT_NEAR(actual, expected, bound) << "(" << i << ", " << j << ")";
    }
  }
}

class ProductsOf : public testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(ProductsOf, AnyScalesAreThoseOfExactElements) {
  const Format left = Format::parse(std::get<0>(GetParam()));
  const Format right = Format::parse(std::get<1>(GetParam()));
  constexpr std::array<std::array<std::size_t, 3>, 6> extents{
      {{1, 1, 1}, {3, 5, 0}, {2, 19, 33}, {37, 3, 70}, {35, 41, 67}, {9, 17, 5}}};
  std::uint64_t seed = 1;
  for (const ScaleLayout& left_layout : layouts) {
    for (const ScaleLayout& right_layout : layouts) {
      // Each layout beside itself, none, and one of every other kind.
      if (left_layout != right_layout && left_layout.has_scales() && right_layout.has_scales() &&
          right_layout != ScaleLayout::per_row(number)) {
        continue;
      }
      for (const auto& [rows, columns, inner] : extents) {
        for (int way = 0; way < 4; ++way) {
          const auto summed = [](bool is_over_rows) {
            return is_over_rows ? SummedExtent::rows : SummedExtent::columns;
          };
          const SummedExtent a = summed((way & 1) != 0);
          const SummedExtent b = summed((way & 2) != 0);
          const auto content = static_cast<Content>(seed % 3);
          SCOPED_TRACE(to_string(left_layout) + " and " + to_string(right_layout) + ", " +
                       std::to_string(rows) + " x " + std::to_string(columns) + " x " +
                       std::to_string(inner) + ", way " + std::to_string(way) + ", content " +
                       std::to_string(seed % 3));
          expect_product_of_exact_elements(
              operand_array(rows, inner, a, left, left_layout, content, seed), a,
              operand_array(columns, inner, b, right, right_layout, content, seed + 50), b,
              {rows, columns, inner});
          if (HasFatalFailure()) return;
          ++seed;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, ProductsOf,
    testing::Values(std::tuple{"e4m3fn", "e4m3fn"}, std::tuple{"e5m2", "e3m4"},
                    std::tuple{"e2m1fn", "e2m3fn"}, std::tuple{"e4m3fnuz", "e4m3fn"},
                    std::tuple{"float16", "e5m2"}, std::tuple{"bfloat16", "e3m2fn"},
                    std::tuple{"float32", "e2m5"}, std::tuple{"e5m7", "e6m9"},
                    std::tuple{"e7m1", "e2m5fn"}),
    [](const auto& test) {
      return std::string(std::get<0>(test.param)) + "_and_" + std::get<1>(test.param);
    });

TEST(Operand, OfAFormatOfTheCatalogueHasTheBitsOfItsStorageType) {
  const Array<float8_e4m3fn> a = [] {
    Array<float8_e4m3fn> result(Shape{35, 67});
    for (std::size_t i = 0; i < result.size(); ++i) {
      result.mutable_data()[i] =
          float8_e4m3fn::from_bits(static_cast<std::uint8_t>(random_word(3, i) & 0xf7U));
    }
    return result;
  }();
  std::vector<float> expected(35 * 35);
  kernels::matmul<float>({35, 35, 67}, kernels::row_major(a.data(), 67),
                         kernels::row_major(a.data(), 67).transposed(), expected.data(), 35);
  const EncodedArray view = EncodedArray::view(a);
  const std::vector<float> actual =
      product(view, SummedExtent::columns, view, SummedExtent::columns, {35, 35, 67});
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(actual[i]), std::bit_cast<std::uint32_t>(expected[i]))
        << i;
  }
}

/// The same codes under one scale, 2^exponent.
EncodedArray under_power(const EncodedArray& array, int exponent) {
  const auto codes = array.codes();
  return {array.shape(), array.format(), Array<std::uint8_t>(Shape{codes.size()}, codes),
          ScaleLayout::per_tensor(power),
          Array<std::uint8_t>(Shape{1}, {static_cast<std::uint8_t>(127 + exponent)})};
}

TEST(Operand, TimesAPowerOfTwoGivesExactlyThatPowerTimesTheProduct) {
  for (const char* name : {"e4m3fn", "e3m4", "e2m1fn", "bfloat16", "float32"}) {
    const Format format = Format::parse(name);
    const EncodedArray a = random_array(Shape{33, 65}, format, {}, Content::ordinary, 5);
    const EncodedArray b = random_array(Shape{31, 65}, format, {}, Content::ordinary, 6);
    const auto of = [&](int left, int right) {
      return product(under_power(a, left), SummedExtent::columns, under_power(b, right),
                     SummedExtent::columns, {33, 31, 65});
    };
    const std::vector<float> base = of(0, 0);
    for (const auto [left, right] : {std::array{1, 0}, std::array{-7, 3}, std::array{100, -40},
                                     std::array{127, -127}, std::array{-60, -40},
                                     // Results are subnormal, or below all floats.
                                     std::array{-75, -70}, std::array{-127, -127}}) {
      const std::vector<float> scaled = of(left, right);
      for (std::size_t i = 0; i < base.size(); ++i) {
        ASSERT_EQ(scaled[i], std::ldexp(base[i], left + right))
            << name << ", 2^" << left << " 2^" << right;
      }
    }
  }
}

TEST(Operand, ScalesBeyondTheRangeOfFloatTogetherGiveWhatIsInRange) {
  const Array<float> tiny = Array<float>::filled(Shape{5, 6}, 0x1p-110F);
  const EncodedArray a = under_power(EncodedArray::view(tiny), 120);
  const std::vector<float> out =
      product(a, SummedExtent::columns, a, SummedExtent::columns, {5, 5, 6});
  // Products of elements are below the least number of float, and sums of them nothing.
  for (const float each : out) EXPECT_EQ(each, 0.0F);
  const Array<float> small = Array<float>::filled(Shape{5, 6}, 0x1p-60F);
  const EncodedArray b = under_power(EncodedArray::view(small), 100);
  for (const float each : product(b, SummedExtent::columns, b, SummedExtent::columns, {5, 5, 6})) {
    EXPECT_EQ(each, 6 * 0x1p80F);
  }
}

TEST(Operand, GivesTheSameBitsForAnyNumberOfThreads) {
  const Format format = Format::parse("e3m4");
  const EncodedArray a = random_array(
      Shape{130, 200}, format, ScaleLayout::per_block_of_columns(power, 32), Content::ordinary, 7);
  const EncodedArray b =
      random_array(Shape{140, 200}, format, ScaleLayout::per_row(number), Content::ordinary, 8);
  std::vector<float> expected;
  for (const std::size_t threads : {1U, 2U, 3U, 7U}) {
    const unit_scaling_test::ThreadCountScope scope(threads);
    const std::vector<float> out =
        product(a, SummedExtent::columns, b, SummedExtent::columns, {130, 140, 200});
    if (expected.empty()) expected = out;
    EXPECT_EQ(out, expected) << threads << " threads";
  }
}

/// What the scales of an array are beside ordinary ones.
enum class Scaled { ordinarily, low, low_where_all_is_zero, high, with_nan };

/// All codes of a format in turn, under scales in float8_e8m0fnu.
EncodedArray array_of_all_codes(const Format& format, const ScaleLayout& layout, const Shape& shape,
                                Scaled scaled) {
  const std::size_t count = layout.count(shape.rows(), shape.columns());
  Array<std::uint8_t> scales(Shape{count});
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t word = random_word(9, i);
    std::uint8_t& scale = scales.mutable_data()[i];
    scale = static_cast<std::uint8_t>(117 + word % 20);
    if (word % 5 != 0 || scaled == Scaled::ordinarily) continue;
    if (scaled == Scaled::high) {
      scale = static_cast<std::uint8_t>(254 - word / 5 % 20);
    } else if (scaled == Scaled::with_nan) {
      scale = 255;
    } else {
      scale = static_cast<std::uint8_t>(word / 5 % 2);
    }
  }
  Array<std::uint8_t> bytes(shape);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::size_t tile =
        layout.index(i / shape.columns(), i % shape.columns(), shape.columns());
    const bool is_zero = scaled == Scaled::low_where_all_is_zero && scales.data()[tile] < 20;
    const std::uint32_t code = random_word(3, i) >> (32 - format.storage_bits());
    bytes.mutable_data()[i] = static_cast<std::uint8_t>(is_zero ? 0 : code);
  }
  Array<std::uint8_t> codes(Shape{format.code_bytes(shape.size())});
  if (format.storage_bits() == 8) {
    std::memcpy(codes.mutable_data(), bytes.data(), bytes.size());
  } else {
    unit_scaling::detail::pack_codes(format.spec().bits(), bytes.span(), codes.mutable_data());
  }
  return {shape, format, codes, layout, scales};
}

TEST(Operand, WithBlocksAlongWhatIsSummedOverHasTheBitsOfItsElements) {
  for (const char* const name : {"e4m3fn", "e5m2", "e2m3fn", "e3m2fn", "e2m1fn", "e3m4"}) {
    const Format format = Format::parse(name);
    for (const ScaleLayout& layout :
         {ScaleLayout::per_block_of_columns(power, 32),
          ScaleLayout::per_block_of_columns(power, 96), ScaleLayout::per_block_of_rows(power, 32),
          ScaleLayout::per_block_of_rows(power, 3), ScaleLayout::per_block_of_columns(power, 16),
          ScaleLayout{power, 32, 32}}) {
      for (const Shape& shape : {Shape{77, 192}, Shape{1, 96}, Shape{50, 33}}) {
        for (const Scaled scaled : {Scaled::ordinarily, Scaled::low, Scaled::low_where_all_is_zero,
                                    Scaled::high, Scaled::with_nan}) {
          const EncodedArray array = array_of_all_codes(format, layout, shape, scaled);
          const kernels::Operand operand = kernels::make_operand(array);
          const kernels::PreparedOperand prepared(operand, SummedExtent::both_with_scales);
          std::vector<float> actual(array.size());
          prepared.view().kernels->decode(prepared.element(0), prepared.view().table, array.size(),
                                          actual.data());
          const Array<float> expected = array.decode();
          for (std::size_t i = 0; i < array.size(); ++i) {
            const float want = expected.data()[i];
            ASSERT_TRUE(std::isnan(want) ? std::isnan(actual[i])
                                         : std::bit_cast<std::uint32_t>(actual[i]) ==
                                               std::bit_cast<std::uint32_t>(want))
                << name << ", " << to_string(layout) << ", " << to_string(shape) << ", scaled "
                << static_cast<int>(scaled) << ", " << i << ": " << actual[i] << ", not " << want;
          }
          // Of all codes, some are far below the range of bfloat16 under low scales.
          if (array.scale_count() > 60 && layout.tile_rows * layout.tile_columns > 30) {
            EXPECT_EQ(prepared.element_bytes(), scaled == Scaled::low ? 4U : 2U)
                << name << ", " << to_string(layout) << ", " << static_cast<int>(scaled);
          }
        }
      }
    }
  }
}

TEST(Operand, HasAFormOfItsOwnForProductsOverRowsIfItIsGivenOne) {
  const EncodedArray over_columns =
      random_array(Shape{5, 6}, Format::parse("e4m3fn"), {}, Content::ordinary, 9);
  const EncodedArray over_rows =
      random_array(Shape{5, 6}, Format::parse("e5m2"), {}, Content::ordinary, 10);
  kernels::Operand operand = kernels::make_operand(over_columns);
  EXPECT_EQ(operand.form(SummedExtent::rows), over_columns);
  operand.over_rows = over_rows;
  EXPECT_EQ(operand.form(SummedExtent::rows), over_rows);
  EXPECT_EQ(operand.form(SummedExtent::columns), over_columns);
}

}  // namespace operand_test
