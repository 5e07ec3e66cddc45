// SPDX-License-Identifier: MIT
/// @file
/// Layer train: windows of a text of ids, from which batches are made.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train::detail {

/// Windows of so many ids each, for a class of batches, whose name errors have.
class TextWindows {
 public:
  TextWindows(std::string_view owner, std::size_t window) : owner_(owner), window_(window) {}

  [[nodiscard]] std::size_t window() const { return window_; }

  /// @throws DomainError unless there is a window, and the ids of all are fewer than 2^31.
  void check_batch(std::size_t batch) const {
    require(batch >= 1 && batch <= 0x7FFFFFFF / window_, owner_,
            "expected at least one window and fewer than 2^31 positions in a batch");
  }

  /// Where the windows of a training step begin: anywhere in the text, as (seed, step) say.
  /// @throws DomainError as `check_batch`, or for a text of 2^32 ids or more.
  [[nodiscard]] std::vector<std::size_t> training_offsets(std::span<const std::int32_t> text,
                                                          std::size_t batch, std::uint64_t seed,
                                                          std::uint32_t step) const {
    check_batch(batch);
    require(text.size() <= 0xFFFFFFFF, owner_, "expected a text of less than 4 GiB");
    const Random random(seed, RandomStream::batch, step);
    const auto starts = static_cast<std::uint32_t>(text.size() - window_ + 1);
    std::vector<std::size_t> offsets(batch);
    for (std::size_t b = 0; b < batch; ++b) offsets[b] = random.below(starts, b);
    return offsets;
  }

  /// The windows that begin at these ids, (windows, window).
  [[nodiscard]] Array<std::int32_t> at(std::span<const std::int32_t> text,
                                       std::span<const std::size_t> offsets) const {
    Array<std::int32_t> ids({offsets.size(), window_});
    std::int32_t* to = ids.mutable_data();
    for (const std::size_t offset : offsets) {
      to = std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(offset), window_, to);
    }
    return ids;
  }

 private:
  std::string_view owner_;
  std::size_t window_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train::detail

UNIT_SCALING_IEEE_END
