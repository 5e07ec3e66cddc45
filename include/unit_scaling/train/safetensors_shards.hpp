// SPDX-License-Identifier: MIT
/// @file
/// Layer train: arrays spread over several safetensors files, as large models are published.
///
/// Needs nlohmann/json, so it is not in the umbrella header.
///
/// An index, `model.safetensors.index.json`, says which file of its folder has which array:
///
///     {"metadata": {"total_size": 28},
///      "weight_map": {"w": "model-00001-of-00002.safetensors",
///                     "b": "model-00002-of-00002.safetensors"}}
// unit_scaling: optional
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <ios>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/input_file.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/safetensors_header.hpp"
#include "unit_scaling/train/safetensors_types.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

/// Largest index that is read, most files that it may name, and the deepest nesting of what is
/// passed over in it.
inline constexpr std::uint64_t safetensors_max_index = safetensors_max_header;
inline constexpr std::size_t safetensors_max_shards = 10'000;
inline constexpr int safetensors_max_depth = 16;

/// Reads an index of shards.
class SafetensorsIndexReader {
 public:
  explicit SafetensorsIndexReader(std::string_view path) : path_(path) {}

  /// The names of arrays, each with that of its file. To be called once.
  /// @throws FileError if the text is no index, names an array twice, or a file beyond its folder.
  [[nodiscard]] std::map<std::string, std::string> read(std::string_view text) {
    read_json(path_, "the index", text, [&](const JsonEvent& event) { take(event); });
    if (!has_weight_map_) fail("the index has no 'weight_map'");
    return std::move(weight_map_);
  }

 private:
  using Kind = JsonEvent::Kind;
  enum class Place { start, members, metadata, map, names, file, end };

  [[noreturn]] void fail(const std::string& what) const { throw FileError(path_, what); }
  void refuse_duplicate(bool is_new, std::string_view name) const {
    if (!is_new) fail("the index has the name " + in_quotes(name) + " twice");
  }

  void take(const JsonEvent& event) {
    switch (place_) {
      case Place::start:
        place_ = Place::members;
        break;
      case Place::members:
        take_member(event);
        break;
      case Place::metadata:  // Of any form; tools put there what they like.
        if (event.kind == Kind::begin_object || event.kind == Kind::begin_array) ++depth_;
        if (event.kind == Kind::end_object || event.kind == Kind::end_array) --depth_;
        if (depth_ > safetensors_max_depth) fail("the metadata of the index are nested too deeply");
        if (depth_ == 0) place_ = Place::members;
        break;
      case Place::map:
        if (event.kind != Kind::begin_object) fail("the 'weight_map' is not a JSON object");
        place_ = Place::names;
        break;
      case Place::names:
        take_name(event);
        break;
      case Place::file:
        if (event.kind != Kind::string) {
          fail("array " + in_quotes(entry_->first) + " has a file name that is not a string");
        }
        check_file_name(*event.text);
        entry_->second = std::move(*event.text);
        place_ = Place::names;
        break;
      case Place::end:
        break;
    }
  }

  void take_member(const JsonEvent& event) {
    if (event.kind == Kind::end_object) {
      place_ = Place::end;
    } else if (*event.text == "metadata") {
      refuse_duplicate(!std::exchange(has_metadata_, true), *event.text);
      place_ = Place::metadata;
    } else if (*event.text == "weight_map") {
      refuse_duplicate(!std::exchange(has_weight_map_, true), *event.text);
      place_ = Place::map;
    } else {
      fail("the index has the unknown member " + in_quotes(*event.text));
    }
  }

  void take_name(const JsonEvent& event) {
    if (event.kind == Kind::end_object) {
      place_ = Place::members;
      return;
    }
    if (weight_map_.size() == safetensors_max_arrays) {
      fail("the index has more than " + std::to_string(safetensors_max_arrays) + " arrays");
    }
    const auto [entry, is_new] = weight_map_.try_emplace(*event.text);
    refuse_duplicate(is_new, *event.text);
    entry_ = &*entry;
    place_ = Place::file;
  }

  /// Inside the folder of the index: no absolute path, and no part that leads upwards.
  void check_file_name(std::string_view name) const {
    bool is_inside = name.find('\0') == name.npos;
    for (std::string_view rest = name; is_inside;) {
      const std::size_t slash = rest.find('/');
      const std::string_view part = rest.substr(0, slash);
      is_inside = !part.empty() && part != "." && part != "..";
      if (slash == rest.npos) break;
      rest.remove_prefix(slash + 1);
    }
    if (!is_inside) {
      fail("array " + in_quotes(entry_->first) + " is in " + in_quotes(name) +
           ", expected a file in the folder of the index");
    }
  }

  std::string_view path_;
  Place place_ = Place::start;
  int depth_ = 0;
  bool has_metadata_ = false;
  bool has_weight_map_ = false;
  std::pair<const std::string, std::string>* entry_ = nullptr;
  std::map<std::string, std::string> weight_map_;
};

}  // namespace detail

/// Reads the arrays of several safetensors files by the index that says where they are.
///
///     SafetensorsShards shards("model.safetensors.index.json");
///     const Array<float> weight = shards.tensor<float>("embedding.weight");
///
/// All files stay open. Failures are FileErrors that name the index or the file of the array.
class SafetensorsShards {
 public:
  /// Reads the index and the headers of all files that it names. Files are looked for in the folder
  /// of the index and in folders in there, links included. The index and the files must agree: each
  /// array is in the file that the index gives for it, and in no other one, and the files hold
  /// nothing else.
  /// @throws FileError if they do not, or an index or file is missing or not of its form.
  explicit SafetensorsShards(const std::filesystem::path& index) : path_(index.string()) {
    unit_scaling::detail::with_file_errors(path_, [&] { read(index); });
  }

  /// Of the index, as it was given.
  [[nodiscard]] const std::string& path() const& { return path_; }
  [[nodiscard]] std::string path() const&& { return path_; }

  /// Names of all arrays, file by file in the order of the files' names, and in each in the order
  /// of their elements.
  [[nodiscard]] const std::vector<std::string>& names() const& { return names_; }
  [[nodiscard]] std::vector<std::string> names() const&& { return names_; }

  /// Whether there is an array of that name.
  [[nodiscard]] bool contains(const std::string& name) const { return shard_of_.contains(name); }

  /// The file of an array.
  /// @throws FileError if there is none of that name.
  [[nodiscard]] SafetensorsFile& shard_of(const std::string& name) & {
    return shards_[shard_number(name)];
  }

  /// What the header of its file says of an array.
  /// @throws FileError if there is none of that name.
  [[nodiscard]] const SafetensorsInfo& info(const std::string& name) const& {
    return shards_[shard_number(name)].info(name);
  }
  [[nodiscard]] SafetensorsInfo info(const std::string& name) const&& { return info(name); }

  /// As `SafetensorsFile::tensor`.
  template <SafetensorsElement T> [[nodiscard]] Array<T> tensor(const std::string& name) {
    return shard_of(name).tensor<T>(name);
  }
  template <SafetensorsElement T>
  [[nodiscard]] Array<T> tensor(const std::string& name, const Shape& shape) {
    return shard_of(name).tensor<T>(name, shape);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw FileError(path_, what); }

  [[nodiscard]] std::size_t shard_number(const std::string& name) const {
    const auto found = shard_of_.find(name);
    if (found == shard_of_.end()) fail("has no array " + in_quotes(name));
    return found->second;
  }

  void read(const std::filesystem::path& index) {
    const auto weight_map = detail::SafetensorsIndexReader(path_).read(read_index(index));
    std::map<std::string, std::size_t> files;  // each with its number
    for (const auto& [name, file] : weight_map) files.try_emplace(file);
    if (files.size() > detail::safetensors_max_shards) {
      fail("the index names " + std::to_string(files.size()) + " files, expected at most " +
           std::to_string(detail::safetensors_max_shards));
    }
    shards_.reserve(files.size());
    for (auto& [file, number] : files) {
      number = shards_.size();
      shards_.emplace_back(index.parent_path() / file);
      for (const std::string& name : shards_.back().names()) add(name, number, file, weight_map);
    }
    for (const auto& [name, file] : weight_map) {
      if (!shard_of_.contains(name)) {
        fail("array " + in_quotes(name) + " is not in " + in_quotes(file) +
             ", where the index has it");
      }
    }
  }

  void add(const std::string& name, std::size_t number, const std::string& file,
           const std::map<std::string, std::string>& weight_map) {
    const auto [entry, is_new] = shard_of_.try_emplace(name, number);
    if (!is_new) {
      fail("array " + in_quotes(name) + " is in two files, " +
           in_quotes(shards_[entry->second].path()) + " and " + in_quotes(shards_[number].path()));
    }
    const auto expected = weight_map.find(name);
    if (expected == weight_map.end()) {
      fail("array " + in_quotes(name) + " of " + in_quotes(file) + " is not in the index");
    }
    if (expected->second != file) {
      fail("array " + in_quotes(name) + " is in " + in_quotes(file) + ", but the index has it in " +
           in_quotes(expected->second));
    }
    names_.push_back(name);
  }

  [[nodiscard]] std::string read_index(const std::filesystem::path& index) const {
    auto [stream, size] = unit_scaling::detail::open_to_read(index);
    if (size > detail::safetensors_max_index) {
      fail("has " + std::to_string(size) + " bytes, expected an index of at most " +
           std::to_string(detail::safetensors_max_index));
    }
    std::string text(static_cast<std::size_t>(size), '\0');
    stream.seekg(0);
    stream.read(text.data(), static_cast<std::streamsize>(size));
    if (!stream) fail("cannot be read");
    return text;
  }

  std::string path_;
  std::vector<SafetensorsFile> shards_;
  std::vector<std::string> names_;
  std::map<std::string, std::size_t> shard_of_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
