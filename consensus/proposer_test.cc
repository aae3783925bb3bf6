// The proposer's rules: sequence, credit, repetition, gaps, redirects.
#include "consensus/proposer.h"

#include <gtest/gtest.h>

#include "tests/support/proposer_fixture.h"

namespace annulus::consensus {
namespace {

using support::kFirst;
using support::ProposerTest;
using support::Sent;

TEST_F(ProposerTest, ValuesGoOutInSequence) {
  start();
  propose(0);
  propose(0);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(0, 1, 1), submit(0, 2, 1)}));
}

TEST_F(ProposerTest, LongValueTravelsInFragmentsThatCoverIt) {
  start();
  propose(0, 3'000);
  const std::uint32_t each = fragment_bytes(options_.frame_bytes_max);
  ASSERT_EQ(effects_.size(), (3'000 + each - 1) / each);
  std::uint32_t bytes = 0;
  for (Outgoing& out : effects_.frames()) {
    const auto& m = *reinterpret_cast<const Submit*>(out.message());
    EXPECT_EQ(from_wire(m.fragment).offset(), bytes);
    bytes += out.payload.size();
  }
  EXPECT_EQ(bytes, 3'000u);
}

TEST_F(ProposerTest, CreditLimitsWhatIsOutstanding) {
  start();
  for (int i = 0; i < 4; ++i) propose(0);
  EXPECT_FALSE(proposer().can_propose());
  ack(0, 5, 6, 1);
  EXPECT_TRUE(proposer().can_propose());
  propose(1);
  EXPECT_FALSE(proposer().can_propose());
}

TEST_F(ProposerTest, WindowLimitsWhatIsOutstandingWhateverTheCredit) {
  start();
  propose(0);
  ack(0, 2, 1'000, 1);
  for (int i = 1; i < 8; ++i) propose(1);
  EXPECT_FALSE(proposer().can_propose());
  replied(1, 2);
  EXPECT_TRUE(proposer().can_propose());
}

TEST_F(ProposerTest, AFewValuesNeedNoCreditSoThatALostAckCannotStopIt) {
  start();
  for (int i = 0; i < 4; ++i) propose(0);
  for (std::uint64_t s = 1; s <= 4; ++s) replied(s, 1);
  EXPECT_TRUE(proposer().can_propose());
}

TEST_F(ProposerTest, LateValueIsRepeatedAndAnotherReplicaAsked) {
  start();
  propose(0);
  sent();
  EXPECT_EQ(proposer().poll(kFirst - 1, effects_), kFirst);
  EXPECT_TRUE(sent().empty());
  proposer().poll(kFirst, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(0, 1, 1), query(1, 1)}));
  EXPECT_EQ(count(ProposerCounter::kRetransmitted), 1u);
}

TEST_F(ProposerTest, ReceivedValueIsNotRepeatedButAskedForAtEachReplicaInTurn) {
  start();
  propose(0, 64, 1);
  ack(0, 2, 20, 1);
  sent();
  Nanos now = proposer().poll(1, effects_);
  proposer().poll(now, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{query(0, 1)}));
  now = proposer().poll(now, effects_);
  proposer().poll(now, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{query(1, 1)}));
  EXPECT_EQ(proposer().queries(1), 2u);
}

TEST_F(ProposerTest, OnlyTheOldestMissingValueIsRepeatedWhenAllAreLate) {
  start();
  for (int i = 0; i < 4; ++i) propose(0, 3'000);
  sent();
  proposer().poll(kFirst, effects_);
  for (const Sent& s : sent()) EXPECT_EQ(s.sequence, 1u);
}

TEST_F(ProposerTest, ReplyShowsThatEverythingBeforeItWasReceived) {
  start();
  propose(0);
  propose(0);
  sent();
  replied(2, 1, 1);
  proposer().poll(kFirst, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{query(1, 1)}));
}

TEST_F(ProposerTest, GapNamedByAckIsResentAtOnce) {
  start();
  for (int i = 0; i < 3; ++i) propose(0);
  sent();
  ack(0, 2, 20, kFirst - 1);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(0, 2, 1)}));
  EXPECT_EQ(count(ProposerCounter::kGapResent), 1u);
  ack(0, 2, 20, kFirst);
  EXPECT_TRUE(sent().empty()) << "the repetition may still be on its way";
}

TEST_F(ProposerTest, RedirectResendsEverythingUnanswered) {
  start();
  for (int i = 0; i < 3; ++i) propose(0);
  replied(1, 1);
  sent();
  told(0, 1, 2, 0, 0, 2);
  EXPECT_EQ(proposer().target(), NodeId{12});
  proposer().poll(2, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(2, 2, 2), submit(2, 3, 2)}));
}

TEST_F(ProposerTest, AckFromAnotherEpochOrAcceptorIsIgnored) {
  start();
  for (int i = 0; i < 4; ++i) propose(0);
  ack(0, 1, 1, 1);
  told(0, 1, 0, 5, 50, 1, 98);
  told(1, 1, 0, 5, 50, 1);  // no news
  told(1, 0, 1, 5, 50, 1);  // of an earlier round
  EXPECT_FALSE(proposer().can_propose());
  EXPECT_EQ(proposer().target(), NodeId{10});
  EXPECT_EQ(count(ProposerCounter::kDropAckStale), 3u);
}

TEST_F(ProposerTest, BallotThatWhoeverToldOfItForgotIsForgotten) {
  start();
  for (int i = 0; i < 2; ++i) propose(0);
  told(1, 2, 1, 0, 50, 1);
  EXPECT_EQ(proposer().target(), NodeId{11});
  told(2, 1, 2, 0, 50, 2);  // may be late itself
  EXPECT_EQ(proposer().target(), NodeId{11});
  proposer().poll(2, effects_);
  sent();
  told(1, 1, 2, 0, 0, 3);  // may be late as well
  EXPECT_EQ(proposer().target(), NodeId{11});
  proposer().poll(2 + 2 * kFirst, effects_);
  sent();
  const Nanos now = 3 + 2 * kFirst;
  told(1, 1, 2, 0, 0, now);
  EXPECT_EQ(proposer().target(), NodeId{12});
  proposer().poll(now, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(2, 1, 1), submit(2, 2, 1)}));
  told(2, 1, 2, 2, 50, now + 1);
  EXPECT_TRUE(proposer().can_propose());
}

TEST_F(ProposerTest, BallotOfWhoeverDiedBeforeOthersHeardOfItIsForgotten) {
  start();
  propose(0);
  told(1, 2, 1, 0, 50, 1);
  for (int i = 1; i < 8; ++i) propose(1);
  // What probes bring to the real coordinator is ordered, and answered.
  Nanos now = 1;
  for (std::uint64_t sequence = 1; sequence < 8 && proposer().target() != NodeId{12}; ++sequence) {
    now = std::max(now + 1, proposer().poll(now, effects_));
    sent();
    told(2, 1, 2, sequence, 50, now);
    replied(sequence, now);
  }
  EXPECT_EQ(proposer().target(), NodeId{12});
}

TEST_F(ProposerTest, EveryAcceptorIsProbedWhateverBecomesOfTheTarget) {
  for (std::uint32_t i = 3; i < 5; ++i) {
    configuration_.acceptors.push_back({NodeId{10 + i}, acceptor(i)});
  }
  start();
  propose(0);
  // Elections move it between probes, so that the one after next would always be passed over.
  Nanos now = 1;
  bool asked = false;
  for (std::uint32_t i = 0; i < 20; ++i) {
    told(2, i + 1, i % 4 == 3 ? 1 : 0, 0, 0, now);
    for (probes_.clear(); probes_.empty(); sent()) {
      now = std::max(now + 1, proposer().poll(now, effects_));
    }
    ASSERT_EQ(probes_.size(), 1u);
    asked |= probes_[0].to == acceptor(4);
  }
  EXPECT_TRUE(asked);
}

TEST_F(ProposerTest, OutageIsNoticedThoughOthersNameOneDeadAcceptorAfterAnother) {
  for (std::uint32_t i = 3; i < 5; ++i) {
    configuration_.acceptors.push_back({NodeId{10 + i}, acceptor(i)});
  }
  start();
  propose(0);
  told(2, 5, 0, 0, 0, 1);
  Nanos now = 1;
  for (int i = 0; i < 100 && count(ProposerCounter::kTargetSilent) == 0; ++i) {
    now = std::max(now + 1, proposer().poll(now, effects_));
    sent();
    told(2, 5, 0, 0, 0, now);
    told(3, 4, 1, 0, 0, now);
  }
  EXPECT_EQ(count(ProposerCounter::kTargetSilent), 1u);
}

TEST_F(ProposerTest, ACoordinatorThatIsElectedAnewHasLostWhatItReceived) {
  start();
  propose(0);
  propose(0);
  ack(0, 3, 20, 1);
  sent();
  told(0, 2, 0, 1, 20, 2);
  EXPECT_EQ(count(ProposerCounter::kRedirected), 1u);
  effects_.clear();
  proposer().poll(3, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(0, 1, 1), submit(0, 2, 1)}));
}

TEST_F(ProposerTest, WhatACoordinatorLacksIsSentAgainThoughAnEarlierOneOrderedIt) {
  start();
  for (int i = 0; i < 4; ++i) propose(0);
  told(0, 2, 2, 0, 0, 1);
  effects_.clear();
  replied(2, 2);  // by the coordinator before: shows nothing of this one
  replied(3, 2);
  Nanos now = proposer().poll(2, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(2, 1, 1), submit(2, 4, 1)}));
  now += kFirst;
  told(2, 2, 2, 1, 20, now);
  proposer().poll(now, effects_);
  EXPECT_EQ(sent(), (std::vector<Sent>{submit(2, 1, 1), submit(2, 2, 1), submit(2, 3, 1)}));
}

TEST_F(ProposerTest, AProbeThatFoundTheCoordinatorHasDeliveredItsValue) {
  start();
  propose(0);
  sent();
  Nanos now = proposer().poll(kFirst, effects_);
  effects_.clear();
  told(1, 1, 1, 2, 20, kFirst + 1);
  EXPECT_EQ(proposer().target(), NodeId{11});
  now = proposer().poll(kFirst + 1, effects_);
  EXPECT_GT(now, kFirst + 1);
}

TEST_F(ProposerTest, AbandonedValueIsRepeatedWhileAnOlderOneIsOutstanding) {
  start();
  propose(0);
  propose(0);
  proposer().abandon(2);
  sent();
  // Four timeouts: the one behind the oldest missing value is repeated every fourth time only.
  Nanos now = 0;
  std::vector<Sent> all;
  for (int i = 0; i < 16; ++i) {
    now = proposer().poll(now, effects_);
    proposer().poll(now, effects_);
    for (const Sent& s : sent()) all.push_back(s);
    ack(0, 1, 20, now);  // alive, but what was sent is lost
  }
  EXPECT_TRUE(std::any_of(all.begin(), all.end(), [](const Sent& s) {
    return s.type == MessageType::kSubmit && s.sequence == 2;
  }));
  EXPECT_FALSE(std::any_of(all.begin(), all.end(), [](const Sent& s) {
    return s.type == MessageType::kQuery && s.sequence == 2;
  }));
}

TEST_F(ProposerTest, AbandonedOldestValueIsNamedAsNeverSentAgain) {
  start();
  propose(0);
  propose(0);
  proposer().abandon(1);
  sent();
  EXPECT_EQ(proposer().outstanding(), 1u);
  proposer().poll(kFirst, effects_);
  EXPECT_EQ(sent()[0], submit(0, 2, 2));
}

TEST_F(ProposerTest, ClientServerModeTalksToTheFirstReplicaOnly) {
  options_.client_server = true;
  start();
  propose(0);
  EXPECT_EQ(sent()[0].to, learner(0));
  proposer().poll(kFirst, effects_);
  for (const Sent& s : sent()) EXPECT_EQ(s.to, learner(0));
  EXPECT_EQ(proposer().next_replier(0), 0);
}

}  // namespace
}  // namespace annulus::consensus
