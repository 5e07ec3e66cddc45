// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <ranges>
#include <type_traits>
#include <utility>

#include "unit_scaling/analysis/gradient_flow.hpp"
#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/analysis/scale_report.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/depth.hpp"
#include "unit_scaling/nn/embedding.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/input_embedding.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/nn/sequential.hpp"
#include "unit_scaling/nn/transformer_encoder.hpp"
#include "unit_scaling/nn/transformer_stack.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/sum.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/optim/sgd.hpp"
#include "unit_scaling/recipes/simulation.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/safetensors_shards.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace views_test {

using namespace unit_scaling;

/// What `call` makes of an owner of some constness and value category; `Nothing` if that does not
/// compile.
struct Nothing {};
template <class Owner, class Call> auto result_of(const Call& /*call*/) {
  if constexpr (std::is_invocable_v<Call, Owner>) {
    return std::type_identity<std::invoke_result_t<Call, Owner>>{};
  } else {
    return std::type_identity<Nothing>{};
  }
}

/// Of an owner with a name `call` gives a view; of a temporary one a value of its own, or nothing.
template <class Owner, class Call> constexpr bool is_view_of_named_owners_only(const Call& call) {
  using Named = typename decltype(result_of<Owner&>(call))::type;
  using Temporary = typename decltype(result_of<Owner>(call))::type;
  using Constant = typename decltype(result_of<const Owner>(call))::type;
  const auto is_view = []<class T>(std::type_identity<T>) {
    return std::is_reference_v<T> || std::is_pointer_v<T> ||
           (std::ranges::view<std::remove_cvref_t<T>> && !std::is_same_v<T, Nothing>);
  };
  return is_view(std::type_identity<Named>{}) && !is_view(std::type_identity<Temporary>{}) &&
         !is_view(std::type_identity<Constant>{});
}

// `VIEWS(Owner, member(argument))`: a macro, as no function can be given the name of a member.
#define UNIT_SCALING_TEST_VIEWS(OWNER, ...)                                    \
  static_assert(is_view_of_named_owners_only<OWNER>(                           \
      []<class O>(O&& owner) -> decltype(std::forward<O>(owner).__VA_ARGS__) { \
        return std::forward<O>(owner).__VA_ARGS__;                             \
      }))

TEST(Views, OfTemporaryOwnersAreValuesOrDoNotCompile) {
  using Numbers = Array<float>;
  using Gradients = Tape<precision::fp8>;
  using Layers = nn::Sequential<nn::Linear, nn::Linear>;
  UNIT_SCALING_TEST_VIEWS(Numbers, data());
  UNIT_SCALING_TEST_VIEWS(Numbers, span());
  UNIT_SCALING_TEST_VIEWS(Numbers, row(0));
  UNIT_SCALING_TEST_VIEWS(Numbers, shape());
  UNIT_SCALING_TEST_VIEWS(Format, spec());
  UNIT_SCALING_TEST_VIEWS(Gradients, memory());
  UNIT_SCALING_TEST_VIEWS(Gradients, gradient(std::declval<const Parameter&>()));
  UNIT_SCALING_TEST_VIEWS(Gradients, gradient(std::declval<const Variable<precision::fp8>&>()));
  UNIT_SCALING_TEST_VIEWS(Gradients, gradient_factors());
  UNIT_SCALING_TEST_VIEWS(Simulation, rules());
  UNIT_SCALING_TEST_VIEWS(nn::Initialiser, scaling());
  UNIT_SCALING_TEST_VIEWS(nn::BertMlp, config());
  UNIT_SCALING_TEST_VIEWS(nn::Embedding, table());
  UNIT_SCALING_TEST_VIEWS(nn::InputEmbedding, table());
  UNIT_SCALING_TEST_VIEWS(nn::TransformerEncoder, embedding());
  UNIT_SCALING_TEST_VIEWS(nn::TransformerStack, layers());
  UNIT_SCALING_TEST_VIEWS(nn::DepthModuleList<nn::Linear>, operator[](0));
  UNIT_SCALING_TEST_VIEWS(Layers, template get<0>());
  UNIT_SCALING_TEST_VIEWS(optim::AdamW, settings());
  UNIT_SCALING_TEST_VIEWS(optim::Sgd, settings());
  UNIT_SCALING_TEST_VIEWS(optim::Lamb, settings());
  UNIT_SCALING_TEST_VIEWS(optim::ParameterGroups, groups());
  UNIT_SCALING_TEST_VIEWS(optim::GradientSum, gradient(std::declval<const Parameter&>()));
  UNIT_SCALING_TEST_VIEWS(train::SafetensorsFile, path());
  UNIT_SCALING_TEST_VIEWS(train::SafetensorsFile, names());
  UNIT_SCALING_TEST_VIEWS(train::SafetensorsFile, info(""));
  UNIT_SCALING_TEST_VIEWS(train::SafetensorsFile, metadata());
  UNIT_SCALING_TEST_VIEWS(train::SafetensorsShards, path());
  UNIT_SCALING_TEST_VIEWS(train::SafetensorsShards, names());
  UNIT_SCALING_TEST_VIEWS(train::SafetensorsShards, info(""));
  UNIT_SCALING_TEST_VIEWS(train::SafetensorsShards, shard_of(""));
  UNIT_SCALING_TEST_VIEWS(train::TextCorpus, training());
  UNIT_SCALING_TEST_VIEWS(train::TextCorpus, validation());
  UNIT_SCALING_TEST_VIEWS(analysis::GradientFlow, contributions());
  UNIT_SCALING_TEST_VIEWS(analysis::GradientFlow, deciding(0));
  UNIT_SCALING_TEST_VIEWS(analysis::GradientFlow, ratio(0));
  UNIT_SCALING_TEST_VIEWS(analysis::GraphTrace, ops());
  UNIT_SCALING_TEST_VIEWS(analysis::Graph, readers(0));
  UNIT_SCALING_TEST_VIEWS(analysis::Graph, read_values());
  UNIT_SCALING_TEST_VIEWS(analysis::ScaleReport, tensors());
  UNIT_SCALING_TEST_VIEWS(analysis::Tracker, tensors());
  UNIT_SCALING_TEST_VIEWS(analysis::Tracker, options());
}

#undef UNIT_SCALING_TEST_VIEWS

TEST(Views, OfATemporaryArrayGiveItsElementsButNoPointer) {
  const Array<float> x(Shape{2}, {3, 4});
  EXPECT_EQ(ops::sum(x, {.scaling = scaling::none}).data()[0], 7);
  EXPECT_EQ(*ops::sum(x, {.scaling = scaling::none}).data(), 7);
  const auto elements = Array<float>(Shape{2}, {3, 4}).data();
  EXPECT_EQ(elements[1], 4) << "the array lives as long as they do";
  static_assert(!std::is_convertible_v<decltype(ops::gelu(x).data()), const float*>);
}

}  // namespace views_test
