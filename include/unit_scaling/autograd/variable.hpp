// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: a value on a tape.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/precision.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

template <Precision P> class Tape;

/// A value recorded on a tape, to be passed to ops: a light handle that shares the value's storage.
/// The value is freed when its last handle goes and no op has kept it for the backward pass, so
/// temporaries cost nothing: `gelu(linear(x, w))` keeps only what the two ops save.
/// `T` is P::storage, float for a parameter (the numbers of its master copy), P::compute for a
/// loss. Must not outlive its tape; using it after `Tape::clear`, or once it was moved from,
/// throws.
template <Precision P, class T = typename P::storage> class Variable {
 public:
  using value_type = T;

  Variable(const Variable&) = default;
  Variable& operator=(const Variable&) = default;
  ~Variable() = default;
  Variable(Variable&& other) noexcept
      : tape_(other.tape_),
        slot_(other.slot_),
        generation_(std::exchange(other.generation_, 0)),
        value_(std::move(other.value_)) {}
  Variable& operator=(Variable&& other) noexcept {
    if (this == &other) return *this;
    tape_ = other.tape_;
    slot_ = other.slot_;
    generation_ = std::exchange(other.generation_, 0);
    value_ = std::move(other.value_);
    return *this;
  }

  [[nodiscard]] const Array<T>& value() const& { return value_; }
  [[nodiscard]] Array<T> value() && { return std::move(value_); }
  [[nodiscard]] const Shape& shape() const& { return value_.shape(); }
  [[nodiscard]] Shape shape() && { return value_.shape(); }
  [[nodiscard]] Tape<P>& tape() const { return *tape_; }
  /// Its number among the values of the step, as in OpRecord.
  [[nodiscard]] std::size_t number() const { return slot_; }

 private:
  friend class Tape<P>;

  Variable(Tape<P>& tape, std::size_t slot, std::uint64_t generation, Array<T> value)
      : tape_(&tape), slot_(slot), generation_(generation), value_(std::move(value)) {}

  Tape<P>* tape_;
  std::size_t slot_;
  std::uint64_t generation_;  ///< 0 once it was moved from
  Array<T> value_;
};

template <class> inline constexpr bool is_variable = false;
template <class P, class T> inline constexpr bool is_variable<Variable<P, T>> = true;

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
