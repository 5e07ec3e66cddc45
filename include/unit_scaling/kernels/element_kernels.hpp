// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: what matrix products do with the elements of an operand, as functions that are
/// found when the program runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/kernels/amx_tile.hpp"
#include "unit_scaling/kernels/amx_vectors.hpp"
#include "unit_scaling/kernels/elements.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/skinny.hpp"
#include "unit_scaling/kernels/tile.hpp"
#include "unit_scaling/kernels/words.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// How elements of one kind are packed and multiplied. So products are compiled once for all pairs
/// of operands. A function is null where elements of this kind never need it.
struct ElementKernels {
  /// Packs lanes in groups of `width` words, as `pack_panel` does.
  using PackPanel = void (*)(const PanelSource<void>& source, std::size_t width,
                             std::uint32_t* target);
  /// As `AmxTile::pack_left`.
  using PackRows = void (*)(const PanelSource<void>& source, std::uint32_t* target);
  /// As `skinny_sums`.
  using MultiplyVectors = void (*)(const PanelSource<void>& source, std::size_t count,
                                   const std::uint32_t* vectors, float* sums);
  /// Writes `count` elements that follow each other in memory as floats.
  using Decode = void (*)(const void* from, const CodeTable* table, std::size_t count, float* to);

  std::size_t bytes = 0;  ///< of an element
  bool are_floats = false;
  bool are_exact_in_pairs = false;  ///< as `is_exact_in_bfloat16_pairs`, where the target has pairs
  /// As `is_exact_in_pairs_with_weights`, where the target has pairs.
  bool are_exact_with_weights = false;
  bool are_for_amx = false;  ///< as `has_amx_for`
  PackPanel pack_floats = nullptr;
  PackPanel pack_pairs = nullptr;
  PackRows pack_amx_rows = nullptr;
  MultiplyVectors multiply_floats = nullptr;
  MultiplyVectors multiply_pairs = nullptr;
  MultiplyVectors multiply_on_amx = nullptr;  ///< as `AmxVectors::sums`
  Decode decode = nullptr;

  /// Packs lanes for the left side of a tile.
  template <class Tile>
  void pack_left(const PanelSource<void>& source, std::uint32_t* target) const {
    if constexpr (Tile::has_left_rows) {
      pack_amx_rows(source, target);
    } else {
      pack<typename Tile::words>(source, Tile::rows, target);
    }
  }
  /// Packs lanes for the right side of a tile.
  template <class Tile>
  void pack_right(const PanelSource<void>& source, std::uint32_t* target) const {
    pack<typename Tile::words>(source, Tile::columns, target);
    Tile::fill_right(source.depth, target);
  }
  /// Packs lanes in groups of `width` words.
  template <class Words>
  void pack(const PanelSource<void>& source, std::size_t width, std::uint32_t* target) const {
    (std::is_same_v<Words, Bfloat16Pairs> ? pack_pairs : pack_floats)(source, width, target);
  }
};

namespace detail {

template <class Words, class T>
void pack_any_panel(const PanelSource<void>& source, std::size_t width, std::uint32_t* target) {
  pack_panel<Words>(source.of_type<T>(), width, target);
}

template <class T>
void decode_elements(const void* from, const CodeTable* table, std::size_t count, float* to) {
  const auto* codes = static_cast<const T*>(from);
  const auto elements = elements_of<T>(table);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    unit_scaling::store(elements.floats(codes + i), to + i);
  }
  if (i == count) return;
  const float32x16 rest = elements.floats(codes + i, count - i);
  std::memcpy(to + i, &rest, (count - i) * sizeof(float));
}

/// @tparam T a storage type that is not looked up, or `std::uint8_t` for codes that are.
template <class T, bool exact_in_pairs, bool exact_with_weights, bool for_amx>
[[nodiscard]] constexpr ElementKernels make_element_kernels() {
  ElementKernels result{.bytes = sizeof(T),
                        .are_floats = std::is_same_v<T, float>,
                        .are_exact_in_pairs = exact_in_pairs,
                        .are_exact_with_weights = exact_with_weights,
                        .are_for_amx = for_amx,
                        .pack_floats = &pack_any_panel<FloatWords, T>,
                        .multiply_floats = &skinny_sums<FloatWords, T>,
                        .decode = &decode_elements<T>};
  if constexpr (exact_in_pairs) result.multiply_pairs = &skinny_sums<Bfloat16Pairs, T>;
  if constexpr (exact_in_pairs || for_amx) result.pack_pairs = &pack_any_panel<Bfloat16Pairs, T>;
#if defined(UNIT_SCALING_HAS_AMX)
  if constexpr (for_amx) {
    result.pack_amx_rows = [](const PanelSource<void>& source, std::uint32_t* target) {
      AmxTile::pack_left(source.of_type<T>(), target);
    };
    result.multiply_on_amx = &AmxVectors::sums<T>;
  }
#endif
  return result;
}

/// The kernels of codes that are looked up. Not `constexpr`: a file that finds them compiled would
/// have to instantiate them all the same.
template <bool exact_in_pairs, bool exact_with_weights>
constinit inline const ElementKernels code_kernels =
    make_element_kernels<std::uint8_t, has_bfloat16_pairs && exact_in_pairs,
                         has_bfloat16_pairs && exact_with_weights, has_amx && exact_in_pairs>();

/// The kernels of codes of a format that are looked up.
[[nodiscard]] constexpr const ElementKernels* find_code_kernels(const FormatSpec& format) {
  if (!is_exact_in_bfloat16_pairs(format)) return &code_kernels<false, false>;
  return is_exact_in_pairs_with_weights(format) ? &code_kernels<true, true>
                                                : &code_kernels<true, false>;
}

/// The kernels of elements of a storage type that is not looked up.
template <class T>
inline constexpr ElementKernels stored_kernels = make_element_kernels<
    T, has_bfloat16_pairs && is_exact_in_bfloat16_pairs<T>(),
    has_bfloat16_pairs && is_exact_in_pairs_with_weights<T>(), has_amx_for<T, T>()>();

/// Of elements that products in double read as they are.
inline constexpr ElementKernels double_kernels{.bytes = sizeof(double)};

}  // namespace detail

/// The kernels of elements of a storage type.
template <class T> [[nodiscard]] const ElementKernels* find_element_kernels() {
  if constexpr (is_looked_up<T>()) {
    return detail::find_code_kernels(T::format);
  } else {
    return &detail::stored_kernels<T>;
  }
}
/// The table of codes of a storage type, if they are looked up.
template <class T> [[nodiscard]] constexpr const CodeTable* find_code_table() {
  if constexpr (is_looked_up<T>()) return &code_table<T>;
  return nullptr;
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
