// SPDX-License-Identifier: MIT
// Uses what the library has under several policies, so that compilers see its templates as a user's
// program makes them see. Compiled by `./dev check` under every strict flag; never run.
#include <cstdint>
#include <string>
#include <vector>

#include "unit_scaling/analysis.hpp"
#include "unit_scaling/recipes/simulation.hpp"
#include "unit_scaling/train/weight_folding.hpp"
#include "unit_scaling/unit_scaling.hpp"

namespace us = unit_scaling;

namespace {

template <us::Precision P> void use(us::TapeMode mode) {
  us::Tape<P> tape(mode);
  tape.use_recipe(us::Simulation::parse("e3m4/e5m2"));
  us::nn::Initialiser initialiser(1, us::scaling::umup);
  us::nn::TransformerDecoder decoder(
      initialiser, 11,
      {.hidden_size = 8, .context_length = 4, .heads = 2, .relative_frequencies = 4});
  us::nn::Bert bert(initialiser, us::nn::bert_config(11, 8, 1, 2));
  us::nn::BertClassifier classifier(initialiser, "classifier", 8, 2);
  us::nn::BertSpan span(initialiser, "span", 8);
  us::nn::BertMlp mlp(initialiser, {.vocabulary_size = 11, .window = 4, .hidden_size = 8});
  us::nn::Conv1d convolution(initialiser, "convolution", 4, 4, 3, {.padding = 1});
  us::nn::RecurrentHighway recurrent(initialiser, "recurrent", 4, 4);
  us::nn::SwiGlu swiglu(initialiser, "swiglu", 4, 8);
  const us::Array<std::int32_t> ids = us::Array<std::int32_t>::filled({2, 4}, 1);
  const us::Array<std::int32_t> labels = us::Array<std::int32_t>::filled(us::Shape{2}, 1);

  us::analysis::Tracker tracker;
  tracker.attach(tape);
  const auto hidden = bert(tape, ids, ids, ids);
  const auto logits = bert.masked_token_logits(hidden, labels);
  const auto x = recurrent(convolution(tape.input(us::Array<float>({2, 4, 4}))));
  const auto y = us::ops::silu(us::ops::relu(us::ops::sigmoid(us::ops::tanh(swiglu(x)))));
  const auto z = us::ops::softmax(us::ops::mul(us::ops::gelu(y), us::ops::dropout(y)));
  const auto several = us::ops::add(us::ops::mse_loss(us::ops::sum(z), us::ops::mean(z)),
                                    decoder.next_token_loss(tape, ids));
  const auto loss = us::ops::add(us::ops::add(several, us::ops::cross_entropy(logits, labels)),
                                 us::ops::add(us::ops::cross_entropy(classifier(hidden), labels),
                                              us::ops::cross_entropy(span(hidden).begin, labels)));
  tape.backward(loss);
  auto parameters = us::optim::parameters_of(decoder);
  us::optim::GradientSum sum(parameters);
  sum.add(tape);
  us::optim::Sgd(parameters).step(sum, 0.1);
  us::optim::AdamW(parameters).step(tape, 0.1);
  us::optim::Lamb(parameters).step(tape, 0.1);
  static_cast<void>(mlp(tape, ids, labels));
  static_cast<void>(us::analysis::explain(
      decoder, [&](const auto& model, auto& on) { return model.next_token_loss(on, ids); }));
  static_cast<void>(us::optim::gradient_norm(sum, parameters));
}

/// Ops on plain arrays, which a policy with double may have, too.
template <us::Precision P> void use_ops() {
  const P precision;
  using T = typename P::storage;
  const auto x = us::Array<T>::filled({2, 6}, T(1));
  const auto w = us::Array<T>::filled({6, 6}, T(1));
  const auto g = us::Array<T>::filled(us::Shape{6}, T(1));
  const auto both = [&](const auto& op, const auto&... arguments) {
    const auto scales = op.scales(arguments...);
    const auto forward = op.forward(precision, scales, arguments...);
    static_cast<void>(op.backward(precision, scales, forward.saved, forward.output));
  };
  both(us::ops::Gelu{}, x);
  both(us::ops::Gelu{.form = us::ops::GeluForm::tanh_approximation}, x);
  both(us::ops::Silu{}, x);
  both(us::ops::SiluGlu{}, x, x);
  both(us::ops::Tanh{}, x);
  both(us::ops::Sigmoid{}, x);
  both(us::ops::Relu{}, x);
  both(us::ops::Softmax{}, x);
  both(us::ops::LayerNorm{}, x, g, g);
  both(us::ops::RmsNorm{}, x, g);
  both(us::ops::Linear{}, x, w, g);
  both(us::ops::GeluLinear{}, x, w, g);
  both(us::ops::Matmul{}, x, w);
  both(us::ops::Rotary{}, x);
  both(us::ops::ScaledDotProductAttention{}, x, x, x);
  both(us::ops::Elementwise([](auto v) { return v * v; }, [](auto v) { return 2 * v; }), x);
}

}  // namespace

int main() {
  use_ops<us::precision::fp64>();
  use_ops<us::precision::fp16>();
  use<us::precision::fp8>(us::TapeMode::training);
  use<us::precision::bf16>(us::TapeMode::training);
  use<us::precision::fp32>(us::TapeMode::training);
  us::set_thread_count(1);
}
