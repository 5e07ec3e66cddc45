// SPDX-License-Identifier: MIT
/// @file
/// Layer train: windows of a text for models that predict the next token.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/text_corpus.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// Windows of ids (batch, window), of which a model predicts each but the first from those before.
class CausalBatches {
 public:
  /// The corpus must outlive this.
  /// @throws DomainError unless the window has from 2 ids to as many as the training text.
  CausalBatches(const TextCorpus& corpus, std::size_t window, std::uint64_t seed)
      : corpus_(&corpus), window_(window), seed_(seed) {
    const std::size_t longest = corpus.training().size();
    require(window >= 2 && window <= longest, name, "expected a window of 2 to ", longest,
            " ids, as many as the training text has, got ", window);
  }

  /// The batch of training step `step`: windows that begin anywhere in the training text. A pure
  /// function of (seed, step), so training can be taken up again at any step.
  [[nodiscard]] Array<std::int32_t> training(std::size_t batch, std::uint32_t step) const {
    check_batch(batch);
    const Random random(seed_, RandomStream::batch, step);
    const auto text = corpus_->training();
    require(text.size() <= 0xFFFFFFFF, name, "expected a text of less than 4 GiB");
    const auto places = static_cast<std::uint32_t>(text.size() - window_ + 1);
    Array<std::int32_t> ids({batch, window_});
    for (std::size_t row = 0; row < batch; ++row) {
      copy_window(text, random.below(places, row), ids, row);
    }
    return ids;
  }

  /// How many windows predict each id of the validation text once, but for its first id and a rest
  /// that fills no window: each begins with the last id of the one before.
  [[nodiscard]] std::size_t validation_windows() const {
    const std::size_t size = corpus_->validation().size();
    return size < window_ ? 0 : (size - 1) / (window_ - 1);
  }

  /// Validation windows [first, first + count).
  /// @throws DomainError unless there are so many, and at least one is asked for.
  [[nodiscard]] Array<std::int32_t> validation(std::size_t first, std::size_t count) const {
    const std::size_t windows = validation_windows();
    require(count >= 1 && first < windows && count <= windows - first, name, "expected some of ",
            windows, " validation windows, got ", count, " from window ", first);
    check_batch(count);
    Array<std::int32_t> ids({count, window_});
    for (std::size_t row = 0; row < count; ++row) {
      copy_window(corpus_->validation(), (first + row) * (window_ - 1), ids, row);
    }
    return ids;
  }

 private:
  static constexpr std::string_view name = "CausalBatches";

  void check_batch(std::size_t batch) const {
    require(batch >= 1 && batch <= 0x7FFFFFFF / window_, name,
            "expected at least one window and fewer than 2^31 ids in a batch");
  }

  void copy_window(std::span<const std::int32_t> text, std::size_t from, Array<std::int32_t>& ids,
                   std::size_t row) const {
    std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(from), window_,
                ids.mutable_data() + row * window_);
  }

  const TextCorpus* corpus_;
  std::size_t window_;
  std::uint64_t seed_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
