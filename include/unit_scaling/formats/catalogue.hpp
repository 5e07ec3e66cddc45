// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. The number formats of the library by the names of the field, and the types in
/// which a tensor may be stored.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/minifloat.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// FP8 E4M3 of the OCP 8-bit Floating Point Specification (OFP8), revision 1.0: no infinity.
using float8_e4m3fn = Minifloat<FormatSpec::fn(4, 3)>;
/// FP8 E5M2 of the OCP 8-bit Floating Point Specification (OFP8), revision 1.0.
using float8_e5m2 = Minifloat<FormatSpec::ieee(5, 2)>;
/// FP8 E4M3 of Noune et al. 2022 (arXiv:2206.02915), Graphcore, AMD and Qualcomm: largest 240.
using float8_e4m3fnuz = Minifloat<FormatSpec::fnuz(4, 3)>;
/// FP8 E5M2 of Noune et al. 2022 (arXiv:2206.02915), Graphcore, AMD and Qualcomm: largest 57344.
using float8_e5m2fnuz = Minifloat<FormatSpec::fnuz(5, 2)>;
/// FP8 E4M3 laid out as IEEE 754 prescribes, with infinity: largest 240.
using float8_e4m3 = Minifloat<FormatSpec::ieee(4, 3)>;
/// FP8 E3M4 laid out as IEEE 754 prescribes: largest 15.5.
using float8_e3m4 = Minifloat<FormatSpec::ieee(3, 4)>;
/// FP8 E4M3 with the bias 11, of Google's TPUs: largest 30.
using float8_e4m3b11fnuz = Minifloat<FormatSpec::fnuz(4, 3, 11)>;
/// FP6 E2M3 of the OCP Microscaling Formats (MX) Specification, revision 1.0: finite numbers only.
using float6_e2m3fn = Minifloat<FormatSpec::finite(2, 3)>;
/// FP6 E3M2 of the OCP Microscaling Formats (MX) Specification, revision 1.0: finite numbers only.
using float6_e3m2fn = Minifloat<FormatSpec::finite(3, 2)>;
/// FP4 E2M1 of the OCP Microscaling Formats (MX) Specification, revision 1.0: finite numbers only.
using float4_e2m1fn = Minifloat<FormatSpec::finite(2, 1)>;
/// E8M0 of the OCP Microscaling Formats (MX) Specification, revision 1.0: the powers of two from
/// 2^-127 to 2^127, and NaN. It scales blocks of other numbers.
using float8_e8m0fnu = Minifloat<FormatSpec::fnu(8)>;
/// binary16 of IEEE 754-2019.
using float16 = Minifloat<FormatSpec::ieee(5, 10)>;
/// The upper half of binary32.
using bfloat16 = Minifloat<FormatSpec::ieee(8, 7)>;

/// The E4 in which the unit-scaling paper kept weights and activations: largest 240.
/// @see Blake et al. 2023, arXiv:2303.11257, section 2 (after Noune et al.).
using paper_e4 = float8_e4m3fnuz;
/// The E5 in which the unit-scaling paper kept gradients: largest 57344.
using paper_e5 = float8_e5m2fnuz;

static_assert(float8_e4m3fn::format.max_finite() == 448.0);
static_assert(float8_e4m3fn::format.max_finite_code() == 0x7e);
static_assert(float8_e4m3fn::format.min_normal() == 0x1p-6);
static_assert(float8_e4m3fn::format.min_subnormal() == 0x1p-9);
static_assert(float8_e4m3fn::format.nan_code() == 0x7f);
static_assert(!float8_e4m3fn::format.has_infinity());

static_assert(float8_e5m2::format.max_finite() == 57344.0);
static_assert(float8_e5m2::format.max_finite_code() == 0x7b);
static_assert(float8_e5m2::format.min_normal() == 0x1p-14);
static_assert(float8_e5m2::format.min_subnormal() == 0x1p-16);
static_assert(float8_e5m2::format.infinity_code() == 0x7c);
static_assert(float8_e5m2::format.nan_code() == 0x7e);

static_assert(float16::format.max_finite() == 65504.0);
static_assert(float16::format.min_normal() == 0x1p-14);
static_assert(float16::format.min_subnormal() == 0x1p-24);
static_assert(float16::format.infinity_code() == 0x7c00);
static_assert(float16::format.nan_code() == 0x7e00);

static_assert(bfloat16::format.max_finite() == 0x1.fep127);
static_assert(bfloat16::format.min_normal() == 0x1p-126);
static_assert(bfloat16::format.min_subnormal() == 0x1p-133);
static_assert(bfloat16::format.infinity_code() == 0x7f80);
static_assert(bfloat16::format.nan_code() == 0x7fc0);

static_assert(float8_e4m3fnuz::format.max_finite() == 240.0);
static_assert(float8_e4m3fnuz::format.min_subnormal() == 0x1p-10);
static_assert(float8_e5m2fnuz::format.max_finite() == 57344.0);
static_assert(float8_e5m2fnuz::format.min_subnormal() == 0x1p-17);
static_assert(float8_e4m3::format.max_finite() == 240.0);
static_assert(float8_e3m4::format.max_finite() == 15.5);
static_assert(float8_e4m3b11fnuz::format.max_finite() == 30.0);
static_assert(float6_e2m3fn::format.max_finite() == 7.5);
static_assert(float6_e3m2fn::format.max_finite() == 28.0);
static_assert(float4_e2m1fn::format.max_finite() == 6.0);
static_assert(float8_e8m0fnu::format.max_finite() == 0x1p127);
static_assert(float8_e8m0fnu::format.min_normal() == 0x1p-127);

static_assert(sizeof(float8_e4m3fn) == 1);
static_assert(sizeof(float8_e5m2) == 1);
static_assert(sizeof(float16) == 2);
static_assert(sizeof(bfloat16) == 2);
static_assert(std::is_trivially_copyable_v<float8_e4m3fn>);
static_assert(std::is_trivially_copyable_v<float16>);
static_assert(std::is_standard_layout_v<float8_e4m3fn>);
static_assert(std::is_standard_layout_v<float16>);

// The examples of the overflow rule in rounding.hpp.
static_assert(float8_e4m3fn(464.0F).bits() == 0x7e);
static_assert(isnan(float8_e4m3fn(0x1.d00002p8F)));
static_assert(isinf(float8_e5m2(61440.0F)));
static_assert(float8_e5m2(61439.996F).bits() == 0x7b);

/// A type in which the elements of a tensor may be stored.
template <class T>
concept Storage = std::same_as<T, float> || std::same_as<T, double> || AnyMinifloat<T>;

namespace detail {

/// Characters of a name built at compile time.
struct FormatName {
  std::array<char, 32> characters{};
  std::size_t size = 0;

  constexpr void append(std::string_view text) noexcept {
    for (const char character : text) characters[size++] = character;
  }
  constexpr void append(int number) noexcept {
    if (number < 0) {
      characters[size++] = '-';
      number = -number;
    }
    if (number >= 10) append(number / 10);
    characters[size++] = static_cast<char>('0' + number % 10);
  }
};

/// Whether the suffix fn means a format without NaN: the Microscaling formats are called so.
[[nodiscard]] constexpr bool is_fn_without_nan(int exponent_bits, int mantissa_bits) noexcept {
  return exponent_bits + mantissa_bits < 6;
}

/// Widest format of integers with a name of its own, "int8".
inline constexpr int widest_named_integer = 8;

/// Name of a format by the convention of ml_dtypes, "float8_e4m3b11fnuz": width, fields, the bias
/// where it is not the usual one, and the suffix of the special values; or "int8" and the like. No
/// other format has it.
[[nodiscard]] constexpr FormatName make_format_name(FormatSpec spec) noexcept {
  FormatName name;
  const auto is_named = [&](FormatSpec other, std::string_view text) {
    if (spec != other) return false;
    name.append(text);
    return true;
  };
  if (is_named(float16::format, "float16") || is_named(bfloat16::format, "bfloat16") ||
      is_named(FormatSpec::ieee(8, 23), "float32")) {
    return name;
  }
  if (spec.is_integer() && spec.bits() <= widest_named_integer) {
    name.append("int");
    name.append(spec.bits());
    return name;
  }
  name.append("float");
  name.append(spec.bits());
  name.append("_e");
  name.append(spec.exponent_bits);
  name.append("m");
  name.append(spec.mantissa_bits);
  const int half_range = 1 << (spec.exponent_bits - 1);
  if (spec.bias != (spec.specials == Specials::fnuz ? half_range : half_range - 1)) {
    name.append("b");
    name.append(spec.bias);
  }
  const bool is_narrow = is_fn_without_nan(spec.exponent_bits, spec.mantissa_bits);
  switch (spec.specials) {
    case Specials::ieee:
      break;
    case Specials::fn:
      name.append(is_narrow ? "nan" : "fn");
      break;
    case Specials::finite:
      name.append(is_narrow ? "fn" : "finite");
      break;
    case Specials::fnuz:
      name.append("fnuz");
      break;
    case Specials::fnu:
      name.append("fnu");
      break;
  }
  return name;
}

template <Storage T> struct StorageName;
template <FormatSpec spec> struct StorageName<Minifloat<spec>> {
  static constexpr FormatName name = make_format_name(spec);
  static constexpr std::string_view value{name.characters.data(), name.size};
};
template <> struct StorageName<float> { static constexpr std::string_view value = "float32"; };
template <> struct StorageName<double> { static constexpr std::string_view value = "float64"; };

}  // namespace detail

/// Name of a storage type by the convention of NumPy and ml_dtypes, such as "float8_e4m3fn".
template <Storage T> inline constexpr std::string_view storage_name = detail::StorageName<T>::value;

static_assert(storage_name<float8_e4m3fn> == "float8_e4m3fn");
static_assert(storage_name<float8_e5m2> == "float8_e5m2");
static_assert(storage_name<float8_e4m3b11fnuz> == "float8_e4m3b11fnuz");
static_assert(storage_name<float8_e8m0fnu> == "float8_e8m0fnu");
static_assert(storage_name<float16> == "float16");
static_assert(storage_name<bfloat16> == "bfloat16");
static_assert(storage_name<Minifloat<FormatSpec::finite(4, 3)>> == "float8_e4m3finite");
static_assert(storage_name<float> == "float32" && storage_name<double> == "float64");

/// Type in which operations on elements of the storage type `T` compute: binary64 for binary64,
/// otherwise binary32.
template <Storage T> using compute_t = std::conditional_t<std::same_as<T, double>, double, float>;

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
