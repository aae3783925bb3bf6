// When a proposer asks another replica for a reply because later values were answered, and when it
// leaves the one that was to reply in peace.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>
#include <vector>

#include "consensus/proposer.h"
#include "tests/support/proposer_fixture.h"

namespace annulus::consensus {
namespace {

using support::kFirst;
using support::ProposerTest;
using support::Sent;

constexpr Nanos kUsual = kMillisecond / 8;  // a reply takes, and the time between values
constexpr Nanos kSilent = kNever;

/// Replicas that answer after a time of their own, queries as well, and a proposer that proposes
/// steadily. It expects replies within 20 ms at first, so that only what later values show makes it
/// ask sooner.
class ProposerOvertakenTest : public ProposerTest {
 protected:
  void begin(std::uint16_t replicas) {
    for (std::uint16_t i = 2; i < replicas; ++i) {
      configuration_.learners.push_back({NodeId{20u + i}, learner(i), kAllPartitions});
    }
    takes_.assign(replicas, kUsual);
    options_.window = 64;
    start();
    ack(0, 1, 100'000'000, 0);
    run(200 * kUsual);
    settle();
    queries_.clear();
  }
  /// All that is outstanding is answered.
  void settle() {
    for (; !due_.empty(); now_ += kUsual) {
      std::erase_if(due_, [&](const Due& due) { return due.at <= now_ && answer(due); });
    }
  }
  std::uint64_t propose_to(std::uint16_t replica) {
    propose(now_, 64, replica);
    return next() - 1;
  }
  std::uint64_t next() { return proposer().next_sequence(); }
  /// Everything that happens in `time`. `slow_every`: of so many values one takes 5 ms, wherever it
  /// is executed.
  void run(Nanos time, std::uint64_t slow_every = 0) {
    for (const Nanos until = now_ + time; now_ < until; now_ += kUsual) {
      if (proposer().can_propose()) {
        const std::uint16_t replier = proposer().next_replier(now_);
        ++asked_to_reply_[replier];
        repliers_[next()] = replier;
        propose(now_, 64, replier);
        if (lose_every_ == 0 || next() % lose_every_ != 0) execute(next() - 1, replier, slow_every);
      }
      step(slow_every);
    }
  }
  /// Likewise, but nothing is proposed.
  void idle(Nanos time) {
    for (const Nanos until = now_ + time; now_ < until; now_ += kUsual) step(0);
  }
  void step(std::uint64_t slow_every) {
    std::erase_if(due_, [&](const Due& due) { return due.at <= now_ && answer(due); });
    proposer().poll(now_, effects_);
    for (const Sent& each : sent()) {
      if (each.type != MessageType::kQuery) continue;
      queries_.push_back(each);
      execute(each.sequence, static_cast<std::uint16_t>(each.to.port - 200), slow_every);
    }
  }
  /// Until the first query for `sequence`, at most `most`. How long that took.
  Nanos until_asked(std::uint64_t sequence, Nanos most) {
    const Nanos from = now_;
    while (first_query(sequence) == queries_.end() && now_ < from + most) run(kUsual);
    return now_ - from;
  }
  std::vector<Sent>::iterator first_query(std::uint64_t sequence) {
    return std::find_if(queries_.begin(), queries_.end(),
                        [&](const Sent& each) { return each.sequence == sequence; });
  }

  struct Due {
    Nanos at;
    std::uint64_t sequence;
    std::uint16_t replica;
  };
  void execute(std::uint64_t sequence, std::uint16_t replica, std::uint64_t slow_every) {
    if (takes_[replica] == kSilent) return;
    const bool slow = slow_every != 0 && sequence % slow_every == 0;
    due_.push_back({now_ + takes_[replica] + (slow ? 5 * kMillisecond : 0), sequence, replica});
  }
  bool answer(const Due& due) {
    const bool awaited = proposer().outstanding(due.sequence);
    proposer().on_reply(due.sequence, due.replica, now_);
    if (awaited) proposer().on_replied(due.sequence, now_);
    return true;
  }

  std::vector<Nanos> takes_;  // by replica
  std::vector<Due> due_;
  std::uint64_t lose_every_ = 0;  // of so many replies one is lost
  std::vector<Sent> queries_;
  std::array<std::uint64_t, kLearnersMax> asked_to_reply_{};
  std::map<std::uint64_t, std::uint16_t> repliers_;  // by sequence
  Nanos now_ = 0;
};

TEST_F(ProposerOvertakenTest, ValueOfADeadReplicaIsAskedForSoonThoughRepliesUsuallyTakeLonger) {
  begin(2);
  takes_[0] = kSilent;
  const std::uint64_t lost = propose_to(0);
  EXPECT_LE(until_asked(lost, kFirst), kMillisecond);
  EXPECT_EQ(*first_query(lost), query(1, lost));
  run(kMillisecond);
  EXPECT_FALSE(proposer().outstanding(lost));
  EXPECT_EQ(count(ProposerCounter::kProbes), 0u);
  EXPECT_EQ(count(ProposerCounter::kRetransmitted), 0u);
}

TEST_F(ProposerOvertakenTest, WhoeverIsAskedFirstIsNotSuspectedItself) {
  begin(3);
  takes_[1] = kSilent;
  run(20 * kMillisecond);
  takes_[0] = kSilent;
  const std::uint64_t lost = propose_to(0);
  ASSERT_LE(until_asked(lost, kFirst), kMillisecond);
  EXPECT_EQ(*first_query(lost), query(2, lost));
  takes_[2] = kSilent;
  run(4 * kMillisecond);  // now nobody else is left
  const std::uint64_t last = propose_to(0);
  until_asked(last, kSecond);
  EXPECT_EQ(*first_query(last), query(2, last));  // it was heard last
}

TEST_F(ProposerOvertakenTest, WhenAllAreSuspectedWhoeverWasHeardLastReplies) {
  begin(2);
  takes_[0] = kSilent;
  run(20 * kMillisecond);
  takes_[1] = kSilent;  // for a moment
  run(30 * kMillisecond);
  EXPECT_EQ(count(ProposerCounter::kSuspected), 2u);
  for (int i = 0; i < 2; ++i) proposer().next_replier(now_);  // each may be due to be tried
  EXPECT_EQ(proposer().next_replier(now_), 1);
  EXPECT_EQ(proposer().next_replier(now_), 1);
}

TEST_F(ProposerOvertakenTest, ReplicaThatStaysSilentIsTriedLessAndLessOften) {
  begin(2);
  takes_[0] = kSilent;
  run(4 * kMillisecond);  // every other value goes to it until that is found out
  asked_to_reply_ = {};
  run(40 * kMillisecond);
  EXPECT_GE(asked_to_reply_[0], 2u);
  EXPECT_LE(asked_to_reply_[0], 4u);
  run(kSecond);
  asked_to_reply_ = {};
  run(kSecond);
  EXPECT_GE(asked_to_reply_[0], 4u);
  EXPECT_LE(asked_to_reply_[0], 6u);
  takes_[0] = kUsual;
  run(200 * kMillisecond);
  asked_to_reply_ = {};
  run(100 * kUsual);
  EXPECT_EQ(asked_to_reply_[0], 50u);
}

TEST_F(ProposerOvertakenTest, ReplicaThatComesToBeBehindGetsItsShareAgain) {
  begin(2);
  takes_[0] = 6 * kUsual;  // from now on: it is taken for dead, and learnt to be slow
  run(3 * kSecond);
  asked_to_reply_ = {};
  const std::size_t queries = queries_.size();
  run(kSecond);
  EXPECT_GE(asked_to_reply_[0], 3'900u);
  EXPECT_EQ(queries_.size(), queries);
}

TEST_F(ProposerOvertakenTest, ReplicaThatWasAwayIsNotWaitedForAsLongAfterwards) {
  begin(2);
  for (int i = 0; i < 8; ++i) {
    takes_[0] = kSilent;
    run(5 * kMillisecond);
    idle(50 * kMillisecond);
    now_ += 4 * kSecond;  // then it says what it was asked for
    for (std::uint64_t s = next() - 60; s < next(); ++s) {
      if (repliers_[s] == 0) proposer().on_reply(s, 0, now_);
    }
    takes_[0] = kUsual;
    run(20 * kMillisecond);
  }
  takes_[0] = kSilent;
  EXPECT_LE(until_asked(propose_to(0), kSecond), 2 * kMillisecond);
}

TEST_F(ProposerOvertakenTest, StallOfOneReplicaIsForgottenSoon) {
  begin(2);
  takes_[0] = kSilent;
  run(2 * kMillisecond);
  takes_[0] = kUsual;
  run(20 * kMillisecond);
  asked_to_reply_ = {};
  run(100 * kUsual);
  EXPECT_EQ(asked_to_reply_[0], 50u);
}

// Who is asked for a read executes it again: that must not go on where values take long.
TEST_F(ProposerOvertakenTest, ValuesThatTakeLongAreSeldomExecutedTwice) {
  for (const std::uint16_t replicas : {std::uint16_t{2}, std::uint16_t{5}}) {
    configuration_.learners.resize(2);
    begin(replicas);
    run(2 * kSecond, 50);
    const std::size_t before = queries_.size();
    const std::uint64_t first = next();
    run(10 * kSecond, 50);
    // About one a second finds out whether it is still so.
    EXPECT_LE(queries_.size() - before, 50u) << replicas;
    EXPECT_GE((next() - first) / 50, 1'200u);
    // Nor may it be patient for longer than that takes, and than it is so.
    takes_[0] = kSilent;
    EXPECT_LE(until_asked(propose_to(0), kSecond), 20 * kMillisecond);
    takes_[0] = kUsual;
    run(8 * kSecond);
    takes_[0] = kSilent;
    EXPECT_LE(until_asked(propose_to(0), kSecond), kMillisecond);
  }
}

TEST_F(ProposerOvertakenTest, ValuesThatTakeLongAreWaitedForWhenNoneIsBehindThem) {
  begin(2);
  run(4 * kSecond, 20);
  settle();
  propose_to(0);
  sent();
  Nanos at = now_;
  for (Nanos next = at; sent().empty(); next = proposer().poll(at, effects_)) at = next;
  EXPECT_GE(at, now_ + 8 * kMillisecond);
}

TEST_F(ProposerOvertakenTest, LostRepliesDoNotMakeTheProposerPatient) {
  begin(5);
  lose_every_ = 8;
  run(2 * kSecond);
  lose_every_ = 0;
  takes_[0] = kSilent;
  EXPECT_LE(until_asked(propose_to(0), kFirst), kMillisecond);
}

TEST_F(ProposerOvertakenTest, OutageDoesNotMakeTheProposerPatientWithADeadReplica) {
  begin(2);
  for (int i = 0; i < 4; ++i) {
    due_.clear();
    const std::vector<Nanos> before = std::exchange(takes_, {kSilent, kSilent});
    const std::uint64_t first = next();
    run(40 * kMillisecond);  // nothing is ordered
    takes_ = before;
    for (std::uint64_t s = first; s < next(); ++s) execute(s, repliers_[s], 0);
    run(10 * kMillisecond);
  }
  takes_[0] = kSilent;
  const std::uint64_t lost = propose_to(0);
  EXPECT_LE(until_asked(lost, kFirst), 2 * kMillisecond);
}

TEST_F(ProposerOvertakenTest, ReplyToAValueSentTwiceTellsNothingOfThoseBefore) {
  begin(2);
  const std::uint64_t first = next();
  propose(now_, 64, 1);
  propose(now_, 64, 0);
  now_ += kMillisecond / 2;
  ack(0, first + 1, 100'000'000, now_);  // it lacks the second: it gets it again
  ASSERT_EQ(sent().back(), submit(0, first + 1, first));
  replied(first + 1, now_ + kUsual, 0);
  proposer().poll(now_ + kUsual, effects_);
  proposer().poll(now_ + kMillisecond, effects_);
  EXPECT_EQ(count(ProposerCounter::kOvertaken), 0u);
  propose(now_, 64, 0);
  replied(first + 2, now_ + kMillisecond, 0);
  proposer().poll(now_ + kMillisecond, effects_);
  proposer().poll(now_ + 2 * kMillisecond, effects_);
  EXPECT_EQ(count(ProposerCounter::kOvertaken), 1u);
}

TEST_F(ProposerOvertakenTest, ValueSentToAnotherCoordinatorIsAskedForAsSoon) {
  begin(2);
  takes_[0] = kSilent;
  const std::uint64_t lost = propose_to(0);
  replied(propose_to(1), now_, 1);
  told(0, 2, 1, 0, 100'000'000, now_);
  told(1, 2, 1, 0, 100'000'000, now_);
  proposer().poll(now_, effects_);
  EXPECT_EQ(sent(), (std::vector{submit(1, lost, lost), submit(1, lost + 1, lost)}));
  EXPECT_LE(until_asked(lost, kFirst), kMillisecond);
}

// A coordinator that takes over fills what was lost with nothing, and orders what came after it.
TEST_F(ProposerOvertakenTest, ValueThatWasLostBeforeAnAnsweredOneIsSentAgainAsEver) {
  Nanos tried[2];
  for (const bool answered : {false, true}) {
    probes_.clear();
    start();
    propose(0, 64, 0);
    propose(0, 64, 1);
    ack(0, 3, 20, 0);
    if (answered) replied(2, kMillisecond, 1);
    Nanos now = kMillisecond;
    while (probes_.empty()) {
      now = proposer().poll(now, effects_);
      proposer().poll(now, effects_);
      sent();
    }
    tried[answered] = now;
  }
  EXPECT_LE(tried[1], tried[0] + 2 * kMillisecond);
}

}  // namespace
}  // namespace annulus::consensus
