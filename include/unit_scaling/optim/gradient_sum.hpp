// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: gradients of several batches, added up for one step.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/optimiser.hpp"
#include "unit_scaling/scaling/rule.hpp"

namespace UNIT_SCALING_NAMESPACE::optim {

/// Adds up the gradients of several batches, so that a step on many tokens takes the memory, and
/// at any size the time per token, of a few:
///
///     optim::GradientSum sum(optim::parameters_of(model));
///     for (each step) {
///       sum.clear();
///       for (std::size_t k = 0; k < batches; ++k) {
///         tape.clear();
///         tape.backward(model.loss(tape, next_batch()));
///         sum.add(tape);
///       }
///       optimiser.step(sum, rate, optim::loss_scale_of_sum(rule, batches));
///     }
///
/// Sums are float whatever the policy, and each element is added up in the order of the batches, so
/// the bits do not depend on the number of threads. It allocates nothing after construction.
class GradientSum {
 public:
  /// @param parameters that gradients are wanted of; they must stay in place.
  /// @throws DomainError if one is null or given twice.
  explicit GradientSum(std::vector<Parameter*> parameters) : parameters_(std::move(parameters)) {
    sums_.reserve(parameters_.size());
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      const Parameter* parameter = parameters_[k];
      require(parameter != nullptr, "GradientSum", "expected parameters, got a null pointer");
      require(numbers_.emplace(parameter, k).second, "GradientSum",
              "expected each parameter once, got '", parameter->name, "' twice");
      sums_.push_back({Array<float>(parameter->value.shape())});
    }
  }

  /// Adds the gradients that `backward` left on the tape. A parameter that the loss does not depend
  /// on adds nothing.
  /// @throws DomainError if there is a gradient of none of the parameters.
  /// @throws ShapeError if a parameter has another shape than at construction. Nothing is added.
  template <Precision P> void add(const Tape<P>& tape) {
    bool any = parameters_.empty();
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      const auto& gradient = tape.gradient(*parameters_[k]);
      any = any || !gradient.empty() || sums_[k].elements.empty();
      if (!gradient.empty() && gradient.shape() != sums_[k].elements.shape()) {
        throw_shape_error("GradientSum", "the shape of '" + parameters_[k]->name + "' at first",
                          sums_[k].elements.shape(), gradient.shape());
      }
    }
    require(any, "GradientSum",
            "expected gradients on the tape, got none for any parameter; call backward first");
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      const auto& gradient = tape.gradient(*parameters_[k]);
      if (!gradient.empty()) add(sums_[k], gradient);
    }
    ++count_;
  }

  /// The sum of a parameter's gradients since `clear`; empty if there were none.
  [[nodiscard]] const Array<float>& gradient(const Parameter& parameter) const {
    static const Array<float> none;
    const auto found = numbers_.find(&parameter);
    return found == numbers_.end() || !sums_[found->second].is_used ? none
                                                                    : sums_[found->second].elements;
  }

  /// How many tapes were added since `clear`.
  [[nodiscard]] std::size_t count() const { return count_; }

  /// Bytes of the sums: those of the parameters.
  [[nodiscard]] std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const Sum& sum : sums_) bytes += sum.elements.bytes();
    return bytes;
  }

  /// Begins anew, with no gradients.
  void clear() {
    for (Sum& sum : sums_) sum.is_used = false;
    count_ = 0;
  }

 private:
  struct Sum {
    Array<float> elements;
    bool is_used = false;  ///< since `clear`
  };

  template <class T> static void add(Sum& sum, const Array<T>& gradient) {
    float* s = sum.elements.mutable_data();
    const T* g = gradient.data();
    const bool is_first = !std::exchange(sum.is_used, true);
    detail::for_each_lane(gradient.size(), [&](std::size_t i, auto count) {
      const auto next = kernels::load<float>(g + i, count);
      kernels::store<Overflow::infinity_or_nan, float>(
          is_first ? next : kernels::load<float>(s + i, count) + next, s + i, count);
    });
  }

  std::vector<Parameter*> parameters_;
  std::unordered_map<const Parameter*, std::size_t> numbers_;
  std::vector<Sum> sums_;
  std::size_t count_ = 0;
};

/// What the sum of the gradients of `batches` batches of one size is to be divided with to be the
/// gradient of one batch of all their items; to be handed to an optimiser as its loss scale, or
/// multiplied with one. Under a rule of unit scaling the gradient of a parameter is the sum over a
/// batch's n items times n^−½, so sums over k batches are divided by k^½; under rule none a loss is
/// a mean over items, and so is its gradient: k.
/// @throws DomainError if there are no batches.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2 (weights are cut-edges, with β of their
/// own).
[[nodiscard]] inline double loss_scale_of_sum(Rule rule, std::size_t batches) {
  require(batches > 0, "loss_scale_of_sum", "expected at least one batch");
  const auto count = static_cast<double>(batches);
  return rule == Rule::none ? count : std::sqrt(count);
}

}  // namespace UNIT_SCALING_NAMESPACE::optim
