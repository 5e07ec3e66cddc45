// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Minifloat as a scalar type of Eigen, and float16 against Eigen::half.

#include "unit_scaling/formats/eigen_traits.hpp"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <type_traits>
#include <vector>

#include "format_oracle.hpp"
#include "number_format.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {
namespace eigen_traits_test {

using unit_scaling::bfloat16;
using unit_scaling::float16;
using unit_scaling::float8_e4m3fn;
using unit_scaling::float8_e8m0fnu;

template <class T> using MatrixOf = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;

FORMAT_TEST_SUITE(EigenScalar, signed_formats())

/// As EXPECT_EQ, which would compile the printing of each type of expression.
void expect_equal(const Eigen::MatrixXf& actual, const Eigen::MatrixXf& expected) {
  EXPECT_EQ(actual, expected);
}

template <class T> void expect_matrices_are_filled_and_cast() {
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
  Matrix matrix = Matrix::Constant(2, 3, T(1.5F));
  matrix(1, 2) = T(-2.0F);
  Eigen::MatrixXf expected = Eigen::MatrixXf::Constant(2, 3, 1.5F);
  expected(1, 2) = -2.0F;
  expect_equal(matrix.template cast<float>(), expected);
  EXPECT_TRUE(expected.template cast<T>() == matrix);
  EXPECT_TRUE(matrix.template cast<double>() == expected.cast<double>());
  expect_equal(Matrix::Zero(2, 2).template cast<float>(), Eigen::MatrixXf::Zero(2, 2));
  expect_equal(Matrix::Ones(2, 2).template cast<float>(), Eigen::MatrixXf::Ones(2, 2));
  expect_equal(Matrix::Identity(2, 2).template cast<float>(), Eigen::MatrixXf::Identity(2, 2));
}

FORMAT_TEST(EigenScalar, FillsAndCastsMatrices) {
  with_type_of(format,
               []<class T>(std::type_identity<T>) { expect_matrices_are_filled_and_cast<T>(); });
}

template <class T> void expect_traits_are_stated() {
  using Traits = Eigen::NumTraits<T>;
  EXPECT_EQ(Traits::highest(), std::numeric_limits<T>::max());
  EXPECT_EQ(Traits::lowest(), -std::numeric_limits<T>::max());
  EXPECT_EQ(Traits::epsilon(), std::numeric_limits<T>::epsilon());
  EXPECT_GT(Traits::dummy_precision(), Traits::epsilon());
  EXPECT_EQ(Traits::digits10(), std::numeric_limits<T>::digits10);
  EXPECT_EQ(Traits::digits(), std::numeric_limits<T>::digits);
  EXPECT_EQ(bool{Traits::IsSigned}, std::numeric_limits<T>::is_signed);
}

FORMAT_TEST(EigenScalar, StatesItsTraits) {
  with_type_of(format, []<class T>(std::type_identity<T>) { expect_traits_are_stated<T>(); });
}

template <class T> void expect_random_numbers_throughout_the_range() {
  const MatrixOf<T> matrix = MatrixOf<T>::Random(20, 20);
  EXPECT_TRUE(matrix.allFinite());
  double sum = 0;
  double low = 0;
  double high = 0;
  for (Eigen::Index i = 0; i < matrix.size(); ++i) {
    const auto number = static_cast<double>(matrix(i));
    sum += number;
    low = std::min(low, number);
    high = std::max(high, number);
  }
  EXPECT_GE(low, -1.0);
  EXPECT_LE(low, -0.75);
  EXPECT_GE(high, 0.75);
  EXPECT_LE(high, 1.0);
  // The mean of 400 uniform numbers has the standard deviation 3^-1/2 / 20 = 0.029.
  EXPECT_NEAR(sum / 400, 0.0, 0.15);
  for (int i = 0; i < 100; ++i) {
    const T drawn = Eigen::internal::random<T>(T(1.0F), T(2.0F));
    EXPECT_GE(drawn, T(1.0F));
    EXPECT_LE(drawn, T(2.0F));
  }
}

FORMAT_TEST(EigenScalar, DrawsRandomNumbersThroughoutTheRange) {
  with_type_of(format, []<class T>(std::type_identity<T>) {
    expect_random_numbers_throughout_the_range<T>();
  });
}

// The expressions are templates enough; a narrow and a wide format show that they compile.
template <class Case> class EigenExpression : public ::testing::Test {};
using ExpressionFormats = ::testing::Types<E4m3fn, Bfloat16>;
TYPED_TEST_SUITE(EigenExpression, ExpressionFormats, FormatNames);

TYPED_TEST(EigenExpression, ComputesExpressionsElementByElementRoundingEachTime) {
  using T = typename TypeParam::type;
  const MatrixOf<T> a = MatrixOf<T>::Random(5, 4);
  const MatrixOf<T> b = MatrixOf<T>::Random(5, 4);
  const T two(2.0F);
  const auto expect = [&](const MatrixOf<T>& result, auto&& scalar) {
    for (Eigen::Index i = 0; i < a.size(); ++i) {
      const T expected = scalar(a(i), b(i));
      if (isnan(expected)) {
        EXPECT_TRUE(isnan(result(i)));
      } else {
        EXPECT_EQ(result(i).bits(), expected.bits()) << a(i) << ' ' << b(i);
      }
    }
  };
  const auto x = a.array();
  const auto y = b.array();
  expect(a + b, [](T v, T w) { return v + w; });
  expect(a - b, [](T v, T w) { return v - w; });
  expect(-a, [](T v, T) { return -v; });
  expect(two * a, [&](T v, T) { return two * v; });
  expect(a / two, [&](T v, T) { return v / two; });
  expect(a.cwiseProduct(b), [](T v, T w) { return v * w; });
  expect(a.cwiseQuotient(b), [](T v, T w) { return v / w; });
  expect(a.cwiseAbs(), [](T v, T) { return abs(v); });
  expect(a.cwiseAbs2(), [](T v, T) { return v * v; });
  expect(a.cwiseMax(b), [](T v, T w) { return v < w ? w : v; });
  expect(a.cwiseMin(b), [](T v, T w) { return w < v ? w : v; });
  expect((x + two).matrix(), [&](T v, T) { return v + two; });
  expect(x.abs().sqrt().matrix(), [](T v, T) { return sqrt(abs(v)); });
  expect(x.exp().matrix(), [](T v, T) { return exp(v); });
  expect(x.log().matrix(), [](T v, T) { return log(v); });
  expect(x.log2().matrix(), [](T v, T) { return log2(v); });
  expect(x.tanh().matrix(), [](T v, T) { return tanh(v); });
  expect(x.sin().matrix(), [](T v, T) { return sin(v); });
  expect(x.round().matrix(), [](T v, T) { return round(v); });
  expect(x.floor().matrix(), [](T v, T) { return floor(v); });
  expect(x.pow(y).matrix(), [](T v, T w) { return pow(v, w); });
  expect(x.arg().matrix(), [](T v, T) { return T(v < T(0) ? std::acos(-1.0) : 0.0); });
  expect((x < y).select(a, b), [](T v, T w) { return v < w ? v : w; });
}

TYPED_TEST(EigenExpression, MultipliesMatricesOfSmallIntegersExactly) {
  using T = typename TypeParam::type;
  // Sums of at most two products of 0, 1 and -1: every format holds them and no sum rounds.
  constexpr int size = 24;
  MatrixOf<T> left = MatrixOf<T>::Zero(size, size);
  MatrixOf<T> right = MatrixOf<T>::Zero(size, size);
  for (int i = 0; i < size; ++i) {
    left(i, (5 * i + 1) % size) = T(1.0F);
    left(i, (7 * i + 4) % size) = T(-1.0F);
    for (int j = 0; j < size; ++j) right(i, j) = T(static_cast<float>((i + 2 * j) % 3 - 1));
  }
  Eigen::MatrixXf expected(size, size);
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) {
      expected(i, j) = static_cast<float>(right((5 * i + 1) % size, j)) -
                       static_cast<float>(right((7 * i + 4) % size, j));
    }
  }
  expect_equal(MatrixOf<T>(left * right).template cast<float>(), expected);
  expect_equal(MatrixOf<T>(left.lazyProduct(right)).template cast<float>(), expected);
  MatrixOf<T> sum = MatrixOf<T>::Zero(size, size);
  sum.noalias() += left * right;
  expect_equal(sum.template cast<float>(), expected);
  const Eigen::Matrix<T, Eigen::Dynamic, 1> vector = left * right.col(0);
  expect_equal(vector.template cast<float>(), expected.col(0));
}

TYPED_TEST(EigenExpression, ReducesAndCompares) {
  using T = typename TypeParam::type;
  MatrixOf<T> matrix(2, 2);
  matrix << T(1.0F), T(-2.0F), T(0.0F), T(4.0F);
  Eigen::Index row = 0;
  Eigen::Index column = 0;
  EXPECT_EQ(matrix.maxCoeff(&row, &column), T(4.0F));
  EXPECT_EQ(row, 1);
  EXPECT_EQ(column, 1);
  EXPECT_EQ(matrix.minCoeff(), T(-2.0F));
  EXPECT_EQ(matrix.cwiseAbs().maxCoeff(), T(4.0F));
  EXPECT_EQ(matrix.template lpNorm<Eigen::Infinity>(), T(4.0F));
  EXPECT_EQ(matrix.trace(), T(5.0F));
  EXPECT_EQ(matrix.row(0).sum(), T(-1.0F));
  EXPECT_EQ(matrix.row(0).prod(), T(-2.0F));
  EXPECT_EQ((matrix.colwise().sum()(0)), T(1.0F));
  EXPECT_EQ(matrix.row(0).template lpNorm<1>(), T(3.0F));
  EXPECT_EQ(matrix.col(0).norm(), T(1.0F));
  EXPECT_EQ(matrix.col(0).stableNorm(), T(1.0F));
  EXPECT_EQ(matrix.col(0).dot(matrix.col(1)), T(-2.0F));
  EXPECT_EQ((matrix.array() > T(0.0F)).count(), 2);
  EXPECT_TRUE((matrix.array() == matrix.array()).all());
  EXPECT_FALSE((matrix.array() < T(-2.0F)).any());
  EXPECT_TRUE(matrix.isApprox(matrix));
  EXPECT_FALSE(matrix.isApprox(-matrix));
  EXPECT_FALSE(matrix.hasNaN());
  EXPECT_TRUE(matrix.allFinite());
  if (std::numeric_limits<T>::has_quiet_NaN) {
    matrix(1, 0) = std::numeric_limits<T>::quiet_NaN();
    EXPECT_TRUE(matrix.hasNaN());
    EXPECT_FALSE(matrix.allFinite());
    EXPECT_TRUE(isnan(matrix.template maxCoeff<Eigen::PropagateNaN>()));
    EXPECT_EQ(matrix.template maxCoeff<Eigen::PropagateNumbers>(), T(4.0F));
  }
}

TEST(EigenScalar, StopsSummingWhereATermIsHalfAPlace) {
  // 16 + 1 is a tie between 16 and 18 and goes to the even one, 16.
  const auto ones = MatrixOf<float8_e4m3fn>::Ones(10, 10);
  EXPECT_EQ(ones.col(0).sum(), float8_e4m3fn(10.0F));
  float8_e4m3fn sum(0.0F);
  for (int i = 0; i < 100; ++i) sum += float8_e4m3fn(1.0F);
  EXPECT_EQ(sum, float8_e4m3fn(16.0F));
}

TEST(EigenScalar, ServesAFormatOfPowersOfTwo) {
  using T = float8_e8m0fnu;
  const MatrixOf<T> drawn = MatrixOf<T>::Random(4, 4);
  EXPECT_FALSE(drawn.hasNaN()) << drawn;
  EXPECT_LE(drawn.maxCoeff(), T(1.0F));
  const MatrixOf<T> twos = MatrixOf<T>::Constant(3, 2, T(2.0F));
  EXPECT_EQ(MatrixOf<T>(twos.cwiseProduct(twos)).cast<float>(), Eigen::MatrixXf::Constant(3, 2, 4));
  EXPECT_EQ(twos.maxCoeff(), T(2.0F));
  EXPECT_FALSE(bool{Eigen::NumTraits<T>::IsSigned});
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

template <class Number, class EigenNumber> void expect_code_for_code() {
  using Codes = Eigen::Array<std::uint16_t, Eigen::Dynamic, 1>;
  Eigen::Array<Number, Eigen::Dynamic, 1> numbers(65536);
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const Number number = Number::from_bits(bits);
    const EigenNumber other = unit_scaling::to_eigen(number);
    ASSERT_EQ(Eigen::numext::bit_cast<std::uint16_t>(other), bits);
    ASSERT_EQ(unit_scaling::from_eigen(other).bits(), bits);
    numbers(static_cast<Eigen::Index>(code)) = number;
  }
  // Whole expressions too, NaNs with their payloads.
  const auto others = numbers.template cast<EigenNumber>().eval();
  const Codes codes = others.unaryExpr(
      [](const EigenNumber& v) { return Eigen::numext::bit_cast<std::uint16_t>(v); });
  EXPECT_TRUE((codes == Codes::LinSpaced(65536, 0, 65535)).all());
  const auto back = others.template cast<Number>().eval();
  const Codes codes_back = back.unaryExpr([](const Number& v) { return v.bits(); });
  EXPECT_TRUE((codes_back == codes).all());
}

TEST(Float16, BecomesEigenHalfCodeForCode) { expect_code_for_code<float16, Eigen::half>(); }

TEST(Bfloat16, BecomesEigenBfloat16CodeForCode) {
  expect_code_for_code<bfloat16, Eigen::bfloat16>();
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

}  // namespace eigen_traits_test
}  // namespace unit_scaling_test
