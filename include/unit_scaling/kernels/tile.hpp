// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the register block of a matrix product, from panels that are packed, or a left
/// one that stays where it is.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/kernels/packing.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

#if defined(__AVX512F__)
inline constexpr std::size_t register_bytes = 64;
inline constexpr std::size_t tile_registers = 2;
inline constexpr std::size_t tile_rows = 14;  // 28 sums and 2 of B, of 32 registers
#elif defined(__AVX__)
inline constexpr std::size_t register_bytes = 32;
inline constexpr std::size_t tile_registers = 2;
inline constexpr std::size_t tile_rows = 6;  // 12 sums and 2 of B, of 16 registers
#else
inline constexpr std::size_t register_bytes = 16;
inline constexpr std::size_t tile_registers = 4;
#if defined(__aarch64__)
inline constexpr std::size_t tile_rows = 6;  // 24 sums and 4 of B, of 32 registers
#else
inline constexpr std::size_t tile_rows = 2;  // 8 sums and 4 of B, of 16 registers
#endif
#endif
/// A register, and the same as it lies in memory: what may alias is not kept in registers.
using register_t [[gnu::vector_size(register_bytes)]] = float;
using memory_register_t [[gnu::vector_size(register_bytes), gnu::may_alias, gnu::aligned(4)]] =
    float;
inline constexpr std::size_t register_floats = register_bytes / sizeof(float);
inline constexpr std::size_t tile_columns = tile_registers * register_floats;
static_assert(tile_columns % lanes == 0);

/// Whether the target multiplies words of two bfloat16 numbers.
#if defined(__AVX512BF16__) && defined(__AVX512F__)
inline constexpr bool has_bfloat16_pairs = true;
#else
inline constexpr bool has_bfloat16_pairs = false;
#endif

/// Whether it multiplies them faster than floats: twice as fast on AMD's Zen 4, but at two thirds
/// of the rate on Intel's Sapphire Rapids, which is made to multiply them in tiles. Compilers name
/// that processor or its tiles, Clang 14 in another way than GCC.
#if defined(__sapphirerapids__) || defined(__AMX_TILE__) || defined(__AMXTILE__)
inline constexpr bool has_fast_bfloat16_pairs = false;
#else
inline constexpr bool has_fast_bfloat16_pairs = has_bfloat16_pairs;
#endif

/// Whether a tile fetches panels ahead. Intel's processors fetch too little by themselves: products
/// of 1024 x 1024 take a tenth less time so. AMD's, whose family compilers name, fetch enough: it
/// costs 1 to 4 % there.
#if defined(__AVX__) && !defined(__znver1__) && !defined(__znver2__) && !defined(__znver3__) && \
    !defined(__znver4__)
inline constexpr bool fetches_panels = true;
#else
inline constexpr bool fetches_panels = false;
#endif
/// How many steps ahead it fetches its own right panel, which comes from the second-level cache.
inline constexpr std::size_t steps_ahead = 32;
/// A right panel of no more bytes stays in the first-level cache for the next tile.
inline constexpr std::size_t least_fetched_bytes = std::size_t{32} << 10;
/// Steps that are made together: a loop over so many groups is short enough for the processor to
/// foresee its end.
inline constexpr std::size_t group_steps = 4;
static_assert(group_steps == RightPanel::tiles_that_fetch,
              "a row of the next panel for each group is the part that a tile fetches");

[[gnu::always_inline]] inline register_t load_register(const void* from) {
  return *static_cast<const memory_register_t*>(from);
}

/// Calls `body(std::integral_constant<std::size_t, i>)` for i in [0, count), unrolled.
template <std::size_t count, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    (body(std::integral_constant<std::size_t, i>{}), ...);
  }
  (std::make_index_sequence<count>{});
}

/// Calls `body(i, j)` for i in [0, rows) and j in [0, columns), unrolled: what it indexes stays in
/// registers. Loops, for a body inlined from a pack of indices, once for each register, takes
/// longer to compile.
template <std::size_t rows, std::size_t columns, class Body>
[[gnu::always_inline]] inline void unrolled_block(const Body& body) {
#pragma GCC unroll 16
  for (std::size_t i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (std::size_t j = 0; j < columns; ++j) body(i, j);
  }
}
static_assert(tile_rows <= 16 && tile_registers <= 4, "see the unrolling of unrolled_block");

/// sum + a b for each lane: of floats in one fused step, of pairs in two, the earlier one first.
template <class Words>
[[gnu::always_inline]] inline register_t multiply_add_words(register_t sum, std::uint32_t a,
                                                            register_t b) {
  const auto factor = std::bit_cast<float>(a);
  if constexpr (std::is_same_v<Words, FloatWords>) {
    return unit_scaling::multiply_add(factor, b, sum);
  } else {
#if defined(__AVX512BF16__) && defined(__AVX512F__)
    return reinterpret_cast<register_t>(_mm512_dpbf16_ps(
        reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(_mm512_set1_ps(factor)),
        reinterpret_cast<__m512bh>(b)));
#else
    return sum;  // compiled where functions of pairs are named, and called nowhere
#endif
  }
}

/// A packed left operand, groups of `tile_rows` words: word p of row i.
struct PackedRows {
  const std::uint32_t* words;

  [[gnu::always_inline]] std::uint32_t operator()(std::size_t i, std::size_t p) const {
    return words[p * tile_rows + i];
  }
};

}  // namespace detail

/// A left operand of floats that stays where it is, in rows `stride` apart: word p of row i.
struct UnpackedRows {
  const float* data;
  std::size_t stride;

  [[gnu::always_inline]] std::uint32_t operator()(std::size_t i, std::size_t p) const {
    return std::bit_cast<std::uint32_t>(data[i * stride + p]);
  }
};

namespace detail {

/// sums (+)= a·right of `depth` steps: a(i, p) is word p of row i; `sums` has rows of
/// `tile_columns`, of which the first `rows` are computed, in their first `registers`. What came
/// before is added if `accumulate` says so; `write(i, registers)` is called with the results of
/// each row.
template <class Words, std::size_t rows, std::size_t registers, class Left, class Write>
[[gnu::always_inline]] inline void multiply_rows(std::size_t depth, const Left& a,
                                                 const RightPanel& right, const float* sums,
                                                 bool accumulate, const Write& write) {
  const std::uint32_t* const b = right.words;
  register_t sum[rows][registers];
  unrolled_block<rows, registers>([&](std::size_t i, std::size_t j) __attribute__((always_inline)) {
    const float* from = sums + i * tile_columns + j * register_floats;
    sum[i][j] = accumulate ? load_register(from) : register_t{};
  });
  const auto step = [&](std::size_t p) __attribute__((always_inline)) {
    register_t column[registers];
    unrolled_block<1, registers>([&](std::size_t, std::size_t j) __attribute__((always_inline)) {
      column[j] = load_register(b + p * tile_columns + j * register_floats);
    });
    unrolled_block<rows, registers>([&](std::size_t i, std::size_t j) __attribute__((
        always_inline)) { sum[i][j] = multiply_add_words<Words>(sum[i][j], a(i, p), column[j]); });
  };
  std::size_t p = 0;
  if constexpr (rows == tile_rows) {
    constexpr std::size_t least_depth = least_fetched_bytes / (tile_columns * sizeof(float));
    const auto fetch_ahead = [&](std::size_t at) __attribute__((always_inline)) {
      fetch_words<registers * register_floats, 1>(b + (at + steps_ahead) * tile_columns);
    };
    const std::size_t fetched_depth =
        fetches_panels && depth > least_depth ? depth - steps_ahead - group_steps : 0;
    if constexpr (std::is_same_v<Left, UnpackedRows>) {
      // Not in groups: general registers do not hold the addresses of the rows.
      for (; p < fetched_depth; ++p) {
        fetch_ahead(p);
        step(p);
      }
    } else {
      const std::uint32_t* next = fetches_panels ? right.fetched : nullptr;
      for (; p + group_steps <= depth; p += group_steps) {
        if (p < fetched_depth) {
          for (std::size_t q = 0; q < group_steps; ++q) fetch_ahead(p + q);
        }
        if (next != nullptr) {
          fetch_words<tile_columns, 2>(next);
          next += tile_columns;
        }
        // Two at a time: for more, GCC 12 runs out of registers.
#pragma GCC unroll 2
        for (std::size_t q = 0; q < group_steps; ++q) step(p + q);
      }
    }
  }
  for (; p < depth; ++p) step(p);
  unrolled_block<rows, 1>([&](std::size_t i, std::size_t)
                              __attribute__((always_inline)) { write(i, sum[i]); });
}

/// As above, written back to `sums`.
template <class Words, std::size_t rows, std::size_t registers, class Left>
inline void accumulate_rows(std::size_t depth, const Left& left, const RightPanel& right,
                            float* sums, bool accumulate) {
  multiply_rows<Words, rows, registers>(
      depth, left, right, sums, accumulate,
      [=](std::size_t i, const register_t(&row)[registers]) __attribute__((always_inline)) {
        for (std::size_t j = 0; j < registers; ++j) {
          *reinterpret_cast<memory_register_t*>(sums + i * tile_columns + j * register_floats) =
              row[j];
        }
      });
}

}  // namespace detail

/// The kernel of a matrix product: how operands are packed, and how a tile of sums is computed
/// from two panels. Every sum is one chain of fused multiply-adds in ascending order.
template <class Words> struct RegisterTile {
  using words = Words;
  static constexpr std::size_t rows = detail::tile_rows;
  static constexpr std::size_t columns = detail::tile_columns;
  /// The inner dimension is cut into blocks at multiples of this.
  static constexpr std::size_t depth_step = Words::depth;

  /// What a thread holds while it multiplies: nothing.
  struct Session {};

  /// Words of a packed panel of the left or the right operand.
  [[nodiscard]] static constexpr std::size_t left_words(std::size_t depth) {
    return panel_words(steps(depth), rows);
  }
  [[nodiscard]] static constexpr std::size_t right_words(std::size_t depth) {
    return panel_words(steps(depth), columns);
  }

  static constexpr bool has_left_rows = false;
  static void fill_right(std::size_t /*depth*/, std::uint32_t* /*target*/) {}

  /// Whether a left operand of floats may stay unpacked. In narrower registers it is faster packed.
  static constexpr bool takes_unpacked_rows =
      std::is_same_v<Words, FloatWords> && detail::register_floats == lanes;

  /// sums (+)= left·right for the first `height` rows and `width` columns; `sums` is (rows,
  /// columns), of which the rest is of no meaning.
  static void multiply(std::size_t depth, const std::uint32_t* left, const RightPanel& right,
                       std::size_t height, std::size_t width, float* sums, bool accumulate) {
    using Multiply =
        void (*)(std::size_t, const detail::PackedRows&, const RightPanel&, float*, bool);
    constexpr std::size_t narrow = lanes / detail::register_floats;
    constexpr auto table = []<std::size_t... i>(std::index_sequence<i...>) {
      using detail::accumulate_rows, detail::PackedRows, detail::tile_registers;
      return std::array<std::array<Multiply, 2>, sizeof...(i)>{
          {{&accumulate_rows<Words, height_of(i), narrow, PackedRows>,
            &accumulate_rows<Words, height_of(i), tile_registers, PackedRows>}...}};
    }
    (std::make_index_sequence<kernel_of(rows) + 1>{});
    table[kernel_of(height)][width > lanes ? 1 : 0](steps(depth), {left}, right, sums, accumulate);
  }

  /// The same for all rows of a tile, unpacked.
  static void multiply(std::size_t depth, const UnpackedRows& left, const RightPanel& right,
                       std::size_t /*height*/, std::size_t width, float* sums, bool accumulate) {
    constexpr std::size_t narrow = lanes / detail::register_floats;
    if (width > lanes) {
      detail::accumulate_rows<Words, rows, detail::tile_registers>(depth, left, right, sums,
                                                                   accumulate);
    } else {
      detail::accumulate_rows<Words, rows, narrow>(depth, left, right, sums, accumulate);
    }
  }

  /// Whether `multiply_and_finish` is there, for whole tiles: where registers are so wide that 16
  /// lanes are one or two.
  static constexpr bool finishes_in_registers = 2 * detail::register_floats >= lanes;

  /// As `multiply` of a whole tile, but hands the sums on: `finish(i, j, sums)` with 16 of them.
  template <class Finish>
  static void multiply_and_finish(std::size_t depth, const std::uint32_t* left,
                                  const RightPanel& right, const float* sums, bool accumulate,
                                  const Finish& finish) {
    multiply_and_finish(depth, detail::PackedRows{left}, right, sums, accumulate, finish);
  }
  template <class Left, class Finish>
  [[gnu::noinline]] static void multiply_and_finish(std::size_t depth, const Left& left,
                                                    const RightPanel& right, const float* sums,
                                                    bool accumulate, const Finish& finish) {
    using detail::register_t, detail::tile_registers;
    detail::multiply_rows<Words, rows, tile_registers>(
        steps(depth), left, right, sums, accumulate,
        [&](std::size_t i, const register_t(&row)[tile_registers]) __attribute__((always_inline)) {
          for (std::size_t j = 0; j < columns; j += lanes) {
            float32x16 values;
            std::memcpy(&values, &row[j / detail::register_floats], sizeof(values));
            finish(i, j, values);
          }
        });
  }

 private:
  /// Heights of the kernels for parts of tiles, few, as each takes its time to compile: powers of
  /// two from 2 on, and all rows; and which of them is the first for so many rows.
  static constexpr std::size_t height_of(std::size_t kernel) {
    return std::min(rows, std::size_t{2} << kernel);
  }
  static constexpr std::size_t kernel_of(std::size_t height) {
    return static_cast<std::size_t>(std::bit_width((height - 1) / 2));
  }

  static constexpr std::size_t steps(std::size_t depth) {
    return (depth + Words::depth - 1) / Words::depth;
  }
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
