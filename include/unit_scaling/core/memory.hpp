// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the memory resource that lets a training step reuse the storage of the step before.
#pragma once

#include <cstddef>
#include <map>
#include <memory_resource>
#include <vector>

namespace unit_scaling {

/// Cache-line and vector alignment of every array.
inline constexpr std::size_t array_alignment = 64;

/// Keeps every freed block and hands it out again for the next request of the same size.
/// A training step asks for the same sizes as the step before it, so from the second step on
/// nothing is taken from `upstream`. Not thread-safe: one resource serves one tape.
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
    for (auto& [size, blocks] : free_) {
      for (void* block : blocks) {
        upstream_->deallocate(block, size, array_alignment);
        held_ -= size;
      }
      blocks.clear();
    }
  }

 private:
  static std::size_t rounded(std::size_t bytes) {
    return (bytes + array_alignment - 1) / array_alignment * array_alignment;
  }

  void* do_allocate(std::size_t bytes, std::size_t /*alignment*/) override {
    const std::size_t size = rounded(bytes);
    auto& blocks = free_[size];
    void* block = nullptr;
    if (!blocks.empty()) {
      block = blocks.back();
      blocks.pop_back();
    } else {
      block = upstream_->allocate(size, array_alignment);
      ++upstream_allocations_;
      held_ += size;
    }
    in_use_ += size;
    return block;
  }

  void do_deallocate(void* block, std::size_t bytes, std::size_t /*alignment*/) override {
    const std::size_t size = rounded(bytes);
    in_use_ -= size;
    free_[size].push_back(block);
  }

  [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
    return this == &other;
  }

  std::pmr::memory_resource* upstream_;
  std::map<std::size_t, std::vector<void*>> free_;
  std::size_t in_use_ = 0;
  std::size_t held_ = 0;
  std::size_t upstream_allocations_ = 0;
};

}  // namespace unit_scaling
