// Buffers and slices: every buffer comes back exactly once, from whichever core.
#include "dataplane/buffer.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "dataplane/spsc_ring.h"

namespace annulus::dataplane {
namespace {

TEST(BufferPool, OnlyThePagesThatAreUsedTakeMemory) {
  constexpr std::size_t kSpan = 4 << 20;  // has a huge page in it, wherever it begins
  BufferPool pool(256, 65'536);
  Slice slice = pool.allocate();
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  auto* first =
      reinterpret_cast<std::byte*>(reinterpret_cast<std::uintptr_t>(slice.data()) & ~(page - 1));
  std::memset(slice.mutable_data(), 1, 100);
  for (std::size_t at = page; at < kSpan; at += 512 << 10) first[at] = std::byte{1};
  std::vector<unsigned char> resident(kSpan / page);
  ASSERT_EQ(mincore(first, kSpan, resident.data()), 0);
  EXPECT_LE(std::count_if(resident.begin(), resident.end(), [](auto r) { return (r & 1) != 0; }),
            10);
}

TEST(BufferPool, TouchedMemoryIsThereBeforeItIsUsed) {
  constexpr std::uint32_t kBytes = 64 * 1024;
  BufferPool pool(8, kBytes);
  pool.touch(4, pool.bytes() / 2);
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::vector<Slice> kept;
  for (int i = 0; i < 8; ++i) {
    kept.push_back(pool.allocate());
    const auto begin = reinterpret_cast<std::uintptr_t>(kept.back().data()) / page * page;
    std::vector<unsigned char> resident(kBytes / page);
    ASSERT_EQ(mincore(reinterpret_cast<void*>(begin), kBytes, resident.data()), 0);
    const auto pages = std::count_if(resident.begin(), resident.end(),
                                     [](unsigned char each) { return (each & 1) != 0; });
    // Of an untouched buffer, the page of its head, and what an earlier one has of the next.
    if (i < 4) {
      EXPECT_EQ(pages, static_cast<std::ptrdiff_t>(resident.size()));
    } else if (i > 4) {
      EXPECT_LE(pages, 2);
    }
  }
}

TEST(BufferPool, TouchesTheBeginningOfEachBufferIfThatIsAllThereIsMemoryFor) {
  constexpr std::uint32_t kBytes = 64 * 1024;
  BufferPool pool(8, kBytes);
  pool.touch(8, 8 * 10'000);
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  for (int i = 0; i < 8; ++i) {
    const Slice buffer = pool.allocate();
    const auto begin = reinterpret_cast<std::uintptr_t>(buffer.data()) / page * page;
    std::vector<unsigned char> resident(kBytes / page);
    ASSERT_EQ(mincore(reinterpret_cast<void*>(begin), kBytes, resident.data()), 0);
    EXPECT_TRUE((resident[0] & 1) != 0 && (resident[1] & 1) != 0);
    const auto pages = std::count_if(resident.begin(), resident.end(),
                                     [](unsigned char each) { return (each & 1) != 0; });
    EXPECT_LE(pages, 5);  // one perhaps of the next buffer
  }
}

TEST(BufferPool, HandsOutEachBufferOnceAndThenNone) {
  BufferPool pool(3, 100);
  EXPECT_EQ(pool.capacity(), 128u);
  std::vector<Slice> held;
  std::set<const std::byte*> places;
  for (int i = 0; i < 3; ++i) {
    held.push_back(pool.allocate());
    ASSERT_TRUE(held.back());
    EXPECT_EQ(held.back().size(), 128u);
    places.insert(held.back().data());
  }
  EXPECT_EQ(places.size(), 3u);
  EXPECT_FALSE(pool.allocate());
  held.pop_back();
  EXPECT_TRUE(pool.allocate());
}

TEST(BufferPool, BuffersDoNotOverlap) {
  BufferPool pool(8, 64);
  std::vector<Slice> held;
  for (int i = 0; i < 8; ++i) {
    held.push_back(pool.allocate());
    std::memset(held.back().mutable_data(), i, held.back().size());
  }
  for (int i = 0; i < 8; ++i) {
    for (const std::byte byte : held[i].bytes()) ASSERT_EQ(byte, std::byte(i));
  }
}

TEST(BufferPool, LightUseStaysOnFewBuffers) {
  BufferPool pool(1000, 64);
  std::set<const std::byte*> places;
  for (int i = 0; i < 5000; ++i) places.insert(pool.allocate().data());
  EXPECT_EQ(places.size(), 1u);
}

TEST(Slice, LastReferenceGivesTheBufferBack) {
  BufferPool pool(1, 64);
  Slice first = pool.allocate();
  Slice second = first;
  Slice part = second.part(8, 4);
  EXPECT_EQ(part.data(), first.data() + 8);
  EXPECT_EQ(part.size(), 4u);
  first.reset();
  EXPECT_FALSE(pool.allocate());
  second = Slice{};
  EXPECT_FALSE(pool.allocate());
  part.reset();
  EXPECT_TRUE(pool.allocate());
}

TEST(Slice, MoveAndDetachTransferTheReference) {
  BufferPool pool(1, 64);
  Slice first = pool.allocate();
  Slice second = std::move(first);
  EXPECT_FALSE(first);
  EXPECT_EQ(first.size(), 0u);
  second.truncate(5);
  Buffer* raw = second.detach();
  EXPECT_FALSE(second);
  EXPECT_FALSE(pool.allocate());
  Slice::adopt(raw, 0, 5).reset();
  EXPECT_TRUE(pool.allocate());
}

TEST(Slice, AssigningToItselfKeepsTheReference) {
  BufferPool pool(1, 64);
  Slice slice = pool.allocate();
  Slice& same = slice;
  slice = same;
  EXPECT_TRUE(slice);
  EXPECT_FALSE(pool.allocate());
}

// One core allocates and writes, two others read and drop: each buffer comes back exactly once, and
// nobody sees a buffer change while holding it. Under TSan this also checks the reference counting.
TEST(BufferPool, ReferencesDroppedOnOtherCoresComeBack) {
  constexpr std::uint64_t kRounds = 20'000;
  BufferPool pool(16, 64);
  SpscRing<Slice> rings[2] = {SpscRing<Slice>(8), SpscRing<Slice>(8)};
  auto read = [&](SpscRing<Slice>& ring) {
    for (std::uint64_t round = 0; round < kRounds;) {
      Slice slice;
      if (!ring.pop(slice)) {
        std::this_thread::yield();
        continue;
      }
      for (int i = 0; i < 8; ++i) {
        std::uint64_t word;
        std::memcpy(&word, slice.data() + 8 * i, 8);
        ASSERT_EQ(word, round);
      }
      ++round;
    }
  };
  std::thread first(read, std::ref(rings[0]));
  std::thread second(read, std::ref(rings[1]));
  for (std::uint64_t round = 0; round < kRounds;) {
    Slice slice = pool.allocate();
    if (!slice) {
      std::this_thread::yield();
      continue;
    }
    for (int i = 0; i < 8; ++i) std::memcpy(slice.mutable_data() + 8 * i, &round, 8);
    for (SpscRing<Slice>& ring : rings) {
      Slice copy = slice;
      while (!ring.push(std::move(copy))) std::this_thread::yield();
    }
    ++round;
  }
  first.join();
  second.join();
  std::vector<Slice> all;
  while (Slice slice = pool.allocate()) all.push_back(std::move(slice));
  EXPECT_EQ(all.size(), 16u);
}

TEST(BufferPool, SlicesMayOutliveThePool) {
  auto pool = std::make_unique<BufferPool>(4, 64);
  Slice kept = pool->allocate();
  Slice other = pool->allocate();
  pool->allocate().reset();  // returned before the pool goes
  std::memcpy(kept.mutable_data(), "kept", 4);
  pool.reset();
  other.reset();
  EXPECT_EQ(std::memcmp(kept.data(), "kept", 4), 0);
  kept.reset();  // the memory goes with it: a sanitizer would tell
}

TEST(BufferPool, LastReferencesRaceWithThePoolsEnd) {
  for (int round = 0; round < 200; ++round) {
    auto pool = std::make_unique<BufferPool>(8, 64);
    std::vector<Slice> slices;
    while (Slice slice = pool->allocate()) slices.push_back(std::move(slice));
    std::thread dropper([&slices] { slices.clear(); });
    pool.reset();
    dropper.join();
  }
}

}  // namespace
}  // namespace annulus::dataplane
