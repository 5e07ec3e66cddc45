// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what training changes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/scaling/rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// What a parameter is to the rules that set its learning rate (u-μP's types).
enum class ParameterKind {
  untagged,  ///< nobody said: refused wherever the kind decides a learning rate
  weight,    ///< the weight of a hidden layer, or a lookup table
  bias,      ///< added inside a layer
  norm,      ///< gain or shift of a normalisation
  output,    ///< the weight of the last layer
};

/// A member that tells whether its object is still at its address. Whoever keeps the address takes
/// a watch of the place, and asks the watch before using the address. A copy of the object has a
/// place of its own.
class Place {
 public:
  Place() = default;
  Place(const Place& /*other*/) noexcept {}
  Place(Place&& other) noexcept { other.leave(); }
  // Nothing is copied, so nothing can go wrong when it is copied to itself.
  // NOLINTNEXTLINE(bugprone-unhandled-self-assignment)
  Place& operator=(const Place& /*other*/) noexcept { return *this; }
  Place& operator=(Place&& other) noexcept {
    if (this != &other) other.leave();
    return *this;
  }
  ~Place() { leave(); }

  /// Points to true as long as the object is there and was not moved from.
  using Watch = std::shared_ptr<const bool>;
  [[nodiscard]] Watch watch() const {
    if (!is_here_) is_here_ = std::make_shared<bool>(true);
    return is_here_;
  }

 private:
  void leave() noexcept {
    if (is_here_) *std::exchange(is_here_, nullptr) = false;
  }

  mutable std::shared_ptr<bool> is_here_;  ///< null until somebody watches
};

/// Tells the contents of an array from those that it had before.
struct ContentVersion {
  std::uint64_t elements = 0;  ///< as `Array::version`; 0: nobody can tell
  std::uint64_t scales = 0;    ///< of codes under scales
  friend bool operator==(const ContentVersion&, const ContentVersion&) = default;
};

/// A master copy in codes. Only a program that makes one compiles what decodes it.
struct EncodedMasterCopy {
  EncodedArray codes;
  /// `codes.decode(resource)`
  Array<float> (*decode)(const EncodedArray& codes, std::pmr::memory_resource* resource);
};

/// A named tensor that training changes: the master copy, whatever precision it is used in. A tape
/// rounds it straight from the master copy: once for all matrix products that read it, and once for
/// each other op. After `value` was written to, it is rounded anew; so call `mutable_data` each
/// time, or replace the whole array. Its gradient lives on the tape.
///
/// The master copy is `value`, an array of floats, unless an optimiser keeps it in fewer bytes (see
/// `optim::Adam::Options::master_weights`). Then it is `encoded`, and `value` is empty. `floats`
/// reads either, and `set_floats` goes back to floats.
struct Parameter {
  std::string name;
  Array<float> value;
  ParameterKind kind = ParameterKind::untagged;
  /// Number of layers in the residual stack it belongs to, none outside of one: u-μP's learning
  /// rates fall with its root.
  std::optional<std::size_t> depth = std::nullopt;
  /// Optimisers know it by its address: one that was moved or is gone is an error at their next
  /// step.
  Place place = {};
  /// The master copy, if `value` is empty. If it is not, whoever wrote `value` has replaced this.
  std::optional<EncodedMasterCopy> encoded = std::nullopt;
  /// The rule that it was made for, which ops on a tape inherit: see `scaling::inherited`.
  std::optional<Rule> rule = std::nullopt;

  /// Whether the master copy is codes.
  [[nodiscard]] bool is_encoded() const { return encoded && value.empty(); }
  [[nodiscard]] Shape shape() const {
    return is_encoded() ? encoded->codes.shape() : value.shape();
  }
  /// Memory that the master copy takes.
  [[nodiscard]] std::size_t bytes() const {
    return is_encoded() ? encoded->codes.bytes() : value.bytes();
  }
  /// The numbers of the master copy: `value` itself, or what the codes stand for.
  /// @param resource where codes are decoded to; null: where they are.
  [[nodiscard]] Array<float> floats(std::pmr::memory_resource* resource = nullptr) const {
    return is_encoded() ? encoded->decode(encoded->codes, resource) : value;
  }
  /// Makes an array of floats the master copy.
  void set_floats(Array<float> numbers) {
    value = std::move(numbers);
    encoded.reset();
  }
  /// Another one whenever the master copy was written to.
  [[nodiscard]] ContentVersion version() const {
    if (!is_encoded()) return {value.version(), 0};
    return {encoded->codes.version_of_codes(), encoded->codes.version_of_scales()};
  }
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
