// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a lookup table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/embedding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = ops::embedding(ids, table): ids (…) to y (…, size).
class Embedding {
 public:
  Embedding(Initialiser& initialiser, const std::string& name, std::size_t entries,
            std::size_t size)
      : name_(name),
        op_{.scaling = initialiser.scaling()},
        table_(initialiser.table(name + ".table", entries, size)) {}

  /// Ids carry no tape, so it is given.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(Tape<P>& tape, const Array<std::int32_t>& ids) const;

  [[nodiscard]] const Parameter& table() const& { return table_; }
  const Parameter& table() const&& = delete;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) { visit(table_); }

 private:
  std::string name_;
  ops::Embedding op_;
  Parameter table_;
};

template <Precision P>
Variable<P> Embedding::operator()(Tape<P>& tape, const Array<std::int32_t>& ids) const {
  const auto module = tape.enter(name_);
  return ops::embedding(ids, tape.parameter(table_), op_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
