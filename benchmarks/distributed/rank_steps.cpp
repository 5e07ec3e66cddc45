// SPDX-License-Identifier: MIT
#include "distributed/rank_steps.hpp"

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "decoder_steps.hpp"
#include "unit_scaling/analysis/quantile.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/distributed/agreement.hpp"
#include "unit_scaling/distributed/gradient_exchange.hpp"
#include "unit_scaling/train/fingerprint.hpp"

namespace unit_scaling_benchmarks {

namespace {

namespace us = unit_scaling;
using us::analysis::median;
using us::distributed::Communicator;
using us::distributed::GradientExchange;
using Clock = std::chrono::steady_clock;

double seconds_of(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

/// What a rank measured of the steps of one way in one round.
struct Measured {
  double seconds = 0;
  double waited = 0;  ///< seconds for messages, and in looks at them
  double sent = 0;    ///< bytes
};

/// How gradients are exchanged, or not at all, and what came of it on rank 0.
struct Way {
  std::string name;
  std::unique_ptr<GradientExchange> exchange = nullptr;
  bool sends_early = false;
  bool has_barrier = false;  ///< between the gradients and the update, where there is no exchange
  // Of each round, for one step:
  std::vector<double> rates = {};  ///< tokens a second of all ranks together
  std::vector<double> rates_to_alone = {};
  std::vector<double> seconds = {};
  std::vector<double> waits = {};
  std::vector<double> sent = {};
  std::vector<double> counted = {};
};

/// Bytes that have left through an interface since the system started.
double sent_through(const std::string& interface) {
  std::ifstream file("/sys/class/net/" + interface + "/statistics/tx_bytes");
  double bytes = 0;
  if (!(file >> bytes)) throw std::runtime_error("there is no interface '" + interface + "'");
  return bytes;
}

/// What each rank measured, on all of them.
std::vector<Measured> gathered(Communicator& ranks, const Measured& own) {
  std::vector<Measured> all(ranks.size());
  ranks.all_gather(std::as_bytes(std::span(&own, 1)),
                   {std::as_writable_bytes(std::span(all)),
                    std::vector<std::size_t>(ranks.size(), sizeof(Measured))});
  return all;
}

/// Seconds of a message without bytes from all ranks to all others.
double measured_latency(Communicator& ranks) {
  constexpr int repetitions = 200;
  ranks.barrier();
  const auto start = Clock::now();
  for (int i = 0; i < repetitions; ++i) ranks.barrier();
  return seconds_of(Clock::now() - start) / repetitions;
}

std::vector<Way> ways_of(Communicator& ranks, const std::vector<us::Parameter*>& parameters,
                         const RankOptions& options) {
  std::vector<Way> ways;
  ways.push_back({.name = ranks.size() == 1 ? "without the exchange" : "alone"});
  if (ranks.size() > 1) ways.push_back({.name = "alone, in step", .has_barrier = true});
  for (const us::Format& wire : options.wires) {
    for (const bool sends_early : {false, true}) {
      const std::string when = sends_early ? ", early" : ", late";
      ways.push_back({.name = ranks.size() == 1 ? "with the exchange" : to_string(wire) + when,
                      .exchange = std::make_unique<GradientExchange>(
                          ranks, parameters,
                          GradientExchange::Options{.format = wire,
                                                    .bucket_elements = options.bucket_elements}),
                      .sends_early = sends_early || ranks.size() == 1});
      if (ranks.size() == 1) return ways;  // nothing is sent, whatever the wire
    }
  }
  return ways;
}

template <class P>
Measured train(Communicator& ranks, DecoderSteps<P>& decoder, const Way& way,
               const RankOptions& options) {
  decoder.tape.on_final_gradient({});
  if (way.sends_early) {
    decoder.tape.on_final_gradient(
        [&](const us::Parameter& each) { way.exchange->take(decoder.tape, each); });
  }
  Measured measured;
  const auto start = Clock::now();
  for (std::size_t step = 0; step < options.steps; ++step) {
    decoder.differentiate();
    if (way.has_barrier) {
      const auto computed = Clock::now();
      ranks.barrier();
      measured.waited += seconds_of(Clock::now() - computed);
    }
    if (!way.exchange) {
      decoder.update(decoder.tape);
      continue;
    }
    way.exchange->with_sum(decoder.tape, [&](const auto& sum) { decoder.update(sum); });
    const auto& statistics = way.exchange->statistics();
    measured.waited += seconds_of(statistics.waited + statistics.looked);
    measured.sent += static_cast<double>(statistics.sent_bytes);
  }
  measured.seconds = seconds_of(Clock::now() - start);
  return measured;
}

/// Adds a round to what came of a way.
void add(Way& way, const Way& alone, const std::vector<Measured>& all, double counted,
         const RankOptions& options, std::size_t tokens) {
  const auto steps = static_cast<double>(options.steps);
  double rate = 0;
  double seconds = 0;
  double waited = 0;
  for (const Measured& each : all) {
    rate += steps * static_cast<double>(tokens) / each.seconds;
    seconds += each.seconds;
    waited += each.waited;
  }
  const double rank_steps = steps * static_cast<double>(all.size());
  way.rates.push_back(rate);
  way.rates_to_alone.push_back(rate / alone.rates.back());
  way.seconds.push_back(seconds / rank_steps);
  way.waits.push_back(waited / rank_steps);
  way.sent.push_back(all[0].sent / steps);
  way.counted.push_back(counted / steps);
}

void print(const std::vector<Way>& ways, const RankOptions& options, double latency,
           std::size_t buckets) {
  std::string title = "| way | tokens/s | of the first | a step, ms | of it waiting, ms | sent |";
  std::string line = "|---|---|---|---|---|---|";
  if (!options.interface.empty()) {
    title += " through " + options.interface + " |";
    line += "---|";
  }
  if (options.link > 0) {
    title += " model, ms |";
    line += "---|";
  }
  std::printf("%s\n%s\n", title.c_str(), line.c_str());
  for (const Way& way : ways) {
    std::printf("| %s | %.0f | %.3f | %.2f | %.2f | %.0f |", way.name.c_str(), median(way.rates),
                median(way.rates_to_alone), 1e3 * median(way.seconds), 1e3 * median(way.waits),
                median(way.sent));
    if (!options.interface.empty()) std::printf(" %.0f |", median(way.counted));
    if (options.link > 0) {
      double seconds = median(ways[0].seconds);
      if (way.exchange) {  // two operations for each bucket
        seconds +=
            8e-6 * median(way.sent) / options.link + 2 * static_cast<double>(buckets) * latency;
      }
      std::printf(" %.2f |", 1e3 * seconds);
    }
    std::printf("\n");
  }
}

template <class P> void measure(Communicator& ranks, const RankOptions& options) {
  DecoderSteps<P> decoder(options.hidden_size, options.sequences);
  const auto parameters = us::optim::parameters_of(decoder.model);
  us::train::Fingerprint told;
  told.add("precision", P::name)
      .add("sequences", options.sequences)
      .add("rounds", options.rounds)
      .add("steps", options.steps)
      .add("bucket_elements", options.bucket_elements);
  std::string wires;
  for (const us::Format& wire : options.wires) wires += to_string(wire) + " ";
  told.add("wires", wires);
  us::distributed::require_agreement(ranks, told, parameters);

  const double latency = measured_latency(ranks);
  const std::size_t tokens = options.sequences * decoder.positions;
  const bool counts = ranks.rank() == 0 && !options.interface.empty();
  std::vector<Way> ways = ways_of(ranks, parameters, options);
  for (std::size_t round = 0; round <= options.rounds; ++round) {  // the first one warms up
    for (Way& way : ways) {
      ranks.barrier();
      const double before = counts ? sent_through(options.interface) : 0;
      const Measured own = train(ranks, decoder, way, options);
      ranks.barrier();  // until then something may be on its way
      const double counted = counts ? sent_through(options.interface) - before : 0;
      const auto all = gathered(ranks, own);
      if (round > 0) add(way, ways[0], all, counted, options, tokens);
    }
  }
  if (ranks.rank() != 0) return;
  std::size_t elements = 0;
  for (const us::Parameter* each : parameters) elements += each->shape().size();
  const std::size_t buckets = (elements + options.bucket_elements - 1) / options.bucket_elements;
  std::printf(
      "Ranks: %zu, with %zu threads each. Precision: %s. Parameters: %zu, in %zu buckets.\n"
      "Tokens of a step and rank: %zu. Medians of %zu rounds of %zu steps.\n",
      ranks.size(), us::thread_count(), P::name.data(), elements, buckets, tokens, options.rounds,
      options.steps);
  std::printf("A message without bytes from all to all: %.3f ms.\n\n", 1e3 * latency);
  print(ways, options, latency, buckets);
}

}  // namespace

void measure_rank_steps(Communicator& ranks, const RankOptions& options) {
  options.precision == "fp8" ? measure<us::precision::fp8>(ranks, options)
                             : measure<us::precision::fp32>(ranks, options);
}

}  // namespace unit_scaling_benchmarks
