// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/gradient_sum.hpp"

#include <gtest/gtest.h>

#include <any>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
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

/// What a sum shows of itself, by name.
std::map<std::string, std::any> states_of(optim::GradientSum& sum) {
  std::map<std::string, std::any> states;
  sum.for_each_state([&](const std::string& name, auto& state) { states[name] = state; });
  return states;
}

/// Writes states to a sum, as one that resumes does.
void set_states(optim::GradientSum& sum, const std::map<std::string, std::any>& states) {
  sum.for_each_state([&]<class T>(const std::string& name, T& state) {
    state = std::any_cast<const T&>(states.at(name));
  });
}

/// Expects that the joined gradients of the parts of a batch are those of the whole, the oracle,
/// and the same to the bit if each part is added to a new sum that took the states of the one
/// before.
/// @param loss `loss(tape, part)` records the loss of a part.
template <class Loss>
void expect_joined_is_gradient_of_whole(const std::vector<Parameter*>& parameters, const Loss& loss,
                                        const std::string& what) {
  Tape<precision::fp32> whole;
  whole.backward(loss(whole, Part{0, sequences}));
  optim::GradientSum sum(parameters);
  for (const auto& split : splits) {
    sum.clear();
    std::map<std::string, std::any> states = states_of(sum);
    optim::GradientSum resumed(parameters);
    Tape<precision::fp32> tape;
    for (const Part& part : split) {
      tape.clear();
      tape.backward(loss(tape, part));
      sum.add(tape);
      resumed = optim::GradientSum(parameters);
      set_states(resumed, states);
      resumed.add(tape);
      states = states_of(resumed);
    }
    EXPECT_EQ(resumed.count(), sum.count());
    for (const Parameter* parameter : parameters) {
      const auto& expected = whole.gradient(*parameter);
      const auto& actual = sum.gradient(*parameter);
      EXPECT_TRUE(same_bits(resumed.gradient(*parameter), actual))
          << parameter->name << ", " << what;
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

/// Those that work with any number of inputs, and one of a user's own that is no power.
const std::vector<Constraint> every_constraint{
    constraint::none,
    constraint::gmean,
    constraint::hmean,
    constraint::amean,
    constraint::to_output_scale,
    {"root of squares", [](double forward, std::span<const double> backward) {
       double squares = forward * forward;
       for (const double factor : backward) squares += factor * factor;
       return std::sqrt(squares);
     }}};

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
           .context_length = window,
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

TEST(GradientSum, OfAnySplitIsTheGradientOfTheWholeBatchForMeansAndSumsUnderAnyConstraint) {
  const auto all = normal_array<float>({sequences, 5}, 6);
  for (const Constraint& each : every_constraint) {
    for (const Scaling& rules : {scaling::paper.with(each), scaling::umup.with(each)}) {
      nn::Initialiser initialiser(1, rules.on_cut_edge());
      nn::Linear layer(initialiser, "layer", 5, 1);
      const auto expect = [&](const auto& reduce) {
        expect_joined_is_gradient_of_whole(
            optim::parameters_of(layer),
            [&](auto& tape, const Part& part) {
              const std::size_t count = part.end - part.begin;
              const auto y = layer(tape.constant(
                  Array<float>(Shape{count, 5}, all.span().subspan(part.begin * 5, count * 5))));
              return reduce(ops::reshape(ops::tanh(y), {.shape = Shape{count}}));
            },
            std::string(each.name) + ", " + std::string(to_string(rules.rule)));
      };
      expect([&](const auto& y) { return ops::mean(y, {.scaling = rules}); });
      expect([&](const auto& y) { return ops::sum(y, {.scaling = rules}); });
    }
  }
}

/// The loss of rows [begin, end) of `all` times a weight plus a bias, without ops::linear.
auto product_loss(Tape<precision::fp32>& tape, const Array<float>& all, const Part& part,
                  const Parameter& weight, const Parameter* bias, const Scaling& scaling) {
  const std::size_t count = part.end - part.begin;
  const std::size_t columns = all.columns();
  const auto x = tape.constant(Array<float>(
      Shape{count, columns}, all.span().subspan(part.begin * columns, count * columns)));
  auto y = ops::matmul(x, tape.parameter(weight),
                       {.scaling = bias == nullptr ? scaling : scaling.on_cut_edge()});
  if (bias != nullptr) y = ops::add(y, tape.parameter(*bias), {.scaling = scaling});
  return ops::mse_loss(y, tape.constant(Array<float>::filled(y.value().shape(), 0.3F)),
                       {.scaling = scaling});
}

TEST(GradientSum, RefusesASecondBatchWhereAConstraintMakesTheOutputDependOnTheSize) {
  const auto all = normal_array<float>({sequences, 5}, 6);
  Parameter weight{"w", normal_array<float>({5, 7}, 9), ParameterKind::weight};
  Parameter bias{"b", normal_array<float>({7}, 8), ParameterKind::bias};
  for (const Constraint& each : every_constraint) {
    for (const Scaling& rules : {scaling::paper.with(each), scaling::umup.with(each)}) {
      for (const Parameter* added :
           {static_cast<const Parameter*>(nullptr), static_cast<const Parameter*>(&bias)}) {
        std::vector<Parameter*> parameters{&weight};
        if (added != nullptr) parameters.push_back(&bias);
        const auto loss = [&](auto& tape, const Part& part) {
          return product_loss(tape, all, part, weight, added, rules);
        };
        const std::string what = std::string(each.name) + (added == nullptr ? ", matmul" : ", add");
        if (each == constraint::none || each == constraint::to_output_scale) {
          expect_joined_is_gradient_of_whole(parameters, loss, what);
          continue;
        }
        for (const Part& second : {Part{1, 8}, Part{1, 2}}) {
          optim::GradientSum sum(parameters);
          Tape<precision::fp32> tape;
          tape.backward(loss(tape, {0, 1}));
          sum.add(tape);
          const Array<float> before = sum.gradient(weight);
          EXPECT_TRUE(same_bits(before, tape.gradient(weight))) << what;
          tape.clear();
          tape.backward(loss(tape, second));
          expect_domain_error([&] { sum.add(tape); },
                              {"GradientSum", added == nullptr ? "'w' by 'matmul'" : "'b' by 'add'",
                               "on_cut_edge", "outside_batch"});
          EXPECT_EQ(sum.count(), 1U);
          EXPECT_TRUE(same_bits(sum.gradient(weight), before)) << what;
          // One of no items changes no size.
          tape.clear();
          tape.backward(loss(tape, {3, 3}));
          sum.add(tape);
          EXPECT_TRUE(same_bits(sum.gradient(weight), before)) << what;
          sum.clear();
          tape.clear();
          tape.backward(loss(tape, second));
          sum.add(tape);
          EXPECT_TRUE(same_bits(sum.gradient(weight), tape.gradient(weight))) << what;
        }
      }
    }
  }
}

TEST(GradientSum, RefusesBatchesWhoseUsesOfAWeightItWouldTakeForEachOther) {
  const auto all = normal_array<float>({sequences, 5}, 6);
  const auto rows_of = [&](auto& tape, const Part& part) {
    return tape.constant(
        Array<float>(Shape{part.end - part.begin, 5},
                     all.span().subspan(part.begin * 5, (part.end - part.begin) * 5)));
  };
  for (const Scaling& rules : {scaling::paper, scaling::umup}) {
    nn::Initialiser initialiser(1, rules.on_cut_edge());
    nn::Linear layer(initialiser, "layer", 5, 5);
    const auto loss_of = [&](const auto& y) {
      return ops::sum(ops::reshape(y, {.shape = Shape{y.value().size()}}),
                      {.scaling = scaling::none});
    };
    const auto first_rows = [&](std::size_t count, const auto& y) {
      Array<std::int32_t> ids(Shape{count});
      for (std::size_t i = 0; i < count; ++i) ids.mutable_data()[i] = static_cast<std::int32_t>(i);
      return ops::embedding(ids, y, {.scaling = rules});
    };
    const ops::Add add{.scaling = scaling::none};
    const auto expect_refused = [&](const auto& before, const auto& next,
                                    std::initializer_list<std::string_view> texts) {
      optim::GradientSum sum(optim::parameters_of(layer));
      Tape<precision::fp32> tape;
      tape.backward(before(tape));
      sum.add(tape);
      const Array<float> kept = sum.gradient(*optim::parameters_of(layer).front());
      tape.clear();
      tape.backward(next(tape));
      expect_domain_error([&] { sum.add(tape); }, texts);
      EXPECT_EQ(sum.count(), 1U);
      EXPECT_TRUE(same_bits(sum.gradient(*optim::parameters_of(layer).front()), kept));
      // As after nothing but the first.
      tape.clear();
      tape.backward(before(tape));
      sum.add(tape);
      EXPECT_EQ(sum.count(), 2U);
    };
    const auto once = [&](auto& tape) { return loss_of(layer(rows_of(tape, {0, 3}))); };
    const auto in_a_row = [&](auto& tape) {
      const auto y = layer(rows_of(tape, {3, 8}));
      return ops::add(loss_of(y), loss_of(layer(first_rows(4, y))), add);
    };
    const auto side_by_side = [&](auto& tape) {
      return ops::add(loss_of(layer(rows_of(tape, {3, 8}))), loss_of(layer(rows_of(tape, {4, 6}))),
                      add);
    };
    expect_refused(once, in_a_row, {"number of uses", "' by 'linear'", "'layer.", "1, got 2"});
    expect_refused(in_a_row, once, {"number of uses", "' by 'linear'", "'layer.", "2, got 1"});
    expect_refused(once, side_by_side, {"number of uses", "' by 'linear'", "'layer.", "1, got 2"});
    expect_refused(side_by_side, once, {"number of uses", "' by 'linear'", "'layer.", "2, got 1"});
    // A use whose gradient comes another way.
    const auto selected = [&](auto& tape) {
      return loss_of(first_rows(2, layer(rows_of(tape, {3, 8}))));
    };
    expect_refused(once, selected, {"'layer.", "' by 'linear'", "same ops"});
    expect_refused(selected, once, {"'layer.", "' by 'linear'", "same ops"});
    // The weight's own op counts nothing, the one behind it does.
    nn::Initialiser plain(1, scaling::none);
    nn::Linear uncounted(plain, "uncounted", 5, 5);
    optim::GradientSum sum(optim::parameters_of(uncounted));
    Tape<precision::fp32> tape;
    tape.backward(loss_of(uncounted(rows_of(tape, {0, 3}))));
    sum.add(tape);
    tape.clear();
    tape.backward(loss_of(first_rows(2, uncounted(rows_of(tape, {3, 8})))));
    expect_domain_error([&] { sum.add(tape); }, {"an input by 'embedding'", "every batch"});
  }
}

TEST(GradientSum, SaysHowOftenAnUnrolledLayerIsUsedAndJoinsStepsOfModulesOfTheirOwn) {
  const auto all = normal_array<float>({sequences, 5}, 6);
  const std::array<std::string, 4> steps{"step 0", "step 1", "step 2", "step 3"};
  for (const Scaling& rules : all_rules) {
    std::vector<Parameter> of_step;  // the same weight, once for each step
    for (const std::string& step : steps) {
      of_step.push_back({step, normal_array<float>({5, 5}, 3), ParameterKind::weight});
    }
    Parameter shared{"shared", normal_array<float>({5, 5}, 3), ParameterKind::weight};
    const auto loss = [&](auto& tape, const Part& part, std::size_t length, bool has_modules,
                          bool is_shared) {
      Variable<precision::fp32> x = tape.constant(
          Array<float>(Shape{part.end - part.begin, 5},
                       all.span().subspan(part.begin * 5, (part.end - part.begin) * 5)));
      for (std::size_t k = 0; k < length; ++k) {
        const auto module = tape.enter(has_modules ? std::string_view(steps[k]) : "all");
        x = ops::tanh(ops::linear(x, tape.parameter(is_shared ? shared : of_step[k]),
                                  {.scaling = rules.on_cut_edge()}));
      }
      return ops::sum(ops::reshape(x, {.shape = Shape{x.value().size()}}),
                      {.scaling = scaling::none});
    };
    const std::array<Part, 2> parts{Part{0, 3}, Part{3, 8}};
    Array<double> expected(Shape{5, 5});
    for (double& element : expected.mutable_span()) element = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      for (std::size_t i = 0; i < 2; ++i) {
        const std::size_t length = 4 - i;
        if (k >= length) continue;
        const double rows = static_cast<double>(parts[i].end - parts[i].begin);
        // Only three rows take the last step.
        const double share =
            rules.rule == Rule::none || k == 3 ? 1 : std::sqrt(rows / double{sequences});
        Tape<precision::fp32> tape;
        tape.backward(loss(tape, parts[i], length, true, false));
        for (std::size_t j = 0; j < expected.size(); ++j) {
          expected.mutable_data()[j] +=
              share * static_cast<double>(tape.gradient(of_step[k]).data()[j]);
        }
      }
    }
    for (const bool has_modules : {true, false}) {
      optim::GradientSum sum({&shared});
      Tape<precision::fp32> tape;
      tape.backward(loss(tape, parts[0], 4, has_modules, true));
      sum.add(tape);
      tape.clear();
      tape.backward(loss(tape, parts[1], 3, has_modules, true));
      if (!has_modules && rules.rule != Rule::none) {
        expect_domain_error([&] { sum.add(tape); },
                            {"number of uses of 'shared' by 'linear'", "4, got 3", "Tape::enter"});
        continue;
      }
      sum.add(tape);
      for (std::size_t j = 0; j < expected.size(); ++j) {
        EXPECT_NEAR(static_cast<double>(sum.gradient(shared).data()[j]), expected.data()[j], 1e-5);
      }
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

using Factors = std::map<std::string, Array<std::uint64_t>>;
using Parts = std::map<std::string, Array<float>>;

/// Gives the entry of a map another name.
void rename(auto& map, const std::string& from, const std::string& to) {
  auto node = map.extract(from);
  ASSERT_FALSE(node.empty()) << from;
  node.key() = to;
  map.insert(std::move(node));
}

TEST(GradientSum, RefusesStatesThatNoSumOfItsParametersShowsAndStaysAsItWas) {
  const auto all = normal_array<float>({sequences, 5}, 6);
  nn::Initialiser initialiser(1);
  nn::Linear layer(initialiser, "layer", 5, 3);
  const auto parameters = optim::parameters_of(layer);
  const auto loss = [&](auto& tape) {
    const auto y = layer(tape.constant(all));
    return ops::mse_loss(y, tape.constant(normal_array<float>({sequences, 3}, 7)));
  };
  optim::GradientSum sum(parameters);
  Tape<precision::fp32> tape;
  tape.backward(loss(tape));
  sum.add(tape);
  const auto states = states_of(sum);
  // The keys, as the comments of the sum describe them: the weight's factor is that of one op.
  const auto factors = std::any_cast<Factors>(states.at("factors"));
  const auto parts = std::any_cast<Parts>(states.at("parts"));
  ASSERT_EQ(parts.size(), 2U);
  const std::string root = "0..none";
  ASSERT_TRUE(factors.contains(root));
  const std::string use = std::prev(factors.end())->first;
  const std::string number = use.substr(0, use.find('.'));
  ASSERT_NE(use.find("linear"), std::string::npos);
  const std::string weight = parts.lower_bound("layer.weight.0.")->first;
  ASSERT_TRUE(weight.starts_with("layer.weight.0.")) << weight;

  const auto real = [](double value) { return std::bit_cast<std::uint64_t>(value); };
  const auto put = [&](const std::string& key, std::size_t at, std::uint64_t word) {
    return [=](Factors& changed, Parts&) { changed.at(key).mutable_data()[at] = word; };
  };
  // Words of a factor: 0 the size of the op's name, 2 and 3 the factors it comes from, 7 inputs,
  // 8 the parameter, 9 a bool, 11 items, 12 entries, 14 a power.
  const std::uint64_t index = std::stoull(number);
  const std::pair<std::string, std::function<void(Factors&, Parts&)>> changes[] = {
      {"no root", [&](Factors& f, Parts&) { f.erase(root); }},
      {"no factor", [&](Factors& f, Parts&) { f.clear(); }},
      {"a factor twice", [&](Factors& f, Parts&) { f["00..none"] = f.at(root); }},
      {"a far number", [&](Factors& f, Parts&) { rename(f, use, "7" + use); }},
      {"a huge number",
       [&](Factors& f, Parts&) { rename(f, use, "18446744073709551616.linear.none"); }},
      {"a negative number", [&](Factors& f, Parts&) { rename(f, use, "-" + use); }},
      {"no number", [&](Factors& f, Parts&) { rename(f, use, "linear.none"); }},
      {"no full stop", [&](Factors& f, Parts&) { rename(f, use, number); }},
      {"an empty key", [&](Factors& f, Parts&) { rename(f, use, ""); }},
      {"too few words",
       [&](Factors& f, Parts&) { f.at(use) = Array<std::uint64_t>::filled({3}, 0); }},
      {"no words", [&](Factors& f, Parts&) { f.at(use) = Array<std::uint64_t>(); }},
      {"a short name", put(use, 0, 3)},
      {"a long name", put(use, 0, ~std::uint64_t{0})},
      {"of itself", put(use, 2, index)},
      {"of a later one", put(use, 2, 1000)},
      {"the other of itself", put(use, 3, index)},
      {"many inputs", put(use, 7, 3)},
      {"a far parameter", put(use, 8, 3)},
      {"half a bool", put(use, 9, 2)},
      {"items of NaN", put(use, 11, real(std::nan("")))},
      {"negative items", put(use, 11, real(-1))},
      {"infinite entries", put(use, 12, real(HUGE_VAL))},
      {"a power of NaN", put(use, 14, real(std::nan("")))},
      {"a part of nobody", [&](Factors&, Parts& p) { rename(p, weight, "other" + weight); }},
      {"a part twice, and another one not",
       [&](Factors&, Parts& p) {
         rename(p, weight, "layer.weight.1.0");
         p["layer.weight.1." + number] = p.at("layer.weight.1.0");
       }},
      {"a part of no number", [&](Factors&, Parts& p) { rename(p, weight, "layer.weight.x.0"); }},
      {"a part of no factor", [&](Factors&, Parts& p) { rename(p, weight, "layer.weight.0."); }},
      {"a part of one number", [&](Factors&, Parts& p) { rename(p, weight, "0"); }},
      {"a far factor", [&](Factors&, Parts& p) { rename(p, weight, "layer.weight.0.1000"); }},
      {"a second part alone",
       [&](Factors&, Parts& p) { rename(p, weight, "layer.weight.1." + number); }},
      {"a part far away", [&](Factors&, Parts& p) { rename(p, weight, "layer.weight.99.0"); }},
      {"a part twice", [&](Factors&, Parts& p) { p["layer.weight.00.0"] = p.at(weight); }},
      {"another shape", [&](Factors&, Parts& p) { p.at(weight) = Array<float>::filled({15}, 0); }},
      {"no elements", [&](Factors&, Parts& p) { p.at(weight) = Array<float>(); }},
  };
  for (const auto& [what, change] : changes) {
    Factors changed_factors = factors;
    Parts changed_parts = parts;
    change(changed_factors, changed_parts);
    auto changed = states;
    changed["factors"] = changed_factors;
    changed["parts"] = changed_parts;
    try {
      set_states(sum, changed);
      ADD_FAILURE() << what << " was taken";
    } catch (const std::invalid_argument& error) {
      EXPECT_TRUE(std::string_view(error.what()).starts_with("GradientSum: expected ")) << what;
    }
    const auto after = states_of(sum);
    EXPECT_EQ(std::any_cast<Factors>(after.at("factors")), factors) << what;
    EXPECT_EQ(std::any_cast<Parts>(after.at("parts")), parts) << what;
    EXPECT_EQ(sum.count(), 1U) << what;
  }
  set_states(sum, states);
  optim::GradientSum other(parameters);
  set_states(other, states);
  EXPECT_EQ(other.gradient(*parameters[0]), sum.gradient(*parameters[0])) << "as it is";
}

TEST(GradientSum, ShowsNoStatesOfParametersOfOneName) {
  Parameter first = test_parameter(ParameterKind::weight, {3}, "same");
  Parameter second = test_parameter(ParameterKind::weight, {3}, "same");
  expect_domain_error(
      [&] {
        optim::GradientSum({&first, &second});
      },
      {"GradientSum", "two called 'same'"});
  second.name = "other";
  optim::GradientSum sum({&first, &second});
  second.name = "same";
  expect_domain_error([&] { (void)states_of(sum); }, {"GradientSum", "'same' twice"});
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
            return std::pair{scales.backward, ops::item_counts(op, are_parameters, x...)};
          },
          make(batch));
    };
    const auto [factors, counts] = of_batch(3);
    const auto [factors_of_twice, counts_of_twice] = of_batch(6);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      const auto value = [](const ItemCount& c) {
        if (!c.depends_on_batch()) return 1.0;
        const double shared = c.shared.constraint.combine == nullptr ? 1 : c.shared(c.items);
        return shared * std::pow(c.items / (c.entries == 0 ? 1 : c.entries), -c.power);
      };
      EXPECT_NEAR(factors_of_twice[i] / factors[i], value(counts_of_twice[i]) / value(counts[i]),
                  1e-12)
          << op.name << ", input " << i;
    }
  };
  const auto f = [](const Shape& shape) { return Array<float>::filled(shape, 1); };
  const auto ids = [](const Shape& shape) { return Array<std::int32_t>::filled(shape, 0); };
  using B = std::size_t;
  std::vector<Scaling> every_scaling{scaling::none};
  for (const Constraint& each : every_constraint) {
    every_scaling.push_back(scaling::paper.with(each));
    every_scaling.push_back(scaling::umup.with(each));
  }
  for (const Scaling& rules : every_scaling) {
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
    expect(ops::Matmul{.scaling = rules}, std::array{false, true}, [&](B b) {
      return std::tuple{f({b, 4}), f({4, 3})};
    });
    expect(ops::Matmul{.scaling = rules}, std::array{true, false}, [&](B b) {
      return std::tuple{f({4, 3}), f({3, b})};
    });
    expect(ops::Add{.scaling = rules}, std::array{false, true}, [&](B b) {
      return std::tuple{f({b, 4, 3}), f({4, 3})};
    });
    expect(ops::Add{.scaling = rules}, std::array{true, false}, [&](B b) {
      return std::tuple{f({1}), f({b, 1})};
    });
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
