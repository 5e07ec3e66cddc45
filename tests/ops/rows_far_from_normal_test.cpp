// SPDX-License-Identifier: MIT
// Rows that are not N(0, 1): large means, constants, outliers, huge and tiny magnitudes, against
// textbook loops in long double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/mean.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/rms_norm.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/ops/sum.hpp"

namespace rows_far_from_normal_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Exact = long double;

struct Row {
  std::string name;
  std::vector<float> elements;
};

/// Rows of `size` elements, each of a kind of its own.
std::vector<Row> far_rows(std::size_t size) {
  const auto normal = normal_array<float>({size}, 7);
  const auto row = [&](std::string name, const std::function<float(std::size_t)>& element) {
    Row result{std::move(name), std::vector<float>(size)};
    for (std::size_t i = 0; i < size; ++i) result.elements[i] = element(i);
    return result;
  };
  const auto z = [&](std::size_t i) { return normal.data()[i]; };
  return {
      row("normal", z),
      row("constant 3.3", [](std::size_t) { return 3.3F; }),
      row("constant 100.1", [](std::size_t) { return 100.1F; }),
      row("constant -1000.1", [](std::size_t) { return -1000.1F; }),
      row("constant 1e20", [](std::size_t) { return 1e20F; }),
      row("constant 3e38", [](std::size_t) { return 3e38F; }),
      row("mean 100", [&](std::size_t i) { return 100 + z(i); }),
      row("mean -1e4", [&](std::size_t i) { return -1e4F + z(i); }),
      row("mean 1e7", [&](std::size_t i) { return 1e7F + std::round(4 * z(i)); }),
      row("mean 1e7, one unit", [](std::size_t i) { return 1e7F + static_cast<float>(i % 2); }),
      row("outlier 1e6", [&](std::size_t i) { return i == size / 2 ? 1e6F : z(i); }),
      row("outlier 1e30", [&](std::size_t i) { return i == size / 2 ? 1e30F : z(i); }),
      row("1e20", [&](std::size_t i) { return 1e20F * z(i); }),
      row("1e20 and a mean", [&](std::size_t i) { return 1e20F * (5 + z(i)); }),
      row("largest", [](std::size_t i) { return (i % 3 == 0 ? -1.0F : 1.0F) * 3.4e38F; }),
      row("1e-18", [&](std::size_t i) { return 1e-18F * z(i); }),
      row("1e-25", [&](std::size_t i) { return 1e-25F * z(i); }),
      row("1e-38", [&](std::size_t i) { return 1e-38F * (1 + z(i)); }),
      row("1e-43", [&](std::size_t i) { return 1e-43F * z(i); }),
      row("zeros", [](std::size_t) { return 0.0F; }),
  };
}

const std::vector<std::size_t> sizes{1, 2, 5, 16, 45, 768, 4096, 5000};

template <class T> Array<T> as_row(const Row& row) {
  Array<T> x(Shape{1, row.elements.size()});
  for (std::size_t i = 0; i < x.size(); ++i) x.mutable_data()[i] = static_cast<T>(row.elements[i]);
  return x;
}

struct Normalised {
  std::vector<Exact> y;
  std::vector<Exact> dx;
  Exact inverse = 0;
};

/// Layer normalisation, or without centring RMS normalisation, and the gradient of it.
template <class T>
Normalised reference(const Array<T>& x, const Array<T>& dy, Exact epsilon, bool is_centred) {
  const std::size_t n = x.size();
  const auto at = [](const Array<T>& array, std::size_t i) {
    return static_cast<Exact>(static_cast<double>(array.data()[i]));
  };
  Exact mean = 0;
  if (is_centred) {
    for (std::size_t i = 0; i < n; ++i) mean += at(x, i) / static_cast<Exact>(n);
    Exact rest = 0;
    for (std::size_t i = 0; i < n; ++i) rest += (at(x, i) - mean) / static_cast<Exact>(n);
    mean += rest;
  }
  Exact squares = 0;
  for (std::size_t i = 0; i < n; ++i) squares += (at(x, i) - mean) * (at(x, i) - mean);
  const Exact inverse = 1 / std::sqrt(squares / static_cast<Exact>(n) + epsilon);
  Normalised result{std::vector<Exact>(n), std::vector<Exact>(n), inverse};
  Exact mean_d = 0;
  Exact mean_dx_hat = 0;
  for (std::size_t i = 0; i < n; ++i) {
    result.y[i] = (at(x, i) - mean) * inverse;
    if (is_centred) mean_d += at(dy, i) / static_cast<Exact>(n);
  }
  for (std::size_t i = 0; i < n; ++i) {
    mean_dx_hat += (at(dy, i) - mean_d) * result.y[i] / static_cast<Exact>(n);
  }
  for (std::size_t i = 0; i < n; ++i) {
    result.dx[i] = inverse * (at(dy, i) - mean_d - result.y[i] * mean_dx_hat);
  }
  return result;
}

/// Half a unit in the last place of T at `value`.
template <class T> Exact half_unit(Exact value) {
  const FormatSpec& format = format_spec<T>;
  const auto magnitude = static_cast<double>(std::abs(value));
  const int exponent = std::max(magnitude == 0 ? -2000 : std::ilogb(magnitude), 1 - format.bias);
  return std::ldexp(Exact{1}, exponent - static_cast<int>(format.mantissa_bits) - 1);
}

/// Expects that `actual` is `expected` but for rounding to T and `slack`, an absolute error before.
template <class T>
void expect_near(const Array<T>& actual, const std::vector<Exact>& expected, Exact slack,
                 const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto value = static_cast<double>(actual.data()[i]);
    if (std::abs(expected[i]) > static_cast<Exact>(format_spec<T>.max_finite())) {
      EXPECT_TRUE(std::isinf(value)) << what << ", element " << i;
      continue;
    }
    const Exact bound = half_unit<T>(expected[i]) * Exact{1.01} + slack;
    ASSERT_LE(std::abs(static_cast<Exact>(value) - expected[i]), bound)
        << what << ", element " << i << ": " << value << " for "
        << static_cast<double>(expected[i]);
  }
}

template <class P> class FarRowsIn : public testing::Test {};
using FarPrecisions = testing::Types<precision::fp32, precision::bf16, precision::fp16>;
TYPED_TEST_SUITE(FarRowsIn, FarPrecisions);

// A float sum of n terms in 16 lanes is off by at most (n / 16 + 4) 2^-24 of Σ|terms|. The squares
// so have that relative error, and 1 / √ of them half of it. What is left of the mean after its
// correction is off by that times the mean of |x − centre|, where the centre is within some units
// of the mean: it is below the bound for the squares.
Exact bound_of(std::size_t n) { return (static_cast<Exact>(n) / 16 + 12) * 0x1p-24L; }

TYPED_TEST(FarRowsIn, NormsAreThoseOfTheDoubleReference) {
  using T = typename TypeParam::storage;
  for (const std::size_t size : sizes) {
    for (const Row& row : far_rows(size)) {
      const Array<T> x = as_row<T>(row);
      if (!std::all_of(x.span().begin(), x.span().end(),
                       [](T v) { return std::isfinite(static_cast<double>(v)); })) {
        continue;  // beyond float16
      }
      const auto dy = normal_array<T>({1, size}, 9);
      for (const double epsilon : {1e-5, 1e-12, 1e-30}) {
        const std::string what = row.name + " × " + std::to_string(size) + ", epsilon " +
                                 std::to_string(std::log10(epsilon));
        const Exact used = static_cast<Exact>(static_cast<float>(epsilon));
        const auto check = [&](const auto& op, bool is_centred) {
          const auto expected = reference(x, dy, used, is_centred);
          const auto run = run_op(TypeParam{}, op, x);
          Exact largest = 1;
          for (const Exact y : expected.y) largest = std::max(largest, std::abs(y));
          expect_near(run.y, expected.y, bound_of(size) * largest, what);
          const auto forward = op.forward(TypeParam{}, op.scales(x), x);
          const auto dx = std::get<0>(op.backward(TypeParam{}, op.scales(x), forward.saved, dy));
          // Sums of numbers of the magnitude of dy and of dy x̂; the float range ends the rest.
          const Exact terms = expected.inverse * 4 * largest * largest;
          if (terms < static_cast<Exact>(std::numeric_limits<float>::max())) {
            expect_near(dx, expected.dx, 6 * bound_of(size) * terms + Exact{0x1p-149},
                        what + ", dx");
          }
        };
        check(ops::LayerNorm{.epsilon = epsilon}, true);
        check(ops::RmsNorm{.epsilon = epsilon}, false);
      }
    }
  }
}

TEST(FarRows, ConstantRowsHaveALayerNormOfZero) {
  for (const float value : {3.3F, 100.1F, 1000.1F, -7.7F, 1e7F, 1e20F, 3e38F, 1e-20F, 1e-45F}) {
    for (const std::size_t size : sizes) {
      for (const double epsilon : {1e-12, 1e-5}) {
        const auto y =
            ops::layer_norm(Array<float>::filled({1, size}, value), {.epsilon = epsilon});
        // Of a row far below √ε the rounding of the mean may be left, over √ε.
        const double bound = std::abs(value) < 1e-12F
                                 ? 1e-4 * static_cast<double>(std::abs(value)) / std::sqrt(epsilon)
                                 : 0;
        for (const float element : y.span()) {
          EXPECT_LE(static_cast<double>(std::abs(element)), bound) << value << " × " << size;
        }
      }
    }
  }
}

TEST(FarRows, AConstantGradientDoesNotPassALayerNorm) {
  for (const float value : {0.1F, 1.3F, 1e4F}) {
    for (const std::size_t size : {std::size_t{45}, std::size_t{768}, std::size_t{4096}}) {
      const auto x = normal_array<float>({3, size}, 3);
      const ops::LayerNorm op;
      const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
      const auto dx = std::get<0>(op.backward(precision::fp32{}, op.scales(x), forward.saved,
                                              Array<float>::filled({3, size}, value)));
      for (const float d : dx.span()) EXPECT_LE(std::abs(d), value * 2e-7F) << size;
    }
  }
}

TEST(FarRows, HugeRowsThatDivergedAreSeen) {
  for (const float bad : {HUGE_VALF, -HUGE_VALF, std::numeric_limits<float>::quiet_NaN()}) {
    for (const float rest : {0.0F, 1e20F, 3e38F}) {
      auto x = Array<bfloat16>::filled({1, 19}, bfloat16(rest));
      x.mutable_data()[4] = bfloat16(bad);
      const auto y = ops::layer_norm(x);
      for (const auto element : y.span()) EXPECT_TRUE(isnan(element));
      EXPECT_TRUE(isnan(ops::rms_norm(x).data()[4]));
    }
  }
}

TEST(FarRows, SoftmaxAndCrossEntropyAreThoseOfTheDoubleReference) {
  for (const std::size_t size : {std::size_t{2}, std::size_t{45}, std::size_t{5000}}) {
    for (const Row& row : far_rows(size)) {
      const Array<float> x = as_row<float>(row);
      const Exact max = *std::max_element(row.elements.begin(), row.elements.end());
      Exact sum = 0;
      for (const float v : row.elements) sum += std::exp(static_cast<Exact>(v) - max);
      const auto y = ops::softmax(x, {.scaling = scaling::none});
      const auto labels = Array<std::int32_t>::filled(Shape{1}, 1);
      const auto run = ops::cross_entropy(x, labels, {.scaling = scaling::none});
      for (std::size_t i = 0; i < size; ++i) {
        const Exact expected = std::exp(static_cast<Exact>(row.elements[i]) - max) / sum;
        // exp in float is within 3 units; the sum has n / 16 roundings.
        EXPECT_LE(std::abs(static_cast<Exact>(y.data()[i]) - expected),
                  expected * (bound_of(size) + 8 * 0x1p-24L) + Exact{0x1p-126})
            << row.name << " × " << size;
      }
      const Exact loss = std::log(sum) + (max - static_cast<Exact>(row.elements[1]));
      if (loss > static_cast<Exact>(std::numeric_limits<float>::max())) {
        EXPECT_TRUE(std::isinf(*run.data())) << row.name;
      } else {
        EXPECT_LE(std::abs(static_cast<Exact>(*run.data()) - loss),
                  (1 + loss) * (bound_of(size) + 8 * 0x1p-24L))
            << row.name << " × " << size;
      }
    }
  }
}

TEST(FarRows, TheMeanOfFiniteNumbersIsFinite) {
  const auto x = Array<float>::filled({2, 37}, 3e38F);
  const auto means = ops::mean(x, {.scaling = scaling::none});
  for (const float y : means.span()) EXPECT_NEAR(y / 3e38F, 1, 1e-6);
  // The sum itself leaves the range.
  EXPECT_TRUE(std::isinf(ops::sum(x, {.scaling = scaling::none}).data()[0]));
  // A loss of 1e40 / 10^4 elements.
  auto far = Array<float>::filled({10000}, 0);
  far.mutable_data()[77] = 1e20F;
  const auto loss =
      ops::mse_loss(far, Array<float>::filled({10000}, 0), {.scaling = scaling::none});
  EXPECT_NEAR(*loss.data() / 1e36F, 1, 1e-6);
}

}  // namespace rows_far_from_normal_test
