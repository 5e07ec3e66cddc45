// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: measures the factors that give an op unit scale.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// What `estimate_scales` measured.
template <std::size_t N> struct ScaleEstimate {
  Scales<N> scales;
  /// Relative standard error of each factor, from the spread among the repetitions.
  Scales<N> relative_error;
};

/// How `estimate_scales` measures.
struct EstimateOptions {
  std::uint64_t seed = 0;
  /// Independent repetitions; at least two.
  std::size_t repetitions = 8;
};

namespace detail {

/// Independent draws from N(0,1) for a shape; other arguments, such as ids, are taken as they are.
[[nodiscard]] inline Array<double> draw(const Shape& shape, const Random& random) {
  Array<double> result(shape);
  double* target = result.mutable_data();
  for (std::size_t i = 0; i < result.size(); ++i) target[i] = random.normal(i);
  return result;
}
template <class T> [[nodiscard]] Array<T> draw(const Array<T>& array, const Random& /*random*/) {
  return array;
}

/// Running mean of variances and squares over the repetitions.
struct Moments {
  double sum = 0;
  double sum_of_squares = 0;

  void take(double value) {
    sum += value;
    sum_of_squares += value * value;
  }
  /// (mean of the values)^-½ and its relative standard error.
  [[nodiscard]] std::array<double, 2> factor(std::size_t count) const {
    const auto n = static_cast<double>(count);
    const double average = sum / n;
    const double variance = std::max(0.0, sum_of_squares / n - average * average) / (n - 1);
    return {1 / std::sqrt(average), std::sqrt(variance) / average / 2};
  }
};

template <class T> [[nodiscard]] double mean_square(const Array<T>& array, double centre) {
  double total = 0;
  for (const T element : array.span()) {
    const double distance = static_cast<double>(element) - centre;
    total += distance * distance;
  }
  return total / static_cast<double>(array.size());
}

template <class T> [[nodiscard]] double average(const Array<T>& array) {
  double total = 0;
  for (const T element : array.span()) total += static_cast<double>(element);
  return total / static_cast<double>(array.size());
}

}  // namespace detail

/// The factors that unit scaling asks for, measured: with all factors at one, on inputs and an
/// upstream gradient ~ N(0,1), in double, α = 1 / std(y) and β_i = 1 / rms(dx_i), averaged over the
/// repetitions. For an op with one output whose passes multiply with nothing but their factors.
/// The variance of an output of one number is that among the repetitions.
/// A loss keeps its value, so its forward factor is 1, and its own gradient is 1.
/// @param args for each argument of the op a Shape, to be filled with draws from N(0,1), or an
///        Array (ids, labels, a fixed weight), to be taken as it is.
/// @throws DomainError if there are fewer than two repetitions, or y or a gradient is empty,
///         constant or not finite, so that no factor gives it unit scale.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4 (the ideal factors), appendix on empirical
///      ones.
template <ScaledOp Op, class... Args>
[[nodiscard]] auto estimate_scales(const Op& op, const EstimateOptions& options,
                                   const Args&... args) {
  const DefaultArithmetic arithmetic;
  constexpr precision::fp64 precision;
  const auto draw_all = [&](std::size_t repetition) {
    return [&]<std::uint32_t... i>(std::integer_sequence<std::uint32_t, i...>) {
      return std::tuple{
          detail::draw(args, Random(options.seed, RandomStream::general, repetition, 1 + i))...};
    }
    (std::make_integer_sequence<std::uint32_t, sizeof...(Args)>{});
  };
  using ScalesOfOp =
      decltype(std::apply([&](const auto&... x) { return op.scales(x...); }, draw_all(0)));
  constexpr std::size_t n = std::tuple_size_v<decltype(ScalesOfOp::backward)>;
  require(options.repetitions >= 2, "estimate_scales", "expected at least two repetitions");

  detail::Moments of_output;
  std::array<detail::Moments, n> of_gradients;
  std::vector<double> single_outputs;  // of an op whose output is one number
  for (std::size_t r = 0; r < options.repetitions; ++r) {
    const auto inputs = draw_all(r);
    const auto result = std::apply(
        [&](const auto&... x) {
          (void)op.scales(x...);
          return op.forward(precision, ScalesOfOp{}, x...);
        },
        inputs);
    if (is_loss<Op>) {
      of_output.take(1);
    } else if (result.output.size() == 1) {
      single_outputs.push_back(static_cast<double>(*result.output.data()));
    } else {
      of_output.take(detail::mean_square(result.output, detail::average(result.output)));
    }
    const auto dy = is_loss<Op> ? Array<double>::filled(result.output.shape(), 1)
                                : detail::draw(result.output.shape(),
                                               Random(options.seed, RandomStream::general, r, 0));
    const auto gradients = op.backward(precision, ScalesOfOp{}, result.saved, dy);
    std::apply(
        [&](const auto&... gradient) {
          std::size_t i = 0;
          (of_gradients[i++].take(detail::mean_square(gradient, 0)), ...);
        },
        gradients);
  }

  // One number has no spread but among the repetitions.
  const auto count = static_cast<double>(options.repetitions);
  double centre = 0;
  for (const double output : single_outputs) centre += output / count;
  for (const double output : single_outputs) {
    of_output.take((output - centre) * (output - centre) * count / (count - 1));
  }

  ScaleEstimate<n> estimate;
  const auto settle = [&](const detail::Moments& moments, double& factor, double& error) {
    const auto [value, relative] = moments.factor(options.repetitions);
    require(std::isfinite(value) && value > 0, "estimate_scales",
            "expected outputs and gradients that are finite, and neither empty nor constant");
    factor = value;
    error = relative;
  };
  settle(of_output, estimate.scales.forward, estimate.relative_error.forward);
  for (std::size_t i = 0; i < n; ++i) {
    settle(of_gradients[i], estimate.scales.backward[i], estimate.relative_error.backward[i]);
  }
  return estimate;
}

/// As above, with the default options.
template <ScaledOp Op, class... Args>
[[nodiscard]] auto estimate_scales(const Op& op, const Args&... args) {
  return estimate_scales(op, EstimateOptions{}, args...);
}

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
