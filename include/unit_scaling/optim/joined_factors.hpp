// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: what each of several batches weighs in the gradients that they have together.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/gradient_factor.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/scaling/constraint.hpp"
#include "unit_scaling/scaling/item_count.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// A product of factors (see GradientFactor), of all batches so far.
struct JoinedFactor {
  GradientFactor form;  ///< what it is; `of` and `other` are numbers of this list
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

/// The products of factors that the gradients of several batches carry: those of one model, matched
/// batch by batch. `GradientSum` says what they are for, and what is refused.
class JoinedFactors {
 public:
  /// @param parameters that gradients are wanted of; they must stay in place.
  /// @throws DomainError if one is null or given twice, or two have one name.
  explicit JoinedFactors(std::vector<Parameter*> parameters) : parameters_(std::move(parameters)) {
    detail::DistinctParameters distinct("GradientSum");
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      distinct.add(parameters_[k]);
      numbers_.emplace(parameters_[k], k);
    }
  }

  [[nodiscard]] const std::vector<Parameter*>& parameters() const& { return parameters_; }
  std::vector<Parameter*> parameters() const&& = delete;
  /// Where a parameter is among them; their number, if it is none of them.
  [[nodiscard]] std::size_t number_of(const Parameter* parameter) const {
    const auto found = numbers_.find(parameter);
    return found == numbers_.end() ? parameters_.size() : found->second;
  }

  /// The products of all batches so far.
  [[nodiscard]] const std::vector<JoinedFactor>& all() const& { return factors_; }
  std::vector<JoinedFactor> all() const&& = delete;

  /// Finds the products of a tape among those of the batches before, and appends the others. Then
  /// `keep` and `share` of each tell what its gradients weigh.
  /// @param loss as `GradientSum::add` has it.
  /// @throws DomainError if the batches have no joined gradient. The products stay as they
  ///         are then.
  void begin_batch(std::span<const GradientFactor> tape, std::size_t loss) {
    match(tape, loss);
    weigh();
  }
  /// The number of a product of that tape in `all()`.
  [[nodiscard]] std::size_t number_of_tape(std::size_t product) const {
    return numbers_of_tape_[product];
  }
  /// The batch is one of those before.
  void end_batch() {
    for (JoinedFactor& factor : factors_) {
      factor.items += factor.next.items;
      factor.entries += factor.next.entries;
    }
  }

  /// Forgets all batches.
  void clear() { factors_.clear(); }

  /// Puts products in the place of those there are.
  /// @param names keeps what the names of their ops and constraints point to.
  void put(std::vector<JoinedFactor> factors, std::shared_ptr<const void> names) {
    factors_ = std::move(factors);
    names_ = std::move(names);
  }

 private:
  /// Finds the tape's products among those of the batches before, and appends the others.
  void match(std::span<const GradientFactor> tape, std::size_t loss) {
    for (JoinedFactor& factor : factors_) {
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
      const auto fits = [&](const JoinedFactor& factor) {
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
      JoinedFactor& factor = factors_[number];
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
      const JoinedFactor& factor = factors_[number];
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
        const JoinedFactor& each = factors_[other];
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
              " to be that of the batches before, ", before, ", got ", now,
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
    const std::string argument =
        numbers_.contains(form.parameter) ? "'" + form.parameter->name + "'" : "an input";
    return argument + " by '" + std::string(form.op) + "'";
  }

  /// What each product makes of the sums before, and of the gradients of this batch.
  void weigh() {
    for (JoinedFactor& factor : factors_) {
      const GradientFactor& form = factor.form;
      factor.keep = factor.share = 1;
      if (form.op.empty() && !form.is_sum) continue;  // of the loss itself
      // Of a lower number, so it is done.
      const JoinedFactor& of = factors_[form.of];
      factor.keep = of.keep;
      factor.share = of.share;
      if (form.is_sum) {
        const JoinedFactor& other = factors_[form.other];
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
  [[nodiscard]] std::string_view name_of(const JoinedFactor& factor) const {
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
      const auto named =
          std::find_if(factors_.begin(), factors_.end(), [&](const JoinedFactor& each) {
            return each.form.op == form.op && each.form.module == form.module &&
                   each.form.count == form.count && numbers_.contains(each.form.parameter);
          });
      refuse({("expected an output that does not depend on the size of the batch, but the "
               "constraint binds the forward factor of "),
              name_of_use(named == factors_.end() ? form : named->form), " to one that counts ",
              std::llround(own), " items here and ", std::llround(all),
              (" in the joined batch; give the op scaling.on_cut_edge(), or record it under "
               "Tape::outside_batch if its items are the same for every batch")});
    }
    return ratio;
  }

  /// Forgets what was appended for this batch.
  [[noreturn]] void refuse(std::initializer_list<MessagePiece> text) {
    factors_.erase(factors_.begin() + static_cast<std::ptrdiff_t>(known_), factors_.end());
    throw_domain_error("GradientSum", text);
  }

  std::vector<Parameter*> parameters_;
  std::unordered_map<const Parameter*, std::size_t> numbers_;
  std::vector<JoinedFactor> factors_;
  std::size_t known_ = 0;  ///< factors of the batches before the one that is being added
  std::vector<std::size_t> numbers_of_tape_;  ///< in `factors_`, of the factors of its tape
  std::shared_ptr<const void> names_;         ///< of factors that were put
};

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
