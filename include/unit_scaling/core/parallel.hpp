// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the pool of threads behind the loops of core/parallel_for.hpp.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"

namespace unit_scaling {

namespace detail {

/// The threads behind `parallel_for`. They are started by `set_thread_count` and by nothing else,
/// and no result depends on how many there are: every piece of work is the same piece whoever
/// takes it.
class ThreadPool {
 public:
  static ThreadPool& instance() {
    static ThreadPool pool;
    return pool;
  }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { resize(1); }

  [[nodiscard]] std::size_t size() const { return workers_.size() + 1; }

  void resize(std::size_t threads) {
    loop_threads = {};
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    stopping_ = false;
    try {
      workers_.reserve(threads - 1);
      for (std::size_t i = 1; i < threads; ++i) {
        workers_.emplace_back([this, seen = generation_] { work(seen); });
      }
    } catch (...) {
      resize(1);  // a system that has no more threads to give is not left with idle ones
      throw;
    }
  }

  /// Calls `function(context, i)` for every i in [0, count), shared with the workers.
  void run(std::size_t count, void (*function)(void*, std::size_t), void* context) {
    // A piece of work may itself contain a loop; the inner one then runs on its own thread.
    if (busy_.test_and_set()) {
      for (std::size_t i = 0; i < count; ++i) function(context, i);
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      function_ = function;
      context_ = context;
      count_ = count;
      next_ = 0;
      active_ = workers_.size();
      error_ = nullptr;
      ++generation_;
    }
    wake_.notify_all();
    take_work();
    {
      std::unique_lock lock(mutex_);
      finished_.wait(lock, [this] { return active_ == 0; });
    }
    // Taken before another caller's loop may begin, which would clear it.
    const std::exception_ptr error = std::exchange(error_, nullptr);
    busy_.clear();
    if (error) std::rethrow_exception(error);
  }

 private:
  ThreadPool() = default;

  void take_work() {
    for (std::size_t i = next_++; i < count_; i = next_++) {
      try {
        function_(context_, i);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
  }

  void work(std::size_t seen) {
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
        if (stopping_) return;
        seen = generation_;
      }
      take_work();
      const std::lock_guard lock(mutex_);
      if (--active_ == 0) finished_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  std::atomic<std::size_t> next_{0};
  void (*function_)(void*, std::size_t) = nullptr;
  void* context_ = nullptr;
  std::size_t count_ = 0;
  std::size_t active_ = 0;
  std::size_t generation_ = 0;
  std::exception_ptr error_;
  bool stopping_ = false;
};

}  // namespace detail

/// Sets how many threads the library uses, the calling one included. It starts none on its own.
/// The number changes how long things take and never a bit of any result. Not to be called while
/// another thread is inside the library.
/// @throws DomainError unless there are 1 to 4096 of them; std::system_error if the system refuses,
/// and
///         there is one thread then.
inline void set_thread_count(std::size_t threads) {
  require(threads >= 1 && threads <= 4096, "set_thread_count", "expected 1 to 4096 threads");
  auto& pool = detail::ThreadPool::instance();
  pool.resize(threads);
  detail::loop_threads = {.count = pool.size(),
                          .run = [](auto... loop) { detail::ThreadPool::instance().run(loop...); }};
}

}  // namespace unit_scaling
