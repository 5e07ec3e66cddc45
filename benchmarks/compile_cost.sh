#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Seconds of processor time that a compiler needs for each file in compile_cost/, at -O2: the median
# of three.
# Usage: benchmarks/compile_cost.sh [COMPILER...], after ./dev test or ./dev run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TIMEFORMAT=%U
for compiler in "${@:-g++}"; do
  for source in "$root"/benchmarks/compile_cost/*.cpp; do
    seconds=$(for _ in 1 2 3; do
      { time "$compiler" -std=c++20 -O2 -march=native -I"$root/include" -I"$root/build/release/include" \
        -isystem /usr/include/eigen3 -c "$source" -o /dev/null; } 2>&1
    done | sort -n | sed -n 2p)
    echo "$compiler $(basename "$source") $seconds s"
  done
done
