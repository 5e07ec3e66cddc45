// SPDX-License-Identifier: MIT
/// @file
/// Layer scaling: how a backward factor depends on the number of items in a batch.
#pragma once

#include <cmath>
#include <cstddef>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Says that a backward factor is β = c · (items / entries)^(−power), where c is the same for every
/// batch. A power of 0, the default, says that β is the same for every batch.
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
struct ItemCount {
  double items = 0;
  double power = 0;
  double entries = 0;

  friend constexpr bool operator==(const ItemCount&, const ItemCount&) = default;
};

/// The count of a factor items^(−power).
[[nodiscard]] constexpr ItemCount item_count(std::size_t items, double power = 0.5) {
  return {.items = static_cast<double>(items), .power = power};
}

/// The count of a factor that is a power of the items, which is `of_two` for two items.
[[nodiscard]] inline ItemCount item_count_of_power(double of_two, std::size_t items) {
  return item_count(items, -std::log2(of_two));
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
