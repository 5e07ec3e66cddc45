// SPDX-License-Identifier: MIT
// Prints digests of the bits of products and of elementary ops, one line each, to be compared
// between builds of one target. UNIT_SCALING_WITH_OPTIMISERS adds steps of optimisers.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/rms_norm.hpp"
#include "unit_scaling/ops/rotary.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/sigmoid.hpp"
#include "unit_scaling/ops/silu.hpp"
#include "unit_scaling/ops/silu_glu.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/ops/tanh.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace {

namespace us = unit_scaling;

// What is not inlined here would otherwise be compiled at each call, of which there are many.

/// Numbers in (-4, 4) of all magnitudes down to 2^-6, made by integers alone.
template <class T>
[[gnu::noinline]] us::Array<T> numbers(const us::Shape& shape, std::uint32_t seed) {
  us::Array<T> result(shape);
  std::uint32_t state = seed * 2654435761U + 12345U;
  for (std::size_t i = 0; i < result.size(); ++i) {
    state = state * 1664525U + 1013904223U;
    const std::uint32_t exponent = 121U + (state >> 8) % 8U;
    const std::uint32_t fraction = (state >> 3) * 48271U & 0x7f'ffffU;
    const std::uint32_t bits = (state & 0x8000'0000U) | exponent << 23 | fraction;
    result.mutable_data()[i] = static_cast<T>(std::bit_cast<float>(bits));
  }
  return result;
}

/// The digest of bytes that follow those of another one.
[[gnu::noinline]] std::uint64_t digest_of_bytes(std::uint64_t digest, const void* data,
                                                std::size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < size; ++i) digest = (digest ^ bytes[i]) * 0x100000001b3U;
  return digest;
}
template <class T> void add_digest(std::uint64_t& digest, const us::Array<T>& array) {
  digest = digest_of_bytes(digest, array.data(), array.bytes());
}

[[gnu::noinline]] void print(const std::string& name, const char* pass, std::uint64_t digest) {
  std::printf("%-60s %016llx\n", (name + pass).c_str(), static_cast<unsigned long long>(digest));
}

/// Both passes under factors that are not powers of two.
template <class P, class Op, class... Arrays>
[[gnu::noinline]] void digest_of(const std::string& name, P precision, const Op& op,
                                 const Arrays&... arrays) {
  auto scales = op.scales(arrays...);
  scales.forward = 0.7;
  for (std::size_t i = 0; i < scales.backward.size(); ++i) {
    scales.backward[i] = 1.3 - 0.2 * static_cast<double>(i);
  }
  const auto forward = op.forward(precision, scales, arrays...);
  using Out = std::remove_cvref_t<decltype(forward.output.data()[0])>;
  const auto dy = numbers<Out>(forward.output.shape(), 77);
  std::uint64_t digest = 0xcbf29ce484222325U;
  add_digest(digest, forward.output);
  print(name, " forward", digest);
  digest = 0xcbf29ce484222325U;
  std::apply([&](const auto&... gradient) { (add_digest(digest, gradient), ...); },
             op.backward(precision, scales, forward.saved, dy));
  print(name, " backward", digest);
}

[[gnu::noinline]] std::string name_of_product(const std::string& precision_name, std::size_t rows,
                                              std::size_t inner, std::size_t columns) {
  return precision_name + " " + std::to_string(rows) + " " + std::to_string(inner) + " " +
         std::to_string(columns);
}

template <class P> void products(const std::string& precision_name) {
  using T = typename P::storage;
  constexpr std::size_t extents[][3] = {{1, 7, 5},    {4, 65, 33},  {19, 1, 40},
                                        {33, 31, 17}, {65, 130, 2}, {70, 515, 51}};
  for (const auto& [rows, inner, columns] : extents) {
    const std::string name = name_of_product(precision_name, rows, inner, columns);
    digest_of("linear " + name, P{}, us::ops::Linear{}, numbers<T>({rows, inner}, 1),
              numbers<float>({columns, inner}, 2), numbers<float>({columns}, 3));
    digest_of("matmul " + name, P{}, us::ops::Matmul{}, numbers<T>({rows, inner}, 4),
              numbers<T>({inner, columns}, 5));
  }
}

/// Each element of `x` times `factor`, plus `mean`.
template <class T>
[[gnu::noinline]] us::Array<T> moved(const us::Array<T>& x, float factor, float mean) {
  us::Array<T> result(x.shape());
  for (std::size_t i = 0; i < x.size(); ++i) {
    // A product of its own: a power of two in front of a sum would hide whether they are fused.
    const volatile float product = static_cast<float>(x.data()[i]) * factor;
    result.mutable_data()[i] = static_cast<T>(product + mean);
  }
  return result;
}

/// Norms of rows with and without a mean, and of rows whose squares leave the range of float.
template <class P> void norms(const std::string& name) {
  using T = typename P::storage;
  const P p;
  const auto x = numbers<T>({13, 61}, 6);
  const auto gain = numbers<float>({61}, 8);
  const auto bias = numbers<float>({61}, 9);
  for (const auto& [kind, rows] : {std::pair{"", x}, std::pair{"far ", moved(x, 0x1.3p98F, 0)},
                                   std::pair{"near zero ", moved(x, 0x1.3p-98F, 0)},
                                   std::pair{"with a mean ", moved(x, 1, 1000)}}) {
    digest_of("layer_norm " + (kind + name), p, us::ops::LayerNorm{}, rows);
    digest_of("layer_norm with gain " + (kind + name), p, us::ops::LayerNorm{}, rows, gain, bias);
    digest_of("rms_norm " + (kind + name), p, us::ops::RmsNorm{}, rows);
    digest_of("rms_norm with gain " + (kind + name), p, us::ops::RmsNorm{}, rows, gain);
  }
  // Gradients with a mean, and far ones.
  const us::ops::LayerNorm op;
  const auto scales = op.scales(x, gain, bias);
  const auto saved = op.forward(p, scales, x, gain, bias).saved;
  const auto dy = numbers<T>(x.shape(), 78);
  for (const auto& [kind, rows] :
       {std::pair{"with a mean ", moved(dy, 1, 1000)}, std::pair{"far ", moved(dy, 0x1.3p123F, 0)},
        std::pair{"near zero ", moved(dy, 0x1.3p-123F, 0)}}) {
    std::uint64_t digest = 0xcbf29ce484222325U;
    std::apply([&](const auto&... gradient) { (add_digest(digest, gradient), ...); },
               op.backward(p, scales, saved, rows));
    print("layer_norm with gain, dy " + (kind + name), " backward", digest);
  }
}

template <class P> void others(const std::string& name) {
  using T = typename P::storage;
  const P p;
  const auto x = numbers<T>({13, 61}, 6);
  const auto y = numbers<T>({13, 61}, 7);
  digest_of("gelu erf " + name, p, us::ops::Gelu{.mult = 1.1}, x);
  digest_of("gelu tanh " + name, p,
            us::ops::Gelu{.mult = 1.1, .form = us::ops::GeluForm::tanh_approximation}, x);
  digest_of("silu " + name, p, us::ops::Silu{.mult = 1.1}, x);
  digest_of("sigmoid " + name, p, us::ops::Sigmoid{}, x);
  digest_of("tanh " + name, p, us::ops::Tanh{}, x);
  digest_of("softmax " + name, p, us::ops::Softmax{.mult = 1.1}, x);
  digest_of("silu_glu " + name, p, us::ops::SiluGlu{.mult = 1.1}, x, y);
  digest_of("rotary " + name, p, us::ops::Rotary{}, numbers<T>({2, 9, 38}, 10));
  digest_of("residual_add " + name, p, us::ops::ResidualAdd{.tau = 0.6}, x, y);
  digest_of("attention " + name, p, us::ops::ScaledDotProductAttention{.is_causal = true},
            numbers<T>({2, 3, 70, 20}, 11), numbers<T>({2, 3, 70, 20}, 12),
            numbers<T>({2, 3, 70, 28}, 13));
}

#if defined(UNIT_SCALING_WITH_OPTIMISERS)
/// Gradients that are given.
struct Gradients {
  us::Array<float> given;
  const us::Array<float>& gradient(const us::Parameter& /*parameter*/) const { return given; }
};

/// The parameter and the state after three steps.
template <class Optimiser>
void optimiser(const std::string& name, const typename Optimiser::Options& options) {
  us::Parameter parameter{"p", numbers<float>({13, 61}, 14), us::ParameterKind::weight};
  Optimiser optimiser({&parameter}, options);
  for (std::uint32_t step = 0; step < 3; ++step) {
    optimiser.step(Gradients{numbers<float>({13, 61}, 20 + step)}, 0.013, 3);
  }
  std::uint64_t digest = 0xcbf29ce484222325U;
  add_digest(digest, parameter.value);
  optimiser.for_each_state([&]<class T>(const std::string&, T& state) {
    if constexpr (us::is_array<T>) add_digest(digest, state);
  });
  print(name, "", digest);
}
#endif

}  // namespace

int main() {
  // The start-up code that Clang links with -ffast-math has subnormal numbers flushed. Ops that are
  // called by name do not let that be; their members, which are called here, leave it to the
  // caller.
  const us::DefaultArithmetic arithmetic;
  products<us::precision::fp32>("fp32");
  products<us::precision::bf16>("bf16");
  products<us::precision::fp8>("fp8");
  products<us::precision::fp64>("fp64");
  others<us::precision::fp32>("fp32");
  norms<us::precision::fp32>("fp32");
#if defined(UNIT_SCALING_WITH_OPTIMISERS)
  optimiser<us::optim::Sgd>("sgd", {.weight_decay = 0.1, .nesterov = true});
  optimiser<us::optim::Adam>("adam", {.weight_decay = 0.1});
  optimiser<us::optim::AdamW>("adamw", {.weight_decay = 0.007});
  optimiser<us::optim::AdamW>("adamw decoupled",
                              {.weight_decay = 0.1, .decay = us::optim::WeightDecay::decoupled});
  optimiser<us::optim::Lamb>("lamb", {});
#endif
}
