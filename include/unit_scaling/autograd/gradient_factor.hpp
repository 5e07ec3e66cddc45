// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: the factors of a gradient that depend on the size of the batch.
#pragma once

#include <cstddef>
#include <string_view>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/item_count.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// One of the products of batch-dependent factors that gradients of a step carry. A tape numbers
/// them in the order of its backward pass; number 0 is that of the loss, without any factor.
///
/// A product is that of another one, number `of`, times the factor that `count` tells of, which the
/// gradient took on its way through argument `argument` of `op`. Where gradients with two different
/// products, `of` and `other`, were added up, the sum has both.
struct GradientFactor {
  std::size_t of = 0;
  std::size_t other = 0;
  bool is_sum = false;  ///< of gradients with the products `of` and `other`
  std::string_view op = {};
  std::size_t module = 0;  ///< hash of the path that `Tape::enter` was given
  std::size_t argument = 0;
  const Parameter* parameter = nullptr;  ///< that the argument is, if it is one
  ItemCount count = {};
  /// How many uses of a parameter, one after the other, took the same factor.
  std::size_t uses = 1;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
