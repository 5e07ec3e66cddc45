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

/// Who keeps operands of the arguments of an op, to be used again: a tape.
class OperandKeeper {
 public:
  /// The operand of an argument whose elements are at `elements`, or null: none is kept.
  [[nodiscard]] virtual const kernels::Operand* find(std::size_t argument,
                                                     const void* elements) const = 0;
  virtual void keep(std::size_t argument, const void* elements,
                    const kernels::Operand& operand) = 0;
  /// Where what is kept lives.
  [[nodiscard]] virtual std::pmr::memory_resource* memory() const = 0;

 protected:
  ~OperandKeeper() = default;
};

/// Policy P for an op whose operands are kept, if there is a keeper.
template <Precision P> struct WithKeptOperands : P { OperandKeeper* keeper; };

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

/// The array as an operand of the op's products: rounded to P::matmul_operand, or a gradient to
/// P::matmul_gradient, once and saturating. What has that format already is shared, and so is what
/// the policy's keeper has of an argument.
/// @param resource of the result, by default that of the array.
template <Precision P, class T>
[[nodiscard]] kernels::Operand operand([[maybe_unused]] P precision, const OperandUse& use,
                                       const Array<T>& x,
                                       std::pmr::memory_resource* resource = nullptr) {
  const auto in_format = [&]<class Out>(std::type_identity<Out>) {
    return detail::stored_operand<P>(kernels::convert<Out, Overflow::saturate>(
        x, resource != nullptr ? resource : x.resource()));
  };
  if (use.role == OperandRole::gradient) {
    return in_format(std::type_identity<typename P::matmul_gradient>{});
  }
  using Out = typename P::matmul_operand;
  if constexpr (!std::is_same_v<Out, T> && requires { precision.keeper; }) {
    OperandKeeper* const keeper = precision.keeper;
    if (keeper != nullptr) {
      if (const auto* kept = keeper->find(use.argument, x.data())) return *kept;
      resource = keeper->memory();
    }
    auto result = in_format(std::type_identity<Out>{});
    if (keeper != nullptr) keeper->keep(use.argument, x.data(), result);
    return result;
  } else {
    return in_format(std::type_identity<Out>{});
  }
}

/// As `operand(precision, use, y)`, where y is f of the elements of x, rounded to P::storage: y is
/// never in memory.
template <Precision P, class T, class F>
[[nodiscard]] kernels::Operand operand_of(P /*precision*/, const OperandUse& /*use*/, const F& f,
                                          const Array<T>& x) {
  using Compute = typename P::compute;
  using Out = typename P::matmul_operand;
  // What has the format of operands already is not converted, so it does not saturate either.
  constexpr Overflow overflow =
      std::is_same_v<Out, typename P::storage> ? Overflow::infinity_or_nan : Overflow::saturate;
  return detail::stored_operand<P>(kernels::map<Compute, Out, overflow>(
      [f](auto v) { return kernels::rounded_to<typename P::storage, Compute>(f(v)); }, x));
}

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
