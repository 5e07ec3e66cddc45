// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: which numbers of which gradients go in which message.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/distributed/parameter_shares.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// The gradients of parameters, in reverse order, as one row of numbers. The row is cut into
/// buckets, and each bucket into a piece for each rank, which adds it up. Its sums are for all
/// ranks, or for the owners of the parameters. All follows from the shapes of the parameters, the
/// size of a bucket, the number of ranks and the owners.
class GradientBuckets {
 public:
  /// A part of the row.
  struct Range {
    std::size_t begin;
    std::size_t end;
    [[nodiscard]] std::size_t size() const { return end - begin; }
  };

  /// A parameter in the row.
  struct Place {
    const Parameter* parameter;
    Shape shape;
    std::size_t begin;
  };

  /// @throws DomainError, in the name of GradientExchange, if a parameter is null or given twice,
  ///         or two have one name; for buckets without elements; for shares of another number of
  ///         ranks, or without one of the parameters.
  GradientBuckets(const std::vector<Parameter*>& parameters, std::size_t bucket_elements,
                  std::size_t ranks, const std::optional<ParameterShares>& shares)
      : bucket_elements_(bucket_elements), ranks_(ranks) {
    require_size(name, "a number of elements in a bucket", bucket_elements);
    optim::detail::DistinctParameters distinct(name);
    for (const Parameter* parameter : parameters) distinct.add(parameter);
    for (std::size_t k = parameters.size(); k-- > 0;) {
      numbers_.emplace(parameters[k], places_.size());
      places_.push_back(
          {.parameter = parameters[k], .shape = parameters[k]->shape(), .begin = elements_});
      elements_ += places_.back().shape.size();
    }
    add_to_hash(bucket_elements);
    for (const Place& place : places_) {
      add_to_hash(text_hash(place.parameter->name));
      add_to_hash(text_hash(to_string(place.shape)));
    }
    if (!shares) return;
    add_to_hash(shares->hash());
    require(shares->ranks() == ranks, name, "expected shares of ", ranks, " ranks, got those of ",
            shares->ranks());
    for (const Place& place : places_) owners_.push_back(shares->owner(*place.parameter));
    if (ranks == 1) owners_.clear();  // all is for all
  }

  /// The same on all ranks on which parameters have the same names and shapes in the same order,
  /// buckets the same size and parameters the same owners.
  [[nodiscard]] std::uint64_t hash() const { return hash_; }

  /// The parameters in the order of the row.
  [[nodiscard]] const std::vector<Place>& places() const& { return places_; }
  [[nodiscard]] std::vector<Place> places() const&& { return places_; }
  /// The number of a parameter among these; empty if it is none of them.
  [[nodiscard]] std::optional<std::size_t> number_of(const Parameter& parameter) const {
    const auto found = numbers_.find(&parameter);
    if (found == numbers_.end()) return std::nullopt;
    return found->second;
  }

  /// Of a bucket; the last one may have fewer.
  [[nodiscard]] std::size_t bucket_elements() const { return bucket_elements_; }
  /// How many buckets there are.
  [[nodiscard]] std::size_t count() const {
    return elements_ / bucket_elements_ + (elements_ % bucket_elements_ != 0 ? 1 : 0);
  }
  /// A bucket by its number.
  [[nodiscard]] Range bucket(std::size_t number) const {
    const std::size_t begin = number * bucket_elements_;
    return {begin, begin + std::min(bucket_elements_, elements_ - begin)};
  }

  /// What a rank adds up of a bucket, if anything. Pieces begin where packed codes begin with a
  /// byte, at each eighth number, and are as equal as that allows.
  [[nodiscard]] Range piece(const Range& bucket, std::size_t rank) const {
    constexpr std::size_t unit = 8;
    const std::size_t units = (bucket.size() + unit - 1) / unit;
    const auto begin_of = [&](std::size_t each) {
      const std::size_t units_before = units / ranks_ * each + units % ranks_ * each / ranks_;
      return bucket.begin + std::min(units_before * unit, bucket.size());
    };
    return {begin_of(rank), begin_of(rank + 1)};
  }

  /// Calls `body(number, range)` for each parameter that has numbers in the range, with those.
  template <class Body> void for_each_parameter(const Range& range, const Body& body) const {
    auto place = std::upper_bound(places_.begin(), places_.end(), range.begin,
                                  [](std::size_t begin, const Place& each) {
                                    return begin < each.begin + each.shape.size();
                                  });
    for (; place != places_.end() && place->begin < range.end; ++place) {
      const Range common{std::max(range.begin, place->begin),
                         std::min(range.end, place->begin + place->shape.size())};
      if (common.begin >= common.end) continue;
      body(static_cast<std::size_t>(place - places_.begin()), common);
    }
  }

  /// The rank that gets the sum of each parameter; empty if all get all.
  [[nodiscard]] const std::vector<std::size_t>& owners() const& { return owners_; }
  [[nodiscard]] std::vector<std::size_t> owners() const&& { return owners_; }
  /// Whether a rank gets the sum of parameter `number`.
  [[nodiscard]] bool is_for(std::size_t number, std::size_t rank) const {
    return owners_.empty() || owners_[number] == rank;
  }
  /// `for_each_parameter` over those whose sums a rank gets.
  template <class Body>
  void for_each_sum(const Range& range, std::size_t rank, const Body& body) const {
    for_each_parameter(range, [&](std::size_t number, const Range& common) {
      if (is_for(number, rank)) body(number, common);
    });
  }

 private:
  static constexpr const char* name = "GradientExchange";

  void add_to_hash(std::uint64_t element) {
    hash_ = unit_scaling::detail::next_hash(hash_, element);
  }

  std::vector<Place> places_;
  std::unordered_map<const Parameter*, std::size_t> numbers_;
  std::vector<std::size_t> owners_;
  std::size_t elements_ = 0;
  std::size_t bucket_elements_;
  std::size_t ranks_;
  std::uint64_t hash_ = unit_scaling::detail::empty_hash;
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
