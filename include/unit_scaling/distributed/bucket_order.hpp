// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: when a rank does what for which bucket.
// unit_scaling: optional
#pragma once

#include <cstddef>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/communicator.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed::detail {

/// The order of the work on the buckets of a step. For each bucket there are two operations of all
/// ranks, in which they send the terms and then the sums. All ranks start them in one order:
///
///     terms 0, terms 1, sums 0, terms 2, sums 1, …, terms n − 1, sums n − 2, sums n − 1
///
/// So a bucket is added up while the terms of the next one are on their way. A rank starts each of
/// these as soon as it can: terms when their gradients are final, sums when the terms have come.
/// Then sums are taken as they come. Of either kind two operations are on their way at most.
///
/// What is done is that of a `Stages`, which has for bucket k: `terms(k)`, the Request of its
/// terms, once they are sent; `start_sums(k)`, once they have come; `sums(k)`, the Request of its
/// sums, once they are sent; `take_sums(k)`, once they have come; and `is_done(request)` and
/// `wait(request)`.
class BucketOrder {
 public:
  /// Operations of one kind that are on their way at once.
  static constexpr std::size_t in_flight = 2;

  /// Of a step with so many buckets.
  explicit BucketOrder(std::size_t buckets = 0) : buckets_(buckets) {}

  /// Goes as far as it can without waiting.
  /// @param start_terms `start_terms(k)` sends the terms of bucket k if its gradients are final.
  ///        Returns whether they are.
  template <class Stages, class StartTerms>
  void go_on(Stages& stages, const StartTerms& start_terms) {
    // Messages may move on only while a rank looks at them, whatever is due next.
    for (std::size_t k = sums_; k < terms_; ++k) static_cast<void>(stages.is_done(stages.terms(k)));
    for (std::size_t k = taken_; k < sums_; ++k) static_cast<void>(stages.is_done(stages.sums(k)));
    while (start(stages, start_terms) || take(stages)) {
    }
  }

  /// Goes on to the end. @pre all gradients are final
  template <class Stages, class StartTerms>
  void finish(Stages& stages, const StartTerms& start_terms) {
    for (go_on(stages, start_terms); taken_ < buckets_; go_on(stages, start_terms)) {
      stages.wait(sums_ < terms_ && has_room_for_sums() ? stages.terms(sums_)
                                                        : stages.sums(taken_));
    }
  }

 private:
  /// Starts the operation whose turn it is, if that can be.
  template <class Stages, class StartTerms>
  [[nodiscard]] bool start(Stages& stages, const StartTerms& start_terms) {
    if (terms_ < buckets_ && terms_ < sums_ + in_flight) {
      if (!start_terms(terms_)) return false;
      ++terms_;
      return true;
    }
    if (sums_ == terms_ || !has_room_for_sums() || !stages.is_done(stages.terms(sums_)))
      return false;
    stages.start_sums(sums_);
    ++sums_;
    return true;
  }

  /// Takes the sums that come next, if they have come.
  template <class Stages> [[nodiscard]] bool take(Stages& stages) {
    if (taken_ == sums_ || !stages.is_done(stages.sums(taken_))) return false;
    stages.take_sums(taken_);
    ++taken_;
    return true;
  }

  [[nodiscard]] bool has_room_for_sums() const { return sums_ < taken_ + in_flight; }

  std::size_t buckets_;
  // Of how many buckets:
  std::size_t terms_ = 0;  ///< terms are sent
  std::size_t sums_ = 0;   ///< sums are sent
  std::size_t taken_ = 0;  ///< sums are taken
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed::detail

UNIT_SCALING_IEEE_END
