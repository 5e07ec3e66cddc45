// SPDX-License-Identifier: MIT
/// @file
/// Layer train: the header of a safetensors file, read with bounded memory.
///
/// Needs nlohmann/json, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/safetensors_types.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// What the header of a safetensors file says of an array.
struct SafetensorsInfo {
  std::string type;                  ///< As in the file, such as "BF16" or "U8".
  std::vector<std::uint64_t> shape;  ///< Of up to 64 dimensions.
  std::uint64_t begin = 0;           ///< First byte, counted from the end of the header.
  std::uint64_t end = 0;             ///< Byte behind the last one.
};

namespace detail {

/// Bounds of what is read, whatever a file says. Headers of more bytes the reference implementation
/// does not read either.
inline constexpr std::uint64_t safetensors_max_header = 100'000'000;
inline constexpr std::size_t safetensors_max_arrays = 1'000'000;
inline constexpr std::size_t safetensors_max_metadata = 100'000;
inline constexpr std::size_t safetensors_max_rank = 64;

/// Metadata that this library adds, followed by the name of an array: the shape of one that was
/// padded to whole bytes, as "3,5"; format, scales and shape of an `EncodedArray`, in words.
inline constexpr std::string_view safetensors_shape_key = "unit_scaling.shape.";
inline constexpr std::string_view safetensors_encoding_key = "unit_scaling.encoding.";

/// "(2, 3)", of any rank.
template <class Extents> [[nodiscard]] std::string safetensors_shape_text(const Extents& extents) {
  std::string text;
  for (const auto extent : extents) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "(" + text + ")";
}

/// A piece of a JSON text.
struct JsonEvent {
  enum class Kind {
    begin_object,
    key,
    end_object,
    begin_array,
    end_array,
    string,
    natural_number,  ///< An integer from 0 to 2^64 - 1.
    other,           ///< Another number, true, false or null.
  };
  Kind kind;
  std::string* text = nullptr;  ///< Of a key or string; may be moved from.
  std::uint64_t number = 0;
};

/// Hands the pieces of a JSON text to `on_event(JsonEvent)` and keeps none of them.
template <class OnEvent> class JsonEvents {
 public:
  JsonEvents(std::string_view path, std::string_view what, const OnEvent& on_event)
      : path_(path), what_(what), on_event_(on_event) {}

  // The names and types that nlohmann/json calls.
  using Json = nlohmann::json;
  using Kind = JsonEvent::Kind;
  bool null() { return on(Kind::other); }
  bool boolean(bool /*value*/) { return on(Kind::other); }
  bool number_integer(Json::number_integer_t /*negative*/) { return on(Kind::other); }
  bool number_unsigned(Json::number_unsigned_t number) {
    return on(Kind::natural_number, nullptr, number);
  }
  bool number_float(Json::number_float_t /*number*/, const std::string& /*text*/) {
    return on(Kind::other);
  }
  bool string(std::string& text) { return on(Kind::string, &text); }
  bool binary(Json::binary_t& /*bytes*/) { return on(Kind::other); }
  bool start_object(std::size_t /*size*/) { return on(Kind::begin_object); }
  bool key(std::string& text) { return on(Kind::key, &text); }
  bool end_object() { return on(Kind::end_object); }
  bool start_array(std::size_t /*size*/) { return on(Kind::begin_array); }
  bool end_array() { return on(Kind::end_array); }
  bool parse_error(std::size_t position, const std::string& last,
                   const Json::exception& /*error*/) {
    throw FileError(path_, std::string(what_) + " is not JSON: at byte " +
                               std::to_string(position) + ", " + in_quotes(last));
  }

 private:
  bool on(Kind kind, std::string* text = nullptr, std::uint64_t number = 0) {
    on_event_(JsonEvent{kind, text, number});
    return true;
  }

  std::string_view path_;
  std::string_view what_;
  const OnEvent& on_event_;
};

/// Reads a JSON text, `what` of a file, which must begin with "{": that rules out the white space
/// and the byte order mark that the JSON library would skip.
/// @param on_event may throw to end it.
/// @throws FileError if it is no such text.
template <class OnEvent>
void read_json(std::string_view path, std::string_view what, std::string_view text,
               const OnEvent& on_event) {
  if (!text.starts_with('{')) throw FileError(path, std::string(what) + " does not begin with '{'");
  // The library takes a zero byte for the end and would not look at what follows.
  if (const std::size_t zero = text.find('\0'); zero != text.npos) {
    throw FileError(
        path, std::string(what) + " is not JSON: byte " + std::to_string(zero + 1) + " is zero");
  }
  JsonEvents events(path, what, on_event);
  nlohmann::json::sax_parse(text, &events);
}

/// The arrays and metadata that a header describes.
struct SafetensorsHeader {
  std::vector<std::string> names;  ///< In the order of their elements.
  std::map<std::string, SafetensorsInfo> infos;
  std::map<std::string, std::string> metadata;
};

/// Reads a header. It holds nothing but what it returns: at most a million arrays of 64 dimensions,
/// and 100,000 entries of metadata.
class SafetensorsHeaderReader {
 public:
  explicit SafetensorsHeaderReader(std::string_view path) : path_(path) {}

  /// Checks that `text` is JSON of the right form, without unknown members and duplicate names;
  /// that every array is of a known type and takes the bytes that its shape asks for; that the
  /// arrays lie side by side, without overlap or gap, and fill `data_size` bytes. To be called
  /// once.
  /// @throws FileError naming what is wrong.
  [[nodiscard]] SafetensorsHeader read(std::string_view text, std::uint64_t data_size) {
    read_json(path_, "its header", text, [&](const JsonEvent& event) { take(event); });
    check_layout(data_size);
    restore_shapes();
    return std::move(header_);
  }

 private:
  using Kind = JsonEvent::Kind;
  /// Where in the text an event is: before the header, among its names, behind a name, …
  enum class Place {
    start,
    names,
    array,
    members,
    type,
    list_begin,
    list,
    metadata,
    metadata_keys,
    metadata_value,
    end,
  };
  enum Member : std::size_t { dtype, shape, data_offsets };
  static constexpr std::array<std::string_view, 3> member_names{"dtype", "shape", "data_offsets"};

  [[noreturn]] void fail(const std::string& what) const { throw FileError(path_, what); }
  [[noreturn]] void fail_array(const std::string& what) const {
    fail("array " + in_quotes(name_) + " " + what);
  }
  void refuse_duplicate(bool is_new, std::string_view name) const {
    if (!is_new) fail("its header has the name " + in_quotes(name) + " twice");
  }

  void take(const JsonEvent& event) {
    switch (place_) {
      case Place::start:
        place_ = Place::names;
        break;
      case Place::names:
        read_name(event);
        break;
      case Place::array:
        if (event.kind != Kind::begin_object) fail_array("is not described by a JSON object");
        place_ = Place::members;
        break;
      case Place::members:
        read_member(event);
        break;
      case Place::type:
        if (event.kind != Kind::string) fail_array("has a 'dtype' that is not a string");
        if (safetensors_type(*event.text).name.empty()) {
          fail_array("is of the unknown type " + in_quotes(*event.text));
        }
        info_.type = std::move(*event.text);
        place_ = Place::members;
        break;
      case Place::list_begin:
        if (event.kind != Kind::begin_array) fail_list();
        place_ = Place::list;
        break;
      case Place::list:
        read_list(event);
        break;
      case Place::metadata:
        if (event.kind != Kind::begin_object) fail("'__metadata__' is not a JSON object");
        place_ = Place::metadata_keys;
        break;
      case Place::metadata_keys:
        read_metadata_key(event);
        break;
      case Place::metadata_value:
        if (event.kind != Kind::string) {
          fail("its metadata " + in_quotes(metadata_value_->first) + " is not a string");
        }
        metadata_value_->second = std::move(*event.text);
        place_ = Place::metadata_keys;
        break;
      case Place::end:
        break;
    }
  }

  void read_name(const JsonEvent& event) {
    if (event.kind == Kind::end_object) {
      place_ = Place::end;
      return;
    }
    if (*event.text == "__metadata__") {
      refuse_duplicate(!std::exchange(has_metadata_, true), *event.text);
      place_ = Place::metadata;
      return;
    }
    refuse_duplicate(!header_.infos.contains(*event.text), *event.text);
    if (header_.infos.size() == safetensors_max_arrays) {
      fail("its header has more than " + std::to_string(safetensors_max_arrays) + " arrays");
    }
    name_ = std::move(*event.text);
    info_ = {};
    offsets_.clear();
    seen_ = {};
    place_ = Place::array;
  }

  void read_member(const JsonEvent& event) {
    if (event.kind == Kind::end_object) {
      add_array();
      place_ = Place::names;
      return;
    }
    const auto found = std::find(member_names.begin(), member_names.end(), *event.text);
    if (found == member_names.end()) {
      fail_array("has the unknown member " + in_quotes(*event.text));
    }
    member_ = static_cast<Member>(found - member_names.begin());
    refuse_duplicate(!std::exchange(seen_[member_], true), *found);
    place_ = member_ == dtype ? Place::type : Place::list_begin;
  }

  [[noreturn]] void fail_list() const {
    fail_array("has a '" + std::string(member_names[member_]) +
               "' that is not a list of integers from 0 to 2^64 - 1");
  }

  void read_list(const JsonEvent& event) {
    std::vector<std::uint64_t>& list = member_ == shape ? info_.shape : offsets_;
    const std::size_t longest = member_ == shape ? safetensors_max_rank : 2;
    const bool is_end = event.kind == Kind::end_array;
    if (!is_end && event.kind != Kind::natural_number) fail_list();
    if (member_ == data_offsets && (is_end ? list.size() != longest : list.size() == longest)) {
      fail_array("does not have two 'data_offsets'");
    }
    if (is_end) {
      place_ = Place::members;
      return;
    }
    if (list.size() == longest) {
      fail_array("has more than " + std::to_string(longest) + " dimensions");
    }
    list.push_back(event.number);
  }

  void read_metadata_key(const JsonEvent& event) {
    if (event.kind == Kind::end_object) {
      place_ = Place::names;
      return;
    }
    if (header_.metadata.size() == safetensors_max_metadata) {
      fail("its metadata has more than " + std::to_string(safetensors_max_metadata) + " entries");
    }
    const auto [entry, is_new] = header_.metadata.try_emplace(*event.text);
    refuse_duplicate(is_new, *event.text);
    metadata_value_ = &*entry;
    place_ = Place::metadata_value;
  }

  void add_array() {
    for (const Member member : {dtype, shape, data_offsets}) {
      if (!seen_[member]) fail_array("has no '" + std::string(member_names[member]) + "'");
    }
    info_.begin = offsets_[0];
    info_.end = offsets_[1];
    if (info_.begin > info_.end) {
      fail_array("begins at " + std::to_string(info_.begin) + ", but ends before that, at " +
                 std::to_string(info_.end));
    }
    const auto bits = countable_product(info_.shape, safetensors_type(info_.type).bits);
    if (!bits) {
      fail_array("has shape " + safetensors_shape_text(info_.shape) +
                 ", the size of which exceeds 64 bits");
    }
    if (*bits % 8 != 0 || *bits / 8 != info_.end - info_.begin) {
      fail_array("has " + std::to_string(info_.end - info_.begin) + " bytes, expected " +
                 std::to_string(*bits / 8) + (*bits % 8 != 0 ? " and a fraction" : "") + " for " +
                 info_.type + " of shape " + safetensors_shape_text(info_.shape));
    }
    header_.infos.emplace(std::move(name_), std::move(info_));
  }

  void check_layout(std::uint64_t data_size) {
    header_.names.reserve(header_.infos.size());
    for (const auto& [name, unused] : header_.infos) header_.names.push_back(name);
    std::sort(header_.names.begin(), header_.names.end(),
              [&](const std::string& a, const std::string& b) {
                const SafetensorsInfo& info_a = header_.infos.at(a);
                const SafetensorsInfo& info_b = header_.infos.at(b);
                // An empty array shares its offset with the one behind it; the name breaks other
                // ties.
                return std::tie(info_a.begin, info_a.end, a) <
                       std::tie(info_b.begin, info_b.end, b);
              });
    std::uint64_t end = 0;
    for (const std::string& name : header_.names) {
      const SafetensorsInfo& info = header_.infos.at(name);
      if (info.begin != end) {
        fail("array " + in_quotes(name) + " begins at byte " + std::to_string(info.begin) +
             " of the elements, expected " + std::to_string(end) + ", where " +
             (end == 0 ? "the elements begin" : "the one before it ends"));
      }
      end = info.end;
    }
    if (end != data_size) {
      fail("has " + std::to_string(data_size) + " bytes of elements, but its header says " +
           std::to_string(end));
    }
  }

  /// The shapes that padded arrays had. Metadata of arrays that are not there mean nothing.
  void restore_shapes() {
    for (auto entry = header_.metadata.lower_bound(std::string(safetensors_shape_key));
         entry != header_.metadata.end() && entry->first.starts_with(safetensors_shape_key);
         ++entry) {
      const auto found = header_.infos.find(entry->first.substr(safetensors_shape_key.size()));
      if (found == header_.infos.end()) continue;
      SafetensorsInfo& info = found->second;
      const std::uint64_t granule = safetensors_type(info.type).granule;
      const auto extents = extents_of(entry->second);
      const auto size = extents ? countable_product(*extents) : std::nullopt;
      if (!size || *size % granule == 0 || info.shape.size() != 1 ||
          *size / granule != info.shape[0] / granule - 1) {
        fail("its metadata " + in_quotes(entry->first) + " is " + in_quotes(entry->second) +
             ", expected a shape that is padded to " + info.type + " of shape " +
             safetensors_shape_text(info.shape));
      }
      info.shape = *extents;
    }
  }

  /// Of "3,5", or "" for a scalar.
  [[nodiscard]] static std::optional<std::vector<std::uint64_t>> extents_of(std::string_view text) {
    std::vector<std::uint64_t> extents;
    while (!text.empty()) {
      std::uint64_t extent = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), extent);
      if (error != std::errc() || extents.size() == safetensors_max_rank) return std::nullopt;
      extents.push_back(extent);
      text.remove_prefix(static_cast<std::size_t>(end - text.data()));
      if (text.empty()) break;
      if (text.size() == 1 || text.front() != ',') return std::nullopt;
      text.remove_prefix(1);
    }
    return extents;
  }

  std::string_view path_;
  SafetensorsHeader header_;
  Place place_ = Place::start;
  bool has_metadata_ = false;
  std::pair<const std::string, std::string>* metadata_value_ = nullptr;
  std::string name_;
  SafetensorsInfo info_;
  std::vector<std::uint64_t> offsets_;
  Member member_ = dtype;
  std::array<bool, 3> seen_{};
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
