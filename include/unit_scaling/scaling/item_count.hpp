// SPDX-License-Identifier: MIT
/// @file
/// Layer scaling: how a backward factor depends on the number of items in a batch.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <span>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/constraint.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// The value that a constraint makes of a forward factor and `inputs` backward factors, each of
/// which is c · items^(−power): in general no power of the items.
struct SharedFactor {
  /// c and power of the forward factor, then of each backward factor.
  struct Power {
    double of_one = 1;
    double power = 0;

    friend constexpr bool operator==(const Power&, const Power&) = default;
  };

  Constraint constraint = {};  ///< the one that makes the value; none if there is no such factor
  std::size_t inputs = 0;
  std::array<Power, 3> factors = {};
  /// The forward factor counts: what the model computes depends on the items unless this does not.
  bool is_of_output = false;

  [[nodiscard]] double operator()(double items) const {
    std::array<double, 3> values{};
    for (std::size_t i = 0; i <= inputs; ++i) {
      values[i] = factors[i].of_one * std::pow(items, -factors[i].power);
    }
    return constraint.combine(values[0], std::span<const double>(values).subspan(1, inputs));
  }

  friend constexpr bool operator==(const SharedFactor&, const SharedFactor&) = default;
};

/// Says that a backward factor is β = c · (items / entries)^(−power) · shared(items), where c is
/// the same for every batch. A power of 0 without a shared factor, the default, says that β is the
/// same for every batch.
///
/// `items` counts what the gradient adds up over the batch: rows, ids or sequences. `entries`
/// counts what the sums are shared out among, if that grows with the batch too; 0 stands for a
/// constant.
///
/// | factor | items | entries | power |
/// | --- | --- | --- | --- |
/// | of a weight under unit scaling, rows^−½ | rows | 0 | ½ |
/// | of rows picked from activations, (picked / rows)^−½ | picked | rows | ½ |
/// | of a mean loss of a plain model, 1 / items | items | 0 | 1 |
/// | of a sum, under the constraint c: c(items^−½, 1) | items | 0 | 0, and shared |
struct ItemCount {
  double items = 0;
  double power = 0;
  double entries = 0;
  SharedFactor shared = {};

  [[nodiscard]] constexpr bool depends_on_batch() const {
    return power != 0 || shared.constraint.combine != nullptr;
  }

  /// Whether the factors differ in nothing but the numbers of items.
  [[nodiscard]] friend constexpr bool is_alike(const ItemCount& a, const ItemCount& b) {
    return a.power == b.power && a.shared == b.shared;
  }

  friend constexpr bool operator==(const ItemCount&, const ItemCount&) = default;
};

/// The count of a factor items^(−power).
[[nodiscard]] constexpr ItemCount item_count(std::size_t items, double power = 0.5) {
  return {.items = static_cast<double>(items), .power = power};
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
