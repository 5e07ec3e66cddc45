// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: the feed-forward network of BERT.
#pragma once

#include <cstddef>
#include <string>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = down(gelu(up(x))): x (…, hidden_size), in between (…, inner_size).
/// Under unit scaling the factors of all three are constrained, as they stand in a residual branch.
/// @see Blake et al. 2023, arXiv:2303.11257, listing of the scaled FFN.
class FeedForward {
 public:
  /// @param form GPT-2 and the first BERT code have the tanh approximation.
  FeedForward(Initialiser& initialiser, const std::string& name, std::size_t hidden_size,
              std::size_t inner_size, ops::GeluForm form = ops::GeluForm::erf)
      : name_(name),
        up_(initialiser, name + ".up", hidden_size, inner_size),
        gelu_{.scaling = initialiser.scaling(), .form = form},
        down_(initialiser, name + ".down", inner_size, hidden_size) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    up_.for_each_parameter(visit);
    down_.for_each_parameter(visit);
  }

 private:
  std::string name_;
  Linear up_;
  ops::Gelu gelu_;
  Linear down_;
};

template <Precision P> Variable<P> FeedForward::operator()(const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  // One op gives the same bits as two, but only two show an observer what is between them.
  if (x.tape().is_observed()) return down_(ops::gelu(up_(x), gelu_));
  return down_.after(gelu_, up_(x));
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
