// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: the factors of a gradient that depend on the size of the batch.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

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

/// The products of a step, numbered as they come up.
class GradientFactors {
 public:
  /// None, until `begin`.
  [[nodiscard]] std::span<const GradientFactor> all() const& { return products_; }
  std::span<const GradientFactor> all() const&& = delete;

  /// Forgets all products.
  void clear() { products_.clear(); }

  /// Numbers that of the loss.
  void begin() { products_.emplace_back(); }

  /// The number of a product: that of product number `last` if it is the same one. @pre `begin`
  std::size_t number_of(const GradientFactor& product, std::size_t last);

  /// The same, where the last one is that of the highest number.
  std::size_t number_of(const GradientFactor& product) {
    return number_of(product, products_.size() - 1);
  }

  /// The number of the products that a sum of gradients with the products `a` and `b` has.
  std::size_t joined(std::size_t a, std::size_t b);

 private:
  std::vector<GradientFactor> products_;
};

inline std::size_t GradientFactors::number_of(const GradientFactor& product, std::size_t last) {
  GradientFactor& before = products_[last];
  if (last != 0 && before.of == product.of && before.other == product.other &&
      before.op == product.op && before.module == product.module &&
      before.argument == product.argument && before.parameter == product.parameter &&
      before.count == product.count) {
    ++before.uses;
    return last;
  }
  products_.push_back(product);
  return products_.size() - 1;
}

inline std::size_t GradientFactors::joined(std::size_t a, std::size_t b) {
  if (a == b) return a;
  // The sum of a sum and what is in it already.
  for (const auto& [sum, part] : {std::pair{a, b}, std::pair{b, a}}) {
    if (products_[sum].is_sum && (products_[sum].of == part || products_[sum].other == part)) {
      return sum;
    }
  }
  return number_of({.of = a, .other = b, .is_sum = true});
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
