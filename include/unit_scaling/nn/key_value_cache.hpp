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
#include <type_traits>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/ops/operand.hpp"

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

  /// Keys or values of a layer: (batch, heads, capacity, head_dim). Positions that were not read
  /// are zeros, or of a text before.
  struct Whole {
    Array<Storage> array;
    kernels::Operand operand;  ///< as P::matmul_operand has it
  };

  /// Writes keys and values (batch, heads, positions, head_dim) of a layer behind those that were
  /// read before.
  /// @throws ShapeError if they do not fit those before, or the positions of the call; DomainError
  ///         if a layer of this name has read in this call.
  void append(std::string_view layer, const Array<Storage>& keys, const Array<Storage>& values) {
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
      to.keys = Positions(all_keys);
      to.values = Positions(all_values);
    }
    require_same_shape(name_of_class, "keys and those before, with the capacity for positions",
                       all_keys, to.keys.shape());
    require_same_shape(name_of_class, "values and those before, with the capacity for positions",
                       all_values, to.values.shape());
    to.keys.write(keys, length_);
    to.values.write(values, length_);
    to.has_read = true;
  }

  /// Keys and values of the positions that a layer has read, those of this call included, in memory
  /// of `resource`.
  /// @throws DomainError if the layer has read nothing in this call, as for `whole`.
  [[nodiscard]] std::pair<Array<Storage>, Array<Storage>> first_positions(
      std::string_view layer, std::pmr::memory_resource* resource) const {
    const Layer& from = layer_of(layer);
    return {from.keys.first(length_ + reading_, resource),
            from.values.first(length_ + reading_, resource)};
  }

  /// Whether operands lie in memory as products read them. Codes narrower than a byte do not.
  static constexpr bool has_whole = !PackableMinifloat<typename P::matmul_operand>;

  /// Keys and values of a layer, without a copy if `has_whole`; `append` makes one if these still
  /// live then.
  [[nodiscard]] std::pair<Whole, Whole> whole(std::string_view layer) const {
    const Layer& from = layer_of(layer);
    return {from.keys.whole(), from.values.whole()};
  }

  /// Ends a call, after which the cache has its positions.
  void end() {
    length_ += reading_;
    reading_ = 0;
  }

 private:
  using Rounded = typename P::matmul_operand;
  static constexpr std::string_view name_of_class = "KeyValueCache";
  /// Whether operands have a format of their own. Else they are the numbers themselves.
  static constexpr bool is_rounded = !std::is_same_v<Rounded, Storage>;

  /// Keys or values, each rounded when it is written: so a token rounds its own only.
  class Positions {
   public:
    Positions() = default;
    explicit Positions(const Shape& shape) : stored_(Array<Storage>::filled(shape, Storage{})) {
      if constexpr (is_rounded) rounded_ = Array<Rounded>::filled(shape, Rounded{});
    }

    [[nodiscard]] const Shape& shape() const { return stored_.shape(); }
    [[nodiscard]] std::size_t bytes() const { return stored_.bytes() + rounded_.bytes(); }

    void write(const Array<Storage>& from, std::size_t first) {
      write_to(stored_, from, first);
      if constexpr (is_rounded) {
        write_to(rounded_, kernels::convert<Rounded, Overflow::saturate>(from), first);
      }
    }
    [[nodiscard]] Array<Storage> first(std::size_t count,
                                       std::pmr::memory_resource* resource) const {
      const Shape& shape = stored_.shape();
      Array<Storage> result({shape[0], shape[1], count, shape[3]}, resource);
      copy(stored_.data(), shape[2], result.mutable_data(), count, count, shape);
      return result;
    }
    [[nodiscard]] Whole whole() const {
      constexpr ops::OperandUse use{ops::OperandRole::input};
      if constexpr (is_rounded)
        return {stored_, ops::operand(P{}, use, rounded_)};
      else
        return {stored_, ops::operand(P{}, use, stored_)};
    }

   private:
    template <class T> static void write_to(Array<T>& to, const Array<T>& from, std::size_t first) {
      copy(from.data(), from.shape()[2], to.mutable_data() + first * to.shape()[3], to.shape()[2],
           from.shape()[2], from.shape());
    }
    /// Copies `count` positions of each head from where there are `from_stride` of them to where
    /// there are `to_stride`.
    template <class T>
    static void copy(const T* from, std::size_t from_stride, T* to, std::size_t to_stride,
                     std::size_t count, const Shape& shape) {
      const std::size_t width = shape[3];
      for (std::size_t head = 0; head < shape[0] * shape[1]; ++head) {
        std::copy_n(from + head * from_stride * width, count * width,
                    to + head * to_stride * width);
      }
    }

    Array<Storage> stored_;
    Array<Rounded> rounded_;  ///< empty unless is_rounded
  };

  struct Layer {
    Positions keys = {};
    Positions values = {};
    bool has_read = false;  ///< in this call
  };

  [[nodiscard]] Shape of_capacity(const Shape& shape) const {
    return {shape[0], shape[1], capacity_, shape[3]};
  }
  [[nodiscard]] const Layer& layer_of(std::string_view name) const {
    const auto found = layers_.find(name);
    require(found != layers_.end() && found->second.has_read, name_of_class,
            "expected a layer that has read in this call, got ", in_quotes(name));
    return found->second;
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
