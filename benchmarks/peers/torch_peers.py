#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What PyTorch does on this machine's processor, for docs/performance.md: matrix products in float32
and bfloat16, a product of FP8 operands by casting them, and a plain feed-forward block, forward and
backward. Prints one line per figure: median of the rounds, in GFLOP/s of the products.

    python3 torch_peers.py [--threads 1 16] [--rounds 11]
"""

import argparse
import statistics
import time

import torch

SHAPES = {"256": (256, 256, 256), "1024": (1024, 1024, 1024),
          "2048x768x3072": (2048, 768, 3072), "2048x128x512": (2048, 128, 512)}


def median_seconds(call, rounds):
    """Median over rounds of at least 20 ms each, after a warm-up."""
    call()
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        seconds = time.perf_counter() - start
        if seconds >= 0.02:
            break
        calls *= 2
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def matmuls(report):
    for name, (rows, inner, columns) in SHAPES.items():
        flops = 2 * rows * inner * columns
        a = torch.randn(rows, inner)
        b = torch.randn(inner, columns)
        report(f"torch_matmul_fp32_{name}", flops, lambda: a @ b)
        a_bf16, b_bf16 = a.bfloat16(), b.bfloat16()
        report(f"torch_matmul_bf16_{name}", flops, lambda: a_bf16 @ b_bf16)
        a_fp8, b_fp8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        report(f"torch_matmul_fp8_cast_to_fp32_{name}", flops, lambda: a_fp8.float() @ b_fp8.float())
        report(f"torch_matmul_fp8_cast_to_bf16_{name}", flops,
               lambda: a_fp8.bfloat16() @ b_fp8.bfloat16())


def ffn_blocks(report):
    """x + down(gelu(up(norm(x)))), as benchmarks/compare_ffn.cpp measures it."""
    tokens = 2048
    for hidden in (128, 256, 768):
        for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            block = torch.nn.Sequential(torch.nn.LayerNorm(hidden), torch.nn.Linear(hidden, 4 * hidden),
                                        torch.nn.GELU(), torch.nn.Linear(4 * hidden, hidden)).to(dtype)
            x = torch.randn(tokens, hidden, dtype=dtype, requires_grad=True)
            gradient = torch.randn(tokens, hidden, dtype=dtype)

            def step():
                block.zero_grad(set_to_none=True)
                x.grad = None
                (x + block(x)).backward(gradient)

            report(f"torch_ffn_block_{name}_{hidden}", 6 * 2 * tokens * hidden * 4 * hidden, step)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    print("torch", torch.__version__)
    for threads in arguments.threads:
        torch.set_num_threads(threads)

        def report(name, flops, call):
            rate = flops / median_seconds(call, arguments.rounds) / 1e9
            print(f"{name:44} threads {threads:2d} {rate:9.1f} GFLOP/s", flush=True)

        matmuls(report)
        ffn_blocks(report)


if __name__ == "__main__":
    main()
