// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Runs the cases of an op on a tape, in single and in double precision.
///
///     const RegisterOp gelu("gelu", [](auto& run) {
///       run.finish(ops::gelu(run.input("input"), {.scaling = run.scaling(), ...}));
///     });
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "peer_vectors.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/reduction.hpp"
#include "unit_scaling/ops/reshape.hpp"
#include "unit_scaling/scaling/rule.hpp"

namespace peer_vectors {

/// An expected number carries nine significant digits: it is off by up to 5e-9 of itself.
/// In double that is nearly all there is: the sums of these cases are a few hundred terms of 1e-16
/// each, so 1e-9 of the root mean square only spares an element that cancels to almost nothing.
/// In float an element is off by 6e-8 of the terms behind it; 2e-5 of the root mean square is some
/// hundred such errors, and still far below what a wrong factor would cause.
template <unit_scaling::Precision P>
inline constexpr Tolerance tolerance =
    std::is_same_v<typename P::compute, double> ? Tolerance{1e-9, 5e-9} : Tolerance{2e-5, 5e-9};

/// The number that an input of nine significant digits stands for. The peers' inputs are binary32
/// numbers, which nine digits determine, so what they computed from can be had exactly; a number
/// that is not the nine digits of one is taken as it is.
inline double exact_input(double written) {
  const auto number = static_cast<double>(static_cast<float>(written));
  std::array<char, 32> digits{};
  std::snprintf(digits.data(), digits.size(), "%.9g", number);
  return std::strtod(digits.data(), nullptr) == written ? number : written;
}

/// A loss whose gradients with respect to its inputs are given arrays: it seeds a backward pass.
template <unit_scaling::Precision P, std::size_t N> struct SeedGradients {
  static constexpr std::string_view name = "seed_gradients";
  static constexpr bool accepts(std::size_t arguments) { return arguments == N; }
  static constexpr unit_scaling::ops::OpTraits traits{.has_homogeneity = false,
                                                      .has_item_counts = false};

  std::array<unit_scaling::Array<typename P::storage>, N> gradients;

  template <class... Arrays> [[nodiscard]] unit_scaling::Scales<N> scales(const Arrays&...) const {
    return {};
  }
  template <class... Arrays>
  [[nodiscard]] auto forward(P, const unit_scaling::Scales<N>&, const Arrays&...) const {
    using Compute = typename P::compute;
    return unit_scaling::ops::Forward{
        unit_scaling::Array<Compute>::filled(unit_scaling::Shape{}, Compute{0}), std::tuple<>{}};
  }
  [[nodiscard]] auto backward(P, const unit_scaling::Scales<N>&, const std::tuple<>&,
                              const unit_scaling::Array<typename P::compute>&) const {
    return std::apply([](const auto&... each) { return std::tuple{each...}; }, gradients);
  }
};

/// The constraint of this name; an empty one is none, as in the reference.
inline unit_scaling::Constraint named_constraint(const std::string& name) {
  return name.empty() || name == "None" ? unit_scaling::constraint::none
                                        : unit_scaling::constraint::by_name(name);
}

/// One case of an op in precision P: hands out its inputs and parameters, then compares. An input
/// or parameter of the case that was not asked for is a failure: the op would have ignored it.
template <unit_scaling::Precision P> class Run {
 public:
  using T = typename P::storage;
  using Variable = unit_scaling::Variable<P>;

  Run(const Json& one_case, Failures& failures) : case_(one_case), failures_(failures) {}

  [[nodiscard]] bool has_input(const std::string& name) const {
    return case_.at("inputs").contains(name);
  }

  /// A tensor of the case as a variable that gets a gradient.
  [[nodiscard]] Variable input(const std::string& name) {
    const auto variable = tape_.input(array(take("inputs", name)));
    variables_.emplace(name, variable);
    return variable;
  }

  /// A tensor of the case as integers.
  [[nodiscard]] unit_scaling::Array<std::int32_t> indices(const std::string& name) {
    const Tensor values = tensor(take("inputs", name));
    const std::vector<std::int32_t> integers(values.data.begin(), values.data.end());
    return {values.shape, std::span<const std::int32_t>(integers)};
  }

  /// Gives every parameter of a module the value that the case has for it. `rename(name)` is the
  /// name there of the parameter that is called `name` here. The module must stay in place.
  template <class Module, class Rename> void load(Module& module, const Rename& rename) {
    module.for_each_parameter([&](unit_scaling::Parameter& target) {
      const std::string name = "param:" + rename(target.name);
      const Tensor values = tensor(take("inputs", name));
      if (values.shape != target.value.shape()) {
        throw std::runtime_error("'" + name + "' has shape " + to_string(values.shape) +
                                 ", expected " + to_string(target.value.shape()));
      }
      std::transform(values.data.begin(), values.data.end(), target.value.mutable_data(),
                     [](double written) { return static_cast<float>(exact_input(written)); });
      parameters_.emplace(name, &target);
    });
  }

  /// Says that the peer itself took the root mean square of so many norms, one after another, in
  /// single precision. Each is off by a few of its roundings, 2e-6 of the root mean square, and
  /// what follows it is off with it; so of double no more can be asked, and never more than of
  /// single.
  void peer_rounds_to_single(std::size_t norms) {
    const double of_rms = std::min(2e-6 * static_cast<double>(norms),
                                   tolerance<unit_scaling::precision::fp32>.of_rms);
    tolerance_.of_rms = std::max(tolerance_.of_rms, of_rms);
  }

  [[nodiscard]] unit_scaling::Tape<P>& tape() { return tape_; }

  [[nodiscard]] std::string name() const { return name_of(case_); }

  /// Takes a probability of dropout, which must be 0: nobody's random numbers are another's.
  void expect_no_dropout(const std::string& parameter_name) {
    if (parameter(parameter_name, 0.0) != 0) {
      throw std::runtime_error(parameter_name + " is not 0: what is dropped cannot be compared");
    }
  }

  /// A parameter of the case, or `fallback` where it has none or null.
  template <class V> [[nodiscard]] V parameter(const std::string& name, const V& fallback) {
    if (!case_.at("params").contains(name)) return fallback;
    const Json& value = take("params", name);
    return value.is_null() ? fallback : value.template get<V>();
  }

  /// u-μP's rules under the constraint of the case: null or an empty name is none, an absent one is
  /// the default.
  [[nodiscard]] unit_scaling::Scaling scaling(
      const unit_scaling::Scaling& fallback = unit_scaling::scaling::umup) {
    if (!case_.at("params").contains("constraint")) return fallback;
    const Json& name = take("params", "constraint");
    return unit_scaling::scaling::umup.with(
        named_constraint(name.is_null() ? std::string() : name.template get<std::string>()));
  }

  /// Compares the outputs, seeds the backward pass with the gradients of the case and compares the
  /// gradients of its inputs.
  template <class... Outputs> void finish(const Outputs&... outputs) {
    const Json& expected = case_.at("outputs");
    const Json& seeds = case_.at("grad_outputs");
    if (expected.size() != sizeof...(outputs) || seeds.size() != sizeof...(outputs)) {
      throw std::runtime_error("the op has " + std::to_string(sizeof...(outputs)) + " outputs");
    }
    std::size_t i = 0;
    SeedGradients<P, sizeof...(outputs)> seed;
    const auto compare_output = [&](const auto& output) {
      compare("output " + std::to_string(i), expected[i], output.value());
      seed.gradients[i] = array(seeds[i]);
      ++i;
    };
    (compare_output(outputs), ...);
    tape_.backward(tape_.record(seed, outputs...));
    for (const auto& [name, gradient] : case_.at("grads").items()) {
      if (const auto parameter = parameters_.find(name); parameter != parameters_.end()) {
        compare("gradient of " + name, gradient, tape_.gradient(*parameter->second));
        continue;
      }
      const auto variable = variables_.find(name);
      if (variable == variables_.end()) {
        throw std::runtime_error("the op has no input '" + name + "' to compare the gradient of");
      }
      compare("gradient of " + name, gradient, tape_.gradient(variable->second));
    }
    require_all_taken();
  }

 private:
  const Json& take(const char* group, const std::string& name) {
    const Json& values = case_.at(group);
    if (!values.contains(name)) throw std::runtime_error("the case has no '" + name + "'");
    taken_.insert(name);
    return values.at(name);
  }

  void require_all_taken() const {
    require_known(case_, {"params", "inputs", "grad_outputs", "outputs", "grads"});
    for (const char* group : {"inputs", "params"}) {
      for (const auto& entry : case_.at(group).items()) {
        if (!taken_.contains(entry.key())) {
          throw std::runtime_error(std::string("'") + entry.key() + "' among the " + group +
                                   " is not known");
        }
      }
    }
  }

  static unit_scaling::Array<T> array(const Json& json) {
    const Tensor values = tensor(json);
    std::vector<T> elements;
    for (const double written : values.data) {
      elements.push_back(static_cast<T>(exact_input(written)));
    }
    return {values.shape, std::span<const T>(elements)};
  }

  void compare(const std::string& what, const Json& expected,
               const unit_scaling::Array<T>& actual) {
    const std::string text =
        difference(tensor(expected), actual.shape(), actual.span(), tolerance_);
    if (!text.empty()) failures_.push_back(std::string(P::name) + ", " + what + ": " + text);
  }

  const Json& case_;
  Failures& failures_;
  Tolerance tolerance_ = tolerance<P>;
  unit_scaling::Tape<P> tape_;
  std::map<std::string, Variable> variables_;
  std::map<std::string, const unit_scaling::Parameter*> parameters_;
  std::set<std::string> taken_;
};

/// Makes the runner of an op's cases known; `body` takes a Run of either precision by reference.
struct RegisterOp {
  template <class Body> RegisterOp(const char* op, const Body& body) {
    runners().emplace(op, [body](const Json& one_case) {
      Failures failures;
      Run<unit_scaling::precision::fp32> single_run(one_case, failures);
      body(single_run);
      Run<unit_scaling::precision::fp64> double_run(one_case, failures);
      body(double_run);
      return failures;
    });
  }
};

/// A normalisation along the extents that the case names as `normalized_shape`, by default the
/// last: `norm` gets the input with these flattened into one, and `flat(gain)` is a gain or bias
/// so.
template <class Run, class Norm> auto normalise(Run& run, const Norm& norm) {
  using unit_scaling::Shape;
  const auto input = run.input("input");
  const Shape& shape = input.shape();
  const auto named = run.parameter("normalized_shape", std::vector<std::size_t>{shape.columns()});
  const std::size_t size = Shape(std::span<const std::size_t>(named)).size();
  const auto flat = [=](const auto& gain) {
    return gain.shape().rank() == 1 ? gain : unit_scaling::ops::reshape(gain, {.shape = {size}});
  };
  if (named.size() == 1) return norm(input, flat);
  const auto rows = unit_scaling::ops::reshape(input, {.shape = {shape.size() / size, size}});
  return unit_scaling::ops::reshape(norm(rows, flat), {.shape = shape});
}

/// The reduction of a loss by its name in the vectors.
inline unit_scaling::ops::Reduction reduction(const std::string& name) {
  using unit_scaling::ops::Reduction;
  if (name == "mean") return Reduction::mean;
  if (name == "sum") return Reduction::sum;
  throw std::runtime_error("reduction '" + name + "' is not known");
}

}  // namespace peer_vectors
