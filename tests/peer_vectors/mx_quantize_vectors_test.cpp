// SPDX-License-Identifier: MIT
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "peer_vectors.hpp"
#include "unit_scaling/formats/mx_block.hpp"

namespace peer_vectors {
namespace mx_quantize_vectors_test {

/// Compares what encoding and decoding give with the file, bit by bit.
template <class E> Failures compare_blocks(const Json& one_case) {
  const auto extents = one_case.at("shape").get<std::vector<std::size_t>>();
  const auto inputs = one_case.at("x_float32_bits").get<std::vector<std::uint32_t>>();
  const auto expected = one_case.at("y_float32_bits").get<std::vector<std::uint32_t>>();
  const unit_scaling::Shape shape{std::span<const std::size_t>(extents)};
  const std::size_t rows = shape.rows();
  const std::size_t columns = shape.columns();
  if (inputs.size() != shape.size() || expected.size() != inputs.size()) {
    throw std::runtime_error("not one input and one output for each element");
  }
  std::vector<float> numbers;
  for (const std::uint32_t bits : inputs) numbers.push_back(std::bit_cast<float>(bits));
  unit_scaling::MxArray<E> blocks(rows, columns);
  blocks.encode(numbers);
  blocks.decode(numbers);

  constexpr std::uint32_t negative_zero = 0x8000'0000U;
  Failures failures;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto actual = std::bit_cast<std::uint32_t>(numbers[i]);
    std::uint32_t want = expected[i];
    // microxcaling multiplies with torch.sign, which is 0 of -0; a number that is rounded to zero
    // keeps its sign there.
    if (inputs[i] == negative_zero && want == 0) want = negative_zero;
    // It computes in binary32 and so has a negative zero, which two's complement has not.
    if (std::is_same_v<E, unit_scaling::MxInt8> && want == negative_zero) want = 0;
    if (actual == want) continue;
    std::ostringstream message;
    message << std::hexfloat << "element " << i << ", " << std::bit_cast<float>(inputs[i]) << ": "
            << numbers[i] << ", expected " << std::bit_cast<float>(want);
    failures.push_back(message.str());
  }
  return failures;
}

Failures run_blocks(const Json& one_case) {
  require_known(one_case, {"params", "shape", "x_float32_bits", "y_float32_bits"});
  const Json& params = one_case.at("params");
  const auto expect = [&](const char* name, const Json& value) {
    if (params.at(name) != value) {
      throw std::runtime_error(std::string(name) + " is " + params.at(name).dump() +
                               ", which this comparison does not know");
    }
  };
  if (params.size() != 5) throw std::runtime_error("expected five parameters");
  expect("block_size", 32);
  expect("axis", -1);
  expect("scale", "floor(log2(amax)) - emax of the element format, E8M0");
  expect("round", "nearest even, saturating");
  const auto format = params.at("elem_format").get<std::string>();
  if (format == "fp8_e4m3") return compare_blocks<unit_scaling::float8_e4m3fn>(one_case);
  if (format == "fp8_e5m2") return compare_blocks<unit_scaling::float8_e5m2>(one_case);
  if (format == "fp6_e2m3") return compare_blocks<unit_scaling::float6_e2m3fn>(one_case);
  if (format == "fp6_e3m2") return compare_blocks<unit_scaling::float6_e3m2fn>(one_case);
  if (format == "fp4_e2m1") return compare_blocks<unit_scaling::float4_e2m1fn>(one_case);
  if (format == "int8") return compare_blocks<unit_scaling::MxInt8>(one_case);
  throw std::runtime_error("the element format " + format + " is not known");
}

const bool registered = runners().emplace("mx_quantize", run_blocks).second;

}  // namespace mx_quantize_vectors_test
}  // namespace peer_vectors
