// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what training changes.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"

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

/// A named tensor that training changes: the float master copy, whatever precision it is used in.
/// A tape rounds it straight from float: once for all matrix products that read it, and once for
/// each other op. After `value` was written to, it is rounded anew; so call `mutable_data` each
/// time, or replace the whole array. Its gradient lives on the tape.
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
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
