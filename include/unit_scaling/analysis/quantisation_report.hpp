// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: what quantisation does to each layer of a model.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/analysis/short_number.hpp"
#include "unit_scaling/analysis/text_table.hpp"
#include "unit_scaling/autograd/observation.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/operand.hpp"
#include "unit_scaling/recipes/quantisation.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// Numbers beside what has become of them, added up.
struct NoiseSums {
  double signal = 0;  ///< sum of the squares of the numbers
  double noise = 0;   ///< sum of the squares of the differences

  void add(std::span<const float> numbers, std::span<const float> changed) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto number = static_cast<double>(numbers[i]);
      const double difference = static_cast<double>(changed[i]) - number;
      signal += number * number;
      noise += difference * difference;
    }
  }
  /// The signal-to-noise ratio in decibels, 10 log10(signal / noise): infinite without noise, NaN
  /// if numbers are not finite.
  [[nodiscard]] double decibels() const {
    if (noise == 0) return std::numeric_limits<double>::infinity();
    return 10 * std::log10(signal / noise);
  }
};

/// One operand of a layer's products, over all that was run.
struct QuantisedOperand {
  ops::OperandRole role = ops::OperandRole::input;
  std::size_t argument = 0;  ///< number among the op's arguments
  Format format = {};
  float smallest_scale = 0;
  float largest_scale = 0;
  std::size_t scales = 0;  ///< how many there are
  std::uint64_t elements = 0;
  std::uint64_t at_largest = 0;   ///< rounded to the largest number, or beyond it
  std::uint64_t underflowed = 0;  ///< not zero, but rounded to zero
  NoiseSums noise = {};           ///< of products' operand against the same before it was rounded

  /// A count of the elements as a share of them, from 0 to 1; 0 if there are none.
  [[nodiscard]] double share(std::uint64_t count) const {
    return elements == 0 ? 0 : static_cast<double>(count) / static_cast<double>(elements);
  }
};

/// An op with matrix products: all calls of a module's op together.
struct QuantisedLayer {
  std::string module;
  std::string op;
  std::vector<QuantisedOperand> operands = {};
  /// Of what the op writes against the same in the model that is not quantised. So it has the noise
  /// of the layers before as well.
  NoiseSums output = {};
};

namespace detail {

/// Collects the layers of a report from observations of two models, first the one that is not
/// quantised, batch by batch.
class QuantisationObserver {
 public:
  explicit QuantisationObserver(const Quantisation& recipe) : recipe_(recipe) {}

  /// Keeps what the ops with operands write.
  void see_reference(const Observation& seen) {
    if (seen.role == TensorRole::operand) last_ = seen.index;
    if (seen.role != TensorRole::value || seen.index != last_) return;
    outputs_.push_back({std::string(seen.module), std::string(seen.name), seen.shape,
                        Array<float>(seen.shape, seen.elements)});
  }

  void see_quantised(const Observation& seen) {
    if (seen.role == TensorRole::operand) {
      last_ = seen.index;
      see_operand(seen);
    } else if (seen.role == TensorRole::value && seen.index == last_) {
      see_output(seen);
    }
  }

  /// Between two recordings.
  void begin() {
    last_ = none;
    next_ = 0;
  }
  /// @throws std::invalid_argument if the model that is not quantised has recorded more.
  void end_batch() {
    if (next_ != outputs_.size()) refuse();
    outputs_.clear();
  }

  [[nodiscard]] std::vector<QuantisedLayer> layers() const { return layers_; }

 private:
  struct Output {
    std::string module;
    std::string op;
    Shape shape;
    Array<float> elements;
  };

  void see_operand(const Observation& seen) {
    if (seen.rounded.empty()) return;
    const auto [role, site] = site_of(seen);
    if (site->scales.empty()) return;
    QuantisedOperand& operand = operand_of(seen, role);
    const auto [least, most] = std::minmax_element(site->scales.begin(), site->scales.end());
    operand.format = site->format;
    operand.smallest_scale = *least;
    operand.largest_scale = *most;
    operand.scales = site->scales.size();
    operand.elements += seen.elements.size();
    operand.noise.add(seen.elements, seen.rounded);
    const auto largest = static_cast<float>(site->format.spec().max_finite());
    const std::size_t columns = seen.shape.columns();
    const bool is_per_row = role == ops::OperandRole::weight;
    for (std::size_t i = 0; i < seen.elements.size(); ++i) {
      const std::size_t tile = site->scales.size() == 1 ? 0
                               : is_per_row             ? i / columns
                                                        : i % columns;
      // As an operand is decoded: a product of two floats.
      const float end = largest * site->scales[tile];
      const float rounded = seen.rounded[i];
      if (rounded == end || rounded == -end) ++operand.at_largest;
      if (rounded == 0 && seen.elements[i] != 0) ++operand.underflowed;
    }
  }

  /// What an operand is to its op, and what the recipe has done there.
  struct Site {
    ops::OperandRole role;
    const QuantisedSite* site;
  };
  [[nodiscard]] Site site_of(const Observation& seen) {
    OperandSite site;
    site.module = seen.module;
    site.op = seen.name;
    site.argument = seen.argument;
    for (const ops::OperandRole role : {ops::OperandRole::input, ops::OperandRole::weight}) {
      site.role = role;
      write_name(site, name_);
      const auto found = recipe_.sites().find(name_);
      if (found != recipe_.sites().end()) return {role, &found->second};
    }
    throw std::logic_error("quantisation_report: no site '" + name_ + "'");
  }

  void see_output(const Observation& seen) {
    if (next_ == outputs_.size()) refuse();
    const Output& before = outputs_[next_++];
    if (before.module != seen.module || before.op != seen.name || before.shape != seen.shape) {
      refuse();
    }
    layer_of(seen).output.add(before.elements.span(), seen.elements);
  }

  [[noreturn]] static void refuse() {
    throw std::invalid_argument(
        "quantisation_report: expected the same ops of the same shapes each time that a batch is "
        "recorded");
  }

  [[nodiscard]] QuantisedLayer& layer_of(const Observation& seen) {
    const auto found = std::find_if(layers_.begin(), layers_.end(), [&](const auto& layer) {
      return layer.module == seen.module && layer.op == seen.name;
    });
    if (found != layers_.end()) return *found;
    return layers_.emplace_back(
        QuantisedLayer{.module = std::string(seen.module), .op = std::string(seen.name)});
  }
  [[nodiscard]] QuantisedOperand& operand_of(const Observation& seen, ops::OperandRole role) {
    std::vector<QuantisedOperand>& operands = layer_of(seen).operands;
    const auto found = std::find_if(operands.begin(), operands.end(), [&](const auto& operand) {
      return operand.argument == seen.argument;
    });
    if (found != operands.end()) return *found;
    return operands.emplace_back(QuantisedOperand{.role = role, .argument = seen.argument});
  }

  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  const Quantisation& recipe_;
  std::size_t last_ = none;  ///< number of the last op with operands
  std::vector<Output> outputs_;
  std::size_t next_ = 0;
  std::vector<QuantisedLayer> layers_;
  std::string name_;
};

}  // namespace detail

/// Runs a model on some data twice, as it is and quantised, and compares the two layer by layer, in
/// the order in which layers are first used.
///
/// A weight counts once for each batch, so its shares and its ratio are those of one.
/// @param tape for inference, with no observer of its own; it is cleared before each recording and
///        at the end, and left without recipe and observer.
/// @param record called twice with the number of each batch, from 0 on; records the model on the
///        tape, the same ops each time.
/// @throws std::invalid_argument if the ops differ; what the recipe, Tape::use_recipe and `record`
///         throw.
template <Precision P, class Record>
[[nodiscard]] std::vector<QuantisedLayer> quantisation_report(
    Tape<P>& tape, const std::shared_ptr<Quantisation>& recipe, std::size_t batches,
    const Record& record) {
  detail::QuantisationObserver observer(*recipe);
  /// Leaves the tape clear, without recipe and observer, whatever happens.
  struct Use {
    explicit Use(Tape<P>& tape_) : tape(tape_) {}
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    ~Use() { use(nullptr); }
    void use(const std::shared_ptr<RecipeOfTape>& recipe) const {
      tape.clear();
      tape.use_recipe(recipe);
      tape.observe_with(nullptr);
    }
    Tape<P>& tape;
  } const tape_in_use(tape);
  for (std::size_t i = 0; i < batches; ++i) {
    tape_in_use.use(nullptr);
    tape.observe_with([&](const Observation& seen) { observer.see_reference(seen); });
    observer.begin();
    record(i);
    tape_in_use.use(recipe);
    tape.observe_with([&](const Observation& seen) { observer.see_quantised(seen); });
    observer.begin();
    record(i);
    observer.end_batch();
  }
  return observer.layers();
}

/// The report as a table for people: a line for each operand, and one for what each layer writes.
[[nodiscard]] inline std::string to_text(const std::vector<QuantisedLayer>& layers) {
  std::vector<std::vector<std::string>> rows{{"module", "op", "array", "format", "scale",
                                              "at the largest number", "underflowed", "SNR (dB)"}};
  for (const QuantisedLayer& layer : layers) {
    for (const QuantisedOperand& operand : layer.operands) {
      std::string scale = short_number(static_cast<double>(operand.smallest_scale));
      if (operand.scales > 1) {
        scale += " to " + short_number(static_cast<double>(operand.largest_scale));
      }
      rows.push_back({layer.module, layer.op,
                      (operand.role == ops::OperandRole::weight ? "weight " : "input ") +
                          std::to_string(operand.argument),
                      to_string(operand.format), scale,
                      percent_text(operand.share(operand.at_largest)),
                      percent_text(operand.share(operand.underflowed)),
                      short_number(operand.noise.decibels(), 3)});
    }
    rows.push_back({layer.module, layer.op, "output", "-", "-", "-", "-",
                    short_number(layer.output.decibels(), 3)});
  }
  return table_text(rows);
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
