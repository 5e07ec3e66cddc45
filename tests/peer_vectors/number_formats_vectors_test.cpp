// SPDX-License-Identifier: MIT
#include <bit>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "formats/number_format.hpp"
#include "peer_vectors.hpp"

namespace peer_vectors {
namespace number_formats_vectors_test {

using unit_scaling::Overflow;
using unit_scaling_test::Number;
using unit_scaling_test::NumberFormat;
using unit_scaling_test::Numbers;

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
bool is_zero(Number value) { return static_cast<float>(value) == 0; }

void compare_decoding(const NumberFormat& format, const Json& decode, Failures& failures) {
  Numbers codes;
  for (std::uint32_t code = 0; code < decode.size(); ++code) {
    codes.push_back(format.from_code(code));
  }
  std::vector<float> bulk(codes.size());
  format.decode(codes, bulk);
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

void compare_encoding(const NumberFormat& format, const Json& encode, Failures& failures) {
  const auto inputs = encode.at("x_float32_bits").get<std::vector<std::uint32_t>>();
  const auto codes = encode.at("code").get<std::vector<std::uint32_t>>();
  if (inputs.size() != codes.size()) throw std::runtime_error("not one code for each number");
  std::vector<float> numbers;
  for (const std::uint32_t bits : inputs) numbers.push_back(std::bit_cast<float>(bits));
  const Numbers bulk = format.encode(numbers, Overflow::infinity_or_nan);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const Number expected = format.from_code(codes[i]);
    // A double holds every float, so rounding it must give the same code.
    for (const Number actual :
         {format.number(numbers[i]), format.number(static_cast<double>(numbers[i])), bulk[i]}) {
      if (actual.bits() != expected.bits() && !(isnan(actual) && isnan(expected)) &&
          !(std::isnan(numbers[i]) && is_zero(actual) && is_zero(expected))) {
        failures.push_back(
            text("encoding ", numbers[i], " gives code ", actual.bits(), ", expected ", codes[i]));
      }
    }
  }
}

Failures run_format(const Json& one_case) {
  require_known(one_case, {"format", "bits", "decode", "encode"});
  require_known(one_case.at("encode"), {"x_float32_bits", "code"});
  const auto name = one_case.at("format").get<std::string>();
  Failures failures;
  bool is_known = false;
  for (const NumberFormat* format : unit_scaling_test::all_formats()) {
    if (format->storage_name() != name) continue;
    is_known = true;
    if (one_case.at("bits").get<int>() != format->spec().bits()) {
      failures.push_back(text("the format has ", format->spec().bits(), " bits"));
    }
    compare_decoding(*format, one_case.at("decode"), failures);
    compare_encoding(*format, one_case.at("encode"), failures);
  }
  if (!is_known) failures.push_back("the format is not known");
  return failures;
}

const bool registered = runners().emplace("number_formats", run_format).second;

}  // namespace number_formats_vectors_test
}  // namespace peer_vectors
