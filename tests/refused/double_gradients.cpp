// SPDX-License-Identifier: MIT
// Must not compile: CALL reads gradients of double. The tests look at what the compiler says.
#include <vector>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace us = unit_scaling;

void call(us::Tape<us::precision::fp64>& tape, const std::vector<us::Parameter*>& parameters) {
  static_cast<void>(us::optim::CALL);
}
