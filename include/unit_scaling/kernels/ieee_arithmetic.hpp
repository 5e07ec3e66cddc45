// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: refuses compilers told to break the rules of IEEE 754.
///
/// exp and the functions made of it split their argument by adding a large number and taking it off
/// again, which reassociation undoes: under -ffast-math gelu(1) is 3 % off, and a softmax tens of
/// per cent. Checks for NaN and infinity may vanish, and subnormal numbers become zero. Conversions
/// in formats/ hold there nevertheless, and do not include this.
#pragma once

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "unit_scaling kernels need IEEE arithmetic: no -ffast-math, -Ofast, -ffinite-math-only"
#endif
