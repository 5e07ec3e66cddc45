// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: shows the tensors of whole steps to whoever observes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/observation.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/kernels/map.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Shows tensors of a step under policy P to an observer, decoded, if the step is to be observed,
/// and keeps the names of parameters, which the backward pass needs.
template <Precision P> class StepObserver {
 public:
  using Observer = std::function<void(const Observation&)>;

  /// Shows what follows to `observer`, or to nobody (`nullptr`), in steps that `every` divides.
  /// @throws std::invalid_argument if `every` is 0.
  void use(Observer observer, std::uint64_t every, std::uint64_t step);

  /// Says which step it is, which decides whether it is observed.
  void choose(std::uint64_t step) { is_observing_ = observer_ && step % every_ == 0; }

  /// Forgets what it has kept of the step.
  void clear() { parameter_names_.clear(); }

  /// Whether this step is observed. What follows is to be called only then.
  explicit operator bool() const { return is_observing_; }

  /// Completes `seen` with the array and shows it.
  template <class T> void show(Observation seen, const Array<T>& array) const {
    const auto elements = kernels::convert<float, Overflow::infinity_or_nan>(array);
    seen.shape = array.shape();
    seen.elements = elements.span();
    observer_(seen);
  }

  /// Shows a parameter, number `index` of the step, that is used for the first time in it.
  void show_parameter(const Parameter& parameter, std::size_t index);

  /// Number of parameters shown. Not all that the step has, if observing began after the step did.
  [[nodiscard]] std::size_t parameters() const { return parameter_names_.size(); }

  /// Shows the gradient of a parameter, by the name noted: it may have been moved since.
  /// @param index below `parameters()`.
  void show_parameter_gradient(std::size_t index, std::string_view format,
                               const Array<typename P::storage>& gradient) const;

 private:
  Observer observer_;
  std::uint64_t every_ = 1;
  bool is_observing_ = false;
  std::vector<std::string> parameter_names_;  ///< of this step, in the order of their use
};

// Apart from the class, so that it is not inline: compiled once for each policy, and not at all in
// a program that has it compiled elsewhere.

template <Precision P>
void StepObserver<P>::use(Observer observer, std::uint64_t every, std::uint64_t step) {
  if (every == 0) throw std::invalid_argument("observe_with: expected every to be at least 1");
  observer_ = std::move(observer);
  every_ = every;
  choose(step);
}

template <Precision P>
void StepObserver<P>::show_parameter(const Parameter& parameter, std::size_t index) {
  parameter_names_.push_back(parameter.name);
  show({.name = parameter.name,
        .index = index,
        .role = TensorRole::parameter,
        .format = storage_name<float>},
       parameter.value);
}

template <Precision P>
void StepObserver<P>::show_parameter_gradient(std::size_t index, std::string_view format,
                                              const Array<typename P::storage>& gradient) const {
  show({.name = parameter_names_[index],
        .index = index,
        .role = TensorRole::parameter_gradient,
        .format = format},
       gradient);
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
