// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Safetensors files against bytes written out by hand, and against damage.
///
/// The reference implementation (Python package safetensors 0.8.0) was found by hand to write the
/// golden file below byte for byte, and to read all eight types as we write them.

#include "unit_scaling/train/safetensors.hpp"

#include <gtest/gtest.h>

#include <bit>
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

namespace unit_scaling_test {
namespace {

using unit_scaling::Array;
using unit_scaling::bfloat16;
using unit_scaling::float16;
using unit_scaling::float8_e4m3fn;
using unit_scaling::float8_e5m2;
using unit_scaling::Shape;
using unit_scaling::train::SafetensorsFile;
using unit_scaling::train::SafetensorsWriter;
using namespace std::string_literals;

/// A folder of its own for each test, removed after it.
class Safetensors : public ::testing::Test {
 protected:
  void store(const std::string& bytes) const {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
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
    } catch (const std::runtime_error& error) {
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

/// Every code of a type of one or two bytes: no NaN may change on the way.
template <class T> Array<T> all_codes() {
  using Code = typename T::storage_type;
  const std::size_t count = std::size_t{std::numeric_limits<Code>::max()} + 1;
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

TEST_F(Safetensors, ReadsBackEveryType) {
  const Array<double> f64({2}, {0.1, std::numeric_limits<double>::quiet_NaN()});
  const Array<float> f32({3}, {1e-45F, -0.0F, std::numeric_limits<float>::infinity()});
  const Array<std::int64_t> i64({1}, {std::numeric_limits<std::int64_t>::min()});
  const Array<std::int32_t> i32({2, 1}, {-1, 7});
  SafetensorsWriter writer;
  writer.add("f64", f64);
  writer.add("f32", f32);
  writer.add("f16", all_codes<float16>());
  writer.add("bf16", all_codes<bfloat16>());
  writer.add("e4m3", all_codes<float8_e4m3fn>());
  writer.add("e5m2", all_codes<float8_e5m2>());
  writer.add("i32", i32);
  writer.add("i64", i64);
  writer.write(file);

  SafetensorsFile opened(file);
  expect_same_bytes(opened.tensor<double>("f64"), f64);
  expect_same_bytes(opened.tensor<float>("f32"), f32);
  expect_same_bytes(opened.tensor<float16>("f16"), all_codes<float16>());
  expect_same_bytes(opened.tensor<bfloat16>("bf16"), all_codes<bfloat16>());
  expect_same_bytes(opened.tensor<float8_e4m3fn>("e4m3"), all_codes<float8_e4m3fn>());
  expect_same_bytes(opened.tensor<float8_e5m2>("e5m2"), all_codes<float8_e5m2>());
  expect_same_bytes(opened.tensor<std::int32_t>("i32"), i32);
  expect_same_bytes(opened.tensor<std::int64_t>("i64"), i64);
  EXPECT_EQ(opened.names(),
            (std::vector<std::string>{"i64", "f64", "f32", "i32", "bf16", "f16", "e4m3", "e5m2"}))
      << "the order of the reference implementation";
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
  EXPECT_EQ(opened.tensor<float>("weight").span()[1], -2.0F) << "of the file it opened";
}

TEST_F(Safetensors, LeavesTheOldFileWhenItCannotWrite) {
  const std::filesystem::path taken = folder / "folder";
  std::filesystem::create_directories(taken / "inside");
  try {
    golden_writer().write(taken);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("'" + taken.string() + "': cannot replace"))
        << error.what();
  }
  EXPECT_EQ(files_in_folder(), 1U) << "the temporary file is gone";
  EXPECT_THROW(golden_writer().write(folder / "missing" / "file"), std::runtime_error);
  EXPECT_THROW(golden_writer().write(""), std::runtime_error);
}

TEST_F(Safetensors, SaysThatItCannotCreateAFile) {
  // Linux: nobody may create a file there, not even root.
  if (!std::filesystem::exists("/proc/self")) GTEST_SKIP();
  EXPECT_THROW(golden_writer().write("/proc/self/model.safetensors"), std::runtime_error);
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
    } catch (const std::runtime_error& error) {
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

TEST_F(Safetensors, OpensFilesWithTypesItCannotRead) {
  EXPECT_EQ(complaint(R"({"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]},)"
                      R"("b":{"dtype":"F4","shape":[3,2],"data_offsets":[3,6]},)"
                      R"("c":{"dtype":"F32","shape":[1,1,1,1,1,1,1],"data_offsets":[6,10]},)"
                      R"("d":{"dtype":"F32","shape":[1],"data_offsets":[10,14],"new":{}}})",
                      14),
            "");
  SafetensorsFile opened(file);
  EXPECT_EQ(opened.tensor<float>("d").span()[0], 0.0F) << "not aligned in the file";
  EXPECT_THROW(static_cast<void>(opened.tensor<float>("c")), std::runtime_error);
  EXPECT_EQ(opened.info("c").shape.size(), 7U);
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
  EXPECT_TRUE(complaint("{\"a\":" + std::string(1'000'000, '[')).starts_with("its header is not"));
  EXPECT_EQ(complaint("{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}"),
            "array 'a' is not described by a JSON object");
  const auto entry = R"("a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})"s;
  EXPECT_EQ(complaint("{" + entry + "," + entry + "}"), "its header has the name 'a' twice");
  EXPECT_EQ(complaint(R"({"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}})"),
            "its header has the name 'dtype' twice");
  EXPECT_EQ(complaint(R"({"__metadata__":{"x":"1","x":"1"}})"),
            "its header has the name 'x' twice");
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
  EXPECT_EQ(of(R"({"dtype":1,"shape":[1],"data_offsets":[0,4]})"),
            "array 'a' has a 'dtype' that is not a string");
  EXPECT_EQ(of(R"({"dtype":"F31","shape":[1],"data_offsets":[0,4]})"),
            "array 'a' is of the unknown type 'F31'");
  for (const std::string shape :
       {"1", "[-1]", "[1.0]", "[\"1\"]", "[18446744073709551616]", "[[1]]", "null"}) {
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

TEST_F(Safetensors, RefusesAFileCutAnywhere) {
  for (std::size_t size = 0; size < golden.size(); ++size) {
    store(golden.substr(0, size));
    EXPECT_NE(opening_complaint(), "") << "after " << size << " bytes";
  }
  store(golden + '\0');
  EXPECT_NE(opening_complaint(), "") << "and a byte too long";
}

/// Opens the stored file and reads all it can; only a runtime error may come of it.
void read_everything(const std::filesystem::path& file) {
  try {
    SafetensorsFile opened(file);
    for (const std::string& name : opened.names()) {
      try {
        static_cast<void>(opened.tensor<float>(name));
      } catch (const std::runtime_error&) {
      }
      try {
        static_cast<void>(opened.tensor<float8_e4m3fn>(name));
      } catch (const std::runtime_error&) {
      }
    }
  } catch (const std::runtime_error&) {
  }
}

TEST_F(Safetensors, SurvivesDamageToAnyByte) {
  const std::size_t header_end = golden.size() - 14;
  for (std::size_t i = 0; i < header_end; ++i) {
    for (const unsigned flip : {0x01U, 0x02U, 0x10U, 0x80U, 0xffU}) {
      std::string damaged = golden;
      damaged[i] = static_cast<char>(static_cast<unsigned char>(damaged[i]) ^ flip);
      store(damaged);
      EXPECT_NO_THROW(read_everything(file)) << "byte " << i;
    }
  }
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

}  // namespace
}  // namespace unit_scaling_test
