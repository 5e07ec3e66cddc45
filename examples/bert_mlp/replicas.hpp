// SPDX-License-Identifier: MIT
// The replicas of the model that each step trains, and the ranks that share them.
#pragma once

#include <cstddef>
#include <vector>

#include "options.hpp"
#include "ranks.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/distributed/gradient_exchange.hpp"
#include "unit_scaling/distributed/gradient_tree.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"

namespace bert_mlp {

/// Adds up the gradients of all replicas, so that the sum is the same to the bit however many ranks
/// share them, with floats on the wire: see us::distributed::GradientTree.
class ReplicaGradients {
 public:
  ReplicaGradients(const Options& options, const Variant& variant, const Ranks& ranks,
                   const std::vector<us::Parameter*>& parameters);

  /// Begins a step.
  void clear() { tree_.clear(); }
  /// Adds what a replica of this rank has.
  void add(const us::optim::GradientSum& replica) { tree_.add(replica); }
  /// Adds up those of all ranks, which all call it.
  void exchange() { exchange_.exchange(tree_); }

  /// Of all replicas, as one batch of all their items would have it; after an exchange.
  [[nodiscard]] const us::Array<float>& gradient(const us::Parameter& parameter) const {
    return exchange_.gradient(parameter);
  }

  /// How many copies of the gradients are in memory, at the most.
  [[nodiscard]] std::size_t copies() const { return copies_; }

 private:
  us::distributed::GradientTree tree_;
  us::distributed::GradientExchange exchange_;
  std::size_t copies_;
};

/// The gradients of another object, so that an optimiser is compiled once for all of them.
class GradientView {
 public:
  /// @param source must outlive this object.
  template <class Source>
  explicit GradientView(const Source& source)
      : source_(&source), read_([](const void* of, const us::Parameter& parameter) {
          return &static_cast<const Source*>(of)->gradient(parameter);
        }) {}

  [[nodiscard]] const us::Array<float>& gradient(const us::Parameter& parameter) const {
    return *read_(source_, parameter);
  }

 private:
  const void* source_;
  const us::Array<float>* (*read_)(const void*, const us::Parameter&);
};

}  // namespace bert_mlp
