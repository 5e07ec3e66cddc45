// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: makes parameters, unit normal or with the usual scale.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Makes the parameters of a model, in the order in which its modules ask for them.
///
/// Under unit scaling every weight is drawn from N(0,1) and the 1/√fan_in lives in the op. Under
/// Rule::none weights have standard deviation 1/√fan_in. Lookup tables are N(0,1) under both.
/// The n-th parameter's elements are a function of (seed, n) alone.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4, "recipe".
class Initialiser {
 public:
  explicit Initialiser(std::uint64_t seed, Scaling scaling = scaling::paper)
      : seed_(seed), scaling_(scaling) {}

  /// The rules that the modules made with this initialiser follow.
  [[nodiscard]] const Scaling& scaling() const& { return scaling_; }
  [[nodiscard]] Scaling scaling() const&& { return scaling_; }

  [[nodiscard]] std::uint64_t seed() const { return seed_; }

  /// A number for each layer that draws random numbers while training, in the order of asking.
  [[nodiscard]] std::uint32_t next_layer() { return next_layer_++; }

  /// A weight, (fan_out, fan_in) or, of a convolution, (fan_out, channels, kernel_size): what is
  /// summed over counts as fan-in.
  [[nodiscard]] Parameter weight(std::string name, const Shape& shape,
                                 ParameterKind kind = ParameterKind::weight) {
    const DefaultArithmetic arithmetic;
    const std::size_t fan_in = shape.size() / std::max<std::size_t>(1, shape[0]);
    const double std = scaling_.rule == Rule::none ? inverse_power(fan_in) : 1;
    return normal(std::move(name), shape, std, kind);
  }

  /// A lookup table, (entries, size).
  [[nodiscard]] Parameter table(std::string name, std::size_t entries, std::size_t size) {
    return normal(std::move(name), Shape{entries, size}, 1, ParameterKind::weight);
  }

  /// The bias of a linear layer: zeros.
  [[nodiscard]] Parameter bias(std::string name, std::size_t size) {
    return constant(std::move(name), size, 0, ParameterKind::bias);
  }

  /// The gain of a normalisation: ones.
  [[nodiscard]] Parameter norm_gain(std::string name, std::size_t size) {
    return constant(std::move(name), size, 1, ParameterKind::norm);
  }

  /// The shift of a normalisation: zeros.
  [[nodiscard]] Parameter norm_bias(std::string name, std::size_t size) {
    return constant(std::move(name), size, 0, ParameterKind::norm);
  }

 private:
  [[nodiscard]] Parameter normal(std::string name, const Shape& shape, double std,
                                 ParameterKind kind) {
    const Random random(seed_, RandomStream::initialisation, 0, next_++);
    Array<float> value(shape);
    float* elements = value.mutable_data();
    parallel_ranges(shape.size(), std::size_t{1} << 14, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) {
        elements[i] = static_cast<float>(std * random.normal(i));
      }
    });
    return {
        .name = std::move(name), .value = std::move(value), .kind = kind, .rule = scaling_.rule};
  }

  [[nodiscard]] Parameter constant(std::string name, std::size_t size, float value,
                                   ParameterKind kind) {
    ++next_;
    return {.name = std::move(name),
            .value = Array<float>::filled(Shape{size}, value),
            .kind = kind,
            .rule = scaling_.rule};
  }

  std::uint64_t seed_;
  Scaling scaling_;
  std::uint32_t next_ = 0;
  std::uint32_t next_layer_ = 0;
};

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
