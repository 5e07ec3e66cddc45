// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/embedding.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace embedding_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

using Ids = Array<std::int32_t>;

TEST(Embedding, BackwardIsTheScaledGradient) {
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{9}, Shape{2, 7}}) {
    // More ids than entries, so that some entries are picked twice.
    expect_scaled_gradients_under_all_rules(ops::Embedding{}, id_array(shape, 5, 1),
                                            normal_array<double>({5, 3}, 2));
  }
}

// The paper's claim of unit scale, to the ±0.1 of its own tests. An entry is picked c times, with c
// near Poisson of mean ids / entries, and the mean square of its gradient is c: the relative
// standard error of the rms is at most (2 ids)^-½ + (2 entries · size)^-½ < 0.02.
TEST(Embedding, OutputAndGradientHaveUnitScaleForUniformIds) {
  struct Size {
    std::size_t ids;
    std::uint32_t entries;
    std::size_t size;
  };
  for (const auto [ids, entries, size] :
       {Size{4096, 500, 64}, Size{3001, 3000, 33}, Size{8192, 65, 256}}) {
    SCOPED_TRACE(testing::Message() << ids << " of " << entries);
    const auto run = run_op(precision::fp32{}, ops::Embedding{}, id_array({ids}, entries, 3),
                            normal_array<float>({entries, size}, 4));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
  }
}

TEST(Embedding, FactorsAreOneAndTheRootOfEntriesPerId) {
  const Ids ids(Shape{4, 4});
  const Array<float> table(Shape{64, 7});
  for (const Scaling& scaling : {scaling::paper, scaling::umup}) {
    // No constraint binds the table: it is a leaf.
    EXPECT_EQ((ops::Embedding{.scaling = scaling}.scales(ids, table)),
              (Scales<1>{.forward = 1, .backward = {2}}));
  }
  EXPECT_EQ((ops::Embedding{.scaling = scaling::none}.scales(ids, table)), Scales<1>{});
}

TEST(Embedding, PicksRowsInTheOrderOfTheIds) {
  const Ids ids(Shape{2, 2}, {2, 0, 0, 1});
  const Array<float> table(Shape{3, 2}, {0, 1, 10, 11, 20, 21});
  EXPECT_EQ(ops::embedding(ids, table),
            Array<float>(Shape({2, 2, 2}), {20, 21, 0, 1, 0, 1, 10, 11}));
}

TEST(Embedding, EntriesThatAreNotPickedReceiveNoGradient) {
  const Ids ids(Shape{3}, {2, 0, 2});
  const auto run = run_op(precision::fp32{}, ops::Embedding{.scaling = scaling::none}, ids,
                          normal_array<float>({4, 5}, 5));
  const auto& dtable = std::get<0>(run.gradients);
  for (std::size_t j = 0; j < 5; ++j) {
    EXPECT_EQ(dtable.row(0)[j], run.dy.row(1)[j]);
    EXPECT_EQ(dtable.row(1)[j], 0);
    EXPECT_EQ(dtable.row(2)[j], run.dy.row(0)[j] + run.dy.row(2)[j]);
    EXPECT_EQ(dtable.row(3)[j], 0);
  }
}

TEST(Embedding, RejectsIdsOutsideTheTable) {
  const auto table = normal_array<float>({4, 5}, 6);
  expect_domain_error(
      [&] {
        (void)ops::embedding(Ids(Shape{2}, {0, 4}), table);
      },
      {"embedding", "[0, 4)", "got 4"});
  expect_domain_error(
      [&] {
        (void)ops::embedding(Ids(Shape{2}, {-1, 0}), table);
      },
      {"embedding", "[0, 4)", "got -1"});
  expect_domain_error(
      [&] {
        (void)ops::embedding(Ids(Shape{1}, {std::numeric_limits<std::int32_t>::min()}), table);
      },
      {"embedding", "-2147483648"});
  expect_domain_error(
      [&] {
        (void)ops::embedding(Ids(Shape{1}, {0}), Array<float>(Shape{0, 5}));
      },
      {"embedding", "[0, 0)"});
}

TEST(Embedding, RejectsShapesThatDoNotFit) {
  const auto ids = id_array({6}, 4, 7);
  expect_shape_error([&] { (void)ops::embedding(ids, normal_array<float>({4}, 8)); },
                     {"embedding", "(6)", "(4)"});
  const auto table = normal_array<float>({4, 5}, 9);
  const ops::Embedding op;
  const auto forward = op.forward(precision::fp32{}, op.scales(ids, table), ids, table);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(ids, table), forward.saved,
                          normal_array<float>({5, 6}, 10));
      },
      {"embedding", "(5, 6)", "(6, 5)"});
}

TEST(Embedding, TakesEmptyArrays) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{17}}) {
    for (const std::size_t size : {0, 1, 17}) {
      const auto table = normal_array<float16>({4, size}, 11);
      const auto ids = id_array(shape, 4, 12);
      EXPECT_EQ(ops::embedding(ids, table).shape(), shape.append(size));
      expect_gradients_have_argument_shapes(precision::fp8{}, ops::Embedding{}, ids, table);
    }
  }
  // No id is needed from an empty table.
  EXPECT_EQ(ops::embedding(Ids(Shape{0}), Array<float>(Shape{0, 3})).shape(), (Shape{0, 3}));
}

TEST(Embedding, NanAndInfinityAreCopied) {
  const Array<float16> table(Shape{2, 2}, {float16(HUGE_VALF), float16(std::nanf("")),
                                           float16(1.0F), float16(-HUGE_VALF)});
  const auto y = ops::embedding(Ids(Shape{2}, {1, 0}), table);
  EXPECT_EQ(static_cast<float>(y.data()[1]), -HUGE_VALF);
  EXPECT_EQ(static_cast<float>(y.data()[2]), HUGE_VALF);
  EXPECT_TRUE(isnan(y.data()[3]));
}

TEST(Embedding, TheRowOfThePaddingLearnsNothing) {
  const Array<std::int32_t> ids(Shape{4}, {2, 0, 2, 1});
  const auto table = normal_array<float>({3, 5}, 1);
  const auto run = run_op(precision::fp32{}, ops::Embedding{.padding_idx = 2}, ids, table);
  const auto without = run_op(precision::fp32{}, ops::Embedding{}, ids, table);
  EXPECT_TRUE(same_bits(run.y, without.y));
  for (std::size_t j = 0; j < 5; ++j) {
    EXPECT_EQ(std::get<0>(run.gradients).row(2)[j], 0);
    for (const std::size_t row : {0U, 1U}) {
      EXPECT_EQ(std::get<0>(run.gradients).row(row)[j], std::get<0>(without.gradients).row(row)[j]);
    }
  }
  for (const std::int32_t padding : {-1, 3}) {
    expect_domain_error([&] { (void)ops::embedding(ids, table, {.padding_idx = padding}); },
                        {"embedding", "padding_idx", "[0, 3)"});
  }
}

template <class P> class EmbeddingIn : public testing::Test {};
TYPED_TEST_SUITE(EmbeddingIn, StoragePrecisions, PrecisionNames);

// A sum of n terms one after another is within n units of Σ|dy|, and the factor adds two.
TYPED_TEST(EmbeddingIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  constexpr std::size_t count = 111, entries = 13, size = 37;
  const auto ids = id_array({count}, entries, 13);
  const auto table = normal_array<float>({entries, size}, 14);
  const auto run = run_op(TypeParam{}, ops::Embedding{}, ids, table);
  static_assert(std::is_same_v<decltype(run.y), Array<T>>);
  std::vector<Reference> dtable(entries * size, Reference{0, 0});
  for (std::size_t i = 0; i < count; ++i) {
    const auto id = static_cast<std::size_t>(ids.data()[i]);
    for (std::size_t j = 0; j < size; ++j) {
      EXPECT_EQ(run.y.row(i)[j], static_cast<T>(table.row(id)[j]));
      const double term = run.scales.backward[0] * static_cast<double>(run.dy.row(i)[j]);
      dtable[id * size + j].value += term;
      dtable[id * size + j].error += (count + 2) * float_unit * std::abs(term);
    }
  }
  expect_rounded(std::get<0>(run.gradients), dtable);
}

TYPED_TEST(EmbeddingIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Embedding{}, id_array({300}, 29, 15),
                                     normal_array<T>({29, 333}, 16));
}

}  // namespace embedding_test
