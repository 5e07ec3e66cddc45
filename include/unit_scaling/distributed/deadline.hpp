// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: how long a rank waits for others, and which ones it then gives up.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed::detail {

/// @throws DomainError, in the name of `owner`, unless a deadline is above 0 and at most 365 days.
inline void require_deadline(std::string_view owner, std::chrono::milliseconds deadline) {
  constexpr std::chrono::milliseconds longest = std::chrono::hours(24 * 365);
  require(deadline.count() > 0, owner, "expected a deadline above 0, got ", deadline.count(),
          " ms");
  require(deadline <= longest, owner, "expected a deadline of at most 365 days, ", longest.count(),
          " ms, got ", deadline.count(), " ms");
}

/// Time spent on looking for a message, again and again, until it has come or a deadline is over.
///
/// A job may be suspended and go on hours later. So of the time between two looks no more than a
/// tenth of a second counts, and there is one more look after the deadline.
class WaitedTime {
 public:
  using Clock = std::chrono::steady_clock;

  explicit WaitedTime(std::chrono::milliseconds deadline) : deadline_(deadline) {}

  /// Counts the time since the last look, after one that found nothing.
  /// @returns whether to look once more
  [[nodiscard]] bool goes_on() {
    if (is_over()) return false;
    const auto now = Clock::now();
    waited_ += std::min<Clock::duration>(now - last_, longest_slice);
    last_ = now;
    return true;
  }

  /// How long the next look may take: nothing once the deadline is over.
  [[nodiscard]] Clock::duration slice() const {
    return std::clamp<Clock::duration>(deadline_ - waited_, Clock::duration::zero(), longest_slice);
  }

  [[nodiscard]] Clock::duration waited() const { return waited_; }
  [[nodiscard]] bool is_over() const { return waited_ >= deadline_; }

  /// Begins anew, after a look that found something.
  void restart() { *this = WaitedTime(deadline_); }

 private:
  static constexpr std::chrono::milliseconds longest_slice{100};

  std::chrono::milliseconds deadline_;
  Clock::time_point last_ = Clock::now();
  Clock::duration waited_ = Clock::duration::zero();
};

/// "rank 3", "ranks 1, 3". @param ranks in ascending order, at least one
[[nodiscard]] inline std::string names_of(const std::vector<std::size_t>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  std::string_view separator;
  for (const std::size_t rank : ranks) {
    text += separator;
    text += std::to_string(rank);
    separator = ", ";
  }
  return text;
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed::detail

UNIT_SCALING_IEEE_END
