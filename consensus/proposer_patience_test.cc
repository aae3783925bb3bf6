// How long a proposer waits, and for whom: late values, silent clusters, replicas that died.
#include "consensus/proposer.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/proposer_fixture.h"

namespace annulus::consensus {
namespace {

using support::kFirst;
using support::ProposerTest;
using support::Sent;

TEST_F(ProposerTest, LateValueIsSentToOtherAcceptorsInTurnToHearOfANewCoordinator) {
  start();
  propose(0);
  ack(0, 1, 20, 0);
  sent();
  Nanos now = proposer().poll(0, effects_);
  for (int i = 0; i < 3; ++i) {
    now = proposer().poll(now, effects_);
    sent();
  }
  EXPECT_EQ(probes_, (std::vector<Sent>{submit(1, 1, 1), submit(2, 1, 1), submit(1, 1, 1)}));
  told(1, 1, 0, 0, 0, now);  // it has heard of no other
  EXPECT_EQ(proposer().target(), NodeId{10});
  told(1, 2, 2, 0, 0, now);
  EXPECT_EQ(proposer().target(), NodeId{12});
  proposer().poll(now, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(2, 1, 1)}));
}

TEST_F(ProposerTest, BackOffIsBoundedInAbsoluteTime) {
  start();
  propose(0);
  Nanos now = 0;
  Nanos longest = 0;
  while (now < 60 * kSecond) {
    const Nanos next = proposer().poll(now, effects_);
    longest = std::max(longest, next - now);
    now = next;
    effects_.clear();
  }
  EXPECT_LE(longest, 250 * kMillisecond);
}

TEST_F(ProposerTest, SilentClusterIsSentOneValueAtATime) {
  start();
  for (int i = 0; i < 4; ++i) propose(0);
  sent();
  Nanos now = 0;
  std::vector<Sent> late;
  while (now < 11 * kSecond) {
    now = proposer().poll(now, effects_);
    for (const Sent& s : sent()) {
      if (now >= kSecond && s.type == MessageType::kSubmit) late.push_back(s);
    }
  }
  EXPECT_GE(late.size(), 30u);
  EXPECT_LE(late.size(), 45u);
  for (const Sent& s : late) EXPECT_EQ(s.sequence, 1u);
}

TEST_F(ProposerTest, HearingFromTheCoordinatorAgainBringsTheTimeoutsDown) {
  start();
  for (int i = 0; i < 4; ++i) propose(0);
  Nanos now = 0;
  while (now < 10 * kSecond) {
    now = proposer().poll(now, effects_);
    effects_.clear();
  }
  const std::uint32_t target = raw(proposer().target()) - 10;
  now -= kMillisecond;  // before the next attempt
  ack(target, 2, 20, now);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(target, 2, 1)}));  // the gap that it named
  EXPECT_LE(proposer().poll(now, effects_), now + kFirst);
}

TEST_F(ProposerTest, WhoeverIsNamedDuringSilenceIsSentOneValueUntilItAnswers) {
  start();
  for (int i = 0; i < 4; ++i) propose(0);
  Nanos now = 0;
  while (now < kSecond) {
    now = proposer().poll(now, effects_);
    effects_.clear();
  }
  const std::uint32_t target = raw(proposer().target()) - 10;
  const std::uint32_t named = (target + 2) % 3;
  told(target, 2, named, 0, 0, now);
  proposer().poll(now, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(named, 1, 1)}));
  replied(1, now + 1);
  proposer().poll(now + 1, effects_);
  EXPECT_EQ(sent(),
            (std::vector<Sent>{submit(named, 2, 2), submit(named, 3, 2), submit(named, 4, 2)}));
}

TEST_F(ProposerTest, ChangeOfCoordinatorBringsTheTimeoutsDown) {
  start();
  propose(0);
  Nanos now = 0;
  for (int i = 0; i < 4; ++i) now = proposer().poll(now, effects_);
  effects_.clear();
  told(0, 2, 2, 0, 0, now);
  EXPECT_EQ(proposer().poll(now, effects_), now + kFirst);
}

TEST_F(ProposerTest, WaitingBehindALateValueDoesNotRaiseTheTimeout) {
  start();
  Nanos now = 0;
  for (std::uint64_t s = 1; s <= 40; s += 4) {
    for (int i = 0; i < 4; ++i) propose(now);
    // The first is lost and repeated; the others wait for it longer than they would be patient.
    now += kFirst;
    proposer().poll(now, effects_);
    now += kFirst;
    proposer().poll(now, effects_);
    for (std::uint64_t i = 0; i < 4; ++i) replied(s + i, now);
    effects_.clear();
  }
  propose(now);
  // (Late in so many cases, it is taken to be too short, and doubled: once for each 32.)
  EXPECT_EQ(proposer().poll(now, effects_), now + 2 * kFirst);
}

TEST_F(ProposerTest, RepliesAdaptTheTimeout) {
  start();
  Nanos now = 0;
  for (std::uint64_t s = 1; s <= 4'000; ++s) {
    propose(now);
    now += kMillisecond;
    replied(s, now);
    effects_.clear();
  }
  propose(now);
  const Nanos patience = proposer().poll(now, effects_) - now;
  EXPECT_GT(patience, kMillisecond);
  EXPECT_LT(patience, 3 * kMillisecond);
}

TEST_F(ProposerTest, ValuesLateTogetherCountAsOne) {
  start();
  Nanos now = 0;
  std::uint64_t s = 1;
  const auto replies = [&](std::uint64_t values, Nanos after) {
    for (std::uint64_t i = 0; i < values; ++i) propose(now);
    now += after;
    for (std::uint64_t i = 0; i < values; ++i) replied(s++, now);
    effects_.clear();
  };
  const auto patience = [&] {
    propose(now);
    const Nanos due = proposer().poll(now, effects_);
    const Nanos waits = due - now;
    replied(s++, now);
    return waits;
  };
  for (int i = 0; i < 4'000; ++i) replies(1, kMillisecond);
  replies(4, 100 * kMillisecond);
  const Nanos once = patience();
  EXPECT_GT(once, 20 * kMillisecond);
  EXPECT_LT(once, 30 * kMillisecond);
  replies(1, 100 * kMillisecond);
  EXPECT_GT(patience(), once + 10 * kMillisecond);
}

TEST_F(ProposerTest, RepliersTakeTurnsAndALateOneIsAvoidedUntilItAnswers) {
  start();
  EXPECT_NE(proposer().next_replier(0), proposer().next_replier(0));
  propose(0, 64, 1);
  ack(0, 2, 20, 1);
  proposer().poll(kFirst, effects_);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(proposer().next_replier(kFirst), 0);
  // Once the suspicion has aged, a single value tries it.
  const Nanos later = kFirst + kSecond;
  int tried = 0;
  for (int i = 0; i < 6; ++i) tried += proposer().next_replier(later) == 1;
  EXPECT_EQ(tried, 1);
  proposer().on_reply(1, 1, later);
  EXPECT_NE(proposer().next_replier(later), proposer().next_replier(later));
}

TEST_F(ProposerTest, AReplicaTriedAgainIsNotWaitedForAsLongAsThoseThatWereLateInAnOutage) {
  start();
  ack(0, 1, 1'000, 0);
  Nanos now = 0;
  std::uint64_t sequence = 0;
  for (int i = 0; i < 4; ++i) {  // all were late together, and not repeated
    propose(now, 64, 1);
    replied(++sequence, now += kFirst - 1, 1);
  }
  for (int i = 0; i < 64; ++i) {  // now they are quick again
    propose(now, 64, 1);
    replied(++sequence, now += kMillisecond / 8, 1);
  }
  effects_.clear();
  propose(now, 64, 0);  // replica 0 has died
  ++sequence;
  ack(0, sequence + 1, 1'000, now);
  const Nanos usual = proposer().poll(now, effects_) - now;
  now += usual;
  proposer().poll(now, effects_);
  replied(sequence, now, 1);
  effects_.clear();
  propose(now, 64, 0);
  ++sequence;
  ack(0, sequence + 1, 1'000, now);
  const Nanos trial = proposer().poll(now, effects_) - now;
  EXPECT_LE(trial, 2 * kMillisecond);
  EXPECT_GE(usual, 4 * trial);
  effects_.clear();
  proposer().poll(now + trial, effects_);
  EXPECT_EQ(sent(), std::vector{query(1, sequence)});
}

}  // namespace
}  // namespace annulus::consensus
