// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: why an op has the factors it has.
#pragma once

#include <array>
#include <cstddef>
#include <cstdio>
#include <string>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

namespace detail {

/// Elements are not looked at, so none are written; the system hands out no page of them.
[[nodiscard]] inline Array<float> of_shape(const Shape& shape) { return Array<float>(shape); }
template <class T> [[nodiscard]] const Array<T>& of_shape(const Array<T>& array) { return array; }

[[nodiscard]] inline std::string shape_text(const Shape& shape) { return to_string(shape); }
template <class T> [[nodiscard]] std::string shape_text(const Array<T>& array) {
  return to_string(array.shape());
}

[[nodiscard]] inline std::string explain_line(const std::string& what, double ideal, double used) {
  std::array<char, 96> text{};
  std::snprintf(text.data(), text.size(), "  %-22s %12.6g %12.6g%s\n", what.c_str(), ideal, used,
                ideal == used ? "" : "  constrained");
  return text.data();
}

}  // namespace detail

/// The factors of an op on arguments of these shapes, as a text for people: those that would give
/// every tensor unit scale, the constraint, and the ones used.
///
///     std::cout << ops::explain(ops::Linear{}, Shape{32, 64}, Shape{256, 64});
///
///     linear of (32, 64), (256, 64) under rule paper, constraint gmean
///                                     ideal         used
///       forward                       0.125     0.0883883  constrained
///       gradient of input 1          0.0625     0.0883883  constrained
///       gradient of input 2        0.176777      0.176777
///
/// @param args for each argument of the op a Shape, or an Array where its type matters (ids).
/// @throws what the op throws for shapes that do not fit.
template <ScaledOp Op, class... Args>
[[nodiscard]] std::string explain(const Op& op, const Args&... args) {
  const auto used = op.scales(detail::of_shape(args)...);
  const auto ideal = without_constraint(op).scales(detail::of_shape(args)...);
  std::string text(Op::name);
  std::string separator = " of ";
  ((text += separator + detail::shape_text(args), separator = ", "), ...);
  if constexpr (detail::has_scaling<Op>) {
    text += " under rule " + std::string(to_string(op.scaling.rule)) + ", constraint " +
            std::string(constraint_on(op).value_or(unit_scaling::constraint::none).name);
  }
  text += "\n                                ideal         used\n";
  text += detail::explain_line("forward", ideal.forward, used.forward);
  for (std::size_t i = 0; i < used.backward.size(); ++i) {
    text += detail::explain_line("gradient of input " + std::to_string(i + 1), ideal.backward[i],
                                 used.backward[i]);
  }
  return text;
}

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
