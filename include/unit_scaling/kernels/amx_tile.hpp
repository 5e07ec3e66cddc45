// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the tile of a matrix product on AMX, the matrix unit of some Intel processors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

/// Defined where the target has the matrix unit, the vectors that fill it, and a system to ask.
#if defined(__AVX512F__) && defined(__linux__) &&        \
    ((defined(__AMX_TILE__) && defined(__AMX_BF16__)) || \
     (defined(__AMXTILE__) && defined(__AMXBF16__)))  // so Clang 14 names them
#define UNIT_SCALING_HAS_AMX 1
#endif

#if defined(UNIT_SCALING_HAS_AMX)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/transpose.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

#if defined(UNIT_SCALING_HAS_AMX)
inline constexpr bool has_amx = true;
#else
inline constexpr bool has_amx = false;
#endif

/// Whether the target multiplies operands of A and B on AMX, given that the system lets us: those
/// that bfloat16 holds, of which bfloat16 itself has numbers that AMX takes for zero.
template <class A, class B> [[nodiscard]] constexpr bool has_amx_for() {
  return has_amx && (is_exact_in_bfloat16_pairs<A>() || std::is_same_v<A, bfloat16>)&&(
                        is_exact_in_bfloat16_pairs<B>() || std::is_same_v<B, bfloat16>);
}

/// Whether this process may use AMX: Linux wants to be asked, once.
[[nodiscard]] inline bool may_use_amx() {
#if defined(UNIT_SCALING_HAS_AMX)
  static const bool granted = [] {
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long tile_data = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return granted;
#else
  return false;
#endif
}

#if defined(UNIT_SCALING_HAS_AMX)

/// The kernel of a matrix product on AMX: 32 x 32 sums in four tiles of the matrix unit.
///
/// Order of accumulation: the inner dimension in groups of 32 elements; in each group, one chain of
/// 16 fused multiply-adds over its even and one over its odd elements, both started at zero; their
/// sum; and that added to the sum of the groups before. Subnormal operands and results count as
/// zero. (Intel, Software Developer's Manual, TDPBF16PS.)
struct AmxTile {
  using words = Bfloat16Pairs;
  static constexpr std::size_t rows = 32;
  static constexpr std::size_t columns = 32;
  static constexpr std::size_t depth_step = 32;
  static constexpr bool finishes_in_registers = false;
  static constexpr bool takes_unpacked_rows = false;
  /// A left panel has 16 words of a row after each other, not a word of each row.
  static constexpr bool has_left_rows = true;

  /// Holds the shapes of the tiles of the calling thread, which others must not use meanwhile.
  class Session {
   public:
    Session() {
      struct alignas(64) {
        std::uint8_t palette = 1;
        std::uint8_t start_row = 0;
        std::uint8_t reserved[14] = {};
        std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t row_count[16] = {16, 16, 16, 16, 16, 16, 16, 16};
      } const shapes;
      asm volatile("" : : "r"(&shapes) : "memory");  // GCC 12 declares 8 of the bytes read
      _tile_loadconfig(&shapes);
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    ~Session() { _tile_release(); }
  };

  [[nodiscard]] static constexpr std::size_t left_words(std::size_t depth) {
    return panel_words(groups(depth), rows);
  }
  [[nodiscard]] static constexpr std::size_t right_words(std::size_t depth) {
    return panel_words(groups(depth), columns);
  }

  /// For each 16 words of depth, 32 rows of them.
  template <class T>
  static void pack_left(const PanelSource<T>& shared_source, std::uint32_t* target) {
    const PanelSource<T> source = shared_source;  // of its own, as in pack_panel
    const auto elements = source.elements();
    const std::size_t height = std::min(source.lane_count, rows);
    for (std::size_t p = 0; p < source.depth; p += depth_step, target += lanes * rows) {
      const std::size_t run = std::min(depth_step, source.depth - p);
      if (source.depth_stride == 1) {
        for (std::size_t i = 0; i < height; ++i) {
          const T* from = source.data + i * source.lane_stride + p;
          T part[depth_step] = {};
          if (run < depth_step) {
            std::copy_n(from, run, part);
            from = part;
          }
          unit_scaling::store(elements.template run<words>(from), target + i * lanes);
        }
        continue;
      }
      for (std::size_t i = 0; i < height; i += lanes) {
        std::uint32_t block[panel_words(lanes, lanes)] = {};
        pack_panel<words>(
            PanelSource<T>{.data = source.data + i * source.lane_stride + p * source.depth_stride,
                           .lane_stride = source.lane_stride,
                           .depth_stride = source.depth_stride,
                           .lane_count = height - i,
                           .depth = run,
                           .lanes_readable = source.lanes_readable - i,
                           .table = source.table},
            lanes, block);
        uint32x16 rows_of_block[lanes];
        for (std::size_t q = 0; q < lanes; ++q) {
          rows_of_block[q] = unit_scaling::load<uint32x16>(block + q * lanes);
        }
        detail::transpose_16x16(rows_of_block);
        for (std::size_t q = 0; q < lanes; ++q) {
          unit_scaling::store(rows_of_block[q], target + (i + q) * lanes);
        }
      }
    }
  }
  /// Writes zeros behind what is packed of a right panel: whole steps are multiplied.
  static void fill_right(std::size_t depth, std::uint32_t* target) {
    const std::size_t packed = (depth + words::depth - 1) / words::depth;
    std::fill(target + packed * columns, target + groups(depth) * columns, 0U);
  }

  static void multiply(std::size_t depth, const std::uint32_t* left, const RightPanel& panel,
                       std::size_t height, std::size_t width, float* sums, bool accumulate) {
    const std::uint32_t* right = panel.words;
    asm volatile("" : : : "memory");  // what was packed must be in memory
    constexpr std::size_t tile_words = lanes * lanes;
    constexpr int left_stride = lanes * sizeof(std::uint32_t);
    constexpr int right_stride = columns * sizeof(std::uint32_t);
    const bool is_tall = height > lanes;
    const bool is_wide = width > lanes;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (accumulate) {
      _tile_loadd(0, sums, right_stride);
      if (is_wide) _tile_loadd(1, sums + lanes, right_stride);
      if (is_tall) _tile_loadd(2, sums + lanes * columns, right_stride);
      if (is_tall && is_wide) _tile_loadd(3, sums + lanes * columns + lanes, right_stride);
    }
    const std::size_t steps = groups(depth) / lanes;
    if (is_tall && is_wide) {
      const std::uint32_t* fetched = panel.fetched;
      for (std::size_t step = 0; step < steps; ++step) {
        if (fetched != nullptr) {
          constexpr std::size_t quarter = lanes * columns / RightPanel::tiles_that_fetch;
          fetch_words<quarter, 2>(fetched);
          fetched += quarter;
        }
        _tile_loadd(4, left, left_stride);
        _tile_loadd(6, right, right_stride);
        _tile_loadd(7, right + lanes, right_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, left + tile_words, left_stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        left += rows * lanes;
        right += columns * lanes;
      }
    } else {
      for (std::size_t step = 0; step < steps; ++step) {
        _tile_loadd(4, left, left_stride);
        _tile_loadd(6, right, right_stride);
        _tile_dpbf16ps(0, 4, 6);
        if (is_wide) {
          _tile_loadd(7, right + lanes, right_stride);
          _tile_dpbf16ps(1, 4, 7);
        }
        if (is_tall) {
          _tile_loadd(5, left + tile_words, left_stride);
          _tile_dpbf16ps(2, 5, 6);
        }
        left += rows * lanes;
        right += columns * lanes;
      }
    }
    _tile_stored(0, sums, right_stride);
    if (is_wide) _tile_stored(1, sums + lanes, right_stride);
    if (is_tall) _tile_stored(2, sums + lanes * columns, right_stride);
    if (is_tall && is_wide) _tile_stored(3, sums + lanes * columns + lanes, right_stride);
  }

 private:
  /// Words of each lane, whole steps of them.
  static constexpr std::size_t groups(std::size_t depth) {
    return (depth + depth_step - 1) / depth_step * lanes;
  }
};

#endif

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
