// SPDX-License-Identifier: MIT
#include "unit_scaling/nn/dropout.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/errors.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/statistics.hpp"

namespace dropout_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Fp32 = Tape<precision::fp32>;

const Array<float> x = normal_array<float>({64, 257}, 1);

Array<float> dropped(const nn::Dropout& dropout, Fp32& tape) {
  return dropout(tape.input(x)).value();
}

TEST(DropoutModule, DropsOnATapeForTrainingOnly) {
  nn::Initialiser initialiser(7);
  const nn::Dropout dropout(initialiser, 0.25);
  Fp32 training;
  const auto y = dropped(dropout, training);
  std::size_t zeros = 0;
  for (const float element : y.span()) zeros += element == 0 ? 1 : 0;
  // Five standard deviations of a binomial count.
  EXPECT_NEAR(static_cast<double>(zeros) / static_cast<double>(x.size()), 0.25,
              5 * 0.433 / std::sqrt(static_cast<double>(x.size())));
  EXPECT_NEAR(rms(y), 1, 0.02);
  Fp32 inference(TapeMode::inference);
  EXPECT_TRUE(same_bits(dropped(dropout, inference), x));
}

TEST(DropoutModule, EveryStepAndEveryLayerHasItsOwnNumbers) {
  nn::Initialiser initialiser(7);
  const nn::Dropout first(initialiser, 0.5);
  const nn::Dropout second(initialiser, 0.5);
  Fp32 tape;
  const auto of_first = dropped(first, tape);
  EXPECT_FALSE(same_bits(dropped(second, tape), of_first));
  EXPECT_TRUE(same_bits(dropped(first, tape), of_first)) << "the same step";
  tape.clear();
  const auto next = dropped(first, tape);
  EXPECT_FALSE(same_bits(next, of_first));

  Fp32 resumed;
  resumed.set_step(tape.step());
  EXPECT_TRUE(same_bits(dropped(first, resumed), next));
}

TEST(DropoutModule, OfProbabilityZeroIsNotRecorded) {
  nn::Initialiser initialiser(7);
  const nn::Dropout dropout(initialiser, 0);
  Fp32 tape;
  (void)dropped(dropout, tape);
  EXPECT_EQ(tape.size(), 0U);
}

TEST(DropoutModule, RefusesImpossibleProbabilities) {
  nn::Initialiser initialiser(7);
  for (const double probability : {-0.1, 1.0, 2.0, std::nan("")}) {
    expect_domain_error([&] { (void)nn::Dropout(initialiser, probability); },
                        {"dropout", "probability"});
  }
}

}  // namespace dropout_test
