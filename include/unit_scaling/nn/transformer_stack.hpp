// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: the layers of a transformer, weighted by a residual rule.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/depth.hpp"
#include "unit_scaling/nn/transformer_layer.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// config.layers transformer layers; τ of each branch follows from the residual rule, and the
/// parameters know the depth. x and y (batch, positions, hidden_size).
class TransformerStack {
 public:
  /// @throws DomainError and ShapeError as TransformerLayer.
  TransformerStack(Initialiser& initialiser, const std::string& name,
                   const TransformerConfig& config)
      : layers_(make_layers(initialiser, name, config)) {}

  /// @param context as in MultiHeadAttention.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(const Variable<P>& x,
                                       const AttentionContext<P>& context = {}) const;

  [[nodiscard]] const DepthModuleList<TransformerLayer>& layers() const& { return layers_; }
  const DepthModuleList<TransformerLayer>& layers() const&& = delete;

  /// Calls `visit(parameter)` for each parameter, from input to output.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    layers_.for_each_parameter(visit);
  }

  /// Shows the other states, those of attention, to `visit(name, state)`.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    layers_.for_each_state(visit);
  }

 private:
  static DepthModuleList<TransformerLayer> make_layers(Initialiser& initialiser,
                                                       const std::string& name,
                                                       const TransformerConfig& config) {
    config.require_attributes();
    const ResidualRule tau =
        config.residual_rule
            ? config.residual_rule
            : default_residual_rule(initialiser.scaling().rule, config.norm_placement);
    const std::size_t branches = size_product("TransformerStack", {2, config.layers});
    std::vector<TransformerLayer> layers;
    layers.reserve(config.layers);
    for (std::size_t i = 0; i < config.layers; ++i) {
      layers.emplace_back(initialiser, name + "." + std::to_string(i), config, tau(2 * i, branches),
                          tau(2 * i + 1, branches));
    }
    return DepthModuleList(std::move(layers));
  }

  DepthModuleList<TransformerLayer> layers_;
};

template <Precision P>
Variable<P> TransformerStack::operator()(const Variable<P>& x,
                                         const AttentionContext<P>& context) const {
  return layers_(x, context);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
