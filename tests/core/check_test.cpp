// SPDX-License-Identifier: MIT
#include "unit_scaling/core/check.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "unit_scaling/core/shape.hpp"

namespace check_test {

using unit_scaling::DomainError;
using unit_scaling::require;
using unit_scaling::require_attribute;
using unit_scaling::require_shape;
using unit_scaling::Shape;
using unit_scaling::ShapeError;

/// A type of a namespace of its own, whose text is found by it.
struct Colour {};
std::string to_string(Colour /*colour*/) { return "green"; }

template <class Error, class Check> std::string text_of(const Check& check) {
  try {
    check();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Check, JoinsPiecesOfEveryKind) {
  const std::string text = "a text";
  const std::size_t size = 18446744073709551615ULL;
  EXPECT_EQ(text_of<DomainError>([&] {
              require(
                  false, "op", "expected ", text, ", ", size, ", ", std::int32_t{-7}, ", ", 0.1F,
                  ", ", 2.5, ", ", Shape{2, 3}, ", ", Colour{}, ", ",
                  [] { return std::string("made late"); }, " and ", [] { return 4; });
            }),
            "op: expected a text, 18446744073709551615, -7, 0.100000001, 2.5, (2, 3), green, made "
            "late and 4");
}

TEST(Check, MakesNoTextWhereTheConditionHolds) {
  bool is_made = false;
  const auto piece = [&] {
    is_made = true;
    return "text";
  };
  require(true, "op", piece);
  require_shape(true, "op", piece, Shape{1});
  require_attribute(true, "op", piece, piece, 1.0);
  EXPECT_FALSE(is_made);
  EXPECT_THROW(require(false, "op", piece), DomainError);
  EXPECT_TRUE(is_made);
}

TEST(Check, NamesWhatShapesWereExpectedAndGot) {
  const auto fail = [](const auto& expected) {
    return text_of<ShapeError>([&] {
      require_shape(false, "op", expected, Shape{2, 3}, Shape{4});
    });
  };
  EXPECT_EQ(fail("two of a kind"), "op: expected two of a kind, got (2, 3) and (4)");
  EXPECT_EQ(fail([] { return std::string("two of a kind"); }),
            "op: expected two of a kind, got (2, 3) and (4)");
  EXPECT_EQ(text_of<ShapeError>(
                [] { unit_scaling::require_same_shape("op", "x and y", Shape{2}, Shape{3}); }),
            "op: expected x and y of one shape, got (2) and (3)");
}

TEST(Check, RefusesAttributesThatFloatsDoNotHold) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {nan, infinity, -infinity, 1e39, 1e-39, -1e39}) {
    EXPECT_THROW(unit_scaling::require_finite("op", "a", bad), DomainError) << bad;
    EXPECT_THROW(unit_scaling::require_at_least("op", "a", -1, bad), DomainError) << bad;
    EXPECT_THROW(unit_scaling::require_positive("op", "a", bad), DomainError) << bad;
    EXPECT_THROW(unit_scaling::require_multiplier("op", "a", bad), DomainError) << bad;
    EXPECT_THROW(unit_scaling::require_share("op", "a", bad), DomainError) << bad;
  }
  unit_scaling::require_finite("op", "a", -3e38);
  unit_scaling::require_at_least("op", "a", 1, 1);
  unit_scaling::require_positive("op", "a", 1e-37);
  unit_scaling::require_multiplier("op", "a", 1e-18);
  unit_scaling::require_share("op", "a", 0);
  EXPECT_THROW(unit_scaling::require_at_least("op", "a", 1, 0.5), DomainError);
  EXPECT_THROW(unit_scaling::require_not_negative("op", "a", -1e-30), DomainError);
  EXPECT_THROW(unit_scaling::require_positive("op", "a", 0), DomainError);
  EXPECT_THROW(unit_scaling::require_positive("op", "a", 1.2e-38 * 1e-1), DomainError);
  EXPECT_THROW(unit_scaling::require_positive("op", "a", 3e38), DomainError);
  EXPECT_THROW(unit_scaling::require_multiplier("op", "a", 1e-20), DomainError);
  EXPECT_THROW(unit_scaling::require_multiplier("op", "a", 0), DomainError);
  EXPECT_THROW(unit_scaling::require_share("op", "a", 1 - 1e-9), DomainError);
  EXPECT_THROW(unit_scaling::require_size("op", "size", 0), DomainError);
  EXPECT_EQ(text_of<DomainError>([] { unit_scaling::require_at_least("op", "a", 2, 1e-40); }),
            "op: expected a of at least 2 that is finite as a float, got 1e-40");
  EXPECT_EQ(text_of<DomainError>([] { unit_scaling::require_share("op", "p", 1); }),
            "op: expected p in [0, 1) as a float, got 1");
}

}  // namespace check_test
