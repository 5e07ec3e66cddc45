// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Where Rounding::stochastic takes its random bits from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Random bits for rounding the elements of one tensor: a pure function of the random stream, keyed
/// by seed, step and tensor, and of the element. It has no state, so the bits depend neither on the
/// number of threads nor on how a tensor is cut into calls.
///
/// With b bits, a number at the fraction f of the way from its neighbour nearer to zero to the
/// other one goes to the other with probability f rounded to a multiple of 2^-b, half up: for f a
/// multiple of 2^-b the mean over draws is the number itself, otherwise it errs by at most 2^-(b+1)
/// of the distance. A binary32 number has 20 bits beyond float8_e4m3fn, 21 beyond float8_e5m2, 13
/// beyond float16 and 16 beyond bfloat16, more where the result is subnormal; the mean is exact if
/// b is no fewer (and no further than 2^-31 off for numbers so small that 32 bits are too few).
/// @see Fitzgibbon and Felix 2025, "On stochastic rounding with few random bits" (there: SRF).
class StochasticRounding {
 public:
  /// @param random a stream of its own for each step and tensor, best of RandomStream::rounding.
  /// @param bits random bits for each element, 1 to 32. One random word serves one element, two if
  ///        they take 16 bits or fewer, four if 8 or fewer.
  /// @throws std::invalid_argument for any other number of bits.
  constexpr explicit StochasticRounding(const Random& random, int bits = 16)
      : random_(random), bits_(checked(bits)) {}

  [[nodiscard]] constexpr int bits() const noexcept { return bits_; }

  /// The bits of an element, uppermost in the word, followed by a half: what
  /// Minifloat::from_float() takes.
  [[nodiscard]] constexpr std::uint32_t word(std::uint64_t element) const {
    const std::uint64_t within = element % group_size();
    const std::uint64_t vector = within / lanes;
    const std::uint64_t block = element / group_size() * lanes + within % lanes;
    const std::uint32_t word = random_.block(block)[vector / elements_per_word()];
    const std::uint64_t index = vector % elements_per_word();
    const auto shift = static_cast<int>(32 - 32 / elements_per_word() * (index + 1));
    return ((word << shift) & mask_) | half_;
  }

  /// Elements that share a group of sixteen blocks of random words.
  [[nodiscard]] constexpr std::size_t group_size() const noexcept {
    return 4 * elements_per_word() * lanes;
  }

  /// Calls `body(vector, words)` for each vector of a group, `words` being those of the sixteen
  /// elements from `first + 16 * vector`.
  /// @pre first is a multiple of group_size().
  template <class Body>
  [[gnu::always_inline]] void for_group(std::uint64_t first, const Body& body) const {
    const std::array<uint32x16, 4> words = random_.blocks(first / group_size() * lanes);
    switch (elements_per_word()) {
      case 4:
        return for_parts<4>(words, body);
      case 2:
        return for_parts<2>(words, body);
      default:
        return for_parts<1>(words, body);
    }
  }

 private:
  /// Before anything is shifted by them.
  [[nodiscard]] static constexpr int checked(int bits) {
    if (bits >= 1 && bits <= 32) return bits;
    throw std::invalid_argument("StochasticRounding: expected 1 to 32 random bits, got " +
                                std::to_string(bits));
  }

  /// The vectors of a group, `parts` from each word: a number known to the compiler.
  template <std::size_t parts, class Body>
  [[gnu::always_inline]] void for_parts(const std::array<uint32x16, 4>& words,
                                        const Body& body) const {
    const std::uint32_t mask = mask_;
    const std::uint32_t half = half_;
    for (std::size_t j = 0; j < words.size(); ++j) {
      for (std::size_t index = 0; index < parts; ++index) {
        const int shift = 32 - static_cast<int>(32 / parts * (index + 1));
        body(parts * j + index, ((words[j] << shift) & mask) | half);
      }
    }
  }

  /// How many elements one random word serves.
  [[nodiscard]] constexpr std::size_t elements_per_word() const noexcept {
    return bits_ <= 8 ? 4 : (bits_ <= 16 ? 2 : 1);
  }

  Random random_;
  int bits_;
  std::uint32_t mask_ = 0xffff'ffffU << (32 - bits_);
  std::uint32_t half_ = bits_ == 32 ? 0U : 1U << (31 - bits_);
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
