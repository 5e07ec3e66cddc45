// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Arrays of numbers narrower than a byte, stored without gaps.
///
/// The codes form one stream of bits, in which element i occupies the bits from i * bits up, its
/// lowest bit first; bit k of the stream is bit k % 8 of byte k / 8. So two numbers of four bits
/// share a byte, the first in its low half, and four of six bits share three bytes. The bits of the
/// last byte that belong to no element are zero. PyTorch's float4_e2m1fn_x2 is laid out so, and so
/// are the 4- and 6-bit elements of the usual Microscaling (MX) kernels.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/minifloat.hpp"
#include "unit_scaling/formats/rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A number format narrower than a byte, of which a packed array saves memory.
template <class T>
concept PackableMinifloat = AnyMinifloat<T> && T::format.bits() < 8;

/// Number of bytes that hold `count` packed elements.
template <PackableMinifloat T> [[nodiscard]] constexpr std::size_t packed_bytes(std::size_t count) {
  constexpr auto bits = static_cast<std::size_t>(T::format.bits());
  // Eight elements fill whole bytes. By eights, so that the product is no greater than the count.
  return count / 8 * bits + (count % 8 * bits + 7) / 8;
}

namespace detail {

static_assert(std::endian::native == std::endian::little,
              "Packing takes the first of eight codes from the low byte of a word.");

/// Number of elements that are packed at once; they fill as many bytes as an element has bits.
inline constexpr std::size_t packed_group = 8;

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

template <PackableMinifloat T> inline constexpr auto packed_bits = unsigned{T::format.bits()};

/// Packs eight or fewer elements into the bytes that they fill.
template <PackableMinifloat T>
[[gnu::always_inline]] inline void pack_group(const T* from, std::size_t count, std::uint8_t* to,
                                              std::size_t bytes) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, from, count);
  word = join_fields<packed_bits<T>>(word);
  std::memcpy(to, &word, bytes);
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

/// Unpacks eight or fewer elements.
template <PackableMinifloat T>
[[gnu::always_inline]] inline void unpack_group(std::uint64_t word, T* to,
                                                std::size_t count) noexcept {
  word = part_fields<packed_bits<T>>(word);
  // Through void: a class with a constructor is still trivially copyable.
  std::memcpy(static_cast<void*>(to), &word, count);
}

template <PackableMinifloat T>
void check_packed_sizes(std::string_view function, std::size_t elements, std::size_t bytes) {
  if (bytes == packed_bytes<T>(elements)) return;
  throw std::invalid_argument(std::string(function) + ": " + std::to_string(elements) +
                              " elements of " + std::to_string(packed_bits<T>) + " bits fill " +
                              std::to_string(packed_bytes<T>(elements)) + " bytes, but there are " +
                              std::to_string(bytes));
}

}  // namespace detail

/// Packs elements, one byte each, into a stream of bits; see the head of this file for the layout.
/// The spans must not overlap.
/// @throws std::invalid_argument if `out` does not have packed_bytes<T>(in.size()) bytes.
template <PackableMinifloat T> void pack(std::span<const T> in, std::span<std::uint8_t> out) {
  detail::check_packed_sizes<T>("unit_scaling::pack", in.size(), out.size());
  constexpr std::size_t bytes = detail::packed_bits<T>;
  constexpr std::size_t count = detail::packed_group;
  const std::size_t groups = in.size() / count;
  for (std::size_t i = 0; i < groups; ++i) {
    detail::pack_group(in.data() + i * count, count, out.data() + i * bytes, bytes);
  }
  const std::size_t rest = in.size() % count;
  if (rest > 0) {
    detail::pack_group(in.data() + groups * count, rest, out.data() + groups * bytes,
                       out.size() - groups * bytes);
  }
}

/// Unpacks a stream of bits into elements, one byte each; see the head of this file for the layout.
/// The spans must not overlap.
/// @throws std::invalid_argument if `in` does not have packed_bytes<T>(out.size()) bytes.
template <PackableMinifloat T> void unpack(std::span<const std::uint8_t> in, std::span<T> out) {
  detail::check_packed_sizes<T>("unit_scaling::unpack", out.size(), in.size());
  constexpr std::size_t bytes = detail::packed_bits<T>;
  constexpr std::size_t count = detail::packed_group;
  const std::size_t groups = out.size() / count;
  for (std::size_t i = 0; i < groups; ++i) {
    detail::unpack_group(detail::load_word(in, i * bytes, bytes), out.data() + i * count, count);
  }
  const std::size_t rest = out.size() % count;
  if (rest > 0) {
    const std::size_t first = groups * bytes;
    detail::unpack_group(detail::load_word(in, first, in.size() - first),
                         out.data() + groups * count, rest);
  }
}

/// An array of numbers narrower than a byte that owns its packed storage; see the head of this file
/// for the layout. Elements have no address: they are read by value and written by set().
template <PackableMinifloat T> class PackedArray {
 public:
  using value_type = T;

  /// An array without elements.
  PackedArray() = default;
  /// `size` elements of code zero, which is positive zero.
  /// @throws ShapeError if std::size_t cannot count their bits.
  explicit PackedArray(std::size_t size) : size_(size), bytes_(countable_bytes(size)) {}
  /// A copy of `values`.
  explicit PackedArray(std::span<const T> values) : PackedArray(values.size()) {
    pack<T>(values, bytes_);
  }
  /// `size` elements that are packed already. Bits that belong to no element are cleared.
  /// @throws std::invalid_argument if there are not packed_bytes<T>(size) bytes.
  PackedArray(std::size_t size, std::span<const std::uint8_t> bytes)
      : size_(size), bytes_(bytes.begin(), bytes.end()) {
    detail::check_packed_sizes<T>("unit_scaling::PackedArray", size, bytes.size());
    const std::size_t used = size % detail::packed_group * bits % 8;
    if (used != 0) bytes_.back() = static_cast<std::uint8_t>(bytes_.back() & ((1U << used) - 1U));
  }

  PackedArray(const PackedArray&) = default;
  PackedArray& operator=(const PackedArray&) = default;
  ~PackedArray() = default;
  /// Leaves the other one without elements.
  PackedArray(PackedArray&& other) noexcept
      : size_(std::exchange(other.size_, 0)), bytes_(std::move(other.bytes_)) {
    other.bytes_.clear();
  }
  PackedArray& operator=(PackedArray&& other) noexcept {
    PackedArray moved(std::move(other));
    std::swap(size_, moved.size_);
    std::swap(bytes_, moved.bytes_);
    return *this;
  }

  /// Number of elements.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// The packed storage: packed_bytes<T>(size()) bytes.
  [[nodiscard]] std::span<const std::uint8_t> bytes() const& noexcept { return bytes_; }
  std::span<const std::uint8_t> bytes() const&& = delete;  // they would outlive a temporary

  /// The element at `index`. @pre index < size()
  [[nodiscard]] T operator[](std::size_t index) const noexcept {
    const auto [byte, shift] = place(index);
    unsigned window = bytes_[byte];
    if (shift + bits > 8) window |= unsigned{bytes_[byte + 1]} << 8;
    return T::from_bits(static_cast<typename T::storage_type>((window >> shift) & mask));
  }
  /// Replaces the element at `index`. @pre index < size()
  void set(std::size_t index, T value) noexcept {
    const auto [byte, shift] = place(index);
    const unsigned code = value.bits();
    bytes_[byte] = static_cast<std::uint8_t>((bytes_[byte] & ~(mask << shift)) | (code << shift));
    if (shift + bits > 8) {
      const std::size_t written = 8 - shift;
      bytes_[byte + 1] =
          static_cast<std::uint8_t>((bytes_[byte + 1] & ~(mask >> written)) | (code >> written));
    }
  }

  /// Copies the elements from `first` on to `values`.
  /// @throws std::invalid_argument if there are fewer than values.size() of them.
  void read(std::size_t first, std::span<T> values) const {
    check_range("unit_scaling::PackedArray::read", first, values.size());
    const auto [head, body] = split(first, values.size());
    for (std::size_t i = 0; i < head; ++i) values[i] = (*this)[first + i];
    unpack<T>(bytes().subspan(packed_bytes<T>(first + head), packed_bytes<T>(body)),
              values.subspan(head, body));
    for (std::size_t i = head + body; i < values.size(); ++i) values[i] = (*this)[first + i];
  }
  /// Replaces the elements from `first` on by `values`.
  /// @throws std::invalid_argument if there are fewer than values.size() of them.
  void write(std::size_t first, std::span<const T> values) {
    check_range("unit_scaling::PackedArray::write", first, values.size());
    const auto [head, body] = split(first, values.size());
    for (std::size_t i = 0; i < head; ++i) set(first + i, values[i]);
    pack<T>(values.subspan(head, body),
            std::span(bytes_).subspan(packed_bytes<T>(first + head), packed_bytes<T>(body)));
    for (std::size_t i = head + body; i < values.size(); ++i) set(first + i, values[i]);
  }

  /// Whether sizes and codes are equal, so that negative zero differs from positive zero.
  friend bool operator==(const PackedArray&, const PackedArray&) = default;

 private:
  static constexpr std::size_t bits = detail::packed_bits<T>;
  static constexpr unsigned mask = (1U << bits) - 1U;

  [[nodiscard]] static std::size_t countable_bytes(std::size_t size) {
    static_cast<void>(size_product("PackedArray", {size, bits}));
    return packed_bytes<T>(size);
  }

  /// The first byte in which an element lies, and its lowest bit in there.
  struct Place {
    std::size_t byte;
    std::size_t shift;
  };
  [[nodiscard]] static Place place(std::size_t index) noexcept {
    const std::size_t bit = index % detail::packed_group * bits;
    return {index / detail::packed_group * bits + bit / 8, bit % 8};
  }

  /// Sizes of two parts of a range: the elements before the first whole group, and all whole
  /// groups, which share no byte with other elements. What remains is less than a group.
  [[nodiscard]] static std::pair<std::size_t, std::size_t> split(std::size_t first,
                                                                 std::size_t count) noexcept {
    constexpr std::size_t group = detail::packed_group;
    const std::size_t head = std::min(count, (group - first % group) % group);
    return {head, (count - head) / group * group};
  }

  void check_range(std::string_view function, std::size_t first, std::size_t count) const {
    if (first <= size_ && count <= size_ - first) return;
    throw std::invalid_argument(std::string(function) + ": " + std::to_string(count) +
                                " elements from " + std::to_string(first) +
                                " on, of an array that has " + std::to_string(size_));
  }

  std::size_t size_ = 0;
  std::vector<std::uint8_t> bytes_;
};

namespace detail {

/// Number of elements that bulk conversions hold unpacked at a time; they stay in the cache.
inline constexpr std::size_t unpacked_elements = 1024;

}  // namespace detail

/// Rounds every number to the format, to nearest, ties to even, and packs the results. Overflow
/// matters only to formats that have infinity or NaN.
/// @throws std::invalid_argument if the sizes differ.
template <PackableMinifloat T>
void encode(std::span<const float> in, PackedArray<T>& out, Overflow overflow) {
  detail::check_sizes("unit_scaling::encode", in.size(), out.size());
  std::array<T, detail::unpacked_elements> buffer;
  for (std::size_t first = 0; first < in.size(); first += buffer.size()) {
    const auto part = std::span(buffer).first(std::min(buffer.size(), in.size() - first));
    encode<T>(in.subspan(first, part.size()), part, overflow);
    out.write(first, part);
  }
}

/// Converts every element to binary32, exactly.
/// @throws std::invalid_argument if the sizes differ.
template <PackableMinifloat T> void decode(const PackedArray<T>& in, std::span<float> out) {
  detail::check_sizes("unit_scaling::decode", in.size(), out.size());
  std::array<T, detail::unpacked_elements> buffer;
  for (std::size_t first = 0; first < out.size(); first += buffer.size()) {
    const auto part = std::span(buffer).first(std::min(buffer.size(), out.size() - first));
    in.read(first, part);
    decode<T>(part, out.subspan(first, part.size()));
  }
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
