// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. A thread count for a scope.
#pragma once

#include <cstddef>

#include "unit_scaling/core/parallel.hpp"

namespace unit_scaling_test {

/// Sets the thread count while it lives, then puts back the one before.
class ThreadCountScope {
 public:
  explicit ThreadCountScope(std::size_t threads) : before_(unit_scaling::thread_count()) {
    unit_scaling::set_thread_count(threads);
  }
  ThreadCountScope(const ThreadCountScope&) = delete;
  ThreadCountScope& operator=(const ThreadCountScope&) = delete;
  ~ThreadCountScope() { unit_scaling::set_thread_count(before_); }

 private:
  std::size_t before_;
};

}  // namespace unit_scaling_test
