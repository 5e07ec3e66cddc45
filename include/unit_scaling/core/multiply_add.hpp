// SPDX-License-Identifier: MIT
/// @file
/// Layer core: products and sums that are rounded once, or in an order that is said, so that they
/// have the same bits in every build for a target.
#pragma once

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif
#if defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
#endif

#include <concepts>
#include <type_traits>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

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
using HalfRegister = float __attribute__((vector_size(16)));
[[nodiscard, gnu::always_inline]] inline HalfRegister fuse(HalfRegister a, HalfRegister b,
                                                           HalfRegister c) noexcept {
  return reinterpret_cast<HalfRegister>(_mm_fmadd_ps(
      reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b), reinterpret_cast<__m128>(c)));
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

/// The vector, or lanes of the number.
template <class V, class T>
[[nodiscard, gnu::always_inline]] inline V register_of(const T& value) noexcept {
  if constexpr (!std::is_arithmetic_v<T>) {
    return value;
  } else if constexpr (std::is_class_v<V>) {
    return splat<V>(static_cast<float>(value));
  } else {  // a register may be wider than the halves of vectors: AVX without AVX2
    return splat_each<V>(static_cast<float>(value),
                         std::make_index_sequence<sizeof(V) / sizeof(float)>{});
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
/// bits in every build calls this where they would.
/// A number stands for lanes of it.
template <class A, class B, class C>
requires(!(std::is_arithmetic_v<A> && std::is_arithmetic_v<B> && std::is_arithmetic_v<C>))
    [[nodiscard, gnu::always_inline]] inline auto multiply_add(A a, B b, C c) noexcept {
#if defined(UNIT_SCALING_HAS_FMA)
  using V = decltype(a * b + c);
  if constexpr (requires(V v) { detail::fuse(v.lower, v.lower, v.lower); }) {
    const V x = detail::register_of<V>(a);
    const V y = detail::register_of<V>(b);
    const V z = detail::register_of<V>(c);
    return V{detail::fuse(x.lower, y.lower, z.lower), detail::fuse(x.upper, y.upper, z.upper)};
  } else if constexpr (sizeof(V) > sizeof(detail::FusedRegister) || std::is_class_v<V>) {
    return join(multiply_add(lower_half(a), lower_half(b), lower_half(c)),
                multiply_add(upper_half(a), upper_half(b), upper_half(c)));
  } else {
    return detail::fuse(detail::register_of<V>(a), detail::register_of<V>(b),
                        detail::register_of<V>(c));
  }
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
/// a b + c d as an expression: compilers that fuse by themselves fuse the first product, or none.
template <class A, class B, class C, class D>
[[nodiscard, gnu::always_inline]] inline auto add_products(A a, B b, C c, D d) noexcept {
  if constexpr (std::is_class_v<decltype(a * b + c * d)>) {
    // GCC evaluates the right operand of a class's operator first, and fuses what comes first.
    const auto product = a * b;
    return product + c * d;
  } else {
    return a * b + c * d;
  }
}

/// a b + (c d), of which the first product is fused, as `multiply_add` does.
template <class A, class B, class C, class D>
[[nodiscard, gnu::always_inline]] inline auto sum_of_products(A a, B b, C c, D d) noexcept {
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
