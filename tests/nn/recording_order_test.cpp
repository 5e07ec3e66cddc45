// SPDX-License-Identifier: MIT
// The order in which modules record their ops and parameters: as they are written, left to right,
// whatever the compiler's order of evaluating arguments is. Numbers of ops, and random draws that
// are keyed by them, depend on it.
#include <gtest/gtest.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/bert.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/conv1d.hpp"
#include "unit_scaling/nn/multi_head_attention.hpp"
#include "unit_scaling/nn/recurrent_highway.hpp"
#include "unit_scaling/nn/rms_norm.hpp"
#include "unit_scaling/nn/swiglu.hpp"
#include "unit_scaling/nn/token_mixing.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/recipes/simulation.hpp"

namespace recording_order_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

using Texts = std::vector<std::string>;
using P = precision::fp32;

/// Ops as they were recorded, `module op inputs`, and parameters in the order of their numbers. An
/// input is a parameter's name, `x`, the number of the op that made it, or `1.2` for output 2 of
/// op 1.
struct Recording {
  Texts ops;
  Texts parameters;
};

template <class Run> Recording record(const Run& run) {
  Recording result;
  std::map<std::size_t, std::string> name_of_value;
  Tape<P> tape;
  tape.trace_with([&](const OpRecord& op) {
    std::string text = op.module + " " + op.name;
    for (const OpRecord::Input& input : op.inputs) {
      if (input.parameter != nullptr) {
        text += " " + input.parameter->name;
      } else {
        const auto made = name_of_value.find(input.value);
        text += " " + (made == name_of_value.end() ? "x" : made->second);
      }
    }
    for (std::size_t k = 0; k < op.outputs.size(); ++k) {
      name_of_value[op.outputs[k].value] =
          std::to_string(op.index) + (k == 0 ? "" : "." + std::to_string(k));
    }
    result.ops.push_back(text);
  });
  tape.observe_with([&](const Observation& seen) {
    if (seen.role == TensorRole::parameter) result.parameters.emplace_back(seen.name);
  });
  tape.clear();
  run(tape);
  return result;
}

template <class Module> Recording record_module(const Module& module, const Shape& shape) {
  return record(
      [&](Tape<P>& tape) { static_cast<void>(module(tape.input(normal_array<float>(shape, 1)))); });
}

TEST(RecordingOrder, OfSwiGluIsValueThenGate) {
  nn::Initialiser initialiser(1);
  const auto got = record_module(nn::SwiGlu(initialiser, "mlp", 4, 8), {3, 4});
  EXPECT_EQ(got.ops, (Texts{"mlp.linear_1 linear x mlp.linear_1.weight",
                            "mlp.linear_gate linear x mlp.linear_gate.weight", "mlp silu_glu 0 1",
                            "mlp.linear_2 linear 2 mlp.linear_2.weight"}));
  EXPECT_EQ(got.parameters,
            (Texts{"mlp.linear_1.weight", "mlp.linear_gate.weight", "mlp.linear_2.weight"}));
}

TEST(RecordingOrder, OfAttentionTurnsQueriesThenKeys) {
  nn::Initialiser initialiser(1);
  const nn::MultiHeadAttention attention(initialiser, "a", 8, 2,
                                         {.bias = true, .rotary_base = 10000});
  const auto got = record_module(attention, {2, 3, 8});
  EXPECT_EQ(got.ops,
            (Texts{"a.linear_qkv linear x a.linear_qkv.weight a.linear_qkv.bias", "a split_heads 0",
                   "a rotary 1", "a rotary 1.1", "a scaled_dot_product_attention 2 3 1.2",
                   "a merge_heads 4", "a.linear_o linear 5 a.linear_o.weight a.linear_o.bias"}));
  EXPECT_EQ(got.parameters, (Texts{"a.linear_qkv.weight", "a.linear_qkv.bias", "a.linear_o.weight",
                                   "a.linear_o.bias"}));
}

TEST(RecordingOrder, OfAttentionWithRelativePositionsIsAsWritten) {
  nn::Initialiser initialiser(1);
  const nn::MultiHeadAttention attention(initialiser, "a", 8, 2, {.relative_frequencies = 4});
  const auto got = record_module(attention, {2, 3, 8});
  EXPECT_EQ(got.ops, (Texts{"a.linear_qkv linear x a.linear_qkv.weight", "a split_heads 0",
                            "a.relative linear x a.relative.weight", "a separate_heads 2",
                            "a scaled_dot_product_attention 1 1.1 1.2 3", "a merge_heads 4",
                            "a.linear_o linear 5 a.linear_o.weight"}));
}

TEST(RecordingOrder, NumbersParametersAsTheyAreWritten) {
  nn::Initialiser initialiser(1);
  const auto parameters = [](const auto& module, const Shape& shape) {
    return record_module(module, shape).parameters;
  };
  EXPECT_EQ(parameters(nn::Linear(initialiser, "l", 4, 2), {3, 4}), (Texts{"l.weight", "l.bias"}));
  EXPECT_EQ(parameters(nn::LinearReadout(initialiser, "l", 4, 2), {3, 4}),
            (Texts{"l.weight", "l.bias"}));
  EXPECT_EQ(parameters(nn::LayerNorm(initialiser, "n", 4), {3, 4}), (Texts{"n.gain", "n.bias"}));
  EXPECT_EQ(parameters(nn::RmsNorm(initialiser, "n", 4, {.gain = true}), {3, 4}),
            (Texts{"n.gain"}));
  EXPECT_EQ(parameters(nn::Conv1d(initialiser, "c", 4, 2, 3), {2, 4, 5}),
            (Texts{"c.weight", "c.bias"}));
  EXPECT_EQ(parameters(nn::TokenMixing(initialiser, "t", 3), {2, 3, 4}), (Texts{"t.weight"}));
  EXPECT_EQ(parameters(nn::RecurrentHighway(initialiser, "r", 4, 5), {2, 3, 4}),
            (Texts{"r.weight", "r.bias", "r.initial"}));
  EXPECT_EQ(parameters(nn::FeedForward(initialiser, "f", 4, 8), {3, 4}),
            (Texts{"f.up.weight", "f.up.bias", "f.down.weight", "f.down.bias"}));
  EXPECT_EQ(parameters(nn::BertPooler(initialiser, "p", 4), {2, 3, 4}),
            (Texts{"p.dense.weight", "p.dense.bias"}));
  EXPECT_EQ(parameters(nn::BertSpan(initialiser, "s", 4), {2, 3, 4}),
            (Texts{"s.begin.weight", "s.begin.bias", "s.end.weight", "s.end.bias"}));
}

/// The linear layer followed by a GELU as one op, which is recorded when nobody looks.
TEST(RecordingOrder, OfAFusedOpIsThatOfItsParts) {
  nn::Initialiser initialiser(1);
  const nn::Linear linear(initialiser, "l", 4, 2);
  const auto got = record([&](Tape<P>& tape) {
    static_cast<void>(linear.after(ops::Gelu{}, tape.input(normal_array<float>({3, 4}, 1))));
  });
  EXPECT_EQ(got.parameters, (Texts{"l.weight", "l.bias"}));
}

TEST(RecordingOrder, OfBertIsItsTablesThenItsLayersThenItsHead) {
  nn::Initialiser initialiser(1);
  const nn::Bert bert(initialiser, nn::bert_config(11, 8, 1, 2));
  const auto ids = id_array({2, 3}, 11, 4);
  const auto segments = id_array({2, 3}, 2, 5);
  const auto selected = id_array({2}, 6, 6);
  const auto got = record([&](Tape<P>& tape) {
    static_cast<void>(bert.masked_token_logits(bert(tape, ids, {}, segments), selected));
  });
  ASSERT_GE(got.ops.size(), 5U);
  const Texts first(got.ops.begin(), got.ops.begin() + 5);
  EXPECT_EQ(first,
            (Texts{"embedding.positions embedding embedding.positions.table",
                   "embedding.segments embedding embedding.segments.table", "embedding add 1 0",
                   "embedding embedding embedding.table", "embedding add 3 2"}));
  const Texts last(got.parameters.end() - 5, got.parameters.end());
  EXPECT_EQ(last, (Texts{"mlm.transform.weight", "mlm.transform.bias", "mlm.norm.gain",
                         "mlm.norm.bias", "mlm.readout.bias"}));
}

TEST(RecordingOrder, OfBertMlpReadsTokensThenPositions) {
  nn::Initialiser initialiser(1);
  const nn::BertMlp model(initialiser,
                          {.vocabulary_size = 11, .window = 3, .hidden_size = 8, .layers = 1});
  const auto got = record([&](Tape<P>& tape) {
    static_cast<void>(model(tape, id_array({2, 3}, 11, 4), id_array({2}, 6, 6)));
  });
  ASSERT_GE(got.parameters.size(), 2U);
  EXPECT_EQ(got.parameters[0], "tokens.table");
  EXPECT_EQ(got.parameters[1], "positions.table");
  EXPECT_EQ(got.ops[0], "tokens embedding tokens.table");
}

/// Draws of a simulation are keyed by the numbers of the ops: a layer's value and gate, given one
/// weight, differ by their draws alone. The value is recorded first, so it has the draws of a model
/// that has no gate.
TEST(RecordingOrder, GivesStochasticDrawsThatAnyCompilerGives) {
  nn::Initialiser initialiser(1);
  nn::SwiGlu module(initialiser, "mlp", 16, 8);
  nn::Linear alone(initialiser, "alone", 16, 8, {.bias = false, .constraint = constraint::none});
  const Array<float>* weight = nullptr;
  module.for_each_parameter([&](Parameter& parameter) {
    if (parameter.name == "mlp.linear_1.weight") weight = &parameter.value;
  });
  ASSERT_NE(weight, nullptr);
  alone.for_each_parameter([&](Parameter& parameter) { parameter.value = *weight; });
  const auto first_value = [](const auto& run) {
    std::vector<float> first;
    Tape<P> tape;
    tape.use_recipe(Simulation::parse("e4m3fn~/e5m2~"));
    tape.observe_with([&](const Observation& seen) {
      if (seen.role == TensorRole::value && seen.name == "linear" && first.empty()) {
        first.assign(seen.elements.begin(), seen.elements.end());
      }
    });
    tape.clear();
    static_cast<void>(run(tape.input(normal_array<float>({5, 16}, 1))));
    return first;
  };
  EXPECT_EQ(first_value(module), first_value(alone));
}

}  // namespace recording_order_test
