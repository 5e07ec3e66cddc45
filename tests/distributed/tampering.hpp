// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Messages that are changed on their way.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/distributed/communicator.hpp"

namespace unit_scaling_test {

/// An engine that does something to what rank 1 has sent, before rank 0 sees it.
class Tampering final : public unit_scaling::distributed::Communicator {
 public:
  using Tamper = std::function<void(std::span<std::byte> received, std::size_t operation)>;

  Tampering(unit_scaling::distributed::Communicator& engine, Tamper tamper)
      : engine_(&engine), tamper_(std::move(tamper)) {}
  [[nodiscard]] std::size_t rank() const override { return engine_->rank(); }
  [[nodiscard]] std::size_t size() const override { return engine_->size(); }

 private:
  class Tampered final : public unit_scaling::distributed::Request::Operation {
   public:
    std::vector<std::byte> sent;
    std::vector<std::byte> received;
    std::vector<std::size_t> sent_sizes;
    std::vector<std::size_t> received_sizes;
    std::vector<std::span<std::byte>> targets;
    std::function<void(std::span<std::byte>)> tamper;
    unit_scaling::distributed::Request request;

    [[nodiscard]] bool is_done() override {
      if (!request.is_done()) return false;
      hand_over();
      return true;
    }
    void wait() override {
      request.wait();
      hand_over();
    }

   private:
    void hand_over() {
      std::size_t begin = 0;
      for (std::size_t from = 0; from < targets.size(); ++from) {
        const auto piece = std::span(received).subspan(begin, targets[from].size());
        if (from == 1) tamper(piece);
        std::copy(piece.begin(), piece.end(), targets[from].begin());
        begin += piece.size();
      }
    }
  };

  unit_scaling::distributed::Request start(std::string_view /*operation*/, Sent sent,
                                           Received received) override {
    auto operation = std::make_unique<Tampered>();
    for (const auto& each : sent) {
      operation->sent.insert(operation->sent.end(), each.begin(), each.end());
      operation->sent_sizes.push_back(each.size());
    }
    std::size_t all = 0;
    for (const auto& each : received) {
      operation->received_sizes.push_back(each.size());
      all += each.size();
    }
    operation->received.resize(all);
    operation->targets = received;
    operation->tamper = [this, number = operations_++](std::span<std::byte> bytes) {
      if (rank() == 0) tamper_(bytes, number);
    };
    operation->request = engine_->start_all_to_all(
        {operation->sent, operation->sent_sizes}, {operation->received, operation->received_sizes});
    return unit_scaling::distributed::Request(std::move(operation));
  }

  unit_scaling::distributed::Communicator* engine_;
  Tamper tamper_;
  std::size_t operations_ = 0;
};

}  // namespace unit_scaling_test
