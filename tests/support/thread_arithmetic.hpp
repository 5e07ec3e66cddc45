// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. The arithmetic that a thread is told to do: every rounding mode, with and without
/// subnormal numbers.
#pragma once

#include <cfenv>
#include <string>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace unit_scaling_test {

/// A rounding mode of `fesetround`, and whether subnormal numbers are taken for zero.
struct ArithmeticMode {
  const char* name;
  int rounding;
  bool flushes;
};

/// All but the default, to nearest with subnormal numbers.
inline std::vector<ArithmeticMode> unusual_arithmetic_modes() {
  std::vector<ArithmeticMode> modes = {{"upward", FE_UPWARD, false},
                                       {"downward", FE_DOWNWARD, false},
                                       {"toward zero", FE_TOWARDZERO, false}};
#if defined(__SSE2__)
  modes.insert(modes.end(), {{"to nearest, flushing", FE_TONEAREST, true},
                             {"upward, flushing", FE_UPWARD, true},
                             {"downward, flushing", FE_DOWNWARD, true},
                             {"toward zero, flushing", FE_TOWARDZERO, true}});
#endif
  return modes;
}

/// Puts the thread in a mode for the lifetime of the object. Out of line: what is read from memory
/// after the constructor and written before the destructor is computed in that mode.
class ThreadArithmetic {
 public:
  [[gnu::noinline]] explicit ThreadArithmetic(const ArithmeticMode& mode) {
    std::fegetenv(&before_);
    std::fesetround(mode.rounding);
#if defined(__SSE2__)
    if (mode.flushes) _mm_setcsr(_mm_getcsr() | 0x8040U);
#endif
    asm volatile("" ::: "memory");
  }
  ThreadArithmetic(const ThreadArithmetic&) = delete;
  ThreadArithmetic& operator=(const ThreadArithmetic&) = delete;
  [[gnu::noinline]] ~ThreadArithmetic() {
    asm volatile("" ::: "memory");
    std::fesetenv(&before_);
  }

 private:
  std::fenv_t before_;
};

/// Whether the thread is still in the mode.
[[gnu::noinline]] inline bool is_in_mode(const ArithmeticMode& mode) {
#if defined(__SSE2__)
  if (((_mm_getcsr() & 0x8040U) == 0x8040U) != mode.flushes) return false;
#endif
  return std::fegetround() == mode.rounding;
}

}  // namespace unit_scaling_test
