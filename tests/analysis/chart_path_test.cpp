// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/chart_path.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "support/svg_path.hpp"

namespace chart_path_test {

using unit_scaling::analysis::detail::SvgPath;

TEST(SvgPath, SaysWhereItGoesInFewCharacters) {
  SvgPath path;
  EXPECT_TRUE(path.empty());
  path.move_to(10, 0.5);
  path.line_to(10.5, 0);
  path.line_to(12, 3.25);
  path.horizontal_to(10);
  path.vertical_to(3.29);  // stands there already
  path.horizontal_to(8);
  path.vertical_to(0);
  path.horizontal_to(10);
  path.horizontal_to(8);  // back is no part of the same piece
  path.line_to(8, 0.1);
  EXPECT_EQ(path.text(), "M10 .5l.5-.5 1.5 3.3h-4v-3.3h2h-2l0 .1");
}

TEST(SvgPath, RoundingDoesNotAddUp) {
  SvgPath path;
  std::vector<std::pair<double, double>> points;
  for (int i = 0; i < 1000; ++i) points.emplace_back(i / 3.0, 200 + 100 * std::sin(i / 7.0));
  path.move_to(points[0].first, points[0].second);
  for (std::size_t i = 1; i < points.size(); ++i) path.line_to(points[i].first, points[i].second);
  const auto drawn = unit_scaling_test::path_commands(path.text());
  ASSERT_EQ(drawn.size(), points.size());
  for (std::size_t i = 0; i < points.size(); ++i) {
    EXPECT_NEAR(drawn[i].x, points[i].first, 0.0501) << i;
    EXPECT_NEAR(drawn[i].y, points[i].second, 0.0501) << i;
  }
}

}  // namespace chart_path_test
