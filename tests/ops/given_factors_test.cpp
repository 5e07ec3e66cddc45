// SPDX-License-Identifier: MIT
// Forward passes with factors that the caller gives: nothing asked `scales` of the op, which looks
// at shapes, so `forward` has to.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>

#include "support/errors.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/conv1d.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/embedding.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/linear_readout.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/mul.hpp"
#include "unit_scaling/ops/recurrent_highway.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/rms_norm.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/silu_glu.hpp"
#include "unit_scaling/ops/token_mixing.hpp"

namespace given_factors_test {

using namespace unit_scaling;
using unit_scaling_test::expect_shape_error;

Array<float> ones(const Shape& shape) { return Array<float>::filled(shape, 1.0F); }

/// Whether `op.forward` with factors of 1 refuses these arrays.
template <std::size_t factors, class Op, class... Arrays>
void expect_refused(const Op& op, const Arrays&... arrays) {
  SCOPED_TRACE(Op::name);
  expect_shape_error(
      [&] { static_cast<void>(op.forward(precision::fp32{}, Scales<factors>{}, arrays...)); },
      {"expected"});
}

TEST(GivenFactors, ProductsRefuseOperandsThatDoNotFit) {
  const auto x = ones({5, 37});
  expect_refused<2>(ops::Linear{}, x, ones({23, 64}));
  expect_refused<2>(ops::Linear{}, x, ones({23, 36}));
  expect_refused<2>(ops::Linear{}, x, ones({37}));
  expect_refused<3>(ops::Linear{}, x, ones({23, 64}), ones({23}));
  expect_refused<3>(ops::Linear{}, x, ones({23, 37}), ones({3}));
  expect_refused<3>(ops::Linear{}, x, ones({}), ones({3}));
  expect_refused<2>(ops::GeluLinear{}, x, ones({23, 64}));
  expect_refused<3>(ops::GeluLinear{}, x, ones({23, 37}), ones({3}));
  expect_refused<2>(ops::LinearReadout{}, x, ones({23, 64}));
  expect_refused<2>(ops::Matmul{}, x, ones({36, 3}));
  expect_refused<2>(ops::TokenMixing{}, x, ones({7, 6}));
  const auto sequence = ones({2, 4, 9});
  expect_refused<2>(ops::Conv1d{}, sequence, ones({6, 5, 3}));
  expect_refused<3>(ops::Conv1d{}, sequence, ones({6, 4, 3}), ones({5}));
  expect_refused<3>(ops::Conv1d{}, sequence, ones({6, 4}), ones({6}));
  expect_refused<4>(ops::RecurrentHighway{}, sequence, ones({10, 14}), ones({9}), ones({5}));
  expect_refused<3>(ops::ScaledDotProductAttention{}, sequence, ones({2, 4, 8}), sequence);
}

TEST(GivenFactors, NormsAndElementwiseOpsRefuseOperandsThatDoNotFit) {
  const auto x = ones({5, 37});
  expect_refused<3>(ops::LayerNorm{}, x, ones({3}), ones({37}));
  expect_refused<3>(ops::LayerNorm{}, x, ones({37}), ones({38}));
  expect_refused<2>(ops::RmsNorm{}, x, ones({36}));
  for (const Shape& shape : {Shape{5, 3}, Shape{37, 5}, Shape{185}}) {
    expect_refused<2>(ops::Mul{}, x, ones(shape));
    expect_refused<2>(ops::SiluGlu{}, x, ones(shape));
    expect_refused<2>(ops::ResidualAdd{}, x, ones(shape));
    expect_refused<2>(ops::MseLoss{}, x, ones(shape));
  }
  expect_refused<2>(ops::Add{}, x, ones({5, 3}));
}

TEST(GivenFactors, LookupsAndLossesRefuseOperandsThatDoNotFit) {
  const auto integers = [](const Shape& shape) { return Array<std::int32_t>::filled(shape, 1); };
  expect_refused<1>(ops::CrossEntropy{}, ones({50, 7}), integers({2}));
  expect_refused<1>(ops::CrossEntropy{}, ones({50}), integers({50}));
  expect_refused<1>(ops::Embedding{}, integers({4}), ones({9}));
}

}  // namespace given_factors_test
