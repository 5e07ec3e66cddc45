// SPDX-License-Identifier: MIT
// One file of a program, compiled once for each target, with PART as the name of its namespace.
#include "part.hpp"

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/train/interruption.hpp"

namespace {

namespace us = unit_scaling;

/// Numbers in (-4, 4) whose products need rounding, made by integers alone.
us::Array<float> numbers(std::size_t rows, std::size_t columns, std::uint32_t state) {
  us::Array<float> result({rows, columns});
  for (std::size_t i = 0; i < result.size(); ++i) {
    state = state * 1664525U + 1013904223U;
    result.mutable_data()[i] = (static_cast<float>(state >> 8) - 0x1p23F) * 0x1p-21F;
  }
  return result;
}

template <class T> void print(const char* what, const us::Array<T>& array) {
  std::uint64_t digest = 0;
  for (std::size_t i = 0; i < array.bytes(); ++i) {
    unsigned char byte = 0;
    std::memcpy(&byte, reinterpret_cast<const unsigned char*>(array.data()) + i, 1);
    digest = (digest ^ byte) * 0x100000001b3U;
  }
  std::printf("%s %016llx\n", what, static_cast<unsigned long long>(digest));
}

template <class T> void print_conversion(const char* what, const us::Array<float>& from) {
  us::Array<T> to({from.rows(), from.columns()});
  for (std::size_t i = 0; i < from.size(); ++i) to.mutable_data()[i] = T(from.data()[i]);
  print(what, to);
}

}  // namespace

namespace PART {

void print_results() {
  constexpr us::precision::fp32 fp32;
  constexpr us::precision::fp8 fp8;
  const auto x = numbers(9, 67, 1);
  const auto w = numbers(33, 67, 2);
  print("product", us::ops::linear(fp32, x, w));
  print("product_fp8", us::ops::linear(fp8, x, w));
  print("gelu", us::ops::gelu(fp32, x));
  print("softmax", us::ops::softmax(fp32, x));
  print_conversion<us::float16>("float16", x);
  print_conversion<us::bfloat16>("bfloat16", x);
  print_conversion<us::float8_e4m3fn>("float8_e4m3fn", x);
  print_conversion<us::float8_e5m2>("float8_e5m2", x);
}

void set_threads(std::size_t count) { us::set_thread_count(count); }

std::size_t threads() { return us::thread_count(); }

bool loop_is_shared() {
  std::vector<int> calls(1000);
  std::vector<int> available(calls.size());
  us::parallel_for(calls.size(), [&](std::size_t i) {
    ++calls[i];
    available[i] = static_cast<int>(us::available_thread_count());
  });
  for (std::size_t i = 0; i < calls.size(); ++i) {
    if (calls[i] != 1 || available[i] != 1) return false;
  }
  return true;
}

int interruption() { return us::train::interruption(); }

bool is_interrupted(int (*told)()) {
  const us::train::InterruptionScope scope("a signal that the test sends");
  std::raise(SIGINT);
  return told() == SIGINT;
}

}  // namespace PART
