// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: keys and values of positions that a decoder has read, for those that follow.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory_resource>
#include <string>
#include <string_view>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/precision.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Keys and values of the attention layers of a causal model, in P::storage; one for each model. A
/// call of the model with a cache reads on: its queries see all that was read before. So a text is
/// read once, token after token, and the logits have the bits of reading it at once, unless a
/// recipe takes a scale from whole tensors, which then are others.
///
/// nn::TransformerEncoder, and what is made of it, tells the cache when a call begins and when all
/// layers have read. A call that throws leaves the cache as it was.
template <Precision P> class KeyValueCache {
 public:
  using Storage = typename P::storage;

  /// @param capacity positions that fit.
  explicit KeyValueCache(std::size_t capacity) : capacity_(capacity) {}

  [[nodiscard]] std::size_t capacity() const { return capacity_; }

  /// Positions that the model has read.
  [[nodiscard]] std::size_t length() const { return length_; }

  /// Forgets the positions from `length` on. An empty cache takes sequences of any number.
  void truncate(std::size_t length) { length_ = std::min(length_, length); }

  /// Memory of the arrays.
  [[nodiscard]] std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const auto& [name, layer] : layers_) bytes += layer.keys.bytes() + layer.values.bytes();
    return bytes;
  }

  /// Begins a call of the model, in which every layer reads so many positions.
  /// @throws DomainError if the capacity is exceeded.
  void begin(std::size_t positions) {
    require(positions <= capacity_ - length_, name_of_class, "expected at most ", capacity_,
            " positions, got ", positions, " after ", length_);
    reading_ = positions;
    for (auto& [name, layer] : layers_) layer.has_read = false;
  }

  /// Writes keys and values (batch, heads, positions, head_dim) of a layer behind those that were
  /// read before, and returns all of them, in memory of `resource`.
  /// @throws ShapeError if they do not fit those before, or the positions of the call; DomainError
  ///         if a layer of this name has read in this call.
  [[nodiscard]] std::pair<Array<Storage>, Array<Storage>> append(
      std::string_view layer, const Array<Storage>& keys, const Array<Storage>& values,
      std::pmr::memory_resource* resource) {
    require_shape(
        keys.shape().rank() == 4 && values.shape().rank() == 4 &&
            std::equal(keys.shape().begin(), keys.shape().end() - 1, values.shape().begin()) &&
            keys.shape()[2] == reading_,
        name_of_class,
        [&] {
          return "keys and values (batch, heads, positions, head_dim) of " +
                 std::to_string(reading_) + " positions";
        },
        keys.shape(), values.shape());
    auto found = layers_.find(layer);
    if (found == layers_.end()) found = layers_.emplace(layer, Layer{}).first;
    Layer& to = found->second;
    require(!to.has_read, name_of_class, "expected layers of different names, got two called ",
            in_quotes(layer));
    const Shape all_keys = of_capacity(keys.shape());
    const Shape all_values = of_capacity(values.shape());
    if (length_ == 0 && (to.keys.shape() != all_keys || to.values.shape() != all_values)) {
      to.keys = Array<Storage>(all_keys);
      to.values = Array<Storage>(all_values);
    }
    require_same_shape(name_of_class, "keys and those before, with the capacity for positions",
                       all_keys, to.keys.shape());
    require_same_shape(name_of_class, "values and those before, with the capacity for positions",
                       all_values, to.values.shape());
    write(keys, length_, to.keys);
    write(values, length_, to.values);
    to.has_read = true;
    return {first_positions(to.keys, length_ + reading_, resource),
            first_positions(to.values, length_ + reading_, resource)};
  }

  /// Ends a call, after which the cache has its positions.
  void end() {
    length_ += reading_;
    reading_ = 0;
  }

 private:
  static constexpr std::string_view name_of_class = "KeyValueCache";

  struct Layer {
    Array<Storage> keys = {};    ///< (batch, heads, capacity, head_dim)
    Array<Storage> values = {};  ///< likewise
    bool has_read = false;       ///< in this call
  };

  [[nodiscard]] Shape of_capacity(const Shape& shape) const {
    return {shape[0], shape[1], capacity_, shape[3]};
  }

  /// Writes positions of `from` to those of `to` from `first` on.
  static void write(const Array<Storage>& from, std::size_t first, Array<Storage>& to) {
    copy(from.data(), from.shape()[2], to.mutable_data() + first * to.shape()[3], to.shape()[2],
         from.shape()[2], from.shape());
  }
  [[nodiscard]] static Array<Storage> first_positions(const Array<Storage>& from, std::size_t count,
                                                      std::pmr::memory_resource* resource) {
    const Shape& shape = from.shape();
    Array<Storage> result({shape[0], shape[1], count, shape[3]}, resource);
    copy(from.data(), shape[2], result.mutable_data(), count, count, shape);
    return result;
  }
  /// Copies `count` positions of each head from where there are `from_stride` of them to where
  /// there are `to_stride`.
  static void copy(const Storage* from, std::size_t from_stride, Storage* to, std::size_t to_stride,
                   std::size_t count, const Shape& shape) {
    const std::size_t width = shape[3];
    for (std::size_t head = 0; head < shape[0] * shape[1]; ++head) {
      std::copy_n(from + head * from_stride * width, count * width, to + head * to_stride * width);
    }
  }

  std::size_t capacity_;
  std::size_t length_ = 0;
  std::size_t reading_ = 0;  ///< positions of the call
  std::map<std::string, Layer, std::less<>> layers_;
};

/// What the attention layers of a model are told beside x.
template <Precision P> struct AttentionContext {
  /// (batch, keys): zero where a position is padding, which nothing attends to. Empty: none is. The
  /// keys begin with those of the cache, if there is one. Positions count padding, so sequences of
  /// different lengths that are read on from a cache are padded at the beginning.
  Array<std::int32_t> mask = {};
  /// (batch, keys): numbers of the documents that a sequence is packed from. Empty: one.
  Array<std::int32_t> documents = {};
  /// On a tape for inference: what was read before; null: nothing.
  KeyValueCache<P>* cache = nullptr;
};

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
