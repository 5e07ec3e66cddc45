// SPDX-License-Identifier: MIT
#include "peer_vectors.hpp"
#include "unit_scaling/scaling/residual_rule.hpp"

namespace peer_vectors {
namespace transformer_residual_scaling_rule_vectors_test {

/// Both sides compute a few operations in double; the file has every digit.
constexpr double relative_tolerance = 1e-14;

Failures run(const Json& one_case) {
  require_known(one_case, {"residual_mult", "residual_attn_ratio", "layers", "tau"});
  const auto rule = unit_scaling::transformer_residual_scaling_rule(
      one_case.at("residual_mult").get<double>(), one_case.at("residual_attn_ratio").get<double>());
  // The file's layers are residual branches: two for each layer of a transformer.
  const auto branches = one_case.at("layers").get<std::size_t>();
  const Json& expected = one_case.at("tau");
  Failures failures;
  if (expected.size() != branches) failures.push_back("as many tau as layers expected");
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double want = number(expected[i]);
    const double got = rule(i, branches);
    if (!(std::abs(got - want) <= relative_tolerance * std::abs(want))) {
      failures.push_back("tau " + std::to_string(i) + " is " + std::to_string(got) + ", expected " +
                         std::to_string(want));
    }
  }
  return failures;
}

const bool registered = runners().emplace("transformer_residual_scaling_rule", run).second;

}  // namespace transformer_residual_scaling_rule_vectors_test
}  // namespace peer_vectors
