// SPDX-License-Identifier: MIT
// Writes and checks the tables of docs/number_formats.md, from the descriptions of the formats.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <tuple>

#include "unit_scaling/formats/catalogue.hpp"

namespace number_formats_document_test {

using namespace unit_scaling;

using Catalogue = std::tuple<float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz,
                             float8_e4m3, float8_e3m4, float8_e4m3b11fnuz, float8_e8m0fnu,
                             float6_e2m3fn, float6_e3m2fn, float4_e2m1fn, float16, bfloat16>;

std::string code(std::uint32_t value, int bits) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%0*x", (bits + 3) / 4, value);
  return text;
}

/// 448, or 2^-9, or 1.75 · 2^15 where the decimal would be long.
std::string number(double value) {
  char text[64];
  const int exponent = std::ilogb(value);
  const double significand = std::ldexp(value, -exponent);
  if (value >= 0.01 && value < 1e6) {
    std::snprintf(text, sizeof(text), "%.10g", value);
  } else if (significand == 1) {
    std::snprintf(text, sizeof(text), "2^%d", exponent);
  } else {
    std::snprintf(text, sizeof(text), "%.10g · 2^%d", significand, exponent);
  }
  return text;
}

std::string nan_codes(const FormatSpec& spec) {
  const std::string quiet = code(spec.nan_code(), spec.bits());
  const std::uint32_t last = spec.magnitude_mask();
  switch (spec.specials) {
    case Specials::ieee: {
      const std::uint32_t first = spec.infinity_code() + 1;
      return (first == last ? "" : code(first, spec.bits()) + " to ") + code(last, spec.bits()) +
             ", ±";
    }
    case Specials::fn:
      return quiet + ", ±";
    case Specials::fnuz:
    case Specials::fnu:
      return quiet;
    case Specials::finite:
      break;
  }
  return "none";
}

template <class T> std::string row() {
  constexpr FormatSpec spec = T::format;
  std::ostringstream line;
  line << "| `" << storage_name<T> << "` | " << spec.bits() << " | " << (spec.has_sign() ? 1 : 0)
       << ", " << spec.exponent_bits << ", " << spec.mantissa_bits << " | " << spec.bias << " | "
       << number(spec.max_finite()) << " (" << code(spec.max_finite_code(), spec.bits()) << ") | "
       << number(spec.min_normal()) << " | "
       << (spec.has_zero() ? number(spec.min_subnormal()) : "none") << " | "
       << (spec.has_infinity() ? code(spec.infinity_code(), spec.bits()) + ", ±" : "none") << " | "
       << nan_codes(spec) << " | "
       << (!spec.has_zero()           ? "none"
           : spec.has_negative_zero() ? "±0"
                                      : "+0")
       << " |\n";
  return line.str();
}

std::string tables() {
  std::string text =
      "| format | bits | sign, exponent, fraction | bias | largest (code) | smallest normal | "
      "smallest subnormal | infinity | NaN | zero |\n"
      "|---|---|---|---|---|---|---|---|---|---|\n";
  std::apply([&](auto... each) { ((text += row<decltype(each)>()), ...); }, Catalogue{});
  return text;
}

TEST(NumberFormatsDocument, HasTheTablesThatFollowFromTheCode) {
  const std::string path = std::string(UNIT_SCALING_SOURCE_DIR) + "/docs/number_formats.md";
  std::string document;
  {
    std::ifstream file(path);
    ASSERT_TRUE(file) << path;
    document.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  const std::string begin = "<!-- begin of the tables -->\n";
  const std::string end = "<!-- end of the tables -->\n";
  const std::size_t from = document.find(begin) + begin.size();
  const std::size_t to = document.find(end);
  ASSERT_NE(document.find(begin), std::string::npos);
  ASSERT_NE(to, std::string::npos);
  const std::string expected = "\n" + tables() + "\n";
  if (std::getenv("UNIT_SCALING_WRITE_DOCUMENTS") != nullptr) {
    document.replace(from, to - from, expected);
    std::ofstream(path + ".new") << document;
    ASSERT_EQ(std::rename((path + ".new").c_str(), path.c_str()), 0);
    return;
  }
  EXPECT_EQ(document.substr(from, to - from), expected);
}

}  // namespace number_formats_document_test
