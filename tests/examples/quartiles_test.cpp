// SPDX-License-Identifier: MIT
// Quartiles, against numpy.quantile(values, [0.25, 0.5, 0.75]).
#include "bert_mlp/quartiles.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <utility>
#include <vector>

namespace bert_mlp_test {

TEST(Quartiles, AreThoseOfNumPy) {
  const std::vector<std::pair<std::vector<double>, std::vector<double>>> cases{
      {{3}, {3, 3, 3}},
      {{2, 1}, {1.25, 1.5, 1.75}},
      {{8, 1, 2}, {1.5, 2, 5}},
      {{4, 1, 16, 8}, {3.25, 6, 10}},
      {{5, 1, 4, 2, 3}, {2, 3, 4}},
      {{7, 7, 7, 0, 7, 7, 1000}, {7, 7, 7}}};
  for (const auto& [values, expected] : cases) {
    const auto [lower, median, upper] = bert_mlp::quartiles(values);
    EXPECT_EQ((std::vector{lower, median, upper}), expected) << testing::PrintToString(values);
  }
}

TEST(Quartiles, AreRefusedOfNoValues) {
  EXPECT_THROW(static_cast<void>(bert_mlp::quartiles({})), std::invalid_argument);
}

}  // namespace bert_mlp_test
