#include "consensus/value_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>
#include <fstream>
#include <random>

#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;

constexpr std::uint32_t kValueMax = 9'000;

std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t all = 0;
  std::uint64_t resident = 0;
  file >> all >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

Delivery delivery(Frames& frames, std::uint64_t instance, std::uint32_t bytes) {
  const Content content = frames.content(instance, bytes);
  return {DeliveryKind::kDecided, at(instance), content.value, content.bytes, Nanos(instance)};
}

TEST(ValueLog, GivesBackInOrderWhatWasPutInRoundAndRound) {
  ValueLog log(64 * 1'024, kValueMax);
  Frames frames;
  dataplane::BufferPool pool(16, kValueBytesMax);
  std::mt19937 random(5);
  std::deque<Delivery> expected;
  std::uint64_t instance = 0;
  for (int step = 0; step < 2'000; ++step) {
    const auto bytes = static_cast<std::uint32_t>(1 + random() % kValueMax);
    if (random() % 2 == 0 && log.takes(bytes)) {
      expected.push_back(delivery(frames, ++instance, bytes));
      log.push(expected.back());
    } else if (!expected.empty()) {
      Delivery got;
      ASSERT_EQ(log.front(), expected.front().instance);
      ASSERT_TRUE(log.pop(got, pool));
      ASSERT_EQ(got.instance, expected.front().instance);
      ASSERT_EQ(got.value, expected.front().value);
      ASSERT_EQ(got.received, expected.front().received);
      ASSERT_EQ(dataplane::hash_bytes(got.bytes.bytes()), got.value.content_hash);
      expected.pop_front();
    }
    ASSERT_EQ(log.empty(), expected.empty());
  }
  EXPECT_GT(instance, 500u);
}

TEST(ValueLog, HoldsAsManyValuesAsItSaysAndNoMore) {
  ValueLog log(64 * 1'024, kValueMax);
  Frames frames;
  std::uint64_t pushed = 0;
  while (log.takes(kValueMax)) log.push(delivery(frames, ++pushed, kValueMax));
  EXPECT_GE(log.used(), log.capacity());
  EXPECT_GE(pushed * kValueMax, 56u * 1'024);
  EXPECT_LE(pushed * kValueMax, 80u * 1'024);
  log.drop_through(at(1));
  EXPECT_TRUE(log.takes(kValueMax));
}

TEST(ValueLog, MemoryThatWasExecutedIsFilledAgainFirst) {
  constexpr std::uint64_t kCapacity = 512u << 20;
  ValueLog log(kCapacity, kValueMax);
  Frames frames;
  dataplane::BufferPool pool(4, kValueBytesMax);
  const Delivery value = delivery(frames, 1, kValueMax);
  for (int i = 0; i < 100; ++i) log.push(value);
  const std::uint64_t before = resident_bytes();
  Delivery got;
  for (std::uint64_t bytes = 0; bytes < kCapacity; bytes += kValueMax) {
    log.push(value);
    ASSERT_TRUE(log.pop(got, pool));
  }
  EXPECT_LT(resident_bytes(), before + (16u << 20));
}

TEST(ValueLog, MemoryIsGivenBackOnceNothingWaits) {
  ValueLog log(512u << 20, kValueMax);
  Frames frames;
  const std::uint64_t before = resident_bytes();
  const Delivery value = delivery(frames, 1, kValueMax);
  for (std::uint64_t bytes = 0; bytes < (256u << 20); bytes += kValueMax) log.push(value);
  EXPECT_GT(resident_bytes(), before + (200u << 20));
  log.drop_through(at(1));
  EXPECT_TRUE(log.empty());
  // (A sanitizer keeps an eighth of what was touched to itself.)
  EXPECT_LT(resident_bytes(), before + (64u << 20));
}

TEST(ValueLog, DropsWhatACopyContains) {
  ValueLog log(64 * 1'024, kValueMax);
  Frames frames;
  for (const std::uint64_t instance : {3, 4, 7, 9}) log.push(delivery(frames, instance, 100));
  log.drop_through(at(2));
  EXPECT_EQ(log.front(), at(3));
  log.drop_through(at(7));
  EXPECT_EQ(log.front(), at(9));
  log.drop_through(at(20));
  EXPECT_TRUE(log.empty());
  EXPECT_EQ(log.used(), 0u);
}

TEST(ValueLog, KeepsAValueForWhichThereIsNoBuffer) {
  ValueLog log(64 * 1'024, kValueMax);
  Frames frames;
  dataplane::BufferPool pool(1, kValueBytesMax);
  log.push(delivery(frames, 1, 100));
  Delivery got;
  {
    const dataplane::Slice held = pool.allocate();
    EXPECT_FALSE(log.pop(got, pool));
    EXPECT_EQ(log.front(), at(1));
  }
  EXPECT_TRUE(log.pop(got, pool));
  EXPECT_EQ(got.instance, at(1));
}

}  // namespace
}  // namespace annulus::consensus
