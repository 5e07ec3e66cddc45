// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/all_reduce.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/core/random.hpp"

namespace all_reduce_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using optim::AllReduce;
using optim::WorkerScaling;

/// Gradients of workers that have half of their variance in common.
std::vector<Array<float>> gradients_of(std::size_t workers, std::size_t size, double scale) {
  std::vector<Array<float>> result(workers);
  const Random common(1);
  for (std::size_t worker = 0; worker < workers; ++worker) {
    const Random own(2 + worker);
    std::vector<float> numbers(size);
    for (std::size_t i = 0; i < size; ++i) {
      numbers[i] = static_cast<float>(scale * std::sqrt(0.5) * (common.normal(i) + own.normal(i)));
    }
    result[worker] = Array<float>({size}, numbers);
  }
  return result;
}

std::vector<double> mean_of(const std::vector<Array<float>>& gradients) {
  std::vector<double> mean(gradients[0].size(), 0);
  for (const Array<float>& each : gradients) {
    for (std::size_t i = 0; i < mean.size(); ++i) {
      mean[i] += static_cast<double>(each.data()[i]) / static_cast<double>(gradients.size());
    }
  }
  return mean;
}

/// Of a mean against the exact one, in dB.
double signal_to_noise(const Array<float>& actual, const std::vector<double>& expected) {
  double signal = 0;
  double noise = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double error = static_cast<double>(actual.data()[i]) - expected[i];
    signal += expected[i] * expected[i];
    noise += error * error;
  }
  return 10 * std::log10(signal / noise);
}

/// The nearest number of float8_e4m3fn, the one with an even fraction in a tie, or the largest:
/// found by trying all.
double rounded_to_e4m3(double x) {
  double best = 0;
  for (int code = 0; code < 127; ++code) {
    const double number = code < 8 ? std::ldexp(code, -9) : std::ldexp(8 + code % 8, code / 8 - 10);
    const double distance = std::abs(number - std::abs(x));
    const double distance_of_best = std::abs(best - std::abs(x));
    if (distance < distance_of_best || (distance == distance_of_best && code % 2 == 0)) {
      best = number;
    }
  }
  return std::copysign(best, x);
}

TEST(AllReduce, IsTheTextbookSumWithEachPartialSumRounded) {
  for (const bool has_tensor_scales : {false, true}) {
    for (const WorkerScaling scaling :
         {WorkerScaling::pre, WorkerScaling::post, WorkerScaling::automatic}) {
      for (const std::size_t workers : {1U, 2U, 3U, 5U, 8U}) {
        SCOPED_TRACE(testing::Message()
                     << has_tensor_scales << static_cast<int>(scaling) << workers);
        std::vector<Array<float>> gradients = gradients_of(workers, 33, 40);
        // Workers of different scales.
        if (workers > 1) {
          for (float& each : gradients[1].mutable_span()) each *= 0.1F;
        }
        const double factor =
            scaling == WorkerScaling::pre
                ? static_cast<double>(static_cast<float>(1.0 / static_cast<double>(workers)))
                : (scaling == WorkerScaling::post ? 1 : 0.25);
        std::vector<double> scales(workers, 1);  // s'
        if (has_tensor_scales) {
          for (std::size_t worker = 0; worker < workers; ++worker) {
            double largest = 0;
            for (const float each : gradients[worker].span()) {
              largest = std::max(largest, std::abs(static_cast<double>(each)));
            }
            scales[worker] = std::exp2(std::floor(std::log2(448 / largest)));
          }
        }
        const double shared = *std::min_element(scales.begin(), scales.end());
        std::size_t saturated = 0;
        std::vector<double> expected(33);
        for (std::size_t i = 0; i < 33; ++i) {
          std::vector<double> sums;
          for (std::size_t worker = 0; worker < workers; ++worker) {
            const auto own = static_cast<float>(static_cast<double>(gradients[worker].data()[i]) *
                                                factor);  // in float, as it is sent
            const double first = rounded_to_e4m3(static_cast<double>(own) * scales[worker]);
            sums.push_back(rounded_to_e4m3(first * shared / scales[worker]));
          }
          while (sums.size() > 1) {
            std::vector<double> next;
            for (std::size_t j = 0; j + 1 < sums.size(); j += 2) {
              next.push_back(rounded_to_e4m3(sums[j] + sums[j + 1]));
            }
            if (sums.size() % 2 == 1) next.push_back(sums.back());
            sums = next;
          }
          saturated += std::abs(sums[0]) == 448 ? 1U : 0U;
          expected[i] = sums[0] / (static_cast<double>(workers) * shared * factor);
        }
        AllReduce all_reduce({.scaling = scaling,
                              .automatic = {.initial = 0.25},
                              .has_tensor_scales = has_tensor_scales});
        const optim::ReducedGradient actual = all_reduce.reduce(gradients);
        const Array<float> mean = actual.mean.decode();
        for (std::size_t i = 0; i < 33; ++i) {
          // The product with the one scale, which is rounded itself.
          EXPECT_NEAR(static_cast<double>(mean.data()[i]), expected[i],
                      std::abs(expected[i]) * 0x1p-22);
        }
        EXPECT_EQ(actual.saturated, saturated);
      }
    }
  }
}

TEST(AllReduce, SendsOneByteForANumber) {
  AllReduce all_reduce;
  const auto reduced = all_reduce.reduce(gradients_of(4, 1000, 1));
  EXPECT_EQ(reduced.mean.codes().size(), 1000U);
  EXPECT_EQ(reduced.mean.bytes(), 1004U);
}

TEST(AllReduce, AutomaticScalingIsAsGoodAsTheBestFixedOneAtEveryScaleOfTheGradient) {
  for (const std::size_t workers : {8U, 64U, 256U}) {
    const std::size_t size = workers == 256 ? 512 : 1024;
    double most_lost_by_pre = 0;
    double most_lost_by_post = 0;
    double best_of_all = 0;
    std::vector<double> automatic;
    for (const int exponent : {-20, -8, 0, 5, 10}) {
      const auto gradients = gradients_of(workers, size, std::exp2(exponent));
      const auto mean = mean_of(gradients);
      const auto fixed = [&](WorkerScaling scaling) {
        return signal_to_noise(AllReduce({.scaling = scaling}).reduce(gradients).mean.decode(),
                               mean);
      };
      const double pre = fixed(WorkerScaling::pre);
      const double post = fixed(WorkerScaling::post);
      // From a factor that is too large by 2^6, in few steps.
      AllReduce all_reduce(
          {.automatic = {.initial = std::exp2(6 - exponent), .doubling_steps = 4}});
      double sum = 0;
      constexpr int settling = 14;
      constexpr int measured = 10;  // two rounds of growing and halving
      for (int step = 0; step < settling + measured; ++step) {
        const auto reduced = all_reduce.reduce(gradients);
        all_reduce.end_step();
        if (step >= settling) sum += signal_to_noise(reduced.mean.decode(), mean);
      }
      automatic.push_back(sum / measured);
      const double best = std::max({pre, post, automatic.back()});
      EXPECT_GE(automatic.back(), std::max(pre, post) - 1) << workers << " " << exponent;
      most_lost_by_pre = std::max(most_lost_by_pre, best - pre);
      most_lost_by_post = std::max(most_lost_by_post, best - post);
      best_of_all = std::max(best_of_all, best);
      std::printf("%3zu workers, 2^%d: pre %.1f dB, post %.1f dB, automatic %.1f dB\n", workers,
                  exponent, pre, post, automatic.back());
    }
    EXPECT_GE(most_lost_by_pre, 10) << workers;
    EXPECT_GE(most_lost_by_post, 10) << workers;
    // Whatever the scale, within 1 dB of the best of any scaling at any scale.
    for (const double each : automatic) EXPECT_GE(each, best_of_all - 1) << workers;
  }
}

TEST(AllReduce, GradientsOfZerosAndOneHotOnesSurvive) {
  for (const bool has_tensor_scales : {false, true}) {
    AllReduce all_reduce({.has_tensor_scales = has_tensor_scales});
    std::vector<Array<float>> gradients(3, Array<float>::filled({5}, 0));
    EXPECT_EQ(all_reduce.reduce(gradients).mean.decode(), gradients[0]);
    gradients[1].mutable_data()[2] = 3;
    const Array<float> mean = all_reduce.reduce(gradients).mean.decode();
    for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(mean.data()[i], i == 2 ? 1.0F : 0.0F);
  }
}

// Also where the other workers would bring the sum back from the largest number.
TEST(AllReduce, WhatIsNotFiniteCountsAsSaturatedAndIsNaNInTheMean) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const Format& format : {Format::of<float8_e4m3fn>(), Format::of<float8_e5m2>()}) {
    for (const float each : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
      for (const float other : {1.0F, -64.0F, 64.0F}) {
        for (const bool has_tensor_scales : {false, true}) {
          AllReduce all_reduce({.format = format,
                                .automatic = {.initial = 0.25},
                                .has_tensor_scales = has_tensor_scales});
          std::vector<Array<float>> gradients(2, Array<float>::filled({5}, other));
          gradients[1].mutable_data()[2] = each;
          const auto reduced = all_reduce.reduce(gradients);
          EXPECT_EQ(reduced.saturated, 1U) << each << " beside " << other;
          for (std::size_t i = 0; i < 5; ++i) {
            EXPECT_EQ(std::isnan(reduced.mean.decode().data()[i]), i == 2) << each << ", " << i;
          }
          all_reduce.end_step();
          EXPECT_EQ(all_reduce.automatic_scale().factor(), 0.125);
        }
      }
    }
  }
}

TEST(AllReduce, RefusesFormatsInWhichASumCannotBeSent) {
  for (const Format& format :
       {Format::of<float8_e8m0fnu>(), Format::of<float4_e2m1fn>(), Format::of<double>()}) {
    expect_domain_error([&] { AllReduce({.format = format}); },
                        {"AllReduce", "sign, zero and NaN"});
  }
}

TEST(AllReduce, CountsOverAllGradientsOfAStep) {
  AllReduce all_reduce;
  const std::vector<Array<float>> large(1, Array<float>::filled({2}, 1000));
  const std::vector<Array<float>> small(1, Array<float>::filled({300'000}, 1));
  static_cast<void>(all_reduce.reduce(large));
  static_cast<void>(all_reduce.reduce(small));
  all_reduce.end_step();  // 2 of 300002 are less than 0.001 %
  EXPECT_GT(all_reduce.automatic_scale().factor(), 1);
  static_cast<void>(all_reduce.reduce(large));
  all_reduce.end_step();
  EXPECT_LT(all_reduce.automatic_scale().factor(), 0.6);
}

TEST(AllReduce, RefusesNoWorkersAndGradientsOfDifferentShapes) {
  AllReduce all_reduce;
  expect_domain_error([&] { static_cast<void>(all_reduce.reduce({})); },
                      {"AllReduce", "at least one"});
  const std::vector<Array<float>> gradients{Array<float>({2}), Array<float>({3})};
  EXPECT_THROW(static_cast<void>(all_reduce.reduce(gradients)), ShapeError);
}

}  // namespace all_reduce_test
