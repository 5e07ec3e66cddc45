// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/gradient_sum.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "support/threads.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/bert.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/conv1d.hpp"
#include "unit_scaling/nn/recurrent_highway.hpp"
#include "unit_scaling/nn/rms_norm.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/conv1d.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/embedding.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/linear_readout.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/mean.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/recurrent_highway.hpp"
#include "unit_scaling/ops/reshape.hpp"
#include "unit_scaling/ops/rms_norm.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/sum.hpp"
#include "unit_scaling/ops/tanh.hpp"
#include "unit_scaling/ops/token_mixing.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/clip.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace gradient_sum_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr std::size_t sequences = 8;
constexpr std::size_t window = 6;
constexpr std::uint32_t vocabulary = 11;

/// Rows [begin, end) of an array.
Array<std::int32_t> rows(const Array<std::int32_t>& all, std::size_t begin, std::size_t end) {
  const std::size_t row = all.size() / all.shape()[0];
  const std::span<const std::int32_t> part = all.span().subspan(begin * row, (end - begin) * row);
  return all.shape().rank() == 1 ? Array<std::int32_t>(Shape{end - begin}, part)
                                 : Array<std::int32_t>(Shape{end - begin, row}, part);
}

/// Sequences [begin, end) of a batch.
struct Part {
  std::size_t begin;
  std::size_t end;
};

/// Splits of eight sequences.
const std::vector<std::vector<Part>> splits{
    {{0, 8}},
    {{0, 4}, {4, 8}},
    {{0, 1}, {1, 8}},
    {{0, 7}, {7, 8}},
    {{0, 3}, {3, 5}, {5, 8}},
    {{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 5}, {5, 6}, {6, 7}, {7, 8}},
};

/// Expects that the joined gradients of the parts of a batch are those of the whole, the oracle.
/// @param loss `loss(tape, part)` records the loss of a part.
template <class Loss>
void expect_joined_is_gradient_of_whole(const std::vector<Parameter*>& parameters, const Loss& loss,
                                        const std::string& what) {
  Tape<precision::fp32> whole;
  whole.backward(loss(whole, Part{0, sequences}));
  optim::GradientSum sum(parameters);
  for (const auto& split : splits) {
    sum.clear();
    Tape<precision::fp32> tape;
    for (const Part& part : split) {
      tape.clear();
      tape.backward(loss(tape, part));
      sum.add(tape);
    }
    for (const Parameter* parameter : parameters) {
      const auto& expected = whole.gradient(*parameter);
      const auto& actual = sum.gradient(*parameter);
      ASSERT_EQ(actual.shape(), expected.shape()) << parameter->name << ", " << what;
      double squares = 0;
      double wrong = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const double difference =
            static_cast<double>(actual.data()[i]) - static_cast<double>(expected.data()[i]);
        squares += std::pow(static_cast<double>(expected.data()[i]), 2);
        wrong += difference * difference;
      }
      EXPECT_GT(squares, 0) << parameter->name << ", " << what;
      // Some tens of roundings of 2^-24 each.
      EXPECT_LE(std::sqrt(wrong / squares), 5e-6)
          << parameter->name << ", " << split.size() << " parts, the first of " << split.front().end
          << ", " << what;
    }
  }
}

const std::vector<Scaling> all_rules{scaling::none, scaling::paper, scaling::umup};

/// Positions that a masked-token loss selects: one of sequence 0, two of 1, three of 2, one of 3, …
Array<std::int32_t> selected_positions(const Part& part) {
  std::vector<std::int32_t> selected;
  for (std::size_t i = part.begin; i < part.end; ++i) {
    for (std::size_t k = 0; k <= i % 3; ++k) {
      selected.push_back(static_cast<std::int32_t>((i - part.begin) * window + 2 * k));
    }
  }
  return Array<std::int32_t>(Shape{selected.size()}, std::span<const std::int32_t>(selected));
}

/// Labels that depend on the sequence and not on the split.
Array<std::int32_t> selected_labels(const Part& part) {
  std::vector<std::int32_t> labels;
  for (std::size_t i = part.begin; i < part.end; ++i) {
    for (std::size_t k = 0; k <= i % 3; ++k) {
      labels.push_back(static_cast<std::int32_t>((5 * i + 3 * k) % vocabulary));
    }
  }
  return Array<std::int32_t>(Shape{labels.size()}, std::span<const std::int32_t>(labels));
}

/// One layer, with a tied read-out.
nn::BertConfig small_bert() {
  nn::BertConfig config = nn::bert_config(vocabulary, 8, 1, 2);
  config.max_positions = window;
  return config;
}

TEST(GradientSum, OfAnySplitIsTheGradientOfTheWholeBatchForADecoder) {
  const auto ids = id_array({sequences, window}, vocabulary, 3);
  for (const Scaling& rules : all_rules) {
    for (const auto positions : {nn::PositionKind::none, nn::PositionKind::learned}) {
      nn::Initialiser initialiser(1, rules);
      nn::TransformerDecoder decoder(
          initialiser, vocabulary,
          {.hidden_size = 8,
           .layers = 2,
           .heads = 2,
           .relative_frequencies = positions == nn::PositionKind::none ? std::size_t{4} : 0},
          {.positions = positions, .max_positions = window + 2});
      expect_joined_is_gradient_of_whole(
          optim::parameters_of(decoder),
          [&](auto& tape, const Part& part) {
            return decoder.next_token_loss(tape, rows(ids, part.begin, part.end));
          },
          "decoder, " + std::string(to_string(rules.rule)));
    }
  }
}

TEST(GradientSum, OfAnySplitIsTheGradientOfTheWholeBatchWhereFewPositionsAreSelected) {
  const auto ids = id_array({sequences, window}, vocabulary, 3);
  for (const Scaling& rules : all_rules) {
    nn::Initialiser initialiser(1, rules);
    nn::BertMlp model(
        initialiser,
        {.vocabulary_size = vocabulary, .window = window, .hidden_size = 8, .layers = 2});
    expect_joined_is_gradient_of_whole(
        optim::parameters_of(model),
        [&](auto& tape, const Part& part) {
          return ops::cross_entropy(
              model(tape, rows(ids, part.begin, part.end), selected_positions(part)),
              selected_labels(part), {.scaling = rules});
        },
        "BertMlp, " + std::string(to_string(rules.rule)));
  }
}

TEST(GradientSum, OfAnySplitIsTheGradientOfTheWholeBatchForTiedTablesAndIgnoredItems) {
  const auto ids = id_array({sequences, window}, vocabulary, 3);
  const auto segments = id_array({sequences, window}, 2, 5);
  for (const Scaling& rules : all_rules) {
    nn::Initialiser initialiser(1, rules);
    nn::Bert model(initialiser, small_bert());
    ASSERT_TRUE(small_bert().tied_readout);
    expect_joined_is_gradient_of_whole(
        optim::parameters_of(model),
        [&](auto& tape, const Part& part) {
          Array<std::int32_t> labels = selected_labels(part);
          // Of some sequences nothing is left, and of a part that has just these.
          for (std::int32_t& label : labels.mutable_span()) {
            if (label % 2 == 0) label = -100;
          }
          const auto hidden = model(tape, rows(ids, part.begin, part.end), {},
                                    rows(segments, part.begin, part.end));
          return ops::cross_entropy(model.masked_token_logits(hidden, selected_positions(part)),
                                    labels, {.scaling = rules, .ignore_index = -100});
        },
        "Bert, " + std::string(to_string(rules.rule)));
  }
}

TEST(GradientSum, OfAnySplitIsTheGradientOfTheWholeBatchForConvolutionsAndRecurrentLayers) {
  const auto all = normal_array<float>({sequences, window, 4}, 6);
  const auto targets = normal_array<float>({sequences, window, 6}, 7);
  const auto part_of = [](const Array<float>& array, const Part& part) {
    const std::size_t row = array.size() / sequences;
    return Array<float>(Shape{part.end - part.begin, window, row / window},
                        array.span().subspan(part.begin * row, (part.end - part.begin) * row));
  };
  for (const Scaling& rules : all_rules) {
    nn::Initialiser initialiser(1, rules.on_cut_edge());
    nn::RecurrentHighway recurrent(initialiser, "recurrent", 4, window);
    nn::Conv1d convolution(initialiser, "convolution", window, window, 3, {.padding = 1});
    nn::RmsNorm norm(initialiser, "norm", window);
    nn::Linear last(initialiser, "last", window, 6);
    std::vector<Parameter*> parameters;
    const auto collect = [&](Parameter& parameter) { parameters.push_back(&parameter); };
    recurrent.for_each_parameter(collect);
    convolution.for_each_parameter(collect);
    norm.for_each_parameter(collect);
    last.for_each_parameter(collect);
    const auto predict = [&](auto& tape, const Part& part) {
      return last(norm(convolution(recurrent(tape.constant(part_of(all, part))))));
    };
    expect_joined_is_gradient_of_whole(
        parameters,
        [&](auto& tape, const Part& part) {
          return ops::mse_loss(predict(tape, part), tape.constant(part_of(targets, part)),
                               {.scaling = rules});
        },
        "mse, " + std::string(to_string(rules.rule)));
    for (const Scaling& of_mean : {rules, rules.on_cut_edge()}) {
      expect_joined_is_gradient_of_whole(
          parameters,
          [&](auto& tape, const Part& part) {
            const auto y = predict(tape, part);
            return ops::mean(ops::reshape(y, {.shape = Shape{y.value().size()}}),
                             {.scaling = of_mean});
          },
          "mean, " + std::string(to_string(rules.rule)));
    }
  }
}

TEST(GradientSum, JoinsTwoUsesOfOneWeightThatCountDifferentRows) {
  // The same layer reads all rows and, in another module, one row of each sequence.
  const auto all = normal_array<float>({sequences, window, 5}, 6);
  for (const Scaling& rules : all_rules) {
    nn::Initialiser initialiser(1, rules.on_cut_edge());
    nn::Linear layer(initialiser, "layer", 5, 5);
    expect_joined_is_gradient_of_whole(
        optim::parameters_of(layer),
        [&](auto& tape, const Part& part) {
          const std::size_t row = window * 5;
          const std::size_t count = part.end - part.begin;
          const auto x = tape.constant(Array<float>(
              Shape{count, window, 5}, all.span().subspan(part.begin * row, count * row)));
          Array<std::int32_t> first(Shape{count});
          for (std::size_t i = 0; i < count; ++i) {
            first.mutable_data()[i] = static_cast<std::int32_t>(i * window);
          }
          const auto y = layer(ops::embedding(first, ops::tanh(layer(x)), {.scaling = rules}));
          return ops::mse_loss(y, tape.constant(Array<float>::filled(y.value().shape(), 1)),
                               {.scaling = rules});
        },
        std::string(to_string(rules.rule)));
  }
}

TEST(GradientSum, RefusesLossesThatCountDifferentSharesUnlessEachIsAddedByItself) {
  const auto ids = id_array({sequences, window}, vocabulary, 3);
  const auto sentences = id_array({sequences}, 2, 8);
  const auto segments = id_array({sequences, window}, 2, 5);
  for (const Scaling& rules : all_rules) {
    nn::Initialiser initialiser(1, rules);
    nn::Bert model(initialiser, small_bert());
    nn::BertClassifier classifier(initialiser, "sentence", 8, 2);
    std::vector<Parameter*> parameters = optim::parameters_of(model);
    for (Parameter* p : optim::parameters_of(classifier)) parameters.push_back(p);
    const auto hidden = [&](auto& tape, const Part& part) {
      return model(tape, rows(ids, part.begin, part.end), {}, rows(segments, part.begin, part.end));
    };
    const auto of_tokens = [&](const auto& h, const Part& part) {
      return ops::cross_entropy(model.masked_token_logits(h, selected_positions(part)),
                                selected_labels(part), {.scaling = rules});
    };
    const auto of_sentences = [&](const auto& h, const Part& part) {
      return ops::cross_entropy(classifier(h), rows(sentences, part.begin, part.end),
                                {.scaling = rules});
    };
    const ops::Add add{.scaling = scaling::none};
    const auto of_both = [&](auto& tape, const Part& part) {
      const auto h = hidden(tape, part);
      return ops::add(of_tokens(h, part), of_sentences(h, part), add);
    };
    Tape<precision::fp32> whole;
    whole.backward(of_both(whole, {0, sequences}));

    const std::vector<Part> uneven{{0, 3}, {3, 5}, {5, 8}};
    optim::GradientSum sum(parameters);
    Tape<precision::fp32> tape;
    tape.backward(of_both(tape, uneven[0]));
    sum.add(tape);
    const Array<float> before = sum.gradient(*parameters[0]);
    tape.clear();
    tape.backward(of_both(tape, uneven[1]));
    expect_domain_error([&] { sum.add(tape); }, {"GradientSum", "same share", "of its own"});
    EXPECT_EQ(sum.count(), 1U);
    EXPECT_TRUE(same_bits(sum.gradient(*parameters[0]), before));

    sum.clear();
    for (const Part& part : uneven) {
      tape.clear();
      tape.backward(of_tokens(hidden(tape, part), part));
      sum.add(tape, 0);
      tape.clear();
      tape.backward(of_sentences(hidden(tape, part), part));
      sum.add(tape, 1);
    }
    for (const Parameter* parameter : parameters) {
      const auto& expected = whole.gradient(*parameter);
      const auto& actual = sum.gradient(*parameter);
      ASSERT_EQ(actual.shape(), expected.shape()) << parameter->name;
      double squares = 0;
      double wrong = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        squares += std::pow(static_cast<double>(expected.data()[i]), 2);
        wrong += std::pow(static_cast<double>(actual.data()[i] - expected.data()[i]), 2);
      }
      EXPECT_LE(std::sqrt(wrong), 5e-6 * std::sqrt(squares))
          << parameter->name << ", " << to_string(rules.rule);
    }
  }
}

TEST(GradientSum, JoinsBatchesOfWhichSomeHaveNoneOfAPartOfTheModel) {
  // Without selected rows the head is left out.
  const auto all = normal_array<float>({sequences, 5}, 6);
  for (const Scaling& rules : all_rules) {
    nn::Initialiser initialiser(1, rules.on_cut_edge());
    nn::Linear trunk(initialiser, "trunk", 5, 5);
    nn::Linear head(initialiser, "head", 5, 3);
    std::vector<Parameter*> parameters = optim::parameters_of(trunk);
    for (Parameter* p : optim::parameters_of(head)) parameters.push_back(p);
    const auto loss = [&](auto& tape, const Part& part, bool has_head) {
      const std::size_t count = part.end - part.begin;
      const auto h = trunk(tape.constant(
          Array<float>(Shape{count, 5}, all.span().subspan(part.begin * 5, count * 5))));
      const auto sum_of = [](const auto& y) {
        return ops::sum(ops::reshape(y, {.shape = Shape{y.value().size()}}),
                        {.scaling = scaling::none});
      };
      return has_head ? sum_of(head(h)) : sum_of(h);
    };
    optim::GradientSum sum(parameters);
    Tape<precision::fp32> tape;
    tape.backward(loss(tape, {0, 5}, true));
    sum.add(tape);
    const Array<float> of_head = sum.gradient(*parameters.back());
    tape.clear();
    tape.backward(loss(tape, {5, 8}, false));
    sum.add(tape);
    EXPECT_TRUE(same_bits(sum.gradient(*parameters.back()), of_head)) << to_string(rules.rule);
  }
}

TEST(GradientSum, AllocatesNothingInAStepLikeTheOneBefore) {
  const auto ids = id_array({sequences, window}, vocabulary, 3);
  nn::Initialiser initialiser(1, scaling::umup);
  nn::Bert model(initialiser, small_bert());
  optim::GradientSum sum(optim::parameters_of(model));
  const std::size_t without_parts = sum.bytes();
  Tape<precision::fp32> tape;
  const auto step = [&] {
    sum.clear();
    for (const Part& part : splits[2]) {
      tape.clear();
      const Array<std::int32_t> segments =
          Array<std::int32_t>::filled({part.end - part.begin, window}, 0);
      const auto hidden = model(tape, rows(ids, part.begin, part.end), {}, segments);
      tape.backward(ops::cross_entropy(model.masked_token_logits(hidden, selected_positions(part)),
                                       selected_labels(part), {.scaling = scaling::umup}));
      sum.add(tape);
    }
  };
  step();
  const std::size_t bytes = sum.bytes();
  // The tied table has two parts and their sum.
  EXPECT_EQ(bytes, without_parts + 2 * vocabulary * 8 * sizeof(float));
  step();
  EXPECT_EQ(sum.bytes(), bytes);
}

/// An op's factors under a rule, of a batch and of one that is twice as large.
TEST(GradientSum, KnowsOfEveryOpHowItsFactorsDependOnTheBatch) {
  const auto expect = [](const auto& op, const auto& are_parameters, const auto& make) {
    const auto of_batch = [&](std::size_t batch) {
      return std::apply(
          [&](const auto&... x) {
            const auto scales = op.scales(x...);
            constexpr std::size_t n = std::tuple_size_v<decltype(scales.backward)>;
            return std::pair{scales.backward,
                             ops::item_counts<decltype(op), n>(op, are_parameters, x...)};
          },
          make(batch));
    };
    const auto [factors, counts] = of_batch(3);
    const auto [factors_of_twice, counts_of_twice] = of_batch(6);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      const auto value = [](const ItemCount& c) {
        return c.power == 0 ? 1 : std::pow(c.items / (c.entries == 0 ? 1 : c.entries), -c.power);
      };
      EXPECT_NEAR(factors_of_twice[i] / factors[i], value(counts_of_twice[i]) / value(counts[i]),
                  1e-12)
          << op.name << ", input " << i;
    }
  };
  const auto f = [](const Shape& shape) { return Array<float>::filled(shape, 1); };
  const auto ids = [](const Shape& shape) { return Array<std::int32_t>::filled(shape, 0); };
  using B = std::size_t;
  for (const Scaling& rules : {scaling::none, scaling::paper, scaling::umup,
                               scaling::paper.on_cut_edge(), scaling::umup.on_cut_edge()}) {
    const auto none = [](auto n) { return std::array<bool, n>{}; };
    expect(ops::Linear{.scaling = rules}, none(std::integral_constant<B, 3>{}), [&](B b) {
      return std::tuple{f({b, 2, 5}), f({7, 5}), f({7})};
    });
    expect(ops::LinearReadout{.scaling = rules}, none(std::integral_constant<B, 2>{}), [&](B b) {
      return std::tuple{f({b, 5}), f({7, 5})};
    });
    expect(ops::GeluLinear{.gelu = {.scaling = rules}, .linear = {.scaling = rules}},
           none(std::integral_constant<B, 2>{}), [&](B b) {
             return std::tuple{f({b, 5}), f({7, 5})};
           });
    expect(ops::Conv1d{.scaling = rules}, none(std::integral_constant<B, 2>{}), [&](B b) {
      return std::tuple{f({b, 4, 9}), f({6, 4, 3})};
    });
    expect(ops::LayerNorm{.scaling = rules}, none(std::integral_constant<B, 3>{}), [&](B b) {
      return std::tuple{f({b, 5}), f({5}), f({5})};
    });
    expect(ops::RmsNorm{.scaling = rules}, none(std::integral_constant<B, 2>{}), [&](B b) {
      return std::tuple{f({b, 5}), f({5})};
    });
    expect(ops::TokenMixing{.scaling = rules}, none(std::integral_constant<B, 2>{}), [&](B b) {
      return std::tuple{f({b, 5, 4}), f({6, 5})};
    });
    expect(ops::RecurrentHighway{.scaling = rules}, none(std::integral_constant<B, 4>{}), [&](B b) {
      return std::tuple{f({b, 5, 4}), f({6, 7}), f({6}), f({3})};
    });
    expect(ops::Embedding{.scaling = rules}, std::array{true}, [&](B b) {
      return std::tuple{ids({b, 4}), f({9, 2})};
    });
    expect(ops::Embedding{.scaling = rules}, std::array{false}, [&](B b) {
      return std::tuple{ids({b * b}), f({b, 5, 2})};
    });
    expect(ops::ScaledDotProductAttention{.scaling = rules}, none(std::integral_constant<B, 4>{}),
           [&](B b) {
             return std::tuple{f({b, 2, 5, 4}), f({b, 2, 5, 4}), f({b, 2, 5, 4}), f({2, 9, 4})};
           });
    expect(ops::CrossEntropy{.scaling = rules}, std::array{false}, [&](B b) {
      return std::tuple{f({b, 4}), ids({b})};
    });
    expect(ops::MseLoss{.scaling = rules}, std::array{false, false}, [&](B b) {
      return std::tuple{f({b, 4}), f({b, 4})};
    });
    expect(ops::Sum{.scaling = rules}, std::array{false}, [&](B b) { return std::tuple{f({b})}; });
    // Under a constraint even the forward factors of these depend on the batch.
    if (rules.effective_constraint().combine == nullptr) {
      expect(ops::Matmul{.scaling = rules}, std::array{false, true}, [&](B b) {
        return std::tuple{f({b, 4}), f({4, 3})};
      });
      expect(ops::Matmul{.scaling = rules}, std::array{true, false}, [&](B b) {
        return std::tuple{f({4, 3}), f({3, b})};
      });
      expect(ops::Add{.scaling = rules}, std::array{false, true}, [&](B b) {
        return std::tuple{f({b, 4, 3}), f({4, 3})};
      });
    }
  }
}

TEST(GradientSum, AddsInFloatWhatFloat16WouldLose) {
  // 2048 + 1 is no float16.
  Parameter parameter{"p", Array<float>::filled({1, 1}, 1), ParameterKind::weight};
  optim::GradientSum sum({&parameter});
  Tape<precision::fp16> tape;
  for (const float gradient : {2048.0F, 1.0F, -0.25F}) {
    tape.clear();
    const auto x = tape.constant(Array<float16>::filled({1, 1}, float16(gradient)));
    const auto y = ops::linear(x, parameter, {.scaling = scaling::none});
    tape.backward(ops::sum(y, {.scaling = scaling::none}));
    sum.add(tape);
  }
  EXPECT_EQ(sum.count(), 3U);
  EXPECT_EQ(sum.gradient(parameter).data()[0], 2048.75F);
}

TEST(GradientSum, OfOneBatchGivesEveryOptimiserTheBitsOfItsTape) {
  const auto expect_same = [](const auto& make_optimiser) {
    const auto run = [&](bool summed) {
      Parameter parameter = test_parameter(ParameterKind::weight, {5, 7});
      auto optimiser = make_optimiser(std::vector<Parameter*>{&parameter});
      optim::GradientSum sum({&parameter});
      Tape<precision::fp32> tape;
      for (std::uint64_t step = 0; step < 3; ++step) {
        tape.clear();
        put_gradient(tape, parameter, gradient_of_step({5, 7}, step), 8);
        sum.clear();
        sum.add(tape);
        if (summed) {
          optimiser.step(sum, 0.1, 8);
        } else {
          optimiser.step(tape, 0.1, 8);
        }
      }
      EXPECT_EQ(optim::gradient_norm(sum, {&parameter}), optim::gradient_norm(tape, {&parameter}));
      return parameter.value;
    };
    EXPECT_TRUE(same_bits(run(true), run(false)));
  };
  expect_same([](std::vector<Parameter*> p) { return optim::Sgd(p); });
  expect_same([](std::vector<Parameter*> p) { return optim::AdamW(p); });
  expect_same([](std::vector<Parameter*> p) { return optim::Lamb(p); });
}

TEST(GradientSum, ThreadCountChangesNoBit) {
  const auto run = [](std::size_t threads) {
    const ThreadCountScope scope(threads);
    Parameter parameter = test_parameter(ParameterKind::weight, {211, 233});
    optim::GradientSum sum({&parameter});
    Tape<precision::fp32> tape;
    for (std::uint64_t k = 0; k < 3; ++k) {
      tape.clear();
      put_gradient(tape, parameter, gradient_of_step({211, 233}, k));
      sum.add(tape);
    }
    return sum.gradient(parameter);
  };
  EXPECT_TRUE(same_bits(run(1), run(2)));
}

TEST(GradientSum, HasNoGradientOfWhatNoLossDependedOnSinceClear) {
  Parameter used = test_parameter(ParameterKind::weight, {2}, "used");
  Parameter unused = test_parameter(ParameterKind::weight, {2}, "unused");
  Parameter foreign = test_parameter(ParameterKind::weight, {2}, "foreign");
  optim::GradientSum sum({&used, &unused});
  EXPECT_EQ(sum.bytes(), 4 * sizeof(float));
  EXPECT_TRUE(sum.gradient(used).empty());
  Tape<precision::fp32> tape;
  put_gradient(tape, used, Array<float>(Shape{2}, {1, 2}));
  sum.add(tape);
  EXPECT_EQ(sum.gradient(used).data()[1], 2);
  EXPECT_TRUE(sum.gradient(unused).empty());
  EXPECT_TRUE(sum.gradient(foreign).empty());
  sum.clear();
  EXPECT_EQ(sum.count(), 0U);
  EXPECT_TRUE(sum.gradient(used).empty());
  sum.add(tape);
  EXPECT_EQ(sum.gradient(used).data()[1], 2) << "the sum before clear is still in it";
}

TEST(GradientSum, KeepsNaNAndInfinityToBeSeen) {
  Parameter parameter = test_parameter(ParameterKind::bias, {3});
  optim::GradientSum sum({&parameter});
  Tape<precision::fp32> tape;
  put_gradient(tape, parameter, Array<float>(Shape{3}, {INFINITY, NAN, 1}));
  sum.add(tape);
  tape.clear();
  put_gradient(tape, parameter, Array<float>(Shape{3}, {-INFINITY, 1, 1}));
  sum.add(tape);
  const float* elements = sum.gradient(parameter).data();
  EXPECT_TRUE(std::isnan(elements[0]));
  EXPECT_TRUE(std::isnan(elements[1]));
  EXPECT_EQ(elements[2], 2);
}

TEST(GradientSum, RefusesWhatItCannotAddUp) {
  Parameter parameter = test_parameter(ParameterKind::weight, {2}, "weight");
  expect_domain_error(
      [&] {
        optim::GradientSum({&parameter, &parameter});
      },
      {"GradientSum", "'weight' twice"});
  expect_domain_error([] { optim::GradientSum({nullptr}); }, {"GradientSum", "null"});
  optim::GradientSum sum({&parameter});
  Tape<precision::fp32> tape;
  expect_domain_error([&] { sum.add(tape); }, {"GradientSum", "backward"});
  optim::Sgd optimiser({&parameter});
  expect_domain_error([&] { optimiser.step(sum, 0.1); }, {"Sgd", "backward"});
  parameter.value = Array<float>(Shape{3});
  put_gradient(tape, parameter, Array<float>(Shape{3}, {1, 2, 3}));
  expect_shape_error([&] { sum.add(tape); }, {"GradientSum", "'weight'", "(2)", "(3)"});
}

}  // namespace gradient_sum_test
