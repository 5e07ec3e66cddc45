// SPDX-License-Identifier: MIT
#include "unit_scaling/nn/depth.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/errors.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/nn/swiglu.hpp"

namespace depth_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

std::vector<nn::Linear> three_layers() {
  nn::Initialiser initialiser(1);
  std::vector<nn::Linear> layers;
  for (const char* name : {"a", "b", "c"}) layers.emplace_back(initialiser, name, 5, 5);
  return layers;
}

TEST(DepthModuleList, TellsEveryParameterHowDeepTheStackIs) {
  nn::DepthModuleList list(three_layers());
  std::size_t parameters = 0;
  list.for_each_parameter([&](const Parameter& parameter) {
    EXPECT_EQ(parameter.depth, 3U) << parameter.name;
    ++parameters;
  });
  EXPECT_EQ(parameters, 6U);
  EXPECT_EQ(list.size(), 3U);
}

TEST(DepthModuleList, AppliesItsLayersInOrder) {
  const nn::DepthModuleList list(three_layers());
  const auto layers = three_layers();
  Tape<precision::fp32> tape;
  const auto x = tape.input(normal_array<float>({2, 5}, 1));
  EXPECT_TRUE(same_bits(list(x).value(), layers[2](layers[1](layers[0](x))).value()));
  EXPECT_TRUE(same_bits(list[1](x).value(), layers[1](x).value()));
}

TEST(DepthModuleList, OfNothingIsTheIdentity) {
  const nn::DepthModuleList<nn::Linear> list({});
  Tape<precision::fp32> tape;
  const auto x = tape.input(normal_array<float>({2, 5}, 1));
  EXPECT_TRUE(same_bits(list(x).value(), x.value()));
}

TEST(DepthSequential, TellsEveryParameterHowManyModulesThereAre) {
  nn::Initialiser initialiser(1);
  nn::DepthSequential layers(nn::Linear(initialiser, "a", 4, 4),
                             nn::SwiGlu(initialiser, "b", 4, 8));
  layers.for_each_parameter(
      [](const Parameter& parameter) { EXPECT_EQ(parameter.depth, 2U) << parameter.name; });
  Tape<precision::fp8> tape;
  EXPECT_EQ(layers(tape.input(normal_array<float16>({3, 4}, 1))).shape(), (Shape{3, 4}));
}

struct Untagged {
  Parameter parameter{"mine", Array<float>(Shape{1})};
  template <class Visitor> void for_each_parameter(const Visitor& visit) { visit(parameter); }
};

TEST(SetDepth, RefusesStacksInStacksAndUntaggedParameters) {
  nn::DepthModuleList list(three_layers());
  expect_domain_error([&] { nn::set_depth(list, 2); }, {"set_depth", "a.weight"});
  Untagged module;
  expect_domain_error([&] { nn::set_depth(module, 2); }, {"set_depth", "mine"});
}

}  // namespace depth_test
