// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/matmul.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "support/random_arrays.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/epilogue.hpp"
#include "unit_scaling/kernels/inner_blocks.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/piece_grid.hpp"
#include "unit_scaling/kernels/tile.hpp"

namespace matmul_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using kernels::Epilogue;
using kernels::MatmulSize;
using kernels::MatrixView;

enum class Layout { rows, columns, strided, spaced_rows };

/// Those that differ in which of their strides is one.
constexpr std::array all_layouts{Layout::rows, Layout::columns, Layout::strided};

/// Random elements and a view of them in which a matrix, or several, lie in the given layout.
template <class T> struct Operand {
  Array<T> elements;
  MatrixView<T> view;

  Operand(std::size_t rows, std::size_t columns, std::size_t segments, Layout layout,
          std::uint64_t seed)
      : view{nullptr, 0, 0} {
    switch (layout) {
      case Layout::rows:
        view = {nullptr, columns, 1, rows * columns};
        break;
      case Layout::columns:
        view = {nullptr, 1, rows, rows * columns};
        break;
      // Neither stride is one, and rows and segments have gaps between them.
      case Layout::strided: {
        const std::size_t stride = 3 * columns + 5;
        view = {nullptr, stride, 3, rows * stride + 7};
        break;
      }
      case Layout::spaced_rows:
        view = {nullptr, columns + 5, 1, rows * (columns + 5) + 7};
        break;
    }
    elements = Array<T>({segments * view.segment_stride + 1});
    const Random random(seed);
    std::array<std::uint32_t, 4> words{};
    T* target = elements.mutable_data();
    for (std::size_t i = 0; i < elements.size(); ++i) {
      if (i % 4 == 0) words = random.block(i / 4);
      target[i] = T(static_cast<float>(words[i % 4]) * 0x1p-30F - 2.0F);  // uniform in [-2, 2]
    }
    view.data = elements.data();
  }

  [[nodiscard]] float operator()(std::size_t segment, std::size_t row, std::size_t column) const {
    return static_cast<float>(view.data[segment * view.segment_stride + row * view.row_stride +
                                        column * view.column_stride]);
  }
};

/// sum + a b, fused where the target can, or in two roundings.
float multiply_add(float a, float b, float sum) {
  if (has_fused_multiply_add) return std::fma(a, b, sum);
  const volatile float product = a * b;
  return sum + product;
}

/// Whether the product is made on AMX, which adds in an order of its own.
template <class A, class B> bool uses_matrix_unit() {
  return kernels::has_amx_for<A, B>() && kernels::may_use_amx();
}

/// The three-line loop, with its epilogue; row-major without gaps.
template <class A, class B>
std::vector<float> loop(const MatmulSize& size, const Operand<A>& a, const Operand<B>& b,
                        const Epilogue<float>& epilogue) {
  std::vector<float> result(size.rows * size.columns);
  for (std::size_t i = 0; i < size.rows; ++i) {
    for (std::size_t j = 0; j < size.columns; ++j) {
      float sum = 0;
      for (std::size_t s = 0; s < size.segments; ++s) {
        if (uses_matrix_unit<A, B>()) {
          for (std::size_t p = 0; p < size.inner; p += 32) {
            // Chains of the even and of the odd elements of 32.
            std::array<float, 2> chains{};
            for (std::size_t q = p; q < std::min(size.inner, p + 32); ++q) {
              chains[q % 2] = std::fma(a(s, i, q), b(s, q, j), chains[q % 2]);
            }
            sum += chains[0] + chains[1];
          }
          continue;
        }
        for (std::size_t p = 0; p < size.inner; ++p)
          sum = multiply_add(a(s, i, p), b(s, p, j), sum);
      }
      if (epilogue.bias != nullptr) sum += epilogue.bias[j];
      result[i * size.columns + j] = sum * epilogue.scale;
    }
  }
  return result;
}

constexpr float sentinel = -12345;

/// The product as the library computes it, with rows `gap` elements further apart than they need.
template <class Out, class A, class B>
std::vector<Out> product(const MatmulSize& size, const Operand<A>& a, const Operand<B>& b,
                         const Epilogue<float>& epilogue, std::size_t gap) {
  const std::size_t stride = size.columns + gap;
  std::vector<Out> out(size.rows * stride, Out(sentinel));
  kernels::matmul<float>(size, a.view, b.view, out.data(), stride, epilogue);
  return out;
}

/// Expects the product to be the loop's results, rounded once to Out, and the gaps between the rows
/// of the result untouched. Equal means equal to the bit.
template <class Out, class A, class B>
void expect_loop(const MatmulSize& size, Layout a_layout, Layout b_layout,
                 const Epilogue<float>& epilogue = {}) {
  SCOPED_TRACE(testing::Message() << size.rows << "x" << size.inner << "x" << size.columns << ", "
                                  << size.segments << " segments, layouts "
                                  << static_cast<int>(a_layout) << " and "
                                  << static_cast<int>(b_layout));
  const Operand<A> a(size.rows, size.inner, size.segments, a_layout, 1);
  const Operand<B> b(size.inner, size.columns, size.segments, b_layout, 2);
  const std::vector<float> expected = loop(size, a, b, epilogue);
  constexpr std::size_t gap = 3;
  const std::vector<Out> actual = product<Out>(size, a, b, epilogue, gap);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < size.rows; ++i) {
    for (std::size_t j = 0; j < size.columns + gap; ++j) {
      const Out element = j < size.columns ? Out(expected[i * size.columns + j]) : Out(sentinel);
      wrong += std::memcmp(&actual[i * (size.columns + gap) + j], &element, sizeof(Out)) != 0;
    }
  }
  EXPECT_EQ(wrong, 0U);
}

template <class Out, class A, class B>
void expect_loop_in_every_layout(const MatmulSize& size, const Epilogue<float>& epilogue = {}) {
  for (const Layout a : all_layouts) {
    for (const Layout b : all_layouts) expect_loop<Out, A, B>(size, a, b, epilogue);
  }
}

TEST(Matmul, EqualsTheThreeLineLoopBitForBit) {
  expect_loop_in_every_layout<float, float, float>({1, 1, 1});
  expect_loop_in_every_layout<float, float, float>({5, 9, 7});
  expect_loop_in_every_layout<float, float, float>({1, 40, 3});
  expect_loop_in_every_layout<float, float, float>({40, 1, 3});
  expect_loop_in_every_layout<float, float, float>({17, 33, 300});
  expect_loop_in_every_layout<float, float, float>({100, 70, 513});
}

TEST(Matmul, EqualsTheLoopAtEveryRemainderOfATile) {
  for (std::size_t rows = 1; rows <= 2 * kernels::detail::tile_rows + 1; ++rows) {
    expect_loop<float, float, float>({rows, 5, 9}, Layout::rows, Layout::rows);
    expect_loop<float, float, float>({rows, 5, 9}, Layout::columns, Layout::rows);
  }
  for (std::size_t columns = 1; columns <= 2 * kernels::detail::tile_columns + 1; ++columns) {
    expect_loop<float, float, float>({5, columns, 9}, Layout::rows, Layout::rows);
    expect_loop<float, float, float>({5, columns, 9}, Layout::rows, Layout::columns);
  }
}

/// Inner dimensions around those of a vector of words, and of a block of them.
TEST(Matmul, EqualsTheLoopAtEveryRemainderOfTheInnerDimension) {
  const auto expect = [](std::size_t inner) {
    for (const Layout a : {Layout::rows, Layout::columns}) {
      for (const Layout b : {Layout::rows, Layout::columns}) {
        expect_loop<float, float, float>({5, 19, inner}, a, b);
        expect_loop<float16, float8_e4m3fn, float8_e5m2>({5, 19, inner}, a, b);
      }
    }
  };
  for (std::size_t inner = 0; inner <= 70; ++inner) expect(inner);
  const std::size_t block = kernels::detail::InnerBlocks::most_words;
  for (std::size_t inner = block - 3; inner <= block + 3; ++inner) expect(inner);
  for (std::size_t inner = 2 * block - 3; inner <= 2 * block + 3; ++inner) expect(inner);
}

/// Columns and rows of every remainder, in formats of one byte.
TEST(Matmul, EqualsTheLoopAtEveryRemainderOfATileOfBytes) {
  for (std::size_t size = 1; size <= 2 * kernels::detail::tile_columns + 1; ++size) {
    for (const Layout layout : {Layout::rows, Layout::columns}) {
      expect_loop<float, float8_e4m3fn, float8_e4m3fn>({size, 3, 5}, layout, Layout::rows);
      expect_loop<float, float8_e5m2, float8_e4m3fn>({3, size, 5}, Layout::rows, layout);
    }
  }
}

// 2^21 packed words of B are one pass; an inner dimension of 16384 leaves few tiles of columns a
// pass. One thread packs each panel when it needs it, as there are few rows.
TEST(Matmul, EqualsTheLoopWhereColumnsTakeSeveralPasses) {
  const MatmulSize size{5, 4 * kernels::detail::tile_columns + 2, 16384};
  for (const std::size_t threads : {std::size_t{1}, std::size_t{2}}) {
    const ThreadCountScope scope(threads);
    expect_loop<float, float, float>(size, Layout::rows, Layout::rows);
    expect_loop<float, float, float>(size, Layout::rows, Layout::columns);
  }
  // So many rows that one thread packs the panels of a pass first.
  const ThreadCountScope scope(1);
  expect_loop<float, float, float>({17 * kernels::detail::tile_rows, size.columns, size.inner},
                                   Layout::rows, Layout::rows);
}

// Rows of floats that are short or multiplied by few columns are not packed, but for the last,
// partial tile and where they lie 1024 floats apart.
TEST(Matmul, EqualsTheLoopWhereRowsOfFloatsStayUnpacked) {
  constexpr std::size_t tile = kernels::detail::tile_rows;
  for (const std::size_t threads : {std::size_t{1}, std::size_t{2}}) {
    const ThreadCountScope scope(threads);
    for (const std::size_t inner : {std::size_t{1}, std::size_t{7}, std::size_t{1019},
                                    std::size_t{1024}, std::size_t{2049}}) {
      for (const Layout layout : {Layout::rows, Layout::spaced_rows}) {
        for (const std::size_t columns : {std::size_t{5}, std::size_t{17}, std::size_t{33}}) {
          expect_loop<float, float, float>({tile, columns, inner}, layout, Layout::rows);
          expect_loop<float, float, float>({2 * tile + 1, columns, inner, 2}, layout,
                                           Layout::columns);
        }
      }
    }
    expect_loop<float, float, float>({2 * tile, 8 * kernels::detail::tile_columns, 9}, Layout::rows,
                                     Layout::rows);
    // With more panels only short rows stay unpacked.
    for (const std::size_t inner : {std::size_t{9}, std::size_t{1031}}) {
      expect_loop<float, float, float>({2 * tile, 8 * kernels::detail::tile_columns + 1, inner},
                                       Layout::rows, Layout::rows);
    }
    expect_loop<float16, float, float8_e4m3fn>({2 * tile, 40, 70}, Layout::rows, Layout::rows);
  }
}

// So many rows share panels of the right operand that these are packed first, and are packed in
// parts themselves.
TEST(Matmul, EqualsTheLoopWithManyRows) {
  for (const std::size_t threads : {std::size_t{1}, std::size_t{2}}) {
    const ThreadCountScope scope(threads);
    for (const Layout layout : {Layout::rows, Layout::columns}) {
      expect_loop<float, float, float>({400, 40, 1030}, layout, Layout::rows);
      expect_loop<float, float8_e4m3fn, float8_e5m2>({400, 40, 2060}, layout, Layout::rows);
      // Short rows, whose tiles are taken one by one; of floats they stay unpacked.
      expect_loop<float, float, float>({1303, 300, 129}, layout, Layout::rows);
      expect_loop<float, float16, float>({1303, 300, 129}, layout, Layout::rows);
    }
  }
}

/// Few rows or columns, which have loops of their own, in every layout and at every remainder.
TEST(Matmul, EqualsTheLoopWithFewVectors) {
  for (const std::size_t few : {std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{4}}) {
    // Groups of 16 lanes one by one, and of 64 at a time with what is left over.
    for (const std::size_t many :
         {std::size_t{1}, std::size_t{15}, std::size_t{33}, std::size_t{64}, std::size_t{147}}) {
      for (const std::size_t inner :
           {std::size_t{1}, std::size_t{31}, std::size_t{64}, std::size_t{65}, std::size_t{300}}) {
        expect_loop_in_every_layout<float, float, float>({few, many, inner});
        expect_loop_in_every_layout<float, float, float>({many, few, inner});
        expect_loop_in_every_layout<float16, float8_e4m3fn, float8_e5m2>({few, many, inner});
        expect_loop_in_every_layout<float, float8_e5m2, float8_e4m3fn>({many, few, inner});
        expect_loop_in_every_layout<float, bfloat16, float8_e4m3fn>({few, many, inner});
        expect_loop_in_every_layout<float, bfloat16, bfloat16>({many, few, inner});
      }
    }
  }
  expect_loop_in_every_layout<bfloat16, float16, float>({2, 1030, 70});
  expect_loop_in_every_layout<float, bfloat16, bfloat16>({3, 1030, 70});
}

/// Memory for packing is used again and again; what an earlier product left there must not matter.
TEST(Matmul, EqualsTheLoopAfterAProductOfNans) {
  const std::vector<float> nans(64 * 1024, std::numeric_limits<float>::quiet_NaN());
  std::vector<float> out(64 * 64);
  for (const std::size_t inner : {std::size_t{1}, std::size_t{33}, std::size_t{300}}) {
    for (const MatmulSize size : {MatmulSize{3, 40, inner}, MatmulSize{40, 3, inner},
                                  MatmulSize{1, 1, inner}, MatmulSize{40, 40, inner}}) {
      kernels::matmul<float>({64, 64, 1024}, kernels::row_major(nans.data(), 1024),
                             kernels::row_major(nans.data(), 64), out.data(), 64);
      expect_loop_in_every_layout<float, float, float>(size);
      expect_loop_in_every_layout<float, float8_e4m3fn, float8_e4m3fn>(size);
    }
  }
}

// A fused product that is too small for a float, and negative, makes a sum of −0; nothing is added
// to it.
TEST(Matmul, KeepsANegativeZeroInEveryLayout) {
  const std::vector<float> b(64, 1e-30F);
  for (const std::size_t inner : {std::size_t{3}, std::size_t{16}, std::size_t{33}}) {
    for (const std::size_t rows : {std::size_t{1}, std::size_t{5}}) {
      for (const bool transposed : {false, true}) {
        std::vector<float> out(rows, 1);
        const std::vector<float> left(rows * inner, -1e-30F);
        const auto right = kernels::row_major(b.data(), transposed ? inner : 1);
        kernels::matmul<float>({rows, 1, inner}, kernels::row_major(left.data(), inner),
                               transposed ? right.transposed() : right, out.data(), 1);
        for (const float sum : out) {
          EXPECT_EQ(sum, 0);
          EXPECT_EQ(std::signbit(sum), has_fused_multiply_add)
              << inner << " " << rows << " " << transposed;
        }
      }
    }
  }
}

TEST(Matmul, EmptyResultsWriteNothing) {
  expect_loop_in_every_layout<float, float, float>({0, 5, 7});
  expect_loop_in_every_layout<float, float, float>({5, 0, 7});
  expect_loop_in_every_layout<float, float, float>({0, 0, 0});
}

TEST(Matmul, EmptyInnerDimensionGivesTheEpilogueOfZero) {
  const std::vector<float> bias{1, -2, 3, 0.5F, 7};
  expect_loop_in_every_layout<float, float, float>({17, 5, 0});
  expect_loop_in_every_layout<float, float, float>({17, 5, 0}, {.scale = 3, .bias = bias.data()});
}

TEST(Matmul, SegmentsAreOneLongInnerDimension) {
  const ThreadCountScope scope(1);
  // Sums wait for the next segment: of some tiles at a time, or of all of few.
  expect_loop<float, float, float>({240, 40, 5, 3}, Layout::columns, Layout::rows);
  expect_loop<float, float, float>({30, 40, 5, 3}, Layout::columns, Layout::rows);
  expect_loop_in_every_layout<float, float, float>({5, 9, 7, 3});
  expect_loop_in_every_layout<float, float, float>({17, 33, 300, 2});
  expect_loop_in_every_layout<float, float, float>({15, 34, 1, 20});
  expect_loop_in_every_layout<float, float, float>({5, 9, 7, 0});
}

TEST(Matmul, EpilogueAddsTheBiasThenScales) {
  const Array<float> bias = normal_array<float>({70}, 3);
  for (const MatmulSize& size : {MatmulSize{5, 9, 7}, MatmulSize{100, 70, 513}}) {
    expect_loop_in_every_layout<float, float, float>(size, {.scale = 0.3F});
    expect_loop_in_every_layout<float, float, float>(size, {.scale = 1, .bias = bias.data()});
    expect_loop_in_every_layout<float16, float, float>(size, {.scale = 0.3F, .bias = bias.data()});
  }
}

template <class A, class B> void expect_loop_in_mixed_formats() {
  for (const MatmulSize& size : {MatmulSize{5, 9, 7}, MatmulSize{17, 33, 300}}) {
    expect_loop_in_every_layout<float, A, B>(size);
    expect_loop_in_every_layout<float16, A, B>(size, {.scale = 0.3F});
  }
}

template <class A> void expect_loop_with_every_right_operand() {
  expect_loop_in_mixed_formats<A, float>();
  expect_loop_in_mixed_formats<A, float16>();
  expect_loop_in_mixed_formats<A, bfloat16>();
  expect_loop_in_mixed_formats<A, float8_e4m3fn>();
  expect_loop_in_mixed_formats<A, float8_e5m2>();
}

// Decoding is exact, so the loop multiplies the decoded floats.
TEST(Matmul, EqualsTheLoopForEveryPairOfFormats) {
  expect_loop_with_every_right_operand<float>();
  expect_loop_with_every_right_operand<float16>();
  expect_loop_with_every_right_operand<bfloat16>();
  expect_loop_with_every_right_operand<float8_e4m3fn>();
  expect_loop_with_every_right_operand<float8_e5m2>();
}

TEST(Matmul, TransposedViewSwapsRowsAndColumns) {
  const std::array<float, 6> elements{1, 2, 3, 4, 5, 6};
  const auto view = kernels::row_major(elements.data(), 3, 6).transposed();
  EXPECT_EQ(view.row_stride, 1U);
  EXPECT_EQ(view.column_stride, 3U);
  EXPECT_EQ(view.segment_stride, 6U);
  const auto identity = std::array<float, 4>{1, 0, 0, 1};
  std::array<float, 6> out{};
  kernels::matmul<float>({3, 2, 2}, view, kernels::row_major(identity.data(), 2), out.data(), 2);
  EXPECT_EQ(out, (std::array<float, 6>{1, 4, 2, 5, 3, 6}));
}

TEST(Matmul, OverflowGoesToInfinityAndNanSpreadsAlongItsRow) {
  const std::array<float, 4> a{300, 0, NAN, 1};
  const std::array<float, 4> b{300, 1, 1, 2};
  std::array<float16, 4> out{};
  kernels::matmul<float>({2, 2, 2}, kernels::row_major(a.data(), 2),
                         kernels::row_major(b.data(), 2), out.data(), 2);
  EXPECT_EQ(static_cast<float>(out[0]), HUGE_VALF);  // 90000 > 65504
  EXPECT_EQ(static_cast<float>(out[1]), 300);
  EXPECT_TRUE(std::isnan(static_cast<float>(out[2])));
  EXPECT_TRUE(std::isnan(static_cast<float>(out[3])));
}

// Small integers, so that every sum is exact in any order.
TEST(Matmul, DoubleProductIsExactForIntegers) {
  const Array<std::int32_t> ids_a = id_array({2, 5, 7}, 100, 4);
  const Array<std::int32_t> ids_b = id_array({2, 7, 3}, 100, 5);
  const std::vector<double> a(ids_a.span().begin(), ids_a.span().end());
  const std::vector<double> b(ids_b.span().begin(), ids_b.span().end());
  const std::vector<double> bias{1, 2, 3};
  std::vector<double> out(15);
  kernels::matmul<double>({5, 3, 7, 2}, kernels::row_major(a.data(), 7, 35),
                          kernels::row_major(b.data(), 3, 21), out.data(), 3,
                          {.scale = 2, .bias = bias.data()});
  for (std::size_t i = 0; i < 5; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      int sum = static_cast<int>(j) + 1;
      for (std::size_t p = 0; p < 7; ++p) {
        sum += ids_a.data()[i * 7 + p] * ids_b.data()[p * 3 + j];
        sum += ids_a.data()[35 + i * 7 + p] * ids_b.data()[21 + p * 3 + j];
      }
      EXPECT_EQ(out[i * 3 + j], 2 * sum);
    }
  }
}

/// An epilogue of a user's own: adds a residual, rounds to FP8 and finds the largest magnitude.
struct ResidualAndLargest {
  const float* residual;
  float8_e4m3fn* out;
  std::size_t stride;
  std::vector<float>* largest;  ///< of each row, which one thread alone finishes a part of

  template <class Count>
  void operator()(std::size_t i, std::size_t j, float32x16 sums, Count count) const {
    const float32x16 y = sums + kernels::load<float>(residual + i * stride + j, count);
    kernels::store<Overflow::saturate, float>(y, out + i * stride + j, count);
    for (std::size_t k = 0; k < static_cast<std::size_t>(count); ++k) {
      float& most = (*largest)[i];
      most = std::max(most, std::abs(y[k]));
    }
  }
};

TEST(Matmul, TakesAnEpilogueOfOnesOwn) {
  const ThreadCountScope scope(1);
  for (const MatmulSize& size : {MatmulSize{33, 70, 40}, MatmulSize{2, 70, 40}}) {
    const Operand<float8_e4m3fn> a(size.rows, size.inner, 1, Layout::rows, 1);
    const Operand<float8_e4m3fn> b(size.inner, size.columns, 1, Layout::rows, 2);
    const Array<float> residual = normal_array<float>({size.rows, size.columns}, 3);
    std::vector<float8_e4m3fn> out(size.rows * size.columns);
    std::vector<float> largest(size.rows, 0.0F);
    kernels::matmul(size, a.view, b.view,
                    ResidualAndLargest{residual.data(), out.data(), size.columns, &largest});
    const std::vector<float> sums = loop(size, a, b, {});
    for (std::size_t i = 0; i < size.rows; ++i) {
      float expected_largest = 0;
      for (std::size_t j = 0; j < size.columns; ++j) {
        const float expected = sums[i * size.columns + j] + residual.data()[i * size.columns + j];
        EXPECT_EQ(out[i * size.columns + j], float8_e4m3fn(expected)) << i << " " << j;
        expected_largest = std::max(expected_largest, std::abs(expected));
      }
      EXPECT_EQ(largest[i], expected_largest);
    }
  }
}

TEST(Matmul, ThreadCountChangesNoBit) {
  for (const std::size_t threads : {std::size_t{1}, std::size_t{2}, std::size_t{3}}) {
    const ThreadCountScope scope(threads);
    SCOPED_TRACE(testing::Message() << threads << " threads");
    expect_loop_in_every_layout<float, float, float>({1, 1, 1});
    expect_loop_in_every_layout<float, float, float>({100, 70, 513});
    expect_loop_in_every_layout<float16, float8_e4m3fn, float8_e5m2>({90, 40, 300, 2});
  }
}

// Each tile is in one piece, and no piece is empty.
TEST(Matmul, PiecesForThreadsAreAPartition) {
  for (std::size_t threads = 1; threads <= 40; threads += 3) {
    for (const std::size_t row_tiles : {1, 2, 3, 7, 16, 61, 150, 400}) {
      for (const std::size_t panels : {1, 2, 5, 16, 33, 130}) {
        for (const bool pack_columns : {false, true}) {
          const auto grid =
              kernels::detail::piece_grid(row_tiles, 14, panels, 32, threads, pack_columns);
          EXPECT_GE(grid.row_groups, 1U);
          EXPECT_GE(grid.column_groups, 1U);
          EXPECT_LE(grid.row_groups, row_tiles);
          EXPECT_LE(grid.column_groups, panels);
          EXPECT_GE(grid.row_groups * grid.column_groups, std::min(threads, row_tiles * panels));
        }
      }
    }
  }
}

TEST(Matmul, EqualsTheLoopInManyPiecesForManyThreads) {
  const ThreadCountScope scope(8);
  constexpr std::size_t rows = 50 * kernels::detail::tile_rows + 3;
  constexpr std::size_t columns = 50 * kernels::detail::tile_columns + 5;
  expect_loop<float, float, float>({rows, columns, 5}, Layout::rows, Layout::rows);
  expect_loop<float16, float8_e4m3fn, float8_e5m2>({rows, columns, 5}, Layout::columns,
                                                   Layout::rows);
}

// More than 2^20 words, in which pairs of elements are one: packed before the pieces are computed.
TEST(Matmul, EqualsTheLoopWhereThreadsShareALargeRightOperand) {
  const ThreadCountScope scope(3);
  constexpr std::size_t rows = kernels::detail::tile_rows + 3;
  expect_loop<float, float, float>({rows, 1605, 700}, Layout::rows, Layout::rows);
  expect_loop<float, float, float>({rows, 1605, 700}, Layout::columns, Layout::columns);
  expect_loop<float16, float8_e4m3fn, float8_e5m2>({rows, 1605, 1400}, Layout::rows, Layout::rows);
}

TEST(Matmul, RunsInsideALoopOverSeveralThreadsWhateverTheThreadCount) {
  const ThreadCountScope scope(3);
  const MatmulSize size{17, 33, 300};
  const Operand<float> a(17, 300, 1, Layout::rows, 6);
  const Operand<float> b(300, 33, 1, Layout::rows, 7);
  const std::vector<float> expected = loop(size, a, b, {});
  std::array<std::vector<float>, 8> results;
  parallel_for(results.size(),
               [&](std::size_t i) { results[i] = product<float>(size, a, b, {}, 0); });
  for (const std::vector<float>& result : results) EXPECT_EQ(result, expected);
}

}  // namespace matmul_test
