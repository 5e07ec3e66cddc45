// SPDX-License-Identifier: MIT
#include "machine.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <span>

#include "ranks.hpp"
#include "unit_scaling/core/eigen.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/core/processor.hpp"
#include "unit_scaling/kernels/matmul.hpp"

namespace bert_mlp {

namespace {

/// Floating-point rate of `product` on a matrix of 768³, run by every thread at once: the best of
/// 5, or of as many as begin within a tenth of a second.
template <class Product>
[[nodiscard]] double sgemm_rate(std::size_t threads, const Product& product) {
  constexpr std::size_t size = 768;
  using Matrix = unit_scaling::RowMajorMatrix<float>;
  const auto extent = static_cast<Eigen::Index>(size);
  const Matrix a = Matrix::Constant(extent, extent, 0.5F);
  double best = 0;
  const auto first = std::chrono::steady_clock::now();
  for (int repeat = 0; repeat < 5 && (repeat == 0 || seconds_since(first) < 0.1); ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    unit_scaling::parallel_for(threads, [&](std::size_t) {
      Matrix c(extent, extent);
      product(a, c);
    });
    const double flops = 2.0 * size * size * size * static_cast<double>(threads);
    best = std::max(best, flops / seconds_since(start));
  }
  return best;
}

}  // namespace

Machine measure_machine(const Ranks& ranks) {
  Machine machine;
  machine.ranks = ranks.size();
  machine.threads = unit_scaling::thread_count();
  machine.processor = unit_scaling::read_processor().model;
  const double eigen =
      sgemm_rate(machine.threads, [](const auto& a, auto& c) { c.noalias() = a * a; });
  const double ours = sgemm_rate(machine.threads, [](const auto& a, auto& c) {
    const auto n = static_cast<std::size_t>(a.rows());
    const auto view = unit_scaling::kernels::row_major(a.data(), n);
    unit_scaling::kernels::matmul<float>({n, n, n}, view, view, c.data(), n);
  });
  const double own = std::max(eigen, ours) / 1e9;
  for (const double each : ranks.gather(std::span(&own, 1))) machine.sgemm_gflops += each;
  return machine;
}

}  // namespace bert_mlp
