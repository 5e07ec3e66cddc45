// SPDX-License-Identifier: MIT
/// @file
/// Layer scaling: how an op's output answers to constant factors on its inputs.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// coefficient · Π t_i^powers[i] over the factors t_i on an op's inputs.
struct Monomial {
  double coefficient = 1;
  std::vector<int> powers = {};  ///< one for each differentiable input
};

/// What becomes of an op's output if its inputs x_i are multiplied with positive factors t_i.
///
/// Let one op see x_i, and another, of the same attributes but for its scaling, t_i x_i. If each
/// monomial of `fixed` has the same value in both (with t_i = 1 in the first), the output of the
/// second is `output` of the second over `output` of the first times that of the first.
///
/// A linear layer y = α (x wᵀ + b) has output α t_x t_w and, as both terms of the sum must grow
/// alike, fixed t_x t_w / t_b. A GELU, which answers to no factor, has output α and fixed t_x.
struct Homogeneity {
  Monomial output;  ///< of all outputs alike
  std::vector<Monomial> fixed = {};
  /// What should be the same in both, and changes little if it is not: the scale of what is
  /// normalised, against ε.
  std::vector<Monomial> nearly_fixed = {};

  /// f(t x) = t f(x) times `coefficient`: of an op with one input.
  [[nodiscard]] static Homogeneity linear(double coefficient) {
    return {.output = {coefficient, {1}}};
  }

  /// The product of the first two of `inputs` inputs times `coefficient`; the third, if there is
  /// one, is added to the product before that.
  [[nodiscard]] static Homogeneity product(double coefficient, std::size_t inputs) {
    Homogeneity result{.output = {coefficient, {1, 1}}};
    if (inputs == 3) {
      result.output.powers.push_back(0);
      result.fixed.push_back({1, {1, 1, -1}});
    }
    return result;
  }

  /// The sum of two inputs, each with its weight.
  [[nodiscard]] static Homogeneity sum(double first_weight, double second_weight) {
    return {.output = {second_weight, {0, 1}}, .fixed = {{first_weight / second_weight, {1, -1}}}};
  }

  /// x over its scale, times a gain, plus a shift, of which the last or the last two may be left
  /// out: no scale of x passes through, but for what it is against √ε.
  [[nodiscard]] static Homogeneity normalisation(double coefficient, std::size_t inputs,
                                                 double epsilon) {
    Homogeneity result{.output = {coefficient, std::vector<int>(inputs)}};
    if (inputs > 1) result.output.powers[1] = 1;
    if (inputs > 2) result.fixed.push_back({1, {0, 1, -1}});
    if (epsilon > 0) {
      result.nearly_fixed.push_back({1 / std::sqrt(epsilon), std::vector<int>(inputs)});
      result.nearly_fixed.back().powers[0] = 1;
    }
    return result;
  }

  /// A function of one input that answers to no factor m on it: coefficient · f(m x).
  [[nodiscard]] static Homogeneity function(double coefficient, double inner) {
    return {.output = {coefficient, {0}}, .fixed = {{inner, {1}}}};
  }

  /// Nothing is known of f but that y = coefficient · f(x…).
  [[nodiscard]] static Homogeneity unknown(double coefficient, std::size_t inputs) {
    Homogeneity result{.output = {coefficient, std::vector<int>(inputs)}};
    for (std::size_t i = 0; i < inputs; ++i) {
      Monomial& input = result.fixed.emplace_back(Monomial{1, std::vector<int>(inputs)});
      input.powers[i] = 1;
    }
    return result;
  }
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
