// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Attention in FP8, forward and backward, on one thread and on a tape that is
/// used again for every step: the op that holds no matrix of scores beside the three ops that make
/// one, our own product, softmax and product. Both have the factors of the paper, and neither is
/// causal. The three ops are given the keys transposed, so they need no transposition.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "comparison.hpp"
#include "unit_normal.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/ops/sum.hpp"

namespace {

using unit_scaling::Array;
using unit_scaling::float16;
using unit_scaling_benchmarks::keep;
namespace ops = unit_scaling::ops;
using Tape = unit_scaling::Tape<unit_scaling::precision::fp8>;

constexpr std::size_t head_dim = 64;

/// One forward and backward pass of `attend(q, k, v)`.
template <class Attend>
auto passes(const unit_scaling::Shape& k_shape, std::size_t slices, std::size_t positions,
            const Attend& attend) {
  const unit_scaling::Shape shape{slices, positions, head_dim};
  return [attend, tape = std::make_shared<Tape>(),
          q = unit_scaling_benchmarks::unit_normal<float16>(shape, 0),
          k = unit_scaling_benchmarks::unit_normal<float16>(k_shape, 1),
          v = unit_scaling_benchmarks::unit_normal<float16>(shape, 2)] {
    tape->clear();
    const auto y = attend(tape->input(q), tape->input(k), tape->input(v));
    // The gradient of a sum, 1 everywhere, costs one pass over the smallest arrays.
    const ops::Sum plain{.scaling = unit_scaling::scaling::none};
    tape->backward(ops::sum(ops::sum(ops::sum(y, plain), plain), plain));
    keep(y.value().data());
  };
}

bool add(std::size_t slices, std::size_t positions) {
  // The products of queries, keys and values: two forward, four backward.
  const double products = 6;
  return unit_scaling_benchmarks::add_comparison(
      {.name = "attention_fp8_" + std::to_string(positions),
       .peer_name = "our matmul, softmax, matmul",
       .unit = "GFLOP/s",
       .work_per_call = 2e-9 * products * static_cast<double>(slices) *
                        static_cast<double>(positions * positions * head_dim),
       .prepare = [=] {
         return unit_scaling_benchmarks::Sides{
             passes({slices, positions, head_dim}, slices, positions,
                    [](const auto& q, const auto& k, const auto& v) {
                      return ops::scaled_dot_product_attention(q, k, v);
                    }),
             passes({slices, head_dim, positions}, slices, positions,
                    [](const auto& q, const auto& k, const auto& v) {
                      return ops::matmul(ops::softmax(ops::matmul(q, k)), v);
                    })};
       }});
}

[[maybe_unused]] const bool added = [] { return add(8, 512) && add(2, 2048); }();

}  // namespace
