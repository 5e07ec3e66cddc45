// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: which gradients a precision loses, against float on the same step.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "unit_scaling/autograd/observation.hpp"
#include "unit_scaling/autograd/simulator.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// Shares of the gradient elements of one step, over the gradient of every op's output as the op
/// consumes it (rounded to P::matmul_gradient, or to what is simulated, where it does) and of every
/// parameter.
struct GradientUnderflow {
  double underflowed = 0;  ///< zero here, though not in float
  double non_finite = 0;   ///< NaN or infinite here
};

namespace detail {

/// Counts what became of the gradients of a step, one after another.
class GradientCounts {
 public:
  /// @param nonzero for each gradient of the step in float, which elements are not zero.
  explicit GradientCounts(const std::vector<std::vector<bool>>& nonzero) : nonzero_(nonzero) {}

  /// The next gradient, which stands as it is unless `replace` comes before the one after it.
  /// @throws std::invalid_argument if the step in float has none of that size there.
  void add(const Observation& seen) {
    settle();
    if (next_ == nonzero_.size() || nonzero_[next_].size() != seen.elements.size()) {
      throw std::invalid_argument(
          "gradient_underflow: expected the same step under both precisions, got another gradient "
          "of " +
          std::string(seen.name));
    }
    last_.assign(seen.elements.begin(), seen.elements.end());
    is_open_ = true;
  }

  /// The last gradient as it was rounded before the op consumed it; nothing before the first. Of an
  /// op with several outputs only the last one's is counted as rounded.
  void replace(std::span<const float> rounded) {
    if (is_open_ && rounded.size() == last_.size()) {
      last_.assign(rounded.begin(), rounded.end());
    }
  }

  [[nodiscard]] std::span<float> last() & { return last_; }

  [[nodiscard]] GradientUnderflow shares() {
    settle();
    const auto share = [&](std::size_t count) {
      return total_ == 0 ? 0 : static_cast<double>(count) / static_cast<double>(total_);
    };
    return {share(lost_), share(non_finite_)};
  }

 private:
  void settle() {
    if (!is_open_) return;
    is_open_ = false;
    const std::vector<bool>& nonzero = nonzero_[next_++];
    for (std::size_t i = 0; i < nonzero.size(); ++i) {
      if (!std::isfinite(last_[i])) ++non_finite_;
      if (nonzero[i] && last_[i] == 0) ++lost_;
    }
    total_ += nonzero.size();
  }

  const std::vector<std::vector<bool>>& nonzero_;
  std::size_t next_ = 0;
  std::vector<float> last_;
  bool is_open_ = false;  ///< whether the last one is still to be counted
  std::size_t total_ = 0;
  std::size_t lost_ = 0;
  std::size_t non_finite_ = 0;
};

/// Rounds as another simulator does, and hands on what became of the gradients that enter products.
class CountedSimulator final : public Simulator {
 public:
  CountedSimulator(Simulator& simulator, GradientCounts& counts)
      : simulator_(&simulator), counts_(&counts) {}

  void begin_step() override { simulator_->begin_step(); }
  [[nodiscard]] SimulatedOp begin_op(std::string_view op, std::string_view module,
                                     bool has_products, std::uint32_t tensors) override {
    return simulator_->begin_op(op, module, has_products, tensors);
  }
  void round(const SimulatedFormat& format, Overflow overflow, std::uint64_t step,
             std::uint32_t tensor, std::span<const float> in, std::span<float> out) const override {
    simulator_->round(format, overflow, step, tensor, in, out);
    // In a backward pass only what enters products saturates, and it was observed just before.
    if (overflow == Overflow::saturate) counts_->replace(out);
  }
  void require_all_used() const override { simulator_->require_all_used(); }

 private:
  Simulator* simulator_;
  GradientCounts* counts_;
};

}  // namespace detail

/// Runs one step in float and one under P and compares their gradients element by element.
///
/// Unlike Tracker, which tells what each rounding loses of what is there, it tells what is gone
/// altogether: a gradient that underflowed on the way makes all zero that follows from it.
/// @param record `record(tape)` records the step on a tape of any precision, with the same
///        parameters and the same batch, and returns the loss.
/// @param loss_scale gradient of the loss, in both.
/// @param simulator rounds numbers of the step under P, and of that only; null: nothing does. It
///        begins a step of its own, so stochastic rounding draws as in the first step of a tape.
/// @throws std::invalid_argument if the two steps have other gradients, or as `simulate_with` and
///         `backward` of a tape if the simulation fits neither the model nor P.
template <Precision P, class Record>
[[nodiscard]] GradientUnderflow gradient_underflow(const Record& record, float loss_scale = 1,
                                                   Simulator* simulator = nullptr) {
  std::vector<std::vector<bool>> nonzero;
  {
    Tape<precision::fp32> float_tape;
    float_tape.observe_with([&](const Observation& seen) {
      if (is_forward(seen.role)) return;
      std::vector<bool>& elements = nonzero.emplace_back(seen.elements.size());
      for (std::size_t i = 0; i < elements.size(); ++i) elements[i] = seen.elements[i] != 0;
    });
    float_tape.backward(record(float_tape), loss_scale);
  }  // its memory is not held while the other takes its own

  using Gradient = typename P::matmul_gradient;
  detail::GradientCounts counts(nonzero);
  Tape<P> tape;
  if (simulator != nullptr) tape.simulate_with(detail::CountedSimulator(*simulator, counts));
  tape.observe_with([&](const Observation& seen) {
    if (is_forward(seen.role)) return;
    counts.add(seen);
    // An op whose gradient is in its format already takes it as it is, infinities included.
    if (std::is_same_v<Gradient, typename P::storage> || seen.format != storage_name<Gradient>) {
      return;
    }
    const Format format = Format::parse(storage_name<Gradient>);
    for (float& element : counts.last()) element = format.quantise(element, Overflow::saturate);
  });
  tape.backward(record(tape), loss_scale);
  return counts.shares();
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
