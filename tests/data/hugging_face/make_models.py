#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes two small language models as the transformers package saves them, and figures that it computes
with them in float64, but for the norms, softmax and rotary angles of LLaMA, which it always has in float32:

    gpt2/model.safetensors                a GPT2LMHeadModel, its read-out tied
    llama/model.safetensors.index.json    a LlamaForCausalLM in shards, with a read-out of its own
    */figures.safetensors                 ids and logits; those of a padded batch, with its mask; a prompt
                                          and the tokens that follow it, each the likeliest one

Weights are random, gains and biases as well, and held as float32.

    python3 make_models.py    # transformers 5.24, torch 2.15

The tests read the files; nothing runs this script.
"""

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GPT2 = GPT2Config(vocab_size=97, n_positions=40, n_embd=32, n_layer=2, n_head=4, **NO_TOKENS)
LLAMA = LlamaConfig(vocab_size=89, hidden_size=32, intermediate_size=56, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=40,
                    rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, **NO_TOKENS)
# The first tokens of sequences that are not padding, and how many: none, behind and in front of them.
PADDED_POSITIONS = 8
TOKENS = [(0, 8), (0, 5), (2, 6)]


def randomise(model):
    """Numbers of the size that training leaves: no gain is 1, no bias 0, and attention prefers keys."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() == 1:
                parameter.copy_(0.3 * noise + (0 if name.endswith("bias") else 1))
            elif "wte" in name:
                parameter.copy_(0.3 * noise)  # it is the read-out, too, which would repeat the last token
            elif "wpe" in name or "embed" in name:
                parameter.copy_(noise)
            else:
                # GPT-2's weights are (fan_in, fan_out), others (fan_out, fan_in).
                is_transposed = ".c_" in name
                parameter.copy_(noise / parameter.shape[0 if is_transposed else 1] ** 0.5)


def figures(model, vocabulary):
    ids = torch.randint(0, vocabulary, (2, 10))
    padded_ids = torch.randint(0, vocabulary, (len(TOKENS), PADDED_POSITIONS))
    mask = torch.zeros_like(padded_ids)
    for row, (first, count) in enumerate(TOKENS):
        mask[row, first:first + count] = 1
    prompt = torch.randint(0, vocabulary, (1, 5))
    with torch.no_grad():
        logits = model(ids).logits
        padded_logits = model(padded_ids, attention_mask=mask).logits
        text = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                              max_new_tokens=20)
        largest = model(text).logits[0, prompt.shape[1] - 1:-1].topk(2).values
    following = text[0, prompt.shape[1]:]
    # What the tests compare token by token must depend neither on rounding nor on one token alone.
    assert (largest[:, 0] - largest[:, 1]).min() > 1e-2, "a token is likeliest by little"
    assert following.unique().numel() >= 5, "the same tokens again and again"
    return {"ids": ids.int(), "logits": logits, "padded.ids": padded_ids.int(), "padded.mask": mask.int(),
            "padded.logits": padded_logits, "prompt": prompt[0].int(), "following": following.int()}


def write(folder, model, seed, **options):
    torch.manual_seed(seed)
    randomise(model)
    model.save_pretrained(folder, **options)
    os.remove(Path(folder) / "generation_config.json")
    model.double().eval()
    save_file(figures(model, model.config.vocab_size), Path(folder) / "figures.safetensors")


def main():
    os.chdir(Path(__file__).parent)
    write("gpt2", GPT2LMHeadModel._from_config(GPT2, attn_implementation="eager"), seed=1)
    write("llama", LlamaForCausalLM._from_config(LLAMA, attn_implementation="eager"), seed=1,
          max_shard_size="50KB")


if __name__ == "__main__":
    main()
