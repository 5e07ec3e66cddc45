// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Arrays of numbers narrower than a byte, stored without gaps, as bit_packing.hpp
/// lays them out.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/bit_packing.hpp"
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

/// An array of numbers narrower than a byte that owns its packed storage, laid out as
/// bit_packing.hpp says. Elements have no address: they are read by value and written by set().
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
    return T::from_bits(
        static_cast<typename T::storage_type>(detail::read_code(bytes_.data(), bits, index)));
  }
  /// Replaces the element at `index`. @pre index < size()
  void set(std::size_t index, T value) noexcept {
    const auto [byte, shift] = detail::code_place(bits, index);
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
