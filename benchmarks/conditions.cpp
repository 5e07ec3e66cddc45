// SPDX-License-Identifier: MIT
#include "conditions.hpp"

#include <array>
#include <cstddef>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "peer_libraries.hpp"
#include "target_extensions.hpp"
#include "unit_scaling/core/compiler.hpp"
#include "unit_scaling/core/processor.hpp"

namespace unit_scaling_benchmarks {

namespace {

nlohmann::ordered_json machine() {
  const unit_scaling::Processor processor = unit_scaling::read_processor();
  auto caches = nlohmann::ordered_json::array();
  for (const unit_scaling::Cache& cache : processor.caches) {
    caches.push_back({{"level", cache.level},
                      {"bytes", cache.bytes},
                      {"ways", cache.ways},
                      {"sharers", cache.sharers}});
  }
  return {{"processor", processor.model},
          {"identity", processor.identity},
          {"logical_processors", processor.logical_processors},
          {"caches", caches}};
}

/// What the last `-march=` of the flags says; "default" if none does.
std::string target_name(std::string_view flags) {
  constexpr std::string_view option = "-march=";
  const std::size_t at = flags.rfind(option);
  if (at == std::string_view::npos) return "default";
  const std::string_view name = flags.substr(at + option.size());
  return std::string(name.substr(0, name.find(' ')));
}

std::string date() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 16> text{};
  const std::size_t length = std::strftime(text.data(), text.size(), "%Y-%m-%d", &parts);
  return {text.data(), length};
}

}  // namespace

nlohmann::ordered_json conditions() {
  const std::string flags = UNIT_SCALING_FLAGS;  // by CMake
  return {{"machine", machine()},
          {"target",
           {{"name", target_name(flags)}, {"flags", flags}, {"extensions", target_extensions()}}},
          {"compiler", unit_scaling::compiler_name},
          {"peers", peer_versions()},
          {"date", date()}};
}

}  // namespace unit_scaling_benchmarks
