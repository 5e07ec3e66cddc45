// SPDX-License-Identifier: MIT
#include <bit>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string_view>

#include "peer_vectors.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/convert.hpp"

namespace peer_vectors {
namespace number_formats_vectors_test {

using unit_scaling::Overflow;

template <class... Arguments> std::string text(const Arguments&... arguments) {
  std::ostringstream stream;
  (stream << ... << arguments);
  return stream.str();
}

/// Equal numbers, and zeros of equal sign; a NaN's payload and sign may differ.
bool agree(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

/// Formats without a NaN turn one into a zero, whose sign may differ: ml_dtypes gives it the
/// opposite sign of the NaN, the library the negative one.
template <class Format> bool is_zero(Format value) { return static_cast<float>(value) == 0; }

template <class Format> void compare_decoding(const Json& decode, Failures& failures) {
  std::vector<Format> codes;
  for (std::size_t code = 0; code < decode.size(); ++code) {
    codes.push_back(Format::from_bits(static_cast<typename Format::storage_type>(code)));
  }
  std::vector<float> bulk(codes.size());
  unit_scaling::decode(std::span<const Format>(codes), std::span<float>(bulk));
  for (std::size_t code = 0; code < decode.size(); ++code) {
    const double expected = number(decode[code]);
    for (const double actual :
         {static_cast<double>(codes[code]), static_cast<double>(static_cast<float>(codes[code])),
          static_cast<double>(bulk[code])}) {
      if (!agree(actual, expected)) {
        failures.push_back(text("code ", code, " is ", actual, ", expected ", expected));
      }
    }
  }
}

template <class Format> void compare_encoding(const Json& encode, Failures& failures) {
  const auto inputs = encode.at("x_float32_bits").get<std::vector<std::uint32_t>>();
  const auto codes = encode.at("code").get<std::vector<std::uint32_t>>();
  if (inputs.size() != codes.size()) throw std::runtime_error("not one code for each number");
  std::vector<float> numbers;
  for (const std::uint32_t bits : inputs) numbers.push_back(std::bit_cast<float>(bits));
  std::vector<Format> bulk(numbers.size());
  unit_scaling::encode(std::span<const float>(numbers), std::span<Format>(bulk),
                       Overflow::infinity_or_nan);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto expected = Format::from_bits(static_cast<typename Format::storage_type>(codes[i]));
    // A double holds every float, so rounding it must give the same code.
    for (const Format actual :
         {Format(numbers[i]), Format(static_cast<double>(numbers[i])), bulk[i]}) {
      if (actual.bits() != expected.bits() && !(isnan(actual) && isnan(expected)) &&
          !(std::isnan(numbers[i]) && is_zero(actual) && is_zero(expected))) {
        failures.push_back(text("encoding ", numbers[i], " gives code ", int{actual.bits()},
                                ", expected ", codes[i]));
      }
    }
  }
}

/// Compares with whichever of the formats has the given name; false if none has.
template <class... Formats>
bool compare(std::string_view name, const Json& one_case, Failures& failures) {
  const auto compare_one = [&]<class Format>(std::type_identity<Format>) {
    if (unit_scaling::storage_name<Format> != name) return false;
    if (one_case.at("bits").get<int>() != Format::format.bits()) {
      failures.push_back(text("the format has ", Format::format.bits(), " bits"));
    }
    compare_decoding<Format>(one_case.at("decode"), failures);
    compare_encoding<Format>(one_case.at("encode"), failures);
    return true;
  };
  return (compare_one(std::type_identity<Formats>{}) || ...);
}

Failures run_format(const Json& one_case) {
  require_known(one_case, {"format", "bits", "decode", "encode"});
  require_known(one_case.at("encode"), {"x_float32_bits", "code"});
  const auto name = one_case.at("format").get<std::string>();
  Failures failures;
  using namespace unit_scaling;
  const bool is_known =
      compare<float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, float8_e4m3,
              float8_e3m4, float8_e4m3b11fnuz, float8_e8m0fnu, float6_e2m3fn, float6_e3m2fn,
              float4_e2m1fn, float16, bfloat16>(name, one_case, failures);
  if (!is_known) failures.push_back("the format is not known");
  return failures;
}

const bool registered = runners().emplace("number_formats", run_format).second;

}  // namespace number_formats_vectors_test
}  // namespace peer_vectors
