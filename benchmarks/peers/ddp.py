#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyTorch's DistributedDataParallel over Gloo, with the decoder of benchmarks/decoder_steps.hpp, for
docs/distributed.md: tokens a second of ranks that exchange nothing, and that add up their gradients
in float32 and in float16. The three take turns; figures are medians over the rounds.

    python3 ddp.py --ranks 4 --threads 1 --hidden 128 --sequences 8
"""

import argparse
import os
import socket
import statistics
import time

import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

VOCABULARY, POSITIONS, LAYERS, HEAD_DIM, EXPANSION = 128, 256, 4, 64, 4


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1 = nn.RMSNorm(width, elementwise_affine=False)
        self.norm2 = nn.RMSNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.linear_1 = nn.Linear(width, EXPANSION * width, bias=False)
        self.linear_gate = nn.Linear(width, EXPANSION * width, bias=False)
        self.linear_2 = nn.Linear(EXPANSION * width, width, bias=False)

    def forward(self, x):
        batch, positions, width = x.shape
        q, k, v = (y.view(batch, positions, -1, HEAD_DIM).transpose(1, 2)
                   for y in self.qkv(self.norm1(x)).split(width, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, positions, width))
        y = self.norm2(x)
        return x + self.linear_2(self.linear_1(y) * F.silu(self.linear_gate(y)))


class Decoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(width, elementwise_affine=False)
        self.projection = nn.Linear(width, VOCABULARY, bias=False)
        for weight in self.parameters():
            nn.init.normal_(weight, 0, 0.02)

    def forward(self, ids):
        x = self.tokens(ids[:, :-1])
        for layer in self.layers:
            x = layer(x)
        logits = self.projection(self.norm(x))
        return F.cross_entropy(logits.view(-1, VOCABULARY), ids[:, 1:].reshape(-1))


def ways_of(options):
    """A network of each way, with its optimiser."""
    networks = {"alone": Decoder(options.hidden)}
    if options.ranks > 1:
        networks["float32"] = DistributedDataParallel(Decoder(options.hidden))
        networks["float16"] = DistributedDataParallel(Decoder(options.hidden))
        networks["float16"].register_comm_hook(None, default_hooks.fp16_compress_hook)
    return {name: (network, torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True))
            for name, network in networks.items()}


def train(network, adam, ids, steps):
    """Seconds that the steps take."""
    start = time.perf_counter()
    for _ in range(steps):
        adam.zero_grad(set_to_none=True)
        network(ids).backward()
        adam.step()
    return time.perf_counter() - start


def run(rank, port, options):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(options.threads)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=options.ranks)
    torch.manual_seed(1)
    ids = torch.randint(VOCABULARY, (options.sequences, POSITIONS))
    ways = ways_of(options)
    rates = {name: [] for name in ways}
    tokens = options.sequences * POSITIONS * options.steps
    for this_round in range(options.rounds + 1):  # the first one warms up
        for name, (network, adam) in ways.items():
            torch.distributed.barrier()
            seconds = torch.tensor([train(network, adam, ids, options.steps)])
            everyone = [torch.zeros(1) for _ in range(options.ranks)]
            torch.distributed.all_gather(everyone, seconds)
            if this_round > 0:
                rates[name].append(sum(tokens / each.item() for each in everyone))
    if rank == 0:
        count = sum(weight.numel() for weight in ways["alone"][0].parameters())
        print(f"PyTorch {torch.__version__}. Ranks: {options.ranks}, with {options.threads} threads "
              f"each. Parameters: {count}.\nTokens of a step and rank: {options.sequences * POSITIONS}."
              f" Medians of {options.rounds} rounds of {options.steps} steps.\n")
        print("| way | tokens/s | of the first |\n|---|---|---|")
        for name, of_way in rates.items():
            ratio = statistics.median(a / b for a, b in zip(of_way, rates["alone"]))
            print(f"| {name} | {statistics.median(of_way):.0f} | {ratio:.3f} |")
    torch.distributed.destroy_process_group()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run, args=(port, options), nprocs=options.ranks)


if __name__ == "__main__":
    main()
