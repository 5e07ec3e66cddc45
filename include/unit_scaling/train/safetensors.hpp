// SPDX-License-Identifier: MIT
/// @file
/// Layer train: files of named arrays in the safetensors format, which PyTorch, JAX and most other
/// tools read.
///
/// Needs nlohmann/json, so it is not in the umbrella header.
///
/// A file is the length of a header (eight bytes, little-endian), the header (JSON, padded with
/// spaces) and the elements of all arrays, row-major and little-endian, without gaps:
///
///     {"__metadata__":{"step":"400"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}
///
/// @see https://github.com/huggingface/safetensors#format
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

static_assert(
    std::endian::native == std::endian::little,
    "Elements are copied between memory and file as they are, and files are little-endian");

/// Longest header that the reference implementation reads; a longer one is taken for garbage.
inline constexpr std::uint64_t safetensors_max_header = 100'000'000;

/// Every type of the format in the order in which the reference implementation writes arrays, the
/// wide ones last, and its width. We read and write some of them, but know the sizes of all, so
/// that a file may hold arrays of a type that we cannot read among others that we can.
struct SafetensorsType {
  std::string_view name;
  std::uint64_t bits;
};
inline constexpr std::array<SafetensorsType, 22> safetensors_types{{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

/// Name of the type of the format that holds a `T`; empty if none does.
template <class T> [[nodiscard]] constexpr std::string_view safetensors_type_name() {
  if constexpr (std::is_same_v<T, double>) return "F64";
  if constexpr (std::is_same_v<T, float>) return "F32";
  if constexpr (std::is_same_v<T, float16>) return "F16";
  if constexpr (std::is_same_v<T, bfloat16>) return "BF16";
  if constexpr (std::is_same_v<T, float8_e4m3fn>) return "F8_E4M3";
  if constexpr (std::is_same_v<T, float8_e5m2>) return "F8_E5M2";
  if constexpr (std::is_same_v<T, std::int32_t>) return "I32";
  if constexpr (std::is_same_v<T, std::int64_t>) return "I64";
  return {};
}

/// "(2, 3)", of any rank.
template <class Extents> [[nodiscard]] std::string safetensors_shape_text(const Extents& extents) {
  std::string text;
  for (const auto extent : extents) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "(" + text + ")";
}

}  // namespace detail

/// A type whose arrays a safetensors file may hold: double, float, float16, bfloat16,
/// float8_e4m3fn, float8_e5m2, std::int32_t or std::int64_t.
template <class T>
concept SafetensorsElement = !detail::safetensors_type_name<T>().empty();

/// Collects named arrays and writes them to a safetensors file.
///
///     SafetensorsWriter writer;
///     writer.set_metadata("step", "400");
///     writer.add("embedding.weight", weight);
///     writer.write("model.safetensors");
///
/// The file depends only on the names, elements and metadata, not on the order of the calls: as in
/// the reference implementation, the wider types come first, which aligns every array in the file
/// to its elements, and arrays of one type come by name.
class SafetensorsWriter {
 public:
  /// Adds an array. It is not copied but shared: later changes of `array` do not reach the file,
  /// but memory that the array borrows, or has from a memory resource, must last until `write`.
  /// @throws std::invalid_argument if there is an array of that name already, or the name is
  ///         "__metadata__" or not UTF-8.
  template <SafetensorsElement T> void add(const std::string& name, const Array<T>& array) {
    if (name == "__metadata__") {
      throw std::invalid_argument("SafetensorsWriter: '__metadata__' names no array");
    }
    std::string key = quoted(name);
    constexpr std::string_view type = detail::safetensors_type_name<T>();
    const auto rank =
        std::find_if(detail::safetensors_types.begin(), detail::safetensors_types.end(),
                     [&](const auto& candidate) { return candidate.name == type; }) -
        detail::safetensors_types.begin();
    if (!names_.insert(name).second) {
      throw std::invalid_argument("SafetensorsWriter: two arrays are called '" + name + "'");
    }
    auto shared = std::make_shared<const Array<T>>(array);
    const auto bytes = std::as_bytes(shared->span());
    entries_.push_back({name, std::move(key), type, rank, array.shape(), std::move(shared), bytes});
  }

  /// Sets an entry of the metadata, replacing an earlier one.
  /// @throws std::invalid_argument if one of the texts is not UTF-8.
  void set_metadata(const std::string& key, const std::string& value) {
    static_cast<void>(quoted(key));
    static_cast<void>(quoted(value));
    metadata_[key] = value;
  }

  /// Writes the file, replacing any other, as AtomicFile does: no moment and no failure leaves half
  /// a file under `path`.
  /// @throws std::runtime_error naming the file, if it cannot be written.
  void write(const std::filesystem::path& path) const {
    std::vector<const Entry*> order;
    order.reserve(entries_.size());
    for (const Entry& entry : entries_) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
      return a->type_rank != b->type_rank ? a->type_rank > b->type_rank : a->name < b->name;
    });
    const std::string header = make_header(order);
    if (header.size() > detail::safetensors_max_header) {
      throw std::runtime_error("'" + path.string() + "': a header of " +
                               std::to_string(header.size()) +
                               " bytes, expected at most 100000000");
    }
    std::array<std::byte, 8> length{};
    for (std::size_t i = 0; i < length.size(); ++i) {
      length[i] = static_cast<std::byte>((header.size() >> (8 * i)) & 0xffU);
    }

    AtomicFile file(path);
    file.append(length);
    file.append(std::as_bytes(std::span(header)));
    for (const Entry* entry : order) file.append(entry->bytes);
    file.finish();
  }

 private:
  struct Entry {
    std::string name;
    std::string key;  ///< The name as JSON text.
    std::string_view type;
    std::ptrdiff_t type_rank;
    Shape shape;
    std::shared_ptr<const void> owner;  ///< Keeps `bytes` alive and unchanged.
    std::span<const std::byte> bytes;
  };

  /// `text` as JSON text.
  static std::string quoted(const std::string& text) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      throw std::invalid_argument(
          "SafetensorsWriter: a text is not UTF-8: " +
          nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
    }
  }

  /// The header, padded. It is put together here because the JSON library would sort the keys, but
  /// readers expect them in the order of the elements.
  [[nodiscard]] std::string make_header(const std::vector<const Entry*>& order) const {
    std::string header = "{";
    std::string_view separator;
    if (!metadata_.empty()) {
      header += "\"__metadata__\":" + nlohmann::json(metadata_).dump();
      separator = ",";
    }
    std::size_t offset = 0;
    for (const Entry* entry : order) {
      header += separator;
      header += entry->key + R"(:{"dtype":")" + std::string(entry->type) + R"(","shape":)" +
                nlohmann::json(std::vector<std::size_t>(entry->shape.begin(), entry->shape.end()))
                    .dump() +
                ",\"data_offsets\":[" + std::to_string(offset) + "," +
                std::to_string(offset + entry->bytes.size()) + "]}";
      offset += entry->bytes.size();
      separator = ",";
    }
    header += "}";
    header.append((8 - header.size() % 8) % 8, ' ');
    return header;
  }

  std::vector<Entry> entries_;
  std::set<std::string> names_;
  std::map<std::string, std::string> metadata_;
};

/// Reads a safetensors file.
///
///     SafetensorsFile file("model.safetensors");
///     const Array<float> weight = file.tensor<float>("embedding.weight");
///
/// The file stays open, and arrays are read from it when they are asked for; a file that replaces
/// it under its name meanwhile, as `SafetensorsWriter::write` does, is not seen. Not safe for use
/// by several threads at once.
class SafetensorsFile {
 public:
  /// What the header says of an array.
  struct Info {
    std::string type;                  ///< As in the file, such as "BF16" or "U8".
    std::vector<std::uint64_t> shape;  ///< Of any rank.
    std::uint64_t begin = 0;           ///< First byte, counted from the end of the header.
    std::uint64_t end = 0;             ///< Byte behind the last one.
  };

  /// Opens a file and checks its header: that it is JSON of the right form without duplicate names;
  /// that every array is of a known type and takes the bytes that its shape asks for; that the
  /// arrays lie side by side, without overlap or gap, and fill the file.
  /// @throws std::runtime_error naming the file and what is wrong with it.
  explicit SafetensorsFile(const std::filesystem::path& path) : path_(path.string()) {
    // Opening a pipe might wait for ever, and a folder opens but does not read.
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (!std::filesystem::exists(status)) fail("there is no such file");
    if (!std::filesystem::is_regular_file(status)) fail("is not a regular file");
    stream_.open(path, std::ios::binary);
    if (!stream_) fail("cannot be opened");
    stream_.seekg(0, std::ios::end);
    const std::streamoff size = stream_.tellg();
    if (!stream_ || size < 0) fail("its size cannot be told");
    read_header(static_cast<std::uint64_t>(size));
  }

  /// Of the file, as it was given.
  [[nodiscard]] const std::string& path() const { return path_; }

  /// Names of all arrays in the order of their elements.
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }

  /// Whether there is an array of that name.
  [[nodiscard]] bool contains(const std::string& name) const { return infos_.contains(name); }

  /// What the header says of an array.
  /// @throws std::runtime_error if there is none of that name.
  [[nodiscard]] const Info& info(const std::string& name) const {
    const auto found = infos_.find(name);
    if (found == infos_.end()) fail("has no array '" + name + "'");
    return found->second;
  }

  /// The metadata; empty if the file has none.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Reads an array, whose elements must be of type `T` in the file: nothing is converted.
  /// @throws std::runtime_error if there is none of that name, its type is another, it has more
  /// than
  ///         `Shape::max_rank` dimensions, or reading fails.
  template <SafetensorsElement T> [[nodiscard]] Array<T> tensor(const std::string& name) {
    const Info& found = info(name);
    constexpr std::string_view type = detail::safetensors_type_name<T>();
    if (found.type != type) {
      fail("array '" + name + "' is of type " + found.type + ", expected " + std::string(type));
    }
    if (found.shape.size() > Shape::max_rank) {
      fail("array '" + name + "' has shape " + detail::safetensors_shape_text(found.shape) +
           ", expected at most " + std::to_string(Shape::max_rank) + " dimensions");
    }
    std::vector<std::size_t> extents;
    for (const std::uint64_t extent : found.shape) {
      extents.push_back(static_cast<std::size_t>(extent));
    }
    Array<T> array{Shape(std::span<const std::size_t>(extents))};
    if (!array.empty()) {
      read(data_begin_ + found.begin, reinterpret_cast<char*>(array.mutable_data()), array.bytes());
    }
    return array;
  }

  /// As `tensor`, of a shape that is known.
  /// @throws std::runtime_error as `tensor` does, and if the shape is another.
  template <SafetensorsElement T>
  [[nodiscard]] Array<T> tensor(const std::string& name, const Shape& shape) {
    const Info& found = info(name);
    if (!std::equal(found.shape.begin(), found.shape.end(), shape.begin(), shape.end())) {
      fail("array '" + name + "' has shape " + detail::safetensors_shape_text(found.shape) +
           ", expected " + to_string(shape));
    }
    return tensor<T>(name);
  }

 private:
  using Json = nlohmann::json;

  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("'" + path_ + "': " + what);
  }

  void read(std::uint64_t position, char* target, std::uint64_t size) {
    stream_.clear();
    stream_.seekg(static_cast<std::streamoff>(position));
    stream_.read(target, static_cast<std::streamsize>(size));
    if (!stream_) {
      fail("cannot read " + std::to_string(size) + " bytes from byte " + std::to_string(position));
    }
  }

  void read_header(std::uint64_t file_size) {
    if (file_size < 8) {
      fail("has " + std::to_string(file_size) + " bytes, expected at least the 8 of a length");
    }
    std::array<char, 8> length_bytes{};
    read(0, length_bytes.data(), length_bytes.size());
    const auto length = std::bit_cast<std::uint64_t>(length_bytes);
    if (length > detail::safetensors_max_header) {
      fail("says that its header has " + std::to_string(length) +
           " bytes, expected at most 100000000; it is no safetensors file");
    }
    if (length > file_size - 8) {
      fail("says that its header has " + std::to_string(length) + " bytes, but only " +
           std::to_string(file_size - 8) + " follow");
    }
    data_begin_ = 8 + length;
    std::string text(static_cast<std::size_t>(length), '\0');
    read(8, text.data(), length);
    // The format asks for it, and so rules out the white space and the byte order mark that the
    // JSON library would skip.
    if (!text.starts_with('{')) fail("its header does not begin with '{'");

    const Json header = parse(text);
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        read_metadata(value);
      } else {
        read_info(name, value);
      }
    }
    check_layout(file_size - data_begin_);
  }

  /// The library would take the last of several values of one name, hence the callback.
  [[nodiscard]] Json parse(const std::string& text) const {
    std::vector<std::set<std::string>> keys_of_open_objects;
    const auto check_duplicates = [&](int /*depth*/, Json::parse_event_t event, Json& value) {
      if (event == Json::parse_event_t::object_start) {
        keys_of_open_objects.emplace_back();
      } else if (event == Json::parse_event_t::object_end) {
        keys_of_open_objects.pop_back();
      } else if (event == Json::parse_event_t::key) {
        const auto& key = value.get_ref<const std::string&>();
        if (!keys_of_open_objects.back().insert(key).second) {
          fail("its header has the name '" + key + "' twice");
        }
      }
      return true;
    };
    // The library takes a zero byte for the end and would not look at what follows.
    if (text.find('\0') != std::string::npos) fail("its header is not JSON: it has a zero byte");
    try {
      return Json::parse(text, check_duplicates);
    } catch (const Json::exception& error) {
      fail("its header is not JSON: " + std::string(error.what()));
    }
  }

  void read_metadata(const Json& value) {
    if (!value.is_object()) fail("'__metadata__' is not a JSON object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fail("its metadata '" + key + "' is not a string");
      metadata_[key] = text.get<std::string>();
    }
  }

  void read_info(const std::string& name, const Json& value) {
    const std::string array = "array '" + name + "' ";
    if (!value.is_object()) fail(array + "is not described by a JSON object");
    const auto member = [&](const char* key) -> const Json& {
      const auto found = value.find(key);
      if (found == value.end()) fail(array + "has no '" + key + "'");
      return *found;
    };
    const auto integers = [&](const char* key) {
      const Json& list = member(key);
      // A number that is negative, has a fraction or exceeds 64 bits is not "unsigned" here.
      if (!list.is_array() || !std::all_of(list.begin(), list.end(), [](const Json& number) {
            return number.is_number_unsigned();
          })) {
        fail(array + "has a '" + key + "' that is not a list of integers from 0 to 2^64 - 1");
      }
      return list.get<std::vector<std::uint64_t>>();
    };

    Info info;
    const Json& type = member("dtype");
    if (!type.is_string()) fail(array + "has a 'dtype' that is not a string");
    info.type = type.get<std::string>();
    info.shape = integers("shape");
    const std::vector<std::uint64_t> offsets = integers("data_offsets");
    if (offsets.size() != 2) fail(array + "does not have two 'data_offsets'");
    info.begin = offsets[0];
    info.end = offsets[1];
    if (info.begin > info.end) {
      fail(array + "begins at " + std::to_string(info.begin) + ", but ends before that, at " +
           std::to_string(info.end));
    }

    const auto known =
        std::find_if(detail::safetensors_types.begin(), detail::safetensors_types.end(),
                     [&](const auto& candidate) { return candidate.name == info.type; });
    if (known == detail::safetensors_types.end()) {
      fail(array + "is of the unknown type '" + info.type + "'");
    }
    std::uint64_t bits = known->bits;
    for (const std::uint64_t extent : info.shape) {
      if (extent != 0 && bits > std::numeric_limits<std::uint64_t>::max() / extent) {
        fail(array + "has shape " + detail::safetensors_shape_text(info.shape) +
             ", the size of which exceeds 64 bits");
      }
      bits *= extent;
    }
    if (bits % 8 != 0 || bits / 8 != info.end - info.begin) {
      fail(array + "has " + std::to_string(info.end - info.begin) + " bytes, expected " +
           std::to_string(bits / 8) + (bits % 8 != 0 ? " and a fraction" : "") + " for " +
           info.type + " of shape " + detail::safetensors_shape_text(info.shape));
    }
    infos_.emplace(name, std::move(info));
  }

  void check_layout(std::uint64_t data_size) {
    for (const auto& [name, unused] : infos_) names_.push_back(name);
    std::sort(names_.begin(), names_.end(), [&](const std::string& a, const std::string& b) {
      const Info& info_a = infos_.at(a);
      const Info& info_b = infos_.at(b);
      // An empty array shares its offset with the one behind it; the name breaks other ties.
      return std::tie(info_a.begin, info_a.end, a) < std::tie(info_b.begin, info_b.end, b);
    });
    std::uint64_t end = 0;
    for (const std::string& name : names_) {
      const Info& info = infos_.at(name);
      if (info.begin != end) {
        fail("array '" + name + "' begins at byte " + std::to_string(info.begin) +
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

  std::string path_;
  std::ifstream stream_;
  std::uint64_t data_begin_ = 0;
  std::vector<std::string> names_;
  std::map<std::string, Info> infos_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train
