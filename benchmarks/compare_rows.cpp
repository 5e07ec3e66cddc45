// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Ops that go over their arrays once, forward and backward, on one thread.
///
/// An array has 32 MiB, more than the caches keep, so memory binds: the peer is a copy that reads
/// and writes as many bytes, in total, as the op has to read and write in both passes.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "comparison.hpp"
#include "unit_normal.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/layer_norm.hpp"

namespace {

using unit_scaling::Array;
using unit_scaling::RecyclingResource;
using unit_scaling_benchmarks::keep;
using unit_scaling_benchmarks::unit_normal;
namespace ops = unit_scaling::ops;
namespace precision = unit_scaling::precision;

constexpr std::size_t columns = 1024;
constexpr std::size_t array_bytes = std::size_t{32} << 20;

constexpr std::size_t rows_of(std::size_t element_bytes) {
  return array_bytes / element_bytes / columns;
}

/// Copies half of `bytes`, so that `bytes` are read or written.
struct Copy {
  std::shared_ptr<char[]> from;
  std::shared_ptr<char[]> to;
  std::size_t bytes;

  explicit Copy(std::size_t read_and_written)
      : from(new char[read_and_written / 2]),
        to(new char[read_and_written / 2]),
        bytes(read_and_written / 2) {
    std::memset(from.get(), 1, bytes);
    std::memset(to.get(), 1, bytes);
  }
  void operator()() const {
    std::memcpy(to.get(), from.get(), bytes);
    keep(to.get());
  }
};

/// Adds an entry whose op reads or writes so many arrays of 32 MiB. `make_call(memory)` returns a
/// call of both passes, whose results come from `memory`, to be used again by the next call.
template <class MakeCall>
bool add(const std::string& name, std::size_t arrays, const MakeCall& make_call) {
  const std::size_t bytes = arrays * array_bytes;
  return unit_scaling_benchmarks::add_comparison(
      {.name = name,
       .peer_name = "copy of as many bytes",
       .unit = "GB/s",
       .work_per_call = 1e-9 * static_cast<double>(bytes),
       .prepare = [bytes, make_call] {
         const auto memory = std::make_shared<RecyclingResource>();
         auto call = make_call(memory.get());
         return unit_scaling_benchmarks::Sides{[memory, call] { call(); }, Copy(bytes)};
       }});
}

template <class P> void add_all(const std::string& suffix) {
  using T = typename P::storage;
  // Forward x, y; backward dy, x, dx.
  add("gelu" + suffix, 5, [](std::pmr::memory_resource* memory) {
    return [x = unit_normal<T>({rows_of(sizeof(T)), columns}, 0, memory),
            dy = unit_normal<T>({rows_of(sizeof(T)), columns}, 1, memory)] {
      const ops::Gelu op;
      const auto scales = op.scales(x);
      const auto result = op.forward(P{}, scales, x);
      keep(result.output.data());
      const auto gradients = op.backward(P{}, scales, result.saved, dy);
      keep(std::get<0>(gradients).data());
    };
  });
  add("layer_norm" + suffix, 5, [](std::pmr::memory_resource* memory) {
    return [x = unit_normal<T>({rows_of(sizeof(T)), columns}, 0, memory),
            dy = unit_normal<T>({rows_of(sizeof(T)), columns}, 1, memory),
            gain = Array<float>::filled({columns}, 1.0F, memory),
            bias = Array<float>::filled({columns}, 0.0F, memory)] {
      const ops::LayerNorm op;
      const auto scales = op.scales(x, gain, bias);
      const auto result = op.forward(P{}, scales, x, gain, bias);
      keep(result.output.data());
      const auto gradients = op.backward(P{}, scales, result.saved, dy);
      keep(std::get<0>(gradients).data());
    };
  });
  // Forward x; backward x, dx.
  add("softmax_cross_entropy" + suffix, 3, [](std::pmr::memory_resource* memory) {
    const auto x = unit_normal<T>({rows_of(sizeof(T)), columns}, 0, memory);
    Array<std::int32_t> labels({x.rows()}, memory);
    for (std::size_t i = 0; i < x.rows(); ++i) {
      labels.mutable_data()[i] = static_cast<std::int32_t>(i * 7 % columns);
    }
    return [x, labels, dloss = Array<float>::filled({}, 1.0F, memory)] {
      const ops::CrossEntropy op;
      const auto scales = op.scales(x, labels);
      const auto result = op.forward(P{}, scales, x, labels);
      keep(result.output.data());
      const auto gradients = op.backward(P{}, scales, result.saved, dloss);
      keep(std::get<0>(gradients).data());
    };
  });
}

[[maybe_unused]] const bool added = [] {
  add_all<precision::fp32>("");
  add_all<precision::fp16>("_fp16");
  return true;
}();

}  // namespace
