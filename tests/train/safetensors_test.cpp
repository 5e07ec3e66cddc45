// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Safetensors files against bytes written out by hand, and against damage.
///
/// The reference implementation (Python package safetensors 0.8.0) was found by hand to write the
/// golden file below byte for byte, and to read what the tests of padded, packed and MX arrays
/// write. It wrote tests/data/safetensors/types.safetensors.

#include "unit_scaling/train/safetensors.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory_resource>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/temporary_folder.hpp"
#include "support/texts.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/mx.hpp"
#include "unit_scaling/formats/scale_layout.hpp"

namespace unit_scaling_test {
namespace safetensors_test {

using unit_scaling::Array;
using unit_scaling::bfloat16;
using unit_scaling::EncodedArray;
using unit_scaling::FileError;
using unit_scaling::float16;
using unit_scaling::float4_e2m1fn;
using unit_scaling::float6_e2m3fn;
using unit_scaling::float6_e3m2fn;
using unit_scaling::float8_e4m3fn;
using unit_scaling::float8_e4m3fnuz;
using unit_scaling::float8_e5m2;
using unit_scaling::float8_e5m2fnuz;
using unit_scaling::float8_e8m0fnu;
using unit_scaling::Format;
using unit_scaling::Shape;
using unit_scaling::train::SafetensorsFile;
using unit_scaling::train::SafetensorsWriter;
using namespace std::string_literals;

/// A folder of its own for each test, removed after it.
class Safetensors : public ::testing::Test {
 public:
  void store(const std::string& bytes) const {
    // Some file systems wait for the disk where a file is written over.
    std::filesystem::remove(file);
    std::ofstream(file, std::ios::binary) << bytes;
  }
  [[nodiscard]] std::string stored() const { return unit_scaling_test::content(file); }
  [[nodiscard]] std::size_t files_in_folder() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
  }

  /// Stores a file of that header, followed by `data_size` zeros, and returns what is said when it
  /// is opened; empty if it opens.
  [[nodiscard]] std::string complaint(const std::string& header, std::size_t data_size = 0) const {
    store(with_length(header) + std::string(data_size, '\0'));
    return opening_complaint();
  }
  [[nodiscard]] std::string opening_complaint() const {
    try {
      const SafetensorsFile opened(file);
      return "";
    } catch (const FileError& error) {
      const std::string text = error.what();
      const std::string prefix = "'" + file.string() + "': ";
      EXPECT_TRUE(text.starts_with(prefix)) << text;
      return text.substr(prefix.size());
    }
  }

  static std::string with_length(const std::string& header) {
    std::string length(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) {
      length[i] = static_cast<char>((header.size() >> (8 * i)) & 0xffU);
    }
    return length + header;
  }

  const unit_scaling_test::TemporaryFolder temporary;
  const std::filesystem::path& folder = temporary.path();
  std::filesystem::path file = folder / "model.safetensors";
};

/// Two arrays and metadata. 1 in E4M3 is 0x38, 448 is 0x7e; the floats are 1, −2 and 0.5.
const std::string golden =
    "\xa0\0\0\0\0\0\0\0"
    "{\"__metadata__\":{\"step\":\"400\"},"
    "\"weight\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[0,12]},"
    "\"codes\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[12,14]}}"
    "     "
    "\0\0\x80\x3f"
    "\0\0\0\xc0"
    "\0\0\0\x3f"
    "\x38\x7e"s;

SafetensorsWriter golden_writer() {
  SafetensorsWriter writer;
  writer.add("codes", Array<float8_e4m3fn>({2}, {float8_e4m3fn(1.0F), float8_e4m3fn(448.0F)}));
  writer.add("weight", Array<float>({1, 3}, {1.0F, -2.0F, 0.5F}));
  writer.set_metadata("step", "400");
  return writer;
}

TEST_F(Safetensors, WritesTheGoldenBytes) {
  golden_writer().write(file);
  EXPECT_EQ(stored(), golden);
  EXPECT_EQ(files_in_folder(), 1U) << "the temporary file is gone";
}

TEST_F(Safetensors, ReadsTheGoldenBytes) {
  store(golden);
  SafetensorsFile opened(file);
  EXPECT_EQ(opened.names(), (std::vector<std::string>{"weight", "codes"}));
  EXPECT_EQ(opened.metadata(), (std::map<std::string, std::string>{{"step", "400"}}));
  EXPECT_TRUE(opened.contains("codes"));
  EXPECT_FALSE(opened.contains("step"));
  EXPECT_FALSE(opened.contains("__metadata__"));
  EXPECT_EQ(opened.tensor<float>("weight"), Array<float>({1, 3}, {1.0F, -2.0F, 0.5F}));
  const auto codes = opened.tensor<float8_e4m3fn>("codes", Shape{2});
  EXPECT_EQ(codes.span()[0].bits(), 0x38);
  EXPECT_EQ(codes.span()[1].bits(), 0x7e);
  EXPECT_EQ(opened.info("codes").type, "F8_E4M3");
  EXPECT_EQ(opened.info("codes").shape, std::vector<std::uint64_t>{2});
}

TEST_F(Safetensors, WritesAFileWithoutArrays) {
  SafetensorsWriter().write(file);
  EXPECT_EQ(stored(), "\x8\0\0\0\0\0\0\0{}      "s);
  const SafetensorsFile opened(file);
  EXPECT_TRUE(opened.names().empty());
  EXPECT_TRUE(opened.metadata().empty());
}

/// Every code of a type of two bytes or less: no NaN may change on the way.
template <class T> Array<T> all_codes() {
  using Code = typename T::storage_type;
  const std::size_t count = std::size_t{1} << T::format.bits();
  Array<T> result(Shape{2, count / 2});
  for (std::size_t code = 0; code < count; ++code) {
    result.mutable_data()[code] = T::from_bits(static_cast<Code>(code));
  }
  return result;
}

template <class T> void expect_same_bytes(const Array<T>& a, const Array<T>& b) {
  EXPECT_EQ(a.shape(), b.shape());
  ASSERT_EQ(a.bytes(), b.bytes());
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(a.data()), a.bytes()),
            std::string_view(reinterpret_cast<const char*>(b.data()), b.bytes()));
}

/// Calls `visit(name, type)` for each type of the format, by the name that its array has in
/// tests/data/safetensors/types.safetensors, or in six_bits.safetensors.
template <class Visit> void for_each_type(const Visit& visit) {
  visit("bool", bool{});
  visit("float4_e2m1fn_x2", float4_e2m1fn{});
  visit("uint8", std::uint8_t{});
  visit("int8", std::int8_t{});
  visit("float8_e5m2", float8_e5m2{});
  visit("float8_e4m3fn", float8_e4m3fn{});
  visit("float8_e8m0fnu", float8_e8m0fnu{});
  visit("float8_e4m3fnuz", float8_e4m3fnuz{});
  visit("float8_e5m2fnuz", float8_e5m2fnuz{});
  visit("int16", std::int16_t{});
  visit("uint16", std::uint16_t{});
  visit("float16", float16{});
  visit("bfloat16", bfloat16{});
  visit("int32", std::int32_t{});
  visit("uint32", std::uint32_t{});
  visit("float32", float{});
  visit("complex64", std::complex<float>{});
  visit("float64", double{});
  visit("int64", std::int64_t{});
  visit("uint64", std::uint64_t{});
  visit("b", float6_e2m3fn{});
  visit("a", float6_e3m2fn{});
}

std::string reference_file(const std::string& name) {
  return std::string(UNIT_SCALING_SOURCE_DIR) + "/tests/data/safetensors/" + name;
}

template <class T> std::string bytes_of(const Array<T>& array) {
  return {reinterpret_cast<const char*>(array.data()), array.bytes()};
}

TEST_F(Safetensors, ReadsWhatTheReferenceImplementationWrites) {
  SafetensorsFile types(reference_file("types.safetensors"));
  SafetensorsFile six_bits(reference_file("six_bits.safetensors"));
  EXPECT_EQ(types.metadata().at("written by"), "safetensors");
  EXPECT_EQ(types.names().size() + six_bits.names().size(), 22U);
  for_each_type([&]<class T>(const std::string& name, T /*type*/) {
    const Array<T> array = (name.size() == 1 ? six_bits : types).tensor<T>(name);
    EXPECT_EQ(array.shape(), name == "b" ? Shape{4} : (Shape{2, 2})) << name;
    std::string expected;
    if (name == "bool") {
      expected = "\0\1\1\0"s;
    } else if (name == "float4_e2m1fn_x2") {
      expected = "\1\0\2\0"s;  // of the bytes 01 02, the low half first
    } else if (name == "a") {
      expected = {0b000001, 0b001000, 0b110000, 0b000000};  // of 01 02 03, the lowest bits first
    } else if (name == "b") {
      expected = {0b000100, 0b010100, 0b100000, 0b000001};  // of 04 05 06
    } else {
      for (std::size_t i = 1; i <= 4 * sizeof(T); ++i) expected += static_cast<char>(i);
    }
    EXPECT_EQ(bytes_of(array), expected) << name;
  });
}

TEST_F(Safetensors, WritesWhatTheReferenceImplementationWrites) {
  for (const char* name : {"types.safetensors", "six_bits.safetensors"}) {
    SafetensorsFile read(reference_file(name));
    SafetensorsWriter writer;
    for (const auto& [key, value] : read.metadata()) writer.set_metadata(key, value);
    for_each_type([&]<class T>(const std::string& each, T /*type*/) {
      if (read.contains(each)) writer.add(each, read.tensor<T>(each));
    });
    writer.write(file);
    EXPECT_EQ(stored(), content(reference_file(name))) << name;
  }
}

TEST_F(Safetensors, ReadsBackEveryCodeOfEveryType) {
  const Array<double> f64({2}, {0.1, std::numeric_limits<double>::quiet_NaN()});
  const Array<float> f32({3}, {1e-45F, -0.0F, std::numeric_limits<float>::infinity()});
  const Array<std::int64_t> i64({1}, {std::numeric_limits<std::int64_t>::min()});
  SafetensorsWriter writer;
  writer.add("f64", f64);
  writer.add("f32", f32);
  writer.add("i64", i64);
  const auto for_each_minifloat = [](const auto& visit) {
    for_each_type([&]<class T>(const std::string& name, T /*type*/) {
      if constexpr (unit_scaling::AnyMinifloat<T>) visit(name, all_codes<T>());
    });
  };
  for_each_minifloat([&](const std::string& name, const auto& codes) { writer.add(name, codes); });
  writer.write(file);

  SafetensorsFile opened(file);
  expect_same_bytes(opened.tensor<double>("f64"), f64);
  expect_same_bytes(opened.tensor<float>("f32"), f32);
  expect_same_bytes(opened.tensor<std::int64_t>("i64"), i64);
  for_each_minifloat([&]<class T>(const std::string& name, const Array<T>& codes) {
    expect_same_bytes(opened.tensor<T>(name), codes);
  });
  EXPECT_EQ(opened.names().size(), 13U);
}

TEST_F(Safetensors, ReadsBackElementsNarrowerThanAByteOfAnyNumber) {
  for_each_type([&]<class T>(const std::string& /*name*/, T /*type*/) {
    if constexpr (unit_scaling::PackableMinifloat<T>) {
      SafetensorsWriter writer;
      std::vector<Array<T>> arrays;
      for (std::size_t size = 0; size < 20; ++size) {
        Array<T> array(Shape{size});
        for (std::size_t i = 0; i < size; ++i) {
          array.mutable_data()[i] = T::from_bits(static_cast<std::uint8_t>((7 * i + size) % 16));
        }
        writer.add(std::to_string(size), array);
        arrays.push_back(array);
      }
      const auto cube = Array<T>::filled(Shape{3, 1, 5}, T::from_bits(9));
      writer.add("cube", cube);
      writer.add("scalar", Array<T>::filled(Shape{}, T::from_bits(9)));
      writer.write(file);

      SafetensorsFile opened(file);
      for (std::size_t size = 0; size < 20; ++size) {
        const std::string name = std::to_string(size);
        expect_same_bytes(opened.tensor<T>(name, Shape{size}), arrays[size]);
        EXPECT_EQ(opened.packed<T>(name), EncodedArray::pack(arrays[size]));
      }
      expect_same_bytes(opened.tensor<T>("cube", Shape{3, 1, 5}), cube);
      EXPECT_EQ(opened.info("cube").shape, (std::vector<std::uint64_t>{3, 1, 5}));
      EXPECT_EQ(opened.packed<T>("cube"), EncodedArray::pack(cube));
      EXPECT_EQ(opened.tensor<T>("scalar").shape(), Shape{});
      EXPECT_EQ(opened.tensor<T>("scalar").data()[0].bits(), 9);
    }
  });
}

TEST_F(Safetensors, PadsWhatEndsWithinAByte) {
  SafetensorsWriter writer;
  writer.add("w", Array<float4_e2m1fn>(
                      {1, 3}, {float4_e2m1fn(1.0F), float4_e2m1fn(-6.0F), float4_e2m1fn(0.5F)}));
  writer.set_metadata("unit_scaling.shape.w", "of somebody else");
  writer.write(file);
  // 1 is 0x2, −6 is 0xf, 0.5 is 0x1.
  const std::string header = R"({"__metadata__":{"unit_scaling.shape.w":"1,3"},)"
                             R"("w":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}})";
  EXPECT_EQ(stored().substr(8, header.size()), header);
  EXPECT_EQ(stored().substr(stored().size() - 2), "\xf2\x01");
}

TEST_F(Safetensors, SaysWhatIsWrongWithThePaddingOfAnArray) {
  const auto of = [&](const std::string& shape, const std::string& stored_shape = "[4]",
                      const std::string& type = "F4") {
    return complaint(R"({"__metadata__":{"unit_scaling.shape.w":")" + shape +
                         R"("},"w":{"dtype":")" + type + R"(","shape":)" + stored_shape +
                         R"(,"data_offsets":[0,2]}})",
                     2);
  };
  EXPECT_EQ(of("3"), "");
  EXPECT_EQ(of("1,3,1"), "");
  EXPECT_EQ(of("4"),
            "its metadata 'unit_scaling.shape.w' is '4', expected a shape that is padded "
            "to F4 of shape (4)");
  for (const std::string shape :
       {"", "1", "2", "5", "3,", ",3", "3,,1", "+3", " 3", "3 ", "-3", "3.0", "x", "0", "3,0",
        "18446744073709551615", "18446744073709551615,3", "99999999999999999999", "3;1"}) {
    EXPECT_NE(of(shape), "") << shape;
  }
  EXPECT_NE(of("3", "[2,2]"), "");
  EXPECT_NE(of("1", "[2]", "I8"), "");
  EXPECT_EQ(complaint(R"({"__metadata__":{"unit_scaling.shape.w":"7"}})"), "")
      << "somebody left out the array";
}

/// Numbers of many scales, with a block of zeros and one that is not finite.
std::vector<float> numbers(std::size_t size) {
  std::vector<float> result(size);
  for (std::size_t i = 0; i < size; ++i) {
    result[i] = std::ldexp(static_cast<float>(i % 7) - 3.0F, static_cast<int>(i % 40) - 20);
  }
  if (size > 40) result[40] = std::numeric_limits<float>::quiet_NaN();
  if (size > 70) result[70] = -std::numeric_limits<float>::infinity();
  return result;
}

unit_scaling::ScaleLayout blocks_of(std::size_t size) {
  return unit_scaling::ScaleLayout::per_block_of_columns(unit_scaling::ScaleFormat::power_of_two,
                                                         size);
}

EncodedArray mx_array(std::size_t rows, std::size_t columns, const Format& elements,
                      std::size_t block_size = 32) {
  const Array<float> array(Shape{rows, columns}, numbers(rows * columns));
  return unit_scaling::encode_mx(EncodedArray::view(array), elements, blocks_of(block_size));
}

TEST_F(Safetensors, ReadsBackMxArraysOfEveryFormatAndShape) {
  struct Case {
    Format elements;
    std::size_t block_size;
    std::string type;
  };
  for (const auto& [elements, block_size, type] :
       std::vector<Case>{{Format::of<float8_e4m3fn>(), 32, "F8_E4M3"},
                         {Format::of<float8_e5m2>(), 32, "F8_E5M2"},
                         {Format::of<float6_e2m3fn>(), 32, "F6_E2M3"},
                         {Format::of<float6_e3m2fn>(), 32, "F6_E3M2"},
                         {Format::of<float4_e2m1fn>(), 32, "F4"},
                         {unit_scaling::mx_int8(), 32, "U8"},
                         {Format::of<float4_e2m1fn>(), 16, "F4"},
                         {Format::of<float8_e5m2fnuz>(), 1, "F8_E5M2FNUZ"}}) {
    for (const auto& [rows, columns] : std::vector<std::pair<std::size_t, std::size_t>>{
             {0, 0}, {0, 7}, {7, 0}, {1, 1}, {3, 5}, {2, 33}, {4, 64}, {33, 31}}) {
      const EncodedArray array = mx_array(rows, columns, elements, block_size);
      SafetensorsWriter writer;
      writer.add("w", array);
      writer.write(file);
      SafetensorsFile opened(file);
      EXPECT_EQ(opened.names().size(), 2U);
      EXPECT_EQ(opened.info("w.elements").type, type);
      EXPECT_EQ(opened.info("w.elements").shape, (std::vector<std::uint64_t>{rows, columns}));
      EXPECT_EQ(opened.info("w.scales").type, "F8_E8M0");
      EXPECT_EQ(opened.info("w.scales").shape,
                (std::vector<std::uint64_t>{rows, (columns + block_size - 1) / block_size}));
      EXPECT_EQ(opened.encoded_array("w", array), array);
    }
  }
}

TEST_F(Safetensors, WritesTheCodesOfAnMxArray) {
  // 1.5 and −0.5 over the scale 2^-2 are 6 and −2: codes 0x7 and 0xc. The scale's code is 127 − 2.
  SafetensorsWriter writer;
  writer.add("w", unit_scaling::encode_mx(EncodedArray::view(Array<float>({1, 2}, {1.5F, -0.5F})),
                                          Format::of<float4_e2m1fn>()));
  writer.write(file);
  const std::string header =
      R"json({"__metadata__":{"unit_scaling.encoding.w":)json"
      R"json("float4_e2m1fn with power_of_two scales of tiles of 1 x 32, (1, 2)"},)json"
      R"json("w.scales":{"dtype":"F8_E8M0","shape":[1,1],"data_offsets":[0,1]},)json"
      R"json("w.elements":{"dtype":"F4","shape":[1,2],"data_offsets":[1,2]}})json";
  EXPECT_EQ(stored().substr(8, header.size()), header);
  EXPECT_EQ(stored().substr(stored().size() - 2), "\x7d\xc7");
}

/// What is said by `call()`; empty if nothing is.
template <class Call> std::string said_by(const Call& call) {
  try {
    static_cast<void>(call());
  } catch (const FileError& error) {
    return error.what();
  }
  return "";
}

TEST_F(Safetensors, HoldsWhatAnEncodedArrayOfAFileOfOthersIsMadeFrom) {
  SafetensorsWriter writer;
  writer.add("w.elements", Array<float8_e5m2>::filled({3, 40}, float8_e5m2(1.5F)));
  writer.add("w.scales", Array<float8_e8m0fnu>::filled({3, 2}, float8_e8m0fnu::from_bits(128)));
  writer.write(file);
  SafetensorsFile opened(file);
  const auto codes = opened.tensor<float8_e5m2>("w.elements");
  const auto scales = opened.tensor<float8_e8m0fnu>("w.scales");
  const EncodedArray w(codes.shape(), Format::of<float8_e5m2>(),
                       codes.reinterpreted<std::uint8_t>(Shape{codes.size()}), blocks_of(32),
                       scales.reinterpreted<std::uint8_t>(Shape{scales.size()}));
  EXPECT_EQ(w.decode(), Array<float>::filled({3, 40}, 3.0F));
  EXPECT_EQ(said_by([&] { return opened.encoded_array("w", w); }),
            "'" + file.string() + "': has no array 'w', expected " +
                "float8_e5m2 with power_of_two scales of tiles of 1 x 32, (3, 40)");
  EXPECT_EQ(said_by([&] { return opened.encoded_array("w.elements", w); }),
            "'" + file.string() + "': array 'w.elements' is F8_E5M2, expected " +
                "float8_e5m2 with power_of_two scales of tiles of 1 x 32, (3, 40) in codes");
}

TEST_F(Safetensors, AddsNothingOfAnEncodedArrayWhoseNameIsTaken) {
  SafetensorsWriter writer;
  const EncodedArray array = mx_array(1, 1, Format::of<float4_e2m1fn>());
  writer.add("elements.elements", Array<float>({1}, {1.0F}));
  writer.add("scales.scales", Array<float>({1}, {1.0F}));
  EXPECT_THROW(writer.add("elements", array), std::invalid_argument);
  EXPECT_THROW(writer.add("scales", array), std::invalid_argument);
  writer.write(file);
  SafetensorsFile opened(file);
  EXPECT_EQ(opened.names().size(), 2U);
  EXPECT_TRUE(opened.metadata().empty());
}

TEST_F(Safetensors, RefusesABoolThatIsNeitherTrueNorFalse) {
  store(with_length(R"({"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}})") + "\0\1\2"s);
  SafetensorsFile opened(file);
  EXPECT_EQ(said_by([&] { return opened.tensor<bool>("a"); }),
            "'" + file.string() + "': array 'a' of type BOOL has a byte that is neither 0 nor 1");
}

TEST_F(Safetensors, ReadsBackScalarsEmptyArraysAndOddNames) {
  const std::string odd = "a \"quoted\"\\ name\n with µ and \x01 and / and "s + '\0';
  SafetensorsWriter writer;
  writer.add("", Array<float>(Shape{}, {3.0F}));
  writer.add(odd, Array<float>({1}, {4.0F}));
  writer.add("empty", Array<float>({0}, {}));
  writer.add("also empty", Array<float>({3, 0, 2}, {}));
  writer.set_metadata(odd, odd);
  writer.set_metadata("", "first");
  writer.set_metadata("", "second");
  writer.write(file);

  SafetensorsFile opened(file);
  EXPECT_EQ(opened.tensor<float>(""), Array<float>(Shape{}, {3.0F}));
  EXPECT_EQ(opened.tensor<float>(odd), Array<float>({1}, {4.0F}));
  EXPECT_EQ(opened.tensor<float>("empty").shape(), Shape{0});
  EXPECT_EQ(opened.tensor<float>("also empty").shape(), (Shape{3, 0, 2}));
  EXPECT_EQ(opened.metadata(), (std::map<std::string, std::string>{{"", "second"}, {odd, odd}}));
}

TEST_F(Safetensors, WritesArraysAsTheyWereWhenAdded) {
  Array<float> array({1}, {1.0F});
  SafetensorsWriter writer;
  writer.add("array", array);
  array.mutable_data()[0] = 2.0F;
  array = Array<float>();
  writer.write(file);
  EXPECT_EQ(SafetensorsFile(file).tensor<float>("array"), Array<float>({1}, {1.0F}));
}

TEST_F(Safetensors, ReplacesAFileThatSomeoneReads) {
  golden_writer().write(file);
  SafetensorsFile opened(file);
  SafetensorsWriter().write(file);
  EXPECT_TRUE(SafetensorsFile(file).names().empty());
  EXPECT_EQ(opened.tensor<float>("weight").data()[1], -2.0F) << "of the file it opened";
}

TEST_F(Safetensors, LeavesTheOldFileWhenItCannotWrite) {
  const std::filesystem::path taken = folder / "folder";
  std::filesystem::create_directories(taken / "inside");
  try {
    golden_writer().write(taken);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("'" + taken.string() + "': cannot replace"))
        << error.what();
  }
  EXPECT_EQ(files_in_folder(), 1U) << "the temporary file is gone";
  EXPECT_THROW(golden_writer().write(folder / "missing" / "file"), FileError);
  EXPECT_THROW(golden_writer().write(""), FileError);
}

TEST_F(Safetensors, SaysThatItCannotCreateAFile) {
  // Linux: nobody may create a file there, not even root.
  if (!std::filesystem::exists("/proc/self")) GTEST_SKIP();
  EXPECT_THROW(golden_writer().write("/proc/self/model.safetensors"), FileError);
}

TEST_F(Safetensors, RefusesToWriteWhatItCouldNotRead) {
  SafetensorsWriter writer;
  const Array<float> array({1}, {1.0F});
  writer.add("w", array);
  EXPECT_THROW(writer.add("w", array), std::invalid_argument);
  EXPECT_THROW(writer.add("w", Array<double>()), std::invalid_argument);
  EXPECT_THROW(writer.add("__metadata__", array), std::invalid_argument);
  EXPECT_THROW(writer.add("\xff", array), std::invalid_argument);
  EXPECT_THROW(writer.set_metadata("\xc3", ""), std::invalid_argument);
  EXPECT_THROW(writer.set_metadata("", "\x80"), std::invalid_argument);
  writer.write(file);
  EXPECT_EQ(SafetensorsFile(file).names(), std::vector<std::string>{"w"});
}

TEST_F(Safetensors, SaysWhatArrayIsMissingOrOtherwise) {
  store(golden);
  SafetensorsFile opened(file);
  const auto complaint_of = [&](const auto& call) -> std::string {
    try {
      static_cast<void>(call());
    } catch (const FileError& error) {
      return error.what();
    }
    return "";
  };
  const std::string prefix = "'" + file.string() + "': ";
  EXPECT_EQ(complaint_of([&] { return opened.tensor<float>("w"); }), prefix + "has no array 'w'");
  EXPECT_EQ(complaint_of([&] { return opened.info("w").type; }), prefix + "has no array 'w'");
  EXPECT_EQ(complaint_of([&] { return opened.tensor<float8_e5m2>("codes"); }),
            prefix + "array 'codes' is of type F8_E4M3, expected F8_E5M2");
  EXPECT_EQ(complaint_of([&] {
              return opened.tensor<float>("weight", Shape{3, 1});
            }),
            prefix + "array 'weight' has shape (1, 3), expected (3, 1)");
  std::filesystem::resize_file(file, golden.size() - 1);
  EXPECT_EQ(complaint_of([&] { return opened.tensor<float8_e4m3fn>("codes"); }),
            prefix + "cannot read 2 bytes from byte 180");
  EXPECT_EQ(opened.tensor<float>("weight").size(), 3U) << "a failure spoils nothing else";
}

TEST_F(Safetensors, SaysThatThereIsNoFile) {
  EXPECT_EQ(opening_complaint(), "there is no such file");
  std::filesystem::create_directory(file);
  EXPECT_EQ(opening_complaint(), "is not a regular file");
}

TEST_F(Safetensors, OpensFilesWithArraysOfMoreDimensionsThanItReads) {
  const auto ones = [](int rank) {
    std::string text = "1";
    for (int i = 1; i < rank; ++i) text += ",1";
    return "[" + text + "]";
  };
  EXPECT_EQ(complaint(R"({"b":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]},)"
                      R"("c":{"dtype":"F32","shape":)" +
                          ones(64) +
                          R"(,"data_offsets":[3,7]},)"
                          R"("d":{"dtype":"F32","shape":[1],"data_offsets":[7,11]}})",
                      11),
            "");
  SafetensorsFile opened(file);
  EXPECT_EQ(opened.tensor<float>("d").data()[0], 0.0F) << "not aligned in the file";
  EXPECT_NE(said_by([&] { return opened.tensor<float>("c"); }).find("at most 6 dimensions"),
            std::string::npos);
  EXPECT_EQ(opened.info("c").shape.size(), 64U);
  EXPECT_EQ(
      complaint(R"({"c":{"dtype":"F32","shape":)" + ones(65) + R"(,"data_offsets":[0,4]}})", 4),
      "array 'c' has more than 64 dimensions");
}

TEST_F(Safetensors, SaysWhatIsWrongWithTheLength) {
  store("\x1\0\0\0"s);
  EXPECT_EQ(opening_complaint(), "has 4 bytes, expected at least the 8 of a length");
  store("\x3\0\0\0\0\0\0\0{}"s);
  EXPECT_EQ(opening_complaint(), "says that its header has 3 bytes, but only 2 follow");
  store("\xff\xff\xff\xff\xff\xff\xff\xff{}"s);
  EXPECT_EQ(
      opening_complaint(),
      "says that its header has 18446744073709551615 bytes, expected at most 100000000; it is "
      "no safetensors file");
  store("\0\0\0\0\0\0\0\0"s);
  EXPECT_EQ(opening_complaint(), "its header does not begin with '{'");
}

TEST_F(Safetensors, SaysWhatIsWrongWithTheJson) {
  EXPECT_EQ(complaint("{}"), "");
  EXPECT_EQ(complaint("{}\n "), "");
  EXPECT_EQ(complaint(" {}"), "its header does not begin with '{'");
  EXPECT_EQ(complaint("\xef\xbb\xbf{}"), "its header does not begin with '{'");
  EXPECT_EQ(complaint("[]"), "its header does not begin with '{'");
  for (const std::string& broken : {"{"s, "{}x"s, "{}{}"s, R"({"a":})"s, "{\"\xff\":1}"s, "{}\0"s,
                                    "{}\0{}"s, R"({"a":"\ud800"})"s}) {
    EXPECT_TRUE(complaint(broken).starts_with("its header is not JSON: ")) << broken;
  }
  EXPECT_EQ(complaint(R"({"a":{"dtype")"), "its header is not JSON: at byte 14, '\"dtype\"'");
  EXPECT_EQ(complaint("{\"a\":" + std::string(1'000'000, '[')),
            "array 'a' is not described by a JSON object");
  EXPECT_EQ(complaint("{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}"),
            "array 'a' is not described by a JSON object");
  const auto entry = R"("a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})"s;
  EXPECT_EQ(complaint("{" + entry + "," + entry + "}"), "its header has the name 'a' twice");
  EXPECT_EQ(complaint(R"({"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}})"),
            "its header has the name 'dtype' twice");
  EXPECT_EQ(complaint(R"({"__metadata__":{"x":"1","x":"1"}})"),
            "its header has the name 'x' twice");
  EXPECT_EQ(complaint(R"({"__metadata__":{},"__metadata__":{}})"),
            "its header has the name '__metadata__' twice");
  EXPECT_EQ(complaint(R"({"__metadata__":[]})"), "'__metadata__' is not a JSON object");
  EXPECT_EQ(complaint(R"({"__metadata__":{"step":400}})"), "its metadata 'step' is not a string");
}

TEST_F(Safetensors, SaysWhatIsWrongWithAnArray) {
  const auto of = [&](const std::string& entry, std::size_t data_size = 4) {
    return complaint("{\"a\":" + entry + "}", data_size);
  };
  const auto not_integers = [](const std::string& key) {
    return "array 'a' has a '" + key + "' that is not a list of integers from 0 to 2^64 - 1";
  };
  EXPECT_EQ(of(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "");
  EXPECT_EQ(of("7"), "array 'a' is not described by a JSON object");
  EXPECT_EQ(of(R"({"shape":[1],"data_offsets":[0,4]})"), "array 'a' has no 'dtype'");
  EXPECT_EQ(of(R"({"dtype":"F32","data_offsets":[0,4]})"), "array 'a' has no 'shape'");
  EXPECT_EQ(of(R"({"dtype":"F32","shape":[1]})"), "array 'a' has no 'data_offsets'");
  EXPECT_EQ(of(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"new":{}})"),
            "array 'a' has the unknown member 'new'");
  EXPECT_EQ(of(R"({"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})"),
            "its header has the name 'shape' twice");
  EXPECT_EQ(of(R"({"dtype":1,"shape":[1],"data_offsets":[0,4]})"),
            "array 'a' has a 'dtype' that is not a string");
  EXPECT_EQ(of(R"({"dtype":"F31","shape":[1],"data_offsets":[0,4]})"),
            "array 'a' is of the unknown type 'F31'");
  for (const std::string shape :
       {"1", "[-1]", "[-0]", "[1.0]", "[1e0]", "[\"1\"]", "[18446744073709551616]", "[[1]]", "[{}]",
        "[null]", "[true]", "null", "\"[1]\""}) {
    EXPECT_EQ(of(R"({"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,4]})"),
              not_integers("shape"));
  }
  EXPECT_EQ(of(R"({"dtype":"F32","shape":[1],"data_offsets":{"0":0}})"),
            not_integers("data_offsets"));
  for (const std::string offsets : {"[]", "[4]", "[0,4,4]"}) {
    EXPECT_EQ(of(R"({"dtype":"F32","shape":[1],"data_offsets":)" + offsets + "}"),
              "array 'a' does not have two 'data_offsets'");
  }
  EXPECT_EQ(of(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"),
            "array 'a' begins at 4, but ends before that, at 0");
  EXPECT_EQ(of(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"),
            "array 'a' has 4 bytes, expected 8 for F32 of shape (2)");
  EXPECT_EQ(of(R"({"dtype":"F4","shape":[7],"data_offsets":[0,3]})", 3),
            "array 'a' has 3 bytes, expected 3 and a fraction for F4 of shape (7)");
  EXPECT_EQ(of(R"({"dtype":"F32","shape":[4294967296,4294967297],"data_offsets":[0,4]})"),
            "array 'a' has shape (4294967296, 4294967297), the size of which exceeds 64 bits");
  EXPECT_EQ(of(R"({"dtype":"F32","shape":[0,9223372036854775808,4],"data_offsets":[0,0]})", 0),
            "array 'a' has shape (0, 9223372036854775808, 4), the size of which exceeds 64 bits");
  EXPECT_EQ(of(R"({"dtype":"U8","shape":[18446744073709551615,18446744073709551615,0],)"
               R"("data_offsets":[0,0]})",
               0),
            "array 'a' has shape (18446744073709551615, 18446744073709551615, 0), the size of "
            "which exceeds 64 bits");
}

TEST_F(Safetensors, SaysWhatIsWrongWithTheLayout) {
  const auto of = [&](const std::string& offsets_a, const std::string& offsets_b) {
    return complaint(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + offsets_a +
                         R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" + offsets_b + "}}",
                     8);
  };
  EXPECT_EQ(of("[0,4]", "[4,8]"), "");
  EXPECT_EQ(of("[4,8]", "[0,4]"), "") << "the order in the header means nothing";
  EXPECT_EQ(of("[0,4]", "[0,4]"),
            "array 'b' begins at byte 0 of the elements, expected 4, where the one before it ends");
  EXPECT_EQ(of("[0,4]", "[3,7]"),
            "array 'b' begins at byte 3 of the elements, expected 4, where the one before it ends");
  EXPECT_EQ(of("[0,4]", "[5,9]"),
            "array 'b' begins at byte 5 of the elements, expected 4, where the one before it ends");
  EXPECT_EQ(of("[4,8]", "[8,12]"),
            "array 'a' begins at byte 4 of the elements, expected 0, where the elements begin");
  EXPECT_EQ(complaint(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5),
            "has 5 bytes of elements, but its header says 4");
  EXPECT_EQ(complaint(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3),
            "has 3 bytes of elements, but its header says 4");
  EXPECT_EQ(complaint("{}", 1), "has 1 bytes of elements, but its header says 0");
}

TEST_F(Safetensors, ShowsNamesOfAFileOnOneLineAndCutsLongOnes) {
  const std::string name = R"(a\u001b[31m\n\u202e)";
  const std::string shown = R"('a\x1b[31m\n\xe2\x80\xae')";
  const auto entry = R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})"s;
  EXPECT_EQ(complaint("{\"" + name + "\":7}"),
            "array " + shown + " is not described by a JSON object");
  EXPECT_EQ(complaint("{\"" + name + "\":" + entry + ",\"" + name + "\":" + entry + "}"),
            "its header has the name " + shown + " twice");
  EXPECT_EQ(complaint(R"({"a":{"dtype":")" + name + "\"}}"),
            "array 'a' is of the unknown type " + shown);
  EXPECT_EQ(complaint(R"({"a":{")" + name + "\":0}}"), "array 'a' has the unknown member " + shown);
  EXPECT_EQ(complaint(R"({"__metadata__":{")" + name + "\":0}}"),
            "its metadata " + shown + " is not a string");
  EXPECT_EQ(
      complaint("{\"" + name + R"(":{"dtype":"F32","shape":[],"data_offsets":[4,8]}})", 8),
      "array " + shown + " begins at byte 4 of the elements, expected 0, where the elements begin");
  EXPECT_EQ(
      complaint("{\"" + std::string(1'000'000, 'x') + "\":7}"),
      "array '" + std::string(100, 'x') + "… (1000000 bytes)' is not described by a JSON object");
  // What cannot be parsed at all is shown likewise.
  for (const std::string& broken :
       {"{\"\x1b[31m\"}"s, "{\xff\n"s, "{\"" + std::string(1'000'000, 'x'), "{tru\n"s}) {
    const std::string text = complaint(broken);
    EXPECT_TRUE(text.starts_with("its header is not JSON: at byte ")) << text;
    EXPECT_LT(text.size(), 200U);
    EXPECT_EQ(text.find_first_of("\x1b\n\xff"), std::string::npos) << text;
  }
}

/// Stores a header and returns how many bytes of memory a process of its own had at most while it
/// opened the file, less what it had before, and what it said.
struct Cost {
  std::size_t megabytes = 0;
  std::string said;
};
template <class Fixture> Cost cost_of(const Fixture& fixture, const std::string& bytes) {
  fixture.store(bytes);
  Cost cost;
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const std::string text = fixture.opening_complaint();
    static_cast<void>(::write(ends[1], text.data(), text.size()) == 0);
    _exit(0);
  }
  close(ends[1]);
  char buffer[1000];
  for (ssize_t size = 0; (size = ::read(ends[0], buffer, sizeof(buffer))) > 0;) {
    cost.said.append(buffer, static_cast<std::size_t>(size));
  }
  close(ends[0]);
  int status = -1;
  rusage usage{};
  EXPECT_EQ(wait4(child, &status, 0, &usage), child);
  EXPECT_EQ(status, 0);
  cost.megabytes = static_cast<std::size_t>(usage.ru_maxrss) / 1024;
  return cost;
}

// A process begins with what its parent has: up to twice the file. Read into a tree, brackets took
// 73 bytes each.
TEST_F(Safetensors, TakesABoundedMultipleOfAHeaderInMemory) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer keeps what was freed";
#endif
  const auto header = [&](std::size_t size, std::string text, const auto& next,
                          const std::string& end) {
    text.reserve(size + 100);
    for (std::size_t i = 0; text.size() < size; ++i) text += next(i);
    text += end;
    std::string length(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) {
      length[i] = static_cast<char>((text.size() >> (8 * i)) & 0xffU);
    }
    return text.insert(0, length);
  };
  const auto always = [](std::string text) { return [=](std::size_t /*i*/) { return text; }; };
  constexpr std::size_t size = 5'000'000;
  const auto expect = [&](const std::string& bytes, const std::string& said) {
    const Cost cost = cost_of(*this, bytes);
    EXPECT_EQ(cost.said.substr(0, said.size()), said);
    EXPECT_LT(cost.megabytes, 50 + 10 * bytes.size() / 1'000'000);
  };
  const std::string nothing = "array 'a' is not described by a JSON object";
  expect(header(size, "{\"a\":", always("["), ""), nothing);
  expect(header(size, "{\"a\":", always("{\"\":"), ""), "array 'a' has the unknown member ''");
  expect(header(size, "{\"a\":[[]", always(",[]"), "]}"), nothing);
  expect(header(size, R"({"a":{"shape":[1)", always(",1"), "]}}"),
         "array 'a' has more than 64 dimensions");
  expect(header(size, R"({"a":{"data_offsets":[1)", always(",1"), "]}}"),
         "array 'a' does not have two 'data_offsets'");
  expect(header(
             12 * size, R"({"":{"dtype":"U8","shape":[],"data_offsets":[0,1]})",
             [](std::size_t i) {
               return ",\"" + std::to_string(i) +
                      R"(":{"dtype":"U8","shape":[],"data_offsets":[0,1]})";
             },
             "}"),
         "its header has more than 1000000 arrays");
  expect(header(
             size, R"({"__metadata__":{"":"")",
             [](std::size_t i) { return ",\"" + std::to_string(i) + "\":\"\""; }, "}}"),
         "its metadata has more than 100000 entries");
  expect(header(size, "{\"", always("x"), ""), "its header is not JSON: at byte ");
  expect(header(size, R"({"a":{"shape":[)", always("1"), "]}}"),
         "its header is not JSON: at byte ");
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool memory_can_be_limited = false;  // they reserve terabytes
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool memory_can_be_limited = false;
#else
constexpr bool memory_can_be_limited = true;
#endif
#else
constexpr bool memory_can_be_limited = true;
#endif

TEST_F(Safetensors, SaysThatMemoryDoesNotSuffice) {
  if (!memory_can_be_limited) GTEST_SKIP();
  store(with_length(R"({"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}})"));
  std::filesystem::resize_file(file, std::filesystem::file_size(file) + (std::uint64_t{1} << 32));
  const pid_t child = fork();
  if (child == 0) {
    SafetensorsFile opened(file);
    const rlimit limit{rlim_t{1} << 31, rlim_t{1} << 31};
    setrlimit(RLIMIT_AS, &limit);
    const std::string text = said_by([&] { return opened.tensor<float>("a"); });
    _exit(text == "'" + file.string() + "': there is not enough memory for it" ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(Safetensors, RefusesAFileCutAnywhere) {
  for (std::size_t size = 0; size < golden.size(); ++size) {
    store(golden.substr(0, size));
    EXPECT_NE(opening_complaint(), "") << "after " << size << " bytes";
  }
  store(golden + '\0');
  EXPECT_NE(opening_complaint(), "") << "and a byte too long";
}

/// Opens the stored file and reads all it can; only a FileError may come of it.
void read_everything(const std::filesystem::path& file) {
  const auto attempt = [](const auto& call) { static_cast<void>(said_by(call)); };
  try {
    SafetensorsFile opened(file);
    for (const std::string& name : opened.names()) {
      for_each_type([&]<class T>(const std::string& /*name*/, T /*type*/) {
        attempt([&] { return opened.tensor<T>(name); });
      });
      attempt([&] { return opened.packed<float4_e2m1fn>(name); });
      attempt([&] {
        return opened.encoded_array(name.substr(0, name.find('.')),
                                    mx_array(1, 3, Format::of<float4_e2m1fn>(), 16));
      });
    }
  } catch (const FileError&) {
  }
}

TEST_F(Safetensors, SurvivesDamageToAnyByte) {
  const auto survives_damage = [&](const std::string& bytes) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      for (const unsigned flip : {0x01U, 0x02U, 0x10U, 0x80U, 0xffU}) {
        std::string damaged = bytes;
        damaged[i] = static_cast<char>(static_cast<unsigned char>(damaged[i]) ^ flip);
        store(damaged);
        EXPECT_NO_THROW(read_everything(file)) << "byte " << i;
      }
    }
  };
  survives_damage(golden);
  SafetensorsWriter writer;
  writer.add("w", mx_array(1, 3, Format::of<float4_e2m1fn>(), 16));
  writer.write(file);
  survives_damage(stored());
}

TEST_F(Safetensors, SurvivesGarbage) {
  std::mt19937 random(7);  // NOLINT(cert-msc51-cpp): the same garbage each time
  // Pieces of JSON rather than bytes, which would seldom get beyond the first.
  const std::vector<std::string> pieces{"{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "\"",
                                        "\"a\"",
                                        "\"dtype\"",
                                        "\"shape\"",
                                        "\"data_offsets\"",
                                        "\"F32\"",
                                        "0",
                                        "4",
                                        "-1",
                                        "1e9",
                                        "\"__metadata__\"",
                                        "null",
                                        "\\",
                                        R"("b":{"dtype":"F32")",
                                        "\xff",
                                        " "};
  for (int round = 0; round < 2000; ++round) {
    std::string text = "{";
    const std::size_t count = random() % 24;
    for (std::size_t i = 0; i < count; ++i) text += pieces[random() % pieces.size()];
    store(with_length(text) + std::string(random() % 8, '\0'));
    EXPECT_NO_THROW(read_everything(file)) << text;
  }
}

}  // namespace safetensors_test
}  // namespace unit_scaling_test
