// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the pool of threads behind the loops of core/parallel_for.hpp.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

/// Tells the processor that the thread is waiting for another one.
inline void pause_in_spin() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// The threads behind `parallel_for`. They are started by `set_thread_count` and by nothing else,
/// and no result depends on how many there are: every piece of work is the same piece whoever
/// takes it.
///
/// One word, `state_`, says which loop is open and how many workers are in it. Workers join an open
/// loop by themselves, so a loop waits for no worker that has not joined: what is over before a
/// thread wakes is not held up by it. Loops mostly follow each other closely, so workers look out
/// for the next one for some microseconds before they sleep, and no lock is taken until they do.
///
/// A process that forks leaves its threads behind: in the child there is the forking one alone. So
/// the child gets a new pool, of one thread, and never looks at the old one again, in whatever
/// state that was; the exception is a thread that forked inside a loop, which leaves the loop with
/// an error.
class ThreadPool {
 public:
  static ThreadPool& instance() {
    static Owner owner;
    return *owner.pool;
  }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { stop(); }

  [[nodiscard]] std::size_t size() const { return workers_.size() + 1; }

  void resize(std::size_t threads) {
    stop();
    start(threads);
  }

  /// Ends the workers.
  void stop() {
    use_threads(1);
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    stopping_ = false;
  }

  /// Starts workers, where there are none.
  void start(std::size_t threads) {
    // With more threads than processors, who spins keeps from work whoever is waited for.
    most_spins_ = threads <= std::thread::hardware_concurrency() ? 1000 : 0;
    try {
      workers_.reserve(threads - 1);
      for (std::size_t i = 1; i < threads; ++i) {
        workers_.emplace_back([this, seen = loop_of(state_)] { work(seen); });
      }
    } catch (...) {
      stop();  // a system that has no more threads to give is not left with idle ones
      throw;
    }
    use_threads(size());
  }

  /// Calls `function(context, i)` for every i in [0, count), shared with the workers.
  void run(std::size_t count, void (*function)(void*, std::size_t), void* context) {
    // A piece of work may itself contain a loop; the inner one then runs on its own thread.
    if (busy_.test_and_set(std::memory_order_acquire)) {
      loop_in_default_arithmetic(count, function, context);
      return;
    }
    function_ = function;
    context_ = context;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    // Nobody is in a closed loop, so nobody reads what was just written until this opens the next.
    const std::uint64_t state = state_.load(std::memory_order_relaxed);
    state_.store((loop_of(state) + 1) << loop_shift | open);
    if (sleepers_ != 0) {
      // Whoever counted itself but does not yet sleep holds the mutex, and will see the loop.
      { const std::lock_guard lock(mutex_); }
      wake_.notify_all();
    }
    take_work();
    state_.fetch_and(~open);
    if (!is_left_behind_) wait_for_workers();
    if (is_left_behind_) {
      throw std::runtime_error(
          "parallel_for: the process forked inside a loop that several threads shared; the child "
          "does not have them and cannot finish the loop");
    }
    // Taken before another caller's loop may begin, which would clear it.
    const std::exception_ptr error = std::exchange(error_, nullptr);
    busy_.clear(std::memory_order_release);
    if (error) std::rethrow_exception(error);
  }

 private:
  // The word `state_`: the number of the loop, two flags, and how many workers are in the loop.
  static constexpr std::uint64_t workers_inside = (std::uint64_t{1} << 16) - 1;
  static constexpr std::uint64_t open = std::uint64_t{1} << 16;           // workers may join
  static constexpr std::uint64_t caller_sleeps = std::uint64_t{1} << 17;  // wake it: the last one
  static constexpr unsigned loop_shift = 18;
  static constexpr std::uint64_t loop_of(std::uint64_t state) { return state >> loop_shift; }

  /// The pool of the process.
  struct Owner {
    ThreadPool* pool;
    Owner() : pool(new ThreadPool) {
#if defined(__unix__) || defined(__APPLE__)
      of_process = this;
      pthread_atfork(nullptr, nullptr, [] { of_process->begin_child(); });
#endif
    }
    Owner(const Owner&) = delete;
    Owner& operator=(const Owner&) = delete;
    ~Owner() { delete pool; }

   private:
    void begin_child() {
      // Its threads are not here to be joined, and its mutex may be held by one of them.
      pool->is_left_behind_ = true;
      pool->stopping_ = true;
      auto* const next = new ThreadPool;
      next->left_behind_ = pool;
      pool = next;
      use_threads(1);
    }

    static inline Owner* of_process = nullptr;
  };

  ThreadPool() = default;

  static void use_threads(std::size_t count) {
    loop_threads.count = count;
    loop_threads.run = count == 1
                           ? nullptr
                           : +[](std::size_t pieces, void (*function)(void*, std::size_t),
                                 void* context) { instance().run(pieces, function, context); };
  }

  void take_work() {
    const DefaultArithmetic arithmetic;  // each thread has modes of its own
    is_in_shared_loop = true;
    for (std::size_t i = next_++; i < count_ && !is_left_behind_; i = next_++) {
      try {
        function_(context_, i);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
    is_in_shared_loop = false;
  }

  /// Looks `most_spins_` times whether `happened()`.
  template <class Happened> [[nodiscard]] bool spin_until(const Happened& happened) const {
    for (std::size_t spins = 0; spins < most_spins_; ++spins) {
      if (happened()) return true;
      pause_in_spin();
    }
    return false;
  }

  void wait_for_workers() {
    const auto all_left = [this] { return (state_ & workers_inside) == 0; };
    if (all_left() || spin_until(all_left)) return;
    std::unique_lock lock(mutex_);
    state_ |= caller_sleeps;
    finished_.wait(lock, all_left);
  }

  /// What a worker does until the pool stops; `seen` is the last loop that it does not take part
  /// in.
  void work(std::uint64_t seen) {
    const auto changed = [&] { return stopping_ || loop_of(state_) != seen; };
    for (;;) {
      if (!spin_until(changed)) {
        std::unique_lock lock(mutex_);
        ++sleepers_;
        wake_.wait(lock, changed);
        --sleepers_;
      }
      if (stopping_) return;
      std::uint64_t state = state_;
      seen = loop_of(state);
      while ((state & open) != 0 && loop_of(state) == seen) {
        if (!state_.compare_exchange_weak(state, state + 1)) continue;
        take_work();
        if (is_left_behind_) return;
        if (const std::uint64_t before = state_.fetch_sub(1);
            (before & workers_inside) == 1 && (before & caller_sleeps) != 0) {
          const std::lock_guard lock(mutex_);
          finished_.notify_one();
        }
        break;
      }
    }
  }

  std::vector<std::thread> workers_;
  bool is_left_behind_ = false;        ///< by a fork: the threads are in the parent
  ThreadPool* left_behind_ = nullptr;  ///< that of the parent, in a child
  std::size_t most_spins_ = 0;         ///< some tens of microseconds
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable finished_;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
  void (*function_)(void*, std::size_t) = nullptr;
  void* context_ = nullptr;
  std::size_t count_ = 0;
  std::exception_ptr error_;
  // Apart from each other and from what is only read: each of these passes between the threads.
  alignas(64) std::atomic<std::uint64_t> state_{0};
  std::atomic<std::size_t> sleepers_{0};
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<std::size_t> next_{0};
};

}  // namespace detail

/// Sets how many threads the library uses, the calling one included. It starts none on its own.
/// The number changes how long things take and never a bit of any result. Not to be called while
/// another thread is inside the library. All files of a program have one number, whatever their
/// targets (core/target.hpp). The child of a fork has one thread until it calls this.
/// @throws DomainError unless there are 1 to 4096 of them; std::system_error if the system refuses,
///         and there is one thread then.
inline void set_thread_count(std::size_t threads) {
  require(threads >= 1 && threads <= 4096, "set_thread_count", "expected 1 to 4096 threads");
  if (detail::loop_threads.resize == nullptr) {
    detail::loop_threads.resize = [](std::size_t count) {
      detail::ThreadPool::instance().resize(count);
    };
  }
  detail::loop_threads.resize(threads);
}

}  // namespace UNIT_SCALING_NAMESPACE
