// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: tracked tensors of several runs, sorted by the op or parameter they belong to.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/tensor_statistics.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// The tensors of one op, or of one parameter, in each of several runs.
struct TensorGroup {
  std::string label;  ///< "blocks.0.feed_forward.up/linear", with the number of the call from 2 on
  bool is_parameter = false;
  std::vector<std::vector<const TrackedTensor*>> tensors = {};  ///< by run, in order
};

/// What a tensor is to its op or parameter: the same in every run.
struct TensorPlace {
  TrackedRole role = TrackedRole::value;
  std::size_t argument = 0;

  friend bool operator==(const TensorPlace&, const TensorPlace&) = default;
};

/// True for what belongs to a parameter and not to an op.
[[nodiscard]] constexpr bool is_of_parameter(TrackedRole role) {
  return role == TrackedRole::parameter || role == TrackedRole::parameter_gradient ||
         role == TrackedRole::update;
}

/// True for operands in binary32: nothing rounds them, and they are outputs or parameters as well.
[[nodiscard]] inline bool is_seen_elsewhere(const TrackedTensor& tensor) {
  return tensor.role == TrackedRole::operand && tensor.format == storage_name<float>;
}

/// Every op of the runs, then every parameter, in the order of the first run that has it. Ops of
/// different runs are the same if module, name and number of the call in a step agree. Tensors seen
/// elsewhere are left out.
/// @param runs must stay in place while the groups are used.
[[nodiscard]] inline std::vector<TensorGroup> group_tensors(std::span<const NumericsRun> runs) {
  std::vector<TensorGroup> groups;
  std::map<std::string, std::size_t> known;  // by label; parameters' behind a line feed
  for (std::size_t r = 0; r < runs.size(); ++r) {
    // An op's number on the tape tells calls apart within a run.
    std::map<std::pair<std::string, std::size_t>, std::string> calls;
    std::map<std::string, std::size_t> count;
    for (const TrackedTensor& tensor : runs[r].tensors) {
      if (is_seen_elsewhere(tensor)) continue;
      const bool is_parameter = is_of_parameter(tensor.role);
      const std::string name = (is_parameter            ? "\n"
                                : tensor.module.empty() ? ""
                                                        : tensor.module + "/") +
                               tensor.source;
      const auto [call, is_new] = calls.try_emplace({name, tensor.index});
      if (is_new) {
        const std::size_t number = ++count[name];
        call->second = name + (number == 1 ? "" : ", call " + std::to_string(number));
      }
      const auto [entry, is_new_group] = known.try_emplace(call->second, groups.size());
      if (is_new_group) {
        const std::string& label = call->second;
        groups.push_back({.label = is_parameter ? label.substr(1) : label,
                          .is_parameter = is_parameter,
                          .tensors = std::vector<std::vector<const TrackedTensor*>>(runs.size())});
      }
      groups[entry->second].tensors[r].push_back(&tensor);
    }
  }
  std::stable_partition(groups.begin(), groups.end(),
                        [](const TensorGroup& group) { return !group.is_parameter; });
  return groups;
}

/// What the group has in any of its runs, in the order of the roles.
[[nodiscard]] inline std::vector<TensorPlace> places_of(const TensorGroup& group) {
  std::vector<TensorPlace> places;
  for (const auto& tensors : group.tensors) {
    for (const TrackedTensor* tensor : tensors) {
      const TensorPlace place{tensor->role, tensor->argument};
      if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
    }
  }
  // Operands come before the op that they enter.
  const auto rank = [](const TensorPlace& place) {
    const bool is_operand = place.role == TrackedRole::operand;
    return std::pair(is_operand ? -1 : static_cast<int>(place.role), place.argument);
  };
  std::sort(places.begin(), places.end(),
            [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  return places;
}

/// The tensor of that place in that run; null if there is none with a sample.
[[nodiscard]] inline const TrackedTensor* tensor_at(const TensorGroup& group, std::size_t run,
                                                    const TensorPlace& place) {
  for (const TrackedTensor* tensor : group.tensors[run]) {
    const bool is_it = TensorPlace{tensor->role, tensor->argument} == place;
    if (is_it && !tensor->samples.empty()) return tensor;
  }
  return nullptr;
}

/// "output", "operand 1", "gradient of output 0": what the place is called, for people.
[[nodiscard]] inline std::string place_text(const TensorGroup& group, const TensorPlace& place) {
  const auto places = places_of(group);
  const auto of_role = std::count_if(places.begin(), places.end(),
                                     [&](const auto& other) { return other.role == place.role; });
  const std::string number = of_role > 1 ? " " + std::to_string(place.argument) : "";
  switch (place.role) {
    case TrackedRole::value:
      return "output" + number;
    case TrackedRole::operand:
      return "operand " + std::to_string(place.argument) + " of the matrix product";
    case TrackedRole::gradient:
      return "gradient of output" + number;
    case TrackedRole::parameter:
      return "parameter";
    case TrackedRole::parameter_gradient:
      return "gradient of the parameter";
    case TrackedRole::update:
      break;
  }
  return "update of the parameter";
}

/// The share of a tensor's elements that its format loses: rounded to zero, to the largest number
/// or beyond it, or not finite.
[[nodiscard]] inline double lost_share(const TensorStatistics& seen) {
  return seen.share(seen.underflowed + seen.saturated + seen.histogram.non_finite);
}

/// The share of a tensor's elements that are zero once it is rounded to its format: those that were
/// zero already, by their nature or because an op before lost them, and those that it loses here.
[[nodiscard]] inline double zero_share(const TensorStatistics& seen) {
  return seen.share(seen.histogram.zeros + seen.underflowed);
}

/// The tensor of a run that loses the largest share of its elements, and when. Updates, which are
/// never rounded, do not count.
struct LargestLoss {
  const TrackedTensor* tensor = nullptr;  ///< null if nothing is lost
  const TrackedSample* sample = nullptr;
  double share = 0;
};

[[nodiscard]] inline LargestLoss largest_loss(std::span<const TrackedTensor* const> tensors) {
  LargestLoss largest;
  for (const TrackedTensor* tensor : tensors) {
    if (tensor->role == TrackedRole::update) continue;
    for (const TrackedSample& sample : tensor->samples) {
      const double share = lost_share(sample.statistics);
      if (share > largest.share) largest = {tensor, &sample, share};
    }
  }
  return largest;
}

/// Which samples of a tensor a report shows.
struct ShownSamples {
  const TrackedSample* first = nullptr;
  const TrackedSample* last = nullptr;
  /// The one that lost most, unless it is the last one, if it lost clearly more than that or is the
  /// largest loss of its group: what a report names can be looked up in it.
  const TrackedSample* worst = nullptr;
};

/// @param tensor with at least one sample.
/// @param largest of the tensors of the same op or parameter in the same run.
[[nodiscard]] inline ShownSamples shown_samples(const TrackedTensor& tensor,
                                                const LargestLoss& largest) {
  ShownSamples shown{&tensor.samples.front(), &tensor.samples.back(), nullptr};
  const auto loss = [](const TrackedSample& sample) { return lost_share(sample.statistics); };
  const TrackedSample* const worst =
      &*std::max_element(tensor.samples.begin(), tensor.samples.end(),
                         [&](const auto& a, const auto& b) { return loss(a) < loss(b); });
  const bool is_named = largest.sample == worst;
  const bool is_clear = loss(*worst) > std::max(0.001, 1.5 * loss(*shown.last));
  if (worst != shown.last && (is_named || is_clear)) shown.worst = worst;
  return shown;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
