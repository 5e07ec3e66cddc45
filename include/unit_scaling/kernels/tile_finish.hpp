// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: what becomes of finished sums, as functions for a tile at a time, so that a
/// product is compiled once whatever becomes of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/epilogue.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/sum_scales.hpp"
#include "unit_scaling/kernels/tile.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// The elements of a product that a tile has the sums of.
struct TileBlock {
  std::size_t row;
  std::size_t column;
  std::size_t height;
  std::size_t width;
};

/// `finish(i, j, sums, count)` of a product (kernels/matmul.hpp) for all sums of a tile.
template <class Tile> class TileFinish {
 public:
  /// @param finish lives as long as this does.
  template <class Finish>
  TileFinish(const Finish& finish, const SumScales& scales)
      : finish_(&finish), store_(&store_with<Finish>), scales_(scales) {
    if constexpr (requires { finish.read(); }) read_ = finish.read();
    if constexpr (requires { finish.written(); }) written_ = finish.written();
    if constexpr (Tile::finishes_in_registers && requires { requires Finish::is_short; }) {
      if (!scales.are_ones()) return;
      multiply_packed_ = &multiply_with<Finish, const std::uint32_t*>;
      if constexpr (Tile::takes_unpacked_rows) {
        multiply_unpacked_ = &multiply_with<Finish, UnpackedRows>;
      }
    }
  }

  /// Begins to fetch the memory that `store` will read and write. Inlined always: GCC takes a
  /// function that does nothing but this for one without effect, and drops the calls of it.
  [[gnu::always_inline]] void prefetch(const TileBlock& at) const {
    if (read_.data != nullptr) read_.prefetch<0>(at.row, at.column, at.height, at.width);
    if (written_.data != nullptr) written_.prefetch<1>(at.row, at.column, at.height, at.width);
  }
  /// Changes the sums where they have scales.
  void store(float* sums, const TileBlock& at) const {
    if (!scales_.are_ones()) {
      scales_.apply(sums, at.row, at.column, at.height, at.width, Tile::columns, 1);
    }
    store_(finish_, sums, at);
  }

  /// As `Tile::multiply` of a whole tile and `store`, but the sums stay in registers. False, with
  /// nothing done, if that is not faster.
  bool multiply_and_store(std::size_t depth, const std::uint32_t* left, const RightPanel& right,
                          const float* sums, bool accumulate, const TileBlock& at) const {
    if (multiply_packed_ == nullptr) return false;
    multiply_packed_(finish_, depth, left, right, sums, accumulate, at);
    return true;
  }
  bool multiply_and_store(std::size_t depth, const UnpackedRows& left, const RightPanel& right,
                          const float* sums, bool accumulate, const TileBlock& at) const {
    if (multiply_unpacked_ == nullptr) return false;
    multiply_unpacked_(finish_, depth, left, right, sums, accumulate, at);
    return true;
  }

 private:
  template <class Finish>
  static void store_with(const void* shared_finish, const float* sums, const TileBlock& at) {
    // Of its own: what it holds might change with every store, for all the compiler knows.
    const Finish finish = *static_cast<const Finish*>(shared_finish);
    const TileBlock block = at;
    for (std::size_t i = 0; i < block.height; ++i) {
      for_lanes<float>(block.width, [&](std::size_t j, auto count) {
        finish(block.row + i, block.column + j,
               load<float>(sums + i * Tile::columns + j, FullLanes<float>{}), count);
      });
    }
  }

  template <class Finish, class Left>
  static void multiply_with(const void* shared_finish, std::size_t depth, const Left& left,
                            const RightPanel& right, const float* sums, bool accumulate,
                            const TileBlock& at) {
    const Finish finish = *static_cast<const Finish*>(shared_finish);
    Tile::multiply_and_finish(
        depth, left, right, sums, accumulate,
        [ =, row = at.row, column = at.column ](std::size_t i, std::size_t j, float32x16 values)
            __attribute__((always_inline)) {
              finish(row + i, column + j, values, FullLanes<float>{});
            });
  }

  template <class Left>
  using Multiply = void (*)(const void*, std::size_t, const Left&, const RightPanel&, const float*,
                            bool, const TileBlock&);

  const void* finish_;
  void (*store_)(const void*, const float*, const TileBlock&);
  SumScales scales_;
  ElementsTouched read_ = {};
  ElementsTouched written_ = {};
  Multiply<const std::uint32_t*> multiply_packed_ = nullptr;
  Multiply<UnpackedRows> multiply_unpacked_ = nullptr;
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
