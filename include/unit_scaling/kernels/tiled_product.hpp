// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: a matrix product by tiles: which thread packs which panels and multiplies them,
/// and in what order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/cache_size.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/inner_blocks.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/packing_memory.hpp"
#include "unit_scaling/kernels/parts.hpp"
#include "unit_scaling/kernels/piece_grid.hpp"
#include "unit_scaling/kernels/tile.hpp"
#include "unit_scaling/kernels/tile_finish.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// A product by tiles of one kernel.
///
/// The product is cut into pieces, which threads compute. A large right operand is packed first,
/// whole or in passes. Each piece packs a small one for itself, panel by panel: that takes less
/// time than to wait for all threads and then to fetch it from the caches of other cores. Each
/// piece packs its rows of the left operand, block by block. Where the kernel takes rows as they
/// are, only a last tile of fewer rows is packed.
template <class Tile> class TiledProduct {
 public:
  using Finish = TileFinish<Tile>;

  TiledProduct(const MatmulSize& size, const OperandView& a, const OperandView& b)
      : size_(size),
        left_(lanes_of(a, size.rows)),
        right_(lanes_of(b.transposed(), size.columns)),
        blocks_(size, Tile::words::depth, Tile::depth_step),
        threads_(available_thread_count()),
        left_words_(Tile::left_words(blocks_.most_depth())),
        right_words_(Tile::right_words(blocks_.most_depth())),
        stays_unpacked_(Tile::takes_unpacked_rows && a.kernels->are_floats &&
                        a.column_stride == 1 && a.row_stride % set_stride != 0 &&
                        reads_rows_well()) {}

  void run(const Finish& finish) const {
    const std::size_t blocks = std::max<std::size_t>(1, blocks_.count());
    const std::size_t panels = ceil_divide(size_.columns, Tile::columns);
    const std::size_t row_tiles = ceil_divide(size_.rows, Tile::rows);
    const auto grid_of = [&](std::size_t columns, bool pack_columns) {
      return piece_grid(row_tiles, Tile::rows, columns, Tile::columns, threads_, pack_columns);
    };
    const PieceGrid grid_of_small = grid_of(panels, true);
    const bool packs_first =
        !pack_right_in_pieces(ceil_divide(row_tiles, grid_of_small.row_groups), panels);
    // A pass holds its right panels, if they are packed first, and all its sums, if they wait for
    // the next block.
    const std::size_t column_passes =
        packs_first || blocks > 1
            ? std::min(panels, ceil_divide(panels * right_words_ * blocks, words_of_pass()))
            : 1;
    for (std::size_t pass = 0; pass < column_passes; ++pass) {
      const Range columns = part_of(panels, column_passes, pass);
      const RightPanels right =
          packs_first ? pack_right(columns) : RightPanels{nullptr, columns, right_words_};
      const PieceGrid grid =
          packs_first ? grid_of(columns.end - columns.begin, false) : grid_of_small;
      parallel_for(grid.row_groups * grid.column_groups, [&](std::size_t piece) {
        multiply_piece(part_of(row_tiles, grid.row_groups, piece / grid.column_groups),
                       inner_part(columns, grid.column_groups, piece % grid.column_groups), right,
                       finish);
      });
    }
  }

 private:
  /// Some panels of the right operand, in all blocks, packed; nothing yet if `words` is null.
  struct RightPanels {
    std::uint32_t* words;
    Range panels;
    std::size_t panel_words;

    [[nodiscard]] std::uint32_t* of(std::size_t block, std::size_t panel) const {
      const std::size_t count = panels.end - panels.begin;
      return words + (block * count + panel - panels.begin) * panel_words;
    }
  };

  /// Words of the right operand that are packed for a pass. They are more where several threads
  /// work: at the end of a pass all wait, and in the next one they pack the left operand again.
  [[nodiscard]] std::size_t words_of_pass() const {
    constexpr std::size_t of_a_thread = std::size_t{1} << 20;
    return std::clamp(threads_ * of_a_thread, 2 * of_a_thread, 16 * of_a_thread);
  }
  /// Words of the left operand that stay in the second-level cache beside a right panel: a part of
  /// many rows, or all of few. Threads share what lies behind that cache, and read it less often
  /// with larger parts.
  [[nodiscard]] std::size_t left_block_words() const {
    const std::size_t quarter = second_level_cache_bytes() / 4;
    const std::size_t bytes = threads_ == 1 ? std::min(quarter, std::size_t{256} << 10) : quarter;
    return bytes / sizeof(std::uint32_t);
  }
  static std::size_t whole_left_words() {
    constexpr std::size_t most_bytes = std::size_t{640} << 10;
    return std::min(second_level_cache_bytes() / 8 * 5, most_bytes) / sizeof(std::uint32_t);
  }
  /// A right operand of no more words is packed in pieces where several threads compute them.
  static constexpr std::size_t most_words_packed_again = std::size_t{1} << 20;
  /// Tiles of rows whose sums wait together for the next block of the inner dimension.
  static constexpr std::size_t most_tiles_at_once = 16;
  /// Places of the inner dimension packed at a time where lanes follow each other in memory.
  static constexpr std::size_t pack_run = 64;
  /// Rows of the right operand that are so many bytes apart are packed in runs.
  static constexpr std::size_t far_bytes = 2048;
  static constexpr std::size_t pack_right_run = 32;  ///< rows of a run
  /// Panels that are packed together, run by run. Each row is then read in its order, which the
  /// processor foresees.
  static constexpr std::size_t panels_packed_together = 8;
  static_assert(pack_run % Tile::depth_step == 0 && pack_right_run % Tile::depth_step == 0);
  /// Floats this far apart share a set of the first-level cache, which holds fewer of them than a
  /// tile has rows.
  static constexpr std::size_t set_stride = 4096 / sizeof(float);
  /// Of rows that are multiplied by more panels, packed ones are read faster by more than it costs
  /// to pack them.
  static constexpr std::size_t most_unpacked_panels = 8;
  /// A tile of rows that, where registers are wide, stays in the first-level cache beside a right
  /// panel, and right panels that stay in the second-level cache while such tiles pass by.
  static constexpr std::size_t short_tile_words = 2048;
  static constexpr std::size_t right_block_words = std::size_t{128} << 10;

  static Range inner_part(const Range& range, std::size_t parts, std::size_t index) {
    const Range part = part_of(range.end - range.begin, parts, index);
    return {range.begin + part.begin, range.begin + part.end};
  }

  [[nodiscard]] std::size_t height(std::size_t tile) const {
    return std::min(Tile::rows, size_.rows - tile * Tile::rows);
  }
  [[nodiscard]] std::size_t width(std::size_t panel) const {
    return std::min(Tile::columns, size_.columns - panel * Tile::columns);
  }

  /// Whether rows are so short, and the panels they are multiplied by so few, that it is fastest to
  /// take tiles one by one, each past all panels: it stays in the first-level cache, and what it
  /// writes is contiguous. Pairs and AMX, whose tiles take half the time and less, gain nothing by
  /// it.
  [[nodiscard]] bool passes_short_rows(std::size_t panels) const {
    return Tile::takes_unpacked_rows && blocks_.count() * left_words_ <= short_tile_words &&
           blocks_.count() * panels * right_words_ <= right_block_words;
  }

  /// Whether the kernel reads rows of floats at least as fast as it would after packing them.
  [[nodiscard]] bool reads_rows_well() const {
    return ceil_divide(size_.columns, Tile::columns) <= most_unpacked_panels;
  }

  /// Whether pieces of so many tiles of rows pack the right panels that they need: a panel is then
  /// still in the cache for all that is multiplied by it.
  [[nodiscard]] bool pack_right_in_pieces(std::size_t tiles, std::size_t panels) const {
    const bool stays = tiles * left_words_ <= whole_left_words() &&
                       (blocks_.count() <= 1 || tiles <= most_tiles_at_once);
    return stays &&
           (threads_ == 1 || blocks_.count() * panels * right_words_ <= most_words_packed_again);
  }

  [[nodiscard]] RightPanels pack_right(const Range& panels) const {
    const std::size_t count = panels.end - panels.begin;
    const RightPanels right{
        packing_memory<0, std::uint32_t>(blocks_.count() * count * right_words_), panels,
        right_words_};
    // Each of several threads has two groups, or more.
    const std::size_t together =
        threads_ == 1 ? panels_packed_together
                      : std::clamp<std::size_t>(blocks_.count() * count / (2 * threads_), 1,
                                                panels_packed_together);
    const std::size_t groups = ceil_divide(count, together);
    parallel_for(blocks_.count() * groups, [&](std::size_t index) {
      const InnerBlock block = blocks_[index / groups];
      const Range group = inner_part(panels, groups, index % groups);
      pack_right_panels(block, group, right.of(block.index, group.begin));
    });
    return right;
  }
  void pack_right_panels(const InnerBlock& block, const Range& panels, std::uint32_t* words) const {
    const bool are_far = right_.depth_stride * right_.kernels->bytes >= far_bytes;
    const std::size_t run = right_.lane_stride == 1 && are_far ? pack_right_run : block.depth;
    for (std::size_t begin = 0; begin < block.depth; begin += run) {
      std::uint32_t* to = words + begin / Tile::words::depth * Tile::columns;
      for (std::size_t panel = panels.begin; panel < panels.end; ++panel, to += right_words_) {
        right_.kernels->template pack_right<Tile>(
            right_.part(block.segment, panel * Tile::columns, Tile::columns, block.begin + begin,
                        std::min(run, block.depth - begin)),
            to);
      }
    }
  }

  [[nodiscard]] bool is_unpacked(std::size_t tile) const {
    return stays_unpacked_ && height(tile) == Tile::rows;
  }
  [[nodiscard]] UnpackedRows unpacked_rows(const InnerBlock& block, std::size_t tile) const {
    const auto source = left_.part(block.segment, tile * Tile::rows, Tile::rows, block.begin, 0)
                            .template of_type<float>();
    return {source.data, source.lane_stride};
  }

  /// Packs `depth` elements from `begin` on of each row of a tile, unless they stay unpacked;
  /// `words` is its whole panel.
  void pack_left_panel(const InnerBlock& block, std::size_t tile, std::size_t begin,
                       std::size_t depth, std::uint32_t* words) const {
    if (is_unpacked(tile)) return;
    left_.kernels->template pack_left<Tile>(
        left_.part(block.segment, tile * Tile::rows, Tile::rows, block.begin + begin, depth),
        words + begin / Tile::words::depth * Tile::rows);
  }

  /// Tiles of rows that are packed together and multiplied by one of so many panels after the
  /// other.
  [[nodiscard]] std::size_t most_tiles(std::size_t panels) const {
    // Lanes that follow each other in memory share lines with those of the next tile.
    if (passes_short_rows(panels) && left_.lane_stride != 1) return 1;
    return std::clamp<std::size_t>(left_block_words() / std::max<std::size_t>(1, left_words_), 1,
                                   most_tiles_at_once);
  }

  void multiply_piece(const Range& rows, const Range& columns, const RightPanels& right,
                      const Finish& finish) const {
    [[maybe_unused]] const typename Tile::Session session{};
    const std::size_t tiles = rows.end - rows.begin;
    const std::size_t parts =
        right.words == nullptr ? 1 : ceil_divide(tiles, most_tiles(columns.end - columns.begin));
    for (std::size_t part = 0; part < parts; ++part) {
      multiply_rows_of_tiles(inner_part(rows, parts, part), columns, right, finish);
    }
  }

  void multiply_rows_of_tiles(const Range& rows, const Range& columns, const RightPanels& right,
                              const Finish& finish) const {
    const std::size_t tiles = rows.end - rows.begin;
    const std::size_t blocks = blocks_.count();
    auto* left = packing_memory<1, std::uint32_t>(tiles * left_words_);
    const auto left_panel = [&](std::size_t tile) {
      return left + (tile - rows.begin) * left_words_;
    };
    auto* own_right =
        right.words == nullptr ? packing_memory<0, std::uint32_t>(right_words_) : nullptr;
    // Sums of one tile, or of all of them where they have to wait for the next block.
    constexpr std::size_t tile_size = Tile::rows * Tile::columns;
    const std::size_t tiles_kept = blocks > 1 ? tiles * (columns.end - columns.begin) : 1;
    auto* all_sums = packing_memory<2, float>(tiles_kept * tile_size);
    if (blocks == 0) {
      for (std::size_t panel = columns.begin; panel < columns.end; ++panel) {
        for (std::size_t tile = rows.begin; tile < rows.end; ++tile) {
          std::fill_n(all_sums, tile_size, 0.0F);
          finish.store(all_sums, block_of(tile, panel));
        }
      }
      return;
    }
    for (std::size_t index = 0; index < blocks; ++index) {
      const InnerBlock block = blocks_[index];
      // Lanes that follow each other in memory share lines with those of the next tile: all tiles
      // take their part of some lines before any goes on.
      const std::size_t run = left_.lane_stride == 1 ? pack_run : block.depth;
      for (std::size_t begin = 0; begin < block.depth; begin += run) {
        for (std::size_t tile = rows.begin; tile < rows.end; ++tile) {
          pack_left_panel(block, tile, begin, std::min(run, block.depth - begin), left_panel(tile));
        }
      }
      for (std::size_t panel = columns.begin; panel < columns.end; ++panel) {
        const std::uint32_t* words = own_right;
        const std::uint32_t* next = nullptr;
        if (right.words == nullptr) {
          pack_right_panels(block, {panel, panel + 1}, own_right);
        } else {
          words = right.of(index, panel);
          next = panel + 1 < columns.end ? right.of(index, panel + 1)
                                         : right.of((index + 1) % blocks, columns.begin);
        }
        for (std::size_t tile = rows.begin; tile < rows.end; ++tile) {
          float* sums = all_sums;
          if (tiles_kept > 1) {
            sums += ((panel - columns.begin) * tiles + tile - rows.begin) * tile_size;
          }
          multiply_tile(block, tile, panel, left_panel(tile),
                        {words, part_fetched(next, tile - rows.begin)}, sums, finish);
        }
      }
    }
  }
  /// The quarter of a panel that the tile of that number fetches.
  [[nodiscard]] const std::uint32_t* part_fetched(const std::uint32_t* next,
                                                  std::size_t tile) const {
    constexpr std::size_t tiles = RightPanel::tiles_that_fetch;
    return next == nullptr || tile >= tiles ? nullptr : next + tile * (right_words_ / tiles);
  }

  [[nodiscard]] TileBlock block_of(std::size_t tile, std::size_t panel) const {
    return {tile * Tile::rows, panel * Tile::columns, height(tile), width(panel)};
  }

  void multiply_tile(const InnerBlock& block, std::size_t tile, std::size_t panel,
                     const std::uint32_t* left, const RightPanel& right, float* sums,
                     const Finish& finish) const {
    if constexpr (Tile::takes_unpacked_rows) {
      if (is_unpacked(tile)) {
        return multiply_rows_of_tile(block, block_of(tile, panel), unpacked_rows(block, tile),
                                     right, sums, finish);
      }
    }
    multiply_rows_of_tile(block, block_of(tile, panel), left, right, sums, finish);
  }

  template <class Left>
  void multiply_rows_of_tile(const InnerBlock& block, const TileBlock& at, const Left& left,
                             const RightPanel& right, float* sums, const Finish& finish) const {
    const bool is_last = block.index + 1 == blocks_.count();
    if (is_last) {
      finish.prefetch(at);
      if (at.height == Tile::rows && at.width == Tile::columns &&
          finish.multiply_and_store(block.depth, left, right, sums, block.index > 0, at)) {
        return;
      }
    }
    Tile::multiply(block.depth, left, right, at.height, at.width, sums, block.index > 0);
    if (is_last) finish.store(sums, at);
  }

  MatmulSize size_;
  LaneOperand left_;
  LaneOperand right_;
  InnerBlocks blocks_;
  std::size_t threads_;
  std::size_t left_words_;
  std::size_t right_words_;
  bool stays_unpacked_;
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
