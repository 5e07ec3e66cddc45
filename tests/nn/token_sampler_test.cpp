// SPDX-License-Identifier: MIT
#include "unit_scaling/nn/token_sampler.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace token_sampler_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

const std::vector<float> logits{0.5F, -1, 2, 0.5F, 2, -3, 1, 0};

/// How often each token comes in `draws` draws.
std::vector<std::size_t> counts_of(const nn::SamplingOptions& options, std::size_t draws) {
  const nn::TokenSampler sample(options);
  std::vector<std::size_t> counts(logits.size());
  for (std::size_t draw = 0; draw < draws; ++draw) {
    ++counts[static_cast<std::size_t>(sample(std::span<const float>(logits), draw))];
  }
  return counts;
}

/// The probabilities of the tokens in `left`, by the definition.
std::vector<double> softmax_of(const std::vector<std::size_t>& left, double temperature) {
  std::vector<double> result(logits.size());
  double sum = 0;
  for (const std::size_t i : left) sum += std::exp(static_cast<double>(logits[i]) / temperature);
  for (const std::size_t i : left) {
    result[i] = std::exp(static_cast<double>(logits[i]) / temperature) / sum;
  }
  return result;
}

void expect_shares(const nn::SamplingOptions& options, const std::vector<std::size_t>& left) {
  constexpr std::size_t draws = 20000;
  const auto counts = counts_of(options, draws);
  const auto expected = softmax_of(left, options.temperature);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double deviation = std::sqrt(draws * expected[i] * (1 - expected[i]));
    EXPECT_NEAR(static_cast<double>(counts[i]), draws * expected[i], 5 * deviation) << i;
  }
}

TEST(TokenSampler, DrawsFromTheSoftmaxOfWhatIsLeft) {
  const std::vector<std::size_t> all{0, 1, 2, 3, 4, 5, 6, 7};
  for (const double temperature : {0.5, 1.0, 3.0}) {
    expect_shares({.temperature = temperature, .seed = 1}, all);
    expect_shares({.temperature = temperature, .top_k = 3, .seed = 2}, {2, 4, 6});
    // Of the two tokens with 0.5 the first one is left.
    expect_shares({.temperature = temperature, .top_k = 4, .seed = 3}, {0, 2, 4, 6});
    expect_shares({.temperature = temperature, .top_k = 100, .seed = 4}, all);
    expect_shares({.temperature = temperature, .seed = 5, .suppressed_tokens = {6, 1}},
                  {0, 2, 3, 4, 5, 7});
  }
}

TEST(TokenSampler, LeavesTheFewestOfTheLikeliestThatHaveTheProbability) {
  const std::vector<std::size_t> likeliest{2, 4, 6, 0, 3, 7, 1, 5};
  for (const double top_p : {1e-9, 0.3, 0.6, 0.75, 0.9, 0.999}) {
    const auto all = softmax_of(likeliest, 1);
    std::vector<std::size_t> left;
    for (double sum = 0; sum < top_p; sum += all[left.back()]) {
      left.push_back(likeliest[left.size()]);
    }
    expect_shares({.top_p = top_p, .seed = 5}, left);
  }
  expect_shares({.top_k = 2, .top_p = 0.4, .seed = 6}, {2});
  expect_shares({.top_k = 3, .top_p = 0.99, .seed = 7}, {2, 4, 6});
}

TEST(TokenSampler, TakesTheFirstOfTheLikeliestAtATemperatureOfZero) {
  const nn::TokenSampler sample({.temperature = 0});
  for (std::uint64_t draw = 0; draw < 10; ++draw) {
    EXPECT_EQ(sample(std::span<const float>(logits), draw), 2);
  }
}

TEST(TokenSampler, IsAFunctionOfSeedAndDraw) {
  const auto tokens = [](std::uint64_t seed) {
    const nn::TokenSampler sample({.seed = seed});
    std::vector<std::int32_t> result;
    for (std::uint64_t draw = 20; draw-- > 0;) {
      result.push_back(sample(std::span<const float>(logits), draw));
    }
    return result;
  };
  EXPECT_EQ(tokens(1), tokens(1));
  EXPECT_NE(tokens(1), tokens(2));
}

TEST(TokenSampler, NeverTakesATokenOfNoProbability) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const nn::TokenSampler sample({.temperature = 0.01});
  const std::array<float, 5> some{-infinity, 3, -infinity, 3, -infinity};
  std::map<std::int32_t, int> counts;
  for (std::uint64_t draw = 0; draw < 1000; ++draw) {
    ++counts[sample(std::span<const float>(some), draw)];
  }
  EXPECT_EQ(counts.size(), 2U);
  EXPECT_GT(counts[1], 400);
  EXPECT_GT(counts[3], 400);
  // Far logits have a probability of zero in double.
  const std::array<float, 3> far{-1e6F, 0, -1e6F};
  for (std::uint64_t draw = 0; draw < 1000; ++draw) {
    EXPECT_EQ(sample(std::span<const float>(far), draw), 1);
  }
}

TEST(TokenSampler, RefusesOptionsAndLogitsOfNoMeaning) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double temperature : {-1.0, infinity, std::nan("")}) {
    expect_domain_error([&] { nn::TokenSampler({.temperature = temperature}); },
                        {"TokenSampler", "temperature"});
  }
  for (const double top_p : {0.0, -0.5, 1.5, std::nan("")}) {
    expect_domain_error([&] { nn::TokenSampler({.top_p = top_p}); }, {"TokenSampler", "top_p"});
  }
  const nn::TokenSampler sample({});
  const auto refuse = [&](const std::vector<double>& numbers, std::string_view part) {
    expect_domain_error([&] { (void)sample(std::span<const double>(numbers), 0); },
                        {"TokenSampler", part});
  };
  refuse({}, "a logit that is finite");
  refuse({-infinity, -infinity}, "a logit that is finite");
  refuse({0, infinity}, "for token 1");
  refuse({std::nan(""), 0}, "for token 0");
  for (const std::int32_t token : {-1, 2}) {
    const nn::TokenSampler without({.suppressed_tokens = {token}});
    expect_domain_error(
        [&] {
          (void)without(std::span<const double>(std::vector{0.0, 1.0}), 0);
        },
        {"TokenSampler", "suppressed_tokens from 0 to 1, got"});
  }
  const nn::TokenSampler none({.temperature = 0, .suppressed_tokens = {0, 1}});
  expect_domain_error(
      [&] {
        (void)none(std::span<const double>(std::vector{0.0, 1.0}), 0);
      },
      {"TokenSampler", "a logit that is finite"});
}

}  // namespace token_sampler_test
