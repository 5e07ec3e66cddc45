// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Numbers of a `Minifloat` as text: parsing that rounds once, the shortest decimal
/// that parses back, the stream extractor and, where the library has `std::formatter`, the
/// formatter.
///
/// The grammar is that of std::from_chars, independent of any locale, and takes hexadecimal numbers
/// with their prefix too: `1.5`, `-3e-2`, `.5`, `inf`, `nan`, `0x1.8p-3`. Letters may be of either
/// case.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <istream>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <version>

#if defined(__cpp_lib_format)
#include <format>
#endif

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/minifloat.hpp"
#include "unit_scaling/formats/round_to_odd.hpp"
#include "unit_scaling/formats/rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

[[nodiscard]] constexpr bool is_digit(char character) noexcept {
  return character >= '0' && character <= '9';
}
[[nodiscard]] constexpr char to_lower(char character) noexcept {
  return character >= 'A' && character <= 'Z' ? static_cast<char>(character - 'A' + 'a')
                                              : character;
}
/// Value of a hexadecimal digit, or -1.
[[nodiscard]] constexpr int hexadecimal_digit(char character) noexcept {
  const char lower = to_lower(character);
  if (is_digit(lower)) return lower - '0';
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/// End of `word`, which is in lower case, at the beginning of the text, or null.
[[nodiscard]] constexpr const char* skip_word(const char* first, const char* last,
                                              std::string_view word) noexcept {
  for (const char character : word) {
    if (first == last || to_lower(*first) != character) return nullptr;
    ++first;
  }
  return first;
}

/// Reads an exponent, a letter and an integer with or without a sign. Reads nothing if that is not
/// what stands there. Its magnitude is cut off where no number of characters could make up for it.
constexpr const char* skip_exponent(const char* first, const char* last, char letter,
                                    std::int64_t& exponent) noexcept {
  constexpr std::int64_t limit = 1'000'000'000'000'000;
  exponent = 0;
  const char* at = first;
  if (at == last || to_lower(*at) != letter) return first;
  ++at;
  const bool is_negative = at != last && *at == '-';
  if (at != last && (*at == '-' || *at == '+')) ++at;
  if (at == last || !is_digit(*at)) return first;
  for (; at != last && is_digit(*at); ++at) {
    exponent = std::min(limit, exponent * 10 + (*at - '0'));
  }
  if (is_negative) exponent = -exponent;
  return at;
}

/// A decimal number without a sign, in text: its significant digits and where they stand.
struct DecimalDigits {
  const char* first;          ///< The first digit that is not zero, or `last`.
  const char* last;           ///< Behind the last digit; a point may stand between.
  std::int64_t exponent = 0;  ///< The first digit counts multiples of 10^exponent.

  /// Takes a text that is known to be a number.
  constexpr DecimalDigits(const char* begin, const char* end) noexcept : first(end), last(end) {
    std::int64_t places = 0;  // from the first significant digit to the units
    bool is_behind_point = false;
    const char* at = begin;
    for (; at != end && (is_digit(*at) || *at == '.'); ++at) {
      if (*at == '.') {
        is_behind_point = true;
        continue;
      }
      if (first == end) {
        if (is_behind_point) --places;
        if (*at != '0') first = at;
      } else if (!is_behind_point) {
        ++places;
      }
    }
    last = at;
    if (first == end) first = last;
    skip_exponent(at, end, 'e', exponent);
    exponent += places;
  }

  /// Takes the next digit, zero behind the last.
  constexpr char next() noexcept {
    if (first != last && *first == '.') ++first;
    return first == last ? '0' : *first++;
  }
};

/// Sign of left - right, exactly. Neither is zero.
[[nodiscard]] constexpr int compare(DecimalDigits left, DecimalDigits right) noexcept {
  if (left.exponent != right.exponent) return left.exponent < right.exponent ? -1 : 1;
  while (left.first != left.last || right.first != right.last) {
    const char left_digit = left.next();
    const char right_digit = right.next();
    if (left_digit != right_digit) return left_digit < right_digit ? -1 : 1;
  }
  return 0;
}

/// A number read from the beginning of a text.
struct ScannedNumber {
  const char* end = nullptr;  ///< Behind the number; null if there is none.
  /// The number, rounded to odd in binary64. A finite number other than zero remains one.
  double value = 0.0;
};

/// A finite number other than zero that binary64 may have lost to infinity or zero.
[[nodiscard]] constexpr double keep_finite(double magnitude) noexcept {
  return std::clamp(magnitude, std::numeric_limits<double>::denorm_min(),
                    std::numeric_limits<double>::max());
}

/// Reads a decimal number without a sign, rounded to odd.
[[nodiscard]] inline ScannedNumber scan_decimal(const char* first, const char* last) noexcept {
  if (first == last || (!is_digit(*first) && *first != '.')) return {};
  double nearest = 0.0;
  const auto [end, error] = std::from_chars(first, last, nearest);
  if (error == std::errc::invalid_argument) return {};
  const DecimalDigits digits(first, end);
  if (digits.first == digits.last) return {end, 0.0};
  if (error == std::errc::result_out_of_range) {
    return {end, keep_finite(digits.exponent < 0 ? 0.0 : std::numeric_limits<double>::infinity())};
  }
  // The number nearest to the text may round on to another code than the text only if it is itself
  // a number of the format or half-way between two, so if it has at most 13 significant bits and
  // lies where the formats do. Then its exact decimal expansion, which has at most 125 digits, is
  // compared to the text.
  constexpr std::uint64_t trailing_bits = (std::uint64_t{1} << 40) - 1U;
  const bool may_be_midpoint = (std::bit_cast<std::uint64_t>(nearest) & trailing_bits) == 0U &&
                               nearest > 0x1p-160 && nearest < 0x1p130;
  if (!may_be_midpoint) return {end, keep_finite(nearest)};
  constexpr int precision = 140;
  std::array<char, precision + 16> expansion;
  const char* const expansion_end =
      std::to_chars(expansion.data(), expansion.data() + expansion.size(), nearest,
                    std::chars_format::scientific, precision)
          .ptr;
  const int remainder = compare(digits, DecimalDigits(expansion.data(), expansion_end));
  return {end, round_to_odd(nearest, remainder)};
}

/// Reads a hexadecimal number without a sign, behind its prefix, rounded to odd.
[[nodiscard]] inline ScannedNumber scan_hexadecimal(const char* first, const char* last) noexcept {
  std::uint64_t significand = 0;
  std::int64_t places = 0;
  bool has_digit = false;
  bool is_behind_point = false;
  const char* at = first;
  for (; at != last; ++at) {
    if (*at == '.' && !is_behind_point) {
      is_behind_point = true;
      continue;
    }
    const int digit = hexadecimal_digit(*at);
    if (digit < 0) break;
    has_digit = true;
    if (significand >> 48 == 0U) {
      significand = significand << 4 | static_cast<std::uint64_t>(digit);
      if (is_behind_point) places -= 4;
    } else {
      // The last bit, set, stands for all that follows.
      if (digit != 0) significand |= 1U;
      if (!is_behind_point) places += 4;
    }
  }
  if (!has_digit) return {};
  std::int64_t exponent = 0;
  const char* const end = skip_exponent(at, last, 'p', exponent);
  if (significand == 0U) return {end, 0.0};
  constexpr std::int64_t limit = 10'000;
  const auto power = static_cast<int>(std::clamp(exponent + places, -limit, limit));
  return {end, keep_finite(std::ldexp(static_cast<double>(significand), power))};
}

/// Reads a number, with or without a minus sign, from the beginning of a text.
[[nodiscard]] inline ScannedNumber scan_number(const char* first, const char* last) noexcept {
  const DefaultArithmetic arithmetic;  // std::from_chars rounds as the thread does
  const bool is_negative = first != last && *first == '-';
  if (is_negative) ++first;
  const auto scan_magnitude = [first, last]() -> ScannedNumber {
    for (const std::string_view word : {"infinity", "inf"}) {
      if (const char* end = skip_word(first, last, word)) {
        return {end, std::numeric_limits<double>::infinity()};
      }
    }
    if (const char* end = skip_word(first, last, "nan")) {
      return {end, std::numeric_limits<double>::quiet_NaN()};
    }
    if (const char* digits = skip_word(first, last, "0x")) {
      const ScannedNumber number = scan_hexadecimal(digits, last);
      if (number.end != nullptr) return number;
    }
    return scan_decimal(first, last);
  };
  ScannedNumber number = scan_magnitude();
  if (is_negative) number.value = std::copysign(number.value, -1.0);
  return number;
}

/// Characters of a number.
struct NumberText {
  std::array<char, 48> characters{};
  std::size_t size = 0;

  void append(char character) noexcept { characters[size++] = character; }
  void append(std::string_view text) noexcept {
    for (const char character : text) append(character);
  }
  [[nodiscard]] std::string_view view() const noexcept { return {characters.data(), size}; }
};

/// Writes digits d1 d2 ... as d1.d2... × 10^exponent in the form, fixed or scientific, that has
/// fewer characters, fixed if both have as many, as std::to_chars does. A large integer is written
/// with its exact digits, `value`, rather than with trailing zeros.
inline void append_decimal(NumberText& text, std::string_view digits, int exponent,
                           double value) noexcept {
  const int count = static_cast<int>(digits.size());
  NumberText scientific;
  scientific.append(digits.front());
  if (count > 1) scientific.append('.');
  scientific.append(digits.substr(1));
  scientific.append(exponent < 0 ? "e-" : "e+");
  const int magnitude = exponent < 0 ? -exponent : exponent;
  if (magnitude < 10) scientific.append('0');
  scientific.append(std::to_string(magnitude));

  NumberText fixed;
  if (exponent >= count - 1) {
    const auto result =
        std::to_chars(fixed.characters.data(), fixed.characters.data() + fixed.characters.size(),
                      value, std::chars_format::fixed);
    fixed.size = static_cast<std::size_t>(result.ptr - fixed.characters.data());
  } else if (exponent >= 0) {
    const auto before_point = static_cast<std::size_t>(exponent) + 1U;
    fixed.append(digits.substr(0, before_point));
    fixed.append('.');
    fixed.append(digits.substr(before_point));
  } else if (magnitude < 10) {
    fixed.append("0.");
    for (int zeros = 1; zeros < magnitude; ++zeros) fixed.append('0');
    fixed.append(digits);
  }
  const bool is_fixed = fixed.size != 0U && fixed.size <= scientific.size;
  text.append((is_fixed ? fixed : scientific).view());
}

/// Shortest decimal that becomes `number`, which is finite and above zero.
template <AnyMinifloat T> void append_shortest(NumberText& text, T number) noexcept {
  const DefaultArithmetic arithmetic;  // for scan_decimal(), as in scan_number()
  const auto value = static_cast<double>(number);
  // One digit more each time. Any 17 digits suffice for binary64, hence for every format.
  for (int count = 1; count <= 17; ++count) {
    std::array<char, 32> buffer;
    char* const begin = buffer.data();
    const auto rounded = std::to_chars(begin, begin + buffer.size(), value,
                                       std::chars_format::scientific, count - 1);
    const DecimalDigits nearest(begin, rounded.ptr);
    std::uint64_t digits = 0;
    DecimalDigits source = nearest;
    for (int i = 0; i < count; ++i) {
      digits = digits * 10U + static_cast<std::uint64_t>(source.next() - '0');
    }
    // The nearest decimal of so many digits. Where the gap below a number is narrower than the one
    // above, at powers of two, the decimal may lie beyond the former while the next one up, further
    // away, is within the latter.
    for (const std::uint64_t candidate : {digits, digits + 1U}) {
      std::string written = std::to_string(candidate);
      const auto unit = static_cast<int>(nearest.exponent) - (count - 1);
      const auto exponent = unit + static_cast<int>(written.size()) - 1;
      const std::string scaled = written + 'e' + std::to_string(unit);
      const ScannedNumber back = scan_decimal(scaled.data(), scaled.data() + scaled.size());
      if (T(back.value).bits() != number.bits()) continue;
      written.erase(written.find_last_not_of('0') + 1U);
      append_decimal(text, written, exponent, value);
      return;
    }
  }
}

template <AnyMinifloat T> [[nodiscard]] NumberText number_text(T value) noexcept {
  NumberText text;
  if (signbit(value)) text.append('-');
  const T magnitude = abs(value);
  if (isnan(value)) {
    text.append("nan");
  } else if (isinf(value)) {
    text.append("inf");
  } else if (static_cast<double>(value) == 0.0) {
    text.append('0');
  } else {
    append_shortest(text, magnitude);
  }
  return text;
}

}  // namespace detail

/// Reads a number from the beginning of [first, last), in the manner of std::from_chars: a minus
/// sign may lead, a plus sign or a space may not.
///
/// The text is rounded once, however long it is, to nearest, ties to even; this is not always what
/// rounding it to binary64 and on to the format would give. What lies beyond the largest finite
/// number, `inf` included, becomes what `overflow` says; no text is out of range.
/// @return in `ptr` the first character behind the number; if there is no number, `first` and
///         std::errc::invalid_argument, and `value` is as it was. `nan` is no number in a format
///         without a NaN.
template <AnyMinifloat T>
std::from_chars_result from_chars(const char* first, const char* last, T& value,
                                  Overflow overflow = Overflow::infinity_or_nan) noexcept {
  const detail::ScannedNumber number = detail::scan_number(first, last);
  const bool is_absent = number.end == nullptr;
  // By the bits: -ffast-math would answer that there is no NaN.
  const bool is_nan = std::bit_cast<std::uint64_t>(number.value) << 1 > 0xffe0'0000'0000'0000U;
  if (is_absent || (is_nan && !T::format.has_nan())) {
    return {first, std::errc::invalid_argument};
  }
  value = T::from_double(number.value, overflow);
  return {number.end, std::errc{}};
}

/// The number that a text stands for, rounded as by from_chars(). One plus sign may lead.
/// @throws std::invalid_argument naming the text and the format, if all of the text is not one
///         number.
template <AnyMinifloat T>
[[nodiscard]] T parse(std::string_view text, Overflow overflow = Overflow::infinity_or_nan) {
  const bool has_plus = text.starts_with('+') && !text.starts_with("+-");
  const char* const last = text.data() + text.size();
  T value;
  const auto result = from_chars(text.data() + (has_plus ? 1 : 0), last, value, overflow);
  if (result.ec != std::errc{} || result.ptr != last) {
    throw std::invalid_argument("unit_scaling::parse: \"" + std::string(text) +
                                "\" is not a number of " + std::string(storage_name<T>));
  }
  return value;
}

/// Writes the shortest decimal that from_chars() turns into the same number, of several the nearest
/// one, in the manner of std::to_chars: `0.1`, `448`, `3e+38`, `-0`, `inf`, `nan`. The digits are
/// fewer than those of the equal float, and as many as the format can tell apart.
/// @return in `ptr` the end of what was written, or `last` and std::errc::value_too_large.
template <AnyMinifloat T> std::to_chars_result to_chars(char* first, char* last, T value) noexcept {
  const detail::NumberText text = detail::number_text(value);
  if (last - first < static_cast<std::ptrdiff_t>(text.size)) {
    return {last, std::errc::value_too_large};
  }
  return {std::copy_n(text.characters.data(), text.size, first), std::errc{}};
}

/// What to_chars() writes.
template <AnyMinifloat T> [[nodiscard]] std::string to_string(T value) {
  return std::string(detail::number_text(value).view());
}

/// Reads a number, rounded as by from_chars(), behind white space (if the stream skips it) and a
/// sign. It takes all characters that may belong to one and, if together they are not one, sets
/// failbit and makes `value` the number of code 0. The locale is of no matter.
template <FormatSpec spec> std::istream& operator>>(std::istream& stream, Minifloat<spec>& value) {
  const std::istream::sentry sentry(stream);
  if (!sentry) return stream;
  std::string text;
  bool is_hexadecimal = false;
  // A sign belongs to a number at its beginning and behind the letter of its exponent.
  bool takes_sign = true;
  constexpr int end = std::istream::traits_type::eof();
  for (int next = stream.peek(); next != end; next = stream.peek()) {
    const char character = std::istream::traits_type::to_char_type(next);
    const char lower = detail::to_lower(character);
    const bool is_sign = character == '+' || character == '-';
    const bool is_letter = lower >= 'a' && lower <= 'z';
    if (is_sign ? !takes_sign : !is_letter && !detail::is_digit(character) && character != '.') {
      break;
    }
    is_hexadecimal = is_hexadecimal || lower == 'x';
    takes_sign = lower == (is_hexadecimal ? 'p' : 'e');
    text += character;
    stream.ignore();
  }
  const char* const last = text.data() + text.size();
  const bool has_plus = text.starts_with('+') && !text.starts_with("+-");
  const auto result = from_chars(text.data() + (has_plus ? 1 : 0), last, value);
  if (result.ec != std::errc{} || result.ptr != last) {
    value = Minifloat<spec>();
    stream.setstate(std::ios_base::failbit);
  }
  return stream;
}

}  // namespace UNIT_SCALING_NAMESPACE

#if defined(__cpp_lib_format)
/// Formats a `Minifloat`: without a format specification as unit_scaling::to_string(), with one as
/// the equal binary64 number.
template <unit_scaling::FormatSpec spec>
struct std::formatter<unit_scaling::Minifloat<spec>, char> : std::formatter<double, char> {
  /// Reads a format specification of floating-point numbers.
  constexpr auto parse(std::format_parse_context& context) {
    is_shortest_ = context.begin() == context.end() || *context.begin() == '}';
    return std::formatter<double, char>::parse(context);
  }

  /// Writes `value` by the specification.
  template <class Context>
  auto format(unit_scaling::Minifloat<spec> value, Context& context) const {
    if (!is_shortest_) {
      return std::formatter<double, char>::format(static_cast<double>(value), context);
    }
    const std::string text = unit_scaling::to_string(value);
    return std::copy(text.begin(), text.end(), context.out());
  }

 private:
  bool is_shortest_ = true;
};
#endif

UNIT_SCALING_IEEE_END
