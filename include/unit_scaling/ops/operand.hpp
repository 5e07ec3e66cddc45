// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: what an op's matrix products multiply. An op says which arrays are operands; here
/// alone is decided in which format.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <type_traits>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// What an array is to an op of which it is an operand.
enum class OperandRole {
  input,     ///< an activation
  weight,    ///< a weight
  gradient,  ///< the gradient of an output
};

/// Which operand of an op.
struct OperandUse {
  OperandRole role;
  std::size_t argument = 0;  ///< among the op's arguments, or among its outputs for a gradient
};

/// An array that is to be an operand, of whatever type.
struct OperandArray {
  const void* array;
  const void* elements;
  /// The operand as the policy has it.
  kernels::Operand (*make)(const void* array, std::pmr::memory_resource* memory);
  /// The array as it is, if binary32 holds its numbers.
  EncodedArray (*view)(const void* array);
};

/// Who has a say in the operands of an op: a tape, which keeps them to be used again, and makes
/// them as its recipe says.
class OperandSource {
 public:
  [[nodiscard]] virtual kernels::Operand operand(const OperandUse& use,
                                                 const OperandArray& array) = 0;
  /// Whether a recipe is asked.
  [[nodiscard]] virtual bool has_recipe() const = 0;
  /// Whether what the op saves for its backward pass is kept.
  [[nodiscard]] virtual bool is_saved() const = 0;

 protected:
  ~OperandSource() = default;
};

/// Policy P for an op whose operands somebody has a say in.
template <Precision P> struct WithOperandSource : P { OperandSource* operands; };

/// Whether the op's operands are made by a recipe.
template <Precision P> [[nodiscard]] bool has_recipe([[maybe_unused]] P precision) {
  if constexpr (requires { precision.operands; }) {
    return precision.operands->has_recipe();
  } else {
    return false;
  }
}

/// Whether what the op saves for its backward pass may be read.
template <Precision P> [[nodiscard]] bool is_saved([[maybe_unused]] P precision) {
  if constexpr (requires { precision.operands; }) {
    return precision.operands->is_saved();
  } else {
    return true;
  }
}

namespace detail {

/// Arrays in a format of P as operands of products in P::compute.
template <Precision P, class T>
[[nodiscard]] kernels::Operand stored_operand(const Array<T>& array) {
  kernels::Operand result = kernels::make_operand(array);
  if constexpr (std::is_same_v<typename P::compute, double>) {
    result.prepare = &kernels::detail::prepare_stored_double<T>;
  }
  return result;
}

/// As `OperandArray::make`, of an `Array<T>` and a format of P.
template <Precision P, class Out, class T>
[[nodiscard]] kernels::Operand rounded_operand(const void* array,
                                               std::pmr::memory_resource* memory) {
  return stored_operand<P>(
      kernels::convert<Out, Overflow::saturate>(*static_cast<const Array<T>*>(array), memory));
}
/// As `OperandArray::view`. Sums in double, in the middle of an op, are rounded to binary32 first.
template <class T> [[nodiscard]] EncodedArray encoded(const void* array) {
  const auto& typed = *static_cast<const Array<T>*>(array);
  if constexpr (std::is_same_v<T, double>) {
    return kernels::encoded(kernels::convert<float, Overflow::infinity_or_nan>(typed));
  } else {
    return kernels::encoded(typed);
  }
}

}  // namespace detail

/// The array as an operand of the op's products, as the policy's source has it; else rounded to
/// P::matmul_operand, or a gradient to P::matmul_gradient, once and saturating. What has that
/// format already is shared.
/// @param resource of the result where the policy has no source, by default that of the array.
template <Precision P, class T>
[[nodiscard]] kernels::Operand operand([[maybe_unused]] P precision, const OperandUse& use,
                                       const Array<T>& x,
                                       std::pmr::memory_resource* resource = nullptr) {
  const auto make = use.role == OperandRole::gradient
                        ? &detail::rounded_operand<P, typename P::matmul_gradient, T>
                        : &detail::rounded_operand<P, typename P::matmul_operand, T>;
  if constexpr (requires { precision.operands; }) {
    return precision.operands->operand(use, {&x, x.data(), make, &detail::encoded<T>});
  } else {
    return make(&x, resource != nullptr ? resource : x.resource());
  }
}

/// As `operand(precision, use, y)`, where y is f of the elements of x, rounded to P::storage: y is
/// never in memory, unless a recipe is to see it.
template <Precision P, class T, class F>
[[nodiscard]] kernels::Operand operand_of(P precision, const OperandUse& use, const F& f,
                                          const Array<T>& x) {
  using Compute = typename P::compute;
  using Storage = typename P::storage;
  using Out = typename P::matmul_operand;
  if (has_recipe(precision)) {
    return operand(precision, use, kernels::map<Compute, Storage>(f, x));
  }
  // What has the format of operands already is not converted, so it does not saturate either.
  constexpr Overflow overflow =
      std::is_same_v<Out, Storage> ? Overflow::infinity_or_nan : Overflow::saturate;
  return detail::stored_operand<P>(kernels::map<Compute, Out, overflow>(
      [f](auto v) { return kernels::rounded_to<Storage, Compute>(f(v)); }, x));
}

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
