// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: tiles of the products of two operands in attention, chosen when the program runs,
/// so that attention is compiled once for all formats of operands.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/amx_tile.hpp"
#include "unit_scaling/kernels/double_tile.hpp"
#include "unit_scaling/kernels/element_kernels.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/tile.hpp"
#include "unit_scaling/kernels/words.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// What panels of operands are made of, with arithmetic in Compute.
template <class Compute>
using panel_word_t = std::conditional_t<std::is_same_v<Compute, double>, double, std::uint32_t>;

/// An operand packed in panels one after the other.
template <class Word> struct PackedPanels {
  Word* words;
  std::size_t stride;
  [[nodiscard]] Word* operator[](std::size_t index) const { return words + index * stride; }
};

/// A kind of tile, as functions.
template <class Compute> struct AttentionTile {
  using Word = panel_word_t<Compute>;
  using CountWords = std::size_t (*)(std::size_t depth);
  using Pack = void (*)(const ElementKernels& kernels, const PanelSource<void>& source,
                        Word* target);
  using Multiply = void (*)(const PackedPanels<Word>& left, std::size_t height, const Word* right,
                            std::size_t depth, Compute* values);

  std::size_t rows;
  std::size_t columns;
  bool is_amx;  ///< Threads that multiply need a session.
  /// Words of a packed panel of the left or the right operand.
  CountWords left_words;
  CountWords right_words;
  Pack pack_left;
  Pack pack_right;
  /// values = left·right for the first `height` lanes of the left side, in rows of a panel.
  Multiply multiply;
};

template <class Tile, class Compute>
void pack_left_panel(const ElementKernels& kernels, const PanelSource<void>& source,
                     panel_word_t<Compute>* target) {
  if constexpr (std::is_same_v<Compute, double>) {
    Tile::pack_left(source.of_type<double>(), target);
  } else {
    kernels.pack_left<Tile>(source, target);
  }
}
template <class Tile, class Compute>
void pack_right_panel(const ElementKernels& kernels, const PanelSource<void>& source,
                      panel_word_t<Compute>* target) {
  if constexpr (std::is_same_v<Compute, double>) {
    Tile::pack_right(source.of_type<double>(), target);
  } else {
    kernels.pack_right<Tile>(source, target);
  }
}
template <class Tile, class Compute>
void multiply_panel(const PackedPanels<panel_word_t<Compute>>& left, std::size_t height,
                    const panel_word_t<Compute>* right, std::size_t depth, Compute* values) {
  for (std::size_t row = 0; row < height; row += Tile::rows) {
    Tile::multiply(depth, left[row / Tile::rows], right, std::min(Tile::rows, height - row),
                   Tile::columns, values + row * Tile::columns, false);
  }
}

template <class Tile, class Compute>
inline constexpr AttentionTile<Compute> attention_tile{
    .rows = Tile::rows,
    .columns = Tile::columns,
    .is_amx = !std::is_trivially_destructible_v<typename Tile::Session>,
    .left_words = &Tile::left_words,
    .right_words = &Tile::right_words,
    .pack_left = &pack_left_panel<Tile, Compute>,
    .pack_right = &pack_right_panel<Tile, Compute>,
    .multiply = &multiply_panel<Tile, Compute>};

/// The fastest kind of tile, of those that are exact for these operands.
template <class Compute>
[[nodiscard]] inline const AttentionTile<Compute>& find_attention_tile(
    [[maybe_unused]] std::initializer_list<const ElementKernels*> operands) {
  if constexpr (std::is_same_v<Compute, double>) {
    return attention_tile<DoubleTile, double>;
  } else {
    [[maybe_unused]] const auto all_are = [&](bool ElementKernels::*property) {
      return std::all_of(operands.begin(), operands.end(),
                         [=](const ElementKernels* kernels) { return kernels->*property; });
    };
#if defined(UNIT_SCALING_HAS_AMX)
    if (all_are(&ElementKernels::are_for_amx) && may_use_amx()) {
      return attention_tile<AmxTile, float>;
    }
#endif
    if constexpr (has_fast_bfloat16_pairs) {
      if (all_are(&ElementKernels::are_exact_in_pairs)) {
        return attention_tile<RegisterTile<Bfloat16Pairs>, float>;
      }
    }
    return attention_tile<RegisterTile<FloatWords>, float>;
  }
}

/// Holds the matrix unit for the calling thread while it multiplies, if tiles need it.
class AttentionSession {
 public:
  explicit AttentionSession([[maybe_unused]] bool is_needed) {
#if defined(UNIT_SCALING_HAS_AMX)
    if (is_needed) session_.emplace();
#endif
  }

#if defined(UNIT_SCALING_HAS_AMX)
 private:
  std::optional<AmxTile::Session> session_;
#endif
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
