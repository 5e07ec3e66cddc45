// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. A number format as a value, so that what is tested of every format is compiled
/// once.
///
/// GoogleTest's typed tests are compiled anew for each type, which for a dozen formats took most of
/// the time in which all tests are built. So the tests of this folder see a format through
/// the virtual functions of `NumberFormat`; `number_format.cpp` makes them of each type. A test is
/// one function, which is run with one format after the other:
///
///     FORMAT_TEST_SUITE(Halving, signed_formats())
///
///     FORMAT_TEST(Halving, IsExact) {
///       EXPECT_EQ(static_cast<float>(format.number(3.0F) / format.number(2.0F)), 1.5F);
///     }
///
/// makes the tests `Halving/float8_e4m3fn.IsExact`, `Halving/float8_e5m2.IsExact` and so on, with
/// the names that typed tests would have. A body that needs the type asks with_type_of() for it,
/// and is compiled for each.
#pragma once

#include <gtest/gtest.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "format_cases.hpp"
#include "format_oracle.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/rounding.hpp"

namespace unit_scaling_test {

using unit_scaling::EncodeOptions;
using unit_scaling::EncodeStatistics;
using unit_scaling::Overflow;
using unit_scaling::Rounding;

class NumberFormat;

/// A number of a format: a code. The functions of the library for it are those for the type.
class Number {
 public:
  Number() = default;
  Number(const NumberFormat& format, std::uint32_t code) : format_(&format), code_(code) {}

  [[nodiscard]] const NumberFormat& format() const { return *format_; }
  [[nodiscard]] std::uint32_t bits() const { return code_; }

  explicit operator float() const;
  explicit operator double() const;
  explicit operator long double() const;

 private:
  const NumberFormat* format_ = nullptr;
  std::uint32_t code_ = 0;
};
using Numbers = std::vector<Number>;

/// What the operators of comparison say of a pair.
struct Comparisons {
  bool equal, unequal, less, less_or_equal, greater, greater_or_equal;
  std::partial_ordering order;

  friend bool operator==(const Comparisons&, const Comparisons&) = default;
};

/// Not to be inlined: of both pairs in one expression, GCC 12.2 makes wrong code at -O3.
template <class T> [[gnu::noinline]] Comparisons comparisons(T left, T right) {
  return {left == right, left != right, left<right, left <= right, left> right, left >= right,
          left <=> right};
}

/// What the four operations make of a pair.
struct Arithmetic {
  Number sum, difference, product, quotient;
};

/// A function of <cmath>.
struct FunctionOfOne {
  std::string_view name;
  Number (*apply)(Number);
};
/// @copydoc FunctionOfOne
struct FunctionOfTwo {
  std::string_view name;
  Number (*apply)(Number, Number);
};

/// std::numeric_limits of a format.
struct NumberLimits {
  bool is_specialized, has_infinity, has_quiet_nan, has_signaling_nan;
  Number max, lowest, min, denorm_min, epsilon, round_error, infinity, quiet_nan, signaling_nan;
  int digits, digits10, max_digits10, min_exponent, max_exponent, min_exponent10, max_exponent10;
};

/// A format under test. Each member does what the library's function of its name does.
class NumberFormat {
 public:
  NumberFormat(std::string name, std::string case_name, unit_scaling::FormatSpec spec)
      : name_(std::move(name)), case_name_(std::move(case_name)), spec_(spec) {}
  NumberFormat(const NumberFormat&) = delete;
  NumberFormat& operator=(const NumberFormat&) = delete;
  virtual ~NumberFormat() = default;

  /// The name, written down by hand.
  [[nodiscard]] const std::string& name() const { return name_; }
  /// The type of format_cases.hpp.
  [[nodiscard]] const std::string& case_name() const { return case_name_; }
  [[nodiscard]] const unit_scaling::FormatSpec& spec() const { return spec_; }
  /// The independent account of the format. There is none of the powers of two.
  [[nodiscard]] virtual const FormatOracle& oracle() const = 0;
  [[nodiscard]] virtual std::string_view storage_name() const = 0;
  [[nodiscard]] virtual NumberLimits limits() const = 0;

  [[nodiscard]] Number from_code(std::uint32_t code) const { return {*this, code}; }
  /// By the constructors of the type.
  [[nodiscard]] virtual Number number(float value) const = 0;
  [[nodiscard]] virtual Number number(double value) const = 0;
  [[nodiscard]] virtual Number number(long double value) const = 0;
  [[nodiscard]] virtual Number number(int value) const = 0;
  [[nodiscard]] virtual Number number(unsigned value) const = 0;
  [[nodiscard]] virtual Number number(std::int64_t value) const = 0;
  [[nodiscard]] virtual Number number(std::uint64_t value) const = 0;
  /// Of a number of another format; see encode_from().
  [[nodiscard]] virtual Number number(Number value) const = 0;
  [[nodiscard]] virtual Number from_float(float value, Overflow overflow,
                                          Rounding rounding = Rounding::nearest_even,
                                          std::uint32_t random = 0) const = 0;
  [[nodiscard]] virtual Number from_double(double value, Overflow overflow,
                                           Rounding rounding = Rounding::nearest_even,
                                           std::uint32_t random = 0) const = 0;
  [[nodiscard]] virtual Number from_integer(std::int64_t value, Overflow overflow,
                                            Rounding rounding = Rounding::nearest_even,
                                            std::uint32_t random = 0) const = 0;

  /// Spans. That nothing is written past the end of the codes is checked at each call.
  [[nodiscard]] virtual Numbers encode(std::span<const float> in, Overflow overflow) const = 0;
  [[nodiscard]] virtual Numbers encode(std::span<const double> in, Overflow overflow) const = 0;
  [[nodiscard]] virtual Numbers encode(std::span<const float> in,
                                       const EncodeOptions& options) const = 0;
  [[nodiscard]] virtual EncodeStatistics encode_with_statistics(
      std::span<const float> in, Numbers& out, const EncodeOptions& options) const = 0;
  /// From another format: from float16 or bfloat16 to any, or from any to float16, float8_e5m2,
  /// float8_e4m3b11fnuz or float4_e2m1fn.
  [[nodiscard]] virtual Numbers encode_from(std::span<const Number> in,
                                            Overflow overflow) const = 0;
  virtual void decode(std::span<const Number> in, std::span<float> out) const = 0;
  virtual void decode(std::span<const Number> in, std::span<double> out) const = 0;

  /// Sixteen lanes: store_float(), store_float_partial() of the first `count`, load_float(), and
  /// load_float_partial() of as many as there are.
  virtual void store_lanes(std::span<const float> in, std::span<Number> out,
                           Overflow overflow) const = 0;
  virtual void store_lanes(std::span<const float> in, std::span<Number> out, std::size_t count,
                           Overflow overflow) const = 0;
  virtual void load_lanes(std::span<const Number> in, std::span<float> out) const = 0;
  virtual void load_partial_lanes(std::span<const Number> in, std::span<float> out) const = 0;

  [[nodiscard]] virtual float to_float(Number x) const = 0;
  [[nodiscard]] virtual double to_double(Number x) const = 0;
  [[nodiscard]] virtual long double to_long_double(Number x) const = 0;
  [[nodiscard]] virtual bool is_nan(Number x) const = 0;
  [[nodiscard]] virtual bool is_infinity(Number x) const = 0;
  [[nodiscard]] virtual bool is_finite(Number x) const = 0;
  [[nodiscard]] virtual bool is_normal(Number x) const = 0;
  [[nodiscard]] virtual bool sign_bit(Number x) const = 0;
  [[nodiscard]] virtual int classify(Number x) const = 0;
  [[nodiscard]] virtual std::size_t hash(Number x) const = 0;
  [[nodiscard]] virtual Number negative(Number x) const = 0;
  [[nodiscard]] virtual Number magnitude(Number x) const = 0;
  [[nodiscard]] virtual Comparisons compare(Number x, Number y) const = 0;
  [[nodiscard]] virtual Arithmetic arithmetic(Number x, Number y) const = 0;
  /// As arithmetic(), and by +=, -=, *= and /=. In one function, for there compilers choose alike
  /// which of two NaNs passes on its payload.
  [[nodiscard]] virtual std::pair<Arithmetic, Arithmetic> arithmetic_and_in_place(
      Number x, Number y) const = 0;

  /// Those whose result is a number of the format.
  [[nodiscard]] virtual std::span<const FunctionOfOne> functions_of_one() const = 0;
  [[nodiscard]] virtual std::span<const FunctionOfTwo> functions_of_two() const = 0;
  [[nodiscard]] const FunctionOfTwo& function_of_two(std::string_view function) const {
    for (const FunctionOfTwo& candidate : functions_of_two()) {
      if (candidate.name == function) return candidate;
    }
    throw std::out_of_range("no function " + std::string(function));
  }
  [[nodiscard]] virtual Number multiply_add(Number x, Number y, Number z) const = 0;
  [[nodiscard]] virtual Number scale_by_power(Number x, int exponent) const = 0;  ///< ldexp()
  [[nodiscard]] virtual Number scalbn_of(Number x, int exponent) const = 0;
  [[nodiscard]] virtual int integer_logarithm(Number x) const = 0;  ///< ilogb()
  [[nodiscard]] virtual bool has_frexp() const = 0;
  [[nodiscard]] virtual Number split(Number x, int& exponent) const = 0;  ///< frexp()

  [[nodiscard]] virtual Number parse(std::string_view text,
                                     Overflow overflow = Overflow::infinity_or_nan) const = 0;
  [[nodiscard]] virtual std::string text(Number x) const = 0;
  virtual void write(std::ostream& stream, Number x) const = 0;
  virtual Number read(std::istream& stream) const = 0;

 private:
  std::string name_;
  std::string case_name_;
  unit_scaling::FormatSpec spec_;
};

inline Number::operator float() const { return format_->to_float(*this); }
inline Number::operator double() const { return format_->to_double(*this); }
inline Number::operator long double() const { return format_->to_long_double(*this); }

inline bool isnan(Number x) { return x.format().is_nan(x); }
inline bool isinf(Number x) { return x.format().is_infinity(x); }
inline bool isfinite(Number x) { return x.format().is_finite(x); }
inline bool isnormal(Number x) { return x.format().is_normal(x); }
inline bool signbit(Number x) { return x.format().sign_bit(x); }
inline int fpclassify(Number x) { return x.format().classify(x); }
inline Number operator-(Number x) { return x.format().negative(x); }
inline Number abs(Number x) { return x.format().magnitude(x); }
inline Number fma(Number x, Number y, Number z) { return x.format().multiply_add(x, y, z); }
inline Number ldexp(Number x, int exponent) { return x.format().scale_by_power(x, exponent); }
inline Number scalbn(Number x, int exponent) { return x.format().scalbn_of(x, exponent); }
inline int ilogb(Number x) { return x.format().integer_logarithm(x); }
inline Number frexp(Number x, int* exponent) { return x.format().split(x, *exponent); }
inline std::string to_string(Number x) { return x.format().text(x); }

/// The formats of AllFormats, in its order, and last the powers of two.
const std::vector<const NumberFormat*>& all_formats();
/// Those of AllFormats.
const std::vector<const NumberFormat*>& signed_formats();
/// Those of AllFormats of up to eight bits.
const std::vector<const NumberFormat*>& one_byte_formats();

/// The format of a type: one of AllFormats, or E8m0fnu.
template <class Case> const NumberFormat& format_of() {
  constexpr auto position = []<class... Cases>(::testing::Types<Cases...>) {
    std::size_t result = 0;
    static_cast<void>(((std::is_same_v<Case, Cases> || (++result, false)) || ...));
    return result;
  };
  return *all_formats()[position(AllFormats{})];
}

/// Calls `function` with the std::type_identity of a signed format's type.
template <class Function> void with_type_of(const NumberFormat& format, const Function& function) {
  const auto call = [&]<class... Cases>(::testing::Types<Cases...>) {
    const auto call_if = [&]<class Case>(std::type_identity<Case>) {
      if (&format != &format_of<Case>()) return false;
      function(std::type_identity<typename Case::type>{});
      return true;
    };
    return (call_if(std::type_identity<Cases>{}) || ...);
  };
  if (!call(AllFormats{})) throw std::logic_error("no type of " + format.name());
}

/// Has GoogleTest run `body` with each of the formats, as the test `suite/format.name`.
bool register_format_test(const char* suite, const char* name, const char* file, int line,
                          const std::vector<const NumberFormat*>& formats,
                          void (*body)(const NumberFormat& format));

}  // namespace unit_scaling_test

// Compiled in number_format.cpp, so not once more for the tests that use the type itself.
extern template void unit_scaling::encode(std::span<const float>,
                                          std::span<unit_scaling::float8_e4m3fn>,
                                          const unit_scaling::EncodeOptions&);
extern template void unit_scaling::encode(std::span<const float>,
                                          std::span<unit_scaling::float8_e5m2>,
                                          const unit_scaling::EncodeOptions&);
extern template unit_scaling::EncodeStatistics unit_scaling::encode_with_statistics(
    std::span<const float>, std::span<unit_scaling::float8_e4m3fn>,
    const unit_scaling::EncodeOptions&);
extern template unit_scaling::EncodeStatistics unit_scaling::encode_with_statistics(
    std::span<const float>, std::span<unit_scaling::float8_e5m2>,
    const unit_scaling::EncodeOptions&);
extern template unit_scaling::EncodeStatistics unit_scaling::encode_with_statistics(
    std::span<const float>, std::span<unit_scaling::float8_e8m0fnu>,
    const unit_scaling::EncodeOptions&);

/// Says with which formats the tests of a suite are run.
#define FORMAT_TEST_SUITE(suite, formats) \
  static const std::vector<const NumberFormat*>& suite##_formats() { return formats; }

/// Begins the body of a test, in which `format` is the format under test.
#define FORMAT_TEST(suite, name)                                                                  \
  static void suite##_##name(const NumberFormat& format);                                         \
  [[maybe_unused]] static const bool suite##_##name##_is_registered =                             \
      register_format_test(#suite, #name, __FILE__, __LINE__, suite##_formats(), suite##_##name); \
  static void suite##_##name(const NumberFormat& format)
