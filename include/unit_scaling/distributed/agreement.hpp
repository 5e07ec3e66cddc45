// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: ranks that were told different things are found before they train.
// unit_scaling: optional
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/compiler.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/core/version.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/gathered_sizes.hpp"
#include "unit_scaling/train/fingerprint.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

namespace detail {

#define UNIT_SCALING_TEXT(...) UNIT_SCALING_TEXT_EXPANDED(__VA_ARGS__)
#define UNIT_SCALING_TEXT_EXPANDED(...) #__VA_ARGS__
/// The target that this file is compiled for: the same one on two ranks, or optimisers may round
/// differently there, and weights drift apart.
inline constexpr std::string_view target_name = UNIT_SCALING_TEXT(UNIT_SCALING_NAMESPACE);
#undef UNIT_SCALING_TEXT
#undef UNIT_SCALING_TEXT_EXPANDED

/// FNV-1a over the bits of the numbers.
[[nodiscard]] inline std::uint64_t hash_of(const Array<float>& numbers) {
  std::uint64_t hash = unit_scaling::detail::empty_hash;
  for (const float each : numbers.span()) {
    hash = unit_scaling::detail::next_hash(hash, std::bit_cast<std::uint32_t>(each));
  }
  return hash;
}

}  // namespace detail

/// The texts of all ranks, by rank. All ranks call it, each with its own.
/// @throws CommunicationError for a text of more than 2^26 bytes, and as the communicator.
[[nodiscard]] inline std::vector<std::string> gather_texts(Communicator& ranks,
                                                           std::string_view text) {
  const auto sizes = detail::gathered_sizes(ranks, text.size());
  std::size_t all = 0;
  for (std::size_t rank = 0; rank < sizes.size(); ++rank) {
    constexpr std::size_t longest = std::size_t{1} << 26;
    if (sizes[rank] > longest) {
      throw CommunicationError("gather_texts: expected a text of at most 2^26 bytes from rank " +
                               std::to_string(rank) + ", got " + std::to_string(sizes[rank]));
    }
    all += sizes[rank];
  }
  std::string texts(all, ' ');
  ranks.all_gather(std::as_bytes(std::span(text)),
                   {std::as_writable_bytes(std::span(texts)), sizes});
  std::vector<std::string> result;
  std::size_t begin = 0;
  for (const std::size_t size : sizes) {
    result.push_back(texts.substr(begin, size));
    begin += size;
  }
  return result;
}

/// Compares what all ranks were told, before the first step:
///
///     train::Fingerprint told;
///     told.add("rate", 0.25).add("steps", 200).add("seed", 1);
///     distributed::require_agreement(ranks, told, optim::parameters_of(model));
///
/// To what was added it adds the version of the library, the order of bytes, the target
/// (core/target.hpp), the compiler, and of each parameter the shape and a hash of the master copy,
/// which tells of other seeds. Bits may depend on the level of optimisation too, which no macro
/// tells. All ranks call it, and either all return or all throw the same DomainError. If one rank
/// does not call it, the others wait for it until their deadline.
/// @throws DomainError "agreement: expected the same on all ranks, got steps is 20 on rank 0 and 40
///         on rank 2", with the differences of each rank to rank 0; CommunicationError.
inline void require_agreement(Communicator& ranks, const train::Fingerprint& told,
                              const std::vector<Parameter*>& parameters) {
  train::Fingerprint all = told;
  all.add("library version", version)
      .add("byte order", std::endian::native == std::endian::little ? "little" : "big")
      .add("target", detail::target_name)
      .add("compiler", compiler_name)
      .add("number of parameters", parameters.size());
  for (std::size_t k = 0; k < parameters.size(); ++k) {
    const Parameter& parameter = *parameters[k];
    const std::string number = "parameter " + std::to_string(k);
    all.add(number, parameter.name + " " + to_string(parameter.shape()))
        .add("weights of " + number, detail::hash_of(parameter.floats()));
  }
  const auto texts = gather_texts(ranks, all.to_string());
  std::string differences;
  const auto of_first = train::Fingerprint::parse(texts[0]);
  for (std::size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] == texts[0]) continue;
    const std::string place = "on rank " + std::to_string(rank);
    const std::string difference = train::Fingerprint::difference(
        of_first, train::Fingerprint::parse(texts[rank]), {.left = "on rank 0", .right = place});
    if (difference.empty()) continue;  // added in another order
    constexpr std::size_t long_enough = 2000;
    if (differences.size() > long_enough) {
      differences += "; and more ranks differ";
      break;
    }
    if (!differences.empty()) differences += "; ";
    differences += difference;
  }
  require(differences.empty(), "agreement", "expected the same on all ranks, got ", differences);
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
