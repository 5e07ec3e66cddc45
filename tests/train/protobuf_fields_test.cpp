// SPDX-License-Identifier: MIT
#include "unit_scaling/train/protobuf_fields.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace protobuf_fields_test {

using namespace std::string_view_literals;
using unit_scaling::train::detail::ProtobufFields;

// The first two are the examples of https://protobuf.dev/programming-guides/encoding/.
TEST(ProtobufFields, AreNumbersAndTexts) {
  ProtobufFields number("\x08\x96\x01"sv);
  ASSERT_TRUE(number.next());
  EXPECT_EQ(number.number, 1U);
  EXPECT_EQ(number.value, 150U);
  EXPECT_FALSE(number.next());

  ProtobufFields text("\x12\x07testing"sv);
  ASSERT_TRUE(text.next());
  EXPECT_EQ(text.number, 2U);
  EXPECT_EQ(text.bytes, "testing");
  EXPECT_FALSE(text.next());
}

TEST(ProtobufFields, FollowOneAnother) {
  // 8 bytes, 4 bytes, a text that is empty, a field of number 16 with the largest number.
  ProtobufFields fields(
      "\x09"
      "12345678"
      "\x15"
      "1234"
      "\x1A\x00\x80\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"sv);
  ASSERT_TRUE(fields.next());
  EXPECT_EQ(fields.bytes, "12345678");
  ASSERT_TRUE(fields.next());
  EXPECT_EQ(fields.number, 2U);
  EXPECT_EQ(fields.bytes, "1234");
  ASSERT_TRUE(fields.next());
  EXPECT_EQ(fields.number, 3U);
  EXPECT_EQ(fields.bytes, "");
  ASSERT_TRUE(fields.next());
  EXPECT_EQ(fields.number, 16U);
  EXPECT_EQ(fields.value, UINT64_MAX);
  EXPECT_FALSE(fields.next());
}

TEST(ProtobufFields, EndWhereTheMessageIsCutOrIsNone) {
  for (const std::string_view message :
       {"\x12\x07"
        "test"sv,
        "\x09"
        "1234"sv,
        "\x0B"sv, "\x12\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"sv}) {
    ProtobufFields fields(message);
    EXPECT_FALSE(fields.next());
    EXPECT_FALSE(fields.next());
  }
}

}  // namespace protobuf_fields_test
