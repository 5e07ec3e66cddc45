// SPDX-License-Identifier: MIT
/// @file
/// Layer train: the checkpoints of one training, of which the last ones are kept.
///
/// Needs nlohmann/json and POSIX, so it is not in the umbrella header.
///
///     train::Fingerprint fingerprint;
///     fingerprint.add("rate", rate).add("steps", steps).add_data("text", text);
///     const train::Checkpoints checkpoints("runs/a", fingerprint);
///     for (std::uint64_t step = checkpoints.load_latest(training).value_or(0); step < steps;) {
///       …
///       if (++step % 100 == 0) checkpoints.save(step, training);
///     }
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/checkpoint.hpp"
#include "unit_scaling/train/fingerprint.hpp"
#include "unit_scaling/train/non_finite_state.hpp"
#include "unit_scaling/train/safetensors.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// An open file that a training saved: which training that is, and how many steps it had done. The
/// file is one of `save_state`, whose metadata has both, as "training" and "step".
class Checkpoint {
 public:
  /// @throws FileError if the file cannot be read or is none that `Checkpoints` writes.
  explicit Checkpoint(const std::filesystem::path& path) : file_(path) {
    const auto& metadata = file_.metadata();
    for (const char* key : {"training", "step"}) {
      if (!metadata.contains(key)) {
        throw FileError(file_.path(), "is no checkpoint of a training: it has no text '" +
                                          std::string(key) + "' in its metadata");
      }
    }
    const std::string& digits = metadata.at("step");
    const char* const end = digits.data() + digits.size();
    const auto [rest, error] = std::from_chars(digits.data(), end, step_);
    if (error != std::errc{} || rest != end) {
      throw FileError(file_.path(),
                      "is of step " + in_quotes(digits) + ", expected a whole number below 2^64");
    }
    try {
      training_ = Fingerprint::parse(metadata.at("training"));
    } catch (const std::invalid_argument& refusal) {
      throw FileError(file_.path(),
                      std::string("is no checkpoint of a training: ") + refusal.what());
    }
  }

  /// For `load_state`.
  [[nodiscard]] SafetensorsFile& file() { return file_; }
  [[nodiscard]] std::uint64_t step() const { return step_; }
  [[nodiscard]] const Fingerprint& training() const& { return training_; }
  [[nodiscard]] Fingerprint training() const&& { return training_; }

  /// @throws FileError if it is of another training than that, with what differs in its text.
  void require_training(const Fingerprint& here) const {
    if (training_ == here) return;
    throw FileError(file_.path(),
                    "is of another training: " + Fingerprint::difference(training_, here));
  }

 private:
  SafetensorsFile file_;
  Fingerprint training_;
  std::uint64_t step_ = 0;
};

/// The checkpoints of one training: in a folder as step-00000100.safetensors and so on, the last
/// ones of which are kept, or as one file. `load_state` and `load_part` read each of them.
///
/// One program at a time saves to a folder, which `RunFolder` sees to; others may load meanwhile.
/// The members of one object are called by one thread at a time.
class Checkpoints {
 public:
  struct Options {
    /// How many are kept, at least 1.
    std::size_t keep = 3;
    /// Called with the error of a file that cannot be loaded; the one before it is then tried. If
    /// nothing is given, the error is thrown.
    std::function<void(const FileError&)> on_damaged = {};
  };

  /// @param folder is made, with those above it, when something is saved.
  /// @param training what they are checkpoints of.
  /// @throws DomainError if the name of the folder is empty, or `options.keep` is 0.
  Checkpoints(std::filesystem::path folder, Fingerprint training)
      : Checkpoints(std::move(folder), std::move(training), Options{}) {}
  Checkpoints(std::filesystem::path folder, Fingerprint training, Options options)
      : place_(std::move(folder)), training_(std::move(training)), options_(std::move(options)) {
    require(!place_.empty(), "Checkpoints", "expected the name of a folder or file, got none");
    require_size("Checkpoints", "keep", options_.keep);
  }

  /// One file of that name, which each checkpoint replaces, and so it does whatever else is there.
  /// Its folder is there.
  /// @throws DomainError if the name is empty.
  [[nodiscard]] static Checkpoints in_file(std::filesystem::path file, Fingerprint training) {
    Checkpoints checkpoints(std::move(file), std::move(training), Options{.keep = 1});
    checkpoints.is_one_file_ = true;
    return checkpoints;
  }

  /// The name of the checkpoint after that step.
  [[nodiscard]] std::filesystem::path path(std::uint64_t step) const {
    if (is_one_file_) return place_;
    std::string digits = std::to_string(step);
    digits.insert(0, digit_count - std::min(digit_count, digits.size()), '0');
    return place_ / (std::string(prefix) + digits + std::string(suffix));
  }

  /// Saves the training after that step, as `save_state` does, unless an array of it has an element
  /// that is not finite: the checkpoint from before is then worth more. When the new one is in its
  /// place, those of the lowest steps are removed, and never the new one, so that `keep` are left;
  /// those of other trainings, damaged ones and files of other names stay, and so does what cannot
  /// be removed.
  ///
  /// In a folder a checkpoint replaces one of the same training and step, or a file that
  /// `on_damaged` was told of, and no other.
  /// @param training a part, or a function of a visitor; see train/training_state.hpp.
  /// @returns whether it is saved.
  /// @throws FileError if it cannot be written, or the folder has another file in its place; and as
  ///         `save_state`. Nothing is written or removed then.
  template <class Training> bool save(std::uint64_t step, Training&& training) const {
    if (first_non_finite_state(training)) return false;
    const std::filesystem::path target = path(step);
    if (!is_one_file_) {
      make_folder();
      // What is no regular file is refused when it is written.
      std::error_code error;
      if (!damaged_.contains(step) && std::filesystem::is_regular_file(target, error)) {
        opened(step).require_training(training_);
      }
    }
    save_state(target, training,
               {{"training", training_.to_string()}, {"step", std::to_string(step)}});
    damaged_.erase(step);
    if (!is_one_file_) remove_old(step);
    return true;
  }

  /// The last checkpoint of this training that can be opened; empty if there is none. Those of
  /// other trainings are passed over.
  /// @throws FileError if the folder cannot be read.
  [[nodiscard]] std::optional<Checkpoint> latest() const {
    for (const std::uint64_t step : steps()) {
      if (auto checkpoint = own(step)) return checkpoint;
    }
    return std::nullopt;
  }

  /// Loads the last checkpoint, as `load_state` does.
  /// @returns the step that it is of; empty if there is no checkpoint.
  /// @throws FileError if it is of another training, with what differs in its text; if it cannot be
  ///         loaded, or has the name of another step, and `on_damaged` is not given; if none can be
  ///         loaded; or if there is none and none could be saved. The training is then as it was.
  template <class Training>
  [[nodiscard]] std::optional<std::uint64_t> load_latest(Training&& training) const {
    std::optional<FileError> newest_error;
    bool has_vanished = false;
    for (const std::uint64_t step : steps()) {
      std::optional<Checkpoint> checkpoint;
      const auto is_done = [&](const auto& attempt) {
        try {
          attempt();
          return true;
        } catch (const FileError& error) {
          // Removed since the folder was read, by who saves there: there are later ones now.
          if (!checkpoint && !is_there(path(step))) {
            has_vanished = true;
            return false;
          }
          if (!options_.on_damaged) throw;
          options_.on_damaged(error);
          damaged_.insert(step);
          if (!newest_error) newest_error = error;
          return false;
        }
      };
      if (!is_done([&] { checkpoint.emplace(opened(step)); })) continue;
      checkpoint->require_training(training_);
      if (is_done([&] { load_state(checkpoint->file(), training); })) return checkpoint->step();
    }
    if (has_vanished) return load_latest(training);
    if (newest_error) throw FileError(*newest_error);
    require_writable();
    return std::nullopt;
  }

 private:
  static constexpr std::string_view prefix = "step-";
  static constexpr std::string_view suffix = ".safetensors";
  static constexpr std::size_t digit_count = 8;  ///< at least

  /// Whether there is anything of that name, a symbolic link to nothing included.
  [[nodiscard]] static bool is_there(const std::filesystem::path& path) {
    std::error_code error;
    return std::filesystem::symlink_status(path, error).type() !=
           std::filesystem::file_type::not_found;
  }

  /// The checkpoint of that step; of one file, the one that is there.
  /// @throws FileError if the file is none, or is of another step than its name says.
  [[nodiscard]] Checkpoint opened(std::uint64_t step) const {
    Checkpoint checkpoint(path(step));
    if (!is_one_file_ && checkpoint.step() != step) {
      throw FileError(path(step).string(), "is of step " + std::to_string(checkpoint.step()) +
                                               ", expected step " + std::to_string(step) +
                                               " as its name says");
    }
    return checkpoint;
  }

  /// The same; empty if it cannot be opened or is of another training.
  [[nodiscard]] std::optional<Checkpoint> own(std::uint64_t step) const {
    try {
      Checkpoint checkpoint = opened(step);
      if (checkpoint.training() == training_) return checkpoint;
    } catch (const FileError&) {
      // Nobody knows whose it is.
    }
    return std::nullopt;
  }

  /// Steps of the files that are called as checkpoints are, from the last on; of one file, 0.
  [[nodiscard]] std::vector<std::uint64_t> steps() const {
    std::vector<std::uint64_t> steps;
    std::error_code error;
    if (is_one_file_) {
      if (std::filesystem::exists(place_, error) || error) steps.push_back(0);
      return steps;
    }
    std::filesystem::directory_iterator entry(place_, error);
    if (error == std::errc::no_such_file_or_directory) return steps;
    for (const std::filesystem::directory_iterator end; !error && entry != end;
         entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      std::uint64_t step = 0;
      if (!name.starts_with(prefix)) continue;
      std::from_chars(name.data() + prefix.size(), name.data() + name.size(), step);
      if (path(step).filename() == name) steps.push_back(step);
    }
    if (error) throw FileError(place_.string(), "cannot be read: " + error.message());
    std::sort(steps.begin(), steps.end(), std::greater<>());
    return steps;
  }

  void make_folder() const {
    std::error_code error;
    std::filesystem::create_directories(place_, error);
    std::error_code ignored;
    if (std::filesystem::is_directory(place_, ignored)) return;
    throw FileError(
        place_.string(),
        "expected a folder, or that one can be made: " +
            (error ? error : std::make_error_code(std::errc::not_a_directory)).message());
  }

  /// Fails before the training rather than at its first checkpoint. A folder can be made where a
  /// file can be written.
  void require_writable() const {
    std::filesystem::path first = path(0);  // of what is to be made
    while (!is_one_file_ && first.has_parent_path() && !is_there(first.parent_path())) {
      first = first.parent_path();
    }
    const AtomicFile deletes_itself(first);
  }

  /// @param kept the step that was saved last.
  void remove_old(std::uint64_t kept) const {
    try {
      std::size_t count = 1;
      for (const std::uint64_t step : steps()) {
        if (step == kept || !own(step)) continue;
        std::error_code ignored;
        if (++count > options_.keep) std::filesystem::remove(path(step), ignored);
      }
    } catch (const FileError&) {
      // Of a folder that cannot be read everything stays; the checkpoint is saved all the same.
    }
  }

  std::filesystem::path place_;  ///< the folder, or the one file
  bool is_one_file_ = false;
  Fingerprint training_;
  Options options_;
  mutable std::set<std::uint64_t> damaged_;  ///< steps whose files `on_damaged` was told of
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
