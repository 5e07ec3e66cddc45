// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: what all ranks must know of gradients that one of them has.
// unit_scaling: optional
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/message_header.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/optim/clip.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// What a step asks of a gradient before it changes anything; see optim::SharedGradientSource.
struct GradientSummary {
  std::uint32_t largest_magnitude_bits = 0;
  double sum_of_squares = 0;

  [[nodiscard]] static std::uint32_t largest_magnitude_bits_of(const Array<float>& gradient) {
    return kernels::largest_magnitude_bits(gradient.data(), gradient.size());
  }
  [[nodiscard]] static double sum_of_squares_of(const Array<float>& gradient) {
    return optim::detail::sum_of_squares(gradient.data(), gradient.size());
  }
};

/// The summaries of gradients each of which one rank has, in one message of each rank.
class GradientSummaries {
 public:
  GradientSummaries() = default;
  /// @param owners which rank has each gradient: the same on all ranks.
  explicit GradientSummaries(std::vector<std::size_t> owners)
      : owners_(std::move(owners)), summaries_(owners_.size()) {}

  /// Of gradient k, as of the last exchange.
  [[nodiscard]] const GradientSummary& operator[](std::size_t k) const { return summaries_[k]; }

  /// Tells all ranks of the gradients that this one has, and hears of theirs. All ranks call it.
  /// @param receiver who is named in an error
  /// @param header what is known of each message, but for sender, piece, kind and size.
  /// @param gradient_at `gradient_at(k)` is gradient k, an Array<float>, if this rank has it.
  /// @returns bytes sent to other ranks.
  /// @throws CommunicationError if a rank has failed or a message is not the one that is due.
  template <class GradientAt>
  std::size_t exchange(Communicator& ranks, std::string_view receiver, MessageHeader header,
                       const GradientAt& gradient_at) {
    const std::size_t own = ranks.rank();
    std::vector<std::size_t> counts(ranks.size());
    for (const std::size_t owner : owners_) ++counts[owner];
    std::vector<std::size_t> sizes(ranks.size(), sizeof(header));
    for (std::size_t rank = 0; rank < sizes.size(); ++rank) sizes[rank] += bytes * counts[rank];
    std::vector<std::byte> sent(sizes[own]);
    std::vector<std::byte> received(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}));
    const auto header_from = [&](std::size_t rank) {
      header.from = header.piece = static_cast<std::uint32_t>(rank);
      header.kind = MessageKind::summaries;
      header.elements = counts[rank];
      return header;
    };
    std::byte* to = sent.data() + sizeof(header);
    for (std::size_t k = 0; k < owners_.size(); ++k) {
      if (owners_[k] != own) continue;
      const Array<float> gradient = gradient_at(k);  // which shares the elements
      const std::uint32_t largest = GradientSummary::largest_magnitude_bits_of(gradient);
      const double squares = GradientSummary::sum_of_squares_of(gradient);
      std::memcpy(to, &largest, sizeof(largest));
      std::memcpy(to + sizeof(largest), &squares, sizeof(squares));
      to += bytes;
    }
    header_from(own).seal(sent);
    ranks.all_gather(sent, {received, sizes});
    std::vector<const std::byte*> next;  // summary of each rank
    const std::byte* message = received.data();
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      static_cast<void>(MessageHeader::open(receiver, {message, sizes[rank]}, header_from(rank)));
      next.push_back(message + sizeof(header));
      message += sizes[rank];
    }
    for (std::size_t k = 0; k < owners_.size(); ++k) {
      const std::byte*& from = next[owners_[k]];
      std::memcpy(&summaries_[k].largest_magnitude_bits, from, sizeof(std::uint32_t));
      std::memcpy(&summaries_[k].sum_of_squares, from + sizeof(std::uint32_t), sizeof(double));
      from += bytes;
    }
    return sent.size() * (ranks.size() - 1);
  }

 private:
  /// Of a summary in a message.
  static constexpr std::size_t bytes = sizeof(std::uint32_t) + sizeof(double);

  std::vector<std::size_t> owners_;
  std::vector<GradientSummary> summaries_;
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
