// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: draws a token from the logits of a language model.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// How a token is chosen.
struct SamplingOptions {
  /// Logits are divided by it: below 1 likely tokens become likelier. 0: the likeliest token.
  double temperature = 1;
  /// Only so many of the likeliest tokens; 0: all.
  std::size_t top_k = 0;
  /// Only the likeliest tokens that together have this probability or more (nucleus sampling,
  /// Holtzman et al. 2019, arXiv:1904.09751); it is taken after top_k. 1: all.
  double top_p = 1;
  std::uint64_t seed = 0;
  /// Tokens that are never drawn: one that stands for masked positions, say.
  std::vector<std::int32_t> suppressed_tokens = {};
};

/// Draws tokens: token ~ softmax(logits / temperature), among those that are left. Of tokens that
/// are as likely the first ones are left. A draw is a function of the seed, its number and the
/// logits, in double.
class TokenSampler {
 public:
  /// @throws DomainError unless temperature is finite and at least 0, and 0 < top_p ≤ 1.
  explicit TokenSampler(const SamplingOptions& options)
      : options_(options), random_(options.seed, RandomStream::sampling) {
    require_not_negative(name, "temperature", options.temperature);
    require(options.top_p > 0 && options.top_p <= 1, name, "expected top_p above 0 and at most 1, ",
            "got ", options.top_p);
  }

  [[nodiscard]] const SamplingOptions& options() const& { return options_; }
  [[nodiscard]] SamplingOptions options() const&& { return options_; }

  /// The token of one row of logits, in the draw of this number.
  /// @throws DomainError if there are no logits, one is NaN or +∞, or all of tokens that may be
  ///         drawn are −∞; or if a token that is never drawn has no logit.
  template <class T>
  [[nodiscard]] std::int32_t operator()(std::span<const T> logits, std::uint64_t draw) const {
    std::vector<double> numbers(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) {
      numbers[i] = static_cast<double>(logits[i]);
      require(numbers[i] < std::numeric_limits<double>::infinity(), name,
              "expected logits that are finite or -infinity, got ", numbers[i], " for token ", i);
    }
    for (const std::int32_t token : options_.suppressed_tokens) {
      require(token >= 0 && static_cast<std::size_t>(token) < numbers.size(), name,
              "expected suppressed_tokens from 0 to ", static_cast<double>(numbers.size()) - 1,
              ", got ", token);
      numbers[static_cast<std::size_t>(token)] = -std::numeric_limits<double>::infinity();
    }
    const auto largest = std::max_element(numbers.begin(), numbers.end());
    require(largest != numbers.end() && std::isfinite(*largest), name,
            "expected a logit that is finite");
    if (options_.temperature == 0) return static_cast<std::int32_t>(largest - numbers.begin());

    // Likeliest first, where some are to be left out.
    std::vector<std::size_t> tokens(numbers.size());
    std::iota(tokens.begin(), tokens.end(), std::size_t{0});
    if (options_.top_k != 0 || options_.top_p < 1) {
      std::stable_sort(tokens.begin(), tokens.end(),
                       [&](std::size_t a, std::size_t b) { return numbers[a] > numbers[b]; });
    }
    if (options_.top_k != 0) tokens.resize(std::min(tokens.size(), options_.top_k));
    const double most = *largest;
    std::vector<double> weights(tokens.size());
    double sum = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      weights[i] = std::exp((numbers[tokens[i]] - most) / options_.temperature);
      sum += weights[i];
    }
    if (options_.top_p < 1) {
      double of_first = 0;
      std::size_t count = 0;
      while (count < weights.size() && of_first < options_.top_p * sum) {
        of_first += weights[count++];
      }
      weights.resize(count);
      sum = of_first;
    }
    // 53 bits of two words.
    const auto high = static_cast<double>(random_.word(2 * draw) >> 5);
    const auto low = static_cast<double>(random_.word(2 * draw + 1) >> 6);
    double left = (high * 0x1p26 + low) * 0x1p-53 * sum;
    std::size_t chosen = 0;
    while (chosen + 1 < weights.size() && left >= weights[chosen]) left -= weights[chosen++];
    // Roundings may lead to the end, where a weight may be 0.
    while (weights[chosen] == 0) --chosen;
    return static_cast<std::int32_t>(tokens[chosen]);
  }

 private:
  static constexpr std::string_view name = "TokenSampler";

  SamplingOptions options_;
  Random random_;
};

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
