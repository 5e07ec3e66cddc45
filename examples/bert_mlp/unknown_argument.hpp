// SPDX-License-Identifier: MIT
// What to tell a user whose command line has a word that no option takes: mostly a typing error.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace bert_mlp {

/// Levenshtein distance: how many letters must be put in, left out or changed to turn one word into
/// the other.
[[nodiscard]] inline std::size_t edit_distance(std::string_view from, std::string_view to) {
  // Of the letters of `from` so far to the first j letters of `to`.
  std::vector<std::size_t> distance(to.size() + 1);
  std::iota(distance.begin(), distance.end(), std::size_t{0});
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::size_t diagonal = distance[0];
    distance[0] = i + 1;
    for (std::size_t j = 0; j < to.size(); ++j) {
      const std::size_t changed = diagonal + (from[i] == to[j] ? 0 : 1);
      diagonal = distance[j + 1];
      distance[j + 1] = std::min({changed, diagonal + 1, distance[j] + 1});
    }
  }
  return distance[to.size()];
}

/// The name that `typed` is nearest to: one that it begins, else one within a third of its letters
/// of it. Empty if there is none.
[[nodiscard]] inline std::string nearest_name(const std::string& typed,
                                              const std::vector<std::string>& names) {
  std::string nearest;
  std::size_t best = std::max<std::size_t>(1, typed.size() / 3) + 1;
  for (const std::string& name : names) {
    const bool begins = typed.size() > 2 && name.starts_with(typed);
    const std::size_t distance = begins ? 0 : edit_distance(typed, name);
    if (distance < best) {
      best = distance;
      nearest = name;
    }
  }
  return nearest;
}

/// One line about the first option that `app` does not have or, without such, the first word that
/// is no option's value.
/// @param app has parsed a command line and kept what it did not expect.
[[nodiscard]] inline std::string unknown_argument(const CLI::App& app) {
  const std::vector<std::string> rest = app.remaining();
  const auto option = std::find_if(rest.begin(), rest.end(),
                                   [](const std::string& word) { return word.starts_with('-'); });
  if (option == rest.end()) return "'" + rest.front() + "' belongs to no option; see --help";
  std::vector<std::string> names;
  for (const CLI::Option* known : app.get_options()) {
    for (const std::string& name : known->get_lnames()) names.push_back(name);
  }
  const std::string typed = option->substr(0, option->find('='));
  const std::size_t dashes = std::min(typed.find_first_not_of('-'), typed.size());
  const std::string nearest = nearest_name(typed.substr(dashes), names);
  return typed + ": there is no such option; " +
         (nearest.empty() ? "see --help" : "do you mean --" + nearest + "?");
}

}  // namespace bert_mlp
