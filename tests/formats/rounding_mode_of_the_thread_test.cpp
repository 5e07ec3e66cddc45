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
#include <vector>

#include "formats/number_format.hpp"
#include "formats/rounding_modes.hpp"
#include "support/thread_arithmetic.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/mx.hpp"

namespace rounding_mode_of_the_thread_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// What a computation gave: numbers as bits.
using Bits = std::vector<std::uint64_t>;

std::uint64_t bits_of(float number) { return std::bit_cast<std::uint32_t>(number); }
std::uint64_t bits_of(double number) { return std::bit_cast<std::uint64_t>(number); }
template <AnyMinifloat T> std::uint64_t bits_of(T number) { return number.bits(); }
std::uint64_t bits_of(Number number) { return number.bits(); }

/// Of a function's result: compilers and processors choose the sign of a NaN that it makes.
std::uint64_t bits_of_result(Number number) {
  return isnan(number) ? number.format().spec().nan_code() : number.bits();
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

/// Numbers where a conversion is prone to go wrong, tiny ones, NaNs and random ones.
std::vector<float> critical_numbers(const NumberFormat& format) {
  std::vector<float> result;
  if (&format == &format_of<E8m0fnu>()) {
    for (int exponent = -149; exponent <= 127; ++exponent) {
      for (const float significand : {1.0F, 1.25F, 1.5F, 1.75F}) {
        const float number = std::ldexp(significand, exponent);
        result.insert(result.end(), {std::nextafter(number, 0.0F), number,
                                     std::nextafter(number, 2 * number), -number});
      }
    }
  } else {
    // Of formats of two bytes a sample: a stride prime to the period of the list.
    const std::vector<float> all = critical_floats(format.oracle());
    const std::size_t stride = all.size() > 20'000 ? 53 : 1;
    for (std::size_t i = 0; i < all.size(); i += stride) result.push_back(all[i]);
  }
  result.insert(result.end(), {0.0F, -0.0F, 1e-30F, -1e-30F, 1e-45F, -1e-45F});
  for (const std::uint32_t bits : nan_bits()) result.push_back(std::bit_cast<float>(bits));
  RandomBits random;
  for (int i = 0; i < 2048; ++i) result.push_back(std::bit_cast<float>(random()));
  // About the numbers of the format, where random bits seldom are.
  const auto limit = static_cast<float>(format.limits().max);
  for (int i = 0; i < 2048; ++i) {
    result.push_back(std::ldexp(limit, -static_cast<int>(random() % 64)) *
                     (static_cast<float>(random() >> 8) * 0x1p-24F));
  }
  return result;
}

/// All codes, but a sample of those of two bytes if asked.
Numbers codes(const NumberFormat& format, std::uint32_t stride_of_two_bytes = 1) {
  Numbers result;
  const std::uint32_t stride = format.spec().bits() <= 8 ? 1 : stride_of_two_bytes;
  for (std::uint32_t code = 0; code < 1U << format.spec().bits(); code += stride) {
    result.push_back(format.from_code(code));
  }
  return result;
}

constexpr Overflow overflows[] = {Overflow::saturate, Overflow::infinity_or_nan};

FORMAT_TEST_SUITE(RoundingModeOfTheThread, all_formats())

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeScalarsFromFloat) {
  const std::vector<float> numbers = critical_numbers(format);
  expect_same_in_every_mode([&] {
    Bits result;
    for (const Overflow overflow : overflows) {
      for (const Rounding rounding : all_modes) {
        std::uint32_t random = 12345;
        for (const float number : numbers) {
          random = random * 1664525U + 1013904223U;
          result.push_back(format.from_float(number, overflow, rounding, random).bits());
        }
      }
    }
    for (const float number : numbers) result.push_back(format.number(number).bits());
    return result;
  });
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeScalarsFromDouble) {
  std::vector<double> numbers = {1e-320, 5e-324, -5e-324, 1e-310, -1e-310, 1e308, -1e308};
  for (const float number : critical_numbers(format)) {
    const auto exact = static_cast<double>(number);
    numbers.push_back(exact);
    numbers.push_back(std::nextafter(exact, -1e300));
    numbers.push_back(std::nextafter(exact, 1e300));
  }
  expect_same_in_every_mode([&] {
    Bits result;
    for (const Overflow overflow : overflows) {
      for (const Rounding rounding : all_modes) {
        std::uint32_t random = 12345;
        for (const double number : numbers) {
          random = random * 1664525U + 1013904223U;
          result.push_back(format.from_double(number, overflow, rounding, random).bits());
        }
      }
      append(result, format.encode(numbers, overflow));
    }
    for (const double number : numbers) result.push_back(format.number(number).bits());
    return result;
  });
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeScalarsFromWiderTypes) {
  std::vector<long double> numbers = {0.0L, -0.0L};
  for (const float number : critical_numbers(format)) {
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
    for (const long double number : numbers) result.push_back(format.number(number).bits());
    for (const std::int64_t integer : integers) {
      result.push_back(format.number(integer).bits());
      result.push_back(format.number(static_cast<std::uint64_t>(integer)).bits());
      result.push_back(format.number(static_cast<int>(integer)).bits());
      result.push_back(format.number(static_cast<unsigned>(integer)).bits());
      for (const Rounding rounding : all_modes) {
        result.push_back(format.from_integer(integer, Overflow::saturate, rounding, 77).bits());
      }
    }
    return result;
  });
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeLanes) {
  std::vector<float> numbers = critical_numbers(format);
  numbers.resize(numbers.size() / lanes * lanes);
  const std::span<const float> in(numbers);
  Numbers encoded(numbers.size());
  const std::span<Number> out(encoded);
  const auto compute = [&] {
    Bits result;
    for (const Overflow overflow : overflows) {
      for (std::size_t i = 0; i < numbers.size(); i += lanes) {
        format.store_lanes(in.subspan(i, lanes), out.subspan(i, lanes), overflow);
      }
      append(result, encoded);
    }
    for (std::size_t i = 0; i + 3 < numbers.size(); i += lanes) {
      format.store_lanes(in.subspan(i, lanes), out.subspan(i, 3), 3, Overflow::infinity_or_nan);
    }
    append(result, encoded);
    return result;
  };
  expect_same_in_every_mode(compute);
  // As scalars.
  const Bits bits = compute();
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(bits[i], format.from_float(numbers[i], Overflow::saturate).bits()) << numbers[i];
  }
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeSpans) {
  const std::vector<float> numbers = critical_numbers(format);
  const auto compute = [&] {
    Bits result;
    for (const Overflow overflow : overflows) {
      append(result, format.encode(numbers, overflow));
      for (const Rounding rounding : all_modes) {
        for (const float scale : {1.0F, 0.3F, 0x1p-100F, 3e38F}) {
          const EncodeOptions options{
              .overflow = overflow,
              .rounding = rounding,
              .scale = scale,
              .random = StochasticRounding(Random(1, RandomStream::rounding), 20)};
          append(result, format.encode(numbers, options));
          Numbers encoded;
          const EncodeStatistics statistics =
              format.encode_with_statistics(numbers, encoded, options);
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

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeDecoding) {
  const Numbers all = codes(format);
  std::vector<float> floats(all.size());
  std::vector<double> doubles(all.size());
  expect_same_in_every_mode([&] {
    Bits result;
    format.decode(all, floats);
    append(result, floats);
    format.decode(all, doubles);
    append(result, doubles);
    for (const Number code : all) {
      result.push_back(bits_of(static_cast<float>(code)));
      result.push_back(bits_of(static_cast<double>(code)));
      const auto wide = static_cast<long double>(code);
      result.push_back(bits_of(static_cast<double>(wide)));
    }
    for (std::size_t i = 0; i + lanes <= all.size(); i += lanes) {
      format.load_lanes(std::span(all).subspan(i, lanes), std::span(floats).subspan(i, lanes));
    }
    append(result, floats);
    format.load_partial_lanes(std::span(all).first(5), floats);
    append(result, floats);
    return result;
  });
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeConversionsBetweenFormats) {
  const Numbers all = codes(format);
  expect_same_in_every_mode([&] {
    Bits result;
    for (const NumberFormat* to : {&format_of<E5m2>(), &format_of<E4m3b11fnuz>(),
                                   &format_of<E2m1fn>(), &format_of<Float16>()}) {
      for (const Overflow overflow : overflows) append(result, to->encode_from(all, overflow));
      for (const Number number : all) result.push_back(to->number(number).bits());
    }
    return result;
  });
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeArithmetic) {
  const Numbers left = codes(format, 61);
  const Numbers right = codes(format, 127);
  expect_same_in_every_mode([&] {
    Bits result;
    for (const Number x : left) {
      result.push_back(format.arithmetic(x, x).difference.bits());
      result.push_back(format.arithmetic(x, -x).sum.bits());
      for (const Number y : right) {
        const Arithmetic z = format.arithmetic(x, y);
        result.insert(result.end(), {bits_of(z.sum), bits_of(z.difference), bits_of(z.product),
                                     bits_of(z.quotient)});
      }
    }
    return result;
  });
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeFunctionsOfOneNumber) {
  const Numbers all = codes(format, 3);
  expect_same_in_every_mode([&] {
    Bits result;
    for (const Number x : all) {
      for (const FunctionOfOne& function : format.functions_of_one()) {
        result.push_back(function.apply(x).bits());
      }
      result.push_back((-x).bits());
      result.push_back(abs(x).bits());
      result.push_back(static_cast<std::uint64_t>(ilogb(x)));
      result.push_back(static_cast<std::uint64_t>(fpclassify(x)));
      for (const int exponent : {-2000, -140, -7, -1, 1, 9, 2000}) {
        result.push_back(ldexp(x, exponent).bits());
      }
      if (format.has_frexp()) {
        int exponent = 0;
        result.push_back(frexp(x, &exponent).bits());
        result.push_back(static_cast<std::uint64_t>(exponent));
      }
    }
    return result;
  });
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeFunctionsOfSeveralNumbers) {
  const Numbers left = codes(format, 401);
  const Numbers right = codes(format, 797);
  const NumberLimits limits = format.limits();
  const Number thirds[] = {limits.denorm_min, -limits.denorm_min, format.number(1), limits.max};
  expect_same_in_every_mode([&] {
    Bits result;
    for (const Number x : left) {
      for (const Number y : right) {
        for (const FunctionOfTwo& function : format.functions_of_two()) {
          result.push_back(bits_of_result(function.apply(x, y)));
        }
        for (const Number z : thirds) result.push_back(bits_of_result(fma(x, y, z)));
        result.push_back(bits_of_result(fma(x, y, -format.arithmetic(x, y).product)));
      }
    }
    return result;
  });
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeText) {
  const Numbers all = codes(format, 17);
  std::vector<std::string> texts = {
      "0",         "-0",     "1e-400", "-1e-400", "1e400",
      "0x1p-3000", "0x0p0",  "inf",    "0.1",     "0.3",
      "1e-30",     "-1e-30", "3e38",   "1e-45",   "123456789012345678901234567890"};
  for (const float number : critical_numbers(format)) {
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
    for (const Number number : all) {
      for (const char character : to_string(number)) {
        result.push_back(static_cast<unsigned char>(character));
      }
    }
    for (const std::string& text : texts) {
      for (const Overflow overflow : overflows) {
        result.push_back(format.parse(text, overflow).bits());
      }
      std::istringstream stream(text);
      result.push_back(format.read(stream).bits());
    }
    return result;
  });
}

FORMAT_TEST(RoundingModeOfTheThread, DoesNotChangeFormatsChosenAtRunTime) {
  const std::vector<float> numbers = critical_numbers(format);
  std::vector<float> rounded(numbers.size());
  const Format at_run_time(format.spec());
  expect_same_in_every_mode([&] {
    Bits result;
    for (const Overflow overflow : overflows) {
      for (const Rounding rounding : all_modes) {
        for (const float number : numbers) {
          result.push_back(bits_of(at_run_time.quantise(number, overflow, rounding, 0x1234'5678U)));
        }
        for (const float scale : {1.0F, 0.7F}) {
          at_run_time.quantise(
              numbers, rounded,
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
  std::vector<float> numbers = critical_numbers(format_of<E4m3fn>());
  const std::vector<float> more = critical_numbers(format_of<Bfloat16>());
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

TEST(RoundingModeOfTheThread, DoesNotChangeMxBlocks) {
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
  const EncodedArray source = EncodedArray::view(Array<float>({rows, columns}, numbers));
  for (const Format& elements :
       {Format::of<float8_e4m3fn>(), Format::of<float8_e5m2>(), Format::of<float6_e2m3fn>(),
        Format::of<float6_e3m2fn>(), Format::of<float4_e2m1fn>(), mx_int8()}) {
    expect_same_in_every_mode([&] {
      Bits result;
      for (const ScaleRounding scale_rounding : {ScaleRounding::floor, ScaleRounding::round_up}) {
        for (const Rounding rounding : all_modes) {
          const EncodedArray array =
              encode_mx(source, elements, mx_blocks, scale_rounding,
                        {.rounding = rounding,
                         .random = StochasticRounding(Random(1, RandomStream::rounding), 16)});
          result.insert(result.end(), array.scale_codes().begin(), array.scale_codes().end());
          result.insert(result.end(), array.codes().begin(), array.codes().end());
          const Array<float> back = array.decode();
          append(result, std::vector<float>(back.span().begin(), back.span().end()));
        }
      }
      return result;
    });
  }
}

TEST(RoundingModeOfTheThread, DoesNotChangeConversionsOfTheLanguageInSpans) {
  std::vector<double> doubles;
  for (const float number : critical_numbers(format_of<Bfloat16>())) {
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
