// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. What is done for every element of large arrays, for each format that tests store
/// them in. support/compiled.cpp compiles it once, optimised, for most tests are not. Those that
/// link it define UNIT_SCALING_TEST_SUPPORT_IS_COMPILED, and others compile what they use.
#pragma once

#define UNIT_SCALING_TEST_SUPPORT_OF_ALL_FORMATS(list, declare) \
  list(declare, double);                                        \
  list(declare, float);                                         \
  list(declare, unit_scaling::float16);                         \
  list(declare, unit_scaling::bfloat16)

/// Of support/random_arrays.hpp.
#define UNIT_SCALING_TEST_RANDOM_ARRAYS(declare, T) \
  declare template unit_scaling::Array<T> normal_array<T>(const unit_scaling::Shape&, std::uint64_t)

/// Of support/rounding_check.hpp.
#define UNIT_SCALING_TEST_ROUNDING_CHECK(declare, T)                                   \
  declare template void expect_rounded<T>(const unit_scaling::Array<T>&,               \
                                          const std::vector<Reference>&);              \
  declare template void expect_rounded_or_overflowed<T>(const unit_scaling::Array<T>&, \
                                                        std::vector<Reference>)

/// Of support/statistics.hpp.
#define UNIT_SCALING_TEST_STATISTICS(declare, T)                  \
  declare template double mean<T>(const unit_scaling::Array<T>&); \
  declare template double rms<T>(const unit_scaling::Array<T>&);  \
  declare template double standard_deviation<T>(const unit_scaling::Array<T>&)
