// SPDX-License-Identifier: MIT
#include "unit_scaling/core/shape.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <stdexcept>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"

namespace shape_test {

using namespace unit_scaling;
using unit_scaling_test::expect_domain_error;
using unit_scaling_test::expect_shape_error;

static_assert(Shape{2, 3, 4}.size() == 24);
static_assert(Shape{2, 3, 4}.rows() == 6);
static_assert(Shape{2, 3, 4}.columns() == 4);

TEST(Shape, ScalarHasRankZeroAndOneElement) {
  const Shape scalar;
  EXPECT_EQ(scalar.rank(), 0U);
  EXPECT_EQ(scalar.size(), 1U);
  EXPECT_EQ(scalar.rows(), 1U);
  EXPECT_EQ(scalar.columns(), 1U);
  EXPECT_EQ(to_string(scalar), "()");
}

TEST(Shape, SizeIsTheProductOfTheExtents) {
  EXPECT_EQ((Shape{7}).size(), 7U);
  EXPECT_EQ((Shape{7}).rows(), 1U);
  EXPECT_EQ((Shape{2, 3, 4, 5, 6, 7}).size(), 5040U);
  EXPECT_EQ((Shape{2, 3, 4, 5, 6, 7}).rows(), 720U);
  EXPECT_EQ((Shape{2, 0, 4}).size(), 0U);
  EXPECT_EQ((Shape{2, 0, 4}).rows(), 0U);
  EXPECT_EQ((Shape{2, 0, 4}).columns(), 4U);
  EXPECT_EQ((Shape{3, 0}).rows(), 3U);
}

TEST(Shape, ExtentsAreIndexedAndIterated) {
  const Shape shape{2, 5, 7};
  EXPECT_EQ(shape[0], 2U);
  EXPECT_EQ(shape[2], 7U);
  EXPECT_EQ(std::vector<std::size_t>(shape.begin(), shape.end()),
            (std::vector<std::size_t>{2, 5, 7}));
  EXPECT_EQ(to_string(shape), "(2, 5, 7)");
  EXPECT_EQ(Shape(std::span<const std::size_t>(shape.begin(), shape.end())), shape);
}

TEST(Shape, SevenExtentsAreTooMany) {
  EXPECT_THROW((Shape{1, 2, 3, 4, 5, 6, 7}), std::invalid_argument);
  EXPECT_THROW((void)(Shape{1, 2, 3, 4, 5, 6}).append(7), std::invalid_argument);
}

TEST(Shape, EqualityComparesRankAndExtents) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{3, 2}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{2, 3, 1}));
  EXPECT_FALSE(Shape{} == Shape{1});
}

TEST(Shape, LastExtentIsReplacedOrAppended) {
  EXPECT_EQ((Shape{2, 3}).with_columns(5), (Shape{2, 5}));
  EXPECT_EQ(Shape{}.with_columns(5), Shape{5});
  EXPECT_EQ((Shape{2, 3}).append(5), (Shape{2, 3, 5}));
  EXPECT_EQ(Shape{}.append(5), Shape{5});
}

TEST(Check, ErrorsNameTheOperationAndTheShapes) {
  expect_shape_error(
      [] {
        require_same_shape("add", "two arrays", {2, 3}, {3});
      },
      {"add: expected two arrays of one shape, got (2, 3) and (3)"});
  EXPECT_NO_THROW(require_same_shape("add", "two arrays", {2, 3}, {2, 3}));
  expect_domain_error([] { require(false, "dropout", "no probability"); },
                      {"dropout: no probability"});
  EXPECT_NO_THROW(require(true, "dropout", "no probability"));
}

TEST(Shape, RefusesMoreElementsThanCanBeCounted) {
  constexpr std::size_t big = std::size_t{1} << 33;
  EXPECT_THROW((Shape{big, big}), std::invalid_argument);
  EXPECT_THROW((Shape{big, big / 4, 2}), std::invalid_argument);
  EXPECT_THROW((Shape{0, big, big}), std::invalid_argument);
  EXPECT_THROW((void)(Shape{big}.append(big)), std::invalid_argument);
  EXPECT_THROW((void)(Shape{big, 1}.with_columns(big)), std::invalid_argument);
  EXPECT_THROW((unit_scaling::Array<float>(Shape{std::size_t{1} << 62})), std::invalid_argument);
}

}  // namespace shape_test
