// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the array that every op takes and returns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory_resource>
#include <ranges>
#include <span>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/shared_memory.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// A dense row-major array with value semantics.
///
/// Copies share storage until one of them is written to (`mutable_data` makes its array the only
/// owner first), so an op may keep its input for the backward pass without copying it.
/// Storage comes from a `std::pmr::memory_resource`, by default new and delete; ops allocate their
/// results from the resource of their first argument, so arrays recorded on a tape live in that
/// tape's memory. An array may also borrow foreign memory (`borrow`), which it never frees.
///
/// Spans and rows of a temporary array do not compile, for they would outlive it: name the array
/// first. A pointer from `data` of a temporary is valid to the end of the expression, which is
/// enough to read a loss in one line.
template <class T>
requires std::is_trivially_copyable_v<T>
class Array {
 public:
  using value_type = T;

  /// No elements: shape (0).
  Array() : shape_{0} {}

  Array(const Array&) = default;
  Array& operator=(const Array&) = default;
  ~Array() = default;
  /// Leaves the other one without elements.
  Array(Array&& other) noexcept
      : shape_(std::exchange(other.shape_, Shape{0})),
        storage_(std::move(other.storage_)),
        resource_(other.resource_),
        read_only_(std::exchange(other.read_only_, false)) {}
  Array& operator=(Array&& other) noexcept {
    if (this == &other) return *this;
    shape_ = std::exchange(other.shape_, Shape{0});
    storage_ = std::move(other.storage_);
    resource_ = other.resource_;
    read_only_ = std::exchange(other.read_only_, false);
    return *this;
  }

  /// An array of the given shape whose elements are not initialised.
  explicit Array(const Shape& shape,
                 std::pmr::memory_resource* resource = std::pmr::new_delete_resource())
      : shape_(shape), resource_(resource) {
    require_shape(shape.size() <= static_cast<std::size_t>(-1) / 2 / sizeof(T), "Array",
                  "no more elements than memory can be addressed for", shape);
    if (const std::size_t bytes = shape.size() * sizeof(T); bytes != 0) {
      storage_ = SharedMemory(bytes, resource);
    }
  }

  /// An array holding `values` in row-major order.
  /// @throws ShapeError if there are not `shape.size()` of them.
  Array(const Shape& shape, std::span<const T> values,
        std::pmr::memory_resource* resource = std::pmr::new_delete_resource())
      : Array(shape, resource) {
    require_shape(values.size() == shape.size(), "Array",
                  "as many values as the shape has elements", shape, Shape{values.size()});
    std::copy(values.begin(), values.end(), elements());
  }
  Array(const Shape& shape, std::initializer_list<T> values)
      : Array(shape, std::span<const T>(values.begin(), values.size())) {}

  /// Every element equal to `value`.
  [[nodiscard]] static Array filled(
      const Shape& shape, T value,
      std::pmr::memory_resource* resource = std::pmr::new_delete_resource()) {
    Array result(shape, resource);
    std::fill_n(result.elements(), shape.size(), value);
    return result;
  }

  /// A view of memory that someone else owns and keeps alive. Reading sees what is there; writing
  /// through `mutable_data` writes there, as long as no copy of the array exists.
  /// @param resource of the few bytes that count the copies.
  /// @throws ShapeError if `memory` does not have `shape.size()` elements.
  [[nodiscard]] static Array borrow(
      std::span<T> memory, const Shape& shape,
      std::pmr::memory_resource* resource = std::pmr::new_delete_resource()) {
    require_shape(memory.size() == shape.size(), "Array::borrow",
                  "as many values as the shape has elements", shape, Shape{memory.size()});
    Array result;
    result.shape_ = shape;
    result.storage_ =
        SharedMemory::borrow(const_cast<std::remove_const_t<T>*>(memory.data()), resource);
    return result;
  }

  /// Read-only view of memory that someone else owns; writing to it makes a copy first.
  [[nodiscard]] static Array borrow(std::span<const T> memory,
                                    const Shape& shape) requires(!std::is_const_v<T>) {
    // The elements are never written through this pointer: `read_only_` forces a copy.
    Array result = borrow(std::span<T>(const_cast<T*>(memory.data()), memory.size()), shape);
    result.read_only_ = true;
    return result;
  }

  /// What is borrowed must outlive the array. A temporary that owns its elements does not.
  template <class Owner>
  requires(!std::is_lvalue_reference_v<Owner> &&
           !std::ranges::enable_borrowed_range<std::remove_cv_t<Owner>>) static Array
      borrow(Owner&& memory, const Shape& shape) = delete;

  [[nodiscard]] const Shape& shape() const& { return shape_; }
  [[nodiscard]] Shape shape() const&& { return shape_; }
  [[nodiscard]] std::size_t size() const { return shape_.size(); }
  [[nodiscard]] std::size_t rows() const { return shape_.rows(); }
  [[nodiscard]] std::size_t columns() const { return shape_.columns(); }
  [[nodiscard]] std::size_t bytes() const { return size() * sizeof(T); }
  [[nodiscard]] bool empty() const { return size() == 0; }

  /// The elements of an array that nothing else names. They live as long as this does, which is no
  /// pointer: `ops::sum(x).data()[0]` is a number, `const float* y = ops::gelu(x).data()` an error.
  class OwnedElements {
   public:
    explicit OwnedElements(Array array) : array_(std::move(array)) {}
    [[nodiscard]] std::remove_const_t<T> operator[](std::size_t i) const {
      return array_.elements()[i];
    }
    [[nodiscard]] std::remove_const_t<T> operator*() const { return *array_.elements(); }

   private:
    Array array_;
  };

  [[nodiscard]] const T* data() const& { return elements(); }
  [[nodiscard]] OwnedElements data() const&& { return OwnedElements(*this); }
  [[nodiscard]] std::span<const T> span() const& { return {data(), size()}; }
  std::span<const T> span() const&& = delete;
  [[nodiscard]] const T* row(std::size_t index) const& { return data() + index * columns(); }
  const T* row(std::size_t index) const&& = delete;

  /// A number for the elements as they are: no other elements have it, neither of another array nor
  /// of this one after `mutable_data` or `mutable_span`. So a pointer from these is to be asked for
  /// anew before elements are written again. Copies have the same number. 0 if there are no
  /// elements, or someone else's.
  [[nodiscard]] std::uint64_t version() const { return storage_.version(); }
  /// Whether another array shares the elements.
  [[nodiscard]] bool is_shared() const { return storage_.is_shared(); }

  /// Elements for writing; copies them first if another array shares them.
  [[nodiscard]] T* mutable_data() & {
    if (elements() != nullptr && (read_only_ || storage_.is_shared())) {
      *this = Array(shape_, span(), resource_);
    }
    storage_.touch();
    return elements();
  }
  [[nodiscard]] std::span<T> mutable_span() & { return {mutable_data(), size()}; }

  /// Where results computed from this array should be allocated.
  [[nodiscard]] std::pmr::memory_resource* resource() const { return resource_; }

  /// The same elements under another shape, sharing storage.
  /// @throws ShapeError if the sizes differ.
  [[nodiscard]] Array reshaped(const Shape& shape) const {
    require_shape(shape.size() == size(), "reshaped", "two shapes of one size", shape_, shape);
    Array result = *this;
    result.shape_ = shape;
    return result;
  }

  /// The same memory as elements of another type, sharing storage. Elements that were written as T
  /// may be read as T or as bytes, and bytes as what they were copied from.
  /// @throws ShapeError unless it takes as many bytes, and DomainError if what is borrowed is not
  /// aligned for U.
  template <class U> [[nodiscard]] Array<U> reinterpreted(const Shape& shape) const {
    require_shape(size_product("reinterpreted", {shape.size(), sizeof(U)}) == bytes(),
                  "reinterpreted", "two arrays of as many bytes", shape_, shape);
    require(reinterpret_cast<std::uintptr_t>(storage_.get()) % alignof(U) == 0, "reinterpreted",
            "expected borrowed memory that is aligned for its elements");
    Array<U> result;
    result.shape_ = shape;
    result.storage_ = storage_;
    result.resource_ = resource_;
    result.read_only_ = read_only_ || (std::is_const_v<T> && !std::is_const_v<U>);
    return result;
  }

  /// Equal shape and elements that compare equal, so a NaN makes arrays differ.
  friend bool operator==(const Array& a, const Array& b) {
    return a.shape_ == b.shape_ && std::equal(a.data(), a.data() + a.size(), b.data());
  }

 private:
  template <class U>
  requires std::is_trivially_copyable_v<U>
  friend class Array;

  [[nodiscard]] T* elements() const { return static_cast<T*>(storage_.get()); }

  Shape shape_;
  SharedMemory storage_;
  std::pmr::memory_resource* resource_ = std::pmr::new_delete_resource();
  bool read_only_ = false;
};

template <class> inline constexpr bool is_array = false;
template <class T> inline constexpr bool is_array<Array<T>> = true;

}  // namespace UNIT_SCALING_NAMESPACE
