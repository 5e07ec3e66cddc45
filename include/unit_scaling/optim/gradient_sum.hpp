// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: gradients of several batches, joined for one step.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/gradient_factor.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/optimiser.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/scaling/constraint.hpp"
#include "unit_scaling/scaling/item_count.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// Joins the gradients of several batches, so that a step on many tokens takes the memory, and at
/// any size the time per token, of a few:
///
///     optim::GradientSum sum(optim::parameters_of(model));
///     for (each step) {
///       sum.clear();
///       for (std::size_t k = 0; k < batches; ++k) {
///         tape.clear();
///         tape.backward(model.loss(tape, next_batch()));
///         sum.add(tape);
///       }
///       optimiser.step(sum, rate);
///     }
///
/// After each `add`, `gradient(p)` is the gradient that one batch of all items so far would have.
/// The batches may differ in size, and in the number of selected or ignored items.
///
/// Sequences of the batches may differ in length in a plain model. Under unit scaling the batch of
/// all items would be padded to one length, and padding counts: α of attention, causal or not,
/// depends on the number of keys whatever the mask says, and the factors of weights count padded
/// rows. So there the joined gradient is that of the padded batch only if all batches are padded to
/// one length, with a mask. This is not checked. Without attention, lengths may differ where the
/// loss and all ops with weights read the selected rows alone.
///
/// Gradients cannot simply be added up, as their factors depend on the batch. Under unit scaling
/// the gradient of a weight is Σ g · n^−½ over the n rows of its op, so batches of n and m rows
/// join with the weights (n / (n + m))^½ and (m / (n + m))^½. Ops count different items: one that
/// is given the selected rows has another n than one that is given all. In a plain model the loss
/// is a mean over its items, and the weights are n / (n + m) for every parameter. The tape tells
/// which factors a gradient carries (autograd/gradient_factor.hpp), and the sum keeps the parts of
/// one parameter apart if theirs differ.
///
/// Two losses of one model may count different shares of each batch, as BERT's two do where
/// sequences have different numbers of masked tokens. Behind the op where their gradients meet no
/// weight is right for both. `add` refuses that; call `backward` for each loss on a recording of
/// its own, and give `add` the number of the loss.
///
/// What a model computes must not depend on the size of the batch. So the joined gradient is not
/// that of one batch where an op is random (dropout). Nor can it be where a constraint binds a
/// forward factor to a factor that counts items: ops::add of a repeated row, ops::matmul of rows
/// and a parameter, both without `on_cut_edge`. `add` refuses the second batch of those. It cannot
/// see them in ops::matmul of rows and what is computed from parameters.
///
/// Uses of a parameter by one op in one module are told apart by their order alone. So `add`
/// refuses a batch that has more or fewer of them than the batches before, such as a layer unrolled
/// by hand over sequences of another length; it takes one that has none.
///
/// Sums are float whatever the policy. Each element is added up in the order of the batches, so the
/// bits do not depend on the number of threads. A step like the one before allocates nothing.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2.
class GradientSum {
 public:
  /// @param parameters that gradients are wanted of; they must stay in place.
  /// @throws DomainError if one is null or given twice, or two have one name.
  explicit GradientSum(std::vector<Parameter*> parameters) : parameters_(std::move(parameters)) {
    sums_.resize(parameters_.size());
    detail::DistinctParameters distinct("GradientSum");
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      const Parameter* parameter = parameters_[k];
      distinct.add(parameter);
      numbers_.emplace(parameter, k);
      sums_[k].shape = parameter->value.shape();
      sums_[k].parts.push_back({.elements = Array<float>(sums_[k].shape)});
    }
  }

  /// Joins the gradients that `backward` left on the tape with those before. A parameter that the
  /// loss does not depend on adds nothing.
  /// @param loss a number for each loss that is added from a recording of its own. The gradients of
  ///        different losses are added up as they are.
  /// @throws DomainError if there is a gradient of none of the parameters; if the tape recorded
  ///         another use of a parameter than the tapes before; if gradients that count different
  ///         shares of the batches met in one sum; if what an op computes depends on the size of
  ///         the batch.
  /// @throws ShapeError if a parameter has another shape than at construction. In all these cases
  ///         nothing is added.
  template <Precision P> void add(const Tape<P>& tape, std::size_t loss = 0);

  /// The joined gradient of a parameter since `clear`; empty if there was none.
  [[nodiscard]] const Array<float>& gradient(const Parameter& parameter) const& {
    static const Array<float> none;
    const auto found = numbers_.find(&parameter);
    if (found == numbers_.end()) return none;
    const Sum& sum = sums_[found->second];
    if (sum.used == 0) return none;
    return sum.used == 1 ? sum.parts.front().elements : sum.total;
  }
  [[nodiscard]] Array<float> gradient(const Parameter& parameter) const&& {
    return gradient(parameter);
  }

  /// How many tapes were added since `clear`.
  [[nodiscard]] std::size_t count() const { return count_; }

  /// Bytes of the sums: those of the parameters, and of the parts of those that have several.
  [[nodiscard]] std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const Sum& sum : sums_) {
      bytes += sum.total.bytes();
      for (const Part& part : sum.parts) bytes += part.elements.bytes();
    }
    return bytes;
  }

  /// Shows what was added since `clear` to `visit(name, state)`, so that a training can stop in the
  /// middle of a step: "count", and two maps, "factors" and "parts" (see train/training_state.hpp).
  /// @throws DomainError if two parameters were given one name since; or if a visitor sets what no
  ///         sum over these parameters shows: nothing is set then.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    const auto before = shown<Visitor>();
    auto after = before;
    visit("count", after.count);
    visit("factors", after.factors);
    visit("parts", after.parts);
    if (!is_same(before, after)) take(after);
  }

  /// Begins anew, with no gradients.
  void clear() {
    for (Sum& sum : sums_) sum.used = 0;
    factors_.clear();
    count_ = 0;
  }

 private:
  /// A product of factors (see GradientFactor), of all batches so far.
  struct Factor {
    GradientFactor form;  ///< what it is; `of` and `other` are numbers of `factors_`
    std::size_t loss = 0;
    // Added up over the batches before, and those of the batch that is being added.
    double items = 0;
    double entries = 0;
    ItemCount next = {};
    std::size_t next_uses = 0;  ///< as GradientFactor::uses
    bool is_matched = false;    ///< in this batch
    /// What sums before, and the gradients of this batch, are multiplied with.
    double keep = 1;
    double share = 1;
  };
  struct Part {
    std::size_t factor = 0;
    Array<float> elements;
    bool is_added = false;  ///< in this batch
  };
  /// What a number is as 64 bits.
  template <class T>
  using Word = std::conditional_t<std::is_same_v<T, double>, double, std::uint64_t>;
  static constexpr auto not_a_number = std::numeric_limits<std::size_t>::max();
  struct Sum {
    Shape shape;
    std::vector<Part> parts;  ///< the first `used` of them have been added to since `clear`
    std::size_t used = 0;
    Array<float> total;  ///< of several parts
  };

  /// What a visitor sees: everything but the functions of constraints, which the next tape has.
  /// A template, and so is what makes and takes it, so that programs which save nothing compile
  /// none of it.
  template <class Visitor> struct Shown {
    std::uint64_t count = 0;
    /// By number, op and constraint, "3.linear.none": what `for_each_number` tells, as 64 bits
    /// each.
    std::map<std::string, Array<std::uint64_t>> factors = {};
    /// By parameter, number of the part and number of its factor: "head.weight.0.3".
    std::map<std::string, Array<float>> parts = {};

    using NumbersByName = std::map<std::string_view, std::size_t>;
  };

  /// Calls `visit(number)` for each number of a factor that is shown.
  template <class Visit>
  static void for_each_number(Factor& factor, std::size_t& parameter, const Visit& visit) {
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

  /// The parameters by name.
  template <class Numbers> [[nodiscard]] Numbers numbers_by_name() const {
    Numbers numbers;
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      require(numbers.emplace(parameters_[k]->name, k).second, "GradientSum",
              "expected a name of its own for each parameter whose sum is shown, got '",
              parameters_[k]->name, "' twice");
    }
    return numbers;
  }

  template <class Visitor> [[nodiscard]] Shown<Visitor> shown() const {
    Shown<Visitor> result{.count = count_};
    for (std::size_t i = 0; i < factors_.size(); ++i) {
      Factor factor = factors_[i];
      const auto found = numbers_.find(factor.form.parameter);
      // Counted from 1.
      std::size_t parameter = found == numbers_.end() ? 0 : found->second + 1;
      std::vector<std::uint64_t> numbers{factor.form.op.size()};
      for_each_number(factor, parameter, [&]<class T>(const T& number) {
        numbers.push_back(std::bit_cast<std::uint64_t>(static_cast<Word<T>>(number)));
      });
      const std::string key = std::to_string(i) + "." + std::string(factor.form.op) + "." +
                              std::string(factor.form.count.shared.constraint.name);
      result.factors.emplace(key, Array<std::uint64_t>(Shape{numbers.size()}, numbers));
    }
    for (const auto& [name, k] : numbers_by_name<typename Shown<Visitor>::NumbersByName>()) {
      const Sum& sum = sums_[k];
      for (std::size_t part = 0; part < sum.used; ++part) {
        result.parts.emplace(std::string(name) + "." + std::to_string(part) + "." +
                                 std::to_string(sum.parts[part].factor),
                             sum.parts[part].elements);
      }
    }
    return result;
  }

  /// Whether a visitor has left everything as it was. Parts are not compared by their elements:
  /// writing to some that are shared makes copies.
  template <class Visitor>
  [[nodiscard]] static bool is_same(const Shown<Visitor>& a, const Shown<Visitor>& b) {
    const auto is_same_part = [](const auto& x, const auto& y) {
      return x.first == y.first && x.second.shape() == y.second.shape() &&
             x.second.data() == y.second.data();
    };
    return a.count == b.count && a.factors == b.factors &&
           std::equal(a.parts.begin(), a.parts.end(), b.parts.begin(), b.parts.end(), is_same_part);
  }

  /// The number that a text ends with, or begins with, at a full stop, which is taken off with it.
  [[nodiscard]] static std::size_t take_number(std::string_view& text, bool from_end) {
    const std::size_t stop = from_end ? text.rfind('.') : text.find('.');
    std::size_t number = 0;
    if (stop == std::string_view::npos) return not_a_number;
    const std::string_view digits = from_end ? text.substr(stop + 1) : text.substr(0, stop);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size()) return not_a_number;
    text = from_end ? text.substr(0, stop) : text.substr(stop + 1);
    return number;
  }

  template <class Visitor> void take(const Shown<Visitor>& from) {
    // Names of ops point into its keys.
    auto keys = std::make_shared<const decltype(from.factors)>(from.factors);
    std::vector<Factor> factors(keys->size());
    std::vector<bool> is_taken(keys->size());
    for (const auto& [key, numbers] : *keys) {
      std::string_view text = key;
      const std::size_t i = take_number(text, false);
      const bool is_new = i < factors.size() && !is_taken[i];
      require(is_new && is_factor(text, i, numbers, factors[i]), "GradientSum",
              "expected factors as a sum shows them, got others for ", in_quotes(key));
      is_taken[i] = true;
    }
    const auto numbers = numbers_by_name<typename Shown<Visitor>::NumbersByName>();
    std::vector<Sum> sums = sums_;
    std::set<std::pair<std::size_t, std::size_t>> taken;
    for (Sum& sum : sums) sum.used = 0;
    for (const auto& [key, elements] : from.parts) {
      std::string_view name = key;
      const std::size_t factor = take_number(name, true);
      const std::size_t part = take_number(name, true);
      const auto found = numbers.find(name);
      require(found != numbers.end() && factor < factors.size() && part < from.parts.size(),
              "GradientSum", "expected the parameter, part and factor of one of these sums, got ",
              in_quotes(key));
      Sum& sum = sums[found->second];
      if (elements.shape() != sum.shape) {
        throw_shape_error("GradientSum", "the shape of the parameter for " + in_quotes(key),
                          sum.shape, elements.shape());
      }
      sum.used = std::max(sum.used, part + 1);
      if (sum.parts.size() < sum.used) sum.parts.resize(sum.used);
      sum.parts[part] = {.factor = factor, .elements = elements};
      require(taken.emplace(found->second, part).second, "GradientSum",
              "expected one part of each number of a parameter's sum, got another one: ",
              in_quotes(key));
    }
    for (std::size_t k = 0; k < sums.size(); ++k) {
      for (std::size_t part = 0; part < sums[k].used; ++part) {
        require(taken.contains({k, part}), "GradientSum",
                "expected all parts of a parameter's sum, got some for '", parameters_[k]->name,
                "'");
      }
      add_up(sums[k]);
    }
    factors_ = std::move(factors);
    sums_ = std::move(sums);
    count_ = from.count;
    op_names_ = std::move(keys);
  }

  /// Whether a factor is one that a sum shows under number `i`; made from its numbers then.
  /// @param names of its op and of its constraint, with a full stop between.
  [[nodiscard]] bool is_factor(std::string_view names, std::size_t i,
                               const Array<std::uint64_t>& numbers, Factor& factor) const {
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
        parameter == 0 || parameter > parameters_.size() ? nullptr : parameters_[parameter - 1];
    const bool is_of_loss = form.op.empty() && !form.is_sum;
    return is_valid && parameter <= parameters_.size() &&
           (is_of_loss || (form.of < i && form.other < i)) && factor.items >= 0 &&
           factor.entries >= 0 && form.count.shared.inputs < form.count.shared.factors.size();
  }

  template <Precision P> void check(const Tape<P>& tape) const {
    bool any = parameters_.empty();
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      const auto& gradient = tape.gradient(*parameters_[k]);
      any = any || !gradient.empty() || sums_[k].shape.size() == 0;
      if (!gradient.empty() && gradient.shape() != sums_[k].shape) {
        throw_shape_error("GradientSum", "the shape of '" + parameters_[k]->name + "' at first",
                          sums_[k].shape, gradient.shape());
      }
    }
    require(any, "GradientSum",
            "expected gradients on the tape, got none for any parameter; call backward first");
  }

  /// Finds the tape's products among those of the batches before, and appends the others.
  void match(std::span<const GradientFactor> tape, std::size_t loss) {
    for (Factor& factor : factors_) {
      factor.is_matched = false;
      factor.next = {};
    }
    known_ = factors_.size();
    numbers_of_tape_.clear();
    // Tapes of one model have the same products, in the same order.
    bool is_in_order = true;
    for (const GradientFactor& of_tape : tape) {
      GradientFactor form = of_tape;
      if (!numbers_of_tape_.empty()) {
        form.of = numbers_of_tape_[form.of];
        form.other = numbers_of_tape_[form.other];
      }
      const auto fits = [&](const Factor& factor) {
        return !factor.is_matched && factor.loss == loss && is_same_use(factor.form, form);
      };
      std::size_t number = numbers_of_tape_.size();
      is_in_order = is_in_order && number < known_ && fits(factors_[number]);
      if (!is_in_order) {
        // Uses that nothing else tells apart are told apart by their order.
        const auto end = factors_.begin() + static_cast<std::ptrdiff_t>(known_);
        const auto found = std::find_if(factors_.begin(), end, fits);
        number =
            found == end ? factors_.size() : static_cast<std::size_t>(found - factors_.begin());
      }
      if (number == factors_.size()) factors_.push_back({.form = form, .loss = loss});
      Factor& factor = factors_[number];
      // Of what was loaded only the names are known until now.
      Constraint& constraint = factor.form.count.shared.constraint;
      if (constraint.combine == nullptr && constraint.name == form.count.shared.constraint.name) {
        constraint = form.count.shared.constraint;
      }
      if (factor.form.of != form.of || !is_alike(factor.form.count, form.count)) {
        refuse({"expected the gradient of ", name_of_use(form),
                " to come through the same ops as in the batches before, got other ones; give add "
                "a number of its own for each loss, or record the same graph for every batch"});
      }
      factor.is_matched = true;
      factor.next = form.count;
      factor.next_uses = form.uses;
      numbers_of_tape_.push_back(number);
    }
    require_same_uses(loss);
  }

  /// Whether two products stand for the same use in two batches, or for uses that only their order
  /// tells apart.
  [[nodiscard]] static bool is_same_use(const GradientFactor& a, const GradientFactor& b) {
    return a.is_sum == b.is_sum && a.op == b.op && a.module == b.module &&
           a.argument == b.argument && a.parameter == b.parameter &&
           (!a.is_sum || (a.of == b.of && a.other == b.other));
  }

  /// Refuses a batch in which an op was used more or fewer times than before, though not never: its
  /// uses would be taken for each other.
  void require_same_uses(std::size_t loss) {
    if (numbers_of_tape_.empty() || numbers_of_tape_.front() >= known_) return;
    const auto is_changed = [&](std::size_t number) {
      const Factor& factor = factors_[number];
      const bool is_as_before =
          number < known_ && factor.is_matched && factor.next_uses == factor.form.uses;
      return factor.loss == loss && !factor.form.is_sum && !factor.form.op.empty() && !is_as_before;
    };
    for (std::size_t k = 0; k < factors_.size(); ++k) {
      if (!is_changed(k)) continue;
      const GradientFactor& form = factors_[k].form;
      std::size_t before = 0;
      std::size_t now = 0;
      for (std::size_t other = 0; other < factors_.size(); ++other) {
        const Factor& each = factors_[other];
        if (each.loss != loss || !is_same_use(each.form, form)) continue;
        if (other < known_) before += each.form.uses;
        if (each.is_matched) now += each.next_uses;
      }
      if (now == 0 || before == 0) continue;
      if (now == before) {
        refuse({"expected the uses of ", name_of_use(form),
                " to count as many items as each other in every batch or in none; call the op "
                "itself for each use in a module of its own (Tape::enter)"});
      }
      refuse({"expected the number of uses of ", name_of_use(form),
              " to be that of the batches before, ", std::to_string(before), ", got ",
              std::to_string(now),
              ("; join batches that use it equally often, or call the op itself for each use in a "
               "module of its own (Tape::enter)")});
    }
    for (std::size_t k = 0; k < factors_.size(); ++k) {
      if (!is_changed(k) || factors_[k].form.count.entries == 0) continue;
      refuse({"expected ", name_of_use(factors_[k].form),
              " to be used in every batch or in none, as its factor counts the rows of all of "
              "them; give it no ids where there are none"});
    }
  }

  /// A parameter, or an input of the same op without a name, and the op.
  [[nodiscard]] std::string name_of_use(const GradientFactor& form) const {
    const auto found = numbers_.find(form.parameter);
    const std::string argument =
        found == numbers_.end() ? "an input" : "'" + parameters_[found->second]->name + "'";
    return argument + " by '" + std::string(form.op) + "'";
  }

  /// What each product makes of the sums before, and of the gradients of this batch.
  void weigh() {
    for (Factor& factor : factors_) {
      const GradientFactor& form = factor.form;
      factor.keep = factor.share = 1;
      if (form.op.empty() && !form.is_sum) continue;  // of the loss itself
      // Of a lower number, so it is done.
      const Factor& of = factors_[form.of];
      factor.keep = of.keep;
      factor.share = of.share;
      if (form.is_sum) {
        const Factor& other = factors_[form.other];
        const bool is_known = static_cast<std::size_t>(&factor - factors_.data()) < known_;
        const auto differ = [](double a, double b) { return std::abs(a - b) > 1e-9 * (a + b); };
        if ((is_known && differ(of.keep, other.keep)) ||
            (factor.is_matched && differ(of.share, other.share))) {
          constexpr std::string_view expected =
              "expected gradients that meet in one sum to count the same share of each batch, but "
              "those through '";
          constexpr std::string_view advice =
              "' do not; call backward for each loss on a recording of its own and give add the "
              "number of the loss";
          refuse({expected, name_of(of), "' and '", name_of(other), advice});
        }
        continue;
      }
      const auto power_of = [&](double items, double entries, double all) {
        const double own = per_entry(items, entries, form.count);
        if (all == 0 || own == all) return 1.0;
        return own == 0 ? 0 : std::pow(own / all, form.count.power) * shared_of(form, own, all);
      };
      const double all = per_entry(factor.items + factor.next.items,
                                   factor.entries + factor.next.entries, form.count);
      if (factor.items != 0) factor.keep *= power_of(factor.items, factor.entries, all);
      if (factor.is_matched) factor.share *= power_of(factor.next.items, factor.next.entries, all);
    }
  }

  /// The op that gave the product its last factor.
  [[nodiscard]] std::string_view name_of(const Factor& factor) const {
    if (factor.form.is_sum) return name_of(factors_[factor.form.of]);
    return factor.form.op.empty() ? "the loss" : factor.form.op;
  }

  [[nodiscard]] static double per_entry(double items, double entries, const ItemCount& count) {
    if (count.entries == 0) return items;
    return entries == 0 ? 0 : items / entries;
  }

  /// What a shared factor is for all items, relative to some of them.
  [[nodiscard]] double shared_of(const GradientFactor& form, double own, double all) {
    const SharedFactor& shared = form.count.shared;
    if (shared.constraint.combine == nullptr) return 1;
    const double ratio = shared(all) / shared(own);
    if (!(std::isfinite(ratio) && ratio > 0)) {
      refuse({"expected a constraint that gives ", name_of_use(form),
              " positive factors for any number of items"});
    }
    if (shared.is_of_output && std::abs(ratio - 1) > 1e-9) {
      // Better named after the parameter, where the op has one.
      const auto named = std::find_if(factors_.begin(), factors_.end(), [&](const Factor& each) {
        return each.form.op == form.op && each.form.module == form.module &&
               each.form.count == form.count && numbers_.contains(each.form.parameter);
      });
      refuse({("expected an output that does not depend on the size of the batch, but the "
               "constraint binds the forward factor of "),
              name_of_use(named == factors_.end() ? form : named->form), " to one that counts ",
              std::to_string(std::llround(own)), " items here and ",
              std::to_string(std::llround(all)),
              (" in the joined batch; give the op scaling.on_cut_edge(), or record it under "
               "Tape::outside_batch if its items are the same for every batch")});
    }
    return ratio;
  }

  /// Forgets what was appended for this batch.
  [[noreturn]] void refuse(std::initializer_list<std::string_view> text) {
    factors_.erase(factors_.begin() + static_cast<std::ptrdiff_t>(known_), factors_.end());
    throw_domain_error("GradientSum", text);
  }

  template <Precision P> void add(const Tape<P>& tape, const Parameter& parameter, Sum& sum) {
    for (std::size_t k = 0; k < sum.used; ++k) sum.parts[k].is_added = false;
    tape.for_each_gradient_part(parameter, [&](std::size_t factor_of_tape, const auto& gradient) {
      if (gradient.empty()) return;
      const std::size_t number = numbers_of_tape_[factor_of_tape];
      std::size_t k = 0;
      while (k < sum.used && sum.parts[k].factor != number) ++k;
      if (k == sum.parts.size()) sum.parts.push_back({.elements = Array<float>(sum.shape)});
      Part& part = sum.parts[k];
      const bool is_first = k == sum.used;
      if (is_first) ++sum.used;
      part.factor = number;
      part.is_added = true;
      const auto keep = static_cast<float>(factors_[number].keep);
      const auto share = static_cast<float>(factors_[number].share);
      float* s = part.elements.mutable_data();
      const auto* g = detail::gradient_elements(gradient);
      for_elements(sum, s, [=](std::size_t i, auto count) {
        const auto next = kernels::load<float>(g + i, count) * share;
        return is_first ? next : kernels::load<float>(s + i, count) * keep + next;
      });
    });
    for (std::size_t k = 0; k < sum.used; ++k) {
      Part& part = sum.parts[k];
      const auto keep = static_cast<float>(factors_[part.factor].keep);
      if (part.is_added || keep == 1) continue;
      float* s = part.elements.mutable_data();
      for_elements(sum, s, [=](std::size_t i, auto count) {
        return kernels::load<float>(s + i, count) * keep;
      });
    }
    add_up(sum);
  }

  /// Adds up the parts, if there are several.
  static void add_up(Sum& sum) {
    if (sum.used < 2) return;
    if (sum.total.shape() != sum.shape) sum.total = Array<float>(sum.shape);
    float* total = sum.total.mutable_data();
    for (std::size_t k = 1; k < sum.used; ++k) {
      const float* before = k == 1 ? sum.parts[0].elements.data() : total;
      const float* next = sum.parts[k].elements.data();
      for_elements(sum, total, [=](std::size_t i, auto count) {
        return kernels::load<float>(before + i, count) + kernels::load<float>(next + i, count);
      });
    }
  }

  /// `out[i] = f(i)` for the lanes of a parameter's elements.
  template <class F> static void for_elements(const Sum& sum, float* out, const F& f) {
    detail::for_each_lane(sum.shape.size(), [&](std::size_t i, auto count) {
      kernels::store<Overflow::infinity_or_nan, float>(f(i, count), out + i, count);
    });
  }

  std::vector<Parameter*> parameters_;
  std::unordered_map<const Parameter*, std::size_t> numbers_;
  std::vector<Sum> sums_;
  std::vector<Factor> factors_;
  std::size_t known_ = 0;  ///< factors of the batches before the one that is being added
  std::vector<std::size_t> numbers_of_tape_;  ///< in `factors_`, of the factors of its tape
  std::size_t count_ = 0;
  std::shared_ptr<const void> op_names_;  ///< of factors that were loaded
};

template <Precision P> void GradientSum::add(const Tape<P>& tape, std::size_t loss) {
  check(tape);
  match(tape.gradient_factors(), loss);
  weigh();
  for (std::size_t k = 0; k < parameters_.size(); ++k) add(tape, *parameters_[k], sums_[k]);
  for (Factor& factor : factors_) {
    factor.items += factor.next.items;
    factor.entries += factor.next.entries;
  }
  ++count_;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
