// SPDX-License-Identifier: MIT
// Writes the results of a run: one that cannot be written does not lose the others.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "one_line.hpp"
#include "options.hpp"
#include "unit_scaling/core/atomic_file.hpp"

namespace bert_mlp {

/// Deletes from a folder what each training writes at its end: a checkpoint there of another model,
/// or of a later step, makes it untrue.
inline void remove_earlier_results(const std::filesystem::path& folder) {
  for (const char* name : {"summary.json", "metrics.csv", "loss.svg"}) {
    std::error_code error;  // what cannot be deleted cannot be written later, which is told
    if (std::filesystem::is_regular_file(folder / name, error)) {
      std::filesystem::remove(folder / name, error);
    }
  }
}

class Results {
 public:
  explicit Results(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// Writes the file `name` with the text that `make()` returns.
  template <class Make> void write(const std::string& name, const Make& make) {
    try {
      us::write_file(folder_ / name, make());
    } catch (const std::exception& error) {
      add_failure(name, error.what());
    }
  }

  /// Makes a folder among the results. @returns whether there is one now.
  bool make_folder(const std::string& name) {
    std::error_code error;
    std::filesystem::create_directory(folder_ / name, error);
    if (std::filesystem::is_directory(folder_ / name, error)) return true;
    add_failure(name, "expected a folder, or that one can be made");
    return false;
  }

  /// Takes note that the file `name` is not written.
  void add_failure(const std::string& name, std::string reason) {
    // The error of a file begins with its path.
    const std::string path = quoted_path((folder_ / name).string()) + ": ";
    if (reason.starts_with(path)) reason.erase(0, path.size());
    failures_.emplace_back(name, std::move(reason));
  }

  /// @throws std::runtime_error naming what was not written.
  void require_written() const {
    if (failures_.empty()) return;
    constexpr std::size_t shown = 5;
    std::string text;
    for (std::size_t i = 0; i < std::min(failures_.size(), shown); ++i) {
      text += (i == 0 ? "" : ", ") + failures_[i].first + " (" + failures_[i].second + ")";
    }
    if (failures_.size() > shown) text += ", " + std::to_string(failures_.size() - shown) + " more";
    throw std::runtime_error("--out " + quoted_path(folder_.string()) + ": not written: " + text);
  }

 private:
  std::filesystem::path folder_;
  std::vector<std::pair<std::string, std::string>> failures_;
};

}  // namespace bert_mlp
