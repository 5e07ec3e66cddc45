// SPDX-License-Identifier: MIT
// A product and a row kernel, compiled for processors whose registers of floats and of integers, or
// fused instructions, differ in width: see tests/CMakeLists.txt.
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/matmul.hpp"

namespace us = unit_scaling;

us::float32x16 fused(us::float32x16 a, us::float32x16 b, float c) {
  return us::multiply_add(a, b, c);
}

void product(const us::float8_e4m3fn* a, const us::float8_e4m3fn* b, float* to) {
  using us::kernels::row_major;
  us::kernels::matmul<float>({100, 100, 100}, row_major(a, 100), row_major(b, 100), to, 100);
  us::kernels::matmul<float>({100, 1, 100}, row_major(a, 100), row_major(b, 1), to, 1);
}
