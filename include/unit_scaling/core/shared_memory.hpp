// SPDX-License-Identifier: MIT
/// @file
/// Layer core: memory with several owners, as arrays share it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <new>
#include <utility>

#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// A handle of memory that is given back when the last of its handles goes. Handles may be copied
/// and dropped by several threads at once, one handle by one thread.
///
/// It stands in for std::shared_ptr, which every array of every element type would instantiate, and
/// whose header takes longer to compile than all of this layer; hence also no std::atomic.
class SharedMemory {
 public:
  /// No memory.
  SharedMemory() = default;

  /// New memory, not initialised, aligned for arrays. What counts the owners is from the same
  /// resource, in an allocation of its own, so that a resource that recycles sees the size of the
  /// elements alone.
  SharedMemory(std::size_t bytes, std::pmr::memory_resource* resource)
      : SharedMemory(nullptr, bytes, resource) {
    memory_ = resource->allocate(bytes, array_alignment);  // if it throws, the destructor runs
  }

  /// Memory of someone else, which is never given back.
  /// @param resource of what counts the owners.
  [[nodiscard]] static SharedMemory borrow(void* memory, std::pmr::memory_resource* resource) {
    return {memory, 0, resource};
  }

  SharedMemory(const SharedMemory& other) noexcept
      : memory_(other.memory_), owners_(other.owners_) {
    if (owners_ != nullptr) __atomic_fetch_add(&owners_->count, 1, __ATOMIC_RELAXED);
  }
  SharedMemory(SharedMemory&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)),
        owners_(std::exchange(other.owners_, nullptr)) {}
  SharedMemory& operator=(SharedMemory other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(owners_, other.owners_);
    return *this;
  }
  ~SharedMemory() {
    if (owners_ == nullptr || __atomic_sub_fetch(&owners_->count, 1, __ATOMIC_ACQ_REL) != 0) return;
    const Owners owners = *owners_;
    if (memory_ != nullptr && owners.bytes != 0) {
      owners.resource->deallocate(memory_, owners.bytes, array_alignment);
    }
    owners.resource->deallocate(owners_, sizeof(Owners), alignof(Owners));
  }

  /// The memory; null if there is none.
  [[nodiscard]] void* get() const { return memory_; }
  /// Whether there is another handle of the same memory.
  [[nodiscard]] bool is_shared() const {
    return owners_ != nullptr && __atomic_load_n(&owners_->count, __ATOMIC_ACQUIRE) > 1;
  }

  /// A number that no other contents of any memory have: another one after `touch`. 0 if there is
  /// none, as of memory of someone else.
  [[nodiscard]] std::uint64_t version() const {
    if (owners_ == nullptr || owners_->bytes == 0) return 0;
    static std::uint64_t last = 0;
    std::uint64_t version = __atomic_load_n(&owners_->version, __ATOMIC_RELAXED);
    if (version == 0) {
      const std::uint64_t next = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
      // Of two threads that ask at once, one gives the number.
      if (__atomic_compare_exchange_n(&owners_->version, &version, next, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
        return next;
      }
    }
    return version;
  }
  /// To be called when the contents may change.
  void touch() {
    if (owners_ != nullptr) __atomic_store_n(&owners_->version, 0, __ATOMIC_RELAXED);
  }

 private:
  struct Owners {
    std::size_t count;
    std::size_t bytes;  ///< 0 if borrowed
    std::pmr::memory_resource* resource;
    std::uint64_t version = 0;  ///< 0: nobody has asked since the contents may have changed
  };

  SharedMemory(void* memory, std::size_t bytes, std::pmr::memory_resource* resource)
      : memory_(memory),
        owners_(new (resource->allocate(sizeof(Owners), alignof(Owners)))
                    Owners{1, bytes, resource}) {}

  void* memory_ = nullptr;
  Owners* owners_ = nullptr;
};

}  // namespace UNIT_SCALING_NAMESPACE
