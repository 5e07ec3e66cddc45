// SPDX-License-Identifier: MIT
#include <unit_scaling/analysis.hpp>
#include <unit_scaling/unit_scaling.hpp>
#ifdef WITH_EIGEN
#include <unit_scaling/core/eigen.hpp>
#include <unit_scaling/formats/eigen_traits.hpp>
#endif

int main() {
  // Wide vectors, of whose ABI GCC has something to say.
  const unit_scaling::Array<float> x({2, 3});
  return static_cast<int>(unit_scaling::ops::gelu(unit_scaling::precision::fp32{}, x).data()[0]);
}
