// SPDX-License-Identifier: MIT
/// @file
/// Layer formats: which number format each role in a model is stored in.
#pragma once

#include <concepts>
#include <string_view>
#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A precision policy: a type that says in which format each role is stored.
///
/// - `storage`: activations, and gradients between ops.
/// - `matmul_operand`: what both operands of a matrix product are rounded to (saturating).
/// - `matmul_gradient`: what the gradient entering a matrix product is rounded to (saturating).
/// - `compute`: arithmetic and accumulation; one rounding to `storage` follows, where overflow
///   becomes infinity, so that it is seen.
///
/// A user's own policy is one more struct of this form.
template <class P>
concept Precision = Storage<typename P::storage> && Storage<typename P::matmul_operand> &&
    Storage<typename P::matmul_gradient> && std::floating_point<typename P::compute> && requires {
  { P::name } -> std::convertible_to<std::string_view>;
};

/// The layout of T, binary32 or a `Minifloat`.
template <Storage T> inline constexpr FormatSpec format_spec = T::format;
template <> inline constexpr FormatSpec format_spec<float> = FormatSpec::ieee(8, 23);

namespace detail {

/// Whether bfloat16 holds every number of T.
template <Storage T> [[nodiscard]] constexpr bool is_held_by_bfloat16() {
  if constexpr (std::is_same_v<T, double>) {
    return false;
  } else {
    return bfloat16::format.holds(format_spec<T>);
  }
}

template <Precision P> struct AttentionWeight {
  using type = std::conditional_t<is_held_by_bfloat16<typename P::matmul_operand>() &&
                                      is_held_by_bfloat16<typename P::matmul_gradient>() &&
                                      std::is_same_v<typename P::compute, float>,
                                  bfloat16, typename P::compute>;
};
template <Precision P>
requires requires { typename P::attention_weight; }
struct AttentionWeight<P> {
  using type = typename P::attention_weight;
};

}  // namespace detail

/// What attention rounds its weights, and the gradients of its scores, to where they are operands
/// of matrix products: bfloat16 (to nearest even; magnitudes below 2^-64 count as zero) if that
/// holds every number of `matmul_operand` and `matmul_gradient`, else `compute`, no rounding. So a
/// product with them is of two bfloat16 numbers whose product is exact. A policy that names an
/// `attention_weight`, bfloat16 or its `compute`, gets that: one that simulates FP8 in floats asks
/// for the rounding of `precision::fp8` so.
template <Precision P> using attention_weight_t = typename detail::AttentionWeight<P>::type;

namespace precision {

/// One format for every role, arithmetic in float (in double for double).
template <Storage T> struct uniform {
  static constexpr std::string_view name = storage_name<T>;
  using storage = T;
  using matmul_operand = T;
  using matmul_gradient = T;
  using compute = compute_t<T>;
};

/// For checking gradients by finite differences.
struct fp64 : uniform<double> {
  static constexpr std::string_view name = "fp64";
};

struct fp32 : uniform<float> {
  static constexpr std::string_view name = "fp32";
};

/// IEEE half precision throughout, accumulation in float.
struct fp16 : uniform<float16> {
  static constexpr std::string_view name = "fp16";
};

/// bfloat16 throughout, accumulation in float.
struct bf16 : uniform<bfloat16> {
  static constexpr std::string_view name = "bf16";
};

/// P with attention weights in bfloat16, as `precision::fp8` has them: what a simulation of narrow
/// formats in wider ones takes as its policy if there is attention in the model.
template <Precision P> struct with_bfloat16_attention : P { using attention_weight = bfloat16; };

/// The paper's recipe on OCP formats: operands in E4M3, incoming gradients in E5M2, products
/// accumulated in float, everything else in FP16. No scale is computed, kept or searched for.
struct fp8 {
  static constexpr std::string_view name = "fp8";
  using storage = float16;
  using matmul_operand = float8_e4m3fn;
  using matmul_gradient = float8_e5m2;
  using compute = float;
};

}  // namespace precision

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
