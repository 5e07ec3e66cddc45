// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. An array of numbers in a format chosen at run time, with or without scales.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/packed.hpp"
#include "unit_scaling/formats/round_to_odd.hpp"
#include "unit_scaling/formats/scale_layout.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// An array of numbers as they are stored, multiplied, sent or kept: codes of a format chosen at
/// run time, and scales, of which each belongs to a tile of the array (see scale_layout.hpp). It is
/// to `Array<T>` what `Format` is to a storage type.
///
/// An element is the number of its code times its scale, rounded to binary32. Codes lie row by row,
/// in bytes as `Format` has them: narrower than a byte without gaps, otherwise one, two, four or
/// eight bytes each. For scales, an array of any rank is a matrix of `rows()` x `columns()`.
/// Binary64 takes no scale.
///
/// It has value semantics as `Array` has: copies share codes and scales until one of them is
/// written to. An array of a storage type, taken in by `view`, shares its elements, and gives them
/// back by `array`.
///
/// **Arithmetic.** All of it is IEEE 754's in binary32, whatever the thread is set to.
/// - `decode` multiplies: one product, rounded once to nearest even. So an element is what the
///   exact product rounds to. Under a power of two it is exact, unless it is beyond the normal
///   range of binary32: below 2^-126 it is rounded to a multiple of 2^-149, and beyond the largest
///   number it is infinite.
/// - `encode` divides: one quotient, rounded once to nearest even in binary32, and rounds that to
///   the format as `EncodeOptions` say. Under a power of two the quotient is exact, unless it is
///   beyond the normal range, as above.
/// - Of two factors, as in NVFP4, a scale is the product, rounded once to nearest even in binary32.
/// - A NaN scale makes every element NaN, and infinite and zero scales do what they do in a product
///   and in a quotient: 0/0, inf/inf and 0 inf are NaN, and other numbers divided by 0 are
///   infinite. A format without NaN takes such a quotient to -0, and EncodeOptions say what becomes
///   of an infinite one. A negative scale changes signs. None of them is refused.
class EncodedArray {
 public:
  /// No elements, of binary32: shape (0).
  EncodedArray() = default;

  /// An array whose codes and scales are in memory already, as a file or a message has them; what
  /// is given as `Array::borrow` stays where it is. Scales are those of `scale_codes()`. Bits that
  /// belong to no code are cleared: in borrowed memory that may be written to there, else in a
  /// copy.
  /// @throws ShapeError for another number of bytes than the shape takes; DomainError for tiles
  /// without elements, scales of binary64, and borrowed codes that are not aligned as their size
  /// asks.
  EncodedArray(const Shape& shape, const Format& format, Array<std::uint8_t> codes,
               const ScaleLayout& layout = {}, Array<std::uint8_t> scales = {})
      : shape_(shape),
        format_(format),
        layout_(layout.has_scales() ? layout : ScaleLayout{}),
        codes_(std::move(codes)),
        scales_(std::move(scales)) {
    require_bytes("codes", code_bytes(shape, format), codes_);
    require_bytes("scales", scale_bytes(shape, format, layout), scales_);
    clear_unused_bits();
  }

  EncodedArray(const EncodedArray&) = default;
  /// Leaves the other one without elements.
  EncodedArray(EncodedArray&& other) noexcept
      : shape_(std::exchange(other.shape_, Shape{0})),
        format_(std::exchange(other.format_, Format())),
        layout_(std::exchange(other.layout_, ScaleLayout{})),
        codes_(std::move(other.codes_)),
        scales_(std::move(other.scales_)) {}
  EncodedArray& operator=(EncodedArray other) noexcept {
    swap(other);
    return *this;
  }
  ~EncodedArray() = default;

  /// The array as it is, sharing its elements.
  template <Storage T>
  requires(!PackableMinifloat<T>) [[nodiscard]] static EncodedArray view(const Array<T>& array) {
    return {array.shape(), Format::of<T>(),
            array.template reinterpreted<std::uint8_t>(Shape{array.bytes()})};
  }

  /// A copy of an array of a format narrower than a byte, of which `Array` has one element in each,
  /// without gaps.
  template <PackableMinifloat T>
  [[nodiscard]] static EncodedArray pack(const Array<T>& array,
                                         std::pmr::memory_resource* resource = nullptr) {
    EncodedArray result(array.shape(), Format::of<T>(), {},
                        resource != nullptr ? resource : array.resource());
    unit_scaling::pack(array.span(), result.codes_.mutable_span());
    return result;
  }

  /// The array as one of a storage type, sharing its elements.
  /// @throws DomainError if the format is another one, or there are scales.
  template <Storage T>
  requires(!PackableMinifloat<T>) [[nodiscard]] Array<T> array() const {
    require_unscaled("EncodedArray::array", Format::of<T>());
    return codes_.reinterpreted<T>(shape_);
  }

  /// A copy with one element in each byte.
  /// @throws DomainError if the format is another one, or there are scales.
  template <PackableMinifloat T>
  [[nodiscard]] Array<T> unpack(std::pmr::memory_resource* resource = nullptr) const {
    require_unscaled("EncodedArray::unpack", Format::of<T>());
    Array<T> result(shape_, resource != nullptr ? resource : codes_.resource());
    unit_scaling::unpack(codes(), result.mutable_span());
    return result;
  }

  /// Rounds the elements of an array, each divided by its scale. The array is shared if it has the
  /// format already, and no scales are there or asked for. The elements of an array with scales are
  /// rounded twice: to binary32, and to the format.
  /// @param scales one for each tile, as many as `layout.count(source.rows(), source.columns())`.
  ///        If scales have a factor in common, what is left of each without it, a number of the
  ///        format that stores it; and behind them the common factor, which may be any.
  /// @param options numbers the elements for their random bits as conversions of spans do.
  ///        `options.scale` multiplies before the division, as a rounding of its own.
  /// @param resource of the result; by default that of the array. An array that is shared stays
  ///        where it is.
  /// @throws ShapeError for another number of scales; DomainError for tiles without elements,
  /// scales of binary64, a scale that its format does not hold, and an array of binary64 unless it
  /// is shared; std::invalid_argument for stochastic rounding without its bits.
  [[nodiscard]] static EncodedArray encode(const EncodedArray& source, const Format& format,
                                           const ScaleLayout& layout, std::span<const float> scales,
                                           const EncodeOptions& options = {},
                                           std::pmr::memory_resource* resource = nullptr);
  /// As above, without scales.
  [[nodiscard]] static EncodedArray encode(const EncodedArray& source, const Format& format,
                                           const EncodeOptions& options = {},
                                           std::pmr::memory_resource* resource = nullptr);

  /// As the first one, with scales as `scale_codes()` has them.
  /// @throws as above, but for scales that their format does not hold, of which there are none.
  [[nodiscard]] static EncodedArray encode_under(const EncodedArray& source, const Format& format,
                                                 const ScaleLayout& layout,
                                                 Array<std::uint8_t> scale_codes,
                                                 const EncodeOptions& options = {},
                                                 std::pmr::memory_resource* resource = nullptr);
  /// As above, with codes written to `codes`, which `Array::borrow` may have made of a part of
  /// those of another array.
  /// @throws as above, and ShapeError for another number of bytes than codes take.
  [[nodiscard]] static EncodedArray encode_under(const EncodedArray& source, const Format& format,
                                                 const ScaleLayout& layout,
                                                 Array<std::uint8_t> scale_codes,
                                                 Array<std::uint8_t> codes,
                                                 const EncodeOptions& options);

  [[nodiscard]] const Shape& shape() const& { return shape_; }
  [[nodiscard]] Shape shape() const&& { return shape_; }
  [[nodiscard]] std::size_t size() const { return shape_.size(); }
  [[nodiscard]] std::size_t rows() const { return shape_.rows(); }
  [[nodiscard]] std::size_t columns() const { return shape_.columns(); }
  [[nodiscard]] bool empty() const { return size() == 0; }
  /// Of the codes.
  [[nodiscard]] const Format& format() const& { return format_; }
  [[nodiscard]] Format format() const&& { return format_; }
  [[nodiscard]] const ScaleLayout& scale_layout() const& { return layout_; }
  [[nodiscard]] ScaleLayout scale_layout() const&& { return layout_; }
  [[nodiscard]] bool has_scales() const { return layout_.has_scales(); }
  /// Memory that codes and scales take.
  [[nodiscard]] std::size_t bytes() const { return codes_.bytes() + scales_.bytes(); }
  /// Where results computed from this array should be allocated.
  [[nodiscard]] std::pmr::memory_resource* resource() const { return codes_.resource(); }

  [[nodiscard]] std::span<const std::uint8_t> codes() const& { return codes_.span(); }
  std::span<const std::uint8_t> codes() const&& = delete;
  /// Codes for writing; copies them first if another array shares them. Bits that belong to no code
  /// must stay zero.
  [[nodiscard]] std::span<std::uint8_t> mutable_codes() & { return codes_.mutable_span(); }
  /// Another number whenever the codes were written to (see `Array::version`), and another one
  /// whenever the scales were.
  [[nodiscard]] std::uint64_t version_of_codes() const { return codes_.version(); }
  [[nodiscard]] std::uint64_t version_of_scales() const { return scales_.version(); }

  /// The scales as they are stored: one byte each in float8_e8m0fnu, or four in binary32; or one
  /// each in float8_e4m3fn, and behind them, in binary32, what they have in common.
  [[nodiscard]] std::span<const std::uint8_t> scale_codes() const& { return scales_.span(); }
  std::span<const std::uint8_t> scale_codes() const&& = delete;
  /// Scales for writing; copies them first if another array shares them.
  [[nodiscard]] std::span<std::uint8_t> mutable_scale_codes() & { return scales_.mutable_span(); }

  [[nodiscard]] std::size_t scale_count() const { return layout_.count(rows(), columns()); }
  /// A scale by its number. @pre index < scale_count()
  [[nodiscard]] float scale(std::size_t index) const {
    switch (layout_.format) {
      case ScaleFormat::power_of_two:
        return power(scales_.data()[index]);
      case ScaleFormat::two_level:
        return product_scale(index);
      default:
        return float_scale(index);
    }
  }
  /// The scale of each element from `first` on, row by row, as many as there is room for.
  /// @throws ShapeError if there are fewer. @pre has_scales(), and in default arithmetic
  void read_scales(std::size_t first, std::span<float> out) const;
  /// What all scales have in common; 1 if nothing.
  [[nodiscard]] float common_scale() const {
    if (!has_common_scale(layout_.format)) return 1;
    float result = 0;
    std::memcpy(&result, scales_.data() + scale_count(), sizeof(result));
    return result;
  }
  /// The scale of an element; 1 if there is none. @pre row < rows() and column < columns()
  [[nodiscard]] float scale_of(std::size_t row, std::size_t column) const {
    return has_scales() ? scale(layout_.index(row, column, columns())) : 1.0F;
  }

  /// The elements in binary32.
  [[nodiscard]] Array<float> decode(std::pmr::memory_resource* resource = nullptr) const;
  /// @throws ShapeError if there is not room for just all elements.
  void decode(std::span<float> out) const;
  /// The elements from `first` on, row by row, as many as there is room for.
  /// @throws ShapeError if there are fewer.
  void decode(std::size_t first, std::span<float> out) const;

  /// The numbers of the codes, sharing those.
  [[nodiscard]] EncodedArray without_scales() const {
    EncodedArray result = *this;
    result.layout_ = {};
    result.scales_ = {};
    return result;
  }

  /// The numbers of the codes, sharing those, times one scale for all. So numbers may be multiplied
  /// with a factor of one's own before they are rounded, and have its reciprocal as their scale.
  /// @throws DomainError for a scale that its format has not, and for binary64.
  [[nodiscard]] EncodedArray with_scale(ScaleFormat scales, float scale,
                                        std::pmr::memory_resource* resource = nullptr) const;

  /// The same codes and scales under another common scale, sharing the codes.
  /// @param resource of the scales; by default that of the array.
  /// @throws DomainError if scales have none in common.
  [[nodiscard]] EncodedArray with_common_scale(
      float scale, std::pmr::memory_resource* resource = nullptr) const {
    require(has_common_scale(layout_.format), "EncodedArray::with_common_scale",
            "expected two_level scales, got ", layout_);
    Array<std::uint8_t> scales(Shape{scales_.size()},
                               resource != nullptr ? resource : this->resource());
    std::memcpy(scales.mutable_data(), scales_.data(), scale_count());
    std::memcpy(scales.mutable_data() + scale_count(), &scale, sizeof(scale));
    EncodedArray result = *this;
    result.scales_ = std::move(scales);
    return result;
  }

  /// The same elements under another shape, sharing them.
  /// @throws ShapeError if the sizes differ, or the rows where scales belong to them.
  [[nodiscard]] EncodedArray reshaped(const Shape& shape) const {
    require_shape(shape.size() == size(), "EncodedArray::reshaped", "two shapes of one size",
                  shape_, shape);
    const bool is_one_tile =
        layout_.tile_rows == ScaleLayout::all && layout_.tile_columns == ScaleLayout::all;
    require_shape(
        !has_scales() || is_one_tile || (shape.rows() == rows() && shape.columns() == columns()),
        "EncodedArray::reshaped",
        [&] { return "two shapes of as many rows and columns for " + to_string(layout_); }, shape_,
        shape);
    EncodedArray result = *this;
    result.shape_ = shape;
    return result;
  }

  /// Whether shape, format and layout are the same, and codes and scales to the bit; so NaNs may be
  /// equal, and zeros of two signs are not.
  friend bool operator==(const EncodedArray&, const EncodedArray&) = default;

 private:
  /// Room for an array that is not yet written.
  EncodedArray(const Shape& shape, const Format& format, const ScaleLayout& layout,
               std::pmr::memory_resource* resource)
      : shape_(shape),
        format_(format),
        layout_(layout.has_scales() ? layout : ScaleLayout{}),
        codes_(Shape{code_bytes(shape, format)}, resource),
        scales_(Shape{scale_bytes(shape, format, layout)}, resource) {}

  void swap(EncodedArray& other) noexcept {
    std::swap(shape_, other.shape_);
    std::swap(format_, other.format_);
    std::swap(layout_, other.layout_);
    std::swap(codes_, other.codes_);
    std::swap(scales_, other.scales_);
  }

  [[nodiscard]] static std::size_t code_bytes(const Shape& shape, const Format& format) {
    if (format.storage_bits() > 8) {
      // Here, for a text that names the array.
      static_cast<void>(size_product("EncodedArray", {shape.size(), format.storage_bits() / 8}));
    }
    return format.code_bytes(shape.size());
  }
  [[nodiscard]] static std::size_t scale_bytes(const Shape& shape, const Format& format,
                                               const ScaleLayout& layout) {
    require_layout("EncodedArray", format, layout);
    return size_sum("EncodedArray",
                    {size_product("EncodedArray", {layout.count(shape.rows(), shape.columns()),
                                                   unit_scaling::scale_bytes(layout.format)}),
                     has_common_scale(layout.format) ? sizeof(float) : 0});
  }

  static void require_layout(std::string_view operation, const Format& format,
                             const ScaleLayout& layout) {
    require_tiles(operation, layout);
    require(!layout.has_scales() || !format.is_binary64(), operation,
            "expected no scale for float64, got ", layout);
  }

  static void require_scale_count(const Shape& shape, const ScaleLayout& layout,
                                  std::size_t scales) {
    const std::size_t expected =
        layout.count(shape.rows(), shape.columns()) + (has_common_scale(layout.format) ? 1 : 0);
    require_shape(
        scales == expected, "EncodedArray::encode",
        [&] {
          return std::to_string(expected) + " numbers for " + to_string(layout) + " of an array";
        },
        shape, Shape{scales});
  }

  void require_elements(std::string_view operation, std::size_t first, std::size_t count) const {
    require_shape(
        first <= size() && count <= size() - first, operation,
        [&] {
          return "no more elements than there are from number " + std::to_string(first) + " on";
        },
        shape_, Shape{count});
  }

  void require_bytes(std::string_view what, std::size_t expected,
                     const Array<std::uint8_t>& bytes) const {
    require_shape(
        bytes.size() == expected, "EncodedArray",
        [&] {
          return std::to_string(expected) + " bytes of " + std::string(what) + " for an array of " +
                 to_string(format_) + " with " + to_string(layout_);
        },
        shape_, Shape{bytes.size()});
    const std::size_t alignment = std::max<std::size_t>(format_.storage_bits() / 8, 1);
    require(what == "scales" || reinterpret_cast<std::uintptr_t>(bytes.data()) % alignment == 0,
            "EncodedArray", "expected codes of ", format_, " at a multiple of ", alignment,
            " bytes in memory");
  }

  void require_unscaled(std::string_view operation, const Format& expected) const {
    require(format_ == expected && !has_scales(), operation, "expected ", expected,
            " with no scale, got ", format_, " with ", layout_);
  }

  /// Clears what a code of a width between those of memory leaves over, and the end of the last
  /// byte, without writing where nothing is to be cleared.
  void clear_unused_bits() {
    const std::size_t bits = format_.storage_bits();
    if (bits < 8) {
      const std::size_t used = size() % detail::packed_group * bits % 8;
      const auto mask = static_cast<std::uint8_t>((1U << used) - 1U);
      if (used != 0 && (codes_.span().back() & ~mask) != 0) codes_.mutable_span().back() &= mask;
    } else if (bits < 64 && format_.spec().bits() < static_cast<int>(bits)) {
      const std::size_t size = bits / 8;
      const std::uint32_t mask = (1U << format_.spec().bits()) - 1U;
      for (std::size_t i = 0; i < codes_.size(); ++i) {
        const auto byte_mask = static_cast<std::uint8_t>(mask >> i % size * 8);
        if ((codes_.span()[i] & ~byte_mask) != 0) codes_.mutable_span()[i] &= byte_mask;
      }
    }
  }

  /// 2^(code - 127), or NaN.
  [[nodiscard]] static float power(std::uint8_t code) {
    return static_cast<float>(float8_e8m0fnu::from_bits(code));
  }

  /// Of scales in binary32.
  [[nodiscard]] float float_scale(std::size_t index) const {
    float result = 0;
    std::memcpy(&result, scales_.data() + index * sizeof(float), sizeof(float));
    return result;
  }

  /// Of scales in float8_e4m3fn.
  [[nodiscard]] float product_scale(std::size_t index) const {
    const DefaultArithmetic arithmetic;
    return static_cast<float>(float8_e4m3fn::from_bits(scales_.data()[index])) * common_scale();
  }

  void write_scales(std::span<const float> scales);

  void write_codes(const EncodedArray& source, const EncodeOptions& options);

  /// The elements from any one on; at most code_chunk of them.
  void decode_chunk(std::size_t first, std::size_t count, float* out) const;

  void divide_by_scales(std::size_t first, std::size_t count, const float* in, float* out) const;

  enum class ReadScales {
    scales,
    divisors,          ///< what to divide with: the reciprocal of a power of two
    divisors_of_runs,  ///< the same, one for a run of elements, where runs are whole vectors
  };
  /// The scales of the elements from `first` on, at most code_chunk of them. Writes whole vectors:
  /// up to 15 numbers more.
  /// @returns for how many elements each number is: for one unless runs are asked for.
  std::size_t read_scales(std::size_t first, std::size_t count, ReadScales what, float* out) const;
  /// The same of `scale(index of the scale)`, and of `sixteen_scales(index of the first)`.
  template <class Scale, class Scales>
  std::size_t read_scales(std::size_t first, std::size_t count, ReadScales what, float* out,
                          const Scale& scale, const Scales& sixteen_scales) const;

  Shape shape_{0};
  Format format_;
  ScaleLayout layout_;
  Array<std::uint8_t> codes_;
  Array<std::uint8_t> scales_;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
