// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: the order in which terms are added up, whoever holds them.
// unit_scaling: optional
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// Adds up terms, as they come, in the order of one binary tree: a sum of n terms is the sum of the
/// first 2^k of them plus the sum of the others, where 2^k is the largest power of two below n.
///
/// So terms that are shared out among ranks in runs of 2^j, each run added up by its rank, and
/// these sums added up over the ranks, have the same sum to the bit as if one rank had added up
/// all: the runs are nodes of the tree. That holds for any number of ranks.
///
/// It keeps one partial sum for each bit of the number of terms, at most.
template <class Term> class PairwiseSum {
 public:
  /// Adds a term.
  /// @param join `join(left, right)` adds `right` to `left`, and may take what `right` holds.
  template <class Join> void add(Term term, const Join& join) {
    nodes_.push_back(std::move(term));
    ++count_;
    for (std::size_t rest = count_; rest % 2 == 0; rest /= 2) join_last(join);
  }

  /// Partial sums that are not added to each other yet: one for each bit that is 1 in the number of
  /// terms, from the highest bit to the lowest. Bit k stands for a sum of 2^k terms. Added up from
  /// the last one to the first, they are the sum of all terms.
  [[nodiscard]] std::vector<Term>& nodes() & { return nodes_; }
  [[nodiscard]] const std::vector<Term>& nodes() const& { return nodes_; }

  /// The sum of all terms, after which there are none. @pre there are some
  template <class Join> [[nodiscard]] Term take(const Join& join) {
    while (nodes_.size() > 1) join_last(join);
    Term sum = std::move(nodes_.front());
    clear();
    return sum;
  }

  [[nodiscard]] std::size_t count() const { return count_; }

  void clear() {
    nodes_.clear();
    count_ = 0;
  }

 private:
  template <class Join> void join_last(const Join& join) {
    join(nodes_[nodes_.size() - 2], nodes_.back());
    nodes_.pop_back();
  }

  std::vector<Term> nodes_;
  std::size_t count_ = 0;
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
