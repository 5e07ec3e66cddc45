// SPDX-License-Identifier: MIT
/// @file
/// Layer train: tables of the names that the parameters of a model have in a file of weights.
///
/// Only files of plain weights need it, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// An array of a file, which holds a parameter or some of its rows.
struct StoredArray {
  std::string name;
  /// How many of the rows: this number over the sum of those of all arrays of the parameter.
  std::size_t share = 1;

  // Implicit: a name alone is an array.
  StoredArray(const char* array, std::size_t of_rows = 1) : name(array), share(of_rows) {}
  StoredArray(std::string array, std::size_t of_rows = 1)
      : name(std::move(array)), share(of_rows) {}
};

/// How an array lies in a file.
enum class StoredAs {
  parameter,   ///< as the parameter does: a weight is (fan_out, fan_in)
  transposed,  ///< (fan_in, fan_out), as the Conv1D layers of GPT-2 have it
};

/// Where a parameter is in a file: the arrays whose rows, one array after the other, are its own.
struct WeightEntry {
  std::string parameter;
  std::vector<StoredArray> arrays;
  StoredAs stored_as = StoredAs::parameter;
};

namespace detail {

/// Stands for a number in a name: for all digits that are there.
inline constexpr std::string_view number_placeholder = "{}";

/// The numbers for which placeholders stand in `pattern` if it is to be `name`; nothing if it
/// cannot be.
[[nodiscard]] inline std::optional<std::vector<std::string_view>> numbers_of(
    std::string_view name, std::string_view pattern) {
  std::vector<std::string_view> numbers;
  for (;;) {
    const std::size_t at = pattern.find(number_placeholder);
    const std::string_view text = pattern.substr(0, at);
    if (!name.starts_with(text)) return std::nullopt;
    name.remove_prefix(text.size());
    if (at == pattern.npos) break;
    pattern.remove_prefix(at + number_placeholder.size());
    const std::size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
    if (digits == 0) return std::nullopt;
    numbers.push_back(name.substr(0, digits));
    name.remove_prefix(digits);
  }
  if (!name.empty()) return std::nullopt;
  return numbers;
}

[[nodiscard]] inline std::size_t count_placeholders(std::string_view pattern) {
  std::size_t count = 0;
  for (std::size_t at = pattern.find(number_placeholder); at != pattern.npos;
       at = pattern.find(number_placeholder, at + number_placeholder.size())) {
    ++count;
  }
  return count;
}

/// `pattern` with the numbers in place of its placeholders, of which there are as many.
[[nodiscard]] inline std::string with_numbers(std::string_view pattern,
                                              std::span<const std::string_view> numbers) {
  std::string name;
  for (const std::string_view number : numbers) {
    const std::size_t at = pattern.find(number_placeholder);
    name += pattern.substr(0, at);
    name += number;
    pattern.remove_prefix(at + number_placeholder.size());
  }
  return name += pattern;
}

}  // namespace detail

/// The names that parameters have in a file, as a table:
///
///     using train::StoredAs;
///     const train::WeightNames names{
///         {"embedding.table", {"wte.weight"}},
///         {"layers.{}.mlp.up.weight", {"h.{}.mlp.c_fc.weight"}, StoredAs::transposed},
///         {"layers.{}.mhsa.linear_qkv.weight",
///          {{"h.{}.q.weight", 4}, {"h.{}.k.weight", 2}, {"h.{}.v.weight", 2}}}};
///
/// "{}" stands for a number, such as that of a layer, and takes all digits that are there: "h{}1"
/// has no match in "h11". The first "{}" of an array's name for the
/// number of the first one in the parameter's name, and so on. The last entry is of a weight whose
/// first half of the rows is the array of queries; those of keys and of values have a quarter each.
/// Several parameters may be read from one array. An empty table: each parameter is an array of its
/// own name.
class WeightNames {
 public:
  WeightNames() = default;
  /// @throws DomainError if an entry has no arrays, an array has a share of 0, or its name has
  ///         another number of "{}" than that of the parameter; ShapeError if shares cannot be
  ///         added.
  WeightNames(std::initializer_list<WeightEntry> entries)
      : WeightNames(std::vector<WeightEntry>(entries)) {}
  explicit WeightNames(std::vector<WeightEntry> entries) : entries_(std::move(entries)) {
    for (const WeightEntry& each : entries_) require_entry(each);
  }

  /// The table, to make another one of it.
  [[nodiscard]] const std::vector<WeightEntry>& entries() const& { return entries_; }
  [[nodiscard]] std::vector<WeightEntry> entries() const&& { return entries_; }

  /// The entry of each of these parameters, in their order, with numbers instead of "{}".
  /// @throws DomainError naming a parameter that has no entry or more than one, or an entry that is
  ///         of none of the parameters.
  [[nodiscard]] std::vector<WeightEntry> entries_of(std::span<const std::string> parameters) const {
    std::vector<WeightEntry> result;
    result.reserve(parameters.size());
    std::vector<bool> is_used(entries_.size(), false);
    for (const std::string& parameter : parameters) {
      if (entries_.empty()) {
        result.push_back({parameter, {parameter}});
        continue;
      }
      const std::size_t found = entry_of(parameter);
      is_used[found] = true;
      result.push_back(with_numbers(entries_[found], parameter));
    }
    const auto unused = std::find(is_used.begin(), is_used.end(), false);
    if (unused != is_used.end()) {
      const auto index = static_cast<std::size_t>(unused - is_used.begin());
      throw_domain_error(name_of_class, {"expected entries of the model's parameters, got one for ",
                                         in_quotes(entries_[index].parameter)});
    }
    return result;
  }

 private:
  static constexpr std::string_view name_of_class = "WeightNames";

  static void require_entry(const WeightEntry& entry) {
    const std::string name = in_quotes(entry.parameter);
    require(!entry.arrays.empty(), name_of_class, "expected at least one array for ", name);
    const std::size_t placeholders = detail::count_placeholders(entry.parameter);
    std::size_t shares = 0;
    for (const StoredArray& array : entry.arrays) {
      require(array.share > 0, name_of_class, "expected a share of at least 1 for ",
              in_quotes(array.name), " of ", name, ", got 0");
      shares = size_sum(name_of_class, {shares, array.share});
      require(detail::count_placeholders(array.name) == placeholders, name_of_class,
              "expected as many {} in ", in_quotes(array.name), " as in ", name);
    }
  }

  /// The index of the only entry of a parameter.
  [[nodiscard]] std::size_t entry_of(const std::string& parameter) const {
    std::optional<std::size_t> found;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (!detail::numbers_of(parameter, entries_[i].parameter)) continue;
      if (found) {
        throw_domain_error(name_of_class, {"expected one entry for ", in_quotes(parameter),
                                           ", got ", in_quotes(entries_[*found].parameter), " and ",
                                           in_quotes(entries_[i].parameter)});
      }
      found = i;
    }
    if (found) return *found;
    throw_domain_error(name_of_class,
                       {"expected an entry for ", in_quotes(parameter), ", got none"});
  }

  [[nodiscard]] static WeightEntry with_numbers(const WeightEntry& entry,
                                                const std::string& parameter) {
    const auto numbers = detail::numbers_of(parameter, entry.parameter);
    WeightEntry result{parameter, {}, entry.stored_as};
    for (const StoredArray& array : entry.arrays) {
      result.arrays.emplace_back(detail::with_numbers(array.name, *numbers), array.share);
    }
    return result;
  }

  std::vector<WeightEntry> entries_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
