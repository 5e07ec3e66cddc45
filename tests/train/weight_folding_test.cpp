// SPDX-License-Identifier: MIT
#include "unit_scaling/train/weight_folding.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "support/transformer_variants.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/nn/bert.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/conv1d.hpp"
#include "unit_scaling/nn/recurrent_highway.hpp"
#include "unit_scaling/nn/token_mixing.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/relu.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/tanh.hpp"

namespace weight_folding_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using train::fold_weights;
using train::forward_distance;
using train::WeightFolding;

constexpr std::uint32_t vocabulary = 11;
constexpr Shape hidden_shape{2, 6, 8};

/// Weights as a training might leave them: gains that are not one, biases that are not zero.
template <class Model> void perturb(Model& model) {
  std::uint32_t number = 0;
  model.for_each_parameter([&](Parameter& parameter) {
    const Random random(7, RandomStream::general, 0, number++);
    float* elements = parameter.value.mutable_data();
    for (std::size_t i = 0; i < parameter.value.size(); ++i) {
      elements[i] += 0.3F * static_cast<float>(random.normal(i));
    }
  });
}

/// Calls `check(what, make, forward)` for each of the library's models; `make(initialiser)` makes
/// it, `forward(model, tape)` runs it.
template <class Check> void for_each_model(const Check& check) {
  const auto on_ids = [](const auto& model, auto& tape) {
    return model(tape, id_array({2, 6}, vocabulary, 1));
  };
  const auto on_hidden = [](const auto& model, auto& tape) {
    using P = typename std::decay_t<decltype(tape.constant({}))>::value_type;
    return model(tape.constant(normal_array<P>(hidden_shape, 3)));
  };
  for (const auto placement : {nn::NormPlacement::pre, nn::NormPlacement::post}) {
    const bool is_pre = placement == nn::NormPlacement::pre;
    const std::string where = is_pre ? ", pre" : ", post";
    check(
        "BertMlp" + where,
        [=](nn::Initialiser& initialiser) {
          return nn::BertMlp(initialiser, {.vocabulary_size = vocabulary,
                                           .window = 6,
                                           .hidden_size = 8,
                                           .layers = 2,
                                           .norm = placement});
        },
        [](const nn::BertMlp& model, auto& tape) {
          return model(tape, id_array({3, 6}, vocabulary, 1), id_array({5}, 18, 2));
        });
    for (const TransformerVariant& variant : transformer_variants(placement)) {
      nn::TransformerConfig config = variant.config;
      config.attention_bias = config.mlp == nn::MlpKind::gelu;
      const auto& embedding = variant.embedding;
      const std::string what = where + ", " + variant.name;
      check(
          "TransformerDecoder" + what,
          [=](nn::Initialiser& initialiser) {
            return nn::TransformerDecoder(initialiser, vocabulary, config, embedding);
          },
          on_ids);
      check(
          "TransformerEncoder" + what,
          [=](nn::Initialiser& initialiser) {
            return nn::TransformerEncoder(initialiser, vocabulary, config, embedding);
          },
          on_ids);
      if (is_pre) continue;
      check(
          "TransformerStack" + what,
          [=](nn::Initialiser& initialiser) {
            return nn::TransformerStack(initialiser, "layers", config);
          },
          on_hidden);
      check(
          "TransformerLayer" + what,
          [=](nn::Initialiser& initialiser) {
            return nn::TransformerLayer(initialiser, "layer", config, 0.5, 0.25);
          },
          on_hidden);
    }
    for (const bool is_tied : {true, false}) {
      nn::BertConfig config = nn::bert_config(vocabulary, 8, 2, 2);
      config.max_positions = 6;
      config.transformer.norm_placement = placement;
      config.tied_readout = is_tied;
      check(
          "Bert" + where + (is_tied ? ", tied" : ", untied"),
          [=](nn::Initialiser& initialiser) { return nn::Bert(initialiser, config); },
          [](const nn::Bert& model, auto& tape) {
            const auto hidden =
                model(tape, id_array({3, 6}, vocabulary, 1), {}, id_array({3, 6}, 2, 2));
            return model.masked_token_logits(hidden, id_array({5}, 18, 3));
          });
    }
  }
  check(
      "BertClassifier",
      [](nn::Initialiser& initialiser) { return nn::BertClassifier(initialiser, "head", 8, 3); },
      on_hidden);
  check(
      "BertSpan", [](nn::Initialiser& initialiser) { return nn::BertSpan(initialiser, "span", 8); },
      [on_hidden](const nn::BertSpan& model, auto& tape) { return on_hidden(model, tape).end; });
  check(
      "MultiHeadAttention",
      [](nn::Initialiser& initialiser) {
        return nn::MultiHeadAttention(initialiser, "attention", 8, 2, {.bias = true});
      },
      on_hidden);
  check(
      "FeedForward",
      [](nn::Initialiser& initialiser) { return nn::FeedForward(initialiser, "mlp", 8, 32); },
      on_hidden);
  check(
      "SwiGlu", [](nn::Initialiser& initialiser) { return nn::SwiGlu(initialiser, "mlp", 8, 32); },
      on_hidden);
  check(
      "Conv1d",
      [](nn::Initialiser& initialiser) {
        return nn::Conv1d(initialiser, "conv", 6, 4, 3, {.padding = 1, .groups = 2});
      },
      on_hidden);
  check(
      "TokenMixing",
      [](nn::Initialiser& initialiser) { return nn::TokenMixing(initialiser, "mixing", 6); },
      on_hidden);
  check(
      "RecurrentHighway",
      [](nn::Initialiser& initialiser) {
        return nn::RecurrentHighway(initialiser, "highway", 8, 8);
      },
      on_hidden);
  check(
      "RmsNorm with a gain",
      [](nn::Initialiser& initialiser) {
        return nn::RmsNorm(initialiser, "norm", 8, {.gain = true});
      },
      on_hidden);
  check(
      "Sequential",
      [](nn::Initialiser& initialiser) {
        const Scaling rules = initialiser.scaling();
        return nn::Sequential(
            nn::Linear(initialiser, "first", 8, 16),
            [=](const auto& x) { return ops::relu(x, {.scaling = rules}); },
            nn::Linear(initialiser, "second", 16, 8), nn::LinearReadout(initialiser, "out", 8, 5));
      },
      on_hidden);
}

std::vector<Scaling> all_scalings() {
  std::vector<Scaling> result;
  for (const Scaling& rules : {scaling::paper, scaling::umup}) {
    result.push_back(rules);
    for (const Constraint& constraint : {constraint::none, constraint::gmean, constraint::hmean,
                                         constraint::amean, constraint::to_output_scale}) {
      result.push_back(rules.with(constraint));
    }
  }
  return result;
}

std::string text_of(const Scaling& rules) {
  return std::string(to_string(rules.rule)) + ", " + std::string(rules.effective_constraint().name);
}

// Weights are rounded once to float, a relative 2^-24, which these models, of up to a dozen layers
// with weights and gains above their usual scale, amplify by less than a hundred: 1e-5. Where a
// normalisation sees another scale, by a ratio of 5^-½ at most after four branches, ε = 1e-5 adds a
// relative ε (5 − 1) / (2 v), and some rows of eight numbers have a variance v of 0.03: 1e-3. A
// factor that is wrong makes outputs differ by 0.1 and more.
TEST(WeightFolding, MakesEveryModelComputeWhatThePlainOneDoes) {
  for_each_model([](const std::string& what, const auto& make, const auto& forward) {
    for (const Scaling& rules : all_scalings()) {
      SCOPED_TRACE(what + " under " + text_of(rules));
      nn::Initialiser plain_parameters(1, scaling::none);
      nn::Initialiser unit_parameters(2, rules);
      auto plain = make(plain_parameters);
      auto unit = make(unit_parameters);
      perturb(plain);
      EXPECT_GT(forward_distance(plain, unit, forward), 0.1);

      const WeightFolding folding = fold_weights(plain, unit, forward);
      train::plain_to_unit(plain, unit, folding);
      const double tolerance = folding.normalisations.empty() ? 1e-5 : 1e-3;
      EXPECT_LT(forward_distance(plain, unit, forward), tolerance);
      EXPECT_LT(forward_distance<precision::fp32>(plain, unit, forward), tolerance + 1e-5);
    }
  });
}

TEST(WeightFolding, MeetsPlainModelsThatHaveNoFactorsAtAll) {
  for_each_model([](const std::string& what, const auto& make, const auto& forward) {
    nn::Initialiser initialiser(1, scaling::none);
    const auto model = make(initialiser);
    Tape<precision::fp32> tape(TapeMode::inference);
    tape.trace_with([&](const OpRecord& op) {
      EXPECT_EQ(op.forward, 1) << what << ", " << op.name;
      for (const auto& input : op.inputs) EXPECT_EQ(input.backward, 1) << what << ", " << op.name;
      for (const auto& output : op.outputs) {
        for (const double factor : output.gradient_factors) EXPECT_EQ(factor, 1) << what;
      }
    });
    (void)forward(model, tape);
  });
}

TEST(WeightFolding, HasNothingToFoldBetweenTwoPlainModels) {
  for_each_model([](const std::string& what, const auto& make, const auto& forward) {
    nn::Initialiser first(1, scaling::none);
    nn::Initialiser second(2, scaling::none);
    auto plain = make(first);
    auto copy = make(second);
    perturb(plain);
    const WeightFolding folding = fold_weights(plain, copy, forward);
    for (const auto& [name, factor] : folding.factors) EXPECT_EQ(factor, 1) << what << ", " << name;
    EXPECT_TRUE(folding.normalisations.empty());
    train::plain_to_unit(plain, copy, folding);
    EXPECT_EQ(forward_distance(plain, copy, forward), 0) << what;
  });
}

/// What `fold_weights` says of two models made alike, with their parameters' weights left as made.
template <class Make, class Forward>
WeightFolding fold(const Make& make, const Scaling& rules, const Forward& forward) {
  nn::Initialiser plain_parameters(1, scaling::none);
  nn::Initialiser unit_parameters(2, rules);
  return fold_weights(make(plain_parameters), make(unit_parameters), forward);
}

const auto on_rows = [](const auto& model, auto& tape) {
  return model(tape.constant(Array<double>::filled({3, 16}, 0.5)));
};

template <class Make> WeightFolding fold_on_rows(const Make& make, const Scaling& rules) {
  nn::Initialiser plain_parameters(1, scaling::none);
  nn::Initialiser unit_parameters(2, rules);
  return fold_weights<precision::fp64>(make(plain_parameters), make(unit_parameters), on_rows);
}

TEST(WeightFolding, FoldsTheFactorOfALinearLayerIntoItsWeightAndItsBias) {
  const auto make = [](nn::Initialiser& initialiser) {
    return nn::Linear(initialiser, "layer", 16, 4);
  };
  // α = 16^-½, or bound to the backward 4^-½ by the geometric mean: 64^-¼ = 2^-3/2.
  const WeightFolding umup = fold_on_rows(make, scaling::umup);
  EXPECT_EQ(umup.factor("layer.weight"), 0.25);
  EXPECT_EQ(umup.factor("layer.bias"), 0.25);
  EXPECT_NEAR(fold_on_rows(make, scaling::paper).factor("layer.weight"), std::exp2(-1.5), 1e-15);
}

TEST(WeightFolding, FoldsTheFactorOfAReluIntoTheWeightBehindIt) {
  const auto make = [](nn::Initialiser& initialiser) {
    const Scaling rules = initialiser.scaling();
    return nn::Sequential(
        nn::Linear(initialiser, "up", 16, 64),
        [=](const auto& x) { return ops::relu(x, {.scaling = rules}); },
        nn::Linear(initialiser, "down", 64, 16));
  };
  const WeightFolding folding = fold_on_rows(make, scaling::paper.on_cut_edge());
  EXPECT_EQ(folding.factor("up.weight"), 0.25);
  EXPECT_EQ(folding.factor("up.bias"), 0.25);
  const double relu = 1 / std::sqrt(0.5 - 0.5 / std::numbers::pi);
  EXPECT_NEAR(folding.factor("down.weight"), relu / 8, 1e-15);
  // The bias is added after the product, whose scale the weight has put right.
  EXPECT_EQ(folding.factor("down.bias"), 0.125);
}

TEST(WeightFolding, FoldsTheScoresFactorIntoTheWeightOfQueriesAndKeys) {
  const auto make = [](nn::Initialiser& initialiser) {
    return nn::MultiHeadAttention(initialiser, "attention", 64, 4, {});
  };
  const auto forward = [](const auto& model, auto& tape) {
    return model(tape.constant(normal_array<float>({2, 6, 64}, 3)));
  };
  // Scores are q·k/d where the plain model has q·k/√d, with d = 16: q and k are each 16^¼ = 2 times
  // as large. α of linear_qkv is 1/8.
  const WeightFolding folding = fold(make, scaling::umup, forward);
  EXPECT_EQ(folding.factor("attention.linear_qkv.weight"), 1.0 / 16);
  // Values are as large as well, and attention's own factor comes on top.
  const double attention =
      ops::ScaledDotProductAttention{.scaling = scaling::umup}
          .scales(Array<float>(Shape{2, 4, 6, 16}), Array<float>(Shape{2, 4, 6, 16}),
                  Array<float>(Shape{2, 4, 6, 16}))
          .forward;
  EXPECT_NEAR(folding.factor("attention.linear_o.weight"), 2 * attention / 8, 1e-12);
}

/// y = readout(norm(x + layer(norm(x)))), with an ε of its own for each norm.
class SmallResidual {
 public:
  SmallResidual(nn::Initialiser& initialiser, double inner_epsilon, double last_epsilon)
      : residual_(initialiser, "branch", nn::NormPlacement::pre, 0.5,
                  nn::Linear(initialiser, "layer", 16, 16),
                  nn::LayerNorm(initialiser, "norm", 16, inner_epsilon)),
        last_(initialiser, "last", 16, last_epsilon),
        readout_(initialiser, "readout", 16, 4) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const {
    return readout_(last_(residual_(x)));
  }
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    residual_.for_each_parameter(visit);
    last_.for_each_parameter(visit);
    readout_.for_each_parameter(visit);
  }

 private:
  nn::Residual<nn::Linear> residual_;
  nn::LayerNorm last_;
  nn::LinearReadout readout_;
};

TEST(WeightFolding, SaysWhichNormalisationsSeeAnotherScaleAndWhatEpsilonWouldFit) {
  const auto forward = [](const auto& model, auto& tape) {
    return model(tape.constant(normal_array<double>({3, 16}, 3)));
  };
  constexpr double epsilon = 0.1;  // large, so that it shows
  nn::Initialiser plain_parameters(1, scaling::none);
  nn::Initialiser unit_parameters(2, scaling::paper);
  SmallResidual plain(plain_parameters, epsilon, epsilon);
  SmallResidual unit(unit_parameters, epsilon, epsilon);
  perturb(unit);
  const auto folding = fold_weights<precision::fp64>(plain, unit, forward);
  // x is fed in, so the first norm sees the same; the sum weighs it with 2^-½.
  ASSERT_EQ(folding.normalisations.size(), 1U);
  EXPECT_EQ(folding.normalisations[0].op, "op 4, layer_norm of last");
  EXPECT_NEAR(folding.normalisations[0].ratio, std::sqrt(0.5), 1e-12);
  train::unit_to_plain(unit, plain, folding);
  const double distance = forward_distance(plain, unit, forward);
  EXPECT_GT(distance, 0.01);
  // ε/2 (1/½ − 1) over the variance of the rows, which is at least ½.
  EXPECT_LT(distance, 0.1);

  nn::Initialiser fitting_parameters(1, scaling::none);
  const double ratio = folding.normalisations[0].ratio;
  SmallResidual fitting(fitting_parameters, epsilon, epsilon / (ratio * ratio));
  train::unit_to_plain(unit, fitting, folding);
  EXPECT_LT(forward_distance(fitting, unit, forward), 1e-6);
  EXPECT_TRUE(fold_weights<precision::fp64>(fitting, unit, forward).normalisations.empty());
}

TEST(WeightFolding, IsAsGoodInAPreNormStackWhoseEpsilonIsSmall) {
  const auto forward = [](const auto& model, auto& tape) {
    return model(tape, id_array({2, 6}, vocabulary, 1));
  };
  for (const auto norm : {nn::NormKind::layer_norm, nn::NormKind::rms_norm}) {
    const auto make = [=](const Scaling& rules) {
      nn::Initialiser initialiser(1, rules);
      return nn::TransformerDecoder(initialiser, vocabulary,
                                    {.hidden_size = 8,
                                     .context_length = 6,
                                     .heads = 2,
                                     .norm = norm,
                                     .norm_epsilon = 1e-12,
                                     .rotary_base = 10000});
    };
    auto plain = make(scaling::none);
    auto unit = make(scaling::paper);
    perturb(plain);
    const WeightFolding folding = fold_weights(plain, unit, forward);
    EXPECT_EQ(folding.normalisations.size(), 4U);
    train::plain_to_unit(plain, unit, folding);
    EXPECT_LT(forward_distance(plain, unit, forward), 1e-5);
  }
}

TEST(WeightFolding, OfADecoderHoldsAtEveryLength) {
  for (const Scaling& rules : {scaling::paper, scaling::umup}) {
    const auto make = [](const Scaling& with) {
      nn::Initialiser initialiser(1, with);
      return nn::TransformerDecoder(initialiser, vocabulary,
                                    {.hidden_size = 8,
                                     .context_length = 9,
                                     .heads = 2,
                                     .norm_epsilon = 1e-12,
                                     .rotary_base = 10000});
    };
    auto plain = make(scaling::none);
    auto unit = make(rules);
    perturb(plain);
    const auto of_length = [](std::size_t length) {
      return [length](const auto& model, auto& tape) {
        return model(tape, id_array({2, length}, vocabulary, 1));
      };
    };
    train::plain_to_unit(plain, unit, fold_weights(plain, unit, of_length(5)));
    for (const std::size_t length : {1U, 5U, 9U, 12U}) {
      EXPECT_LT(forward_distance(plain, unit, of_length(length)), 1e-5) << length;
    }
  }
}

TEST(WeightFolding, GivesBackEachWeightButForTwoRoundings) {
  const auto make = [](nn::Initialiser& initialiser) {
    return nn::FeedForward(initialiser, "mlp", 8, 32);
  };
  const auto forward = [](const auto& model, auto& tape) {
    return model(tape.constant(normal_array<float>({3, 8}, 3)));
  };
  nn::Initialiser plain_parameters(1, scaling::none);
  nn::Initialiser unit_parameters(2, scaling::umup);
  nn::Initialiser back_parameters(3, scaling::none);
  auto plain = make(plain_parameters);
  auto unit = make(unit_parameters);
  auto back = make(back_parameters);
  perturb(plain);
  const WeightFolding folding = fold_weights(plain, unit, forward);
  train::plain_to_unit(plain, unit, folding);
  train::unit_to_plain(unit, back, folding);
  std::vector<const Parameter*> expected;
  plain.for_each_parameter([&](const Parameter& each) { expected.push_back(&each); });
  std::size_t number = 0;
  back.for_each_parameter([&](const Parameter& each) {
    const Array<float>& value = expected[number++]->value;
    for (std::size_t i = 0; i < value.size(); ++i) {
      // Two roundings, each of half a unit in the last place, of which there may be two in between.
      const double unit_in_last_place =
          std::abs(static_cast<double>(std::nextafter(value.data()[i], 2.0F)) - value.data()[i]);
      EXPECT_LE(std::abs(static_cast<double>(each.value.data()[i]) - value.data()[i]),
                2 * unit_in_last_place)
          << each.name;
    }
  });
}

TEST(WeightFolding, HoldsForTheSequenceLengthOfItsForwardPass) {
  const auto make = [](nn::Initialiser& initialiser) {
    return nn::MultiHeadAttention(initialiser, "attention", 8, 2, {});
  };
  const auto at_length = [](std::size_t positions) {
    return [=](const auto& model, auto& tape) {
      return model(tape.constant(normal_array<double>({2, positions, 8}, 3)));
    };
  };
  nn::Initialiser plain_parameters(1, scaling::none);
  nn::Initialiser unit_parameters(2, scaling::umup);
  auto plain = make(plain_parameters);
  auto unit = make(unit_parameters);
  const auto folding = fold_weights<precision::fp64>(plain, unit, at_length(6));
  train::plain_to_unit(plain, unit, folding);
  EXPECT_LT(forward_distance(plain, unit, at_length(6)), 1e-6);
  EXPECT_GT(forward_distance(plain, unit, at_length(12)), 0.1);
}

TEST(WeightFolding, RefusesAFactorThatNoWeightCanTakeUp) {
  using Refused = std::invalid_argument;
  // The sum of two inputs is weighted, and nothing stands between it and the tanh.
  expect_error<Refused>(
      [] {
        (void)fold_on_rows(
            [](nn::Initialiser& initialiser) {
              const Scaling rules = initialiser.scaling();
              return nn::Sequential(
                  [=](const auto& x) { return ops::add(x, x, {.scaling = rules}); },
                  [=](const auto& x) { return ops::tanh(x, {.scaling = rules}); },
                  nn::Linear(initialiser, "layer", 16, 4));
            },
            scaling::paper.on_cut_edge());
      },
      {"fold_weights", "0.707", "op 1, tanh"});
  // Nothing stands behind the last tanh.
  const auto on_hidden = [](const auto& model, auto& tape) {
    return model(tape.constant(normal_array<float>(hidden_shape, 3)));
  };
  expect_error<Refused>(
      [&] {
        (void)fold(
            [](nn::Initialiser& initialiser) { return nn::BertPooler(initialiser, "pooler", 8); },
            scaling::paper, on_hidden);
      },
      {"fold_weights", "puts out", "op 2, tanh of pooler"});
  // A branch of weight 0 computes nothing.
  expect_error<Refused>(
      [&] {
        (void)fold(
            [](nn::Initialiser& initialiser) {
              const double tau = initialiser.scaling().rule == Rule::none ? 0.5 : 0.0;
              return nn::TransformerLayer(initialiser, "layer",
                                          {.hidden_size = 8,
                                           .context_length = 6,
                                           .norm_placement = nn::NormPlacement::post},
                                          tau, 0.5);
            },
            scaling::paper, on_hidden);
      },
      {"fold_weights", "factors above 0", "residual_add of layer.mhsa"});
  // The sum of a pre-norm layer goes on without a normalisation.
  expect_error<Refused>(
      [&] {
        (void)fold(
            [](nn::Initialiser& initialiser) {
              return nn::TransformerLayer(initialiser, "layer",
                                          {.hidden_size = 8, .context_length = 6}, 0.5, 0.5);
            },
            scaling::umup, on_hidden);
      },
      {"fold_weights", "puts out", "residual_add of layer.mlp"});
}

/// A GELU and a layer behind it.
struct HiddenGelu {
  Scaling rules;
  nn::Linear layer;

  explicit HiddenGelu(nn::Initialiser& initialiser)
      : rules(initialiser.scaling()), layer(initialiser, "layer", 16, 4) {}
};

TEST(WeightFolding, RefusesAFactorOnWhatIsReturnedThoughAnOpReadsIt) {
  nn::Initialiser plain_parameters(1, scaling::none);
  nn::Initialiser unit_parameters(1, scaling::paper);
  const HiddenGelu plain(plain_parameters);
  const HiddenGelu unit(unit_parameters);
  const auto fold = [&](const auto& choose) {
    return fold_weights(plain, unit, [&](const HiddenGelu& model, auto& tape) {
      const auto x = tape.constant(Array<float>::filled({2, 16}, 1));
      const auto hidden = ops::gelu(x, {.scaling = model.rules});
      return choose(hidden, model.layer(hidden));
    });
  };
  EXPECT_GT(fold([](const auto&, const auto& y) { return y; }).factor("layer.weight"), 0);
  const std::initializer_list<std::string_view> refusal{"puts out", "op 0, gelu"};
  expect_error<std::invalid_argument>(
      [&] { (void)fold([](const auto& hidden, const auto&) { return hidden; }); }, refusal);
  expect_error<std::invalid_argument>(
      [&] { (void)fold([](const auto& hidden, const auto& y) { return std::tuple(y, hidden); }); },
      refusal);
}

TEST(WeightFolding, RefusesModelsThatReturnOtherValues) {
  nn::Initialiser initialiser(1, scaling::none);
  const HiddenGelu first(initialiser);
  const HiddenGelu second(initialiser);
  expect_error<std::invalid_argument>(
      [&] {
        (void)fold_weights(first, second, [&](const HiddenGelu& model, auto& tape) {
          const auto x = tape.constant(Array<float>::filled({2, 16}, 1));
          const auto hidden = ops::gelu(x, {.scaling = model.rules});
          (void)model.layer(hidden);
          return &model == &first ? hidden : x;
        });
      },
      {"return the same"});
}

TEST(WeightFolding, RefusesModelsThatDifferInMoreThanFactors) {
  using Refused = std::invalid_argument;
  nn::Initialiser plain(1, scaling::none);
  nn::Initialiser unit(1, scaling::paper);
  const nn::Linear layer(plain, "layer", 16, 4);
  const auto refused = [&](const auto& other, std::initializer_list<std::string_view> parts) {
    expect_error<Refused>([&] { (void)fold_weights<precision::fp64>(layer, other, on_rows); },
                          parts);
  };
  refused(nn::Linear(unit, "layer", 16, 5), {"op 0, linear of layer", "(4, 16)", "(5, 16)"});
  refused(nn::Linear(unit, "other", 16, 4), {"layer.weight", "other.weight"});
  refused(nn::Linear(unit, "layer", 16, 4, {.bias = false}), {"same ops", "op 0, linear"});
  refused(nn::LinearReadout(unit, "layer", 16, 4), {"linear_readout", "op 0, linear of layer"});
  refused(nn::Sequential(nn::Linear(unit, "layer", 16, 4), nn::Linear(unit, "next", 4, 4)),
          {"1 and 2"});
  const auto gelu = [](double mult) {
    return nn::Sequential(
        [=](const auto& x) { return ops::gelu(x, {.scaling = scaling::none, .mult = mult}); });
  };
  expect_error<Refused>([&] { (void)fold_weights<precision::fp64>(gelu(1), gelu(2), on_rows); },
                        {"a factor of 2", "op 0, gelu"});
}

/// The ops of relu(y) + y with y = relu(x), or of relu(y) + another input.
std::vector<OpRecord> sum_of_two(bool reads_another) {
  std::vector<OpRecord> ops;
  Tape<precision::fp64> tape(TapeMode::inference);
  tape.trace_with([&](const OpRecord& op) { ops.push_back(op); });
  const auto x = tape.constant(Array<double>::filled({4}, -1));
  const auto y = ops::relu(x);
  const auto other = tape.constant(Array<double>::filled({4}, 2));
  (void)ops::add(ops::relu(y), reads_another ? other : y);
  return ops;
}

TEST(WeightFolding, RefusesModelsOfWhichOneReadsAnInputWhereTheOtherReadsWhatAnOpMade) {
  for (const bool is_plain : {false, true}) {
    expect_error<std::invalid_argument>(
        [&] { (void)train::fold_weights(sum_of_two(is_plain), sum_of_two(!is_plain)); },
        {"whose ops read the same values", "op 2, add"});
  }
}

TEST(WeightFolding, RefusesTwoParametersOfOneName) {
  const auto make = [](nn::Initialiser& initialiser) {
    return nn::Sequential(nn::Linear(initialiser, "layer", 16, 16),
                          nn::Linear(initialiser, "layer", 16, 16));
  };
  expect_error<std::invalid_argument>([&] { (void)fold_on_rows(make, scaling::paper); },
                                      {"fold_weights", "two called layer.weight"});
}

TEST(WeightFolding, RefusesWeightsItKnowsNothingOfAndThoseThatLeaveTheRange) {
  const WeightFolding folding{.factors = {{"w", 4.0}}};
  const Parameter other{.name = "v", .value = Array<float>::filled({2}, 1)};
  const Parameter large{.name = "w",
                        .value = Array<float>::filled({2}, std::numeric_limits<float>::max())};
  expect_error<std::invalid_argument>([&] { (void)folding.plain_weight(other); }, {"'v'"});
  expect_error<std::invalid_argument>([&] { (void)folding.plain_weight(large); }, {"w", "4.0"});
  EXPECT_EQ(folding.unit_weight(large).data()[0], std::numeric_limits<float>::max() / 4);
  // What is not finite stays so.
  const float infinity = std::numeric_limits<float>::infinity();
  const Parameter infinite{.name = "w", .value = Array<float>::filled({1}, infinity)};
  EXPECT_EQ(folding.plain_weight(infinite).data()[0], infinity);
}

TEST(WeightFolding, LeavesTheModelAloneIfAParameterIsMissing) {
  nn::Initialiser plain_parameters(1, scaling::none);
  nn::Initialiser unit_parameters(2, scaling::paper);
  nn::Linear plain(plain_parameters, "layer", 16, 4, {.bias = false});
  nn::Linear unit(unit_parameters, "layer", 16, 4);
  const WeightFolding folding{.factors = {{"layer.weight", 0.5}, {"layer.bias", 0.5}}};
  const float* before = nullptr;
  unit.for_each_parameter([&](const Parameter& each) {
    if (before == nullptr) before = each.value.data();
  });
  expect_error<std::invalid_argument>([&] { train::plain_to_unit(plain, unit, folding); },
                                      {"layer.bias"});
  const float* after = nullptr;
  unit.for_each_parameter([&](const Parameter& each) {
    if (after == nullptr) after = each.value.data();
  });
  EXPECT_EQ(before, after);
}

TEST(WeightFolding, TellsModelsApartThatDifferInWhatIsNoFactor) {
  const auto make = [](nn::Initialiser& initialiser, bool is_causal) {
    return nn::MultiHeadAttention(initialiser, "attention", 8, 2, {.is_causal = is_causal});
  };
  const auto forward = [](const auto& model, auto& tape) {
    return model(tape.constant(normal_array<double>(hidden_shape, 3)));
  };
  nn::Initialiser first(1, scaling::none);
  nn::Initialiser second(1, scaling::none);
  EXPECT_GT(forward_distance(make(first, false), make(second, true), forward), 0.1);
  nn::Initialiser third(1, scaling::none);
  nn::Initialiser fourth(1, scaling::none);
  auto broken = make(fourth, false);
  broken.for_each_parameter([&](Parameter& each) {
    each.value.mutable_data()[0] = std::numeric_limits<float>::quiet_NaN();
  });
  EXPECT_EQ(forward_distance(make(third, false), broken, forward),
            std::numeric_limits<double>::infinity());
}

}  // namespace weight_folding_test
