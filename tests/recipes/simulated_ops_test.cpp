// SPDX-License-Identifier: MIT
// Each op under a simulation, against the op under a policy of the real formats: value and
// gradients, to the bit, for numbers of every kind.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/conv1d.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/dropout.hpp"
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
#include "unit_scaling/ops/scaled.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/sigmoid.hpp"
#include "unit_scaling/ops/silu.hpp"
#include "unit_scaling/ops/silu_glu.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/ops/sum.hpp"
#include "unit_scaling/ops/tanh.hpp"
#include "unit_scaling/ops/token_mixing.hpp"
#include "unit_scaling/recipes/simulation.hpp"

namespace simulated_ops_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// Stores float, and multiplies the real formats.
template <Storage Operand, Storage Gradient> struct Real {
  static constexpr std::string_view name = "real";
  using storage = float;
  using matmul_operand = Operand;
  using matmul_gradient = Gradient;
  using compute = float;
};
/// Stores and multiplies float, with the attention weights that the policy above has: one of two
/// policies, as each is compiled for itself.
template <class P>
using Carrier =
    std::conditional_t<std::is_same_v<attention_weight_t<P>, bfloat16>,
                       precision::with_bfloat16_attention<precision::fp32>, precision::fp32>;
static_assert(std::is_same_v<attention_weight_t<precision::fp32>, float>);

/// Numbers of N(0, 1) times powers of two from far below every 8-bit format to far above, and among
/// the first of them zeros, halves between numbers, the least and largest of float and, if
/// `non_finite`, infinities and NaN.
Array<float> all_kinds(const Shape& shape, std::uint32_t tensor, bool non_finite) {
  Array<float> result = random_array<float>(shape, tensor);
  float* elements = result.mutable_data();
  for (std::size_t i = 0; i < result.size(); ++i) {
    // Mostly of the middle, where formats differ in how many bits of fraction they have.
    const int exponent = i % 3 == 0 ? static_cast<int>(i * 7 % 48) - 26 : 0;
    elements[i] = std::ldexp(elements[i], exponent);
  }
  using Limits = std::numeric_limits<float>;
  std::vector<float> special{
      0.0F,         -0.0F,     1.0625F,    -1.0625F,  1.125F,        1.1875F,
      0x1p-10F,     -0x1p-10F, 0x1.8p-10F, 464.0F,    -464.0F,       57344.0F,
      61440.0F,     65519.99F, 65520.0F,   -65536.0F, Limits::min(), -Limits::denorm_min(),
      Limits::max()};
  if (non_finite) {
    special.insert(special.end(), {Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN()});
  }
  for (std::size_t i = 0; i < special.size(); ++i) elements[i * 11 % result.size()] = special[i];
  return result;
}

/// One and the same bits for every NaN.
std::uint32_t bits_of(float value) {
  return std::isnan(value) ? 0x7fc0'0000U : std::bit_cast<std::uint32_t>(value);
}

/// Bits of what `op(x...)` gives on a tape, and of the gradients of all its arguments.
template <Precision P, class Op>
std::vector<std::uint32_t> bits_of_op(const Op& op, const std::vector<Array<float>>& arguments,
                                      const std::string& simulation, bool non_finite) {
  Tape<P> tape;
  if (!simulation.empty()) tape.use_recipe(Simulation::parse(simulation));
  std::vector<Variable<P>> inputs;
  for (const Array<float>& argument : arguments) {
    inputs.push_back(
        tape.input(kernels::convert<typename P::storage, Overflow::infinity_or_nan>(argument)));
  }
  const auto y = op(inputs);
  std::vector<std::uint32_t> bits;
  const auto append = [&](const auto& array) {
    for (const auto element : array.span()) bits.push_back(bits_of(static_cast<float>(element)));
  };
  append(y.value());
  if (y.shape().rank() == 0) {
    tape.backward(y);
  } else {
    if constexpr (std::is_same_v<std::remove_const_t<decltype(y)>, Variable<P>>) {
      tape.backward(tape.record(WeightedSum{all_kinds(y.shape(), 99, non_finite)}, y));
    }
  }
  for (const auto& input : inputs) append(tape.gradient(input));
  return bits;
}

template <Precision P, Precision Simulated = precision::fp32, class Op>
void expect_same_bits(const Op& op, const std::vector<Shape>& shapes,
                      const std::string& what = "") {
  const std::string simulation = std::string(storage_name<typename P::matmul_operand>) + "/" +
                                 std::string(storage_name<typename P::matmul_gradient>);
  for (const bool non_finite : {false, true}) {
    std::vector<Array<float>> arguments;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      arguments.push_back(all_kinds(shapes[i], static_cast<std::uint32_t>(i), non_finite));
    }
    const auto real = bits_of_op<P>(op, arguments, "", non_finite);
    EXPECT_TRUE(real == bits_of_op<Simulated>(op, arguments, simulation, non_finite))
        << what << " " << simulation << (non_finite ? ", with infinities and NaN" : "");
    // Where an infinity reaches every number, all are NaN in any format.
    if (std::all_of(real.begin(), real.end(), [&](auto bits) { return bits == real.front(); })) {
      EXPECT_TRUE(non_finite) << what;
      continue;
    }
    EXPECT_FALSE(real == bits_of_op<Simulated>(op, arguments, "", non_finite)) << what;
  }
}

const auto linear_with_bias = [](const auto& x) { return ops::linear(x[0], x[1], x[2]); };
const std::vector<Shape> linear_shapes{{5, 17}, {9, 17}, {9}};

template <class T> class SimulatedOpsInEachFormat : public testing::Test {};
/// Each format on either side, beside another one on the other.
using Pairs =
    testing::Types<Real<float8_e4m3fn, float8_e5m2>, Real<float8_e5m2, float8_e4m3fn>,
                   Real<float8_e4m3fnuz, float8_e5m2fnuz>, Real<float8_e5m2fnuz, float8_e4m3fnuz>,
                   Real<float8_e4m3, float8_e3m4>, Real<float8_e3m4, float8_e4m3b11fnuz>,
                   Real<float8_e4m3b11fnuz, float8_e4m3>, Real<float6_e2m3fn, float6_e3m2fn>,
                   Real<float6_e3m2fn, float4_e2m1fn>, Real<float4_e2m1fn, float16>,
                   Real<float16, bfloat16>, Real<bfloat16, float6_e2m3fn>, Real<float, float8_e5m2>,
                   Real<float8_e4m3fn, float>>;
TYPED_TEST_SUITE(SimulatedOpsInEachFormat, Pairs);

TYPED_TEST(SimulatedOpsInEachFormat, ALinearLayerHasTheBitsOfTheRealOne) {
  expect_same_bits<TypeParam>(linear_with_bias, linear_shapes);
}

const auto causal_attention = [](const auto& x) {
  return ops::scaled_dot_product_attention(x[0], x[1], x[2], {.is_causal = true});
};
const std::vector<Shape> attention_shapes{{2, 9, 16}, {2, 9, 16}, {2, 9, 8}};

TYPED_TEST(SimulatedOpsInEachFormat, AttentionHasTheBitsOfTheRealOne) {
  expect_same_bits<TypeParam, Carrier<TypeParam>>(causal_attention, attention_shapes);
}

using Fp8 = Real<float8_e4m3fn, float8_e5m2>;

TEST(SimulatedOps, EachWithProductsHasTheBitsOfTheRealOne) {
  expect_same_bits<Fp8>([](const auto& x) { return ops::linear(x[0], x[1]); }, {{5, 17}, {9, 17}},
                        "linear");
  expect_same_bits<Fp8>([](const auto& x) { return ops::linear_readout(x[0], x[1], x[2]); },
                        linear_shapes, "linear_readout");
  expect_same_bits<Fp8>([](const auto& x) { return ops::matmul(x[0], x[1]); },
                        {{3, 5, 7}, {3, 7, 6}}, "matmul");
  expect_same_bits<Fp8>([](const auto& x) { return ops::token_mixing(x[0], x[1]); },
                        {{3, 6, 8}, {5, 6}}, "token_mixing");
  expect_same_bits<Fp8>([](const auto& x) { return ops::conv1d(x[0], x[1], x[2]); },
                        {{2, 4, 9}, {6, 4, 3}, {6}}, "conv1d with bias");
  expect_same_bits<Fp8>([](const auto& x) { return ops::conv1d(x[0], x[1], {.groups = 2}); },
                        {{2, 4, 9}, {6, 2, 3}}, "conv1d");
  expect_same_bits<Fp8>(
      [](const auto& x) {
        return ops::scaled(ops::Linear{}, 0.5, {0.25, 0.125, 0.5})(x[0], x[1], x[2]);
      },
      linear_shapes, "linear with factors");
}

/// The op under a policy that stores half precision, and under one of float whose ops write it.
template <class Op>
void expect_same_bits_written(const std::string& what, const std::vector<Shape>& shapes,
                              const Op& op) {
  for (const bool non_finite : {false, true}) {
    std::vector<Array<float>> arguments;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      arguments.push_back(all_kinds(shapes[i], static_cast<std::uint32_t>(i), non_finite));
    }
    const auto real = bits_of_op<precision::fp16>(op, arguments, "", non_finite);
    EXPECT_TRUE(real == bits_of_op<precision::fp32>(op, arguments, "*=float16/float16", non_finite))
        << what << (non_finite ? ", with infinities and NaN" : "");
    EXPECT_FALSE(real == bits_of_op<precision::fp32>(op, arguments, "", non_finite)) << what;
  }
}

TEST(SimulatedOps, EachWithoutProductsWritesTheBitsOfTheRealOne) {
  const Shape rows{40, 18};
  const Shape row{18};
  const auto one = [&](const char* what, const auto& op) {
    expect_same_bits_written(what, {rows}, [&](const auto& x) { return op(x[0]); });
  };
  one("gelu", [](const auto& x) { return ops::gelu(x, {.mult = 0.5}); });
  one("silu", [](const auto& x) { return ops::silu(x, {.mult = 2}); });
  one("relu", [](const auto& x) { return ops::relu(x); });
  one("tanh", [](const auto& x) { return ops::tanh(x); });
  one("sigmoid", [](const auto& x) { return ops::sigmoid(x); });
  one("softmax", [](const auto& x) { return ops::softmax(x); });
  one("softmax of columns", [](const auto& x) { return ops::softmax(x, {.dimension = 0}); });
  one("mean", [](const auto& x) { return ops::mean(x); });
  one("sum", [](const auto& x) { return ops::sum(x); });
  one("dropout", [](const auto& x) { return ops::dropout(x, {.probability = 0.25}); });
  one("rotary", [](const auto& x) { return ops::rotary(x); });
  one("scale_fwd", [](const auto& x) { return ops::scale_fwd(x, {.factor = 0.3}); });
  one("scale_bwd", [](const auto& x) { return ops::scale_bwd(x, {.factor = 0.3}); });
  one("reshape", [](const auto& x) { return ops::reshape(x, {.shape = Shape{18, 40}}); });
  one("heads", [](const auto& x) {
    const auto [q, k, v] = ops::split_heads(x, {.heads = 2});
    return ops::merge_heads(ops::mul(ops::add(q, k), v));
  });
  one("separate_heads", [](const auto& x) { return ops::separate_heads(x, {.heads = 2}); });
  one("residual", [](const auto& x) {
    const auto [branch, skip] = ops::residual_split(x, {.tau = 0.3});
    return ops::residual_add(ops::tanh(branch), skip, {.tau = 0.3});
  });
  one("rms_norm", [](const auto& x) { return ops::rms_norm(x); });
  one("layer_norm", [](const auto& x) { return ops::layer_norm(x); });
  one("embedding", [](const auto& x) {
    Array<std::int32_t> ids({50});
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ids.mutable_data()[i] = static_cast<std::int32_t>(7 * i % 20);  // some of them often
    }
    return ops::embedding(ids, x);
  });
  expect_same_bits_written("rms_norm with gain", {rows, row},
                           [](const auto& x) { return ops::rms_norm(x[0], x[1]); });
  expect_same_bits_written("layer_norm with gain and bias", {rows, row, row},
                           [](const auto& x) { return ops::layer_norm(x[0], x[1], x[2]); });
  expect_same_bits_written("add", {rows, rows}, [](const auto& x) { return ops::add(x[0], x[1]); });
  expect_same_bits_written("add of a row", {rows, row},
                           [](const auto& x) { return ops::add(x[0], x[1]); });
  expect_same_bits_written("mul", {rows, rows}, [](const auto& x) { return ops::mul(x[0], x[1]); });
  expect_same_bits_written("mul with itself", {rows},
                           [](const auto& x) { return ops::mul(x[0], x[0]); });
  expect_same_bits_written("silu_glu", {rows, rows},
                           [](const auto& x) { return ops::silu_glu(x[0], x[1]); });
  expect_same_bits_written("mse_loss", {rows, rows},
                           [](const auto& x) { return ops::mse_loss(x[0], x[1]); });
  expect_same_bits_written("cross_entropy", {rows}, [](const auto& x) {
    Array<std::int32_t> labels({40});
    for (std::size_t i = 0; i < labels.size(); ++i) {
      labels.mutable_data()[i] = static_cast<std::int32_t>(5 * i % 18);
    }
    return ops::cross_entropy(x[0], labels);
  });
}

TEST(SimulatedOps, AGeluAndALinearLayerHaveTheBitsOfTheRealOpThatIsBoth) {
  std::vector<Array<float>> arguments;
  for (const Shape& shape : linear_shapes) {
    arguments.push_back(all_kinds(shape, static_cast<std::uint32_t>(arguments.size()), false));
  }
  const auto both = [](const auto& x) { return ops::gelu_linear(x[0], x[1], x[2]); };
  const auto each = [](const auto& x) { return ops::linear(ops::gelu(x[0]), x[1], x[2]); };
  EXPECT_TRUE(bits_of_op<Fp8>(both, arguments, "", false) ==
              bits_of_op<precision::fp32>(each, arguments, "e4m3fn/e5m2", false));
}

// Bits differ in a direction exactly where a format is given for it.
TEST(SimulatedOps, ADirectionWithoutAFormatIsAsThePolicyHasIt) {
  std::vector<Array<float>> arguments;
  for (const Shape& shape : linear_shapes) {
    arguments.push_back(all_kinds(shape, static_cast<std::uint32_t>(arguments.size()), false));
  }
  const auto bits = [&](const std::string& simulation) {
    return bits_of_op<precision::fp32>(linear_with_bias, arguments, simulation, false);
  };
  const auto values = [](std::vector<std::uint32_t> all) {
    all.resize(5 * 9);
    return all;
  };
  EXPECT_TRUE(bits("-/-") == bits(""));
  EXPECT_TRUE(values(bits("-/e5m2")) == values(bits("")));
  EXPECT_FALSE(bits("-/e5m2") == bits(""));
  EXPECT_TRUE(values(bits("e4m3fn/-")) == values(bits("e4m3fn/e5m2")));
  EXPECT_FALSE(bits("e4m3fn/-") == bits("e4m3fn/e5m2"));
}

/// The error of recording `record(tape)` under a simulation.
template <Precision P, class Record>
void expect_refused(const std::string& simulation, const Record& record,
                    std::initializer_list<std::string_view> parts) {
  Tape<P> tape;
  tape.use_recipe(Simulation::parse(simulation));
  expect_error<std::invalid_argument>([&] { record(tape); }, parts);
}

template <Precision P> auto normal_input(Tape<P>& tape, const Shape& shape) {
  return tape.input(random_array<typename P::storage>(shape, 1));
}

// It would round the weights otherwise than a policy with these formats, and nobody would see it.
TEST(SimulatedOps, AttentionIsRefusedUnderAPolicyWithOtherWeights) {
  const auto attend = [](auto& tape) {
    const auto x = normal_input(tape, {2, 4, 8});
    (void)ops::scaled_dot_product_attention(x, x, x);
  };
  expect_refused<precision::fp16>(
      "e4m3fn/e5m2", attend,
      {"scaled_dot_product_attention", "attention_weight", "with_bfloat16_attention"});
  expect_refused<precision::with_bfloat16_attention<precision::fp32>>(
      "float16/float16", attend, {"scaled_dot_product_attention", "attention_weight"});
  Tape<precision::fp16> exempt;
  exempt.use_recipe(Simulation::parse("scaled_*:-/-"));
  EXPECT_NO_THROW(attend(exempt));
}

TEST(SimulatedOps, OnesThatRoundWithinHaveTheBitsOfTheRealOnes) {
  const auto gelu_linear = [](const auto& x) { return ops::gelu_linear(x[0], x[1], x[2]); };
  const auto recurrent = [](const auto& x) {
    return ops::recurrent_highway(x[0], x[1], x[2], x[3]);
  };
  const std::vector<Shape> recurrent_shapes{{2, 3, 24}, {30, 39}, {30}, {15}};
  expect_same_bits<Fp8>(gelu_linear, linear_shapes, "gelu_linear");
  expect_same_bits<Fp8>(recurrent, recurrent_shapes, "recurrent_highway");
  using Half = Real<float16, float8_e4m3fn>;
  expect_same_bits<Half>(gelu_linear, linear_shapes, "gelu_linear");
  expect_same_bits<Half>(recurrent, recurrent_shapes, "recurrent_highway");
  expect_same_bits<precision::fp8, precision::fp16>(gelu_linear, linear_shapes, "gelu_linear");
  expect_same_bits<precision::fp8, precision::fp16>(recurrent, recurrent_shapes,
                                                    "recurrent_highway");
}

// What they round within, they would go on rounding to the policy's storage.
TEST(SimulatedOps, OnesThatRoundWithinAreRefusedAFormatForWhatTheyWrite) {
  const auto gelu_linear = [](auto& tape) {
    const auto y = ops::gelu_linear(normal_input(tape, {2, 4}), normal_input(tape, {3, 4}));
    tape.backward(sum(y));
  };
  const auto recurrent = [](auto& tape) {
    const auto y =
        ops::recurrent_highway(normal_input(tape, {2, 3, 4}), normal_input(tape, {10, 9}),
                               normal_input(tape, {10}), normal_input(tape, {5}));
    tape.backward(sum(y));
  };
  for (const char* simulation : {"*=float16/float16", "*=-/e5m2"}) {
    expect_refused<precision::fp32>(simulation, gelu_linear, {"gelu_linear", "within"});
    expect_refused<precision::fp32>(simulation, recurrent, {"recurrent_highway", "within"});
  }
  Tape<precision::fp32> exempt;
  exempt.use_recipe(Simulation::parse("*_*=-/-,*=float16/float16,e4m3/e5m2"));
  EXPECT_NO_THROW(recurrent(exempt));
}

/// Stores half precision, and multiplies formats that it does not hold.
struct HalfStored : precision::fp16 {
  using matmul_operand = bfloat16;
  using matmul_gradient = float8_e4m3b11fnuz;
};
/// As FP8, with an operand that its own does not hold.
struct OtherFp8 : precision::fp8 {
  using matmul_operand = float8_e3m4;
};

TEST(SimulatedOps, FormatsThatThePolicyDoesNotHoldAreMultipliedAsThePolicyWithThemDoes) {
  expect_same_bits<HalfStored, precision::fp16>(linear_with_bias, linear_shapes);
  expect_same_bits<OtherFp8, precision::fp8>(linear_with_bias, linear_shapes);
}

TEST(SimulatedOps, WhatIsStoredInNarrowFormatsIsNotRoundedTwice) {
  const auto multiply = [](auto& tape) {
    (void)ops::matmul(normal_input(tape, {2, 4}), normal_input(tape, {4, 3}));
  };
  expect_refused<precision::fp16>("*=e5m2/-", multiply, {"input", "stores float", "fp16"});
  Tape<precision::fp64> wide;
  expect_error<std::invalid_argument>([&] { wide.use_recipe(Simulation::parse("e4m3/e5m2")); },
                                      {"use_recipe", "double", "fp64"});
}

TEST(SimulatedOps, AttentionInFormatsThatThePolicyDoesNotHoldHasTheBitsOfTheRealOne) {
  expect_same_bits<OtherFp8, precision::fp8>(causal_attention, attention_shapes, "fp8");
}

}  // namespace simulated_ops_test
