// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

// What each of the two parts of the program defines.
#define DECLARE_PART(name)             \
  namespace name {                     \
  void print_results();                \
  void set_threads(std::size_t count); \
  std::size_t threads();               \
  bool loop_is_shared();               \
  int interruption();                  \
  bool is_interrupted(int (*told)());  \
  }
DECLARE_PART(baseline)
DECLARE_PART(native)
