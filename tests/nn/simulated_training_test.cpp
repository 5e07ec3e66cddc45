// SPDX-License-Identifier: MIT
// Training under a simulation against training under a policy of the real formats: every loss,
// every gradient and every parameter of several steps, to the bit.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/random_arrays.hpp"
#include "support/threads.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/compiled.hpp"  // the real formats are in the tests' companion
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/recipes/simulation.hpp"

namespace simulated_training_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr std::uint32_t vocabulary = 13;
constexpr std::size_t steps = 4;

/// What CONTRIBUTING.md shows as a policy of a user's own.
struct OwnPolicy {
  static constexpr std::string_view name = "own";
  using storage = bfloat16;
  using matmul_operand = Minifloat<FormatSpec::ieee(3, 4)>;
  using matmul_gradient = float8_e4m3fn;
  using compute = float;
};
/// Policies that store what they compute with, and have the attention of narrow formats.
using Float = precision::with_bfloat16_attention<precision::fp32>;
using Half = precision::with_bfloat16_attention<precision::fp16>;

struct MlpRun {
  nn::NormPlacement norm = nn::NormPlacement::pre;

  [[nodiscard]] nn::BertMlp model() const {
    nn::Initialiser initialiser(3, scaling::paper);
    return nn::BertMlp(
        initialiser,
        {.vocabulary_size = vocabulary, .window = 8, .hidden_size = 24, .layers = 2, .norm = norm});
  }
  template <Precision P>
  [[nodiscard]] auto loss(Tape<P>& tape, const nn::BertMlp& model, std::size_t step) const {
    return ops::cross_entropy(
        model(tape, id_array({6, 8}, vocabulary, 10 + step), id_array({17}, 48, 20 + step)),
        id_array({17}, vocabulary, 30 + step));
  }
};

struct DecoderRun {
  nn::TransformerConfig config;

  [[nodiscard]] nn::TransformerDecoder model() const {
    nn::Initialiser initialiser(4, scaling::umup);
    return nn::TransformerDecoder(initialiser, vocabulary, config);
  }
  template <Precision P>
  [[nodiscard]] auto loss(Tape<P>& tape, const nn::TransformerDecoder& model,
                          std::size_t step) const {
    return model.next_token_loss(tape, id_array({3, 9}, vocabulary, 10 + step));
  }
};

const nn::TransformerConfig rotary_swiglu{.hidden_size = 16,
                                          .context_length = 9,
                                          .layers = 2,
                                          .heads = 2,
                                          .dropout = 0.1,
                                          .rotary_base = 10000};
const nn::TransformerConfig relative_gelu{.hidden_size = 16,
                                          .context_length = 9,
                                          .layers = 1,
                                          .heads = 2,
                                          .norm = nn::NormKind::layer_norm,
                                          .mlp = nn::MlpKind::gelu,
                                          .relative_frequencies = 4};

/// Bits of every loss, gradient and parameter, one after the other; one and the same for every NaN.
template <Precision P, class Run>
std::vector<std::uint32_t> training(const Run& run, const std::string& simulation = "",
                                    float loss_scale = 1) {
  auto model = run.model();
  optim::AdamW optimiser(optim::parameters_of(model),
                         {.weight_decay = 0x1p-7, .allow_non_finite = true});
  Tape<P> tape;
  if (!simulation.empty()) tape.use_recipe(Simulation::parse(simulation));
  std::vector<std::uint32_t> bits;
  const auto add = [&](float value) {
    bits.push_back(std::isnan(value) ? 0x7fc0'0000U : std::bit_cast<std::uint32_t>(value));
  };
  for (std::size_t step = 0; step < steps; ++step) {
    tape.clear();
    const auto loss = run.loss(tape, model, step);
    add(*loss.value().data());
    tape.backward(loss, loss_scale);
    model.for_each_parameter([&](const Parameter& parameter) {
      for (const auto element : tape.gradient(parameter).span()) add(static_cast<float>(element));
    });
    optimiser.step(tape, 0x1p-4, loss_scale);
    model.for_each_parameter([&](const Parameter& parameter) {
      for (const float element : parameter.value.span()) add(element);
    });
  }
  return bits;
}

std::size_t differences(const std::vector<std::uint32_t>& a, const std::vector<std::uint32_t>& b) {
  EXPECT_EQ(a.size(), b.size());
  std::size_t count = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) count += a[i] != b[i] ? 1 : 0;
  return count;
}

/// Runs of the real formats under P, and of the simulation under Carrier.
template <Precision P, Precision Carrier> void expect_same_bits(const std::string& simulation) {
  // Factors far too large and too small, so that numbers overflow and underflow on their way.
  for (const float loss_scale : {1.0F, 0x1p16F, 0x1p-12F}) {
    const auto compare = [&](const auto& run, const char* what) {
      const auto real = training<P>(run, "", loss_scale);
      EXPECT_EQ(differences(real, training<Carrier>(run, simulation, loss_scale)), 0U)
          << what << ", loss scale " << loss_scale;
      // Where numbers overflow, what follows is NaN in either.
      if (loss_scale > 1) return;
      EXPECT_GT(differences(real, training<Carrier>(run, "", loss_scale)), real.size() / 4)
          << what << " without the simulation, loss scale " << loss_scale;
    };
    compare(MlpRun{.norm = nn::NormPlacement::pre}, "BertMlp");
    compare(MlpRun{.norm = nn::NormPlacement::post}, "BertMlp, post");
    compare(DecoderRun{rotary_swiglu}, "TransformerDecoder, rotary, swiglu");
    compare(DecoderRun{relative_gelu}, "TransformerDecoder, relative, gelu");
  }
}

TEST(SimulatedTraining, OfFp8InHalfHasTheBitsOfFp8) {
  expect_same_bits<precision::fp8, Half>("e4m3fn/e5m2");
}

TEST(SimulatedTraining, OfFp8InFloatHasTheBitsOfFp8) {
  expect_same_bits<precision::fp8, Float>("e4m3fn/e5m2,*=float16/float16");
}

TEST(SimulatedTraining, OfHalfInFloatHasTheBitsOfHalf) {
  expect_same_bits<precision::fp16, precision::fp32>("float16/float16,*=float16/float16");
}

TEST(SimulatedTraining, OfBfloat16InFloatHasTheBitsOfBfloat16) {
  expect_same_bits<precision::bf16, Float>("bfloat16/bfloat16,*=bfloat16/bfloat16");
}

TEST(SimulatedTraining, OfAUsersOwnFormatHasTheBitsOfAPolicyWithIt) {
  expect_same_bits<OwnPolicy, Float>("e3m4/e4m3fn,*=bfloat16/bfloat16");
}

}  // namespace simulated_training_test
