// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: softmax cross-entropy against class labels.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/kernels/softmax.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/reduction.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled softmax cross-entropy: loss = α Σ_i (log Σ_j exp(m x_ij) − m Σ_j t_ij x_ij),
/// dx = β dloss (softmax(m x) − t), with t_i = (1 − ε) onehot(label_i) + ε / classes.
/// Shapes: logits x and dx (items, classes), labels (items) of 32-bit integers; the loss is one
///         number of P::compute. Logits (batch, positions, classes) are given as rows, and labels
///         (batch, positions) in the same order:
///
///     ops::cross_entropy(ops::reshape(logits, {.shape = {batch * positions, classes}}),
///                        labels.reshaped({batch * positions}));
///
/// Units:  x ~ N(0,1) and dloss = 1 give std(dx) = 1 (of items that are not ignored); the loss
///         itself has its usual value.
/// Scales: α = 1/items for a mean, 1 for a sum. β = classes / ((1 − ε) (classes − 1)^½) for both:
///         the gradient is an item's own, not divided by their number. It is 1 / rms(p − t) for
///         flat p = 1/classes. Rule none: the true gradient, β = α m.
/// Values: computed in P::compute; a NaN or +∞ among the logits makes the loss NaN. Items of label
///         `ignore_index` give neither loss nor gradient, whatever their logits. A mean is over all
///         items as in the reference library, but under rule none over those not ignored, as in
///         PyTorch; of no items it is 0.
/// Errors: for m = 1, the loss of an item is within (classes/16 + 29 + loss) u of that of exact
///         arithmetic, u = 2⁻²⁴ (with P::compute double, classes for classes/16, (1 + 2 classes)
///         loss, and u = 2⁻⁵³), and dx / (β dloss) within (p (classes/16 + 35 + max − x) + 4 t) u.
/// @throws ShapeError if the shapes do not fit.
/// @throws DomainError if a label is neither in [0, classes) nor ignore_index, there are fewer than
///         two classes, or ε is not in [0, 1).
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2 ("softmax cross-entropy"); Szegedy et al.
///      2015, arXiv:1512.00567, section 7 (label smoothing).
struct CrossEntropy {
  static constexpr std::string_view name = "cross_entropy";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = true,
                                   .has_gradient_factor = true,
                                   .is_loss = true,
                                   .ignores_constraint = true};

  Scaling scaling = scaling::inherited;
  Reduction reduction = Reduction::mean;
  double mult = 1;  ///< m
  std::optional<std::int32_t> ignore_index = std::nullopt;
  double label_smoothing = 0;  ///< ε

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const {
    require_multiplier(name, "mult", mult);
    require_share(name, "label_smoothing", label_smoothing);
  }

  template <class T>
  [[nodiscard]] Scales<1> scales(const Array<T>& logits, const Array<std::int32_t>& labels) const {
    const Shape& x = logits.shape();
    check(x, labels.shape());
    require_attributes();
    require(x[1] >= 2, name, "expected at least two classes");
    const auto items = static_cast<double>(std::max<std::size_t>(1, counted(labels)));
    const auto classes = static_cast<double>(x[1]);
    const double forward = reduction == Reduction::mean ? 1 / items : 1;
    if (scaling.rule == Rule::none) return {.forward = forward, .backward = {forward * mult}};
    return {.forward = forward,
            .backward = {classes / ((1 - label_smoothing) * std::sqrt(classes - 1))}};
  }

  /// Under rule none a mean's factor is of the items.
  template <class T>
  [[nodiscard]] std::array<ItemCount, 1> item_counts(const Array<T>& /*logits*/,
                                                     const Array<std::int32_t>& labels) const {
    if (scaling.rule != Rule::none || reduction != Reduction::mean) return {};
    return {item_count(counted(labels), 1)};
  }

  /// The true gradient is α m (softmax(m x) − t), and β says all that comes before the bracket.
  [[nodiscard]] double gradient_factor(const Scales<1>& s, std::size_t /*input*/,
                                       std::size_t /*output*/) const {
    return s.backward[0] / (s.forward * mult);
  }

  [[nodiscard]] Homogeneity homogeneity(const Scales<1>& s) const {
    return Homogeneity::function(s.forward, mult);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& logits,
                             const Array<std::int32_t>& labels) const {
    using Compute = typename P::compute;
    check(logits.shape(), labels.shape());
    const std::size_t classes = logits.columns();
    for (const std::int32_t label : labels.span()) {
      if (label == ignore_index) continue;
      require(label >= 0 && static_cast<std::size_t>(label) < classes, name,
              "expected labels in [0, ", classes, "), got ", label);
    }
    // Row maximum and sum, so that backward need not look for them again.
    Array<Compute> rows(Shape{logits.rows(), 2}, logits.resource());
    Compute* row = rows.mutable_data();
    const auto m = static_cast<Compute>(mult);
    kernels::for_rows(logits.rows(), classes, [&](std::size_t i) {
      const auto normaliser = kernels::softmax_row<Compute>(logits.row(i), classes, m);
      row[2 * i] = normaliser.max;
      row[2 * i + 1] = normaliser.sum;
    });
    // In double and in order: the reported loss is the same for any thread count.
    double total = 0;
    for (std::size_t i = 0; i < logits.rows(); ++i) {
      const std::int32_t label = labels.data()[i];
      if (label == ignore_index) continue;
      // Differences from the greatest: weighted sums of the logits would be rounded to their size.
      const T* logit = logits.row(i);
      const auto below = [greatest = static_cast<double>(row[2 * i])](auto v) {
        return greatest - v;
      };
      double target = below(static_cast<double>(static_cast<Compute>(logit[label])));
      if (label_smoothing != 0) {
        kernels::DoubleSum<Compute> terms;
        kernels::for_lanes<Compute>(classes, [&](std::size_t j, auto count) {
          terms.add(kernels::fill_beyond<Compute>(kernels::load<Compute>(logit + j, count), count,
                                                  row[2 * i]),
                    below);
        });
        const double all = terms.total();
        target =
            (1 - label_smoothing) * target + label_smoothing / static_cast<double>(classes) * all;
      }
      total += mult * target + std::log(static_cast<double>(row[2 * i + 1]));
    }
    auto loss =
        Array<Compute>::filled(Shape{}, static_cast<Compute>(s.forward * total), logits.resource());
    return Forward{std::move(loss), std::tuple{logits, labels, std::move(rows)}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(
      P /*precision*/, const Scales<1>& s,
      const std::tuple<Array<T>, Array<std::int32_t>, Array<typename P::compute>>& saved,
      const Array<typename P::compute>& dloss) const {
    using Compute = typename P::compute;
    const Array<T>& logits = std::get<0>(saved);
    const Array<std::int32_t>& labels = std::get<1>(saved);
    const Array<Compute>& rows = std::get<2>(saved);
    require_same_shape(name, "dloss and loss", dloss.shape(), Shape{});
    Array<T> dx(logits.shape(), logits.resource());
    T* target = dx.mutable_data();
    const std::size_t classes = logits.columns();
    const kernels::Destination<T> destination(target, classes, 2 * logits.bytes());
    const auto m = static_cast<Compute>(mult);
    const Compute factor = static_cast<Compute>(s.backward[0]) * *dloss.data();
    const auto everywhere = static_cast<Compute>(label_smoothing / static_cast<double>(classes));
    const auto here = static_cast<Compute>(1 - label_smoothing);
    const auto upstream = static_cast<double>(*dloss.data());
    // `scaled(lanes)`: β dloss times differences of weights.
    const auto write = [&](const auto& scaled) {
      kernels::for_rows(logits.rows(), classes, [&](std::size_t i) {
        T* out = target + i * classes;
        if (labels.data()[i] == ignore_index) {
          std::fill_n(out, classes, T{});
          return;
        }
        const Compute max = rows.data()[2 * i];
        const Compute per_sum = 1 / rows.data()[2 * i + 1];
        const T* row = logits.row(i);
        const auto label = static_cast<std::size_t>(labels.data()[i]);
        const kernels::Destination<T> to = destination;
        const auto own_scaled = scaled;
        kernels::for_lanes<Compute>(classes, [&](std::size_t j, auto count) {
          const auto p =
              kernels::exp_of_nonpositive((kernels::load<Compute>(row + j, count) - max) * m) *
              per_sum;
          auto difference = p - everywhere;
          if (label - j < count) difference = kernels::add_to_lane(difference, label - j, -here);
          to.template put<Overflow::infinity_or_nan, Compute>(own_scaled(difference),
                                                              i * classes + j, count);
        });
        to.finish();
      });
    };
    if (kernels::WideFactor<Compute>::is_needed(factor, s.backward[0], upstream)) {
      write(kernels::WideFactor<Compute>(s.backward[0], upstream));
    } else {
      write([factor](auto difference) { return factor * difference; });
    }
    return std::tuple{std::move(dx)};
  }

 private:
  /// How many items a mean is over.
  [[nodiscard]] std::size_t counted(const Array<std::int32_t>& labels) const {
    if (scaling.rule != Rule::none || !ignore_index) return labels.size();
    return labels.size() - static_cast<std::size_t>(std::count(labels.span().begin(),
                                                               labels.span().end(), *ignore_index));
  }

  static void check(const Shape& logits, const Shape& labels) {
    require_shape(logits.rank() == 2 && labels == Shape{logits[0]}, name,
                  "logits (items, classes) and labels (items)", logits, labels);
  }
};
inline constexpr Apply<CrossEntropy> cross_entropy{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
