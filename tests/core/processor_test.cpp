// SPDX-License-Identifier: MIT
#include "unit_scaling/core/processor.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "support/temporary_folder.hpp"

namespace processor_test {

namespace fs = std::filesystem;
using unit_scaling::Cache;
using unit_scaling::read_processor;

/// A folder with files where Linux has its own.
class ProcessorFiles : public testing::Test {
 protected:
  void write(std::string_view path, std::string_view text) {
    fs::create_directories((folder_.path() / path).parent_path());
    std::ofstream(folder_.path() / path) << text;
  }
  void write_cache(const std::string& index, std::string_view level, std::string_view type,
                   std::string_view size, std::string_view ways, std::string_view sharers) {
    const std::string cache = "sys/devices/system/cpu/cpu0/cache/index" + index + "/";
    write(cache + "level", level);
    write(cache + "type", type);
    write(cache + "size", size);
    write(cache + "ways_of_associativity", ways);
    write(cache + "shared_cpu_list", sharers);
  }
  [[nodiscard]] const fs::path& root() const { return folder_.path(); }

 private:
  unit_scaling_test::TemporaryFolder folder_;
};

TEST_F(ProcessorFiles, TellTheFirstProcessorAndItsCachesOfData) {
  write("proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
        "model name\t: AMD EPYC 9654: 96 cores\nstepping\t: 1\nflags\t\t: fpu vme\npower "
        "management:\n"
        "\nprocessor\t: 1\nmodel name\t: another\n");
  write("sys/devices/system/cpu/online", "0-3,8,10-11\n");
  write_cache("0", "1\n", "Data\n", "32K\n", "8\n", "0,96\n");
  write_cache("1", "1\n", "Instruction\n", "32K\n", "8\n", "0,96\n");
  write_cache("2", "2\n", "Unified\n", "1M\n", "8\n", "0\n");
  write_cache("3", "3\n", "Unified\n", "32768K\n", "16\n", "0-7,96-103\n");
  const auto processor = read_processor(root());
  EXPECT_EQ(processor.model, "AMD EPYC 9654: 96 cores");
  EXPECT_EQ(processor.identity, "AuthenticAMD, family 25, model 17, stepping 1");
  EXPECT_EQ(processor.logical_processors, 7U);
  EXPECT_EQ(processor.caches,
            (std::vector<Cache>{{1, 32768, 8, 2}, {2, 1048576, 8, 1}, {3, 33554432, 16, 16}}));
}

TEST_F(ProcessorFiles, MayBeMissing) {
  const auto processor = read_processor(root() / "none");
  EXPECT_EQ(processor.model, "unknown");
  EXPECT_EQ(processor.identity, "");
  EXPECT_EQ(processor.logical_processors, 0U);
  EXPECT_TRUE(processor.caches.empty());
}

TEST_F(ProcessorFiles, WithoutWhatX86TellsLeaveItOut) {
  write("proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\n");
  const auto processor = read_processor(root());
  EXPECT_EQ(processor.model, "unknown");
  EXPECT_EQ(processor.identity, "");
}

TEST_F(ProcessorFiles, ThatAreNotInTheirFormTellNothing) {
  write("proc/cpuinfo", ": x\n:\nno colon\nmodel name\t:\n\nmodel name\t: of the second\n");
  EXPECT_EQ(read_processor(root()).model, "unknown");
  for (const std::string_view list :
       {"", "\n", "-", "x", "1-", "-1", "3-1", "0,", ",0", "0-1x", "0--1", "0 1",
        "0-18446744073709551615", "99999999999999999999"}) {
    write("sys/devices/system/cpu/online", list);
    EXPECT_EQ(read_processor(root()).logical_processors, 0U) << list;
  }
  for (const std::string_view size :
       {"", "K", "-1K", "12G", "12KB", "1 K", "36028797018963968K", "99999999999999999999"}) {
    write_cache("0", "1\n", "Data\n", size, "x\n", "y\n");
    EXPECT_TRUE(read_processor(root()).caches.empty()) << size;
  }
  write_cache("0", "one\n", "Data\n", "48K\n", "12\n", "0\n");
  EXPECT_TRUE(read_processor(root()).caches.empty());
  write_cache("0", "1\n", "Data\n", "49152\n", "x\n", "y\n");
  EXPECT_EQ(read_processor(root()).caches, (std::vector<Cache>{{1, 49152, 0, 0}}));
}

}  // namespace processor_test
