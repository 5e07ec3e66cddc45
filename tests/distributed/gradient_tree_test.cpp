// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/gradient_tree.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "distributed/gradients.hpp"
#include "support/errors.hpp"
#include "unit_scaling/core/random.hpp"

namespace gradient_tree_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::GradientTree;
using distributed::PairwiseSum;

/// The order of a sum, written with brackets.
std::string order_of(std::size_t begin, std::size_t end) {
  PairwiseSum<std::string> sum;
  const auto join = [](std::string& left, const std::string& right) {
    left = "(" + left + right + ")";
  };
  for (std::size_t k = begin; k < end; ++k)
    sum.add(std::string(1, static_cast<char>('a' + k)), join);
  EXPECT_EQ(sum.count(), end - begin);
  return sum.take(join);
}

TEST(PairwiseSum, AddsUpInTheOrderOfOneTree) {
  EXPECT_EQ(order_of(0, 1), "a");
  EXPECT_EQ(order_of(0, 2), "(ab)");
  EXPECT_EQ(order_of(0, 3), "((ab)c)");
  EXPECT_EQ(order_of(0, 4), "((ab)(cd))");
  EXPECT_EQ(order_of(0, 7), "(((ab)(cd))((ef)g))");
  EXPECT_EQ(order_of(0, 12), "((((ab)(cd))((ef)(gh)))((ij)(kl)))");
}

TEST(PairwiseSum, RunsOfAPowerOfTwoAreNodesOfTheTree) {
  for (std::size_t ranks = 1; ranks <= 6; ++ranks) {
    for (const std::size_t each : {1U, 2U, 4U}) {
      PairwiseSum<std::string> sum;
      const auto join = [](std::string& left, const std::string& right) {
        left = "(" + left + right + ")";
      };
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        sum.add(order_of(rank * each, (rank + 1) * each), join);
      }
      EXPECT_EQ(sum.take(join), order_of(0, ranks * each)) << ranks << " x " << each;
    }
  }
}

TEST(GradientTree, AddsUpToTheBitAsTheDefinitionHasIt) {
  GivenParameters given({3, 0, 37});
  const auto pointers = given.pointers();
  GradientTree tree(pointers);
  for (int round = 0; round < 2; ++round) {  // the second one with memory of the first
    tree.clear();
    EXPECT_TRUE(tree.gradient(*pointers[0]).empty());
    std::vector<std::vector<float>> batches;
    for (std::size_t batch = 0; batch < 9; ++batch) {
      std::vector<float> numbers(40);
      const Random random(10 * static_cast<std::uint64_t>(round) + batch);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        numbers[i] = static_cast<float>(random.normal(i));
      }
      batches.push_back(numbers);
      tree.add(given.gradients(numbers));
      ASSERT_EQ(tree.count(), batch + 1);
      std::vector<std::uint32_t> expected;
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        expected.push_back(std::bit_cast<std::uint32_t>(
            tree_sum(0, batch + 1, [&](std::size_t term) { return batches[term][i]; })));
      }
      // After each batch, and twice: to look changes nothing.
      EXPECT_EQ(given.bits(tree), expected) << batch;
      EXPECT_EQ(given.bits(tree), expected) << batch;
    }
  }
}

TEST(GradientTree, ABatchWithoutAGradientAddsNothing) {
  GivenParameters given({1, 1});
  const auto pointers = given.pointers();
  GradientTree tree(pointers);
  GivenGradients first;
  first.arrays[pointers[0]] = Array<float>({1}, {2});
  for (int k = 0; k < 5; ++k) {
    GivenGradients some;
    if (k % 2 == 0) some.arrays[pointers[0]] = Array<float>({1}, {2});
    tree.add(some);
    EXPECT_EQ(tree.gradient(*pointers[0]).data()[0], 2.0F * static_cast<float>(k / 2 + 1));
    EXPECT_TRUE(tree.gradient(*pointers[1]).empty());
  }
}

TEST(GradientTree, RefusesAnotherShapeAndKeepsWhatItHas) {
  GivenParameters given({2});
  const auto pointers = given.pointers();
  GradientTree tree(pointers);
  tree.add(given.gradients(std::vector<float>{1, 2}));
  GivenGradients wrong;
  wrong.arrays[pointers[0]] = Array<float>({3}, {1, 2, 3});
  expect_shape_error([&] { tree.add(wrong); }, {"GradientTree", "'p0'", "(2)", "(3)"});
  EXPECT_EQ(tree.count(), 1U);
  EXPECT_EQ(tree.gradient(*pointers[0]), Array<float>({2}, {1, 2}));
  expect_domain_error([&] { GradientTree({pointers[0], pointers[0]}); }, {"GradientTree"});
}

TEST(GradientTree, AGradientThatIsAddedBeforeItsBatchHasTheBitsThatItHasAfterIt) {
  GivenParameters given({3, 0, 37, 2});
  GivenParameters others({3});
  const auto pointers = given.pointers();
  GradientTree tree(pointers);
  GradientTree whole(pointers);
  for (int round = 0; round < 2; ++round) {  // the second one with memory of the first
    tree.clear();
    whole.clear();
    for (std::size_t batch = 0; batch < 9; ++batch) {
      std::vector<float> numbers(42);
      const Random random(10 * static_cast<std::uint64_t>(round) + batch);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        numbers[i] = static_cast<float>(random.normal(i));
      }
      GivenGradients gradients = given.gradients(numbers);
      if (batch % 3 == 1) gradients.arrays.erase(pointers[3]);
      whole.add(gradients);
      const auto before = tree.gradient(*pointers[0]);
      // What is not added yet has other numbers.
      GivenGradients so_far = given.gradients(std::vector<float>(42, 1000));
      for (const std::size_t k : {2U, 3U, 1U}) {
        so_far.arrays[pointers[k]] = gradients.gradient(*pointers[k]);
        tree.add(so_far, *pointers[k]);
        EXPECT_EQ(tree.count(), batch + 1);
        EXPECT_EQ(tree.gradient(*pointers[k]), whole.gradient(*pointers[k]));
      }
      EXPECT_EQ(tree.gradient(*pointers[0]), before);
      tree.add(so_far, others.parameters[0]);  // passed over
      expect_domain_error([&] { tree.add(so_far, *pointers[2]); }, {"GradientTree", "'p2'"});
      so_far.arrays[pointers[0]] = Array<float>({4}, {1, 2, 3, 4});
      expect_shape_error([&] { tree.add(so_far, *pointers[0]); },
                         {"GradientTree", "'p0'", "(3)", "(4)"});
      so_far.arrays = gradients.arrays;
      tree.add(so_far);
      EXPECT_EQ(tree.count(), batch + 1);
      EXPECT_EQ(given.bits(tree), given.bits(whole));
    }
    // A batch that is not whole is forgotten with the rest.
    tree.add(given.gradients(std::vector<float>(42, 1)), *pointers[2]);
  }
  tree.clear();
  EXPECT_EQ(tree.count(), 0U);
  EXPECT_TRUE(tree.gradient(*pointers[2]).empty());
}

TEST(GradientTree, ABatchIsNotOfTwoRecordings) {
  GivenParameters given({1, 1});
  const auto pointers = given.pointers();
  GradientTree tree(pointers);
  struct OfStep : GivenGradients {
    std::uint64_t number = 0;
    [[nodiscard]] std::uint64_t step() const { return number; }
  };
  // As if backward had thrown after its first gradient was added.
  OfStep gradients{given.gradients(std::vector<float>{1000, 1000})};
  const OfStep other = gradients;
  const auto expect_refusals = [&](const OfStep& next) {
    const std::initializer_list<std::string_view> parts{"GradientTree", "one recording", "clear"};
    expect_domain_error([&] { tree.add(next); }, parts);
    expect_domain_error([&] { tree.add(next, *pointers[0]); }, parts);
  };
  tree.add(gradients, *pointers[1]);
  expect_refusals(other);
  gradients.number = 1;
  expect_refusals(gradients);
  gradients.number = 0;
  tree.add(gradients);  // has the rest
  gradients.number = 1;
  tree.add(gradients, *pointers[1]);
  tree.clear();
  tree.add(other, *pointers[1]);
  tree.add(other);
  EXPECT_EQ(tree.count(), 1U);
}

TEST(GradientTree, HasAStepOfItsOwn) {
  GivenParameters given({1});
  std::optional<GradientTree> tree(given.pointers());
  const GradientTree other(given.pointers());
  std::set<std::uint64_t> steps{tree->step(), other.step()};
  tree->add(given.gradients(std::vector<float>{1}));
  EXPECT_TRUE(steps.contains(tree->step()));
  tree->clear();
  steps.insert(tree->step());
  tree.emplace(given.pointers());
  steps.insert(tree->step());
  EXPECT_EQ(steps.size(), 4U);
}

}  // namespace gradient_tree_test
