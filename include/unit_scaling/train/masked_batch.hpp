// SPDX-License-Identifier: MIT
/// @file
/// Layer train: batches for masked language modelling.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/text_corpus.hpp"
#include "unit_scaling/train/text_windows.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// Sequences with some positions hidden, and what stood there.
struct MaskedBatch {
  Array<std::int32_t> ids;       ///< (batch, window): what the model sees
  Array<std::int32_t> selected;  ///< (selected): positions to predict, as indices into ids
  Array<std::int32_t> labels;    ///< (selected): the ids that stood there
};

/// Selects positions as BERT does: 15 % of a batch, of which 80 % are replaced by the mask, 10 % by
/// a random symbol and 10 % left as they are.
/// The same number is selected in every batch, so batches of one size need storage of one size.
/// @see Devlin et al. 2018, arXiv:1810.04805, section 3.1.
class MaskedBatches {
 public:
  static constexpr double selected_share = 0.15;

  /// The corpus must outlive this.
  /// @throws DomainError if the window is empty or longer than the training text.
  MaskedBatches(const TextCorpus& corpus, std::size_t window, std::uint64_t seed)
      : corpus_(&corpus), windows_("MaskedBatches", window), seed_(seed) {
    const std::size_t longest = corpus.training().size();
    require(window >= 1 && window <= longest, "MaskedBatches", "expected a window of 1 to ",
            longest, " positions, as many as the training text has, got ", window);
  }

  /// How many positions of a batch of so many windows are selected: at least one.
  /// @throws ShapeError if std::size_t cannot count the positions.
  [[nodiscard]] std::size_t selected(std::size_t batch) const {
    const std::size_t positions = size_product("MaskedBatches", {batch, windows_.window()});
    const double share = selected_share * static_cast<double>(positions);
    return std::max<std::size_t>(1, static_cast<std::size_t>(std::llround(share)));
  }

  /// The batch of training step `step`: windows beginning anywhere in the training text. A pure
  /// function of (seed, step), so training can be taken up again at any step.
  [[nodiscard]] MaskedBatch training(std::size_t batch, std::uint32_t step) const {
    const auto text = corpus_->training();
    const auto offsets = windows_.training_offsets(text, batch, seed_, step);
    return mask(text, offsets, Random(seed_, RandomStream::masking, step));
  }

  /// How many windows, one after another, fill the validation text.
  [[nodiscard]] std::size_t validation_windows() const {
    return corpus_->validation().size() / windows_.window();
  }

  /// Validation windows first, first + stride, …, `count` of them, hidden as `draw` says; the same
  /// for every seed, so that runs can be compared.
  [[nodiscard]] MaskedBatch validation(std::size_t first, std::size_t count, std::uint32_t draw,
                                       std::size_t stride = 1) const {
    const std::size_t windows = validation_windows();
    require(
        stride >= 1 && count >= 1 && first < windows && count - 1 <= (windows - first - 1) / stride,
        "MaskedBatches", "expected windows of the validation text");
    windows_.check_batch(count);
    std::vector<std::size_t> offsets(count);
    for (std::size_t b = 0; b < count; ++b) offsets[b] = (first + b * stride) * windows_.window();
    return mask(corpus_->validation(), offsets,
                Random(0, RandomStream::masking, draw, static_cast<std::uint32_t>(first + 1)));
  }

 private:
  [[nodiscard]] MaskedBatch mask(std::span<const std::int32_t> text,
                                 std::span<const std::size_t> offsets, const Random& random) const {
    const std::size_t count = selected(offsets.size());
    MaskedBatch result{windows_.at(text, offsets), Array<std::int32_t>(Shape{count}),
                       Array<std::int32_t>(Shape{count})};
    std::int32_t* ids = result.ids.mutable_data();
    std::int32_t* positions = result.selected.mutable_data();
    std::int32_t* labels = result.labels.mutable_data();
    const auto symbols = static_cast<std::uint32_t>(corpus_->mask_id());
    // The first steps of a shuffle: `count` positions without repetition.
    std::vector<std::int32_t> order(result.ids.size());
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t k = 0; k < count; ++k) {
      const auto rest = static_cast<std::uint32_t>(order.size() - k);
      std::swap(order[k], order[k + random.below(rest, 3 * k)]);
      std::int32_t& id = ids[order[k]];
      positions[k] = order[k];
      labels[k] = id;
      const float kind = random.uniform(3 * k + 1);
      if (kind < 0.8F) {
        id = corpus_->mask_id();
      } else if (kind < 0.9F) {
        id = static_cast<std::int32_t>(random.below(symbols, 3 * k + 2));
      }
    }
    return result;
  }

  const TextCorpus* corpus_;
  detail::TextWindows windows_;
  std::uint64_t seed_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
