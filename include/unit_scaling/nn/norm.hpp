// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a normalisation chosen at run time.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <variant>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/layer_norm.hpp"
#include "unit_scaling/nn/rms_norm.hpp"
#include "unit_scaling/ops/layer_norm.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Which normalisation.
enum class NormKind {
  layer_norm,          ///< with gain and bias, as in BERT
  rms_norm,            ///< without gain, as in the reference library's transformer
  rms_norm_with_gain,  ///< as in LLaMA
};

/// One of them.
class Norm {
 public:
  Norm(Initialiser& initialiser, const std::string& name, std::size_t size, NormKind kind,
       double epsilon = ops::LayerNorm{}.epsilon)
      : norm_(make(initialiser, name, size, kind, epsilon)) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    std::visit([&](auto& norm) { norm.for_each_parameter(visit); }, norm_);
  }

 private:
  using Either = std::variant<LayerNorm, RmsNorm>;

  static Either make(Initialiser& initialiser, const std::string& name, std::size_t size,
                     NormKind kind, double epsilon) {
    if (kind == NormKind::layer_norm) return LayerNorm(initialiser, name, size, epsilon);
    return RmsNorm(initialiser, name, size,
                   {.gain = kind == NormKind::rms_norm_with_gain, .epsilon = epsilon});
  }

  Either norm_;
};

template <Precision P> Variable<P> Norm::operator()(const Variable<P>& x) const {
  return std::visit([&](const auto& norm) { return norm(x); }, norm_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
