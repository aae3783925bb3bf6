// The ring between two cores: bounds, bursts, references, order under threads.
#include "dataplane/spsc_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <thread>

namespace annulus::dataplane {
namespace {

TEST(SpscRing, RoundsCapacityUpAndRefusesWhenFull) {
  SpscRing<int> ring(3);
  EXPECT_EQ(ring.capacity(), 4u);
  EXPECT_EQ(ring.front(), nullptr);
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(ring.full());
    EXPECT_EQ(ring.room(), 4u - i);
    EXPECT_TRUE(ring.push(int{i}));
  }
  EXPECT_TRUE(ring.full());
  EXPECT_EQ(ring.room(), 0u);
  EXPECT_EQ(ring.size(), 4u);
  EXPECT_FALSE(ring.push(9));
  int out = -1;
  EXPECT_TRUE(ring.pop(out));
  EXPECT_EQ(out, 0);
  EXPECT_FALSE(ring.full());
}

TEST(SpscRing, RefusedItemIsUntouched) {
  SpscRing<std::unique_ptr<int>> ring(1);
  EXPECT_TRUE(ring.push(std::make_unique<int>(1)));
  auto item = std::make_unique<int>(2);
  EXPECT_FALSE(ring.push(std::move(item)));
  ASSERT_NE(item, nullptr);
  EXPECT_EQ(*item, 2);
}

TEST(SpscRing, PoppedSlotHoldsNoReference) {
  SpscRing<std::shared_ptr<int>> ring(4);
  auto item = std::make_shared<int>(1);
  EXPECT_TRUE(ring.push(std::shared_ptr<int>(item)));
  ASSERT_NE(ring.front(), nullptr);
  ring.pop();
  EXPECT_EQ(item.use_count(), 1);
  EXPECT_TRUE(ring.push(std::shared_ptr<int>(item)));
  {
    std::shared_ptr<int> out;
    EXPECT_TRUE(ring.pop(out));
  }
  EXPECT_EQ(item.use_count(), 1);
}

TEST(SpscRing, PeekAndDropTakeBursts) {
  SpscRing<int> ring(4);
  int next = 0;
  int expected = 0;
  for (int lap = 0; lap < 5; ++lap) {
    while (ring.push(int{next})) ++next;
    const std::uint32_t readable = ring.readable();
    ASSERT_GT(readable, 0u);
    const std::uint32_t taken = std::min(readable, 3u);
    for (std::uint32_t i = 0; i < taken; ++i) EXPECT_EQ(ring.peek(i), expected++);
    ring.drop(taken);
  }
  while (ring.readable() != 0) {
    EXPECT_EQ(ring.peek(0), expected++);
    ring.drop(1);
  }
  EXPECT_EQ(expected, next);
}

TEST(SpscRing, KeepsOrderBetweenTwoCores) {
  constexpr std::uint64_t kItems = 200'000;
  SpscRing<std::uint64_t> ring(64);
  std::thread consumer([&] {
    std::uint64_t expected = 0;
    while (expected < kItems) {
      const std::uint32_t readable = ring.readable();
      if (readable == 0) std::this_thread::yield();
      for (std::uint32_t i = 0; i < readable; ++i) ASSERT_EQ(ring.peek(i), expected++);
      ring.drop(readable);
    }
  });
  for (std::uint64_t i = 0; i < kItems;) {
    if (ring.push(std::uint64_t{i})) {
      ++i;
    } else {
      std::this_thread::yield();
    }
  }
  consumer.join();
  EXPECT_EQ(ring.size(), 0u);
}

}  // namespace
}  // namespace annulus::dataplane
