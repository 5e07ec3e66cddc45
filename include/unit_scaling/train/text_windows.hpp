// SPDX-License-Identifier: MIT
/// @file
/// Layer train: windows of a text of ids, from which batches are made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/token_corpus.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train::detail {

/// Windows of so many ids each, for a class of batches, whose name errors have.
class TextWindows {
 public:
  /// The corpus must outlive this and stay where it is.
  /// @throws DomainError unless the window has from `shortest` ids to as many as the training text.
  TextWindows(std::string_view owner, const TokenCorpus& corpus, std::size_t window,
              std::size_t shortest)
      : owner_(owner), corpus_(&corpus), window_(window) {
    const std::size_t longest = corpus.training().size();
    require(window >= shortest && window <= longest, owner, "expected a window of ", shortest,
            " to ", longest, " ids, as many as the training text has, got ", window);
  }

  [[nodiscard]] const TokenCorpus& corpus() const { return *corpus_; }
  [[nodiscard]] std::size_t window() const { return window_; }

  /// @throws DomainError unless there is a window, and the ids of all are fewer than 2^31.
  void check_batch(std::size_t batch) const {
    require(batch >= 1 && batch <= 0x7FFFFFFF / window_, owner_,
            "expected at least one window and fewer than 2^31 positions in a batch");
  }

  /// The windows of a training step, (batch, window): they begin anywhere in the training text, as
  /// (seed, step) say.
  /// @throws DomainError as `check_batch`.
  [[nodiscard]] Array<std::int32_t> training(std::size_t batch, std::uint64_t seed,
                                             std::uint32_t step) const {
    check_batch(batch);
    const TokenText text = corpus_->training();
    const Random random(seed, RandomStream::batch, step);
    const std::uint64_t starts = text.size() - window_ + 1;
    std::vector<std::size_t> offsets(batch);
    for (std::size_t b = 0; b < batch; ++b) {
      offsets[b] = starts <= std::numeric_limits<std::uint32_t>::max()
                       ? random.below(static_cast<std::uint32_t>(starts), b)
                       : random.below_long(starts, b);
    }
    return at(text, offsets);
  }

  /// The windows of the validation text that begin at these of its ids, (windows, window): as many
  /// as `check_batch` accepts.
  [[nodiscard]] Array<std::int32_t> validation(std::span<const std::size_t> offsets) const {
    return at(corpus_->validation(), offsets);
  }

 private:
  [[nodiscard]] Array<std::int32_t> at(const TokenText& text,
                                       std::span<const std::size_t> offsets) const {
    Array<std::int32_t> ids({offsets.size(), window_});
    std::int32_t* to = ids.mutable_data();
    for (const std::size_t offset : offsets) {
      text.copy(offset, {to, window_});
      to += window_;
    }
    return ids;
  }

  std::string_view owner_;
  const TokenCorpus* corpus_;
  std::size_t window_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train::detail

UNIT_SCALING_IEEE_END
