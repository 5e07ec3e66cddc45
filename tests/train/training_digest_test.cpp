// SPDX-License-Identifier: MIT
// The bits of ten training steps, for a change that is to leave them as they are. Each run has its
// losses in training_digests.hpp, and digests of its gradients' norms and of what it ends with.
//
// Bits depend on the compiler, the target and the level of optimisation (docs/exactness.md). Where
// the target has AMX, they also depend on whether the system lets the process use it. A build
// without figures is skipped.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <ios>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "support/random_arrays.hpp"
#include "train/training_digests.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/kernels/amx_tile.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/clip.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/recipes/simulation.hpp"
#include "unit_scaling/scaling/rule.hpp"
#include "unit_scaling/train/masked_batch.hpp"
#include "unit_scaling/train/schedule.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace training_digest_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// FNV-1a of 64 bits, over the bytes of each number from the lowest to the highest.
class Digest {
 public:
  template <class Number> void add(Number number) {
    using Bits =
        std::conditional_t<sizeof(Number) == 8, std::uint64_t,
                           std::conditional_t<sizeof(Number) == 4, std::uint32_t, std::uint8_t>>;
    const auto bits = std::bit_cast<Bits>(number);
    for (std::size_t byte = 0; byte < sizeof(Number); ++byte) {
      hash_ = (hash_ ^ static_cast<std::uint8_t>(bits >> (8 * byte))) * 0x100'0000'01b3U;
    }
  }
  void add(const Array<float>& array) {
    for (const float element : array.span()) add(element);
  }
  [[nodiscard]] std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xcbf2'9ce4'8422'2325U;
};

// --- What trains ---
// All extents but the number of layers are odd, or a small multiple of an odd number.

/// As examples/bert_mlp trains it, but small.
class BertMlpRun {
 public:
  using Optimiser = optim::AdamW;

  [[nodiscard]] static nn::BertMlp model() {
    nn::Initialiser initialiser(1, scaling::paper);
    return nn::BertMlp(initialiser, {.vocabulary_size = corpus().vocabulary_size(),
                                     .window = window,
                                     .hidden_size = 42,
                                     .layers = 2});
  }
  [[nodiscard]] static Optimiser optimiser(nn::BertMlp& model) {
    return Optimiser(optim::parameters_of(model), {.weight_decay = 0.01,
                                                   .decay = optim::WeightDecay::decoupled,
                                                   .rule = Rule::paper,
                                                   .allow_non_finite = true});
  }
  [[nodiscard]] static double learning_rate(std::size_t step) {
    return 0x1p-4 * train::Schedule{.warmup_steps = 2,
                                    .total_steps = steps,
                                    .decay = train::Schedule::Decay::linear}(step);
  }
  template <Precision P>
  [[nodiscard]] static auto loss(Tape<P>& tape, const nn::BertMlp& model, std::size_t step) {
    const auto batch = train::MaskedBatches(corpus(), window, 1)
                           .training(/*batch=*/5, static_cast<std::uint32_t>(step));
    return ops::cross_entropy(model(tape, batch.ids, batch.selected), batch.labels,
                              {.scaling = scaling::paper});
  }

 private:
  static constexpr std::size_t window = 19;

  /// A text of 36 symbols, of which some follow each other more often than others.
  [[nodiscard]] static const train::TextCorpus& corpus() {
    static const train::TextCorpus text(
        [] {
          std::string bytes;
          for (std::size_t i = 0; i < 1000; ++i) {
            bytes.push_back(static_cast<char>('0' + (i + (i / 36) * (i % 7)) % 36));
          }
          return bytes;
        }(),
        window);
    return text;
  }
};

template <Precision P>
[[nodiscard]] auto decoder_loss(Tape<P>& tape, const nn::TransformerDecoder& model,
                                std::size_t step) {
  return model.next_token_loss(tape, id_array({3, 37}, /*bound=*/53, /*seed=*/100 + step % 3));
}

/// SwiGLU, RMS norms, positions that are learned and rotary ones, dropout.
struct DecoderRun {
  using Optimiser = optim::AdamW;

  [[nodiscard]] static nn::TransformerDecoder model() {
    nn::Initialiser initialiser(2, scaling::umup);
    return nn::TransformerDecoder(initialiser, 53,
                                  {.hidden_size = 42,
                                   .context_length = 37,
                                   .layers = 2,
                                   .heads = 3,
                                   .dropout = 0.1,
                                   .rotary_base = 10000},
                                  {.positions = nn::PositionKind::learned, .max_positions = 37});
  }
  [[nodiscard]] static Optimiser optimiser(nn::TransformerDecoder& model) {
    return Optimiser(optim::parameters_of(model), {.weight_decay = 0x1p-13, .rule = Rule::umup});
  }
  [[nodiscard]] static double learning_rate(std::size_t /*step*/) { return 0x1p-3; }
  template <Precision P>
  [[nodiscard]] static auto loss(Tape<P>& tape, const nn::TransformerDecoder& model,
                                 std::size_t step) {
    return decoder_loss(tape, model, step);
  }
};

/// GELU, layer norms behind the residual connections, relative positions, biases; and LAMB.
struct RelativeDecoderRun {
  using Optimiser = optim::Lamb;

  [[nodiscard]] static nn::TransformerDecoder model() {
    nn::Initialiser initialiser(3, scaling::paper);
    return nn::TransformerDecoder(initialiser, 53,
                                  {.hidden_size = 34,
                                   .context_length = 37,
                                   .layers = 2,
                                   .heads = 2,
                                   .expansion = 3,
                                   .norm_placement = nn::NormPlacement::post,
                                   .norm = nn::NormKind::layer_norm,
                                   .mlp = nn::MlpKind::gelu,
                                   .attention_bias = true,
                                   .relative_frequencies = 6});
  }
  [[nodiscard]] static Optimiser optimiser(nn::TransformerDecoder& model) {
    return Optimiser(optim::parameters_of(model), {.rule = Rule::paper});
  }
  [[nodiscard]] static double learning_rate(std::size_t /*step*/) { return 0x1p-3; }
  template <Precision P>
  [[nodiscard]] static auto loss(Tape<P>& tape, const nn::TransformerDecoder& model,
                                 std::size_t step) {
    return decoder_loss(tape, model, step);
  }
};

/// @param simulation rules, or nothing.
template <class Run, Precision P> Figures train_with(std::string_view simulation) {
  auto model = Run::model();
  const std::vector<Parameter*> parameters = optim::parameters_of(model);
  auto optimiser = Run::optimiser(model);
  Tape<P> tape;
  if (!simulation.empty()) tape.use_recipe(Simulation::parse(simulation));
  Figures figures{};
  Digest norms;
  for (std::size_t step = 0; step < steps; ++step) {
    tape.clear();
    const auto loss = Run::loss(tape, model, step);
    figures.losses[step] = *loss.value().data();
    tape.backward(loss);
    norms.add(optim::gradient_norm(tape, parameters));
    optimiser.step(tape, Run::learning_rate(step));
  }
  figures.norms = norms.value();
  Digest state;
  for (const Parameter* parameter : parameters) state.add(parameter->value);
  optimiser.for_each_state([&]<class T>(const std::string& /*name*/, const T& each) {
    if constexpr (is_array<T>) state.add(each);
  });
  figures.state = state.value();
  return figures;
}

struct Training {
  std::string_view name;
  Figures (*train)(std::string_view simulation);
  std::string_view simulation = "";
};
constexpr std::array trainings{
    Training{"bert_mlp_fp32", train_with<BertMlpRun, precision::fp32>},
    Training{"bert_mlp_fp16", train_with<BertMlpRun, precision::fp16>},
    Training{"bert_mlp_bf16", train_with<BertMlpRun, precision::bf16>},
    Training{"bert_mlp_fp8", train_with<BertMlpRun, precision::fp8>},
    Training{"bert_mlp_simulated", train_with<BertMlpRun, precision::fp32>, "e4m3fn/e5m2"},
    Training{"decoder_fp32", train_with<DecoderRun, precision::fp32>},
    Training{"decoder_fp16", train_with<DecoderRun, precision::fp16>},
    Training{"decoder_bf16", train_with<DecoderRun, precision::bf16>},
    Training{"decoder_fp8", train_with<DecoderRun, precision::fp8>},
    Training{"relative_decoder_fp32", train_with<RelativeDecoderRun, precision::fp32>},
    Training{"relative_decoder_fp16", train_with<RelativeDecoderRun, precision::fp16>},
    Training{"relative_decoder_bf16", train_with<RelativeDecoderRun, precision::bf16>},
    Training{"relative_decoder_fp8", train_with<RelativeDecoderRun, precision::fp8>},
};

// --- What bits depend on ---

std::string compiler() {
#if defined(__clang__)
  return "clang " + std::to_string(__clang_major__);
#elif defined(__GNUC__)
  return "gcc " + std::to_string(__GNUC__);
#else
  return "unknown compiler";
#endif
}

/// What is told apart of targets: figures with and without AVX512_BF16 are the same.
std::string target() {
#if defined(__AVX512F__)
  return kernels::may_use_amx() ? "amx" : "avx512";
#elif defined(__AVX2__) && defined(__FMA__)
  return "avx2";
#elif defined(__x86_64__) && !defined(__FMA__)
  return "x86-64";
#else
  return "unknown target";
#endif
}

/// The level of optimisation of the library's code. The companion has another one than this file;
/// whoever compiles without CMake says -D UNIT_SCALING_LIBRARY_FLAGS=\"-O2\".
std::string level() {
#if defined(UNIT_SCALING_LIBRARY_FLAGS)
  const std::string flags = UNIT_SCALING_LIBRARY_FLAGS;
  if (flags.find("-ffp-contract") != std::string::npos) return "-ffp-contract";
  const std::size_t begin = flags.rfind("-O");
  return begin == std::string::npos ? "-O0" : flags.substr(begin, flags.find(' ', begin) - begin);
#elif defined(__OPTIMIZE__)
  return "unknown level";
#else
  return "-O0";
#endif
}

/// What the figures of this build are filed under.
std::string build() { return compiler() + " " + target() + " " + level(); }

/// What the table has of a training; null: nothing.
const Figures* find_figures(std::string_view build, std::string_view training) {
  for (const Row& row : table) {
    if (row.training == training && has_build(row, build)) return &row.figures;
  }
  return nullptr;
}

/// A row as it stands in the table.
std::string row_of(std::string_view build, std::string_view training, const Figures& figures) {
  std::ostringstream text;
  text << "{\"" << build << "\", \"" << training << "\", {{" << std::hexfloat;
  for (std::size_t step = 0; step < steps; ++step) {
    text << (step == 0 ? "" : ", ") << figures.losses[step] << "F";
  }
  text << "}, " << std::hex << std::showbase << figures.norms << "U, " << figures.state << "U}},";
  return text.str();
}

/// Empty if there is none.
std::string first_difference(const Figures& actual, const Figures& expected) {
  std::ostringstream text;
  for (std::size_t step = 0; step < steps; ++step) {
    if (std::bit_cast<std::uint32_t>(actual.losses[step]) ==
        std::bit_cast<std::uint32_t>(expected.losses[step])) {
      continue;
    }
    text << "the loss of step " << step << " of 0 to " << steps - 1 << " is " << std::hexfloat
         << actual.losses[step] << ", expected " << expected.losses[step]
         << "; losses before it are as expected";
    return text.str();
  }
  if (actual.norms != expected.norms) {
    return "the gradients of some step have another norm; all losses are as expected";
  }
  if (actual.state != expected.state) {
    return "parameters or the optimiser's state at the end are other ones; all losses and norms of "
           "gradients are as expected";
  }
  return "";
}

class TrainingDigest : public testing::TestWithParam<Training> {};

TEST_P(TrainingDigest, OfTenStepsIsThatOfTheTable) {
  const Training& training = GetParam();
  const Figures actual = training.train(training.simulation);
  const std::string row = row_of(build(), training.name, actual);
  const Figures* expected = find_figures(build(), training.name);
  if (expected == nullptr) {
    GTEST_SKIP() << "training_digests.hpp has no figures for this build, '" << build()
                 << "'. This one has\n"
                 << row;
  }
  const std::string difference = first_difference(actual, *expected);
  EXPECT_TRUE(difference.empty()) << training.name << ": " << difference
                                  << ".\nIf it is meant to be so, the row is now\n"
                                  << row;
}

INSTANTIATE_TEST_SUITE_P(Runs, TrainingDigest, testing::ValuesIn(trainings),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(TrainingDigests, OfABuildAreThoseOfEveryTraining) {
  for (const std::string_view build : all_builds()) {
    std::set<std::uint64_t> states;
    for (const Training& training : trainings) {
      std::size_t rows = 0;
      for (const Row& row : table) {
        if (row.training != training.name || !has_build(row, build)) continue;
        ++rows;
        states.insert(row.figures.state);
      }
      EXPECT_EQ(rows, 1U) << build << ", " << training.name;
    }
    EXPECT_EQ(states.size(), trainings.size()) << build << ": two trainings have one digest";
  }
}

// Of the draft of FNV by Fowler, Noll, Vo and Eastlake: its test vectors for 64 bits.
TEST(TrainingDigests, AreFnv1a) {
  const auto digest = [](std::string_view text) {
    Digest of_text;
    for (const char letter : text) of_text.add(static_cast<std::uint8_t>(letter));
    return of_text.value();
  };
  EXPECT_EQ(digest(""), 0xcbf2'9ce4'8422'2325U);
  EXPECT_EQ(digest("a"), 0xaf63'dc4c'8601'ec8cU);
  EXPECT_EQ(digest("foobar"), 0x8594'4171'f739'67e8U);
  Digest of_number;
  of_number.add(std::bit_cast<float>(0x61'6f'6f'66U));  // "fooa", the lowest byte first
  EXPECT_EQ(of_number.value(), digest("fooa"));
}

}  // namespace training_digest_test
