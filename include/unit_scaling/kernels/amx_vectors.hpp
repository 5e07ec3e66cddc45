// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: products of a matrix with few vectors on AMX.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/amx_tile.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/words.hpp"

#if defined(UNIT_SCALING_HAS_AMX)
#include <immintrin.h>
#endif

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

#if defined(UNIT_SCALING_HAS_AMX)

/// Sums of few vectors with many lanes, in the order of `AmxTile`: so a row of a product has the
/// same bits whether it is computed alone or with others.
///
/// A vector fills one of 16 columns of the matrix unit. That wastes most of its products, which
/// cost nothing here: decoding the lanes takes longer.
struct AmxVectors {
  /// Words of a group of the vectors' panel, one for each column of a tile.
  static constexpr std::size_t width = lanes;

  /// Words that the panel of vectors takes, zeros behind them included.
  [[nodiscard]] static constexpr std::size_t words(std::size_t depth) {
    return panel_words(steps(depth) * lanes, width);
  }

  /// Writes zeros behind what is packed: whole steps are multiplied.
  static void fill(std::size_t depth, std::uint32_t* vectors) {
    std::fill(vectors + (depth + 1) / 2 * width, vectors + steps(depth) * lanes * width, 0U);
  }

  /// As `skinny_sums`, of lanes that are contiguous along the inner dimension. `vectors` is packed
  /// in groups of `width` words and filled.
  template <class T>
  static void sums(const PanelSource<void>& source, std::size_t count, const std::uint32_t* vectors,
                   float* target) {
    const AmxTile::Session session;
    const PanelSource<T> all = source.of_type<T>();
    const std::size_t stride = (all.lane_count + lanes - 1) / lanes * lanes;
    for (std::size_t lane = 0; lane < all.lane_count; lane += AmxTile::rows) {
      PanelSource<T> some = all;
      some.data += lane * all.lane_stride;
      some.lane_count = std::min(AmxTile::rows, all.lane_count - lane);
      some.lanes_readable -= lane;
      alignas(64) float products[AmxTile::rows * width];
      multiply(some, vectors, products);
      const std::size_t height = std::min(AmxTile::rows, stride - lane);
      for (std::size_t c = 0; c < count; ++c) {
        for (std::size_t i = 0; i < height; ++i) {
          target[c * stride + lane + i] = products[i * width + c];
        }
      }
    }
  }

 private:
  static constexpr std::size_t tile_words = lanes * lanes;
  static constexpr std::size_t step_words = 2 * tile_words;  ///< of two tiles of lanes
  static constexpr int row_bytes = lanes * sizeof(std::uint32_t);

  [[nodiscard]] static constexpr std::size_t steps(std::size_t depth) {
    return (depth + AmxTile::depth_step - 1) / AmxTile::depth_step;
  }

  /// Tiles 0 and 1 are sums of 16 lanes each.
  static void multiply_step(const std::uint32_t* decoded, const std::uint32_t* vectors) {
    asm volatile("" : : : "memory");  // what was decoded must be in memory
    _tile_loadd(4, vectors, row_bytes);
    _tile_loadd(5, decoded, row_bytes);
    _tile_dpbf16ps(0, 5, 4);
    _tile_loadd(6, decoded + tile_words, row_bytes);
    _tile_dpbf16ps(1, 6, 4);
  }

  /// The first `count` of 64 elements, and zeros.
  template <class T> static void load_part(const T* from, std::size_t count, T* part) {
    constexpr std::size_t vector_bytes = 64;
    constexpr std::size_t vector = vector_bytes / sizeof(T);
    for (std::size_t i = 0; i < 64; i += vector) {
      const std::size_t bytes = sizeof(T) * (std::clamp(count, i, i + vector) - i);
      const __mmask64 mask = bytes == 0 ? 0 : ~__mmask64{0} >> (vector_bytes - bytes);
      _mm512_store_si512(part + i, _mm512_maskz_loadu_epi8(mask, from + i));
    }
  }

  static void store_sums(float* products) {
    _tile_stored(0, products, row_bytes);
    _tile_stored(1, products + tile_words, row_bytes);
    asm volatile("" : : : "memory");
  }

  /// Sums of 32 lanes with 16 columns. Two steps of the inner dimension are decoded at a time.
  template <class T>
  static void multiply(const PanelSource<T>& source, const std::uint32_t* vectors,
                       float* products) {
    constexpr std::size_t run = 2 * AmxTile::depth_step;
    const auto elements = source.elements();
    // Lanes beyond the last one repeat it.
    const T* lane[AmxTile::rows];
    for (std::size_t i = 0; i < AmxTile::rows; ++i) {
      lane[i] = source.data + std::min(i, source.lane_count - 1) * source.lane_stride;
    }
    const auto decode = [&](const T* from, std::uint32_t* to) __attribute__((always_inline)) {
      if constexpr (decltype(elements)::has_fours) {
        const auto [first, second] = elements.pairs_of_run(from);
        unit_scaling::store(first, to);
        unit_scaling::store(second, to + step_words);
      } else {
        unit_scaling::store(elements.template run<Bfloat16Pairs>(from), to);
        unit_scaling::store(elements.template run<Bfloat16Pairs>(from + AmxTile::depth_step),
                            to + step_words);
      }
    };
    // Of two blocks one is multiplied while the other is decoded.
    alignas(64) std::uint32_t decoded[2][2 * step_words];
    _tile_zero(0);
    _tile_zero(1);
    std::size_t p = 0;
    std::size_t block = 0;
    for (; p + run <= source.depth; p += run, block ^= 1U) {
      std::uint32_t* const to = decoded[block];
      for (std::size_t i = 0; i < AmxTile::rows; ++i) {
        __builtin_prefetch(lane[i] + p + AmxTile::rows * source.lane_stride);
        decode(lane[i] + p, to + i * lanes);
      }
      multiply_step(to, vectors);
      multiply_step(to + step_words, vectors + tile_words);
      vectors += 2 * tile_words;
    }
    if (p < source.depth) {
      const std::size_t left = source.depth - p;
      const std::size_t steps_left = steps(left);
      std::uint32_t* const to = decoded[block];
      for (std::size_t i = 0; i < AmxTile::rows; ++i) {
        alignas(64) T part[run];
        load_part(lane[i] + p, left, part);
        for (std::size_t step = 0; step < steps_left; ++step) {
          unit_scaling::store(
              elements.template run<Bfloat16Pairs>(part + step * AmxTile::depth_step),
              to + step * step_words + i * lanes);
        }
      }
      for (std::size_t step = 0; step < steps_left; ++step) {
        multiply_step(to + step * step_words, vectors + step * tile_words);
      }
    }
    store_sums(products);
  }
};

#endif

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
