// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: the products of factors of several batches as numbers with names, for checkpoints.
///
/// What walks states is templates, so that programs which save nothing compile none of it.
#pragma once

#include <bit>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <vector>

#include "unit_scaling/autograd/gradient_factor.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/optim/joined_factors.hpp"
#include "unit_scaling/scaling/item_count.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim::detail {

/// What a number is as 64 bits.
template <class T>
using Word = std::conditional_t<std::is_same_v<T, double>, double, std::uint64_t>;
inline constexpr auto not_a_number = std::numeric_limits<std::size_t>::max();

/// Calls `visit(number)` for each number of a factor that is shown.
template <class Visit>
void for_each_number(JoinedFactor& factor, std::size_t& parameter, const Visit& visit) {
  GradientFactor& form = factor.form;
  for (std::size_t* number : {&factor.loss, &form.of, &form.other, &form.module, &form.argument,
                              &form.uses, &form.count.shared.inputs, &parameter}) {
    visit(*number);
  }
  for (bool* is : {&form.is_sum, &form.count.shared.is_of_output}) visit(*is);
  for (double* number : {&factor.items, &factor.entries, &form.count.items, &form.count.power,
                         &form.count.entries}) {
    visit(*number);
  }
  for (SharedFactor::Power& each : form.count.shared.factors) {
    visit(each.of_one);
    visit(each.power);
  }
}

/// The number that a text ends with, or begins with, at a full stop, which is taken off with it.
[[nodiscard]] inline std::size_t take_number(std::string_view& text, bool from_end) {
  const std::size_t stop = from_end ? text.rfind('.') : text.find('.');
  std::size_t number = 0;
  if (stop == std::string_view::npos) return not_a_number;
  const std::string_view digits = from_end ? text.substr(stop + 1) : text.substr(0, stop);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) return not_a_number;
  text = from_end ? text.substr(0, stop) : text.substr(stop + 1);
  return number;
}

/// Whether a factor is one that a sum shows under number `i`; made from its numbers then.
/// @param names of its op and of its constraint, with a full stop between.
template <class Numbers>
[[nodiscard]] bool is_factor(std::string_view names, std::size_t i, const Numbers& numbers,
                             const std::vector<Parameter*>& parameters, JoinedFactor& factor) {
  std::size_t count = 1;  // the size of the op's name is the first
  std::size_t parameter = 0;
  for_each_number(factor, parameter, [&](const auto&) { ++count; });
  if (numbers.shape() != Shape{count}) return false;
  const std::uint64_t* next = numbers.data();
  const std::size_t size = *next++;
  if (size >= names.size() || names[size] != '.') return false;
  bool is_valid = true;
  for_each_number(factor, parameter, [&]<class T>(T& number) {
    const auto word = std::bit_cast<Word<T>>(*next++);
    number = static_cast<T>(word);
    if constexpr (std::is_same_v<T, double>) is_valid = is_valid && std::isfinite(word);
    if constexpr (std::is_same_v<T, bool>) is_valid = is_valid && word <= 1;
  });
  GradientFactor& form = factor.form;
  form.op = names.substr(0, size);
  form.count.shared.constraint.name = names.substr(size + 1);
  form.parameter =
      parameter == 0 || parameter > parameters.size() ? nullptr : parameters[parameter - 1];
  const bool is_of_loss = form.op.empty() && !form.is_sum;
  return is_valid && parameter <= parameters.size() &&
         (is_of_loss || (form.of < i && form.other < i)) && factor.items >= 0 &&
         factor.entries >= 0 && form.count.shared.inputs < form.count.shared.factors.size();
}

/// The products by number, op and constraint, "3.linear.none": what `for_each_number` tells, as 64
/// bits each. The functions of constraints are not among it: the next tape has them.
/// @tparam Map from names to arrays of std::uint64_t.
template <class Map> [[nodiscard]] Map shown_factors(const JoinedFactors& factors) {
  using Numbers = typename Map::mapped_type;
  Map result;
  for (std::size_t i = 0; i < factors.all().size(); ++i) {
    JoinedFactor factor = factors.all()[i];
    // Counted from 1.
    const std::size_t found = factors.number_of(factor.form.parameter);
    std::size_t parameter = found == factors.parameters().size() ? 0 : found + 1;
    std::vector<std::uint64_t> numbers{factor.form.op.size()};
    for_each_number(factor, parameter, [&]<class T>(const T& number) {
      numbers.push_back(std::bit_cast<std::uint64_t>(static_cast<Word<T>>(number)));
    });
    const std::string key = std::to_string(i) + "." + std::string(factor.form.op) + "." +
                            std::string(factor.form.count.shared.constraint.name);
    result.emplace(key, Numbers(Shape{numbers.size()}, numbers));
  }
  return result;
}

/// The products that are shown so. Names of ops and constraints point to those of `shown`.
/// @throws DomainError if they are not of these parameters, or not as `shown_factors` has them.
template <class Map>
[[nodiscard]] std::vector<JoinedFactor> factors_of(const Map& shown,
                                                   const std::vector<Parameter*>& parameters) {
  std::vector<JoinedFactor> factors(shown.size());
  std::vector<bool> is_taken(shown.size());
  for (const auto& [key, numbers] : shown) {
    std::string_view text = key;
    const std::size_t i = take_number(text, false);
    const bool is_new = i < factors.size() && !is_taken[i];
    require(is_new && is_factor(text, i, numbers, parameters, factors[i]), "GradientSum",
            "expected factors as a sum shows them, got others for ", in_quotes(key));
    is_taken[i] = true;
  }
  return factors;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim::detail

UNIT_SCALING_IEEE_END
