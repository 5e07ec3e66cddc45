// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/half_codes.hpp"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/matmul.hpp"

namespace half_codes_test {

namespace kernels = unit_scaling::kernels;

TEST(HalfCodes, AreThoseOfFp8) {
#if defined(UNIT_SCALING_HAS_HALF_CODES)
  EXPECT_TRUE(kernels::has_half_codes(unit_scaling::float8_e4m3fn::format));
  EXPECT_TRUE(kernels::has_half_codes(unit_scaling::float8_e5m2::format));
#endif
  // Of other widths, without a sign, with infinity below five bits, with NaN as negative zero, and
  // with more exponents than binary16.
  EXPECT_FALSE(kernels::has_half_codes(unit_scaling::float16::format));
  EXPECT_FALSE(kernels::has_half_codes(unit_scaling::float8_e8m0fnu::format));
  EXPECT_FALSE(kernels::has_half_codes(unit_scaling::float8_e4m3::format));
  EXPECT_FALSE(kernels::has_half_codes(unit_scaling::float8_e5m2fnuz::format));
  EXPECT_FALSE(kernels::has_half_codes(unit_scaling::FormatSpec::ieee(6, 1)));
  // A bias above that of binary16 would make numbers of the vector smaller.
  unit_scaling::FormatSpec format = unit_scaling::float8_e4m3fn::format;
  format.bias = 16;
  EXPECT_FALSE(kernels::has_half_codes(format));
}

/// Products of a matrix with one vector, and the chain of fused multiply-adds that each is.
template <class T> class VectorProduct {
 public:
  VectorProduct(std::size_t rows, std::size_t depth) : rows_(rows), depth_(depth) {
    for (std::size_t i = 0; i < rows * depth; ++i) codes_.push_back(T(1.0F));
    for (std::size_t p = 0; p < depth; ++p) {
      x_.push_back(static_cast<float>(static_cast<int>(p * 29 % 61) - 30) / 16);
    }
  }
  T& code(std::size_t row, std::size_t place) { return codes_[row * depth_ + place]; }
  float& x(std::size_t place) { return x_[place]; }

  void expect_chains() {
    std::vector<float> sums(rows_);
    kernels::matmul<float>({rows_, 1, depth_}, kernels::row_major(codes_.data(), depth_),
                           kernels::row_major(x_.data(), 1), sums.data(), 1);
    for (std::size_t i = 0; i < rows_; ++i) {
      float chain = 0;
      for (std::size_t p = 0; p < depth_; ++p) {
        // Fused where the target does that.
        chain = unit_scaling::multiply_add(static_cast<float>(code(i, p)), x(p), chain);
      }
      if (std::isnan(chain)) {
        EXPECT_TRUE(std::isnan(sums[i])) << "row " << i;
      } else {
        EXPECT_EQ(std::bit_cast<std::uint32_t>(sums[i]), std::bit_cast<std::uint32_t>(chain))
            << "row " << i << ": " << sums[i] << ", expected " << chain;
      }
    }
  }

 private:
  std::size_t rows_;
  std::size_t depth_;
  std::vector<T> codes_;
  std::vector<float> x_;
};

template <class T> class HalfCodesOf : public testing::Test {};
using Formats = testing::Types<unit_scaling::float8_e4m3fn, unit_scaling::float8_e5m2,
                               unit_scaling::float8_e4m3fnuz, unit_scaling::float8_e3m4>;
TYPED_TEST_SUITE(HalfCodesOf, Formats);

TYPED_TEST(HalfCodesOf, MakeTheChainOfEachRowWhateverTheShape) {
  unsigned code = 0;
  for (const std::size_t rows : {1, 15, 16, 31, 32, 33, 70}) {
    for (const std::size_t depth : {1, 31, 32, 33, 63, 64, 200}) {
      VectorProduct<TypeParam> product(rows, depth);
      for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t p = 0; p < depth; ++p) {
          TypeParam finite;
          do {
            finite = TypeParam::from_bits(static_cast<std::uint8_t>(code++ * 37));
          } while (!std::isfinite(static_cast<float>(finite)));
          product.code(i, p) = finite;
        }
      }
      SCOPED_TRACE(testing::Message() << rows << " rows of " << depth);
      product.expect_chains();
    }
  }
}

TYPED_TEST(HalfCodesOf, HaveTheNumberOfEachCodeInEachPlace) {
  for (unsigned code = 0; code < 256; ++code) {
    VectorProduct<TypeParam> product(32, 64);
    // In a place of its own in each row, so that each NaN and infinity stays in its row.
    for (std::size_t i = 0; i < 32; ++i) {
      product.code(i, (i * 2 + code) % 64) = TypeParam::from_bits(static_cast<std::uint8_t>(code));
    }
    SCOPED_TRACE(testing::Message() << "code " << code);
    product.expect_chains();
  }
}

TYPED_TEST(HalfCodesOf, LeaveRowsWithoutNanAsTheyAre) {
  const auto nan = TypeParam::from_float(std::numeric_limits<float>::quiet_NaN(),
                                         unit_scaling::Overflow::infinity_or_nan);
  for (const std::size_t place : {0, 31, 32, 69}) {
    VectorProduct<TypeParam> product(40, 70);
    product.code(3, place) = nan;
    product.code(39, place) = nan;
    product.expect_chains();
  }
}

TYPED_TEST(HalfCodesOf, MultiplyNumbersOfEachSize) {
  constexpr std::array numbers{0x1p119F,
                               0x1p120F,
                               -0x1.fffffep127F,
                               0x1p-149F,
                               -0x1.8p-130F,
                               -0.0F,
                               std::numeric_limits<float>::infinity(),
                               std::numeric_limits<float>::quiet_NaN()};
  for (const float number : numbers) {
    for (const std::size_t place : {0, 40, 66}) {
      VectorProduct<TypeParam> product(33, 67);
      for (std::size_t i = 0; i < 33; ++i) {
        product.code(i, place) = TypeParam::from_bits(static_cast<std::uint8_t>(i));
      }
      product.x(place) = number;
      SCOPED_TRACE(testing::Message() << number << " at " << place);
      product.expect_chains();
    }
  }
}

// All numbers so small that products are subnormal, or sums are.
TYPED_TEST(HalfCodesOf, KeepSubnormalSums) {
  VectorProduct<TypeParam> product(32, 64);
  for (std::size_t p = 0; p < 64; ++p) {
    product.x(p) = static_cast<float>(p + 1) * 0x1p-140F;
    for (std::size_t i = 0; i < 32; ++i) {
      product.code(i, p) = TypeParam::from_bits(static_cast<std::uint8_t>((i + p) % 24));
    }
  }
  product.expect_chains();
}

}  // namespace half_codes_test
