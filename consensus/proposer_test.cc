// The proposer's rules: sequence, credit, repetition, gaps, redirects, late replies.
#include "consensus/proposer.h"

#include <gtest/gtest.h>

#include <string>

#include "dataplane/hash.h"

namespace annulus::consensus {
namespace {

constexpr Nanos kFirst = 20 * kMillisecond;

struct Sent {
  MessageType type;
  Endpoint to;
  std::uint64_t sequence;
  std::uint64_t oldest;
  std::uint16_t fragment;
  bool operator==(const Sent&) const = default;
};

class ProposerTest : public ::testing::Test {
 protected:
  ProposerTest() : pool_(256, 65'536) {
    for (std::uint32_t i = 0; i < 3; ++i) {
      configuration_.acceptors.push_back({NodeId{10 + i}, acceptor(i)});
    }
    for (std::uint32_t i = 0; i < 2; ++i) {
      configuration_.learners.push_back({NodeId{20 + i}, learner(i), kAllPartitions});
    }
    options_.node = NodeId{7};
    options_.epoch = 99;
    options_.window = 8;
    options_.credit_first = 4;
    options_.frame_bytes_max = 1'252;
    options_.retransmit_after = kFirst;
  }

  static Endpoint acceptor(std::uint32_t i) { return {1, static_cast<std::uint16_t>(100 + i)}; }
  static Endpoint learner(std::uint32_t i) { return {1, static_cast<std::uint16_t>(200 + i)}; }

  void start() { proposer_ = std::make_unique<Proposer>(options_, configuration_); }
  Proposer& proposer() { return *proposer_; }

  void propose(Nanos now, std::uint32_t bytes = 64, std::uint16_t replier = 0) {
    Slice slice = pool_.allocate();
    slice.truncate(bytes);
    const Value value{{NodeId{7}, 99, proposer().next_sequence()},
                      dataplane::hash_bytes(slice.bytes()),
                      kAllPartitions,
                      bytes};
    proposer().propose(value, slice, replier, now, effects_);
  }
  void ack(std::uint32_t from, std::uint64_t received_below, std::uint64_t limit, Nanos now) {
    told(from, 1, from, received_below, limit, now);
  }
  /// `from` says that `coordinator` coordinates, in `round`.
  void told(std::uint32_t from, std::uint64_t round, std::uint32_t coordinator,
            std::uint64_t received_below, std::uint64_t limit, Nanos now,
            std::uint64_t epoch = 99) {
    proposer().on_submit_ack(
        NodeId{10 + from},
        {epoch, received_below, limit, raw(make_ballot(round, NodeId{10 + coordinator}))}, now,
        effects_);
  }
  void replied(std::uint64_t sequence, Nanos now, std::uint16_t replica = 0) {
    proposer().on_reply(sequence, replica);
    proposer().on_replied(sequence, now);
  }
  /// Without what went to acceptors that are not taken for the coordinator: see probes_.
  std::vector<Sent> sent() {
    std::vector<Sent> all;
    for (Outgoing& out : effects_.frames()) {
      if (out.type == MessageType::kSubmit) {
        const auto& m = *reinterpret_cast<const Submit*>(out.message());
        const Sent submit{out.type, out.to, m.value.id.sequence, m.oldest, m.fragment.index};
        const bool probe = out.to != acceptor(raw(proposer().target()) - 10);
        (probe && !options_.client_server ? probes_ : all).push_back(submit);
      } else {
        const auto& m = *reinterpret_cast<const Query*>(out.message());
        all.push_back({out.type, out.to, m.value.id.sequence, 0, m.fragment.index});
      }
    }
    effects_.clear();
    return all;
  }
  static Sent submit(std::uint32_t to, std::uint64_t sequence, std::uint64_t oldest) {
    return {MessageType::kSubmit, acceptor(to), sequence, oldest, 0};
  }
  static Sent query(std::uint32_t to, std::uint64_t sequence) {
    return {MessageType::kQuery, learner(to), sequence, 0, 0};
  }
  std::uint64_t count(ProposerCounter which) { return proposer().counters()[which].get(); }

  dataplane::BufferPool pool_;
  Configuration configuration_;
  ProposerOptions options_;
  std::unique_ptr<Proposer> proposer_;
  Effects effects_;
  std::vector<Sent> probes_;
};

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
  proposer().on_reply(1, 1);
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
