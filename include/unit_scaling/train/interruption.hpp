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
#include <type_traits>

#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace unit_scaling::every_target {

/// What a handler of signals reads and writes: one for all targets of a program
/// (core/target.hpp), since a process has one handler.
struct SignalWatch {
  std::atomic<bool> has_scope = false;        ///< whether there is an InterruptionScope
  std::atomic<int> signal = 0;                ///< the first one; 0: there was none
  std::atomic<std::int64_t> nanoseconds = 0;  ///< when it came, by the monotonic clock; 0: never
  std::array<char, 512> answer{};             ///< what it is answered with
  std::atomic<std::size_t> answer_size = 0;
};
inline constinit SignalWatch signal_watch;

}  // namespace unit_scaling::every_target

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

using every_target::signal_watch;

static_assert(std::atomic<int>::is_always_lock_free &&
                  std::atomic<std::int64_t>::is_always_lock_free &&
                  std::atomic<std::size_t>::is_always_lock_free,
              "a handler may not wait for a lock");
static_assert(std::is_trivially_destructible_v<decltype(signal_watch)>,
              "signals come after the end of main, too");

/// Answers the first signal, and ends the program at one that comes later. Programs such as
/// `timeout` send a signal twice at once, which is one; people do not.
inline void note_signal(int signal) {
  constexpr std::int64_t at_once = 200'000'000;
  const int error = errno;
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  const std::int64_t now = std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  std::int64_t first = 0;
  if (signal_watch.nanoseconds.compare_exchange_strong(first, now)) {
    signal_watch.signal = signal;
    // The model is saved, even if nobody reads what is printed meanwhile.
    ::signal(SIGPIPE, SIG_IGN);
    // The line end in front is for a terminal, where the line of the progress is.
    const std::size_t begin = isatty(STDERR_FILENO) == 1 ? 0 : 1;
    const std::size_t size = signal_watch.answer_size;
    if (size > begin) {
      // There is nobody to tell of a failure.
      [[maybe_unused]] const ssize_t written =
          write(STDERR_FILENO, signal_watch.answer.data() + begin, size - begin);
    }
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
///
/// Of the processes of one job, which may get the signal together, all but one can be silent.
///
/// After the first one SIGPIPE is ignored until the program ends, as the reader of its output may
/// have been stopped too: what it still writes there fails, and the program goes on.
class InterruptionScope {
 public:
  /// Whether the first signal is answered with a line.
  enum class Answer { line, none };

  /// @param program what stands in front of what is printed, "PROGRAM: "; empty: nothing. As
  ///        `printable` shows it.
  /// @throws std::logic_error if there is one already.
  explicit InterruptionScope(std::string_view program = {}, Answer answer = Answer::line) {
    // Before anything is changed, as it may throw.
    std::string text;
    if (answer == Answer::line) {
      text = "\n" + printable(program) + (program.empty() ? "" : ": ") +
             "stopping after this step; Ctrl-C again ends at once\n";
    }
    if (detail::signal_watch.has_scope.exchange(true)) {
      throw std::logic_error("InterruptionScope: expected one at a time, got another");
    }
    detail::signal_watch.signal = 0;
    detail::signal_watch.nanoseconds = 0;
    // `printable` makes at most four bytes of each of 100, and there is room for that.
    detail::signal_watch.answer_size =
        text.copy(detail::signal_watch.answer.data(), detail::signal_watch.answer.size());
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
    detail::signal_watch.has_scope = false;
  }

 private:
  static constexpr std::array signals{SIGINT, SIGTERM};
  std::array<struct sigaction, signals.size()> before_{};
};

/// The signal that asked to stop in the last scope; 0 if none did. A program that has stopped lets
/// the shell know by `std::signal(signal, SIG_DFL); std::raise(signal);`.
[[nodiscard]] inline int interruption() { return detail::signal_watch.signal; }

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
