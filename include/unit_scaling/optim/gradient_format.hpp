// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: which formats gradients are sent in and added up.
// unit_scaling: optional
#pragma once

#include <string_view>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/format_spec.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// @throws DomainError, named for `operation`, for binary64, and for a format without a sign, zero
///         or NaN.
inline void require_gradient_format(std::string_view operation, const Format& format) {
  const auto holds_sums = [](const FormatSpec& spec) {
    return spec.has_sign() && spec.has_zero() && spec.has_nan();
  };
  require(!format.is_binary64() && holds_sums(format.spec()), operation,
          "expected a format within binary32 with a sign, zero and NaN, got ", format);
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
