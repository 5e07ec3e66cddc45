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

/// A factor and its relative standard error.
struct Measured {
  double factor = 1;
  double relative_error = 0;
};

/// (mean of `squares`)^-½, of the mean squares of independent repetitions.
/// @param least_error that their mean may have in any case: few repetitions can agree by chance.
[[nodiscard]] inline Measured factor_of(const std::vector<double>& squares,
                                        double least_error = 0) {
  const auto count = static_cast<double>(squares.size());
  double sum = 0;
  for (const double square : squares) sum += square;
  const double mean = sum / count;
  double deviations = 0;
  for (const double square : squares) deviations += (square - mean) * (square - mean);
  const double error = std::sqrt(deviations / (count * (count - 1)));
  return {1 / std::sqrt(mean), std::max(error, least_error) / mean / 2};
}

template <class T> [[nodiscard]] double mean_square(const Array<T>& array, double centre) {
  double total = 0;
  for (const T element : array.span()) {
    const double distance = static_cast<double>(element) - centre;
    total += distance * distance;
  }
  return total / static_cast<double>(array.size());
}

/// Summed as distances from the first element: the average of a constant is that constant.
template <class Numbers> [[nodiscard]] double average(const Numbers& numbers) {
  if (numbers.empty()) return 0;
  const auto first = static_cast<double>(numbers.front());
  double total = 0;
  for (const auto number : numbers) total += static_cast<double>(number) - first;
  return first + total / static_cast<double>(numbers.size());
}

/// 1 / std of the elements of an output, from its repetitions.
class OutputSpread {
 public:
  template <class T> void take(const Array<T>& output) {
    averages_.push_back(average(output.span()));
    within_.push_back(mean_square(output, averages_.back()));
  }

  /// The variance of an element is the mean variance within a repetition plus the variance of the
  /// averages among repetitions (law of total variance). Only repetitions are known to be
  /// independent, so the latter is divided by their number less one. The estimate has no bias,
  /// however few elements there are and however they move together.
  [[nodiscard]] Measured factor() const {
    const auto count = static_cast<double>(averages_.size());
    const double centre = average(averages_);
    std::vector<double> variances = within_;
    double among = 0;
    for (std::size_t r = 0; r < variances.size(); ++r) {
      const double distance = averages_[r] - centre;
      const double variance = distance * distance * count / (count - 1);
      variances[r] += variance;
      among += variance / count;
    }
    // The standard error of a variance of normal numbers; averages are normal, or nearly so.
    return factor_of(variances, among * std::sqrt(2 / (count - 1)));
  }

 private:
  std::vector<double> averages_;  ///< of each repetition
  std::vector<double> within_;    ///< the mean square about it
};

}  // namespace detail

/// The factors that unit scaling asks for, measured: with all factors at one, on inputs and an
/// upstream gradient ~ N(0,1), in double, α = 1 / std(y) and β_i = 1 / rms(dx_i), averaged over the
/// repetitions. For an op with one output whose passes multiply with nothing but their factors.
/// The variance is about one mean, that of all elements of all repetitions, so it is right for an
/// output of few numbers too.
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

  detail::OutputSpread of_output;
  std::array<std::vector<double>, n> of_gradients;  // mean squares
  for (std::size_t r = 0; r < options.repetitions; ++r) {
    const auto inputs = draw_all(r);
    const auto result = std::apply(
        [&](const auto&... x) {
          (void)op.scales(x...);
          return op.forward(precision, ScalesOfOp{}, x...);
        },
        inputs);
    if constexpr (!Op::traits.is_loss) of_output.take(result.output);
    const auto dy = Op::traits.is_loss
                        ? Array<double>::filled(result.output.shape(), 1)
                        : detail::draw(result.output.shape(),
                                       Random(options.seed, RandomStream::general, r, 0));
    const auto gradients = op.backward(precision, ScalesOfOp{}, result.saved, dy);
    std::apply(
        [&](const auto&... gradient) {
          std::size_t i = 0;
          (of_gradients[i++].push_back(detail::mean_square(gradient, 0)), ...);
        },
        gradients);
  }

  ScaleEstimate<n> estimate;
  const auto settle = [](const detail::Measured& measured, double& factor, double& error) {
    require(std::isfinite(measured.factor) && measured.factor > 0, "estimate_scales",
            "expected outputs and gradients that are finite, and neither empty nor constant");
    factor = measured.factor;
    error = measured.relative_error;
  };
  settle(Op::traits.is_loss ? detail::Measured{} : of_output.factor(), estimate.scales.forward,
         estimate.relative_error.forward);
  for (std::size_t i = 0; i < n; ++i) {
    settle(detail::factor_of(of_gradients[i]), estimate.scales.backward[i],
           estimate.relative_error.backward[i]);
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
