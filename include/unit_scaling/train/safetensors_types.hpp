// SPDX-License-Identifier: MIT
/// @file
/// Layer train: the types of the safetensors format and what holds their elements here.
// unit_scaling: optional
#pragma once

#include <complex>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/packed.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

/// A type of the format, and the `T` whose codes its elements are.
template <class T> struct SafetensorsType {
  using type = T;
  std::string_view name;
};

/// All types of the format, in the order in which the reference implementation writes arrays, the
/// last ones first. The only place that says which name stands for what.
inline constexpr std::tuple safetensors_types{
    SafetensorsType<bool>{"BOOL"},
    SafetensorsType<float4_e2m1fn>{"F4"},
    SafetensorsType<float6_e2m3fn>{"F6_E2M3"},
    SafetensorsType<float6_e3m2fn>{"F6_E3M2"},
    SafetensorsType<std::uint8_t>{"U8"},
    SafetensorsType<std::int8_t>{"I8"},
    SafetensorsType<float8_e5m2>{"F8_E5M2"},
    SafetensorsType<float8_e4m3fn>{"F8_E4M3"},
    SafetensorsType<float8_e8m0fnu>{"F8_E8M0"},
    SafetensorsType<float8_e4m3fnuz>{"F8_E4M3FNUZ"},
    SafetensorsType<float8_e5m2fnuz>{"F8_E5M2FNUZ"},
    SafetensorsType<std::int16_t>{"I16"},
    SafetensorsType<std::uint16_t>{"U16"},
    SafetensorsType<float16>{"F16"},
    SafetensorsType<bfloat16>{"BF16"},
    SafetensorsType<std::int32_t>{"I32"},
    SafetensorsType<std::uint32_t>{"U32"},
    SafetensorsType<float>{"F32"},
    SafetensorsType<std::complex<float>>{"C64"},
    SafetensorsType<double>{"F64"},
    SafetensorsType<std::int64_t>{"I64"},
    SafetensorsType<std::uint64_t>{"U64"},
};

/// Calls `visit(std::type_identity<T>{}, name, rank)` for every type, rank being its place in the
/// order, until a call returns true.
/// @returns whether one did.
template <class Visit> constexpr bool any_safetensors_type(const Visit& visit) {
  return std::apply(
      [&](const auto&... row) {
        std::size_t rank = 0;
        return (visit(std::type_identity<typename std::remove_cvref_t<decltype(row)>::type>{},
                      row.name, rank++) ||
                ...);
      },
      safetensors_types);
}

/// Bits that an element takes in a file.
template <class T> inline constexpr std::uint64_t safetensors_bits = 8 * sizeof(T);
template <AnyMinifloat T> inline constexpr std::uint64_t safetensors_bits<T> = T::format.bits();

/// Elements narrower than a byte are packed as `EncodedArray` has them, and an array of them must
/// fill whole bytes: so many elements, or a multiple.
template <class T>
inline constexpr std::uint64_t safetensors_granule = safetensors_bits<T> % 8 == 0   ? 1
                                                     : safetensors_bits<T> % 4 == 0 ? 2
                                                     : safetensors_bits<T> % 2 == 0 ? 4
                                                                                    : 8;

/// What the table says of one type.
struct SafetensorsTypeInfo {
  std::string_view name;  ///< Empty if there is no such type.
  std::size_t rank = 0;
  std::uint64_t bits = 0;
  std::uint64_t granule = 1;
};

/// The type of that name.
[[nodiscard]] constexpr SafetensorsTypeInfo safetensors_type(std::string_view name) {
  SafetensorsTypeInfo result;
  any_safetensors_type(
      [&]<class T>(std::type_identity<T> /*type*/, std::string_view candidate, std::size_t rank) {
        if (candidate == name)
          result = {candidate, rank, safetensors_bits<T>, safetensors_granule<T>};
        return candidate == name;
      });
  return result;
}

/// The type that holds the codes of a number format chosen at run time: the one whose elements are
/// such numbers, else integers of as many bytes as a code has. Codes narrower than a byte, of which
/// no type is, are bytes of a stream.
[[nodiscard]] inline SafetensorsTypeInfo safetensors_type(const Format& format) {
  std::string_view found = format.storage_bits() <= 8    ? "U8"
                           : format.storage_bits() == 16 ? "U16"
                                                         : "U32";
  any_safetensors_type(
      [&]<class T>(std::type_identity<T> /*type*/, std::string_view name, std::size_t /*rank*/) {
        if constexpr (Storage<T>) {
          if (Format::of<T>() != format) return false;
          found = name;
          return true;
        } else {
          return false;
        }
      });
  return safetensors_type(found);
}

/// Name of the type of the format that holds a `T`; empty if none does.
template <class T> [[nodiscard]] constexpr std::string_view find_safetensors_type_name() {
  std::string_view result;
  any_safetensors_type([&]<class U>(std::type_identity<U> /*type*/, std::string_view candidate,
                                    std::size_t /*rank*/) {
    if (std::is_same_v<T, U>) result = candidate;
    return std::is_same_v<T, U>;
  });
  return result;
}
template <class T>
inline constexpr std::string_view safetensors_type_name = find_safetensors_type_name<T>();

}  // namespace detail

/// A type whose arrays a safetensors file may hold: bool, integers, std::complex<float>, float,
/// double, float16, bfloat16, and of the narrow formats float8_e4m3fn, float8_e5m2,
/// float8_e4m3fnuz, float8_e5m2fnuz, float8_e8m0fnu, float6_e2m3fn, float6_e3m2fn, float4_e2m1fn.
template <class T>
concept SafetensorsElement = !detail::safetensors_type_name<T>.empty();

/// One of those that are narrower than a byte.
template <class T>
concept PackedSafetensorsElement = SafetensorsElement<T> && PackableMinifloat<T>;

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
