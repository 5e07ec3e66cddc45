// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: continues a text with a language model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/nn/key_value_cache.hpp"
#include "unit_scaling/nn/token_sampler.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// What `generate` does.
struct GenerateOptions {
  SamplingOptions sampling = {};
  std::size_t tokens = 256;  ///< how many are drawn at most
  /// Positions that the model sees at most: those that it was trained on, or fewer. When they are
  /// full, the older half is forgotten and the rest is read again.
  std::size_t context_length = 0;
};

/// Draws token after token, and calls `on_token(token)` with each, which may return false to stop.
/// The model reads each token once, by way of a cache. What it draws depends on the model, the
/// prompt and the options alone, not on the number of threads.
/// @param tape for inference; it is cleared before each token.
/// @param model has `next_token_logits(tape, ids, context)`, as nn::TransformerDecoder.
/// @throws DomainError if the prompt is empty, there is no context_length, or as TokenSampler; and
///         what the model throws.
template <Precision P, class Model, class OnToken>
void generate(Tape<P>& tape, const Model& model, std::span<const std::int32_t> prompt,
              const GenerateOptions& options, const OnToken& on_token) {
  require(!prompt.empty(), "generate", "expected a prompt of at least one token");
  require_size("generate", "context_length", options.context_length);
  const TokenSampler sample(options.sampling);
  KeyValueCache<P> cache(options.context_length);
  std::vector<std::int32_t> text(prompt.begin(), prompt.end());
  std::size_t read = 0;  // tokens that the cache has, or has forgotten
  if (text.size() > options.context_length) read = text.size() - options.context_length;
  for (std::size_t draw = 0; draw < options.tokens; ++draw) {
    if (cache.length() + (text.size() - read) > options.context_length) {
      cache.truncate(0);
      read = text.size() - std::max<std::size_t>(1, options.context_length / 2);
    }
    const std::span<const std::int32_t> next = std::span<const std::int32_t>(text).subspan(read);
    read = text.size();
    tape.clear();
    const auto logits = model.next_token_logits(tape, Array<std::int32_t>({1, next.size()}, next),
                                                {.cache = &cache});
    const std::int32_t token = sample(logits.value().span(), draw);
    text.push_back(token);
    if constexpr (std::is_void_v<std::invoke_result_t<const OnToken&, std::int32_t>>) {
      on_token(token);
    } else {
      if (!on_token(token)) return;
    }
  }
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
