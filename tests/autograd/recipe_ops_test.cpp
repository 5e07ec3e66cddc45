// SPDX-License-Identifier: MIT
// Each op with products under recipes with scales of every kind, against the same op that reads the
// numbers of those operands in floats.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/tape_support.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/ops/conv1d.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/linear_readout.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/recurrent_highway.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/token_mixing.hpp"

namespace recipe_ops_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// Operands of a format under scales that differ from tile to tile, as they are stored or in
/// floats.
class Scaled final : public Recipe {
 public:
  Scaled(const Format& format, const ScaleLayout& layout, bool in_floats)
      : format_(format), layout_(layout), in_floats_(in_floats) {}

  std::optional<OperandForms> operand(const OperandSite& site, const EncodedArray& array) override {
    std::vector<float> scales(layout_.count(array.rows(), array.columns()));
    for (std::size_t i = 0; i < scales.size(); ++i) {
      scales[i] = layout_.format == ScaleFormat::power_of_two
                      ? std::exp2(static_cast<float>(i % 5) - 2)
                      : 0.3F + 0.1F * static_cast<float>(i % 7);
    }
    auto scaled = EncodedArray::encode(array, format_, layout_, scales, {}, site.memory);
    if (in_floats_) scaled = EncodedArray::view(scaled.decode(site.memory));
    return OperandForms{std::move(scaled)};
  }

 private:
  Format format_;
  ScaleLayout layout_;
  bool in_floats_;
};

/// Adds up in double.
struct WideSums : precision::fp32 {
  static constexpr std::string_view name = "wide sums";
  using compute = double;
};

/// The output and the gradients of all inputs.
template <Precision P, class Op>
std::vector<Array<float>> results(const Op& op, const std::vector<Shape>& shapes, Scaled recipe) {
  Tape<P> tape;
  tape.use_recipe(recipe);
  std::vector<Variable<P>> inputs;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    inputs.push_back(tape.input(random_array<float>(shapes[i], static_cast<std::uint32_t>(i))));
  }
  const auto y = op(inputs);
  std::vector<Array<float>> all{Array<float>(y.shape(), y.value().span())};
  tape.backward(tape.record(WeightedSum{random_array<float>(y.shape(), 99)}, y));
  for (const auto& input : inputs) {
    all.emplace_back(input.shape(), tape.gradient(input).span());
  }
  return all;
}

template <Precision P, class Op>
void expect_numbers_of_operands_under(const Op& op, const std::vector<Shape>& shapes,
                                      const std::string& name) {
  using enum ScaleFormat;
  for (const ScaleFormat scale : {power_of_two, binary32}) {
    for (const ScaleLayout& layout :
         {ScaleLayout::per_tensor(scale), ScaleLayout::per_row(scale),
          ScaleLayout::per_column(scale), ScaleLayout::per_block_of_columns(scale, 4),
          ScaleLayout::per_block_of_rows(scale, 3), ScaleLayout{scale, 2, 5}}) {
      for (const std::string_view format : {"e3m4", "e2m1fn", "bfloat16"}) {
        const auto actual = results<P>(op, shapes, Scaled(Format::parse(format), layout, false));
        const auto expected = results<P>(op, shapes, Scaled(Format::parse(format), layout, true));
        for (std::size_t k = 0; k < actual.size(); ++k) {
          ASSERT_EQ(actual[k].shape(), expected[k].shape());
          double largest = 0;
          double worst = 0;
          for (std::size_t i = 0; i < actual[k].size(); ++i) {
            const double wanted = static_cast<double>(expected[k].data()[i]);
            largest = std::max(largest, std::abs(wanted));
            worst = std::max(worst, std::abs(static_cast<double>(actual[k].data()[i]) - wanted));
          }
          EXPECT_GT(largest, 0) << name;
          EXPECT_LE(worst, 2e-6 * largest) << name << " under " << P::name << ", result " << k
                                           << ", " << format << ", " << to_string(layout);
        }
      }
    }
  }
}

template <class Op>
void expect_numbers_of_operands(const Op& op, const std::vector<Shape>& shapes,
                                const std::string& name) {
  expect_numbers_of_operands_under<precision::fp32>(op, shapes, name);
  expect_numbers_of_operands_under<WideSums>(op, shapes, name);
}

TEST(RecipeOps, MultiplyTheNumbersOfOperandsUnderScalesOfEveryKind) {
  expect_numbers_of_operands([](const auto& x) { return ops::linear(x[0], x[1], x[2]); },
                             {{5, 17}, {9, 17}, {9}}, "linear");
  expect_numbers_of_operands([](const auto& x) { return ops::linear_readout(x[0], x[1], x[2]); },
                             {{5, 17}, {9, 17}, {9}}, "linear_readout");
  expect_numbers_of_operands([](const auto& x) { return ops::gelu_linear(x[0], x[1], x[2]); },
                             {{5, 17}, {9, 17}, {9}}, "gelu_linear");
  expect_numbers_of_operands([](const auto& x) { return ops::matmul(x[0], x[1]); },
                             {{3, 5, 7}, {3, 7, 6}}, "matmul");
  expect_numbers_of_operands([](const auto& x) { return ops::token_mixing(x[0], x[1]); },
                             {{3, 6, 8}, {5, 6}}, "token_mixing");
  expect_numbers_of_operands([](const auto& x) { return ops::conv1d(x[0], x[1], x[2]); },
                             {{2, 4, 9}, {6, 4, 3}, {6}}, "conv1d");
  expect_numbers_of_operands([](const auto& x) { return ops::conv1d(x[0], x[1], {.groups = 2}); },
                             {{2, 4, 9}, {6, 2, 3}}, "conv1d with groups");
  expect_numbers_of_operands(
      [](const auto& x) {
        return ops::scaled_dot_product_attention(x[0], x[1], x[2], {.is_causal = true});
      },
      {{2, 9, 16}, {2, 9, 16}, {2, 9, 8}}, "scaled_dot_product_attention");
  expect_numbers_of_operands(
      [](const auto& x) { return ops::scaled_dot_product_attention(x[0], x[1], x[2], x[3]); },
      {{2, 9, 16}, {2, 9, 16}, {2, 9, 8}, {2, 17, 16}}, "attention with distances");
  expect_numbers_of_operands(
      [](const auto& x) { return ops::recurrent_highway(x[0], x[1], x[2], x[3]); },
      {{2, 3, 4}, {10, 9}, {10}, {5}}, "recurrent_highway");
}

}  // namespace recipe_ops_test
