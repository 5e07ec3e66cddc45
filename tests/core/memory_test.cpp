// SPDX-License-Identifier: MIT
#include "unit_scaling/core/memory.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <new>

#include "unit_scaling/core/array.hpp"

namespace memory_test {

using namespace unit_scaling;

/// Counts what is asked of it and what is given back.
class CountingResource final : public std::pmr::memory_resource {
 public:
  std::size_t allocations = 0;
  std::size_t bytes = 0;

 private:
  void* do_allocate(std::size_t size, std::size_t alignment) override {
    ++allocations;
    bytes += size;
    return std::pmr::new_delete_resource()->allocate(size, alignment);
  }
  void do_deallocate(void* block, std::size_t size, std::size_t alignment) override {
    bytes -= size;
    std::pmr::new_delete_resource()->deallocate(block, size, alignment);
  }
  [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override {
    return this == &other;
  }
};

TEST(RecyclingResource, HandsAFreedBlockOutAgain) {
  RecyclingResource resource;
  void* const first = resource.allocate(1000, 64);
  resource.deallocate(first, 1000, 64);
  EXPECT_EQ(resource.allocate(1000, 64), first);
  EXPECT_EQ(resource.upstream_allocations(), 1U);
  void* const second = resource.allocate(1000, 64);
  EXPECT_NE(second, first);
  EXPECT_EQ(resource.upstream_allocations(), 2U);
  resource.deallocate(first, 1000, 64);
  resource.deallocate(second, 1000, 64);
}

TEST(RecyclingResource, SizesAreRoundedUpToTheAlignment) {
  RecyclingResource resource;
  void* const block = resource.allocate(65, 4);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % array_alignment, 0U);
  EXPECT_EQ(resource.bytes_in_use(), 128U);
  resource.deallocate(block, 65, 4);
  EXPECT_EQ(resource.allocate(128, 64), block);
  resource.deallocate(block, 128, 64);
  void* const other = resource.allocate(129, 64);
  EXPECT_EQ(resource.upstream_allocations(), 2U);
  resource.deallocate(other, 129, 64);
}

TEST(RecyclingResource, TakesLessThanAUnitOrAnEighthMoreThanIsAskedFor) {
  const auto taken = [](std::size_t size) {
    CountingResource upstream;
    RecyclingResource resource(&upstream);
    void* const block = resource.allocate(size, array_alignment);
    const std::size_t bytes = upstream.bytes;
    EXPECT_EQ(resource.bytes_held(), bytes);
    EXPECT_EQ(resource.bytes_in_use(), bytes);
    resource.deallocate(block, size, array_alignment);
    resource.release();
    EXPECT_EQ(upstream.bytes, 0U) << size;
    return bytes;
  };
  std::size_t before = 0;
  for (std::size_t size = 1; size <= 70'000; size += size < 5'000 ? 1 : 61) {
    const std::size_t bytes = taken(size);
    ASSERT_GE(bytes, size);
    ASSERT_GE(bytes, before);
    ASSERT_LE(bytes, (size + size / 8 + array_alignment - 1) / array_alignment * array_alignment)
        << size;
    before = bytes;
  }
  for (std::size_t factor = 1; factor <= 16; ++factor) {
    for (std::size_t power = array_alignment; power <= (std::size_t{1} << 22); power *= 2) {
      EXPECT_EQ(taken(factor * power), factor * power);
    }
  }
}

TEST(RecyclingResource, HoldsFewTimesTheLargestOfManySizes) {
  RecyclingResource resource;
  constexpr std::size_t largest = 4'000'000;
  for (std::size_t size = 1'000; size <= largest; size += 1'000) {
    resource.deallocate(resource.allocate(size, 64), size, 64);
  }
  EXPECT_LE(resource.bytes_held(), 16 * largest);
}

TEST(RecyclingResource, RefusesWhatNoMachineHas) {
  RecyclingResource resource;
  for (const std::size_t size :
       {(std::size_t{1} << 62) + 1, std::size_t{1} << 63, SIZE_MAX - 63, SIZE_MAX - 62, SIZE_MAX}) {
    EXPECT_THROW(static_cast<void>(resource.allocate(size, 64)), std::bad_alloc) << size;
  }
  EXPECT_THROW(static_cast<void>(resource.allocate(64, 128)), std::bad_alloc);
  EXPECT_EQ(resource.bytes_held(), 0U);
  EXPECT_EQ(resource.bytes_in_use(), 0U);
}

TEST(RecyclingResource, CountsBytesInUseAndHeld) {
  RecyclingResource resource;
  void* const a = resource.allocate(64, 64);
  void* const b = resource.allocate(256, 64);
  EXPECT_EQ(resource.bytes_in_use(), 320U);
  EXPECT_EQ(resource.bytes_held(), 320U);
  resource.deallocate(a, 64, 64);
  EXPECT_EQ(resource.bytes_in_use(), 256U);
  EXPECT_EQ(resource.bytes_held(), 320U);
  resource.release();
  EXPECT_EQ(resource.bytes_held(), 256U);
  resource.deallocate(b, 256, 64);
  EXPECT_EQ(resource.bytes_in_use(), 0U);
  EXPECT_EQ(resource.bytes_held(), 256U);
}

TEST(RecyclingResource, GivesEverythingBackToUpstream) {
  CountingResource upstream;
  {
    RecyclingResource resource(&upstream);
    for (const std::size_t size : {std::size_t{1}, std::size_t{100}, std::size_t{1000}}) {
      resource.deallocate(resource.allocate(size, 64), size, 64);
    }
    EXPECT_EQ(upstream.allocations, resource.upstream_allocations());
    EXPECT_EQ(upstream.bytes, resource.bytes_held());
    EXPECT_GT(upstream.bytes, 0U);
  }
  EXPECT_EQ(upstream.bytes, 0U);
}

TEST(RecyclingResource, TakesNothingFromUpstreamFromTheSecondStepOn) {
  CountingResource upstream;
  RecyclingResource resource(&upstream);
  std::size_t after_the_first = 0;
  for (int step = 0; step < 5; ++step) {
    {
      Array<float> a(Shape{100}, &resource);
      const Array<float> b(Shape{7, 9}, &resource);
      const Array<float> shared = a;
      a.mutable_data()[0] = 1;
    }
    EXPECT_EQ(resource.bytes_in_use(), 0U);
    if (step == 0) after_the_first = upstream.allocations;
    EXPECT_EQ(upstream.allocations, after_the_first);
  }
  EXPECT_GT(after_the_first, 0U);
}

TEST(RecyclingResource, IsEqualToItselfOnly) {
  const RecyclingResource a;
  const RecyclingResource b;
  EXPECT_TRUE(a.is_equal(a));
  EXPECT_FALSE(a.is_equal(b));
}

}  // namespace memory_test
