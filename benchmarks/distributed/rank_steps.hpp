// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. What a training step costs on several ranks.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/formats/format.hpp"

namespace unit_scaling_benchmarks {

/// The same on all ranks.
struct RankOptions {
  std::string precision = "fp8";  ///< or "fp32"
  std::size_t hidden_size = 128;
  std::size_t sequences = 8;  ///< of 256 tokens, in a step of one rank
  std::vector<unit_scaling::Format> wires = {
      unit_scaling::Format(), unit_scaling::Format::of<unit_scaling::float16>(),
      unit_scaling::Format::of<unit_scaling::float8_e4m3fn>()};
  std::size_t bucket_elements = std::size_t{1} << 17;
  std::size_t rounds = 21;
  std::size_t steps = 3;  ///< of each way in a round
  /// A network interface of the host of rank 0, of which the bytes that leave are counted too.
  std::string interface = {};
  /// Megabits a second that leave a rank while as many arrive, for the model; 0: no model.
  double link = 0;
};

/// Trains the decoder of decoder_steps.hpp in several ways, in turns: each rank for itself, and
/// with each wire, with gradients sent after the backward pass and while it goes on. Rank 0 prints
/// a table of medians over the rounds, and beside them what the model of docs/distributed.md says.
///
/// With one rank it trains with the exchange and without.
void measure_rank_steps(unit_scaling::distributed::Communicator& ranks, const RankOptions& options);

}  // namespace unit_scaling_benchmarks
