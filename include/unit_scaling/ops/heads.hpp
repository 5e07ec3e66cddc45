// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: between the layout of linear layers and the layout of attention heads.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

namespace detail {

/// x (…, positions, all_heads · head_dim) against the heads (…, heads, positions, head_dim) of each
/// part: the sizes, and a walk over the rows of head_dim elements.
struct HeadLayout {
  std::size_t sequences, positions, parts;
  std::size_t heads;     ///< of the first part
  std::size_t kv_heads;  ///< of each other
  std::size_t head_dim;

  [[nodiscard]] std::size_t heads_of(std::size_t part) const {
    return part == 0 ? heads : kv_heads;
  }
  [[nodiscard]] std::size_t all_heads() const { return heads + (parts - 1) * kv_heads; }

  /// Calls `copy(part, in_x, in_heads)` for the offsets of every row in the two layouts, in the
  /// order of x: it is the larger array, and its rows of all parts share lines of the caches.
  template <class Copy> void for_each_row(const Copy& copy) const {
    kernels::for_rows(sequences * positions, all_heads() * head_dim, [&](std::size_t token) {
      const std::size_t position = token % positions;
      const std::size_t sequence = token / positions;
      std::size_t in_x = token * all_heads() * head_dim;
      for (std::size_t part = 0; part < parts; ++part) {
        std::size_t in_heads = (sequence * heads_of(part) * positions + position) * head_dim;
        for (std::size_t head = 0; head < heads_of(part); ++head) {
          copy(part, in_x, in_heads);
          in_x += head_dim;
          in_heads += positions * head_dim;
        }
      }
    });
  }
};

/// The shape with its last `dropped` extents replaced by the given ones.
[[nodiscard]] inline Shape with_last_extents(const Shape& shape, std::size_t dropped,
                                             std::initializer_list<std::size_t> extents) {
  std::array<std::size_t, Shape::max_rank> result{};
  const std::size_t leading = shape.rank() - dropped;
  std::copy_n(shape.begin(), leading, result.begin());
  std::copy(extents.begin(), extents.end(), result.begin() + static_cast<std::ptrdiff_t>(leading));
  return Shape(std::span<const std::size_t>(result.data(), leading + extents.size()));
}

template <class Compute, class From, class To>
void copy_row(const From* from, To* to, std::size_t size) {
  if constexpr (std::is_same_v<From, To>) {
    std::copy_n(from, size, to);
  } else {
    kernels::for_lanes<Compute>(size, [&](std::size_t j, auto count) {
      kernels::store<Overflow::infinity_or_nan, Compute>(kernels::load<Compute>(from + j, count),
                                                         to + j, count);
    });
  }
}

}  // namespace detail

/// Takes apart what one linear layer made for all heads: x, whose last extent is so many parts of
/// heads of head_dim, becomes one array for each part.
/// Shapes: x and dx (…, positions, parts · heads · head_dim), of rank 2 to 5; each output and its
///         gradient (…, heads, positions, head_dim). With kv_heads, parts after the first have so
///         many heads, and x (heads + (parts − 1) kv_heads) · head_dim columns.
/// Units:  nothing is computed: whatever the scale of x, it is kept, and so is the gradient's.
/// @throws DomainError if `heads` is 0; ShapeError if the heads of all parts do not divide the last
///         extent, or gradients have another shape than outputs.
template <std::size_t parts> struct HeadsApart {
  static constexpr std::string_view name = parts == 1 ? "separate_heads" : "split_heads";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};

  std::size_t heads = 1;
  std::size_t kv_heads = 0;  ///< of the parts after the first; 0: as many as of the first

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& x) const {
    (void)layout(x.shape());
    return {};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& /*s*/, const Array<T>& x) const {
    using Storage = typename P::storage;
    const detail::HeadLayout of = layout(x.shape());
    std::array<Array<Storage>, parts> y;
    std::array<Storage*, parts> targets{};
    for (std::size_t part = 0; part < parts; ++part) {
      y[part] = Array<Storage>(separated(x.shape(), of, part), x.resource());
      targets[part] = y[part].mutable_data();
    }
    of.for_each_row([&](std::size_t part, std::size_t in_x, std::size_t in_y) {
      detail::copy_row<typename P::compute>(x.data() + in_x, targets[part] + in_y, of.head_dim);
    });
    if constexpr (parts == 1) {
      return Forward{std::move(y[0]), std::tuple{x.shape()}};
    } else {
      return Forward{std::tuple_cat(std::move(y)), std::tuple{x.shape()}};
    }
  }

  template <Precision P, class T>
  requires(parts == 1)
      [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& /*s*/,
                                  const std::tuple<Shape>& saved, const Array<T>& dy) const {
    return std::tuple{joined(std::get<0>(saved), dy)};
  }
  template <Precision P, class... T>
  requires(sizeof...(T) == parts)
      [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& /*s*/,
                                  const std::tuple<Shape>& saved,
                                  const std::tuple<Array<T>...>& gradients) const {
    return std::apply(
        [&](const auto&... dy) { return std::tuple{joined(std::get<0>(saved), dy...)}; },
        gradients);
  }

 private:
  [[nodiscard]] detail::HeadLayout layout(const Shape& x) const {
    require(heads > 0, name, "expected at least one head");
    require(parts > 1 || kv_heads == 0, name, "expected no kv_heads: there is one part");
    const std::size_t of_others = kv_heads == 0 ? heads : kv_heads;
    const std::size_t vectors = size_sum(name, {heads, size_product(name, {parts - 1, of_others})});
    require_shape(
        x.rank() >= 2 && x.rank() != Shape::max_rank && x.columns() % vectors == 0, name,
        [&] {
          if (of_others != heads) {
            return "x (..., positions, (heads + 2 * kv_heads) * head_dim) with " +
                   std::to_string(heads) + " heads and " + std::to_string(kv_heads) + " kv_heads";
          }
          return std::string("x (..., positions, ") + (parts == 3 ? "3 * " : "") +
                 "heads * head_dim) with " + std::to_string(heads) + " heads";
        },
        x);
    const std::size_t positions = x[x.rank() - 2];
    return {x.rows() / std::max<std::size_t>(1, positions),
            positions,
            parts,
            heads,
            of_others,
            x.columns() / vectors};
  }

  [[nodiscard]] static Shape separated(const Shape& x, const detail::HeadLayout& of,
                                       std::size_t part) {
    return detail::with_last_extents(x, 2, {of.heads_of(part), of.positions, of.head_dim});
  }

  /// dx from the gradient of each part.
  template <class T, class... Others>
  [[nodiscard]] Array<T> joined(const Shape& x, const Array<T>& dy, const Others&... others) const {
    const detail::HeadLayout of = layout(x);
    require_same_shape(name, "dy and y", dy.shape(), separated(x, of, 0));
    (require_same_shape(name, "dy and y", others.shape(), separated(x, of, 1)), ...);
    Array<T> dx(x, dy.resource());
    T* target = dx.mutable_data();
    const std::array<const T*, parts> sources{dy.data(), others.data()...};
    of.for_each_row([&](std::size_t part, std::size_t in_x, std::size_t in_y) {
      std::copy_n(sources[part] + in_y, of.head_dim, target + in_x);
    });
    return dx;
  }
};

/// Query, key and value of all heads, which one linear layer made: (query, key, value).
/// @see Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
using SplitHeads = HeadsApart<3>;
inline constexpr Apply<SplitHeads> split_heads{};

/// One part of SplitHeads, and the opposite of MergeHeads.
using SeparateHeads = HeadsApart<1>;
inline constexpr Apply<SeparateHeads> separate_heads{};

/// Lays the heads side by side again: the opposite of SeparateHeads.
/// Shapes: x and dx (…, heads, positions, head_dim), of rank 3 and above; y and dy (…, positions,
///         heads · head_dim).
/// Units:  nothing is computed: whatever the scale of x, it is kept, and so is the gradient's.
/// @throws ShapeError if x has fewer than three extents, or dy and y differ in shape.
struct MergeHeads {
  static constexpr std::string_view name = "merge_heads";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& x) const {
    (void)layout(x.shape());
    return {};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& /*s*/, const Array<T>& x) const {
    using Storage = typename P::storage;
    const detail::HeadLayout of = layout(x.shape());
    Array<Storage> y(merged(x.shape()), x.resource());
    Storage* target = y.mutable_data();
    of.for_each_row([&](std::size_t /*part*/, std::size_t in_y, std::size_t in_x) {
      detail::copy_row<typename P::compute>(x.data() + in_x, target + in_y, of.head_dim);
    });
    return Forward{std::move(y), std::tuple{x.shape()}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& /*s*/,
                              const std::tuple<Shape>& saved, const Array<T>& dy) const {
    const Shape& x = std::get<0>(saved);
    const detail::HeadLayout of = layout(x);
    require_same_shape(name, "dy and y", dy.shape(), merged(x));
    Array<T> dx(x, dy.resource());
    T* target = dx.mutable_data();
    of.for_each_row([&](std::size_t /*part*/, std::size_t in_y, std::size_t in_x) {
      std::copy_n(dy.data() + in_y, of.head_dim, target + in_x);
    });
    return std::tuple{std::move(dx)};
  }

 private:
  [[nodiscard]] static detail::HeadLayout layout(const Shape& x) {
    const std::size_t rank = x.rank();
    require_shape(rank >= 3, name, "x (..., heads, positions, head_dim)", x);
    const std::size_t positions = x[rank - 2];
    const std::size_t heads = x[rank - 3];
    return {x.rows() / std::max<std::size_t>(1, positions * heads),
            positions,
            1,
            heads,
            heads,
            x[rank - 1]};
  }

  [[nodiscard]] static Shape merged(const Shape& x) {
    const std::size_t rank = x.rank();
    return detail::with_last_extents(x, 3, {x[rank - 2], x[rank - 3] * x[rank - 1]});
  }
};
inline constexpr Apply<MergeHeads> merge_heads{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
