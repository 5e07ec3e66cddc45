// SPDX-License-Identifier: MIT
// The models that are compared, each with its loss and its batches.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numbers>

#include "settings.hpp"
#include "unit_scaling/unit_scaling.hpp"

namespace recipe_table {

namespace us = unit_scaling;

/// A BertMlp with its loss on masked characters.
class BertMlpTask {
 public:
  static constexpr std::size_t window = 16;

  BertMlpTask(us::nn::Initialiser& initialiser, const us::train::TextCorpus& corpus,
              const Settings& settings, std::uint64_t seed)
      : model_(initialiser, {.vocabulary_size = corpus.vocabulary_size(),
                             .window = window,
                             .hidden_size = settings.hidden_size,
                             .layers = settings.layers}),
        batches_(corpus, window, seed),
        batch_(settings.tokens / window),
        scaling_(initialiser.scaling()) {}

  [[nodiscard]] us::nn::BertMlp& model() { return model_; }

  template <us::Precision P> auto training_loss(us::Tape<P>& tape, std::size_t step) const {
    return loss(tape, batches_.training(batch_, static_cast<std::uint32_t>(step)));
  }
  /// The mean over the held-out text, in bits.
  template <us::Precision P> double validate(us::Tape<P>& tape) const {
    double sum = 0;
    double items = 0;
    for (std::size_t first = 0; first < batches_.validation_windows(); first += batch_) {
      const auto batch =
          batches_.validation(first, std::min(batch_, batches_.validation_windows() - first), 0, 1);
      tape.clear();
      const auto size = static_cast<double>(batch.labels.size());
      sum += static_cast<double>(*loss(tape, batch).value().data()) * size;
      items += size;
    }
    return sum / items / std::numbers::ln2;
  }

 private:
  template <us::Precision P>
  auto loss(us::Tape<P>& tape, const us::train::MaskedBatch& batch) const {
    return us::ops::cross_entropy(model_(tape, batch.ids, batch.selected), batch.labels,
                                  {.scaling = scaling_});
  }

  us::nn::BertMlp model_;
  us::train::MaskedBatches batches_;
  std::size_t batch_;
  us::Scaling scaling_;
};

/// A decoder with its loss on the next character.
class DecoderTask {
 public:
  static constexpr std::size_t window = 64;

  DecoderTask(us::nn::Initialiser& initialiser, const us::train::TextCorpus& corpus,
              const Settings& settings, std::uint64_t seed)
      : model_(initialiser, corpus.vocabulary_size(),
               {.hidden_size = settings.hidden_size,
                .context_length = window + 1,
                .layers = settings.layers,
                .heads = std::max<std::size_t>(1, settings.hidden_size / 64),
                .rotary_base = 10000}),
        corpus_(corpus),
        seed_(seed),
        batch_(settings.tokens / window) {}

  [[nodiscard]] us::nn::TransformerDecoder& model() { return model_; }

  template <us::Precision P> auto training_loss(us::Tape<P>& tape, std::size_t step) const {
    const auto text = corpus_.training();
    const us::Random random(seed_, us::RandomStream::general, step);
    us::Array<std::int32_t> ids({batch_, window + 1});
    for (std::size_t i = 0; i < batch_; ++i) {
      const auto places = static_cast<double>(text.size() - window);
      copy_window(text, static_cast<std::size_t>(random.uniform(i) * places), ids, i);
    }
    return model_.next_token_loss(tape, ids);
  }
  /// The mean over the held-out text, in bits.
  template <us::Precision P> double validate(us::Tape<P>& tape) const {
    const auto text = corpus_.validation();
    const std::size_t windows = (text.size() - 1) / window;
    double sum = 0;
    for (std::size_t first = 0; first < windows; first += batch_) {
      const std::size_t count = std::min(batch_, windows - first);
      us::Array<std::int32_t> ids({count, window + 1});
      for (std::size_t i = 0; i < count; ++i) copy_window(text, (first + i) * window, ids, i);
      tape.clear();
      sum += static_cast<double>(*model_.next_token_loss(tape, ids).value().data()) *
             static_cast<double>(count);
    }
    return sum / static_cast<double>(windows) / std::numbers::ln2;
  }

 private:
  static void copy_window(const us::train::TokenText& text, std::size_t from,
                          us::Array<std::int32_t>& ids, std::size_t row) {
    text.copy(from, {ids.mutable_data() + row * (window + 1), window + 1});
  }

  us::nn::TransformerDecoder model_;
  const us::train::TextCorpus& corpus_;
  std::uint64_t seed_;
  std::size_t batch_;
};

}  // namespace recipe_table
