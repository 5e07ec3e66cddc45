// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the fastest kernel that is exact for operands of two types, on the target.
#pragma once

#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/tile.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// What operands are multiplied as: pairs, if the target has them and they are exact for both.
template <class A, class B, bool has_pairs>
using WordsOf = std::conditional_t<has_pairs && is_exact_in_bfloat16_pairs<A>() &&
                                       is_exact_in_bfloat16_pairs<B>(),
                                   Bfloat16Pairs, FloatWords>;

/// The kernel that multiplies these operands fastest on the target, of those exact for them.
template <class A, class B> using BestTile = RegisterTile<WordsOf<A, B, has_fast_bfloat16_pairs>>;

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
