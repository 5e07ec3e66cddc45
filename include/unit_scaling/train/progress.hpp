// SPDX-License-Identifier: MIT
/// @file
/// Layer train: a line that tells how far a training run is.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/ioctl.h>
#include <unistd.h>

#include "unit_scaling/core/target.hpp"
#endif

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// How a `Progress` behaves. The defaults suit a program; tests set the clock and the terminal.
struct ProgressOptions {
  /// Print nothing at all.
  bool quiet = false;
  /// What `loss` is called in the line, such as "bits/char".
  std::string loss_name = "loss";
  /// Step from which the run starts, of a run that continues another; it counts for no rate.
  std::size_t first_step = 0;
  /// Whether to rewrite one line. Empty: whether the stream is a terminal, which a `std::ostream`
  /// never is.
  std::optional<bool> terminal = std::nullopt;
  /// Columns of the terminal. Empty: what the terminal says at each line, else 80.
  std::optional<std::size_t> width = std::nullopt;
  /// Seconds between two updates of a terminal, at least.
  double terminal_interval = 0.1;
  /// Seconds between two lines of any other stream, at least.
  double plain_interval = 5;
  /// Seconds since any moment that does not change. Empty: the steady clock.
  std::function<double()> clock = {};
};

/// Prints how far a run is: "train: step 120/400 (30%), loss 3.214, 81.2k tokens/s, ETA 1:20".
///
/// On a terminal it rewrites one line, cut to the terminal's width, at most ten times a second. On
/// any other stream it prints a whole line every few seconds. Either way the last state is printed,
/// and the last character is a newline, when `finish` is called or the object goes out of scope; so
/// an error message printed after that starts its own line. A run that never calls `update` prints
/// nothing.
///
/// Rates are means over the run, for those of single steps jump too much to be read. Of a run that
/// does more than its steps, say how long these took, and `show` what else it does: "validating".
/// Failures of the stream are ignored: a full disk under a log must not end a training run.
/// Not safe for use by several threads at once.
class Progress {
 public:
  /// Prints to a C stream, which must outlive this object.
  /// @param label  What the run is, in front of the line.
  /// @param total  Step at which the run ends.
  Progress(std::string label, std::size_t total, std::FILE* stream = stderr,
           ProgressOptions options = {})
      : Progress(
            std::move(label), total, is_terminal(stream),
            [stream](std::string_view text) {
              static_cast<void>(std::fwrite(text.data(), 1, text.size(), stream));
              static_cast<void>(std::fflush(stream));
            },
            [stream] { return terminal_width(stream); }, std::move(options)) {}

  /// Prints to a C++ stream, which must outlive this object.
  Progress(std::string label, std::size_t total, std::ostream& stream, ProgressOptions options = {})
      : Progress(
            std::move(label), total, false,
            [&stream](std::string_view text) { stream << text << std::flush; },
            [] { return default_width; }, std::move(options)) {}

  Progress(const Progress&) = delete;
  Progress(Progress&&) = delete;
  Progress& operator=(const Progress&) = delete;
  Progress& operator=(Progress&&) = delete;

  /// Does what `finish` does.
  ~Progress() {
    try {
      finish();
    } catch (...) {  // NOLINT(bugprone-empty-catch): a stream that throws must not end the program
    }
  }

  /// Tells where the run is; prints if it is time to.
  /// @param step    Steps done, of `total`.
  /// @param loss    Loss of the last step; may be infinite or NaN. Empty: none is shown.
  /// @param tokens  Tokens processed since the start of the run, or since `first_step`. 0: no rate
  ///                is shown.
  /// @param seconds What those tokens took. Empty: all the time since the construction.
  void update(std::size_t step, std::optional<double> loss = std::nullopt, std::size_t tokens = 0,
              std::optional<double> seconds = std::nullopt) {
    if (options_.quiet || finished_) return;
    const double now = options_.clock();
    state_ = {.step = step,
              .loss = loss,
              .tokens = tokens,
              .elapsed = now - start_time_,
              .seconds = seconds.value_or(now - start_time_)};
    activity_.clear();
    pending_ = true;
    print_if_due(now, terminal_ && !started_);
  }

  /// Tells what the run does until the next `update`, such as "validating 40%", which stands in
  /// place of the time left. On a terminal its beginning is printed at once. Before the first
  /// `update` this does nothing.
  void show(std::string activity) {
    if (options_.quiet || finished_ || !(pending_ || started_)) return;
    const bool begins = activity_.empty();
    activity_ = std::move(activity);
    pending_ = true;
    print_if_due(options_.clock(), terminal_ && begins);
  }

  /// Prints the last state, with the time from the construction until now in place of the time
  /// left, and a newline. Further calls, of `update` as well, do nothing.
  void finish() {
    if (std::exchange(finished_, true) || !(pending_ || started_)) return;
    print(options_.clock(), true);
  }

 private:
  struct State {
    std::size_t step = 0;
    std::optional<double> loss;
    std::size_t tokens = 0;
    double elapsed = 0;  ///< Seconds since the construction.
    double seconds = 0;  ///< Seconds that the tokens took.
  };

  static constexpr std::size_t default_width = 80;

  Progress(std::string label, std::size_t total, bool stream_is_terminal,
           std::function<void(std::string_view)> write, std::function<std::size_t()> width,
           ProgressOptions options)
      : label_(std::move(label)),
        total_(total),
        write_(std::move(write)),
        width_(std::move(width)),
        options_(std::move(options)),
        terminal_(options_.terminal.value_or(stream_is_terminal)) {
    if (!options_.clock) {
      options_.clock = [] {
        const auto now = std::chrono::steady_clock::now().time_since_epoch();
        return std::chrono::duration<double>(now).count();
      };
    }
    if (options_.quiet) return;
    start_time_ = options_.clock();
    printed_at_ = start_time_;
  }

  static bool is_terminal(std::FILE* stream) {
#if defined(__unix__) || defined(__APPLE__)
    // A "dumb" terminal cannot clear a line; Emacs and some build servers run programs in one.
    const char* name = std::getenv("TERM");  // NOLINT(concurrency-mt-unsafe)
    return isatty(fileno(stream)) == 1 && name != nullptr && std::string_view(name) != "dumb";
#else
    static_cast<void>(stream);
    return false;
#endif
  }

  static std::size_t terminal_width(std::FILE* stream) {
#if defined(__unix__) || defined(__APPLE__)
    winsize size{};
    if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
#else
    static_cast<void>(stream);
#endif
    return default_width;
  }

  void print_if_due(double now, bool at_once) {
    const double interval = terminal_ ? options_.terminal_interval : options_.plain_interval;
    if (at_once || now - printed_at_ >= interval) print(now, false);
  }

  void print(double now, bool last) {
    std::string line = describe(now, last);
    if (terminal_) {
      // The last column stays free: writing there makes some terminals go to the next line.
      const std::size_t columns =
          std::max<std::size_t>(options_.width ? *options_.width : width_(), 2);
      line = "\r" + first_columns(line, columns - 1) + "\x1b[K";
      if (last) line += "\n";
    } else {
      line += "\n";
    }
    write_(line);
    started_ = true;
    pending_ = false;
    printed_at_ = now;
  }

  [[nodiscard]] std::string describe(double now, bool last) const {
    std::string line = label_ + (label_.empty() ? "" : ": ");
    line += "step " + std::to_string(state_.step) + "/" + std::to_string(total_);
    if (total_ != 0) {
      const double share = static_cast<double>(state_.step) / static_cast<double>(total_);
      line += " (" + formatted("%.0f", std::floor(100 * share)) + "%)";
    }
    if (state_.loss) line += ", " + options_.loss_name + " " + formatted("%#.4g", *state_.loss);
    if (state_.tokens != 0 && state_.seconds > 0) {
      line += ", " + with_prefix(static_cast<double>(state_.tokens) / state_.seconds) + " tokens/s";
    }
    if (last) {
      line += ", took " + duration(now - start_time_);
    } else if (!activity_.empty()) {
      line += ", " + activity_;
    } else if (state_.elapsed > 0 && state_.step > options_.first_step) {
      const std::size_t left = total_ > state_.step ? total_ - state_.step : 0;
      line += ", ETA " + duration(state_.elapsed * static_cast<double>(left) /
                                  static_cast<double>(state_.step - options_.first_step));
    }
    return line;
  }

  static std::string formatted(const char* format, double value) {
    if (std::isnan(value)) return "nan";  // printf tells the sign of a NaN, which means nothing
    std::array<char, 64> buffer{};
    const int size = std::snprintf(buffer.data(), buffer.size(), format, value);
    return {buffer.data(),
            std::min(static_cast<std::size_t>(std::max(size, 0)), buffer.size() - 1)};
  }

  /// Three significant digits and a prefix: "81.2k". 999.5 would show as 1e+03, hence the margin.
  static std::string with_prefix(double value) {
    constexpr std::array<const char*, 5> prefixes{"", "k", "M", "G", "T"};
    std::size_t prefix = 0;
    while (value >= 999.5 && prefix + 1 < prefixes.size()) {
      value /= 1000;
      ++prefix;
    }
    return formatted("%.3g", value) + prefixes[prefix];
  }

  /// "0:07", "12:34" or "1:02:03".
  static std::string duration(double seconds) {
    constexpr double century = 3.2e9;  // which llround can hold; also for NaN
    if (!(seconds < century)) return "?";
    const auto whole = std::llround(std::max(seconds, 0.0));
    const auto two_digits = [](long long number) {
      return (number < 10 ? "0" : "") + std::to_string(number);
    };
    const long long minutes = whole / 60;
    if (minutes < 60) return std::to_string(minutes) + ":" + two_digits(whole % 60);
    return std::to_string(minutes / 60) + ":" + two_digits(minutes % 60) + ":" +
           two_digits(whole % 60);
  }

  /// The beginning of a UTF-8 text: as many characters as fit, one column each.
  static std::string first_columns(const std::string& text, std::size_t columns) {
    std::size_t end = 0;
    for (; end < text.size(); ++end) {
      const bool begins_character = (static_cast<unsigned char>(text[end]) & 0xc0U) != 0x80U;
      if (begins_character && columns-- == 0) break;
    }
    return text.substr(0, end);
  }

  std::string label_;
  std::size_t total_;
  std::function<void(std::string_view)> write_;
  std::function<std::size_t()> width_;
  ProgressOptions options_;
  bool terminal_;
  double start_time_ = 0;
  double printed_at_ = 0;
  State state_;
  std::string activity_;  ///< Empty during steps.
  bool started_ = false;
  bool pending_ = false;
  bool finished_ = false;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
