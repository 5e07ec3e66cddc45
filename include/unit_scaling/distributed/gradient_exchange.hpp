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
#include <limits>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/gradient_message.hpp"
#include "unit_scaling/distributed/gradient_tree.hpp"
#include "unit_scaling/distributed/pairwise_sum.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/optim/gradient_format.hpp"
#include "unit_scaling/optim/gradient_source.hpp"
#include "unit_scaling/optim/optimiser.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

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

/// What numbers are multiplied with before they are rounded to a narrow format.
///
/// The signal-to-noise ratio of a sum of normal gradients of 8, 64 and 256 ranks, which have no or
/// half of their variance in common, in dB, at worst:
///
/// | format | scaling | at scales of 2^-2 to 2^4 | of 2^-8 to 2^8 |
/// | --- | --- | --- | --- |
/// | E4M3 | `by_message` | 28.6 | 28.6 |
/// | E4M3 | `fixed` | 28.5 | 4.4 |
/// | E5M2 | either | 22.3 | 22.3 |
/// | float16 | either | 70.3 | 70.3 |
///
/// No fixed factor does for a byte: two roundings leave 28 dB to formats of three fraction bits, of
/// which E4M3 has no more than 2^-6 to 2^8 in full.
enum class WireScaling {
  /// A power of two that the number of batches alone decides. Unit scaling makes the gradient of a
  /// batch 1 in scale, which is in the middle of each format: so nothing is multiplied there. A sum
  /// of M of these has a scale from √M, if they have nothing in common, to M, if they are the same:
  /// it is divided by the power of two nearest to the middle of that, M^¾.
  fixed,
  /// The largest power of two under which no number of the message overflows. The header of the
  /// message has it, so no other message is sent. Numbers are read once more, just after they were
  /// collected.
  by_message,
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
/// A number that is infinite or NaN on one rank, and a sum beyond binary32, is NaN in the result on
/// all ranks, so that all of them refuse the same step. A parameter that has a gradient on some
/// ranks only gets the sum of theirs; on none, none.
///
/// Each rank sends 2 (N − 1) / N times the bytes of the gradients in the format of the wire, and 64
/// for each message.
class GradientExchange {
 public:
  struct Options {
    /// Binary32, or a narrower one.
    Format format = {};
    WireScaling scaling = WireScaling::by_message;
    Combination combination = Combination::unit_scaled;
    /// How many numbers go in one message of all ranks together.
    std::size_t bucket_elements = std::size_t{1} << 20;
  };

  /// @param ranks must outlive this object.
  /// @param parameters that gradients are wanted of, in the same order on all ranks; they must stay
  ///        in place. `require_agreement` compares them.
  /// @throws DomainError if a parameter is null or given twice, or two have one name; for binary64,
  ///         and for a format without a sign, zero or NaN; for buckets without elements.
  GradientExchange(Communicator& ranks, const std::vector<Parameter*>& parameters)
      : GradientExchange(ranks, parameters, Options{}) {}
  GradientExchange(Communicator& ranks, const std::vector<Parameter*>& parameters,
                   const Options& options)
      : ranks_(&ranks), options_(options) {
    optim::require_gradient_format(name, options.format);
    require_size(name, "a number of elements in a bucket", options.bucket_elements);
    optim::detail::DistinctParameters distinct(name);
    for (const Parameter* parameter : parameters) distinct.add(parameter);
    for (std::size_t k = parameters.size(); k-- > 0;) {
      numbers_.emplace(parameters[k], slots_.size());
      slots_.push_back(
          {.parameter = parameters[k], .shape = parameters[k]->shape(), .begin = elements_});
      elements_ += slots_.back().shape.size();
    }
  }

  /// Adds up the gradients of a step. All ranks call it. If it throws, there are no gradients.
  /// @param batches whose gradients each rank has added up in the source, unweighted; as many on
  ///        each rank.
  /// @throws ShapeError if a gradient has another shape than its parameter at construction: before
  ///         anything is sent. DomainError for 0 batches.
  /// @throws CommunicationError if a rank has failed; if a message is not the one that is due: cut
  ///         off, repeated, or changed on its way; if ranks have other options or numbers of
  ///         batches.
  template <optim::GradientSource Gradients>
  void exchange(const Gradients& source, std::size_t batches = 1);
  /// The same, of as many batches as the tree has.
  void exchange(const GradientTree& source) { exchange(source, source.count()); }

  /// Sends what can be sent once the gradient of a parameter is final, while the tape still
  /// unwinds; the `exchange` of the same tape, which must follow, does the rest:
  ///
  ///     tape.on_final_gradient([&](const Parameter& each) { exchange.take(tape, each); });
  ///
  /// The result has the same bits, and a rank may do so or not whatever the others do. Gradients
  /// come in about the order of the buckets if parameters are in about the order of their use.
  /// @throws DomainError if it was given this parameter in this step; ShapeError and
  ///         CommunicationError as `exchange`. A parameter of others is passed over.
  template <optim::GradientSource Gradients>
  void take(const Gradients& source, const Parameter& parameter);

  /// Calls `use(gradients)` with the gradients of all ranks: after an exchange this object, or the
  /// source itself where one rank has them all and nothing is divided, which then costs nothing.
  /// @throws as `exchange`, and what `use` throws
  template <optim::GradientSource Gradients, class Use>
  void with_sum(const Gradients& source, const Use& use) {
    if (ranks_->size() == 1) return use(source);
    exchange(source);
    use(*this);
  }

  /// The gradient of a parameter, from all ranks; empty if there is none.
  [[nodiscard]] const Array<float>& gradient(const Parameter& parameter) const& {
    static const Array<float> none;
    const auto found = numbers_.find(&parameter);
    if (!is_complete_ || found == numbers_.end()) return none;
    const Slot& slot = slots_[found->second];
    return slot.is_there ? slot.sum : none;
  }
  [[nodiscard]] Array<float> gradient(const Parameter& parameter) const&& {
    return gradient(parameter);
  }

  /// Of the last exchange.
  [[nodiscard]] const ExchangeStatistics& statistics() const& { return statistics_; }
  [[nodiscard]] ExchangeStatistics statistics() const&& { return statistics_; }

 private:
  static constexpr const char* name = "GradientExchange";
  /// Numbers that are added up at once; packed codes of so many end with a byte.
  static constexpr std::size_t chunk = 1024;

  /// A parameter in the row of numbers.
  struct Slot {
    const Parameter* parameter;
    Shape shape;
    std::size_t begin;
    bool is_there = false;  ///< on some rank
    bool is_final = false;  ///< on this rank, in this step
    Array<float> sum = {};
    float* to = nullptr;  ///< its elements, in an exchange
  };

  /// A range of the row.
  struct Range {
    std::size_t begin;
    std::size_t end;
    [[nodiscard]] std::size_t size() const { return end - begin; }
  };

  /// An operation of all ranks on a bucket.
  struct Stage {
    std::vector<std::byte> sent;
    std::vector<std::byte> received;
    std::vector<std::size_t> sent_sizes;
    std::vector<std::size_t> received_sizes;
    Request request;  ///< last, so that it is given up before the bytes are
  };
  struct Bucket {
    Stage terms;
    Stage sums;
  };
  /// Buckets of which messages are on their way: terms, sums, and what has come.
  static constexpr std::size_t buckets_in_flight = 3;

  /// Begins a step, of which there are no gradients before its end.
  void begin(std::size_t batches) {
    is_complete_ = false;
    is_begun_ = true;
    started_ = 0;
    statistics_ = {};
    told_ = hash_of_told(batches);
    for (Slot& slot : slots_) {
      slot.is_there = false;
      slot.is_final = false;
      slot.to = nullptr;
    }
  }

  template <optim::GradientSource Gradients>
  static void check_shape(const Gradients& source, const Slot& slot);

  /// Goes on with the buckets whose gradients are final.
  template <optim::GradientSource Gradients>
  void advance(const Gradients& source, std::size_t batches);

  [[nodiscard]] std::size_t buckets() const {
    return elements_ / options_.bucket_elements +
           (elements_ % options_.bucket_elements != 0 ? 1 : 0);
  }

  [[nodiscard]] Range bucket_of(std::size_t number) const {
    const std::size_t begin = number * options_.bucket_elements;
    return {begin, begin + std::min(options_.bucket_elements, elements_ - begin)};
  }

  /// What a rank adds up of a bucket: whole chunks but for the last piece, or nothing.
  [[nodiscard]] Range piece_of(const Range& bucket, std::size_t rank) const {
    const std::size_t chunks = (bucket.size() + chunk - 1) / chunk;
    // Small buckets are shared out by elements, in whole bytes of packed codes.
    const std::size_t unit = chunks >= ranks_->size() ? chunk : 8;
    const std::size_t units = (bucket.size() + unit - 1) / unit;
    const std::size_t each = (units + ranks_->size() - 1) / ranks_->size() * unit;
    const std::size_t begin = std::min(rank * each, bucket.size());
    return {bucket.begin + begin, bucket.begin + std::min(begin + each, bucket.size())};
  }

  /// Calls `body(slot, range)` for each parameter that has numbers in the range, with those.
  template <class Body> void for_each_slot(const Range& range, const Body& body) {
    auto slot = std::upper_bound(
        slots_.begin(), slots_.end(), range.begin,
        [](std::size_t begin, const Slot& each) { return begin < each.begin + each.shape.size(); });
    for (; slot != slots_.end() && slot->begin < range.end; ++slot) {
      const Range common{std::max(range.begin, slot->begin),
                         std::min(range.end, slot->begin + slot->shape.size())};
      if (common.begin < common.end) body(*slot, common);
    }
  }

  /// Bytes of a message: the header, a byte for each parameter of the bucket that tells whether it
  /// has a gradient, and the codes.
  struct Layout {
    std::size_t flags;
    std::size_t codes;  ///< where they begin
    std::size_t size;
  };
  [[nodiscard]] Layout layout_of(const Range& bucket, const Range& piece, bool is_sum) {
    std::size_t flags = 0;
    if (!is_sum) for_each_slot(bucket, [&](const Slot&, const Range&) { ++flags; });
    const std::size_t codes = sizeof(GradientMessage) + flags;
    return {
        .flags = flags, .codes = codes, .size = codes + options_.format.code_bytes(piece.size())};
  }

  [[nodiscard]] GradientMessage header_of(std::size_t number, std::size_t from, std::size_t piece,
                                          bool is_sum) const {
    return {.step = step_,
            .bucket = static_cast<std::uint32_t>(number),
            .from = static_cast<std::uint32_t>(from),
            .piece = static_cast<std::uint32_t>(piece),
            .is_sum = is_sum ? 1U : 0U,
            .elements = piece_of(bucket_of(number), piece).size(),
            .told = told_};
  }

  /// A hash of what must be the same on all ranks, or their sums have other meanings.
  [[nodiscard]] std::uint32_t hash_of_told(std::size_t batches) const {
    std::uint64_t hash = text_hash(to_string(options_.format));
    for (const std::uint64_t each :
         {static_cast<std::uint64_t>(options_.scaling),
          static_cast<std::uint64_t>(options_.combination), std::uint64_t{options_.bucket_elements},
          std::uint64_t{batches}}) {
      hash = unit_scaling::detail::next_hash(hash, each);
    }
    return static_cast<std::uint32_t>(hash ^ hash >> 32U);
  }

  /// `to[i] = from[i]`; NaN if that is not finite.
  template <class T> static void copy_finite(const T* from, std::size_t size, float* to) {
    optim::detail::for_each_lane(size, [=](std::size_t i, auto count) {
      constexpr std::int32_t infinity = 0x7f80'0000;
      const auto x = kernels::load<float>(from + i, count);
      const auto magnitude = bit_cast_to<int32x16>(bit_cast_to<uint32x16>(x) & 0x7fff'ffffU);
      const auto y = select(is_less(magnitude, splat<int32x16>(infinity)), x,
                            splat<float32x16>(std::numeric_limits<float>::quiet_NaN()));
      kernels::store<Overflow::infinity_or_nan, float>(y, to + i, count);
    });
  }

  /// The exponent of WireScaling::fixed for a sum of so many batches.
  [[nodiscard]] static int fixed_exponent(std::size_t batches) {
    return static_cast<int>(std::lround(0.75 * std::log2(static_cast<double>(batches))));
  }

  /// Rounds numbers, and tells the header how.
  /// @param batches that the numbers are sums of
  void encode(std::span<const float> numbers, std::size_t batches, GradientMessage& header,
              std::byte* codes) const {
    int exponent = 0;
    if (!options_.format.is_binary32()) {
      const float amax = kernels::largest_finite_magnitude(numbers.data(), numbers.size());
      if (options_.scaling == WireScaling::fixed) {
        exponent = fixed_exponent(batches);
        header.saturated += beyond(numbers, amax, exponent);
      } else if (amax > 0) {
        exponent = std::ilogb(power_of_two_scale(amax, options_.format, ScaleRounding::round_up));
      }
    }
    header.exponent = exponent;
    options_.format.encode(
        numbers,
        {reinterpret_cast<std::uint8_t*>(codes), options_.format.code_bytes(numbers.size())},
        {.scale = std::ldexp(1.0F, -exponent)});
  }

  /// How many finite numbers are beyond the largest of the format.
  [[nodiscard]] std::uint64_t beyond(std::span<const float> numbers, float amax,
                                     int exponent) const {
    const double largest = std::ldexp(options_.format.spec().max_finite(), exponent);
    if (static_cast<double>(amax) <= largest) return 0;
    return static_cast<std::uint64_t>(
        std::count_if(numbers.begin(), numbers.end(), [&](float each) {
          const double magnitude = std::abs(static_cast<double>(each));
          return magnitude > largest && magnitude < std::numeric_limits<double>::infinity();
        }));
  }

  /// What `count` codes stand for, from number `first` on.
  void decode(const std::byte* codes, std::size_t first, std::size_t count, int exponent,
              float* to) const {
    const Format& format = options_.format;
    format.decode({reinterpret_cast<const std::uint8_t*>(codes) + format.code_bytes(first),
                   format.code_bytes(count)},
                  {to, count});
    if (exponent != 0) multiply(std::ldexp(1.0F, exponent), {to, count});
  }

  static void multiply(float factor, std::span<float> numbers) {
    for (float& each : numbers) each *= factor;
  }

  /// Sends the numbers of this rank.
  template <optim::GradientSource Gradients>
  void start_terms(const Gradients& source, std::size_t number, std::size_t batches) {
    Stage& stage = buckets_[number % buckets_in_flight].terms;
    const Range bucket = bucket_of(number);
    stage.sent_sizes.clear();
    stage.received_sizes.clear();
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      stage.sent_sizes.push_back(layout_of(bucket, piece_of(bucket, rank), false).size);
      stage.received_sizes.push_back(
          layout_of(bucket, piece_of(bucket, ranks_->rank()), false).size);
    }
    resize(stage);
    std::size_t begin = 0;
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      const Range piece = piece_of(bucket, rank);
      const Layout layout = layout_of(bucket, piece, false);
      std::byte* const message = stage.sent.data() + begin;
      std::byte* flag = message + sizeof(GradientMessage);
      for_each_slot(bucket, [&](const Slot& slot, const Range&) {
        const bool is_there = source.gradient(*slot.parameter).size() != 0;
        *flag++ = static_cast<std::byte>(is_there ? 1 : 0);
      });
      numbers_of_piece_.resize(piece.size());
      for_each_slot(piece, [&](const Slot& slot, const Range& range) {
        float* const to = numbers_of_piece_.data() + (range.begin - piece.begin);
        const auto& gradient = source.gradient(*slot.parameter);
        if (gradient.size() == 0) {
          std::fill_n(to, range.size(), 0.0F);
        } else {
          copy_finite(optim::detail::gradient_elements(gradient) + (range.begin - slot.begin),
                      range.size(), to);
        }
      });
      GradientMessage header = header_of(number, ranks_->rank(), rank, false);
      encode(numbers_of_piece_, batches, header, message + layout.codes);
      header.seal({message, layout.size});
      if (rank != ranks_->rank()) statistics_.sent_bytes += layout.size;
      begin += layout.size;
    }
    stage.request = ranks_->start_all_to_all({stage.sent, stage.sent_sizes},
                                             {stage.received, stage.received_sizes});
  }

  /// Returns when the messages have come.
  void wait(Stage& stage) {
    const auto start = std::chrono::steady_clock::now();
    stage.request.wait();
    statistics_.waited += std::chrono::steady_clock::now() - start;
  }

  /// Adds up the piece of this rank, and sends the sum.
  void start_sums(std::size_t number, std::size_t batches) {
    Stage& terms = buckets_[number % buckets_in_flight].terms;
    Stage& sums = buckets_[number % buckets_in_flight].sums;
    const std::size_t own = ranks_->rank();
    const Range bucket = bucket_of(number);
    const Range piece = piece_of(bucket, own);
    const Layout layout = layout_of(bucket, piece, false);
    wait(terms);
    GradientMessage sum = header_of(number, own, own, true);
    std::vector<int> exponents;
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      const std::byte* const message = terms.received.data() + rank * layout.size;
      const auto header =
          GradientMessage::open({message, layout.size}, header_of(number, rank, own, false));
      exponents.push_back(header.exponent);
      sum.saturated += header.saturated;
      const std::byte* flag = message + sizeof(GradientMessage);
      for_each_slot(bucket, [&](Slot& slot, const Range&) {
        slot.is_there = slot.is_there || *flag != std::byte{0};
        ++flag;
      });
    }
    numbers_of_piece_.resize(piece.size());
    parallel_ranges(piece.size(), chunk, [&](std::size_t first, std::size_t end) {
      add_up(terms.received.data() + layout.codes, layout.size, exponents, {first, end});
    });
    sums.sent_sizes.clear();
    sums.received_sizes.clear();
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      sums.received_sizes.push_back(layout_of(bucket, piece_of(bucket, rank), true).size);
    }
    const Layout layout_of_sum = layout_of(bucket, piece, true);
    sums.sent_sizes.push_back(layout_of_sum.size);
    resize(sums);
    encode(numbers_of_piece_, batches * ranks_->size(), sum,
           sums.sent.data() + layout_of_sum.codes);
    sum.seal(sums.sent);
    statistics_.sent_bytes += sums.sent.size() * (ranks_->size() - 1);
    sums.request = ranks_->start_all_gather(sums.sent, {sums.received, sums.received_sizes});
  }

  /// The sums of some numbers of the piece of this rank.
  /// @param codes those of rank 0; those of each further one begin `apart` bytes behind.
  void add_up(const std::byte* codes, std::size_t apart, const std::vector<int>& exponents,
              const Range& range) {
    // As many terms as wait in a PairwiseSum of any number.
    std::array<std::array<float, chunk>, std::numeric_limits<std::size_t>::digits / 2> terms;
    const std::size_t size = range.size();
    PairwiseSum<std::size_t> sum;  // of terms by their number in the array
    const auto join = [&](std::size_t left, std::size_t right) {
      for (std::size_t i = 0; i < size; ++i) terms[left][i] += terms[right][i];
    };
    for (std::size_t rank = 0; rank < exponents.size(); ++rank) {
      const std::size_t free = sum.nodes().size();
      decode(codes + rank * apart, range.begin, size, exponents[rank], terms[free].data());
      sum.add(free, join);
    }
    copy_finite(terms[sum.take(join)].data(), size, numbers_of_piece_.data() + range.begin);
  }

  /// Takes the sums of all ranks.
  void finish(std::size_t number, float factor) {
    Stage& stage = buckets_[number % buckets_in_flight].sums;
    const Range bucket = bucket_of(number);
    wait(stage);
    std::size_t begin = 0;
    for (std::size_t rank = 0; rank < ranks_->size(); ++rank) {
      const Range piece = piece_of(bucket, rank);
      const Layout layout = layout_of(bucket, piece, true);
      const std::byte* const message = stage.received.data() + begin;
      const auto header =
          GradientMessage::open({message, layout.size}, header_of(number, rank, rank, true));
      statistics_.saturated += header.saturated;
      numbers_of_piece_.resize(piece.size());
      parallel_ranges(piece.size(), chunk, [&](std::size_t first, std::size_t end) {
        float* const to = numbers_of_piece_.data() + first;
        decode(message + layout.codes, first, end - first, header.exponent, to);
        if (factor != 1) multiply(factor, {to, end - first});
      });
      for_each_slot(piece, [&](Slot& slot, const Range& range) {
        if (!slot.is_there) return;
        std::memcpy(place_of(slot) + (range.begin - slot.begin),
                    numbers_of_piece_.data() + (range.begin - piece.begin),
                    range.size() * sizeof(float));
      });
      begin += layout.size;
    }
  }

  /// Where the sum of a parameter is written to.
  [[nodiscard]] static float* place_of(Slot& slot) {
    if (slot.to == nullptr) {
      if (slot.sum.shape() != slot.shape) slot.sum = Array<float>(slot.shape);
      slot.to = slot.sum.mutable_data();
    }
    return slot.to;
  }

  static void resize(Stage& stage) {
    const auto total = [](const std::vector<std::size_t>& sizes) {
      std::size_t result = 0;
      for (const std::size_t each : sizes) result += each;
      return result;
    };
    stage.sent.resize(total(stage.sent_sizes));
    stage.received.resize(total(stage.received_sizes));
  }

  /// Of one rank.
  template <optim::GradientSource Gradients> void copy(const Gradients& source, float factor) {
    for (Slot& slot : slots_) {
      const auto& gradient = source.gradient(*slot.parameter);
      slot.is_there = gradient.size() != 0;
      if (!slot.is_there) continue;
      float* const to = place_of(slot);
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
    if (options_.combination == Combination::sum) return 1;
    return static_cast<float>(options_.combination == Combination::mean ? 1 / all
                                                                        : 1 / std::sqrt(all));
  }

  Communicator* ranks_;
  Options options_;
  std::vector<Slot> slots_;  ///< in reverse order of the parameters
  std::unordered_map<const Parameter*, std::size_t> numbers_;
  std::size_t elements_ = 0;
  std::array<Bucket, buckets_in_flight> buckets_;
  std::vector<float> numbers_of_piece_;
  std::uint64_t step_ = 0;
  std::uint32_t told_ = 0;
  bool is_begun_ = false;    ///< the step
  std::size_t started_ = 0;  ///< buckets of the step
  bool is_complete_ = false;
  ExchangeStatistics statistics_;
};

template <optim::GradientSource Gradients>
void GradientExchange::check_shape(const Gradients& source, const Slot& slot) {
  const auto& gradient = source.gradient(*slot.parameter);
  require_shape(
      gradient.size() == 0 || gradient.shape() == slot.shape, name,
      [&] { return "a gradient in the shape of '" + slot.parameter->name + "' at first"; },
      slot.shape, gradient.shape());
}

template <optim::GradientSource Gradients>
void GradientExchange::advance(const Gradients& source, std::size_t batches) {
  // In one order on all ranks, whenever each of them comes to it.
  for (; started_ < buckets(); ++started_) {
    bool is_final = true;
    for_each_slot(bucket_of(started_),
                  [&](const Slot& slot, const Range&) { is_final = is_final && slot.is_final; });
    if (!is_final) return;
    start_terms(source, started_, batches);
    if (started_ >= 1) start_sums(started_ - 1, batches);
    if (started_ >= 2) finish(started_ - 2, factor_of(batches));
  }
}

template <optim::GradientSource Gradients>
void GradientExchange::take(const Gradients& source, const Parameter& parameter) {
  const auto found = numbers_.find(&parameter);
  if (ranks_->size() == 1 || found == numbers_.end()) return;
  const DefaultArithmetic arithmetic;
  Slot& slot = slots_[found->second];
  check_shape(source, slot);
  if (!is_begun_) begin(1);
  require(!slot.is_final, name, "expected an exchange after each backward, got the gradient of '",
          parameter.name, "' twice");
  slot.is_final = true;
  advance(source, 1);
}

template <optim::GradientSource Gradients>
void GradientExchange::exchange(const Gradients& source, std::size_t batches) {
  const DefaultArithmetic arithmetic;
  is_complete_ = false;
  require_size(name, "a number of batches", batches);
  require(!is_begun_ || batches == 1, name, "expected one batch after take, got ", batches);
  for (const Slot& slot : slots_) check_shape(source, slot);
  if (!is_begun_) begin(batches);
  if (ranks_->size() == 1) {
    copy(source, factor_of(batches));
  } else {
    for (Slot& slot : slots_) slot.is_final = true;
    advance(source, batches);
    const std::size_t all = buckets();
    if (all >= 1) start_sums(all - 1, batches);
    if (all >= 2) finish(all - 2, factor_of(batches));
    if (all >= 1) finish(all - 1, factor_of(batches));
  }
  ++step_;
  is_begun_ = false;
  is_complete_ = true;
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
