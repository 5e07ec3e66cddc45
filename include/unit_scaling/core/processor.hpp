// SPDX-License-Identifier: MIT
/// @file
/// Layer core: what the system tells of the processor, for reports of measurements. Linux tells it
/// in files; elsewhere nothing is known.
// unit_scaling: optional
#pragma once

#include <charconv>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// A cache of data, or of data and instructions.
struct Cache {
  std::size_t level;    ///< 1 is nearest to the processor.
  std::size_t bytes;    ///< Of one such cache.
  std::size_t ways;     ///< Lines that may hold one address; 0 if that is not known.
  std::size_t sharers;  ///< Logical processors that share one; 0 if that is not known.

  bool operator==(const Cache&) const = default;
};

/// The processor of a machine. Where its cores differ, this is the kind of the first one.
struct Processor {
  /// Its name, which a virtual machine may make up.
  std::string model = "unknown";
  /// Vendor and numbers, which tell apart what shares a name: "GenuineIntel, family 6, model 143,
  /// stepping 8". Empty if they are not known.
  std::string identity;
  /// Those that the machine has switched on; 0 if that is not known. A process may be given fewer:
  /// see `available_thread_count`.
  std::size_t logical_processors = 0;
  /// From the first level on; empty if they are not known.
  std::vector<Cache> caches;
};

namespace detail {

/// The number that `text` is, with K for 1024 of it and M for 1024 K; 0 if it is none.
[[nodiscard]] inline std::size_t number_in(std::string_view text) {
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return 0;
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  const unsigned shift = unit == "K" ? 10U : unit == "M" ? 20U : 0U;
  if ((shift == 0 && !unit.empty()) || number << shift >> shift != number) return 0;
  return number << shift;
}

/// How many numbers a list of ranges such as "0-3,8" has; 0 if it is no such list.
[[nodiscard]] inline std::size_t list_size(std::string_view text) {
  constexpr std::size_t most = 1U << 24U;  // more than there will be; no sum of them overflows
  const char* const end = text.data() + text.size();
  std::size_t size = 0;
  for (const char* at = text.data();; ++at) {
    std::size_t first = 0;
    auto [next, error] = std::from_chars(at, end, first);
    if (error != std::errc()) return 0;
    std::size_t last = first;
    if (next != end && *next == '-') {
      const auto range = std::from_chars(next + 1, end, last);
      if (range.ec != std::errc()) return 0;
      next = range.ptr;
    }
    if (last < first || last >= most || size >= most) return 0;
    size += last - first + 1;
    if (next == end) return size;
    if (*next != ',') return 0;
    at = next;
  }
}

/// The first line of a file; empty if it cannot be read.
[[nodiscard]] inline std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// What /proc/cpuinfo tells of the first processor: names and values.
[[nodiscard]] inline std::map<std::string, std::string> first_processor(
    const std::filesystem::path& path) {
  std::map<std::string, std::string> facts;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string name = line.substr(0, colon);
    const std::size_t value = line.find_first_not_of(" \t", colon + 1);
    if (value == std::string::npos) continue;
    facts.emplace(name.substr(0, name.find_last_not_of(" \t") + 1), line.substr(value));
  }
  return facts;
}

}  // namespace detail

/// Reads what Linux tells of the processor, from /proc/cpuinfo and /sys/devices/system/cpu. What is
/// not told, or not in the form that is known, is left as it is by default; a cache whose level or
/// size is not told is left out.
/// @param root the folder in which proc/ and sys/ are
[[nodiscard]] inline Processor read_processor(const std::filesystem::path& root = "/") {
  Processor processor;
  const auto facts = detail::first_processor(root / "proc/cpuinfo");
  const auto fact = [&](const char* name) {
    const auto found = facts.find(name);
    return found == facts.end() ? std::string() : found->second;
  };
  if (const std::string model = fact("model name"); !model.empty()) processor.model = model;
  const auto add = [&](const std::string& what, const std::string& value) {
    if (value.empty()) return;
    if (!processor.identity.empty()) processor.identity += ", ";
    processor.identity += what + value;
  };
  add("", fact("vendor_id"));
  add("family ", fact("cpu family"));
  add("model ", fact("model"));
  add("stepping ", fact("stepping"));

  const std::filesystem::path system = root / "sys/devices/system/cpu";
  processor.logical_processors = detail::list_size(detail::first_line(system / "online"));
  for (std::size_t index = 0;; ++index) {
    const std::filesystem::path folder = system / "cpu0/cache" / ("index" + std::to_string(index));
    std::error_code ignored;
    if (!std::filesystem::is_directory(folder, ignored)) break;
    if (detail::first_line(folder / "type") == "Instruction") continue;
    const Cache cache{
        .level = detail::number_in(detail::first_line(folder / "level")),
        .bytes = detail::number_in(detail::first_line(folder / "size")),
        .ways = detail::number_in(detail::first_line(folder / "ways_of_associativity")),
        .sharers = detail::list_size(detail::first_line(folder / "shared_cpu_list"))};
    if (cache.level > 0 && cache.bytes > 0) processor.caches.push_back(cache);
  }
  return processor;
}

}  // namespace UNIT_SCALING_NAMESPACE
