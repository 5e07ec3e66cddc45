// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: the feed-forward network with a SiLU gate.
#pragma once

#include <cstddef>
#include <string>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/ops/silu_glu.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = linear_2(linear_1(x) · silu(linear_gate(x))): x (…, hidden_size), in between
/// (…, inner_size). No biases.
///
/// None of the linear layers is constrained: what α and β_x of the first two differ by, the third
/// makes up for, so that gradients stay proportional to the true ones.
/// @see Shazeer 2020, arXiv:2002.05202; the MLP of the reference library.
class SwiGlu {
 public:
  SwiGlu(Initialiser& initialiser, const std::string& name, std::size_t hidden_size,
         std::size_t inner_size)
      : name_(name),
        linear_1_(initialiser, name + ".linear_1", hidden_size, inner_size, unconstrained),
        linear_gate_(initialiser, name + ".linear_gate", hidden_size, inner_size, unconstrained),
        silu_glu_{.scaling = initialiser.scaling()},
        linear_2_(initialiser, name + ".linear_2", inner_size, hidden_size, unconstrained) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    linear_1_.for_each_parameter(visit);
    linear_gate_.for_each_parameter(visit);
    linear_2_.for_each_parameter(visit);
  }

 private:
  static constexpr Linear::Options unconstrained{.bias = false, .constraint = constraint::none};

  std::string name_;
  Linear linear_1_;
  Linear linear_gate_;
  ops::SiluGlu silu_glu_;
  Linear linear_2_;
};

template <Precision P> Variable<P> SwiGlu::operator()(const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  // One after the other: compilers differ in the order in which they evaluate arguments.
  const Variable<P> value = linear_1_(x);
  const Variable<P> gate = linear_gate_(x);
  return linear_2_(ops::silu_glu(value, gate, silu_glu_));
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
