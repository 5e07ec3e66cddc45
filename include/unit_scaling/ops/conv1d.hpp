// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: one-dimensional convolution.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/matmul.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled convolution along the last extent (cross-correlation, as everywhere in the field):
/// y[o, l] = α (b[o] + Σ_c Σ_t w[o, c, t] x[c, l stride + t dilation − padding]), zeros beyond the
/// ends; output channel o sees the channels of its group.
/// Shapes: x (…, channels, length), w (fan_out, channels/groups, kernel_size), b (fan_out) or
///         absent, y and dy (…, fan_out, out_length), out_length = (length + both paddings −
///         dilation (kernel_size − 1) − 1) / stride + 1, rounded down.
/// Units:  x, w, dy ~ N(0,1) give unit std of y, dx, dw and db (without a constraint), but for the
///         ends, where padding adds zeros to y and dx has fewer terms.
/// Scales: α = (channels/groups · kernel_size)^−½, β_x = (stride groups / (fan_out kernel_size))^½,
///         β_w = β_b = (out_length · all leading extents)^−½. The constraint binds α and β_x.
/// Values: x and w are rounded to P::matmul_operand, dy to P::matmul_gradient (both saturating),
///         products accumulate in P::compute, y and the gradients are rounded once to P::storage;
///         what is saved for backward is the rounded operands. db sums dy before its rounding.
///         The zeros beyond the ends are factors like any other: of an infinite weight they make
///         a NaN.
/// @throws ShapeError if the shapes do not fit or the kernel is longer than the padded input.
/// @throws DomainError if stride, dilation or groups is 0, one of the sizes is beyond counting, or
///         causal and padding are both asked for; unless the powers, and the factors that they
///         give, are finite as floats.
/// @see the reference library's conv1d; Blake et al. 2023, arXiv:2303.11257, section 6.1.
struct Conv1d {
  static constexpr std::string_view name = "conv1d";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2 || arguments == 3; }
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = true,
                                   .has_tells_positions = true,
                                   .has_products = true};

  [[nodiscard]] static constexpr bool tells_positions() { return true; }

  Scaling scaling = scaling::inherited;
  std::size_t stride = 1;
  std::size_t padding = 0;  ///< zeros at either end
  std::size_t dilation = 1;
  std::size_t groups = 1;
  /// Pads the beginning only, with dilation (kernel_size − 1) zeros: no output sees a later input.
  bool causal = false;
  /// Exponents of the sizes in α, β_x and β_w = β_b.
  std::array<double, 3> power = {0.5, 0.5, 0.5};

  /// @throws DomainError if an attribute is out of its range for kernels of this size.
  void require_attributes(std::size_t kernel_size) const {
    require(stride > 0 && dilation > 0 && groups > 0, name,
            "expected stride, dilation and groups of at least 1");
    require(!causal || padding == 0, name, "expected no padding besides that of causal");
    require(stride <= largest_size && padding <= largest_size &&
                dilation <= largest_size / std::max<std::size_t>(1, kernel_size),
            name, "expected sizes that can be counted");
    require_powers(name, power);
  }

  template <class X, class W>
  [[nodiscard]] Scales<2> scales(const Array<X>& x, const Array<W>& w) const {
    const Extents e = extents(x.shape(), w.shape());
    Scales<2> ideal;
    if (scaling.rule != Rule::none) {
      const double of_input = e.fan_out == 0
                                  ? 1
                                  : static_cast<double>(stride) * static_cast<double>(groups) /
                                        static_cast<double>(e.fan_out * e.kernel_size);
      ideal = {.forward = inverse_power(e.inner(), power[0]),
               .backward = {std::pow(of_input, power[1]),
                            inverse_power(e.out_length * e.batch, power[2])}};
      require_factors(name, ideal);
    }
    return constrain<1>(scaling.effective_constraint(), ideal);
  }

  template <class X, class W, class B>
  [[nodiscard]] Scales<3> scales(const Array<X>& x, const Array<W>& w, const Array<B>& b) const {
    const Scales<2> s = scales(x, w);
    check_bias(b.shape(), w.shape());
    return {.forward = s.forward, .backward = {s.backward[0], s.backward[1], s.backward[1]}};
  }

  /// β_w and β_b are of the outputs of all batch entries.
  template <class X, class W, class... B>
  [[nodiscard]] std::array<ItemCount, 2 + sizeof...(B)> item_counts(
      const Array<X>& x, const Array<W>& w, const Array<B>&... /*b*/) const {
    std::array<ItemCount, 2 + sizeof...(B)> counts{};
    if (scaling.rule == Rule::none) return counts;
    const Extents e = extents(x.shape(), w.shape());
    for (std::size_t i = 1; i < counts.size(); ++i) {
      counts[i] = item_count(e.out_length * e.batch, power[2]);
    }
    return counts;
  }

  template <std::size_t N> [[nodiscard]] static Homogeneity homogeneity(const Scales<N>& s) {
    return Homogeneity::product(s.forward, N);
  }

  template <Precision P, class X, class W>
  [[nodiscard]] auto forward(P precision, const Scales<2>& s, const Array<X>& x,
                             const Array<W>& w) const {
    return convolve(precision, s.forward, x, w, nullptr);
  }

  template <Precision P, class X, class W, class B>
  [[nodiscard]] auto forward(P precision, const Scales<3>& s, const Array<X>& x, const Array<W>& w,
                             const Array<B>& b) const {
    using Compute = typename P::compute;
    static_cast<void>(extents(x.shape(), w.shape()));
    check_bias(b.shape(), w.shape());
    const auto bias = kernels::convert<Compute, Overflow::infinity_or_nan>(b, x.resource());
    return convolve(precision, s.forward, x, w, bias.data());
  }

  /// @returns (dx, dw), and db if `s` has three backward factors.
  template <Precision P, std::size_t N, class T>
  [[nodiscard]] auto backward(P precision, const Scales<N>& s,
                              const std::tuple<kernels::Operand, kernels::Operand>& saved,
                              const Array<T>& dy,
                              const std::array<bool, N>& wanted = all_wanted<N>()) const {
    using Compute = typename P::compute;
    const auto& [x, w] = saved;
    const Extents e = extents(x.shape(), w.shape());
    require_same_shape(name, "dy and y", dy.shape(), output_shape(x.shape(), e));
    const kernels::Operand g_operand =
        operand(precision, {OperandRole::gradient}, dy, x.resource());
    const kernels::PreparedOperand g(g_operand, SummedExtent::both);

    std::array<Array<T>, N> gradients;
    if (wanted[0]) {
      gradients[0] = input_gradient<Compute, T>(e, static_cast<Compute>(s.backward[0]), x.shape(),
                                                kernels::PreparedOperand(w, SummedExtent::both), g);
    }
    if (wanted[1]) {
      gradients[1] = weight_gradient<Compute, T>(e, static_cast<Compute>(s.backward[1]),
                                                 kernels::PreparedOperand(x, SummedExtent::both),
                                                 w.shape(), g);
    }
    if constexpr (N == 3) {
      if (wanted[2]) {
        gradients[2] = bias_gradient<Compute>(e, static_cast<Compute>(s.backward[2]), dy);
      }
    }
    return std::apply([](auto&... each) { return std::tuple{std::move(each)...}; }, gradients);
  }

 private:
  /// A −1 that became a std::size_t must not wrap round to a size that fits.
  static constexpr std::size_t largest_size = static_cast<std::size_t>(-1) / 8;

  static void check_bias(const Shape& bias, const Shape& w) {
    require_shape(bias == Shape{w[0]}, name,
                  "bias (fan_out) for w (fan_out, channels / groups, kernel_size)", bias, w);
  }

  using SummedExtent = kernels::SummedExtent;

  struct Extents {
    std::size_t batch, channels, length, fan_out, channels_per_group, kernel_size, before,
        out_length, groups;

    /// Terms of one output: the rows of an unfolded input.
    [[nodiscard]] std::size_t inner() const { return channels_per_group * kernel_size; }
    [[nodiscard]] std::size_t outputs_per_group() const { return fan_out / groups; }
  };

  [[nodiscard]] Extents extents(const Shape& x, const Shape& w) const {
    require_attributes(w.rank() == 3 ? w[2] : 1);
    const std::size_t rank = x.rank();
    require_shape(
        rank >= 2 && w.rank() == 3 && w[0] % groups == 0 && x[rank - 2] % groups == 0 &&
            x[rank - 2] / groups == w[1] && w[2] != 0,
        name,
        [&] {
          return "x (..., channels, length) and w (fan_out, channels / groups, kernel_size) with " +
                 std::to_string(groups) + " groups";
        },
        x, w);
    require(x[rank - 1] <= largest_size, name, "expected sizes that can be counted");
    const std::size_t span = dilation * (w[2] - 1);
    const std::size_t padded = x[rank - 1] + (causal ? span : 2 * padding);
    require_shape(
        padded >= span + 1, name,
        [&] { return "a padded length of at least " + std::to_string(span + 1); }, x, w);
    std::size_t batch = 1;
    for (std::size_t i = 0; i + 2 < rank; ++i) batch *= x[i];
    return {batch,
            x[rank - 2],
            x[rank - 1],
            w[0],
            w[1],
            w[2],
            causal ? span : padding,
            (padded - span - 1) / stride + 1,
            groups};
  }

  static Shape output_shape(const Shape& x, const Extents& e) {
    std::array<std::size_t, Shape::max_rank> result{};
    std::copy(x.begin(), x.end(), result.begin());
    result[x.rank() - 2] = e.fan_out;
    result[x.rank() - 1] = e.out_length;
    return Shape(std::span<const std::size_t>(result.data(), x.rank()));
  }

  /// Calls `visit(l_begin, l_end, first)` for the outputs [l_begin, l_end) that tap `t` of the
  /// kernel has an input for; that of l is first + (l − l_begin) stride.
  template <class Visit>
  void for_inputs_of_tap(const Extents& e, std::size_t t, const Visit& visit) const {
    const std::size_t offset = t * dilation;
    const std::size_t begin = offset >= e.before ? 0 : (e.before - offset + stride - 1) / stride;
    // The last input is at l stride + offset − before ≤ length − 1.
    const std::size_t end =
        e.length + e.before <= offset
            ? 0
            : std::min(e.out_length, (e.length + e.before - offset - 1) / stride + 1);
    if (begin < end) visit(begin, end, begin * stride + offset - e.before);
  }

  /// The unfolded input of one group of one batch entry, (inner, out_length): row (c, t) is what
  /// tap t sees of channel c. Beside the input it sees code 0, which is zero.
  template <std::size_t bytes>
  void unfold(const Extents& e, const std::byte* x, std::byte* unfolded) const {
    for (std::size_t c = 0; c < e.channels_per_group; ++c) {
      for (std::size_t t = 0; t < e.kernel_size; ++t) {
        std::byte* row = unfolded + (c * e.kernel_size + t) * e.out_length * bytes;
        std::fill_n(row, e.out_length * bytes, std::byte{0});
        for_inputs_of_tap(e, t, [&](std::size_t begin, std::size_t end, std::size_t first) {
          const std::byte* from = x + (c * e.length + first) * bytes;
          for (std::size_t l = begin; l < end; ++l) {
            std::memcpy(row + l * bytes, from + (l - begin) * stride * bytes, bytes);
          }
        });
      }
    }
  }
  /// As above, of elements that take so many bytes each.
  void unfold(const Extents& e, std::size_t element_bytes, const void* x, void* unfolded) const {
    const auto* from = static_cast<const std::byte*>(x);
    auto* to = static_cast<std::byte*>(unfolded);
    switch (element_bytes) {
      case 1:
        return unfold<1>(e, from, to);
      case 2:
        return unfold<2>(e, from, to);
      case 4:
        return unfold<4>(e, from, to);
      default:
        return unfold<8>(e, from, to);
    }
  }

  /// Where the input of a group of a batch entry begins.
  static const void* group_input(const Extents& e, const kernels::PreparedOperand& x, std::size_t b,
                                 std::size_t group) {
    return x.element((b * e.channels + group * e.channels_per_group) * e.length);
  }

  /// The weight of a group, (outputs, inner).
  static kernels::OperandPart group_weight(const Extents& e, const kernels::PreparedOperand& w,
                                           std::size_t group) {
    return w.part_at(w.element(group * e.outputs_per_group() * e.inner()), e.inner(), 1);
  }

  /// Memory for unfolded inputs, of so many elements.
  [[nodiscard]] static Array<std::byte> unfolded_memory(const kernels::PreparedOperand& x,
                                                        std::size_t size) {
    return Array<std::byte>(Shape{size_product(name, {size, x.element_bytes()})}, x.resource());
  }

  template <Precision P, class X, class W>
  [[nodiscard]] auto convolve(P precision, double scale, const Array<X>& x, const Array<W>& w,
                              const typename P::compute* bias) const {
    using Compute = typename P::compute;
    const Extents e = extents(x.shape(), w.shape());
    auto x_operand = operand(precision, {OperandRole::input, 0}, x);
    auto w_operand = operand(precision, {OperandRole::weight, 1}, w, x.resource());
    const kernels::PreparedOperand inputs(x_operand, SummedExtent::both);
    const kernels::PreparedOperand weights(w_operand, SummedExtent::both);
    Array<typename P::storage> y(output_shape(x.shape(), e), x.resource());
    auto* target = y.mutable_data();
    const std::size_t outputs = e.outputs_per_group();
    const std::size_t unfolded_size = e.inner() * e.out_length;
    auto unfolded = unfolded_memory(inputs, e.batch * groups * unfolded_size);
    Array<Compute> sums(Shape{e.batch * groups, outputs, e.out_length}, x.resource());
    std::byte* unfolded_target = unfolded.mutable_data();
    Compute* sums_target = sums.mutable_data();
    const auto factor = static_cast<Compute>(scale);
    parallel_for(e.batch * groups, [&](std::size_t task) {
      const std::size_t group = task % groups;
      std::byte* columns = unfolded_target + task * unfolded_size * inputs.element_bytes();
      unfold(e, inputs.element_bytes(), group_input(e, inputs, task / groups, group), columns);
      Compute* products = sums_target + task * outputs * e.out_length;
      kernels::matmul<Compute>({outputs, e.out_length, e.inner()}, group_weight(e, weights, group),
                               inputs.part_at(columns, 1, e.out_length), products, e.out_length);
      for (std::size_t o = 0; o < outputs; ++o) {
        const std::size_t channel = group * outputs + o;
        const Compute shift = bias == nullptr ? Compute{0} : bias[channel];
        const Compute* from = products + o * e.out_length;
        auto* to = target + (task / groups * e.fan_out + channel) * e.out_length;
        kernels::for_lanes<Compute>(e.out_length, [&](std::size_t l, auto count) {
          kernels::store<Overflow::infinity_or_nan, Compute>(
              factor * (kernels::load<Compute>(from + l, count) + shift), to + l, count);
        });
      }
    });
    return Forward{std::move(y), std::tuple{std::move(x_operand), std::move(w_operand)}};
  }

  template <class Compute, class T>
  [[nodiscard]] Array<T> input_gradient(const Extents& e, Compute factor, const Shape& shape,
                                        const kernels::PreparedOperand& w,
                                        const kernels::PreparedOperand& g) const {
    auto* const resource = g.resource();
    Array<T> dx(shape, resource);
    T* target = dx.mutable_data();
    const std::size_t outputs = e.outputs_per_group();
    const std::size_t group_size = e.channels_per_group * e.length;
    Array<Compute> unfolded(Shape{e.batch * groups, e.inner(), e.out_length}, resource);
    Array<Compute> sums =
        Array<Compute>::filled(Shape{e.batch * groups, group_size}, Compute{0}, resource);
    Compute* unfolded_target = unfolded.mutable_data();
    Compute* sums_target = sums.mutable_data();
    parallel_for(e.batch * groups, [&](std::size_t task) {
      const std::size_t group = task % groups;
      const std::size_t b = task / groups;
      Compute* columns = unfolded_target + task * e.inner() * e.out_length;
      kernels::matmul<Compute>(
          {e.inner(), e.out_length, outputs}, group_weight(e, w, group).transposed(),
          g.part_at(g.element((b * e.fan_out + group * outputs) * e.out_length), 1, e.out_length),
          columns, e.out_length);
      Compute* folded = sums_target + task * group_size;
      for (std::size_t c = 0; c < e.channels_per_group; ++c) {
        for (std::size_t t = 0; t < e.kernel_size; ++t) {
          const Compute* row = columns + (c * e.kernel_size + t) * e.out_length;
          for_inputs_of_tap(e, t, [&](std::size_t begin, std::size_t end, std::size_t first) {
            Compute* to = folded + c * e.length + first;
            for (std::size_t l = begin; l < end; ++l) to[(l - begin) * stride] += row[l];
          });
        }
      }
      kernels::for_lanes<Compute>(group_size, [&](std::size_t i, auto count) {
        kernels::store<Overflow::infinity_or_nan, Compute>(
            factor * kernels::load<Compute>(folded + i, count), target + task * group_size + i,
            count);
      });
    });
    return dx;
  }

  template <class Compute, class T>
  [[nodiscard]] Array<T> weight_gradient(const Extents& e, Compute factor,
                                         const kernels::PreparedOperand& x, const Shape& shape,
                                         const kernels::PreparedOperand& g) const {
    Array<T> dw(shape, x.resource());
    T* target = dw.mutable_data();
    const std::size_t outputs = e.outputs_per_group();
    const std::size_t unfolded_size = e.inner() * e.out_length;
    auto unfolded = unfolded_memory(x, e.batch * unfolded_size);
    std::byte* unfolded_target = unfolded.mutable_data();
    for (std::size_t group = 0; group < groups; ++group) {
      parallel_for(e.batch, [&](std::size_t b) {
        unfold(e, x.element_bytes(), group_input(e, x, b, group),
               unfolded_target + b * unfolded_size * x.element_bytes());
      });
      // One sum over the batch and all positions, the batch entries laid end to end.
      kernels::matmul<Compute>({outputs, e.inner(), e.out_length, e.batch},
                               g.part_at(g.element(group * outputs * e.out_length), e.out_length, 1,
                                         e.fan_out * e.out_length),
                               x.part_at(unfolded.data(), e.out_length, 1, unfolded_size),
                               target + group * outputs * e.inner(), e.inner(), {.scale = factor});
    }
    return dw;
  }

  template <class Compute, class T>
  [[nodiscard]] static Array<T> bias_gradient(const Extents& e, Compute factor,
                                              const Array<T>& dy) {
    Array<T> db(Shape{e.fan_out}, dy.resource());
    T* target = db.mutable_data();
    kernels::for_rows(e.fan_out, e.batch * e.out_length, [&](std::size_t o) {
      Compute total = 0;
      for (std::size_t b = 0; b < e.batch; ++b) {
        total += kernels::sum_lanes<Compute>(e.out_length, [&](std::size_t l, auto count) {
          return kernels::load<Compute>(dy.row(b * e.fan_out + o) + l, count);
        });
      }
      target[o] = static_cast<T>(factor * total);
    });
    return db;
  }
};
inline constexpr Apply<Conv1d> conv1d{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
