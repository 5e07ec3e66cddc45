// SPDX-License-Identifier: MIT
#include "unit_scaling/core/printable.hpp"

#include <gtest/gtest.h>

#include <string>

#include "unit_scaling/core/file_error.hpp"

namespace printable_test {

using unit_scaling::FileError;
using unit_scaling::in_quotes;
using unit_scaling::printable;

TEST(Printable, LeavesPlainTextAsItIs) {
  for (const std::string text : {"", "a", "layers.0.weight", "weight \"µ\" 漢字 🙂 ~"}) {
    EXPECT_EQ(printable(text), text);
  }
}

TEST(Printable, ShowsWhatATerminalWouldObey) {
  EXPECT_EQ(printable("a\nb\rc\td\\e'f"), R"(a\nb\rc\td\\e\'f)");
  EXPECT_EQ(printable("\x1b[31m\x7f\b" + std::string(1, '\0')), R"(\x1b[31m\x7f\x08\x00)");
  // C1 controls, a soft hyphen, a zero-width space, an override of direction, a byte order mark.
  EXPECT_EQ(printable("\xc2\x9b\xc2\xad\xe2\x80\x8b\xe2\x80\xae\xef\xbb\xbf"),
            R"(\xc2\x9b\xc2\xad\xe2\x80\x8b\xe2\x80\xae\xef\xbb\xbf)");
  EXPECT_EQ(printable("\xc2\xa0|\xe2\x80\x90"), "\xc2\xa0|\xe2\x80\x90") << "their neighbours";
}

TEST(Printable, ShowsBytesThatAreNotUtf8) {
  // Alone, cut off, overlong, a surrogate, beyond U+10FFFF.
  EXPECT_EQ(printable("\xff|\xc3|\xc0\xaf|\xed\xa0\x80|\xf4\x90\x80\x80|\xe2\x82"),
            R"(\xff|\xc3|\xc0\xaf|\xed\xa0\x80|\xf4\x90\x80\x80|\xe2\x82)");
}

TEST(Printable, CutsLongTextsBetweenCharacters) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdefg", 6), "abcdef… (7 bytes)");
  EXPECT_EQ(printable("abcdeµg", 6), "abcde… (8 bytes)");
  EXPECT_EQ(printable("abc", 0), "… (3 bytes)");
  EXPECT_EQ(printable(std::string(1'000'000, 'x')), std::string(100, 'x') + "… (1000000 bytes)");
  EXPECT_EQ(printable(std::string(1'000'000, '\x1b')).size(),
            400 + std::string("… (1000000 bytes)").size());
}

TEST(Printable, StandsBetweenQuotationMarksThatItDoesNotEnd) {
  EXPECT_EQ(in_quotes("it's"), R"('it\'s')");
  EXPECT_EQ(in_quotes(""), "''");
}

TEST(FileErrorTest, NamesTheWholePathOnOneLine) {
  EXPECT_STREQ(FileError("a/b\n", "is gone").what(), R"('a/b\n': is gone)");
  const std::string path(300, 'x');
  EXPECT_EQ(FileError(path, "is gone").what(), "'" + path + "': is gone");
}

}  // namespace printable_test
