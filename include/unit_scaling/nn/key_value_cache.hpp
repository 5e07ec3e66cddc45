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
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/precision.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Keys and values of the attention layers of a causal model, in P::storage. A call of the model
/// with a cache appends what it reads, and its queries see all that was read before. So a text is
/// read once, token after token, and the logits have the bits of reading it at once, unless a
/// recipe takes a scale from whole tensors, which then are others.
template <Precision P> class KeyValueCache {
 public:
  using Storage = typename P::storage;

  /// @param capacity positions that fit.
  explicit KeyValueCache(std::size_t capacity) : capacity_(capacity) {}

  [[nodiscard]] std::size_t capacity() const { return capacity_; }

  /// Positions that every layer has read; 0 if there are no layers yet.
  [[nodiscard]] std::size_t length() const {
    std::size_t length = layers_.empty() ? 0 : capacity_;
    for (const auto& [name, layer] : layers_) length = std::min(length, layer.length);
    return length;
  }
  /// Positions that one layer has read, which is known by its name.
  [[nodiscard]] std::size_t length(std::string_view layer) const {
    const auto found = layers_.find(layer);
    return found == layers_.end() ? 0 : found->second.length;
  }

  /// Forgets the positions from `length` on, in every layer. After a call that threw this makes
  /// the layers agree again: `truncate(length())`.
  void truncate(std::size_t length) {
    for (auto& [name, layer] : layers_) layer.length = std::min(layer.length, length);
  }

  /// Memory of the arrays.
  [[nodiscard]] std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const auto& [name, layer] : layers_) bytes += layer.keys.bytes() + layer.values.bytes();
    return bytes;
  }

  /// Appends keys and values (batch, heads, positions, head_dim) of a layer, and returns all that
  /// it has, in memory of `resource`.
  /// @throws ShapeError if they do not fit those before; DomainError if the capacity is exceeded.
  [[nodiscard]] std::pair<Array<Storage>, Array<Storage>> append(
      std::string_view layer, const Array<Storage>& keys, const Array<Storage>& values,
      std::pmr::memory_resource* resource) {
    require_shape(
        keys.shape().rank() == 4 && values.shape().rank() == 4 &&
            std::equal(keys.shape().begin(), keys.shape().end() - 1, values.shape().begin()),
        "KeyValueCache", "keys and values (batch, heads, positions, head_dim)", keys.shape(),
        values.shape());
    auto found = layers_.find(layer);
    if (found == layers_.end()) {
      found = layers_
                  .emplace(layer, Layer{.keys = Array<Storage>(of_capacity(keys.shape())),
                                        .values = Array<Storage>(of_capacity(values.shape()))})
                  .first;
    }
    Layer& to = found->second;
    require_same_shape("KeyValueCache", "keys and those before, with the capacity for positions",
                       of_capacity(keys.shape()), to.keys.shape());
    require_same_shape("KeyValueCache", "values and those before, with the capacity for positions",
                       of_capacity(values.shape()), to.values.shape());
    const std::size_t positions = keys.shape()[2];
    require(positions <= capacity_ - to.length, "KeyValueCache", "expected at most ", capacity_,
            " positions, got ", positions, " after ", to.length);
    write(keys, to.length, to.keys);
    write(values, to.length, to.values);
    to.length += positions;
    return {first_positions(to.keys, to.length, resource),
            first_positions(to.values, to.length, resource)};
  }

 private:
  struct Layer {
    Array<Storage> keys;    ///< (batch, heads, capacity, head_dim)
    Array<Storage> values;  ///< likewise
    std::size_t length = 0;
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
  std::map<std::string, Layer, std::less<>> layers_;
};

/// What the attention layers of a model are told beside x.
template <Precision P> struct AttentionContext {
  /// (batch, keys): zero where a position is padding, which nothing attends to. Empty: none is.
  Array<std::int32_t> mask = {};
  /// (batch, keys): numbers of the documents that a sequence is packed from. Empty: one.
  Array<std::int32_t> documents = {};
  /// On a tape for inference: what was read before; null: nothing.
  KeyValueCache<P>* cache = nullptr;
};

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
