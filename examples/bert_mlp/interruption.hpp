// SPDX-License-Identifier: MIT
// Ctrl-C while a model trains: the step that has begun is finished, and the model saved.
#pragma once

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <ctime>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "options.hpp"

namespace bert_mlp {

namespace detail {

// What a handler may write to.
inline std::atomic<int> signal_received = 0;
inline std::atomic<std::time_t> time_of_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free &&
              std::atomic<std::time_t>::is_always_lock_free);

/// Programs such as `timeout` send a signal twice at once, which is one; people do not.
extern "C" inline void note_signal(int signal) {
  constexpr std::time_t at_once = 1;  // seconds
  const std::time_t now = std::time(nullptr);
  if (signal_received == 0) {
    time_of_signal = now;
    signal_received = signal;
  } else if (now > time_of_signal + at_once) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace detail

/// While this is there, Ctrl-C and the signal of `kill` only make `interruption` tell of them. One
/// more, some seconds later, ends the program at once. Signals that whoever started the program had
/// ignored stay ignored.
class InterruptionScope {
 public:
  InterruptionScope() {
    for (std::size_t i = 0; i < signals.size(); ++i) {
      sigaction(signals[i], nullptr, &before_[i]);
      if (before_[i].sa_handler == SIG_IGN) continue;
      struct sigaction action {};
      action.sa_handler = detail::note_signal;
      action.sa_flags = SA_RESTART;
      sigaction(signals[i], &action, nullptr);
    }
  }
  InterruptionScope(const InterruptionScope&) = delete;
  InterruptionScope& operator=(const InterruptionScope&) = delete;
  ~InterruptionScope() {
    for (std::size_t i = 0; i < signals.size(); ++i) sigaction(signals[i], &before_[i], nullptr);
  }

 private:
  static constexpr std::array signals{SIGINT, SIGTERM};
  std::array<struct sigaction, signals.size()> before_{};
};

/// The signal that asked to stop; 0 if none did.
[[nodiscard]] inline int interruption() { return detail::signal_received; }

/// What a training throws that was asked to stop.
struct Interrupted : std::exception {
  Interrupted(Variant of, std::size_t after) : variant(std::move(of)), step(after) {}
  [[nodiscard]] const char* what() const noexcept override { return "interrupted"; }

  Variant variant;
  std::size_t step;
  std::optional<std::size_t> checkpoint_step = std::nullopt;  // of the last one saved
  std::string unsaved = {};  // empty, or why the last checkpoint is not written
};

}  // namespace bert_mlp
