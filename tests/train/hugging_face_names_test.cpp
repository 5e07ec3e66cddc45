// SPDX-License-Identifier: MIT
#include "unit_scaling/train/hugging_face_names.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>
#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/temporary_folder.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/nn/generate.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/train/plain_weights.hpp"

namespace hugging_face_names_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using nn::TransformerDecoder;
using train::SafetensorsFile;
using train::SafetensorsShards;
using train::SafetensorsWriter;
using train::StoredAs;
using train::WeightEntry;
using train::WeightFolding;
using train::WeightNames;

/// A model that tests/data/hugging_face/make_models.py has written.
struct SavedModel {
  std::string folder;
  std::string weights;  ///< the file, or the index of several
  std::size_t vocabulary_size;
  nn::TransformerConfig config;
  nn::InputEmbedding::Options embedding;
  TransformerDecoder::ReadoutOptions readout;
  WeightNames names;
  WeightNames names_without_prefix;

  [[nodiscard]] std::filesystem::path path(const std::string& file) const {
    return std::filesystem::path(UNIT_SCALING_SOURCE_DIR) / "tests/data/hugging_face" / folder /
           file;
  }
  [[nodiscard]] SafetensorsFile figures() const {
    return SafetensorsFile(path("figures.safetensors"));
  }
  [[nodiscard]] TransformerDecoder make(const Scaling& rules) const {
    nn::Initialiser initialiser(1, rules);
    return {initialiser, vocabulary_size, config, embedding, readout};
  }
};

void PrintTo(const SavedModel& saved, std::ostream* out) { *out << saved.folder; }

SavedModel gpt2() {
  return {.folder = "gpt2",
          .weights = "model.safetensors",
          .vocabulary_size = 97,
          .config = {.hidden_size = 32,
                     .context_length = 40,
                     .layers = 2,
                     .heads = 4,
                     .norm = nn::NormKind::layer_norm,
                     .norm_epsilon = 1e-5,
                     .mlp = nn::MlpKind::gelu,
                     .gelu_form = ops::GeluForm::tanh_approximation,
                     .attention_bias = true},
          .embedding = {.positions = nn::PositionKind::learned, .max_positions = 40},
          .readout = {.tied = true},
          .names = train::gpt2_weight_names(),
          .names_without_prefix = train::gpt2_weight_names("")};
}

SavedModel llama() {
  const nn::TransformerConfig config{.hidden_size = 32,
                                     .context_length = 40,
                                     .layers = 2,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .inner_size = 56,
                                     .norm = nn::NormKind::rms_norm_with_gain,
                                     .norm_epsilon = 1e-5,
                                     .rotary_base = 5000};
  return {.folder = "llama",
          .weights = "model.safetensors.index.json",
          .vocabulary_size = 89,
          .config = config,
          .embedding = {},
          .readout = {},
          .names = train::llama_weight_names(config),
          .names_without_prefix = train::llama_weight_names(config, {}, "")};
}

/// A table to change: its entries by their parameters.
std::map<std::string, WeightEntry> by_parameter(const WeightNames& names) {
  std::map<std::string, WeightEntry> result;
  for (const WeightEntry& each : names.entries()) result.emplace(each.parameter, each);
  return result;
}
WeightNames names_of(const std::map<std::string, WeightEntry>& entries) {
  std::vector<WeightEntry> result;
  for (const auto& [parameter, entry] : entries) result.push_back(entry);
  return WeightNames(result);
}

WeightFolding fold(const SavedModel& saved, TransformerDecoder& model) {
  const Array<std::int32_t> ids = saved.figures().tensor<std::int32_t>("ids");
  return train::fold_weights(saved.make(scaling::none), model,
                             [&](const auto& each, auto& tape) { return each(tape, ids); });
}

using Arrays = std::map<std::string, Array<float>>;

Arrays weights_of(TransformerDecoder& model) {
  Arrays weights;
  model.for_each_parameter([&](const Parameter& each) { weights.emplace(each.name, each.value); });
  return weights;
}

constexpr double infinity = std::numeric_limits<double>::infinity();

/// The largest distance of logits from those of transformers, over the root mean square of these,
/// where nothing is padding.
template <Precision P> double distance(const SavedModel& saved, const TransformerDecoder& model) {
  SafetensorsFile figures = saved.figures();
  double distance = 0;
  for (const std::string prefix : {"", "padded."}) {
    const auto ids = figures.tensor<std::int32_t>(prefix + "ids");
    const auto mask = prefix.empty() ? Array<std::int32_t>::filled(ids.shape(), 1)
                                     : figures.tensor<std::int32_t>(prefix + "mask");
    Tape<P> tape(TapeMode::inference);
    const auto logits = prefix.empty() ? model(tape, ids) : model(tape, ids, {.mask = mask});
    const auto expected = figures.tensor<double>(prefix + "logits", logits.shape());
    double largest = 0;
    double squares = 0;
    std::size_t count = 0;
    for (std::size_t row = 0; row < expected.rows(); ++row) {
      if (mask.data()[row] == 0) continue;
      for (std::size_t token = 0; token < expected.columns(); ++token) {
        const double logit = expected.row(row)[token];
        const double off = std::abs(static_cast<double>(logits.value().row(row)[token]) - logit);
        largest = std::isfinite(off) ? std::max(largest, off) : infinity;
        squares += logit * logit;
        ++count;
      }
    }
    distance = std::max(distance, largest / std::sqrt(squares / static_cast<double>(count)));
  }
  return distance;
}

template <class File> Arrays arrays_in(File file) {
  Arrays arrays;
  for (const std::string& name : file.names()) {
    arrays.emplace(name, file.template tensor<float>(name));
  }
  return arrays;
}
/// Those of the weights.
Arrays arrays_of(const SavedModel& saved) {
  return saved.weights == "model.safetensors"
             ? arrays_in(SafetensorsFile(saved.path(saved.weights)))
             : arrays_in(SafetensorsShards(saved.path(saved.weights)));
}

SafetensorsWriter writer_of(const Arrays& arrays) {
  SafetensorsWriter writer;
  for (const auto& [name, array] : arrays) writer.add(name, array);
  return writer;
}

/// A plain model, and files that tests write for it.
struct Plain {
  explicit Plain(const SavedModel& of) : saved(of) {}

  std::vector<std::string> import(const std::filesystem::path& file, const WeightNames& names) {
    return train::import_plain_weights(model, file, folding, names);
  }
  std::vector<std::string> import(const SafetensorsWriter& writer, const WeightNames& names) {
    writer.write(path);
    return import(path, names);
  }
  std::vector<std::string> import() { return import(saved.path(saved.weights), saved.names); }

  /// What is said of files and names that do not fit, which are to leave the model alone.
  template <class Error, class Source>
  std::string complaint(const Source& source, const WeightNames& names) {
    const Arrays before = weights_of(model);
    try {
      (void)import(source, names);
    } catch (const Error& error) {
      EXPECT_EQ(weights_of(model), before);
      return error.what();
    }
    return "";
  }
  [[nodiscard]] std::string named(const std::string& what) const {
    return "'" + path.string() + "': " + what;
  }

  SavedModel saved;
  TransformerDecoder model = saved.make(scaling::none);
  WeightFolding folding = train::identity_folding(model);
  TemporaryFolder temporary;
  std::filesystem::path path = temporary.path() / "changed.safetensors";
};

class HuggingFaceNames : public testing::TestWithParam<SavedModel> {};
INSTANTIATE_TEST_SUITE_P(Saved, HuggingFaceNames, testing::Values(gpt2(), llama()),
                         [](const auto& each) { return each.param.folder; });

// The plain model has the very weights. Where transformers computes all in double, what is left is
// rounding of doubles; its LLaMA has norms, softmax and rotary angles in float, 2^-24 = 6e-8 each.
TEST_P(HuggingFaceNames, GiveAPlainModelTheLogitsOfTransformers) {
  Plain plain(GetParam());
  EXPECT_EQ(plain.import(), std::vector<std::string>{});
  EXPECT_LT(distance<precision::fp64>(plain.saved, plain.model),
            plain.saved.folder == "gpt2" ? 1e-13 : 1e-6);
  EXPECT_LT(distance<precision::fp32>(plain.saved, plain.model), 5e-6);
}

// ε of a norm weighs more in one of the models; the folding says how much. It is taken as if every
// norm saw a variance of 1, which that of the embeddings is and sums of more exceed.
TEST_P(HuggingFaceNames, GiveAUnitScaledModelTheLogitsOfTransformers) {
  const SavedModel& saved = GetParam();
  for (const Scaling& rules : {scaling::paper, scaling::umup}) {
    TransformerDecoder model = saved.make(rules);
    const WeightFolding folding = fold(saved, model);
    const auto unused =
        train::import_plain_weights(model, saved.path(saved.weights), folding, saved.names);
    EXPECT_EQ(unused, std::vector<std::string>{});
    double of_epsilon = 0;
    for (const WeightFolding::Normalisation& each : folding.normalisations) {
      of_epsilon += saved.config.norm_epsilon * std::abs(std::pow(each.ratio, -2) - 1) / 2;
    }
    EXPECT_GT(of_epsilon, 0);
    EXPECT_LT(distance<precision::fp64>(saved, model), of_epsilon + 1e-6);
    EXPECT_LT(distance<precision::fp32>(saved, model), of_epsilon + 5e-6);
  }
}

// What is left without ε is one rounding of each weight to float.
TEST_P(HuggingFaceNames, GiveAUnitScaledModelTheFunctionOfThePlainOneButForEpsilon) {
  SavedModel saved = GetParam();
  saved.config.norm_epsilon = 1e-12;
  Plain plain(saved);
  EXPECT_EQ(plain.import(), std::vector<std::string>{});
  EXPECT_GT(distance<precision::fp64>(saved, plain.model), 2e-6) << "the figures do not tell ε";
  const auto ids = saved.figures().tensor<std::int32_t>("ids");
  for (const Scaling& rules : {scaling::paper, scaling::umup}) {
    TransformerDecoder model = saved.make(rules);
    const auto unused = train::import_plain_weights(model, saved.path(saved.weights),
                                                    fold(saved, model), saved.names);
    EXPECT_EQ(unused, std::vector<std::string>{});
    const double distance = train::forward_distance(
        plain.model, model, [&](const auto& each, auto& tape) { return each(tape, ids); });
    EXPECT_LT(distance, 1e-6);
  }
}

TEST_P(HuggingFaceNames, GiveTheTextOfTransformersTokenForToken) {
  const SavedModel& saved = GetParam();
  SafetensorsFile figures = saved.figures();
  const auto prompt = figures.tensor<std::int32_t>("prompt");
  const auto following = figures.tensor<std::int32_t>("following");
  for (const Scaling& rules : {scaling::none, scaling::paper, scaling::umup}) {
    TransformerDecoder model = saved.make(rules);
    (void)train::import_plain_weights(model, saved.path(saved.weights), fold(saved, model),
                                      saved.names);
    std::vector<std::int32_t> tokens;
    Tape<precision::fp32> tape(TapeMode::inference);
    nn::generate(tape, model, prompt.span(),
                 {.sampling = {.temperature = 0}, .tokens = following.size(), .context_length = 40},
                 [&](std::int32_t token) { tokens.push_back(token); });
    EXPECT_EQ(tokens, std::vector<std::int32_t>(following.span().begin(), following.span().end()));
  }
}

TEST_P(HuggingFaceNames, WriteTheFileAgainToTheBit) {
  Plain plain(GetParam());
  EXPECT_EQ(plain.import(), std::vector<std::string>{});
  SafetensorsWriter writer;
  train::export_plain_weights(plain.model, writer, plain.folding, plain.saved.names);
  writer.write(plain.path);
  EXPECT_EQ(arrays_in(SafetensorsFile(plain.path)), arrays_of(plain.saved));
}

TEST_P(HuggingFaceNames, MayDoWithoutTheirPrefix) {
  Plain plain(GetParam());
  Arrays arrays;
  for (const auto& [name, array] : arrays_of(plain.saved)) {
    const bool has_prefix = name.starts_with("transformer.") || name.starts_with("model.");
    arrays.emplace(has_prefix ? name.substr(name.find('.') + 1) : name, array);
  }
  EXPECT_TRUE(arrays.contains(plain.saved.folder == "gpt2" ? "wte.weight" : "embed_tokens.weight"));
  EXPECT_EQ(plain.import(writer_of(arrays), plain.saved.names_without_prefix),
            std::vector<std::string>{});
  Plain expected(GetParam());
  EXPECT_EQ(expected.import(), std::vector<std::string>{});
  EXPECT_EQ(weights_of(plain.model), weights_of(expected.model));
}

TEST_P(HuggingFaceNames, NeedEveryArrayInItsShapeAndType) {
  Plain plain(GetParam());
  const Arrays all = arrays_of(plain.saved);
  for (const auto& [name, array] : all) {
    Arrays others = all;
    others.erase(name);
    EXPECT_EQ(plain.complaint<FileError>(writer_of(others), plain.saved.names),
              plain.named("has no array '" + name + "'"));

    SafetensorsWriter integers = writer_of(others);
    integers.add(name, Array<std::int64_t>(array.shape()));
    EXPECT_EQ(plain.complaint<FileError>(integers, plain.saved.names),
              plain.named("array '" + name +
                          "' is of type I64, expected floating-point numbers: "
                          "F64, F32, F16, BF16, or F8, F6 or F4 of any kind"));

    SafetensorsWriter flat = writer_of(others);
    flat.add(name, Array<float>(Shape{array.size(), 1}));
    EXPECT_EQ(plain.complaint<FileError>(flat, plain.saved.names),
              plain.named("array '" + name + "' has shape " + to_string(Shape{array.size(), 1}) +
                          ", expected " + to_string(array.shape())));
  }
}

TEST_P(HuggingFaceNames, AreChangedLikeAnyTable) {
  Plain plain(GetParam());
  auto entries = by_parameter(plain.saved.names);
  const WeightEntry norm = entries.at("final_norm.gain");
  entries.erase("final_norm.gain");
  const auto complaint = [&] {
    return plain.complaint<DomainError>(plain.saved.path(plain.saved.weights), names_of(entries));
  };
  EXPECT_EQ(complaint(), "WeightNames: expected an entry for 'final_norm.gain', got none");
  entries.emplace("final_norm.gain", norm);
  EXPECT_EQ(complaint(), "");
  entries.emplace("layers.{}.mlp.out.weight",
                  WeightEntry{"layers.{}.mlp.out.weight", {"layers.{}.mlp.out.weight"}});
  EXPECT_EQ(complaint(),
            "WeightNames: expected entries of the model's parameters, got one for "
            "'layers.{}.mlp.out.weight'");
}

TEST(HuggingFaceNames, OfGpt2MayBeWrittenByAUser) {
  constexpr auto transposed = StoredAs::transposed;
  const WeightNames names{
      {"embedding.table", {"transformer.wte.weight"}},
      {"embedding.positions.table", {"transformer.wpe.weight"}},
      {"layers.{}.mhsa_norm.gain", {"transformer.h.{}.ln_1.weight"}},
      {"layers.{}.mhsa_norm.bias", {"transformer.h.{}.ln_1.bias"}},
      {"layers.{}.mhsa.linear_qkv.weight", {"transformer.h.{}.attn.c_attn.weight"}, transposed},
      {"layers.{}.mhsa.linear_qkv.bias", {"transformer.h.{}.attn.c_attn.bias"}},
      {"layers.{}.mhsa.linear_o.weight", {"transformer.h.{}.attn.c_proj.weight"}, transposed},
      {"layers.{}.mhsa.linear_o.bias", {"transformer.h.{}.attn.c_proj.bias"}},
      {"layers.{}.mlp_norm.gain", {"transformer.h.{}.ln_2.weight"}},
      {"layers.{}.mlp_norm.bias", {"transformer.h.{}.ln_2.bias"}},
      {"layers.{}.mlp.up.weight", {"transformer.h.{}.mlp.c_fc.weight"}, transposed},
      {"layers.{}.mlp.up.bias", {"transformer.h.{}.mlp.c_fc.bias"}},
      {"layers.{}.mlp.down.weight", {"transformer.h.{}.mlp.c_proj.weight"}, transposed},
      {"layers.{}.mlp.down.bias", {"transformer.h.{}.mlp.c_proj.bias"}},
      {"final_norm.gain", {"transformer.ln_f.weight"}},
      {"final_norm.bias", {"transformer.ln_f.bias"}}};
  Plain plain(gpt2());
  EXPECT_EQ(plain.import(plain.saved.path(plain.saved.weights), names), std::vector<std::string>{});
  EXPECT_LT(distance<precision::fp64>(plain.saved, plain.model), 1e-13);
}

// The weights of a layer's output projection are square, so only the logits can tell.
TEST(HuggingFaceNames, OfGpt2GiveOtherLogitsOrErrorsWhereATransposeIsMissing) {
  Plain plain(gpt2());
  const auto path = plain.saved.path(plain.saved.weights);
  auto square = by_parameter(plain.saved.names);
  square.at("layers.{}.mhsa.linear_o.weight").stored_as = StoredAs::parameter;
  EXPECT_EQ(plain.import(path, names_of(square)), std::vector<std::string>{});
  EXPECT_GT(distance<precision::fp64>(plain.saved, plain.model), 0.1);

  for (const auto& [parameter, entry] : by_parameter(plain.saved.names)) {
    if (entry.stored_as != StoredAs::transposed) continue;
    if (parameter == "layers.{}.mhsa.linear_o.weight") continue;
    auto others = by_parameter(plain.saved.names);
    others.at(parameter).stored_as = StoredAs::parameter;
    const std::string complaint = plain.complaint<FileError>(path, names_of(others));
    const std::string name = "transformer.h.0" + entry.arrays.front().name.substr(16);
    EXPECT_NE(complaint.find("array '" + name + "' has shape "), std::string::npos) << complaint;
  }
}

TEST(HuggingFaceNames, OfLlamaMayBeWrittenByAUser) {
  const WeightNames names{
      {"embedding.table", {"model.embed_tokens.weight"}},
      {"layers.{}.mhsa_norm.gain", {"model.layers.{}.input_layernorm.weight"}},
      {"layers.{}.mhsa.linear_qkv.weight",
       {{"model.layers.{}.self_attn.q_proj.weight", 32},
        {"model.layers.{}.self_attn.k_proj.weight", 16},
        {"model.layers.{}.self_attn.v_proj.weight", 16}}},
      {"layers.{}.mhsa.linear_o.weight", {"model.layers.{}.self_attn.o_proj.weight"}},
      {"layers.{}.mlp_norm.gain", {"model.layers.{}.post_attention_layernorm.weight"}},
      {"layers.{}.mlp.linear_1.weight", {"model.layers.{}.mlp.up_proj.weight"}},
      {"layers.{}.mlp.linear_gate.weight", {"model.layers.{}.mlp.gate_proj.weight"}},
      {"layers.{}.mlp.linear_2.weight", {"model.layers.{}.mlp.down_proj.weight"}},
      {"final_norm.gain", {"model.norm.weight"}},
      {"projection.weight", {"lm_head.weight"}}};
  Plain plain(llama());
  EXPECT_EQ(plain.import(plain.saved.path(plain.saved.weights), names), std::vector<std::string>{});
  EXPECT_LT(distance<precision::fp64>(plain.saved, plain.model), 1e-6);
}

TEST(HuggingFaceNames, OfLlamaGiveOtherLogitsOrErrorsWhereArraysAreSwapped) {
  Plain plain(llama());
  const auto path = plain.saved.path(plain.saved.weights);
  auto gates = by_parameter(plain.saved.names);
  std::swap(gates.at("layers.{}.mlp.linear_1.weight").arrays,
            gates.at("layers.{}.mlp.linear_gate.weight").arrays);
  EXPECT_EQ(plain.import(path, names_of(gates)), std::vector<std::string>{});
  EXPECT_GT(distance<precision::fp64>(plain.saved, plain.model), 0.1);

  auto keys = by_parameter(plain.saved.names);
  auto& parts = keys.at("layers.{}.mhsa.linear_qkv.weight").arrays;
  std::swap(parts[1], parts[2]);
  EXPECT_EQ(plain.import(path, names_of(keys)), std::vector<std::string>{});
  EXPECT_GT(distance<precision::fp64>(plain.saved, plain.model), 0.1);

  std::swap(parts[0].share, parts[1].share);
  const std::string complaint = plain.complaint<FileError>(path, names_of(keys));
  EXPECT_NE(complaint.find("array 'model.layers.0.self_attn.q_proj.weight' has shape (32, 32), "
                           "expected (16, 32)"),
            std::string::npos)
      << complaint;
}

TEST(HuggingFaceNames, OfLlamaFollowTheConfiguration) {
  const auto parameters_of = [](const WeightNames& names) {
    std::vector<std::string> result;
    for (const auto& [parameter, entry] : by_parameter(names)) result.push_back(parameter);
    return result;
  };
  nn::TransformerConfig config = llama().config;
  auto expected = parameters_of(llama().names);
  EXPECT_EQ(std::erase(expected, "projection.weight"), 1U);
  EXPECT_EQ(parameters_of(train::llama_weight_names(config, {.tied = true})), expected);

  config.attention_bias = true;
  config.kv_heads = 0;
  const auto entries = by_parameter(train::llama_weight_names(config));
  EXPECT_EQ(entries.at("layers.{}.mhsa.linear_o.bias").arrays.front().name,
            "model.layers.{}.self_attn.o_proj.bias");
  const auto& parts = entries.at("layers.{}.mhsa.linear_qkv.bias").arrays;
  ASSERT_EQ(parts.size(), 3U);
  EXPECT_EQ(parts[2].name, "model.layers.{}.self_attn.v_proj.bias");
  for (const auto& part : parts) EXPECT_EQ(part.share, 4U);

  config.heads = 0;
  expect_domain_error([&] { (void)train::llama_weight_names(config); },
                      {"WeightNames", "q_proj.weight", "share of at least 1", "got 0"});
}

TEST(HuggingFaceNames, OfLlamaDivideBiasesOfAttentionLikeWeights) {
  SavedModel biased = llama();
  biased.config.attention_bias = true;
  biased.names = train::llama_weight_names(biased.config);
  Plain plain(biased);
  float next = 0;
  plain.model.for_each_parameter([&](Parameter& each) {
    std::iota(each.value.mutable_data(), each.value.mutable_data() + each.value.size(), next);
    next += static_cast<float>(each.value.size());
  });
  const Arrays weights = weights_of(plain.model);
  SafetensorsWriter writer;
  train::export_plain_weights(plain.model, writer, plain.folding, biased.names);
  Plain again(biased);
  EXPECT_EQ(again.import(writer, biased.names), std::vector<std::string>{});
  EXPECT_EQ(weights_of(again.model), weights);

  const Array<float>& bias = weights.at("layers.1.mhsa.linear_qkv.bias");
  const Arrays arrays = arrays_in(SafetensorsFile(again.path));
  EXPECT_EQ(arrays.at("model.layers.1.self_attn.q_proj.bias"),
            Array<float>(Shape{32}, bias.span().subspan(0, 32)));
  EXPECT_EQ(arrays.at("model.layers.1.self_attn.k_proj.bias"),
            Array<float>(Shape{16}, bias.span().subspan(32, 16)));
  EXPECT_EQ(arrays.at("model.layers.1.self_attn.v_proj.bias"),
            Array<float>(Shape{16}, bias.span().subspan(48, 16)));
}

// The read-out of a model whose file has none may be read from the table of tokens.
TEST(HuggingFaceNames, MayReadOneArrayIntoTwoParameters) {
  SavedModel untied = gpt2();
  untied.readout = {};
  auto entries = by_parameter(untied.names);
  entries.emplace("projection.weight",
                  WeightEntry{"projection.weight", {"transformer.wte.weight"}});
  untied.names = names_of(entries);
  Plain plain(untied);
  EXPECT_EQ(plain.import(), std::vector<std::string>{});
  EXPECT_LT(distance<precision::fp64>(untied, plain.model), 1e-13);
  SafetensorsWriter writer;
  expect_error<std::invalid_argument>(
      [&] { train::export_plain_weights(plain.model, writer, plain.folding, untied.names); },
      {"two arrays are called 'transformer.wte.weight'"});
}

// Published files of GPT-2 hold masks, and old ones of LLaMA frequencies.
TEST(HuggingFaceNames, LeaveToTheReaderWhatNobodyAskedFor) {
  Plain of_gpt2(gpt2());
  SafetensorsWriter with_mask = writer_of(arrays_of(of_gpt2.saved));
  with_mask.add("transformer.h.0.attn.bias", Array<float>(Shape{1, 1, 40, 40}));
  EXPECT_EQ(of_gpt2.import(with_mask, of_gpt2.saved.names),
            std::vector<std::string>{"transformer.h.0.attn.bias"});
  EXPECT_LT(distance<precision::fp64>(of_gpt2.saved, of_gpt2.model), 1e-13);

  Plain of_llama(llama());
  SafetensorsWriter with_frequencies = writer_of(arrays_of(of_llama.saved));
  with_frequencies.add("model.layers.1.self_attn.rotary_emb.inv_freq", Array<float>(Shape{4}));
  EXPECT_EQ(of_llama.import(with_frequencies, of_llama.saved.names),
            std::vector<std::string>{"model.layers.1.self_attn.rotary_emb.inv_freq"});
  EXPECT_LT(distance<precision::fp64>(of_llama.saved, of_llama.model), 1e-6);
}

TEST(HuggingFaceNames, NeedEveryShard) {
  Plain plain(llama());
  for (const std::string file :
       {"model.safetensors.index.json", "model-00001-of-00002.safetensors"}) {
    std::filesystem::copy_file(plain.saved.path(file), plain.temporary.path() / file);
  }
  const auto index = plain.temporary.path() / "model.safetensors.index.json";
  const auto missing = plain.temporary.path() / "model-00002-of-00002.safetensors";
  EXPECT_EQ(plain.complaint<FileError>(index, plain.saved.names),
            "'" + missing.string() + "': there is no such file");
  std::filesystem::copy_file(plain.saved.path("model-00001-of-00002.safetensors"), missing);
  const std::string complaint = plain.complaint<FileError>(index, plain.saved.names);
  EXPECT_NE(complaint.find("is in two files"), std::string::npos) << complaint;
  std::filesystem::remove(missing);
  std::filesystem::copy_file(plain.saved.path("model-00002-of-00002.safetensors"), missing);
  EXPECT_EQ(plain.complaint<FileError>(index, plain.saved.names), "");
}

}  // namespace hugging_face_names_test
