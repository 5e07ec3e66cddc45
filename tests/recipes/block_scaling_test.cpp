// SPDX-License-Identifier: MIT
// Block scaling against vectors of microxcaling, and against a textbook: loops in binary64 that
// search all codes of elements and scales.
#include "unit_scaling/recipes/block_scaling.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "autograd/tape_support.hpp"
#include "formats/format_oracle.hpp"
#include "support/errors.hpp"
#include "support/temporary_folder.hpp"
#include "support/threads.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/nn/feed_forward.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/train/checkpoint.hpp"

namespace block_scaling_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using ops::OperandRole;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

struct Named {
  std::string name;
  BlockScaling recipe;
};
std::vector<Named> recipes() {
  BlockScalingOptions e5m2 = BlockScaling::mxfp8(Format::of<float8_e5m2>()).options();
  e5m2.scale_rounding = ScaleRounding::round_up;
  return {{"MXFP8", BlockScaling::mxfp8()},
          {"MXFP8 with E5M2, rounded up", BlockScaling(e5m2)},
          {"MXFP6 of E2M3", BlockScaling::mxfp6()},
          {"MXFP6 of E3M2", BlockScaling::mxfp6(Format::of<float6_e3m2fn>())},
          {"MXFP4", BlockScaling::mxfp4()},
          {"DeepSeek", BlockScaling::deepseek()},
          {"DeepGEMM", BlockScaling::deepseek(ScaleFormat::power_of_two)},
          {"NVFP4", BlockScaling::nvfp4(3)}};
}

/// The same with gradients rounded to nearest.
BlockScaling to_nearest(const BlockScaling& recipe) {
  BlockScalingOptions options = recipe.options();
  options.operands.gradient.rounding = Rounding::nearest_even;
  return BlockScaling(options);
}

OperandForms forms_of(BlockScaling recipe, OperandRole role, const EncodedArray& array,
                      std::uint64_t step = 0) {
  OperandSite site;
  site.op = "linear";
  site.role = role;
  site.step = step;
  site.held = array.format();
  site.memory = std::pmr::new_delete_resource();
  auto forms = recipe.operand(site, array);
  if (!forms) throw std::logic_error("block scaling has an answer for every operand");
  return *forms;
}

const EncodedArray& over_rows(const OperandForms& forms) {
  return forms.over_rows ? *forms.over_rows : forms.array;
}

EncodedArray view_of(const std::vector<float>& numbers, const Shape& shape) {
  return EncodedArray::view(Array<float>(shape, std::span<const float>(numbers)));
}

std::vector<float> decoded(const EncodedArray& array) {
  std::vector<float> numbers(array.size());
  array.decode(numbers);
  return numbers;
}

bool is_same_number(float actual, float expected) {
  if (std::isnan(expected)) return std::isnan(actual);
  return std::bit_cast<std::uint32_t>(actual) == std::bit_cast<std::uint32_t>(expected);
}

std::vector<float> transposed(const std::vector<float>& numbers, std::size_t rows,
                              std::size_t columns) {
  std::vector<float> result(numbers.size());
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) result[j * rows + i] = numbers[i * columns + j];
  }
  return result;
}

// --- microxcaling ---

TEST(BlockScaling, InTheMxFormatsGivesTheNumbersOfMicroxcalingInBothForms) {
  const auto path =
      std::filesystem::path(UNIT_SCALING_SOURCE_DIR) / "tests/data/peer_vectors/mx_quantize.json";
  const auto file = nlohmann::json::parse(std::ifstream(path));
  std::size_t compared = 0;
  for (const auto& one_case : file.at("cases")) {
    const auto name = one_case.at("params").at("elem_format").get<std::string>();
    BlockScalingOptions options;
    if (name == "fp8_e4m3") {
      options.operands.input.format = Format::of<float8_e4m3fn>();
    } else if (name == "fp8_e5m2") {
      options.operands.input.format = Format::of<float8_e5m2>();
    } else if (name == "fp6_e2m3") {
      options.operands.input.format = Format::of<float6_e2m3fn>();
    } else if (name == "fp6_e3m2") {
      options.operands.input.format = Format::of<float6_e3m2fn>();
    } else if (name == "fp4_e2m1") {
      options.operands.input.format = Format::of<float4_e2m1fn>();
    } else {
      ASSERT_EQ(name, "int8") << "which is no floating-point format";
      continue;
    }
    const auto extents = one_case.at("shape").get<std::vector<std::size_t>>();
    const Shape shape{std::span<const std::size_t>(extents)};
    std::vector<float> numbers;
    for (const std::uint32_t bits : one_case.at("x_float32_bits")) {
      numbers.push_back(std::bit_cast<float>(bits));
    }
    std::vector<float> expected;
    for (const std::uint32_t bits : one_case.at("y_float32_bits")) {
      expected.push_back(std::bit_cast<float>(bits));
    }
    for (std::size_t i = 0; i < expected.size(); ++i) {
      // microxcaling multiplies with torch.sign, which is 0 of -0.
      if (numbers[i] == 0 && expected[i] == 0) expected[i] = numbers[i];
    }
    const auto compare = [&](const std::vector<float>& actual, const char* form) {
      for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_TRUE(is_same_number(actual[i], expected[i]))
            << one_case.at("name") << ", " << form << ", element " << i << ": " << actual[i]
            << ", not " << expected[i];
      }
    };
    const std::size_t rows = shape.rows();
    const std::size_t columns = shape.columns();
    const BlockScaling recipe(options);
    compare(decoded(forms_of(recipe, OperandRole::input, view_of(numbers, shape)).array), "rows");
    const auto other = forms_of(recipe, OperandRole::input,
                                view_of(transposed(numbers, rows, columns), {columns, rows}));
    compare(transposed(decoded(over_rows(other)), columns, rows), "columns");
    ++compared;
  }
  EXPECT_GE(compared, 10U);
}

// --- The textbook ---

/// What the definition of block scaling says, searched for in binary64.
class Textbook {
 public:
  Textbook(const BlockScalingOptions& options, const BlockScaledOperand& to)
      : options_(options), element_(layout_of(to.format)) {
    largest_ = static_cast<double>(to.format.spec().max_finite());
  }

  /// The elements, and their scales in `scales`, of a matrix in tiles of so many rows and columns.
  std::vector<float> quantised(const std::vector<float>& x, std::size_t rows, std::size_t columns,
                               std::size_t height, std::size_t width,
                               std::vector<float>& scales) const {
    const std::size_t across = (columns + width - 1) / width;
    const auto tile = [&](std::size_t i) {
      return i / columns / height * across + i % columns / width;
    };
    std::vector<double> maxima(x.empty() ? 0 : ((rows + height - 1) / height) * across);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto magnitude = static_cast<double>(std::fabs(x[i]));
      double& maximum = maxima[tile(i)];
      maximum = std::isnan(magnitude) ? std::numeric_limits<double>::infinity()
                                      : std::max(maximum, magnitude);
    }
    double of_all = 0;
    for (const double maximum : maxima) {
      if (std::isfinite(maximum)) of_all = std::max(of_all, maximum);
    }
    const double common = common_scale(of_all);
    std::vector<float> result(x.size());
    scales.resize(x.size());
    std::vector<float> of_tiles;
    for (const double maximum : maxima) {
      of_tiles.push_back(std::isfinite(maximum) ? static_cast<float>(scale(maximum, common)) : nan);
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
      scales[i] = of_tiles[tile(i)];
      const auto s = static_cast<double>(scales[i]);
      const auto quotient = static_cast<float>(static_cast<double>(x[i]) / s);
      result[i] =
          std::isnan(quotient)
              ? nan
              : static_cast<float>(
                    element_.decode(element_.encode(static_cast<double>(quotient), true)) * s);
    }
    return result;
  }

  /// The distance of the numbers of the format next to a magnitude, both under a scale of 1.
  [[nodiscard]] double gap(double magnitude) const {
    double below = 0;
    double above = largest_;
    for (std::uint32_t code = 0; code < 256; ++code) {
      const double number = element_.decode(code % (2 * sign()));
      if (number >= 0 && number <= magnitude) below = std::max(below, number);
      if (number > magnitude) above = std::min(above, number);
    }
    return above - below;
  }

 private:
  static Layout layout_of(const Format& format) {
    const FormatSpec& spec = format.spec();
    const UpperEnd end = spec.specials == Specials::ieee ? UpperEnd::infinity_and_nan
                         : spec.specials == Specials::fn ? UpperEnd::one_nan
                                                         : UpperEnd::finite;
    return {"", spec.exponent_bits, spec.mantissa_bits, spec.bias, end};
  }
  [[nodiscard]] std::uint32_t sign() const { return element_.sign(); }

  [[nodiscard]] double common_scale(double maximum) const {
    if (options_.scales != ScaleFormat::two_level || maximum == 0) return 1;
    return static_cast<double>(std::max(static_cast<float>(maximum / (448 * largest_)), 0x1p-126F));
  }

  [[nodiscard]] double scale(double maximum, double common) const {
    if (options_.scales == ScaleFormat::binary32) {
      if (maximum == 0) return 1;
      return static_cast<double>(std::max(static_cast<float>(maximum / largest_), 0x1p-126F));
    }
    if (options_.scales == ScaleFormat::two_level) {
      const auto unit = static_cast<float>(largest_ * common);
      const auto ideal =
          static_cast<double>(static_cast<float>(maximum / static_cast<double>(unit)));
      const FormatOracle e4m3({"", 4, 3, 7, UpperEnd::one_nan});
      // All positive scales, in ascending order; of two as near, that of an even code.
      std::uint32_t best = 1;
      for (std::uint32_t code = 2; code <= 0x7e; ++code) {
        const double distance = std::fabs(e4m3.decode(code) - ideal);
        const double least = std::fabs(e4m3.decode(best) - ideal);
        if (distance < least || (distance == least && code % 2 == 0)) best = code;
      }
      return static_cast<double>(static_cast<float>(e4m3.decode(best) * common));
    }
    const double highest_power = std::exp2(std::floor(std::log2(largest_)));
    for (int exponent = -127; exponent <= 127; ++exponent) {
      const double power = std::ldexp(1.0, exponent);
      // The first that is large enough; or the last whose double is too large.
      if (options_.scale_rounding == ScaleRounding::round_up
              ? power * largest_ >= maximum
              : 2 * power * highest_power > maximum) {
        return power;
      }
    }
    return 0x1p127;
  }

  BlockScalingOptions options_;
  FormatOracle element_;
  double largest_ = 0;
};

/// Numbers of many magnitudes with what is special among them.
std::vector<float> numbers_of(const std::string& content, const Shape& shape) {
  const Random random(5);
  std::vector<float> x(shape.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(random.normal(i)) *
           std::ldexp(1.0F, static_cast<int>(random.block(i)[0] % 9) - 4);
  }
  const std::size_t columns = shape.columns();
  const auto at = [&](std::size_t index) -> float& { return x[index * 7919 % x.size()]; };
  if (x.empty() || content == "ordinary") return x;
  if (content == "zeros") {
    std::fill(x.begin(), x.end(), 0.0F);
    at(3) = -0.0F;
  } else if (content == "one-hot") {
    std::fill(x.begin(), x.end(), 0.0F);
    at(5) = -3.7F;
  } else if (content == "rows of zeros") {
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (i / columns % 3 != 1) x[i] = i % 2 == 0 ? 0.0F : -0.0F;
    }
  } else if (content == "subnormal") {
    for (float& each : x) each *= 0x1p-140F;
  } else if (content == "next to subnormal") {
    for (float& each : x) each *= 0x1p-118F;
  } else if (content == "large") {
    for (float& each : x) each = each * 0x1p120F;
    at(1) = std::numeric_limits<float>::max();
  } else if (content == "steep") {  // far apart, so that scales of NVFP4 reach their ends
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= std::ldexp(1.0F, -static_cast<int>(i % 41));
  } else if (content == "special") {
    at(0) = infinity;
    at(1) = -infinity;
    at(2) = nan;
    at(3) = -nan;
    at(4) = std::numeric_limits<float>::max();
    at(5) = 0x1p-149F;
  } else {
    throw std::logic_error("no content " + content);
  }
  return x;
}

TEST(BlockScaling, HasTheNumbersAndScalesOfTheTextbook) {
  for (const Named& named : recipes()) {
    const std::string& name = named.name;
    const BlockScaling& stochastic = named.recipe;
    const BlockScaling recipe = to_nearest(stochastic);
    const BlockScalingOptions& options = recipe.options();
    for (const Shape& shape : {Shape{}, Shape{0, 5}, Shape{5, 0}, Shape{1, 1}, Shape{3, 7},
                               Shape{2, 3, 20}, Shape{33, 65}, Shape{17, 1}, Shape{1, 150},
                               Shape{130, 43}, Shape{777, 50}}) {  // the last in parts
      for (const char* content : {"ordinary", "zeros", "one-hot", "rows of zeros", "subnormal",
                                  "next to subnormal", "large", "steep", "special"}) {
        // Of a large array, only what is not the same everywhere.
        if (shape.size() > 10000 && std::string(content) != "special") continue;
        const std::vector<float> x = numbers_of(content, shape);
        for (const OperandRole role :
             {OperandRole::input, OperandRole::weight, OperandRole::gradient}) {
          const BlockScaledOperand& to = options.operands[role];
          const OperandForms forms = forms_of(recipe, role, view_of(x, shape));
          EXPECT_TRUE(forms.is_lasting);
          EXPECT_EQ(forms.over_rows.has_value(), to.along != to.across);
          const auto compare = [&](const EncodedArray& form, std::size_t height,
                                   std::size_t width) {
            std::vector<float> scales;
            const std::vector<float> expected =
                Textbook(options, to)
                    .quantised(x, shape.rows(), shape.columns(), height, width, scales);
            const std::vector<float> actual = decoded(form);
            for (std::size_t i = 0; i < x.size(); ++i) {
              const float scale = form.scale_of(i / shape.columns(), i % shape.columns());
              ASSERT_TRUE(is_same_number(scale, scales[i]))
                  << name << ", " << content << ", " << to_string(shape) << ", tiles of " << height
                  << " x " << width << ", scale of " << i << ": " << scale << ", not " << scales[i];
              ASSERT_TRUE(is_same_number(actual[i], expected[i]))
                  << name << ", " << content << ", " << to_string(shape) << ", tiles of " << height
                  << " x " << width << ", element " << i << ", " << x[i] << ": " << actual[i]
                  << ", not " << expected[i];
            }
          };
          ASSERT_NO_FATAL_FAILURE(compare(forms.array, to.across, to.along));
          ASSERT_NO_FATAL_FAILURE(compare(over_rows(forms), to.along, to.across));
        }
      }
    }
  }
}

TEST(BlockScaling, OfNumbersInAnotherFormatIsThatOfTheirFloats) {
  const Shape shape{9, 70};
  Array<float16> halves(shape);
  const std::vector<float> x = numbers_of("ordinary", shape);
  for (std::size_t i = 0; i < x.size(); ++i) halves.mutable_data()[i] = float16(x[i]);
  const auto view = EncodedArray::view(halves);
  for (const Named& named : recipes()) {
    const std::string& name = named.name;
    const BlockScaling& recipe = named.recipe;
    const auto of_halves = forms_of(recipe, OperandRole::gradient, view);
    const auto of_floats =
        forms_of(recipe, OperandRole::gradient, EncodedArray::view(view.decode()));
    EXPECT_EQ(of_halves.array, of_floats.array) << name;
    EXPECT_EQ(of_halves.over_rows, of_floats.over_rows) << name;
  }
}

/// Σ_p a(i, p) b(j, p) in binary64, and Σ |a b|.
struct Sum {
  double value = 0;
  double magnitude = 0;
};

TEST(BlockScaling, MultipliesTheFormsOfALinearLayerForwardAndBackward) {
  // No extent a multiple of a block, and blocks of zeros.
  constexpr std::size_t rows = 37;
  constexpr std::size_t fan_in = 150;
  constexpr std::size_t fan_out = 45;
  const auto array = [](const char* content, const Shape& shape, int power) {
    std::vector<float> x = numbers_of(content, shape);
    for (float& each : x) each = std::ldexp(each, power);
    return Array<float>(shape, std::span<const float>(x));
  };
  const Array<float> x = array("rows of zeros", {rows, fan_in}, 0);
  const Array<float> dy = array("rows of zeros", {rows, fan_out}, -9);
  Parameter w{.name = "w", .value = array("ordinary", {fan_out, fan_in}, 3)};
  const ops::Linear plain{.scaling = {.rule = Rule::none}};
  for (const Named& named : recipes()) {
    const std::string& name = named.name;
    const BlockScaling& stochastic = named.recipe;
    const BlockScaling recipe = to_nearest(stochastic);
    Tape<precision::fp32> tape;
    tape.use_recipe(recipe);
    const auto input = tape.input(x);
    const auto y = ops::linear(input, w, plain);
    tape.backward(tape.record(WeightedSum{dy}, y));

    const BlockScalingOptions& options = recipe.options();
    const auto of = [&](const BlockScaledOperand& to, const Array<float>& numbers,
                        bool is_over_rows) {
      std::vector<float> scales;
      return Textbook(options, to)
          .quantised({numbers.span().begin(), numbers.span().end()}, numbers.rows(),
                     numbers.columns(), is_over_rows ? to.along : to.across,
                     is_over_rows ? to.across : to.along, scales);
    };
    // Bound: each of the steps rounds once, and so do scales in common, of which the textbook
    // rounds the products; u = 2^-24.
    const auto compare = [&](const Array<float>& actual, std::size_t inner, const auto& sum_at,
                             const char* what) {
      for (std::size_t i = 0; i < actual.rows(); ++i) {
        for (std::size_t j = 0; j < actual.columns(); ++j) {
          Sum sum;
          for (std::size_t p = 0; p < inner; ++p) {
            const double term = sum_at(i, j, p);
            sum.value += term;
            sum.magnitude += std::fabs(term);
          }
          const double bound = static_cast<double>(inner + 6) * 0x1p-24 * sum.magnitude;
          ASSERT_NEAR(static_cast<double>(actual.data()[i * actual.columns() + j]), sum.value,
                      bound)
              << name << ", " << what << " (" << i << ", " << j << ")";
        }
      }
    };
    const auto product = [](const std::vector<float>& a, std::size_t i, const std::vector<float>& b,
                            std::size_t j) {
      return static_cast<double>(a[i]) * static_cast<double>(b[j]);
    };
    const auto xq = of(options.operands.input, x, false);
    const auto wq = of(options.operands.weight, w.value, false);
    ASSERT_NO_FATAL_FAILURE(compare(
        y.value(), fan_in,
        [&](std::size_t i, std::size_t j, std::size_t p) {
          return product(xq, i * fan_in + p, wq, j * fan_in + p);
        },
        "y"));
    const auto gq = of(options.operands.gradient, dy, false);
    const auto wq_rows = of(options.operands.weight, w.value, true);
    ASSERT_NO_FATAL_FAILURE(compare(
        tape.gradient(input), fan_out,
        [&](std::size_t i, std::size_t j, std::size_t p) {
          return product(gq, i * fan_out + p, wq_rows, p * fan_in + j);
        },
        "dx"));
    const auto gq_rows = of(options.operands.gradient, dy, true);
    const auto xq_rows = of(options.operands.input, x, true);
    ASSERT_NO_FATAL_FAILURE(compare(
        tape.gradient(w), rows,
        [&](std::size_t i, std::size_t j, std::size_t p) {
          return product(gq_rows, p * fan_out + i, xq_rows, p * fan_in + j);
        },
        "dw"));
  }
}

TEST(BlockScaling, HasTheSameBitsForAnyNumberOfThreads) {
  const Shape shape{711, 301};  // several pieces of work
  const auto view = view_of(numbers_of("special", shape), shape);
  for (const Named& named : recipes()) {
    const std::string& name = named.name;
    const BlockScaling& recipe = named.recipe;
    for (const OperandRole role : {OperandRole::weight, OperandRole::gradient}) {
      std::optional<OperandForms> expected;
      for (const std::size_t threads : {1U, 2U, 3U, 7U}) {
        const ThreadCountScope scope(threads);
        const OperandForms forms = forms_of(recipe, role, view);
        if (!expected) expected = forms;
        EXPECT_EQ(forms.array, expected->array) << name << ", " << threads << " threads";
        EXPECT_EQ(forms.over_rows, expected->over_rows) << name << ", " << threads << " threads";
      }
    }
  }
}

TEST(BlockScaling, GivesTheOperandThatItMadeForTheOpBeforeUnlessItDraws) {
  const auto view = view_of(numbers_of("ordinary", {4, 40}), {4, 40});
  BlockScaling recipe = BlockScaling::nvfp4();
  const auto ask = [&](OperandRole role, const kernels::Operand* before) {
    OperandSite site;
    site.role = role;
    site.tensor = 3;
    site.memory = std::pmr::new_delete_resource();
    site.made_before = before;
    return *recipe.operand(site, view);
  };
  const OperandForms first = ask(OperandRole::input, nullptr);
  kernels::Operand before = kernels::make_operand(first.array);
  before.over_rows = first.over_rows;
  const OperandForms again = ask(OperandRole::input, &before);
  EXPECT_EQ(again.array.codes().data(), first.array.codes().data());
  ASSERT_TRUE(again.over_rows);
  EXPECT_EQ(again.over_rows->codes().data(), first.over_rows->codes().data());
  const OperandForms drawn = ask(OperandRole::gradient, &before);
  EXPECT_NE(drawn.array.codes().data(), first.array.codes().data());
  EXPECT_FALSE(drawn.is_lasting);
  const OperandForms weight = ask(OperandRole::weight, &before);
  EXPECT_NE(weight.array.codes().data(), first.array.codes().data()) << "its tiles are others";
}

// --- Stochastic rounding ---

TEST(BlockScaling, RoundsStochasticallyWithoutBias) {
  constexpr std::size_t draws = 400;
  constexpr double root_of_draws = 20;
  const Shape shape{24, 40};
  const std::vector<float> x = numbers_of("ordinary", shape);
  const auto view = view_of(x, shape);
  for (const Named& named : recipes()) {
    const std::string& name = named.name;
    const BlockScaling& recipe = named.recipe;
    BlockScalingOptions options = recipe.options();
    options.operands.gradient.rounding = Rounding::stochastic;
    options.scale_rounding = ScaleRounding::round_up;  // nothing saturates
    const BlockScaledOperand& to = options.operands.gradient;
    const Textbook textbook(options, to);
    const auto largest = static_cast<double>(to.format.spec().max_finite());
    const auto check = [&](bool is_over_rows) {
      std::vector<double> sums(x.size());
      EncodedArray form;
      for (std::size_t draw = 0; draw < draws; ++draw) {
        const OperandForms forms =
            forms_of(BlockScaling(options), OperandRole::gradient, view, draw);
        form = is_over_rows ? over_rows(forms) : forms.array;
        const std::vector<float> numbers = decoded(form);
        for (std::size_t i = 0; i < x.size(); ++i) sums[i] += static_cast<double>(numbers[i]);
      }
      const std::vector<float> nearest = decoded(
          is_over_rows
              ? over_rows(forms_of(to_nearest(BlockScaling(options)), OperandRole::gradient, view))
              : forms_of(to_nearest(BlockScaling(options)), OperandRole::gradient, view).array);
      std::size_t biased = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const auto value = static_cast<double>(x[i]);
        const auto scale =
            static_cast<double>(form.scale_of(i / shape.columns(), i % shape.columns()));
        const double magnitude = std::fabs(value) / scale;
        if (magnitude > largest) continue;  // NVFP4 rounds scales to nearest
        // Draws are of two numbers that are a gap apart. By Hoeffding, their mean is further than
        // 7/2 gaps/√draws from its expectation in one of 2 exp(7²/2)⁻¹ = 5e-11 cases; and the
        // quotient by the scale and the product with it round once each.
        const double tolerance =
            3.5 * textbook.gap(magnitude) * scale / root_of_draws + 0x1p-23 * std::fabs(value);
        ASSERT_NEAR(sums[i] / static_cast<double>(draws), value, tolerance)
            << name << ", element " << i;
        biased += std::fabs(static_cast<double>(nearest[i]) - value) > tolerance ? 1U : 0U;
      }
      EXPECT_GT(biased, x.size() / 4) << name << ": of numbers rounded to nearest it would show";
    };
    ASSERT_NO_FATAL_FAILURE(check(false));
    ASSERT_NO_FATAL_FAILURE(check(true));
  }
}

TEST(BlockScaling, DrawsOtherBitsForEachStepAndForm) {
  const Shape shape{32, 32};
  std::vector<float> x(shape.size(), 0.71F);  // nearly all elements under the same scale
  x[0] = 1;
  const BlockScaling recipe = BlockScaling::nvfp4();
  const auto of_step = [&](std::uint64_t step) {
    return forms_of(recipe, OperandRole::gradient, view_of(x, shape), step);
  };
  EXPECT_EQ(of_step(1).array, of_step(1).array);
  EXPECT_NE(of_step(1).array, of_step(2).array);
  EXPECT_NE(decoded(of_step(1).array), decoded(*of_step(1).over_rows));
  EXPECT_NE(forms_of(BlockScaling::nvfp4(1), OperandRole::gradient, view_of(x, shape)).array,
            forms_of(BlockScaling::nvfp4(2), OperandRole::gradient, view_of(x, shape)).array);
}

TEST(BlockScaling, DrawsTheBitsOfAnElementByItsNumberHoweverTheArrayIsCut) {
  const Shape large{700, 96};  // in parts
  const Shape small{96, 96};   // at once
  const std::vector<float> x = numbers_of("ordinary", small);
  std::vector<float> repeated;
  for (std::size_t i = 0; i < large.size(); ++i) repeated.push_back(x[i % x.size()]);
  BlockScalingOptions options;
  options.operands.gradient.rounding = Rounding::stochastic;
  const auto whole =
      forms_of(BlockScaling(options), OperandRole::gradient, view_of(repeated, large));
  const auto part = forms_of(BlockScaling(options), OperandRole::gradient, view_of(x, small));
  for (const bool is_over_rows : {false, true}) {
    const std::vector<float> all = decoded(is_over_rows ? over_rows(whole) : whole.array);
    const std::vector<float> first = decoded(is_over_rows ? over_rows(part) : part.array);
    EXPECT_TRUE(std::equal(first.begin(), first.end(), all.begin()));
    for (std::size_t from = x.size(); from + x.size() <= all.size(); from += x.size()) {
      EXPECT_FALSE(
          std::equal(first.begin(), first.end(), all.begin() + static_cast<std::ptrdiff_t>(from)))
          << "the same draws from " << from;
    }
  }
}

// --- Training ---

struct Training {
  nn::Initialiser initialiser{1};
  nn::FeedForward network{initialiser, "ffn", 24, 72};
  optim::AdamW adam{optim::parameters_of(network)};
  Tape<precision::fp32> tape;

  explicit Training(const BlockScaling& recipe) { tape.use_recipe(recipe); }

  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit("network", network);
    visit("adam", adam);
    visit("tape", tape);
  }

  float step() {
    tape.clear();
    Array<float> batch({40, 24});
    const Random random(1, RandomStream::general, static_cast<std::uint32_t>(tape.step() % 4));
    for (std::size_t i = 0; i < batch.size(); ++i) {
      batch.mutable_data()[i] = static_cast<float>(random.normal(i));
    }
    const auto x = tape.input(batch);
    const auto loss = ops::mse_loss(network(x), x);
    tape.backward(loss);
    adam.step(tape, 0.02);
    return *loss.value().data();
  }
};

TEST(BlockScaling, Learns) {
  for (const Named& named : recipes()) {
    const std::string& name = named.name;
    const BlockScaling& recipe = named.recipe;
    Training training(recipe);
    const float first = training.step();
    float last = 0;
    for (int i = 0; i < 60; ++i) last = training.step();
    EXPECT_LT(last, 0.5F * first) << name;
  }
}

TEST(BlockScaling, IsResumedToTheBit) {
  const TemporaryFolder folder;
  const BlockScaling recipe = BlockScaling::nvfp4(7);
  Training unbroken(recipe);
  for (int i = 0; i < 3; ++i) unbroken.step();
  train::save_state(folder.path() / "training", unbroken);
  Training resumed(recipe);
  train::load_state(folder.path() / "training", resumed);
  for (int i = 0; i < 3; ++i) {
    const float loss = unbroken.step();
    EXPECT_EQ(resumed.step(), loss) << i;
  }
  Training of_other_draws(BlockScaling::nvfp4(8));
  train::load_state(folder.path() / "training", of_other_draws);
  of_other_draws.step();
  of_other_draws.step();
  const float other = of_other_draws.step();
  Training again(recipe);
  train::load_state(folder.path() / "training", again);
  again.step();
  again.step();
  EXPECT_NE(again.step(), other);
}

TEST(BlockScaling, RefusesWhatItCannotDo) {
  const auto with = [](const auto& change) {
    BlockScalingOptions options;
    change(options);
    return [options] { (void)BlockScaling(options); };
  };
  expect_domain_error(with([](auto& o) { o.operands.weight.format = Format::of<float16>(); }),
                      {"BlockScaling", "weight", "float16"});
  expect_domain_error(with([](auto& o) { o.operands.input.format = Format::parse("e8m0fnu"); }),
                      {"BlockScaling", "input", "e8m0fnu"});
  expect_domain_error(with([](auto& o) { o.operands.gradient.format = Format::parse("e4m3b20"); }),
                      {"BlockScaling", "gradient", "e4m3b20"});
  expect_domain_error(with([](auto& o) { o.operands.input.along = 0; }), {"BlockScaling", "1 x 1"});
  expect_domain_error(with([](auto& o) { o.operands.gradient.rounding = Rounding::toward_zero; }),
                      {"BlockScaling", "nearest_even or stochastic"});
  expect_domain_error(with([](auto& o) { o.scales = ScaleFormat::none; }),
                      {"BlockScaling", "scales"});
}

}  // namespace block_scaling_test
