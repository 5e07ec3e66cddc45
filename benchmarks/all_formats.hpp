// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Every format of the catalogue, for benchmarks that treat all alike.
#pragma once

#include <type_traits>

#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_benchmarks {

/// Calls `body(std::type_identity<T>{})` for every format T of the catalogue.
template <class Body> void for_each_format(const Body& body) {
  using namespace unit_scaling;
  const auto call = [&]<class... T>() { (body(std::type_identity<T>{}), ...); };
  call.template operator()<float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz,
                           float8_e4m3, float8_e3m4, float8_e4m3b11fnuz, float8_e8m0fnu,
                           float6_e2m3fn, float6_e3m2fn, float4_e2m1fn, float16, bfloat16>();
}

}  // namespace unit_scaling_benchmarks
