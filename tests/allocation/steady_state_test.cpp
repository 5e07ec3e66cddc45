// SPDX-License-Identifier: MIT
// Replaces operator new, hence a program of its own.
#include <gtest/gtest.h>
#include <malloc.h>  // malloc_usable_size, of the C library alone

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/threads.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/feed_forward.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/key_value_cache.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/rotary.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/encoded_gradients.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/low_precision_states.hpp"
#include "unit_scaling/optim/sgd.hpp"
#include "unit_scaling/recipes/block_scaling.hpp"
#include "unit_scaling/recipes/coat.hpp"
#include "unit_scaling/recipes/simulation.hpp"
#include "unit_scaling/recipes/tensor_scaling.hpp"
#include "unit_scaling/train/loss_scaling.hpp"

namespace {

/// How often any form of operator new was called, on any thread.
std::atomic<std::size_t> allocations = 0;
/// Bytes that were asked for so far.
std::atomic<std::size_t> allocated_bytes = 0;
/// Bytes that were asked for and are not given back, with what the C library adds to fill up.
std::atomic<std::size_t> live_bytes = 0;

void* counted_allocation(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  allocated_bytes += bytes;
  // aligned_alloc wants a whole number of alignments.
  const std::size_t size =
      (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* const block = std::aligned_alloc(alignment, size);
  if (block == nullptr) throw std::bad_alloc();
  live_bytes += malloc_usable_size(block);
  return block;
}

void counted_free(void* block) {
  live_bytes -= malloc_usable_size(block);  // of null: 0
  std::free(block);
}

}  // namespace

// Every form: where the standard library is replaced by a sanitiser's, none calls another.
void* operator new(std::size_t bytes) {
  return counted_allocation(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new[](std::size_t bytes) { return operator new(bytes); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted_allocation(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return operator new(bytes, alignment);
}
void* operator new(std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  return operator new(bytes);  // out of memory ends the test anyway
}
void* operator new[](std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  return operator new(bytes);
}
void* operator new(std::size_t bytes, std::align_val_t alignment,
                   const std::nothrow_t& /*tag*/) noexcept {
  return operator new(bytes, alignment);
}
void* operator new[](std::size_t bytes, std::align_val_t alignment,
                     const std::nothrow_t& /*tag*/) noexcept {
  return operator new(bytes, alignment);
}
void operator delete(void* block) noexcept { counted_free(block); }
void operator delete[](void* block) noexcept { counted_free(block); }
void operator delete(void* block, std::size_t /*bytes*/) noexcept { counted_free(block); }
void operator delete[](void* block, std::size_t /*bytes*/) noexcept { counted_free(block); }
void operator delete(void* block, std::align_val_t /*alignment*/) noexcept { counted_free(block); }
void operator delete[](void* block, std::align_val_t /*alignment*/) noexcept {
  counted_free(block);
}
void operator delete(void* block, std::size_t /*bytes*/, std::align_val_t /*alignment*/) noexcept {
  counted_free(block);
}
void operator delete[](void* block, std::size_t /*bytes*/,
                       std::align_val_t /*alignment*/) noexcept {
  counted_free(block);
}
void operator delete(void* block, const std::nothrow_t& /*tag*/) noexcept { counted_free(block); }
void operator delete[](void* block, const std::nothrow_t& /*tag*/) noexcept { counted_free(block); }
void operator delete(void* block, std::align_val_t /*alignment*/,
                     const std::nothrow_t& /*tag*/) noexcept {
  counted_free(block);
}
void operator delete[](void* block, std::align_val_t /*alignment*/,
                       const std::nothrow_t& /*tag*/) noexcept {
  counted_free(block);
}

namespace {

using namespace unit_scaling;

TEST(Allocation, IsCountedInEveryForm) {
  const std::size_t before = allocations;
  // Called by name: the compiler may leave out the allocations of new-expressions.
  ::operator delete(::operator new(8));
  ::operator delete[](::operator new[](8));
  ::operator delete (::operator new (64, std::align_val_t{64}), std::align_val_t{64});
  ::operator delete(::operator new(8, std::nothrow), std::nothrow);
  EXPECT_EQ(allocations - before, 4U);
}

TEST(Allocation, HappensInNoCheckThatHolds) {
  const Shape shape{2, 3};
  const ScaleLayout layout = ScaleLayout::per_row(ScaleFormat::binary32);
  const std::size_t before = allocations;
  require(shape.rank() != 0, "an operation", "expected a text longer than strings hold, got ",
          shape, layout, Format::of<float>(), 1e-30, [] { return std::string(100, 'x'); });
  require_shape(
      shape.rank() == 2, "an operation", [] { return std::string(100, 'x'); }, shape);
  require_same_shape("an operation", "this array, and that other one there", shape, shape);
  require_at_least("an operation", "an attribute of a rather long name", 2, 3.0);
  EXPECT_EQ(allocations - before, 0U);
}

TEST(Allocation, HappensForNoBlockScalesInMemoryThatWaits) {
  RecyclingResource memory;
  const Array<float> numbers = Array<float>::filled({300, 700}, 3.0F);
  const EncodedArray array = EncodedArray::view(numbers);
  for (const ScaleLayout& layout :
       {ScaleLayout::per_block_of_columns(ScaleFormat::power_of_two, 32),
        ScaleLayout::per_block_of_rows(ScaleFormat::power_of_two, 32),
        ScaleLayout{ScaleFormat::binary32, 128, 128},
        ScaleLayout::per_tensor(ScaleFormat::power_of_two)}) {
    const auto scales = [&] {
      static_cast<void>(power_of_two_block_scales(array, layout, Format::of<float8_e4m3fn>(),
                                                  ScaleRounding::floor, &memory));
    };
    scales();
    const std::size_t before = allocations;
    scales();
    EXPECT_EQ(allocations - before, 0U) << to_string(layout);
  }
}

/// A masked language model in small, with every size odd, and its batch.
template <class Optimiser> struct Training {
  static constexpr std::size_t window = 7;
  static constexpr std::size_t sequences = 33;  // several blocks of rows to add up
  static constexpr std::size_t vocabulary = 11;
  static constexpr std::size_t selected_count = 70;

  nn::BertMlp model = [] {
    nn::Initialiser initialiser(1, scaling::paper);
    return nn::BertMlp(
        initialiser,
        {.vocabulary_size = vocabulary, .window = window, .hidden_size = 24, .layers = 2});
  }();
  std::vector<Parameter*> parameters = optim::parameters_of(model);
  Optimiser optimiser{parameters, {.max_norm = 1}};
  Array<std::int32_t> ids{{sequences, window}};
  Array<std::int32_t> selected{{selected_count}};
  Array<std::int32_t> labels{{selected_count}};

  Training() {
    const auto fill = [](Array<std::int32_t>& array, std::size_t step, std::size_t end) {
      std::int32_t* elements = array.mutable_data();
      for (std::size_t i = 0; i < array.size(); ++i) {
        elements[i] = static_cast<std::int32_t>(i * step % end);
      }
    };
    fill(ids, 5, vocabulary);
    fill(selected, 3, sequences * window);
    fill(labels, 7, vocabulary);
  }

  template <Precision P> void step(Tape<P>& tape) {
    tape.clear();
    const auto loss = ops::cross_entropy(model(tape, ids, selected), labels);
    tape.backward(loss);
    optimiser.step(tape, 0.01);
  }
};

/// A thread gets scratch memory in its first turn at a kernel, in whichever step that may be. Here
/// each takes a turn at every kernel, for none may leave before all have come.
template <class Step> void give_each_thread_scratch_memory(std::size_t threads, const Step& step) {
  std::atomic<std::size_t> arrived = 0;
  parallel_for(threads, [&](std::size_t /*thread*/) {
    ++arrived;
    while (arrived < threads) std::this_thread::yield();
    step();
  });
}

/// @param make_recipe makes a tape's recipe, if it has one.
template <class P, class Optimiser>
void expect_no_allocation_from_the_second_step_on(
    const std::function<std::shared_ptr<Recipe>()>& make_recipe = {},
    const std::string& name_of_recipe = "no recipe") {
  const auto prepare = [&](Tape<P>& tape) {
    if (make_recipe) tape.use_recipe(make_recipe());
  };
  for (const std::size_t threads : {std::size_t{1}, std::size_t{2}}) {
    const unit_scaling_test::ThreadCountScope scope(threads);
    Training<Optimiser> training;
    Tape<P> tape;
    prepare(tape);
    training.step(tape);
    give_each_thread_scratch_memory(threads, [&] {
      Training<Optimiser> of_thread;
      Tape<P> tape_of_thread;
      prepare(tape_of_thread);
      of_thread.step(tape_of_thread);
    });
    const std::size_t before = allocations;
    for (int step = 0; step < 5; ++step) training.step(tape);
    EXPECT_EQ(allocations - before, 0U)
        << P::name << ", " << threads << " threads, " << name_of_recipe;
  }
}

TEST(Allocation, HappensInNoStepButTheFirstUnderFp32) {
  expect_no_allocation_from_the_second_step_on<precision::fp32, optim::AdamW>();
}

TEST(Allocation, HappensInNoStepButTheFirstUnderFp8) {
  expect_no_allocation_from_the_second_step_on<precision::fp8, optim::AdamW>();
}

TEST(Allocation, HappensInNoStepButTheFirstOfEachOptimiser) {
  expect_no_allocation_from_the_second_step_on<precision::fp8, optim::Sgd>();
  expect_no_allocation_from_the_second_step_on<precision::fp8, optim::Lamb>();
}

/// Adam as FP8-LM and COAT keep its states; FP8-LM keeps gradients in FP8, too.
struct Fp8LmAdam : optim::Adam {
  Fp8LmAdam(const std::vector<Parameter*>& parameters, const Options& options)
      : Adam(parameters, optim::with_fp8_lm_states(options)), gradients(parameters) {}

  template <class P> void step(const Tape<P>& tape, double rate) {
    gradients.take(tape);
    Adam::step(gradients, rate, gradients.factor());
  }

  optim::EncodedGradients gradients;
};
struct CoatAdam : optim::Adam {
  CoatAdam(const std::vector<Parameter*>& parameters, const Options& options)
      : Adam(parameters, optim::with_coat_states(options)) {}
};

TEST(Allocation, HappensInNoStepButTheFirstOfStatesInFp8) {
  expect_no_allocation_from_the_second_step_on<precision::fp8, Fp8LmAdam>();
  expect_no_allocation_from_the_second_step_on<precision::fp8, CoatAdam>();
}

TEST(Allocation, HappensInNoStepButTheFirstOfASimulation) {
  const auto expect_none_of = [&]<class P>(P /*precision*/, const std::string& rules) {
    expect_no_allocation_from_the_second_step_on<P, optim::AdamW>(
        [&] { return std::make_shared<Simulation>(Simulation::parse(rules)); }, rules);
  };
  expect_none_of(precision::fp16{}, "e4m3fn/e5m2");
  expect_none_of(precision::fp32{}, "readout/*:-/-,e4m3fn~/e5m2~,*=bfloat16/bfloat16~");
  expect_none_of(precision::fp8{}, "e3m4/e5m2");
  expect_none_of(precision::bf16{}, "e4m3b11fnuz/e5m2fnuz");
}

TEST(Allocation, HappensInNoStepButTheFirstOfBlockScaling) {
  const auto expect_none_of = [&]<class P>(P /*precision*/, const BlockScaling& recipe,
                                           const std::string& name) {
    expect_no_allocation_from_the_second_step_on<P, optim::AdamW>(
        [&] { return std::make_shared<BlockScaling>(recipe); }, name);
  };
  expect_none_of(precision::fp8{}, BlockScaling::mxfp8(), "MXFP8");
  expect_none_of(precision::fp32{}, BlockScaling::mxfp4(), "MXFP4");
  expect_none_of(precision::bf16{}, BlockScaling::deepseek(), "DeepSeek");
  expect_none_of(precision::fp16{}, BlockScaling::nvfp4(), "NVFP4");
}

/// Scales each operand by the largest magnitude that its site has had.
class RunningMaximum final : public Recipe {
 public:
  explicit RunningMaximum(const ScaleLayout& layout) : layout_(layout) {}
  std::optional<OperandForms> operand(const OperandSite& site, const EncodedArray& array) override {
    const Array<float> numbers = array.decode(site.memory);
    write_name(site, name_);
    double& largest = largest_[name_];
    for (const float number : numbers.span()) {
      largest = std::max(largest, std::abs(static_cast<double>(number)));
    }
    const std::size_t count = layout_.count(array.rows(), array.columns());
    Array<float> scales({count}, site.memory);
    std::fill_n(scales.mutable_data(), count, std::exp2(std::ceil(std::log2(1e-3F + largest))));
    return OperandForms{
        EncodedArray::encode(array, format_, layout_, scales.span(), {}, site.memory)};
  }
  void visit_state(const RecipeStateVisitor& visit) override { visit("largest", largest_); }

 private:
  Format format_ = Format::parse("e3m4");
  ScaleLayout layout_;
  std::map<std::string, double> largest_;
  std::string name_;
};

TEST(Allocation, HappensInNoStepButTheFirstOfARecipeWithState) {
  for (const ScaleLayout& layout :
       {ScaleLayout::per_tensor(ScaleFormat::binary32),
        ScaleLayout::per_block_of_columns(ScaleFormat::power_of_two, 16)}) {
    expect_no_allocation_from_the_second_step_on<precision::fp32, optim::AdamW>(
        [&] { return std::make_shared<RunningMaximum>(layout); }, to_string(layout));
  }
}

TEST(Allocation, HappensInNoStepButTheFirstOfOneScaleForEachOperand) {
  const auto expect_none_of = [&]<class P>(P /*precision*/) {
    expect_no_allocation_from_the_second_step_on<P, optim::AdamW>(
        [] { return std::make_shared<TensorScaling>(); }, "TensorScaling");
    expect_no_allocation_from_the_second_step_on<P, optim::AdamW>(
        [] { return std::make_shared<DelayedScaling>(); }, "DelayedScaling");
    expect_no_allocation_from_the_second_step_on<P, optim::AdamW>(
        [] { return std::make_shared<ConstantScaling>(ConstantScalingOptions{.bias = 2}); },
        "ConstantScaling");
    expect_no_allocation_from_the_second_step_on<P, optim::AdamW>(
        [] { return std::make_shared<Coat>(); }, "Coat");
  };
  expect_none_of(precision::fp32{});
  expect_none_of(precision::fp8{});
}

TEST(Allocation, OfALossScaleIsNone) {
  Training<optim::AdamW> training;
  Tape<precision::fp16> tape;
  training.step(tape);
  train::LossScaling scaling(train::DynamicLossScale{.growth_interval = 1});
  const std::size_t before = allocations;
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(scaling.check(tape, training.parameters).is_skipped());
  EXPECT_EQ(allocations - before, 0U);
}

TEST(Allocation, HappensOnceForTheScratchMemoryOfOps) {
  Array<float> x({2, 5, 8});
  for (std::size_t i = 0; i < x.size(); ++i) {
    x.mutable_data()[i] = static_cast<float>(Random(1).normal(i));
  }
  Tape<precision::fp32> tape;
  const auto step = [&] {
    tape.clear();
    const auto input = tape.input(x);
    tape.backward(ops::mse_loss(ops::rotary(input), input));
  };
  step();
  const std::size_t before = allocations;
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(allocations - before, 0U);
}

// Several blocks of keys, queries and distances, and sizes that fill no word and no panel.
template <class P> void expect_no_allocation_by_attention_from_the_second_step_on() {
  constexpr std::size_t positions = 301;
  Array<typename P::storage> x({2, 2, positions, 7});
  Array<typename P::storage> distances({2, 2 * positions - 1, 7});
  for (auto* const array : {&x, &distances}) {
    for (std::size_t i = 0; i < array->size(); ++i) {
      array->mutable_data()[i] =
          static_cast<typename P::storage>(static_cast<float>(Random(1).normal(i)));
    }
  }
  const auto run_step = [&](Tape<P>& tape) {
    tape.clear();
    const auto input = tape.input(x);
    const ops::ScaledDotProductAttention causal{.is_causal = true, .dropout_probability = 0.1};
    const auto y = ops::scaled_dot_product_attention(input, input, input, causal);
    tape.backward(ops::mse_loss(
        ops::scaled_dot_product_attention(y, input, input, tape.input(distances)), input));
  };
  for (const std::size_t threads : {std::size_t{1}, std::size_t{2}}) {
    const unit_scaling_test::ThreadCountScope scope(threads);
    Tape<P> tape;
    run_step(tape);
    give_each_thread_scratch_memory(threads, [&] {
      Tape<P> of_thread;
      run_step(of_thread);
    });
    const std::size_t before = allocations;
    for (int i = 0; i < 3; ++i) run_step(tape);
    EXPECT_EQ(allocations - before, 0U) << P::name << ", " << threads << " threads";
  }
}

TEST(Allocation, HappensInNoStepButTheFirstOfAttention) {
  expect_no_allocation_by_attention_from_the_second_step_on<precision::fp32>();
  expect_no_allocation_by_attention_from_the_second_step_on<precision::fp8>();
}

/// Bytes that a training keeps for each parameter from step to step, as the process has them.
template <class Prepare> double bytes_for_a_parameter(const Prepare& prepare) {
  const std::size_t before = live_bytes;
  nn::Initialiser initialiser(1);
  const auto model = std::make_unique<nn::FeedForward>(initialiser, "ffn", 256, 1024);
  const std::vector<Parameter*> parameters = optim::parameters_of(*model);
  std::size_t count = 0;
  for (const Parameter* each : parameters) count += each->shape().size();
  const auto training = prepare(parameters);
  for (int step = 0; step < 2; ++step) {
    Tape<precision::fp8> tape;
    const auto x = tape.constant(Array<float16>::filled({4, 256}, float16(0.5F)));
    tape.backward(ops::mse_loss((*model)(x), x));
    training(tape);
  }
  return static_cast<double>(live_bytes - before) / static_cast<double>(count);
}

// Peng et al. 2023, arXiv:2310.18313: master weights 2, gradient 1, first moment 1, second 2.
/// The bytes that a token allocates that is read after eight others, the same ones
/// each time, with a cache of a capacity.
template <class P> std::size_t bytes_of_a_token(std::size_t capacity) {
  nn::Initialiser initialiser(1);
  const nn::TransformerDecoder model(initialiser, 16,
                                     {.hidden_size = 32,
                                      .context_length = capacity,
                                      .layers = 2,
                                      .heads = 4,
                                      .rotary_base = 10000});
  const auto id = Array<std::int32_t>::filled({1, 1}, 3);
  Tape<P> tape(TapeMode::inference);
  nn::KeyValueCache<P> cache(capacity);
  std::size_t last = 0;
  for (int token = 0; token < 9; ++token) {
    tape.clear();
    const std::size_t before = allocated_bytes;
    (void)model.next_token_logits(tape, id, {.cache = &cache});
    last = allocated_bytes - before;
  }
  return last;
}

TEST(Allocation, OfATokenThatIsReadWithACacheDoesNotDependOnItsCapacity) {
  const std::size_t small = bytes_of_a_token<precision::fp8>(64);
  EXPECT_EQ(bytes_of_a_token<precision::fp8>(1 << 14), small);
  EXPECT_EQ(bytes_of_a_token<precision::fp32>(1 << 14), bytes_of_a_token<precision::fp32>(64));
  EXPECT_LT(small, 4096U);
}

TEST(Memory, OfATrainingAsFp8LmHasItIsSixBytesForAParameter) {
  (void)bytes_for_a_parameter([](const std::vector<Parameter*>& parameters) {
    // Scratch memory, which stays: 4 bytes for each element of the largest parameter among it.
    const auto adam = std::make_shared<optim::Adam>(parameters, optim::with_fp8_lm_states({}));
    return [adam](const Tape<precision::fp8>& tape) { adam->step(tape, 0.01); };
  });
  const double fp8_lm = bytes_for_a_parameter([](const std::vector<Parameter*>& parameters) {
    const auto adam = std::make_shared<optim::Adam>(parameters, optim::with_fp8_lm_states({}));
    const auto gradients = std::make_shared<optim::EncodedGradients>(parameters);
    return [adam, gradients](const Tape<precision::fp8>& tape) {
      gradients->take(tape);
      adam->step(*gradients, 0.01, gradients->factor());
    };
  });
  const double floats = bytes_for_a_parameter([](const std::vector<Parameter*>& parameters) {
    const auto adam = std::make_shared<optim::Adam>(parameters);
    const auto gradients = std::make_shared<optim::GradientSum>(parameters);
    return [adam, gradients](const Tape<precision::fp8>& tape) {
      gradients->clear();
      gradients->add(tape);
      adam->step(*gradients, 0.01);
    };
  });
  // Names, shapes and the like are some kilobytes of 3 MiB.
  EXPECT_NEAR(fp8_lm, 6, 0.05);
  EXPECT_NEAR(floats, 16, 0.05);
}

TEST(Allocation, OfABlockThatWaitsForReuseIsNone) {
  RecyclingResource resource;
  const auto use = [&] {
    for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, std::size_t{100'000}}) {
      void* const first = resource.allocate(size);
      void* const second = resource.allocate(size);
      resource.deallocate(first, size);
      resource.deallocate(second, size);
    }
  };
  use();
  const std::size_t before = allocations;
  use();
  EXPECT_EQ(allocations - before, 0U);
}

}  // namespace
