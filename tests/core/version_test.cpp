// SPDX-License-Identifier: MIT
// UNIT_SCALING_PROJECT_VERSION is PROJECT_VERSION, as CMake understood the header.
#include "unit_scaling/core/version.hpp"

#include <gtest/gtest.h>

#include <string>

namespace version_test {

TEST(Version, IsTheOneThatCMakeInstalls) {
  EXPECT_EQ(unit_scaling::version, UNIT_SCALING_PROJECT_VERSION);
}

TEST(Version, OfTheMacrosAndOfTheStringAreOne) {
  EXPECT_EQ(unit_scaling::version, std::to_string(UNIT_SCALING_VERSION_MAJOR) + "." +
                                       std::to_string(UNIT_SCALING_VERSION_MINOR) + "." +
                                       std::to_string(UNIT_SCALING_VERSION_PATCH));
}

TEST(Version, CanBeComparedByThePreprocessor) {
#if UNIT_SCALING_VERSION_MAJOR * 1000 + UNIT_SCALING_VERSION_MINOR >= 1
  SUCCEED();
#else
  FAIL() << "older than 0.1";
#endif
}

}  // namespace version_test
