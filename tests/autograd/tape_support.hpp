// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. What the tests of the tape share: random arrays, a loss and a small model.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/residual.hpp"

namespace unit_scaling_test {

/// Draws from N(0, 1), rounded to T; each `tensor` has its own.
template <class T>
unit_scaling::Array<T> random_array(const unit_scaling::Shape& shape, std::uint32_t tensor) {
  const unit_scaling::Random random(7, unit_scaling::RandomStream::general, 0, tensor);
  unit_scaling::Array<T> result(shape);
  T* elements = result.mutable_data();
  for (std::size_t i = 0; i < shape.size(); ++i) elements[i] = static_cast<T>(random.normal(i));
  return result;
}

inline unit_scaling::Parameter random_parameter(std::string name, const unit_scaling::Shape& shape,
                                                std::uint32_t tensor) {
  return {.name = std::move(name), .value = random_array<float>(shape, tensor)};
}

template <class T>
[[nodiscard]] bool same_bits(const unit_scaling::Array<T>& a, const unit_scaling::Array<T>& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

/// An op of the tests' own, which the tape has never heard of: the sum of weights times elements,
/// so that the weights are the gradient.
struct WeightedSum {
  static constexpr std::string_view name = "weighted_sum";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr unit_scaling::ops::OpTraits traits{.has_homogeneity = false,
                                                      .has_item_counts = false};

  unit_scaling::Array<float> weights;

  template <class T>
  [[nodiscard]] unit_scaling::Scales<1> scales(const unit_scaling::Array<T>& y) const {
    unit_scaling::require_same_shape(name, "weights and y", weights.shape(), y.shape());
    return {};
  }
  template <unit_scaling::Precision P, class T>
  [[nodiscard]] auto forward(P, const unit_scaling::Scales<1>&,
                             const unit_scaling::Array<T>& y) const {
    using Compute = typename P::compute;
    Compute sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      sum += static_cast<Compute>(weights.data()[i]) * static_cast<Compute>(y.data()[i]);
    }
    return unit_scaling::ops::Forward{unit_scaling::Array<Compute>::filled({}, sum, y.resource()),
                                      std::tuple{unit_scaling::Array<T>(y.shape(), y.resource())}};
  }
  template <unit_scaling::Precision P, class T, class Compute>
  [[nodiscard]] auto backward(P, const unit_scaling::Scales<1>&,
                              const std::tuple<unit_scaling::Array<T>>& saved,
                              const unit_scaling::Array<Compute>& dloss) const {
    unit_scaling::Array<T> gradient = std::get<0>(saved);
    T* elements = gradient.mutable_data();
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      elements[i] = static_cast<T>(static_cast<Compute>(weights.data()[i]) * *dloss.data());
    }
    return std::tuple{gradient};
  }
};

/// Weights all one: the sum.
template <class Variable> auto sum(const Variable& y) {
  const WeightedSum op{unit_scaling::Array<float>::filled(y.shape(), 1)};
  return y.tape().record(op, y);
}

/// How the parts of the model are scaled.
struct ModelScaling {
  unit_scaling::Scaling cut_edge;  ///< the layers outside the residual branch
  unit_scaling::Scaling branch;    ///< the linear layers in it
  unit_scaling::Scaling gelu;      ///< the GELU in it

  explicit ModelScaling(const unit_scaling::Scaling& scaling)
      : cut_edge(scaling.on_cut_edge()), branch(scaling), gelu(scaling) {}
};

/// A linear layer, a residual branch that uses one weight twice, a normalisation and a read-out:
/// every way in which gradients meet.
struct Model {
  static constexpr std::size_t items = 5;
  static constexpr std::size_t fan_in = 3;
  static constexpr std::size_t size = 6;
  static constexpr std::size_t classes = 4;

  unit_scaling::Parameter first = random_parameter("first", {size, fan_in}, 1);
  unit_scaling::Parameter shared = random_parameter("shared", {size, size}, 2);
  unit_scaling::Parameter gain = random_parameter("gain", {size}, 3);
  unit_scaling::Parameter bias = random_parameter("bias", {size}, 4);
  unit_scaling::Parameter last = random_parameter("last", {classes, size}, 5);
  unit_scaling::Parameter last_bias = random_parameter("last_bias", {classes}, 6);
  unit_scaling::Array<std::int32_t> labels{{items}, {0, 3, 1, 2, 3}};

  [[nodiscard]] std::vector<unit_scaling::Parameter*> parameters() {
    return {&first, &shared, &gain, &bias, &last, &last_bias};
  }
  [[nodiscard]] std::vector<const unit_scaling::Parameter*> parameters() const {
    return {&first, &shared, &gain, &bias, &last, &last_bias};
  }

  template <unit_scaling::Precision P>
  [[nodiscard]] auto loss(const unit_scaling::Variable<P>& input,
                          const ModelScaling& scaling) const {
    namespace ops = unit_scaling::ops;
    const auto x = ops::linear(input, first, {.scaling = scaling.cut_edge});
    const auto y = ops::residual_apply(x,
                                       [&](const auto& branch) {
                                         const auto h = ops::linear(branch, shared,
                                                                    {.scaling = scaling.branch});
                                         return ops::linear(ops::gelu(h, {.scaling = scaling.gelu}),
                                                            shared, {.scaling = scaling.branch});
                                       },
                                       {.scaling = scaling.branch, .tau = 0.4});
    const auto z = ops::layer_norm(y, gain, bias, {.scaling = scaling.cut_edge});
    const auto logits = ops::linear(z, last, last_bias, {.scaling = scaling.cut_edge});
    return ops::cross_entropy(logits, labels, {.scaling = scaling.cut_edge});
  }

  template <unit_scaling::Precision P>
  [[nodiscard]] static unit_scaling::Array<typename P::storage> input(std::uint32_t tensor = 0) {
    return random_array<typename P::storage>({items, fan_in}, tensor);
  }
};

using Policies = ::testing::Types<unit_scaling::precision::fp64, unit_scaling::precision::fp32,
                                  unit_scaling::precision::fp16, unit_scaling::precision::bf16,
                                  unit_scaling::precision::fp8>;

/// Names the typed tests after the policies.
struct PolicyNames {
  template <class P> static std::string GetName(int /*index*/) { return std::string(P::name); }
};

}  // namespace unit_scaling_test
