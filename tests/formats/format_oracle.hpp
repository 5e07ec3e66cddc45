// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. An independent account of the number formats: it decodes by the layout formula
/// with std::ldexp and encodes by a search over all codes. It shares no code with the library.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace unit_scaling_test {

/// What the codes at the upper end of a format mean.
enum class UpperEnd { infinity_and_nan, one_nan, nan_at_negative_zero, finite };

/// Layout of a format, written down by hand from its standard.
struct Layout {
  std::string name;
  int exponent_bits;
  int mantissa_bits;
  int bias;
  UpperEnd upper_end;
};

/// All codes of a format with their values.
class FormatOracle {
 public:
  explicit FormatOracle(Layout layout) : layout_(std::move(layout)) {
    const int magnitude_bits = layout_.exponent_bits + layout_.mantissa_bits;
    sign_ = std::uint32_t{1} << magnitude_bits;
    const std::uint32_t top_exponent = (sign_ - 1U) >> layout_.mantissa_bits
                                                           << layout_.mantissa_bits;
    switch (layout_.upper_end) {
      case UpperEnd::infinity_and_nan:
        max_code_ = top_exponent - 1U;
        break;
      case UpperEnd::one_nan:
        max_code_ = sign_ - 2U;
        break;
      case UpperEnd::nan_at_negative_zero:
      case UpperEnd::finite:
        max_code_ = sign_ - 1U;
        break;
    }
    // One more than the largest finite number, the number that would follow it.
    for (std::uint32_t code = 0; code <= max_code_ + 1U; ++code) {
      values_.push_back(magnitude_value(code));
    }
  }

  [[nodiscard]] const Layout& layout() const { return layout_; }
  [[nodiscard]] std::uint32_t code_count() const { return 2U * sign_; }
  [[nodiscard]] std::uint32_t sign() const { return sign_; }
  [[nodiscard]] std::uint32_t max_code() const { return max_code_; }
  /// Value of the magnitude code, up to and including the one after the largest finite number.
  [[nodiscard]] double value(std::uint32_t magnitude) const { return values_.at(magnitude); }
  [[nodiscard]] double max_finite() const { return values_.at(max_code_); }

  [[nodiscard]] bool is_infinity(std::uint32_t code) const {
    return layout_.upper_end == UpperEnd::infinity_and_nan &&
           (code & (sign_ - 1U)) == max_code_ + 1;
  }
  [[nodiscard]] bool is_nan(std::uint32_t code) const {
    if (layout_.upper_end == UpperEnd::nan_at_negative_zero) return code == sign_;
    return (code & (sign_ - 1U)) > max_code_ && !is_infinity(code);
  }
  /// The number a code stands for.
  [[nodiscard]] double decode(std::uint32_t code) const {
    if (is_nan(code)) return std::numeric_limits<double>::quiet_NaN();
    const double magnitude = is_infinity(code) ? std::numeric_limits<double>::infinity()
                                               : values_.at(code & (sign_ - 1U));
    return (code & sign_) != 0U ? -magnitude : magnitude;
  }

  /// Nearest code, ties to the even code, of a number that is not a NaN.
  [[nodiscard]] std::uint32_t encode(double number, bool saturate) const {
    const double magnitude = std::fabs(number);
    std::uint32_t code = nearest_magnitude(magnitude);
    if (code > max_code_) {
      switch (layout_.upper_end) {
        case UpperEnd::infinity_and_nan:
        case UpperEnd::one_nan:
          code = saturate ? max_code_ : max_code_ + 1U;
          break;
        case UpperEnd::nan_at_negative_zero:
          if (!saturate) return sign_;
          code = max_code_;
          break;
        case UpperEnd::finite:
          code = max_code_;
          break;
      }
    }
    if (!std::signbit(number)) return code;
    const bool drops_sign = code == 0U && layout_.upper_end == UpperEnd::nan_at_negative_zero;
    return drops_sign ? code : code | sign_;
  }

 private:
  [[nodiscard]] double magnitude_value(std::uint32_t code) const {
    const int exponent = static_cast<int>(code >> layout_.mantissa_bits);
    const std::uint32_t unit = std::uint32_t{1} << layout_.mantissa_bits;
    const std::uint32_t fraction = code & (unit - 1U);
    if (exponent == 0) return std::ldexp(fraction, 1 - layout_.bias - layout_.mantissa_bits);
    return std::ldexp(unit + fraction, exponent - layout_.bias - layout_.mantissa_bits);
  }

  [[nodiscard]] std::uint32_t nearest_magnitude(double magnitude) const {
    if (magnitude >= values_.back()) return max_code_ + 1U;
    // All codes where they are few, otherwise the two about the number in the ascending table.
    std::uint32_t first = 0;
    std::uint32_t last = max_code_ + 1U;
    if (values_.size() > 256) {
      const auto above = std::upper_bound(values_.begin(), values_.end(), magnitude);
      last = static_cast<std::uint32_t>(above - values_.begin());
      first = last - 1U;
    }
    std::uint32_t best = first;
    for (std::uint32_t code = first + 1U; code <= last; ++code) {
      const double distance = std::fabs(magnitude - values_[code]);
      const double best_distance = std::fabs(magnitude - values_[best]);
      if (distance < best_distance || (distance == best_distance && code % 2U == 0U)) best = code;
    }
    return best;
  }

  Layout layout_;
  std::uint32_t sign_ = 0;
  std::uint32_t max_code_ = 0;
  std::vector<double> values_;
};

/// Binary32 numbers where a conversion is prone to go wrong: every number of the format, every
/// midpoint, their neighbours, the largest finite number and half a place beyond it, the ends of
/// the binary32 range, subnormal numbers, zeros and infinities. Both signs. No NaN.
inline std::vector<float> critical_floats(const FormatOracle& oracle) {
  std::vector<float> result;
  const auto add = [&result](float number) {
    const float infinity = std::numeric_limits<float>::infinity();
    for (const float near :
         {std::nextafter(number, -infinity), number, std::nextafter(number, infinity)}) {
      result.push_back(near);
      result.push_back(-near);
    }
  };
  for (std::uint32_t code = 0; code <= oracle.max_code(); ++code) {
    add(static_cast<float>(oracle.value(code)));
    add(static_cast<float>(oracle.value(code) / 2 + oracle.value(code + 1) / 2));
  }
  for (int exponent = -149; exponent <= 127; ++exponent) {
    add(std::ldexp(1.0F, exponent));
    add(std::ldexp(1.5F, exponent));
  }
  add(std::numeric_limits<float>::max());
  add(std::numeric_limits<float>::infinity());
  return result;
}

/// NaNs of both signs, quiet and signalling, with various payloads, as bits of binary32.
inline std::vector<std::uint32_t> nan_bits() {
  return {0x7fc00000U, 0xffc00000U, 0x7f800001U, 0xff800001U, 0x7fffffffU,
          0xffffffffU, 0x7fa00000U, 0xffa00000U, 0x7fc12345U, 0xffedcba9U};
}

/// Pseudo-random bits: the same sequence everywhere (xorshift32 of G. Marsaglia, 2003).
class RandomBits {
 public:
  std::uint32_t operator()() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_;
  }

 private:
  std::uint32_t state_ = 2463534242U;
};

/// Makes the processor flush subnormal results and operands to zero for the lifetime of the object,
/// where the library is built for a processor that can.
class FlushSubnormals {
 public:
#if defined(__SSE__)
  static constexpr bool is_effective = true;
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040U); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }
#else
  static constexpr bool is_effective = false;
  FlushSubnormals() = default;
  ~FlushSubnormals() = default;
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

#if defined(__SSE__)
 private:
  unsigned saved_;
#endif
};

}  // namespace unit_scaling_test
