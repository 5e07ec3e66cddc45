// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: refuses compilers told to break the rules of IEEE 754.
///
/// What is refused is each freedom by itself, whichever option gives it:
/// - reassociated sums (-fassociative-math, -funsafe-math-optimizations): exp and the functions
///   that use it split their argument by adding a large number and taking it off again, which
///   reassociation undoes: gelu(1) is 3 % off, and a softmax tens of per cent.
/// - reciprocals (-freciprocal-math): a quotient is no longer the nearest number, and not a number
///   at all where the reciprocal of a subnormal divisor overflows.
/// - zeros without a sign (-fno-signed-zeros): tanh(-0) and a product that underflows lose it.
/// - no NaN and no infinity (-ffinite-math-only): checks for them vanish.
///
/// GCC has a macro for each. Clang has one for the last, and for all of them together; between
/// UNIT_SCALING_IEEE_BEGIN and UNIT_SCALING_IEEE_END (core/target.hpp) it takes none of the others.
/// Conversions in formats/ hold under all of them, and do not include this.
#pragma once

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "unit_scaling kernels need IEEE arithmetic: no -ffast-math, -Ofast, -ffinite-math-only"
#endif
#if defined(__ASSOCIATIVE_MATH__)
#error \
    "unit_scaling kernels need IEEE arithmetic: no -fassociative-math, -funsafe-math-optimizations"
#endif
#if defined(__RECIPROCAL_MATH__)
#error "unit_scaling kernels need IEEE arithmetic: no -freciprocal-math"
#endif
#if defined(__NO_SIGNED_ZEROS__)
#error "unit_scaling kernels need IEEE arithmetic: no -fno-signed-zeros"
#endif
