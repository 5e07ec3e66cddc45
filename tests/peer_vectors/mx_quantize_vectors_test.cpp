// SPDX-License-Identifier: MIT
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "peer_vectors.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/mx.hpp"

namespace peer_vectors {
namespace mx_quantize_vectors_test {

/// Compares what encoding and decoding give with the file, bit by bit.
Failures compare_blocks(const Json& one_case, const unit_scaling::Format& elements) {
  const auto extents = one_case.at("shape").get<std::vector<std::size_t>>();
  const auto inputs = one_case.at("x_float32_bits").get<std::vector<std::uint32_t>>();
  const auto expected = one_case.at("y_float32_bits").get<std::vector<std::uint32_t>>();
  const unit_scaling::Shape shape{std::span<const std::size_t>(extents)};
  if (inputs.size() != shape.size() || expected.size() != inputs.size()) {
    throw std::runtime_error("not one input and one output for each element");
  }
  std::vector<float> numbers;
  for (const std::uint32_t bits : inputs) numbers.push_back(std::bit_cast<float>(bits));
  const unit_scaling::Array<float> array(shape, numbers);
  unit_scaling::encode_mx(unit_scaling::EncodedArray::view(array), elements).decode(numbers);

  constexpr std::uint32_t negative_zero = 0x8000'0000U;
  Failures failures;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto actual = std::bit_cast<std::uint32_t>(numbers[i]);
    std::uint32_t want = expected[i];
    // microxcaling multiplies with torch.sign, which is 0 of -0; a number that is rounded to zero
    // keeps its sign there.
    if (inputs[i] == negative_zero && want == 0) want = negative_zero;
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
  if (format == "int8") return compare_blocks(one_case, unit_scaling::mx_int8());
  const std::map<std::string, const char*> names{{"fp8_e4m3", "float8_e4m3fn"},
                                                 {"fp8_e5m2", "float8_e5m2"},
                                                 {"fp6_e2m3", "float6_e2m3fn"},
                                                 {"fp6_e3m2", "float6_e3m2fn"},
                                                 {"fp4_e2m1", "float4_e2m1fn"}};
  if (const auto found = names.find(format); found != names.end()) {
    return compare_blocks(one_case, unit_scaling::Format::parse(found->second));
  }
  throw std::runtime_error("the element format " + format + " is not known");
}

const bool registered = runners().emplace("mx_quantize", run_blocks).second;

}  // namespace mx_quantize_vectors_test
}  // namespace peer_vectors
