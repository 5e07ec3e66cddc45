// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Checks of what is thrown and of what it says.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <typeinfo>

#include "unit_scaling/core/check.hpp"

namespace unit_scaling_test {

/// Expects `call()` to throw exactly an Error whose text contains every one of `parts`.
template <class Error, class Call>
void expect_error(const Call& call, std::initializer_list<std::string_view> parts) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_TRUE(typeid(error) == typeid(Error)) << "thrown: " << typeid(error).name();
    const std::string text = error.what();
    for (const std::string_view part : parts) {
      EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in: " << text;
    }
    return;
  }
  ADD_FAILURE() << "nothing was thrown";
}

template <class Call>
void expect_shape_error(const Call& call, std::initializer_list<std::string_view> parts) {
  expect_error<unit_scaling::ShapeError>(call, parts);
}

template <class Call>
void expect_domain_error(const Call& call, std::initializer_list<std::string_view> parts) {
  expect_error<unit_scaling::DomainError>(call, parts);
}

}  // namespace unit_scaling_test
