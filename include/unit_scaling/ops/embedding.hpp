// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: rows of a table, picked by index.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled lookup: y[i] = table[ids[i]]; dtable[v] = β Σ_{i: ids[i] = v} dy[i].
/// Shapes: ids any, of 32-bit integers; table (entries, size); y and dy (ids..., size).
/// Units:  a table ~ N(0,1) gives std(y) = 1; dy ~ N(0,1) and ids uniform over the table give
///         std(dtable) = 1.
/// Scales: α = 1, β = (entries / number of ids)^½.
/// Values: table entries are rounded once to P::storage; the sums run in P::compute in the order of
///         the ids. The table may be a parameter, or activations to pick rows from. The row of
///         `padding_idx` is looked up like any other and has gradient 0. Of a table of higher rank,
///         rows along the last extent are the entries.
/// @throws DomainError if an id, or padding_idx, is not in [0, entries).
/// @throws ShapeError if the rank of the table is below 2.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4 (a lookup is a product with one-hot rows).
struct Embedding {
  static constexpr std::string_view name = "embedding";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr OpTraits traits{
      .has_homogeneity = true, .has_item_counts = true, .ignores_constraint = true};

  Scaling scaling = scaling::inherited;
  /// The id that stands for no token at all: it learns nothing.
  std::optional<std::int32_t> padding_idx = std::nullopt;

  template <class T>
  [[nodiscard]] Scales<1> scales(const Array<std::int32_t>& ids, const Array<T>& table) const {
    check(ids.shape(), table.shape());
    if (padding_idx) require_entry(*padding_idx, table.rows(), "a padding_idx");
    Scales<1> s;
    if (scaling.rule != Rule::none && ids.size() != 0) {
      s.backward[0] =
          std::sqrt(static_cast<double>(table.rows()) / static_cast<double>(ids.size()));
    }
    return s;
  }

  /// β is of the ids; and of the table's rows where these are activations of the batch.
  template <class T>
  [[nodiscard]] std::array<ItemCount, 1> item_counts(const std::array<bool, 1>& are_parameters,
                                                     const Array<std::int32_t>& ids,
                                                     const Array<T>& table) const {
    if (scaling.rule == Rule::none) return {};
    ItemCount count = item_count(ids.size());
    if (!are_parameters[0]) count.entries = static_cast<double>(table.rows());
    return {count};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<std::int32_t>& ids,
                             const Array<T>& table) const {
    check(ids.shape(), table.shape());
    using Compute = typename P::compute;
    using Storage = typename P::storage;
    const std::size_t size = table.columns();
    for (const std::int32_t id : ids.span()) require_entry(id, table.rows(), "ids");
    Array<Storage> y(ids.shape().append(size), ids.resource());
    Storage* target = y.mutable_data();
    const auto a = static_cast<Compute>(s.forward);
    kernels::for_rows(ids.size(), size, [&](std::size_t i) {
      const T* entry = table.row(static_cast<std::size_t>(ids.data()[i]));
      kernels::for_lanes<Compute>(size, [&](std::size_t j, auto count) {
        kernels::store<Overflow::infinity_or_nan, Compute>(
            a * kernels::load<Compute>(entry + j, count), target + i * size + j, count);
      });
    });
    return Forward{std::move(y), std::tuple{ids, table.shape()}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<std::int32_t>, Shape>& saved,
                              const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<std::int32_t>& ids = std::get<0>(saved);
    const Shape& table = std::get<1>(saved);
    const std::size_t size = table.columns();
    require_same_shape(name, "dy and y", dy.shape(), ids.shape().append(size));
    Array<Compute> sums = Array<Compute>::filled(table, Compute{0}, dy.resource());
    Compute* target = sums.mutable_data();
    // Threads share out columns, so each sum adds its terms in the order of the ids.
    parallel_ranges(size, 4 * lanes, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = 0; i < ids.size(); ++i) {
        if (ids.data()[i] == padding_idx) continue;
        Compute* entry = target + static_cast<std::size_t>(ids.data()[i]) * size + begin;
        const T* term = dy.row(i) + begin;
        kernels::for_lanes<Compute>(end - begin, [&](std::size_t j, auto count) {
          kernels::store<Overflow::infinity_or_nan, Compute>(
              kernels::load<Compute>(entry + j, count) + kernels::load<Compute>(term + j, count),
              entry + j, count);
        });
      }
    });
    const auto factor = static_cast<Compute>(s.backward[0]);
    return std::tuple{kernels::map<Compute, T>([=](auto v) { return factor * v; }, sums)};
  }

 private:
  static void check(const Shape& ids, const Shape& table) {
    require_shape(table.rank() >= 2, name, "ids and table (entries, size)", ids, table);
  }

  static void require_entry(std::int32_t id, std::size_t entries, const char* what) {
    require(id >= 0 && static_cast<std::size_t>(id) < entries, name, "expected ", what, " in [0, ",
            entries, "), got ", id);
  }
};
inline constexpr Apply<Embedding> embedding{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
