// SPDX-License-Identifier: MIT
// Rows that are not N(0, 1): large means, constants, outliers, huge and tiny magnitudes, against
// textbook loops in long double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "support/far_rows.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/threads.hpp"
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

/// The elements of an array as no format rounds them, each converted once.
template <class T> std::vector<Exact> exact_elements(const Array<T>& array) {
  std::vector<Exact> result(array.size());
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = exact(array, i);
  return result;
}

/// A row after layer normalisation, or without centring RMS normalisation.
struct Normalised {
  std::vector<Exact> y;
  Exact inverse = 0;
};

Normalised normalised(const std::vector<Exact>& x, Exact epsilon, bool is_centred) {
  const auto n = static_cast<Exact>(x.size());
  // The mean is counted from an element that is no outlier, for its own rounding would be seen.
  const Exact origin = is_centred ? x[x.size() / 3] : 0;
  Exact offset = 0;
  if (is_centred) {
    for (const Exact element : x) offset += (element - origin) / n;
  }
  Normalised result{x};
  Exact squares = 0;
  for (Exact& centred : result.y) {
    centred = centred - origin - offset;
    squares += centred * centred;
  }
  result.inverse = 1 / std::sqrt(squares / n + epsilon);
  for (Exact& centred : result.y) centred *= result.inverse;
  return result;
}

/// The gradient that such a row passes on.
std::vector<Exact> gradient_of(const Normalised& row, const std::vector<Exact>& dy,
                               bool is_centred) {
  const auto n = static_cast<Exact>(dy.size());
  Exact mean_d = 0;
  if (is_centred) {
    for (const Exact d : dy) mean_d += d / n;
  }
  Exact mean_dx_hat = 0;
  for (std::size_t i = 0; i < dy.size(); ++i) mean_dx_hat += (dy[i] - mean_d) * row.y[i] / n;
  std::vector<Exact> dx(dy.size());
  for (std::size_t i = 0; i < dy.size(); ++i) {
    dx[i] = row.inverse * (dy[i] - mean_d - row.y[i] * mean_dx_hat);
  }
  return dx;
}

template <class P> class FarRowsIn : public testing::Test {};
TYPED_TEST_SUITE(FarRowsIn, AllPrecisions, PrecisionNames);

/// The least number of the arithmetic of P.
template <class P>
constexpr double least =
    static_cast<double>(std::numeric_limits<typename P::compute>::denorm_min());

/// Twelve units and those of the additions of a row. With it the squares are off by that,
/// relatively, and 1 / √ of them by half of it. What is left of the mean after its correction is
/// off by that times the mean of |x − centre|, where the centre is within some units of the mean.
template <class P> Exact bound_of(std::size_t size) {
  return static_cast<Exact>((additions<P>(size) + 7) * compute_unit<P>);
}

/// Gradients of a row: normal, with a mean, and as far from that as the range allows.
template <class T> std::vector<Array<T>> far_gradients(std::size_t size) {
  struct Kind {
    double mean, deviation;
  };
  constexpr double largest = largest_finite<T>();
  std::vector<Array<T>> gradients;
  for (const auto [mean, deviation] :
       {Kind{0, 1}, Kind{100, 1}, Kind{0, largest / 32}, Kind{largest / 2, 0},
        Kind{-largest / 2, largest / 64}, Kind{0, 1e-40}, Kind{0, 1e-42}}) {
    auto dy = normal_array<T>({1, size}, 9);
    for (std::size_t i = 0; i < size; ++i) {
      dy.mutable_data()[i] = static_cast<T>(mean + deviation * static_cast<double>(dy.data()[i]));
    }
    gradients.push_back(std::move(dy));
  }
  return gradients;
}

TYPED_TEST(FarRowsIn, NormsAreThoseOfTheDoubleReference) {
  using P = TypeParam;
  using T = typename P::storage;
  for (const std::size_t size : row_sizes) {
    const auto gradients = far_gradients<T>(size);
    std::vector<std::vector<Exact>> exact_gradients;
    for (const auto& dy : gradients) exact_gradients.push_back(exact_elements(dy));
    for (const Row& row : far_rows(size)) {
      const auto x = as_row<T>(row);
      if (!is_finite(x)) continue;
      const auto exact_x = exact_elements(x);
      const auto check = [&](const auto& op, bool is_centred) {
        SCOPED_TRACE(row.name + " × " + std::to_string(size) + ", epsilon " +
                     std::to_string(std::log10(op.epsilon)) + (is_centred ? ", centred" : ""));
        const auto epsilon = static_cast<Exact>(static_cast<typename P::compute>(op.epsilon));
        const auto forward = op.forward(P{}, op.scales(x), x);
        const Exact bound = bound_of<P>(size);
        const auto expected = normalised(exact_x, epsilon, is_centred);
        // The mean that is taken off makes an error that an element does not.
        const Exact of_mean = is_centred ? 1 : 0;
        std::vector<Reference> y(size);
        for (std::size_t i = 0; i < size; ++i) {
          y[i] = {static_cast<double>(expected.y[i]),
                  static_cast<double>(bound * (std::abs(expected.y[i]) + of_mean)) + least<P>};
        }
        expect_rounded_or_overflowed(forward.output, y);
        for (std::size_t g = 0; g < gradients.size(); ++g) {
          const auto& dy = exact_gradients[g];
          const auto expected_dx = gradient_of(expected, dy, is_centred);
          Exact mean_d = 0;
          Exact mean_dx_hat = 0;
          for (std::size_t i = 0; i < size; ++i) {
            const Exact d = std::abs(dy[i]) / static_cast<Exact>(size);
            mean_d += of_mean * d;
            mean_dx_hat += d * (std::abs(expected.y[i]) + of_mean);
          }
          // A sum of which no product with dy is a number is zero.
          const bool is_lost = static_cast<Exact>(size) * mean_dx_hat < least<P>;
          std::vector<Reference> dx(size);
          for (std::size_t i = 0; i < size; ++i) {
            const Exact magnitude = std::abs(expected.y[i]) + of_mean;
            const Exact terms = std::abs(dy[i]) + mean_d + magnitude * mean_dx_hat;
            const Exact lost = is_lost ? magnitude * least<P> : 0;
            dx[i] = {static_cast<double>(expected_dx[i]),
                     static_cast<double>((3 * bound * terms + lost) * expected.inverse) + least<P>};
          }
          expect_rounded_or_overflowed(
              std::get<0>(op.backward(P{}, op.scales(x), forward.saved, gradients[g])), dx);
        }
      };
      for (const double epsilon : {1e-5, 1e-12, 1e-30}) {
        check(ops::LayerNorm{.epsilon = epsilon}, true);
        check(ops::RmsNorm{.epsilon = epsilon}, false);
      }
    }
  }
}

TEST(FarRows, ConstantRowsHaveALayerNormOfZero) {
  for (const float value : {3.3F, 100.1F, 1000.1F, -7.7F, 1e7F, 1e20F, 3e38F, 1e-20F, 1e-45F}) {
    for (const std::size_t size : row_sizes) {
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

// The norms' gradient is linear: rows of 2^124 times a gradient give that times theirs, whichever
// they are among others and however many threads there are.
TEST(FarRows, AreNormalisedAmongOthers) {
  const std::size_t rows = 200;
  const auto check = [&](const auto& op, std::size_t columns) {
    const auto x = normal_array<float>({rows, columns}, 3);
    const auto dy = normal_array<float>({rows, columns}, 4);
    const auto is_far = [](std::size_t i) { return i % 64 == 0 || i % 64 == 63 || i == 199; };
    auto far = dy;
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t j = 0; is_far(i) && j < columns; ++j) {
        far.mutable_data()[i * columns + j] *= 0x1p124F;
      }
    }
    const auto saved = op.forward(precision::fp32{}, op.scales(x), x).saved;
    const auto gradient = [&](const Array<float>& upstream) {
      return std::get<0>(op.backward(precision::fp32{}, op.scales(x), saved, upstream));
    };
    const auto expected = gradient(dy);
    for (const std::size_t threads : {std::size_t{1}, std::size_t{3}}) {
      const ThreadCountScope scope(threads);
      const auto actual = gradient(far);
      for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t j = 0; j < columns; ++j) {
          const float value = expected.row(i)[j];
          if (is_far(i)) {
            EXPECT_NEAR(actual.row(i)[j] * 0x1p-124F, value, 1e-5) << i << " " << j;
          } else {
            EXPECT_EQ(actual.row(i)[j], value) << i << " " << j;
          }
        }
      }
    }
  };
  for (const std::size_t columns : {std::size_t{37}, std::size_t{768}}) {
    check(ops::LayerNorm{}, columns);
    check(ops::RmsNorm{}, columns);
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
                  expected * (bound_of<precision::fp32>(size) + 8 * 0x1p-24L) + Exact{0x1p-126})
            << row.name << " × " << size;
      }
      const Exact loss = std::log(sum) + (max - static_cast<Exact>(row.elements[1]));
      if (loss > static_cast<Exact>(std::numeric_limits<float>::max())) {
        EXPECT_TRUE(std::isinf(*run.data())) << row.name;
      } else {
        EXPECT_LE(std::abs(static_cast<Exact>(*run.data()) - loss),
                  (1 + loss) * (bound_of<precision::fp32>(size) + 8 * 0x1p-24L))
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

template <class P> class SumsOfFarRowsIn : public testing::Test {};
TYPED_TEST_SUITE(SumsOfFarRowsIn, AllPrecisions, PrecisionNames);

/// What the headers say of the error of a sum, in units of Σ |x|: in float whatever the length.
template <class P> double units_of_sum(std::size_t columns) {
  return std::is_same_v<typename P::compute, double> ? static_cast<double>(columns) : 20;
}

// 300,001 terms are enough for the mean of a constant to be off by a percent in sixteen lanes of
// float. The factor is one more rounding, and so is its product.
TYPED_TEST(SumsOfFarRowsIn, AreRightWhateverTheirLength) {
  using P = TypeParam;
  using T = typename P::storage;
  std::vector<std::size_t> sizes(row_sizes.begin(), row_sizes.end());
  sizes.insert(sizes.end(), {127, 128, 129, 1023, 1024, 1025, 300001});
  for (const std::size_t size : sizes) {
    for (const Row& row : far_rows(size)) {
      SCOPED_TRACE(row.name + " × " + std::to_string(size));
      const auto x = as_row<T>(row);
      if (!is_finite(x)) continue;
      Exact sum = 0;
      Exact magnitude = 0;
      for (std::size_t j = 0; j < size; ++j) {
        sum += exact(x, j);
        magnitude += std::abs(exact(x, j));
      }
      for (const double factor : {1.0, 1 / static_cast<double>(size)}) {
        const auto y = ops::Sum{}.forward(P{}, {.forward = factor}, x).output;
        const Exact units = units_of_sum<P>(size) * magnitude + 3 * std::abs(sum);
        expect_rounded_or_overflowed(
            y, {{static_cast<double>(sum * factor),
                 static_cast<double>(units * factor * compute_unit<P>) + least<P>}});
      }
    }
  }
}

// Of seven additions in a row, seven of those, the factor and its product no more is to be seen.
TEST(FarRows, TheMeanOfAConstantRowIsThatConstantToTwelveUnits) {
  for (const float value : {3.3F, -100.1F, 1000.1F, 0.1F, 3e38F, 1e-30F}) {
    for (const std::size_t size : {std::size_t{768}, std::size_t{5000}, std::size_t{1000003}}) {
      const auto x = Array<float>::filled({1, size}, value);
      const double expected = static_cast<double>(value);
      EXPECT_NEAR(static_cast<double>(*ops::mean(x, {.scaling = scaling::none}).data()), expected,
                  12 * float_unit * std::abs(expected))
          << value << " × " << size;
    }
  }
}

// Partial sums of such numbers are whole and below 2^24.
TEST(FarRows, TheSumOfWholeNumbersIsExact) {
  for (const std::size_t size : row_sizes) {
    Array<float> x(Shape{1, size});
    double expected = 0;
    for (std::size_t j = 0; j < size; ++j) {
      x.mutable_data()[j] = static_cast<float>((j * 37) % 1001);
      expected += static_cast<double>(x.data()[j]);
    }
    EXPECT_EQ(static_cast<double>(*ops::sum(x, {.scaling = scaling::none}).data()), expected);
  }
}

// 768 · 3e38 has no float, a thousandth of it has; as with doubles near their largest.
TEST(FarRows, ASumOverflowsOnlyWhereTheResultDoes) {
  const auto x = Array<float>::filled(Shape{1, 768}, 3e38F);
  const ops::Sum op;
  EXPECT_NEAR(*op.forward(precision::fp32{}, {.forward = 1e-3}, x).output.data() / 2.304e38F, 1,
              1e-6);
  EXPECT_EQ(*op.forward(precision::fp32{}, {.forward = 1}, x).output.data(), HUGE_VALF);
  const Array<float> mixed(Shape{1, 4}, {3e38F, 3e38F, -HUGE_VALF, 1});
  EXPECT_EQ(*op.forward(precision::fp32{}, {.forward = 1}, mixed).output.data(), -HUGE_VALF);
  const Array<float> opposite(Shape{1, 6}, {3e38F, 3e38F, 3e38F, -3e38F, -3e38F, -3e38F});
  EXPECT_EQ(*op.forward(precision::fp32{}, {.forward = 1}, opposite).output.data(), 0);
  for (const std::size_t size : {std::size_t{2}, std::size_t{37}, std::size_t{5000}}) {
    const auto doubles = Array<double>::filled({2, size}, -1.7e308);
    const auto means = ops::mean(doubles, {.scaling = scaling::none});
    for (const double y : means.span()) EXPECT_NEAR(y / -1.7e308, 1, 1e-12);
    EXPECT_EQ(ops::sum(doubles, {.scaling = scaling::none}).data()[1], -HUGE_VAL);
  }
}

// With k additions in a row of a sum of squares: k + 6 units of it.
TYPED_TEST(SumsOfFarRowsIn, OfSquaredErrorsNeitherVanishNorOverflow) {
  using P = TypeParam;
  using T = typename P::storage;
  for (const std::size_t size : {std::size_t{1}, std::size_t{2}, std::size_t{45}, std::size_t{768},
                                 std::size_t{5000}, std::size_t{50001}}) {
    const auto rows = far_rows(size);
    const auto targets = far_rows(size, 8);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto x = as_row<T>(rows[i]);
      const auto t = as_row<T>(targets[i]);
      if (!is_finite(x) || !is_finite(t)) continue;
      Exact sum = 0;
      for (std::size_t j = 0; j < size; ++j) {
        sum += (exact(x, j) - exact(t, j)) * (exact(x, j) - exact(t, j));
      }
      for (const double factor : {1.0, 1 / static_cast<double>(size), 1e-6, 1e-40, 1e30}) {
        SCOPED_TRACE(rows[i].name + " × " + std::to_string(size) + ", factor " +
                     std::to_string(std::log10(factor)));
        const auto loss = ops::MseLoss{}.forward(P{}, {.forward = factor}, x, t).output;
        const auto value = static_cast<double>(sum * static_cast<Exact>(factor));
        const double units = additions<P>(std::min<std::size_t>(size, 16384)) + 6;
        expect_rounded_or_overflowed(loss, {{value, units * compute_unit<P> * value + least<P>}});
      }
    }
  }
}

TEST(FarRows, TinyAndHugeSquaredErrorsCount) {
  const auto loss_of = []<class T>(T x, T target, double factor, std::size_t size) {
    return *ops::MseLoss{}
                .forward(precision::uniform<T>{}, {.forward = factor}, Array<T>::filled({size}, x),
                         Array<T>::filled({size}, target))
                .output.data();
  };
  for (const std::size_t size : {std::size_t{1}, std::size_t{3}, std::size_t{20000}}) {
    const auto n = static_cast<double>(size);
    EXPECT_NEAR(loss_of(1e-23F, 0.0F, 1e20 / n, size) / 1e-26F, 1, 1e-4);
    EXPECT_NEAR(loss_of(0.0F, 0x1p-149F, 0x1p200 / n, size) / 0x1p-98F, 1, 1e-4);
    EXPECT_NEAR(loss_of(3e38F, -3e38F, 1e-60 / n, size) / 3.6e17F, 1, 1e-4);
    EXPECT_NEAR(loss_of(1e-200, 0.0, 1e200 / n, size) / 1e-200, 1, 1e-10);
    EXPECT_NEAR(loss_of(1.7e308, -1.7e308, 1e-310 / n, size) / 1.156e307, 1, 1e-6);
    EXPECT_NEAR(loss_of(1e200, 0.0, 1e-200 / n, size) / 1e200, 1, 1e-10);
    EXPECT_EQ(loss_of(7.0F, 7.0F, 1 / n, size), 0);
  }
  // One tiny error among equal pairs of huge numbers.
  const Array<float> x(Shape{3}, {3e38F, 1e-23F, -3e38F});
  const Array<float> target(Shape{3}, {3e38F, 0, -3e38F});
  EXPECT_NEAR(
      *ops::MseLoss{}.forward(precision::fp32{}, {.forward = 1e20}, x, target).output.data() /
          1e-26F,
      1, 1e-5);
}

// dx = 2 β dloss (x − t), of differences and factors that may be beyond the range.
TYPED_TEST(SumsOfFarRowsIn, OfSquaredErrorsHaveGradientsThatOverflowOnlyWhereTheyDo) {
  using P = TypeParam;
  using T = typename P::storage;
  using Compute = typename P::compute;
  for (const std::size_t size : {std::size_t{1}, std::size_t{45}, std::size_t{300}}) {
    const auto rows = far_rows(size);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto x = as_row<T>(rows[i]);
      if (!is_finite(x)) continue;
      for (const double target : {0.0, -0.9, 0.9}) {
        const auto t = Array<T>::filled(x.shape(), static_cast<T>(target * largest_finite<T>()));
        for (const double beta : {1.0, 1e-6, 1e-40, 1e30}) {
          for (const double upstream : {1.0, 1e-44, 3e38, 1e-30, -1e37}) {
            SCOPED_TRACE(rows[i].name + " × " + std::to_string(size) + ", target " +
                         std::to_string(target) + ", log10 β " + std::to_string(std::log10(beta)) +
                         ", dloss / 1e-44 " + std::to_string(upstream / 1e-44));
            const auto dloss = Array<Compute>::filled(Shape{}, static_cast<Compute>(upstream));
            const auto [dx, dt] = ops::MseLoss{}.backward(
                P{}, {.forward = 1, .backward = {beta, beta}}, std::tuple{x, t}, dloss);
            std::vector<Reference> expected;
            std::vector<Reference> opposite;
            for (std::size_t j = 0; j < size; ++j) {
              const auto value = static_cast<double>(2 * static_cast<Exact>(beta) *
                                                     exact(dloss, 0) * (exact(x, j) - exact(t, j)));
              const double error = 4 * compute_unit<P> * std::abs(value) + least<P>;
              expected.push_back({value, error});
              opposite.push_back({-value, error});
            }
            expect_rounded_or_overflowed(dx, expected);
            expect_rounded_or_overflowed(dt, opposite);
            if (testing::Test::HasFailure()) return;
          }
        }
      }
    }
  }
}

TEST(FarRows, GradientsOfLossesOverflowOnlyWhereTheyDo) {
  const auto of_error = [](float x, float target, std::size_t size, float dloss,
                           ops::Reduction reduction) {
    const ops::MseLoss op{.scaling = scaling::none, .reduction = reduction};
    const auto a = Array<float>::filled({size}, x);
    const auto b = Array<float>::filled({size}, target);
    return std::get<0>(op.backward(precision::fp32{}, op.scales(a, b), std::tuple{a, b},
                                   Array<float>::filled(Shape{}, dloss)))
        .data()[size / 2];
  };
  EXPECT_NEAR(of_error(3e38F, -3e38F, 1'000'000, 1, ops::Reduction::mean) / 1.2e33F, 1, 1e-6);
  EXPECT_NEAR(of_error(1e30F, 0, 4, 1e-44F, ops::Reduction::mean) / 4.90454463e-15F, 1, 1e-6);
  EXPECT_NEAR(of_error(1e-30F, 0, 4, 3e38F, ops::Reduction::sum) / 6e8F, 1, 1e-6);

  constexpr std::size_t classes = 50'000;
  const Array<float> logits = Array<float>::filled(Shape{2, classes}, 0);
  const Array<std::int32_t> labels(Shape{2}, {7, 49'999});
  const ops::CrossEntropy op{.scaling = scaling::paper};
  const auto s = op.scales(logits, labels);
  const auto saved = op.forward(precision::fp32{}, s, logits, labels).saved;
  for (const float dloss : {1e37F, -1e37F, 1e34F, 1e-42F, 1e-45F}) {
    const auto dx =
        std::get<0>(op.backward(precision::fp32{}, s, saved, Array<float>::filled(Shape{}, dloss)));
    const double others = s.backward[0] * static_cast<double>(dloss) / classes;
    EXPECT_NEAR(dx.data()[8], others, 1e-5 * std::abs(others) + 0x1p-149) << dloss;
    const double label = -others * (classes - 1);
    if (std::abs(label) > largest_finite<float>()) {
      EXPECT_EQ(dx.data()[7], label > 0 ? HUGE_VALF : -HUGE_VALF) << dloss;
    } else {
      EXPECT_NEAR(dx.data()[7], label, 1e-5 * std::abs(label) + 0x1p-149) << dloss;
    }
  }
}

// With k additions in a row of sums, log Σ is within k + 24 units, those of exp of the terms that
// count among them, and dx within these and |x − max| of p.
TYPED_TEST(SumsOfFarRowsIn, OfSmoothedCrossEntropyAreRight) {
  using P = TypeParam;
  using T = typename P::storage;
  constexpr double unit = compute_unit<P>;
  for (const std::size_t size : row_sizes) {
    if (size < 2) continue;
    for (const Row& row : far_rows(size)) {
      const auto x = as_row<T>(row);
      if (!is_finite(x)) continue;
      const auto n = static_cast<Exact>(size);
      Exact max = exact(x, 0);
      for (std::size_t j = 0; j < size; ++j) max = std::max(max, exact(x, j));
      Exact sum = 0;
      Exact below = 0;
      for (std::size_t j = 0; j < size; ++j) {
        sum += std::exp(exact(x, j) - max);
        below += (max - exact(x, j)) / n;
      }
      const std::size_t label = size / 2;
      for (const double smoothing : {0.0, 0.1, 0.9}) {
        SCOPED_TRACE(row.name + " × " + std::to_string(size) + ", smoothing " +
                     std::to_string(smoothing));
        const ops::CrossEntropy op{.scaling = scaling::none, .label_smoothing = smoothing};
        const Array<std::int32_t> labels(Shape{1}, {static_cast<std::int32_t>(label)});
        const auto run = run_op_with(
            P{}, op, op.scales(x, labels), [](const auto& y) { return y.filled(Shape{}, 1); }, x,
            labels);
        const double units = additions<P>(size) + 24;
        const Exact loss =
            (1 - smoothing) * (max - exact(x, label)) + smoothing * below + std::log(sum);
        // That of the weighted sum is in double.
        const auto loss_error = static_cast<double>(units * unit + 2e-16L * n * loss + unit * loss);
        expect_rounded_or_overflowed(run.y, {{static_cast<double>(loss), loss_error}});
        std::vector<Reference> dx;
        for (std::size_t j = 0; j < size; ++j) {
          const auto u = static_cast<double>(exact(x, j) - max);
          const auto p = static_cast<double>(std::exp(exact(x, j) - max) / sum);
          const double target =
              smoothing / static_cast<double>(size) + (j == label ? 1 - smoothing : 0);
          dx.push_back({p - target, (p * (units + 6 + (p > 0 ? -u : 0)) + 4 * target) * unit +
                                        (u < -87 ? 0x1p-125 : 0)});
        }
        expect_rounded(std::get<0>(run.gradients), dx);
      }
    }
  }
}

// As above; y is α p, so that the likeliest element shows what a sum in float may lose.
TYPED_TEST(SumsOfFarRowsIn, OfSoftmaxAreRight) {
  using P = TypeParam;
  using T = typename P::storage;
  for (const std::size_t size : row_sizes) {
    for (const Row& row : far_rows(size)) {
      SCOPED_TRACE(row.name + " × " + std::to_string(size));
      const auto x = as_row<T>(row);
      if (!is_finite(x)) continue;
      const auto y = ops::Softmax{}.forward(P{}, {.forward = 1}, x).output;
      Exact max = exact(x, 0);
      for (std::size_t j = 0; j < size; ++j) max = std::max(max, exact(x, j));
      Exact sum = 0;
      for (std::size_t j = 0; j < size; ++j) sum += std::exp(exact(x, j) - max);
      // Terms that count are those of e^−20 and more.
      std::vector<Reference> expected;
      for (std::size_t j = 0; j < size; ++j) {
        const auto u = static_cast<double>(exact(x, j) - max);
        const auto p = static_cast<double>(std::exp(exact(x, j) - max) / sum);
        const double units = 20 + additions<P>(size) + 9 + (p > 0 ? -u : 0);
        expected.push_back({p, p * units * compute_unit<P> + (u < -87 ? 0x1p-125 : 0)});
      }
      expect_rounded(y, expected);
    }
  }
}

// dx = p (dy − Σ dy p) times factors, of gradients whose differences, products or sums leave the
// range of the arithmetic although dx does not.
TYPED_TEST(SumsOfFarRowsIn, OfSoftmaxsGradientOverflowOnlyWhereItDoes) {
  using P = TypeParam;
  using T = typename P::storage;
  constexpr double largest = largest_finite<T>();
  for (const std::size_t size :
       {std::size_t{2}, std::size_t{5}, std::size_t{45}, std::size_t{768}, std::size_t{4096}}) {
    for (const double spread : {0.0, 1.0, 200.0}) {
      auto x = normal_array<T>({1, size}, 3);
      for (std::size_t j = 0; j < size; ++j) {
        x.mutable_data()[j] = static_cast<T>(static_cast<double>(x.data()[j]) * spread);
      }
      const double alpha = static_cast<double>(size);
      const auto forward = ops::Softmax{}.forward(P{}, {.forward = alpha}, x);
      if (!is_finite(forward.output)) continue;
      Exact total = 0;
      for (std::size_t j = 0; j < size; ++j) total += exact(forward.output, j);
      for (const double share : {0.99, 0.6, 0.3, 1e-3, -0.99}) {
        SCOPED_TRACE(std::to_string(size) + " columns, logits × " + std::to_string(spread) +
                     ", gradients " + std::to_string(share) + " of the largest");
        Array<T> dy(Shape{1, size});
        for (std::size_t j = 0; j < size; ++j) {
          dy.mutable_data()[j] = static_cast<T>((j % 3 == 1 ? -share : share) * largest);
        }
        for (const double beta : {1.0, 0.25}) {
          const auto dx = std::get<0>(ops::Softmax{}.backward(
              P{}, {.forward = alpha, .backward = {beta}}, forward.saved, dy));
          // From p as it was stored, counted from the likeliest, as the header says.
          const auto* y = forward.output.data();
          const auto likeliest = static_cast<std::size_t>(std::max_element(y, y + size) - y);
          const Exact origin = exact(dy, likeliest);
          Exact inner = 0;
          for (std::size_t j = 0; j < size; ++j) {
            inner += exact(forward.output, j) / alpha * (exact(dy, j) - origin);
          }
          std::vector<Reference> expected;
          for (std::size_t j = 0; j < size; ++j) {
            const Exact p = exact(forward.output, j) / alpha;
            const Exact value = beta * p * (exact(dy, j) - origin - inner);
            const Exact largest_dy = std::abs(static_cast<Exact>(share * largest));
            const Exact units = 8 * (additions<P>(size) + 8) * compute_unit<P>;
            const Exact error = beta * largest_dy * (p * units + 4 * least<P>);
            expected.push_back({static_cast<double>(value), static_cast<double>(error)});
          }
          expect_rounded_or_overflowed(dx, expected);
        }
      }
    }
  }
}

}  // namespace rows_far_from_normal_test
