// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Codes narrower than a byte in a stream of bits, without gaps.
///
/// The codes form one stream of bits: element i takes the bits from i times its width up, its
/// lowest bit first; bit k of the stream is bit k % 8 of byte k / 8. So two numbers of four bits
/// share a byte, the first in its low half, and four of six bits share three bytes. The bits of the
/// last byte that belong to no element are zero. PyTorch's float4_e2m1fn_x2 is laid out so, and so
/// are the 4- and 6-bit elements of the usual Microscaling (MX) kernels.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::detail {

static_assert(std::endian::native == std::endian::little,
              "Packing takes the first of eight codes from the low byte of a word.");

/// Number of elements that are packed at once; they fill as many bytes as an element has bits.
inline constexpr std::size_t packed_group = 8;

/// Number of bytes that hold `count` codes of so many bits.
[[nodiscard]] constexpr std::size_t packed_code_bytes(std::size_t bits,
                                                      std::size_t count) noexcept {
  // By eights, so that the product is no greater than the count.
  return count / packed_group * bits + (count % packed_group * bits + 7) / 8;
}

/// The low `field` bits of every lane of `lane` bits of a word. @pre field < lane <= 64
template <unsigned lane, unsigned field>
inline constexpr std::uint64_t low_fields =
    ((std::uint64_t{1} << field) - 1U) *
    (lane == 64U ? 1U : ~std::uint64_t{0} / ((std::uint64_t{1} << lane % 64U) - 1U));

/// Joins the low fields of both halves of every lane into one field twice as wide.
template <unsigned lane, unsigned field>
[[nodiscard]] constexpr std::uint64_t join_halves(std::uint64_t word) noexcept {
  constexpr std::uint64_t low = low_fields<lane, field>;
  return (word & low) | ((word >> (lane / 2 - field)) & (low << field));
}
/// The reverse.
template <unsigned lane, unsigned field>
[[nodiscard]] constexpr std::uint64_t part_halves(std::uint64_t word) noexcept {
  constexpr std::uint64_t low = low_fields<lane, field>;
  return (word & low) | ((word & (low << field)) << (lane / 2 - field));
}

/// Moves the low `bits` bits of the eight bytes of a word together, into its low end.
template <unsigned bits>
[[nodiscard]] constexpr std::uint64_t join_fields(std::uint64_t word) noexcept {
  return join_halves<64, 4 * bits>(join_halves<32, 2 * bits>(join_halves<16, bits>(word)));
}
/// The reverse. Bits above the eight fields are ignored.
template <unsigned bits>
[[nodiscard]] constexpr std::uint64_t part_fields(std::uint64_t word) noexcept {
  return part_halves<16, bits>(part_halves<32, 2 * bits>(part_halves<64, 4 * bits>(word)));
}

/// The word in whose low end are the bytes of a stream from `first` on, of which a group needs
/// `count`. What is above them is of no meaning. A whole word is read where the stream has one, for
/// a word put together from parts would have to wait until they are in memory.
[[nodiscard, gnu::always_inline]] inline std::uint64_t load_word(
    std::span<const std::uint8_t> stream, std::size_t first, std::size_t count) noexcept {
  std::uint64_t word = 0;
  if (first + sizeof(word) <= stream.size()) {
    std::memcpy(&word, stream.data() + first, sizeof(word));
  } else if (first + count >= sizeof(word)) {
    std::memcpy(&word, stream.data() + first + count - sizeof(word), sizeof(word));
    word >>= 8 * (sizeof(word) - count);
  } else {
    std::memcpy(&word, stream.data() + first, count);
  }
  return word;
}

/// Packs codes, one byte each, into the bytes that they fill. Must not overlap.
template <unsigned bits>
void pack_codes(std::span<const std::uint8_t> codes, std::uint8_t* to) noexcept {
  const auto pack_group = [&](std::size_t group, std::size_t count, std::size_t bytes)
      __attribute__((always_inline)) {
    std::uint64_t word = 0;
    std::memcpy(&word, codes.data() + group * packed_group, count);
    word = join_fields<bits>(word);
    std::memcpy(to + group * bits, &word, bytes);
  };
  const std::size_t groups = codes.size() / packed_group;
  for (std::size_t group = 0; group < groups; ++group) pack_group(group, packed_group, bits);
  const std::size_t rest = codes.size() % packed_group;
  if (rest != 0) pack_group(groups, rest, packed_code_bytes(bits, rest));
}

/// Unpacks the codes at the beginning of a stream, one byte each. Must not overlap.
template <unsigned bits>
void unpack_codes(std::span<const std::uint8_t> stream, std::span<std::uint8_t> codes) noexcept {
  const auto unpack_group = [&](std::size_t group, std::size_t count, std::size_t bytes)
      __attribute__((always_inline)) {
    const std::uint64_t word = part_fields<bits>(load_word(stream, group * bits, bytes));
    std::memcpy(codes.data() + group * packed_group, &word, count);
  };
  const std::size_t groups = codes.size() / packed_group;
  for (std::size_t group = 0; group < groups; ++group) unpack_group(group, packed_group, bits);
  const std::size_t rest = codes.size() % packed_group;
  if (rest != 0) unpack_group(groups, rest, packed_code_bytes(bits, rest));
}

/// Calls `body` with a width of 1 to 7 bits as a constant.
template <class Body> void with_code_bits(int bits, const Body& body) {
  switch (bits) {
    case 1:
      return body(std::integral_constant<unsigned, 1>{});
    case 2:
      return body(std::integral_constant<unsigned, 2>{});
    case 3:
      return body(std::integral_constant<unsigned, 3>{});
    case 4:
      return body(std::integral_constant<unsigned, 4>{});
    case 5:
      return body(std::integral_constant<unsigned, 5>{});
    case 6:
      return body(std::integral_constant<unsigned, 6>{});
    default:
      return body(std::integral_constant<unsigned, 7>{});
  }
}

/// As pack_codes<bits>(), of a width known at run time.
inline void pack_codes(int bits, std::span<const std::uint8_t> codes, std::uint8_t* to) noexcept {
  with_code_bits(bits, [&](auto width) { pack_codes<width()>(codes, to); });
}
/// As unpack_codes<bits>(), of a width known at run time.
inline void unpack_codes(int bits, std::span<const std::uint8_t> stream,
                         std::span<std::uint8_t> codes) noexcept {
  with_code_bits(bits, [&](auto width) { unpack_codes<width()>(stream, codes); });
}

}  // namespace UNIT_SCALING_NAMESPACE::detail

UNIT_SCALING_IEEE_END
