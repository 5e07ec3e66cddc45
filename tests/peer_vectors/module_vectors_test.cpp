// SPDX-License-Identifier: MIT
// The modules of the reference library's transformer, with its parameters.
#include <string>

#include "op_vectors.hpp"
#include "unit_scaling/nn/multi_head_attention.hpp"
#include "unit_scaling/nn/swiglu.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/nn/transformer_layer.hpp"
#include "unit_scaling/nn/transformer_stack.hpp"
#include "unit_scaling/scaling/residual_rule.hpp"

namespace peer_vectors {
namespace module_vectors_test {

using namespace unit_scaling;

/// Modules are called "module" here; the reference's parameters have no such first name.
std::string without_first_name(const std::string& name) { return name.substr(name.find('.') + 1); }

/// The residual rule of a case, of the reference's default where it names no numbers.
template <class Run> ResidualRule residual_rule(Run& run) {
  return transformer_residual_scaling_rule(run.parameter("residual_mult", 1.0),
                                           run.parameter("residual_attn_ratio", 1.0));
}

const RegisterOp attention("module_mhsa", [](auto& run) {
  run.expect_no_dropout("dropout_p");
  nn::Initialiser initialiser(0, scaling::umup);
  const auto hidden_size = run.template parameter<std::size_t>("hidden_size", 0);
  nn::MultiHeadAttention module(initialiser, "module", hidden_size,
                                run.template parameter<std::size_t>("heads", 1),
                                {.is_causal = run.template parameter<bool>("is_causal", false),
                                 .mult = run.template parameter<double>("mult", 1)});
  run.load(module, without_first_name);
  run.finish(module(run.input("input")));
});

const RegisterOp mlp("module_mlp", [](auto& run) {
  nn::Initialiser initialiser(0, scaling::umup);
  const auto hidden_size = run.template parameter<std::size_t>("hidden_size", 0);
  nn::SwiGlu module(initialiser, "module", hidden_size,
                    hidden_size * run.template parameter<std::size_t>("expansion_factor", 4));
  run.load(module, without_first_name);
  run.finish(module(run.input("input")));
});

// The reference takes the root mean square of its norms, and the logits of its loss, in float.
const RegisterOp layer("module_transformer_layer", [](auto& run) {
  run.peer_rounds_to_single(2);
  run.expect_no_dropout("dropout_p");
  nn::Initialiser initialiser(0, scaling::umup);
  const auto x = run.input("input");
  const nn::TransformerConfig config{
      .hidden_size = run.template parameter<std::size_t>("hidden_size", 0),
      .context_length = x.shape()[1],
      .heads = run.template parameter<std::size_t>("heads", 1),
      .is_causal = run.template parameter<bool>("is_causal", false)};
  nn::TransformerLayer module(initialiser, "module", config,
                              run.template parameter<double>("mhsa_tau", 1),
                              run.template parameter<double>("mlp_tau", 1));
  run.load(module, without_first_name);
  run.finish(module(x));
});

const RegisterOp stack("module_transformer_stack", [](auto& run) {
  run.expect_no_dropout("dropout_p");
  nn::Initialiser initialiser(0, scaling::umup);
  const auto x = run.input("input");
  const nn::TransformerConfig config{
      .hidden_size = run.template parameter<std::size_t>("hidden_size", 0),
      .context_length = x.shape()[1],
      .layers = run.template parameter<std::size_t>("layers", 1),
      .heads = run.template parameter<std::size_t>("heads", 1),
      .is_causal = run.template parameter<bool>("is_causal", false),
      .residual_rule = residual_rule(run)};
  run.peer_rounds_to_single(2 * config.layers);
  nn::TransformerStack module(initialiser, "module", config);
  run.load(module, without_first_name);
  run.finish(module(x));
});

const RegisterOp decoder("module_transformer_decoder", [](auto& run) {
  run.expect_no_dropout("dropout_p");
  nn::Initialiser initialiser(0, scaling::umup);
  const auto ids = run.indices("input_ids");
  const nn::TransformerConfig config{
      .hidden_size = run.template parameter<std::size_t>("hidden_size", 0),
      .context_length = ids.columns(),
      .layers = run.template parameter<std::size_t>("layers", 1),
      .heads = run.template parameter<std::size_t>("heads", 1),
      .residual_rule = residual_rule(run)};
  run.peer_rounds_to_single(2 * config.layers + 1);
  nn::TransformerDecoder module(initialiser, run.template parameter<std::size_t>("vocab_size", 0),
                                config, {.positions = nn::PositionKind::none});
  run.load(module, [](const std::string& name) {
    return name == "embedding.table" ? std::string("embedding.weight") : name;
  });
  run.finish(module.next_token_loss(run.tape(), ids));
});

}  // namespace module_vectors_test
}  // namespace peer_vectors
