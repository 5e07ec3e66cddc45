// SPDX-License-Identifier: MIT
/// @file
/// Layer recipes: a recipe of number formats that are chosen at run time, op by op.
///
/// It takes two seconds to compile, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/formats/stochastic_rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Whether `text` has the form of `pattern`, in which * stands for any number of characters and ?
/// for one.
[[nodiscard]] constexpr bool matches_pattern(std::string_view pattern, std::string_view text) {
  std::size_t p = 0;
  std::size_t t = 0;
  // Where to go on if what follows the last * does not fit: with one character more for it.
  std::size_t after_star = std::string_view::npos;
  std::size_t of_star = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      after_star = ++p;
      of_star = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (after_star != std::string_view::npos) {
      p = after_star;
      t = ++of_star;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

/// A format that numbers are rounded to.
struct SimulatedFormat {
  std::string name;  ///< as `Format::parse` takes it
  FormatSpec spec;
  Rounding rounding = Rounding::nearest_even;

  friend bool operator==(const SimulatedFormat&, const SimulatedFormat&) = default;
};

/// What of some ops is rounded to which format, forward and backward.
struct SimulationRule {
  /// Which numbers of an op a rule is about.
  enum class Part {
    /// What enters its matrix products: each operand forward, and the gradient backward. Saturates,
    /// as a policy's `matmul_operand` and `matmul_gradient` do.
    products,
    /// What it writes: its outputs forward, and backward the gradients of its inputs, and the sums
    /// where they are added to those of other ops. Overflows to infinity, or to NaN in a format
    /// that has none, as a policy's `storage` does. Losses, and what parameters hold, are not
    /// touched.
    writes,
  };

  std::string module = "*";  ///< pattern for the path of the module that the op belongs to
  std::string op = "*";      ///< pattern for the op's name
  Part part = Part::products;
  std::optional<SimulatedFormat> forward = {};  ///< none: as the tape's policy says
  std::optional<SimulatedFormat> backward = {};

  [[nodiscard]] bool matches(std::string_view of_op, std::string_view of_module) const {
    return matches_pattern(op, of_op) && matches_pattern(module, of_module);
  }
};

/// The text that `Simulation::parse` reads the rule from.
[[nodiscard]] inline std::string to_string(const SimulationRule& rule) {
  const auto text_of = [](const std::optional<SimulatedFormat>& format) {
    if (!format) return std::string("-");
    return format->name + (format->rounding == Rounding::stochastic ? "~" : "");
  };
  const bool writes = rule.part == SimulationRule::Part::writes;
  std::string text;
  if (rule.module != "*") text = rule.module + "/";
  if (writes || rule.module != "*" || rule.op != "*") text += rule.op + (writes ? "=" : ":");
  return text + text_of(rule.forward) + "/" + text_of(rule.backward);
}

/// Rules that say which numbers of which ops are rounded to which formats: training in a format
/// that need not exist as a type.
///
///     tape.use_recipe(Simulation::parse("e4m3fn/e5m2"));
///
/// For each op the first rule of a part that matches it holds. The rounded numbers are what the op
/// multiplies, writes and saves, so that a step has the bits of one under a policy with these
/// formats (docs/simulation.md says where). Operands are stored in their format.
///
/// Stochastic rounding draws from the stream `rounding`, keyed by the seed, the tape's step and the
/// number of the tensor within the step: it depends neither on the number of threads nor on what
/// happened in steps before.
class Simulation final : public Recipe {
 public:
  /// @param seed of stochastic rounding.
  /// @throws std::invalid_argument if there are no rules, or a rounding is neither nearest_even nor
  ///         stochastic.
  explicit Simulation(std::vector<SimulationRule> rules, std::uint64_t seed = 0)
      : rules_(std::move(rules)), used_(rules_.size(), false), seed_(seed) {
    if (rules_.empty()) throw std::invalid_argument("simulation: expected at least one rule");
    for (const SimulationRule& rule : rules_) {
      for (const auto* format : {&rule.forward, &rule.backward}) {
        if (!*format || (*format)->rounding == Rounding::nearest_even ||
            (*format)->rounding == Rounding::stochastic) {
          continue;
        }
        throw std::invalid_argument("simulation '" + to_string(rule) +
                                    "': expected rounding nearest_even or stochastic");
      }
    }
  }

  /// Reads rules: `[PATTERN:]FORWARD/BACKWARD` for products and `PATTERN=FORWARD/BACKWARD` for what
  /// is written, with commas between. A pattern is `OP` or `MODULE/OP`, both with * and ?; without
  /// one a rule holds for every op. A format is what `Format::parse` reads, followed by ~ if it is
  /// rounded to stochastically, or - for none. So
  ///
  ///     readout/*:-/-,blocks.*/linear:e3m4/e5m2~,e4m3fn/e5m2,gelu=float16/float16
  ///
  /// leaves the read-out's products alone, and has those of other ops in e4m3fn and e5m2 but for
  /// linear layers in blocks; and the outputs and gradients of GELUs are in float16.
  /// @throws std::invalid_argument for anything else.
  [[nodiscard]] static Simulation parse(std::string_view text, std::uint64_t seed = 0) {
    std::vector<SimulationRule> rules;
    for (bool is_last = false; !is_last;) {
      const std::size_t comma = text.find(',');
      is_last = comma == std::string_view::npos;
      rules.push_back(parse_rule(text.substr(0, comma)));
      if (!is_last) text.remove_prefix(comma + 1);
    }
    return Simulation(std::move(rules), seed);
  }

  [[nodiscard]] const std::vector<SimulationRule>& rules() const& { return rules_; }
  [[nodiscard]] std::vector<SimulationRule> rules() const&& { return rules_; }
  [[nodiscard]] std::uint64_t seed() const { return seed_; }

  /// The same rules with every format rounded to in this way.
  /// @throws std::invalid_argument unless that is nearest_even or stochastic.
  [[nodiscard]] Simulation with_rounding(Rounding rounding) const {
    std::vector<SimulationRule> rules = rules_;
    for (SimulationRule& rule : rules) {
      if (rule.forward) rule.forward->rounding = rounding;
      if (rule.backward) rule.backward->rounding = rounding;
    }
    return Simulation(std::move(rules), seed_);
  }

  /// @throws std::invalid_argument if the op under these rules would not have the bits of one under
  ///         a policy with these formats.
  void begin_op(const RecipeOp& op) override {
    if (!seen_.contains(SeenOp{op.name, op.module, op.has_products})) {
      seen_.insert({std::string(op.name), std::string(op.module), op.has_products});
    }
    static_cast<void>(use_rule(Part::writes, op.name, op.module));
    if (!op.has_products) return;
    const SimulationRule* const rule = use_rule(Part::products, op.name, op.module);
    if (rule == nullptr || (!rule->forward && !rule->backward)) return;
    if (!op.rounds_weights_as(rule->forward ? rule->forward->spec : op.operand,
                              rule->backward ? rule->backward->spec : op.gradient)) {
      throw std::invalid_argument(
          "simulation: " + std::string(op.name) +
          (op.module.empty() ? "" : " in " + std::string(op.module)) +
          ": expected a policy with the attention_weight that policies of these formats have, "
          "which is bfloat16 if that holds both; precision::with_bfloat16_attention makes one");
    }
  }

  [[nodiscard]] std::optional<OperandForms> operand(const OperandSite& site,
                                                    const EncodedArray& array) override {
    const SimulatedFormat* const to =
        format_of(Part::products, site, site.role == ops::OperandRole::gradient);
    if (to == nullptr) return {};
    const Format format(to->spec);
    const bool is_stochastic = to->rounding == Rounding::stochastic;
    if (!is_stochastic && site.made_before != nullptr &&
        site.made_before->array.format() == format) {
      return OperandForms{.array = site.made_before->array};
    }
    // As with real formats, what is in the format is not converted, so its infinities remain.
    const Overflow overflow = site.held == format ? Overflow::infinity_or_nan : Overflow::saturate;
    return OperandForms{
        .array = EncodedArray::encode(array, format, options(*to, overflow, site), site.memory),
        .is_lasting = !is_stochastic};
  }

  [[nodiscard]] std::optional<Format> written(const WriteSite& site) override {
    const SimulatedFormat* const to = format_of(Part::writes, site, site.is_gradient);
    if (to == nullptr) return {};
    return Format(to->spec);
  }

  void write(const WriteSite& site, const Format& format, std::span<float> numbers) override {
    const SimulatedFormat& to = *format_of(Part::writes, site, site.is_gradient);
    format.quantise(numbers, numbers, options(to, Overflow::infinity_or_nan, site));
  }

  /// @throws std::invalid_argument if a rule has held for no op so far, and names those that there
  ///         were.
  void require_all_used() const override {
    const auto unused = std::find(used_.begin(), used_.end(), false);
    if (unused == used_.end()) return;
    const SimulationRule& rule = rules_[static_cast<std::size_t>(unused - used_.begin())];
    const bool is_of_products = rule.part == SimulationRule::Part::products;
    const bool matches_products = std::any_of(seen_.begin(), seen_.end(), [&](const SeenText& op) {
      return rule.matches(op.op, op.module) && op.has_products;
    });
    const bool matches_any = std::any_of(seen_.begin(), seen_.end(), [&](const SeenText& op) {
      return rule.matches(op.op, op.module);
    });
    std::string text = "simulation: the rule '" + to_string(rule) + "' ";
    if (is_of_products ? matches_products : matches_any) {
      throw std::invalid_argument(text + "holds for no op: earlier rules match all that it does");
    }
    if (matches_any) {
      text += "matches no op with matrix products, and what other ops write is rounded by " +
              (rule.module == "*" ? "" : rule.module + "/") + rule.op + "=FORWARD/BACKWARD";
    } else {
      text += "matches no op";
    }
    throw std::invalid_argument(text + "; there are " + names_of_ops(is_of_products));
  }

 private:
  struct SeenText {
    std::string op;
    std::string module;
    bool has_products;
  };
  struct SeenOp {
    std::string_view op;
    std::string_view module;
    bool has_products;
  };
  struct ByModule {
    using is_transparent = void;
    template <class A, class B> bool operator()(const A& a, const B& b) const {
      const auto key = [](const auto& seen) {
        return std::tuple<std::string_view, std::string_view, bool>(seen.module, seen.op,
                                                                    seen.has_products);
      };
      return key(a) < key(b);
    }
  };

  using Part = SimulationRule::Part;

  /// What the rule that holds says; null: nothing.
  [[nodiscard]] const SimulatedFormat* format_of(Part part, const RecipeSite& site,
                                                 bool is_backward) {
    const SimulationRule* const rule = use_rule(part, site.op, site.module);
    if (rule == nullptr) return nullptr;
    const auto& format = is_backward ? rule->backward : rule->forward;
    return format ? &*format : nullptr;
  }

  [[nodiscard]] EncodeOptions options(const SimulatedFormat& to, Overflow overflow,
                                      const RecipeSite& site) const {
    EncodeOptions options{.overflow = overflow, .rounding = to.rounding};
    if (to.rounding == Rounding::stochastic) {
      // As many bits as the mean takes to be exact, for all but the smallest numbers.
      options.random =
          StochasticRounding(Random(seed_, RandomStream::rounding, site.step, site.tensor), 32);
    }
    return options;
  }

  [[nodiscard]] const SimulationRule* use_rule(Part part, std::string_view op,
                                               std::string_view module) {
    for (std::size_t i = 0; i < rules_.size(); ++i) {
      if (rules_[i].part != part || !rules_[i].matches(op, module)) continue;
      used_[i] = true;
      return &rules_[i];
    }
    return nullptr;
  }

  /// "linear, gelu in modules a, b", each once.
  [[nodiscard]] std::string names_of_ops(bool only_products) const {
    std::set<std::string_view> ops;
    std::set<std::string_view> modules;
    for (const SeenText& seen : seen_) {
      if (only_products && !seen.has_products) continue;
      ops.insert(seen.op);
      if (!seen.module.empty()) modules.insert(seen.module);
    }
    const auto listed = [](const std::set<std::string_view>& names) {
      std::string text;
      for (const std::string_view name : names)
        text += (text.empty() ? "" : ", ") + std::string(name);
      return text.empty() ? std::string("none") : text;
    };
    return listed(ops) + " in modules " + listed(modules);
  }

  [[nodiscard]] static SimulationRule parse_rule(std::string_view text) {
    const auto fail = [&](const std::string& why) {
      throw std::invalid_argument("simulation '" + std::string(text) + "': expected " + why);
    };
    SimulationRule rule;
    std::string_view formats = text;
    if (const std::size_t end = text.find_first_of(":="); end != std::string_view::npos) {
      if (text[end] == '=') rule.part = SimulationRule::Part::writes;
      const std::string_view pattern = text.substr(0, end);
      formats = text.substr(end + 1);
      const std::size_t slash = pattern.rfind('/');
      rule.op = pattern.substr(slash == std::string_view::npos ? 0 : slash + 1);
      if (slash != std::string_view::npos) rule.module = pattern.substr(0, slash);
      if (rule.op.empty() || rule.module.empty())
        fail("a pattern OP or MODULE/OP before the formats");
    }
    const std::size_t slash = formats.find('/');
    if (slash == std::string_view::npos) {
      fail("[PATTERN:]FORWARD/BACKWARD or PATTERN=FORWARD/BACKWARD, with - for no format");
    }
    const auto format = [&](std::string_view name) -> std::optional<SimulatedFormat> {
      if (name == "-") return std::nullopt;
      const bool is_stochastic = name.ends_with('~');
      if (is_stochastic) name.remove_suffix(1);
      try {
        return SimulatedFormat{
            .name = std::string(name),
            .spec = Format::parse(name).spec(),
            .rounding = is_stochastic ? Rounding::stochastic : Rounding::nearest_even};
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument("simulation '" + std::string(text) + "': " + error.what());
      }
    };
    rule.forward = format(formats.substr(0, slash));
    rule.backward = format(formats.substr(slash + 1));
    return rule;
  }

  std::vector<SimulationRule> rules_;
  std::vector<bool> used_;  ///< which rule has held for an op
  std::set<SeenText, ByModule> seen_;
  std::uint64_t seed_;
};

/// The text that `Simulation::parse` reads it from, which says nothing of the seed.
[[nodiscard]] inline std::string to_string(const Simulation& simulation) {
  std::string text;
  for (const SimulationRule& rule : simulation.rules()) {
    text += (text.empty() ? "" : ",") + to_string(rule);
  }
  return text;
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
