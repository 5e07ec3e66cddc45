// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the namespace of the library, which is another one for each target.
///
/// A program may compile one file for AVX-512 and another one for any x86-64. If both define an
/// inline function of the same name, the linker keeps one of the two for both files. Results would
/// then depend on the order of linking, and code for any x86-64 could run AVX-512 instructions. So
/// the library is in an inline namespace. Its name holds one digit for each property of the target
/// that the compiler may rely on by itself: instruction sets, and freedoms of floating-point
/// arithmetic. Instructions that only their intrinsics reach, as those of cryptography, are not
/// among them unless the library uses them. tests/target/ compares the names of processors.
///
/// Users write `unit_scaling::Array` as if there were no such namespace. A file that passes a type
/// of the library to a file with another target does not link. Who adds to the library opens
/// `namespace UNIT_SCALING_NAMESPACE`.
///
/// Inline functions of the standard library on its own types, as those of `std::vector<float>`, are
/// still one for all files, which no library but the standard one can change.
#pragma once

/// 1 if the compiler predefines `macro` as 1, else 0.
#define UNIT_SCALING_IS_SET(macro) UNIT_SCALING_IS_SET_EXPANDED(macro)
#define UNIT_SCALING_IS_SET_EXPANDED(value) \
  UNIT_SCALING_SECOND(UNIT_SCALING_BEFORE_SECOND_##value 1, 0, )
#define UNIT_SCALING_BEFORE_SECOND_1 0,
#define UNIT_SCALING_SECOND(...) UNIT_SCALING_SECOND_EXPANDED(__VA_ARGS__)
#define UNIT_SCALING_SECOND_EXPANDED(first, second, ...) second

/// Four such bits as one hexadecimal digit.
#define UNIT_SCALING_DIGIT(a, b, c, d)                                                 \
  UNIT_SCALING_JOIN(UNIT_SCALING_HEX_, UNIT_SCALING_IS_SET(a), UNIT_SCALING_IS_SET(b), \
                    UNIT_SCALING_IS_SET(c), UNIT_SCALING_IS_SET(d), , , , )
#define UNIT_SCALING_HEX_0000 0
#define UNIT_SCALING_HEX_0001 1
#define UNIT_SCALING_HEX_0010 2
#define UNIT_SCALING_HEX_0011 3
#define UNIT_SCALING_HEX_0100 4
#define UNIT_SCALING_HEX_0101 5
#define UNIT_SCALING_HEX_0110 6
#define UNIT_SCALING_HEX_0111 7
#define UNIT_SCALING_HEX_1000 8
#define UNIT_SCALING_HEX_1001 9
#define UNIT_SCALING_HEX_1010 a
#define UNIT_SCALING_HEX_1011 b
#define UNIT_SCALING_HEX_1100 c
#define UNIT_SCALING_HEX_1101 d
#define UNIT_SCALING_HEX_1110 e
#define UNIT_SCALING_HEX_1111 f

#define UNIT_SCALING_JOIN(a, b, c, d, e, f, g, h, i) \
  UNIT_SCALING_JOIN_EXPANDED(a, b, c, d, e, f, g, h, i)
#define UNIT_SCALING_JOIN_EXPANDED(a, b, c, d, e, f, g, h, i) a##b##c##d##e##f##g##h##i

#if defined(__x86_64__) || defined(__i386__)
#define UNIT_SCALING_TARGET UNIT_SCALING_JOIN(UNIT_SCALING_X86, UNIT_SCALING_X86_MORE, , , , , , , )
#define UNIT_SCALING_X86                                                                    \
  UNIT_SCALING_JOIN(                                                                        \
      x86_, UNIT_SCALING_DIGIT(__SSE3__, __SSSE3__, __SSE4_1__, __SSE4_2__),                \
      UNIT_SCALING_DIGIT(__POPCNT__, __LZCNT__, __BMI__, __BMI2__),                         \
      UNIT_SCALING_DIGIT(__AVX__, __AVX2__, __FMA__, __F16C__),                             \
      UNIT_SCALING_DIGIT(__MOVBE__, __AVXVNNI__, __FMA4__, __XOP__),                        \
      UNIT_SCALING_DIGIT(__AVX512F__, __AVX512BW__, __AVX512DQ__, __AVX512VL__),            \
      UNIT_SCALING_DIGIT(__AVX512CD__, __AVX512IFMA__, __AVX512VBMI__, __AVX512VBMI2__),    \
      UNIT_SCALING_DIGIT(__AVX512VNNI__, __AVX512BITALG__, __AVX512BF16__, __AVX512FP16__), \
      UNIT_SCALING_DIGIT(__AVX512VPOPCNTDQ__, __AMX_TILE__, __AMXTILE__, __GFNI__))
// Where arithmetic is done (-mfpmath), what AMD has, what loops are turned into (prefetches, CRCs),
// and what came after AVX-512.
#define UNIT_SCALING_X86_MORE                                                                     \
  UNIT_SCALING_JOIN(                                                                              \
      _, UNIT_SCALING_DIGIT(__SSE__, __SSE2__, __SSE_MATH__, __SSE2_MATH__),                      \
      UNIT_SCALING_DIGIT(__SSE4A__, __TBM__, __LAHF_SAHF__, __GCC_HAVE_SYNC_COMPARE_AND_SWAP_16), \
      UNIT_SCALING_DIGIT(__PRFCHW__, __PREFETCHWT1__, __CRC32__, __PCLMUL__),                     \
      UNIT_SCALING_DIGIT(__3dNOW__, __MMX__, __ADX__, __AVX512ER__),                              \
      UNIT_SCALING_DIGIT(__AVXIFMA__, __AVXVNNIINT8__, __AVXVNNIINT16__, __AVXNECONVERT__),       \
      UNIT_SCALING_DIGIT(__APX_F__, __AVX10_1__, __AVX10_2__, __EVEX512__), , )
#elif defined(__aarch64__) || defined(__arm__)
#define UNIT_SCALING_TARGET \
  UNIT_SCALING_JOIN(UNIT_SCALING_ARM, UNIT_SCALING_ARM_NUMBERS, , , , , , , )
#define UNIT_SCALING_ARM                                                                   \
  UNIT_SCALING_JOIN(                                                                       \
      arm_,                                                                                \
      UNIT_SCALING_DIGIT(__ARM_NEON, __ARM_FEATURE_FMA, __ARM_FEATURE_DOTPROD,             \
                         __ARM_FEATURE_MATMUL_INT8),                                       \
      UNIT_SCALING_DIGIT(__ARM_FEATURE_SVE, __ARM_FEATURE_SVE2, __ARM_FEATURE_BF16,        \
                         __ARM_FEATURE_FP16_VECTOR_ARITHMETIC),                            \
      UNIT_SCALING_DIGIT(__ARM_FEATURE_FP16_SCALAR_ARITHMETIC, __ARM_FEATURE_FP16_FML,     \
                         __ARM_FEATURE_COMPLEX, __ARM_FEATURE_FRINT),                      \
      UNIT_SCALING_DIGIT(__ARM_FEATURE_ATOMICS, __ARM_FEATURE_QRDMX, __ARM_FEATURE_CRC32,  \
                         __ARM_FEATURE_JCVT),                                              \
      UNIT_SCALING_DIGIT(__ARM_FEATURE_SHA3, __ARM_FEATURE_MOPS, __ARM_FEATURE_CSSC,       \
                         __ARM_FEATURE_IDIV),                                              \
      UNIT_SCALING_DIGIT(__ARM_FEATURE_SME, __ARM_FEATURE_SVE2p1, __ARM_FEATURE_UNALIGNED, \
                         __ARM_FEATURE_DSP),                                               \
      , )
// Three whose values count; one that is not defined stands for itself.
#define UNIT_SCALING_ARM_NUMBERS \
  UNIT_SCALING_JOIN(_, __ARM_ARCH, _, __ARM_FEATURE_SVE_BITS, _, __ARM_FEATURE_RCPC, , , )
#else
#define UNIT_SCALING_TARGET other
#endif

/// Freedoms of floating-point arithmetic, as -ffast-math and its parts give, and the one that
/// -frounding-math takes.
#define UNIT_SCALING_ARITHMETIC                                                                   \
  UNIT_SCALING_JOIN(_math_,                                                                       \
                    UNIT_SCALING_DIGIT(__FAST_MATH__, __FINITE_MATH_ONLY__, __ASSOCIATIVE_MATH__, \
                                       __RECIPROCAL_MATH__),                                      \
                    UNIT_SCALING_IS_SET(__NO_SIGNED_ZEROS__),                                     \
                    UNIT_SCALING_IS_SET(__ROUNDING_MATH__), , , , , )

/// Between these two, Clang keeps the rules of IEEE 754 whatever its options say: no sum is
/// reassociated, no quotient becomes a product with a reciprocal, and zeros keep their signs. No
/// macro tells Clang's -fassociative-math or -funsafe-math-optimizations, so nothing can refuse
/// them. GCC has macros for its freedoms, and no such pragma; see kernels/ieee_arithmetic.hpp.
#if defined(__clang__)
#define UNIT_SCALING_IEEE_BEGIN _Pragma("float_control(precise, on, push)")
#define UNIT_SCALING_IEEE_END _Pragma("float_control(pop)")
#else
#define UNIT_SCALING_IEEE_BEGIN
#define UNIT_SCALING_IEEE_END
#endif

/// What to open to add to the library: `namespace UNIT_SCALING_NAMESPACE::ops { … }`.
#define UNIT_SCALING_NAMESPACE \
  unit_scaling::inline UNIT_SCALING_JOIN(UNIT_SCALING_TARGET, UNIT_SCALING_ARITHMETIC, , , , , , , )
