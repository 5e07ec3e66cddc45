// SPDX-License-Identifier: MIT
#include "unit_scaling/nn/bert_mlp.hpp"

#include <gtest/gtest.h>

#include <cstddef>

#include "support/op_run.hpp"
#include "support/random_arrays.hpp"

namespace {
namespace bert_mlp_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

template <class P> class BertMlp : public testing::Test {};
using Precisions =
    testing::Types<precision::fp32, precision::fp16, precision::bf16, precision::fp8>;
TYPED_TEST_SUITE(BertMlp, Precisions);

// A tape for training computes every position, as its backward pass needs it.
TYPED_TEST(BertMlp, GivesTheSameLogitsForInferenceAsForTraining) {
  for (const nn::NormPlacement norm : {nn::NormPlacement::pre, nn::NormPlacement::post}) {
    for (const std::size_t layers : {0U, 1U, 3U}) {
      for (const Scaling& rules : {scaling::none, scaling::paper, scaling::umup}) {
        nn::Initialiser initialiser(1, rules);
        const nn::BertMlp model(initialiser, {.vocabulary_size = 23,
                                              .window = 6,
                                              .hidden_size = 40,
                                              .layers = layers,
                                              .norm = norm});
        const auto ids = id_array({7, 6}, 23, 2);
        const auto selected = id_array({9}, 42, 3);  // in any order, some of them twice
        Tape<TypeParam> training;
        Tape<TypeParam> inference(TapeMode::inference);
        EXPECT_TRUE(same_bits(model(inference, ids, selected).value(),
                              model(training, ids, selected).value()))
            << layers << " layers";
      }
    }
  }
}

}  // namespace bert_mlp_test
}  // namespace
