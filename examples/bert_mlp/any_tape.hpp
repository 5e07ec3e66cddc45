// SPDX-License-Identifier: MIT
// A tape of any precision, so that everything but the numbers themselves is compiled once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <string>
#include <vector>

#include "any_optimiser.hpp"
#include "unit_scaling/analysis/gradient_underflow.hpp"
#include "unit_scaling/autograd/observation.hpp"
#include "unit_scaling/autograd/op_record.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/scaling/rule.hpp"
#include "unit_scaling/train/masked_batch.hpp"

namespace bert_mlp {

namespace us = unit_scaling;

/// What a step computes: the loss of a model on a batch.
struct Loss {
  const us::nn::BertMlp& model;
  const us::train::MaskedBatch& batch;
  const us::Scaling& scaling;
};

/// A `us::Tape` with what the training does on it. The members are those of the tape and of what
/// takes one, which say more.
class AnyTape {
 public:
  AnyTape() = default;
  AnyTape(const AnyTape&) = delete;
  AnyTape& operator=(const AnyTape&) = delete;
  virtual ~AnyTape() = default;

  [[nodiscard]] virtual us::RecyclingResource& memory() = 0;
  [[nodiscard]] virtual std::size_t bytes_held() const = 0;
  [[nodiscard]] virtual std::size_t saved_bytes() const = 0;
  [[nodiscard]] virtual bool is_observed() const = 0;
  [[nodiscard]] virtual std::uint64_t step() const = 0;
  virtual void set_step(std::uint64_t step) = 0;
  virtual void observe_with(std::function<void(const us::Observation&)> observer,
                            std::uint64_t every = 1) = 0;
  virtual void trace_with(std::function<void(const us::OpRecord&)> tracer) = 0;
  /// Null: with none.
  virtual void use_recipe(std::shared_ptr<us::RecipeOfTape> recipe) = 0;
  virtual void require_recipe_used() const = 0;

  /// Also forgets the loss.
  virtual void clear() = 0;
  /// Records the loss. @returns its value.
  virtual double record(const Loss& loss) = 0;
  /// The number of the loss that was recorded last, as that of a variable.
  [[nodiscard]] virtual std::size_t loss_number() const = 0;
  /// Computes the gradients of the loss that was recorded last, times `seed`, and forgets the loss.
  virtual void backward(float seed) = 0;

  // What follows `backward`.

  /// The first of the parameters whose gradient is not finite; null: none.
  [[nodiscard]] virtual const us::Parameter* first_non_finite(
      const std::vector<us::Parameter*>& parameters) const = 0;
  /// To the sum of several batches, or straight to the optimiser.
  virtual void add_to(us::optim::GradientSum& sum) const = 0;
  virtual void step_with(AnyOptimiser& optimiser, double learning_rate,
                         double loss_scale) const = 0;

  /// On tapes of its own; see `us::analysis::gradient_underflow`.
  [[nodiscard]] virtual us::analysis::GradientUnderflow gradient_underflow(
      const Loss& loss, float loss_scale, std::shared_ptr<us::RecipeOfTape> recipe) const = 0;
};

/// A tape of precision P. Each precision is a translation unit of its own.
template <us::Precision P>
std::unique_ptr<AnyTape> make_tape_of(us::TapeMode mode, std::pmr::memory_resource* upstream);

/// Calls `body(P{})` with the policy of that name.
template <class Body> auto with_precision(const std::string& name, const Body& body) {
  if (name == "fp32") return body(us::precision::fp32{});
  if (name == "fp16") return body(us::precision::fp16{});
  if (name == "bf16") return body(us::precision::bf16{});
  return body(us::precision::fp8{});
}

/// A tape of the precision of that name.
[[nodiscard]] std::unique_ptr<AnyTape> make_tape(
    const std::string& precision, us::TapeMode mode = us::TapeMode::training,
    std::pmr::memory_resource* upstream = std::pmr::new_delete_resource());

}  // namespace bert_mlp
