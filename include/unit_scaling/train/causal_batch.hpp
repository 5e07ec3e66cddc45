// SPDX-License-Identifier: MIT
/// @file
/// Layer train: windows of a text for models that predict the next token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/text_windows.hpp"
#include "unit_scaling/train/token_corpus.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// Windows of ids (batch, window), of which a model predicts each but the first from those before.
class CausalBatches {
 public:
  /// The corpus must outlive this and stay where it is.
  /// @throws DomainError unless the window has from 2 ids to as many as the training text.
  CausalBatches(const TokenCorpus& corpus, std::size_t window, std::uint64_t seed)
      : windows_(name, corpus, window, /*shortest=*/2), seed_(seed) {}
  CausalBatches(const TokenCorpus&& corpus, std::size_t window, std::uint64_t seed) = delete;

  /// The batch of training step `step`: windows that begin anywhere in the training text. A pure
  /// function of (seed, step), so training can be taken up again at any step.
  [[nodiscard]] Array<std::int32_t> training(std::size_t batch, std::uint32_t step) const {
    return windows_.training(batch, seed_, step);
  }

  /// How many windows predict each id of the validation text once, but for its first id and a rest
  /// that fills no window: each begins with the last id of the one before.
  [[nodiscard]] std::size_t validation_windows() const {
    const std::size_t size = windows_.corpus().validation().size();
    return size < windows_.window() ? 0 : (size - 1) / stride();
  }

  /// Validation windows [first, first + count).
  /// @throws DomainError unless there are so many, and at least one is asked for.
  [[nodiscard]] Array<std::int32_t> validation(std::size_t first, std::size_t count) const {
    const std::size_t windows = validation_windows();
    require(count >= 1 && first < windows && count <= windows - first, name, "expected some of ",
            windows, " validation windows, got ", count, " from window ", first);
    windows_.check_batch(count);
    std::vector<std::size_t> offsets(count);
    for (std::size_t row = 0; row < count; ++row) offsets[row] = (first + row) * stride();
    return windows_.validation(offsets);
  }

 private:
  static constexpr std::string_view name = "CausalBatches";

  /// From one validation window to the next.
  [[nodiscard]] std::size_t stride() const { return windows_.window() - 1; }

  detail::TextWindows windows_;
  std::uint64_t seed_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
