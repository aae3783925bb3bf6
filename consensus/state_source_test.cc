// What a replica does for others that ask for its state; the worker's part is played by hand.
#include "consensus/state_source.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;
using Phase = StateExchange::Phase;

constexpr std::uint32_t kChunk = 1'000;

class StateSourceTest : public testing::Test {
 protected:
  StateSourceTest() : source_({.chunk_bytes = kChunk}, exchange_) {}

  StateOffer ask(std::uint64_t from, std::uint64_t position, bool current = true,
                 std::uint32_t who = 1) {
    effects_.clear();
    source_.on_ask(frames_.frame(learner_id(who), MessageType::kStateAsk, StateAsk{from}), current,
                   at(position), now_, effects_);
    const auto answers = sent(effects_, MessageType::kStateManifest);
    EXPECT_EQ(answers.size(), 1u);
    frames_.carry(learner_id(0), *answers.at(0));  // is valid
    manifest_ = message_of<StateManifest>(*answers.at(0));
    return static_cast<StateOffer>(manifest_.offer);
  }
  /// As the worker does.
  void copy(std::uint64_t bytes) {
    ASSERT_EQ(exchange_.phase(), Phase::kCopying);
    exchange_.image().bytes = bytes;
    exchange_.uses(bytes);
    exchange_.image().segments = 1;
    for (std::uint64_t i = 0; i < bytes; ++i) exchange_.memory().data()[i] = std::byte(i * 7 / 3);
    exchange_.pass(Phase::kCopied);
  }
  void make_copy(std::uint64_t position, std::uint64_t bytes, Nanos pause = kMillisecond) {
    EXPECT_EQ(ask(position, position), StateOffer::kWait);
    ASSERT_TRUE(source_.wants_copy());
    source_.copy_begun(at(position), now_);
    exchange_.stood_still() = pause;
    copy(bytes);
    now_ += pause;
    tick();
  }
  void tick() {
    effects_.clear();
    source_.tick(now_, effects_);
  }
  void pull(const std::vector<u32le>& which, std::uint64_t image, std::uint32_t who = 1) {
    source_.on_pull(
        frames_.list(learner_id(who), MessageType::kStatePull,
                     StatePull{image, static_cast<std::uint32_t>(which.size()), 0u}, which),
        now_, effects_);
  }
  std::vector<u32le> numbers(std::uint32_t first, std::uint32_t count) {
    std::vector<u32le> list;
    for (std::uint32_t i = 0; i < count; ++i) list.push_back(first + i);
    return list;
  }
  std::vector<Outgoing*> chunks() { return sent(effects_, MessageType::kStateChunk); }
  std::uint64_t count(StateSourceCounter which) { return source_.counters()[which].get(); }

  StateExchange exchange_{8u << 20};
  StateSource source_;
  Frames frames_;
  Effects effects_;
  StateManifest manifest_{};
  Nanos now_ = kSecond;
};

TEST_F(StateSourceTest, WhoLacksItsOwnStateHasNone) {
  EXPECT_EQ(ask(5, 9, false), StateOffer::kNone);
  EXPECT_FALSE(source_.wants_copy());
}

TEST_F(StateSourceTest, CopiesOnlyOnceItHasGotAsFarAsAsked) {
  EXPECT_EQ(ask(10, 9), StateOffer::kWait);
  EXPECT_FALSE(source_.wants_copy());
  EXPECT_EQ(ask(10, 10), StateOffer::kWait);
  EXPECT_TRUE(source_.wants_copy());
}

TEST_F(StateSourceTest, ServesTheCopyInPiecesByNumber) {
  make_copy(10, 2'500);
  ASSERT_EQ(ask(10, 12), StateOffer::kHere);
  EXPECT_EQ(manifest_.instance, 10u);
  EXPECT_EQ(manifest_.bytes, 2'500u);
  pull(numbers(0, 3), manifest_.image);
  tick();
  const auto pieces = chunks();
  ASSERT_EQ(pieces.size(), 3u);
  for (std::uint32_t i = 0; i < 3; ++i) {
    frames_.carry(learner_id(0), *pieces[i]);
    EXPECT_EQ(message_of<StateChunk>(*pieces[i]).index, i);
    EXPECT_EQ(pieces[i]->payload.size(), i == 2 ? 500u : 1'000u);
    EXPECT_EQ(std::memcmp(pieces[i]->payload.data(), exchange_.memory().data() + i * kChunk,
                          pieces[i]->payload.size()),
              0);
  }
  pull(numbers(3, 1), manifest_.image);  // beyond its end
  tick();
  EXPECT_TRUE(chunks().empty());
}

TEST_F(StateSourceTest, OneCopyIsSharedByAllWhoAsk) {
  make_copy(10, 100'000);
  for (std::uint32_t who = 1; who < 9; ++who) {
    EXPECT_EQ(ask(10, 50, true, who), StateOffer::kHere);
    pull(numbers(0, 2), manifest_.image, who);
  }
  EXPECT_EQ(count(StateSourceCounter::kCopies), 1u);
  // One that others fetch is not taken from them for who wants a later one.
  EXPECT_EQ(ask(40, 50, true, 9), StateOffer::kHere);
  EXPECT_EQ(manifest_.instance, 10u);
}

TEST_F(StateSourceTest, CopyThatNobodyFetchesMakesRoomForALaterOne) {
  make_copy(10, 3'000);
  now_ += 300 * kMillisecond;
  EXPECT_EQ(ask(40, 50), StateOffer::kWait);
  tick();
  EXPECT_EQ(exchange_.phase(), Phase::kIdle);
  EXPECT_EQ(ask(40, 50), StateOffer::kWait);
  EXPECT_TRUE(source_.wants_copy());
}

TEST_F(StateSourceTest, CopyIsGivenBackAfterAWhileWithoutRequests) {
  make_copy(10, 3'000);
  ASSERT_EQ(ask(10, 10), StateOffer::kHere);
  for (int i = 0; i < 30; ++i) {  // requests keep it
    now_ += 100 * kMillisecond;
    pull(numbers(0, 1), manifest_.image);
    tick();
  }
  EXPECT_EQ(exchange_.phase(), Phase::kCopied);
  now_ += kSecond;
  tick();
  EXPECT_EQ(exchange_.phase(), Phase::kIdle);
  EXPECT_EQ(exchange_.memory().data()[1], std::byte{0});  // the host has it again
  EXPECT_EQ(count(StateSourceCounter::kCopiesGivenUp), 1u);
}

TEST_F(StateSourceTest, AtMostATwentiethOfItsTimeGoesToCopying) {
  make_copy(10, 8'000'000, 30 * kMillisecond);
  now_ += 300 * kMillisecond;
  EXPECT_EQ(ask(40, 50), StateOffer::kWait);  // nobody fetches the present one
  tick();
  ASSERT_EQ(exchange_.phase(), Phase::kIdle);
  EXPECT_EQ(ask(40, 50), StateOffer::kWait);
  EXPECT_FALSE(source_.wants_copy());
  now_ += 300 * kMillisecond;
  EXPECT_EQ(ask(40, 50), StateOffer::kWait);
  EXPECT_TRUE(source_.wants_copy());
}

TEST_F(StateSourceTest, ClockThatJumpsDuringACopyDoesNotPutOffTheNextForLong) {
  make_copy(10, 3'000, kSecond);
  now_ += kSecond;
  tick();
  ASSERT_EQ(exchange_.phase(), Phase::kIdle);
  now_ += kMillisecond;
  EXPECT_EQ(ask(40, 50), StateOffer::kWait);
  EXPECT_TRUE(source_.wants_copy());
}

TEST_F(StateSourceTest, WhatItSendsInATurnAndAMillisecondIsBounded) {
  make_copy(10, 4'000'000);
  ASSERT_EQ(ask(10, 10), StateOffer::kHere);
  std::size_t all = 0;
  std::size_t most = 0;
  const Nanos end = now_ + 10 * kMillisecond;
  for (std::uint32_t turn = 0; now_ < end; ++turn, now_ += 10 * kMicrosecond) {
    pull(numbers(turn % 16 * 128, 128), manifest_.image);
    tick();
    all += chunks().size();
    most = std::max(most, chunks().size());
  }
  EXPECT_LE(most, 16u);
  EXPECT_LE(all * kChunk, 12u * 100'000);  // ten milliseconds, and what could be made up for
  EXPECT_GE(all * kChunk, 9u * 100'000);
  EXPECT_GT(count(StateSourceCounter::kDropQueueFull), 0u);
}

TEST_F(StateSourceTest, PieceOfACopyThatIsGoneIsAnsweredByAskAgain) {
  make_copy(10, 3'000);
  effects_.clear();
  pull(numbers(0, 1), 12'345);
  const auto answers = sent(effects_, MessageType::kStateManifest);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(message_of<StateManifest>(*answers[0]).offer,
            static_cast<std::uint8_t>(StateOffer::kWait));
  tick();
  EXPECT_TRUE(chunks().empty());
}

TEST_F(StateSourceTest, NoTwoCopiesHaveOneName) {
  make_copy(10, 3'000);
  ASSERT_EQ(ask(10, 10), StateOffer::kHere);
  const std::uint64_t first = manifest_.image;
  now_ += 2 * kSecond;
  tick();
  make_copy(11, 3'000);
  ASSERT_EQ(ask(11, 11), StateOffer::kHere);
  EXPECT_NE(manifest_.image, first);
}

}  // namespace
}  // namespace annulus::consensus
