// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Conversions between a storage type and binary32, sixteen elements at a time:
/// building blocks for kernels, and conversions of whole spans.
///
/// Every conversion gives, to the bit, what the scalar conversions of `Minifloat` give; that holds
/// also for the elements of a tail shorter than sixteen, for the instructions of the processor, and
/// in every mode of the thread (core/arithmetic.hpp).
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/minifloat.hpp"
#include "unit_scaling/formats/rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A storage type that the vector conversions take: binary32 or any `Minifloat`.
template <class T>
concept VectorStorage = std::same_as<T, float> || AnyMinifloat<T>;

namespace detail {

/// Vector of codes of type T.
template <AnyMinifloat T> using CodeLanes = std::conditional_t<sizeof(T) == 1, uint8x16, uint16x16>;

/// Codes of one or two bytes, each in a lane.
template <AnyMinifloat T>
[[nodiscard, gnu::always_inline]] inline uint32x16 load_codes(const T* from) noexcept {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (is_wide<uint32x16>) {
    // Each half from memory: GCC 12 would load all codes and move half of them.
    const auto half = [](const T* first) __attribute__((always_inline)) {
      __m128i codes{};
      std::memcpy(&codes, first, lanes / 2 * sizeof(T));
      return reinterpret_cast<half_t<uint32x16>>(sizeof(T) == 1 ? _mm256_cvtepu8_epi32(codes)
                                                                : _mm256_cvtepu16_epi32(codes));
    };
    return {half(from), half(from + lanes / 2)};
  }
#endif
  CodeLanes<T> codes;
  std::memcpy(&codes, from, sizeof(codes));
  return convert_to<uint32x16>(codes);
}

/// Writes codes, of which each is in a lane, in one or two bytes.
template <AnyMinifloat T>
[[gnu::always_inline]] inline void store_codes(uint32x16 lanes_of_codes, T* to) noexcept {
  // Through void: a class with a constructor is still trivially copyable.
  const auto codes = convert_to<CodeLanes<T>>(lanes_of_codes);
  std::memcpy(static_cast<void*>(to), &codes, sizeof(codes));
}

#if defined(__F16C__)
// The instructions ignore FTZ and DAZ.

/// Bits of binary32 numbers of binary16 codes.
template <SimdVector U>
[[nodiscard, gnu::always_inline]] inline U decode_float16(const float16* from) noexcept {
#if defined(__AVX512F__)
  if constexpr (std::same_as<U, uint32x16>) {
    __m256i codes;
    std::memcpy(&codes, from, sizeof(codes));
    // With a mask of ones, for GCC 12 warns of the undefined operand inside the form without a
    // mask.
    return reinterpret_cast<U>(_mm512_maskz_cvtph_ps(0xffff, codes));
  }
#endif
  if constexpr (is_wide<U> || sizeof(U) > sizeof(__m256)) {
    return join(decode_float16<half_t<U>>(from),
                decode_float16<half_t<U>>(from + lane_count<U> / 2));
  } else {
    __m128i codes{};
    std::memcpy(&codes, from, lane_count<U> * sizeof(*from));
    if constexpr (sizeof(U) == sizeof(__m256)) return reinterpret_cast<U>(_mm256_cvtph_ps(codes));
    if constexpr (sizeof(U) == sizeof(__m128)) return reinterpret_cast<U>(_mm_cvtph_ps(codes));
  }
}

/// One less where a binary16 code is that of an infinity: the code of the largest number.
[[nodiscard, gnu::always_inline]] inline __m128i saturate_float16(__m128i codes) noexcept {
  const __m128i magnitude = _mm_and_si128(codes, _mm_set1_epi16(0x7fff));
  return _mm_add_epi16(codes, _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7c00)));
}

/// Writes the binary16 codes of binary32 numbers. The instruction makes an infinity of what lies
/// beyond the largest finite number.
template <Overflow overflow, SimdVector U>
[[gnu::always_inline]] inline void encode_float16(U bits, float16* to) noexcept {
  constexpr bool saturates = overflow == Overflow::saturate;
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (std::same_as<U, uint32x16>) {
    __m256i codes = _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(bits),
                                          _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if constexpr (saturates) {
      const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7fff));
      codes = _mm256_add_epi16(codes, _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7c00)));
    }
    std::memcpy(static_cast<void*>(to), &codes, sizeof(codes));
    return;
  }
#endif
  if constexpr (is_wide<U> || sizeof(U) > sizeof(__m256)) {
    encode_float16<overflow>(lower_half(bits), to);
    encode_float16<overflow>(upper_half(bits), to + lane_count<U> / 2);
  } else {
    __m128i codes;
    if constexpr (sizeof(U) == sizeof(__m256)) {
      codes = _mm256_cvtps_ph(reinterpret_cast<__m256>(bits), _MM_FROUND_TO_NEAREST_INT);
    } else {
      codes = _mm_cvtps_ph(reinterpret_cast<__m128>(bits), _MM_FROUND_TO_NEAREST_INT);
    }
    if constexpr (saturates) codes = saturate_float16(codes);
    std::memcpy(static_cast<void*>(to), &codes, lane_count<U> * sizeof(*to));
  }
}
#endif

/// Bits of the binary32 numbers that consecutive codes stand for.
template <AnyMinifloat T>
[[nodiscard, gnu::always_inline]] inline uint32x16 decode_vector(const T* from) noexcept {
#if defined(__F16C__)
  if constexpr (std::same_as<T, float16>) return decode_float16<uint32x16>(from);
#endif
  return decode_lanes(T::format, load_codes(from));
}

/// Whether encode_vector() gives the same in every mode of the thread.
template <AnyMinifloat T>
inline constexpr bool encodes_in_every_mode =
#if defined(__F16C__)
    std::same_as<T, float16> ||
#endif
    sums_name_their_mode || T::format.has_binary32_exponent();

/// Writes the codes of binary32 numbers, rounded to nearest, ties to even.
/// @pre The thread rounds so, or encodes_in_every_mode<T>.
template <Overflow overflow, AnyMinifloat T>
[[gnu::always_inline]] inline void encode_vector(uint32x16 bits, T* to) noexcept {
#if defined(__F16C__)
  if constexpr (std::same_as<T, float16>) return encode_float16<overflow>(bits, to);
#endif
  store_codes(encode_lanes(T::format, overflow, Rounding::nearest_even, bits), to);
}

/// As encode_vector(), one by one, in every mode of the thread.
template <Overflow overflow, AnyMinifloat T>
[[gnu::noinline, gnu::cold]] void encode_each(const std::uint32_t* bits, std::size_t count,
                                              T* to) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    to[i] = T::from_float(std::bit_cast<float>(bits[i]), overflow);
  }
}

[[noreturn]] inline void throw_size_mismatch(std::string_view function, std::size_t in,
                                             std::size_t out) {
  throw std::invalid_argument(std::string(function) + ": the input has " + std::to_string(in) +
                              " elements and the output " + std::to_string(out));
}

inline void check_sizes(std::string_view function, std::size_t in, std::size_t out) {
  if (in != out) throw_size_mismatch(function, in, out);
}

}  // namespace detail

/// Sixteen consecutive elements, as binary32 numbers, exactly.
template <VectorStorage T>
[[nodiscard, gnu::always_inline]] inline float32x16 load_float(const T* from) noexcept {
  if constexpr (std::same_as<T, float>) {
    return load<float32x16>(from);
  } else {
    return bit_cast_to<float32x16>(detail::decode_vector(from));
  }
}

/// Rounds sixteen binary32 numbers to the storage type, to nearest, ties to even, and writes them.
/// Binary32 storage takes them unchanged, whatever `overflow` says.
template <Overflow overflow, VectorStorage T>
[[gnu::always_inline]] inline void store_float(const float32x16& values, T* to) noexcept {
  if constexpr (std::same_as<T, float>) {
    store(values, to);
  } else {
    const auto bits = bit_cast_to<uint32x16>(values);
    if constexpr (!detail::encodes_in_every_mode<T>) {
      if (!detail::rounds_to_nearest()) [[unlikely]] {
        std::uint32_t bits_of[lanes];
        store(bits, bits_of);
        return detail::encode_each<overflow>(bits_of, lanes, to);
      }
    }
    detail::encode_vector<overflow>(bits, to);
  }
}

/// The first `count` of sixteen elements, followed by positive zeros. Reads `count` elements. Not
/// inlined, nor is the next one: behind each loop over whole vectors they would be as much again to
/// compile.
/// @pre count <= lanes
template <VectorStorage T>
[[nodiscard, gnu::noinline]] float32x16 load_float_partial(const T* from,
                                                           std::size_t count) noexcept {
  T buffer[lanes] = {};
  for (std::size_t lane = 0; lane < count; ++lane) buffer[lane] = from[lane];
  return load_float(buffer);
}

/// Writes the first `count` of sixteen elements, converted as store_float() does. Writes `count`
/// elements.
/// @pre count <= lanes
template <Overflow overflow, VectorStorage T>
[[gnu::noinline]] void store_float_partial(const float32x16& values, T* to,
                                           std::size_t count) noexcept {
  T buffer[lanes];
  store_float<overflow>(values, buffer);
  for (std::size_t lane = 0; lane < count; ++lane) to[lane] = buffer[lane];
}

namespace detail {

/// Elements of a piece of work for a thread; a multiple of every StochasticRounding::group_size().
inline constexpr std::size_t convert_grain = std::size_t{1} << 16;

/// From so many bytes on, read and written, results go straight to memory: no cache would keep
/// them, and a line that is written whole need not be read first.
inline constexpr std::size_t streaming_bytes = std::size_t{1} << 25;
/// Bytes of a line of the caches.
inline constexpr std::size_t line_bytes = 64;

/// Writes a line past the caches. Call finish_streaming() before another thread reads it.
/// @pre `to` is a multiple of line_bytes.
[[gnu::always_inline]] inline void stream_line(const void* from, void* to) noexcept {
#if defined(__AVX512F__)
  __m512i line;
  std::memcpy(&line, from, sizeof(line));
  _mm512_stream_si512(static_cast<__m512i*>(to), line);
#elif defined(__AVX2__)
  __m256i halves[2];
  std::memcpy(halves, from, sizeof(halves));
  _mm256_stream_si256(static_cast<__m256i*>(to), halves[0]);
  _mm256_stream_si256(static_cast<__m256i*>(to) + 1, halves[1]);
#else
  std::memcpy(to, from, line_bytes);
#endif
}

/// Writes sixteen numbers of one, two or four bytes past the caches. Call finish_streaming() before
/// another thread reads them.
/// @pre `to` is a multiple of their size together.
template <class T>
[[gnu::always_inline]] inline void stream_sixteen(const void* from, T* to) noexcept {
  if constexpr (sizeof(T) == 4) {
    stream_line(from, to);
  } else {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 2) {
      __m256i half;
      std::memcpy(&half, from, sizeof(half));
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to), half);
    } else {
      __m128i quarter;
      std::memcpy(&quarter, from, sizeof(quarter));
      _mm_stream_si128(reinterpret_cast<__m128i*>(to), quarter);
    }
#else
    std::memcpy(static_cast<void*>(to), from, 16 * sizeof(T));
#endif
  }
}

/// Makes lines written past the caches visible to other threads.
inline void finish_streaming() noexcept {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

/// Calls `convert(i, to)` for every sixteen elements, which is to write those from i on at
/// `to`, and `convert_one(i)` for what is left over.
template <class Out, class Convert, class ConvertOne>
[[gnu::always_inline]] inline void for_bulk(std::size_t begin, std::size_t end, Out* out,
                                            bool streams, const Convert& convert,
                                            const ConvertOne& convert_one) {
  std::size_t i = begin;
  if (streams) {
    constexpr std::size_t line = line_bytes / sizeof(Out);
    for (; i < end && reinterpret_cast<std::uintptr_t>(out + i) % line_bytes != 0; ++i) {
      convert_one(i);
    }
    for (; i + line <= end; i += line) {
      alignas(line_bytes) Out buffer[line];
      for (std::size_t j = 0; j < line; j += lanes) convert(i + j, buffer + j);
      stream_line(buffer, out + i);
    }
    finish_streaming();
  }
  for (; i + lanes <= end; i += lanes) convert(i, out + i);
  for (; i < end; ++i) convert_one(i);
}

}  // namespace detail

/// Converts every element to binary32: exactly, save that binary64 rounds to nearest, ties to even.
/// The spans must not overlap.
/// @throws std::invalid_argument if the sizes differ.
template <Storage T> void decode(std::span<const T> in, std::span<float> out) {
  detail::check_sizes("unit_scaling::decode", in.size(), out.size());
  const bool streams = in.size_bytes() + out.size_bytes() >= detail::streaming_bytes;
  parallel_ranges(in.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    // Of its own: what the spans hold might change with every store, for all the compiler knows.
    const T* const from = in.data();
    float* const to = out.data();
    if constexpr (AnyMinifloat<T>) {
      detail::for_bulk(
          begin, end, to, streams,
          [=](std::size_t i, float* target) __attribute__((always_inline)) {
            const auto bits = detail::decode_vector(from + i);
            store(bit_cast_to<float32x16>(bits), target);
          },
          [=](std::size_t i) { to[i] = static_cast<float>(from[i]); });
    } else {
      for (std::size_t i = begin; i < end; ++i) to[i] = static_cast<float>(from[i]);
    }
  });
}

/// As above, of a span of codes that may be changed.
template <AnyMinifloat T> void decode(std::span<T> in, std::span<float> out) {
  decode(std::span<const T>(in), out);
}

/// Converts every element to binary64, exactly.
/// @throws std::invalid_argument if the sizes differ.
template <Storage T> void decode(std::span<const T> in, std::span<double> out) {
  detail::check_sizes("unit_scaling::decode", in.size(), out.size());
  parallel_ranges(in.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) out[i] = static_cast<double>(in[i]);
  });
}

namespace detail {

template <Overflow overflow, VectorStorage T>
void encode_span(std::span<const float> in, std::span<T> out) {
  const bool streams = in.size_bytes() + out.size_bytes() >= streaming_bytes;
  parallel_ranges(in.size(), convert_grain, [&](std::size_t begin, std::size_t end) {
    const float* const from = in.data();
    T* const to = out.data();
    if constexpr (AnyMinifloat<T>) {
      for_bulk(
          begin, end, to, streams,
          [=](std::size_t i, T * target) __attribute__((always_inline)) {
            encode_vector<overflow>(bit_cast_to<uint32x16>(load<float32x16>(from + i)), target);
          },
          [=](std::size_t i) { to[i] = T::from_float(from[i], overflow); });
    } else {
      std::copy(from + begin, from + end, to + begin);
    }
  });
}

}  // namespace detail

/// Rounds every element to the storage type, to nearest, ties to even; encode.hpp has the other
/// modes. Binary32 and binary64 storage take the numbers unchanged, whatever `overflow` says. The
/// spans must not overlap.
/// @throws std::invalid_argument if the sizes differ.
template <Storage T> void encode(std::span<const float> in, std::span<T> out, Overflow overflow) {
  detail::check_sizes("unit_scaling::encode", in.size(), out.size());
  if constexpr (std::same_as<T, double>) {
    for (std::size_t i = 0; i < in.size(); ++i) out[i] = static_cast<double>(in[i]);
  } else if (overflow == Overflow::saturate) {
    detail::encode_span<Overflow::saturate>(in, out);
  } else {
    detail::encode_span<Overflow::infinity_or_nan>(in, out);
  }
}

/// Rounds every number of another format once, to nearest, ties to even.
/// @throws std::invalid_argument if the sizes differ.
template <AnyMinifloat From, AnyMinifloat T>
void encode(std::span<const From> in, std::span<T> out, Overflow overflow) {
  detail::check_sizes("unit_scaling::encode", in.size(), out.size());
  parallel_ranges(in.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    float numbers[4 * lanes];
    for (std::size_t i = begin; i < end; i += std::size(numbers)) {
      const std::size_t count = std::min(end - i, std::size(numbers));
      const std::span<float> part(numbers, count);
      decode(in.subspan(i, count), part);
      encode(std::span<const float>(part), out.subspan(i, count), overflow);
    }
  });
}

/// Rounds every binary64 number to the storage type once, to nearest, ties to even; element by
/// element. Binary64 storage takes the numbers unchanged, and binary32 storage as the conversion of
/// the language does, whatever `overflow` says.
/// @throws std::invalid_argument if the sizes differ.
template <Storage T> void encode(std::span<const double> in, std::span<T> out, Overflow overflow) {
  detail::check_sizes("unit_scaling::encode", in.size(), out.size());
  parallel_ranges(in.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      if constexpr (AnyMinifloat<T>) {
        out[i] = T::from_double(in[i], overflow);
      } else {
        out[i] = static_cast<T>(in[i]);
      }
    }
  });
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
