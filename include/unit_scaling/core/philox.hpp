// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the Philox generator, for one block of random words and for sixteen at once.
/// @see Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

inline constexpr int philox_rounds = 10;
inline constexpr std::array<std::uint32_t, 2> philox_multiplier{0xD2511F53, 0xCD9E8D57};
inline constexpr std::array<std::uint32_t, 2> philox_weyl{0x9E3779B9, 0xBB67AE85};

}  // namespace detail

/// Philox 4x32-10: a block of four 32-bit words as a pure function of a counter and a key.
[[nodiscard]] constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                            std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < detail::philox_rounds; ++round) {
    const std::uint64_t a = std::uint64_t{detail::philox_multiplier[0]} * counter[0];
    const std::uint64_t b = std::uint64_t{detail::philox_multiplier[1]} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += detail::philox_weyl[0];
    key[1] += detail::philox_weyl[1];
  }
  return counter;
}

namespace detail {

// One register of 64-bit lanes.
#if defined(__AVX512F__)
using WideRegister = std::uint64_t __attribute__((vector_size(64)));
#elif defined(__AVX2__)
using WideRegister = std::uint64_t __attribute__((vector_size(32)));
#else
using WideRegister = std::uint64_t __attribute__((vector_size(16)));
#endif
inline constexpr std::size_t wide_lanes = sizeof(WideRegister) / sizeof(std::uint64_t);

/// Products of the lower halves of lanes and a number.
[[nodiscard, gnu::always_inline]] inline WideRegister multiply_lower_halves(
    WideRegister left, std::uint32_t right) noexcept {
#if defined(__AVX512F__)
  return reinterpret_cast<WideRegister>(_mm512_maskz_mul_epu32(
      0xff, reinterpret_cast<__m512i>(left), _mm512_set1_epi64(static_cast<long long>(right))));
#elif defined(__AVX2__)
  return reinterpret_cast<WideRegister>(_mm256_mul_epu32(
      reinterpret_cast<__m256i>(left), _mm256_set1_epi64x(static_cast<long long>(right))));
#else
  return (left & 0xffff'ffffU) * right;
#endif
}

/// A round on the lower halves of lanes. The upper halves hold what is left of products; nothing
/// reads them, which saves taking them away.
[[gnu::always_inline]] inline void philox_round(std::array<WideRegister, 4>& counter,
                                                const std::array<std::uint32_t, 2>& key) noexcept {
  const WideRegister a = multiply_lower_halves(counter[0], philox_multiplier[0]);
  const WideRegister b = multiply_lower_halves(counter[2], philox_multiplier[1]);
  counter = {(b >> 32) ^ counter[1] ^ key[0], b, (a >> 32) ^ counter[3] ^ key[1], a};
}

}  // namespace detail

/// Sixteen blocks at once: lane l of word j is
/// `philox({lower half of first + l, upper half of first, label[0], label[1]}, key)[j]`.
/// @pre first is a multiple of sixteen, so that its lower half carries nothing over.
[[nodiscard]] inline std::array<uint32x16, 4> philox_lanes(
    std::uint64_t first, const std::array<std::uint32_t, 2>& label,
    std::array<std::uint32_t, 2> key) {
  using detail::wide_lanes;
  using detail::WideRegister;
  std::array<uint32x16, 4> words;
  // The even blocks and the odd ones, which at the end fill each other's upper halves.
  for (std::size_t part = 0; part < lanes / 2; part += wide_lanes) {
    WideRegister index;
    for (std::size_t lane = 0; lane < wide_lanes; ++lane) index[lane] = 2 * (part + lane);
    const WideRegister zero{};
    const WideRegister lower = index + static_cast<std::uint32_t>(first);
    const std::array<WideRegister, 4> start{lower, zero + (first >> 32), zero + label[0],
                                            zero + label[1]};
    std::array<WideRegister, 4> even = start;
    std::array<WideRegister, 4> odd = start;
    odd[0] += 1;
    std::array<std::uint32_t, 2> round_key = key;
    for (int round = 0; round < detail::philox_rounds; ++round) {
      detail::philox_round(even, round_key);
      detail::philox_round(odd, round_key);
      round_key[0] += detail::philox_weyl[0];
      round_key[1] += detail::philox_weyl[1];
    }
    for (std::size_t word = 0; word < words.size(); ++word) {
      const WideRegister both = (even[word] & 0xffff'ffffU) | (odd[word] << 32);
      std::memcpy(reinterpret_cast<char*>(&words[word]) + part * sizeof(std::uint64_t), &both,
                  sizeof(both));
    }
  }
  return words;
}

}  // namespace UNIT_SCALING_NAMESPACE
