// SPDX-License-Identifier: MIT
#include "number_format.hpp"

#include <algorithm>
#include <cmath>
#include <concepts>
#include <functional>
#include <istream>
#include <limits>
#include <ostream>
#include <tuple>
#include <utility>

#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/math.hpp"
#include "unit_scaling/formats/text.hpp"

namespace unit_scaling_test {
namespace {

template <class T> T typed(Number x) {
  return T::from_bits(static_cast<typename T::storage_type>(x.bits()));
}
template <class T> std::vector<T> typed(std::span<const Number> numbers) {
  std::vector<T> result;
  result.reserve(numbers.size());
  for (const Number x : numbers) result.push_back(typed<T>(x));
  return result;
}

/// Codes to be written, and behind them some that must stay as they are.
template <class T> class GuardedCodes {
 public:
  explicit GuardedCodes(std::size_t size)
      : codes_(size + unit_scaling::lanes, T::from_bits(1)), size_(size) {}

  [[nodiscard]] std::span<T> written() { return std::span(codes_).first(size_); }
  [[nodiscard]] Numbers numbers(const NumberFormat& format) const {
    for (std::size_t i = size_; i < codes_.size(); ++i) {
      EXPECT_EQ(codes_[i].bits(), 1U) << "wrote past the end, size " << size_;
    }
    Numbers result;
    result.reserve(size_);
    for (std::size_t i = 0; i < size_; ++i) result.emplace_back(format, codes_[i].bits());
    return result;
  }

 private:
  std::vector<T> codes_;
  std::size_t size_;
};

template <class T, class Function> FunctionOfOne erased_of_one(const char* name, Function) {
  return {name, [](Number x) { return Number(x.format(), Function{}(typed<T>(x)).bits()); }};
}
template <class T, class Function> FunctionOfTwo erased_of_two(const char* name, Function) {
  return {name, [](Number x, Number y) {
            return Number(x.format(), Function{}(typed<T>(x), typed<T>(y)).bits());
          }};
}

template <class Case> constexpr bool has_oracle = requires { Case::layout(); };

template <class Case> std::string name_of() {
  if constexpr (has_oracle<Case>) {
    return Case::layout().name;
  } else {
    return "float8_e8m0fnu";
  }
}

/// The functions of the library for one format.
template <class Case> class NumberFormatOf final : public NumberFormat {
  using T = typename Case::type;

 public:
  NumberFormatOf()
      : NumberFormat(name_of<Case>(), ::testing::internal::GetTypeName<Case>(), T::format) {}

  [[nodiscard]] const FormatOracle& oracle() const override {
    if constexpr (has_oracle<Case>) {
      static const FormatOracle result(Case::layout());
      return result;
    } else {
      throw std::logic_error("no oracle of " + name());
    }
  }
  [[nodiscard]] std::string_view storage_name() const override {
    return unit_scaling::storage_name<T>;
  }
  [[nodiscard]] NumberLimits limits() const override {
    using Limits = std::numeric_limits<T>;
    return {.is_specialized = Limits::is_specialized,
            .has_infinity = Limits::has_infinity,
            .has_quiet_nan = Limits::has_quiet_NaN,
            .has_signaling_nan = Limits::has_signaling_NaN,
            .max = erased(Limits::max()),
            .lowest = erased(Limits::lowest()),
            .min = erased(Limits::min()),
            .denorm_min = erased(Limits::denorm_min()),
            .epsilon = erased(Limits::epsilon()),
            .round_error = erased(Limits::round_error()),
            .infinity = erased(Limits::infinity()),
            .quiet_nan = erased(Limits::quiet_NaN()),
            .signaling_nan = erased(Limits::signaling_NaN()),
            .digits = Limits::digits,
            .digits10 = Limits::digits10,
            .max_digits10 = Limits::max_digits10,
            .min_exponent = Limits::min_exponent,
            .max_exponent = Limits::max_exponent,
            .min_exponent10 = Limits::min_exponent10,
            .max_exponent10 = Limits::max_exponent10};
  }

  [[nodiscard]] Number number(float value) const override { return erased(T(value)); }
  [[nodiscard]] Number number(double value) const override { return erased(T(value)); }
  [[nodiscard]] Number number(long double value) const override { return erased(T(value)); }
  [[nodiscard]] Number number(int value) const override { return erased(T(value)); }
  [[nodiscard]] Number number(unsigned value) const override { return erased(T(value)); }
  [[nodiscard]] Number number(std::int64_t value) const override { return erased(T(value)); }
  [[nodiscard]] Number number(std::uint64_t value) const override { return erased(T(value)); }
  [[nodiscard]] Number number(Number value) const override {
    T result;
    with_other_format(value.format(), [&]<class From>(std::type_identity<From>) {
      result = T(typed<From>(value));
    });
    return erased(result);
  }
  [[nodiscard]] Number from_float(float value, Overflow overflow, Rounding rounding,
                                  std::uint32_t random) const override {
    return erased(T::from_float(value, overflow, rounding, random));
  }
  [[nodiscard]] Number from_double(double value, Overflow overflow, Rounding rounding,
                                   std::uint32_t random) const override {
    return erased(T::from_double(value, overflow, rounding, random));
  }
  [[nodiscard]] Number from_integer(std::int64_t value, Overflow overflow, Rounding rounding,
                                    std::uint32_t random) const override {
    return erased(T::from_integer(value, overflow, rounding, random));
  }

  [[nodiscard]] Numbers encode(std::span<const float> in, Overflow overflow) const override {
    GuardedCodes<T> out(in.size());
    unit_scaling::encode(in, out.written(), overflow);
    return out.numbers(*this);
  }
  [[nodiscard]] Numbers encode(std::span<const double> in, Overflow overflow) const override {
    GuardedCodes<T> out(in.size());
    unit_scaling::encode(in, out.written(), overflow);
    return out.numbers(*this);
  }
  [[nodiscard]] Numbers encode(std::span<const float> in,
                               const EncodeOptions& options) const override {
    GuardedCodes<T> out(in.size());
    unit_scaling::encode(in, out.written(), options);
    return out.numbers(*this);
  }
  [[nodiscard]] EncodeStatistics encode_with_statistics(
      std::span<const float> in, Numbers& out, const EncodeOptions& options) const override {
    GuardedCodes<T> codes(in.size());
    const EncodeStatistics result =
        unit_scaling::encode_with_statistics(in, codes.written(), options);
    out = codes.numbers(*this);
    return result;
  }
  [[nodiscard]] Numbers encode_from(std::span<const Number> in, Overflow overflow) const override {
    GuardedCodes<T> out(in.size());
    with_other_format(in.front().format(), [&]<class From>(std::type_identity<From>) {
      const std::vector<From> from = typed<From>(in);
      unit_scaling::encode(std::span<const From>(from), out.written(), overflow);
    });
    return out.numbers(*this);
  }
  void decode(std::span<const Number> in, std::span<float> out) const override {
    const std::vector<T> codes = typed<T>(in);
    unit_scaling::decode(std::span<const T>(codes), out);
  }
  void decode(std::span<const Number> in, std::span<double> out) const override {
    const std::vector<T> codes = typed<T>(in);
    unit_scaling::decode(std::span<const T>(codes), out);
  }

  void store_lanes(std::span<const float> in, std::span<Number> out,
                   Overflow overflow) const override {
    GuardedCodes<T> codes(unit_scaling::lanes);
    const auto values = unit_scaling::load<unit_scaling::float32x16>(in.data());
    if (overflow == Overflow::saturate) {
      unit_scaling::store_float<Overflow::saturate>(values, codes.written().data());
    } else {
      unit_scaling::store_float<Overflow::infinity_or_nan>(values, codes.written().data());
    }
    std::ranges::copy(codes.numbers(*this), out.begin());
  }
  void store_lanes(std::span<const float> in, std::span<Number> out, std::size_t count,
                   Overflow overflow) const override {
    GuardedCodes<T> codes(count);
    const auto values = unit_scaling::load<unit_scaling::float32x16>(in.data());
    T* const to = codes.written().data();
    if (overflow == Overflow::saturate) {
      unit_scaling::store_float_partial<Overflow::saturate>(values, to, count);
    } else {
      unit_scaling::store_float_partial<Overflow::infinity_or_nan>(values, to, count);
    }
    std::ranges::copy(codes.numbers(*this), out.begin());
  }
  void load_lanes(std::span<const Number> in, std::span<float> out) const override {
    const std::vector<T> codes = typed<T>(in);
    unit_scaling::store(unit_scaling::load_float(codes.data()), out.data());
  }
  void load_partial_lanes(std::span<const Number> in, std::span<float> out) const override {
    const std::vector<T> codes = typed<T>(in);
    unit_scaling::store(unit_scaling::load_float_partial(codes.data(), codes.size()), out.data());
  }

  [[nodiscard]] float to_float(Number x) const override { return static_cast<float>(typed<T>(x)); }
  [[nodiscard]] double to_double(Number x) const override {
    return static_cast<double>(typed<T>(x));
  }
  [[nodiscard]] long double to_long_double(Number x) const override {
    return static_cast<long double>(typed<T>(x));
  }
  [[nodiscard]] bool is_nan(Number x) const override { return isnan(typed<T>(x)); }
  [[nodiscard]] bool is_infinity(Number x) const override { return isinf(typed<T>(x)); }
  [[nodiscard]] bool is_finite(Number x) const override { return isfinite(typed<T>(x)); }
  [[nodiscard]] bool is_normal(Number x) const override { return isnormal(typed<T>(x)); }
  [[nodiscard]] bool sign_bit(Number x) const override { return signbit(typed<T>(x)); }
  [[nodiscard]] int classify(Number x) const override { return fpclassify(typed<T>(x)); }
  [[nodiscard]] std::size_t hash(Number x) const override { return std::hash<T>{}(typed<T>(x)); }
  [[nodiscard]] Number negative(Number x) const override { return erased(-typed<T>(x)); }
  [[nodiscard]] Number magnitude(Number x) const override { return erased(abs(typed<T>(x))); }
  [[nodiscard]] Comparisons compare(Number x, Number y) const override {
    return comparisons(typed<T>(x), typed<T>(y));
  }
  [[nodiscard]] Arithmetic arithmetic(Number x, Number y) const override {
    const T a = typed<T>(x);
    const T b = typed<T>(y);
    return {erased(a + b), erased(a - b), erased(a * b), erased(a / b)};
  }
  [[nodiscard]] std::pair<Arithmetic, Arithmetic> arithmetic_and_in_place(Number x,
                                                                          Number y) const override {
    const T a = typed<T>(x);
    const T b = typed<T>(y);
    T sum = a;
    T difference = a;
    T product = a;
    T quotient = a;
    return {
        {erased(a + b), erased(a - b), erased(a * b), erased(a / b)},
        {erased(sum += b), erased(difference -= b), erased(product *= b), erased(quotient /= b)}};
  }

  [[nodiscard]] std::span<const FunctionOfOne> functions_of_one() const override {
    static const FunctionOfOne functions[] = {
        erased_of_one<T>("fabs", [](T x) { return fabs(x); }),
        erased_of_one<T>("sqrt", [](T x) { return sqrt(x); }),
        erased_of_one<T>("cbrt", [](T x) { return cbrt(x); }),
        erased_of_one<T>("exp", [](T x) { return exp(x); }),
        erased_of_one<T>("exp2", [](T x) { return exp2(x); }),
        erased_of_one<T>("expm1", [](T x) { return expm1(x); }),
        erased_of_one<T>("log", [](T x) { return log(x); }),
        erased_of_one<T>("log2", [](T x) { return log2(x); }),
        erased_of_one<T>("log10", [](T x) { return log10(x); }),
        erased_of_one<T>("log1p", [](T x) { return log1p(x); }),
        erased_of_one<T>("sin", [](T x) { return sin(x); }),
        erased_of_one<T>("cos", [](T x) { return cos(x); }),
        erased_of_one<T>("tan", [](T x) { return tan(x); }),
        erased_of_one<T>("asin", [](T x) { return asin(x); }),
        erased_of_one<T>("acos", [](T x) { return acos(x); }),
        erased_of_one<T>("atan", [](T x) { return atan(x); }),
        erased_of_one<T>("sinh", [](T x) { return sinh(x); }),
        erased_of_one<T>("cosh", [](T x) { return cosh(x); }),
        erased_of_one<T>("tanh", [](T x) { return tanh(x); }),
        erased_of_one<T>("asinh", [](T x) { return asinh(x); }),
        erased_of_one<T>("acosh", [](T x) { return acosh(x); }),
        erased_of_one<T>("atanh", [](T x) { return atanh(x); }),
        erased_of_one<T>("erf", [](T x) { return erf(x); }),
        erased_of_one<T>("erfc", [](T x) { return erfc(x); }),
        erased_of_one<T>("floor", [](T x) { return floor(x); }),
        erased_of_one<T>("ceil", [](T x) { return ceil(x); }),
        erased_of_one<T>("trunc", [](T x) { return trunc(x); }),
        erased_of_one<T>("round", [](T x) { return round(x); }),
        erased_of_one<T>("rint", [](T x) { return rint(x); }),
        erased_of_one<T>("nearbyint", [](T x) { return nearbyint(x); }),
        erased_of_one<T>("logb", [](T x) { return logb(x); }),
    };
    return functions;
  }
  [[nodiscard]] std::span<const FunctionOfTwo> functions_of_two() const override {
    static const FunctionOfTwo functions[] = {
        erased_of_two<T>("pow", [](T x, T y) { return pow(x, y); }),
        erased_of_two<T>("hypot", [](T x, T y) { return hypot(x, y); }),
        erased_of_two<T>("atan2", [](T x, T y) { return atan2(x, y); }),
        erased_of_two<T>("fmod", [](T x, T y) { return fmod(x, y); }),
        erased_of_two<T>("fmin", [](T x, T y) { return fmin(x, y); }),
        erased_of_two<T>("fmax", [](T x, T y) { return fmax(x, y); }),
        erased_of_two<T>("nextafter", [](T x, T y) { return nextafter(x, y); }),
        erased_of_two<T>("copysign", [](T x, T y) { return copysign(x, y); }),
    };
    return functions;
  }
  [[nodiscard]] Number multiply_add(Number x, Number y, Number z) const override {
    return erased(fma(typed<T>(x), typed<T>(y), typed<T>(z)));
  }
  [[nodiscard]] Number scale_by_power(Number x, int exponent) const override {
    return erased(ldexp(typed<T>(x), exponent));
  }
  [[nodiscard]] Number scalbn_of(Number x, int exponent) const override {
    return erased(scalbn(typed<T>(x), exponent));
  }
  [[nodiscard]] int integer_logarithm(Number x) const override { return ilogb(typed<T>(x)); }
  [[nodiscard]] bool has_frexp() const override { return splits; }
  [[nodiscard]] Number split(Number x, int& exponent) const override {
    if constexpr (splits) {
      return erased(frexp(typed<T>(x), &exponent));
    } else {
      throw std::logic_error("no frexp() of " + name());
    }
  }

  [[nodiscard]] Number parse(std::string_view text, Overflow overflow) const override {
    return erased(unit_scaling::parse<T>(text, overflow));
  }
  [[nodiscard]] std::string text(Number x) const override { return to_string(typed<T>(x)); }
  void write(std::ostream& stream, Number x) const override { stream << typed<T>(x); }
  Number read(std::istream& stream) const override {
    T result;
    stream >> result;
    return erased(result);
  }

 private:
  static constexpr bool splits = requires(T x, int* exponent) { frexp(x, exponent); };

  [[nodiscard]] Number erased(T x) const { return {*this, x.bits()}; }

  /// Calls `function` with the type of a format from which conversions to this one are tested.
  template <class Function>
  static void with_other_format(const NumberFormat& other, const Function& function) {
    constexpr bool is_target = std::same_as<Case, E5m2> || std::same_as<Case, E4m3b11fnuz> ||
                               std::same_as<Case, E2m1fn> || std::same_as<Case, Float16>;
    const auto call = [&]<class From>(std::type_identity<From>) {
      if constexpr (is_target || std::same_as<From, Float16> || std::same_as<From, Bfloat16>) {
        if (&other != &format_of<From>()) return false;
        function(std::type_identity<typename From::type>{});
        return true;
      } else {
        return false;
      }
    };
    const auto call_any = [&]<class... From>(::testing::Types<From...>) {
      return (call(std::type_identity<From>{}) || ...) || call(std::type_identity<E8m0fnu>{});
    };
    if (!call_any(AllFormats{})) throw std::logic_error("no conversion from " + other.name());
  }
};

/// A test of one format.
class FormatTest : public ::testing::Test {
 public:
  FormatTest(const NumberFormat& format, void (*body)(const NumberFormat&))
      : format_(format), body_(body) {}
  void TestBody() override { body_(format_); }

 private:
  const NumberFormat& format_;
  void (*body_)(const NumberFormat&);
};

template <class... Cases>
std::vector<const NumberFormat*> formats_of(::testing::Types<Cases...> /*cases*/) {
  static const std::tuple<NumberFormatOf<Cases>..., NumberFormatOf<E8m0fnu>> formats;
  return std::apply(
      [](const auto&... format) { return std::vector<const NumberFormat*>{&format...}; }, formats);
}

}  // namespace

const std::vector<const NumberFormat*>& all_formats() {
  static const std::vector<const NumberFormat*> result = formats_of(AllFormats{});
  return result;
}

const std::vector<const NumberFormat*>& signed_formats() {
  static const std::vector<const NumberFormat*> result(all_formats().begin(),
                                                       all_formats().end() - 1);
  return result;
}

const std::vector<const NumberFormat*>& one_byte_formats() {
  static const std::vector<const NumberFormat*> result = [] {
    std::vector<const NumberFormat*> formats = signed_formats();
    std::erase_if(formats, [](const NumberFormat* format) { return format->spec().bits() > 8; });
    return formats;
  }();
  return result;
}

bool register_format_test(const char* suite, const char* name, const char* file, int line,
                          const std::vector<const NumberFormat*>& formats,
                          void (*body)(const NumberFormat& format)) {
  for (const NumberFormat* format : formats) {
    const std::string suite_of_format = suite + ('/' + format->name());
    ::testing::RegisterTest(suite_of_format.c_str(), name, format->case_name().c_str(), nullptr,
                            file, line, [=] { return new FormatTest(*format, body); });
  }
  return !formats.empty();
}

}  // namespace unit_scaling_test

template void unit_scaling::encode(std::span<const float>, std::span<unit_scaling::float8_e4m3fn>,
                                   const unit_scaling::EncodeOptions&);
template void unit_scaling::encode(std::span<const float>, std::span<unit_scaling::float8_e5m2>,
                                   const unit_scaling::EncodeOptions&);
template unit_scaling::EncodeStatistics unit_scaling::encode_with_statistics(
    std::span<const float>, std::span<unit_scaling::float8_e4m3fn>,
    const unit_scaling::EncodeOptions&);
template unit_scaling::EncodeStatistics unit_scaling::encode_with_statistics(
    std::span<const float>, std::span<unit_scaling::float8_e5m2>,
    const unit_scaling::EncodeOptions&);
template unit_scaling::EncodeStatistics unit_scaling::encode_with_statistics(
    std::span<const float>, std::span<unit_scaling::float8_e8m0fnu>,
    const unit_scaling::EncodeOptions&);
