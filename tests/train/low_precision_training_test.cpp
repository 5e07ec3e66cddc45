// SPDX-License-Identifier: MIT
// What Adam's states in few bits do to a training.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "support/temporary_folder.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/embedding.hpp"
#include "unit_scaling/nn/feed_forward.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/linear_readout.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/low_precision_states.hpp"
#include "unit_scaling/scaling/rule.hpp"
#include "unit_scaling/train/checkpoint.hpp"
#include "unit_scaling/train/masked_batch.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace low_precision_training_test {

using namespace unit_scaling;
using optim::Adam;
using optim::EncodedStateFormat;
using optim::RangeExpansion;
using optim::StateScale;

constexpr std::size_t vocabulary = 32;

/// A language of one-token contexts. Token i follows with a probability that falls with i, so that
/// some are rare, and with a factor that depends on the token before.
class Language {
 public:
  Language() {
    const Random random(11);
    for (std::size_t before = 0; before < vocabulary; ++before) {
      double sum = 0;
      for (std::size_t token = 0; token < vocabulary; ++token) {
        sum += std::exp(1.5 * random.normal(before * vocabulary + token)) /
               static_cast<double>(1 + token);
        cumulative_.push_back(sum);
      }
      for (std::size_t token = 0; token < vocabulary; ++token) {
        cumulative_[before * vocabulary + token] /= sum;
      }
    }
  }

  /// Tokens, and those that follow: pairs of one text.
  void draw(std::size_t count, std::uint64_t seed, Array<std::int32_t>& tokens,
            Array<std::int32_t>& next) const {
    const Random random(seed, RandomStream::batch);
    std::size_t token = 0;
    tokens = Array<std::int32_t>({count});
    next = Array<std::int32_t>({count});
    for (std::size_t i = 0; i < count; ++i) {
      const double* const row = &cumulative_[token * vocabulary];
      tokens.mutable_data()[i] = static_cast<std::int32_t>(token);
      const double drawn = static_cast<double>(random.uniform(i));
      token = std::min<std::size_t>(
          static_cast<std::size_t>(std::lower_bound(row, row + vocabulary, drawn) - row),
          vocabulary - 1);
      next.mutable_data()[i] = static_cast<std::int32_t>(token);
    }
  }

 private:
  std::vector<double> cumulative_;
};

struct Model {
  nn::Initialiser initialiser;
  nn::Embedding embedding{initialiser, "embedding", vocabulary, 32};
  nn::FeedForward network{initialiser, "ffn", 32, 64};
  nn::LinearReadout readout{initialiser, "readout", 32, vocabulary};

  explicit Model(std::uint64_t seed) : initialiser(seed) {}

  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    embedding.for_each_parameter(visit);
    network.for_each_parameter(visit);
    readout.for_each_parameter(visit);
  }

  auto loss(Tape<precision::fp32>& tape, const Array<std::int32_t>& tokens,
            const Array<std::int32_t>& next) const {
    return ops::cross_entropy(readout(network(embedding(tape, tokens))), next);
  }
};

struct Training {
  Model model;
  Adam adam;
  Tape<precision::fp32> tape;
  Language language;

  Training(std::uint64_t seed, const Adam::Options& options)
      : model(seed), adam(optim::parameters_of(model), options) {}

  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit("model", model);
    visit("adam", adam);
    visit("tape", tape);
  }

  void train(std::size_t steps) {
    Array<std::int32_t> tokens;
    Array<std::int32_t> next;
    for (std::size_t step = 0; step < steps; ++step) {
      language.draw(128, 1000 + adam.steps(), tokens, next);
      tape.clear();
      tape.backward(model.loss(tape, tokens, next));
      adam.step(tape, 0x1p-6);
    }
  }

  /// Bits for a token of a text that was not trained on.
  double validation_bits() {
    Array<std::int32_t> tokens;
    Array<std::int32_t> next;
    language.draw(4096, 1, tokens, next);
    tape.clear();
    return static_cast<double>(*model.loss(tape, tokens, next).value().data()) / std::log(2.0);
  }
};

constexpr std::size_t steps = 300;
constexpr std::uint64_t seeds = 3;

/// The mean over seeds; infinite if a training goes beyond float, so that Adam refuses a step.
double bits_after_training(const Adam::Options& options) {
  double sum = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    Training training(seed, options);
    try {
      training.train(steps);
    } catch (const DomainError&) {
      return std::numeric_limits<double>::infinity();
    }
    sum += training.validation_bits();
  }
  return sum / static_cast<double>(seeds);
}

TEST(LowPrecisionTraining, LosesLessThanAFiftiethOfABitButWithASecondMomentInFp8) {
  const double in_float = bits_after_training({});
  const double in_fp8_lm = bits_after_training(optim::with_fp8_lm_states({}));
  const double in_coat = bits_after_training(optim::with_coat_states({}));
  const double in_coat_of_paper =
      bits_after_training(optim::with_coat_states({}, RangeExpansion::coat_paper));
  Adam::Options second_in_fp8 = optim::with_fp8_lm_states({});
  second_in_fp8.second_moment = second_in_fp8.first_moment;
  const double with_second_in_fp8 = bits_after_training(second_in_fp8);
  std::printf("bits: float %.4f, FP8-LM %.4f, COAT %.4f, COAT of the paper %.4f, v in FP8 %.4f\n",
              in_float, in_fp8_lm, in_coat, in_coat_of_paper, with_second_in_fp8);
  EXPECT_LT(in_float, 4) << "of 5 bits without training";
  EXPECT_NEAR(in_fp8_lm, in_float, 0.02);
  EXPECT_NEAR(in_coat, in_float, 0.02);
  EXPECT_NEAR(in_coat_of_paper, in_float, 0.02);
  // Or no number at all.
  EXPECT_FALSE(with_second_in_fp8 < in_float + 0.1);
}

/// Mean squared error of m / √v over all parameters when both are stored, without what √v = 0
/// makes infinite.
double error_of_update(const std::vector<Array<float>>& first,
                       const std::vector<Array<float>>& second, RangeExpansion of_first,
                       RangeExpansion of_second) {
  const auto stored = [](const Array<float>& numbers, RangeExpansion expansion) {
    const EncodedStateFormat format(
        {.scale = StateScale::per_group, .group = 128, .expansion = expansion});
    optim::OptimiserState state = format.zeros(numbers.shape());
    const optim::StateMemory memory{
        .codes = state.codes.mutable_codes().data(),
        .scales = state.scales.mutable_data(),
        .exponents = state.exponents.empty() ? nullptr : state.exponents.mutable_data(),
        .tensor_scale = 1};
    Array<float> result(numbers.shape());
    constexpr std::size_t chunk = EncodedStateFormat::chunk;
    for (std::size_t i = 0; i < numbers.size(); i += chunk) {
      const std::size_t count = std::min(chunk, numbers.size() - i);
      format.encode(numbers.data() + i, i, count, 1, {}, memory);
      format.decode(memory, i, count, result.mutable_data() + i);
    }
    return result;
  };
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t k = 0; k < first.size(); ++k) {
    const Array<float> m = stored(first[k], of_first);
    const Array<float> v = stored(second[k], of_second);
    // Zeros of either way of storing are left out of both.
    const Array<float> zeros_of = stored(second[k], RangeExpansion::none);
    for (std::size_t i = 0; i < m.size(); ++i) {
      if (v.data()[i] == 0 || zeros_of.data()[i] == 0 || second[k].data()[i] == 0) continue;
      const double exact = static_cast<double>(first[k].data()[i]) /
                           std::sqrt(static_cast<double>(second[k].data()[i]));
      const double actual =
          static_cast<double>(m.data()[i]) / std::sqrt(static_cast<double>(v.data()[i]));
      sum += (actual - exact) * (actual - exact);
      ++count;
    }
  }
  return sum / static_cast<double>(count);
}

void expect_smaller_errors_of_updates(Adam& adam) {
  std::vector<Array<float>> first;
  std::vector<Array<float>> second;
  adam.for_each_state([&]<class T>(const std::string& name, T& state) {
    if constexpr (std::is_same_v<T, Array<float>>) {
      (name.starts_with("first") ? first : second).push_back(state);
    }
  });
  for (const RangeExpansion expansion : {RangeExpansion::coat_code, RangeExpansion::coat_paper}) {
    const double neither =
        error_of_update(first, second, RangeExpansion::none, RangeExpansion::none);
    const double only_first = error_of_update(first, second, expansion, RangeExpansion::none);
    const double only_second = error_of_update(first, second, RangeExpansion::none, expansion);
    const double both = error_of_update(first, second, expansion, expansion);
    std::printf("m / sqrt(v): neither %.3g, m %.3g, v %.3g, both %.3g: gain %.2f\n", neither,
                only_first, only_second, both, neither / both);
    EXPECT_GE(neither / both, 1.3);
    EXPECT_LT(only_first, neither);
    EXPECT_LT(only_second, neither);
    EXPECT_LT(only_first, only_second);  // the first moment has more to gain
  }
}

TEST(LowPrecisionTraining, ExpandedRangesMakeTheErrorOfAnUpdateAtLeast1Point3TimesSmaller) {
  Training training(0, {});
  for (const std::size_t more : {100U, 200U}) {
    training.train(more);
    expect_smaller_errors_of_updates(training.adam);
  }
}

TEST(LowPrecisionTraining, ExpandedRangesMakeItSoForABertMlpOnText) {
  constexpr std::size_t window = 16;
  const std::vector<std::filesystem::path> text{std::filesystem::path(UNIT_SCALING_SOURCE_DIR) /
                                                "docs" / "exactness.md"};
  const train::TextCorpus corpus(train::TextCorpus::read_files(text), window);
  nn::Initialiser initialiser(1);
  nn::BertMlp model(initialiser, {.vocabulary_size = corpus.vocabulary_size(),
                                  .window = window,
                                  .hidden_size = 64,
                                  .layers = 2});
  const train::MaskedBatches batches(corpus, window, 1);
  Adam adam(optim::parameters_of(model), {.rule = Rule::paper});
  Tape<precision::fp32> tape;
  for (std::uint32_t step = 0; step < 60; ++step) {
    const train::MaskedBatch batch = batches.training(32, step);
    tape.clear();
    tape.backward(ops::cross_entropy(model(tape, batch.ids, batch.selected), batch.labels));
    adam.step(tape, 0x1p-3);
  }
  expect_smaller_errors_of_updates(adam);
}

TEST(LowPrecisionTraining, ACheckpointTakesItUpToTheBit) {
  const unit_scaling_test::TemporaryFolder folder;
  for (const Adam::Options& options :
       {optim::with_fp8_lm_states({}), optim::with_coat_states({})}) {
    Training unbroken(1, options);
    unbroken.train(5);
    train::save_state(folder.path() / "training.safetensors", unbroken);
    unbroken.train(5);
    Training resumed(2, options);
    train::load_state(folder.path() / "training.safetensors", resumed);
    resumed.train(5);
    EXPECT_EQ(resumed.validation_bits(), unbroken.validation_bits());
  }
}

}  // namespace low_precision_training_test
