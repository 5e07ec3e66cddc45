// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: the gradients of all ranks, added up for the step of each.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/gradient_buckets.hpp"
#include "unit_scaling/distributed/gradient_summaries.hpp"
#include "unit_scaling/distributed/gradient_tree.hpp"
#include "unit_scaling/distributed/gradient_wire.hpp"
#include "unit_scaling/distributed/message_header.hpp"
#include "unit_scaling/distributed/messages.hpp"
#include "unit_scaling/distributed/pairwise_sum.hpp"
#include "unit_scaling/distributed/parameter_shares.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/optim/gradient_source.hpp"
#include "unit_scaling/optim/optimiser.hpp"

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

/// What an exchange did.
struct ExchangeStatistics {
  std::uint64_t sent_bytes = 0;  ///< to other ranks, by this one, headers included
  /// Finite numbers beyond the format that became its largest, on all ranks together.
  std::uint64_t saturated = 0;
  /// How long this rank waited for messages; what the engine copies meanwhile included.
  std::chrono::steady_clock::duration waited{};
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
        combination_(options.combination),
        wire_(options.format, options.scaling),
        buckets_(parameters, options.bucket_elements, ranks.size(), options.shares),
        sums_(parameters.size()),
        summaries_(buckets_.owners()) {}

  /// Adds up the gradients of a step. All ranks call it. If it throws, there are no gradients; if
  /// it throws CommunicationError, there is no exchange after it either.
  /// @param batches the gradients of the source are the unweighted sum of those of so many batches,
  ///        as many on each rank.
  /// @throws ShapeError if a gradient has another shape than its parameter at construction: before
  ///         anything is sent. DomainError for 0 batches.
  /// @throws CommunicationError if a rank has failed; if a message is not the one that is due: cut
  ///         off, repeated, or changed on its way; if ranks have other options, numbers of batches,
  ///         or parameters: names, shapes and order; after `take` of another recording, such as one
  ///         whose backward threw; after an exchange that failed.
  template <optim::GradientSource Gradients>
  void exchange(const Gradients& source, std::size_t batches = 1);
  /// The same, of as many batches as the tree has.
  void exchange(const GradientTree& source) { exchange(source, source.count()); }

  /// Tells that the gradient of a parameter is final. With the last parameter of a bucket it sends
  /// the bucket, while the tape still unwinds. The `exchange` of the same tape, which must follow,
  /// does the rest:
  ///
  ///     tape.on_final_gradient([&](const Parameter& each) { exchange.take(tape, each); });
  ///
  /// The result has the same bits. Each rank may call it or not, whatever the others do. Buckets
  /// are complete early if the parameters are in about the order of their use.
  ///
  /// What overlaps: a call that starts the messages of a bucket waits for the terms of the bucket
  /// before, adds these up, and waits for the sums of the one before that. So the messages of a
  /// bucket have as long as the gradients of the next one take to compute. How far they come in
  /// that time is up to the engine. An MPI without a thread of its own moves long messages only
  /// while this rank is in one of its calls, here and in `exchange`, and so overlaps little.
  /// @throws DomainError if it was given this parameter in this step; ShapeError and
  ///         CommunicationError as `exchange`. A parameter that is not among those of the exchange
  ///         is passed over.
  template <optim::GradientSource Gradients>
  void take(const Gradients& source, const Parameter& parameter);

  /// Calls `use(gradients)` with the gradients of all ranks: with this object, after
  /// `exchange(source)`. On one rank, where `Combination` divides by 1, it is called with the
  /// source itself, and nothing is copied.
  /// @throws as `exchange`, and what `use` throws
  template <optim::GradientSource Gradients, class Use>
  void with_sum(const Gradients& source, const Use& use) {
    std::size_t batches = 1;
    if constexpr (std::is_same_v<Gradients, GradientTree>) batches = source.count();
    if (ranks_->size() == 1 && batches != 0 && factor_of(batches) == 1) {
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
    const std::size_t owner = buckets_.is_for(*k, own) ? own : buckets_.owners()[*k];
    require(owner == own, name, "expected a rank to ask for gradients of its share, got '",
            parameter.name, "' on rank ", own, ", which rank ", owner,
            " has; a ShardedOptimiser steps on such gradients");
    return sums_[*k].elements;
  }
  [[nodiscard]] Array<float> gradient(const Parameter& parameter) const&& {
    return gradient(parameter);
  }

  // Of the gradients of all parameters, whichever rank has them: see optim::SharedGradientSource.
  [[nodiscard]] Shape gradient_shape(const Parameter& parameter) const {
    const auto k = number_of_sum(parameter);
    return k ? buckets_.places()[*k].shape : Shape{0};
  }
  [[nodiscard]] std::uint32_t largest_magnitude_bits(const Parameter& parameter) const {
    const auto k = number_of_sum(parameter);
    if (!k) return 0;
    if (!buckets_.owners().empty()) return summaries_[*k].largest_magnitude_bits;
    return GradientSummary::largest_magnitude_bits_of(sums_[*k].elements);
  }
  [[nodiscard]] double sum_of_squares(const Parameter& parameter) const {
    const auto k = number_of_sum(parameter);
    if (!k) return 0;
    if (!buckets_.owners().empty()) return summaries_[*k].sum_of_squares;
    return GradientSummary::sum_of_squares_of(sums_[*k].elements);
  }

  /// Of the last exchange.
  [[nodiscard]] const ExchangeStatistics& statistics() const& { return statistics_; }
  [[nodiscard]] ExchangeStatistics statistics() const&& { return statistics_; }

 private:
  static constexpr const char* name = "GradientExchange";
  using Range = GradientBuckets::Range;
  using Place = GradientBuckets::Place;
  /// Numbers that are added up at once; packed codes of so many end with a byte.
  static constexpr std::size_t chunk = 1024;

  /// The gradient of a parameter, and what is known of it in this step.
  struct Sum {
    bool is_there = false;  ///< on some rank
    bool is_final = false;  ///< on this rank
    Array<float> elements = {};
    float* to = nullptr;  ///< the elements, in an exchange
  };

  /// The operations of all ranks on a bucket.
  struct Stages {
    detail::Messages terms;
    detail::Messages sums;
  };
  /// Buckets of which messages are on their way: terms, sums, and what has come.
  static constexpr std::size_t buckets_in_flight = 3;

  /// Which gradients of a source are meant: those of a Tape change from step to step.
  struct Recording {
    const void* source = nullptr;
    std::uint64_t step = 0;
    friend bool operator==(const Recording&, const Recording&) = default;
  };
  template <optim::GradientSource Gradients>
  [[nodiscard]] static Recording recording_of(const Gradients& source) {
    Recording result{.source = &source};
    if constexpr (requires { std::uint64_t{source.step()}; }) result.step = source.step();
    return result;
  }

  /// @throws CommunicationError after an exchange that failed.
  void require_no_failure() const {
    if (!has_failed_) return;
    throw CommunicationError(std::string(name) +
                             ": expected no exchange after one before it failed: other ranks may "
                             "be in another step");
  }
  /// Does what other ranks hear of. If it throws, no exchange follows.
  template <class Work> void do_or_fail(const Work& work) {
    try {
      work();
    } catch (...) {
      has_failed_ = true;
      throw;
    }
  }

  /// Begins a step with the gradients of a recording, or goes on with it.
  /// @throws CommunicationError if those of another one were taken: what other ranks have of them
  ///         cannot be taken back.
  void begin_or_go_on(const Recording& recording, std::size_t batches) {
    if (!recording_) {
      begin(batches);
      recording_ = recording;
    }
    if (*recording_ == recording) return;
    has_failed_ = true;
    throw CommunicationError(std::string(name) +
                             ": expected the rest of the recording of which gradients were taken, "
                             "got another one");
  }

  /// Begins a step, of which there are no gradients before its end.
  void begin(std::size_t batches) {
    is_complete_ = false;
    started_ = 0;
    statistics_ = {};
    told_ = hash_of_told(batches);
    for (Sum& sum : sums_) {
      sum.is_there = false;
      sum.is_final = false;
      sum.to = nullptr;
    }
  }

  template <optim::GradientSource Gradients>
  static void check_shape(const Gradients& source, const Place& place);

  /// Goes on with the buckets whose gradients are final.
  template <optim::GradientSource Gradients>
  void advance(const Gradients& source, std::size_t batches);
  /// Goes on with all buckets, to the end.
  template <optim::GradientSource Gradients>
  void finish_step(const Gradients& source, std::size_t batches);

  /// The number of the sum of a parameter, if it has a gradient on some rank.
  [[nodiscard]] std::optional<std::size_t> number_of_sum(const Parameter& parameter) const {
    const auto number = buckets_.number_of(parameter);
    return is_complete_ && number && sums_[*number].is_there ? number : std::nullopt;
  }
  /// Numbers in a message, which begins with a header. In one of terms there follows a byte for
  /// each parameter of the bucket, which tells whether it has a gradient.
  struct Layout {
    std::size_t begin;  ///< of the numbers
    std::size_t size;   ///< of the message
    WireBlocks blocks = {};
  };
  [[nodiscard]] Layout layout_of_terms(const Range& bucket, const Range& piece) const {
    Layout layout{.begin = sizeof(MessageHeader), .size = 0};
    buckets_.for_each_parameter(bucket, [&](std::size_t, const Range&) { ++layout.begin; });
    buckets_.for_each_parameter(
        piece, [&](std::size_t, const Range& range) { layout.blocks.add(range.size()); });
    layout.size = layout.begin + wire_.bytes(layout.blocks);
    return layout;
  }
  /// Of the sums of a piece that a rank gets.
  [[nodiscard]] Layout layout_of_sums(const Range& piece, std::size_t rank) const {
    Layout layout{.begin = sizeof(MessageHeader), .size = 0};
    buckets_.for_each_sum(
        piece, rank, [&](std::size_t, const Range& range) { layout.blocks.add(range.size()); });
    layout.size = layout.begin + wire_.bytes(layout.blocks);
    return layout;
  }

  /// What is known of a message. @param elements how many numbers of the piece it has
  [[nodiscard]] MessageHeader header_of(MessageKind kind, std::size_t number, std::size_t from,
                                        std::size_t piece, std::size_t elements) const {
    return {.step = step_,
            .bucket = static_cast<std::uint32_t>(number),
            .from = static_cast<std::uint32_t>(from),
            .piece = static_cast<std::uint32_t>(piece),
            .kind = kind,
            .elements = elements,
            .told = told_};
  }

  /// A hash of what must be the same on all ranks, or their sums have other meanings.
  [[nodiscard]] std::uint64_t hash_of_told(std::size_t batches) const {
    std::uint64_t hash = text_hash(to_string(wire_.format()));
    for (const std::uint64_t each :
         {static_cast<std::uint64_t>(wire_.scaling()), static_cast<std::uint64_t>(combination_),
          std::uint64_t{batches}, buckets_.hash()}) {
      hash = unit_scaling::detail::next_hash(hash, each);
    }
    return hash;
  }

  /// Sends the numbers of this rank.
  template <optim::GradientSource Gradients>
  void start_terms(const Gradients& source, std::size_t number, std::size_t batches) {
    detail::Messages& terms = stages_[number % buckets_in_flight].terms;
    const std::size_t own = ranks_->rank();
    const Range bucket = buckets_.bucket(number);
    std::vector<std::byte> flags;
    buckets_.for_each_parameter(bucket, [&](std::size_t k, const Range&) {
      const bool is_there = source.gradient(*buckets_.places()[k].parameter).size() != 0;
      flags.push_back(static_cast<std::byte>(is_there ? 1 : 0));
    });
    std::vector<Layout> layouts;
    terms.sent_sizes.clear();
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      layouts.push_back(layout_of_terms(bucket, buckets_.piece(bucket, rank)));
      terms.sent_sizes.push_back(layouts[rank].size);
    }
    terms.received_sizes.assign(ranks_->size(), terms.sent_sizes[own]);
    terms.resize();
    std::size_t begin = 0;
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      const Range piece = buckets_.piece(bucket, rank);
      const Layout& layout = layouts[rank];
      const std::span message(terms.sent.data() + begin, layout.size);
      std::copy(flags.begin(), flags.end(), message.begin() + sizeof(MessageHeader));
      numbers_of_piece_.resize(piece.size());
      buckets_.for_each_parameter(piece, [&](std::size_t k, const Range& range) {
        const Place& place = buckets_.places()[k];
        float* const to = numbers_of_piece_.data() + (range.begin - piece.begin);
        const auto& gradient = source.gradient(*place.parameter);
        if (gradient.size() == 0) {
          std::fill_n(to, range.size(), -0.0F);  // which changes no number that it is added to
        } else {
          GradientWire::copy_finite(
              optim::detail::gradient_elements(gradient) + (range.begin - place.begin),
              range.size(), to);
        }
      });
      MessageHeader header = header_of(MessageKind::terms, number, own, rank, piece.size());
      header.saturated = wire_.saturated(numbers_of_piece_, batches);
      wire_.encode(numbers_of_piece_, layout.blocks, batches, message.data() + layout.begin);
      header.seal(message);
      if (rank != own) statistics_.sent_bytes += layout.size;
      begin += layout.size;
    }
    terms.start_all_to_all(*ranks_);
  }

  /// Returns when the messages have come.
  void wait(detail::Messages& messages) {
    const auto start = std::chrono::steady_clock::now();
    messages.request.wait();
    statistics_.waited += std::chrono::steady_clock::now() - start;
  }

  /// Adds up the piece of this rank, and sends the sums to those that they are for.
  void start_sums(std::size_t number, std::size_t batches) {
    detail::Messages& terms = stages_[number % buckets_in_flight].terms;
    detail::Messages& sums = stages_[number % buckets_in_flight].sums;
    const std::size_t own = ranks_->rank();
    const Range bucket = buckets_.bucket(number);
    const Range piece = buckets_.piece(bucket, own);
    const Layout layout = layout_of_terms(bucket, piece);
    wait(terms);
    std::uint64_t saturated = 0;
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      const std::byte* const message = terms.received.data() + rank * layout.size;
      const auto header =
          MessageHeader::open(name, {message, layout.size},
                              header_of(MessageKind::terms, number, rank, own, piece.size()));
      saturated += header.saturated;
      const std::byte* flag = message + sizeof(MessageHeader);
      buckets_.for_each_parameter(bucket, [&](std::size_t k, const Range&) {
        sums_[k].is_there = sums_[k].is_there || *flag != std::byte{0};
        ++flag;
      });
    }
    numbers_of_piece_.resize(piece.size());
    parallel_ranges(piece.size(), chunk, [&](std::size_t first, std::size_t end) {
      add_up(terms.received.data(), layout, batches, {first, end});
    });
    const std::size_t all_batches = batches * ranks_->size();
    saturated += wire_.saturated(numbers_of_piece_, all_batches);
    // Blocks are of one parameter, so each number is rounded as it is for all.
    const auto write_sums = [&](const Layout& layout_of_rank, std::span<float> numbers,
                                std::span<std::byte> message) {
      MessageHeader header = header_of(MessageKind::sums, number, own, own, numbers.size());
      header.saturated = saturated;
      wire_.encode(numbers, layout_of_rank.blocks, all_batches,
                   message.data() + layout_of_rank.begin);
      header.seal(message);
    };
    std::vector<Layout> layouts;
    sums.sent_sizes.clear();
    sums.received_sizes.clear();
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      layouts.push_back(layout_of_sums(piece, rank));
      sums.sent_sizes.push_back(layouts[rank].size);
      sums.received_sizes.push_back(layout_of_sums(buckets_.piece(bucket, rank), own).size);
      if (rank != own) statistics_.sent_bytes += sums.sent_sizes.back();
    }
    if (buckets_.owners().empty()) {  // one message to all
      sums.sent_sizes.resize(1);
      sums.resize();
      write_sums(layouts[own], numbers_of_piece_, sums.sent);
      sums.start_all_gather(*ranks_);
      return;
    }
    sums.resize();
    std::byte* message = sums.sent.data();
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      numbers_for_rank_.clear();
      buckets_.for_each_sum(piece, rank, [&](std::size_t, const Range& range) {
        const float* const from = numbers_of_piece_.data() + (range.begin - piece.begin);
        numbers_for_rank_.insert(numbers_for_rank_.end(), from, from + range.size());
      });
      write_sums(layouts[rank], numbers_for_rank_, {message, sums.sent_sizes[rank]});
      message += sums.sent_sizes[rank];
    }
    sums.start_all_to_all(*ranks_);
  }

  /// Adds up some numbers of the piece of this rank.
  /// @param messages of all ranks, one behind the other.
  void add_up(const std::byte* messages, const Layout& layout, std::size_t batches,
              const Range& range) {
    const std::size_t size = range.size();
    // Room for the terms that wait in a PairwiseSum, and for the next one.
    const auto most = static_cast<std::size_t>(std::bit_width(ranks_->size()));
    const auto terms = std::make_unique_for_overwrite<float[]>((most + 1) * size);
    const auto term = [&](std::size_t k) { return std::span(terms.get() + k * size, size); };
    PairwiseSum<std::size_t> sum;  // of terms by their number
    const auto join = [&](std::size_t left, std::size_t right) {
      const auto to = term(left);
      const auto from = term(right);
      for (std::size_t i = 0; i < size; ++i) to[i] += from[i];
    };
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      const std::size_t free = sum.nodes().size();
      wire_.decode(messages + rank * layout.size + layout.begin, layout.blocks, batches,
                   range.begin, term(free));
      sum.add(free, join);
    }
    GradientWire::copy_finite(term(sum.take(join)).data(), size,
                              numbers_of_piece_.data() + range.begin);
  }

  /// Takes the sums of all ranks that are for this one.
  void finish(std::size_t number, std::size_t batches) {
    const float factor = factor_of(batches);
    detail::Messages& sums = stages_[number % buckets_in_flight].sums;
    const std::size_t own = ranks_->rank();
    const Range bucket = buckets_.bucket(number);
    wait(sums);
    const std::byte* message = sums.received.data();
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      const Range piece = buckets_.piece(bucket, rank);
      const Layout layout = layout_of_sums(piece, own);
      const std::size_t count = layout.blocks.size();
      statistics_.saturated +=
          MessageHeader::open(name, {message, layout.size},
                              header_of(MessageKind::sums, number, rank, rank, count))
              .saturated;
      numbers_of_piece_.resize(count);
      parallel_ranges(count, chunk, [&](std::size_t first, std::size_t end) {
        const std::span to(numbers_of_piece_.data() + first, end - first);
        wire_.decode(message + layout.begin, layout.blocks, batches * ranks_->size(), first, to);
        if (factor == 1) return;
        for (float& each : to) each *= factor;
      });
      const float* from = numbers_of_piece_.data();
      buckets_.for_each_sum(piece, own, [&](std::size_t k, const Range& range) {
        if (sums_[k].is_there) {
          std::memcpy(elements_of_sum(k) + (range.begin - buckets_.places()[k].begin), from,
                      range.size() * sizeof(float));
        }
        from += range.size();
      });
      message += layout.size;
    }
  }

  /// Where the sum of a parameter is written to.
  [[nodiscard]] float* elements_of_sum(std::size_t k) {
    Sum& sum = sums_[k];
    if (sum.to == nullptr) {
      const Shape& shape = buckets_.places()[k].shape;
      if (sum.elements.shape() != shape) sum.elements = Array<float>(shape);
      sum.to = sum.elements.mutable_data();
    }
    return sum.to;
  }

  /// Of one rank.
  template <optim::GradientSource Gradients> void copy(const Gradients& source, float factor) {
    for (std::size_t k = 0; k < sums_.size(); ++k) {
      const auto& gradient = source.gradient(*buckets_.places()[k].parameter);
      sums_[k].is_there = gradient.size() != 0;
      if (!sums_[k].is_there) continue;
      float* const to = elements_of_sum(k);
      const auto* const from = optim::detail::gradient_elements(gradient);
      optim::detail::for_each_lane(gradient.size(), [=](std::size_t i, auto count) {
        const auto x = kernels::load<float>(from + i, count);
        kernels::store<Overflow::infinity_or_nan, float>(factor == 1 ? x : x * factor, to + i,
                                                         count);
      });
    }
  }

  [[nodiscard]] float factor_of(std::size_t batches) const {
    const auto all = static_cast<double>(batches) * static_cast<double>(ranks_->size());
    if (combination_ == Combination::sum) return 1;
    return static_cast<float>(combination_ == Combination::mean ? 1 / all : 1 / std::sqrt(all));
  }

  Communicator* ranks_;
  Combination combination_;
  GradientWire wire_;
  GradientBuckets buckets_;
  std::vector<Sum> sums_;        ///< of the places of the buckets
  GradientSummaries summaries_;  ///< of the same, if not all ranks get all sums
  std::array<Stages, buckets_in_flight> stages_;
  std::vector<float> numbers_of_piece_;
  std::vector<float> numbers_for_rank_;
  std::uint64_t step_ = 0;
  std::uint64_t told_ = 0;
  std::optional<Recording> recording_;  ///< whose gradients are exchanged, once a step has begun
  std::size_t started_ = 0;             ///< buckets of the step
  bool is_complete_ = false;
  bool has_failed_ = false;
  ExchangeStatistics statistics_;
};

template <optim::GradientSource Gradients>
void GradientExchange::check_shape(const Gradients& source, const Place& place) {
  const auto& gradient = source.gradient(*place.parameter);
  require_shape(
      gradient.size() == 0 || gradient.shape() == place.shape, name,
      [&] { return "a gradient in the shape of '" + place.parameter->name + "' at first"; },
      place.shape, gradient.shape());
}

template <optim::GradientSource Gradients>
void GradientExchange::advance(const Gradients& source, std::size_t batches) {
  // In one order on all ranks, whenever each of them comes to it.
  for (; started_ < buckets_.count(); ++started_) {
    bool is_final = true;
    buckets_.for_each_parameter(buckets_.bucket(started_), [&](std::size_t k, const Range&) {
      is_final = is_final && sums_[k].is_final;
    });
    if (!is_final) return;
    start_terms(source, started_, batches);
    if (started_ >= 1) start_sums(started_ - 1, batches);
    if (started_ >= 2) finish(started_ - 2, batches);
  }
}

template <optim::GradientSource Gradients>
void GradientExchange::take(const Gradients& source, const Parameter& parameter) {
  const auto number = buckets_.number_of(parameter);
  if (ranks_->size() == 1 || !number) return;
  const DefaultArithmetic arithmetic;
  require_no_failure();
  check_shape(source, buckets_.places()[*number]);
  begin_or_go_on(recording_of(source), 1);
  Sum& sum = sums_[*number];
  require(!sum.is_final, name, "expected an exchange after each backward, got the gradient of '",
          parameter.name, "' twice");
  sum.is_final = true;
  do_or_fail([&] { advance(source, 1); });
}

template <optim::GradientSource Gradients>
void GradientExchange::exchange(const Gradients& source, std::size_t batches) {
  const DefaultArithmetic arithmetic;
  is_complete_ = false;
  require_no_failure();
  require_size(name, "a number of batches", batches);
  require(!recording_ || batches == 1, name, "expected one batch after take, got ", batches);
  for (const Place& place : buckets_.places()) check_shape(source, place);
  begin_or_go_on(recording_of(source), batches);
  if (ranks_->size() == 1) {
    copy(source, factor_of(batches));
  } else {
    do_or_fail([&] { finish_step(source, batches); });
  }
  ++step_;
  recording_.reset();
  is_complete_ = true;
}

template <optim::GradientSource Gradients>
void GradientExchange::finish_step(const Gradients& source, std::size_t batches) {
  for (Sum& sum : sums_) sum.is_final = true;
  advance(source, batches);
  const std::size_t all = buckets_.count();
  if (all >= 1) start_sums(all - 1, batches);
  if (all >= 2) finish(all - 2, batches);
  if (all >= 1) finish(all - 1, batches);
  if (buckets_.owners().empty()) return;
  statistics_.sent_bytes += summaries_.exchange(
      *ranks_, name, header_of(MessageKind::summaries, all, 0, 0, 0),
      [&](std::size_t k) { return sums_[k].is_there ? sums_[k].elements : Array<float>(); });
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
