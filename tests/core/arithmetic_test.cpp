// SPDX-License-Identifier: MIT
#include "unit_scaling/core/arithmetic.hpp"

#include <gtest/gtest.h>

#include <cfenv>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "support/thread_arithmetic.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/random.hpp"

namespace arithmetic_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr ArithmeticMode default_mode = {"default", FE_TONEAREST, false};

TEST(DefaultArithmetic, HoldsForItsLifetimeAndNoLonger) {
  EXPECT_TRUE(has_default_arithmetic());
  for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
    bool is_default_before = true;
    bool was_default = false;
    bool was_default_within = false;
    bool returned = false;
    {
      const ThreadArithmetic unusual(mode);
      is_default_before = has_default_arithmetic();
      {
        const DefaultArithmetic arithmetic;
        was_default = is_in_mode(default_mode) && has_default_arithmetic();
        { const DefaultArithmetic within; }
        was_default_within = is_in_mode(default_mode);
      }
      returned = is_in_mode(mode);
    }
    EXPECT_FALSE(is_default_before) << mode.name;
    EXPECT_TRUE(was_default) << mode.name;
    EXPECT_TRUE(was_default_within) << mode.name;
    EXPECT_TRUE(returned) << mode.name;
  }
  EXPECT_TRUE(is_in_mode(default_mode));
}

TEST(DefaultArithmetic, KeepsTheExceptionsThatWereMet) {
  int met = 0;
  {
    const ThreadArithmetic unusual({"upward", FE_UPWARD, false});
    std::feclearexcept(FE_ALL_EXCEPT);
    {
      const DefaultArithmetic arithmetic;
      volatile double zero = 0;
      volatile double quotient = 1 / zero;
      (void)quotient;
    }
    met = std::fetestexcept(FE_DIVBYZERO);
  }
  EXPECT_NE(met, 0);
}

TEST(DefaultArithmetic, IsThatOfAFunctionCalledInIt) {
  volatile double one = 1;
  volatile double three = 3;
  const double expected = one / three;
  const double expected_of_negative = -one / three;
  for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
    volatile double quotient = 0;
    volatile double negative_quotient = 0;
    {
      const ThreadArithmetic unusual(mode);
      in_default_arithmetic([&] {
        quotient = one / three;
        negative_quotient = -one / three;
      });
    }
    EXPECT_EQ(quotient, expected) << mode.name;
    EXPECT_EQ(negative_quotient, expected_of_negative) << mode.name;
  }
}

TEST(DefaultArithmetic, ReturnsAfterAnException) {
  for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
    for (const std::size_t threads : {1U, 3U}) {
      const ThreadCountScope scope(threads);
      bool was_caught = false;
      bool returned = false;
      {
        const ThreadArithmetic unusual(mode);
        try {
          parallel_for(5, [](std::size_t) { throw std::runtime_error("expected"); });
        } catch (const std::runtime_error&) {
          was_caught = true;
        }
        returned = is_in_mode(mode);
      }
      EXPECT_TRUE(was_caught) << mode.name;
      EXPECT_TRUE(returned) << mode.name;
    }
  }
}

TEST(ParallelFor, ComputesInDefaultArithmeticOnEveryThread) {
  std::vector<float> numbers(1000);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i) + 0.3F;
  std::vector<float> expected(numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) expected[i] = numbers[i] / 7 - 1e-39F / 3;
  for (const std::size_t threads : {1U, 2U, 4U}) {
    for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
      // The workers begin in the mode of who starts them, or keep an earlier one.
      for (const bool begins_in_mode : {false, true}) {
        std::vector<float> actual(numbers.size());
        std::vector<char> was_default(numbers.size(), 0);
        bool stayed = false;
        const auto compute = [&] {
          parallel_for(numbers.size() / 10, [&](std::size_t piece) {
            parallel_for(10, [&](std::size_t within) {
              const std::size_t i = piece * 10 + within;
              actual[i] = numbers[i] / 7 - 1e-39F / 3;
              was_default[i] = is_in_mode(default_mode) ? 1 : 0;
            });
          });
        };
        if (begins_in_mode) {
          const ThreadArithmetic unusual(mode);
          const ThreadCountScope scope(threads);
          compute();
          stayed = is_in_mode(mode);
        } else {
          const ThreadCountScope scope(threads);
          const ThreadArithmetic unusual(mode);
          compute();
          stayed = is_in_mode(mode);
        }
        EXPECT_EQ(actual, expected) << mode.name << ", " << threads << " threads";
        EXPECT_EQ(was_default, std::vector<char>(numbers.size(), 1)) << mode.name;
        EXPECT_TRUE(stayed) << mode.name;
      }
    }
  }
}

TEST(Random, DrawsTheSameNumbersInEveryArithmetic) {
  const Random random(7);
  std::vector<double> expected(1000);
  std::vector<float> expected_uniform(1000);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    expected[i] = random.normal(i);
    expected_uniform[i] = random.uniform(i);
  }
  for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
    std::vector<double> actual(expected.size());
    std::vector<float> uniform(expected.size());
    {
      const ThreadArithmetic unusual(mode);
      for (std::size_t i = 0; i < actual.size(); ++i) {
        actual[i] = random.normal(i);
        uniform[i] = random.uniform(i);
      }
    }
    EXPECT_EQ(actual, expected) << mode.name;
    EXPECT_EQ(uniform, expected_uniform) << mode.name;
  }
}

}  // namespace arithmetic_test
