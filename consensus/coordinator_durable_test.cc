// The coordinator beside a durable acceptor: what it says and counts waits for the log.
#include <gtest/gtest.h>

#include <set>

#include "tests/support/coordinator_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

constexpr std::uint64_t kPlenty = 1ull << 40;

class DurableCoordinatorTest : public CoordinatorTest {
 protected:
  void start_durable(std::uint32_t acceptors, const RecoveredAcceptor& recovered = {}) {
    configuration_ = configuration(acceptors);
    AcceptorOptions acceptor_options;
    CoordinatorOptions options;
    acceptor_options.fragment_bytes = options.fragment_bytes = Frames::kFragment;
    acceptor_options.durable = true;
    acceptor_options.retain_bytes = retain_bytes_;
    acceptor_options.undecided_bytes =
        std::min(acceptor_options.undecided_bytes, retain_bytes_ / 2);
    acceptor_ = std::make_unique<Acceptor>(configuration_, 0, acceptor_options, pool_);
    acceptor_->restore(recovered);
    coordinator_ = std::make_unique<Coordinator>(configuration_, 0, options, *acceptor_, pool_);
    written(0);
  }
  void written(std::uint64_t number) {
    acceptor_->on_durable({.durable = number, .space = kPlenty}, now_, effects_);
    coordinator_->on_durable(now_, effects_);
  }
};

TEST_F(DurableCoordinatorTest, BallotIsNotHeardOfBeforeItsPromiseIsDurable) {
  start_durable(3);
  coordinator_->start(now_, effects_);
  pass(100 * kMillisecond);
  EXPECT_TRUE(sent(effects_, MessageType::kPhase1A).empty());
  written(1);
  EXPECT_EQ(sent(effects_, MessageType::kPhase1A).size(), 2u);
}

TEST_F(DurableCoordinatorTest, AcknowledgementDoesNotTellABallotThatMayBeForgotten) {
  start_durable(3);
  coordinator_->start(now_, effects_);
  submit(1, 2);
  submit(1, 2);  // again: its client asks
  turn();
  EXPECT_TRUE(sent(effects_, MessageType::kSubmitAck).empty());
  written(1);
  turn();
  EXPECT_TRUE(sent(effects_, MessageType::kSubmitAck).empty()) << "nobody else knows of it";
  promise(1, {});
  turn();
  EXPECT_EQ(sent(effects_, MessageType::kSubmitAck).size(), 1u);
}

TEST_F(DurableCoordinatorTest, BallotIsAboveEveryOneOfItsEarlierLife) {
  RecoveredAcceptor recovered;
  recovered.promised = ballot(7);
  start_durable(3, recovered);
  coordinator_->start(now_, effects_);
  EXPECT_GT(coordinator_->ballot(), ballot(7));
}

TEST_F(DurableCoordinatorTest, OwnVoteCountsOnlyOnceItIsDurable) {
  start_durable(3);
  coordinator_->start(now_, effects_);
  written(1);
  promise(1, {});
  ASSERT_TRUE(coordinator_->active());
  submit(1, 2);
  turn();
  vote_for(1, 2);
  EXPECT_EQ(coordinator_->decided_below(), at(1));
  written(2);
  EXPECT_EQ(coordinator_->decided_below(), at(2));
  written(3);
  EXPECT_EQ(coordinator_->decided_below(), at(3));
}

TEST_F(DurableCoordinatorTest, SlowDiskOfTheCoordinatorIsNotWaitedFor) {
  start_durable(3);
  coordinator_->start(now_, effects_);
  written(1);
  promise(1, {});
  submit(1, 1);
  turn();
  vote_for(1, 1, 1);
  vote_for(1, 1, 2);
  EXPECT_EQ(coordinator_->decided_below(), at(2));
}

class RefusedCoordinatorTest : public CoordinatorTest {
 protected:
  /// Proposes one value, which nobody votes for.
  void propose_in_vain(std::uint32_t acceptors) {
    start(acceptors);
    elect();
    submit(1, 1);
    turn();
  }
  void reject(std::uint32_t from, Ballot promised) {
    reject(from, promised, coordinator_->ballot());
  }
  void reject(std::uint32_t from, Ballot promised, Ballot refused) {
    const Reject m{raw(promised), raw(refused)};
    coordinator_->on_reject(frames_.frame(acceptor_id(from), MessageType::kReject, m), now_);
  }
  /// Acceptor `from` says over and over that its log is full.
  void refuse_for(Nanos time, std::uint32_t from) {
    for (const Nanos end = now_ + time; now_ < end;) {
      pass(500 * kMillisecond);
      reject(from, coordinator_->ballot());
      keep();
    }
  }
  /// How long until it gives up, though acceptor 1 says over and over that its log is full.
  Nanos stayed() {
    const Nanos begin = now_;
    while (coordinator_->active() && now_ < begin + 60 * kSecond) {
      pass(20 * kMillisecond);
      if (coordinator_->active()) reject(1, coordinator_->ballot());
      keep();
    }
    return now_ - begin;
  }
};

TEST_F(RefusedCoordinatorTest, StaysTwiceAsLongEachTimeWhileAMajorityAnswersThoughLogsAreFull) {
  propose_in_vain(3);
  const Nanos first = stayed();
  std::vector<Nanos> longer;
  for (int i = 0; i < 4; ++i) {
    elect();
    longer.push_back(stayed() - first);
  }
  EXPECT_EQ(count(CoordinatorCounter::kResigned), 5u);
  for (int i = 0; i < 4; ++i) {
    const Nanos expected = ((2 << i) - 1) * kSecond;
    EXPECT_NEAR(static_cast<double>(longer[i]), static_cast<double>(expected), 0.1 * kSecond);
  }
  elect();
  vote_for(1, 1, 2);
  EXPECT_EQ(coordinator_->decided_below(), at(2));
  submit(1, 2);
  turn();
  EXPECT_LT(stayed(), first + 2 * kSecond) << "something was decided meanwhile";
}

TEST_F(RefusedCoordinatorTest, RepeatsOnceASecondWhileItStays) {
  propose_in_vain(3);
  for (int i = 0; i < 4; ++i) {
    stayed();
    elect();
  }
  refuse_for(2 * kSecond, 1);
  proposals_.clear();
  refuse_for(10 * kSecond, 1);
  EXPECT_TRUE(coordinator_->active());
  EXPECT_GE(proposals_.size(), 9u) << "there may be room again";
  EXPECT_LE(proposals_.size(), 11u);
  vote_for(1, 1, 2);
  EXPECT_EQ(coordinator_->decided_below(), at(2));
}

TEST_F(RefusedCoordinatorTest, ResignsIfNoMajorityAnswers) {
  propose_in_vain(5);
  vote_for(1, 1, 1);
  pass(2 * kSecond);
  EXPECT_EQ(count(CoordinatorCounter::kResigned), 1u);
  EXPECT_TRUE(coordinator_->idle());
}

TEST_F(RefusedCoordinatorTest, CountsVotesAndRefusalsOfDistinctAcceptors) {
  propose_in_vain(5);
  vote_for(1, 1, 1);
  refuse_for(5 * kSecond, 1);
  EXPECT_TRUE(coordinator_->idle());
  propose_in_vain(5);
  vote_for(1, 1, 1);
  refuse_for(1'500 * kMillisecond, 2);
  EXPECT_TRUE(coordinator_->active());
}

TEST_F(RefusedCoordinatorTest, ResignsOnceItHearsNoRefusalsAnyMore) {
  propose_in_vain(3);
  for (int i = 0; i < 4; ++i) {
    stayed();
    elect();
  }
  refuse_for(2 * kSecond, 1);
  pass(kSecond);
  EXPECT_TRUE(coordinator_->active()) << "one may be lost";
  pass(5 * kSecond);
  EXPECT_TRUE(coordinator_->idle());
}

TEST_F(RefusedCoordinatorTest, RefusalOfAnEarlierBallotDoesNotCount) {
  propose_in_vain(3);
  refuse_for(kSecond, 1);
  const Ballot earlier = coordinator_->ballot();
  elect();
  for (int i = 0; i < 12; ++i) {
    pass(100 * kMillisecond);
    reject(1, earlier, earlier);
    keep();
  }
  EXPECT_TRUE(coordinator_->idle());
}

TEST_F(RefusedCoordinatorTest, StepsDownForAHigherPromise) {
  propose_in_vain(3);
  reject(1, ballot(9, 1));
  EXPECT_TRUE(coordinator_->idle());
  EXPECT_EQ(count(CoordinatorCounter::kSteppedDown), 1u);
}

TEST_F(DurableCoordinatorTest, DamagedPromiseIsNotCountedWhereItIsUnknown) {
  start_durable(3);
  coordinator_->start(now_, effects_);
  written(1);
  unknown_ = {at(3), at(9)};
  promise(1, {accepted(at(1), ballot(1, 1), frames_.content(1).value)});
  EXPECT_FALSE(coordinator_->active());
  EXPECT_EQ(count(CoordinatorCounter::kPhase1Unknown), 1u);
  // Its own log may be whole, but a majority must know each instance.
  unknown_ = {};
  const Content content = frames_.content(5);
  promise(2, {accepted(at(5), ballot(1, 1), content.value)});
  value(2, at(5), ballot(1, 1), content);
  value(1, at(1), ballot(1, 1), frames_.content(1));
  EXPECT_TRUE(coordinator_->active());
}

TEST_F(DurableCoordinatorTest, OwnDamageThatOthersMendedIsForgotten) {
  RecoveredAcceptor recovered{.promised = ballot(1), .chosen_below = at(2), .accepted = {}};
  recovered.missing = {at(1)};
  start_durable(3, recovered);
  coordinator_->start(now_, effects_);
  written(1);
  const Content content = frames_.content(1);
  promise(1, {accepted(at(1), ballot(1, 1), content.value)});
  EXPECT_FALSE(coordinator_->active());  // the other one and the dead one may have decided
  acceptor_->on_value(frames_.value(acceptor_id(1), at(1), ballot(1, 1), content, true), now_,
                      effects_);
  written(2);
  value(1, at(1), ballot(1, 1), content);
  pass(20 * kMillisecond);
  EXPECT_TRUE(coordinator_->active());
}

TEST_F(DurableCoordinatorTest, DamageIsForgottenWhereItIsMendedOrListed) {
  start_durable(3);
  coordinator_->start(now_, effects_);
  written(1);
  unknown_ = {at(1), at(2)};
  const Content content = frames_.content(1);
  promise(1, {accepted(at(1), ballot(1, 1), content.value)});  // accepted since
  value(1, at(1), ballot(1, 1), content);
  EXPECT_TRUE(coordinator_->active());
}

TEST_F(DurableCoordinatorTest, WhoDidNotKnowIsAskedAgain) {
  start_durable(3);
  coordinator_->start(now_, effects_);
  written(1);
  unknown_ = {at(1), at(9)};
  promise(1, {});
  effects_.clear();
  pass(20 * kMillisecond);
  std::set<std::uint32_t> asked;
  for (Outgoing* out : sent(effects_, MessageType::kPhase1A)) asked.insert(out->to.address);
  EXPECT_EQ(asked.size(), 2u);
  unknown_ = {};
  promise(1, {}, kFirstInstance, 0, 1, 2);
  EXPECT_TRUE(coordinator_->active());
}

// It executes all that was ever decided again, which takes as long as that is: whoever coordinated
// before did not wait for it either.
TEST_F(DurableCoordinatorTest, NewTermWaitsForNoReplicaThatStartsFromNothing) {
  start_durable(3);
  coordinator_->start(now_, effects_);
  written(1);
  promise(1, {});
  for (std::uint32_t i = 0; i < 2; ++i) report(i, at(1));
  coordinator_->resign();
  const Instance next = at(5'001);
  acceptor_->on_trimmed({raw(next)}, now_);  // it was given what others decided meanwhile
  coordinator_->start(now_, effects_);
  written(2);
  promise(1, {}, next);
  ASSERT_TRUE(coordinator_->active());
  report(0, next);
  submit(1, 1);
  for (std::uint64_t i = 1; i <= 5; ++i) {
    report(1, at(100 * i));
    pass(kMillisecond);
  }
  EXPECT_EQ(coordinator_->next_instance(), next + 1);
}

// Then it is the fastest for a moment, of those that this coordinator has heard of.
TEST_F(DurableCoordinatorTest, NewTermWaitsForNoReplicaThatStartsFromNothingThoughItReportsFirst) {
  start_durable(3);
  const Instance next = at(50'001);
  acceptor_->on_trimmed({raw(next)}, now_);
  coordinator_->start(now_, effects_);
  written(1);
  promise(1, {}, next);
  ASSERT_TRUE(coordinator_->active());
  submit(1, 1);
  for (std::uint64_t i = 1; i <= 5; ++i) {
    report(1, at(100 * i));
    report(0, next);
    pass(kMillisecond);
  }
  EXPECT_EQ(coordinator_->next_instance(), next + 1);
}

TEST_F(DurableCoordinatorTest, AllThatStartFromNothingHoldUpNobody) {
  start_durable(3);
  const Instance next = at(50'001);
  acceptor_->on_trimmed({raw(next)}, now_);
  coordinator_->start(now_, effects_);
  written(1);
  promise(1, {}, next);
  ASSERT_TRUE(coordinator_->active());
  for (std::uint32_t i = 0; i < 2; ++i) report(i, next);
  submit(1, 1);
  for (std::uint64_t passed = 0; passed <= 5; ++passed) {
    for (std::uint32_t i = 0; i < 2; ++i) report(i, at(1 + 100 * passed), true, kLearnerEpoch + 1);
    pass(kMillisecond);
  }
  EXPECT_EQ(coordinator_->next_instance(), next + 1);
}

TEST_F(DurableCoordinatorTest, NoneThatStartFromNothingHoldUpAnybodyThoughMemoryKeepsFewBytes) {
  for (const bool both : {false, true}) {
    retain_bytes_ = 2 * 100 * 50;  // of values of 100 bytes
    now_ += kSecond;
    start_durable(3);
    coordinator_->start(now_, effects_);
    written(1);
    promise(1, {});
    ASSERT_TRUE(coordinator_->active());
    std::uint64_t next = 1;
    const auto order = [&] {
      submit(next, next);
      turn();
      if (raw(coordinator_->next_instance()) == next) return false;
      written(1 + next);
      vote_for(next, next);
      ++next;
      turn();
      effects_.clear();
      return true;
    };
    for (int i = 0; i < 500; ++i) {
      for (std::uint32_t k = 0; k < 2; ++k) report(k, at(next));
      ASSERT_TRUE(order());
      pass(100 * kMicrosecond);
    }
    int stopped = 0;
    for (std::uint64_t i = 0; i < 1'000; ++i) {  // executes anew, one each millisecond
      report(1, at(1 + i), true, kLearnerEpoch + 1);
      both ? report(0, at(1 + i), true, kLearnerEpoch + 1) : report(0, at(next));
      if (!order()) ++stopped;
      pass(kMillisecond);
      effects_.clear();
    }
    EXPECT_LT(stopped, 30) << both;
  }
}

// It was waited for, however slow it is, and a new term changes nothing about that.
TEST_F(DurableCoordinatorTest, NewTermOutrunsNoReplicaThatTrails) {
  constexpr std::uint64_t kDelivered = 9;
  constexpr std::uint64_t kEnd = kDelivered + 1'024 - Acceptor::kChangesKept;  // of commands
  start_durable(3);
  acceptor_->on_trimmed({950}, now_);
  for (std::uint64_t next = 950, number = 0, term = 0; term < 3; ++term) {
    coordinator_->start(now_, effects_);
    written(++number);
    promise(1, {}, at(next));
    ASSERT_TRUE(coordinator_->active());
    report(0, at(next));
    report(1, at(kDelivered));
    submit(1, 30);
    pass(kMillisecond);
    EXPECT_EQ(coordinator_->next_instance(), at(kEnd));
    number += kEnd - std::exchange(next, kEnd);  // one for each command
    written(number);
    acceptor_->on_decided({coordinator_->ballot(), at(950), at(kEnd)}, now_);
    coordinator_->resign();
    effects_.clear();
  }
}

TEST_F(DurableCoordinatorTest, FirstTermOutrunsNoReplicaThatTrails) {
  constexpr std::uint64_t kEnd = 9 + 1'024 - Acceptor::kChangesKept;
  for (const bool told : {false, true}) {  // by others, of one that reports without moving
    start_durable(3);
    acceptor_->on_trimmed({kEnd}, now_);
    if (told) {
      acceptor_->on_learner_status(0, kLearnerEpoch, at(kEnd), now_);
      acceptor_->on_learner_status(1, kLearnerEpoch, at(9), now_);
    }
    coordinator_->start(now_, effects_);
    written(1);
    promise(1, {}, at(kEnd));
    ASSERT_TRUE(coordinator_->active());
    report(0, at(kEnd));
    report(1, at(9));
    submit(1, 30);
    pass(kMillisecond);
    EXPECT_EQ(coordinator_->next_instance(), at(kEnd)) << told;
    effects_.clear();
  }
}

TEST_F(DurableCoordinatorTest, TermBeginsWithTheLatestThatIsKnownOfAllLearners) {
  start_durable(3);
  acceptor_->on_trimmed({20'000}, now_);
  for (std::uint32_t i = 0; i < 2; ++i) report(i, at(10));
  acceptor_->on_learner_status(0, kLearnerEpoch, at(20'000), now_);
  acceptor_->on_learner_status(1, kLearnerEpoch, at(19'300), now_);  // within a window
  coordinator_->start(now_, effects_);
  written(1);
  promise(1, {}, at(20'000));
  ASSERT_TRUE(coordinator_->active());
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 0u);
}

}  // namespace
}  // namespace annulus::consensus
