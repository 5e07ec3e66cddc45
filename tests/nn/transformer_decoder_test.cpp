// SPDX-License-Identifier: MIT
#include "unit_scaling/nn/transformer_decoder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory_resource>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"
#include "unit_scaling/nn/key_value_cache.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/train/training_state.hpp"

namespace transformer_decoder_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr std::size_t vocabulary = 23;
constexpr std::size_t context_length = 40;

struct Variant {
  std::string name;
  nn::TransformerConfig config;
  nn::InputEmbedding::Options embedding = {};
  bool is_tied = false;
};

/// Each kind of positions, and each kind of attention.
std::vector<Variant> variants() {
  const nn::TransformerConfig base{
      .hidden_size = 32, .context_length = context_length, .layers = 2, .heads = 4};
  std::vector<Variant> all;
  const auto add = [&](const std::string& name, const auto& change) {
    Variant variant{name, base};
    change(variant);
    all.push_back(variant);
  };
  add("rotary", [](Variant& v) { v.config.rotary_base = 10000; });
  add("relative", [](Variant& v) { v.config.relative_frequencies = 4; });
  add("learned", [](Variant& v) {
    v.embedding = {.positions = nn::PositionKind::learned, .max_positions = context_length};
    v.config.mlp = nn::MlpKind::gelu;
    v.config.gelu_form = ops::GeluForm::tanh_approximation;
    v.config.norm = nn::NormKind::layer_norm;
    v.is_tied = true;
  });
  add("sinusoidal, post-norm", [](Variant& v) {
    v.embedding = {.positions = nn::PositionKind::sinusoidal, .max_positions = context_length};
    v.config.norm_placement = nn::NormPlacement::post;
  });
  add("grouped, window", [](Variant& v) {
    v.config.rotary_base = 10000;
    v.config.kv_heads = 2;
    v.config.window = 11;
    v.config.norm = nn::NormKind::rms_norm_with_gain;
    v.config.inner_size = 50;
  });
  add("one head of keys", [](Variant& v) {
    v.config.rotary_base = 10000;
    v.config.kv_heads = 1;
    v.config.attention_bias = true;
  });
  return all;
}

nn::TransformerDecoder model_of(const Variant& variant, const Scaling& rules) {
  nn::Initialiser initialiser(5, rules);
  return nn::TransformerDecoder(initialiser, vocabulary, variant.config, variant.embedding,
                                {.tied = variant.is_tied});
}

/// Columns [first, first + count) of ids.
Array<std::int32_t> columns_of(const Array<std::int32_t>& ids, std::size_t first,
                               std::size_t count) {
  Array<std::int32_t> result({ids.rows(), count});
  for (std::size_t i = 0; i < ids.rows(); ++i) {
    std::copy_n(ids.row(i) + first, count, result.mutable_data() + i * count);
  }
  return result;
}

/// The logits of `count` positions from `first` on, of those of (batch, positions, vocabulary).
template <class T>
std::vector<T> logits_at(const Array<T>& logits, std::size_t first, std::size_t count) {
  const std::size_t positions = logits.shape()[1];
  std::vector<T> result;
  for (std::size_t i = 0; i < logits.shape()[0]; ++i) {
    const T* const from = logits.data() + (i * positions + first) * vocabulary;
    result.insert(result.end(), from, from + count * vocabulary);
  }
  return result;
}

const std::array all_rules{scaling::paper, scaling::umup, scaling::none};

template <class P> class TransformerDecoderIn : public testing::Test {};
TYPED_TEST_SUITE(TransformerDecoderIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(TransformerDecoderIn, ATrainedFunctionIsTheSameAtEveryLength) {
  const auto ids = id_array({2, context_length}, vocabulary, 1);
  for (const Scaling& rules : all_rules) {
    for (const Variant& variant : variants()) {
      const auto model = model_of(variant, rules);
      Tape<TypeParam> tape(TapeMode::inference);
      const auto all = model(tape, ids).value();
      for (const std::size_t length : {1U, 2U, 8U, 33U}) {
        const auto some = model(tape, columns_of(ids, 0, length)).value();
        EXPECT_EQ(logits_at(some, 0, length), logits_at(all, 0, length))
            << variant.name << " " << to_string(rules.rule) << " " << length;
      }
    }
  }
}

TYPED_TEST(TransformerDecoderIn, CachedLogitsHaveTheBitsOfThoseThatAreComputedAtOnce) {
  const auto ids = id_array({2, context_length}, vocabulary, 2);
  for (const Scaling& rules : all_rules) {
    for (const Variant& variant : variants()) {
      const auto model = model_of(variant, rules);
      Tape<TypeParam> tape(TapeMode::inference);
      const auto all = model(tape, ids).value();
      nn::KeyValueCache<TypeParam> cache(context_length);
      std::size_t read = 0;
      for (const std::size_t count : {7U, 1U, 1U, 20U, 1U, 10U}) {
        tape.clear();
        const auto logits = model(tape, columns_of(ids, read, count), {.cache = &cache}).value();
        EXPECT_EQ(logits_at(logits, 0, count), logits_at(all, read, count))
            << variant.name << " " << to_string(rules.rule) << " after " << read;
        read += count;
        EXPECT_EQ(cache.length(), read);
      }
      // Going back and reading the same again changes nothing.
      cache.truncate(12);
      tape.clear();
      const auto again = model(tape, columns_of(ids, 12, 5), {.cache = &cache}).value();
      EXPECT_EQ(logits_at(again, 0, 5), logits_at(all, 12, 5)) << variant.name;
    }
  }
}

TYPED_TEST(TransformerDecoderIn, CachedLogitsOfAWiderModelHaveTheSameBitsToo) {
  // Long sums show in which order they were added up.
  nn::Initialiser initialiser(5, scaling::umup);
  const nn::TransformerDecoder model(initialiser, vocabulary,
                                     {.hidden_size = 160,
                                      .context_length = context_length,
                                      .layers = 2,
                                      .heads = 2,
                                      .rotary_base = 10000});
  const auto ids = id_array({1, context_length}, vocabulary, 2);
  Tape<TypeParam> tape(TapeMode::inference);
  const auto all = model(tape, ids).value();
  nn::KeyValueCache<TypeParam> cache(context_length);
  for (std::size_t i = 0; i < context_length; ++i) {
    tape.clear();
    const auto logits = model(tape, columns_of(ids, i, 1), {.cache = &cache}).value();
    EXPECT_EQ(logits_at(logits, 0, 1), logits_at(all, i, 1)) << i;
  }
}

TYPED_TEST(TransformerDecoderIn, ACacheThatWasTruncatedHasForgottenWhatCameAfter) {
  const auto ids = id_array({2, context_length}, vocabulary, 2);
  for (const Variant& variant : variants()) {
    const auto model = model_of(variant, scaling::umup);
    Tape<TypeParam> tape(TapeMode::inference);
    const auto all = model(tape, ids).value();
    nn::KeyValueCache<TypeParam> cache(context_length);
    tape.clear();
    (void)model(tape, id_array({2, context_length}, vocabulary, 3), {.cache = &cache});
    cache.truncate(0);
    for (std::size_t read = 0; read < context_length; read += 8) {
      tape.clear();
      const auto logits = model(tape, columns_of(ids, read, 8), {.cache = &cache}).value();
      EXPECT_EQ(logits_at(logits, 0, 8), logits_at(all, read, 8)) << variant.name << " " << read;
    }
  }
}

TYPED_TEST(TransformerDecoderIn,
           CachedLogitsAreTheSameWhenTheyAreWatchedAndOnATapeThatIsNotCleared) {
  const auto ids = id_array({2, context_length}, vocabulary, 2);
  for (const Variant& variant : variants()) {
    const auto model = model_of(variant, scaling::umup);
    Tape<TypeParam> tape(TapeMode::inference);
    const auto all = model(tape, ids).value();
    Tape<TypeParam> watched(TapeMode::inference);
    std::size_t seen = 0;
    watched.observe_with([&](const Observation& /*value*/) { ++seen; });
    for (Tape<TypeParam>* const which : {&tape, &watched}) {
      nn::KeyValueCache<TypeParam> cache(context_length);
      for (std::size_t read = 0; read < 8; read += 2) {
        const auto logits = model(*which, columns_of(ids, read, 2), {.cache = &cache}).value();
        EXPECT_EQ(logits_at(logits, 0, 2), logits_at(all, read, 2)) << variant.name << " " << read;
      }
    }
    EXPECT_GT(seen, 0U);
  }
}

TYPED_TEST(TransformerDecoderIn, NextTokenLogitsAreThoseOfTheLastPositionThatIsNotPadding) {
  const auto ids = id_array({2, 9}, vocabulary, 3);
  const auto model = model_of(variants().front(), scaling::umup);
  Tape<TypeParam> tape(TapeMode::inference);
  const auto all = model(tape, ids).value();
  const auto last = model.next_token_logits(tape, ids).value();
  ASSERT_EQ(last.shape(), (Shape{2, vocabulary}));
  EXPECT_EQ(std::vector(last.span().begin(), last.span().end()), logits_at(all, 8, 1));
  Array<std::int32_t> mask = Array<std::int32_t>::filled({2, 9}, 1);
  for (const std::size_t padding : {6U, 7U, 8U}) mask.mutable_data()[padding] = 0;
  const auto padded = model.next_token_logits(tape, ids, {.mask = mask}).value();
  const auto of_first = logits_at(all, 5, 1);
  const auto of_second = logits_at(all, 8, 1);
  EXPECT_TRUE(std::equal(of_first.begin(), of_first.begin() + vocabulary, padded.row(0)));
  EXPECT_TRUE(std::equal(of_second.begin() + vocabulary, of_second.end(), padded.row(1)));
}

TYPED_TEST(TransformerDecoderIn, PackedDocumentsHaveTheLogitsOfDocumentsAlone) {
  const auto ids = id_array({1, 30}, vocabulary, 4);
  Array<std::int32_t> documents({1, 30});
  for (std::size_t i = 0; i < 30; ++i) documents.mutable_data()[i] = i < 11 ? 4 : 9;
  // Of kinds of positions that know the distance alone.
  for (const Variant& variant : variants()) {
    if (variant.embedding.positions) continue;
    if (variant.config.rotary_base) continue;  // turns are rounded, at other positions differently
    const auto model = model_of(variant, scaling::paper);
    Tape<TypeParam> tape(TapeMode::inference);
    const auto packed = model(tape, ids, {.documents = documents}).value();
    const auto first = model(tape, columns_of(ids, 0, 11)).value();
    EXPECT_EQ(logits_at(packed, 0, 11), logits_at(first, 0, 11)) << variant.name;
    const auto second = model(tape, columns_of(ids, 11, 19)).value();
    const auto expected = logits_at(second, 0, 19);
    const auto found = logits_at(packed, 11, 19);
    double error = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      error = std::max(error,
                       std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i])));
    }
    // Blocks of keys begin elsewhere, and so sums have another order.
    EXPECT_LT(error, (std::is_same_v<TypeParam, precision::fp32> ? 1e-5 : 0.2)) << variant.name;
  }
}

double loss_of(const nn::TransformerDecoder& model, const Array<std::int32_t>& ids,
               const nn::AttentionContext<precision::fp64>& context = {},
               std::optional<std::int32_t> ignore_index = std::nullopt) {
  Tape<precision::fp64> tape;
  return *model.next_token_loss(tape, ids, context, ignore_index).value().data();
}

TEST(TransformerDecoder, NextTokenLossIsTheMeanOverWhatIsAsked) {
  const auto model = model_of(variants().front(), scaling::umup);
  const auto first = id_array({1, 9}, vocabulary, 5);
  const auto second = id_array({1, 5}, vocabulary, 6);
  const double of_first = loss_of(model, first);
  const double of_second = loss_of(model, second);
  Array<std::int32_t> both = Array<std::int32_t>::filled({2, 9}, 0);
  std::copy_n(first.data(), 9, both.mutable_data());
  std::copy_n(second.data(), 5, both.mutable_data() + 9);
  Array<std::int32_t> mask = Array<std::int32_t>::filled({2, 9}, 1);
  std::fill_n(mask.mutable_data() + 14, 4, 0);
  EXPECT_NEAR(loss_of(model, both, {.mask = mask}), (8 * of_first + 4 * of_second) / 12, 1e-12);

  // A token that is ignored is no label, and is read all the same.
  Tape<precision::fp64> tape;
  const auto logits = model(tape, first).value();
  double sum = 0;
  std::size_t count = 0;
  const std::int32_t ignored = first.data()[3];
  for (std::size_t i = 0; i + 1 < 9; ++i) {
    if (first.data()[i + 1] == ignored) continue;
    const double* const row = logits.data() + i * vocabulary;
    double exponentials = 0;
    for (std::size_t j = 0; j < vocabulary; ++j) exponentials += std::exp(row[j]);
    sum += std::log(exponentials) - row[first.data()[i + 1]];
    ++count;
  }
  EXPECT_NEAR(loss_of(model, first, {}, ignored), sum / static_cast<double>(count), 1e-12);
}

TEST(TransformerDecoder, NextTokenLossOfPackedDocumentsIsThatOfEach) {
  for (const Variant& variant : variants()) {
    if (variant.embedding.positions) continue;
    const auto model = model_of(variant, scaling::umup);
    const auto first = id_array({1, 9}, vocabulary, 5);
    const auto second = id_array({1, 5}, vocabulary, 6);
    Array<std::int32_t> packed({1, 14});
    std::copy_n(first.data(), 9, packed.mutable_data());
    std::copy_n(second.data(), 5, packed.mutable_data() + 9);
    Array<std::int32_t> documents = Array<std::int32_t>::filled({1, 14}, 1);
    std::fill_n(documents.mutable_data() + 9, 5, 2);
    EXPECT_NEAR(loss_of(model, packed, {.documents = documents}),
                (8 * loss_of(model, first) + 4 * loss_of(model, second)) / 12, 1e-9)
        << variant.name;
  }
}

TEST(TransformerDecoder, NothingAskedIsALossOfZero) {
  const auto model = model_of(variants().front(), scaling::umup);
  const Array<std::int32_t> ids = Array<std::int32_t>::filled({2, 3}, 7);
  EXPECT_EQ(loss_of(model, ids, {}, 7), 0);
}

TEST(TransformerDecoder, ATiedReadOutHasNoWeightOfItsOwn) {
  auto variant = variants().front();
  auto untied = model_of(variant, scaling::paper);
  variant.is_tied = true;
  auto tied = model_of(variant, scaling::paper);
  EXPECT_EQ(optim::parameters_of(tied).size() + 1, optim::parameters_of(untied).size());
  Tape<precision::fp32> tape;
  tape.backward(tied.next_token_loss(tape, id_array({2, 9}, vocabulary, 7)));
  for (const Parameter* parameter : optim::parameters_of(tied)) {
    EXPECT_GT(rms(tape.gradient(*parameter)), 0) << parameter->name;
  }
}

TEST(TransformerDecoder, WantsToBeToldOfPositionsAndOfItsContextLength) {
  nn::Initialiser initialiser(1);
  nn::TransformerConfig config{.hidden_size = 8, .context_length = 4};
  expect_domain_error([&] { (void)nn::TransformerDecoder(initialiser, 5, config); },
                      {"TransformerEncoder", "rotary_base", "PositionKind::none to do without"});
  config.rotary_base = 10000;
  (void)nn::TransformerDecoder(initialiser, 5, config);
  config.context_length = 0;
  expect_domain_error([&] { (void)nn::TransformerDecoder(initialiser, 5, config); },
                      {"TransformerConfig", "context_length"});
}

TEST(TransformerDecoder, ACheckpointKeepsTheContextLength) {
  const auto ids = id_array({1, 8}, vocabulary, 10);
  const auto logits_of = [&](const nn::TransformerDecoder& model) {
    Tape<precision::fp32> tape(TapeMode::inference);
    const auto logits = model(tape, ids).value();
    return std::vector(logits.span().begin(), logits.span().end());
  };
  Variant variant = variants().front();
  auto model = model_of(variant, scaling::umup);
  variant.config.context_length = 17;
  auto other = model_of(variant, scaling::umup);
  const auto expected = logits_of(model);
  EXPECT_NE(logits_of(other), expected);
  std::map<std::string, std::size_t> numbers;
  const auto read = [&](const std::string& name, auto& state) {
    if constexpr (std::is_integral_v<std::remove_reference_t<decltype(state)>>) {
      numbers[name] = state;
    }
  };
  train::for_each_state(model, read);
  EXPECT_EQ(numbers,
            (std::map<std::string, std::size_t>{{"layers.0.mhsa.context_length", context_length},
                                                {"layers.1.mhsa.context_length", context_length}}));
  train::for_each_state(other, [&](const std::string& name, auto& state) {
    if constexpr (std::is_integral_v<std::remove_reference_t<decltype(state)>>) {
      state = numbers.at(name);
    }
  });
  EXPECT_EQ(logits_of(other), expected);
}

TEST(KeyValueCache, RefusesWhatDoesNotFit) {
  const auto model = model_of(variants().front(), scaling::paper);
  const auto ids = id_array({2, 5}, vocabulary, 8);
  nn::KeyValueCache<precision::fp32> cache(8);
  Tape<precision::fp32> training;
  expect_domain_error([&] { (void)model(training, ids, {.cache = &cache}); },
                      {"MultiHeadAttention", "tape for inference"});
  Tape<precision::fp32> tape(TapeMode::inference);
  (void)model(tape, ids, {.cache = &cache});
  expect_domain_error([&] { (void)model(tape, ids, {.cache = &cache}); },
                      {"KeyValueCache", "at most 8 positions, got 5 after 5"});
  EXPECT_EQ(cache.length(), 5U);
  expect_shape_error(
      [&] {
        (void)model(tape, id_array({1, 2}, vocabulary, 9), {.cache = &cache});
      },
      {"KeyValueCache", "(2, 4, 8, 8)", "(1, 4, 8, 8)"});
  expect_domain_error([&] { (void)model.next_token_loss(training, ids, {.cache = &cache}); },
                      {"next_token_loss", "KeyValueCache"});
  cache.truncate(0);
  EXPECT_EQ(cache.length(), 0U);
  EXPECT_EQ(cache.bytes(), 2U * 2 * 2 * 4 * 8 * 8 * sizeof(float));
  (void)model(tape, id_array({1, 2}, vocabulary, 9), {.cache = &cache});  // any batch now
  EXPECT_EQ(cache.length(), 2U);
  EXPECT_EQ(cache.bytes(), 2U * 2 * 4 * 8 * 8 * sizeof(float));
  nn::Initialiser initialiser(1);
  const nn::MultiHeadAttention bidirectional(initialiser, "a", 8, 2, {});
  expect_domain_error(
      [&] {
        (void)bidirectional(tape.constant(normal_array<float>({1, 2, 8}, 1)), {.cache = &cache});
      },
      {"MultiHeadAttention", "causal"});
}

TEST(KeyValueCache, KeepsAByteMoreForEachNumberThatProductsReadInFp8) {
  const auto model = model_of(variants().front(), scaling::paper);
  nn::KeyValueCache<precision::fp8> cache(8);
  Tape<precision::fp8> tape(TapeMode::inference);
  (void)model(tape, id_array({1, 2}, vocabulary, 9), {.cache = &cache});
  EXPECT_EQ(cache.bytes(), 2U * 2 * 4 * 8 * 8 * 3);
}

TEST(KeyValueCache, HandsOutWhatALayerHasReadInThisCallOnly) {
  std::pmr::memory_resource* const memory = std::pmr::get_default_resource();
  nn::KeyValueCache<precision::fp8> cache(4);
  expect_domain_error([&] { (void)cache.whole("a"); }, {"KeyValueCache", "'a'"});
  cache.begin(1);
  const auto keys = normal_array<float16>({2, 3, 1, 5}, 1);
  const auto values = normal_array<float16>({2, 3, 1, 6}, 2);
  cache.append("a", keys, values);
  EXPECT_EQ(cache.whole("a").first.array.shape(), (Shape{2, 3, 4, 5}));
  EXPECT_EQ(cache.whole("a").second.operand.shape(), (Shape{2, 3, 4, 6}));
  EXPECT_EQ(cache.first_positions("a", memory).first, keys);
  EXPECT_EQ(cache.first_positions("a", memory).second, values);
  expect_domain_error([&] { (void)cache.first_positions("b", memory); }, {"KeyValueCache", "'b'"});
}

TEST(KeyValueCache, IsAsItWasAfterACallThatThrew) {
  const auto model = model_of(variants().front(), scaling::paper);
  const auto ids = id_array({1, 9}, vocabulary, 11);
  Tape<precision::fp32> tape(TapeMode::inference);
  const auto all = model(tape, ids).value();
  nn::KeyValueCache<precision::fp32> cache(12);
  for (std::size_t read = 0; read < 9; read += 3) {
    tape.clear();
    std::size_t values = 0;
    tape.observe_with([&](const Observation& /*seen*/) {
      if (++values == 40) throw std::runtime_error("enough");  // in the second layer
    });
    EXPECT_THROW((void)model(tape, columns_of(ids, read, 3), {.cache = &cache}),
                 std::runtime_error);
    EXPECT_EQ(cache.length(), read);
    tape.clear();
    tape.observe_with(nullptr);
    const auto logits = model(tape, columns_of(ids, read, 3), {.cache = &cache}).value();
    EXPECT_EQ(logits_at(logits, 0, 3), logits_at(all, read, 3));
  }
}

TEST(KeyValueCache, CountsThePositionsOfAModelWithoutLayersToo) {
  Variant variant = variants()[3];  // sinusoidal positions
  variant.config.layers = 0;
  const auto model = model_of(variant, scaling::paper);
  const auto ids = id_array({1, 9}, vocabulary, 12);
  Tape<precision::fp32> tape(TapeMode::inference);
  const auto all = model(tape, ids).value();
  nn::KeyValueCache<precision::fp32> cache(9);
  (void)model(tape, columns_of(ids, 0, 4), {.cache = &cache});
  const auto logits = model(tape, columns_of(ids, 4, 5), {.cache = &cache}).value();
  EXPECT_EQ(logits_at(logits, 0, 5), logits_at(all, 4, 5));
}

TEST(TransformerDecoder, RefusesAContextThatDoesNotFitWhateverItsLayers) {
  for (const std::size_t layers : {0U, 2U}) {
    Variant variant = variants().front();
    variant.config.layers = layers;
    const auto model = model_of(variant, scaling::paper);
    const auto ids = id_array({3, 6}, vocabulary, 13);
    Tape<precision::fp32> tape;
    for (const Shape& shape : {Shape{1, 2}, Shape{3, 5}, Shape{3, 1, 6}, Shape{18}}) {
      const auto ones = Array<std::int32_t>::filled(shape, 1);
      for (const bool is_mask : {true, false}) {
        nn::AttentionContext<precision::fp32> context;
        (is_mask ? context.mask : context.documents) = ones;
        expect_shape_error([&] { (void)model.next_token_loss(tape, ids, context); },
                           {"TransformerEncoder", to_string(shape), "(3, 6)"});
        expect_shape_error([&] { (void)model.next_token_logits(tape, ids, context); },
                           {"TransformerEncoder", to_string(shape), "(3, 6)"});
      }
    }
  }
}

TEST(TransformerDecoder, PaddingAtTheBeginningChangesNoLoss) {
  const auto model = model_of(variants()[1], scaling::umup);  // positions count by distance
  const auto ids = id_array({1, 7}, vocabulary, 14);
  for (const std::int32_t padding : {0, 5}) {
    Array<std::int32_t> padded = Array<std::int32_t>::filled({1, 10}, padding);
    std::copy_n(ids.data(), 7, padded.mutable_data() + 3);
    Array<std::int32_t> mask = Array<std::int32_t>::filled({1, 10}, 1);
    std::fill_n(mask.mutable_data(), 3, 0);
    EXPECT_NEAR(loss_of(model, padded, {.mask = mask}), loss_of(model, ids), 1e-9);
  }
}

TEST(TransformerDecoder, HasNoNextTokenOfASequenceOfPadding) {
  const auto model = model_of(variants().front(), scaling::umup);
  Tape<precision::fp32> tape(TapeMode::inference);
  Array<std::int32_t> mask = Array<std::int32_t>::filled({2, 4}, 1);
  std::fill_n(mask.mutable_data() + 4, 4, 0);
  expect_domain_error(
      [&] {
        (void)model.next_token_logits(tape, id_array({2, 4}, vocabulary, 15), {.mask = mask});
      },
      {"next_token_logits", "none in sequence 1"});
}

TEST(MultiHeadAttention, RefusesHeadsThatDoNotGroup) {
  nn::Initialiser initialiser(1);
  expect_domain_error(
      [&] { (void)nn::MultiHeadAttention(initialiser, "a", 12, 6, {.kv_heads = 4}); },
      {"MultiHeadAttention", "kv_heads that divide heads, got 4 for 6"});
  expect_domain_error(
      [&] {
        (void)nn::MultiHeadAttention(initialiser, "a", 12, 6,
                                     {.relative_frequencies = 2, .kv_heads = 3});
      },
      {"MultiHeadAttention", "as many kv_heads as heads with relative positions"});
}

}  // namespace transformer_decoder_test
