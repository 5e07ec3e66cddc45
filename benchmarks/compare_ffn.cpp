// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. BERT's feed-forward block, forward and backward, of 2048 tokens on one
/// thread: a residual connection round layer norm, linear, GELU and linear, on a tape that is used
/// again for every step. It is set beside itself (unit scaling or none; FP8 or FP32) and beside the
/// bare matrix products that it consists of, done by a peer.

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "comparison.hpp"
#include "unit_normal.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/feed_forward.hpp"
#include "unit_scaling/nn/residual.hpp"
#include "unit_scaling/ops/sum.hpp"

#if defined(UNIT_SCALING_HAVE_ONEDNN)
#include <oneapi/dnnl/dnnl.h>
#endif

namespace {

using unit_scaling::Array;
using unit_scaling::Scaling;
using unit_scaling_benchmarks::keep;
using unit_scaling_benchmarks::unit_normal;
namespace nn = unit_scaling::nn;
namespace precision = unit_scaling::precision;
namespace scaling = unit_scaling::scaling;

constexpr std::size_t tokens = 2048;
constexpr std::size_t expansion = 4;

/// One forward and backward pass, from a given input and output gradient.
template <class P> class Block {
 public:
  Block(std::size_t hidden_size, const Scaling& rules)
      : initialiser_(1, rules),
        block_(initialiser_, "ffn", nn::NormPlacement::pre, 0.5,
               nn::FeedForward(initialiser_, "ffn", hidden_size, expansion * hidden_size),
               nn::LayerNorm(initialiser_, "norm", hidden_size)),
        x_(unit_normal<typename P::storage>({tokens, hidden_size}, 0)) {}

  void operator()() {
    tape_.clear();
    const auto y = block_(tape_.input(x_));
    // The gradient of a sum, 1 everywhere, costs one pass over the smallest arrays of the block.
    const unit_scaling::ops::Sum plain{.scaling = scaling::none};
    tape_.backward(unit_scaling::ops::sum(unit_scaling::ops::sum(y, plain), plain));
    keep(y.value().data());
  }

 private:
  nn::Initialiser initialiser_;
  nn::Residual<nn::FeedForward> block_;
  Array<typename P::storage> x_;
  unit_scaling::Tape<P> tape_;
};

#if defined(UNIT_SCALING_HAVE_ONEDNN)
/// The six products of the block: two forward, and two backward of each.
class OneDnnProducts {
 public:
  explicit OneDnnProducts(std::size_t hidden_size)
      : hidden_(static_cast<dnnl_dim_t>(hidden_size)),
        x_(unit_normal<float>({tokens, hidden_size}, 0)),
        h_(unit_normal<float>({tokens, expansion * hidden_size}, 1)),
        w_(unit_normal<float>({expansion * hidden_size, hidden_size}, 2)),
        wide_({tokens, expansion * hidden_size}),
        narrow_({tokens, hidden_size}),
        weight_({expansion * hidden_size, hidden_size}) {}

  void operator()() {
    const auto n = static_cast<dnnl_dim_t>(tokens);
    const dnnl_dim_t inner = static_cast<dnnl_dim_t>(expansion) * hidden_;
    // Up: y = x wᵀ, dx = dy w, dw = dyᵀ x; down likewise with a weight of the transposed shape.
    product('N', 'T', n, inner, hidden_, x_, hidden_, w_, hidden_, wide_, inner);
    product('N', 'N', n, hidden_, inner, h_, inner, w_, hidden_, narrow_, hidden_);
    product('T', 'N', inner, hidden_, n, h_, inner, x_, hidden_, weight_, hidden_);
    product('N', 'T', n, hidden_, inner, h_, inner, w_, inner, narrow_, hidden_);
    product('N', 'N', n, inner, hidden_, x_, hidden_, w_, inner, wide_, inner);
    product('T', 'N', hidden_, inner, n, x_, hidden_, h_, inner, weight_, inner);
  }

 private:
  static void product(char transpose_a, char transpose_b, dnnl_dim_t rows, dnnl_dim_t columns,
                      dnnl_dim_t inner, const Array<float>& a, dnnl_dim_t a_stride,
                      const Array<float>& b, dnnl_dim_t b_stride, Array<float>& c,
                      dnnl_dim_t c_stride) {
    dnnl_sgemm(transpose_a, transpose_b, rows, columns, inner, 1.0F, a.data(), a_stride, b.data(),
               b_stride, 0.0F, c.mutable_data(), c_stride);
    keep(c.mutable_data());
  }

  dnnl_dim_t hidden_;
  Array<float> x_, h_, w_, wide_, narrow_, weight_;
};
#endif

/// Adds an entry whose two sides `make_ours()` and `make_peer()` make.
template <class MakeOurs, class MakePeer>
void add(const std::string& name, std::size_t hidden_size, const std::string& peer_name,
         const MakeOurs& make_ours, const MakePeer& make_peer) {
  const double products = 6;
  unit_scaling_benchmarks::add_comparison(
      {.name = name + "_" + std::to_string(hidden_size),
       .peer_name = peer_name,
       .unit = "GFLOP/s",
       .work_per_call = 2e-9 * products * static_cast<double>(tokens) *
                        static_cast<double>(hidden_size * hidden_size * expansion),
       .prepare = [=] {
         const auto ours = make_ours();
         const auto peer = make_peer();
         return unit_scaling_benchmarks::Sides{[ours] { (*ours)(); }, [peer] { (*peer)(); }};
       }});
}

template <class P> auto block(std::size_t hidden_size, const Scaling& rules) {
  return [=] { return std::make_shared<Block<P>>(hidden_size, rules); };
}

[[maybe_unused]] const bool added = [] {
  for (const std::size_t hidden_size : {128, 256, 768}) {
    using precision::fp32, precision::fp8;
    add("ffn_block_unit_over_plain", hidden_size, "scaling none, fp32",
        block<fp32>(hidden_size, scaling::paper), block<fp32>(hidden_size, scaling::none));
    add("ffn_block_fp8_unit_over_plain", hidden_size, "scaling none, fp8",
        block<fp8>(hidden_size, scaling::paper), block<fp8>(hidden_size, scaling::none));
    add("ffn_block_fp8_over_fp32", hidden_size, "ours in fp32",
        block<fp8>(hidden_size, scaling::paper), block<fp32>(hidden_size, scaling::paper));
#if defined(UNIT_SCALING_HAVE_ONEDNN)
    add("ffn_block_fp32", hidden_size, "oneDNN sgemm, the products alone",
        block<fp32>(hidden_size, scaling::paper),
        [=] { return std::make_shared<OneDnnProducts>(hidden_size); });
#endif
  }
  return true;
}();

}  // namespace
