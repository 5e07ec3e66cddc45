// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/gelu.hpp"

namespace peer_vectors {
namespace gelu_vectors_test {

using unit_scaling::ops::GeluForm;

GeluForm form(const std::string& approximate) {
  if (approximate == "none") return GeluForm::erf;
  if (approximate == "tanh") return GeluForm::tanh_approximation;
  throw std::runtime_error("approximate '" + approximate + "' is not known");
}

const RegisterOp gelu("gelu", [](auto& run) {
  const auto input = run.input("input");
  run.finish(unit_scaling::ops::gelu(
      input, {.scaling = run.scaling(),
              .mult = run.template parameter<double>("mult", 1),
              .form = form(run.template parameter<std::string>("approximate", "none"))}));
});

}  // namespace gelu_vectors_test
}  // namespace peer_vectors
