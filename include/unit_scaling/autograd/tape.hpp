// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: records ops and runs their backward passes in reverse.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <memory_resource>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/decoded_parameters.hpp"
#include "unit_scaling/autograd/encoded_saves.hpp"
#include "unit_scaling/autograd/gradient_factor.hpp"
#include "unit_scaling/autograd/gradient_sums.hpp"
#include "unit_scaling/autograd/inherited_rule.hpp"
#include "unit_scaling/autograd/op_node.hpp"
#include "unit_scaling/autograd/op_record.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/recipe_in_use.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/autograd/step_observer.hpp"
#include "unit_scaling/autograd/tape_operands.hpp"
#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/operand.hpp"
#include "unit_scaling/scaling/item_count.hpp"
#include "unit_scaling/scaling/scales.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// What a tape does with the ops it sees.
enum class TapeMode {
  training,   ///< keep what the backward pass needs
  inference,  ///< keep nothing
};

namespace detail {

/// How many arrays the output of an op is.
template <class Output> inline constexpr std::size_t array_count = std::tuple_size_v<Output>;
template <class T> inline constexpr std::size_t array_count<Array<T>> = 1;

/// A number that no recording on any tape had before.
[[nodiscard]] inline std::uint64_t next_recording() {
  static std::atomic<std::uint64_t> last = 0;
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace detail

/// Records ops on variables under precision policy P, then computes gradients in reverse order.
///
/// A tape is used again for every step: `clear`, record the forward pass, `backward`, read the
/// gradients. All arrays of a step, and what is recorded of its ops, live in the tape's own memory
/// and are handed out again in the next one, so that a step like the one before allocates nothing.
/// The backward pass is a loop, not a recursion, and frees each op's saved arrays and
/// each intermediate gradient as soon as they have been used. A tape belongs to one thread, and
/// computes in default arithmetic, whatever that thread is told to do (core/arithmetic.hpp).
template <Precision P> class Tape {
 public:
  using Storage = typename P::storage;
  using Compute = typename P::compute;
  using Observer = typename StepObserver<P>::Observer;
  using Tracer = std::function<void(const OpRecord&)>;
  using FinalGradientListener = std::function<void(const Parameter&)>;

  /// @param upstream where the tape's memory comes from. The memory of another tape lets this one
  ///        use what waits there, and must outlive it.
  explicit Tape(TapeMode mode = TapeMode::training,
                std::pmr::memory_resource* upstream = std::pmr::new_delete_resource())
      : memory_(upstream), records_(upstream), mode_(mode) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
  ~Tape() { clear(); }

  /// The memory that values, saved arrays and gradients live in.
  [[nodiscard]] RecyclingResource& memory() & { return memory_; }
  [[nodiscard]] TapeMode mode() const { return mode_; }

  /// The number of this step: how often the tape was cleared, or counted on from `set_step`. Layers
  /// that draw random numbers draw those of the step.
  [[nodiscard]] std::uint64_t step() const { return step_; }
  void set_step(std::uint64_t step) {
    step_ = step;
    recipe_.set_step(step_);
    observer_.choose(step_);
  }

  /// Shows the number of the step, "step", to `visit(name, number)`, which may set it. There is no
  /// other state, but that of a recipe, which shows it itself: a training goes on exactly between
  /// two steps.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    std::uint64_t step = step_;
    visit("step", step);
    if (step != step_) set_step(step);
  }

  /// Forgets everything recorded, gradients included, and begins the next step. Memory stays, to be
  /// used again.
  void clear();

  /// A value that no gradient is wanted for. Numbers of another format are rounded to P::storage,
  /// to nearest even, and to infinity or NaN beyond its largest.
  template <unit_scaling::Storage T = Storage>
  [[nodiscard]] Variable<P> constant(const Array<T>& value) {
    return leaf(
        "constant",
        in_tape_memory(kernels::convert<Storage, Overflow::infinity_or_nan>(value, &memory_)),
        false);
  }

  /// A constant that stays in its own memory, and its operand as P::matmul_operand has it. The next
  /// op that has products reads that where no recipe makes another, so that nothing is rounded. An
  /// op whose first argument it is has its results in that memory, too.
  [[nodiscard]] Variable<P> constant(const Array<Storage>& value, const kernels::Operand& operand);

  /// A value whose gradient is wanted. Numbers of another format are rounded as in `constant`.
  template <unit_scaling::Storage T = Storage>
  [[nodiscard]] Variable<P> input(const Array<T>& value) {
    return leaf(
        "input",
        in_tape_memory(kernels::convert<Storage, Overflow::infinity_or_nan>(value, &memory_)),
        true);
  }

  /// The parameter as a variable; the same one however often it is asked for between two clears,
  /// so a parameter used twice gets the sum of its gradients. The parameter must stay in place, for
  /// its gradient to be found, and must not be written to before `backward` is done.
  /// @throws std::invalid_argument if it was written to, or is another one at the same place.
  [[nodiscard]] Variable<P, float> parameter(const Parameter& parameter);

  /// Computes the op and records it; called by the op's function object.
  /// @throws std::invalid_argument for a variable of another tape or from before a `clear`.
  template <ops::ScaledOp Op, class... Args> auto record(const Op& op, const Args&... args) {
    const DefaultArithmetic arithmetic;
    // In braces, left to right: parameters are numbered in the order of the arguments.
    const std::tuple<decltype(resolve(args))...> resolved{resolve(args)...};
    return std::apply(
        [&](const auto&... each) {
          Op in_model = op;
          const auto found = inherited_by(slots_of(each...)).rule();
          if (found) ops::inherit(in_model, *found);
          return record_resolved(in_model, each...);
        },
        resolved);
  }

  /// Computes the gradient of `seed * loss` with respect to every parameter and input.
  /// @param seed the gradient of the loss itself: 1, or a loss scale. It is asked for as in
  ///        `require_positive`: with another one, every gradient would be 0, NaN or the wrong way.
  /// Unwinds the tape, so it runs once between two clears. If an op or an observer throws, the
  /// tape is cleared.
  /// @throws std::invalid_argument if the loss is not one number, not of this tape or depends on no
  ///         parameter or input; if the tape is for inference, or already unwound; if part of its
  ///         recipe has met no op; DomainError for another seed. Then nothing is unwound.
  template <class T>
  void backward(const Variable<P, T>& loss, std::type_identity_t<T> seed = T{1}) {
    const DefaultArithmetic arithmetic;
    check(loss);
    begin_backward(loss.slot_, static_cast<double>(seed));
    sums_.add_loss(loss.slot_, Array<T>::filled(loss.shape(), seed, &memory_));
    unwind();
  }

  /// Calls `listener(parameter)` in each `backward` from now on, once for each parameter that a
  /// recorded op reads, as soon as all ops that read it are unwound: `gradient(parameter)` is what
  /// it will be after `backward`. That is empty for a parameter that the loss does not depend on.
  /// An empty function ends that, and a listener may set another one, which hears of what follows.
  /// If a listener clears the tape, `backward` throws std::invalid_argument.
  void on_final_gradient(FinalGradientListener listener) {
    final_gradient_listener_ =
        listener ? std::make_shared<const FinalGradientListener>(std::move(listener)) : nullptr;
  }

  /// The gradient of a parameter after `backward`; empty if the loss does not depend on it. It
  /// lives in the tape's memory: a copy shares that and must not outlive the tape.
  [[nodiscard]] const Array<Storage>& gradient(const Parameter& parameter) const& {
    static const Array<Storage> none;
    const auto entry = parameters_.find(&parameter);
    return entry == parameters_.end() ? none : sums_.of(entry->second);
  }
  const Array<Storage>& gradient(const Parameter& parameter) const&& = delete;

  /// The gradient of an input after `backward`; empty if the loss does not depend on it, and for
  /// what is no input: gradients in between are freed as they are used.
  [[nodiscard]] const Array<Storage>& gradient(const Variable<P>& input) const& {
    check(input);
    return sums_.of(input.slot_);
  }
  const Array<Storage>& gradient(const Variable<P>& input) const&& = delete;

  /// The products of batch-dependent factors that the gradients of `backward` carry; see
  /// `for_each_gradient_part`. None before it.
  [[nodiscard]] std::span<const GradientFactor> gradient_factors() const& {
    return sums_.factors();
  }
  std::span<const GradientFactor> gradient_factors() const&& = delete;

  /// Calls `visit(factor, gradient)` for each part of a parameter's gradient, in the order of the
  /// backward pass: the sum of those that carry the product number `factor` of
  /// `gradient_factors()`. The parts add up to `gradient(parameter)`.
  ///
  /// Most parameters have one part. A tied table has two: that of the look-up, whose factor counts
  /// ids, and that of the read-out, whose factor counts rows.
  template <class Visit>
  void for_each_gradient_part(const Parameter& parameter, const Visit& visit) const {
    const auto entry = parameters_.find(&parameter);
    if (entry != parameters_.end()) sums_.for_each_part(entry->second, visit);
  }

  /// Number of ops recorded and not yet unwound.
  [[nodiscard]] std::size_t size() const { return nodes_.size(); }

  /// Bytes that the recorded ops keep for the backward pass; an array kept by several counts once,
  /// and parameters, which exist anyway, do not count. What is decoded of their codes does.
  [[nodiscard]] std::size_t saved_bytes() const;

  /// Bytes that the tape holds from upstream, in use or waiting to be used again: for values, saved
  /// arrays and gradients, and for its records of ops and parameters.
  [[nodiscard]] std::size_t bytes_held() const {
    return memory_.bytes_held() + records_.bytes_held();
  }

  /// Calls `observer` with every value as it is recorded and every gradient as it is used, in each
  /// step whose number `every` divides, until another, or none (`nullptr`), is set. It does not
  /// change what is computed. Between two clears a step is observed as a whole or not at all, so it
  /// is set before the step is recorded.
  /// @throws std::invalid_argument if `every` is 0.
  void observe_with(Observer observer, std::uint64_t every = 1) {
    observer_.use(std::move(observer), every, step_);
  }

  /// Calls `tracer` with every op as it is recorded, until another, or none (`nullptr`), is set.
  void trace_with(Tracer tracer) { tracer_ = std::move(tracer); }

  /// Makes the operands of ops that are recorded from here on, and rounds what they write, as a
  /// recipe says (autograd/recipe.hpp): `Simulation::parse("e4m3fn/e5m2")`, or one of your own.
  /// None (`nullptr`) leaves all as P says.
  ///
  /// A recipe is kept in a copy, or shared by who keeps its pointer.
  /// @throws std::invalid_argument if P has double, or if something is recorded already.
  void use_recipe(const std::shared_ptr<RecipeOfTape>& recipe);
  template <std::derived_from<RecipeOfTape> R> void use_recipe(R recipe) {
    use_recipe(std::shared_ptr<RecipeOfTape>(std::make_shared<R>(std::move(recipe))));
  }

  /// @throws std::invalid_argument if part of the recipe has met no op so far. `backward` asks; a
  ///         tape for inference is to be asked when a step is recorded.
  void require_recipe_used() const {
    if (recipe_) recipe_->require_all_used();
  }

  /// True if somebody looks at the ops of this step, or has a recipe for them, who may name them.
  /// Modules then record each op on its own where one op would compute the same.
  [[nodiscard]] bool is_observed() const { return observer_ || tracer_ || recipe_; }

  /// While it lives, ops belong to the module of a path.
  class [[nodiscard]] Module {
   public:
    Module(Tape& tape, std::string_view path)
        : tape_(tape), outer_(std::exchange(tape.module_, path)) {}
    Module(const Module&) = delete;
    Module& operator=(const Module&) = delete;
    ~Module() { tape_.module_ = outer_; }

   private:
    Tape& tape_;
    std::string_view outer_;
  };

  /// `const auto module = tape.enter(name_);` says whose ops follow, to observers. The path is not
  /// copied and must stay in place until the last of them is recorded.
  Module enter(std::string_view path) { return {*this, path}; }

  /// While it lives, ops do not belong to the batch.
  class [[nodiscard]] OutsideBatch {
   public:
    explicit OutsideBatch(Tape& tape)
        : tape_(tape), outer_(std::exchange(tape.is_outside_batch_, true)) {}
    OutsideBatch(const OutsideBatch&) = delete;
    OutsideBatch& operator=(const OutsideBatch&) = delete;
    ~OutsideBatch() { tape_.is_outside_batch_ = outer_; }

   private:
    Tape& tape_;
    bool outer_;
  };

  /// `const auto outside = tape.outside_batch();` says that the ops that follow are the same for
  /// every batch: their rows are positions or distances, say, which all sequences share. So their
  /// factors do not depend on the size of the batch, which GradientSum (optim/gradient_sum.hpp)
  /// asks about.
  OutsideBatch outside_batch() { return OutsideBatch(*this); }

 private:
  using Node = detail::Node<P>;
  using NodePointer = detail::NodePointer<P>;
  template <Precision, class, std::size_t, class, class...> friend struct detail::OpNode;

  /// No recipe then.
  static constexpr bool has_double = std::is_same_v<Storage, double> ||
                                     std::is_same_v<typename P::matmul_operand, double> ||
                                     std::is_same_v<typename P::matmul_gradient, double>;

  /// What is known of a variable without its value and without its gradient.
  struct Slot {
    Shape shape = {};
    std::size_t readers = 0;  ///< see `count_readers`
    bool wanted = false;      ///< a gradient is wanted, or passes through on its way to one that is
    const Parameter* parameter = nullptr;  ///< whose value it is; read by listeners alone
    const void* elements = nullptr;        ///< of that parameter when it was recorded
    ContentVersion version = {};           ///< of that parameter when it was recorded last
    std::uint64_t numbers_version = 0;     ///< of the array of it that the tape then gave out
    Format held = {};                      ///< whose numbers the value has
    InheritedRule rule = {};               ///< which ops that read it inherit
  };

  /// A value that no op writes.
  /// @param source what a recipe knows it as.
  Variable<P> leaf(std::string_view source, Array<Storage> own, bool wanted) {
    const std::size_t slot = slots_.size();
    add_slot(own.shape(), wanted).held = Format::of<Storage>();
    if (recipe_) {
      recipe_->begin_op({.name = source, .module = module_});
      if (const auto format = recipe_.write<P>({{.module = module_, .op = source}}, own)) {
        slots_[slot].held = *format;
      }
    }
    return {*this, slot, generation_, std::move(own)};
  }

  /// Asks whether a backward pass can begin at a loss, which it then has.
  void begin_backward(std::size_t loss, double seed);

  /// Runs the backward passes of all nodes, from the gradient of the loss on.
  void unwind();

  /// The backward pass of one node, if a gradient reaches it.
  void backward_of(Node& node);

  /// How many nodes are to be unwound that read each parameter, by slot.
  void count_readers();
  /// Adds up the gradients of the parameters that no other node reads, and tells the listener.
  void end_reading(const Node& node);
  [[gnu::noinline]] void tell_final_gradient(const Parameter& parameter);

  /// Whether the gradient of an op is wanted: of any of its inputs.
  [[nodiscard]] bool is_gradient_wanted(std::span<const std::size_t> input_slots) const;

  /// Takes a node, made in `records_`, for the op that is recorded now.
  void add_node(Node& node, std::size_t first_output);

  /// Appends what is known of a new value.
  Slot& add_slot(const Shape& shape, bool wanted);
  /// The same of one that an op writes.
  void add_output(const Shape& shape, bool wanted, Format held, InheritedRule rule);

  /// Ops allocate where their first argument lives, so constants move into the tape's memory.
  template <class T> Array<T> in_tape_memory(const Array<T>& value) {
    if (value.resource() == &memory_) return value;
    return Array<T>(value.shape(), value.span(), &memory_);
  }

  template <class T> const Variable<P, T>& resolve(const Variable<P, T>& variable) {
    check(variable);
    return variable;
  }
  Variable<P, float> resolve(const Parameter& value) { return parameter(value); }
  Array<std::int32_t> resolve(const Array<std::int32_t>& indices) {
    return in_tape_memory(indices);
  }

  template <class T> static const Array<T>& value_of(const Variable<P, T>& variable) {
    return variable.value();
  }
  static const Array<std::int32_t>& value_of(const Array<std::int32_t>& indices) { return indices; }

  /// The slots of those arguments that have one.
  template <class... Args> [[nodiscard]] static auto slots_of(const Args&... args) {
    constexpr std::size_t inputs = (std::size_t{0} + ... + (is_variable<Args> ? 1 : 0));
    std::array<std::size_t, inputs> slots{};
    std::size_t i = 0;
    const auto add = [&]<class Arg>(const Arg& arg) {
      if constexpr (is_variable<Arg>) slots[i++] = arg.slot_;
    };
    (add(args), ...);
    return slots;
  }

  /// What an op that reads these values inherits.
  [[nodiscard]] InheritedRule inherited_by(std::span<const std::size_t> input_slots) const;

  template <class Op, class... Args> auto record_resolved(const Op& op, const Args&... args) {
    const auto scales = op.scales(value_of(args)...);
    constexpr std::size_t inputs = (std::size_t{0} + ... + (is_variable<Args> ? 1 : 0));
    if (recipe_) begin_op(Op::name, Op::traits.has_products, &ops::rounds_weights_as<Op, P>);
    auto result = forward_of(op, scales, args...);
    if constexpr (Op::traits.has_products) {
      if (observer_) observer_.show_operands({Op::name, module_, recorded_}, operands_, args...);
      operands_.end();
    }
    constexpr std::size_t outputs = detail::array_count<decltype(result.output)>;
    std::array<std::optional<Format>, outputs> formats{};
    if constexpr (!Op::traits.is_loss) {
      if (recipe_) write_outputs<Op>(result, formats);
    }
    static_assert(std::is_same_v<decltype(scales), const Scales<inputs>>,
                  "scales must have one backward factor for each differentiable input");
    const auto input_slots = slots_of(args...);
    const bool wanted = is_gradient_wanted(input_slots);

    const auto finish = [&]<class... T>(const Array<T>&... y) {
      const std::size_t first_output = slots_.size();
      std::size_t output = 0;
      const InheritedRule rule = inherited_by(input_slots).behind(ops::told_rule(op));
      (add_output(y.shape(), wanted, formats[output++].value_or(Format::of<T>()), rule), ...);
      if (observer_) observer_.show_outputs({Op::name, module_, recorded_}, formats, y...);
      if (tracer_) {
        trace(op, scales, input_slots, first_output, outputs, value_of(args)...);
      }
      if (wanted) {
        std::array<ItemCount, inputs> counts{};
        if (!is_outside_batch_) {
          std::array<bool, inputs> are_parameters{};
          for (std::size_t k = 0; k < inputs; ++k) {
            are_parameters[k] = slots_[input_slots[k]].parameter != nullptr;
          }
          counts = ops::item_counts<Op, inputs>(op, are_parameters, value_of(args)...);
        }
        using RecordedNode = detail::OpNode<P, Op, inputs, decltype(result.saved), T...>;
        add_node(*std::pmr::polymorphic_allocator<>(&records_).template new_object<RecordedNode>(
                     op, scales, std::move(result.saved), input_slots, counts),
                 first_output);
        if constexpr (!Op::traits.is_loss) {
          if constexpr (!has_double) {
            if (recipe_) encoded_.take_from(*nodes_.back(), {activation_of(args)..., y.data()...});
          }
        }
      }
      ++recorded_;
      return [&]<std::size_t... k>(std::index_sequence<k...>) {
        return std::tuple{Variable<P, T>(*this, first_output + k, generation_, y)...};
      }
      (std::index_sequence_for<T...>{});
    };
    if constexpr (is_array<decltype(result.output)>) {
      return std::get<0>(finish(result.output));
    } else {
      return std::apply(finish, result.output);
    }
  }

  /// Where the master copy of a parameter is.
  [[nodiscard]] static const void* elements_of(const Parameter& parameter) {
    if (parameter.is_encoded()) return parameter.encoded->codes.codes().data();
    return parameter.value.data();
  }

  /// A parameter that has a slot already must be the one that was recorded there.
  void require_unchanged(const Slot& slot, const Parameter& parameter) const;

  /// What tells the module of batch-dependent factors; of others nobody asks.
  [[nodiscard]] std::size_t hash_of_module(std::span<const ItemCount> counts) const;

  /// Tells the recipe of an op.
  void begin_op(std::string_view name, bool has_products,
                bool (*rounds_weights_as)(const FormatSpec&, const FormatSpec&));

  /// The forward pass of an op.
  template <class Op, class S, class... Args>
  auto forward_of(const Op& op, const S& scales, const Args&... args) {
    if constexpr (Op::traits.has_products) {
      operands_.begin(TapeOperands::Pass::forward, recipe_ ? kept(module_) : module_, Op::name);
      (add_operand_argument(args), ...);
      return op.forward(ops::WithOperandSource<P>{{}, &operands_}, scales, value_of(args)...);
    } else {
      return op.forward(P{}, scales, value_of(args)...);
    }
  }

  template <class T> void add_operand_argument(const Variable<P, T>& variable) {
    const Slot& slot = slots_[variable.slot_];
    OperandArgument& argument = operands_.add(variable.value().data(), slot.held);
    argument.parameter = slot.parameter;
    // What was decoded of codes is another array in each step, of the same contents.
    const std::uint64_t of_array = variable.value().version();
    argument.version =
        of_array == slot.numbers_version ? slot.version : ContentVersion{of_array, 0};
    argument.value = variable.slot_;
    argument.shape = variable.shape();
  }
  void add_operand_argument(const Array<std::int32_t>& /*indices*/) {}

  /// Rounds the outputs of an op as the recipe says, also where it has saved them.
  /// @param formats is told what they are rounded to.
  template <class Op, class Result>
  [[gnu::cold]] void write_outputs(Result& result, std::span<std::optional<Format>> formats) {
    std::size_t k = 0;
    const auto write_one = [&](Array<Storage>& output) {
      [[maybe_unused]] const void* const before = output.data();
      formats[k] = write_output(Op::name, Op::traits.rounds_within, k, output);
      if constexpr (RecipeInUse::can_write<P>) {
        if (output.data() == before) return;
        const auto replace = [&]<class T>(T& saved) {
          if constexpr (std::is_same_v<T, Array<Storage>>) {
            if (saved.data() == before && saved.size() == output.size()) {
              saved = output.reshaped(saved.shape());
            }
          }
        };
        std::apply([&](auto&... saved) { (replace(saved), ...); }, result.saved);
      }
    };
    const auto visit = [&]<class T>(Array<T>& output) {
      if constexpr (std::is_same_v<T, Storage>) write_one(output);
      ++k;
    };
    if constexpr (is_array<decltype(result.output)>) {
      visit(result.output);
    } else {
      std::apply([&](auto&... output) { (visit(output), ...); }, result.output);
    }
  }

  /// Rounds one output, number `index`, of an op.
  std::optional<Format> write_output(std::string_view op, bool rounds_within, std::size_t index,
                                     Array<Storage>& output);

  /// The path of a module, kept for the backward pass; empty where nobody is told.
  [[nodiscard]] std::string_view kept(std::string_view module);

  /// The elements of an argument unless it is a parameter.
  template <class T> const void* activation_of(const Variable<P, T>& variable) const {
    return slots_[variable.slot_].parameter == nullptr ? variable.value().data() : nullptr;
  }
  static const void* activation_of(const Array<std::int32_t>& /*indices*/) { return nullptr; }

  template <class T> Array<T> take_gradient(std::size_t slot) {
    return sums_.template take<T>(slot, slots_[slot].shape);
  }

  /// Adds what an op computed for its inputs.
  /// @param factor what the gradients of the outputs carried.
  void add_gradients(const Node& node, std::initializer_list<Array<Storage>*> gradients,
                     std::size_t factor);

  template <class T> void check(const Variable<P, T>& variable) const {
    if (variable.tape_ != this || variable.generation_ != generation_) {
      throw std::invalid_argument(
          "Tape: the variable belongs to another tape, was recorded before Tape::clear, or was "
          "moved from");
    }
  }

  /// Shows an op with arguments `x`.
  template <class Op, std::size_t inputs, class... Arrays>
  [[gnu::cold]] void trace(const Op& op, const Scales<inputs>& scales,
                           const std::array<std::size_t, inputs>& input_slots,
                           std::size_t first_output, std::size_t outputs, const Arrays&... x) {
    OpRecord record = record_of_slots(input_slots, first_output, outputs);
    describe_op(record, op, scales, x...);
    tracer_(record);
  }

  /// What a record tells of an op's inputs and outputs whatever the op is.
  [[nodiscard]] OpRecord record_of_slots(std::span<const std::size_t> input_slots,
                                         std::size_t first_output, std::size_t outputs) const;

  // Declared first, hence destroyed last: every array below lives in it.
  RecyclingResource memory_;
  RecyclingResource records_;  ///< of nodes and parameters, apart so that `memory_` counts arrays
  TapeMode mode_;
  std::vector<Slot> slots_;
  std::vector<NodePointer> nodes_;  ///< of the ops that a gradient passes through
  /// Shared with its own call, in which it may be replaced.
  std::shared_ptr<const FinalGradientListener> final_gradient_listener_;
  DecodedParameters decoded_{memory_};
  std::size_t recorded_ = 0;  ///< ops since the last clear, those without a node included
  std::pmr::unordered_map<const Parameter*, std::size_t> parameters_{&records_};
  std::uint64_t generation_ = detail::next_recording();
  std::uint64_t step_ = 0;
  bool unwound_ = false;
  Tracer tracer_;
  std::string_view module_;  ///< whose ops are recorded
  bool is_outside_batch_ = false;
  std::set<std::string, std::less<>> module_paths_;  ///< of all steps, where somebody is told
  RecipeInUse recipe_;
  StepObserver<P> observer_{recipe_, memory_};
  TapeOperands operands_{recipe_, memory_, mode_ == TapeMode::training};
  GradientSums<P> sums_{memory_, recipe_};
  EncodedSaves<P> encoded_{recipe_, memory_};
};

// What does not depend on an op stands apart from the class, so that it is not inline: compiled
// once for each tape, not once for each op, and not at all in a program that has it compiled
// elsewhere.

template <Precision P> void Tape<P>::clear() {
  encoded_.clear();
  decoded_.clear();
  while (!nodes_.empty()) nodes_.pop_back();
  operands_.end_step();
  slots_.clear();
  sums_.clear();
  parameters_.clear();
  observer_.clear();
  recorded_ = 0;
  unwound_ = false;
  generation_ = detail::next_recording();
  observer_.choose(++step_);
  recipe_.begin_step(step_);
}

template <Precision P> void Tape<P>::use_recipe(const std::shared_ptr<RecipeOfTape>& recipe) {
  if (!slots_.empty()) {
    throw std::invalid_argument("use_recipe: expected a tape with nothing recorded, clear it");
  }
  if (recipe && has_double) {
    throw std::invalid_argument("use_recipe: expected a policy without double, got " +
                                std::string(P::name));
  }
  operands_.clear();
  recipe_.use(recipe, std::is_same_v<Compute, double>, step_);
}

template <Precision P>
void Tape<P>::begin_op(std::string_view name, bool has_products,
                       bool (*rounds_weights_as)(const FormatSpec&, const FormatSpec&)) {
  if constexpr (!has_double) {
    recipe_->begin_op({.name = name,
                       .module = module_,
                       .has_products = has_products,
                       .rounds_weights_as = rounds_weights_as,
                       .operand = format_spec<typename P::matmul_operand>,
                       .gradient = format_spec<typename P::matmul_gradient>});
  }
}

template <Precision P>
std::optional<Format> Tape<P>::write_output(std::string_view op, bool rounds_within,
                                            std::size_t index, Array<Storage>& output) {
  return recipe_.write<P>({{.module = module_, .op = op, .argument = index},
                           /*is_gradient=*/false,
                           rounds_within},
                          output);
}

template <Precision P> std::string_view Tape<P>::kept(std::string_view module) {
  if ((!observer_ && !recipe_) || module.empty()) return {};
  const auto known = module_paths_.find(module);
  return known != module_paths_.end() ? *known : *module_paths_.emplace(module).first;
}

template <Precision P>
Variable<P> Tape<P>::constant(const Array<Storage>& value, const kernels::Operand& operand) {
  require_same_shape("Tape::constant", "a value and its operand", value.shape(), operand.shape());
  Variable<P> result = leaf("constant", value, false);
  operands_.add_constant(result.slot_, {value.version(), 0}, operand);
  return result;
}

template <Precision P> Variable<P, float> Tape<P>::parameter(const Parameter& parameter) {
  const auto [entry, is_new] = parameters_.try_emplace(&parameter, slots_.size());
  if (!is_new) {
    require_unchanged(slots_[entry->second], parameter);
  } else {
    Slot& slot = add_slot(parameter.shape(), true);
    slot.parameter = &parameter;
    slot.elements = elements_of(parameter);
    slot.held = Format::of<float>();
    slot.rule = InheritedRule::of_parameter(parameter.rule);
    if (observer_) observer_.show_parameter(parameter, parameters_.size() - 1, entry->second);
  }
  Array<float> numbers = parameter.is_encoded() ? decoded_.floats_of(parameter) : parameter.value;
  Slot& slot = slots_[entry->second];
  slot.version = parameter.version();
  slot.numbers_version = numbers.version();
  return {*this, entry->second, generation_, std::move(numbers)};
}

template <Precision P> void Tape<P>::begin_backward(std::size_t loss, double seed) {
  require_positive("backward", "a seed", seed);
  const Shape& shape = slots_[loss].shape;
  if (shape.size() != 1) {
    throw std::invalid_argument("backward: expected a loss of one number, got shape " +
                                to_string(shape));
  }
  const auto refuse = [](const char* why) {
    throw std::invalid_argument(std::string("backward: expected ") + why);
  };
  if (mode_ == TapeMode::inference) refuse("a tape for training, got one for inference");
  if (unwound_) refuse("a Tape::clear since the last backward, which unwound the tape");
  if (!slots_[loss].wanted) refuse("a loss that depends on a parameter or an input");
  require_recipe_used();
  unwound_ = true;
  sums_.begin(slots_.size());
}

template <Precision P> void Tape<P>::count_readers() {
  for (Slot& slot : slots_) slot.readers = 0;
  for (const NodePointer& node : nodes_) {
    for (const std::size_t slot : node->input_slots) ++slots_[slot].readers;
  }
}

template <Precision P> void Tape<P>::end_reading(const Node& node) {
  for (const std::size_t slot : node.input_slots) {
    if (--slots_[slot].readers != 0 || slots_[slot].parameter == nullptr) continue;
    sums_.add_up_parts(slot);
    if (final_gradient_listener_) tell_final_gradient(*slots_[slot].parameter);
  }
}

template <Precision P> void Tape<P>::tell_final_gradient(const Parameter& parameter) {
  const std::uint64_t generation = generation_;
  const auto listener = final_gradient_listener_;
  (*listener)(parameter);
  if (generation_ != generation) {
    throw std::invalid_argument(
        "backward: expected a tape that stays as it is, got Tape::clear by a listener");
  }
}

template <Precision P> void Tape<P>::unwind() {
  count_readers();
  while (!nodes_.empty()) {
    // Taken off the tape first: what the op saved is freed at the end of its turn.
    const NodePointer node = std::move(nodes_.back());
    nodes_.pop_back();
    try {
      backward_of(*node);
      end_reading(*node);
    } catch (...) {
      clear();  // half a backward pass must not be taken for a whole one
      throw;
    }
  }
  if (observer_) observer_.show_parameter_gradients(sums_);
}

template <Precision P> void Tape<P>::backward_of(Node& node) {
  const std::optional<std::size_t> factor = sums_.factor_of(node.first_output, node.outputs);
  if constexpr (!has_double) {
    if (node.encoded != 0) encoded_.give_back_to(node, factor.has_value());
  }
  if (factor) node.backward(*this, *factor);
}

template <Precision P>
bool Tape<P>::is_gradient_wanted(std::span<const std::size_t> input_slots) const {
  return mode_ == TapeMode::training &&
         std::any_of(input_slots.begin(), input_slots.end(),
                     [&](std::size_t slot) { return slots_[slot].wanted; });
}

template <Precision P>
void Tape<P>::require_unchanged(const Slot& slot, const Parameter& parameter) const {
  const bool is_other = slot.shape != parameter.shape();
  // What a backward pass is still to read.
  const bool is_written = mode_ == TapeMode::training && !unwound_ &&
                          (slot.elements != elements_of(parameter) ||
                           (parameter.is_encoded() && slot.version != parameter.version()));
  if (!is_other && !is_written) return;
  throw std::invalid_argument("Tape: expected parameter '" + parameter.name + "', " +
                              to_string(parameter.shape()) +
                              ", to stay in place and unwritten between its uses in a step, got "
                              "another value than the first time, " +
                              to_string(slot.shape));
}

template <Precision P>
std::size_t Tape<P>::hash_of_module(std::span<const ItemCount> counts) const {
  for (const ItemCount& count : counts) {
    if (count.depends_on_batch()) return text_hash(module_);
  }
  return 0;
}

template <Precision P> void Tape<P>::add_node(Node& node, std::size_t first_output) {
  NodePointer pointer(&node, detail::DiscardNode{&records_});
  node.first_output = first_output;
  node.index = recorded_;
  node.module = kept(module_);
  node.module_hash = hash_of_module(node.counts);
  nodes_.push_back(std::move(pointer));
}

template <Precision P> typename Tape<P>::Slot& Tape<P>::add_slot(const Shape& shape, bool wanted) {
  Slot& slot = slots_.emplace_back();
  slot.shape = shape;
  slot.wanted = wanted;
  return slot;
}

template <Precision P>
void Tape<P>::add_output(const Shape& shape, bool wanted, Format held, InheritedRule rule) {
  Slot& slot = add_slot(shape, wanted);
  slot.held = held;
  slot.rule = rule;
}

template <Precision P>
InheritedRule Tape<P>::inherited_by(std::span<const std::size_t> input_slots) const {
  InheritedRule inherited;
  for (const std::size_t slot : input_slots) inherited = inherited.or_stronger(slots_[slot].rule);
  return inherited;
}

template <Precision P>
void Tape<P>::add_gradients(const Node& node, std::initializer_list<Array<Storage>*> gradients,
                            std::size_t factor) {
  std::size_t i = 0;
  for (Array<Storage>* const gradient : gradients) {
    const std::size_t value = node.input_slots[i];
    if (slots_[value].wanted) {
      sums_.add(value, std::move(*gradient),
                {.of = factor,
                 .op = node.name,
                 .module = node.counts[i].depends_on_batch() ? node.module_hash : 0,
                 .argument = i,
                 .parameter = slots_[value].parameter,
                 .count = node.counts[i]},
                {{.module = node.module, .op = node.name, .argument = i},
                 /*is_gradient=*/true,
                 node.rounds_within});
    }
    ++i;
  }
}

template <Precision P>
OpRecord Tape<P>::record_of_slots(std::span<const std::size_t> input_slots,
                                  std::size_t first_output, std::size_t outputs) const {
  OpRecord record{.module = std::string(module_),
                  .index = recorded_,
                  .inputs = std::vector<OpRecord::Input>(input_slots.size()),
                  .outputs = std::vector<OpRecord::Output>(outputs),
                  .is_outside_batch = is_outside_batch_,
                  .recording = generation_};
  for (std::size_t i = 0; i < input_slots.size(); ++i) {
    const Slot& slot = slots_[input_slots[i]];
    record.inputs[i] = {.value = input_slots[i],
                        .shape = slot.shape,
                        .parameter = slot.parameter,
                        .is_wanted = slot.wanted};
  }
  for (std::size_t k = 0; k < outputs; ++k) {
    record.outputs[k] = {.value = first_output + k,
                         .shape = slots_[first_output + k].shape,
                         .gradient_factors = std::vector<double>(input_slots.size())};
  }
  return record;
}

template <Precision P> std::size_t Tape<P>::saved_bytes() const {
  std::set<const void*> seen;
  for (const auto& [parameter, slot] : parameters_) seen.insert(slots_[slot].elements);
  std::size_t bytes = 0;
  for (const auto& node : nodes_) {
    node->for_each_saved([&](const detail::SavedItem<P>& item) {
      if (seen.insert(item.elements).second) bytes += item.bytes;
    });
  }
  return bytes + encoded_.bytes();
}

namespace detail {

/// The tape of the first variable among the arguments.
template <class First, class... Rest> auto& tape_of(const First& first, const Rest&... rest) {
  if constexpr (is_variable<First>) {
    return first.tape();
  } else {
    return tape_of(rest...);
  }
}

}  // namespace detail

/// Records an op on the tape of its variables; found by argument-dependent lookup from ops::Apply.
template <class Op, class... Args>
requires(is_variable<Args> || ...) auto record(const Op& op, const Args&... args) {
  return detail::tape_of(args...).record(op, args...);
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
