// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: gradients of several batches, joined for one step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/joined_factors.hpp"
#include "unit_scaling/optim/joined_factors_state.hpp"
#include "unit_scaling/optim/optimiser.hpp"

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
  explicit GradientSum(std::vector<Parameter*> parameters) : factors_(std::move(parameters)) {
    for (const Parameter* parameter : factors_.parameters()) {
      Sum& sum = sums_.emplace_back();
      sum.shape = parameter->shape();
      sum.parts.push_back({.elements = Array<float>(sum.shape)});
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
    const std::size_t number = factors_.number_of(&parameter);
    if (number == sums_.size() || sums_[number].used == 0) return none;
    const Sum& sum = sums_[number];
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

  /// What a visitor sees. A template, and so is what makes and takes it, so that programs which
  /// save nothing compile none of it.
  template <class Visitor> struct Shown {
    std::uint64_t count = 0;
    std::map<std::string, Array<std::uint64_t>> factors = {};  ///< as `shown_factors` has them
    /// By parameter, number of the part and number of its factor: "head.weight.0.3".
    std::map<std::string, Array<float>> parts = {};

    using NumbersByName = std::map<std::string_view, std::size_t>;
  };

  /// The parameters by name.
  template <class Numbers> [[nodiscard]] Numbers numbers_by_name() const {
    Numbers numbers;
    for (std::size_t k = 0; k < sums_.size(); ++k) {
      require(numbers.emplace(factors_.parameters()[k]->name, k).second, "GradientSum",
              "expected a name of its own for each parameter whose sum is shown, got '",
              factors_.parameters()[k]->name, "' twice");
    }
    return numbers;
  }

  template <class Visitor> [[nodiscard]] Shown<Visitor> shown() const {
    using Factors = decltype(Shown<Visitor>::factors);
    Shown<Visitor> result{.count = count_, .factors = detail::shown_factors<Factors>(factors_)};
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

  template <class Visitor> void take(const Shown<Visitor>& from) {
    // Names of ops point into its keys.
    auto keys = std::make_shared<const decltype(from.factors)>(from.factors);
    auto factors = detail::factors_of(*keys, factors_.parameters());
    const auto numbers = numbers_by_name<typename Shown<Visitor>::NumbersByName>();
    std::vector<Sum> sums = sums_;
    std::set<std::pair<std::size_t, std::size_t>> taken;
    for (Sum& sum : sums) sum.used = 0;
    for (const auto& [key, elements] : from.parts) {
      std::string_view name = key;
      const std::size_t factor = detail::take_number(name, true);
      const std::size_t part = detail::take_number(name, true);
      const auto found = numbers.find(name);
      require(found != numbers.end() && factor < factors.size() && part < from.parts.size(),
              "GradientSum", "expected the parameter, part and factor of one of these sums, got ",
              in_quotes(key));
      Sum& sum = sums[found->second];
      require_shape(
          elements.shape() == sum.shape, "GradientSum",
          [&of = key] { return "the shape of the parameter for " + in_quotes(of); }, sum.shape,
          elements.shape());
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
                "expected all parts of a parameter's sum, got some for '",
                factors_.parameters()[k]->name, "'");
      }
      add_up(sums[k]);
    }
    factors_.put(std::move(factors), std::move(keys));
    sums_ = std::move(sums);
    count_ = from.count;
  }

  template <Precision P> void check(const Tape<P>& tape) const {
    bool any = sums_.empty();
    for (std::size_t k = 0; k < sums_.size(); ++k) {
      const auto& gradient = tape.gradient(*factors_.parameters()[k]);
      any = any || !gradient.empty() || sums_[k].shape.size() == 0;
      require_shape(
          gradient.empty() || gradient.shape() == sums_[k].shape, "GradientSum",
          [&] { return "the shape of '" + factors_.parameters()[k]->name + "' at first"; },
          sums_[k].shape, gradient.shape());
    }
    require(any, "GradientSum",
            "expected gradients on the tape, got none for any parameter; call backward first");
  }

  template <Precision P> void add(const Tape<P>& tape, const Parameter& parameter, Sum& sum) {
    for (std::size_t k = 0; k < sum.used; ++k) sum.parts[k].is_added = false;
    tape.for_each_gradient_part(parameter, [&](std::size_t factor_of_tape, const auto& gradient) {
      if (gradient.empty()) return;
      const std::size_t number = factors_.number_of_tape(factor_of_tape);
      std::size_t k = 0;
      while (k < sum.used && sum.parts[k].factor != number) ++k;
      if (k == sum.parts.size()) sum.parts.push_back({.elements = Array<float>(sum.shape)});
      Part& part = sum.parts[k];
      const bool is_first = k == sum.used;
      if (is_first) ++sum.used;
      part.factor = number;
      part.is_added = true;
      const auto keep = static_cast<float>(factors_.all()[number].keep);
      const auto share = static_cast<float>(factors_.all()[number].share);
      float* s = part.elements.mutable_data();
      const auto* g = detail::gradient_elements(gradient);
      for_elements(sum, s, [=](std::size_t i, auto count) {
        const auto next = kernels::load<float>(g + i, count) * share;
        return is_first ? next : kernels::load<float>(s + i, count) * keep + next;
      });
    });
    for (std::size_t k = 0; k < sum.used; ++k) {
      Part& part = sum.parts[k];
      const auto keep = static_cast<float>(factors_.all()[part.factor].keep);
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

  JoinedFactors factors_;
  std::vector<Sum> sums_;  ///< of the parameters, in their order
  std::size_t count_ = 0;
};

template <Precision P> void GradientSum::add(const Tape<P>& tape, std::size_t loss) {
  check(tape);
  factors_.begin_batch(tape.gradient_factors(), loss);
  for (std::size_t k = 0; k < sums_.size(); ++k) add(tape, *factors_.parameters()[k], sums_[k]);
  factors_.end_batch();
  ++count_;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
