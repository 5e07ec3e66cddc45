// SPDX-License-Identifier: MIT
// Every op on arrays of no rows, no columns, one element and odd sizes, in every policy: what it
// does must be defined, which the sanitizers see, and its gradients must have their shapes.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <tuple>
#include <vector>

#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/conv1d.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/dropout.hpp"
#include "unit_scaling/ops/elementwise.hpp"
#include "unit_scaling/ops/embedding.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/heads.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/linear_readout.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/mean.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/mul.hpp"
#include "unit_scaling/ops/recurrent_highway.hpp"
#include "unit_scaling/ops/relu.hpp"
#include "unit_scaling/ops/reshape.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/rms_norm.hpp"
#include "unit_scaling/ops/rotary.hpp"
#include "unit_scaling/ops/scale.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/sigmoid.hpp"
#include "unit_scaling/ops/silu.hpp"
#include "unit_scaling/ops/silu_glu.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/ops/sum.hpp"
#include "unit_scaling/ops/tanh.hpp"
#include "unit_scaling/ops/token_mixing.hpp"

namespace edge_shapes_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

template <class P> class EdgeShapes : public testing::Test {
 protected:
  using T = typename P::storage;

  static Array<T> array(const Shape& shape) { return normal_array<T>(shape, 1); }

  /// Both passes of the op under every rule.
  template <class Op, class... Arrays> static void run(Op op, const Arrays&... x) {
    for (const Rule rule : {Rule::none, Rule::paper, Rule::umup}) {
      SCOPED_TRACE(testing::Message()
                   << Op::name << " " << to_string(rule) << " of " << (to_string(x.shape()) + ...));
      if constexpr (requires { op.scaling; }) op.scaling = {rule};
      const auto scales = op.scales(x...);
      const auto forward = op.forward(P{}, scales, x...);
      const auto dy_of = []<class U>(const Array<U>& y) { return normal_array<U>(y.shape(), 2); };
      const auto gradients = [&] {
        if constexpr (is_array<decltype(forward.output)>) {
          return op.backward(P{}, scales, forward.saved, dy_of(forward.output));
        } else {
          return op.backward(P{}, scales, forward.saved,
                             std::apply([&](const auto&... y) { return std::tuple{dy_of(y)...}; },
                                        forward.output));
        }
      }();
      const auto shape_if_differentiable = []<class U>(const Array<U>& each) {
        if constexpr (Storage<U>) {
          return std::tuple{each.shape()};
        } else {
          return std::tuple<>{};
        }
      };
      const auto expected = std::tuple_cat(shape_if_differentiable(x)...);
      const auto actual =
          std::apply([](const auto&... each) { return std::tuple{each.shape()...}; }, gradients);
      EXPECT_TRUE(actual == expected);
    }
  }
};

using Policies = testing::Types<precision::fp32, precision::fp64, precision::fp16, precision::bf16,
                                precision::fp8>;
TYPED_TEST_SUITE(EdgeShapes, Policies);

const std::vector<std::size_t> sizes{0, 1, 2, 17};

TYPED_TEST(EdgeShapes, AreTakenByOpsOnElementsAndRows) {
  const ops::Elementwise square([](auto v) { return v * v; }, [](auto v) { return v + v; });
  for (const std::size_t rows : sizes) {
    for (const std::size_t columns : sizes) {
      for (const Shape& shape : {Shape{rows, columns}, Shape{rows, 2, columns}, Shape{columns}}) {
        const auto x = this->array(shape);
        this->run(ops::Add{}, x, x);
        this->run(ops::Add{}, x, this->array({columns}));
        this->run(ops::Mul{}, x, x);
        this->run(ops::Relu{}, x);
        this->run(ops::Gelu{}, x);
        this->run(ops::Silu{}, x);
        this->run(ops::SiluGlu{}, x, x);
        this->run(ops::Sigmoid{}, x);
        this->run(ops::Tanh{}, x);
        this->run(square, x);
        this->run(ops::Softmax{}, x);
        this->run(ops::Softmax{.dimension = 0}, x);
        this->run(ops::Dropout{}, x);
        this->run(ops::ScaleForward{.factor = 2}, x);
        this->run(ops::ScaleBackward{.factor = 2}, x);
        this->run(ops::ResidualSplit{}, x);
        this->run(ops::ResidualAdd{}, x, x);
        this->run(ops::Reshape{.shape = {shape.size()}}, x);
        this->run(ops::Sum{}, x);
        if (columns > 0) this->run(ops::Mean{}, x);
        this->run(ops::MseLoss{}, x, x);
        const auto gain = this->array({shape.columns()});
        this->run(ops::LayerNorm{}, x);
        this->run(ops::LayerNorm{}, x, gain, gain);
        this->run(ops::RmsNorm{}, x);
        this->run(ops::RmsNorm{}, x, gain);
      }
      if (columns >= 2) {
        this->run(ops::CrossEntropy{}, this->array({rows, columns}),
                  id_array({rows}, static_cast<std::uint32_t>(columns), 3));
      }
      if (columns >= 1) {
        this->run(ops::Embedding{}, id_array({rows}, static_cast<std::uint32_t>(columns), 3),
                  this->array({columns, rows}));
      }
      this->run(ops::Embedding{}, Array<std::int32_t>(Shape{0}), this->array({rows, columns}));
      this->run(ops::Rotary{}, this->array({rows, 2 * columns}));
    }
  }
}

TYPED_TEST(EdgeShapes, AreTakenByMatrixProducts) {
  for (const std::size_t m : sizes) {
    for (const std::size_t n : sizes) {
      for (const std::size_t k : sizes) {
        const auto x = this->array({m, k});
        const auto w = this->array({n, k});
        const auto b = this->array({n});
        this->run(ops::Linear{}, x, w);
        this->run(ops::Linear{}, x, w, b);
        this->run(ops::LinearReadout{}, x, w);
        this->run(ops::LinearReadout{}, x, w, b);
        this->run(ops::GeluLinear{}, x, w);
        this->run(ops::GeluLinear{}, x, w, b);
        this->run(ops::Matmul{}, x, this->array({k, n}));
        this->run(ops::Matmul{}, this->array({2, m, k}), this->array({2, k, n}));
        this->run(ops::TokenMixing{}, this->array({m, n, k}), this->array({n, n}));
        this->run(ops::RecurrentHighway{}, this->array({m, 2, k}), this->array({2 * n, k + n}),
                  this->array({2 * n}), this->array({n}));
      }
    }
  }
  for (const std::size_t batch : {0U, 1U, 3U}) {
    for (const std::size_t length : {1U, 2U, 17U}) {
      for (const std::size_t channels : {0U, 1U, 3U}) {
        for (const std::size_t kernel : {1U, 2U}) {
          if (kernel > length) continue;
          this->run(ops::Conv1d{}, this->array({batch, channels, length}),
                    this->array({2, channels, kernel}));
          this->run(ops::Conv1d{}, this->array({batch, channels, length}),
                    this->array({0, channels, kernel}), this->array({0}));
        }
      }
    }
  }
}

TYPED_TEST(EdgeShapes, AreTakenByAttention) {
  for (const std::size_t batch : {0U, 1U, 2U}) {
    for (const std::size_t heads : {0U, 1U, 3U}) {
      for (const std::size_t queries : sizes) {
        for (const std::size_t keys : sizes) {
          for (const std::size_t head_dim : {0U, 1U, 5U}) {
            for (const std::size_t value_dim : {0U, 1U, 5U}) {
              if (value_dim != head_dim && queries > 2) continue;
              const auto q = this->array({batch, heads, queries, head_dim});
              const auto k = this->array({batch, heads, keys, head_dim});
              const auto v = this->array({batch, heads, keys, value_dim});
              for (const bool is_causal : {false, true}) {
                const ops::ScaledDotProductAttention op{
                    .is_causal = is_causal,
                    .mask = Array<std::int32_t>::filled({batch, 1, keys}, 1)};
                this->run(op, q, k, v);
                if (queries + keys == 0) continue;
                const auto r = this->array({heads, queries + keys - 1, head_dim});
                auto dropping = op;
                dropping.dropout_probability = 0.5;
                this->run(dropping, q, k, v, r);
              }
            }
          }
        }
      }
      for (const std::size_t positions : sizes) {
        for (const std::size_t head_dim : {0U, 1U, 5U}) {
          if (heads == 0) continue;
          this->run(ops::SplitHeads{.heads = heads},
                    this->array({batch, positions, 3 * heads * head_dim}));
          this->run(ops::SeparateHeads{.heads = heads},
                    this->array({batch, positions, heads * head_dim}));
          this->run(ops::MergeHeads{}, this->array({batch, heads, positions, head_dim}));
        }
      }
    }
  }
}

}  // namespace edge_shapes_test
