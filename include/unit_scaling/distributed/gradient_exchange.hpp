// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: the gradients of all ranks, added up for the step of each.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/distributed/bucket_order.hpp"
#include "unit_scaling/distributed/bucket_sums.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/gradient_buckets.hpp"
#include "unit_scaling/distributed/gradient_summaries.hpp"
#include "unit_scaling/distributed/gradient_tree.hpp"
#include "unit_scaling/distributed/gradient_wire.hpp"
#include "unit_scaling/distributed/message_header.hpp"
#include "unit_scaling/distributed/parameter_shares.hpp"
#include "unit_scaling/distributed/recording.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/optim/gradient_source.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// What becomes of the sum of the gradients of M batches, which are all batches of all ranks.
enum class Combination {
  sum,
  /// Sum / M: the gradient of one batch of all items, if the loss of a plain model is a mean.
  mean,
  /// Sum / √M: the same under unit scaling, where the gradient of a weight is Σ g n^−½ over the n
  /// rows of a batch. For batches of one size.
  unit_scaled,
};

/// Adds up gradients over all ranks, and shows them as a tape does, the same bits on each rank:
///
///     const auto format = Format::parse("e4m3fn");
///     distributed::GradientExchange exchange(ranks, parameters, {.format = format});
///     for (each step) {
///       tape.clear();
///       tape.backward(model.loss(tape, batch_of(step, ranks.rank())));
///       exchange.with_sum(tape, [&](const auto& sum) { optimiser.step(sum, rate); });
///     }
///
/// 1. The gradients, in reverse order of the parameters, are one row of numbers, cut into buckets,
///    and these into a piece for each rank.
/// 2. Each rank rounds its numbers once to the format of the wire, and sends each piece to the
///    rank that it is for (all-to-all).
/// 3. That rank adds up the piece in float, in the order of a PairwiseSum over the ranks. It rounds
///    the sum once, and sends it to all (all-gather).
/// 4. Each rank multiplies with what `Combination` says, in float.
///
/// So the result does not depend on the engine, nor on which messages come first. A bucket is added
/// up while the next one is on its way. With one rank nothing is sent or rounded: the result is
/// that of the source, to the bit, if `Combination` divides by 1.
///
/// With several ranks, an element of the result is NaN on all if it is infinite or NaN on one, or
/// if its sum is beyond binary32. So all refuse the same step. All other elements are finite. A
/// parameter that has a gradient on some ranks only gets the sum of theirs; on none, none.
///
/// Each rank sends 2 (N − 1) / N times the bytes of the gradients in the format of the wire, but
/// for pieces that differ by up to 15 numbers. To that come 64 bytes for each message, a byte for
/// each parameter of a bucket in a message of terms, and a byte for each block under
/// WireScaling::by_block.
///
/// With `shares` a sum is sent to the owner of its parameter alone, as a ShardedOptimiser asks. The
/// bits are the same. Each rank then sends (1 + 1 / N) (N − 1) / N times the bytes, on average, and
/// 12 bytes to each other rank for each parameter of its own: the GradientSummary, from which all
/// know the norm of all gradients and which one is not finite.
class GradientExchange {
 public:
  struct Options {
    /// Binary32, or a narrower one.
    Format format = {};
    WireScaling scaling = WireScaling::by_block;
    Combination combination = Combination::unit_scaled;
    /// How many numbers go in one message of all ranks together.
    std::size_t bucket_elements = std::size_t{1} << 20;
    /// If there are some, a rank gets the gradients of its own parameters alone.
    std::optional<ParameterShares> shares = std::nullopt;
  };

  /// @param ranks must outlive this object.
  /// @param parameters that gradients are wanted of, in the same order on all ranks; they must stay
  ///        in place. `require_agreement` compares them.
  /// @throws DomainError if a parameter is null or given twice, or two have one name; for binary64,
  ///         and for a format without a sign, zero or NaN; for buckets without elements; for
  ///         shares of another number of ranks, or without one of the parameters.
  GradientExchange(Communicator& ranks, const std::vector<Parameter*>& parameters)
      : GradientExchange(ranks, parameters, Options{}) {}
  GradientExchange(Communicator& ranks, const std::vector<Parameter*>& parameters,
                   const Options& options)
      : ranks_(&ranks),
        work_(ranks, name),
        combination_(options.combination),
        sums_{ranks, name, GradientWire(options.format, options.scaling),
              GradientBuckets(parameters, options.bucket_elements, ranks.size(), options.shares)},
        summaries_(buckets().owners()),
        is_final_(parameters.size()) {}

  // It stays where it is: the communicator knows it while a step goes on.
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;
  ~GradientExchange() = default;

  /// Adds up the gradients of a step. All ranks call it. If it throws, there are no gradients.
  /// After a CommunicationError all later exchanges throw, unless it was of other Work.
  /// @param batches the gradients of the source are the unweighted sum of those of so many batches,
  ///        as many on each rank.
  /// @throws ShapeError if a gradient has another shape than its parameter at construction;
  ///         DomainError for 0 batches, for another number of batches than when gradients were
  ///         taken, and for a GradientTree with a batch in part. Nothing is sent then, beside what
  ///         `take` has sent.
  /// @throws CommunicationError if a rank has failed; if a message is not the one that is due: cut
  ///         off, repeated, or changed on its way; if ranks have other options, numbers of batches,
  ///         or parameters: names, shapes and order; after `take` of another recording, such as one
  ///         whose backward threw; after an exchange that failed; or while the communicator has
  ///         other Work, such as that of another GradientExchange.
  template <optim::GradientSource Gradients>
  void exchange(const Gradients& source, std::size_t batches = 1);
  /// The same, of as many batches as the tree has.
  void exchange(const GradientTree& source) { exchange(source, batches_of(source)); }

  /// Tells that the gradient of a parameter is final. With the last parameter of a bucket it sends
  /// the bucket, while the tape still unwinds. The `exchange` of the same tape does the rest:
  ///
  ///     tape.on_final_gradient([&](const Parameter& each) { exchange.take(tape, each); });
  ///
  /// Of several batches the last one can be sent so: see GradientTree::add.
  ///
  /// The result has the same bits. Each rank may call it or not, whatever the others do. Buckets
  /// are complete early if the parameters are in about the order of their use.
  ///
  /// From the first call to the end of `exchange` the communicator has no other operations: how
  /// many of the step are started depends on which messages have come. Those of others throw
  /// CommunicationError.
  ///
  /// The `exchange` must follow. If backward throws, it cannot, and there is no way on: other ranks
  /// may have gradients of this step. An exchange of the next step throws. If this object is
  /// destroyed after it has sent some, all later operations of the communicator throw.
  ///
  /// What overlaps: no call waits. Each one looks at the messages that are on their way, adds up
  /// what has come, and sends what can be sent next; so a bucket is exchanged while the gradients
  /// of others are computed. An MPI without a thread of its own moves long messages only while this
  /// rank is in one of its calls: then they move from one final gradient to the next, whether or
  /// not that completes a bucket.
  /// @throws DomainError if it was given this parameter in this step, and for a GradientTree
  ///         without a batch, with a last batch without this gradient, or with another number of
  ///         batches than before; ShapeError and CommunicationError as `exchange`. A parameter that
  ///         is not among those of the exchange is passed over.
  template <optim::GradientSource Gradients>
  void take(const Gradients& source, const Parameter& parameter);

  /// Calls `use(gradients)` with the gradients of all ranks: with this object, after
  /// `exchange(source)`. On one rank, where `Combination` divides by 1, it is called with the
  /// source itself, and nothing is copied.
  /// @throws as `exchange`, and what `use` throws
  template <optim::GradientSource Gradients, class Use>
  void with_sum(const Gradients& source, const Use& use) {
    const std::size_t batches = batches_of(source);
    if (ranks_->size() == 1 && batches != 0 && factor_of(batches) == 1) {
      require_whole(source);
      use(source);
      return;
    }
    exchange(source, batches);
    use(*this);
  }

  /// The gradient of a parameter, from all ranks; empty if there is none.
  /// @throws DomainError if another rank has it.
  [[nodiscard]] const Array<float>& gradient(const Parameter& parameter) const& {
    static const Array<float> none;
    const auto k = number_of_sum(parameter);
    if (!k) return none;
    const std::size_t own = ranks_->rank();
    const std::size_t owner = buckets().is_for(*k, own) ? own : buckets().owners()[*k];
    require(owner == own, name, "expected a rank to ask for gradients of its share, got '",
            parameter.name, "' on rank ", own, ", which rank ", owner,
            " has; a ShardedOptimiser steps on such gradients");
    return sums_.elements(*k);
  }
  [[nodiscard]] Array<float> gradient(const Parameter& parameter) const&& {
    return gradient(parameter);
  }

  // Of the gradients of all parameters, whichever rank has them: see optim::SharedGradientSource.
  [[nodiscard]] Shape gradient_shape(const Parameter& parameter) const {
    const auto k = number_of_sum(parameter);
    return k ? buckets().places()[*k].shape : Shape{0};
  }
  [[nodiscard]] std::uint32_t largest_magnitude_bits(const Parameter& parameter) const {
    const auto k = number_of_sum(parameter);
    if (!k) return 0;
    if (!buckets().owners().empty()) return summaries_[*k].largest_magnitude_bits;
    return GradientSummary::largest_magnitude_bits_of(sums_.elements(*k));
  }
  [[nodiscard]] double sum_of_squares(const Parameter& parameter) const {
    const auto k = number_of_sum(parameter);
    if (!k) return 0;
    if (!buckets().owners().empty()) return summaries_[*k].sum_of_squares;
    return GradientSummary::sum_of_squares_of(sums_.elements(*k));
  }

  /// Of the last exchange.
  [[nodiscard]] const ExchangeStatistics& statistics() const& { return sums_.statistics(); }
  [[nodiscard]] ExchangeStatistics statistics() const&& { return sums_.statistics(); }

 private:
  static constexpr const char* name = "GradientExchange";
  /// Of which a source has the sum, unless told otherwise.
  template <optim::GradientSource Gradients>
  [[nodiscard]] static std::size_t batches_of(const Gradients& source) {
    if constexpr (std::is_same_v<Gradients, GradientTree>) return source.count();
    return 1;
  }

  /// @throws DomainError if a source has a batch in part.
  template <optim::GradientSource Gradients> static void require_whole(const Gradients& source) {
    if constexpr (std::is_same_v<Gradients, GradientTree>) {
      require(source.is_whole(), name,
              "expected a tree of whole batches, got one with a batch in part; "
              "GradientTree::add(gradients) adds the rest");
    }
  }

  /// @throws DomainError if a source has a batch in part, without the gradient of this parameter.
  template <optim::GradientSource Gradients>
  static void require_whole(const Gradients& source, const Parameter& parameter) {
    if constexpr (std::is_same_v<Gradients, GradientTree>) {
      require(source.is_whole(parameter), name, "expected the gradient of '", parameter.name,
              "' in the last batch of a tree before it is taken, got the batch without it");
    }
  }

  /// @throws CommunicationError after an exchange that failed.
  void require_no_failure() const {
    if (!has_failed_) return;
    throw CommunicationError(std::string(name) +
                             ": expected no exchange after one before it failed: other ranks may "
                             "be in another step");
  }
  /// Does what other ranks hear of. If it throws, no exchange follows.
  template <class Body> void do_or_fail(const Body& body) {
    try {
      work_.go_on(body);
    } catch (...) {
      has_failed_ = true;
      throw;
    }
  }

  /// Begins a step with the gradients of a recording, or goes on with it.
  /// @throws CommunicationError if those of another one were taken: what other ranks have of them
  ///         cannot be taken back. DomainError if they were of another number of batches.
  void begin_or_go_on(const detail::Recording& recording, std::size_t batches) {
    if (!recording_) {
      begin(batches);
      recording_ = recording;
    }
    if (*recording_ != recording) {
      has_failed_ = true;
      throw CommunicationError(std::string(name) +
                               ": expected the rest of the recording of which gradients were "
                               "taken, got another one");
    }
    require(batches == sums_.batches(), name,
            "expected as many batches as when gradients were taken, ", sums_.batches(), ", got ",
            batches);
  }

  /// Begins a step, of which there are no gradients before its end.
  void begin(std::size_t batches) {
    work_.begin();
    is_complete_ = false;
    order_ = detail::BucketOrder(buckets().count());
    sums_.begin({.number = step_,
                 .batches = batches,
                 .factor = factor_of(batches),
                 .told = hash_of_told(batches)});
    std::fill(is_final_.begin(), is_final_.end(), false);
  }

  template <optim::GradientSource Gradients>
  static void check_shape(const Gradients& source, const GradientBuckets::Place& place);

  /// `start_terms` of a BucketOrder.
  template <optim::GradientSource Gradients>
  [[nodiscard]] auto start_terms_of(const Gradients& source) {
    return [this, &source](std::size_t number) {
      bool are_final = true;
      buckets().for_each_parameter(buckets().bucket(number), [&](std::size_t k, const auto&) {
        are_final = are_final && is_final_[k];
      });
      if (are_final) sums_.start_terms(source, number);
      return are_final;
    };
  }

  /// Tells all ranks of the sums that this one has.
  void exchange_summaries() {
    sums_.statistics().sent_bytes += summaries_.exchange(
        *ranks_, name, sums_.header_of(MessageKind::summaries, buckets().count(), 0, 0, 0),
        [&](std::size_t k) { return sums_.is_there(k) ? sums_.elements(k) : Array<float>(); });
  }

  [[nodiscard]] const GradientBuckets& buckets() const { return sums_.buckets(); }

  /// The number of the sum of a parameter, if it has a gradient on some rank.
  [[nodiscard]] std::optional<std::size_t> number_of_sum(const Parameter& parameter) const {
    const auto number = buckets().number_of(parameter);
    return is_complete_ && number && sums_.is_there(*number) ? number : std::nullopt;
  }

  /// A hash of what must be the same on all ranks, or their sums have other meanings.
  [[nodiscard]] std::uint64_t hash_of_told(std::size_t batches) const {
    const GradientWire& wire = sums_.wire();
    std::uint64_t hash = text_hash(to_string(wire.format()));
    for (const std::uint64_t each :
         {static_cast<std::uint64_t>(wire.scaling()), static_cast<std::uint64_t>(combination_),
          std::uint64_t{batches}, buckets().hash()}) {
      hash = unit_scaling::detail::next_hash(hash, each);
    }
    return hash;
  }

  [[nodiscard]] float factor_of(std::size_t batches) const {
    const auto all = static_cast<double>(batches) * static_cast<double>(ranks_->size());
    if (combination_ == Combination::sum) return 1;
    return static_cast<float>(combination_ == Combination::mean ? 1 / all : 1 / std::sqrt(all));
  }

  Communicator* ranks_;
  Communicator::Work work_;  ///< a step; before `sums_`, so that it is given up after its messages
  Combination combination_;
  detail::BucketSums sums_;
  GradientSummaries summaries_;  ///< of the places of the buckets, if not all ranks get all sums
  std::vector<bool> is_final_;   ///< gradients of the places, in this step on this rank
  detail::BucketOrder order_;
  std::uint64_t step_ = 0;
  std::optional<detail::Recording> recording_;  ///< of the step that has begun
  bool is_complete_ = false;
  bool has_failed_ = false;
};

template <optim::GradientSource Gradients>
void GradientExchange::check_shape(const Gradients& source, const GradientBuckets::Place& place) {
  const auto& gradient = source.gradient(*place.parameter);
  require_shape(
      gradient.size() == 0 || gradient.shape() == place.shape, name,
      [&] { return "a gradient in the shape of '" + place.parameter->name + "' at first"; },
      place.shape, gradient.shape());
}

template <optim::GradientSource Gradients>
void GradientExchange::take(const Gradients& source, const Parameter& parameter) {
  const auto number = buckets().number_of(parameter);
  if (!number) return;
  require_whole(source, parameter);
  if (ranks_->size() == 1) return;
  const DefaultArithmetic arithmetic;
  require_no_failure();
  check_shape(source, buckets().places()[*number]);
  const std::size_t batches = batches_of(source);
  require_size(name, "a number of batches", batches);
  begin_or_go_on(detail::recording_of(source), batches);
  require(!is_final_[*number], name,
          "expected an exchange after each backward, got the gradient of '", parameter.name,
          "' twice");
  is_final_[*number] = true;
  do_or_fail([&] { order_.go_on(sums_, start_terms_of(source)); });
}

template <optim::GradientSource Gradients>
void GradientExchange::exchange(const Gradients& source, std::size_t batches) {
  const DefaultArithmetic arithmetic;
  is_complete_ = false;
  require_no_failure();
  require_whole(source);
  require_size(name, "a number of batches", batches);
  for (const auto& place : buckets().places()) check_shape(source, place);
  begin_or_go_on(detail::recording_of(source), batches);
  if (ranks_->size() == 1) {
    sums_.copy(source);
  } else {
    std::fill(is_final_.begin(), is_final_.end(), true);
    do_or_fail([&] {
      order_.finish(sums_, start_terms_of(source));
      if (!buckets().owners().empty()) exchange_summaries();
    });
  }
  ++step_;
  recording_.reset();
  work_.end();
  is_complete_ = true;
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
