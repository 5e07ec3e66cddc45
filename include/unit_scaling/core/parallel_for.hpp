// SPDX-License-Identifier: MIT
/// @file
/// Layer core: loops over independent pieces of work, shared with the threads there are.
///
/// The threads themselves are in core/parallel.hpp, which whoever calls `set_thread_count`
/// includes: a file that only computes need not compile a thread pool.
#pragma once

#include <cstddef>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/target.hpp"

/// What the files of a program share whatever their targets (core/target.hpp): data, and no
/// function.
namespace unit_scaling::every_target {

/// What a loop knows of the threads that share its work: without a pool there is the calling one.
struct LoopThreads {
  std::size_t count = 1;
  /// Calls `function(context, i)` for every i in [0, count) and rethrows what that threw first.
  /// Null if there is one thread.
  void (*run)(std::size_t count, void (*function)(void*, std::size_t), void* context) = nullptr;
  /// Sets the number of threads of the one pool of the program; null until there is a pool.
  void (*resize)(std::size_t threads) = nullptr;
};
inline constinit LoopThreads loop_threads;

/// Whether the calling thread is at work on a piece of a loop that several threads share: a loop
/// inside that piece runs on it alone.
inline constinit thread_local bool is_in_shared_loop = false;

}  // namespace unit_scaling::every_target

namespace UNIT_SCALING_NAMESPACE {

namespace detail {
using every_target::is_in_shared_loop;
using every_target::loop_threads;
using every_target::LoopThreads;
}  // namespace detail

/// How many threads `parallel_for` uses; 1 until `set_thread_count` says otherwise.
[[nodiscard]] inline std::size_t thread_count() { return detail::loop_threads.count; }

/// How many threads a `parallel_for` that begins here may use: one inside a piece of a loop that
/// several threads share.
[[nodiscard]] inline std::size_t available_thread_count() {
  return detail::is_in_shared_loop ? 1 : thread_count();
}

/// Calls `body(i)` once for every i in [0, count), on up to `thread_count()` threads, in no
/// particular order, and returns when all are done. The first exception thrown is rethrown. Every
/// body computes in default arithmetic (core/arithmetic.hpp), whichever thread it runs on.
template <class Body> void parallel_for(std::size_t count, const Body& body) {
  const detail::LoopThreads threads = detail::loop_threads;
  const auto call = [](void* context, std::size_t i) { (*static_cast<const Body*>(context))(i); };
  void* const context = const_cast<void*>(static_cast<const void*>(&body));
  if (count > 1 && threads.count > 1) {
    threads.run(count, call, context);
  } else if (has_default_arithmetic()) [[likely]] {
    for (std::size_t i = 0; i < count; ++i) body(i);
  } else {
    detail::loop_in_default_arithmetic(count, call, context);
  }
}

/// `parallel_for` over [0, count) in ranges: calls `body(begin, end)` with `end - begin <= grain`.
/// The ranges depend on `count` and `grain` alone.
template <class Body> void parallel_ranges(std::size_t count, std::size_t grain, const Body& body) {
  parallel_for((count + grain - 1) / grain, [&](std::size_t i) {
    const std::size_t begin = i * grain;
    body(begin, begin + grain < count ? begin + grain : count);
  });
}

}  // namespace UNIT_SCALING_NAMESPACE
