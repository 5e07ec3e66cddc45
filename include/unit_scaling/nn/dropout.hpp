// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: dropout that knows when it is training.
#pragma once

#include <cstdint>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/dropout.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Random numbers for a layer that drops: those of (seed, the tape's step, the layer), so that each
/// step and each layer has its own, and a run that is resumed at a step draws the same ones.
class DropoutSource {
 public:
  /// @throws DomainError unless 0 ≤ probability < 1.
  DropoutSource(Initialiser& initialiser, double probability)
      : seed_(initialiser.seed()), layer_(initialiser.next_layer()), probability_(probability) {
    require_share("dropout", "probability", probability);
  }

  /// The probability on this tape: 0 on one for inference.
  template <Precision P> [[nodiscard]] double probability(const Tape<P>& tape) const {
    return tape.mode() == TapeMode::training ? probability_ : 0;
  }

  /// The numbers of the tape's step.
  template <Precision P> [[nodiscard]] Random random(const Tape<P>& tape) const {
    return Random(seed_, RandomStream::dropout, tape.step(), layer_);
  }

 private:
  std::uint64_t seed_;
  std::uint32_t layer_;
  double probability_;
};

/// y = ops::dropout(x) on a tape for training, x itself on one for inference.
class Dropout {
 public:
  /// @throws DomainError unless 0 ≤ probability < 1.
  Dropout(Initialiser& initialiser, double probability)
      : scaling_(initialiser.scaling()), source_(initialiser, probability) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// It has no parameters.
  template <class Visitor> void for_each_parameter(const Visitor& /*visit*/) {}

 private:
  Scaling scaling_;
  DropoutSource source_;
};

template <Precision P> Variable<P> Dropout::operator()(const Variable<P>& x) const {
  const double probability = source_.probability(x.tape());
  if (probability == 0) return x;
  return ops::dropout(
      x, {.scaling = scaling_, .probability = probability, .random = source_.random(x.tape())});
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
