// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what a tape asks of a recipe, and what a checkpoint keeps of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory_resource>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// An op that a tape records, as a recipe sees it.
struct RecipeOp {
  std::string_view name;    ///< `constant` and `input` for values that no op makes
  std::string_view module;  ///< path of the module that it belongs to
  bool has_products = false;
  /// Whether the op, under the tape's policy, does to the numbers within its products what it does
  /// under a policy with these formats of operands and gradients.
  bool (*rounds_weights_as)(const FormatSpec& operand, const FormatSpec& gradient) =
      [](const FormatSpec&, const FormatSpec&) { return true; };
  /// Formats that the policy has for operands and gradients.
  FormatSpec operand = FormatSpec::ieee(8, 23);
  FormatSpec gradient = FormatSpec::ieee(8, 23);
};

/// Which array of a step a recipe is asked about.
struct RecipeSite {
  std::string_view module;  ///< path of the module that the op belongs to
  std::string_view op;
  std::size_t argument = 0;  ///< number of the array among the op's arguments or its outputs
  /// Keys of random draws: the step, and the number of the array in the order in which a tape asks.
  std::uint64_t step = 0;
  std::uint32_t tensor = 0;
};

/// An operand of an op's matrix products.
struct OperandSite : RecipeSite {
  ops::OperandRole role = ops::OperandRole::input;
  /// Whose numbers the array has, which may lie in a wider one: what a recipe rounded it to before,
  /// or the format that it is stored in.
  Format held = {};
  std::pmr::memory_resource* memory = nullptr;  ///< for what is made of the array
  /// What was made of the same numbers for the op before, which may be returned again; null: none.
  const kernels::Operand* made_before = nullptr;
};

/// An array that an op writes: an output or, in the backward pass, the gradient of an argument, or
/// the sum where it is added to those of other ops.
struct WriteSite : RecipeSite {
  bool is_gradient = false;
  bool rounds_within = false;  ///< as `OpTraits::rounds_within`
};

/// An argument or an output of an op, which the op saves for its backward pass; `argument` is its
/// number among all that the op saves.
struct SavedSite : RecipeSite {
  std::pmr::memory_resource* memory = nullptr;  ///< for what is made of the array
};

/// An operand as it is stored. Both forms have the shape of the array.
struct OperandForms {
  EncodedArray array;
  /// Another form for the products that sum over the rows, where blocks run along these. A linear
  /// layer sums over the columns of x and of w forward, over the columns of dy and the rows of w
  /// for dx, and over the rows of dy and of x for dw.
  std::optional<EncodedArray> over_rows = {};
  /// Whether that of a parameter may be used again at this site as long as nobody writes to the
  /// parameter, instead of asking again, and any be offered as `made_before`. Not so where each use
  /// has random draws of its own.
  bool is_lasting = true;
};

/// Visits the state of a recipe.
class RecipeStateVisitor {
 public:
  virtual void operator()(std::string_view name, double& number) const = 0;
  virtual void operator()(std::string_view name, std::uint64_t& number) const = 0;
  virtual void operator()(std::string_view name, Array<float>& array) const = 0;
  virtual void operator()(std::string_view name, EncodedArray& array) const = 0;
  virtual void operator()(std::string_view name, std::map<std::string, double>& numbers) const = 0;
  virtual void operator()(std::string_view name,
                          std::map<std::string, Array<float>>& arrays) const = 0;

 protected:
  ~RecipeStateVisitor() = default;
};

/// What a tape asks of a recipe: `Recipe` (autograd/recipe.hpp), which is the only class to derive
/// from this one. Apart from it, so that a program without recipes does not compile the products
/// of all formats.
///
/// A tape calls it from one thread, in the order in which it records ops and unwinds them.
class RecipeOfTape {
 public:
  RecipeOfTape() = default;
  RecipeOfTape(const RecipeOfTape&) = default;
  RecipeOfTape& operator=(const RecipeOfTape&) = default;
  virtual ~RecipeOfTape() = default;

  /// Called when a step begins.
  virtual void begin_step() = 0;

  /// Called when an op is recorded, before it asks for operands, and for each constant and input.
  virtual void begin_op(const RecipeOp& op) = 0;

  /// The operand as products are to read it; none: as the tape's policy has it.
  [[nodiscard]] virtual std::optional<OperandForms> operand(const OperandSite& site,
                                                            const EncodedArray& array) = 0;

  /// The format that what an op writes is rounded to; none: it stays as it is. Losses always do.
  /// Only a tape that stores float asks `write` then; others throw.
  [[nodiscard]] virtual std::optional<Format> written(const WriteSite& site) = 0;

  /// Rounds what an op writes to the format that `written` has just said, in place.
  virtual void write(const WriteSite& site, const Format& format, std::span<float> numbers) = 0;

  /// What is saved for the backward pass in place of an array; none: the array itself. It is asked
  /// for arguments and outputs that ops save, except those of losses. Operands of products are
  /// saved as `operand` has them, and parameters are not saved. `site.tensor` is 0: no random
  /// draws.
  [[nodiscard]] virtual std::optional<EncodedArray> saved(const SavedSite& site,
                                                          const EncodedArray& array) = 0;

  /// @throws std::invalid_argument if part of what was asked for has met no op so far. A tape calls
  ///         it before each backward pass.
  virtual void require_all_used() const = 0;

  /// What products, in double or else in float, are to read as an operand.
  [[nodiscard]] virtual kernels::Operand make_operand(OperandForms forms, bool in_double) const = 0;

  /// Writes the numbers of an array from element number `first` on.
  virtual void decode(const EncodedArray& array, std::size_t first, std::span<float> out) const = 0;

  /// Calls `visit(name, value)` for each value that it keeps from one call to the next; a visitor
  /// may write to it. What comes up as a training goes, such as a number or an array for each site,
  /// is a map.
  virtual void visit_state(const RecipeStateVisitor& /*visit*/) {}

  /// The same for a generic visitor, as everything has it whose state a checkpoint keeps.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    struct Adaptor final : RecipeStateVisitor {
      explicit Adaptor(const Visitor& to) : visit(to) {}
      void operator()(std::string_view name, double& v) const override { visit(name, v); }
      void operator()(std::string_view name, std::uint64_t& v) const override { visit(name, v); }
      void operator()(std::string_view name, Array<float>& v) const override { visit(name, v); }
      void operator()(std::string_view name, EncodedArray& v) const override { visit(name, v); }
      void operator()(std::string_view name, std::map<std::string, double>& v) const override {
        visit(name, v);
      }
      void operator()(std::string_view name,
                      std::map<std::string, Array<float>>& v) const override {
        visit(name, v);
      }
      const Visitor& visit;
    };
    visit_state(Adaptor(visit));
  }
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
