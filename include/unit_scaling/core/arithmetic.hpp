// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the arithmetic that a thread has been told to do.
///
/// A processor keeps for each thread how it rounds (`std::fesetround`) and whether it takes
/// subnormal numbers for zero (FTZ and DAZ of x86, FZ of ARM; -ffast-math at linking sets them). A
/// program may set them for reasons of its own, and another library may do so behind its back. The
/// library computes in the arithmetic that IEEE 754 prescribes by default, whatever they say:
/// results would otherwise depend on which thread computed them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/target.hpp"

#if !defined(__SSE2__) && !defined(__aarch64__)
#include <cfenv>
#endif

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

/// How a thread computes: 0 for rounding to nearest even with subnormal numbers.
using ArithmeticModes = std::uint64_t;

#if defined(__SSE2__)
/// Of MXCSR: flush to zero, the two bits of the rounding mode, denormals are zero.
inline constexpr ArithmeticModes arithmetic_mode_bits = 0xe040;
/// Those of the rounding mode.
inline constexpr ArithmeticModes rounding_mode_bits = 0x6000;
/// Those of the control word of the x87 unit, which computes with long double. They are kept above
/// the bits of MXCSR: std::fesetround sets both registers, and others may set only one.
inline constexpr unsigned x87_rounding_bits = 0x0c00;

[[nodiscard, gnu::always_inline]] inline ArithmeticModes arithmetic_modes() noexcept {
  return __builtin_ia32_stmxcsr() & arithmetic_mode_bits;
}
#elif defined(__aarch64__)
/// Of FPCR: flush to zero, the two bits of the rounding mode.
inline constexpr ArithmeticModes arithmetic_mode_bits = 0x01c0'0000;
/// Those of the rounding mode.
inline constexpr ArithmeticModes rounding_mode_bits = 0x00c0'0000;

[[nodiscard, gnu::always_inline]] inline ArithmeticModes arithmetic_modes() noexcept {
  ArithmeticModes register_bits;
  asm volatile("mrs %0, fpcr" : "=r"(register_bits));
  return register_bits & arithmetic_mode_bits;
}
#else
inline constexpr ArithmeticModes rounding_mode_bits = ~ArithmeticModes{0};

[[nodiscard, gnu::always_inline]] inline ArithmeticModes arithmetic_modes() noexcept {
  // Plus one: a mode other than to nearest may have the number 0.
  const int rounding = std::fegetround();
  return rounding == FE_TONEAREST ? 0 : static_cast<ArithmeticModes>(rounding) + 1;
}
#endif

/// Whether the thread rounds to nearest, ties to even.
[[nodiscard, gnu::always_inline]] inline bool rounds_to_nearest() noexcept {
  return (arithmetic_modes() & rounding_mode_bits) == 0;
}

/// Sets modes that set_default_arithmetic_modes() has returned. Out of line, and what is in memory
/// may have changed for all the compiler knows: so it moves no computation from one side of a call
/// to the other.
[[gnu::noinline]] inline void set_arithmetic_modes(ArithmeticModes modes) noexcept {
  asm volatile("" ::: "memory");
#if defined(__SSE2__)
  std::uint16_t x87_control = 0;
  asm volatile("fnstcw %0" : "=m"(x87_control));
  x87_control = static_cast<std::uint16_t>((x87_control & ~x87_rounding_bits) | modes >> 32);
  asm volatile("fldcw %0" ::"m"(x87_control));
  // What else is in the register, among it the exceptions that were met, remains.
  __builtin_ia32_ldmxcsr(static_cast<unsigned>((__builtin_ia32_stmxcsr() & ~arithmetic_mode_bits) |
                                               (modes & arithmetic_mode_bits)));
#elif defined(__aarch64__)
  ArithmeticModes register_bits;
  asm volatile("mrs %0, fpcr" : "=r"(register_bits));
  register_bits = (register_bits & ~arithmetic_mode_bits) | modes;
  asm volatile("msr fpcr, %0" ::"r"(register_bits));
#else
  std::fesetround(modes == 0 ? FE_TONEAREST : static_cast<int>(modes - 1));
#endif
  asm volatile("" ::: "memory");
}

/// Sets the default modes and returns those from before.
[[gnu::noinline]] inline ArithmeticModes set_default_arithmetic_modes() noexcept {
  ArithmeticModes before = arithmetic_modes();
#if defined(__SSE2__)
  std::uint16_t x87_control = 0;
  asm volatile("fnstcw %0" : "=m"(x87_control));
  before |= static_cast<ArithmeticModes>(x87_control & x87_rounding_bits) << 32;
#endif
  set_arithmetic_modes(0);
  return before;
}

}  // namespace detail

/// Whether the thread rounds to nearest, ties to even, and keeps subnormal numbers.
[[nodiscard, gnu::always_inline]] inline bool has_default_arithmetic() noexcept {
  return detail::arithmetic_modes() == 0;
}

/// While it lives, its thread rounds to nearest, ties to even, and keeps subnormal numbers. The
/// modes from before return with its end. Where they were the same, it costs two instructions.
///
/// The compiler knows nothing of modes. Values that are read from memory after the constructor and
/// written before the destructor are computed in between; others may not be.
class [[nodiscard]] DefaultArithmetic {
 public:
  [[gnu::always_inline]] DefaultArithmetic() noexcept {
    if (!has_default_arithmetic()) [[unlikely]]
      before_ = detail::set_default_arithmetic_modes();
  }
  DefaultArithmetic(const DefaultArithmetic&) = delete;
  DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;
  [[gnu::always_inline]] ~DefaultArithmetic() {
    if (before_ != 0) [[unlikely]]
      detail::set_arithmetic_modes(before_);
  }

 private:
  detail::ArithmeticModes before_ = 0;  ///< none other than the default ones
};

namespace detail {

/// Calls `function(context, i)` for every i in [0, count), in default arithmetic.
[[gnu::noinline]] inline void loop_in_default_arithmetic(std::size_t count,
                                                         void (*function)(void*, std::size_t),
                                                         void* context) {
  const DefaultArithmetic arithmetic;
  for (std::size_t i = 0; i < count; ++i) function(context, i);
}

}  // namespace detail

/// Calls `body()` in default arithmetic, and nothing of `body` is computed in another.
template <class Body> [[gnu::always_inline]] inline void in_default_arithmetic(const Body& body) {
  if (has_default_arithmetic()) [[likely]] {
    body();
  } else {
    detail::loop_in_default_arithmetic(
        1, [](void* context, std::size_t) { (*static_cast<const Body*>(context))(); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }
}

}  // namespace UNIT_SCALING_NAMESPACE
