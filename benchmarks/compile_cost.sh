#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Seconds of processor time that a compiler needs for each file in compile_cost/ and for the program in
# README.md, at -O2: the median of three. Those that train are compiled with headers alone, then as a
# program that links unit_scaling::compiled.
# Usage: benchmarks/compile_cost.sh [COMPILER...], after ./dev test or ./dev run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
sed -n '/^```cpp$/,/^```$/p' "$root/README.md" | sed '/^```/d' >"$folder/readme.cpp"

# measure NAME COMPILER SOURCE [FLAG...]
measure() {
  local TIMEFORMAT=%U seconds
  seconds=$(for _ in 1 2 3; do
    { time "$2" -std=c++20 -O2 -march=native -I"$root/include" -I"$root/build/release/include" \
      -isystem /usr/include/eigen3 "${@:4}" -c "$3" -o /dev/null; } 2>&1
  done | sort -n | sed -n 2p)
  echo "$2 $1 $seconds s"
}

for compiler in "${@:-g++}"; do
  for source in "$root"/benchmarks/compile_cost/*.cpp "$folder/readme.cpp"; do
    name=$(basename "$source")
    measure "$name" "$compiler" "$source"
    if [[ $name != only_* ]]; then
      measure "$name with the companion" "$compiler" "$source" -DUNIT_SCALING_COMPILED \
        -DUNIT_SCALING_COMPILED_HAS_{fp64,fp32,fp16,bf16,fp8} -include unit_scaling/compiled.hpp
    fi
  done
done
