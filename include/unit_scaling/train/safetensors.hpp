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
/// All types of the format are read and written (`SafetensorsElement`). Elements of four and six
/// bits are packed as `EncodedArray` has them, the first one in the lowest bits, as PyTorch packs
/// four; a shape counts elements, not bytes. The format has no arrays that end within a byte. Such
/// an array, of three 4-bit elements, say, is written with zeros behind it, as one dimension of
/// four elements, and its shape is metadata, "unit_scaling.shape.NAME": "3".
///
/// An `EncodedArray` called NAME is NAME.elements, in its shape and of the type of its format, and,
/// if it has scales, NAME.scales (tiles below each other, tiles beside each other), of type F8_E8M0
/// or F32; or of type F8_E4M3, beside NAME.common_scale of type F32 and no dimension. Codes of a
/// format that has no type are U8, U16 or U32, and those narrower than a byte one dimension of U8.
/// "unit_scaling.encoding.NAME" is metadata that says what it is, in words: "e3m4 with power_of_two
/// scales of tiles of 1 x 32, (8, 64)".
///
/// What is read is checked before it is used, and no file, whatever it says, makes a reader take
/// more memory than a small multiple of the header, and of the elements it asks for, both of which
/// must be there. Beyond the rules of the format these are refused: headers of more than 100 MB, as
/// in the reference implementation; more than 1,000,000 arrays, 100,000 entries of metadata or 64
/// dimensions; members of an array's description that the format does not have.
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
#include <map>
#include <memory>
#include <memory_resource>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/input_file.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/packed.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/train/safetensors_header.hpp"
#include "unit_scaling/train/safetensors_types.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

static_assert(
    std::endian::native == std::endian::little,
    "Elements are copied between memory and file as they are, and files are little-endian");

namespace detail {

/// What the metadata say of an array of a format chosen at run time.
[[nodiscard]] inline std::string safetensors_encoding(const EncodedArray& array) {
  return to_string(array.format()) + " with " + to_string(array.scale_layout()) + ", " +
         to_string(array.shape());
}

/// The shape of its codes in a file.
[[nodiscard]] inline Shape safetensors_code_shape(const EncodedArray& array) {
  const bool is_stream =
      array.format().storage_bits() < 8 && safetensors_type(array.format()).bits == 8;
  return is_stream ? Shape{array.codes().size()} : array.shape();
}

/// The shape of its scales.
[[nodiscard]] inline Shape safetensors_scale_shape(const EncodedArray& array) {
  return {array.scale_layout().tiles_down(array.rows()),
          array.scale_layout().tiles_across(array.columns())};
}

/// The type of its scales.
[[nodiscard]] inline SafetensorsTypeInfo safetensors_scale_type(const EncodedArray& array) {
  switch (array.scale_layout().format) {
    case ScaleFormat::binary32:
      return safetensors_type("F32");
    case ScaleFormat::two_level:
      return safetensors_type("F8_E4M3");
    default:
      return safetensors_type("F8_E8M0");
  }
}

/// What they take, without what they have in common.
[[nodiscard]] inline std::size_t safetensors_scale_bytes(const EncodedArray& array) {
  return array.scale_count() * scale_bytes(array.scale_layout().format);
}

}  // namespace detail

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
  /// Elements narrower than a byte are packed, and so copied.
  /// @throws std::invalid_argument if there is an array of that name already, or the name is
  ///         "__metadata__" or not UTF-8.
  template <SafetensorsElement T> void add(const std::string& name, const Array<T>& array) {
    constexpr auto type = detail::safetensors_type(detail::safetensors_type_name<T>);
    if constexpr (PackedSafetensorsElement<T>) {
      const auto shared = std::make_shared<const EncodedArray>(
          EncodedArray::pack(array, std::pmr::new_delete_resource()));
      add_codes(name, type, array.shape(), shared, shared->codes());
    } else {
      auto shared = std::make_shared<const Array<T>>(array);
      const auto bytes = std::as_bytes(shared->span());
      add_entry(name, type, array.shape(), std::move(shared), bytes);
    }
  }

  /// Adds an array of a format chosen at run time, as one or two arrays; see the head of this file.
  /// It is shared as `Array` is.
  /// @throws std::invalid_argument as above. Nothing is added then.
  void add(const std::string& name, const EncodedArray& array) {
    const std::string scales = name + ".scales";
    const std::string common_scale = name + ".common_scale";
    static_cast<void>(checked_key(scales));
    const bool has_common = has_common_scale(array.scale_layout().format);
    if (has_common) static_cast<void>(checked_key(common_scale));
    const auto shared = std::make_shared<const EncodedArray>(array);
    add_codes(name + ".elements", detail::safetensors_type(array.format()),
              detail::safetensors_code_shape(array), shared, shared->codes());
    if (array.has_scales()) {
      const std::size_t bytes = detail::safetensors_scale_bytes(array);
      add_codes(scales, detail::safetensors_scale_type(array),
                detail::safetensors_scale_shape(array), shared, shared->scale_codes().first(bytes));
      if (has_common) {
        add_codes(common_scale, detail::safetensors_type("F32"), Shape{}, shared,
                  shared->scale_codes().subspan(bytes));
      }
    }
    own_metadata_[std::string(detail::safetensors_encoding_key) + name] =
        detail::safetensors_encoding(array);
  }

  /// Sets an entry of the metadata, replacing an earlier one. What the head of this file says of
  /// metadata that arrays need is not replaced.
  /// @throws std::invalid_argument if one of the texts is not UTF-8.
  void set_metadata(const std::string& key, const std::string& value) {
    static_cast<void>(as_json(key));
    static_cast<void>(as_json(value));
    metadata_[key] = value;
  }

  /// Writes the file, replacing any other, as AtomicFile does: no moment and no failure leaves half
  /// a file under `path`.
  /// @throws FileError if it cannot be written, or would go beyond the limits of what is read.
  void write(const std::filesystem::path& path) const {
    const std::string name = path.string();
    unit_scaling::detail::with_file_errors(name, [&] { write_to(path, name); });
  }

 private:
  struct Entry {
    std::string name;
    std::string key;  ///< The name as JSON text.
    detail::SafetensorsTypeInfo type;
    Shape shape;
    std::shared_ptr<const void> owner;  ///< Keeps `bytes` alive and unchanged.
    std::span<const std::byte> bytes;
  };

  /// `text` as JSON text.
  static std::string as_json(const std::string& text) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      throw std::invalid_argument("SafetensorsWriter: a text is not UTF-8: " + in_quotes(text));
    }
  }

  /// The name of a new array as JSON text.
  [[nodiscard]] std::string checked_key(const std::string& name) const {
    if (name == "__metadata__") {
      throw std::invalid_argument("SafetensorsWriter: '__metadata__' names no array");
    }
    if (names_.contains(name)) {
      throw std::invalid_argument("SafetensorsWriter: two arrays are called " + in_quotes(name));
    }
    return as_json(name);
  }

  void add_entry(const std::string& name, const detail::SafetensorsTypeInfo& type,
                 const Shape& shape, std::shared_ptr<const void> owner,
                 std::span<const std::byte> bytes) {
    entries_.push_back({name, checked_key(name), type, shape, std::move(owner), bytes});
    names_.insert(name);
  }

  /// Adds codes, with zeros behind them if they end within a byte.
  void add_codes(const std::string& name, const detail::SafetensorsTypeInfo& type,
                 const Shape& shape, std::shared_ptr<const void> owner,
                 std::span<const std::uint8_t> codes) {
    if (shape.size() % type.granule == 0) {
      add_entry(name, type, shape, std::move(owner), std::as_bytes(codes));
      return;
    }
    const std::size_t padded = (shape.size() / type.granule + 1) * type.granule;
    std::vector<std::uint8_t> whole(codes.begin(), codes.end());
    whole.resize(padded * type.bits / 8);
    auto shared = std::make_shared<const std::vector<std::uint8_t>>(std::move(whole));
    const auto bytes = std::as_bytes(std::span(*shared));
    add_entry(name, type, Shape{padded}, std::move(shared), bytes);
    std::string extents;
    for (const std::size_t extent : shape) {
      extents += (extents.empty() ? "" : ",") + std::to_string(extent);
    }
    own_metadata_[std::string(detail::safetensors_shape_key) + name] = extents;
  }

  void write_to(const std::filesystem::path& path, const std::string& name) const {
    auto metadata = own_metadata_;
    metadata.insert(metadata_.begin(), metadata_.end());
    require_at_most(name, entries_.size(), detail::safetensors_max_arrays, "arrays");
    require_at_most(name, metadata.size(), detail::safetensors_max_metadata, "entries of metadata");

    std::vector<const Entry*> order;
    order.reserve(entries_.size());
    for (const Entry& entry : entries_) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
      return a->type.rank != b->type.rank ? a->type.rank > b->type.rank : a->name < b->name;
    });
    const std::string header = make_header(order, metadata);
    require_at_most(name, header.size(), detail::safetensors_max_header, "bytes of header");
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

  static void require_at_most(const std::string& path, std::size_t count, std::size_t most,
                              const std::string& what) {
    if (count <= most) return;
    throw FileError(
        path, std::to_string(count) + " " + what + ", expected at most " + std::to_string(most));
  }

  /// The header, padded. It is put together here because the JSON library would sort the keys, but
  /// readers expect them in the order of the elements.
  [[nodiscard]] static std::string make_header(const std::vector<const Entry*>& order,
                                               const std::map<std::string, std::string>& metadata) {
    std::string header = "{";
    std::string_view separator;
    if (!metadata.empty()) {
      header += "\"__metadata__\":" + nlohmann::json(metadata).dump();
      separator = ",";
    }
    std::size_t offset = 0;
    for (const Entry* entry : order) {
      header += separator;
      header += entry->key + R"(:{"dtype":")" + std::string(entry->type.name) + R"(","shape":)" +
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
  std::map<std::string, std::string> own_metadata_;  ///< What arrays need.
};

/// Reads a safetensors file.
///
///     SafetensorsFile file("model.safetensors");
///     const Array<float> weight = file.tensor<float>("embedding.weight");
///
/// The file stays open, and arrays are read from it when they are asked for; a file that replaces
/// it under its name meanwhile, as `SafetensorsWriter::write` does, is not seen. Not safe for use
/// by several threads at once.
///
/// Whatever is wrong, with the file, with what is asked of it, or because memory does not suffice,
/// is a FileError that names the file. Names from the file are printable in it, and cut if long.
class SafetensorsFile {
 public:
  /// What the header says of an array. Of one that was padded it is the shape before.
  using Info = SafetensorsInfo;

  /// Opens a file and checks its header: that it is JSON of the right form without unknown members
  /// or duplicate names; that every array is of a known type and takes the bytes that its shape
  /// asks for; that the arrays lie side by side, without overlap or gap, and fill the file.
  /// @throws FileError
  explicit SafetensorsFile(const std::filesystem::path& path) : path_(path.string()) {
    unit_scaling::detail::with_file_errors(path_, [&] {
      std::uint64_t size = 0;
      std::tie(stream_, size) = unit_scaling::detail::open_to_read(path);
      read_header(size);
    });
  }

  /// Of the file, as it was given.
  [[nodiscard]] const std::string& path() const& { return path_; }
  [[nodiscard]] std::string path() const&& { return path_; }

  /// Names of all arrays in the order of their elements.
  [[nodiscard]] const std::vector<std::string>& names() const& { return header_.names; }
  [[nodiscard]] std::vector<std::string> names() const&& { return header_.names; }

  /// Whether there is an array of that name.
  [[nodiscard]] bool contains(const std::string& name) const {
    return header_.infos.contains(name);
  }

  /// What the header says of an array.
  /// @throws FileError if there is none of that name.
  [[nodiscard]] const Info& info(const std::string& name) const& {
    const auto found = header_.infos.find(name);
    if (found == header_.infos.end()) fail("has no array " + in_quotes(name));
    return found->second;
  }
  [[nodiscard]] Info info(const std::string& name) const&& { return info(name); }

  /// The metadata; empty if the file has none.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const& {
    return header_.metadata;
  }
  [[nodiscard]] std::map<std::string, std::string> metadata() const&& { return header_.metadata; }

  /// Reads an array, whose elements must be of type `T` in the file: nothing is converted, but
  /// elements narrower than a byte are unpacked.
  /// @throws FileError if there is none of that name, its type is another, it has more than
  ///         `Shape::max_rank` dimensions, a bool is neither 0 nor 1, or reading fails.
  template <SafetensorsElement T> [[nodiscard]] Array<T> tensor(const std::string& name) {
    return unit_scaling::detail::with_file_errors(path_, [&] {
      if constexpr (PackedSafetensorsElement<T>) {
        return packed<T>(name).template unpack<T>();
      } else {
        Array<T> array(checked_shape<T>(name));
        if (array.empty()) return array;
        // As bytes, for a bool must not be looked at before it is known to be one.
        auto* const bytes = reinterpret_cast<char*>(array.mutable_data());
        read(data_begin_ + info(name).begin, bytes, array.bytes());
        if constexpr (std::is_same_v<T, bool>) {
          if (!std::all_of(bytes, bytes + array.size(), [](char b) { return b == 0 || b == 1; })) {
            fail("array " + in_quotes(name) + " of type BOOL has a byte that is neither 0 nor 1");
          }
        }
        return array;
      }
    });
  }

  /// As `tensor`, of a shape that is known.
  /// @throws FileError as `tensor` does, and if the shape is another.
  template <SafetensorsElement T>
  [[nodiscard]] Array<T> tensor(const std::string& name, const Shape& shape) {
    require_shape(name, shape);
    return tensor<T>(name);
  }

  /// Reads the elements of an array that are narrower than a byte, as they are packed.
  /// @throws FileError as `tensor` does.
  template <PackedSafetensorsElement T> [[nodiscard]] EncodedArray packed(const std::string& name) {
    return unit_scaling::detail::with_file_errors(path_, [&] {
      const Shape shape = checked_shape<T>(name);
      return EncodedArray(shape, Format::of<T>(), read_codes(name, packed_bytes<T>(shape.size())));
    });
  }

  /// Reads an array of a format chosen at run time, which is one or two arrays; see the head of
  /// this file. Bits that belong to no code are cleared.
  /// @param like says of which format, scales and shape it must be.
  /// @throws FileError if there is none of that name, or it is not like that.
  [[nodiscard]] EncodedArray encoded_array(const std::string& name, const EncodedArray& like) {
    return unit_scaling::detail::with_file_errors(path_, [&] {
      const auto found =
          header_.metadata.find(std::string(detail::safetensors_encoding_key) + name);
      const std::string expected = detail::safetensors_encoding(like);
      if (found == header_.metadata.end()) {
        const auto plain = header_.infos.find(name);
        fail(plain == header_.infos.end()
                 ? "has no array " + in_quotes(name) + ", expected " + expected
                 : "array " + in_quotes(name) + " is " + plain->second.type + ", expected " +
                       expected + " in codes");
      }
      if (found->second != expected) {
        fail("array " + in_quotes(name) + " is " + printable(found->second) + ", expected " +
             expected);
      }
      auto codes = read_codes(name + ".elements", detail::safetensors_type(like.format()),
                              detail::safetensors_code_shape(like), like.codes().size());
      Array<std::uint8_t> scales;
      if (like.has_scales()) {
        const std::size_t bytes = detail::safetensors_scale_bytes(like);
        scales = read_codes(name + ".scales", detail::safetensors_scale_type(like),
                            detail::safetensors_scale_shape(like), bytes);
        if (has_common_scale(like.scale_layout().format)) {
          const auto common = read_codes(name + ".common_scale", detail::safetensors_type("F32"),
                                         Shape{}, sizeof(float));
          Array<std::uint8_t> both(Shape{bytes + sizeof(float)});
          std::copy_n(scales.data(), bytes, both.mutable_data());
          std::copy_n(common.data(), sizeof(float), both.mutable_data() + bytes);
          scales = std::move(both);
        }
      }
      return EncodedArray(like.shape(), like.format(), std::move(codes), like.scale_layout(),
                          std::move(scales));
    });
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw FileError(path_, what); }
  [[noreturn]] void fail_shape(const std::string& name, const std::string& expected) const {
    fail("array " + in_quotes(name) + " has shape " +
         detail::safetensors_shape_text(info(name).shape) + ", expected " + expected);
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
    header_ = detail::SafetensorsHeaderReader(path_).read(text, file_size - data_begin_);
  }

  void require_shape(const std::string& name, const Shape& shape) const {
    const Info& found = info(name);
    if (!std::equal(found.shape.begin(), found.shape.end(), shape.begin(), shape.end())) {
      fail_shape(name, to_string(shape));
    }
  }
  void require_type(const std::string& name, std::string_view type) const {
    const Info& found = info(name);
    if (found.type == type) return;
    fail("array " + in_quotes(name) + " is of type " + found.type + ", expected " +
         std::string(type));
  }

  /// The first bytes of an array of that type and shape, which has at least as many.
  [[nodiscard]] Array<std::uint8_t> read_codes(const std::string& name,
                                               const detail::SafetensorsTypeInfo& type,
                                               const Shape& shape, std::size_t bytes) {
    require_type(name, type.name);
    require_shape(name, shape);
    return read_codes(name, bytes);
  }
  /// The first bytes of an array that has at least as many.
  [[nodiscard]] Array<std::uint8_t> read_codes(const std::string& name, std::size_t bytes) {
    Array<std::uint8_t> codes({bytes});
    if (!codes.empty()) {
      read(data_begin_ + info(name).begin, reinterpret_cast<char*>(codes.mutable_data()), bytes);
    }
    return codes;
  }

  /// The shape of an array of elements of type `T`.
  template <SafetensorsElement T> [[nodiscard]] Shape checked_shape(const std::string& name) const {
    const Info& found = info(name);
    require_type(name, detail::safetensors_type_name<T>);
    if (found.shape.size() > Shape::max_rank) {
      fail_shape(name, "at most " + std::to_string(Shape::max_rank) + " dimensions");
    }
    std::array<std::size_t, Shape::max_rank> extents{};
    std::copy(found.shape.begin(), found.shape.end(), extents.begin());
    return Shape(std::span<const std::size_t>(extents.data(), found.shape.size()));
  }

  std::string path_;
  std::ifstream stream_;
  std::uint64_t data_begin_ = 0;
  detail::SafetensorsHeader header_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
