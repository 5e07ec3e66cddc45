// SPDX-License-Identifier: MIT
// Transformers as a whole; their parts and numbers are compared with the reference library's in
// tests/peer_vectors.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/statistics.hpp"
#include "unit_scaling/analysis/scale_report.hpp"
#include "unit_scaling/nn/bert.hpp"
#include "unit_scaling/nn/conv1d.hpp"
#include "unit_scaling/nn/recurrent_highway.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/optim/optimiser.hpp"

namespace transformer_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Fp32 = Tape<precision::fp32>;

constexpr std::size_t vocabulary = 50;

nn::BertConfig small_bert(nn::NormPlacement placement) {
  nn::BertConfig config = nn::bert_config(vocabulary, 64, 2, 4);
  config.max_positions = 24;
  config.transformer.norm_placement = placement;
  return config;
}

struct Batch {
  Array<std::int32_t> ids = id_array({4, 16}, vocabulary, 1);
  Array<std::int32_t> segments = id_array({4, 16}, 2, 2);
  Array<std::int32_t> mask = Array<std::int32_t>::filled({4, 16}, 1);
  Array<std::int32_t> selected = id_array({9}, 64, 3);
};

TEST(Bert, EveryHeadTrainsEveryParameterItUses) {
  for (const Scaling& rules : {scaling::none, scaling::paper, scaling::umup}) {
    nn::Initialiser initialiser(1, rules);
    nn::Bert model(initialiser, small_bert(nn::NormPlacement::post));
    nn::BertClassifier next_sentence(initialiser, "nsp", 64, 2);
    nn::BertSpan span(initialiser, "span", 64);
    const Batch batch;
    Tape<precision::fp8> tape;
    const auto hidden = model(tape, batch.ids, batch.mask, batch.segments);
    EXPECT_EQ(hidden.shape(), (Shape{4, 16, 64}));
    const auto tokens = model.masked_token_logits(hidden, batch.selected);
    EXPECT_EQ(tokens.shape(), (Shape{9, vocabulary}));
    const auto follows = next_sentence(hidden);
    EXPECT_EQ(follows.shape(), (Shape{4, 2}));
    const auto [begin, end] = span(hidden);
    EXPECT_EQ(begin.shape(), (Shape{4, 16}));
    const ops::CrossEntropy loss{.scaling = rules};
    const ops::Add total{.scaling = scaling::none};
    const auto add = [&](const auto& a, const auto& b) { return ops::add(a, b, total); };
    tape.backward(add(add(ops::cross_entropy(tokens, id_array({9}, vocabulary, 4), loss),
                          ops::cross_entropy(follows, id_array({4}, 2, 5), loss)),
                      add(ops::cross_entropy(begin, id_array({4}, 16, 6), loss),
                          ops::cross_entropy(end, id_array({4}, 16, 7), loss))));
    std::set<std::string> names;
    const auto has_gradient = [&](const Parameter& parameter) {
      EXPECT_TRUE(names.insert(parameter.name).second) << parameter.name;
      const auto& gradient = tape.gradient(parameter);
      ASSERT_EQ(gradient.shape(), parameter.value.shape()) << parameter.name;
      EXPECT_GT(rms(gradient), 0) << parameter.name;
      EXPECT_NE(parameter.kind, ParameterKind::untagged) << parameter.name;
    };
    model.for_each_parameter(has_gradient);
    next_sentence.for_each_parameter(has_gradient);
    span.for_each_parameter(has_gradient);
  }
}

TEST(MultiHeadAttention, TakesItsMaskForOneOfKeysWhateverTheSizes) {
  nn::Initialiser initialiser(1);
  const nn::MultiHeadAttention attention(initialiser, "a", 8, 2, {});
  // As many sequences as positions; the last position is padding, in the last sequence the first.
  constexpr std::size_t n = 4;
  auto mask = Array<std::int32_t>::filled({n, n}, 1);
  for (std::size_t i = 0; i < n; ++i) mask.mutable_data()[i * n + (i + 1 == n ? 0 : n - 1)] = 0;
  const auto x = normal_array<float>({n, n, 8}, 1);
  auto other = x;
  for (std::size_t i = 0; i < n * n; ++i) {
    if (mask.data()[i] != 0) continue;
    for (std::size_t j = 0; j < 8; ++j) other.mutable_data()[i * 8 + j] = 100;
  }
  Tape<precision::fp32> tape;
  const auto y = attention(tape.constant(x), {.mask = mask}).value();
  const auto of_other = attention(tape.constant(other), {.mask = mask}).value();
  for (std::size_t i = 0; i < n * n; ++i) {
    if (mask.data()[i] == 0) continue;
    for (std::size_t j = 0; j < 8; ++j) EXPECT_EQ(y.row(i)[j], of_other.row(i)[j]);
  }
  expect_shape_error(
      [&] {
        (void)attention(tape.constant(x), {.mask = Array<std::int32_t>::filled({n, 1, n}, 1)});
      },
      {"MultiHeadAttention", "(batch, positions)"});
}

TEST(Bert, PaddingChangesNothingForWhatIsNoPadding) {
  nn::Initialiser initialiser(1);
  const nn::Bert model(initialiser, small_bert(nn::NormPlacement::pre));
  const Batch batch;
  Array<std::int32_t> longer = Array<std::int32_t>::filled({4, 20}, 3);
  Array<std::int32_t> mask = Array<std::int32_t>::filled({4, 20}, 0);
  Array<std::int32_t> segments = Array<std::int32_t>::filled({4, 20}, 1);
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t j = 0; j < 16; ++j) {
      longer.mutable_data()[i * 20 + j] = batch.ids.row(i)[j];
      segments.mutable_data()[i * 20 + j] = batch.segments.row(i)[j];
      mask.mutable_data()[i * 20 + j] = 1;
    }
  }
  // Without rules: the factors of unit scaling depend on the number of keys, padding included.
  nn::Initialiser plain_initialiser(1, scaling::none);
  const nn::Bert plain(plain_initialiser, small_bert(nn::NormPlacement::pre));
  Fp32 tape(TapeMode::inference);
  const auto expected = plain(tape, batch.ids, batch.mask, batch.segments).value();
  const auto padded = plain(tape, longer, mask, segments).value();
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t j = 0; j < 16; ++j) {
      for (std::size_t c = 0; c < 64; ++c) {
        // Sums over 20 keys, 4 of them zeros, may be added up in another order.
        EXPECT_NEAR(padded.row(i * 20 + j)[c], expected.row(i * 16 + j)[c], 1e-5);
      }
    }
  }
}

// Every activation and gradient between the ops. Attention is held to a factor of three: its row of
// one key is larger than one of many, and at 16 keys nothing has averaged out.
TEST(Bert, EveryTensorHasASaneScaleAtInitialisation) {
  for (const auto placement : {nn::NormPlacement::pre, nn::NormPlacement::post}) {
    nn::Initialiser initialiser(1);
    const nn::Bert model(initialiser, small_bert(placement));
    const Batch batch;
    analysis::ScaleReport report;
    Fp32 tape;
    tape.observe_with(report.observer());
    const auto hidden = model(tape, batch.ids, batch.mask, batch.segments);
    tape.backward(ops::cross_entropy(model.masked_token_logits(hidden, batch.selected),
                                     id_array({9}, vocabulary, 4)));
    for (const auto& tensor : report.tensors()) {
      if (is_parameter(tensor.role) || tensor.name == "cross_entropy") continue;
      EXPECT_GT(tensor.rms, 0.25) << tensor.name;
      EXPECT_LT(tensor.rms, 4) << tensor.name;
    }
  }
}

TEST(Bert, AReadOutOfItsOwnReplacesTheTiedOne) {
  nn::BertConfig config = small_bert(nn::NormPlacement::post);
  config.tied_readout = false;
  nn::Initialiser initialiser(1);
  nn::Bert model(initialiser, config);
  bool found = false;
  model.for_each_parameter([&](const Parameter& parameter) {
    if (parameter.name != "mlm.readout.weight") return;
    found = true;
    EXPECT_EQ(parameter.kind, ParameterKind::output);
  });
  EXPECT_TRUE(found);
}

nn::TransformerConfig small_decoder() {
  return {.hidden_size = 32, .context_length = 10, .layers = 2, .heads = 4};
}

TEST(TransformerDecoder, NoPositionSeesALaterOne) {
  for (const auto positions :
       {nn::PositionKind::none, nn::PositionKind::learned, nn::PositionKind::sinusoidal}) {
    nn::Initialiser initialiser(1, scaling::umup);
    nn::TransformerConfig config = small_decoder();
    if (positions == nn::PositionKind::none) config.rotary_base = 10000;
    const nn::TransformerDecoder model(initialiser, vocabulary, config,
                                       {.positions = positions, .max_positions = 10});
    auto ids = id_array({2, 10}, vocabulary, 1);
    Fp32 tape(TapeMode::inference);
    const auto before = model(tape, ids).value();
    ids.mutable_data()[7] = (ids.data()[7] + 1) % static_cast<std::int32_t>(vocabulary);
    const auto after = model(tape, ids).value();
    for (std::size_t row = 0; row < 20; ++row) {
      bool changed = false;
      for (std::size_t c = 0; c < vocabulary; ++c) {
        changed = changed || before.row(row)[c] != after.row(row)[c];
      }
      EXPECT_EQ(changed, row >= 7 && row < 10) << row;
    }
  }
}

TEST(TransformerDecoder, TellsPositionsApartByEveryKindOfPosition) {
  const auto ids = Array<std::int32_t>::filled({1, 6}, 3);
  const auto differs = [&](nn::TransformerConfig config, nn::PositionKind positions) {
    nn::Initialiser initialiser(1);
    const nn::TransformerDecoder model(initialiser, vocabulary, config,
                                       {.positions = positions, .max_positions = 6});
    Fp32 tape(TapeMode::inference);
    const auto y = model(tape, ids).value();
    return std::abs(y.row(5)[0] - y.row(4)[0]) > 1e-4;
  };
  EXPECT_FALSE(differs(small_decoder(), nn::PositionKind::none));
  EXPECT_TRUE(differs(small_decoder(), nn::PositionKind::learned));
  EXPECT_TRUE(differs(small_decoder(), nn::PositionKind::sinusoidal));
}

// A model without positions is blind to a permutation of what comes before; one that sees distances
// is not, and gives the same to two sequences that one is a shift of.
TEST(MultiHeadAttention, RelativePositionsAreThoseOfTheDistanceAlone) {
  for (const bool is_causal : {false, true}) {
    for (const std::size_t frequencies : {std::size_t{0}, std::size_t{16}}) {
      nn::Initialiser initialiser(1);
      nn::MultiHeadAttention attention(
          initialiser, "a", 32, 4, {.is_causal = is_causal, .relative_frequencies = frequencies});
      Fp32 tape;
      auto x = normal_array<float>({1, 6, 32}, 2);
      const auto before = attention(tape.input(x)).value();
      for (std::size_t c = 0; c < 32; ++c) std::swap(x.mutable_data()[c], x.mutable_data()[32 + c]);
      const auto after = attention(tape.input(x)).value();
      double difference = 0;
      for (std::size_t c = 0; c < 32; ++c) {
        difference = std::max<double>(difference, std::abs(after.row(5)[c] - before.row(5)[c]));
      }
      if (frequencies == 0) {
        EXPECT_LT(difference, 1e-5);
      } else {
        EXPECT_GT(difference, 1e-2);
      }
    }
  }
  // Padding in front shifts every position and no distance.
  nn::Initialiser initialiser(1, scaling::none);
  nn::MultiHeadAttention attention(initialiser, "a", 32, 4, {.relative_frequencies = 16});
  const auto x = normal_array<float>({1, 5, 32}, 2);
  auto shifted = normal_array<float>({1, 8, 32}, 3);
  std::copy(x.data(), x.data() + x.size(), shifted.mutable_data() + 3 * 32);
  Array<std::int32_t> mask = Array<std::int32_t>::filled({1, 8}, 1);
  std::fill_n(mask.mutable_data(), 3, 0);
  Fp32 tape;
  const auto expected = attention(tape.input(x)).value();
  const auto y = attention(tape.input(shifted), {.mask = mask});
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t c = 0; c < 32; ++c) {
      EXPECT_NEAR(y.value().row(i + 3)[c], expected.row(i)[c], 1e-5);
    }
  }
  std::size_t parameters = 0;
  attention.for_each_parameter([&](const Parameter&) { ++parameters; });
  EXPECT_EQ(parameters, 3U);
}

TEST(RecurrentHighwayModule, LearnsItsFirstState) {
  nn::Initialiser initialiser(1);
  nn::RecurrentHighway network(initialiser, "rnn", 7, 9);
  Tape<precision::fp8> tape;
  const auto y = network(tape.input(normal_array<float16>({3, 5, 7}, 1)));
  EXPECT_EQ(y.shape(), (Shape{3, 5, 9}));
  tape.backward(ops::mse_loss(y, tape.constant(normal_array<float16>({3, 5, 9}, 2))));
  std::set<std::string> names;
  network.for_each_parameter([&](const Parameter& parameter) {
    names.insert(parameter.name);
    EXPECT_GT(rms(tape.gradient(parameter)), 0) << parameter.name;
  });
  EXPECT_EQ(names, (std::set<std::string>{"rnn.weight", "rnn.bias", "rnn.initial"}));
}

TEST(TransformerDecoder, DropsInTrainingOnly) {
  nn::TransformerConfig config = small_decoder();
  config.dropout = 0.1;
  nn::Initialiser initialiser(1);
  const nn::TransformerDecoder model(initialiser, vocabulary, config,
                                     {.positions = nn::PositionKind::none});
  const auto ids = id_array({2, 6}, vocabulary, 1);
  Fp32 training;
  Fp32 inference(TapeMode::inference);
  EXPECT_TRUE(same_bits(model(inference, ids).value(), model(inference, ids).value()));
  EXPECT_FALSE(same_bits(model(training, ids).value(), model(inference, ids).value()));
}

TEST(TransformerDecoder, ParametersInsideTheStackKnowItsDepth) {
  nn::Initialiser initialiser(1, scaling::umup);
  nn::TransformerDecoder model(initialiser, vocabulary, small_decoder(),
                               {.positions = nn::PositionKind::none});
  std::map<std::string, ParameterKind> kinds;
  for (const Parameter* parameter : optim::parameters_of(model)) {
    EXPECT_EQ(parameter->depth.has_value(), parameter->name.starts_with("layers."))
        << parameter->name;
    kinds[parameter->name] = parameter->kind;
  }
  EXPECT_EQ(kinds.size(), 2U + 2 * 5);
  EXPECT_EQ(kinds.at("projection.weight"), ParameterKind::output);
  EXPECT_EQ(kinds.at("layers.1.mlp.linear_gate.weight"), ParameterKind::weight);
}

TEST(TransformerModules, NameWhatDoesNotFit) {
  nn::Initialiser initialiser(1);
  expect_domain_error([&] { (void)nn::MultiHeadAttention(initialiser, "a", 10, 3, {}); },
                      {"MultiHeadAttention", "3", "10"});
  expect_domain_error([&] { (void)nn::Conv1d(initialiser, "c", 4, 6, 3, {.groups = 4}); },
                      {"Conv1d", "groups"});
  const nn::TransformerDecoder model(initialiser, vocabulary, small_decoder(),
                                     {.positions = nn::PositionKind::learned, .max_positions = 4});
  Fp32 tape;
  expect_shape_error(
      [&] {
        (void)model(tape, id_array({1, 5}, vocabulary, 1));
      },
      {"at most 4 positions", "(5)"});
  expect_shape_error(
      [&] {
        (void)model.next_token_loss(tape, id_array({3, 1}, vocabulary, 1));
      },
      {"next_token_loss", "(3, 1)"});
}

}  // namespace transformer_test
