// SPDX-License-Identifier: MIT
/// @file
/// Layer: core. Sixteen-lane vectors on compiler vector extensions.
///
/// Every vector has sixteen lanes whatever the instruction set, so a reduction adds its terms in
/// the same order on every processor and gives the same bits: AVX-512 holds a vector in one
/// register, AVX2 in two, SSE2 and NEON in four. The functions `select`, `splat` and `bit_cast_to`
/// also take scalars, so that one generic source serves both a scalar and a vector.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
#endif

#include "unit_scaling/core/target.hpp"

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

/// Sixteen binary32 numbers.
using float32x16 = float __attribute__((vector_size(64)));
/// Sixteen 32-bit unsigned integers.
using uint32x16 = std::uint32_t __attribute__((vector_size(64)));
/// Sixteen 32-bit signed integers; also the type of a mask, whose lanes are 0 or -1.
using int32x16 = std::int32_t __attribute__((vector_size(64)));
/// Sixteen 16-bit unsigned integers.
using uint16x16 = std::uint16_t __attribute__((vector_size(32)));
/// Sixteen 8-bit unsigned integers.
using uint8x16 = std::uint8_t __attribute__((vector_size(16)));

/// Eight lanes of 32 bits, a register of AVX2. GCC 12 keeps wider vectors in memory there, so loops
/// whose results do not depend on the order of their elements may take these instead.
using float32x8 = float __attribute__((vector_size(32)));
/// Eight 32-bit unsigned integers.
using uint32x8 = std::uint32_t __attribute__((vector_size(32)));
/// Eight 32-bit signed integers; also the type of a mask.
using int32x8 = std::int32_t __attribute__((vector_size(32)));

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

/// True for the vector types of this file that have eight lanes.
template <class T>
concept HalfSimdVector =
    std::same_as<T, float32x8> || std::same_as<T, uint32x8> || std::same_as<T, int32x8>;

/// True for the vector types of this file.
template <class T>
concept SimdVector =
    std::same_as<T, float32x16> || std::same_as<T, uint32x16> || std::same_as<T, int32x16> ||
    std::same_as<T, uint16x16> || std::same_as<T, uint8x16> || HalfSimdVector<T>;

/// True for the vectors of integers.
template <SimdVector V>
inline constexpr bool is_integer_vector =
    !std::same_as<V, float32x16> && !std::same_as<V, float32x8>;

/// Type of one lane of the vector `V`, or `V` itself when `V` is a scalar.
template <class V> struct Lane {
  using type = V;  ///< A scalar is its own single lane.
};
/// @copydoc Lane
template <SimdVector V> struct Lane<V> {
  using type = std::remove_cvref_t<decltype(V{}[0])>;  ///< Type of an element.
};
/// Shorthand for `typename Lane<V>::type`.
template <class V> using lane_t = typename Lane<V>::type;

/// Reads sixteen consecutive elements; `from` needs no more alignment than an element.
template <SimdVector V>
[[nodiscard, gnu::always_inline]] inline V load(const lane_t<V>* from) noexcept {
  V vector;
  std::memcpy(&vector, from, sizeof(V));
  return vector;
}

/// Writes sixteen consecutive elements; `to` needs no more alignment than an element.
template <SimdVector V> [[gnu::always_inline]] inline void store(V vector, lane_t<V>* to) noexcept {
  std::memcpy(to, &vector, sizeof(V));
}

/// A vector with every lane equal to `value`, to the bit; the value itself when `V` is a scalar.
template <class V> [[nodiscard, gnu::always_inline]] constexpr V splat(lane_t<V> value) noexcept {
  if constexpr (HalfSimdVector<V>) {
    return V{value, value, value, value, value, value, value, value};
  } else if constexpr (SimdVector<V>) {
    // An initialiser rather than `V{} + value`: the sum would lose a negative zero, and a subnormal
    // number where the processor flushes them.
    return V{value, value, value, value, value, value, value, value,
             value, value, value, value, value, value, value, value};
  } else {
    return value;
  }
}

/// Reinterprets the bits of a scalar or of a vector as another type of the same size.
template <class To, class From>
requires(sizeof(To) == sizeof(From)) [[nodiscard, gnu::always_inline]] constexpr To
    bit_cast_to(From from) noexcept {
  if constexpr (std::same_as<To, From>) {
    return from;
  } else if constexpr (SimdVector<From>) {
    return reinterpret_cast<To>(from);
  } else {
    return std::bit_cast<To>(from);
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
  if constexpr ((std::same_as<From, uint8x16> && sizeof(To) == sizeof(uint32x16)) ||
                (is_integer_vector<From> && std::same_as<To, uint8x16> &&
                 sizeof(From) == sizeof(uint32x16))) {
    return __builtin_convertvector(__builtin_convertvector(from, uint16x16), To);
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

namespace detail {
// One register of an instruction set before AVX-512.
#if defined(__AVX__)
using FloatRegister = float __attribute__((vector_size(32)));
using IntRegister = std::int32_t __attribute__((vector_size(32)));
#else
using FloatRegister = float __attribute__((vector_size(16)));
using IntRegister = std::int32_t __attribute__((vector_size(16)));
#endif
}  // namespace detail

/// `left < right` by lanes, as a mask of lanes 0 or -1. It gives what the operator gives, but GCC
/// 12 splits the operator into scalars where a vector is wider than a register.
template <SimdVector V>
requires(std::same_as<V, float32x16> || std::same_as<V, int32x16>)
    [[nodiscard, gnu::always_inline]] inline int32x16 is_less(V left, V right) noexcept {
#if defined(__AVX512F__) || defined(__clang__)
  return left < right;
#else
  using Part =
      std::conditional_t<std::same_as<V, float32x16>, detail::FloatRegister, detail::IntRegister>;
  int32x16 mask;
  for (std::size_t byte = 0; byte < sizeof(V); byte += sizeof(Part)) {
    Part left_part;
    Part right_part;
    std::memcpy(&left_part, reinterpret_cast<const char*>(&left) + byte, sizeof(Part));
    std::memcpy(&right_part, reinterpret_cast<const char*>(&right) + byte, sizeof(Part));
    const detail::IntRegister part_mask = left_part < right_part;
    std::memcpy(reinterpret_cast<char*>(&mask) + byte, &part_mask, sizeof(Part));
  }
  return mask;
#endif
}

/// As above, for eight lanes.
template <HalfSimdVector V>
requires(!std::same_as<V, uint32x8>) [[nodiscard, gnu::always_inline]] inline int32x8
    is_less(V left, V right) noexcept {
  return left < right;
}

/// `mask ? if_true : if_false`; the scalar counterpart of the selection by lanes below.
template <class T>
requires std::is_arithmetic_v<T>
[[nodiscard, gnu::always_inline]] constexpr T select(bool mask, T if_true, T if_false) noexcept {
  return mask ? if_true : if_false;
}

/// Selects by lanes. Each lane of `mask` is 0 or -1, as a comparison of vectors gives it.
template <SimdVector V>
requires(sizeof(V) == sizeof(int32x16)) [[nodiscard, gnu::always_inline]] inline V
    select(int32x16 mask, V if_true, V if_false) noexcept {
#if defined(__AVX512F__)
  return mask ? if_true : if_false;
#else
  // GCC 12 splits a conditional operator wider than a register into scalars; it does not so split
  // these operations.
  return bit_cast_to<V>((mask & bit_cast_to<int32x16>(if_true)) |
                        (~mask & bit_cast_to<int32x16>(if_false)));
#endif
}

/// As above, for eight lanes.
template <HalfSimdVector V>
[[nodiscard, gnu::always_inline]] inline V select(int32x8 mask, V if_true, V if_false) noexcept {
  return mask ? if_true : if_false;
}

/// The lesser by lanes; the right one where either is a NaN.
[[nodiscard, gnu::always_inline]] inline float32x16 least(float32x16 left,
                                                          float32x16 right) noexcept {
#if defined(__AVX512F__)
  // GCC 12 makes two instructions of the selection.
  return reinterpret_cast<float32x16>(
      _mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(left), reinterpret_cast<__m512>(right)));
#else
  return select(is_less(left, right), left, right);
#endif
}

/// The greater by lanes; the right one where either is a NaN.
[[nodiscard, gnu::always_inline]] inline float32x16 greatest(float32x16 left,
                                                             float32x16 right) noexcept {
#if defined(__AVX512F__)
  return reinterpret_cast<float32x16>(
      _mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(left), reinterpret_cast<__m512>(right)));
#else
  return select(is_less(right, left), left, right);
#endif
}

namespace detail {

/// a b + c of floats in one register of the target, rounded once.
#if defined(__AVX512F__)
#define UNIT_SCALING_HAS_FMA 1
using FusedRegister = float __attribute__((vector_size(64)));
[[nodiscard, gnu::always_inline]] inline FusedRegister fuse(FusedRegister a, FusedRegister b,
                                                            FusedRegister c) noexcept {
  return reinterpret_cast<FusedRegister>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
}
#elif defined(__FMA__)
#define UNIT_SCALING_HAS_FMA 1
using FusedRegister = float __attribute__((vector_size(32)));
[[nodiscard, gnu::always_inline]] inline FusedRegister fuse(FusedRegister a, FusedRegister b,
                                                            FusedRegister c) noexcept {
  return reinterpret_cast<FusedRegister>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
}
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
#define UNIT_SCALING_HAS_FMA 1
using FusedRegister = float __attribute__((vector_size(16)));
[[nodiscard, gnu::always_inline]] inline FusedRegister fuse(FusedRegister a, FusedRegister b,
                                                            FusedRegister c) noexcept {
  return reinterpret_cast<FusedRegister>(vfmaq_f32(reinterpret_cast<float32x4_t>(c),
                                                   reinterpret_cast<float32x4_t>(a),
                                                   reinterpret_cast<float32x4_t>(b)));
}
#endif

/// The floats of a register from one of the bytes of `value` on, or the register full of a number.
template <class Register, class T>
[[nodiscard, gnu::always_inline]] inline Register register_of(const T& value,
                                                              std::size_t byte) noexcept {
  if constexpr (std::is_arithmetic_v<T>) {
    const auto number = static_cast<float>(value);
    if constexpr (SimdVector<Register>) {
      return splat<Register>(number);
    } else {
      return Register{number, number, number, number};
    }
  } else {
    Register part;
    std::memcpy(&part, reinterpret_cast<const char*>(&value) + byte, sizeof(part));
    return part;
  }
}

}  // namespace detail

/// Whether `multiply_add` rounds once: the target has the instruction, and the library names it.
#if defined(UNIT_SCALING_HAS_FMA)
inline constexpr bool has_fused_multiply_add = true;
#else
inline constexpr bool has_fused_multiply_add = false;
#endif

/// a b + c of floats, doubles, or vectors of floats as wide as a register or wider: rounded once on
/// a target with fused multiply-add, whatever the compiler's options say, else twice.
///
/// Compilers fuse a product and a sum by themselves, or not: GCC from -O2 on, across statements,
/// Clang within one expression, neither under -ffp-contract=off. So whatever is to have the same
/// bits in every build calls this where they would. There is one exception: vectors wider than a
/// register, under GCC and optimisation, are fused by the compiler or not at all.
/// A number stands for lanes of it.
template <class A, class B, class C>
requires(!(std::is_arithmetic_v<A> && std::is_arithmetic_v<B> && std::is_arithmetic_v<C>))
    [[nodiscard, gnu::always_inline]] inline auto multiply_add(A a, B b, C c) noexcept {
#if defined(UNIT_SCALING_HAS_FMA)
  using V = decltype(a * b + c);
  using Register = detail::FusedRegister;
  static_assert(sizeof(V) % sizeof(Register) == 0);
#if defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__)
  // GCC 12 would move the parts of wider vectors through memory, which takes twice as long.
  if constexpr (sizeof(V) > sizeof(Register)) return a * b + c;
#endif
  V result;
  for (std::size_t byte = 0; byte < sizeof(V); byte += sizeof(Register)) {
    const Register fused =
        detail::fuse(detail::register_of<Register>(a, byte), detail::register_of<Register>(b, byte),
                     detail::register_of<Register>(c, byte));
    std::memcpy(reinterpret_cast<char*>(&result) + byte, &fused, sizeof(Register));
  }
  return result;
#else
  return a * b + c;
#endif
}
[[nodiscard, gnu::always_inline]] inline float multiply_add(float a, float b, float c) noexcept {
#if defined(UNIT_SCALING_HAS_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
[[nodiscard, gnu::always_inline]] inline double multiply_add(double a, double b,
                                                             double c) noexcept {
#if defined(UNIT_SCALING_HAS_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}
/// a b + (c d), of which the first product is fused, as `multiply_add` does.
template <class A, class B, class C, class D>
[[nodiscard, gnu::always_inline]] inline auto sum_of_products(A a, B b, C c, D d) noexcept {
#if defined(UNIT_SCALING_HAS_FMA) && defined(__GNUC__) && !defined(__clang__) && \
    defined(__OPTIMIZE__)
  // Of two products GCC fuses the one that comes first.
  using V = decltype(a * b + c * d);
  if constexpr (sizeof(V) > sizeof(detail::FusedRegister)) return a * b + c * d;
#endif
  return multiply_add(a, b, c * d);
}

/// As `multiply_add`, of a float and a constant, in the wider of the two.
template <class A, class B, class C>
requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>&& std::is_arithmetic_v<C> &&
         !(std::same_as<A, B> && std::same_as<B, C>))
    [[nodiscard, gnu::always_inline]] inline auto multiply_add(A a, B b, C c) noexcept {
  using Number = decltype(a * b + c);
  return multiply_add(static_cast<Number>(a), static_cast<Number>(b), static_cast<Number>(c));
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
