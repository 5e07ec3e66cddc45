// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: an array of any format and any scales as an operand of matrix products.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory_resource>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/bit_packing.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/packed.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/kernels/code_table.hpp"
#include "unit_scaling/kernels/element_kernels.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Which extent of an operand a product sums over, of its `rows()` x `columns()`.
enum class SummedExtent {
  columns,
  rows,
  both,  ///< Some products do one, some the other, or parts of both.
  /// The same for products that take no scales: elements are multiplied with theirs.
  both_with_scales,
};

/// An operand of one product: a matrix whose rows are summed over, and what its sums are multiplied
/// with. As the right operand of a product it is transposed.
struct OperandPart {
  OperandView view;
  float scale = 1;                ///< of all rows
  const float* scales = nullptr;  ///< of each row, beside that; null: 1

  /// A part whose scale is one of all rows, summed over the other extent.
  [[nodiscard]] OperandPart transposed() const { return {view.transposed(), scale}; }
};

class PreparedOperand;

/// An array as an operand, and how products read it.
///
/// The second form, if there is one, is for products that sum over the rows.
struct Operand {
  using Prepare = void (*)(const EncodedArray& array, SummedExtent summed, PreparedOperand& to);
  /// Writes codes of the array's format; what is too large becomes infinity or NaN. Parts of an
  /// array begin at a multiple of 8 elements.
  using Encode = void (*)(const Format& format, std::span<const float> numbers,
                          std::span<std::uint8_t> codes);

  EncodedArray array;
  Prepare prepare = nullptr;
  Encode encode = nullptr;
  std::optional<EncodedArray> over_rows = {};

  /// The form for a product.
  [[nodiscard]] const EncodedArray& form(SummedExtent summed) const {
    return summed == SummedExtent::rows && over_rows ? *over_rows : array;
  }
  /// Calls `visit(data, bytes)` for all memory that it takes.
  template <class Visit> void for_each_part(const Visit& visit) const {
    const auto visit_form = [&](const EncodedArray& form) {
      visit(form.codes().data(), form.codes().size());
      if (form.has_scales()) visit(form.scale_codes().data(), form.scale_codes().size());
    };
    visit_form(array);
    if (over_rows) visit_form(*over_rows);
  }
  [[nodiscard]] const Shape& shape() const& { return array.shape(); }
  [[nodiscard]] Shape shape() const&& { return array.shape(); }
  [[nodiscard]] std::size_t rows() const { return array.rows(); }
  [[nodiscard]] std::size_t columns() const { return array.columns(); }
  [[nodiscard]] std::pmr::memory_resource* resource() const { return array.resource(); }
};

/// An operand in a form that products pack: elements of a storage type or codes of a byte each, and
/// scales that belong to what is not summed over. What has another form is decoded, in the scratch
/// memory of the thread that makes this. Products of it may run on other threads.
class PreparedOperand {
 public:
  /// @param operand lives as long as this does.
  PreparedOperand(const Operand& operand, SummedExtent summed)
      : summed_(summed), resource_(operand.resource()) {
    const EncodedArray& array = operand.form(summed);
    columns_ = array.columns();
    operand.prepare(array, summed, *this);
  }
  PreparedOperand(const PreparedOperand&) = delete;
  PreparedOperand& operator=(const PreparedOperand&) = delete;

  /// The operand from a row on. Its part of a product has as many rows as that sums over, or has in
  /// its result.
  [[nodiscard]] OperandPart part(std::size_t first_row = 0) const {
    const bool over_columns = summed_ == SummedExtent::columns;
    return {.view = {.data = element(first_row * columns_),
                     .kernels = kernels_,
                     .table = table_,
                     .row_stride = over_columns ? columns_ : 1,
                     .column_stride = over_columns ? 1 : columns_},
            .scale = scale_,
            .scales = scales_.empty() ? nullptr : scales_.data() + (over_columns ? first_row : 0)};
  }

  /// A matrix among elements of this form, at `data`: of rows whose columns are summed over.
  [[nodiscard]] OperandPart part_at(const void* data, std::size_t row_stride,
                                    std::size_t column_stride,
                                    std::size_t segment_stride = 0) const {
    return {.view = {.data = data,
                     .kernels = kernels_,
                     .table = table_,
                     .row_stride = row_stride,
                     .column_stride = column_stride,
                     .segment_stride = segment_stride},
            .scale = scale_};
  }

  /// Elements as they lie in memory, and what each takes.
  [[nodiscard]] const void* element(std::size_t index) const {
    return static_cast<const std::byte*>(data_) + index * element_bytes_;
  }
  [[nodiscard]] std::size_t element_bytes() const { return element_bytes_; }

  /// All of it, a row of the view for each of its rows.
  [[nodiscard]] OperandView view() const { return part_at(data_, columns_, 1).view; }

  [[nodiscard]] SummedExtent summed() const { return summed_; }
  /// Of the operand.
  [[nodiscard]] std::pmr::memory_resource* resource() const { return resource_; }

  // --- For whoever prepares ---

  /// Elements of a storage type.
  template <class T> void use(const T* data) {
    data_ = data;
    element_bytes_ = sizeof(T);
    kernels_ = find_element_kernels<T>();
    table_ = find_code_table<T>();
  }
  void use(const double* data) {
    data_ = data;
    element_bytes_ = sizeof(double);
    kernels_ = &detail::double_kernels;
  }
  /// Codes of a byte each. @pre has_code_table(format)
  void use_codes(const FormatSpec& format, const std::uint8_t* data);

  /// Memory for elements that are not in the array.
  template <class T> [[nodiscard]] T* make_room(std::size_t count) {
    room_ =
        Array<std::uint8_t>(Shape{size_product("product", {count, sizeof(T)})}, &scratch_memory());
    return reinterpret_cast<T*>(room_.mutable_data());
  }
  [[nodiscard]] float* make_room_for_scales(std::size_t count) {
    scales_ = Array<float>(Shape{count}, &scratch_memory());
    return scales_.mutable_data();
  }
  void set_scale(float scale) { scale_ = scale; }

 private:
  const void* data_ = nullptr;
  const ElementKernels* kernels_ = nullptr;
  const CodeTable* table_ = nullptr;
  std::size_t element_bytes_ = 1;
  std::size_t columns_ = 0;
  SummedExtent summed_;
  std::pmr::memory_resource* resource_;
  float scale_ = 1;
  Array<float> scales_;
  Array<std::uint8_t> room_;
  std::optional<CodeTable> own_table_;
};

namespace detail {

/// Whether bfloat16 holds all elements of an array of a format with powers of two as scales, or
/// with none.
[[nodiscard]] inline bool is_held_by_bfloat16(const EncodedArray& array) {
  const Format& format = array.format();
  if (format.is_binary64() || !bfloat16::format.holds(format.spec())) return false;
  if (!array.has_scales()) {
    // Subnormal numbers of bfloat16 are not read as such on AMX.
    return format.spec().min_subnormal_exponent() >= bfloat16::format.min_normal_exponent();
  }
  if (array.scale_layout().format != ScaleFormat::power_of_two) return false;
  int least = 0;
  int greatest = 0;
  for (const std::uint8_t code : array.scale_codes()) {
    if (code == 0xff) continue;  // NaN
    least = std::min(least, int{code} - 127);
    greatest = std::max(greatest, int{code} - 127);
  }
  return least + format.spec().min_subnormal_exponent() >= bfloat16::format.min_normal_exponent() &&
         greatest + format.spec().max_exponent() <= bfloat16::format.max_exponent();
}

/// For an array of storage type T without scales.
template <Storage T>
void prepare_stored(const EncodedArray& array, SummedExtent /*summed*/, PreparedOperand& to) {
  if constexpr (PackableMinifloat<T>) {
    auto* codes = to.make_room<T>(array.size());
    unit_scaling::unpack(array.codes(), std::span(codes, array.size()));
    to.use(static_cast<const T*>(codes));
  } else {
    to.use(reinterpret_cast<const T*>(array.codes().data()));
  }
}

/// As `Operand::Encode`.
template <Storage T>
void encode_stored(const Format& /*format*/, std::span<const float> numbers,
                   std::span<std::uint8_t> codes) {
  T rounded[lanes];
  for_lanes<float>(numbers.size(), [&](std::size_t i, auto count) {
    const std::size_t size = count;
    store<Overflow::infinity_or_nan, float>(load<float>(&numbers[i], count), rounded, count);
    if constexpr (PackableMinifloat<T>) {
      const std::size_t at = packed_bytes<T>(i);
      unit_scaling::pack(std::span<const T>(rounded, size),
                         codes.subspan(at, packed_bytes<T>(i + size) - at));
    } else {
      std::memcpy(&codes[i * sizeof(T)], rounded, size * sizeof(T));
    }
  });
}
/// None for binary64, which binary32 does not hold.
template <Storage T> [[nodiscard]] constexpr Operand::Encode find_encode() {
  if constexpr (std::is_same_v<T, double>) {
    return nullptr;
  } else {
    return &encode_stored<T>;
  }
}

/// The same, of products in double.
template <Storage T>
void prepare_stored_double(const EncodedArray& array, SummedExtent summed, PreparedOperand& to) {
  if constexpr (std::is_same_v<T, double>) {
    prepare_stored<T>(array, summed, to);
  } else {
    auto* numbers = to.make_room<double>(array.size());
    Array<T> stored;
    if constexpr (PackableMinifloat<T>) {
      stored = array.unpack<T>(&scratch_memory());
    } else {
      stored = array.array<T>();
    }
    for (std::size_t i = 0; i < array.size(); ++i) {
      numbers[i] = static_cast<double>(stored.data()[i]);
    }
    to.use(static_cast<const double*>(numbers));
  }
}

}  // namespace detail

/// An array of a storage type as an operand has it: what is narrower than a byte without gaps.
template <Storage T> [[nodiscard]] EncodedArray encoded(const Array<T>& array) {
  if constexpr (PackableMinifloat<T>) {
    return EncodedArray::pack(array);
  } else {
    return EncodedArray::view(array);
  }
}

/// An array of a storage type without scales. Compiles no more than products of it need.
template <Storage T> [[nodiscard]] Operand make_operand(const Array<T>& array) {
  return {.array = encoded(array),
          .prepare = &detail::prepare_stored<T>,
          .encode = detail::find_encode<T>()};
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
