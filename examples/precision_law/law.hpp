// SPDX-License-Identifier: MIT
// The scaling law for precision of Kumar et al. 2024, arXiv:2411.04330, and its fit.
//
//     L(N, D, P_w, P_a) = A N_eff^-α + B D^-β + E
//     N_eff = N (1 - exp(-P_w / γ_w)) (1 - exp(-P_a / γ_a))
//
// L is the loss, N the number of parameters, D that of tokens, P_w and P_a the bits of weights and
// of activations in the forward pass. A number in binary32 has the factor 1.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <stdexcept>
#include <unsupported/Eigen/NonLinearOptimization>
#include <unsupported/Eigen/NumericalDiff>
#include <vector>

namespace precision_law {

/// One training.
struct Training {
  double parameters = 0;  ///< N
  double tokens = 0;      ///< D
  /// Of the numbers that products read in the forward pass; none: binary32.
  std::optional<int> weight_bits = std::nullopt;
  std::optional<int> activation_bits = std::nullopt;
  double loss = 0;
};

/// The law with its constants.
struct Law {
  double a = 0;
  double alpha = 0;
  double b = 0;
  double beta = 0;
  double e = 0;
  double gamma_weights = 0;
  double gamma_activations = 0;

  /// The share of the parameters that count.
  [[nodiscard]] static double share(std::optional<int> bits, double gamma) {
    return bits ? -std::expm1(-*bits / gamma) : 1;
  }
  [[nodiscard]] double loss(const Training& run) const {
    const double effective = run.parameters * share(run.weight_bits, gamma_weights) *
                             share(run.activation_bits, gamma_activations);
    return a * std::pow(effective, -alpha) + b * std::pow(run.tokens, -beta) + e;
  }
};

namespace detail {

constexpr int constants = 7;

/// All constants are positive, so their logarithms are what is sought.
[[nodiscard]] inline Law law_of(const Eigen::VectorXd& logarithms) {
  const Eigen::ArrayXd c = logarithms.array().exp();
  return {c[0], c[1], c[2], c[3], c[4], c[5], c[6]};
}

/// Residuals whose squares are Huber's loss of the logarithm of the loss: an outlier counts by its
/// distance, and not by the square of it.
struct Residuals {
  using Scalar = double;
  using InputType = Eigen::VectorXd;
  using ValueType = Eigen::VectorXd;
  using JacobianType = Eigen::MatrixXd;
  enum { InputsAtCompileTime = Eigen::Dynamic, ValuesAtCompileTime = Eigen::Dynamic };

  const std::vector<Training>& runs;
  double width;

  [[nodiscard]] int inputs() const { return constants; }
  [[nodiscard]] int values() const { return std::max(constants, static_cast<int>(runs.size())); }

  int operator()(const Eigen::VectorXd& logarithms, Eigen::VectorXd& out) const {
    const Law law = law_of(logarithms);
    out.setZero();
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const double error = std::log(law.loss(runs[i]) / runs[i].loss);
      const double size = std::abs(error);
      const double root = size <= width ? size : std::sqrt(width * (2 * size - width));
      out[static_cast<Eigen::Index>(i)] = std::copysign(root, error);
    }
    return 0;
  }
};

}  // namespace detail

/// The law that fits best, from many first guesses. Where no run has narrow weights, or none has
/// narrow activations, the constant of these says nothing.
/// @throws std::invalid_argument for fewer runs than constants, and for a run without a loss.
[[nodiscard]] inline Law fit(const std::vector<Training>& runs) {
  if (runs.size() < static_cast<std::size_t>(detail::constants)) {
    throw std::invalid_argument("fit: expected at least 7 trainings");
  }
  double least = std::numeric_limits<double>::infinity();
  double mean = 0;
  double parameters = 0;  // logarithms of means
  double tokens = 0;
  for (const Training& run : runs) {
    if (!(std::isfinite(run.loss) && run.loss > 0)) {
      throw std::invalid_argument("fit: expected losses that are finite and above 0");
    }
    least = std::min(least, run.loss);
    mean += run.loss / static_cast<double>(runs.size());
    parameters += std::log(run.parameters) / static_cast<double>(runs.size());
    tokens += std::log(run.tokens) / static_cast<double>(runs.size());
  }
  // The width of Huber's loss: 0.1 % as in the paper's fit, after Hoffmann et al. 2022.
  const detail::Residuals residuals{runs, 1e-3};
  double best_error = std::numeric_limits<double>::infinity();
  Law best;
  for (const double share_of_e : {0.2, 0.6, 0.9}) {
    for (const double exponent : {0.15, 0.4, 0.8}) {
      for (const double gamma : {0.5, 1.5, 4.0}) {
        const double e = share_of_e * least;
        const double part = std::log((mean - e) / 2);
        Eigen::VectorXd guess(detail::constants);
        guess << part + exponent * parameters, std::log(exponent), part + exponent * tokens,
            std::log(exponent), std::log(e), std::log(gamma), std::log(gamma);
        Eigen::NumericalDiff<detail::Residuals> differentiable(residuals);
        Eigen::LevenbergMarquardt<Eigen::NumericalDiff<detail::Residuals>> search(differentiable);
        search.parameters.maxfev = 1000;
        search.minimize(guess);
        if (guess.allFinite() && search.fnorm < best_error) {
          best_error = search.fnorm;
          best = detail::law_of(guess);
        }
      }
    }
  }
  return best;
}

/// The share of the variance of the losses that the law explains.
[[nodiscard]] inline double r_squared(const Law& law, const std::vector<Training>& runs) {
  double mean = 0;
  for (const Training& run : runs) mean += run.loss / static_cast<double>(runs.size());
  double explained = 0;
  double all = 0;
  for (const Training& run : runs) {
    explained += std::pow(law.loss(run) - run.loss, 2);
    all += std::pow(run.loss - mean, 2);
  }
  return 1 - explained / all;
}

/// Every `folds`-th run from the first on is left out of a fit and predicted by it, then every one
/// from the second on, and so on.
struct CrossValidation {
  std::vector<Law> laws;          ///< of each fit
  double held_out_r_squared = 0;  ///< over all runs, each predicted by the fit that left it out
};
[[nodiscard]] inline CrossValidation cross_validate(const std::vector<Training>& runs,
                                                    std::size_t folds) {
  CrossValidation result;
  double mean = 0;
  for (const Training& run : runs) mean += run.loss / static_cast<double>(runs.size());
  double unexplained = 0;
  double all = 0;
  for (std::size_t fold = 0; fold < folds; ++fold) {
    std::vector<Training> kept;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      if (i % folds != fold) kept.push_back(runs[i]);
    }
    result.laws.push_back(fit(kept));
    for (std::size_t i = fold; i < runs.size(); i += folds) {
      unexplained += std::pow(result.laws.back().loss(runs[i]) - runs[i].loss, 2);
      all += std::pow(runs[i].loss - mean, 2);
    }
  }
  result.held_out_r_squared = 1 - unexplained / all;
  return result;
}

/// The bits P for which N_eff is largest while N P is what it is: those to train with, whatever the
/// compute, as the cost of a step is N D P. The derivative of log N_eff is zero there:
/// P (exp(-P/γ_w) / γ_w / (1 - exp(-P/γ_w)) + the same of γ_a) = 1.
/// The paper's equation 7 has α beside γ, which does not follow from the law.
[[nodiscard]] inline double best_bits(const Law& law) {
  const auto slope = [](double bits, double gamma) {
    return std::exp(-bits / gamma) / gamma / -std::expm1(-bits / gamma);
  };
  double low = 1e-3;
  double high = 64;
  for (int i = 0; i < 100; ++i) {
    const double bits = (low + high) / 2;
    const double gain =
        bits * (slope(bits, law.gamma_weights) + slope(bits, law.gamma_activations));
    (gain > 1 ? low : high) = bits;
  }
  return low;
}

}  // namespace precision_law
