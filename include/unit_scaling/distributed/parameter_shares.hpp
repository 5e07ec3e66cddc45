// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: which rank keeps what an optimiser keeps of which parameter.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// Shares parameters out among ranks. Each parameter is whole on one rank, its *owner*: so norms of
/// parameters, scales of tensors and groups of elements are what they are on one rank.
///
/// The largest parameter goes to a rank, then the next one to the rank that has the fewest elements
/// until then, the lowest of such ranks; of parameters of one size the first one comes first. So
/// the owners follow from the sizes and the number of ranks. The rank with the most elements has at
/// least those of the largest parameter, and at most so many and the mean of all ranks together.
/// @see Graham 1969, SIAM Journal on Applied Mathematics 17(2), "Bounds on multiprocessing timing
///      anomalies": at most 4/3 of the least that is possible.
class ParameterShares {
 public:
  /// @param parameters that one optimiser moves, in the same order on all ranks; they must stay in
  ///        place.
  /// @throws DomainError without a rank; if a parameter is null or given twice, or two have one
  ///         name.
  ParameterShares(const std::vector<Parameter*>& parameters, std::size_t ranks) : elements_(ranks) {
    require_size(name, "a number of ranks", ranks);
    optim::detail::DistinctParameters distinct(name);
    std::vector<std::size_t> sizes;
    for (const Parameter* parameter : parameters) {
      distinct.add(parameter);
      sizes.push_back(parameter->shape().size());
    }
    const auto owners = owners_of(sizes, ranks);
    for (std::size_t k = 0; k < parameters.size(); ++k) {
      owners_.emplace(parameters[k], owners[k]);
      elements_[owners[k]] += sizes[k];
      hash_ = unit_scaling::detail::next_hash(hash_, sizes[k]);
      hash_ = unit_scaling::detail::next_hash(hash_, owners[k]);
    }
  }

  /// The owner of each of some parameters of these sizes. @pre ranks > 0
  [[nodiscard]] static std::vector<std::size_t> owners_of(std::span<const std::size_t> sizes,
                                                          std::size_t ranks) {
    std::vector<std::size_t> order(sizes.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return sizes[a] > sizes[b]; });
    std::vector<std::size_t> owners(sizes.size());
    std::vector<std::size_t> elements(ranks);
    for (const std::size_t k : order) {
      const auto least = std::min_element(elements.begin(), elements.end());
      owners[k] = static_cast<std::size_t>(least - elements.begin());
      *least += sizes[k];
    }
    return owners;
  }

  [[nodiscard]] std::size_t ranks() const { return elements_.size(); }
  /// The rank that keeps what belongs to a parameter.
  /// @throws DomainError if it is none of these.
  [[nodiscard]] std::size_t owner(const Parameter& parameter) const {
    const auto found = owners_.find(&parameter);
    require(found != owners_.end(), name, "expected a parameter that is shared out, got ",
            in_quotes(parameter.name));
    return found->second;
  }
  /// Of the parameters of a rank. @pre rank < ranks()
  [[nodiscard]] std::size_t elements(std::size_t rank) const { return elements_[rank]; }
  /// The same on all ranks that share out parameters of the same sizes in the same order.
  [[nodiscard]] std::uint64_t hash() const { return hash_; }

 private:
  static constexpr const char* name = "ParameterShares";

  std::unordered_map<const Parameter*, std::size_t> owners_;
  std::vector<std::size_t> elements_;
  std::uint64_t hash_ = unit_scaling::detail::empty_hash;
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
