#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""nanoGPT's recipe for characters in PyTorch, on the batches that benchmarks/nanogpt.cpp wrote. For
docs/results.md. Prints the loss of the step, and the median rate of the steps so far.

    nanogpt --data TEXT --batches batches.bin
    python3 nanogpt.py batches.bin --vocabulary 66 --precision bf16 --threads 16
"""

import argparse
import math
import statistics
import time

import numpy
import torch
from torch import nn
from torch.nn import functional as F

WIDTH, LAYERS, HEADS, LENGTH, DROPOUT = 384, 6, 6, 256, 0.2
VALIDATION, WARMUP = 128, 100


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return F.layer_norm(x, (WIDTH,), self.weight, None, 1e-5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = Norm(), Norm()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2)
                   for y in self.qkv(self.norm1(x)).split(WIDTH, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True,
                                           dropout_p=DROPOUT if self.training else 0)
        x = x + self.dropout(self.out(y.transpose(1, 2).reshape(b, t, WIDTH)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class Gpt(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary = vocabulary
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = Norm()
        for name, weight in self.named_parameters():
            ends_branch = name.endswith(("out.weight", "down.weight"))
            if weight.dim() >= 2:
                nn.init.normal_(weight, 0, 0.02 / math.sqrt(2 * LAYERS) if ends_branch else 0.02)

    def forward(self, ids, targets):
        x = self.dropout(self.tokens(ids) + self.positions(torch.arange(ids.shape[1])))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, self.vocabulary), targets.reshape(-1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("batches")
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--eager", action="store_true", help="do not compile")
    options = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    model = Gpt(options.vocabulary)
    weights = list(model.parameters())
    adam = torch.optim.AdamW(
        [{"params": [w for w in weights if w.dim() >= 2], "weight_decay": 0.1},
         {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.99), fused=True)
    windows = torch.from_numpy(
        numpy.fromfile(options.batches, dtype=numpy.int32).astype(numpy.int64).reshape(-1, LENGTH + 1))
    training = windows[:-VALIDATION].view(-1, options.batch, LENGTH + 1)
    compiled = model if options.eager else torch.compile(model)

    def loss_of(network, ids):
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            return network(ids[:, :-1], ids[:, 1:])

    seconds = []
    for step, ids in enumerate(training, 1):
        for group in adam.param_groups:
            group["lr"] = 1e-3 * min(1, step / WARMUP)
        start = time.perf_counter()
        loss = loss_of(compiled, ids)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        seconds.append(time.perf_counter() - start)
        if step % 20 == 0 or step == len(training):
            rate = options.batch * LENGTH / statistics.median(seconds)
            print(f"step {step}: {loss.item() / math.log(2):.3f} bits, {rate:.0f} tokens/s", flush=True)
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, ids).item() for ids in windows[-VALIDATION:].split(16)]
    print(f"held out: {statistics.mean(losses) / math.log(2):.3f} bits")


if __name__ == "__main__":
    main()
