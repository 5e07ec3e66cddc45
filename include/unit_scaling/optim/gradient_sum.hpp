// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: gradients of several batches, joined for one step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/gradient_factor.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/optimiser.hpp"
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
/// The batches may differ in size, in the number of selected or ignored items, and in the lengths
/// of their sequences.
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
/// that of one batch where an op is random (dropout), or where a constraint binds a forward factor
/// to a factor that counts items (ops::add of a repeated row, ops::matmul of rows, both without
/// `on_cut_edge`). ops::mean and ops::sum of a whole batch are exact under the constraints gmean,
/// to_output_scale and to_grad_input_scale.
///
/// Sums are float whatever the policy. Each element is added up in the order of the batches, so the
/// bits do not depend on the number of threads. A step like the one before allocates nothing.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2.
class GradientSum {
 public:
  /// @param parameters that gradients are wanted of; they must stay in place.
  /// @throws DomainError if one is null or given twice.
  explicit GradientSum(std::vector<Parameter*> parameters) : parameters_(std::move(parameters)) {
    sums_.resize(parameters_.size());
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      const Parameter* parameter = parameters_[k];
      require(parameter != nullptr, "GradientSum", "expected parameters, got a null pointer");
      require(numbers_.emplace(parameter, k).second, "GradientSum",
              "expected each parameter once, got '", parameter->name, "' twice");
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
  ///         shares of the batches met in one sum.
  /// @throws ShapeError if a parameter has another shape than at construction. In all these cases
  ///         nothing is added.
  template <Precision P> void add(const Tape<P>& tape, std::size_t loss = 0);

  /// The joined gradient of a parameter since `clear`; empty if there was none.
  [[nodiscard]] const Array<float>& gradient(const Parameter& parameter) const {
    static const Array<float> none;
    const auto found = numbers_.find(&parameter);
    if (found == numbers_.end()) return none;
    const Sum& sum = sums_[found->second];
    if (sum.used == 0) return none;
    return sum.used == 1 ? sum.parts.front().elements : sum.total;
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
    bool is_matched = false;  ///< in this batch
    /// What sums before, and the gradients of this batch, are multiplied with.
    double keep = 1;
    double share = 1;
  };
  struct Part {
    std::size_t factor = 0;
    Array<float> elements;
    bool is_added = false;  ///< in this batch
  };
  struct Sum {
    Shape shape;
    std::vector<Part> parts;  ///< the first `used` of them have been added to since `clear`
    std::size_t used = 0;
    Array<float> total;  ///< of several parts
  };

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
    for (const GradientFactor& of_tape : tape) {
      GradientFactor form = of_tape;
      if (!numbers_of_tape_.empty()) {
        form.of = numbers_of_tape_[form.of];
        form.other = numbers_of_tape_[form.other];
      }
      const auto fits = [&](const Factor& factor) {
        const GradientFactor& known = factor.form;
        return !factor.is_matched && factor.loss == loss && known.of == form.of &&
               known.other == form.other && known.is_sum == form.is_sum && known.op == form.op &&
               known.module == form.module && known.argument == form.argument &&
               known.parameter == form.parameter && known.count.power == form.count.power;
      };
      // Tapes of one model have the same products, so the first guess is right.
      std::size_t number = numbers_of_tape_.size();
      if (number >= known_ || !fits(factors_[number])) {
        number = static_cast<std::size_t>(std::find_if(factors_.begin(), factors_.end(), fits) -
                                          factors_.begin());
      }
      if (number == factors_.size()) factors_.push_back({.form = form, .loss = loss});
      Factor& factor = factors_[number];
      if (factor.form.uses != form.uses) {
        constexpr std::string_view advice =
            "' to be those of the batches before, but some count as many items as each other in "
            "one batch and not in another; let each have a module of its own (Tape::enter)";
        refuse({"expected the uses of a parameter by '", form.op, advice});
      }
      factor.is_matched = true;
      factor.next = form.count;
      numbers_of_tape_.push_back(number);
    }
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
        return all == 0 || own == all ? 1 : std::pow(own / all, form.count.power);
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

  /// Forgets what was appended for this batch.
  [[noreturn]] void refuse(std::initializer_list<std::string_view> text) {
    factors_.resize(known_);
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
      const auto* g = gradient.data();
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
