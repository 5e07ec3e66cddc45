// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Block formats: numbers of eight bits or fewer that share a power of two in
/// blocks of 32.
///
/// The formats are those of the OCP Microscaling Formats (MX) Specification, revision 1.0. Element
/// i of a block stands for X P_i, where X is the scale of the block, in E8M0, and P_i a number in
/// the element format.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/packed.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/formats/stochastic_rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// The element INT8 of the MX specification: an integer of two's complement times 2^-6. Encoding
/// gives -127 to 127 only, so that the range is symmetric; -128 decodes to -2. It has one zero.
class MxInt8 {
 public:
  using storage_type = std::uint8_t;

  /// Zero.
  constexpr MxInt8() = default;
  /// The number that a code, an integer of two's complement, stands for.
  [[nodiscard]] static constexpr MxInt8 from_bits(std::uint8_t bits) noexcept {
    MxInt8 result;
    result.bits_ = bits;
    return result;
  }
  /// The code.
  [[nodiscard]] constexpr std::uint8_t bits() const noexcept { return bits_; }
  /// The number in binary32, exactly.
  [[nodiscard]] constexpr explicit operator float() const noexcept {
    return static_cast<float>(static_cast<std::int8_t>(bits_)) * 0x1p-6F;
  }
  /// Equality of numbers, which is that of codes.
  friend constexpr bool operator==(MxInt8, MxInt8) = default;

 private:
  std::uint8_t bits_ = 0;
};

/// A format for the elements of a block. The specification has float8_e4m3fn, float8_e5m2,
/// float6_e2m3fn, float6_e3m2fn, float4_e2m1fn and MxInt8. Any other `Minifloat` of up to eight
/// bits will do if binary32 holds its smallest number times the smallest scale, 2^-127.
template <class E>
concept MxElement = std::same_as<E, MxInt8> ||
    (AnyMinifloat<E>&& E::format.bits() <= 8 && E::format.has_zero() &&
     E::format.min_subnormal_exponent() >= -22);

/// How numbers are encoded in blocks.
struct MxEncodeOptions {
  /// Of the scale of each block.
  ScaleRounding scale_rounding = ScaleRounding::floor;
  /// Of the elements, after division by the scale.
  Rounding rounding = Rounding::nearest_even;
  /// The random bits of Rounding::stochastic, which cannot do without. Elements are numbered
  /// through the rows.
  std::optional<StochasticRounding> random = std::nullopt;
};

namespace detail {

/// The format in which elements are computed, and how its codes become codes of the element.
template <class E> struct MxCodec {
  static constexpr FormatSpec spec = E::format;
  static constexpr std::uint32_t max_code = spec.max_finite_code();
  [[gnu::always_inline]] static constexpr uint32x16 to_element(uint32x16 code) { return code; }
  [[gnu::always_inline]] static constexpr uint32x16 from_element(uint32x16 code) { return code; }
};
template <> struct MxCodec<MxInt8> {
  /// Of E1M7, the subnormal numbers are the multiples of 2^-6 below two: the magnitudes of INT8.
  static constexpr FormatSpec spec = FormatSpec::finite(1, 7);
  static constexpr std::uint32_t max_code = 127;
  static constexpr int sign_shift = spec.magnitude_bits();

  /// Sign and magnitude to two's complement.
  [[gnu::always_inline]] static uint32x16 to_element(uint32x16 code) {
    const uint32x16 negate = uint32x16{} - (code >> sign_shift);
    return ((lesser<uint32x16>(code & spec.magnitude_mask(), max_code) ^ negate) - negate) & 0xffU;
  }
  /// The reverse.
  [[gnu::always_inline]] static uint32x16 from_element(uint32x16 code) {
    const uint32x16 sign = code >> 7;
    const uint32x16 negate = uint32x16{} - sign;
    return (((code ^ negate) - negate) & 0xffU) | (sign << sign_shift);
  }
};

/// Where the elements are kept: packed if that saves memory.
template <class E> struct MxElements { using type = std::vector<E>; };
template <PackableMinifloat E> struct MxElements<E> { using type = PackedArray<E>; };

/// The exponents of the scales are from minus this to this.
inline constexpr int max_scale_exponent = 127;
/// Exponent of the smallest positive number of binary32, which is subnormal.
inline constexpr int min_float_exponent = -149;

/// Exponent of the scale of a block, of which `amax` has the bits of the largest magnitude, finite.
/// A block of zeros has the smallest scale.
template <class E>
[[nodiscard]] constexpr int scale_exponent(std::uint32_t amax, ScaleRounding rounding) noexcept {
  using Codec = MxCodec<E>;
  constexpr std::uint32_t max_element = decode_lanes(Codec::spec, Codec::max_code);
  constexpr int max_element_exponent =
      static_cast<int>(max_element >> float_mantissa_bits) - float_bias;
  int exponent = static_cast<int>(amax >> float_mantissa_bits) - float_bias;
  std::uint32_t fraction = amax;
  if (amax < float_hidden_bit) {
    // Subnormal in binary32: a count of last places, whose leading bit is moved to its usual place.
    const auto width = static_cast<int>(std::bit_width(amax));
    exponent = min_float_exponent + width - 1;
    fraction = amax << (float_mantissa_bits + 1 - width);
  }
  const bool exceeds_max = (fraction & float_fraction_mask) > (max_element & float_fraction_mask);
  exponent -= max_element_exponent;
  if (rounding == ScaleRounding::round_up && exceeds_max) ++exponent;
  return std::clamp(exponent, -max_scale_exponent, max_scale_exponent);
}

/// The bits of finite binary32 numbers, divided by 2^exponent, exactly, unless the result is below
/// 2^-126 and not zero: that becomes 2^-126, which rounds to an element as it would.
/// @pre no result overflows binary32.
[[nodiscard, gnu::always_inline]] inline uint32x16 divide_by_power_of_two(uint32x16 bits,
                                                                          int exponent) noexcept {
  const uint32x16 magnitude = bits & float_magnitude_mask;
  // Numbers subnormal in binary32 count its last places. By integers, for the processor may flush
  // them. The conversion is exact, and its result is normal.
  const int32x16 is_subnormal = is_below(magnitude, float_hidden_bit);
  const auto counted =
      bit_cast_to<uint32x16>(convert_to<float32x16>(bit_cast_to<int32x16>(magnitude)));
  const uint32x16 normal = select(is_subnormal, counted, magnitude);
  const int32x16 difference = select(is_subnormal, splat<int32x16>(min_float_exponent - exponent),
                                     splat<int32x16>(-exponent));
  const int32x16 field = bit_cast_to<int32x16>(normal >> float_mantissa_bits) + difference;
  uint32x16 result = normal + (bit_cast_to<uint32x16>(difference) << float_mantissa_bits);
  result = select(is_less(field, splat<int32x16>(1)), splat<uint32x16>(float_hidden_bit), result);
  result = select(is_below(magnitude, 1U), magnitude, result);
  return result | (bits & float_sign_mask);
}

/// The bits of binary32 numbers that are zero, normal, infinite or NaN, times 2^exponent: exactly,
/// or infinity where that is too large.
/// @pre no result has bits below the last place of binary32, 2^-149.
[[nodiscard, gnu::always_inline]] inline uint32x16 multiply_by_power_of_two(uint32x16 bits,
                                                                            int exponent) noexcept {
  const uint32x16 magnitude = bits & float_magnitude_mask;
  const auto exponent_bits = [](int by) {
    return static_cast<std::uint32_t>(by) << float_mantissa_bits;
  };
  const int32x16 field = bit_cast_to<int32x16>(magnitude >> float_mantissa_bits) + exponent;
  uint32x16 result = magnitude + exponent_bits(exponent);
  const uint32x16 infinity = splat<uint32x16>(float_infinity_bits);
  result = select(is_less(splat<int32x16>(254), field), infinity, result);
  // A number subnormal in binary32 is a count of its last places, a whole number.
  const int32x16 is_subnormal = is_less(field, splat<int32x16>(1));
  const uint32x16 count =
      select(is_subnormal, magnitude + exponent_bits(exponent - min_float_exponent), uint32x16{});
  const auto counted = bit_cast_to<uint32x16>(convert_to<int32x16>(bit_cast_to<float32x16>(count)));
  result = select(is_subnormal, counted, result);
  const int32x16 stays = is_below(magnitude, 1U) | is_above(magnitude, float_infinity_bits - 1U);
  return select(stays, magnitude, result) | (bits & float_sign_mask);
}

/// Random words of elements in ascending order, drawn by the group.
class GroupedWords {
 public:
  explicit GroupedWords(const StochasticRounding& random) : random_(random) {}

  [[nodiscard, gnu::always_inline]] uint32x16 sixteen_from(std::uint64_t element) {
    const std::size_t size = random_.group_size();
    uint32x16 result{};
    for (std::size_t lane = 0; lane < lanes; ++lane, ++element) {
      if (element / size != group_) {
        group_ = element / size;
        random_.for_group(group_ * size, [&](std::size_t vector, uint32x16 words) {
          store(words, &words_[vector * lanes]);
        });
      }
      result[lane] = words_[element % size];
    }
    return result;
  }

 private:
  StochasticRounding random_;
  std::uint64_t group_ = std::numeric_limits<std::uint64_t>::max();
  /// As many as the largest group has.
  std::array<std::uint32_t, 16 * lanes> words_{};
};

}  // namespace detail

/// An array of `rows` by `columns` numbers in blocks of `block_size` along the columns; the last
/// block of a row is shorter where the columns are no multiple of it. Takes a byte for the scale of
/// each block and for each element; elements narrower than a byte are packed (see packed.hpp).
template <MxElement E, std::size_t block_size_ = 32> class MxArray {
  static_assert(block_size_ > 0);

 public:
  using value_type = E;
  /// A vector or packed array of elements, row by row.
  using Elements = typename detail::MxElements<E>::type;
  /// Number of elements that share a scale.
  static constexpr std::size_t block_size = block_size_;

  /// An array without elements.
  MxArray() = default;
  /// One row of zeros.
  explicit MxArray(std::size_t size) : MxArray(1, size) {}
  /// An array of zeros.
  /// @throws ShapeError if std::size_t cannot count eight bits for each element.
  MxArray(std::size_t rows, std::size_t columns)
      : rows_(rows),
        columns_(columns),
        scales_(countable(rows, columns) == 0 ? 0 : rows * blocks_per_row()),
        elements_(rows * columns) {}
  /// An array that is encoded already. `scales` has one scale for each block, row by row.
  /// @throws std::invalid_argument if there are not as many scales or elements as the array has.
  MxArray(std::size_t rows, std::size_t columns, std::vector<float8_e8m0fnu> scales,
          Elements elements)
      : rows_(rows), columns_(columns), scales_(std::move(scales)), elements_(std::move(elements)) {
    check_count("unit_scaling::MxArray", "elements", size_product("MxArray", {rows, columns}),
                elements_.size());
    check_count("unit_scaling::MxArray", "scales",
                size_product("MxArray", {rows, blocks_per_row()}), scales_.size());
  }

  MxArray(const MxArray&) = default;
  MxArray& operator=(const MxArray&) = default;
  ~MxArray() = default;
  /// Leaves the other one without elements.
  MxArray(MxArray&& other) noexcept
      : rows_(std::exchange(other.rows_, 0)),
        columns_(std::exchange(other.columns_, 0)),
        scales_(std::move(other.scales_)),
        elements_(std::move(other.elements_)) {}
  MxArray& operator=(MxArray&& other) noexcept {
    MxArray moved(std::move(other));
    std::swap(rows_, moved.rows_);
    std::swap(columns_, moved.columns_);
    std::swap(scales_, moved.scales_);
    std::swap(elements_, moved.elements_);
    return *this;
  }

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t columns() const noexcept { return columns_; }
  /// Number of elements.
  [[nodiscard]] std::size_t size() const noexcept { return rows_ * columns_; }
  /// Number of scales that a row has.
  [[nodiscard]] std::size_t blocks_per_row() const noexcept {
    return columns_ / block_size + (columns_ % block_size != 0 ? 1 : 0);
  }
  /// Memory that scales and elements take, in bytes.
  [[nodiscard]] std::size_t bytes() const noexcept {
    if constexpr (PackableMinifloat<E>) {
      return scales_.size() + elements_.bytes().size();
    } else {
      return scales_.size() + elements_.size();
    }
  }
  /// One scale for each block, row by row.
  [[nodiscard]] std::span<const float8_e8m0fnu> scales() const& noexcept { return scales_; }
  std::span<const float8_e8m0fnu> scales() const&& = delete;  // they would outlive a temporary
  /// The elements before multiplication by the scales, row by row.
  [[nodiscard]] const Elements& elements() const& noexcept { return elements_; }
  [[nodiscard]] Elements elements() && noexcept { return std::move(elements_); }

  /// Rounds numbers, row by row: finds the scale of each block, divides by it, which is exact, and
  /// rounds once to the element format. What lies beyond its largest number saturates.
  ///
  /// Scales are clamped to 2^-127 and 2^127. A block of zeros has the scale 2^-127. If a number of
  /// a block is infinite or NaN, the scale is NaN and the elements are zero, as in microxcaling; by
  /// the specification, every number of such a block is NaN.
  /// Zeros keep their sign, and so does what rounds to zero, in formats with negative zero.
  /// @throws std::invalid_argument if there are not size() numbers, or for stochastic rounding
  ///         without its bits.
  void encode(std::span<const float> in, const MxEncodeOptions& options = {}) {
    check_count("unit_scaling::MxArray::encode", "numbers", size(), in.size());
    const DefaultArithmetic arithmetic;
    std::optional<detail::GroupedWords> words;
    if (options.rounding == Rounding::stochastic) {
      if (!options.random) {
        throw std::invalid_argument(
            "unit_scaling::MxArray::encode: stochastic rounding, expected MxEncodeOptions::random");
      }
      words.emplace(*options.random);
    }
    for_each_block([&](std::size_t block, std::size_t first, std::size_t count) {
      // Padded to whole vectors by zeros, which change no largest magnitude.
      const float* numbers = in.data() + first;
      float padded[padded_size];
      if (count < padded_size) {
        std::fill(std::copy_n(numbers, count, padded), std::end(padded), 0.0F);
        numbers = padded;
      }
      E codes[padded_size] = {};
      const std::uint32_t amax = largest_magnitude(numbers);
      if (amax >= detail::float_infinity_bits) {
        scales_[block] = std::numeric_limits<float8_e8m0fnu>::quiet_NaN();
      } else {
        const int exponent = detail::scale_exponent<E>(amax, options.scale_rounding);
        scales_[block] = float8_e8m0fnu::from_bits(
            static_cast<std::uint8_t>(exponent + detail::max_scale_exponent));
        for (std::size_t i = 0; i < count; i += lanes) {
          const uint32x16 scaled = detail::divide_by_power_of_two(
              bit_cast_to<uint32x16>(load<float32x16>(numbers + i)), exponent);
          const uint32x16 random = words ? words->sixteen_from(first + i) : uint32x16{};
          store_codes(Codec::to_element(detail::encode_lanes(Codec::spec, Overflow::saturate,
                                                             options.rounding, scaled, random)),
                      codes + i);
        }
      }
      write_elements(first, std::span<const E>(codes, count));
    });
  }

  /// The numbers in binary32, row by row. Each is exact, or infinite if beyond binary32, which
  /// encode() makes none of. Every number of a block whose scale is NaN is NaN.
  /// @throws std::invalid_argument if there is not room for size() numbers.
  void decode(std::span<float> out) const {
    check_count("unit_scaling::MxArray::decode", "numbers", size(), out.size());
    for_each_block([&](std::size_t block, std::size_t first, std::size_t count) {
      float* const to = out.data() + first;
      if (isnan(scales_[block])) {
        std::fill_n(to, count, std::numeric_limits<float>::quiet_NaN());
        return;
      }
      const int exponent = int{scales_[block].bits()} - detail::max_scale_exponent;
      float padded[padded_size];
      float* const numbers = count < padded_size ? padded : to;
      E codes[padded_size] = {};
      read_elements(first, std::span<E>(codes, count));
      for (std::size_t i = 0; i < count; i += lanes) {
        const uint32x16 bits =
            detail::decode_lanes(Codec::spec, Codec::from_element(load_codes(codes + i)));
        store(bit_cast_to<float32x16>(detail::multiply_by_power_of_two(bits, exponent)),
              numbers + i);
      }
      if (numbers == padded) std::copy_n(padded, count, to);
    });
  }

 private:
  using Codec = detail::MxCodec<E>;
  static_assert(sizeof(E) == 1);
  /// A block in whole vectors.
  static constexpr std::size_t padded_size = (block_size + lanes - 1) / lanes * lanes;

  /// The number of elements. Asked first of all: there are no more blocks than elements.
  [[nodiscard]] static std::size_t countable(std::size_t rows, std::size_t columns) {
    const std::size_t count = size_product("MxArray", {rows, columns});
    static_cast<void>(size_product("MxArray", {count, 8}));
    return count;
  }

  /// Calls `body(block, first, count)` for each block, row by row: its number, its first element
  /// and how many it has.
  template <class Body> void for_each_block(const Body& body) const {
    std::size_t block = 0;
    for (std::size_t row = 0; row < rows_; ++row) {
      for (std::size_t column = 0; column < columns_; column += block_size) {
        body(block++, row * columns_ + column, std::min(block_size, columns_ - column));
      }
    }
  }

  /// Bits of the largest magnitude, which are an infinity's or a NaN's if there is one.
  [[nodiscard]] static std::uint32_t largest_magnitude(const float* numbers) noexcept {
    int32x16 largest{};
    for (std::size_t i = 0; i < padded_size; i += lanes) {
      const auto magnitude = bit_cast_to<int32x16>(
          bit_cast_to<uint32x16>(load<float32x16>(numbers + i)) & detail::float_magnitude_mask);
      largest = select(is_less(largest, magnitude), magnitude, largest);
    }
    std::int32_t result = 0;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      result = std::max(result, static_cast<std::int32_t>(largest[lane]));
    }
    return static_cast<std::uint32_t>(result);
  }

  [[gnu::always_inline]] static void store_codes(uint32x16 codes, E* to) noexcept {
    const auto bytes = convert_to<uint8x16>(codes);
    // Through void: a class with a constructor is still trivially copyable.
    std::memcpy(static_cast<void*>(to), &bytes, sizeof(bytes));
  }
  [[nodiscard, gnu::always_inline]] static uint32x16 load_codes(const E* from) noexcept {
    uint8x16 bytes;
    std::memcpy(&bytes, from, sizeof(bytes));
    return convert_to<uint32x16>(bytes);
  }

  void write_elements(std::size_t first, std::span<const E> values) {
    if constexpr (PackableMinifloat<E>) {
      elements_.write(first, values);
    } else {
      std::copy(values.begin(), values.end(), elements_.data() + first);
    }
  }
  void read_elements(std::size_t first, std::span<E> values) const {
    if constexpr (PackableMinifloat<E>) {
      elements_.read(first, values);
    } else {
      std::copy_n(elements_.data() + first, values.size(), values.data());
    }
  }

  void check_count(const char* function, const char* what, std::size_t expected,
                   std::size_t got) const {
    if (got == expected) return;
    throw std::invalid_argument(std::string(function) + ": " + std::to_string(rows_) + " rows of " +
                                std::to_string(columns_) + " columns, in blocks of " +
                                std::to_string(block_size) + ", have " + std::to_string(expected) +
                                " " + what + ", got " + std::to_string(got));
  }

  std::size_t rows_ = 0;
  std::size_t columns_ = 0;
  std::vector<float8_e8m0fnu> scales_;
  Elements elements_;
};

/// MXFP8 with E4M3 elements of the MX specification, 8.25 bits for each number.
using mxfp8_e4m3 = MxArray<float8_e4m3fn>;
/// MXFP8 with E5M2 elements of the MX specification, 8.25 bits for each number.
using mxfp8_e5m2 = MxArray<float8_e5m2>;
/// MXFP6 with E2M3 elements of the MX specification, 6.25 bits for each number.
using mxfp6_e2m3 = MxArray<float6_e2m3fn>;
/// MXFP6 with E3M2 elements of the MX specification, 6.25 bits for each number.
using mxfp6_e3m2 = MxArray<float6_e3m2fn>;
/// MXFP4 of the MX specification, 4.25 bits for each number.
using mxfp4_e2m1 = MxArray<float4_e2m1fn>;
/// MXINT8 of the MX specification, 8.25 bits for each number.
using mxint8 = MxArray<MxInt8>;

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
