// SPDX-License-Identifier: MIT
/// @file
/// Layer train: weights of an ordinary model as those of a unit-scaled one, and back.
///
/// Training does not need it, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/op_record.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/homogeneity.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

/// Linear equations over numbered unknowns, taken in one by one.
class Equations {
 public:
  using Terms = std::map<std::size_t, double>;

  /// Takes in constant + Σ coefficient · unknown = 0, unless what is known already says otherwise.
  /// @returns how much the left side is off by: 0 if the equation holds from now on.
  double add(const Terms& terms, double constant) {
    Row left{.constant = constant};
    for (const auto& [unknown, coefficient] : terms) {
      const auto found = solved_.find(unknown);
      if (found == solved_.end()) {
        accumulate(left.terms, unknown, coefficient);
      } else {
        accumulate(left, found->second, coefficient);
      }
    }
    if (left.terms.empty()) return std::abs(left.constant) < tolerance ? 0 : left.constant;
    const auto pivot = std::max_element(
        left.terms.begin(), left.terms.end(),
        [](const auto& a, const auto& b) { return std::abs(a.second) < std::abs(b.second); });
    const auto [unknown, coefficient] = *pivot;
    left.terms.erase(pivot);
    Row solution;
    accumulate(solution, left, -1 / coefficient);
    for (auto& [other, row] : solved_) {
      const auto found = row.terms.find(unknown);
      if (found == row.terms.end()) continue;
      const double weight = found->second;
      row.terms.erase(found);
      accumulate(row, solution, weight);
    }
    solved_.emplace(unknown, std::move(solution));
    return 0;
  }

  /// What the equations make the unknown; they must have left it no choice.
  [[nodiscard]] double operator[](std::size_t unknown) const {
    return solved_.at(unknown).constant;
  }

 private:
  static constexpr double tolerance = 1e-9;

  /// constant + Σ coefficient · unknown.
  struct Row {
    Terms terms = {};
    double constant = 0;
  };

  static void accumulate(Terms& sum, std::size_t unknown, double coefficient) {
    double& entry = sum[unknown];
    entry += coefficient;
    if (std::abs(entry) < tolerance) sum.erase(unknown);
  }
  static void accumulate(Row& sum, const Row& row, double weight) {
    for (const auto& [unknown, coefficient] : row.terms) {
      accumulate(sum.terms, unknown, weight * coefficient);
    }
    sum.constant += weight * row.constant;
  }

  std::map<std::size_t, Row> solved_;  ///< in terms of unknowns that are not solved
};

/// Ops of two models, one beside the other: the same but for their factors.
class FoldedOps {
 public:
  FoldedOps(std::span<const OpRecord> plain, std::span<const OpRecord> unit)
      : plain_(plain), unit_(unit) {
    if (plain.size() != unit.size()) {
      refuse("two models of the same ops, got " + std::to_string(plain.size()) + " and " +
             std::to_string(unit.size()) + " of them");
    }
    for (std::size_t k = 0; k < plain.size(); ++k) match(k);
  }

  /// "op 3, gelu of blocks.0.feed_forward", for people.
  [[nodiscard]] std::string text(std::size_t k) const {
    const OpRecord& op = plain_[k];
    return "op " + std::to_string(k) + ", " + op.name +
           (op.module.empty() ? "" : " of " + op.module);
  }

  /// Numbers of the values, as in the plain model, that no op makes and that are no parameters.
  [[nodiscard]] const std::set<std::size_t>& inputs() const& { return inputs_; }
  [[nodiscard]] std::set<std::size_t> inputs() const&& { return inputs_; }
  /// Numbers of the values that no op reads, or that are returned, with the op that makes them.
  [[nodiscard]] const std::map<std::size_t, std::size_t>& outputs() const& { return outputs_; }
  [[nodiscard]] std::map<std::size_t, std::size_t> outputs() const&& { return outputs_; }
  [[nodiscard]] const std::map<std::string, std::size_t>& parameters() const& {
    return value_of_parameter_;
  }
  [[nodiscard]] std::map<std::string, std::size_t> parameters() const&& {
    return value_of_parameter_;
  }

  /// Counts a value of both models among the outputs, by their numbers for it, though an op may
  /// read it.
  void add_output(std::size_t plain, std::size_t unit) {
    const auto in_unit = unit_value_.find(plain);
    const bool is_known = in_unit != unit_value_.end();
    if (is_known ? in_unit->second != unit : plain_value_.contains(unit)) {
      refuse("two models that return the same of their values");
    }
    const auto maker = made_.find(plain);
    if (maker != made_.end()) outputs_.emplace(*maker);
  }

  /// The log2 of how much larger the monomial's coefficient is in the unit-scaled model.
  [[nodiscard]] double coefficient_ratio(std::size_t k, const Monomial& plain,
                                         const Monomial& unit) const {
    if (plain.powers != unit.powers || plain.powers.size() != plain_[k].inputs.size()) {
      refuse_op(k, "ops of the same attributes");
    }
    if (plain.coefficient == unit.coefficient) return 0;
    const double ratio = std::log2(unit.coefficient / plain.coefficient);
    if (!std::isfinite(ratio)) {
      refuse_op(k, "factors above 0, got " + std::to_string(plain.coefficient) + " and " +
                       std::to_string(unit.coefficient));
    }
    return ratio;
  }

  /// The powers of the op's inputs, by their values' numbers.
  [[nodiscard]] Equations::Terms terms(std::size_t k, const Monomial& monomial) const {
    Equations::Terms result;
    for (std::size_t i = 0; i < monomial.powers.size(); ++i) {
      result[plain_[k].inputs[i].value] += monomial.powers[i];
    }
    return result;
  }

  [[noreturn]] static void refuse(const std::string& expected) {
    throw std::invalid_argument("fold_weights: expected " + expected);
  }
  [[noreturn]] void refuse_op(std::size_t k, const std::string& expected) const {
    refuse(expected + ", at " + text(k));
  }

 private:
  void match(std::size_t k) {
    const OpRecord& plain = plain_[k];
    const OpRecord& unit = unit_[k];
    const auto same_size = [](const auto& a, const auto& b) { return a.size() == b.size(); };
    if (plain.name != unit.name || !same_size(plain.inputs, unit.inputs) ||
        !same_size(plain.outputs, unit.outputs)) {
      refuse_op(k, "two models of the same ops, got " + unit.name + " in one of them");
    }
    if (!same_size(plain.homogeneity.fixed, unit.homogeneity.fixed) ||
        !same_size(plain.homogeneity.nearly_fixed, unit.homogeneity.nearly_fixed)) {
      refuse_op(k, "ops of the same attributes");
    }
    for (std::size_t i = 0; i < plain.inputs.size(); ++i) {
      match(k, plain.inputs[i], unit.inputs[i]);
      const OpRecord::Input& input = plain.inputs[i];
      outputs_.erase(input.value);
      if (input.parameter != nullptr) {
        const auto [entry, is_new] =
            value_of_parameter_.try_emplace(input.parameter->name, input.value);
        if (!is_new && entry->second != input.value) {
          refuse("parameters with names of their own, got two called " + entry->first);
        }
      } else if (!made_.contains(input.value)) {
        inputs_.insert(input.value);
      }
    }
    for (std::size_t i = 0; i < plain.outputs.size(); ++i) {
      match(k, plain.outputs[i], unit.outputs[i]);
      made_[plain.outputs[i].value] = k;
      outputs_[plain.outputs[i].value] = k;
    }
  }

  /// One value in both models.
  template <class Value> void match(std::size_t k, const Value& plain, const Value& unit) {
    if (plain.shape != unit.shape) {
      refuse_op(k, "two models of the same sizes, got " + to_string(plain.shape) + " and " +
                       to_string(unit.shape));
    }
    if constexpr (requires { plain.parameter; }) {
      const auto name = [](const Value& value) {
        return value.parameter == nullptr ? std::string() : value.parameter->name;
      };
      if (name(plain) != name(unit)) {
        refuse_op(
            k, "parameters of the same names, got '" + name(plain) + "' and '" + name(unit) + "'");
      }
    }
    const auto in_unit = unit_value_.try_emplace(plain.value, unit.value).first;
    const auto in_plain = plain_value_.try_emplace(unit.value, plain.value).first;
    if (in_unit->second != unit.value || in_plain->second != plain.value) {
      refuse_op(k, "two models whose ops read the same values");
    }
  }

  std::span<const OpRecord> plain_;
  std::span<const OpRecord> unit_;
  std::map<std::size_t, std::size_t> unit_value_;   ///< by the plain model's number for it
  std::map<std::size_t, std::size_t> plain_value_;  ///< by the unit-scaled model's
  std::map<std::size_t, std::size_t> made_;         ///< values of ops, with the op
  std::set<std::size_t> inputs_;
  std::map<std::size_t, std::size_t> outputs_;
  std::map<std::string, std::size_t> value_of_parameter_;
};

/// The array times `factor`, each element rounded once.
[[nodiscard]] inline Array<float> times(const std::string& name, const Array<float>& array,
                                        double factor) {
  const DefaultArithmetic arithmetic;
  Array<float> result(array.shape());
  float* target = result.mutable_data();
  for (std::size_t i = 0; i < array.size(); ++i) {
    const auto value = static_cast<double>(array.data()[i]);
    target[i] = static_cast<float>(value * factor);
    if (std::isfinite(value) && !std::isfinite(target[i])) {
      throw std::invalid_argument("WeightFolding: " + name + " times " + std::to_string(factor) +
                                  " leaves the range of a float");
    }
  }
  return result;
}

}  // namespace detail

/// How weights of an ordinary model and of a unit-scaled one of the same code belong together. Made
/// by `fold_weights`.
struct WeightFolding {
  /// The plain weight over the unit-scaled one, by the parameter's name.
  std::map<std::string, double> factors;

  /// A normalisation that sees another scale of its input in the two models, so that ε weighs more
  /// in one of them.
  struct Normalisation {
    std::string op;  ///< such as "op 7, layer_norm of blocks.1.mixing.norm"
    /// The unit-scaled model's input over the plain one's, each over its √ε. With ε / ratio² in the
    /// plain model both would agree but for rounding. As it is, outputs differ by a relative ε
    /// |ratio⁻² − 1| / (2 v) where v is the variance (of an rms_norm, the mean square) of the plain
    /// model's input.
    double ratio;
  };
  std::vector<Normalisation> normalisations = {};

  /// @throws std::invalid_argument if the forward pass that was folded reads no such parameter.
  [[nodiscard]] double factor(const std::string& parameter) const {
    const auto found = factors.find(parameter);
    if (found != factors.end()) return found->second;
    throw std::invalid_argument("WeightFolding: expected a parameter of the forward pass, got '" +
                                parameter + "'");
  }

  /// The plain weight of a parameter of the unit-scaled model: each element is rounded once.
  /// @throws std::invalid_argument as `factor`, and if a number leaves the range of a float.
  [[nodiscard]] Array<float> plain_weight(const Parameter& unit) const {
    return detail::times(unit.name, unit.floats(), factor(unit.name));
  }
  /// The unit-scaled weight of a parameter of the plain model: each element is rounded once.
  /// @throws std::invalid_argument as `plain_weight`.
  [[nodiscard]] Array<float> unit_weight(const Parameter& plain) const {
    return detail::times(plain.name, plain.floats(), 1 / factor(plain.name));
  }
};

namespace detail {

/// `fold_weights` of ops that are matched already.
[[nodiscard]] inline WeightFolding fold_matched(const FoldedOps& ops,
                                                std::span<const OpRecord> plain,
                                                std::span<const OpRecord> unit) {
  Equations log_ratio;
  const auto factor_text = [](double log2) { return std::to_string(std::exp2(log2)); };
  for (const std::size_t input : ops.inputs()) (void)log_ratio.add({{input, 1}}, 0);
  for (std::size_t k = 0; k < plain.size(); ++k) {
    const Homogeneity& in_plain = plain[k].homogeneity;
    const Homogeneity& in_unit = unit[k].homogeneity;
    for (std::size_t i = 0; i < in_plain.fixed.size(); ++i) {
      const double ratio = ops.coefficient_ratio(k, in_plain.fixed[i], in_unit.fixed[i]);
      const double off = log_ratio.add(ops.terms(k, in_plain.fixed[i]), ratio);
      if (off != 0) {
        ops.refuse_op(k, "a weight that can take up a factor of " + factor_text(off) +
                             " on what the op reads");
      }
    }
    for (const OpRecord::Output& output : plain[k].outputs) {
      Equations::Terms terms = ops.terms(k, in_plain.output);
      terms[output.value] = -1;
      (void)log_ratio.add(terms, ops.coefficient_ratio(k, in_plain.output, in_unit.output));
    }
  }
  for (const auto& [value, maker] : ops.outputs()) {
    if (const double off = log_ratio.add({{value, 1}}, 0); off != 0) {
      ops.refuse_op(maker, "a weight that can take up a factor of " + factor_text(off) +
                               " on what the model puts out");
    }
  }

  WeightFolding result;
  for (std::size_t k = 0; k < plain.size(); ++k) {
    for (std::size_t i = 0; i < plain[k].homogeneity.nearly_fixed.size(); ++i) {
      const Monomial& monomial = plain[k].homogeneity.nearly_fixed[i];
      const double ratio = ops.coefficient_ratio(k, monomial, unit[k].homogeneity.nearly_fixed[i]);
      const double off = log_ratio.add(ops.terms(k, monomial), ratio);
      if (off != 0) result.normalisations.push_back({ops.text(k), std::exp2(off)});
    }
  }
  for (const OpRecord& op : plain) {
    for (const OpRecord::Output& output : op.outputs) (void)log_ratio.add({{output.value, 1}}, 0);
  }
  for (const auto& [name, value] : ops.parameters()) {
    (void)log_ratio.add({{value, 1}}, 0);
    // Powers of two change no bit of a weight: they should not be off by a rounding.
    const double exponent = -log_ratio[value];
    const double whole = std::round(exponent);
    result.factors[name] = std::exp2(std::abs(exponent - whole) < 1e-9 ? whole : exponent);
  }
  return result;
}

}  // namespace detail

/// Finds, for each parameter, the factor by which the weight of a plain model and that of a
/// unit-scaled one must differ for both to compute the same.
///
/// Let t be how much larger a value is in the unit-scaled model. What is fed in has t = 1, each op
/// says what it makes of the t of its inputs (`Homogeneity`), each value that no op reads must have
/// t = 1: linear equations in log t, one unknown for each value and each parameter, whose solution
/// gives plain weight = unit weight / t. Where they leave a choice, inputs of normalisations have
/// t = 1, so that ε means the same, and then other values, in the order in which they are made.
///
/// @param plain, unit the ops of one forward pass of each, as a tape's tracer has them: the same
///        ops on the same shapes, of parameters of the same names.
/// @throws std::invalid_argument if the models differ in more than factors; if no factors on the
///         weights make an op, which its text names, compute the same in both.
[[nodiscard]] inline WeightFolding fold_weights(std::span<const OpRecord> plain,
                                                std::span<const OpRecord> unit) {
  return detail::fold_matched(detail::FoldedOps(plain, unit), plain, unit);
}

namespace detail {

/// The ops of one forward pass, and the numbers of the values that it returns.
struct ForwardPass {
  std::vector<OpRecord> ops = {};
  std::vector<std::size_t> returned = {};

  template <class Returned> void add_returned(const Returned& value) {
    if constexpr (is_variable<Returned>) {
      returned.push_back(value.number());
    } else if constexpr (requires { std::tuple_size<Returned>::value; }) {
      std::apply([&](const auto&... each) { (add_returned(each), ...); }, value);
    }
  }
};

template <Precision P, class Model, class Forward>
[[nodiscard]] ForwardPass forward_pass(const Model& model, const Forward& forward) {
  ForwardPass pass;
  Tape<P> tape(TapeMode::inference);
  tape.trace_with([&](const OpRecord& op) { pass.ops.push_back(op); });
  if constexpr (std::is_void_v<decltype(forward(model, tape))>) {
    forward(model, tape);
  } else {
    pass.add_returned(forward(model, tape));
  }
  return pass;
}

/// Calls `visit` with each parameter of a model, once.
/// @throws std::invalid_argument if two have one name.
template <class Model, class Visit> void visit_parameters(Model& model, const Visit& visit) {
  std::map<std::string, const Parameter*> seen;
  model.for_each_parameter([&](Parameter& each) {
    const auto [entry, is_new] = seen.try_emplace(each.name, &each);
    if (is_new) return visit(each);
    if (entry->second == &each) return;
    throw std::invalid_argument(
        "WeightFolding: expected parameters with names of their own, got two called '" + each.name +
        "'");
  });
}

/// Gives each parameter of `to` what `weight_of` makes of the one of the same name in `from`.
template <class From, class To, class WeightOf>
void copy_weights(From& from, To& to, const WeightOf& weight_of) {
  std::map<std::string, Array<float>> weights;
  visit_parameters(from, [&](const Parameter& each) { weights[each.name] = weight_of(each); });
  visit_parameters(to, [&](const Parameter& each) {
    const auto found = weights.find(each.name);
    if (found == weights.end()) {
      throw std::invalid_argument("WeightFolding: expected a parameter called " + each.name +
                                  " in both models");
    }
    require_same_shape("WeightFolding", each.name, each.shape(), found->second.shape());
  });
  to.for_each_parameter([&](Parameter& each) { each.set_floats(weights.at(each.name)); });
}

}  // namespace detail

/// As above, of two models of the same code.
///
///     nn::Initialiser plain_parameters(1, scaling::none), unit_parameters(1, scaling::umup);
///     nn::BertMlp plain(plain_parameters, config), unit(unit_parameters, config);
///     const auto forward = [&](const auto& model, auto& tape) { return model(tape, ids, at); };
///     const WeightFolding folding = fold_weights(plain, unit, forward);
///
/// A variable that `forward` returns, or each of a tuple or array of them, has t = 1 as well, even
/// if an op reads it. Weights do not matter, but sizes do: α of attention and of softmax depends on
/// the number of keys, so a folding is for the sequence length of this forward pass. Attributes
/// that are no factors, such as whether attention is causal, are not compared: `forward_distance`
/// shows whether outputs agree.
/// @param forward called with each model and a tape for inference, records the forward pass.
/// @throws std::invalid_argument as above, and if the models return other values.
template <Precision P = precision::fp32, class Plain, class Unit, class Forward>
[[nodiscard]] WeightFolding fold_weights(const Plain& plain, const Unit& unit,
                                         const Forward& forward) {
  const detail::ForwardPass in_plain = detail::forward_pass<P>(plain, forward);
  const detail::ForwardPass in_unit = detail::forward_pass<P>(unit, forward);
  detail::FoldedOps ops(in_plain.ops, in_unit.ops);
  if (in_plain.returned.size() != in_unit.returned.size()) {
    ops.refuse("two models that return as many values");
  }
  for (std::size_t i = 0; i < in_plain.returned.size(); ++i) {
    ops.add_output(in_plain.returned[i], in_unit.returned[i]);
  }
  return detail::fold_matched(ops, in_plain.ops, in_unit.ops);
}

/// The folding of a model that is plain itself, one of `scaling::none`: all factors are 1. With it,
/// a unit-scaled model takes the weights as well, but computes another function with them.
/// @throws std::invalid_argument if two parameters have one name.
template <class Model> [[nodiscard]] WeightFolding identity_folding(Model& model) {
  WeightFolding result;
  detail::visit_parameters(model, [&](const Parameter& each) { result.factors[each.name] = 1; });
  return result;
}

/// Gives each parameter of the unit-scaled model the weight that it has in the plain one.
/// @throws std::invalid_argument as `WeightFolding::unit_weight`, and if the plain model has no
///         parameter of a name, or either has two; ShapeError if one has another shape. Nothing is
///         changed then.
template <class Plain, class Unit>
void plain_to_unit(Plain& plain, Unit& unit, const WeightFolding& folding) {
  detail::copy_weights(plain, unit,
                       [&](const Parameter& each) { return folding.unit_weight(each); });
}

/// Gives each parameter of the plain model the weight that it has in the unit-scaled one.
/// @throws as `plain_to_unit`.
template <class Unit, class Plain>
void unit_to_plain(Unit& unit, Plain& plain, const WeightFolding& folding) {
  detail::copy_weights(unit, plain,
                       [&](const Parameter& each) { return folding.plain_weight(each); });
}

/// The largest distance between the outputs of two models, over the root mean square of the first
/// one's; infinite if either has a number that is not finite.
/// @param forward called with each model and a tape for inference, returns one output.
/// @throws ShapeError if the outputs differ in shape.
template <Precision P = precision::fp64, class First, class Second, class Forward>
[[nodiscard]] double forward_distance(const First& first, const Second& second,
                                      const Forward& forward) {
  Tape<P> tape(TapeMode::inference);
  Tape<P> other_tape(TapeMode::inference);
  const auto y = forward(first, tape);
  const auto other = forward(second, other_tape);
  require_same_shape("forward_distance", "both outputs", y.shape(), other.shape());
  double squares = 0;
  double distance = 0;
  for (std::size_t i = 0; i < y.value().size(); ++i) {
    const auto a = static_cast<double>(y.value().data()[i]);
    const auto b = static_cast<double>(other.value().data()[i]);
    if (!std::isfinite(a) || !std::isfinite(b)) return std::numeric_limits<double>::infinity();
    squares += a * a;
    distance = std::max(distance, std::abs(a - b));
  }
  if (distance == 0) return 0;
  return distance / std::sqrt(squares / static_cast<double>(y.value().size()));
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
