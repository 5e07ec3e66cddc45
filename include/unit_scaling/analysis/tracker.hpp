// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: what happens to every tensor of a training run, over time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/tensor_statistics.hpp"
#include "unit_scaling/autograd/observation.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// What a tracker looks at.
struct TrackerOptions {
  /// Looks at the steps whose number (Tape::step) it divides.
  std::uint64_t every = 1;
  /// Keeps the parameters of such a step until `record_updates`: as much memory as they take.
  bool updates = true;
};

/// A tensor at one step.
struct TrackedSample {
  std::uint64_t step = 0;
  TensorStatistics statistics = {};
  /// Of the update of a parameter: its RMS over that of the parameter. None for other tensors, and
  /// where the parameter's RMS is 0.
  std::optional<double> update_ratio = std::nullopt;
};

/// What a tracked tensor is.
enum class TrackedRole {
  value,               ///< an output of an op
  operand,             ///< an input of an op with matrix products, before it is rounded for them
  gradient,            ///< with respect to an output
  parameter,           ///< as the forward pass reads it
  parameter_gradient,  ///< at the end of the backward pass
  update,              ///< what the optimiser added to a parameter
};

/// "value", "operand", "gradient", "parameter", "parameter_gradient" or "update".
[[nodiscard]] constexpr std::string_view to_string(TrackedRole role) {
  switch (role) {
    case TrackedRole::value:
      return "value";
    case TrackedRole::operand:
      return "operand";
    case TrackedRole::gradient:
      return "gradient";
    case TrackedRole::parameter:
      return "parameter";
    case TrackedRole::parameter_gradient:
      return "parameter_gradient";
    case TrackedRole::update:
      break;
  }
  return "update";
}

/// A tensor that comes again in every step, and what it looked like.
struct TrackedTensor {
  /// Path of the module and op, "blocks.0.feed_forward.up/linear", with the output's number in
  /// brackets if the op has several; or the parameter. In front: "gradient of ", "operand 0 of ",
  /// "update of ". Tensors of one op called twice in a module differ by `index` alone.
  std::string name;
  std::string source;  ///< the op, or the parameter
  std::string module;  ///< path of the module that the op belongs to
  TrackedRole role = TrackedRole::value;
  std::size_t index = 0;     ///< the op's number on the tape; for a parameter, its number
  std::size_t argument = 0;  ///< which output of the op or, for an operand, which input
  /// The format that the counts refer to. Values, gradients between ops and parameters are in it
  /// already; operands and the gradients that enter matrix products are rounded to it later. Of
  /// numbers in "float64" an observer sees what binary32 makes of them, and so do the counts.
  std::string format;
  Shape shape;  ///< when first seen
  std::vector<TrackedSample> samples;
};

/// A tensor that has a NaN or an infinity.
struct NonFiniteTensor {
  std::uint64_t step = 0;
  std::string name;  ///< as in TrackedTensor
};

/// Measures every value, matrix operand, gradient and parameter that passes over a tape, and every
/// update of a parameter, in each n-th step:
///
///     analysis::Tracker tracker({.every = 10});
///     tracker.attach(tape);
///     for (...) {
///       tape.clear();
///       tape.backward(model.loss(tape, batch));
///       optimiser.step(tape, rate);
///       tracker.record_updates(optim::parameters_of(model));
///     }
///     write_file("run.csv", analysis::to_csv(tracker));
///
/// It changes no bit of what is computed. Besides what it records it keeps one copy of the
/// parameters, if asked to track updates.
class Tracker {
 public:
  Tracker() : Tracker(TrackerOptions{}) {}
  /// @throws std::invalid_argument if `every` is 0.
  explicit Tracker(const TrackerOptions& options) : options_(options) {
    if (options.every == 0) {
      throw std::invalid_argument("Tracker: expected every to be at least 1, got 0");
    }
  }
  Tracker(const Tracker&) = delete;
  Tracker& operator=(const Tracker&) = delete;

  /// Observes the tape from its next step on, in place of any other observer, until it is given
  /// another one or none. One tape at a time; tracker and tape must both stay in place meanwhile.
  /// @param tape a `Tape`, or what hands its `step` and `observe_with` on.
  template <class AnyTape> void attach(AnyTape& tape) {
    current_step_ = [&tape] { return tape.step(); };
    tape.observe_with([this, &tape](const Observation& seen) { record(seen, tape.step()); },
                      options_.every);
  }

  /// Measures what the optimiser's step did to the parameters: their values less those that the
  /// forward pass of the tape's present step read. To be called after every optimiser step, before
  /// `Tape::clear`; it does nothing if the step is not looked at. Parameters that the step did not
  /// use are passed over.
  /// @throws std::invalid_argument if two parameters have one name, if a parameter is null or has
  ///         another shape than before, or if it is called twice in a step.
  void record_updates(std::span<Parameter* const> parameters) {
    if (!current_step_ || !options_.updates) return;
    const std::uint64_t step = current_step_();
    for (const Parameter* parameter : parameters) {
      if (parameter == nullptr) {
        throw std::invalid_argument("Tracker: expected parameters, got a null pointer");
      }
      const auto found = before_.find(parameter->name);
      if (found != before_.end() && found->second.step == step) record_update(*parameter, step);
    }
  }

  /// All tensors in the order in which they were first seen: as the forward pass goes, then the
  /// backward pass, then the gradients of parameters, then updates.
  [[nodiscard]] const std::vector<TrackedTensor>& tensors() const& { return tensors_; }
  [[nodiscard]] std::vector<TrackedTensor> tensors() const&& { return tensors_; }

  /// The first tensor with a NaN or an infinity, in the order of computation, among those looked
  /// at; none if all were finite.
  [[nodiscard]] std::optional<NonFiniteTensor> first_non_finite() const {
    if (!first_non_finite_) return std::nullopt;
    return NonFiniteTensor{first_non_finite_->first, tensors_[first_non_finite_->second].name};
  }

  [[nodiscard]] const TrackerOptions& options() const& { return options_; }
  [[nodiscard]] TrackerOptions options() const&& { return options_; }

 private:
  /// A tensor's identity from step to step.
  struct Key {
    TrackedRole role;
    std::string_view source;
    std::string_view module;
    std::size_t index;
    std::size_t argument;
    std::string_view format;

    [[nodiscard]] bool names(const TrackedTensor& tensor) const {
      return tensor.role == role && tensor.index == index && tensor.argument == argument &&
             tensor.source == source && tensor.module == module && tensor.format == format;
    }
  };

  /// A parameter as the forward pass of a step read it.
  struct ParameterBefore {
    std::uint64_t step = 0;
    std::size_t index = 0;
    bool is_ambiguous = false;  ///< another parameter of the step has this name
    double rms = 0;
    std::vector<float> elements;
  };

  static TrackedRole tracked(TensorRole role) {
    switch (role) {
      case TensorRole::value:
        return TrackedRole::value;
      case TensorRole::operand:
        return TrackedRole::operand;
      case TensorRole::gradient:
        return TrackedRole::gradient;
      case TensorRole::parameter:
        return TrackedRole::parameter;
      case TensorRole::parameter_gradient:
        break;
    }
    return TrackedRole::parameter_gradient;
  }

  void record(const Observation& seen, std::uint64_t step) {
    const Key key{tracked(seen.role), seen.name,     seen.module,
                  seen.index,         seen.argument, seen.format};
    const TrackedSample& sample = add_sample(key, seen.shape, seen.elements, step);
    if (options_.updates && seen.role == TensorRole::parameter) {
      keep(seen, step, sample.statistics.rms);
    }
  }

  void keep(const Observation& seen, std::uint64_t step, double rms) {
    auto entry = before_.find(seen.name);
    if (entry == before_.end()) entry = before_.emplace(seen.name, ParameterBefore{}).first;
    ParameterBefore& before = entry->second;
    before.is_ambiguous =
        !before.elements.empty() && before.step == step && before.index != seen.index;
    before.step = step;
    before.index = seen.index;
    before.rms = rms;
    before.elements.assign(seen.elements.begin(), seen.elements.end());
  }

  void record_update(const Parameter& parameter, std::uint64_t step) {
    const auto refuse = [&](const std::string& why) {
      throw std::invalid_argument("Tracker: parameter '" + parameter.name + "', " + why);
    };
    const ParameterBefore& before = before_.find(parameter.name)->second;
    if (before.is_ambiguous) refuse("expected no other of that name");
    const Array<float> numbers = parameter.floats();
    if (before.elements.size() != numbers.size()) {
      refuse("expected " + std::to_string(before.elements.size()) +
             " elements as in the forward pass, got shape " +
             unit_scaling::to_string(numbers.shape()));
    }
    update_.resize(before.elements.size());
    const float* after = numbers.data();
    for (std::size_t i = 0; i < update_.size(); ++i) update_[i] = after[i] - before.elements[i];
    const Key key{TrackedRole::update, parameter.name, {}, before.index, 0, storage_name<float>};
    const TrackedTensor* known = find(key);
    if (known != nullptr && !known->samples.empty() && known->samples.back().step == step) {
      refuse("expected one update in step " + std::to_string(step) + ", got two");
    }
    TrackedSample& sample = add_sample(key, numbers.shape(), update_, step);
    if (before.rms > 0) sample.update_ratio = sample.statistics.rms / before.rms;
  }

  TrackedSample& add_sample(const Key& key, const Shape& shape, std::span<const float> elements,
                            std::uint64_t step) {
    TrackedTensor* tensor = find(key);
    if (tensor == nullptr) tensor = &add_tensor(key, shape);
    const auto position = static_cast<std::size_t>(tensor - tensors_.data());
    next_ = position + 1;
    TrackedSample& sample = tensor->samples.emplace_back(
        TrackedSample{step, tensor_statistics(elements, thresholds_[position]), std::nullopt});
    if (!first_non_finite_ && sample.statistics.histogram.non_finite > 0) {
      first_non_finite_ = {step, position};
    }
    return sample;
  }

  /// Tensors come in the same order in every step, so the next one is most often the right one.
  TrackedTensor* find(const Key& key) {
    const auto names = [&](const TrackedTensor& tensor) { return key.names(tensor); };
    if (next_ < tensors_.size() && names(tensors_[next_])) return &tensors_[next_];
    const auto found = std::find_if(tensors_.begin(), tensors_.end(), names);
    return found == tensors_.end() ? nullptr : &*found;
  }

  TrackedTensor& add_tensor(const Key& key, const Shape& shape) {
    // Only the second output shows that there are several.
    const bool is_output = key.role == TrackedRole::value || key.role == TrackedRole::gradient;
    if (is_output && key.argument > 0) {
      for (TrackedTensor& other : tensors_) {
        Key first = key;
        first.argument = 0;
        first.format = other.format;
        if (first.names(other)) other.name = name_of(first) + "[0]";
      }
    }
    const bool is_double = key.format == storage_name<double>;
    thresholds_.emplace_back(Format::parse(is_double ? storage_name<float> : key.format));
    return tensors_.emplace_back(TrackedTensor{
        .name = name_of(key) +
                (is_output && key.argument > 0 ? "[" + std::to_string(key.argument) + "]" : ""),
        .source = std::string(key.source),
        .module = std::string(key.module),
        .role = key.role,
        .index = key.index,
        .argument = key.argument,
        .format = std::string(key.format),
        .shape = shape,
        .samples = {}});
  }

  static std::string name_of(const Key& key) {
    std::string name;
    if (key.role == TrackedRole::gradient || key.role == TrackedRole::parameter_gradient) {
      name = "gradient of ";
    } else if (key.role == TrackedRole::operand) {
      name = "operand " + std::to_string(key.argument) + " of ";
    } else if (key.role == TrackedRole::update) {
      name = "update of ";
    }
    if (!key.module.empty()) name += std::string(key.module) + "/";
    return name + std::string(key.source);
  }

  TrackerOptions options_;
  std::function<std::uint64_t()> current_step_;
  std::vector<TrackedTensor> tensors_;
  std::vector<RoundingThresholds> thresholds_;  ///< of the tensors
  std::size_t next_ = 0;                        ///< which tensor is expected next
  std::optional<std::pair<std::uint64_t, std::size_t>> first_non_finite_;
  std::map<std::string, ParameterBefore, std::less<>> before_;
  std::vector<float> update_;
};

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
