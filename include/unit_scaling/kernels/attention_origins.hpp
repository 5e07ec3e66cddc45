// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: values of attention as differences, of which the backward passes keep what sums
/// would lose.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/bit_packing.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/attention_mask.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/kernels/parts.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Writes the origin of each column of a slice, zero where values stay.
template <class Compute>
void write_origins(const std::int32_t* mask, std::size_t keys, std::size_t columns,
                   const OperandView& v, Compute* origins) {
  // By then a column of values about zero has shown that it is one.
  constexpr std::size_t keys_at_once = 16;
  for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
    constexpr Compute infinity = std::numeric_limits<Compute>::infinity();
    const OperandView part = v.from_column(j);
    auto least = broadcast<Compute>(infinity);
    auto greatest = broadcast<Compute>(-infinity);
    std::array<Compute, lane_count<Compute>> origin{};
    for (std::size_t begin = 0; begin < keys; begin += keys_at_once) {
      for (std::size_t key = begin; key < std::min(keys, begin + keys_at_once); ++key) {
        if (mask != nullptr && mask[key] == 0) continue;
        std::array<Compute, lane_count<Compute>> room;
        const auto value =
            load<Compute>(part.from_row(key).template read<Compute>(count, room.data()), count);
        least = -greater_lane(-value, -least);
        greatest = greater_lane(value, greatest);
      }
      std::array<Compute, lane_count<Compute>> low;
      std::array<Compute, lane_count<Compute>> high;
      store<Overflow::infinity_or_nan, Compute>(least, low.data(), FullLanes<Compute>{});
      store<Overflow::infinity_or_nan, Compute>(greatest, high.data(), FullLanes<Compute>{});
      bool has_origin = false;
      for (std::size_t lane = 0; lane < count; ++lane) {
        const Compute lo = low[lane];
        const Compute hi = high[lane];
        const bool is_above = lo > 0 && lo <= hi && hi < infinity && hi / 2 <= lo;
        const bool is_below = hi < 0 && lo <= hi && lo > -infinity && lo / 2 >= hi;
        origin[lane] = is_above ? lo : is_below ? hi : 0;
        has_origin = has_origin || origin[lane] != 0;
      }
      // No key has been seen yet where the least is still above the greatest.
      if (!has_origin && low[0] <= high[0]) break;
    }
    for (std::size_t lane = 0; lane < count; ++lane) origins[j + lane] = origin[lane];
  });
}

/// (slices, keys): not zero where some query of the slice sees the key. Empty where the mask of
/// keys, if there is one, tells as much.
[[nodiscard]] inline Array<std::int32_t> keys_seen_by_some_query(
    const AttentionSize& size, std::pmr::memory_resource* resource) {
  const Range by_position = keys_of_rows(size, 0, size.queries).any;
  const bool is_by_query = size.mask.per_query != 0 || size.mask.per_head != 0;
  const bool is_of_some = by_position.begin != 0 || by_position.end != size.keys;
  if (!is_by_query && !is_of_some && (size.segments == nullptr || size.query_offset == 0))
    return {};
  auto seen = Array<std::int32_t>::filled(Shape{size.slices, size.keys}, 0, resource);
  std::int32_t* const target = seen.mutable_data();
  parallel_for(size.slices, [&](std::size_t slice) {
    constexpr std::size_t panel = 32;
    SeenByKey room;
    for (std::size_t i = 0; i < size.queries; i += panel) {
      for (std::size_t j = 0; j < size.keys; j += room.size()) {
        const AttentionBlock block = block_of(size, slice, i, std::min(panel, size.queries - i), j,
                                              std::min(room.size(), size.keys - j), room);
        for (std::size_t b = 0; b < block.keys; ++b) {
          if (!block.hides() || block.seen[b] != 0) target[slice * size.keys + j + b] = 1;
        }
      }
    }
  });
  return seen;
}

/// Writes the elements [first, first + size) of v less their origins.
template <class Compute>
void subtract_origins(const AttentionSize& size, const OperandView& v, const Compute* origins,
                      std::size_t first, std::span<Compute> differences) {
  const std::size_t columns = size.value_dim;
  for (std::size_t i = 0; i < differences.size();) {
    const std::size_t row = (first + i) / columns;
    const std::size_t begin = (first + i) % columns;
    const std::size_t count = std::min(columns - begin, differences.size() - i);
    const Compute* origin = origins + row / size.keys * columns + begin;
    const Compute* values =
        v.from_row(row).from_column(begin).template read<Compute>(count, &differences[i]);
    for (std::size_t j = 0; j < count; ++j) differences[i + j] = values[j] - origin[j];
    i += count;
  }
}

/// A format that holds every difference of two elements of the array of one sign and within a
/// factor of two, and that its operand reads: its own, if that has subnormal numbers and elements
/// have no scales. Nothing, if there is none.
[[nodiscard]] inline std::optional<Format> find_format_of_differences(const EncodedArray& array) {
  // What has scales is of an operand that reads any format.
  if (array.has_scales()) {
    return is_held_by_bfloat16(array) ? Format::of<bfloat16>() : Format::of<float>();
  }
  if (!array.format().is_binary64() && !array.format().spec().has_zero()) return std::nullopt;
  return array.format();
}

/// Differences that are made at a time: of codes that share bytes, whole groups.
inline constexpr std::size_t difference_chunk = 256;
static_assert(difference_chunk % unit_scaling::detail::packed_group == 0);

/// Writes the codes of differences in a format that holds them.
inline void encode_differences(const Operand& to, const Format& format,
                               std::span<const float> differences, std::span<std::uint8_t> codes) {
  to.encode(format, differences, codes);
}
inline void encode_differences(const Operand& to, const Format& format,
                               std::span<const double> differences, std::span<std::uint8_t> codes) {
  if (format.is_binary64()) {
    std::memcpy(codes.data(), differences.data(), codes.size());
    return;
  }
  std::array<float, difference_chunk> floats;
  std::transform(differences.begin(), differences.end(), floats.begin(),
                 [](double difference) { return static_cast<float>(difference); });
  to.encode(format, {floats.data(), differences.size()}, codes);
}

}  // namespace detail

/// The values less the one nearest to zero, in each column of a slice where all that are seen have
/// one sign and are within a factor of two, so that the differences are exact. Elsewhere values are
/// less than twice what they differ by, and stay. Empty if all stay. With dropout, which the values
/// themselves meet, all do. In the format of the values if that holds the differences, else in
/// bfloat16 or binary32.
template <class Compute>
[[nodiscard]] Operand from_origins(const AttentionSize& size, const Operand& v) {
  const EncodedArray& array = v.array;
  const std::optional<Format> found = detail::find_format_of_differences(array);
  if (!found || size.dropout != 0 || size.queries == 0 || array.empty()) return {};
  const Array<std::int32_t> seen = detail::keys_seen_by_some_query(size, v.resource());
  const PreparedOperand prepared(v, SummedExtent::both_with_scales);
  const OperandView view = prepared.view();
  auto origins =
      Array<Compute>::filled(Shape{size.slices, size.value_dim}, Compute{0}, v.resource());
  Compute* target = origins.mutable_data();
  parallel_for(size.slices, [&](std::size_t slice) {
    const std::int32_t* const mask =
        seen.empty() ? size.mask_of_keys(slice) : seen.data() + slice * size.keys;
    detail::write_origins(mask, size.keys, size.value_dim, view.from_row(slice * size.keys),
                          target + slice * size.value_dim);
  });
  if (std::all_of(origins.span().begin(), origins.span().end(),
                  [](Compute origin) { return origin == 0; })) {
    return {};
  }
  const Format& format = *found;
  Array<std::uint8_t> codes(Shape{format.code_bytes(array.size())}, v.resource());
  const std::span<std::uint8_t> all_codes = codes.mutable_span();
  constexpr std::size_t grain = std::size_t{1} << 14;
  parallel_ranges(array.size(), grain, [&](std::size_t begin, std::size_t end) {
    std::array<Compute, detail::difference_chunk> room;
    for (std::size_t first = begin; first < end; first += room.size()) {
      const std::span differences(room.data(), std::min(room.size(), end - first));
      detail::subtract_origins<Compute>(size, view, origins.data(), first, differences);
      const std::size_t at = format.code_bytes(first);
      const auto part = all_codes.subspan(at, format.code_bytes(first + differences.size()) - at);
      detail::encode_differences(v, format, differences, part);
    }
  });
  return {
      .array = EncodedArray(v.shape(), format, codes), .prepare = v.prepare, .encode = v.encode};
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
