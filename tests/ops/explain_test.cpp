// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/explain.hpp"

#include <gtest/gtest.h>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/heads.hpp"
#include "unit_scaling/ops/linear.hpp"

namespace explain_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(Explain, ShowsIdealFactorsTheConstraintAndTheFactorsUsed) {
  // 1/√64, 1/√256, 1/√32, and (64 · 256)^-¼.
  EXPECT_EQ(ops::explain(ops::Linear{}, Shape{32, 64}, Shape{256, 64}),
            "linear of (32, 64), (256, 64) under rule paper, constraint gmean\n"
            "                                ideal         used\n"
            "  forward                       0.125    0.0883883  constrained\n"
            "  gradient of input 1          0.0625    0.0883883  constrained\n"
            "  gradient of input 2        0.176777     0.176777\n");
}

TEST(Explain, TakesIdsAsArraysAndOpsWithoutRules) {
  EXPECT_EQ(
      ops::explain(ops::CrossEntropy{.scaling = scaling::none}, Shape{4, 5}, id_array({4}, 5, 1)),
      "cross_entropy of (4, 5), (4) under rule none, constraint none\n"
      "                                ideal         used\n"
      "  forward                        0.25         0.25\n"
      "  gradient of input 1            0.25         0.25\n");
  EXPECT_EQ(ops::explain(ops::MergeHeads{}, Shape{2, 3, 4}),
            "merge_heads of (2, 3, 4)\n"
            "                                ideal         used\n"
            "  forward                           1            1\n"
            "  gradient of input 1               1            1\n");
}

TEST(Explain, RefusesShapesThatDoNotFit) {
  expect_shape_error(
      [] {
        (void)ops::explain(ops::Linear{}, Shape{32, 64}, Shape{256, 65});
      },
      {"linear", "(32, 64)", "(256, 65)"});
}

}  // namespace explain_test
