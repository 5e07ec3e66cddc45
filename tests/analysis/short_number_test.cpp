// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/short_number.hpp"

#include <gtest/gtest.h>

namespace short_number_test {

using unit_scaling::analysis::percent_text;
using unit_scaling::analysis::short_number;

TEST(ShortNumber, HasSoManyDigits) {
  EXPECT_EQ(short_number(0.044194), "0.04419");
  EXPECT_EQ(short_number(1.0), "1");
  EXPECT_EQ(short_number(0.0123456, 2), "0.012");
}

TEST(PercentText, IsNeverWrittenWithAnExponentWhereItIsAShare) {
  EXPECT_EQ(percent_text(0), "0");
  EXPECT_EQ(percent_text(0.000123), "0.0123 %");
  EXPECT_EQ(percent_text(0.12, 2), "12 %");
  EXPECT_EQ(percent_text(0.994, 2), "99 %");
  EXPECT_EQ(percent_text(0.9951, 2), "99.5 %");
  EXPECT_EQ(percent_text(1, 2), "100 %");
  EXPECT_EQ(percent_text(0.07, 1), "7 %");
  EXPECT_EQ(percent_text(0.1234, 1), "12.3 %");
  EXPECT_EQ(percent_text(1, 1), "100 %");
  EXPECT_EQ(percent_text(1), "100 %");
  EXPECT_EQ(percent_text(0.9996), "100 %");
}

}  // namespace short_number_test
