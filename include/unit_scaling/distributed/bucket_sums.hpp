// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: what ranks send each other of a bucket of gradients, and what becomes of it.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/bucket_order.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/gradient_buckets.hpp"
#include "unit_scaling/distributed/gradient_wire.hpp"
#include "unit_scaling/distributed/message_header.hpp"
#include "unit_scaling/distributed/messages.hpp"
#include "unit_scaling/distributed/pairwise_sum.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/optim/gradient_source.hpp"
#include "unit_scaling/optim/optimiser.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// What an exchange did.
struct ExchangeStatistics {
  std::uint64_t sent_bytes = 0;  ///< to other ranks, by this one, headers included
  /// Finite numbers beyond the format that became its largest, on all ranks together.
  std::uint64_t saturated = 0;
  /// How long this rank waited for messages, and how long it looked at them without waiting, when
  /// it was told of a gradient and between waits. What the engine copies meanwhile is included:
  /// where messages move in looks, less waiting may be more looking. The sum is what messages cost
  /// beside rounding and adding.
  std::chrono::steady_clock::duration waited{};
  std::chrono::steady_clock::duration looked{};
};

namespace detail {

/// The sums of gradients over all ranks, bucket by bucket, in the two operations of all ranks that
/// BucketOrder puts in order. It knows what is in their messages.
class BucketSums {
 public:
  /// What all ranks know alike of a step.
  struct Step {
    std::uint64_t number = 0;
    std::size_t batches = 1;  ///< of each rank
    float factor = 1;         ///< of the sums
    std::uint64_t told = 0;   ///< a hash of what ranks must be told alike
  };

  /// @param receiver who is named in an error, in memory that stays.
  BucketSums(Communicator& ranks, std::string_view receiver, const GradientWire& wire,
             GradientBuckets buckets)
      : ranks_(&ranks),
        receiver_(receiver),
        wire_(wire),
        buckets_(std::move(buckets)),
        sums_(buckets_.places().size()) {}

  [[nodiscard]] const GradientWire& wire() const { return wire_; }
  [[nodiscard]] const GradientBuckets& buckets() const { return buckets_; }

  /// Begins a step, in which no rank has a gradient so far.
  void begin(const Step& step) {
    step_ = step;
    statistics_ = {};
    for (Sum& sum : sums_) {
      sum.is_there = false;
      sum.to = nullptr;
    }
  }

  /// Of each rank, in this step.
  [[nodiscard]] std::size_t batches() const { return step_.batches; }

  // What BucketOrder asks for, of bucket `number`.

  /// Sends the numbers of this rank. @pre its gradients are final
  template <optim::GradientSource Gradients>
  void start_terms(const Gradients& source, std::size_t number) {
    Messages& terms = terms_of(number);
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
      const std::span message(terms.sent().data() + begin, layout.size);
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
      header.saturated = wire_.saturated(numbers_of_piece_, step_.batches);
      wire_.encode(numbers_of_piece_, layout.blocks, step_.batches, message.data() + layout.begin);
      header.seal(message);
      if (rank != own) statistics_.sent_bytes += layout.size;
      begin += layout.size;
    }
    terms.start_all_to_all(*ranks_);
  }

  /// Of the terms that were sent.
  [[nodiscard]] Request& terms(std::size_t number) { return terms_of(number).request; }

  /// Adds up the piece of this rank, and sends the sums to those that they are for.
  /// @pre the terms have come
  void start_sums(std::size_t number) {
    Messages& terms = terms_of(number);
    Messages& sums = sums_of(number);
    const std::size_t own = ranks_->rank();
    const Range bucket = buckets_.bucket(number);
    const Range piece = buckets_.piece(bucket, own);
    const Layout layout = layout_of_terms(bucket, piece);
    std::uint64_t saturated = 0;
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      const std::byte* const message = terms.received().data() + rank * layout.size;
      const auto header =
          MessageHeader::open(receiver_, {message, layout.size},
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
      add_up(terms.received().data(), layout, {first, end});
    });
    const std::size_t all_batches = step_.batches * ranks_->size();
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
      write_sums(layouts[own], numbers_of_piece_, sums.sent());
      sums.start_all_gather(*ranks_);
      return;
    }
    sums.resize();
    std::byte* message = sums.sent().data();
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

  /// Of the sums that were sent.
  [[nodiscard]] Request& sums(std::size_t number) { return sums_of(number).request; }

  /// Takes the sums of all ranks that are for this one. @pre they have come
  void take_sums(std::size_t number) {
    const float factor = step_.factor;
    Messages& sums = sums_of(number);
    const std::size_t own = ranks_->rank();
    const Range bucket = buckets_.bucket(number);
    const std::byte* message = sums.received().data();
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      const Range piece = buckets_.piece(bucket, rank);
      const Layout layout = layout_of_sums(piece, own);
      const std::size_t count = layout.blocks.size();
      statistics_.saturated +=
          MessageHeader::open(receiver_, {message, layout.size},
                              header_of(MessageKind::sums, number, rank, rank, count))
              .saturated;
      numbers_of_piece_.resize(count);
      parallel_ranges(count, chunk, [&](std::size_t first, std::size_t end) {
        const std::span to(numbers_of_piece_.data() + first, end - first);
        wire_.decode(message + layout.begin, layout.blocks, step_.batches * ranks_->size(), first,
                     to);
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

  /// Returns when the messages of one of these requests have come.
  void wait(Request& request) {
    const auto start = std::chrono::steady_clock::now();
    request.wait();
    statistics_.waited += std::chrono::steady_clock::now() - start;
  }

  /// Returns whether they have.
  [[nodiscard]] bool is_done(Request& request) {
    const auto start = std::chrono::steady_clock::now();
    const bool result = request.is_done();
    statistics_.looked += std::chrono::steady_clock::now() - start;
    return result;
  }

  /// On one rank, all of this in one: the gradients of the source, times the factor.
  template <optim::GradientSource Gradients> void copy(const Gradients& source) {
    const float factor = step_.factor;
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

  // What is known of the gradients of the parameter at place k.

  /// Whether some rank has one.
  [[nodiscard]] bool is_there(std::size_t k) const { return sums_[k].is_there; }
  /// Their sum if it is there, on ranks that get it.
  [[nodiscard]] const Array<float>& elements(std::size_t k) const { return sums_[k].elements; }

  /// What is known of a message. @param elements how many numbers of the piece it has
  [[nodiscard]] MessageHeader header_of(MessageKind kind, std::size_t number, std::size_t from,
                                        std::size_t piece, std::size_t elements) const {
    return {.step = step_.number,
            .bucket = static_cast<std::uint32_t>(number),
            .from = static_cast<std::uint32_t>(from),
            .piece = static_cast<std::uint32_t>(piece),
            .kind = kind,
            .elements = elements,
            .told = step_.told};
  }

  /// Of this step.
  [[nodiscard]] ExchangeStatistics& statistics() { return statistics_; }
  [[nodiscard]] const ExchangeStatistics& statistics() const { return statistics_; }

 private:
  using Range = GradientBuckets::Range;
  using Place = GradientBuckets::Place;
  /// Numbers that are added up at once; packed codes of so many end with a byte.
  static constexpr std::size_t chunk = 1024;

  /// Of the gradients of a parameter.
  struct Sum {
    bool is_there = false;  ///< on some rank
    Array<float> elements = {};
    float* to = nullptr;  ///< the elements, in a step
  };

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

  [[nodiscard]] Messages& terms_of(std::size_t number) {
    return messages_of_terms_[number % BucketOrder::in_flight];
  }
  [[nodiscard]] Messages& sums_of(std::size_t number) {
    return messages_of_sums_[number % BucketOrder::in_flight];
  }

  /// Adds up some numbers of the piece of this rank.
  /// @param messages of all ranks, one behind the other.
  void add_up(const std::byte* messages, const Layout& layout, const Range& range) {
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
      wire_.decode(messages + rank * layout.size + layout.begin, layout.blocks, step_.batches,
                   range.begin, term(free));
      sum.add(free, join);
    }
    GradientWire::copy_finite(term(sum.take(join)).data(), size,
                              numbers_of_piece_.data() + range.begin);
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

  Communicator* ranks_;
  std::string_view receiver_;
  GradientWire wire_;
  GradientBuckets buckets_;
  std::vector<Sum> sums_;  ///< of the places of the buckets
  Step step_;
  std::array<Messages, BucketOrder::in_flight> messages_of_terms_;
  std::array<Messages, BucketOrder::in_flight> messages_of_sums_;
  std::vector<float> numbers_of_piece_;
  std::vector<float> numbers_for_rank_;
  ExchangeStatistics statistics_;
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
