// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. The formats under test, each with its layout written down by hand.
#pragma once

#include <gtest/gtest.h>

#include "format_oracle.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {

/// A format under test: the type and its layout.
struct E4m3fn {
  using type = unit_scaling::float8_e4m3fn;
  static Layout layout() { return {"float8_e4m3fn", 4, 3, 7, UpperEnd::one_nan}; }
};
struct E5m2 {
  using type = unit_scaling::float8_e5m2;
  static Layout layout() { return {"float8_e5m2", 5, 2, 15, UpperEnd::infinity_and_nan}; }
};
struct Float16 {
  using type = unit_scaling::float16;
  static Layout layout() { return {"float16", 5, 10, 15, UpperEnd::infinity_and_nan}; }
};
struct Bfloat16 {
  using type = unit_scaling::bfloat16;
  static Layout layout() { return {"bfloat16", 8, 7, 127, UpperEnd::infinity_and_nan}; }
};
struct E4m3 {
  using type = unit_scaling::float8_e4m3;
  static Layout layout() { return {"float8_e4m3", 4, 3, 7, UpperEnd::infinity_and_nan}; }
};
struct E3m4 {
  using type = unit_scaling::float8_e3m4;
  static Layout layout() { return {"float8_e3m4", 3, 4, 3, UpperEnd::infinity_and_nan}; }
};
struct E4m3fnuz {
  using type = unit_scaling::float8_e4m3fnuz;
  static Layout layout() { return {"float8_e4m3fnuz", 4, 3, 8, UpperEnd::nan_at_negative_zero}; }
};
struct E5m2fnuz {
  using type = unit_scaling::float8_e5m2fnuz;
  static Layout layout() { return {"float8_e5m2fnuz", 5, 2, 16, UpperEnd::nan_at_negative_zero}; }
};
struct E4m3b11fnuz {
  using type = unit_scaling::float8_e4m3b11fnuz;
  static Layout layout() {
    return {"float8_e4m3b11fnuz", 4, 3, 11, UpperEnd::nan_at_negative_zero};
  }
};
struct E2m3fn {
  using type = unit_scaling::float6_e2m3fn;
  static Layout layout() { return {"float6_e2m3fn", 2, 3, 1, UpperEnd::finite}; }
};
struct E3m2fn {
  using type = unit_scaling::float6_e3m2fn;
  static Layout layout() { return {"float6_e3m2fn", 3, 2, 3, UpperEnd::finite}; }
};
struct E2m1fn {
  using type = unit_scaling::float4_e2m1fn;
  static Layout layout() { return {"float4_e2m1fn", 2, 1, 1, UpperEnd::finite}; }
};

/// The format of powers of two, of which there is no oracle.
struct E8m0fnu {
  using type = unit_scaling::float8_e8m0fnu;
};

using AllFormats = ::testing::Types<E4m3fn, E5m2, Float16, Bfloat16, E4m3, E3m4, E4m3fnuz, E5m2fnuz,
                                    E4m3b11fnuz, E2m3fn, E3m2fn, E2m1fn>;

/// Names the typed tests after the formats.
struct FormatNames {
  template <class Case> static std::string GetName(int /*index*/) { return Case::layout().name; }
};

}  // namespace unit_scaling_test
