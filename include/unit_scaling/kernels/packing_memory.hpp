// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: memory of a thread that it packs operands into and keeps for its next call.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// A thread's packing memory: kept for its next product, grown when that is larger.
class PackingBuffer {
 public:
  [[nodiscard]] void* reserve(std::size_t bytes) {
    if (bytes > capacity_) {
      memory_.reset(::operator new (bytes, std::align_val_t{array_alignment}));
      capacity_ = bytes;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(void* p) const { ::operator delete (p, std::align_val_t{array_alignment}); }
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t capacity_ = 0;
};

/// Scratch memory of the calling thread; `slot` tells apart buffers alive at the same time.
template <int slot, class T> [[nodiscard]] inline T* packing_memory(std::size_t count) {
  thread_local PackingBuffer buffer;
  return static_cast<T*>(buffer.reserve(count * sizeof(T)));
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
