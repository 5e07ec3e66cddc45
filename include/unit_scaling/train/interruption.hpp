// SPDX-License-Identifier: MIT
/// @file
/// Layer train: Ctrl-C while a model trains: the step that has begun is finished, and the model can
/// be saved. For POSIX systems, so it is not in the umbrella header.
///
///     const train::InterruptionScope scope;
///     for (; step < steps && train::interruption() == 0; ++step) …
///     checkpoints.save(step, training);
// unit_scaling: optional
#pragma once

// Of POSIX: <csignal> need not have sigaction.
#include <signal.h>  // NOLINT(modernize-deprecated-headers)
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <stdexcept>
#include <string>
#include <string_view>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

// What a handler may write to. Nanoseconds of the monotonic clock; 0: there was no signal.
inline std::atomic<int> signal_received = 0;
inline std::atomic<std::int64_t> time_of_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free &&
              std::atomic<std::int64_t>::is_always_lock_free);

/// Whether there is an InterruptionScope.
inline std::atomic<bool> signals_are_watched = false;
/// What the first signal is answered with: made before the handler is there, which only reads it.
inline std::string answer_to_signal;

/// Answers the first signal, and ends the program at one that comes later. Programs such as
/// `timeout` send a signal twice at once, which is one; people do not.
extern "C" inline void note_signal(int signal) {
  constexpr std::int64_t at_once = 200'000'000;
  const int error = errno;
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  const std::int64_t now = std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  std::int64_t first = 0;
  if (time_of_signal.compare_exchange_strong(first, now)) {
    signal_received = signal;
    // The reader of a pipe may have been stopped too; the model is saved all the same.
    ::signal(SIGPIPE, SIG_IGN);
    // On a terminal, the line of the progress is there.
    const std::string_view line =
        std::string_view(answer_to_signal).substr(isatty(STDERR_FILENO) == 1 ? 0 : 1);
    // There is nobody to tell of a failure.
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  } else if (now - first >= at_once) {
    ::signal(signal, SIG_DFL);
    raise(signal);
  }
  errno = error;
}

}  // namespace detail

/// While this is there, Ctrl-C and the signal of `kill` only make `interruption` tell of them, and
/// print "stopping after this step; Ctrl-C again ends at once" to the standard error stream. One
/// more, a fifth of a second later or more, ends the program at once. Signals that whoever started
/// the program had ignored stay ignored. There is one at a time.
class InterruptionScope {
 public:
  /// @param program what stands in front of what is printed, "PROGRAM: "; empty: nothing.
  /// @throws std::logic_error if there is one already.
  explicit InterruptionScope(std::string_view program = {}) {
    if (detail::signals_are_watched.exchange(true)) {
      throw std::logic_error("InterruptionScope: expected one at a time, got another");
    }
    detail::signal_received = 0;
    detail::time_of_signal = 0;
    detail::answer_to_signal = "\n" + std::string(program) + (program.empty() ? "" : ": ") +
                               "stopping after this step; Ctrl-C again ends at once\n";
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
    detail::signals_are_watched = false;
  }

 private:
  static constexpr std::array signals{SIGINT, SIGTERM};
  std::array<struct sigaction, signals.size()> before_{};
};

/// The signal that asked to stop in the last scope; 0 if none did. A program that has stopped lets
/// the shell know by `std::signal(signal, SIG_DFL); std::raise(signal);`.
[[nodiscard]] inline int interruption() { return detail::signal_received; }

}  // namespace UNIT_SCALING_NAMESPACE::train
