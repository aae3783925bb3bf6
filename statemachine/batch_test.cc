// Tests of batch.h: what parses, and that nothing hostile does.
#include "statemachine/batch.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace annulus::statemachine {
namespace {

using Bytes = std::vector<std::byte>;

/// A batch of commands with bodies of the given lengths, each filled with its index.
Bytes make_batch(const std::vector<std::uint32_t>& bodies) {
  Bytes bytes(sizeof(BatchHeader));
  auto* header = reinterpret_cast<BatchHeader*>(bytes.data());
  header->version = kBatchVersion;
  header->count = static_cast<std::uint16_t>(bodies.size());
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    const std::size_t at = bytes.size();
    bytes.resize(at + command_bytes(bodies[i]));
    auto* command = reinterpret_cast<CommandHeader*>(bytes.data() + at);
    command->session = 100 + i;
    command->bytes = bodies[i];
    std::memset(bytes.data() + at + sizeof(CommandHeader), static_cast<int>(i), bodies[i]);
  }
  return bytes;
}

bool parses(const Bytes& bytes, std::uint32_t* count = nullptr) {
  std::vector<Command> commands(kCommandsPerBatchMax);
  std::uint32_t parsed = 0;
  const bool ok = parse_batch(bytes, commands, parsed);
  if (count != nullptr) *count = parsed;
  return ok;
}

TEST(Batch, ListsCommandsInPlace) {
  const Bytes bytes = make_batch({0, 1, 8, 13});
  std::vector<Command> commands(kCommandsPerBatchMax);
  std::uint32_t count = 0;
  ASSERT_TRUE(parse_batch(bytes, commands, count));
  ASSERT_EQ(count, 4u);
  EXPECT_EQ(commands[3].header->session, 103u);
  ASSERT_EQ(commands[3].body.size(), 13u);
  EXPECT_EQ(commands[3].body[12], std::byte{3});
  EXPECT_EQ(commands[0].body.size(), 0u);
}

TEST(Batch, EveryTruncationIsRefused) {
  const Bytes whole = make_batch({0, 5, 8});
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    EXPECT_FALSE(parses(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(bytes))));
  }
  EXPECT_TRUE(parses(whole));
}

TEST(Batch, TrailingBytesAreRefused) {
  Bytes bytes = make_batch({4});
  bytes.resize(bytes.size() + 8);
  EXPECT_FALSE(parses(bytes));
}

TEST(Batch, LyingLengthsAreRefused) {
  for (const std::uint32_t lie : {9u, 0xffff'fff8u, 0xffff'ffffu, 0x8000'0000u}) {
    Bytes bytes = make_batch({8});
    reinterpret_cast<CommandHeader*>(bytes.data() + sizeof(BatchHeader))->bytes = lie;
    EXPECT_FALSE(parses(bytes)) << lie;
  }
}

TEST(Batch, OtherVersionsAndTooManyCommandsAreRefused) {
  Bytes bytes = make_batch({8});
  reinterpret_cast<BatchHeader*>(bytes.data())->version = kBatchVersion + 1;
  EXPECT_FALSE(parses(bytes));
  EXPECT_TRUE(parses(make_batch(std::vector<std::uint32_t>(kCommandsPerBatchMax, 0))));
  EXPECT_FALSE(parses(make_batch(std::vector<std::uint32_t>(kCommandsPerBatchMax + 1, 0))));
}

TEST(Batch, HostileBytesNeverLeaveTheBatch) {
  std::mt19937_64 random(7);
  const Bytes valid = make_batch({0, 8, 16, 3, 40});
  for (int round = 0; round < 20'000; ++round) {
    Bytes bytes = valid;
    for (int flips = 0; flips < 3; ++flips) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    std::vector<Command> commands(kCommandsPerBatchMax);
    std::uint32_t count = 0;
    if (!parse_batch(bytes, commands, count)) continue;
    for (std::uint32_t i = 0; i < count; ++i) {
      ASSERT_GE(commands[i].body.data(), bytes.data());
      ASSERT_LE(commands[i].body.data() + commands[i].body.size(), bytes.data() + bytes.size());
    }
  }
}

Bytes make_atomic(const std::vector<std::uint32_t>& bodies) {
  Bytes bytes(sizeof(AtomicHead));
  auto* head = reinterpret_cast<AtomicHead*>(bytes.data());
  head->kind = static_cast<std::uint8_t>(SystemCommand::kAtomic);
  head->count = static_cast<std::uint32_t>(bodies.size());
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    const std::size_t at = bytes.size();
    bytes.resize(at + sizeof(AtomicPart) + padded(bodies[i]));
    auto* part = reinterpret_cast<AtomicPart*>(bytes.data() + at);
    part->service = static_cast<std::uint8_t>(i + 1);
    part->bytes = bodies[i];
  }
  return bytes;
}

TEST(Atomic, ListsItsParts) {
  const Bytes bytes = make_atomic({5, 0, 24});
  std::vector<AtomicCommand> parts(kAtomicPartsMax);
  std::uint32_t count = 0;
  ASSERT_TRUE(parse_atomic(bytes, parts, count));
  ASSERT_EQ(count, 3u);
  EXPECT_EQ(parts[2].service, 3);
  EXPECT_EQ(parts[2].body.size(), 24u);
}

TEST(Atomic, TruncatedOrLyingPartsAreRefused) {
  const Bytes whole = make_atomic({5, 0, 24});
  std::vector<AtomicCommand> parts(kAtomicPartsMax);
  std::uint32_t count = 0;
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    EXPECT_FALSE(parse_atomic(std::span{whole}.first(bytes), parts, count));
  }
  Bytes lying = whole;
  reinterpret_cast<AtomicHead*>(lying.data())->count = kAtomicPartsMax + 1;
  EXPECT_FALSE(parse_atomic(lying, parts, count));
}

TEST(CommandStatusNames, AreDistinct) {
  EXPECT_STREQ(to_string(CommandStatus::kSessionsFull), "sessions_full");
  EXPECT_STREQ(to_string(CommandStatus::kOutcomeUnknown), "outcome_unknown");
  EXPECT_STREQ(to_string(CommandStatus{50}), "unknown");
}

}  // namespace
}  // namespace annulus::statemachine
