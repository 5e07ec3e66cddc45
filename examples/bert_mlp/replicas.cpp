// SPDX-License-Identifier: MIT
#include "replicas.hpp"

#include <bit>
#include <cstddef>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/distributed/gradient_exchange.hpp"

namespace bert_mlp {

namespace {

/// Each replica has as many rows, of which the gradient of a weight is a sum over n^½ under unit
/// scaling. The loss of a plain model is a mean.
us::distributed::Combination combination_of(const Variant& variant) {
  return variant.is_unit() ? us::distributed::Combination::unit_scaled
                           : us::distributed::Combination::mean;
}

}  // namespace

ReplicaGradients::ReplicaGradients(const Options& options, const Variant& variant,
                                   const Ranks& ranks,
                                   const std::vector<us::Parameter*>& parameters)
    : tree_(parameters),
      exchange_(ranks.communicator(), parameters,
                {.format = options.wire, .combination = combination_of(variant)}),
      // A sum for each power of two among the replicas, their sum if that is none of these, and
      // that of all ranks.
      copies_([&](std::size_t own) {
        return static_cast<std::size_t>(std::bit_width(own)) + (std::has_single_bit(own) ? 1 : 2);
      }(options.replicas / ranks.size())) {}

}  // namespace bert_mlp
