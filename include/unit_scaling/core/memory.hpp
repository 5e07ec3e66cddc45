// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the memory resource that lets a training step reuse the storage of the step before.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory_resource>
#include <new>
#include <unordered_map>
#include <utility>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// Cache-line and vector alignment of every array.
inline constexpr std::size_t array_alignment = 64;

/// Keeps every freed block and hands it out again for the next request of the same size.
/// A training step asks for the same sizes as the step before it, so from the second step on
/// nothing is taken from `upstream`, nor from anywhere else: the blocks that wait are chained
/// through their own memory. Both directions take constant time. Not thread-safe: one resource
/// serves one tape.
class RecyclingResource final : public std::pmr::memory_resource {
 public:
  explicit RecyclingResource(std::pmr::memory_resource* upstream = std::pmr::new_delete_resource())
      : upstream_(upstream) {}
  RecyclingResource(const RecyclingResource&) = delete;
  RecyclingResource& operator=(const RecyclingResource&) = delete;
  ~RecyclingResource() override { release(); }

  /// Bytes now in use by arrays.
  [[nodiscard]] std::size_t bytes_in_use() const { return in_use_; }
  /// Bytes held from upstream, in use or waiting to be used again.
  [[nodiscard]] std::size_t bytes_held() const { return held_; }
  /// How often upstream was asked for memory.
  [[nodiscard]] std::size_t upstream_allocations() const { return upstream_allocations_; }

  /// Gives the blocks that wait for reuse back to upstream.
  void release() {
    for (std::size_t i = 0; i < small_.size(); ++i) release(small_[i], (i + 1) * array_alignment);
    for (auto& [size, waiting] : large_) release(waiting, size);
  }

 private:
  /// A block that waits, which begins with the address of the next one.
  struct Block {
    Block* next;
  };
  static_assert(sizeof(Block) <= array_alignment);

  static std::size_t rounded(std::size_t bytes) {
    return (bytes + array_alignment - 1) / array_alignment * array_alignment;
  }

  /// The blocks of this size that wait; `size` is a multiple of the alignment above 0.
  Block*& waiting_of(std::size_t size) {
    const std::size_t index = size / array_alignment - 1;
    return index < small_.size() ? small_[index] : large_[size];
  }

  void release(Block*& waiting, std::size_t size) {
    while (waiting != nullptr) {
      upstream_->deallocate(std::exchange(waiting, waiting->next), size, array_alignment);
      held_ -= size;
    }
  }

  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    if (alignment > array_alignment) throw std::bad_alloc();  // nothing here asks for it
    const std::size_t size = rounded(std::max<std::size_t>(bytes, 1));
    void* block = nullptr;
    if (Block*& waiting = waiting_of(size); waiting != nullptr) {
      block = std::exchange(waiting, waiting->next);
    } else {
      block = upstream_->allocate(size, array_alignment);
      ++upstream_allocations_;
      held_ += size;
    }
    in_use_ += size;
    return block;
  }

  void do_deallocate(void* block, std::size_t bytes, std::size_t /*alignment*/) override {
    const std::size_t size = rounded(std::max<std::size_t>(bytes, 1));
    in_use_ -= size;
    Block*& waiting = waiting_of(size);
    waiting = ::new (block) Block{waiting};
  }

  [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
    return this == &other;
  }

  std::pmr::memory_resource* upstream_;
  /// Control blocks, numbers, biases: most requests. By size in units of the alignment, less one.
  std::array<Block*, 64> small_{};
  std::unordered_map<std::size_t, Block*> large_;  ///< all others, by size
  std::size_t in_use_ = 0;
  std::size_t held_ = 0;
  std::size_t upstream_allocations_ = 0;
};

/// Memory of the calling thread for what a function needs only while it runs: what was freed is
/// used again by the next call, so that a loop over steps allocates nothing.
[[nodiscard]] inline RecyclingResource& scratch_memory() {
  thread_local RecyclingResource memory;
  return memory;
}

}  // namespace UNIT_SCALING_NAMESPACE
