// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/linear_readout.hpp"

namespace peer_vectors {
namespace linear_readout_vectors_test {

// Its constraint is none unless a case says otherwise, which here is what the rule alone says.
const RegisterOp linear_readout("linear_readout", [](auto& run) {
  const auto input = run.input("input");
  const auto weight = run.input("weight");
  const unit_scaling::ops::LinearReadout op{.scaling = run.scaling()};
  if (run.has_input("bias")) {
    run.finish(unit_scaling::ops::linear_readout(input, weight, run.input("bias"), op));
  } else {
    run.finish(unit_scaling::ops::linear_readout(input, weight, op));
  }
});

}  // namespace linear_readout_vectors_test
}  // namespace peer_vectors
