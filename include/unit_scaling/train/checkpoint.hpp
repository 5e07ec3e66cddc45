// SPDX-License-Identifier: MIT
/// @file
/// Layer train: saves a training to a file, and takes it up from there.
///
/// Needs nlohmann/json, so it is not in the umbrella header.
///
///     const auto training = [&](const auto& visit) {
///       visit("model", model);
///       visit("optimiser", adam);
///       visit("tape", tape);
///     };
///     if (std::filesystem::exists(path)) train::load_state(path, training);
///     …
///     train::save_state(path, training);
///
/// See train/training_state.hpp for what may be visited. The file is in the safetensors format, one
/// array for each state: a number has no dimension, and an integer the type of as many bits; an
/// encoded array is as train/safetensors.hpp has it. Every bit is kept, those of NaNs as well.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <any>
#include <bit>
#include <concepts>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <map>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/training_state.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

/// An integer of that size.
template <class T>
using StateInteger = std::conditional_t<
    std::is_signed_v<T>,
    std::tuple_element_t<std::bit_width(sizeof(T)) - 1,
                         std::tuple<std::int8_t, std::int16_t, std::int32_t, std::int64_t>>,
    std::tuple_element_t<std::bit_width(sizeof(T)) - 1,
                         std::tuple<std::uint8_t, std::uint16_t, std::uint32_t, std::uint64_t>>>;

/// What a number is in a file.
template <StateNumber T>
using StateElement =
    std::conditional_t<std::is_floating_point_v<T> || std::is_same_v<T, bool>, T, StateInteger<T>>;

/// A state, written.
template <StateValue T>
void add_state(SafetensorsWriter& writer, const std::string& name, const T& state) {
  if constexpr (StateNumber<T>) {
    using Element = StateElement<T>;
    writer.add(name, Array<Element>::filled({}, static_cast<Element>(state)));
  } else if constexpr (is_state_map<T>) {
    for (const auto& [key, each] : state) add_state(writer, name + "." + key, each);
  } else {
    writer.add(name, state);
  }
}

/// A visitor that writes states, of one type for all trainings as those of `StateLoader`.
[[nodiscard]] inline auto saving(SafetensorsWriter& writer) {
  return [&writer](const std::string& name, const auto& state) { add_state(writer, name, state); };
}

/// Reads the states of a file, and puts them in the place of those of a training when all of them
/// are known to fit.
class StateLoader {
  /// A state of the file; once it is in its place, what was there before.
  struct Loaded {
    std::any value;
    bool is_in_place = false;
  };

  // Visitors. They are made in functions that are no templates, so that what walks the parts of a
  // training is compiled once for all trainings.

  [[nodiscard]] auto reading() {
    return [this]<class T>(const std::string& name, T& state) {
      loaded_[name] = {.value = read_state(name, state)};
    };
  }

  /// @param last is told the name of each state.
  [[nodiscard]] auto putting(std::string& last) {
    return [this, &last]<class T>(const std::string& name, T& state) {
      last = name;
      const auto found = loaded_.find(name);
      T* const value = found == loaded_.end() ? nullptr : std::any_cast<T>(&found->second.value);
      if (value == nullptr || !exchange(*value, state)) {
        throw std::logic_error("expected the training to show the same states each time");
      }
      found->second.is_in_place = true;
    };
  }

  /// What is exchanged once more may be a copy that a part shows of what it has, and took from or
  /// not: it gets what was there before in both cases.
  [[nodiscard]] auto putting_back() {
    return [this]<class T>(const std::string& name, T& state) {
      const auto before = loaded_.find(name);
      if (before == loaded_.end() || !std::exchange(before->second.is_in_place, false)) return;
      if (T* const value = std::any_cast<T>(&before->second.value)) exchange(*value, state);
    };
  }

 public:
  explicit StateLoader(SafetensorsFile& file)
      : file_(file), left_(file.names().begin(), file.names().end()) {}

  /// @param is_whole whether the file may have nothing else.
  /// @throws FileError unless the file has the states of the training.
  template <class Training> void read(Training& training, bool is_whole) {
    for_each_state(training, reading());
    if (left_.empty() || !is_whole) return;
    throw FileError(file_.path(),
                    "has an array " + in_quotes(*left_.begin()) +
                        ", expected none but those of the training's states" +
                        (left_.size() == 1 ? std::string()
                                           : "; there are " + std::to_string(left_.size() - 1) +
                                                 " more that are not"));
  }

  /// Puts them there, if then `accept()` does not throw, either.
  template <class Training, class Accept> void put(Training& training, const Accept& accept) {
    try {
      put(training);
      accept();
    } catch (...) {
      try {
        for_each_state(training, putting_back());
      } catch (...) {  // What is told is why the states were refused.
      }
      throw;
    }
  }

 private:
  template <class T> [[nodiscard]] T read_state(const std::string& name, const T& like) {
    if constexpr (StateNumber<T>) {
      return read_number<T>(name);
    } else if constexpr (is_state_map<T>) {
      return read_map<T>(name);
    } else if constexpr (std::is_same_v<T, EncodedArray>) {
      EncodedArray array = file_.encoded_array(name, like);
      left_.erase(name + ".elements");
      if (like.has_scales()) left_.erase(name + ".scales");
      if (has_common_scale(like.scale_layout().format)) left_.erase(name + ".common_scale");
      return array;
    } else {
      T array = file_.tensor<typename T::value_type>(name, like.shape());
      left_.erase(name);
      return array;
    }
  }

  template <class T> [[nodiscard]] T read_number(const std::string& name) {
    const auto array = file_.tensor<StateElement<T>>(name, {});
    left_.erase(name);
    return static_cast<T>(*array.data());
  }

  template <class Map> [[nodiscard]] Map read_map(const std::string& name) {
    using T = typename Map::mapped_type;
    Map map;
    const std::string prefix = name + ".";
    for (auto next = left_.lower_bound(prefix); next != left_.end() && next->starts_with(prefix);
         next = left_.lower_bound(prefix)) {
      // A copy, for reading it takes it off the set.
      // NOLINTNEXTLINE(performance-unnecessary-copy-initialization)
      const std::string each = *next;
      if constexpr (StateNumber<T>) {
        map.emplace(each.substr(prefix.size()), read_number<T>(each));
      } else {
        map.emplace(each.substr(prefix.size()), file_.tensor<typename T::value_type>(each));
        left_.erase(each);
      }
    }
    return map;
  }

  template <class Training> void put(Training& training) {
    std::string last;
    try {
      for_each_state(training, putting(last));
    } catch (const std::bad_alloc&) {
      throw;  // The file is not at fault.
    } catch (const std::exception& error) {
      throw FileError(file_.path(),
                      "refused with the states up to " + in_quotes(last) + ": " + error.what());
    }
  }

  /// Into the memory where the state is: somebody may have lent it. False, with nothing done, if
  /// it has changed its shape or encoding meanwhile.
  template <class T> static bool exchange(Array<T>& a, Array<T>& b) {
    if (a.shape() != b.shape()) return false;
    const auto of_a = a.mutable_span();
    const auto of_b = b.mutable_span();
    std::swap_ranges(of_b.begin(), of_b.end(), of_a.begin());
    return true;
  }
  static bool exchange(EncodedArray& a, EncodedArray& b) {
    if (safetensors_encoding(a) != safetensors_encoding(b)) return false;
    const auto codes_of_a = a.mutable_codes();
    const auto scales_of_a = a.mutable_scale_codes();
    const auto codes_of_b = b.mutable_codes();
    const auto scales_of_b = b.mutable_scale_codes();
    std::swap_ranges(codes_of_b.begin(), codes_of_b.end(), codes_of_a.begin());
    std::swap_ranges(scales_of_b.begin(), scales_of_b.end(), scales_of_a.begin());
    return true;
  }
  template <class T> static bool exchange(T& a, T& b) {
    std::swap(a, b);
    return true;
  }

  SafetensorsFile& file_;
  std::set<std::string> left_;  ///< names of arrays that no state has asked for
  std::map<std::string, Loaded> loaded_;
};

}  // namespace detail

/// Saves the states of a training. A file of that name is replaced as a whole or not at all, as
/// AtomicFile does.
/// @param training a part, or a function of a visitor; see train/training_state.hpp.
/// @param metadata texts that the file has besides, such as what the training was told.
/// @throws FileError if the file cannot be written; DomainError if two states have one name;
///         std::invalid_argument for a name or text that is not UTF-8. Nothing is written then.
template <class Training>
void save_state(const std::filesystem::path& path, Training&& training,
                const std::map<std::string, std::string>& metadata = {}) {
  SafetensorsWriter writer;
  for_each_state(training, detail::saving(writer));
  for (const auto& [key, text] : metadata) writer.set_metadata(key, text);
  writer.write(path);
}

/// Loads the states of a training that has the same parts as the one that was saved, from an open
/// file, the metadata of which may have been looked at.
///
/// Everything is read and compared first: the file must have every state of the training, in its
/// shape and of its type, and no other array. Then all states are written to, in the memory where
/// they are. If a part refuses what it gets, or `accept` does, all of them get what they had
/// before. So a training that shows the same states each time, and takes back what it had, is
/// loaded whole or is as it was. Meanwhile there are two of each state in memory.
/// @param accept called when all states are loaded; throws if they are not to stay.
/// @throws FileError for a file that cannot be read or does not fit, or that a part refuses, with
///         the file, the state and what was expected in its text; DomainError if two states have
///         one name; and what `accept` throws.
template <class Training, std::invocable Accept>
void load_state(SafetensorsFile& file, Training&& training, const Accept& accept) {
  detail::StateLoader loader(file);
  loader.read(training, /*is_whole=*/true);
  loader.put(training, accept);
}
template <class Training> void load_state(SafetensorsFile& file, Training&& training) {
  load_state(file, training, [] {});
}
/// As above, from the file of that name.
template <class Training> void load_state(const std::filesystem::path& path, Training&& training) {
  SafetensorsFile file(path);
  load_state(file, training);
}

/// Loads a part of a training, such as its model for inference, from a file that has more:
///
///     load_part("training.safetensors", [&](const auto& visit) { visit("network", network); });
///
/// @throws as `load_state`, but for arrays that the part has not.
template <class Part> void load_part(const std::filesystem::path& path, Part&& part) {
  SafetensorsFile file(path);
  detail::StateLoader loader(file);
  loader.read(part, /*is_whole=*/false);
  loader.put(part, [] {});
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
