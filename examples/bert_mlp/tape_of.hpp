// SPDX-License-Identifier: MIT
// The tape of one precision; included by the translation unit of that precision and by no other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "any_optimiser.hpp"
#include "any_tape.hpp"
#include "unit_scaling/analysis/gradient_underflow.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/optimiser.hpp"

namespace bert_mlp {

/// Records the loss on the tape.
template <us::Precision P>
us::Variable<P, typename P::compute> record_loss(us::Tape<P>& tape, const Loss& loss) {
  return us::ops::cross_entropy(loss.model(tape, loss.batch.ids, loss.batch.selected),
                                loss.batch.labels, {.scaling = loss.scaling});
}

// Every precision is compared with this one, which only its own translation unit compiles.
extern template us::Variable<us::precision::fp32, float> record_loss(
    us::Tape<us::precision::fp32>& tape, const Loss& loss);

template <us::Precision P> class TapeOf final : public AnyTape {
 public:
  TapeOf(us::TapeMode mode, std::pmr::memory_resource* upstream) : tape_(mode, upstream) {}

  us::RecyclingResource& memory() override { return tape_.memory(); }
  [[nodiscard]] std::size_t bytes_held() const override { return tape_.bytes_held(); }
  [[nodiscard]] std::size_t saved_bytes() const override { return tape_.saved_bytes(); }
  [[nodiscard]] bool is_observed() const override { return tape_.is_observed(); }
  [[nodiscard]] std::uint64_t step() const override { return tape_.step(); }
  void set_step(std::uint64_t step) override { tape_.set_step(step); }
  void observe_with(std::function<void(const us::Observation&)> observer,
                    std::uint64_t every) override {
    tape_.observe_with(std::move(observer), every);
  }
  void trace_with(std::function<void(const us::OpRecord&)> tracer) override {
    tape_.trace_with(std::move(tracer));
  }
  void use_recipe(std::shared_ptr<us::RecipeOfTape> recipe) override {
    tape_.use_recipe(std::move(recipe));
  }
  void require_recipe_used() const override { tape_.require_recipe_used(); }

  void clear() override {
    loss_.reset();
    tape_.clear();
  }
  double record(const Loss& loss) override {
    loss_ = record_loss(tape_, loss);
    return static_cast<double>(*loss_->value().data());
  }
  [[nodiscard]] std::size_t loss_number() const override { return loss_.value().number(); }
  void backward(float seed) override {
    tape_.backward(loss_.value(), seed);
    loss_.reset();
  }

  [[nodiscard]] const us::Parameter* first_non_finite(
      const std::vector<us::Parameter*>& parameters) const override {
    return us::optim::first_non_finite(tape_, parameters);
  }
  void add_to(us::optim::GradientSum& sum) const override { sum.add(tape_); }
  void step_with(AnyOptimiser& optimiser, double learning_rate, double loss_scale) const override {
    std::visit([&](auto& each) { each.step(tape_, learning_rate, loss_scale); }, optimiser);
  }

  [[nodiscard]] us::analysis::GradientUnderflow gradient_underflow(
      const Loss& loss, float loss_scale, std::shared_ptr<us::RecipeOfTape> recipe) const override {
    return us::analysis::gradient_underflow<P>([&](auto& tape) { return record_loss(tape, loss); },
                                               loss_scale, std::move(recipe));
  }

 private:
  us::Tape<P> tape_;
  std::optional<us::Variable<P, typename P::compute>> loss_;  // lives in the tape's memory
};

template <us::Precision P>
std::unique_ptr<AnyTape> make_tape_of(us::TapeMode mode, std::pmr::memory_resource* upstream) {
  return std::make_unique<TapeOf<P>>(mode, upstream);
}

}  // namespace bert_mlp
