// SPDX-License-Identifier: MIT
/// @file
/// Layer train: the names that parameters of GPT-2 and LLaMA have in files of the transformers
/// package, <https://github.com/huggingface/transformers>.
///
/// Only who reads or writes such files needs it, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/nn/transformer_layer.hpp"
#include "unit_scaling/train/weight_names.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// The names of GPT-2 for an nn::TransformerDecoder with layer norms, a GELU network, biases in
/// attention, learned positions and a tied read-out.
/// @param prefix "transformer." in files of a GPT2LMHeadModel, "" in those of a GPT2Model, among
///        them the published gpt2.
/// @see Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
[[nodiscard]] inline WeightNames gpt2_weight_names(std::string_view prefix = "transformer.") {
  const auto in = [&](const char* name) { return std::string(prefix) + name; };
  constexpr auto transposed = StoredAs::transposed;
  return {
      {"embedding.table", {in("wte.weight")}},
      {"embedding.positions.table", {in("wpe.weight")}},
      {"layers.{}.mhsa_norm.gain", {in("h.{}.ln_1.weight")}},
      {"layers.{}.mhsa_norm.bias", {in("h.{}.ln_1.bias")}},
      {"layers.{}.mhsa.linear_qkv.weight", {in("h.{}.attn.c_attn.weight")}, transposed},
      {"layers.{}.mhsa.linear_qkv.bias", {in("h.{}.attn.c_attn.bias")}},
      {"layers.{}.mhsa.linear_o.weight", {in("h.{}.attn.c_proj.weight")}, transposed},
      {"layers.{}.mhsa.linear_o.bias", {in("h.{}.attn.c_proj.bias")}},
      {"layers.{}.mlp_norm.gain", {in("h.{}.ln_2.weight")}},
      {"layers.{}.mlp_norm.bias", {in("h.{}.ln_2.bias")}},
      {"layers.{}.mlp.up.weight", {in("h.{}.mlp.c_fc.weight")}, transposed},
      {"layers.{}.mlp.up.bias", {in("h.{}.mlp.c_fc.bias")}},
      {"layers.{}.mlp.down.weight", {in("h.{}.mlp.c_proj.weight")}, transposed},
      {"layers.{}.mlp.down.bias", {in("h.{}.mlp.c_proj.bias")}},
      {"final_norm.gain", {in("ln_f.weight")}},
      {"final_norm.bias", {in("ln_f.bias")}},
  };
}

/// The names of LLaMA for an nn::TransformerDecoder with RMS norms with gain, a SwiGLU network and
/// rotary positions.
/// @param config, readout those of the model: files have queries, keys and values apart, biases of
///        attention if `attention_bias` says so, and a read-out unless it is tied.
/// @param prefix "model." in files of a LlamaForCausalLM, "" in those of a LlamaModel.
/// @throws DomainError if `config` has no heads.
/// @see Touvron et al. 2023, arXiv:2302.13971.
[[nodiscard]] inline WeightNames llama_weight_names(
    const nn::TransformerConfig& config, const nn::TransformerDecoder::ReadoutOptions& readout = {},
    std::string_view prefix = "model.") {
  const auto in = [&](const std::string& name) { return std::string(prefix) + name; };
  const std::size_t kv_heads = config.kv_heads == 0 ? config.heads : config.kv_heads;
  std::vector<WeightEntry> entries{
      {"embedding.table", {in("embed_tokens.weight")}},
      {"layers.{}.mhsa_norm.gain", {in("layers.{}.input_layernorm.weight")}},
      {"layers.{}.mlp_norm.gain", {in("layers.{}.post_attention_layernorm.weight")}},
      {"layers.{}.mlp.linear_1.weight", {in("layers.{}.mlp.up_proj.weight")}},
      {"layers.{}.mlp.linear_gate.weight", {in("layers.{}.mlp.gate_proj.weight")}},
      {"layers.{}.mlp.linear_2.weight", {in("layers.{}.mlp.down_proj.weight")}},
      {"final_norm.gain", {in("norm.weight")}},
  };
  const auto add_attention = [&](const std::string& kind) {
    const std::string attention = in("layers.{}.self_attn.");
    entries.push_back({"layers.{}.mhsa.linear_qkv." + kind,
                       {{attention + "q_proj." + kind, config.heads},
                        {attention + "k_proj." + kind, kv_heads},
                        {attention + "v_proj." + kind, kv_heads}}});
    entries.push_back({"layers.{}.mhsa.linear_o." + kind, {attention + "o_proj." + kind}});
  };
  add_attention("weight");
  if (config.attention_bias) add_attention("bias");
  if (!readout.tied) entries.push_back({"projection.weight", {"lm_head.weight"}});
  return WeightNames(std::move(entries));
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
