// SPDX-License-Identifier: MIT
/// @file
/// Layer train: batches for masked language modelling.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/text_windows.hpp"
#include "unit_scaling/train/token_corpus.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// Sequences with some positions hidden, and what stood there.
struct MaskedBatch {
  Array<std::int32_t> ids;       ///< (batch, window): what the model sees
  Array<std::int32_t> selected;  ///< (selected): positions to predict, as indices into ids
  Array<std::int32_t> labels;    ///< (selected): the ids that stood there
};

/// Selects positions as BERT does: 15 % of a batch, of which 80 % are replaced by the mask, 10 % by
/// a random id other than the mask's and 10 % left as they are.
/// The same number is selected in every batch, so batches of one size need storage of one size.
/// @see Devlin et al. 2018, arXiv:1810.04805, section 3.1.
class MaskedBatches {
 public:
  static constexpr double selected_share = 0.15;

  /// The corpus must outlive this and stay where it is.
  /// @throws DomainError if the window is empty or longer than the training text, if the corpus has
  ///         no mask, nothing beside it or 2^31 ids or more, or if the mask is not of them.
  MaskedBatches(const TokenCorpus& corpus, std::size_t window, std::uint64_t seed)
      : windows_(name, corpus, window, /*shortest=*/1), mask_id_(corpus.mask_id()), seed_(seed) {
    const std::size_t ids = corpus.vocabulary_size();
    require(ids >= 2 && ids <= 0x7FFFFFFF, name,
            "expected a vocabulary of more than the mask and fewer than 2^31 ids, got ", ids);
    require(mask_id_ >= 0 && static_cast<std::size_t>(mask_id_) < ids, name,
            "expected a mask from 0 to ", ids - 1, ", got ", mask_id_);
    symbols_ = static_cast<std::uint32_t>(ids - 1);
  }
  MaskedBatches(const TokenCorpus&& corpus, std::size_t window, std::uint64_t seed) = delete;

  /// How many positions of a batch of so many windows are selected: at least one.
  /// @throws ShapeError if std::size_t cannot count the positions.
  [[nodiscard]] std::size_t selected(std::size_t batch) const {
    const std::size_t positions = size_product(name, {batch, windows_.window()});
    const double share = selected_share * static_cast<double>(positions);
    return std::max<std::size_t>(1, static_cast<std::size_t>(std::llround(share)));
  }

  /// The batch of training step `step`: windows beginning anywhere in the training text. A pure
  /// function of (seed, step), so training can be taken up again at any step.
  [[nodiscard]] MaskedBatch training(std::size_t batch, std::uint32_t step) const {
    return mask(windows_.training(batch, seed_, step), Random(seed_, RandomStream::masking, step));
  }

  /// How many windows, one after another, fill the validation text.
  [[nodiscard]] std::size_t validation_windows() const {
    return windows_.corpus().validation().size() / windows_.window();
  }

  /// Validation windows first, first + stride, …, `count` of them, hidden as `draw` says; the same
  /// for every seed, so that runs can be compared.
  /// @throws DomainError unless there are so many and at least one is asked for, and `first` is
  ///         below 2^28 - 1.
  [[nodiscard]] MaskedBatch validation(std::size_t first, std::size_t count, std::uint32_t draw,
                                       std::size_t stride = 1) const {
    const std::size_t windows = validation_windows();
    require(
        stride >= 1 && count >= 1 && first < windows && count - 1 <= (windows - first - 1) / stride,
        name, "expected windows of the validation text");
    constexpr std::size_t draws = 0xFFFFFFF;  // that `Random` tells apart
    require(first < draws, name, "expected a first window below ", draws, ", got ", first);
    windows_.check_batch(count);
    std::vector<std::size_t> offsets(count);
    for (std::size_t b = 0; b < count; ++b) offsets[b] = (first + b * stride) * windows_.window();
    return mask(windows_.validation(offsets),
                Random(0, RandomStream::masking, draw, static_cast<std::uint32_t>(first + 1)));
  }

 private:
  static constexpr std::string_view name = "MaskedBatches";

  [[nodiscard]] MaskedBatch mask(Array<std::int32_t> windows, const Random& random) const {
    const std::size_t count = selected(windows.rows());
    MaskedBatch result{std::move(windows), Array<std::int32_t>(Shape{count}),
                       Array<std::int32_t>(Shape{count})};
    std::int32_t* ids = result.ids.mutable_data();
    std::int32_t* positions = result.selected.mutable_data();
    std::int32_t* labels = result.labels.mutable_data();
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
        id = mask_id_;
      } else if (kind < 0.9F) {
        const auto symbol = static_cast<std::int32_t>(random.below(symbols_, 3 * k + 2));
        id = symbol < mask_id_ ? symbol : symbol + 1;
      }
    }
    return result;
  }

  detail::TextWindows windows_;
  std::int32_t mask_id_;
  std::uint32_t symbols_ = 0;  ///< how many ids are not the mask's
  std::uint64_t seed_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
