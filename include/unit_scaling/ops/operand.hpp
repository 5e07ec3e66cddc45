// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: what an op's matrix products multiply. An op says which arrays are operands; here
/// alone is decided in which format.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <optional>
#include <type_traits>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/packed.hpp"
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

/// Who has a say in the operands of an op: a tape, which keeps them to be used again, and makes
/// them as its recipe says.
class OperandSource {
 public:
  /// An operand that was made before of the elements at this place, or null.
  [[nodiscard]] virtual const kernels::Operand* find(const OperandUse& use,
                                                     const void* elements) = 0;
  /// Whether `make` is to be asked where nothing was found.
  [[nodiscard]] virtual bool has_recipe() const = 0;
  /// The operand in the format that a recipe chooses; none: as the policy has it.
  /// @param memory where it should live.
  [[nodiscard]] virtual std::optional<kernels::Operand> make(const OperandUse& use,
                                                             const EncodedArray& array,
                                                             std::pmr::memory_resource* memory) = 0;
  /// Takes an operand that was made as the policy has it.
  virtual void keep(const OperandUse& use, const void* elements,
                    const kernels::Operand& operand) = 0;
  /// Where what is kept lives.
  [[nodiscard]] virtual std::pmr::memory_resource* memory() const = 0;

 protected:
  ~OperandSource() = default;
};

/// Policy P for an op whose operands somebody has a say in.
template <Precision P> struct WithOperandSource : P { OperandSource* operands; };

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

}  // namespace detail

/// Whether operands may be made by a recipe: all policies but those with double have recipes.
template <Precision P>
inline constexpr bool takes_recipe = !std::is_same_v<typename P::storage, double> &&
                                     !std::is_same_v<typename P::matmul_operand, double> &&
                                     !std::is_same_v<typename P::matmul_gradient, double>;

/// Whether the op's operands are made by a recipe.
template <Precision P> [[nodiscard]] bool has_recipe([[maybe_unused]] P precision) {
  if constexpr (takes_recipe<P> && requires { precision.operands; }) {
    return precision.operands->has_recipe();
  } else {
    return false;
  }
}

/// The array as an operand of the op's products, as the policy's source has or makes it; else
/// rounded to P::matmul_operand, or a gradient to P::matmul_gradient, once and saturating. What has
/// that format already is shared.
/// @param resource of the result, by default that of the array.
template <Precision P, class T>
[[nodiscard]] kernels::Operand operand(P precision, const OperandUse& use, const Array<T>& x,
                                       std::pmr::memory_resource* resource = nullptr) {
  if constexpr (requires { precision.operands; }) resource = precision.operands->memory();
  if (resource == nullptr) resource = x.resource();
  const auto in_format = [&]<class Out>(std::type_identity<Out>) {
    return detail::stored_operand<P>(kernels::convert<Out, Overflow::saturate>(x, resource));
  };
  const auto in_policy = [&] {
    return use.role == OperandRole::gradient
               ? in_format(std::type_identity<typename P::matmul_gradient>{})
               : in_format(std::type_identity<typename P::matmul_operand>{});
  };
  if constexpr (requires { precision.operands; }) {
    OperandSource& source = *precision.operands;
    if (const kernels::Operand* found = source.find(use, x.data())) return *found;
    if (has_recipe(precision)) {
      if (auto made = source.make(use, kernels::make_operand(x).array, resource)) return *made;
    }
    auto result = in_policy();
    source.keep(use, x.data(), result);
    return result;
  } else {
    return in_policy();
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
