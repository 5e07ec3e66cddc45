// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. What `./dev compare` measures: pairs of calls that do the same work, one ours
/// and one a peer's.
///
/// A file compare_SUBJECT.cpp adds its pairs before main() runs, by a variable of its own:
///
///     const bool added = add_comparison({.name = "encode_float16_64Ki", ...});
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace unit_scaling_benchmarks {

/// Both sides, ready to be called over and over. They own, or share, the memory that they work on.
struct Sides {
  std::function<void()> ours;
  std::function<void()> peer;
};

/// One entry of the report.
struct Comparison {
  /// What is done. Several entries may share a name and differ in `peer_name`.
  std::string name;
  /// Whom we compare with, and with which of its operations.
  std::string peer_name;
  /// Unit of the rates of both sides; a larger rate is better.
  std::string unit;
  /// Work of one call of either side, in `unit` times seconds.
  double work_per_call;
  /// Allocates and fills. Called right before the measurement, for all entries together would not
  /// fit in memory, and the memory goes with what it returned.
  std::function<Sides()> prepare;
  /// Whether a side uses several threads. The wall clock is read then; otherwise the time that the
  /// calling thread had a processor, which leaves out the turns of other processes.
  bool is_threaded = false;
};

/// Every entry of the program.
[[nodiscard]] inline std::vector<Comparison>& comparisons() {
  static std::vector<Comparison> list;
  return list;
}

/// Adds an entry. The value is always true and serves to initialise a variable.
inline bool add_comparison(Comparison comparison) {
  comparisons().push_back(std::move(comparison));
  return true;
}

/// Makes the compiler believe that the memory behind a pointer is read and written here, so that it
/// can neither leave out a result nor carry one over from the call before.
template <class T> inline void keep(T* memory) { asm volatile("" : : "r"(memory) : "memory"); }

}  // namespace unit_scaling_benchmarks
