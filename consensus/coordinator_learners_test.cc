// The coordinator's rules about learners: their credit, who is waited for and who is given up.
#include <gtest/gtest.h>

#include "tests/support/coordinator_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

TEST_F(CoordinatorTest, SlowLearnerSlowsAndAStoppedOneLeavesTheSetAndReturns) {
  CoordinatorOptions options;
  options.learner_window = 16;
  start(3, options);
  elect();
  coordinator_->on_credit(0, at(1), now_);
  coordinator_->on_credit(1, at(1), now_);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersBack), 2u);
  submit(1, 60);
  turn();
  EXPECT_EQ(proposed().size(), 16u);  // slowed
  vote_for(1, 16);
  effects_.clear();
  coordinator_->on_credit(0, at(17), now_);
  coordinator_->on_credit(1, at(5), now_);
  turn();
  EXPECT_EQ(proposed().size(), 4u);  // as far as the slower of the two allows
  vote_for(17, 20);
  effects_.clear();
  // The slow one makes progress: it goes on slowing, and stays.
  for (std::uint64_t i = 6; i <= 10; ++i) {
    pass(kMillisecond);
    coordinator_->on_credit(1, at(i), now_);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 0u);
  effects_.clear();
  coordinator_->on_credit(0, at(21), now_);
  pass(25 * kMillisecond);  // it stopped
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 1u);
  EXPECT_EQ(coordinator_->next_instance(), at(21 + 16));  // the other one counts as before
  coordinator_->on_credit(1, at(11), now_);               // alive, but too far behind
  EXPECT_EQ(count(CoordinatorCounter::kLearnersBack), 2u);
  coordinator_->on_credit(1, at(14), now_);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersBack), 3u);
}

// The learner that stopped lost its place in the set; what it lacks must not be lost to it as well.
class TrailingLearnerTest : public CoordinatorTest {
 protected:
  static constexpr std::uint64_t kRetain = 1'024;  // of the acceptors
  static constexpr std::uint64_t kFirst = 9;       // what the learner has delivered up to

  void begin() {
    CoordinatorOptions options;
    options.learner_window = 16;
    start(3, options);
    elect();
    coordinator_->on_learner_status(0, at(1), true, now_);
    coordinator_->on_learner_status(1, at(kFirst), true, now_);
  }
  /// One learner stands still, the other follows, until nothing is proposed any more.
  void fall_behind() {
    begin();
    for (int i = 0; i < 3'000 && next() < kFirst + kRetain; ++i) {
      const std::uint64_t before = next();
      feed(1);
      if (next() != before) continue;
      alive();
      pass(25 * kMillisecond);  // as long as it takes to leave the set
      alive();
      ASSERT_EQ(count(CoordinatorCounter::kLearnersLeft), 1u);
    }
    feed(5);
    EXPECT_EQ(next(), kFirst + kRetain);
  }
  std::uint64_t next() const { return raw(coordinator_->next_instance()); }
  /// Values come, are decided, and delivered by the other learner.
  void feed(int values) {
    for (int i = 0; i < values; ++i) {
      submit(frames_.content(++sequence_));
      turn();
      const std::uint64_t undecided = raw(coordinator_->decided_below());
      if (next() > undecided) vote_for(undecided, next() - 1);
      if (others_report_) coordinator_->on_learner_status(0, at(next()), others_hold_, now_);
      effects_.clear();
    }
  }
  Change removal(std::uint32_t learner) const {
    return {.operation = 7,
            .verb = ChangeVerb::kRemove,
            .kind = JoinKind::kReplica,
            .member = configuration_.learners[learner].id,
            .comes = {}};
  }
  void alive() { coordinator_->on_learner_status(1, at(kFirst), true, now_); }
  /// Both learners follow, and report in every 2 ms, until nothing else is remembered of them.
  void be_usual() {
    CoordinatorOptions options;
    options.learner_window = 16;
    start(3, options);
    elect();
    for (int i = 0; i < 5'000; ++i) {
      feed(1);
      coordinator_->on_learner_status(1, at(next()), true, now_);
      pass(2 * kMillisecond);
    }
  }
  /// One learner falls silent, until nothing is proposed any more.
  void exhaust_log() {
    const std::uint64_t below = next() + kRetain;
    for (int i = 0; i < 5'000 && next() < below; ++i) {
      const std::uint64_t before = next();
      feed(1);
      if (next() == before) pass(100 * kMicrosecond);
    }
    feed(5);
    EXPECT_EQ(next(), below);
  }

  /// The other one lives, and has its state.
  void other_reports() {
    coordinator_->on_learner_status(0, at(next()), true, now_);
    pass(kMillisecond);
  }
  /// Tens of milliseconds in which the other learner reports.
  void pass_with_the_other(int tens) {
    for (int i = 0; i < tens; ++i) {
      coordinator_->on_learner_status(0, at(next()), true, now_);
      pass(10 * kMillisecond);
    }
  }

  std::uint64_t sequence_ = 0;
  bool others_report_ = true;
  bool others_hold_ = true;
};

TEST_F(TrailingLearnerTest, IsWaitedForBeforeTheAcceptorsForget) {
  fall_behind();
  for (int i = 0; i < 20; ++i) {
    alive();
    pass(20 * kMillisecond);
    feed(1);
  }
  EXPECT_EQ(next(), kFirst + kRetain);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
}

TEST_F(TrailingLearnerTest, IsWaitedForBeforeTheAcceptorsHaveNoRoomForWhatItLacks) {
  retain_bytes_ = 2 * 100 * 50;  // of values of 100 bytes
  begin();
  for (int i = 0; i < 200; ++i) {
    feed(1);
    alive();
    if (count(CoordinatorCounter::kLearnersLeft) == 0 && i > 20) pass(25 * kMillisecond);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 1u);
  EXPECT_GE(next(), kFirst + 50);
  EXPECT_LE(next(), kFirst + 52);
}

// As much as there is to do: it would stay a log behind for ever.
TEST_F(TrailingLearnerTest, ComesNearOnceItMovesAtTheCostOfATenth) {
  fall_behind();
  std::uint64_t delivered = kFirst;
  std::uint64_t steps = 0;
  const std::uint64_t before = next();
  for (; count(CoordinatorCounter::kLearnersBack) < 3 && steps < 20 * kRetain; ++steps) {
    coordinator_->on_learner_status(1, at(++delivered), true, now_);
    if (sequence_ < next() + 4) feed(2);  // there is always more
    pass(kMillisecond);
    ASSERT_LE(next(), delivered + kRetain);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersAwaited), 1u);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersBack), 3u);
  EXPECT_LE(next(), delivered + 16);
  EXPECT_GE(next() - before, steps * 9 / 10 - 10);
  EXPECT_LE(steps, 11 * kRetain);
}

TEST_F(TrailingLearnerTest, HoldsNobodyUpIfItStopsAgainOnItsWay) {
  begin();
  feed(16);
  alive();
  pass(25 * kMillisecond);
  while (next() < kFirst + kRetain / 2) feed(1);
  for (std::uint64_t i = 1; i <= 40; ++i) {
    coordinator_->on_learner_status(1, at(kFirst + i), true, now_);
    feed(2);
    pass(kMillisecond);
  }
  const std::uint64_t before = next();
  EXPECT_LE(before, kFirst + 40 + kRetain / 2 + 8);
  feed(20);
  EXPECT_LE(next(), before + 2);
  coordinator_->on_learner_status(1, at(kFirst + 40), true, now_);  // it lives, and stands still
  pass(25 * kMillisecond);
  feed(100);
  EXPECT_GE(next(), before + 100);
}

TEST_F(TrailingLearnerTest, IsGivenUpWhenSilentAndComesBackIfTheLogStillHasWhatItNeeds) {
  fall_behind();
  pass(150 * kMillisecond);
  other_reports();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
  const std::uint64_t before = next();
  feed(5);
  EXPECT_EQ(next(), before + 5);
  coordinator_->on_learner_status(1, at(kFirst + 20), true, now_);
  feed(25);
  EXPECT_EQ(next(), kFirst + 20 + kRetain);
}

// Who had the state may have died since it last said so.
TEST_F(TrailingLearnerTest, IsNotGivenUpBeforeAnotherIsHeardOfThatHasItsState) {
  fall_behind();
  pass(190 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  coordinator_->on_learner_status(0, at(next()), true, now_);
  turn();  // at once: nothing is proposed meanwhile
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, KeepsNoCoordinatorAwakeThatHasResigned) {
  fall_behind();
  coordinator_->resign();
  coordinator_->on_learner_status(0, at(next()), true, now_);
  EXPECT_EQ(coordinator_->deadline(), kNever);
}

TEST_F(TrailingLearnerTest, IsGivenUpWhenItReportsButStandsStill) {
  fall_behind();
  for (int i = 0; i < 110; ++i) {
    alive();
    coordinator_->on_learner_status(0, at(next()), true, now_);
    pass(10 * kMillisecond);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsNotGivenUpForOneThatIsNotHeardOfItself) {
  fall_behind();  // the other has delivered everything, and reports no more
  for (int i = 0; i < 300; ++i) {
    alive();
    pass(10 * kMillisecond);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
}

TEST_F(TrailingLearnerTest, IsNotGivenUpForOneThatIsStillFetchingItsState) {
  be_usual();
  others_hold_ = false;
  exhaust_log();
  for (int i = 0; i < 300; ++i) {
    coordinator_->on_learner_status(0, at(next()), false, now_);
    pass(10 * kMillisecond);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  coordinator_->on_learner_status(0, at(next()), true, now_);  // it has it
  pass(20 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsWaitedForThoughThisCoordinatorNeverHeardOfIt) {
  start(3);
  elect();  // of an acceptor that has only just got its place
  others_hold_ = false;
  coordinator_->on_learner_status(0, at(1), false, now_);
  for (std::uint64_t i = 0; i < 2 * kRetain; ++i) feed(1);
  EXPECT_EQ(next(), 1 + kRetain);
  for (int i = 0; i < 300; ++i) {
    coordinator_->on_learner_status(0, at(next()), false, now_);
    pass(10 * kMillisecond);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  pass_with_the_other(3);  // which has the state by now
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsGivenUpLateIfOthersOnlyExecuteItsPartitionsAmongThem) {
  be_usual();
  configuration_.learners[0].partitions = PartitionMask{3};
  configuration_.learners[1].partitions = PartitionMask{2};  // which nobody else could give it
  exhaust_log();
  pass_with_the_other(60);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  pass_with_the_other(60);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsWaitedForIfItAloneExecutesAPartition) {
  be_usual();
  configuration_.learners[0].partitions = PartitionMask{1};
  configuration_.learners[1].partitions = PartitionMask{3};
  exhaust_log();
  pass_with_the_other(300);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
}

TEST_F(TrailingLearnerTest, IsGivenUpIfItLacksItsStateThoughNobodyHasOne) {
  be_usual();
  others_hold_ = false;
  coordinator_->on_learner_status(1, at(next()), false, now_);
  exhaust_log();
  pass(20 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsNotTakenOutWhileNobodyElseHasItsState) {
  be_usual();
  const Change change = removal(1);
  coordinator_->on_learner_status(0, at(next()), false, now_);
  EXPECT_EQ(coordinator_->change(change, now_), ChangeVerdict::kLastState);
  coordinator_->on_learner_status(0, at(next()), true, now_);
  EXPECT_EQ(coordinator_->change(change, now_), ChangeVerdict::kAllowed);
}

TEST_F(TrailingLearnerTest, IsReplacedOnlyIfSomebodyCanGiveItsStateToTheNewOne) {
  be_usual();
  configuration_.learners[0].partitions = PartitionMask{3};
  configuration_.learners[1].partitions = PartitionMask{2};
  Change change = removal(1);
  change.verb = ChangeVerb::kReplace;
  change.comes = {kNoNode, {0x0a000099, 4'000}, 9};
  EXPECT_EQ(coordinator_->change(change, now_), ChangeVerdict::kLastState);
  change.verb = ChangeVerb::kRemove;  // others execute its partitions
  EXPECT_EQ(coordinator_->change(change, now_), ChangeVerdict::kAllowed);
}

TEST_F(TrailingLearnerTest, HoldsNobodyUpOnceItIsToBeTakenOut) {
  start(3);
  elect();
  coordinator_->on_learner_status(0, at(1), true, now_);
  configuration_.learners[1].partitions = PartitionMask{4};  // of which nobody has ever heard
  for (std::uint64_t i = 0; i < 2 * kRetain; ++i) feed(1);
  pass(2 * kSecond);
  EXPECT_EQ(next(), 1 + kRetain);
  ASSERT_EQ(coordinator_->change(removal(1), now_), ChangeVerdict::kAllowed);
  turn();
  EXPECT_EQ(count(CoordinatorCounter::kMembersChanged), 1u);
}

TEST_F(TrailingLearnerTest, WhatIsKnownOfItsStateEndsWithTheTerm) {
  be_usual();
  coordinator_->resign();
  elect();
  const Change change = removal(0);
  EXPECT_EQ(coordinator_->change(change, now_), ChangeVerdict::kLastState);
  alive();
  EXPECT_EQ(coordinator_->change(change, now_), ChangeVerdict::kAllowed);
}

TEST_F(TrailingLearnerTest, IsTakenOutIfItHasNotBeenHeardOfForLong) {
  be_usual();
  coordinator_->on_learner_status(0, at(next()), false, now_);
  pass(1'100 * kMillisecond);
  EXPECT_EQ(coordinator_->change(removal(1), now_), ChangeVerdict::kAllowed);
}

TEST_F(TrailingLearnerTest, AbsenceOfTheCoordinatorItselfIsNobodysSilence) {
  fall_behind();
  alive();
  now_ += 200 * kMillisecond;  // not polled
  turn();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  pass(150 * kMillisecond);
  other_reports();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsGivenUpOnceSilentForSeveralTimesAsLongAsUsual) {
  be_usual();
  exhaust_log();
  pass(5 * kMillisecond);
  other_reports();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  pass(5 * kMillisecond);
  other_reports();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsWaitedForAPartOfWhatComingBackTakesAtMost) {
  be_usual();
  feed(1);
  pass(150 * kMillisecond);
  coordinator_->on_learner_status(1, at(next()), true, now_);  // it was silent, and is not given up
  exhaust_log();
  pass(10 * kMillisecond);
  other_reports();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  pass(10 * kMillisecond);
  other_reports();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsSparedForAWhileOnceItHadToFetchItsState) {
  be_usual();
  exhaust_log();
  pass(20 * kMillisecond);
  other_reports();
  ASSERT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
  feed(2 * kRetain);
  coordinator_->on_learner_status(1, at(next()), false, now_);  // lives again, and fetches
  pass(50 * kMillisecond);
  coordinator_->on_learner_status(1, at(next()), true, now_);
  exhaust_log();
  pass_with_the_other(10);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
  pass_with_the_other(10);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 2u);
}

TEST_F(TrailingLearnerTest, IsNotGivenUpIfNobodyElseWhoLivesHasItsState) {
  be_usual();
  others_report_ = false;
  for (int i = 0; i < 5'000; ++i) {
    feed(1);
    pass(100 * kMicrosecond);
  }
  const std::uint64_t stopped = next();
  pass(3 * kSecond);
  feed(1);
  EXPECT_EQ(next(), stopped);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  coordinator_->on_learner_status(0, at(next()), true, now_);
  pass(5 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
  feed(1);
  EXPECT_GT(next(), stopped);
}

TEST_F(TrailingLearnerTest, IsNotWaitedForAtTheEndOfItsWindowIfItHasLongStoodStill) {
  be_usual();
  feed(10);
  pass(5 * kMillisecond);
  const std::uint64_t before = next();
  for (int i = 0; i < 20; ++i) feed(1);
  turn();
  EXPECT_EQ(next(), before + 20);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 1u);
}

// Votes count as late after two milliseconds, so that eight times as long passes for a stall.
TEST_F(TrailingLearnerTest, LeavesTheSetSoonThoughVotesAreLateButIsNotGivenUpSoon) {
  retain_bytes_ = 2 * 100 * 50;  // of values of 100 bytes
  begin();
  feed(30);
  EXPECT_EQ(next(), kFirst + 16);
  pass(8 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 0u);
  pass(4 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 1u);
  feed(60);
  EXPECT_GE(next(), kFirst + 50);
  EXPECT_LE(next(), kFirst + 52);
  other_reports();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersAwaited), 0u);
  pass(5 * kMillisecond);
  other_reports();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, DoesNotStandStillWhileItHasNothingToDeliver) {
  be_usual();
  pass(100 * kMillisecond);
  const std::uint64_t before = next();
  for (int i = 0; i < 20; ++i) feed(1);
  turn();
  EXPECT_EQ(next(), before + 16);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 0u);
  pass(3 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 1u);
}

}  // namespace
}  // namespace annulus::consensus
