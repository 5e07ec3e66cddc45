// SPDX-License-Identifier: MIT
#include "unit_scaling/train/text_parts.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace text_parts_test {

using unit_scaling::train::detail::TextParts;
using Texts = std::vector<std::string>;

Texts parts_of(std::string_view text) {
  Texts parts;
  for (TextParts rest(text); !rest.empty();) parts.emplace_back(rest.next());
  return parts;
}

TEST(TextParts, AreLinesWithTheirEnds) {
  EXPECT_EQ(parts_of("one\n\n two\r\nthree"), (Texts{"one\n", "\n", " two\r\n", "three"}));
  EXPECT_EQ(parts_of(""), Texts{});
  const std::string longest = std::string(4095, 'a') + "\n";
  EXPECT_EQ(parts_of(longest + "b"), (Texts{longest, "b"}));
}

TEST(TextParts, EndBeforeTheLastWordWhereALineIsTooLong) {
  const std::string word(1000, 'a');
  const std::string four = word + " " + word + " " + word + " " + word;
  EXPECT_EQ(parts_of(four + "  " + word + "\n"), (Texts{four, "  " + word + "\n"}));
  // A word that ends where the part must.
  const std::string full(4096, 'a');
  EXPECT_EQ(parts_of(full + " b"), (Texts{full, " b"}));
}

TEST(TextParts, EndBetweenCharactersWhereALineHasNoWords) {
  for (std::size_t before = 0; before < 4; ++before) {
    std::string text(before, 'a');
    for (int i = 0; i < 3000; ++i) text += "\xF0\x9F\x9A\x80";  // of four bytes
    const Texts parts = parts_of(text);
    ASSERT_EQ(parts.size(), 3U);
    EXPECT_EQ(parts[0].size(), before == 0 ? 4096 : 4092 + before);
    EXPECT_EQ(parts[1].front(), '\xF0');
    EXPECT_EQ(parts[0] + parts[1] + parts[2], text);
  }
  // What is no UTF-8 is cut anywhere.
  EXPECT_EQ(parts_of(std::string(5000, '\x80')),
            (Texts{std::string(4096, '\x80'), std::string(904, '\x80')}));
}

TEST(TextParts, TellWhichSubwordsTheyMayCut) {
  for (const std::string_view whole : {"", " ", "the", " the", "  the", "end\n", "\n", "   "}) {
    EXPECT_FALSE(TextParts::may_cut(whole)) << whole;
  }
  for (const std::string_view cut : {"\n\n", "a\nb", "the ", "of the", "\n "}) {
    EXPECT_TRUE(TextParts::may_cut(cut)) << cut;
  }
}

}  // namespace text_parts_test
