// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the memory resource that lets a training step reuse the storage of the step before.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <memory_resource>
#include <new>
#include <utility>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// Cache-line and vector alignment of every array.
inline constexpr std::size_t array_alignment = 64;

/// Keeps every freed block and hands it out again for the next request of the same size class.
/// A training step asks for the same sizes as the step before it, so from the second step on
/// nothing is taken from `upstream`, nor from anywhere else: the blocks that wait are chained
/// through their own memory. Both directions take constant time. Not thread-safe: one resource
/// serves one tape.
///
/// The classes are the multiples of 64 bytes up to 1 KiB, and from there on eight to each doubling.
/// So a block is less than 64 bytes larger than what was asked for up to 1 KiB, and at most an
/// eighth from there on. It is exactly as large for 2^k times 1 to 16 units of 64 bytes. Requests
/// of ever other sizes, such as those for a sequence that grows, take memory in proportion to the
/// largest of them, and not to their sum.
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
    for (std::size_t i = 0; i < waiting_.size(); ++i) {
      while (waiting_[i] != nullptr) {
        upstream_->deallocate(std::exchange(waiting_[i], waiting_[i]->next), class_size(i),
                              array_alignment);
        held_ -= class_size(i);
      }
    }
  }

 private:
  /// A block that waits, which begins with the address of the next one.
  struct Block {
    Block* next;
  };
  static_assert(sizeof(Block) <= array_alignment);

  static constexpr std::size_t steps = 8;             ///< classes in each doubling
  static constexpr std::size_t classes = steps * 54;  ///< blocks of up to 2^62 bytes

  /// The class of a request.
  static constexpr std::size_t class_of(std::size_t bytes) {
    const std::size_t units = bytes / array_alignment + (bytes % array_alignment != 0 ? 1 : 0);
    if (units <= 2 * steps) return units == 0 ? 0 : units - 1;
    // units - 1 is binary 1xxx…: its first digits are the class.
    const auto shift = static_cast<std::size_t>(std::bit_width(units - 1)) - 4;
    return steps * shift + ((units - 1) >> shift);
  }
  /// The bytes of a block of that class.
  static constexpr std::size_t class_size(std::size_t index) {
    if (index < 2 * steps) return (index + 1) * array_alignment;
    const std::size_t shift = index / steps - 1;
    return ((index - steps * shift + 1) << shift) * array_alignment;
  }

  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    const std::size_t index = class_of(bytes);
    // Nothing here asks for more alignment, and no machine has as much memory.
    if (alignment > array_alignment || index >= classes) throw std::bad_alloc();
    const std::size_t size = class_size(index);
    void* block = nullptr;
    if (waiting_[index] != nullptr) {
      block = std::exchange(waiting_[index], waiting_[index]->next);
    } else {
      block = upstream_->allocate(size, array_alignment);
      ++upstream_allocations_;
      held_ += size;
    }
    in_use_ += size;
    return block;
  }

  void do_deallocate(void* block, std::size_t bytes, std::size_t /*alignment*/) override {
    const std::size_t index = class_of(bytes);
    in_use_ -= class_size(index);
    waiting_[index] = ::new (block) Block{waiting_[index]};
  }

  [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
    return this == &other;
  }

  std::pmr::memory_resource* upstream_;
  std::array<Block*, classes> waiting_{};  ///< of each class
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
