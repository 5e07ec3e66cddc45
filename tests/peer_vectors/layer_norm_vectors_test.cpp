// SPDX-License-Identifier: MIT
#include <algorithm>

#include "op_vectors.hpp"
#include "unit_scaling/ops/layer_norm.hpp"

namespace peer_vectors {
namespace layer_norm_vectors_test {

const RegisterOp layer_norm("layer_norm", [](auto& run) {
  const unit_scaling::ops::LayerNorm op{.scaling = run.scaling(),
                                        .epsilon = run.template parameter<double>("eps", 1e-5)};
  run.finish(normalise(run, [&](const auto& input, const auto& flat) {
    if (!run.has_input("weight")) return unit_scaling::ops::layer_norm(input, op);
    const auto gain = flat(run.input("weight"));
    if (run.has_input("bias")) {
      return unit_scaling::ops::layer_norm(input, gain, flat(run.input("bias")), op);
    }
    // A gain without a bias is one with a bias of zeros that is not trained.
    auto zeros = gain.value();
    std::fill_n(zeros.mutable_data(), zeros.size(), 0);
    return unit_scaling::ops::layer_norm(input, gain, run.tape().constant(zeros), op);
  }));
});

}  // namespace layer_norm_vectors_test
}  // namespace peer_vectors
