// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: gradients of several batches, added up in an order that does not depend on
/// how many ranks share the batches.
// unit_scaling: optional
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/pairwise_sum.hpp"
#include "unit_scaling/distributed/recording.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/optim/gradient_source.hpp"
#include "unit_scaling/optim/optimiser.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// Adds up the gradients of batches in float, unweighted, in the order of a PairwiseSum:
///
///     tree.clear();
///     for (std::size_t k = 0; k < batches; ++k) {
///       tape.clear();
///       tape.backward(model.loss(tape, batch_number(step, ranks.rank() * batches + k)));
///       tree.add(tape);
///     }
///     exchange.exchange(tree);
///
/// Let the batches of a step have one size, be numbered as above, and be as many in all whatever
/// the number of ranks. Then the weights of a training have the same bits on one rank, and on each
/// number of ranks that leaves a power of two of batches to each: 12 batches on 1, 3, 6 and 12
/// ranks; 16 on 1, 2, 4, 8 and 16. Elsewhere, as with 12 on 2, the terms are the same, and the last
/// bits of their sums may differ.
///
/// `optim::GradientSum` weighs batches of any sizes, one after the other, and so its bits depend on
/// who has which.
class GradientTree {
 public:
  /// @param parameters that gradients are wanted of; they must stay in place.
  /// @throws DomainError if one is null or given twice, or two have one name.
  explicit GradientTree(const std::vector<Parameter*>& parameters) {
    optim::detail::DistinctParameters distinct("GradientTree");
    for (const Parameter* parameter : parameters) {
      distinct.add(parameter);
      numbers_.emplace(parameter, parameters_.size());
      parameters_.push_back({.parameter = parameter, .shape = parameter->shape()});
    }
  }

  /// Adds the gradients of a batch. A parameter without one adds nothing.
  /// @throws ShapeError if a gradient has another shape than its parameter at construction;
  ///         DomainError if some gradients of the batch were added from another recording, such as
  ///         one whose backward threw. Nothing is added then, and `clear` is the way on.
  template <optim::GradientSource Gradients> void add(const Gradients& gradients) {
    require_one_recording(gradients);
    for (const Summed& each : parameters_) check_shape(gradients, each);
    begin_batch();
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      if (!parameters_[k].is_early) take(gradients, k);
      parameters_[k].is_early = false;
    }
    sum_.add(std::move(leaf_), [this](Node& left, Node& right) {
      for (std::size_t k = 0; k < left.size(); ++k) join(left[k], right[k]);
      spare_.push_back(std::move(right));
    });
    leaf_.clear();
    early_.reset();
  }

  /// Adds the gradient of one parameter before the `add` of the same batch, which must follow and
  /// adds the rest. From then on `gradient(parameter)` has the bits that it has after that. A
  /// parameter that is not among those of the tree is passed over. So the last batch of a step can
  /// be sent while its tape unwinds:
  ///
  ///     tape.on_final_gradient([&](const Parameter& each) {
  ///       if (k + 1 < batches) return;
  ///       tree.add(tape, each);
  ///       exchange.take(tree, each);
  ///     });
  ///
  /// @throws DomainError if the gradient was added before, and as above; ShapeError as above.
  template <optim::GradientSource Gradients>
  void add(const Gradients& gradients, const Parameter& parameter) {
    const auto found = numbers_.find(&parameter);
    if (found == numbers_.end()) return;
    require_one_recording(gradients);
    Summed& summed = parameters_[found->second];
    require(!summed.is_early, "GradientTree", "expected one gradient of '", parameter.name,
            "' in a batch, got another one");
    check_shape(gradients, summed);
    begin_batch();
    early_ = detail::recording_of(gradients);
    take(gradients, found->second);
    summed.is_early = true;
  }

  /// The sum of the gradients of a parameter since `clear`; empty if there was none.
  [[nodiscard]] const Array<float>& gradient(const Parameter& parameter) const& {
    static const Array<float> none;
    const auto found = numbers_.find(&parameter);
    if (found == numbers_.end()) return none;
    const std::size_t k = found->second;
    const Summed& summed = parameters_[k];
    const std::size_t batches = sum_.count() + (summed.is_early ? 1 : 0);
    if (batches == 0) return none;
    const auto& nodes = sum_.nodes();
    if (nodes.size() + (summed.is_early ? 1 : 0) == 1) {
      const Part& only = summed.is_early ? leaf_[k] : nodes[0][k];
      return only.is_there ? only.elements : none;
    }
    // What is not added up yet, in an array of its own: more batches may follow.
    if (summed.count != batches) {
      summed.total = summed.is_early ? leaf_[k] : Part{};
      for (std::size_t n = nodes.size(); n-- > 0;) {
        Part left = nodes[n][k];  // shares the elements until they are written to
        join(left, summed.total);
        summed.total = std::move(left);
      }
      summed.count = batches;
    }
    return summed.total.is_there ? summed.total.elements : none;
  }
  [[nodiscard]] Array<float> gradient(const Parameter& parameter) const&& {
    return gradient(parameter);
  }

  /// How many batches were added since `clear`, one of which some gradients were added included.
  [[nodiscard]] std::size_t count() const { return sum_.count() + (leaf_.empty() ? 0 : 1); }

  /// Whether no batch is added in part.
  [[nodiscard]] bool is_whole() const { return leaf_.empty(); }

  /// Whether the gradient of a parameter is that of all batches, of one that is added in part too.
  [[nodiscard]] bool is_whole(const Parameter& parameter) const {
    const auto found = numbers_.find(&parameter);
    return is_whole() || found == numbers_.end() || parameters_[found->second].is_early;
  }

  /// Which sum it is: another number after each `clear`, and of each tree of the process.
  [[nodiscard]] std::uint64_t step() const { return step_; }

  /// Begins anew, with no gradients. Memory stays.
  void clear() {
    step_ = next_step();
    early_.reset();
    for (Node& node : sum_.nodes()) spare_.push_back(std::move(node));
    sum_.clear();
    if (!leaf_.empty()) spare_.push_back(std::exchange(leaf_, {}));
    for (Summed& each : parameters_) {
      each.count = 0;
      each.is_early = false;
    }
  }

 private:
  /// A sum of gradients of one parameter.
  struct Part {
    bool is_there = false;
    Array<float> elements;
  };
  using Node = std::vector<Part>;  ///< of the parameters

  struct Summed {
    const Parameter* parameter;
    Shape shape;
    mutable Part total = {};        ///< of several nodes
    mutable std::size_t count = 0;  ///< of batches in it
    bool is_early = false;          ///< whether the leaf has its gradient
  };

  [[nodiscard]] static std::uint64_t next_step() {
    static std::atomic<std::uint64_t> steps = 0;
    return steps++;
  }

  template <optim::GradientSource Gradients>
  void require_one_recording(const Gradients& gradients) const {
    require(!early_ || *early_ == detail::recording_of(gradients), "GradientTree",
            "expected a batch of one recording, got the rest from another one; clear begins anew");
  }

  template <optim::GradientSource Gradients>
  static void check_shape(const Gradients& gradients, const Summed& summed) {
    const auto& gradient = gradients.gradient(*summed.parameter);
    require_shape(
        gradient.size() == 0 || gradient.shape() == summed.shape, "GradientTree",
        [&] { return "a gradient in the shape of '" + summed.parameter->name + "' at first"; },
        summed.shape, gradient.shape());
  }

  /// Unless one has begun.
  void begin_batch() {
    if (!leaf_.empty()) return;
    if (!spare_.empty()) {
      leaf_ = std::move(spare_.back());
      spare_.pop_back();
    }
    leaf_.resize(parameters_.size());
  }

  /// Takes the gradient of parameter k to the leaf.
  template <optim::GradientSource Gradients> void take(const Gradients& gradients, std::size_t k) {
    const auto& gradient = gradients.gradient(*parameters_[k].parameter);
    Part& part = leaf_[k];
    part.is_there = gradient.size() != 0;
    if (!part.is_there) return;
    if (part.elements.empty()) part.elements = Array<float>(parameters_[k].shape);
    float* const to = part.elements.mutable_data();
    const auto* const from = optim::detail::gradient_elements(gradient);
    optim::detail::for_each_lane(gradient.size(), [=](std::size_t i, auto count) {
      kernels::store<Overflow::infinity_or_nan, float>(kernels::load<float>(from + i, count),
                                                       to + i, count);
    });
  }

  /// left ← left + right
  static void join(Part& left, Part& right) {
    if (!right.is_there) return;
    if (!left.is_there) {
      left.is_there = true;
      std::swap(left.elements, right.elements);
      return;
    }
    float* const sum = left.elements.mutable_data();
    const float* const addend = right.elements.data();
    optim::detail::for_each_lane(left.elements.size(), [=](std::size_t i, auto count) {
      kernels::store<Overflow::infinity_or_nan, float>(
          kernels::load<float>(sum + i, count) + kernels::load<float>(addend + i, count), sum + i,
          count);
    });
  }

  std::vector<Summed> parameters_;
  std::unordered_map<const Parameter*, std::size_t> numbers_;
  PairwiseSum<Node> sum_;
  Node leaf_;  ///< the batch that is being added; empty if there is none
  std::optional<detail::Recording> early_;  ///< from which gradients of the leaf were added
  std::uint64_t step_ = next_step();
  std::vector<Node> spare_;
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
