// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: a recipe, which says in what form a tape's matrix products read their operands,
/// and what its ops write.
///
/// It compiles the products of all formats, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <any>
#include <cstddef>
#include <functional>
#include <map>
#include <memory_resource>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/kernels/any_operand.hpp"
#include "unit_scaling/kernels/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Writes a name for the site into `name`, the same in every step: "blocks.0.up/linear.weight.1".
/// Sites that one module has several of, such as those of two calls, share a name.
inline void write_name(const OperandSite& site, std::string& name) {
  constexpr std::string_view roles[] = {"input", "weight", "gradient"};
  name.assign(site.module).append("/").append(site.op).append(".");
  name.append(roles[static_cast<std::size_t>(site.role)]).append(".");
  if (site.argument >= 10) name += static_cast<char>('0' + site.argument / 10 % 10);
  name += static_cast<char>('0' + site.argument % 10);
}

/// Says, array by array, in which format and under which scales a tape's matrix products read their
/// operands, to which format what ops write is rounded, and what they save for the backward pass. A
/// recipe of your own overrides what it has an opinion on; see docs/recipes.md.
///
/// A tape calls it from one thread, in the order in which it records ops and unwinds them. What it
/// returns may depend on what it was called with before, which is then its state.
class Recipe : public RecipeOfTape {
 public:
  void begin_step() override {}
  void begin_op(const RecipeOp& /*op*/) override {}

  [[nodiscard]] std::optional<OperandForms> operand(const OperandSite& /*site*/,
                                                    const EncodedArray& /*array*/) override {
    return {};
  }

  [[nodiscard]] std::optional<Format> written(const WriteSite& /*site*/) override { return {}; }

  /// To nearest, and to infinity or NaN beyond the largest number.
  void write(const WriteSite& /*site*/, const Format& format, std::span<float> numbers) override {
    format.quantise(numbers, numbers, {.overflow = Overflow::infinity_or_nan});
  }

  [[nodiscard]] std::optional<EncodedArray> saved(const SavedSite& /*site*/,
                                                  const EncodedArray& /*array*/) override {
    return {};
  }

  void require_all_used() const override {}

 private:
  [[nodiscard]] kernels::Operand make_operand(OperandForms forms, bool in_double) const final {
    kernels::Operand result = kernels::make_operand(std::move(forms.array));
    if (in_double) result.prepare = &kernels::detail::prepare_any_double;
    result.over_rows = std::move(forms.over_rows);
    return result;
  }
  void decode(const EncodedArray& array, std::size_t first, std::span<float> out) const final {
    array.decode(first, out);
  }
};

/// Gives a recipe the state that another one of the same kind has: so a tape for validation has one
/// of its own, which learns nothing that training is to go on with.
/// @throws std::invalid_argument if they are not of one kind: if the names or types of their states
///         differ. Nothing is copied then.
inline void copy_state(RecipeOfTape& from, RecipeOfTape& to) {
  const auto states_of = [](RecipeOfTape& recipe) {
    std::map<std::string, std::any, std::less<>> states;
    recipe.for_each_state(
        [&]<class T>(std::string_view name, const T& state) { states.emplace(name, state); });
    return states;
  };
  const auto states = states_of(from);
  const auto before = states_of(to);
  const auto require_within = [](const auto& some, const auto& others) {
    for (const auto& [name, state] : some) {
      const auto found = others.find(name);
      if (found != others.end() && found->second.type() == state.type()) continue;
      throw std::invalid_argument(
          "copy_state: expected two recipes of one kind, got one without the other's state " +
          in_quotes(name));
    }
  };
  require_within(states, before);
  require_within(before, states);
  to.for_each_state([&]<class T>(std::string_view name, T& state) {
    state = *std::any_cast<T>(&states.find(name)->second);
  });
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
