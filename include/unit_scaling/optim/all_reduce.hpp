// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: the mean of the gradients of several workers, sent and added up in FP8, as FP8-LM
/// does it. The workers are simulated: all of them are in this process.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/optim/automatic_scale.hpp"
#include "unit_scaling/optim/gradient_format.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// What N workers multiply their gradients with before they round them to FP8.
enum class WorkerScaling {
  pre,        ///< 1/N: the sum is the mean. Small gradients are lost before they are added.
  post,       ///< 1, and the sum is divided by N. Large sums saturate.
  automatic,  ///< μ of AutomaticScale
};

/// What the workers have after they have added up their gradients.
struct ReducedGradient {
  /// The sum, in the format of the messages. Its one scale, of binary32, makes the mean of it.
  EncodedArray mean;
  std::size_t saturated = 0;  ///< numbers of the sum at the largest of the format, or NaN
};

/// An all-reduce in a narrow format.
///
/// 1. Worker i rounds f g_i under its scale: g'_i = FP8(f g_i s'_i), with f as `WorkerScaling`
///    has it. Numbers beyond the format saturate; infinite ones become NaN, so that the sum tells
///    of them.
/// 2. The workers agree on s = min s'_i, and each rounds once more: g''_i = FP8(s g'_i / s'_i).
/// 3. The sum g = Σ g''_i is formed as a tree. Each partial sum is rounded to the format, and
///    saturates.
/// 4. The mean is g / (N s f).
///
/// s'_i is 1, or follows from the largest magnitude of g_i: a power of two, the largest under which
/// g_i does not overflow.
/// @see Peng et al. 2023, arXiv:2310.18313, section 2.1. How NCCL orders a sum depends on the
///      machines; here it is a tree over neighbours.
class AllReduce {
 public:
  struct Options {
    Format format = Format::of<float8_e4m3fn>();
    WorkerScaling scaling = WorkerScaling::automatic;
    AutomaticScale::Options automatic = {};
    bool has_tensor_scales = false;  ///< s'_i follows from g_i
  };

  AllReduce() : AllReduce(Options{}) {}
  /// @throws DomainError as AutomaticScale, for binary64, and for a format without a sign, zero or
  ///         NaN.
  explicit AllReduce(const Options& options) : options_(options), automatic_(options.automatic) {
    require_gradient_format(name, options.format);
  }

  /// The mean of a gradient of each worker.
  /// @throws DomainError without a worker; ShapeError if they differ in shape.
  [[nodiscard]] ReducedGradient reduce(std::span<const Array<float>> gradients) {
    const DefaultArithmetic arithmetic;
    require(!gradients.empty(), name, "expected the gradient of at least one worker, got none");
    for (const Array<float>& gradient : gradients) {
      require_same_shape(name, "gradients of workers", gradients[0].shape(), gradient.shape());
    }
    const auto workers = static_cast<double>(gradients.size());
    const double factor = options_.scaling == WorkerScaling::pre    ? 1 / workers
                          : options_.scaling == WorkerScaling::post ? 1
                                                                    : automatic_.factor();
    std::vector<EncodedArray> messages;
    messages.reserve(gradients.size());
    float scale = 0;  // 1/s: what a number of the sum stands for
    for (const Array<float>& gradient : gradients) {
      messages.push_back(rounded(EncodedArray::view(gradient),
                                 options_.has_tensor_scales ? scale_of(gradient) : 1.0F,
                                 static_cast<float>(factor)));
      scale = std::max(scale, messages.back().scale(0));
    }
    std::vector<Array<float>> sums;
    sums.reserve(messages.size());
    for (std::size_t worker = 0; worker < messages.size(); ++worker) {
      EncodedArray& message = messages[worker];
      if (message.scale(0) != scale) message = rounded(message, scale, 1);
      sums.push_back(message.without_scales().decode());
      message = {};
      mark_infinite(gradients[worker], sums.back());
    }
    for (std::size_t apart = 1; apart < sums.size(); apart *= 2) {
      for (std::size_t i = 0; i + apart < sums.size(); i += 2 * apart) {
        add(sums[i + apart], sums[i]);
      }
    }
    const float to_mean = static_cast<float>(static_cast<double>(scale) / (workers * factor));
    ReducedGradient result{EncodedArray::encode(EncodedArray::view(sums[0]), options_.format,
                                                ScaleLayout::per_tensor(ScaleFormat::binary32),
                                                std::vector<float>{1})};
    const auto largest = static_cast<float>(options_.format.spec().max_finite());
    for (const float number : sums[0].span()) {
      result.saturated += std::abs(number) < largest ? 0U : 1U;
    }
    std::memcpy(result.mean.mutable_scale_codes().data(), &to_mean, sizeof(to_mean));
    saturated_ += result.saturated;
    numbers_ += sums[0].size();
    return result;
  }

  /// Ends a step, of which all gradients are reduced: μ follows.
  void end_step() { automatic_.end_step(std::exchange(saturated_, 0), std::exchange(numbers_, 0)); }

  [[nodiscard]] const AutomaticScale& automatic_scale() const& { return automatic_; }
  [[nodiscard]] AutomaticScale automatic_scale() const&& { return automatic_; }

  /// Shows μ to `visit(name, state)` as AutomaticScale does, between steps.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    automatic_.for_each_state(visit);
  }

 private:
  static constexpr const char* name = "AllReduce";

  [[nodiscard]] EncodedArray rounded(const EncodedArray& array, float scale, float factor) const {
    return EncodedArray::encode(array, options_.format,
                                ScaleLayout::per_tensor(ScaleFormat::power_of_two),
                                std::span(&scale, 1), {.scale = factor});
  }

  /// Makes NaN of what was infinite before it saturated.
  static void mark_infinite(const Array<float>& gradient, Array<float>& message) {
    float* const to = message.mutable_data();
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      if (std::isinf(gradient.data()[i])) to[i] = std::numeric_limits<float>::quiet_NaN();
    }
  }

  /// 1/s' of a gradient.
  [[nodiscard]] float scale_of(const Array<float>& gradient) const {
    const float largest = kernels::largest_finite_magnitude(gradient.data(), gradient.size());
    return largest > 0 ? power_of_two_scale(largest, options_.format, ScaleRounding::round_up)
                       : 1.0F;
  }

  /// sum ← FP8(sum + addend)
  void add(const Array<float>& addend, Array<float>& sum) const {
    const auto to = sum.mutable_span();
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += addend.span()[i];
    options_.format.quantise(to, to);
  }

  Options options_;
  AutomaticScale automatic_;
  std::size_t saturated_ = 0;
  std::size_t numbers_ = 0;
};

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
