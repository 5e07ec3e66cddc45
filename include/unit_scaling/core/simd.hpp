// SPDX-License-Identifier: MIT
/// @file
/// Layer: core. Vectors of sixteen lanes.
///
/// Every vector has sixteen lanes whatever the instruction set, so a reduction adds its terms in
/// the same order on every processor and gives the same bits: AVX-512 holds a vector in one
/// register, AVX2 in two, SSE2 and NEON in four. A vector is one of the compiler's extensions where
/// the compiler keeps that in registers, else it consists of halves. The functions `select`,
/// `splat` and `bit_cast_to` also take scalars, so that one generic source serves both a scalar and
/// a vector.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/wide_vector.hpp"

// The warning that the calling convention of a wide vector depends on the instruction set concerns
// calls across translation units compiled with different flags. Every function below is inlined,
// and so should be every function that takes these vectors by value. The compilers report it where
// a caller is expanded, therefore a push and pop around these definitions would not silence it.
#if defined(__GNUC__) && !defined(__AVX512F__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Number of lanes in every vector of the library, on every instruction set.
inline constexpr std::size_t lanes = 16;

namespace detail {

/// Bytes of the widest vector of its extensions that the compiler keeps in registers. Clang splits
/// wider ones by itself; and in an expression on them it fuses products and sums, which it would
/// not do across the operators of a class.
#if defined(__AVX512F__) || defined(__clang__)
inline constexpr std::size_t widest_vector = 64;
#elif defined(__AVX2__)
inline constexpr std::size_t widest_vector = 32;
#else
inline constexpr std::size_t widest_vector = 16;
#endif

/// `type`: a vector of so many lanes.
template <class T, std::size_t count, bool is_wide = (count * sizeof(T) > widest_vector)>
struct VectorOf {
  using type [[gnu::vector_size(count * sizeof(T))]] = T;
};
template <class T, std::size_t count> struct VectorOf<T, count, true> {
  using type = WideVector<typename VectorOf<T, count / 2>::type>;
};
template <class T, std::size_t count> using vector_of = typename VectorOf<T, count>::type;

}  // namespace detail

/// Sixteen binary32 numbers.
using float32x16 = detail::vector_of<float, 16>;
/// Sixteen 32-bit unsigned integers.
using uint32x16 = detail::vector_of<std::uint32_t, 16>;
/// Sixteen 32-bit signed integers; also the type of a mask, whose lanes are 0 or -1.
using int32x16 = detail::vector_of<std::int32_t, 16>;
/// Sixteen 16-bit unsigned integers.
using uint16x16 = detail::vector_of<std::uint16_t, 16>;
/// Sixteen 8-bit unsigned integers.
using uint8x16 = detail::vector_of<std::uint8_t, 16>;
/// Eight 32-bit unsigned integers.
using uint32x8 = detail::vector_of<std::uint32_t, 8>;

/// Binary64 numbers that fill a register, four without AVX-512, and as many binary32 numbers.
#if defined(__AVX512F__)
using DoubleRegister = double __attribute__((vector_size(64)));
using FloatsToWiden = float __attribute__((vector_size(32)));
#else
using DoubleRegister = double __attribute__((vector_size(32)));
using FloatsToWiden = float __attribute__((vector_size(16)));
#endif
inline constexpr std::size_t double_lanes = sizeof(DoubleRegister) / sizeof(double);

static_assert(sizeof(float32x16) == lanes * sizeof(float));
static_assert(sizeof(uint32x16) == lanes * sizeof(std::uint32_t));
static_assert(sizeof(int32x16) == lanes * sizeof(std::int32_t));
static_assert(sizeof(uint16x16) == lanes * sizeof(std::uint16_t));
static_assert(sizeof(uint8x16) == lanes * sizeof(std::uint8_t));

namespace detail {
template <class V, class T>
inline constexpr bool is_vector_of =
    std::same_as<V, vector_of<T, 16>> || std::same_as<V, vector_of<T, 8>> ||
    std::same_as<V, vector_of<T, 4>>;
}

/// True for the vector types of this file, and for their halves and quarters.
template <class V>
concept SimdVector = detail::is_vector_of<V, float> || detail::is_vector_of<V, std::uint32_t> ||
    detail::is_vector_of<V, std::int32_t> || detail::is_vector_of<V, std::uint16_t> ||
    detail::is_vector_of<V, std::uint8_t>;

/// Type of one lane of the vector `V`, or `V` itself when `V` is a scalar.
template <class V> struct Lane {
  using type = V;  ///< A scalar is its own single lane.
};
/// @copydoc Lane
template <SimdVector V> struct Lane<V> {
  using type = std::remove_cvref_t<decltype(std::declval<const V&>()[0])>;  ///< Type of an element.
};
/// Shorthand for `typename Lane<V>::type`.
template <class V> using lane_t = typename Lane<V>::type;

/// Number of lanes of the vector `V`.
template <SimdVector V> inline constexpr std::size_t lane_count = sizeof(V) / sizeof(lane_t<V>);
/// True for vectors of integers.
template <SimdVector V> inline constexpr bool is_integer_vector = std::integral<lane_t<V>>;
/// A vector of half as many lanes.
template <SimdVector V> using half_t = detail::vector_of<lane_t<V>, lane_count<V> / 2>;

namespace detail {

/// Whether V is a WideVector.
template <SimdVector V> inline constexpr bool is_wide = std::is_class_v<V>;
/// Whether it is one of two registers. Functions below do such a one at once: each call that is
/// inlined is more for a compiler to remember.
template <SimdVector V> inline constexpr bool is_pair = false;
template <SimdVector V>
requires(is_wide<V>) inline constexpr bool is_pair<V> = !is_wide<decltype(V::lower)>;

/// Of the lanes of x and, after them, of y: lane `first` and every one that is `step` further.
template <int first, int step, class V, int... i>
[[nodiscard, gnu::always_inline]] inline auto every(V x, V y,
                                                    std::integer_sequence<int, i...>) noexcept {
  return __builtin_shufflevector(x, y, (first + step * i)...);
}

}  // namespace detail

/// The first lanes of a vector, half of them; of a number, which stands for lanes of it, itself.
template <class V> [[nodiscard, gnu::always_inline]] inline auto lower_half(V value) noexcept {
  if constexpr (!SimdVector<V>) {
    return value;
  } else if constexpr (detail::is_wide<V>) {
    return value.lower;
  } else {
    constexpr int half = static_cast<int>(lane_count<V> / 2);
    return detail::every<0, 1>(value, value, std::make_integer_sequence<int, half>{});
  }
}
/// The last lanes, likewise.
template <class V> [[nodiscard, gnu::always_inline]] inline auto upper_half(V value) noexcept {
  if constexpr (!SimdVector<V>) {
    return value;
  } else if constexpr (detail::is_wide<V>) {
    return value.upper;
  } else {
    constexpr int half = static_cast<int>(lane_count<V> / 2);
    return detail::every<half, 1>(value, value, std::make_integer_sequence<int, half>{});
  }
}
/// The vector with these halves.
template <SimdVector Half>
[[nodiscard, gnu::always_inline]] inline auto join(Half lower, Half upper) noexcept {
  constexpr std::size_t count = 2 * lane_count<Half>;
  using V = detail::vector_of<lane_t<Half>, count>;
  if constexpr (detail::is_wide<V>) {
    return V{lower, upper};
  } else {
    return detail::every<0, 1>(lower, upper,
                               std::make_integer_sequence<int, static_cast<int>(count)>{});
  }
}

/// The lanes of even numbers: those of x, then those of y.
template <SimdVector V> [[nodiscard, gnu::always_inline]] inline V even_lanes(V x, V y) noexcept {
  if constexpr (detail::is_wide<V>) {
    return {even_lanes(x.lower, x.upper), even_lanes(y.lower, y.upper)};
  } else {
    constexpr int count = static_cast<int>(lane_count<V>);
    return detail::every<0, 2>(x, y, std::make_integer_sequence<int, count>{});
  }
}
/// The lanes of odd numbers, likewise.
template <SimdVector V> [[nodiscard, gnu::always_inline]] inline V odd_lanes(V x, V y) noexcept {
  if constexpr (detail::is_wide<V>) {
    return {odd_lanes(x.lower, x.upper), odd_lanes(y.lower, y.upper)};
  } else {
    constexpr int count = static_cast<int>(lane_count<V>);
    return detail::every<1, 2>(x, y, std::make_integer_sequence<int, count>{});
  }
}

namespace detail {
/// Lanes of x and y in turns, from lane `first` on.
template <int first, class V, int... i>
[[nodiscard, gnu::always_inline]] inline V interleave(
    V x, V y, std::integer_sequence<int, i...> /*lanes*/) noexcept {
  constexpr int count = sizeof...(i);
  return __builtin_shufflevector(x, y, (first + i / 2 + (i % 2 == 0 ? 0 : count))...);
}

template <int... chosen, class V, int... i>
[[nodiscard, gnu::always_inline]] inline V choose_by(
    V x, V y, std::integer_sequence<int, i...> /*lanes*/) noexcept {
  constexpr int of_four[] = {chosen...};
  constexpr int count = sizeof...(i);
  return __builtin_shufflevector(
      x, y, (i / 4 * 4 + of_four[i % 4] % 4 + (of_four[i % 4] < 4 ? 0 : count))...);
}
}  // namespace detail

/// Each four lanes chosen from the four of x and of y at their place, which are 0 to 3 and 4 to 7.
template <int a, int b, int c, int d, SimdVector V>
[[nodiscard, gnu::always_inline]] inline V choose_of_fours(V x, V y) noexcept {
  if constexpr (detail::is_wide<V>) {
    return {choose_of_fours<a, b, c, d>(x.lower, y.lower),
            choose_of_fours<a, b, c, d>(x.upper, y.upper)};
  } else {
    constexpr int count = static_cast<int>(lane_count<V>);
    return detail::choose_by<a, b, c, d>(x, y, std::make_integer_sequence<int, count>{});
  }
}

/// Reads as many consecutive elements as there are lanes; `from` needs no more alignment than an
/// element.
template <SimdVector V>
[[nodiscard, gnu::always_inline]] inline V load(const lane_t<V>* from) noexcept {
  if constexpr (detail::is_wide<V> && !detail::is_pair<V>) {
    return {load<half_t<V>>(from), load<half_t<V>>(from + lane_count<V> / 2)};
  } else if constexpr (detail::is_pair<V>) {
    V vector;
    std::memcpy(&vector.lower, from, sizeof(vector.lower));
    std::memcpy(&vector.upper, from + lane_count<V> / 2, sizeof(vector.upper));
    return vector;
  } else {
    V vector;
    std::memcpy(&vector, from, sizeof(V));
    return vector;
  }
}

/// Writes consecutive elements; `to` needs no more alignment than an element.
template <SimdVector V> [[gnu::always_inline]] inline void store(V vector, lane_t<V>* to) noexcept {
  if constexpr (detail::is_wide<V> && !detail::is_pair<V>) {
    store(vector.lower, to);
    store(vector.upper, to + lane_count<V> / 2);
  } else if constexpr (detail::is_pair<V>) {
    std::memcpy(to, &vector.lower, sizeof(vector.lower));
    std::memcpy(to + lane_count<V> / 2, &vector.upper, sizeof(vector.upper));
  } else {
    std::memcpy(to, &vector, sizeof(V));
  }
}

namespace detail {
template <class V, class T, std::size_t... i>
[[nodiscard, gnu::always_inline]] constexpr V splat_each(
    T value, std::index_sequence<i...> /*lanes*/) noexcept {
  // An initialiser rather than `V{} + value`: the sum would lose a negative zero, and a subnormal
  // number where the processor flushes them.
  return V{(static_cast<void>(i), value)...};
}
}  // namespace detail

/// A vector with every lane equal to `value`, to the bit; the value itself when `V` is a scalar.
template <class V> [[nodiscard, gnu::always_inline]] constexpr V splat(lane_t<V> value) noexcept {
  if constexpr (!SimdVector<V>) {
    return value;
  } else if constexpr (detail::is_wide<V>) {
    const auto half = splat<half_t<V>>(value);
    return {half, half};
  } else {
    return detail::splat_each<V>(value, std::make_index_sequence<lane_count<V>>{});
  }
}

/// Reinterprets the bits of a scalar or of a vector as another type of the same size.
template <class To, class From>
requires(sizeof(To) == sizeof(From)) [[nodiscard, gnu::always_inline]] constexpr To
    bit_cast_to(From from) noexcept {
  if constexpr (std::same_as<To, From>) {
    return from;
  } else if constexpr (!SimdVector<From>) {
    return std::bit_cast<To>(from);
  } else if constexpr (detail::is_pair<From>) {
    return {reinterpret_cast<half_t<To>>(from.lower), reinterpret_cast<half_t<To>>(from.upper)};
  } else if constexpr (detail::is_wide<From>) {
    return {bit_cast_to<half_t<To>>(from.lower), bit_cast_to<half_t<To>>(from.upper)};
  } else {
    return reinterpret_cast<To>(from);
  }
}

/// Converts lane by lane as a `static_cast` of each lane would. An integer converts to a narrower
/// one modulo its range.
template <SimdVector To, SimdVector From>
[[nodiscard, gnu::always_inline]] inline To convert_to(From from) noexcept {
  // GCC 12 moves some of these element by element or half by half; the branches below avoid that.
#if defined(__AVX512F__)
  // With a mask of ones, for GCC 12 warns of the undefined operand inside the forms without a mask.
  constexpr __mmask16 all_lanes = 0xffff;
  constexpr bool narrows = is_integer_vector<From> && sizeof(From) == sizeof(uint32x16);
  if constexpr (std::same_as<From, uint8x16> && sizeof(To) == sizeof(uint32x16)) {
    return convert_to<To>(reinterpret_cast<int32x16>(
        _mm512_maskz_cvtepu8_epi32(all_lanes, reinterpret_cast<__m128i>(from))));
  } else if constexpr (std::same_as<From, uint16x16> && sizeof(To) == sizeof(uint32x16)) {
    return convert_to<To>(reinterpret_cast<int32x16>(
        _mm512_maskz_cvtepu16_epi32(all_lanes, reinterpret_cast<__m256i>(from))));
  } else if constexpr (narrows && std::same_as<To, uint8x16>) {
    return reinterpret_cast<To>(
        _mm512_maskz_cvtepi32_epi8(all_lanes, reinterpret_cast<__m512i>(from)));
  } else if constexpr (narrows && std::same_as<To, uint16x16>) {
    return reinterpret_cast<To>(
        _mm512_maskz_cvtepi32_epi16(all_lanes, reinterpret_cast<__m512i>(from)));
  } else {
    return __builtin_convertvector(from, To);
  }
#else
  constexpr std::size_t from_bytes = sizeof(lane_t<From>);
  constexpr std::size_t to_bytes = sizeof(lane_t<To>);
  if constexpr (detail::is_wide<To> && detail::is_wide<From>) {
    return {convert_to<half_t<To>>(from.lower), convert_to<half_t<To>>(from.upper)};
#if defined(__AVX2__)
  } else if constexpr (detail::is_wide<To> && from_bytes == 1) {
    const auto codes = reinterpret_cast<__m128i>(from);
    return {reinterpret_cast<half_t<To>>(_mm256_cvtepu8_epi32(codes)),
            reinterpret_cast<half_t<To>>(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(codes, codes)))};
  } else if constexpr (detail::is_wide<To> && from_bytes == 2) {
    return {reinterpret_cast<half_t<To>>(
                _mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(lower_half(from)))),
            reinterpret_cast<half_t<To>>(
                _mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(upper_half(from))))};
  } else if constexpr (detail::is_wide<From> && to_bytes == 1) {
    // Packing saturates, and works on each half of a register.
    const __m256i words = _mm256_packus_epi32(reinterpret_cast<__m256i>(from.lower & 0xff),
                                              reinterpret_cast<__m256i>(from.upper & 0xff));
    const __m256i bytes = _mm256_packus_epi16(words, words);
    return reinterpret_cast<To>(
        _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
#endif
  } else if constexpr ((from_bytes == 4 && to_bytes == 1) || (from_bytes == 1 && to_bytes == 4)) {
    return convert_to<To>(convert_to<detail::vector_of<std::uint16_t, lane_count<To>>>(from));
  } else if constexpr (detail::is_wide<To>) {
    constexpr int count = static_cast<int>(lane_count<From>);
    constexpr std::make_integer_sequence<int, count> each;
    return {reinterpret_cast<half_t<To>>(detail::interleave<0>(from, From{}, each)),
            reinterpret_cast<half_t<To>>(detail::interleave<count / 2>(from, From{}, each))};
  } else if constexpr (detail::is_wide<From>) {
    // Of each lane, the half that comes first.
    return even_lanes(reinterpret_cast<To>(from.lower), reinterpret_cast<To>(from.upper));
  } else {
    return __builtin_convertvector(from, To);
  }
#endif
}

/// Each number as a binary64 one.
[[nodiscard, gnu::always_inline]] inline DoubleRegister widen(FloatsToWiden narrow) noexcept {
#if defined(__AVX512F__)
  // GCC 12 makes two conversions of four and puts them together.
  return reinterpret_cast<DoubleRegister>(
      _mm512_maskz_cvtps_pd(0xff, reinterpret_cast<__m256>(narrow)));
#else
  return __builtin_convertvector(narrow, DoubleRegister);
#endif
}

/// `left < right`; the scalar counterpart of the comparison by lanes below.
template <class T>
requires std::is_arithmetic_v<T>
[[nodiscard, gnu::always_inline]] constexpr bool is_less(T left, T right) noexcept {
  return left < right;
}

/// `left < right` by lanes, as a mask of lanes 0 or -1.
template <SimdVector V>
[[nodiscard, gnu::always_inline]] inline auto is_less(V left, V right) noexcept {
  return left < right;
}

/// `mask ? if_true : if_false`; the scalar counterpart of the selection by lanes below.
template <class T>
requires std::is_arithmetic_v<T>
[[nodiscard, gnu::always_inline]] constexpr T select(bool mask, T if_true, T if_false) noexcept {
  return mask ? if_true : if_false;
}

/// Selects by lanes. Each lane of `mask` is 0 or -1, as a comparison of vectors gives it. Where the
/// thread flushes subnormal numbers, one that is chosen by a comparison of floats may become zero.
template <SimdVector V>
requires(sizeof(lane_t<V>) == 4) [[nodiscard, gnu::always_inline]] inline V
    select(detail::vector_of<std::int32_t, lane_count<V>> mask, V if_true, V if_false) noexcept {
  if constexpr (detail::is_pair<V>) {
    return {mask.lower ? if_true.lower : if_false.lower,
            mask.upper ? if_true.upper : if_false.upper};
  } else if constexpr (detail::is_wide<V>) {
    return {select(mask.lower, if_true.lower, if_false.lower),
            select(mask.upper, if_true.upper, if_false.upper)};
  } else {
    return mask ? if_true : if_false;
  }
}

// GCC 12 makes two instructions of a comparison and a selection where there is one.

/// The lesser by lanes; the right one where either is a NaN.
template <SimdVector V>
requires(std::same_as<lane_t<V>, float> || std::same_as<lane_t<V>, std::int32_t>)
    [[nodiscard, gnu::always_inline]] inline V least(V left, V right) noexcept {
  if constexpr (detail::is_wide<V>) {
    return {least(left.lower, right.lower), least(left.upper, right.upper)};
#if defined(__AVX512F__)
  } else if constexpr (std::same_as<V, float32x16>) {
    return reinterpret_cast<V>(_mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(left),
                                                   reinterpret_cast<__m512>(right)));
  } else if constexpr (std::same_as<V, int32x16>) {
    return reinterpret_cast<V>(_mm512_maskz_min_epi32(0xffff, reinterpret_cast<__m512i>(left),
                                                      reinterpret_cast<__m512i>(right)));
#elif defined(__AVX2__)
  } else if constexpr (std::same_as<V, half_t<int32x16>>) {
    return reinterpret_cast<V>(
        _mm256_min_epi32(reinterpret_cast<__m256i>(left), reinterpret_cast<__m256i>(right)));
#endif
  } else {
    return select(left < right, left, right);
  }
}

/// The greater by lanes; the right one where either is a NaN.
template <SimdVector V>
requires(std::same_as<lane_t<V>, float> || std::same_as<lane_t<V>, std::int32_t>)
    [[nodiscard, gnu::always_inline]] inline V greatest(V left, V right) noexcept {
  if constexpr (detail::is_wide<V>) {
    return {greatest(left.lower, right.lower), greatest(left.upper, right.upper)};
#if defined(__AVX512F__)
  } else if constexpr (std::same_as<V, float32x16>) {
    return reinterpret_cast<V>(_mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(left),
                                                   reinterpret_cast<__m512>(right)));
  } else if constexpr (std::same_as<V, int32x16>) {
    return reinterpret_cast<V>(_mm512_maskz_max_epi32(0xffff, reinterpret_cast<__m512i>(left),
                                                      reinterpret_cast<__m512i>(right)));
#elif defined(__AVX2__)
  } else if constexpr (std::same_as<V, half_t<int32x16>>) {
    return reinterpret_cast<V>(
        _mm256_max_epi32(reinterpret_cast<__m256i>(left), reinterpret_cast<__m256i>(right)));
#endif
  } else {
    return select(left > right, left, right);
  }
}

/// The square roots, correctly rounded; NaN of numbers below zero.
template <SimdVector V>
requires(std::same_as<lane_t<V>, float>) [[nodiscard, gnu::always_inline]] inline V
    square_root(V x) noexcept {
  constexpr std::size_t count = lane_count<V>;
  if constexpr (detail::is_wide<V>) {
    return {square_root(x.lower), square_root(x.upper)};
#if defined(__AVX512F__)
  } else if constexpr (count == 16) {
    return reinterpret_cast<V>(_mm512_maskz_sqrt_ps(0xFFFF, reinterpret_cast<__m512>(x)));
#elif defined(__AVX2__)
  } else if constexpr (count == 8) {
    return reinterpret_cast<V>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#elif defined(__SSE__)
  } else if constexpr (count == 4) {
    return reinterpret_cast<V>(_mm_sqrt_ps(reinterpret_cast<__m128>(x)));
#endif
  } else if constexpr (count > 4) {
    return join(square_root(lower_half(x)), square_root(upper_half(x)));
  } else {
    // It may set errno, which keeps compilers from using the vector instruction by themselves.
    for (std::size_t i = 0; i < count; ++i) x[i] = std::sqrt(x[i]);
    return x;
  }
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
