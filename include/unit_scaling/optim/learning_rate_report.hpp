// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: the learning rate that each parameter really has.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/optim/optimiser.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

[[nodiscard]] constexpr std::string_view to_string(ParameterKind kind) {
  switch (kind) {
    case ParameterKind::untagged:
      return "untagged";
    case ParameterKind::weight:
      return "weight";
    case ParameterKind::bias:
      return "bias";
    case ParameterKind::norm:
      return "norm";
    case ParameterKind::output:
      return "output";
  }
  return "?";
}

/// How one parameter is trained.
struct LearningRateRow {
  std::string name;
  ParameterKind kind;
  Shape shape;
  std::optional<std::size_t> depth;
  double factor;         ///< of its group and of the scale rules
  double learning_rate;  ///< the step's rate times the factor
  double weight_decay;   ///< λ
  /// Empty where the optimiser has no `decay_share`, or cannot tell: it divides the decay by the
  /// size of the gradient, say.
  std::optional<DecayShare> decay_share;
};

/// One row for each parameter of the optimiser, in its order, for a step at `learning_rate`.
/// @throws DomainError if one was moved, or is gone.
template <Optimiser O>
[[nodiscard]] std::vector<LearningRateRow> learning_rate_report(const O& optimiser,
                                                                double learning_rate) {
  std::vector<LearningRateRow> rows;
  for (const ParameterSetting& setting : optimiser.settings()) {
    require(*setting.is_in_place, "learning_rate_report", "expected '", setting.name,
            "' to have stayed in place since the optimiser was made");
    const Parameter& parameter = *setting.parameter;
    std::optional<DecayShare> decay_share;
    if constexpr (requires { optimiser.decay_share(setting, learning_rate); }) {
      decay_share = optimiser.decay_share(setting, learning_rate);
    }
    rows.push_back({parameter.name, parameter.kind, parameter.shape(), parameter.depth,
                    setting.learning_rate_factor, learning_rate * setting.learning_rate_factor,
                    setting.weight_decay, decay_share});
  }
  return rows;
}

/// The rows as a table for people, one line each below a line of heads.
[[nodiscard]] inline std::string to_text(const std::vector<LearningRateRow>& rows) {
  std::size_t name_width = 9;
  std::size_t shape_width = 5;
  for (const LearningRateRow& row : rows) {
    name_width = std::max(name_width, row.name.size());
    shape_width = std::max(shape_width, unit_scaling::to_string(row.shape).size());
  }
  const auto padded = [](std::string text, std::size_t width) {
    text.resize(std::max(width, text.size()), ' ');
    return text + "  ";
  };
  std::string table = padded("parameter", name_width) + "kind      " +
                      padded("shape", shape_width) + "depth      factor        rate       decay\n";
  for (const LearningRateRow& row : rows) {
    std::array<char, 64> numbers{};
    std::snprintf(numbers.data(), numbers.size(), "%5s  %10.4g  %10.4g  %10.4g",
                  row.depth ? std::to_string(*row.depth).c_str() : "-", row.factor,
                  row.learning_rate, row.weight_decay);
    table += padded(row.name, name_width) + padded(std::string(to_string(row.kind)), 8) +
             padded(unit_scaling::to_string(row.shape), shape_width) + numbers.data() + "\n";
  }
  return table;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
