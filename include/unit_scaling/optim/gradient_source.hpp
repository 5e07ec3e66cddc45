// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: where the gradients of a step are.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// Where the gradients of a step are: a `Tape` after `backward`, or a `GradientSum` of several. The
/// array of a parameter without a gradient is empty. Optimisers take elements of float and of
/// narrower formats; `gradient_norm` also takes those of `Tape<precision::fp64>`.
template <class T>
concept GradientSource = requires(const T& source, const Parameter& parameter) {
  { source.gradient(parameter).size() } -> std::convertible_to<std::size_t>;
  { source.gradient(parameter).shape() } -> std::convertible_to<Shape>;
  source.gradient(parameter).data();
};

/// A source that may have the elements of some gradients only, as each of several ranks does, and
/// knows of all of them what a step asks before it changes anything: the shape, of no elements if
/// there is no gradient; the largest magnitude, as `kernels::largest_magnitude_bits`; and Σ g², as
/// `detail::sum_of_squares`.
template <class T>
concept SharedGradientSource = GradientSource<T> &&
    requires(const T& source, const Parameter& parameter) {
  { source.gradient_shape(parameter) } -> std::same_as<Shape>;
  { source.largest_magnitude_bits(parameter) } -> std::same_as<std::uint32_t>;
  { source.sum_of_squares(parameter) } -> std::same_as<double>;
};

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
