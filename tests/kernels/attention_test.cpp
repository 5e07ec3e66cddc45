// SPDX-License-Identifier: MIT
// Attention over operands whose formats and scales are chosen at run time, against sums in double.
#include "unit_scaling/kernels/attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/kernels/any_operand.hpp"
#include "unit_scaling/kernels/attention_origins.hpp"
#include "unit_scaling/kernels/operand.hpp"

namespace attention_test {

using namespace unit_scaling;

/// Numbers of a format within `offset` ± 1 before their scales, which are between 1/2 and 2.
EncodedArray random_array(const Shape& shape, const char* format, const ScaleLayout& layout,
                          std::uint64_t seed, float offset = 0) {
  const Random random(seed);
  Array<float> numbers(shape);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    numbers.mutable_data()[i] = offset + 2 * static_cast<float>(random.uniform(i)) - 1;
  }
  std::vector<float> scales(layout.count(shape.rows(), shape.columns()));
  for (std::size_t i = 0; i < scales.size(); ++i) {
    scales[i] = std::ldexp(1.0F, static_cast<int>(i % 3) - 1);
    if (layout.format == ScaleFormat::binary32) scales[i] *= 0.9F;
  }
  return EncodedArray::encode(EncodedArray::view(numbers), Format::parse(format), layout, scales);
}

struct Extents {
  std::size_t slices, queries, keys, head_dim, value_dim;
};

/// Runs attention with weights in Weight on operands of these formats, and compares all it makes
/// with sums in double over the decoded elements. Bound: `unit` of each weight, and of each sum of
/// the magnitudes of its terms.
template <class Weight>
void expect_sums_in_double(const std::array<const char*, 4>& formats, const ScaleLayout& layout,
                           const Extents& e, bool is_causal, float offset = 0) {
  SCOPED_TRACE(std::string(formats[0]) + " " + formats[1] + " " + formats[2] + " " + formats[3] +
               ", " + to_string(layout));
  const auto q = random_array({e.slices, e.queries, e.head_dim}, formats[0], layout, 1);
  const auto k = random_array({e.slices, e.keys, e.head_dim}, formats[1], layout, 2);
  const auto v = random_array({e.slices, e.keys, e.value_dim}, formats[2], layout, 3, offset);
  const auto g = random_array({e.slices, e.queries, e.value_dim}, formats[3], layout, 4);
  const kernels::AttentionSize size{.slices = e.slices,
                                    .queries = e.queries,
                                    .keys = e.keys,
                                    .head_dim = e.head_dim,
                                    .value_dim = e.value_dim,
                                    .is_causal = is_causal,
                                    .score_factor = 0.5};
  const auto q_operand = kernels::make_operand(q);
  const auto k_operand = kernels::make_operand(k);
  auto v_operand = kernels::make_operand(v);
  const auto g_operand = kernels::make_operand(g);
  Array<float> y(g.shape());
  Array<float> normalisers(Shape{y.rows(), 2});
  using Result = kernels::AttentionResult<float>;
  const auto forward = [&](Array<float>& to) {
    kernels::Attention<float, Weight>(size, q_operand, k_operand, v_operand, nullptr)
        .forward(1, Result(to.mutable_data()), normalisers.mutable_data());
  };
  forward(y);
  Array<float> saved_y = y;
  const auto differences = kernels::from_origins<float>(size, v_operand);
  EXPECT_EQ(differences.array.empty(), offset == 0);
  if (!differences.array.empty()) {
    if (!v.has_scales()) {
      EXPECT_EQ(differences.array.format(), v.format());
    }
    v_operand = differences;
    saved_y = Array<float>(y.shape());
    forward(saved_y);
  }
  Array<float> dq(q.shape());
  Array<float> dk(k.shape());
  Array<float> dv(v.shape());
  kernels::Attention<float, Weight>(size, q_operand, k_operand, v_operand, nullptr)
      .backward({g_operand, saved_y, normalisers, 1}, 0.5F, Result(dq.mutable_data()), 0.5F,
                Result(dk.mutable_data()), 1, Result(dv.mutable_data()));

  const double unit = std::is_same_v<Weight, bfloat16> ? 0x1p-6 : 0x1p-16;
  const auto decode = [](const EncodedArray& array) {
    const Array<float> floats = array.decode();
    return std::vector<double>(floats.data(), floats.data() + floats.size());
  };
  const auto qs = decode(q);
  const auto ks = decode(k);
  const auto vs = decode(v);
  const auto gs = decode(g);
  struct Sum {
    double value = 0, magnitude = 0;
    void add(double term) {
      value += term;
      magnitude += std::abs(term);
    }
  };
  std::vector<Sum> ys(y.size()), dqs(dq.size()), dks(dk.size()), dvs(dv.size());
  for (std::size_t row = 0; row < e.slices * e.queries; ++row) {
    const std::size_t first = row / e.queries * e.keys;
    const std::size_t seen = is_causal ? std::min(e.keys, row % e.queries + 1) : e.keys;
    std::vector<double> weights(seen), slopes(seen);
    double sum = 0;
    for (std::size_t j = 0; j < seen; ++j) {
      double score = 0;
      for (std::size_t d = 0; d < e.head_dim; ++d) {
        score += qs[row * e.head_dim + d] * ks[(first + j) * e.head_dim + d];
      }
      sum += weights[j] = std::exp(0.5 * score);
    }
    double inner = 0;
    for (std::size_t j = 0; j < seen; ++j) {
      weights[j] /= sum;
      for (std::size_t d = 0; d < e.value_dim; ++d) {
        const double gradient = gs[row * e.value_dim + d];
        const double value = vs[(first + j) * e.value_dim + d];
        ys[row * e.value_dim + d].add(weights[j] * value);
        dvs[(first + j) * e.value_dim + d].add(weights[j] * gradient);
        slopes[j] += gradient * value;
      }
      inner += weights[j] * slopes[j];
    }
    for (std::size_t j = 0; j < seen; ++j) {
      const double slope = 0.5 * weights[j] * (slopes[j] - inner);
      const double spread = weights[j] * (1 + std::abs(slopes[j] - inner));
      for (std::size_t d = 0; d < e.head_dim; ++d) {
        const double key = ks[(first + j) * e.head_dim + d];
        const double query = qs[row * e.head_dim + d];
        auto& of_query = dqs[row * e.head_dim + d];
        auto& of_key = dks[(first + j) * e.head_dim + d];
        of_query.value += slope * key;
        of_query.magnitude += spread * std::abs(key);
        of_key.value += slope * query;
        of_key.magnitude += spread * std::abs(query);
      }
    }
  }
  const auto compare = [&](const char* name, const Array<float>& actual,
                           const std::vector<Sum>& expected) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(static_cast<double>(actual.data()[i]), expected[i].value,
                  unit * expected[i].magnitude)
          << name << " " << i;
    }
  };
  compare("y", y, ys);
  compare("dq", dq, dqs);
  compare("dk", dk, dks);
  compare("dv", dv, dvs);
}

constexpr Extents small{2, 7, 5, 3, 6};
constexpr Extents large{2, 70, 261, 33, 17};

TEST(AttentionOf, FormatsChosenAtRunTimeGivesSumsInDouble) {
  for (const bool is_causal : {false, true}) {
    for (const auto& formats : {std::array{"e3m4", "e3m4", "e3m4", "e5m2"},
                                std::array{"e2m3fn", "e3m2fn", "e2m3fn", "e3m2fn"},
                                std::array{"e2m1fn", "e4m3fn", "e2m1fn", "e5m2"},
                                std::array{"float16", "e4m3fnuz", "bfloat16", "float32"},
                                std::array{"e5m7", "e6m9", "e2m5", "e3m4"}}) {
      for (const Extents& e : {small, large}) {
        expect_sums_in_double<float>(formats, {}, e, is_causal);
        expect_sums_in_double<bfloat16>(formats, {}, e, is_causal);
      }
    }
  }
}

TEST(AttentionOf, ElementsWithScalesGivesSumsInDouble) {
  for (const ScaleLayout& layout :
       {ScaleLayout::per_tensor(ScaleFormat::power_of_two),
        ScaleLayout::per_tensor(ScaleFormat::binary32), ScaleLayout::per_row(ScaleFormat::binary32),
        ScaleLayout::per_column(ScaleFormat::power_of_two),
        ScaleLayout::per_block_of_columns(ScaleFormat::power_of_two, 4)}) {
    for (const auto& formats : {std::array{"e4m3fn", "e4m3fn", "e4m3fn", "e5m2"},
                                std::array{"e2m1fn", "e2m3fn", "e3m4", "float16"}}) {
      for (const Extents& e : {small, large}) {
        expect_sums_in_double<float>(formats, layout, e, true);
        expect_sums_in_double<bfloat16>(formats, layout, e, false);
      }
    }
  }
}

TEST(AttentionOf, ValuesFarFromZeroKeepsTheirDifferencesInTheirFormat) {
  for (const char* format : {"e3m4", "e2m3fn", "float16", "bfloat16", "float32"}) {
    const std::array formats{"e3m4", "e3m4", format, "e5m2"};
    for (const Extents& e : {small, large}) {
      expect_sums_in_double<float>(formats, {}, e, false, 5);
      expect_sums_in_double<float>(formats, ScaleLayout::per_tensor(ScaleFormat::binary32), e,
                                   false, 5);
      expect_sums_in_double<float>(formats, ScaleLayout::per_tensor(ScaleFormat::power_of_two), e,
                                   false, -5);
    }
  }
}

}  // namespace attention_test
