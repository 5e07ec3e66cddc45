// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Minifloat as a scalar type of Eigen, and float16 against Eigen::half.

#include "unit_scaling/formats/eigen_traits.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <bit>
#include <cstdint>
#include <sstream>
#include <vector>

#include "format_cases.hpp"
#include "format_oracle.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {
namespace {

using unit_scaling::bfloat16;
using unit_scaling::float16;
using unit_scaling::float8_e4m3fn;

template <class Case> class EigenScalar : public ::testing::Test {};
TYPED_TEST_SUITE(EigenScalar, AllFormats, FormatNames);

TYPED_TEST(EigenScalar, FillsAndCastsMatrices) {
  using T = typename TypeParam::type;
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
  Matrix matrix = Matrix::Constant(2, 3, T(1.5F));
  matrix(1, 2) = T(-2.0F);
  Eigen::MatrixXf expected = Eigen::MatrixXf::Constant(2, 3, 1.5F);
  expected(1, 2) = -2.0F;
  EXPECT_EQ(matrix.template cast<float>(), expected);
  EXPECT_EQ(expected.template cast<T>(), matrix);
  EXPECT_EQ(matrix.template cast<double>(), expected.cast<double>());
  EXPECT_EQ(Matrix::Zero(2, 2).template cast<float>(), Eigen::MatrixXf::Zero(2, 2));
  EXPECT_EQ(Matrix::Ones(2, 2).template cast<float>(), Eigen::MatrixXf::Ones(2, 2));
  EXPECT_EQ(Matrix::Identity(2, 2).template cast<float>(), Eigen::MatrixXf::Identity(2, 2));
}

TYPED_TEST(EigenScalar, StatesItsTraits) {
  using T = typename TypeParam::type;
  using Traits = Eigen::NumTraits<T>;
  EXPECT_EQ(Traits::highest(), std::numeric_limits<T>::max());
  EXPECT_EQ(Traits::lowest(), -std::numeric_limits<T>::max());
  EXPECT_EQ(Traits::epsilon(), std::numeric_limits<T>::epsilon());
  EXPECT_GT(Traits::dummy_precision(), Traits::epsilon());
  EXPECT_EQ(Traits::digits10(), std::numeric_limits<T>::digits10);
}

TEST(EigenScalar, PrintsAsTheEqualFloatMatrix) {
  Eigen::Matrix<float8_e4m3fn, 2, 2> matrix;
  matrix << float8_e4m3fn(1.0F), float8_e4m3fn(-2.5F), float8_e4m3fn(448.0F), float8_e4m3fn(0.0F);
  std::ostringstream stream;
  std::ostringstream expected;
  stream << matrix;
  expected << matrix.cast<float>();
  EXPECT_EQ(stream.str(), expected.str());
}

TEST(EigenScalar, MapsABufferOfCodes) {
  std::vector<bfloat16> buffer = {bfloat16(1.0F), bfloat16(2.0F), bfloat16(3.0F)};
  Eigen::Map<Eigen::Matrix<bfloat16, Eigen::Dynamic, 1>> map(buffer.data(), 3);
  map(1) = bfloat16(-4.0F);
  EXPECT_EQ(buffer[1], bfloat16(-4.0F));
  EXPECT_EQ(map.cast<float>().sum(), 0.0F);
}

TEST(EigenScalar, RoundsAfterEveryOperation) {
  Eigen::Matrix<float16, 3, 1> terms(float16(2048.0F), float16(1.0F), float16(1.0F));
  // 2049 is a tie between the float16 numbers 2048 and 2050 and goes to the even one, twice.
  EXPECT_EQ(terms(0) + terms(1) + terms(2), float16(2048.0F));
  EXPECT_EQ((terms + terms)(0), float16(4096.0F));
  EXPECT_EQ((-terms)(1), float16(-1.0F));
  EXPECT_EQ(terms.cwiseProduct(terms)(0), std::numeric_limits<float16>::infinity());
}

TEST(Float16, AgreesWithEigenHalf) {
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float number = static_cast<float>(float16::from_bits(bits));
    const float expected = static_cast<float>(Eigen::numext::bit_cast<Eigen::half>(bits));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(number)) << code;
    } else {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(number), std::bit_cast<std::uint32_t>(expected))
          << code;
    }
  }
  RandomBits random;
  std::vector<float> numbers = critical_floats(FormatOracle(Float16::layout()));
  for (int i = 0; i < 1'000'000; ++i) numbers.push_back(std::bit_cast<float>(random()));
  for (const float number : numbers) {
    if (std::isnan(number)) continue;
    ASSERT_EQ(float16(number).bits(), Eigen::numext::bit_cast<std::uint16_t>(Eigen::half(number)))
        << std::bit_cast<std::uint32_t>(number);
  }
}

}  // namespace
}  // namespace unit_scaling_test
