// SPDX-License-Identifier: MIT
/// @file
/// Layer recipes: the largest magnitudes that a model's matrix products read over some data, from
/// which a `Quantisation` has its scales.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <memory>
#include <memory_resource>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/op_record.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// What was seen of the inputs of matrix products at one site.
struct CalibratedInput {
  float maximum = 0;  ///< the largest magnitude of all
  /// The largest magnitude of each channel, that is of all numbers with one last index; empty
  /// unless it was asked for.
  std::vector<float> channel_maxima = {};
};

/// How a model uses a parameter.
struct ParameterUses {
  bool is_weight = false;       ///< matrix products read it, as a weight
  bool has_other_uses = false;  ///< ops read it as something else: a look-up, a gain, a bias
};

/// What a model's matrix products read over some data.
struct Calibration {
  /// By the name of the site, "ffn.up/linear.input.0", as `write_name` has it. The calls of one
  /// module share a name, and so a maximum.
  std::map<std::string, CalibratedInput, std::less<>> inputs = {};
  /// By the name of the parameter: all that were used.
  std::map<std::string, ParameterUses, std::less<>> parameters = {};
};

/// What a calibration measures beside the largest magnitude of each site.
struct CalibrationOptions {
  bool per_channel = false;  ///< whether to measure channels too
};

namespace detail {

/// The largest magnitude of each tile, as `largest_magnitudes`.
/// @throws DomainError for infinities and NaN, which names the operation and what has them.
[[nodiscard]] inline Array<float> finite_magnitudes(std::string_view operation,
                                                    std::string_view name,
                                                    const EncodedArray& array,
                                                    const ScaleLayout& tiles,
                                                    std::pmr::memory_resource* memory) {
  Array<float> maxima = largest_magnitudes(array, tiles, memory);
  const auto is_finite = [](float maximum) { return std::isfinite(maximum); };
  require(std::all_of(maxima.span().begin(), maxima.span().end(), is_finite), operation,
          "expected finite numbers of ", in_quotes(name), ", got some that are infinite or NaN");
  return maxima;
}

/// Leaves all operands as the policy has them, and notes what a calibration is to know.
class CalibrationRecipe final : public Recipe {
 public:
  explicit CalibrationRecipe(const CalibrationOptions& options) : options_(options) {}

  [[nodiscard]] std::optional<OperandForms> operand(const OperandSite& site,
                                                    const EncodedArray& array) override {
    if (site.role == ops::OperandRole::weight) {
      weights_.insert({std::string(site.op), site.argument});
    } else if (site.role == ops::OperandRole::input) {
      write_name(site, name_);
      note(array, site.memory);
    }
    return {};
  }

  /// To be told of each op when it is recorded, that is, after it has asked for its operands.
  void note(const OpRecord& op) {
    for (std::size_t i = 0; i < op.inputs.size(); ++i) {
      const Parameter* const parameter = op.inputs[i].parameter;
      if (parameter == nullptr) continue;
      ParameterUses& uses = calibration_.parameters[parameter->name];
      // A tape asks once for the operand of a parameter that stays, so what an argument is to an op
      // is kept.
      (weights_.contains({op.name, i}) ? uses.is_weight : uses.has_other_uses) = true;
    }
  }

  [[nodiscard]] const Calibration& calibration() const& { return calibration_; }
  const Calibration& calibration() const&& = delete;

 private:
  void note(const EncodedArray& array, std::pmr::memory_resource* memory) {
    constexpr auto binary32 = ScaleFormat::binary32;
    const auto maxima_of = [&](const ScaleLayout& tiles) {
      return finite_magnitudes("calibrate", name_, array, tiles, memory);
    };
    const float largest = *maxima_of(ScaleLayout::per_tensor(binary32)).data();
    CalibratedInput& input = calibration_.inputs[name_];
    input.maximum = std::max(input.maximum, largest);
    if (!options_.per_channel) return;
    const Array<float> maxima = maxima_of(ScaleLayout::per_column(binary32));
    std::vector<float>& known = input.channel_maxima;
    known.resize(std::max(known.size(), maxima.size()));
    for (std::size_t i = 0; i < maxima.size(); ++i) known[i] = std::max(known[i], maxima.data()[i]);
  }

  CalibrationOptions options_;
  Calibration calibration_;
  std::set<std::pair<std::string, std::size_t>> weights_;  ///< op and argument
  std::string name_;                                       ///< its memory is used again
};

}  // namespace detail

/// Measures what a model's matrix products read, and which parameters are weights of them.
///
///     Tape<precision::fp32> tape(TapeMode::inference);
///     const Calibration calibration = calibrate(
///         tape, batches.size(), [&](std::size_t i) { model(tape.constant(batches[i])); });
///
/// The model computes as without it. Its ops are those under a recipe: modules record each on its
/// own where one op would compute the same. Gradients, if there are any, are not measured.
///
/// Data of which a product reads an infinity or a NaN are refused, not passed over: no scale would
/// be right for them, and a model that makes such numbers needs repair before it is quantised.
/// @param tape is cleared before each batch and at the end, and left without recipe and tracer.
/// @param record called with the number of each batch, from 0 on; records the model on the tape.
/// @throws DomainError naming the site, if a product reads infinities or NaN; what Tape::use_recipe
///         and `record` throw.
/// @see FP8-BERT (arXiv:2312.05725): scales per tensor, found on data after the training.
template <Precision P, class Record>
[[nodiscard]] Calibration calibrate(Tape<P>& tape, std::size_t batches, const Record& record,
                                    const CalibrationOptions& options = {}) {
  const auto recipe = std::make_shared<detail::CalibrationRecipe>(options);
  /// Leaves the tape clear, without recipe and tracer, whatever happens.
  struct Use {
    explicit Use(Tape<P>& tape_) : tape(tape_) { tape.clear(); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    ~Use() {
      tape.clear();
      tape.use_recipe(nullptr);
      tape.trace_with(nullptr);
    }
    Tape<P>& tape;
  } use(tape);
  tape.use_recipe(recipe);
  tape.trace_with([recipe](const OpRecord& op) { recipe->note(op); });
  for (std::size_t i = 0; i < batches; ++i) {
    tape.clear();
    record(i);
  }
  return recipe->calibration();
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
