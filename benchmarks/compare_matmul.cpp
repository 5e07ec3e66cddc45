// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Matrix products over several storage types, on one thread.
///
/// All operands are row-major. A shape is named rows x inner x columns, or by one number if all
/// three are equal. Decoding the operands counts as part of our time; nobody else reads our
/// formats, so the peer of every format is the best product of float operands of the same shape,
/// and for two of them also Eigen's product in the same format.

#include <Eigen/Core>
#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "comparison.hpp"
#include "unit_normal.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/matmul.hpp"

#if defined(UNIT_SCALING_HAVE_ONEDNN)
#include <oneapi/dnnl/dnnl.h>
#endif

namespace {

using unit_scaling::Array;
using unit_scaling::bfloat16;
using unit_scaling::float16;
using unit_scaling::float8_e4m3fn;
using unit_scaling::float8_e5m2;
using unit_scaling_benchmarks::fill_unit_normal;
using unit_scaling_benchmarks::keep;
using unit_scaling_benchmarks::unit_normal;

struct Shape {
  const char* name;
  std::size_t rows;
  std::size_t inner;
  std::size_t columns;
};

/// Two square ones, and the products of two FFN blocks: tokens x hidden size x inner size.
constexpr std::array shapes{Shape{"256", 256, 256, 256}, Shape{"1024", 1024, 1024, 1024},
                            Shape{"2048x768x3072", 2048, 768, 3072},
                            Shape{"2048x128x512", 2048, 128, 512}};

/// Our product, of operands in T.
template <class T, class Out> struct Ours {
  Shape shape;
  Array<T> a = unit_normal<T>({shape.rows * shape.inner}, 0);
  Array<T> b = unit_normal<T>({shape.inner * shape.columns}, 1);
  Array<Out> c = Array<Out>({shape.rows * shape.columns});

  void operator()() {
    using unit_scaling::kernels::row_major;
    unit_scaling::kernels::matmul<float>(
        {shape.rows, shape.columns, shape.inner}, row_major(a.data(), shape.inner),
        row_major(b.data(), shape.columns), c.mutable_data(), shape.columns);
    keep(c.mutable_data());
  }
};

/// Eigen's product of row-major matrices of T.
template <class T> struct EigenProduct {
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix a;
  Matrix b;
  Matrix c;

  explicit EigenProduct(const Shape& shape)
      : a(shape.rows, shape.inner), b(shape.inner, shape.columns), c(shape.rows, shape.columns) {
    fill_unit_normal(a.data(), shape.rows * shape.inner, 0);
    fill_unit_normal(b.data(), shape.inner * shape.columns, 1);
  }
  void operator()() {
    c.noalias() = a * b;
    keep(c.data());
  }
};

/// The two products of a backward pass through y = x wᵀ, rows x inner x columns being those of y:
/// dx = dy w and dw = dyᵀ x, of a gradient in E5M2 and operands in E4M3.
struct OurBackward {
  Shape shape;
  Array<float8_e5m2> dy = unit_normal<float8_e5m2>({shape.rows * shape.columns}, 0);
  Array<float8_e4m3fn> w = unit_normal<float8_e4m3fn>({shape.columns * shape.inner}, 1);
  Array<float8_e4m3fn> x = unit_normal<float8_e4m3fn>({shape.rows * shape.inner}, 2);
  Array<float> dx = Array<float>({shape.rows * shape.inner});
  Array<float> dw = Array<float>({shape.columns * shape.inner});

  void operator()() {
    using unit_scaling::kernels::row_major;
    unit_scaling::kernels::matmul<float>(
        {shape.rows, shape.inner, shape.columns}, row_major(dy.data(), shape.columns),
        row_major(w.data(), shape.inner), dx.mutable_data(), shape.inner);
    unit_scaling::kernels::matmul<float>(
        {shape.columns, shape.inner, shape.rows}, row_major(dy.data(), shape.columns).transposed(),
        row_major(x.data(), shape.inner), dw.mutable_data(), shape.inner);
    keep(dx.mutable_data());
    keep(dw.mutable_data());
  }
};

#if defined(UNIT_SCALING_HAVE_ONEDNN)
/// The same by oneDNN, in float.
struct OneDnnBackward {
  Shape shape;
  Array<float> dy = unit_normal<float>({shape.rows * shape.columns}, 0);
  Array<float> w = unit_normal<float>({shape.columns * shape.inner}, 1);
  Array<float> x = unit_normal<float>({shape.rows * shape.inner}, 2);
  Array<float> dx = Array<float>({shape.rows * shape.inner});
  Array<float> dw = Array<float>({shape.columns * shape.inner});

  void operator()() {
    const auto rows = static_cast<dnnl_dim_t>(shape.rows);
    const auto inner = static_cast<dnnl_dim_t>(shape.inner);
    const auto columns = static_cast<dnnl_dim_t>(shape.columns);
    dnnl_sgemm('N', 'N', rows, inner, columns, 1.0F, dy.data(), columns, w.data(), inner, 0.0F,
               dx.mutable_data(), inner);
    dnnl_sgemm('T', 'N', columns, inner, rows, 1.0F, dy.data(), columns, x.data(), inner, 0.0F,
               dw.mutable_data(), inner);
    keep(dx.mutable_data());
    keep(dw.mutable_data());
  }
};

/// oneDNN's product of float matrices.
struct OneDnnProduct {
  Shape shape;
  Array<float> a = unit_normal<float>({shape.rows * shape.inner}, 0);
  Array<float> b = unit_normal<float>({shape.inner * shape.columns}, 1);
  Array<float> c = Array<float>({shape.rows * shape.columns});

  void operator()() {
    const auto rows = static_cast<dnnl_dim_t>(shape.rows);
    const auto inner = static_cast<dnnl_dim_t>(shape.inner);
    const auto columns = static_cast<dnnl_dim_t>(shape.columns);
    dnnl_sgemm('N', 'N', rows, columns, inner, 1.0F, a.data(), inner, b.data(), columns, 0.0F,
               c.mutable_data(), columns);
    keep(c.mutable_data());
  }
};
#endif

/// Adds `matmul_FORMAT_SHAPE` with one peer, of `products` products: two types of which an object
/// computes the product of the shape that it was made with.
template <class OurProduct, class PeerProduct>
void add(const std::string& format, const Shape& shape, const std::string& peer_name,
         double products = 1) {
  unit_scaling_benchmarks::add_comparison(
      {.name = "matmul_" + format + "_" + shape.name,
       .peer_name = peer_name,
       .unit = "GFLOP/s",
       .work_per_call = 2e-9 * products * static_cast<double>(shape.rows) *
                        static_cast<double>(shape.inner) * static_cast<double>(shape.columns),
       .prepare = [shape] {
         // Shared, for std::function copies what it holds.
         const auto ours = std::make_shared<OurProduct>(OurProduct{shape});
         const auto peer = std::make_shared<PeerProduct>(PeerProduct{shape});
         return unit_scaling_benchmarks::Sides{[ours] { (*ours)(); }, [peer] { (*peer)(); }};
       }});
}

template <class T> void add_against_onednn([[maybe_unused]] const std::string& format) {
#if defined(UNIT_SCALING_HAVE_ONEDNN)
  for (const Shape& shape : shapes) {
    add<Ours<T, float>, OneDnnProduct>(format, shape, "oneDNN sgemm");
  }
#endif
}

[[maybe_unused]] const bool added = [] {
  add_against_onednn<float>("fp32");
  add_against_onednn<float8_e4m3fn>("fp8");
  add_against_onednn<float16>("fp16");
  add_against_onednn<bfloat16>("bf16");
#if defined(UNIT_SCALING_HAVE_ONEDNN)
  for (const Shape& shape : shapes) {
    add<OurBackward, OneDnnBackward>("fp8_backward", shape, "oneDNN sgemm, both products", 2);
  }
#endif
  for (const Shape& shape : shapes) {
    add<Ours<float, float>, EigenProduct<float>>("fp32", shape, "Eigen float");
  }
  // Only the two smaller ones: Eigen would take minutes over the others.
  for (const Shape& shape : {shapes[0], shapes[3]}) {
    add<Ours<float16, float16>, EigenProduct<Eigen::half>>("fp16", shape, "Eigen half");
    add<Ours<bfloat16, bfloat16>, EigenProduct<Eigen::bfloat16>>("bf16", shape, "Eigen bfloat16");
  }
  return true;
}();

}  // namespace
