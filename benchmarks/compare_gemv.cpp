// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. A square matrix of FP8 weights times one vector, on one thread: memory binds,
/// so FP8 may be up to four times as fast as the peer, which reads four bytes for each weight.

#include <Eigen/Core>
#include <cstddef>
#include <memory>
#include <string>

#include "comparison.hpp"
#include "unit_normal.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/matmul.hpp"

namespace {

using unit_scaling::Array;
using unit_scaling_benchmarks::fill_unit_normal;
using unit_scaling_benchmarks::keep;

/// y = W x, each of our operands in T.
template <class T> struct Ours {
  std::size_t size;
  Array<T> weights = Array<T>({size * size});
  Array<T> x = Array<T>({size});
  Array<float> y = Array<float>({size});

  explicit Ours(std::size_t n) : size(n) {
    fill_unit_normal(weights.mutable_data(), n * n, 0);
    fill_unit_normal(x.mutable_data(), n, 1);
  }
  void operator()() {
    using unit_scaling::kernels::row_major;
    unit_scaling::kernels::matmul<float>({size, 1, size}, row_major(weights.data(), size),
                                         row_major(x.data(), 1), y.mutable_data(), 1);
    keep(y.mutable_data());
  }
};

struct EigenProduct {
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> weights;
  Eigen::VectorXf x;
  Eigen::VectorXf y;

  explicit EigenProduct(std::size_t n) : weights(n, n), x(n), y(n) {
    fill_unit_normal(weights.data(), n * n, 0);
    fill_unit_normal(x.data(), n, 1);
  }
  void operator()() {
    y.noalias() = weights * x;
    keep(y.data());
  }
};

template <class T> bool add(const std::string& format, std::size_t size) {
  return unit_scaling_benchmarks::add_comparison(
      {.name = "gemv_" + format + "_" + std::to_string(size),
       .peer_name = "Eigen float",
       .unit = "GFLOP/s",
       .work_per_call = 2e-9 * static_cast<double>(size * size),
       .prepare = [size] {
         const auto ours = std::make_shared<Ours<T>>(size);
         const auto peer = std::make_shared<EigenProduct>(size);
         return unit_scaling_benchmarks::Sides{[ours] { (*ours)(); }, [peer] { (*peer)(); }};
       }});
}

[[maybe_unused]] const bool added = add<unit_scaling::float8_e4m3fn>("fp8", 4096) &&
                                    add<unit_scaling::float16>("fp16", 4096) &&
                                    add<float>("fp32", 4096);

}  // namespace
