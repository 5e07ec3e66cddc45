// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Spans of numbers narrower than a byte, stored without gaps, as bit_packing.hpp
/// lays them out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/bit_packing.hpp"
#include "unit_scaling/formats/minifloat.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A number format narrower than a byte, of which packing saves memory.
template <class T>
concept PackableMinifloat = AnyMinifloat<T> && T::format.bits() < 8;

/// Number of bytes that hold `count` packed elements.
template <PackableMinifloat T> [[nodiscard]] constexpr std::size_t packed_bytes(std::size_t count) {
  return detail::packed_code_bytes(static_cast<std::size_t>(T::format.bits()), count);
}

namespace detail {

template <PackableMinifloat T> inline constexpr auto packed_bits = unsigned{T::format.bits()};

template <PackableMinifloat T>
void check_packed_sizes(std::string_view function, std::size_t elements, std::size_t bytes) {
  if (bytes == packed_bytes<T>(elements)) return;
  throw std::invalid_argument(std::string(function) + ": " + std::to_string(elements) +
                              " elements of " + std::to_string(packed_bits<T>) + " bits fill " +
                              std::to_string(packed_bytes<T>(elements)) + " bytes, but there are " +
                              std::to_string(bytes));
}

}  // namespace detail

/// Packs elements, one byte each, into a stream of bits, which bit_packing.hpp lays out. The spans
/// must not overlap.
/// @throws std::invalid_argument if `out` does not have packed_bytes<T>(in.size()) bytes.
template <PackableMinifloat T> void pack(std::span<const T> in, std::span<std::uint8_t> out) {
  detail::check_packed_sizes<T>("unit_scaling::pack", in.size(), out.size());
  const auto* const codes = reinterpret_cast<const std::uint8_t*>(in.data());
  detail::pack_codes<detail::packed_bits<T>>({codes, in.size()}, out.data());
}

/// Unpacks a stream of bits, which bit_packing.hpp lays out, into elements, one byte each. The
/// spans must not overlap.
/// @throws std::invalid_argument if `in` does not have packed_bytes<T>(out.size()) bytes.
template <PackableMinifloat T> void unpack(std::span<const std::uint8_t> in, std::span<T> out) {
  detail::check_packed_sizes<T>("unit_scaling::unpack", out.size(), in.size());
  auto* const codes = reinterpret_cast<std::uint8_t*>(out.data());
  detail::unpack_codes<detail::packed_bits<T>>(in, {codes, out.size()});
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
