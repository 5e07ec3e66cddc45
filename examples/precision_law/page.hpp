// SPDX-License-Identifier: MIT
// What a study of precision found: tables, and a picture.
#pragma once

#include <Eigen/Core>
#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "law.hpp"
#include "study.hpp"
#include "unit_scaling/analysis/line_chart.hpp"

namespace precision_law {

[[nodiscard]] inline std::string number(const char* pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), pattern, value);
  return text;
}

/// The law's constants, each with the standard deviation over the fits that left a part out.
[[nodiscard]] inline std::string constants_table(const Law& law,
                                                 const CrossValidation& validation) {
  std::string text =
      "| constant | fit to all | standard deviation of the fits to four fifths |\n|---|---|---|\n";
  const auto row = [&](const char* name, double Law::*member) {
    double mean = 0;
    double squares = 0;
    const auto count = static_cast<double>(validation.laws.size());
    for (const Law& each : validation.laws) mean += each.*member / count;
    for (const Law& each : validation.laws) squares += std::pow(each.*member - mean, 2);
    text += std::string("| ") + name + " | " + number("%.4g", law.*member) + " | " +
            number("%.2g", std::sqrt(squares / (count - 1))) + " |\n";
  };
  row("A", &Law::a);
  row("α", &Law::alpha);
  row("B", &Law::b);
  row("β", &Law::beta);
  row("E", &Law::e);
  row("γ of weights", &Law::gamma_weights);
  row("γ of activations", &Law::gamma_activations);
  return text;
}

/// The loss that rounding after training adds: log δ = c + γ_D log D − γ_N log N − P / γ_post.
struct RoundingAfter {
  double gamma_tokens = 0;
  double gamma_parameters = 0;
  double gamma_post = 0;
  double r_squared = 0;  ///< of log δ
  std::size_t points = 0;
};

/// @returns none if fewer than 8 roundings made the loss larger.
[[nodiscard]] inline std::optional<RoundingAfter> fit_rounding_after(
    const std::vector<Outcome>& outcomes) {
  std::vector<Eigen::Vector4d> rows;
  std::vector<double> targets;
  for (const Outcome& outcome : outcomes) {
    for (const auto& [bits, loss] : outcome.rounded_after) {
      const double harm = loss - outcome.training.loss;
      if (harm <= 0) continue;
      rows.emplace_back(1, std::log(outcome.training.tokens), std::log(outcome.training.parameters),
                        bits);
      targets.push_back(std::log(harm));
    }
  }
  if (rows.size() < 8) return {};
  const auto count = static_cast<Eigen::Index>(rows.size());
  Eigen::MatrixXd matrix(count, 4);
  for (Eigen::Index i = 0; i < count; ++i) matrix.row(i) = rows[static_cast<std::size_t>(i)];
  const Eigen::VectorXd target = Eigen::Map<const Eigen::VectorXd>(targets.data(), count);
  const Eigen::VectorXd solution = matrix.colPivHouseholderQr().solve(target);
  const double unexplained = (matrix * solution - target).squaredNorm();
  const double all = (target.array() - target.mean()).matrix().squaredNorm();
  return RoundingAfter{.gamma_tokens = solution[1],
                       .gamma_parameters = -solution[2],
                       .gamma_post = -1 / solution[3],
                       .r_squared = 1 - unexplained / all,
                       .points = rows.size()};
}

/// Loss against bits, for the longest trainings: points are trainings, lines the law.
[[nodiscard]] inline std::string picture(const std::vector<Outcome>& outcomes, const Law& law) {
  namespace analysis = us::analysis;
  double most_tokens = 0;
  for (const Outcome& each : outcomes) most_tokens = std::max(most_tokens, each.training.tokens);
  std::map<double, std::vector<std::pair<double, double>>> measured;  // by parameters
  for (const Outcome& each : outcomes) {
    const Training& training = each.training;
    if (training.tokens == most_tokens && training.weight_bits &&
        training.weight_bits == training.activation_bits) {
      measured[training.parameters].emplace_back(*training.weight_bits, training.loss);
    }
  }
  analysis::LineChart chart;
  chart.title = "Loss against the bits of weights and activations";
  chart.subtitle = "Dashed: the law. The longest trainings of each width.";
  chart.x_label = "bits";
  chart.y_label = "bits per character, held out";
  std::size_t colour = 0;
  for (const auto& [parameters, points] : measured) {
    chart.series.push_back({.name = number("%.3g parameters", parameters),
                            .points = points,
                            .colour = colour,
                            .dash = 0});
    std::vector<std::pair<double, double>> predicted;
    for (const auto& point : points) {
      const auto bits = static_cast<int>(point.first);
      predicted.emplace_back(point.first, law.loss({.parameters = parameters,
                                                    .tokens = most_tokens,
                                                    .weight_bits = bits,
                                                    .activation_bits = bits}));
    }
    chart.series.push_back(
        {.name = "", .points = std::move(predicted), .colour = colour, .dash = 2});
    ++colour;
  }
  return analysis::to_svg(chart);
}

/// All that was found, as Markdown.
[[nodiscard]] inline std::string page(const std::vector<Outcome>& outcomes) {
  std::vector<Training> trainings;
  for (const Outcome& each : outcomes) trainings.push_back(each.training);
  constexpr std::size_t folds = 5;
  const Law law = fit(trainings);
  const CrossValidation validation = cross_validate(trainings, folds);
  std::string text = constants_table(law, validation);
  text += "\n" + std::to_string(trainings.size()) + " trainings. R² of the fit to all " +
          number("%.4f", r_squared(law, trainings)) + ", of trainings that were left out " +
          number("%.4f", validation.held_out_r_squared) + " (" + std::to_string(folds) +
          " parts). Best bits to train with: " + number("%.1f", best_bits(law)) + ".\n";
  if (const auto after = fit_rounding_after(outcomes)) {
    text += "\nWeights rounded after training, " + std::to_string(after->points) + " points: γ_D " +
            number("%.3f", after->gamma_tokens) + ", γ_N " +
            number("%.3f", after->gamma_parameters) + ", γ_post " +
            number("%.3f", after->gamma_post) + ", R² of the logarithm " +
            number("%.3f", after->r_squared) + ".\n";
  }
  return text;
}

}  // namespace precision_law
