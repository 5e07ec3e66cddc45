// SPDX-License-Identifier: MIT
// Prints digests of what the conversions and functions of formats/ give, one line each, to be
// compared between builds with and without parts of -ffast-math. All NaNs count as one: which
// operand's sign a NaN gets is the processor's business.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/math.hpp"
#include "unit_scaling/formats/mx.hpp"

namespace {

namespace us = unit_scaling;

/// Words that follow each other at random, by integers alone.
class Words {
 public:
  std::uint32_t operator()() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::uint32_t>(state_ >> 33 ^ state_ >> 20);
  }

 private:
  std::uint64_t state_ = 1;
};

/// What a digest takes of a result.
std::uint64_t word(std::uint64_t bits) { return bits; }
template <us::AnyMinifloat T> std::uint64_t word(T number) {
  return isnan(number) ? 0xffff'ffffU : number.bits();
}

class Digest {
 public:
  explicit Digest(std::string name) : name_(std::move(name)) {}
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;
  ~Digest() {
    std::printf("%-40s %016llx\n", name_.c_str(), static_cast<unsigned long long>(digest_));
  }

  void add(std::uint64_t value) {
    digest_ = (digest_ ^ value) * 0x100000001b3U;
    digest_ ^= digest_ >> 29;
  }
  template <us::AnyMinifloat T> void add(T number) { add(word(number)); }

 private:
  std::string name_;
  std::uint64_t digest_ = 0xcbf29ce484222325U;
};

template <class T> T from_code(std::uint32_t code) {
  return T::from_bits(static_cast<typename T::storage_type>(code));
}

/// f of every code of so many bits. Not a template: each instance would cost as much to compile as
/// the function that is called, and no digest lets the compiler compute several at once.
void of_one(const std::string& format, const char* what, int bits,
            std::uint64_t (*f)(std::uint32_t)) {
  Digest digest(format + " " + what);
  for (std::uint32_t code = 0; code < 1U << bits; ++code) digest.add(f(code));
}

/// f of three codes at random.
void of_three(const std::string& format, const char* what,
              std::uint64_t (*f)(std::uint32_t, std::uint32_t, std::uint32_t)) {
  Digest digest(format + " " + what);
  Words words;
  for (int i = 0; i < 300000; ++i) {
    const std::uint32_t x = words();
    const std::uint32_t y = words();
    digest.add(f(x, y, words()));
  }
}

template <class T> void functions(const std::string& name) {
#define OF_ONE(f)                                             \
  of_one(name, #f, T::format.bits(), [](std::uint32_t code) { \
    const T x = from_code<T>(code);                           \
    return word(f);                                           \
  });
  OF_ONE(sqrt(x))
  OF_ONE(cbrt(x))
  OF_ONE(exp(x))
  OF_ONE(expm1(x))
  OF_ONE(log(x))
  OF_ONE(log1p(x))
  OF_ONE(sin(x))
  OF_ONE(tanh(x))
  OF_ONE(erf(x))
  OF_ONE(floor(x))
  OF_ONE(ceil(x))
  OF_ONE(trunc(x))
  OF_ONE(round(x))
  OF_ONE(rint(x))
  OF_ONE(nearbyint(x))
  OF_ONE(-x)
  OF_ONE(abs(x))
  OF_ONE(ldexp(x, -3))
  OF_ONE(x / T(3.0F))
  OF_ONE(T(static_cast<float>(x)))
  OF_ONE(T(static_cast<double>(x)))
  OF_ONE(T(static_cast<long double>(x)))
  OF_ONE(std::bit_cast<std::uint32_t>(static_cast<float>(x)))
  OF_ONE(std::bit_cast<std::uint64_t>(static_cast<double>(x)))
#undef OF_ONE
#define OF_THREE(f)                                                                       \
  of_three(name, #f, [](std::uint32_t first, std::uint32_t second, std::uint32_t third) { \
    const T x = from_code<T>(first);                                                      \
    [[maybe_unused]] const T y = from_code<T>(second);                                    \
    [[maybe_unused]] const T z = from_code<T>(third);                                     \
    return word(f);                                                                       \
  });
  OF_THREE(x + y)
  OF_THREE(x - y)
  OF_THREE(x * y)
  OF_THREE(x / y)
  OF_THREE(fma(x, y, z))
  OF_THREE(x + y + z)
  OF_THREE(x - y + y)
  OF_THREE(x * y + z)
  OF_THREE(abs(x) + abs(y) - abs(z))
  OF_THREE(x / y + z / y)
  OF_THREE(pow(x, y))
  OF_THREE(hypot(x, y))
  OF_THREE(fmod(x, y))
  OF_THREE(T(static_cast<long double>(x) + 0x1p-40L * static_cast<long double>(z)))
#undef OF_THREE
  // One divisor for many numbers, whose reciprocal would pay.
  Digest digest(name + " by one divisor");
  std::vector<T> numbers(4096);
  for (std::uint32_t d = 1; d < 200; d += 7) {
    const T divisor = from_code<T>(T::format.min_normal_code() + d);
    Words words;
    for (T& number : numbers) number = from_code<T>(words());
    for (T& number : numbers) number = number / divisor;
    for (const T number : numbers) digest.add(number);
  }
}

/// Numbers of magnitudes from 2^-60 to 2^20.
std::vector<float> spread(std::size_t size) {
  Words words;
  std::vector<float> result(size);
  for (float& number : result) {
    const std::uint32_t word = words();
    number = std::bit_cast<float>((word & 0x807f'ffffU) | (67U + words() % 80U) << 23);
  }
  return result;
}

template <class T> void spans(const std::string& name) {
  const std::vector<float> in = spread(10007);
  std::vector<T> codes(in.size());
  std::vector<float> out(in.size());
  for (const us::Rounding rounding :
       {us::Rounding::nearest_even, us::Rounding::nearest_away, us::Rounding::stochastic}) {
    for (const float scale : {1.0F, 0.7F}) {
      Digest digest(name + " span");
      us::encode(
          std::span<const float>(in), std::span<T>(codes),
          {.rounding = rounding, .scale = scale, .random = us::StochasticRounding(us::Random(1))});
      for (const T code : codes) digest.add(code);
      us::decode(std::span<const T>(codes), std::span<float>(out));
      for (const float number : out) digest.add(std::bit_cast<std::uint32_t>(number));
    }
  }
}

void blocks(const std::string& name, const us::Format& elements) {
  const us::EncodedArray in = us::EncodedArray::view(us::Array<float>({50, 33}, spread(50 * 33)));
  for (const us::Rounding rounding : {us::Rounding::nearest_even, us::Rounding::stochastic}) {
    Digest digest(name);
    const us::EncodedArray array =
        us::encode_mx(in, elements, us::mx_blocks, us::ScaleRounding::floor,
                      {.rounding = rounding, .random = us::StochasticRounding(us::Random(1))});
    const us::Array<float> out = array.decode();
    for (const float number : out.span()) {
      digest.add(std::bit_cast<std::uint32_t>(number));
    }
  }
}

}  // namespace

int main() {
  functions<us::float16>("float16");
  functions<us::bfloat16>("bfloat16");
  functions<us::float8_e4m3fn>("float8_e4m3fn");
  functions<us::float8_e5m2>("float8_e5m2");
  functions<us::float8_e4m3fnuz>("float8_e4m3fnuz");
  functions<us::float6_e2m3fn>("float6_e2m3fn");
  spans<us::float16>("float16");
  spans<us::bfloat16>("bfloat16");
  spans<us::float8_e4m3fn>("float8_e4m3fn");
  blocks("mxfp8_e4m3", us::Format::of<us::float8_e4m3fn>());
  blocks("mxfp4_e2m1", us::Format::of<us::float4_e2m1fn>());
  blocks("mxint8", us::mx_int8());
  for (const char* name : {"e3m7", "e5m2", "bfloat16", "e8m3"}) {
    Digest digest(std::string(name) + " chosen at run time");
    std::vector<float> numbers = spread(5003);
    us::Format::parse(name).quantise(numbers, numbers);
    for (const float number : numbers) digest.add(std::bit_cast<std::uint32_t>(number));
  }
  const us::bfloat16 sum = fma(us::bfloat16(37.0F / 32), us::bfloat16(7.0F / 8),
                               -std::numeric_limits<us::bfloat16>::denorm_min());
  std::printf("37/32 7/8 - 2^-133 = %.9g\n", static_cast<double>(sum));
}
