// SPDX-License-Identifier: MIT
// Conversions in threads that were told to round otherwise (std::fesetround) or to take subnormal
// numbers for zero. What they must give is what they give in the default mode, which other tests
// check. All numbers come from and go to memory, so that compilers leave each computation in its
// mode.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "formats/format_cases.hpp"
#include "formats/rounding_modes.hpp"
#include "support/thread_arithmetic.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/math.hpp"
#include "unit_scaling/formats/mx_block.hpp"
#include "unit_scaling/formats/packed.hpp"
#include "unit_scaling/formats/text.hpp"

namespace rounding_mode_of_the_thread_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// What a computation gave: numbers as bits.
using Bits = std::vector<std::uint64_t>;

std::uint64_t bits_of(float number) { return std::bit_cast<std::uint32_t>(number); }
std::uint64_t bits_of(double number) { return std::bit_cast<std::uint64_t>(number); }
template <AnyMinifloat T> std::uint64_t bits_of(T number) { return number.bits(); }
std::uint64_t bits_of(MxInt8 number) { return number.bits(); }

/// Of a function's result: compilers and processors choose the sign of a NaN that it makes.
template <AnyMinifloat T> std::uint64_t bits_of_result(T number) {
  return isnan(number) ? std::numeric_limits<T>::quiet_NaN().bits() : number.bits();
}

template <class T> void append(Bits& bits, const std::vector<T>& numbers) {
  for (const T& number : numbers) bits.push_back(bits_of(number));
}

/// Expects the same bits of a computation in every mode, and the mode to stay.
void expect_same_in_every_mode(const std::function<Bits()>& compute) {
  const Bits expected = compute();
  ASSERT_FALSE(expected.empty());
  for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
    Bits actual;
    bool stayed = false;
    {
      const ThreadArithmetic arithmetic(mode);
      actual = compute();
      stayed = is_in_mode(mode);
    }
    EXPECT_TRUE(stayed) << mode.name;
    ASSERT_EQ(actual.size(), expected.size()) << mode.name;
    std::size_t different = 0;
    std::size_t first = expected.size();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (actual[i] == expected[i]) continue;
      ++different;
      first = std::min(first, i);
    }
    EXPECT_EQ(different, 0U) << mode.name << ": of " << expected.size() << " results; number "
                             << first << " is 0x" << std::hex
                             << (first < expected.size() ? actual[first] : 0) << ", not 0x"
                             << (first < expected.size() ? expected[first] : 0);
  }
}

/// The format of powers of two, of which there is no oracle.
struct E8m0fnu {
  using type = float8_e8m0fnu;
};

/// Numbers where a conversion is prone to go wrong, tiny ones, NaNs and random ones.
template <class Case> std::vector<float> critical_numbers() {
  std::vector<float> result;
  if constexpr (std::is_same_v<Case, E8m0fnu>) {
    for (int exponent = -149; exponent <= 127; ++exponent) {
      for (const float significand : {1.0F, 1.25F, 1.5F, 1.75F}) {
        const float number = std::ldexp(significand, exponent);
        result.insert(result.end(), {std::nextafter(number, 0.0F), number,
                                     std::nextafter(number, 2 * number), -number});
      }
    }
  } else {
    // Of formats of two bytes a sample: a stride prime to the period of the list.
    const std::vector<float> all = critical_floats(FormatOracle(Case::layout()));
    const std::size_t stride = all.size() > 20'000 ? 53 : 1;
    for (std::size_t i = 0; i < all.size(); i += stride) result.push_back(all[i]);
  }
  result.insert(result.end(), {0.0F, -0.0F, 1e-30F, -1e-30F, 1e-45F, -1e-45F});
  for (const std::uint32_t bits : nan_bits()) result.push_back(std::bit_cast<float>(bits));
  RandomBits random;
  for (int i = 0; i < 2048; ++i) result.push_back(std::bit_cast<float>(random()));
  // About the numbers of the format, where random bits seldom are.
  const auto limit = static_cast<float>(std::numeric_limits<typename Case::type>::max());
  for (int i = 0; i < 2048; ++i) {
    result.push_back(std::ldexp(limit, -static_cast<int>(random() % 64)) *
                     (static_cast<float>(random() >> 8) * 0x1p-24F));
  }
  return result;
}

/// All codes, but a sample of those of two bytes if asked.
template <AnyMinifloat T> std::vector<T> codes(std::uint32_t stride_of_two_bytes = 1) {
  std::vector<T> result;
  const std::uint32_t stride = sizeof(T) == 1 ? 1 : stride_of_two_bytes;
  for (std::uint32_t code = 0; code < 1U << T::format.bits(); code += stride) {
    result.push_back(T::from_bits(static_cast<typename T::storage_type>(code)));
  }
  return result;
}

constexpr Overflow overflows[] = {Overflow::saturate, Overflow::infinity_or_nan};

template <class Case> class RoundingModeOfTheThread : public testing::Test {};
using EveryFormat = ::testing::Types<E4m3fn, E5m2, Float16, Bfloat16, E4m3, E3m4, E4m3fnuz,
                                     E5m2fnuz, E4m3b11fnuz, E2m3fn, E3m2fn, E2m1fn, E8m0fnu>;
struct EveryFormatName {
  template <class Case> static std::string GetName(int /*index*/) {
    return std::string(storage_name<typename Case::type>);
  }
};
TYPED_TEST_SUITE(RoundingModeOfTheThread, EveryFormat, EveryFormatName);

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeScalarsFromFloat) {
  using T = typename TypeParam::type;
  const std::vector<float> numbers = critical_numbers<TypeParam>();
  expect_same_in_every_mode([&] {
    Bits result;
    for (const Overflow overflow : overflows) {
      for (const Rounding rounding : all_modes) {
        std::uint32_t random = 12345;
        for (const float number : numbers) {
          random = random * 1664525U + 1013904223U;
          result.push_back(T::from_float(number, overflow, rounding, random).bits());
        }
      }
    }
    for (const float number : numbers) result.push_back(T(number).bits());
    return result;
  });
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeScalarsFromDouble) {
  using T = typename TypeParam::type;
  std::vector<double> numbers = {1e-320, 5e-324, -5e-324, 1e-310, -1e-310, 1e308, -1e308};
  for (const float number : critical_numbers<TypeParam>()) {
    const auto exact = static_cast<double>(number);
    numbers.push_back(exact);
    numbers.push_back(std::nextafter(exact, -1e300));
    numbers.push_back(std::nextafter(exact, 1e300));
  }
  expect_same_in_every_mode([&] {
    Bits result;
    std::vector<T> encoded(numbers.size());
    for (const Overflow overflow : overflows) {
      for (const Rounding rounding : all_modes) {
        std::uint32_t random = 12345;
        for (const double number : numbers) {
          random = random * 1664525U + 1013904223U;
          result.push_back(T::from_double(number, overflow, rounding, random).bits());
        }
      }
      encode(std::span<const double>(numbers), std::span<T>(encoded), overflow);
      append(result, encoded);
    }
    for (const double number : numbers) result.push_back(T(number).bits());
    return result;
  });
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeScalarsFromWiderTypes) {
  using T = typename TypeParam::type;
  std::vector<long double> numbers = {0.0L, -0.0L};
  for (const float number : critical_numbers<TypeParam>()) {
    const auto exact = static_cast<long double>(number);
    numbers.insert(numbers.end(), {exact, std::nextafter(exact, -1e300L),
                                   std::nextafter(exact, 1e300L), exact * (1 + 0x1p-60L)});
  }
  std::vector<std::int64_t> integers = {0, 1, -1};
  for (int shift = 0; shift < 63; ++shift) {
    const std::int64_t power = std::int64_t{1} << shift;
    integers.insert(integers.end(), {power, power - 1, power + 1, power + power / 16, -power,
                                     power / 32 * 33, power / 32 * 33 + 1, -power / 32 * 33 - 1});
  }
  expect_same_in_every_mode([&] {
    Bits result;
    for (const long double number : numbers) result.push_back(T(number).bits());
    for (const std::int64_t integer : integers) {
      result.push_back(T(integer).bits());
      result.push_back(T(static_cast<std::uint64_t>(integer)).bits());
      result.push_back(T(static_cast<int>(integer)).bits());
      result.push_back(T(static_cast<unsigned>(integer)).bits());
      for (const Rounding rounding : all_modes) {
        result.push_back(T::from_integer(integer, Overflow::saturate, rounding, 77).bits());
      }
    }
    return result;
  });
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeLanes) {
  using T = typename TypeParam::type;
  std::vector<float> numbers = critical_numbers<TypeParam>();
  numbers.resize(numbers.size() / lanes * lanes);
  std::vector<T> encoded(numbers.size());
  const auto compute = [&] {
    Bits result;
    for (std::size_t i = 0; i < numbers.size(); i += lanes) {
      store_float<Overflow::saturate>(load<float32x16>(&numbers[i]), &encoded[i]);
    }
    append(result, encoded);
    for (std::size_t i = 0; i < numbers.size(); i += lanes) {
      store_float<Overflow::infinity_or_nan>(load<float32x16>(&numbers[i]), &encoded[i]);
    }
    append(result, encoded);
    for (std::size_t i = 0; i + 3 < numbers.size(); i += lanes) {
      store_float_partial<Overflow::infinity_or_nan>(load<float32x16>(&numbers[i]), &encoded[i], 3);
    }
    append(result, encoded);
    return result;
  };
  expect_same_in_every_mode(compute);
  // As scalars.
  const Bits bits = compute();
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(bits[i], T::from_float(numbers[i], Overflow::saturate).bits()) << numbers[i];
  }
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeSpans) {
  using T = typename TypeParam::type;
  const std::vector<float> numbers = critical_numbers<TypeParam>();
  std::vector<T> encoded(numbers.size());
  const auto compute = [&] {
    Bits result;
    for (const Overflow overflow : overflows) {
      encode(std::span<const float>(numbers), std::span<T>(encoded), overflow);
      append(result, encoded);
      for (const Rounding rounding : all_modes) {
        for (const float scale : {1.0F, 0.3F, 0x1p-100F, 3e38F}) {
          const EncodeOptions options{
              .overflow = overflow,
              .rounding = rounding,
              .scale = scale,
              .random = StochasticRounding(Random(1, RandomStream::rounding), 20)};
          encode(std::span<const float>(numbers), std::span<T>(encoded), options);
          append(result, encoded);
          const EncodeStatistics statistics = encode_with_statistics(
              std::span<const float>(numbers), std::span<T>(encoded), options);
          append(result, encoded);
          result.insert(result.end(),
                        {statistics.count, statistics.non_finite, statistics.overflowed,
                         statistics.underflowed, bits_of(statistics.max_magnitude)});
        }
      }
    }
    return result;
  };
  expect_same_in_every_mode(compute);
  const ThreadCountScope threads(3);
  expect_same_in_every_mode(compute);
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeDecoding) {
  using T = typename TypeParam::type;
  const std::vector<T> all = codes<T>();
  std::vector<float> floats(all.size());
  std::vector<double> doubles(all.size());
  expect_same_in_every_mode([&] {
    Bits result;
    decode(std::span<const T>(all), std::span<float>(floats));
    append(result, floats);
    decode(std::span<const T>(all), std::span<double>(doubles));
    append(result, doubles);
    for (const T code : all) {
      result.push_back(bits_of(static_cast<float>(code)));
      result.push_back(bits_of(static_cast<double>(code)));
      const auto wide = static_cast<long double>(code);
      result.push_back(bits_of(static_cast<double>(wide)));
    }
    for (std::size_t i = 0; i + lanes <= all.size(); i += lanes) {
      store(load_float(&all[i]), &floats[i]);
    }
    append(result, floats);
    store(load_float_partial(all.data(), 5), floats.data());
    append(result, floats);
    return result;
  });
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeConversionsBetweenFormats) {
  using T = typename TypeParam::type;
  const std::vector<T> all = codes<T>();
  std::vector<float8_e5m2> to_e5m2(all.size());
  std::vector<float8_e4m3b11fnuz> to_fnuz(all.size());
  std::vector<float4_e2m1fn> to_e2m1(all.size());
  std::vector<float16> to_float16(all.size());
  expect_same_in_every_mode([&] {
    Bits result;
    const auto convert = [&](auto& to) {
      using To = typename std::remove_reference_t<decltype(to)>::value_type;
      for (const Overflow overflow : overflows) {
        encode(std::span<const T>(all), std::span<To>(to), overflow);
        append(result, to);
      }
      for (const T number : all) result.push_back(To(number).bits());
    };
    convert(to_e5m2);
    convert(to_fnuz);
    convert(to_e2m1);
    convert(to_float16);
    return result;
  });
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeArithmetic) {
  using T = typename TypeParam::type;
  const std::vector<T> left = codes<T>(61);
  const std::vector<T> right = codes<T>(127);
  expect_same_in_every_mode([&] {
    Bits result;
    for (const T x : left) {
      result.push_back((x - x).bits());
      result.push_back((x + -x).bits());
      for (const T y : right) {
        for (const T z : {x + y, x - y, x * y, x / y}) result.push_back(z.bits());
      }
    }
    return result;
  });
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeFunctionsOfOneNumber) {
  using T = typename TypeParam::type;
  const std::vector<T> all = codes<T>(3);
  expect_same_in_every_mode([&] {
    Bits result;
    for (const T x : all) {
      for (const T y :
           {sqrt(x),  cbrt(x),  exp(x),   exp2(x),  expm1(x),     log(x),  log2(x), log10(x),
            log1p(x), sin(x),   cos(x),   tan(x),   asin(x),      acos(x), atan(x), sinh(x),
            cosh(x),  tanh(x),  asinh(x), acosh(x), atanh(x),     erf(x),  erfc(x), floor(x),
            ceil(x),  trunc(x), round(x), rint(x),  nearbyint(x), logb(x), -x,      abs(x)}) {
        result.push_back(y.bits());
      }
      result.push_back(static_cast<std::uint64_t>(ilogb(x)));
      result.push_back(static_cast<std::uint64_t>(fpclassify(x)));
      for (const int exponent : {-2000, -140, -7, -1, 1, 9, 2000}) {
        result.push_back(ldexp(x, exponent).bits());
      }
      if constexpr (T::format.min_normal_exponent() <= -1) {
        int exponent = 0;
        result.push_back(frexp(x, &exponent).bits());
        result.push_back(static_cast<std::uint64_t>(exponent));
      }
    }
    return result;
  });
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeFunctionsOfSeveralNumbers) {
  using T = typename TypeParam::type;
  const std::vector<T> left = codes<T>(401);
  const std::vector<T> right = codes<T>(797);
  const T thirds[] = {std::numeric_limits<T>::denorm_min(), -std::numeric_limits<T>::denorm_min(),
                      T(1), std::numeric_limits<T>::max()};
  expect_same_in_every_mode([&] {
    Bits result;
    for (const T x : left) {
      for (const T y : right) {
        for (const T z : {pow(x, y), hypot(x, y), atan2(x, y), fmod(x, y), fmin(x, y), fmax(x, y),
                          nextafter(x, y), copysign(x, y)}) {
          result.push_back(bits_of_result(z));
        }
        for (const T z : thirds) result.push_back(bits_of_result(fma(x, y, z)));
        result.push_back(bits_of_result(fma(x, y, -(x * y))));
      }
    }
    return result;
  });
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeText) {
  using T = typename TypeParam::type;
  const std::vector<T> all = codes<T>(17);
  std::vector<std::string> texts = {
      "0",         "-0",     "1e-400", "-1e-400", "1e400",
      "0x1p-3000", "0x0p0",  "inf",    "0.1",     "0.3",
      "1e-30",     "-1e-30", "3e38",   "1e-45",   "123456789012345678901234567890"};
  for (const float number : critical_numbers<TypeParam>()) {
    // A midpoint among them, a little more and a little less.
    if (!std::isfinite(number) || texts.size() > 3000) continue;
    char buffer[200];
    const auto end = std::to_chars(buffer, buffer + sizeof(buffer), static_cast<double>(number),
                                   std::chars_format::scientific, 120);
    texts.emplace_back(buffer, end.ptr);
    std::string more = texts.back();
    more.insert(more.find('e'), "1");
    texts.push_back(more);
    const auto hexadecimal = std::to_chars(buffer, buffer + sizeof(buffer),
                                           static_cast<double>(number), std::chars_format::hex);
    std::string hex(buffer, hexadecimal.ptr);
    hex.insert(hex.front() == '-' ? 1 : 0, "0x");
    texts.push_back(hex);
  }
  expect_same_in_every_mode([&] {
    Bits result;
    for (const T number : all) {
      for (const char character : to_string(number)) {
        result.push_back(static_cast<unsigned char>(character));
      }
    }
    for (const std::string& text : texts) {
      for (const Overflow overflow : overflows) {
        result.push_back(parse<T>(text, overflow).bits());
      }
      std::istringstream stream(text);
      T number;
      stream >> number;
      result.push_back(number.bits());
    }
    return result;
  });
}

TYPED_TEST(RoundingModeOfTheThread, DoesNotChangeFormatsChosenAtRunTime) {
  using T = typename TypeParam::type;
  const std::vector<float> numbers = critical_numbers<TypeParam>();
  std::vector<float> rounded(numbers.size());
  const Format format(T::format);
  expect_same_in_every_mode([&] {
    Bits result;
    for (const Overflow overflow : overflows) {
      for (const Rounding rounding : all_modes) {
        for (const float number : numbers) {
          result.push_back(bits_of(format.quantise(number, overflow, rounding, 0x1234'5678U)));
        }
        for (const float scale : {1.0F, 0.7F}) {
          format.quantise(numbers, rounded,
                          {.overflow = overflow,
                           .rounding = rounding,
                           .scale = scale,
                           .random = StochasticRounding(Random(1, RandomStream::rounding), 8)});
          append(result, rounded);
        }
      }
    }
    return result;
  });
}

TEST(RoundingModeOfTheThread, DoesNotChangeFormatsWithoutAType) {
  std::vector<float> numbers = critical_numbers<E4m3fn>();
  const std::vector<float> more = critical_numbers<Bfloat16>();
  numbers.insert(numbers.end(), more.begin(), more.end());
  std::vector<float> rounded(numbers.size());
  for (const char* name : {"e4m0fn", "e3m7", "e5m13", "e8m3", "e8m12", "e2m20", "e1m2finite",
                           "e7m16", "float32", "e8m0fnu"}) {
    SCOPED_TRACE(name);
    const Format format = Format::parse(name);
    expect_same_in_every_mode([&] {
      Bits result;
      for (const Rounding rounding : all_modes) {
        for (const float number : numbers) {
          result.push_back(bits_of(format.quantise(number, Overflow::saturate, rounding, 99)));
        }
        format.quantise(numbers, rounded,
                        {.rounding = rounding,
                         .random = StochasticRounding(Random(1, RandomStream::rounding), 32)});
        append(result, rounded);
      }
      return result;
    });
  }
}

template <class E> class RoundingModeOfTheThreadMx : public testing::Test {};
using MxElements = ::testing::Types<float8_e4m3fn, float8_e5m2, float6_e2m3fn, float6_e3m2fn,
                                    float4_e2m1fn, MxInt8>;
TYPED_TEST_SUITE(RoundingModeOfTheThreadMx, MxElements);

TYPED_TEST(RoundingModeOfTheThreadMx, DoesNotChangeBlocks) {
  using E = TypeParam;
  constexpr std::size_t rows = 61;
  constexpr std::size_t columns = 77;
  std::vector<float> numbers(rows * columns);
  RandomBits random;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    // Blocks of ordinary, tiny and subnormal numbers, and zeros of both signs.
    const int exponent = static_cast<int>(i / columns % 5) * 60 - 150;
    const auto significand = static_cast<float>(static_cast<std::int32_t>(random()));
    numbers[i] = std::ldexp(significand, exponent - 31 + static_cast<int>(random() % 12) - 8);
    if (i % 19 == 0) numbers[i] = i % 2 == 0 ? 0.0F : -0.0F;
    if (i == 1000) numbers[i] = std::numeric_limits<float>::infinity();
  }
  std::vector<float> back(numbers.size());
  expect_same_in_every_mode([&] {
    Bits result;
    for (const ScaleRounding scale_rounding : {ScaleRounding::floor, ScaleRounding::round_up}) {
      for (const Rounding rounding : all_modes) {
        MxArray<E> array(rows, columns);
        array.encode(numbers,
                     {.scale_rounding = scale_rounding,
                      .rounding = rounding,
                      .random = StochasticRounding(Random(1, RandomStream::rounding), 16)});
        for (const float8_e8m0fnu scale : array.scales()) result.push_back(scale.bits());
        for (std::size_t i = 0; i < array.size(); ++i) {
          result.push_back(bits_of(E(array.elements()[i])));
        }
        array.decode(back);
        append(result, back);
      }
    }
    return result;
  });
}

template <class T> class RoundingModeOfTheThreadPacked : public testing::Test {};
using PackedFormats = ::testing::Types<float6_e2m3fn, float6_e3m2fn, float4_e2m1fn>;
TYPED_TEST_SUITE(RoundingModeOfTheThreadPacked, PackedFormats);

TYPED_TEST(RoundingModeOfTheThreadPacked, DoesNotChangePackedArrays) {
  const std::vector<float> numbers = critical_numbers<Bfloat16>();
  std::vector<float> back(numbers.size());
  expect_same_in_every_mode([&] {
    Bits result;
    PackedArray<TypeParam> packed(numbers.size());
    for (const Overflow overflow : overflows) {
      encode(std::span<const float>(numbers), packed, overflow);
      for (const std::uint8_t byte : packed.bytes()) result.push_back(byte);
      decode(packed, std::span<float>(back));
      append(result, back);
    }
    return result;
  });
}

TEST(RoundingModeOfTheThread, DoesNotChangeConversionsOfTheLanguageInSpans) {
  std::vector<double> doubles;
  for (const float number : critical_numbers<Bfloat16>()) {
    const auto exact = static_cast<double>(number);
    doubles.insert(doubles.end(), {exact, exact * (1 + 0x1p-30), exact * (1 + 0x1p-24)});
  }
  std::vector<float> floats(doubles.size());
  expect_same_in_every_mode([&] {
    Bits result;
    encode(std::span<const double>(doubles), std::span<float>(floats), Overflow::saturate);
    append(result, floats);
    decode(std::span<const double>(doubles), std::span<float>(floats));
    append(result, floats);
    return result;
  });
}

// The inputs of which it was first found.
TEST(RoundingModeOfTheThread, MakesNoSmallestNumberOfATinyOneAndNoNegativeZero) {
  std::vector<float> tiny(32, 1e-30F);
  std::vector<float8_e4m3fn> codes_of_tiny(tiny.size());
  std::vector<float16> halves(tiny.size());
  std::vector<float> zeros(tiny.size(), 1.0F);
  for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
    std::uint32_t scalar = 1;
    std::uint32_t scalar_half = 1;
    {
      const ThreadArithmetic arithmetic(mode);
      scalar = float8_e4m3fn(tiny[0]).bits();
      scalar_half = float16(tiny[0]).bits();
      encode(std::span<const float>(tiny), std::span<float8_e4m3fn>(codes_of_tiny),
             Overflow::saturate);
      encode(std::span<const float>(tiny), std::span<float16>(halves), Overflow::saturate);
      decode(std::span<const float8_e4m3fn>(codes_of_tiny), std::span<float>(zeros));
    }
    EXPECT_EQ(scalar, 0U) << mode.name;
    EXPECT_EQ(scalar_half, 0U) << mode.name;
    for (std::size_t i = 0; i < tiny.size(); ++i) {
      EXPECT_EQ(codes_of_tiny[i].bits(), 0U) << mode.name;
      EXPECT_EQ(halves[i].bits(), 0U) << mode.name;
      EXPECT_EQ(bits_of(zeros[i]), 0U) << mode.name;
    }
  }
}

}  // namespace rounding_mode_of_the_thread_test
