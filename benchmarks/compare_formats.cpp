// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Bulk conversions of every format, nearest and saturating, on one thread.
///
/// In the second-level cache (64 Ki elements) the instructions bind, and the peers are the one
/// conversion that the processor has instructions for, between float and half, of as many elements:
/// Eigen's cast, and a bare loop over the instructions, for Eigen 3.4 casts to half one element at
/// a time. Beyond all caches (32 Mi elements) memory binds, and the peer is a copy that
/// reads and writes as many bytes, in total, as the conversion does. The copy's rate is given in
/// elements of the conversion.

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "all_formats.hpp"
#include "comparison.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/convert.hpp"

namespace {

using unit_scaling::Array;
using unit_scaling_benchmarks::keep;
using unit_scaling_benchmarks::Sides;

constexpr std::size_t in_cache = std::size_t{64} << 10;
constexpr std::size_t in_memory = std::size_t{32} << 20;

using Floats = Eigen::Array<float, Eigen::Dynamic, 1>;
using Halves = Eigen::Array<Eigen::half, Eigen::Dynamic, 1>;

/// Unit normal numbers. 64 Ki of them, repeated: no conversion here depends on what came before.
Array<float> unit_normal_numbers(std::size_t count) {
  static const std::vector<float> numbers = [] {
    std::vector<float> result(in_cache);
    const unit_scaling::Random random(1);
    for (std::size_t i = 0; i < result.size(); ++i)
      result[i] = static_cast<float>(random.normal(i));
    return result;
  }();
  Array<float> result({count});
  float* target = result.mutable_data();
  for (std::size_t i = 0; i < count; ++i) target[i] = numbers[i % numbers.size()];
  return result;
}

/// Numbers and their codes, in memory that lies as the library's arrays do.
template <class T> struct Conversion {
  Array<float> numbers;
  Array<T> codes;

  explicit Conversion(std::size_t count) : numbers(unit_normal_numbers(count)), codes({count}) {
    encode();
  }
  void encode() {
    unit_scaling::encode(std::span<const float>(numbers.data(), numbers.size()),
                         std::span<T>(codes.mutable_data(), codes.size()),
                         unit_scaling::Overflow::saturate);
    keep(codes.mutable_data());
  }
  void decode() {
    unit_scaling::decode(std::span<const T>(codes.data(), codes.size()),
                         std::span<float>(numbers.mutable_data(), numbers.size()));
    keep(numbers.mutable_data());
  }
};

/// The same with Eigen's half. Through maps that are local to a call, which suits the compiler
/// best: no store can then change their sizes and pointers.
struct HalfCast {
  Array<float> numbers;
  Array<Eigen::half> codes;

  explicit HalfCast(std::size_t count) : numbers(unit_normal_numbers(count)), codes({count}) {
    encode();
  }
  void encode() {
    const auto count = static_cast<Eigen::Index>(numbers.size());
    const Eigen::Map<const Floats> from(numbers.data(), count);
    Eigen::Map<Halves> to(codes.mutable_data(), count);
    to = from.cast<Eigen::half>();
    keep(to.data());
  }
  void decode() {
    const auto count = static_cast<Eigen::Index>(numbers.size());
    const Eigen::Map<const Halves> from(codes.data(), count);
    Eigen::Map<Floats> to(numbers.mutable_data(), count);
    to = from.cast<float>();
    keep(to.data());
  }
};

#if defined(__F16C__)
/// The instructions themselves, eight elements at a time or sixteen.
struct HalfInstructions {
  Array<float> numbers;
  Array<std::uint16_t> codes;
#if defined(__AVX512F__)
  // With a mask of ones, for GCC 12 warns of the undefined operand inside the forms without a mask.
  static constexpr __mmask16 all_lanes = 0xffff;
#endif

  explicit HalfInstructions(std::size_t count)
      : numbers(unit_normal_numbers(count)), codes({count}) {
    encode();
  }
  void encode() {
    const float* from = numbers.data();
    std::uint16_t* to = codes.mutable_data();
    const std::size_t count = numbers.size();
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
#if defined(__AVX512F__)
    for (std::size_t i = 0; i + 16 <= count; i += 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i),
                          _mm512_maskz_cvtps_ph(all_lanes, _mm512_loadu_ps(from + i), nearest));
    }
#else
    for (std::size_t i = 0; i + 8 <= count; i += 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(from + i), nearest));
    }
#endif
    keep(to);
  }
  void decode() {
    const std::uint16_t* from = codes.data();
    float* to = numbers.mutable_data();
    const std::size_t count = numbers.size();
#if defined(__AVX512F__)
    for (std::size_t i = 0; i + 16 <= count; i += 16) {
      const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
      _mm512_storeu_ps(to + i, _mm512_maskz_cvtph_ps(all_lanes, half));
    }
#else
    for (std::size_t i = 0; i + 8 <= count; i += 8) {
      const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
    }
#endif
    keep(to);
  }
};
#endif

/// A copy that reads and writes `bytes` in total.
struct Copy {
  Array<float> from;
  Array<float> to;

  explicit Copy(std::size_t bytes)
      : from(unit_normal_numbers(bytes / 2 / sizeof(float))), to(from.shape()) {
    copy();
  }
  void copy() {
    std::memcpy(to.mutable_data(), from.data(), from.size() * sizeof(float));
    keep(to.mutable_data());
  }
};

enum class Direction { encode, decode };

/// One direction of a conversion, as a call.
template <class Conversion>
std::function<void()> call(const std::shared_ptr<Conversion>& conversion, Direction direction) {
  if (direction == Direction::encode) return [conversion] { conversion->encode(); };
  return [conversion] { conversion->decode(); };
}

template <class T, class Peer> Sides against_cast(Direction direction) {
  return {.ours = call(std::make_shared<Conversion<T>>(in_cache), direction),
          .peer = call(std::make_shared<Peer>(in_cache), direction)};
}

template <class T> Sides against_copy(Direction direction) {
  const auto copy = std::make_shared<Copy>(in_memory * (sizeof(float) + sizeof(T)));
  return {.ours = call(std::make_shared<Conversion<T>>(in_memory), direction),
          .peer = [copy] { copy->copy(); }};
}

template <class T> void add(Direction direction) {
  using unit_scaling_benchmarks::add_comparison;
  const bool encodes = direction == Direction::encode;
  const std::string name =
      (encodes ? "encode_" : "decode_") + std::string(unit_scaling::storage_name<T>);
  add_comparison({.name = name + "_64Ki",
                  .peer_name = encodes ? "Eigen float to half" : "Eigen half to float",
                  .unit = "Gelem/s",
                  .work_per_call = static_cast<double>(in_cache) * 1e-9,
                  .prepare = [direction] { return against_cast<T, HalfCast>(direction); }});
#if defined(__F16C__)
  add_comparison({.name = name + "_64Ki",
                  .peer_name = encodes ? "vcvtps2ph" : "vcvtph2ps",
                  .unit = "Gelem/s",
                  .work_per_call = static_cast<double>(in_cache) * 1e-9,
                  .prepare = [direction] { return against_cast<T, HalfInstructions>(direction); }});
#endif
  add_comparison({.name = name + "_32Mi",
                  .peer_name = "memcpy",
                  .unit = "Gelem/s",
                  .work_per_call = static_cast<double>(in_memory) * 1e-9,
                  .prepare = [direction] { return against_copy<T>(direction); }});
}

[[maybe_unused]] const bool added = [] {
  unit_scaling_benchmarks::for_each_format([]<class T>(std::type_identity<T>) {
    add<T>(Direction::encode);
    add<T>(Direction::decode);
  });
  return true;
}();

}  // namespace
