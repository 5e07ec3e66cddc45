// SPDX-License-Identifier: MIT
// A training loop of one's own on Eigen matrices: a two-layer unit-scaled network in FP8, built
// from the primitives alone. No tape, no modules, no optimiser of the library. Given the name of a
// file, it goes on from what that holds, if it is there, and leaves there what it has in the end.
#include <Eigen/Core>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <random>

#include "unit_scaling/core/eigen.hpp"
#include "unit_scaling/formats/eigen_traits.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/train/checkpoint.hpp"

namespace us = unit_scaling;
using Matrix = us::RowMajorMatrix<float>;

int main(int count, char** arguments) try {
  constexpr int items = 256, inputs = 16, hidden = 64, classes = 4;
  constexpr us::precision::fp8 fp8{};  // operands E4M3, incoming gradients E5M2, the rest FP16
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  const auto unit_normal = [&](int rows, int columns) -> Matrix {
    return Matrix::NullaryExpr(rows, columns, [&] { return normal(generator); });
  };

  // A task with an answer: which of four random directions fits an input best.
  const Matrix x = unit_normal(items, inputs);
  const Matrix directions = unit_normal(inputs, classes);
  us::Array<std::int32_t> labels(us::Shape{items});
  for (int i = 0; i < items; ++i) {
    Eigen::Index best = 0;
    (x.row(i) * directions).maxCoeff(&best);
    labels.mutable_data()[i] = static_cast<std::int32_t>(best);
  }

  // Float master weights, N(0,1): the 1/√fan_in is in the op. Both layers stand on cut-edges, so
  // forward and backward factors need not agree.
  us::Array<float> w1 = us::to_array(unit_normal(hidden, inputs));
  us::Array<float> w2 = us::to_array(unit_normal(classes, hidden));
  const us::ops::Linear linear{.scaling = us::scaling::paper.on_cut_edge()};
  const us::ops::Gelu gelu{.scaling = us::scaling::paper.on_cut_edge()};
  const us::ops::CrossEntropy loss;

  // All that lasts from one step to the next.
  int step = 0;
  const auto state = [&](const auto& visit) {
    visit("w1", w1);
    visit("w2", w2);
    visit("step", step);
  };
  const std::filesystem::path file = count > 1 ? arguments[1] : "";
  if (std::filesystem::exists(file)) us::train::load_state(file, state);

  for (const int end = step + 200; step <= end; ++step) {
    const auto input = us::kernels::convert<us::float16, us::Overflow::saturate>(us::as_array(x));

    // Forward: each op returns its output and, in the precision it was used in, what it saved.
    const auto s1 = linear.scales(input, w1);
    const auto [h, saved1] = linear.forward(fp8, s1, input, w1);
    const auto sg = gelu.scales(h);
    const auto [a, saved_gelu] = gelu.forward(fp8, sg, h);
    const auto s2 = linear.scales(a, w2);
    const auto [logits, saved2] = linear.forward(fp8, s2, a, w2);
    const auto sl = loss.scales(logits, labels);
    const auto [value, saved_loss] = loss.forward(fp8, sl, logits, labels);

    // Backward: gradients are near 1 at the start, so no loss scale.
    const auto one = us::Array<float>::filled({}, 1);
    const auto [dlogits] = loss.backward(fp8, sl, saved_loss, one);
    const auto [da, dw2] = linear.backward(fp8, s2, saved2, dlogits);
    const auto [dh] = gelu.backward(fp8, sg, saved_gelu, da);
    const auto [dx, dw1] = linear.backward(fp8, s1, saved1, dh, {false, true});

    if (step % 50 == 0) {
      std::printf("step %3d  loss %.4f  rms of dw1 %.2f, dw2 %.2f\n", step,
                  static_cast<double>(*value.data()),
                  static_cast<double>(us::as_matrix(dw1).cast<float>().norm()) / 32,
                  static_cast<double>(us::as_matrix(dw2).cast<float>().norm()) / 16);
    }
    us::as_mutable_matrix(w1) -= 0.1F * us::as_matrix(dw1).cast<float>();
    us::as_mutable_matrix(w2) -= 0.1F * us::as_matrix(dw2).cast<float>();
  }
  if (!file.empty()) us::train::save_state(file, state);
} catch (const std::exception& error) {
  std::fprintf(stderr, "own_trainer: %s\n", error.what());
  return 1;
}
