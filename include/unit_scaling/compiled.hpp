// SPDX-License-Identifier: MIT
/// @file
/// What the target unit_scaling::compiled holds compiled, so that a program which links it need
/// not.
///
/// One list serves both sides. Each source of the target defines it for one precision, but for one
/// source, which defines what all precisions use. For those that link the target, it defines
/// UNIT_SCALING_COMPILED and, for each precision that it has, UNIT_SCALING_COMPILED_HAS_fp8 and so
/// on. The list is then declared `extern template`: the linker finds what would otherwise be
/// compiled. Without these macros the header declares nothing, and everything is compiled where it
/// is used, as always are policies, ops and modules that are not in the list.
///
/// unit_scaling.hpp includes this header. A file that includes single headers includes it besides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "unit_scaling/unit_scaling.hpp"

/// A tape of precision P, and the ops that it records. In float and in double one type may stand
/// for two roles, so what has a second type where `P::storage` is another one than float is apart.
#define UNIT_SCALING_COMPILED_OPS(declare, P)                                                    \
  declare template class Tape<P>;                                                                \
  declare template class GradientSums<P>;                                                        \
  declare template class StepObserver<P>;                                                        \
  declare template auto Tape<P>::record_resolved(const ops::Add&, const Variable<P>&,            \
                                                 const Variable<P>&);                            \
  declare template auto Tape<P>::record_resolved(const ops::CrossEntropy&, const Variable<P>&,   \
                                                 const Array<std::int32_t>&);                    \
  declare template auto Tape<P>::record_resolved(const ops::Conv1d&, const Variable<P>&,         \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::Conv1d&, const Variable<P>&,         \
                                                 const Variable<P, float>&,                      \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::Dropout&, const Variable<P>&);       \
  declare template auto Tape<P>::record_resolved(                                                \
      const ops::Embedding&, const Array<std::int32_t>&, const Variable<P, float>&);             \
  declare template auto Tape<P>::record_resolved(const ops::Gelu&, const Variable<P>&);          \
  declare template auto Tape<P>::record_resolved(const ops::GeluLinear&, const Variable<P>&,     \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::GeluLinear&, const Variable<P>&,     \
                                                 const Variable<P, float>&,                      \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::LayerNorm&, const Variable<P>&);     \
  declare template auto Tape<P>::record_resolved(const ops::LayerNorm&, const Variable<P>&,      \
                                                 const Variable<P, float>&,                      \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::Linear&, const Variable<P>&,         \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::Linear&, const Variable<P>&,         \
                                                 const Variable<P, float>&,                      \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::LinearReadout&, const Variable<P>&,  \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::LinearReadout&, const Variable<P>&,  \
                                                 const Variable<P, float>&,                      \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::Matmul&, const Variable<P>&,         \
                                                 const Variable<P>&);                            \
  declare template auto Tape<P>::record_resolved(const ops::Mean&, const Variable<P>&);          \
  declare template auto Tape<P>::record_resolved(const ops::MergeHeads&, const Variable<P>&);    \
  declare template auto Tape<P>::record_resolved(const ops::MseLoss&, const Variable<P>&,        \
                                                 const Variable<P>&);                            \
  declare template auto Tape<P>::record_resolved(const ops::Mul&, const Variable<P>&,            \
                                                 const Variable<P>&);                            \
  declare template auto Tape<P>::record_resolved(                                                \
      const ops::RecurrentHighway&, const Variable<P>&, const Variable<P, float>&,               \
      const Variable<P, float>&, const Variable<P, float>&);                                     \
  declare template auto Tape<P>::record_resolved(const ops::Relu&, const Variable<P>&);          \
  declare template auto Tape<P>::record_resolved(const ops::Reshape&, const Variable<P>&);       \
  declare template auto Tape<P>::record_resolved(const ops::ResidualAdd&, const Variable<P>&,    \
                                                 const Variable<P>&);                            \
  declare template auto Tape<P>::record_resolved(const ops::ResidualSplit&, const Variable<P>&); \
  declare template auto Tape<P>::record_resolved(const ops::RmsNorm&, const Variable<P>&);       \
  declare template auto Tape<P>::record_resolved(const ops::RmsNorm&, const Variable<P>&,        \
                                                 const Variable<P, float>&);                     \
  declare template auto Tape<P>::record_resolved(const ops::Rotary&, const Variable<P>&);        \
  declare template auto Tape<P>::record_resolved(const ops::ScaleBackward&, const Variable<P>&); \
  declare template auto Tape<P>::record_resolved(const ops::ScaleForward&, const Variable<P>&);  \
  declare template auto Tape<P>::record_resolved(const ops::ScaledDotProductAttention&,          \
                                                 const Variable<P>&, const Variable<P>&,         \
                                                 const Variable<P>&);                            \
  declare template auto Tape<P>::record_resolved(const ops::ScaledDotProductAttention&,          \
                                                 const Variable<P>&, const Variable<P>&,         \
                                                 const Variable<P>&, const Variable<P>&);        \
  declare template auto Tape<P>::record_resolved(const ops::SeparateHeads&, const Variable<P>&); \
  declare template auto Tape<P>::record_resolved(const ops::Sigmoid&, const Variable<P>&);       \
  declare template auto Tape<P>::record_resolved(const ops::Silu&, const Variable<P>&);          \
  declare template auto Tape<P>::record_resolved(const ops::SiluGlu&, const Variable<P>&,        \
                                                 const Variable<P>&);                            \
  declare template auto Tape<P>::record_resolved(const ops::Softmax&, const Variable<P>&);       \
  declare template auto Tape<P>::record_resolved(const ops::SplitHeads&, const Variable<P>&);    \
  declare template auto Tape<P>::record_resolved(const ops::Sum&, const Variable<P>&);           \
  declare template auto Tape<P>::record_resolved(const ops::Tanh&, const Variable<P>&);          \
  declare template auto Tape<P>::record_resolved(const ops::TokenMixing&, const Variable<P>&,    \
                                                 const Variable<P, float>&)

/// Ops that take a value in P::storage where they also take a parameter, if that is not float.
#define UNIT_SCALING_COMPILED_OPS_OF_STORAGE(declare, P)                                     \
  declare template auto Tape<P>::record_resolved(const ops::Add&, const Variable<P>&,        \
                                                 const Variable<P, float>&);                 \
  declare template auto Tape<P>::record_resolved(const ops::Add&, const Variable<P, float>&, \
                                                 const Variable<P, float>&);                 \
  declare template auto Tape<P>::record_resolved(const ops::Embedding&,                      \
                                                 const Array<std::int32_t>&, const Variable<P>&)

/// The modules.
#define UNIT_SCALING_COMPILED_MODULES(declare, P)                                               \
  declare template Variable<P> nn::Conv1d::operator()(const Variable<P>&) const;                \
  declare template Variable<P> nn::Dropout::operator()(const Variable<P>&) const;               \
  declare template Variable<P> nn::FeedForward::operator()(const Variable<P>&) const;           \
  declare template Variable<P> nn::LayerNorm::operator()(const Variable<P>&) const;             \
  declare template Variable<P> nn::Linear::operator()(const Variable<P>&) const;                \
  declare template Variable<P> nn::LinearReadout::operator()(const Variable<P>&) const;         \
  declare template Variable<P> nn::Norm::operator()(const Variable<P>&) const;                  \
  declare template Variable<P> nn::RecurrentHighway::operator()(const Variable<P>&) const;      \
  declare template Variable<P> nn::RmsNorm::operator()(const Variable<P>&) const;               \
  declare template Variable<P> nn::SwiGlu::operator()(const Variable<P>&) const;                \
  declare template Variable<P> nn::TokenMixing::operator()(const Variable<P>&) const;           \
  declare template Variable<P> nn::BertPooler::operator()(const Variable<P>&) const;            \
  declare template Variable<P> nn::BertClassifier::operator()(const Variable<P>&) const;        \
  declare template Variable<P> nn::Linear::after(const ops::Gelu&, const Variable<P>&) const;   \
  declare template Variable<P> nn::Embedding::operator()(Tape<P>&, const Array<std::int32_t>&)  \
      const;                                                                                    \
  declare template Variable<P> nn::InputEmbedding::operator()(                                  \
      Tape<P>&, const Array<std::int32_t>&, const Array<std::int32_t>&, std::size_t) const;     \
  declare template Variable<P> nn::MultiHeadAttention::operator()(                              \
      const Variable<P>&, const nn::AttentionContext<P>&) const;                                \
  declare template Variable<P> nn::TransformerLayer::operator()(                                \
      const Variable<P>&, const nn::AttentionContext<P>&) const;                                \
  declare template Variable<P> nn::TransformerStack::operator()(                                \
      const Variable<P>&, const nn::AttentionContext<P>&) const;                                \
  declare template Variable<P> nn::TransformerEncoder::operator()(                              \
      Tape<P>&, const Array<std::int32_t>&, const nn::AttentionContext<P>&,                     \
      const Array<std::int32_t>&) const;                                                        \
  declare template Variable<P> nn::TransformerDecoder::operator()(                              \
      Tape<P>&, const Array<std::int32_t>&, const nn::AttentionContext<P>&) const;              \
  declare template Variable<P> nn::TransformerDecoder::next_token_logits(                       \
      Tape<P>&, const Array<std::int32_t>&, const nn::AttentionContext<P>&) const;              \
  declare template Variable<P, typename P::compute> nn::TransformerDecoder::next_token_loss(    \
      Tape<P>&, const Array<std::int32_t>&, const nn::AttentionContext<P>&,                     \
      std::optional<std::int32_t>) const;                                                       \
  declare template Variable<P> nn::Bert::operator()(Tape<P>&, const Array<std::int32_t>&,       \
                                                    const Array<std::int32_t>&,                 \
                                                    const Array<std::int32_t>&) const;          \
  declare template Variable<P> nn::Bert::masked_token_logits(const Variable<P>&,                \
                                                             const Array<std::int32_t>&) const; \
  declare template nn::BertSpan::Logits<P> nn::BertSpan::operator()(const Variable<P>&) const;  \
  declare template Variable<P> nn::BertMlp::operator()(Tape<P>&, const Array<std::int32_t>&,    \
                                                       const Array<std::int32_t>&) const

/// What takes a step with the gradients on a tape.
#define UNIT_SCALING_COMPILED_OPTIMISERS(declare, P)                                           \
  declare template void optim::Adam::step(const Tape<P>&, double, double);                     \
  declare template void optim::Lamb::step(const Tape<P>&, double, double);                     \
  declare template void optim::Sgd::step(const Tape<P>&, double, double);                      \
  declare template void optim::GradientSum::add(const Tape<P>&, std::size_t);                  \
  declare template double optim::gradient_norm(const Tape<P>&, const std::vector<Parameter*>&, \
                                               double);                                        \
  declare template const Parameter* optim::first_non_finite(const Tape<P>&,                    \
                                                            const std::vector<Parameter*>&)

/// What operands of matrix products in one storage type are prepared and packed with, whatever the
/// policy.
#define UNIT_SCALING_COMPILED_OPERANDS_OF(declare, T)                                            \
  declare template const kernels::ElementKernels* kernels::find_element_kernels<T>();            \
  declare template void kernels::detail::prepare_stored<T>(                                      \
      const EncodedArray&, kernels::SummedExtent, kernels::PreparedOperand&);                    \
  declare template void kernels::detail::encode_stored<T>(const Format&, std::span<const float>, \
                                                          std::span<std::uint8_t>)

/// Rounding to a format that is chosen when the program runs.
#define UNIT_SCALING_COMPILED_ROUNDING(declare, mode)                                              \
  declare template void                                                                            \
  detail::encode_chunk_with<detail::EncodeModes<Overflow::saturate, Rounding::mode>>(              \
      FormatSpec, const float*, std::size_t, const EncodeOptions&, std::uint64_t, std::uint32_t*); \
  declare template void                                                                            \
  detail::encode_chunk_with<detail::EncodeModes<Overflow::infinity_or_nan, Rounding::mode>>(       \
      FormatSpec, const float*, std::size_t, const EncodeOptions&, std::uint64_t, std::uint32_t*)

/// The conversions of spans of a storage type.
#define UNIT_SCALING_COMPILED_CONVERSIONS(declare, T)                                          \
  declare template void decode(std::span<const T>, std::span<float>);                          \
  declare template void detail::encode_span<Overflow::saturate>(std::span<const float>,        \
                                                                std::span<T>);                 \
  declare template void detail::encode_span<Overflow::infinity_or_nan>(std::span<const float>, \
                                                                       std::span<T>)

/// What the source for all precisions defines.
#define UNIT_SCALING_COMPILED_shared(declare)                                                 \
  UNIT_SCALING_COMPILED_OPERANDS_OF(declare, float);                                          \
  UNIT_SCALING_COMPILED_OPERANDS_OF(declare, float16);                                        \
  UNIT_SCALING_COMPILED_OPERANDS_OF(declare, bfloat16);                                       \
  UNIT_SCALING_COMPILED_OPERANDS_OF(declare, float8_e4m3fn);                                  \
  UNIT_SCALING_COMPILED_OPERANDS_OF(declare, float8_e5m2);                                    \
  declare template const kernels::ElementKernels kernels::detail::code_kernels<false, false>; \
  declare template const kernels::ElementKernels kernels::detail::code_kernels<true, false>;  \
  declare template const kernels::ElementKernels kernels::detail::code_kernels<true, true>;   \
  UNIT_SCALING_COMPILED_ROUNDING(declare, nearest_even);                                      \
  UNIT_SCALING_COMPILED_ROUNDING(declare, nearest_away);                                      \
  UNIT_SCALING_COMPILED_ROUNDING(declare, toward_zero);                                       \
  UNIT_SCALING_COMPILED_ROUNDING(declare, toward_positive);                                   \
  UNIT_SCALING_COMPILED_ROUNDING(declare, toward_negative);                                   \
  UNIT_SCALING_COMPILED_ROUNDING(declare, stochastic);                                        \
  UNIT_SCALING_COMPILED_CONVERSIONS(declare, float16);                                        \
  UNIT_SCALING_COMPILED_CONVERSIONS(declare, bfloat16);                                       \
  declare template void detail::encode_to_nearest<std::uint8_t>(                              \
      const FormatSpec&, Overflow, const float*, std::size_t, std::uint8_t*);                 \
  declare template void detail::encode_to_nearest<std::uint16_t>(                             \
      const FormatSpec&, Overflow, const float*, std::size_t, std::uint8_t*)

/// What one source of the target defines. Gradients in double are for comparisons: optimisers do
/// not take them.
#define UNIT_SCALING_COMPILED_fp64(declare)                       \
  UNIT_SCALING_COMPILED_OPS(declare, precision::fp64);            \
  UNIT_SCALING_COMPILED_OPS_OF_STORAGE(declare, precision::fp64); \
  UNIT_SCALING_COMPILED_MODULES(declare, precision::fp64)
#define UNIT_SCALING_COMPILED_fp32(declare)                \
  UNIT_SCALING_COMPILED_OPS(declare, precision::fp32);     \
  UNIT_SCALING_COMPILED_MODULES(declare, precision::fp32); \
  UNIT_SCALING_COMPILED_OPTIMISERS(declare, precision::fp32)
#define UNIT_SCALING_COMPILED_fp16(declare) UNIT_SCALING_COMPILED_NARROW(declare, precision::fp16)
#define UNIT_SCALING_COMPILED_bf16(declare) UNIT_SCALING_COMPILED_NARROW(declare, precision::bf16)
#define UNIT_SCALING_COMPILED_fp8(declare) UNIT_SCALING_COMPILED_NARROW(declare, precision::fp8)
#define UNIT_SCALING_COMPILED_NARROW(declare, P)    \
  UNIT_SCALING_COMPILED_OPS(declare, P);            \
  UNIT_SCALING_COMPILED_OPS_OF_STORAGE(declare, P); \
  UNIT_SCALING_COMPILED_MODULES(declare, P);        \
  UNIT_SCALING_COMPILED_OPTIMISERS(declare, P)

#ifdef UNIT_SCALING_COMPILED
namespace UNIT_SCALING_NAMESPACE {
UNIT_SCALING_COMPILED_shared(extern);
#ifdef UNIT_SCALING_COMPILED_HAS_fp64
UNIT_SCALING_COMPILED_fp64(extern);
#endif
#ifdef UNIT_SCALING_COMPILED_HAS_fp32
UNIT_SCALING_COMPILED_fp32(extern);
#endif
#ifdef UNIT_SCALING_COMPILED_HAS_fp16
UNIT_SCALING_COMPILED_fp16(extern);
#endif
#ifdef UNIT_SCALING_COMPILED_HAS_bf16
UNIT_SCALING_COMPILED_bf16(extern);
#endif
#ifdef UNIT_SCALING_COMPILED_HAS_fp8
UNIT_SCALING_COMPILED_fp8(extern);
#endif
}  // namespace UNIT_SCALING_NAMESPACE
#endif
