// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the packed, register-blocked matrix product over any pair of storage types.
///
/// Operands are decoded to float while they are packed, so a 1-byte operand costs a quarter of the
/// memory traffic of a float one and nothing else. Every element of the result is one chain of
/// fused multiply-adds over the inner dimension in ascending order, started at zero; blocking,
/// vector width and thread count only change which chain runs when. So the bits of a result are
/// those of the three-line loop in the tests, for any thread count, and the same on any machine
/// with FMA where the compiler uses it: GCC fuses from -O2 up and rounds twice below.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/kernels/lanes.hpp"

namespace unit_scaling::kernels {

/// An operand of a matrix product: element (row, column) of segment s is at
/// `data[s * segment_stride + row * row_stride + column * column_stride]`.
template <class T> struct MatrixView {
  const T* data;
  std::size_t row_stride;
  std::size_t column_stride;
  std::size_t segment_stride = 0;

  /// The transpose, without moving anything.
  [[nodiscard]] constexpr MatrixView transposed() const {
    return {data, column_stride, row_stride, segment_stride};
  }
};

/// A row-major matrix of the given number of columns.
template <class T>
[[nodiscard]] constexpr MatrixView<T> row_major(const T* data, std::size_t columns,
                                                std::size_t segment_stride = 0) {
  return {data, columns, 1, segment_stride};
}

/// Extents of a product: (rows, inner) times (inner, columns), summed over `segments` pairs of
/// operands one `segment_stride` apart, as if their inner dimensions were laid end to end.
struct MatmulSize {
  std::size_t rows;
  std::size_t columns;
  std::size_t inner;
  std::size_t segments = 1;
};

/// What happens to a finished sum before it is rounded to the output format:
/// `scale * (sum + bias[column])`, without the addition if `bias` is null.
template <class Compute> struct Epilogue {
  Compute scale = 1;
  const Compute* bias = nullptr;
};

namespace detail {

#if defined(__AVX512F__)
inline constexpr std::size_t register_bytes = 64;
inline constexpr int tile_rows = 14;  // 14 x 2 accumulators, 2 of B, of 32 registers
#elif defined(__AVX__)
inline constexpr std::size_t register_bytes = 32;
inline constexpr int tile_rows = 6;  // 6 x 2 accumulators, 2 of B, of 16 registers
#else
inline constexpr std::size_t register_bytes = 16;
inline constexpr int tile_rows = 6;
#endif
using register_t [[gnu::vector_size(register_bytes), gnu::may_alias, gnu::aligned(4)]] = float;
inline constexpr std::size_t register_floats = register_bytes / sizeof(float);
inline constexpr std::size_t tile_columns = 2 * register_floats;

/// Inner block: one panel of B of this depth stays in the first-level cache.
inline constexpr std::size_t inner_block = 256;
/// Distance between rows of a packed panel of A; not a power of two, so rows fall on distinct sets.
inline constexpr std::size_t panel_stride = inner_block + lanes;

/// Calls `body(std::integral_constant<int, i>)` for i in [0, count), unrolled.
template <int count, class Body> [[gnu::always_inline]] inline void unrolled(const Body& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (body(std::integral_constant<int, i>{}), ...); }
  (std::make_integer_sequence<int, count>{});
}

/// c (+)= a·b for one tile: a is `tile_rows` rows of `depth`, b is `depth` rows of `tile_columns`.
template <std::size_t a_row_stride, std::size_t a_column_stride>
inline void multiply_tile(std::size_t depth, const float* a, const float* b, float* c,
                          std::size_t c_stride, bool accumulate) {
  register_t sum[tile_rows][2];
  unrolled<tile_rows>([&](auto i) {
    const float* row = c + static_cast<std::size_t>(i) * c_stride;
    sum[i][0] = accumulate ? *reinterpret_cast<const register_t*>(row) : register_t{};
    sum[i][1] =
        accumulate ? *reinterpret_cast<const register_t*>(row + register_floats) : register_t{};
  });
  for (std::size_t p = 0; p < depth; ++p) {
    const register_t b0 = *reinterpret_cast<const register_t*>(b + p * tile_columns);
    const register_t b1 =
        *reinterpret_cast<const register_t*>(b + p * tile_columns + register_floats);
    unrolled<tile_rows>([&](auto i) {
      const float factor = a[static_cast<std::size_t>(i) * a_row_stride + p * a_column_stride];
      sum[i][0] = sum[i][0] + factor * b0;
      sum[i][1] = sum[i][1] + factor * b1;
    });
  }
  unrolled<tile_rows>([&](auto i) {
    float* row = c + static_cast<std::size_t>(i) * c_stride;
    *reinterpret_cast<register_t*>(row) = sum[i][0];
    *reinterpret_cast<register_t*>(row + register_floats) = sum[i][1];
  });
}

/// Decodes `count` contiguous elements; writes a multiple of 16 floats, zeros beyond `count`.
template <class T> inline void decode_run(const T* source, std::size_t count, float* target) {
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) unit_scaling::store(load_float(source + i), target + i);
  if (i < count) unit_scaling::store(load_float_partial(source + i, count - i), target + i);
}

/// Copies 16 rows of 16 floats, `source_stride` apart, as columns `target_stride` apart.
inline void transpose_16x16(const float* source, std::size_t source_stride, float* target,
                            std::size_t target_stride) {
  float32x16 row[16];
  for (int i = 0; i < 16; ++i)
    row[i] = load_float(source + static_cast<std::size_t>(i) * source_stride);
  // Four butterfly stages: exchange 8-, 4-, 2- and 1-lane halves of rows 8, 4, 2 and 1 apart.
  for (int i = 0; i < 8; ++i) {
    const float32x16 x = row[i], y = row[i + 8];
    row[i] = __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    row[i + 8] =
        __builtin_shufflevector(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
  for (int group = 0; group < 16; group += 8) {
    for (int i = group; i < group + 4; ++i) {
      const float32x16 x = row[i], y = row[i + 4];
      row[i] =
          __builtin_shufflevector(x, y, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
      row[i + 4] =
          __builtin_shufflevector(x, y, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    }
  }
  for (int group = 0; group < 16; group += 4) {
    for (int i = group; i < group + 2; ++i) {
      const float32x16 x = row[i], y = row[i + 2];
      row[i] =
          __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      row[i + 2] =
          __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  }
  for (int i = 0; i < 16; i += 2) {
    const float32x16 x = row[i], y = row[i + 1];
    row[i] =
        __builtin_shufflevector(x, y, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
    row[i + 1] =
        __builtin_shufflevector(x, y, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
  for (int i = 0; i < 16; ++i)
    unit_scaling::store(row[i], target + static_cast<std::size_t>(i) * target_stride);
}

/// Packs columns [0, width) of `depth` rows of B as rows of `tile_columns` floats, zero padded.
template <class T>
inline void pack_columns(const T* source, std::size_t row_stride, std::size_t column_stride,
                         std::size_t depth, std::size_t width, float* target) {
  if (column_stride == 1 && tile_columns % lanes == 0) {
    for (std::size_t p = 0; p < depth; ++p) {
      float* row = target + p * tile_columns;
      decode_run(source + p * row_stride, width, row);
      const std::size_t written = (width + lanes - 1) / lanes * lanes;
      std::fill(row + written, row + tile_columns, 0.0F);
    }
    return;
  }
  if (row_stride == 1 && tile_columns % lanes == 0) {
    float rows[lanes][lanes];
    for (std::size_t p = 0; p < depth; p += lanes) {
      const std::size_t run = std::min(lanes, depth - p);
      for (std::size_t j = 0; j < tile_columns; j += lanes) {
        for (std::size_t i = 0; i < lanes; ++i) {
          if (j + i < width) {
            decode_run(source + (j + i) * column_stride + p, run, rows[i]);
          } else {
            std::fill_n(rows[i], lanes, 0.0F);
          }
        }
        // The packed panel has room for whole groups of 16 rows.
        transpose_16x16(rows[0], lanes, target + p * tile_columns + j, tile_columns);
      }
    }
    return;
  }
  for (std::size_t p = 0; p < depth; ++p) {
    for (std::size_t j = 0; j < tile_columns; ++j) {
      target[p * tile_columns + j] =
          j < width ? static_cast<float>(source[p * row_stride + j * column_stride]) : 0.0F;
    }
  }
}

/// Packs rows [0, height) of A, contiguous along `depth`, as rows `panel_stride` apart.
template <class T>
inline void pack_rows(const T* source, std::size_t row_stride, std::size_t depth,
                      std::size_t height, float* target) {
  for (std::size_t i = 0; i < tile_rows; ++i) {
    if (i < height) {
      decode_run(source + i * row_stride, depth, target + i * panel_stride);
    } else {
      std::fill_n(target + i * panel_stride, depth, 0.0F);
    }
  }
}

/// Packs rows [0, height) of A, contiguous down its columns, as `depth` groups of `tile_rows`.
template <class T>
inline void pack_rows_transposed(const T* source, std::size_t column_stride, std::size_t row_stride,
                                 std::size_t depth, std::size_t height, float* target) {
  for (std::size_t p = 0; p < depth; ++p) {
    float* group = target + p * tile_rows;
    const T* column = source + p * column_stride;
    if (row_stride == 1) {
      // Writes up to 16 floats, of which the next group overwrites those beyond tile_rows.
      decode_run(column, height, group);
      for (std::size_t i = height; i < tile_rows; ++i) group[i] = 0;
    } else {
      for (std::size_t i = 0; i < tile_rows; ++i) {
        group[i] = i < height ? static_cast<float>(column[i * row_stride]) : 0.0F;
      }
    }
  }
}

/// A thread's packing memory: kept for its next product, grown when that is larger.
class PackingBuffer {
 public:
  [[nodiscard]] float* reserve(std::size_t floats) {
    if (floats > capacity_) {
      memory_.reset(static_cast<float*>(
          ::operator new (floats * sizeof(float), std::align_val_t{array_alignment})));
      capacity_ = floats;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete (p, std::align_val_t{array_alignment}); }
  };
  std::unique_ptr<float, Free> memory_;
  std::size_t capacity_ = 0;
};

/// Scratch memory of the calling thread; `slot` tells apart buffers alive at the same time.
template <int slot> [[nodiscard]] inline float* packing_memory(std::size_t floats) {
  thread_local PackingBuffer buffer;
  return buffer.reserve(floats);
}

constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// The product in double, for checking: one chain per element, in the same order.
template <class A, class B, class Out>
void matmul_double(const MatmulSize& size, const MatrixView<A>& a, const MatrixView<B>& b, Out* out,
                   std::size_t out_stride, const Epilogue<double>& epilogue) {
  for (std::size_t i = 0; i < size.rows; ++i) {
    for (std::size_t j = 0; j < size.columns; ++j) {
      double sum = 0;
      for (std::size_t s = 0; s < size.segments; ++s) {
        for (std::size_t p = 0; p < size.inner; ++p) {
          sum += static_cast<double>(
                     a.data[s * a.segment_stride + i * a.row_stride + p * a.column_stride]) *
                 static_cast<double>(
                     b.data[s * b.segment_stride + p * b.row_stride + j * b.column_stride]);
        }
      }
      if (epilogue.bias != nullptr) sum += epilogue.bias[j];
      store<Overflow::infinity_or_nan, double>(sum * epilogue.scale, out + i * out_stride + j,
                                               FullLanes<double>{});
    }
  }
}

}  // namespace detail

/// `out(i, j) = epilogue(Σ_s Σ_p a_s(i, p) b_s(p, j))`, rounded once to Out on store.
///
/// Shapes: as in `size`; `out` is row-major with rows `out_stride` apart. An inner dimension of
/// zero gives `epilogue(0)`. Runs on `thread_count()` threads unless called from inside a
/// `parallel_for`.
template <class Compute, class A, class B, class Out>
void matmul(const MatmulSize& size, const MatrixView<A>& a, const MatrixView<B>& b, Out* out,
            std::size_t out_stride, const Epilogue<Compute>& epilogue = {}) {
  if constexpr (std::is_same_v<Compute, double>) {
    detail::matmul_double(size, a, b, out, out_stride, epilogue);
  } else {
    using namespace detail;
    if (size.rows == 0 || size.columns == 0) return;
    const std::size_t blocks_per_segment = (size.inner + inner_block - 1) / inner_block;
    const std::size_t blocks = size.segments * blocks_per_segment;
    // Packed B, a whole inner dimension at a time, is kept to about the second-level caches.
    constexpr std::size_t packed_limit = std::size_t{1} << 20;
    const std::size_t packed_depth = std::max<std::size_t>(1, blocks * inner_block);
    const std::size_t columns_per_pass =
        std::min(round_up(size.columns, tile_columns),
                 std::max(round_up(packed_limit / packed_depth, tile_columns), 4 * tile_columns));
    const std::size_t row_tiles = (size.rows + tile_rows - 1) / tile_rows;
    // Enough row blocks for every thread, small enough for packed A to stay in the cache.
    const std::size_t threads = thread_count();
    const std::size_t row_blocks =
        std::min(row_tiles, std::max(threads == 1 ? 1 : 4 * threads, (row_tiles + 9) / 10));
    const bool rows_contiguous = a.column_stride == 1;

    for (std::size_t j0 = 0; j0 < size.columns; j0 += columns_per_pass) {
      const std::size_t columns = std::min(columns_per_pass, size.columns - j0);
      const std::size_t panels = (columns + tile_columns - 1) / tile_columns;
      const std::size_t panel_floats = inner_block * tile_columns;
      float* packed_b = packing_memory<0>(blocks * panels * panel_floats);
      const auto block_depth = [&](std::size_t block) {
        return std::min(inner_block, size.inner - block % blocks_per_segment * inner_block);
      };
      parallel_for(blocks * panels, [&](std::size_t index) {
        const std::size_t block = index / panels;
        const std::size_t j = index % panels * tile_columns;
        const std::size_t p0 = block % blocks_per_segment * inner_block;
        pack_columns(b.data + block / blocks_per_segment * b.segment_stride + p0 * b.row_stride +
                         (j0 + j) * b.column_stride,
                     b.row_stride, b.column_stride, block_depth(block),
                     std::min(tile_columns, columns - j), packed_b + index * panel_floats);
      });

      parallel_for(row_blocks, [&](std::size_t row_block) {
        const std::size_t tile_begin = row_tiles * row_block / row_blocks;
        const std::size_t tile_end = row_tiles * (row_block + 1) / row_blocks;
        const std::size_t tiles = tile_end - tile_begin;
        constexpr std::size_t a_panel_floats = tile_rows * panel_stride + lanes;
        float* packed_a = packing_memory<1>(tiles * a_panel_floats);
        const std::size_t c_stride = panels * tile_columns;
        float* c = packing_memory<2>(tiles * tile_rows * c_stride);
        if (blocks == 0) std::fill_n(c, tiles * tile_rows * c_stride, 0.0F);

        for (std::size_t block = 0; block < blocks; ++block) {
          const std::size_t depth = block_depth(block);
          const std::size_t p0 = block % blocks_per_segment * inner_block;
          const A* a_block =
              a.data + block / blocks_per_segment * a.segment_stride + p0 * a.column_stride;
          for (std::size_t t = 0; t < tiles; ++t) {
            const std::size_t i0 = (tile_begin + t) * tile_rows;
            const std::size_t height = std::min<std::size_t>(tile_rows, size.rows - i0);
            float* panel = packed_a + t * a_panel_floats;
            if (rows_contiguous) {
              pack_rows(a_block + i0 * a.row_stride, a.row_stride, depth, height, panel);
            } else {
              pack_rows_transposed(a_block + i0 * a.row_stride, a.column_stride, a.row_stride,
                                   depth, height, panel);
            }
          }
          for (std::size_t panel = 0; panel < panels; ++panel) {
            const float* b_panel = packed_b + (block * panels + panel) * panel_floats;
            for (std::size_t t = 0; t < tiles; ++t) {
              float* c_tile = c + t * tile_rows * c_stride + panel * tile_columns;
              const float* a_panel = packed_a + t * a_panel_floats;
              if (rows_contiguous) {
                multiply_tile<panel_stride, 1>(depth, a_panel, b_panel, c_tile, c_stride,
                                               block > 0);
              } else {
                multiply_tile<1, tile_rows>(depth, a_panel, b_panel, c_tile, c_stride, block > 0);
              }
            }
          }
        }

        const std::size_t row_begin = tile_begin * tile_rows;
        const std::size_t row_end = std::min(tile_end * tile_rows, size.rows);
        const auto scale = broadcast<float>(epilogue.scale);
        for (std::size_t i = row_begin; i < row_end; ++i) {
          const float* sums = c + (i - row_begin) * c_stride;
          Out* row = out + i * out_stride + j0;
          for_lanes<float>(columns, [&](std::size_t j, auto count) {
            float32x16 value = load<float>(sums + j, count);
            if (epilogue.bias != nullptr) value += load<float>(epilogue.bias + j0 + j, count);
            store<Overflow::infinity_or_nan, float>(value * scale, row + j, count);
          });
        }
      });
    }
  }
}

}  // namespace unit_scaling::kernels
