// The coordinator's rules about learners: who is given up, and who may be taken out.
#include <gtest/gtest.h>

#include "tests/support/trailing_learner_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

TEST_F(TrailingLearnerTest, IsGivenUpWhenSilentAndComesBackIfTheLogStillHasWhatItNeeds) {
  fall_behind();
  pass(150 * kMillisecond);
  other_reports();
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
  const std::uint64_t before = next();
  feed(5);
  EXPECT_EQ(next(), before + 5);
  report(1, at(kFirst + 20));
  feed(25);
  EXPECT_EQ(next(), kFirst + 20 + kRetain);
}

// Whoever has its state has said so since it fell silent, long before it would block.
TEST_F(TrailingLearnerTest, IsGivenUpWithoutAPauseWhenTheLogEnds) {
  be_usual();
  const std::uint64_t below = next() + kRetain;
  while (next() < below) {  // it leaves the set on the way
    const std::uint64_t before = next();
    feed(1);
    pass(next() == before ? kMillisecond : 20 * kMicrosecond);
  }
  pass(kMillisecond);
  submit(frames_.content(++sequence_));
  turn();
  turn();  // nobody has said anything since it blocks
  EXPECT_EQ(next(), below + 1);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

// Who had the state may have died since it last said so.
TEST_F(TrailingLearnerTest, IsNotGivenUpBeforeAnotherIsHeardOfThatHasItsState) {
  fall_behind();
  pass(190 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  report(0, at(next()));
  turn();  // at once: nothing is proposed meanwhile
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsGivenUpWhenItReportsButStandsStill) {
  fall_behind();
  for (int i = 0; i < 110; ++i) {
    alive();
    report(0, at(next()));
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

// What acceptors pass on was perhaps said before whoever said it died.
TEST_F(TrailingLearnerTest, IsNotGivenUpForOneThatOnlyOthersTellOf) {
  be_usual();
  exhaust_log();
  others_report_ = false;
  for (int i = 0; i < 20; ++i) {
    coordinator_->on_credit(0, kLearnerEpoch, at(next() + i), now_);
    pass(kMillisecond);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
}

TEST_F(TrailingLearnerTest, IsNotGivenUpForOneThatIsStillFetchingItsState) {
  be_usual();
  others_hold_ = false;
  exhaust_log();
  for (int i = 0; i < 300; ++i) {
    report(0, at(next()), false);
    pass(10 * kMillisecond);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  report(0, at(next()));  // it has it
  pass(20 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsWaitedForThoughThisCoordinatorNeverHeardOfIt) {
  start(3);
  elect();  // of an acceptor that has only just got its place
  others_hold_ = false;
  report(0, at(1), false);
  for (std::uint64_t i = 0; i < 2 * kRetain; ++i) feed(1);
  EXPECT_EQ(next(), 1 + kRetain);
  for (int i = 0; i < 300; ++i) {
    report(0, at(next()), false);
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
  report(1, at(next()), false);
  exhaust_log();
  pass(20 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
}

TEST_F(TrailingLearnerTest, IsNotTakenOutWhileNobodyElseHasItsState) {
  be_usual();
  const Change change = removal(1);
  report(0, at(next()), false);
  EXPECT_EQ(coordinator_->change(change, now_), ChangeVerdict::kLastState);
  report(0, at(next()));
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

// What is known of it may be old: it has not lost what acceptors have kept for it.
TEST_F(TrailingLearnerTest, IsWaitedForThoughItWasLastHeardOfLongAgo) {
  start(3);
  give_decided(2'000);
  acceptor_->on_learner_status(0, kLearnerEpoch, at(2'000), now_);
  acceptor_->on_learner_status(1, kLearnerEpoch, at(1), now_);
  coordinator_->start(now_, effects_);
  promise(1, {}, at(2'000));
  ASSERT_TRUE(coordinator_->active());
  report(0, at(2'000));
  submit(1, 30);
  turn();
  EXPECT_EQ(next(), 2'000u);
  EXPECT_EQ(acceptor_->trimmed_below(), at(2'000 - 1'024));
}

TEST_F(TrailingLearnerTest, IsNotWaitedForIfItSaysThatItLacksItsStateWhenATermBegins) {
  start(3);
  give_decided(2'000);
  coordinator_->start(now_, effects_);
  promise(1, {}, at(2'000));
  ASSERT_TRUE(coordinator_->active());
  report(0, at(2'000));
  submit(1, 1);
  for (int i = 0; i < 4; ++i) {
    report(1, at(1), false);
    pass(5 * kMillisecond);
  }
  EXPECT_EQ(next(), 2'001u);
}

// An acceptor that died asks to be replaced all the while, and another replica is dead as well.
TEST_F(TrailingLearnerTest, IsTakenOutThoughAChangeWaitsForIt) {
  start(3);
  configuration_.learners.push_back({learner_id(2), endpoint_of(learner_id(2)), PartitionMask{4}});
  elect();
  report(0, at(1));
  configuration_.learners[0].partitions = PartitionMask{1};
  configuration_.learners[1].partitions = PartitionMask{4};  // of which nobody has ever heard
  for (std::uint64_t i = 0; i < 2 * kRetain; ++i) feed(1);
  for (std::uint32_t i = 0; i < kReplacements; ++i) ASSERT_TRUE(replace_acceptor());
  EXPECT_FALSE(replace_acceptor());
  for (int i = 0; i < 600; ++i) {
    report(0, at(next()));
    pass(5 * kMillisecond);
    effects_.clear();
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  Change change = removal(2);
  change.verb = ChangeVerb::kReplace;  // it could be done again and again
  change.comes = {kNoNode, {0x0a000099, 4'000}, 9};
  EXPECT_EQ(coordinator_->change(change, now_), ChangeVerdict::kAllowed);
  turn();
  EXPECT_EQ(count(CoordinatorCounter::kMembersChanged), kReplacements);
  EXPECT_EQ(coordinator_->change(removal(1), now_), ChangeVerdict::kAllowed);
  turn();
  EXPECT_EQ(count(CoordinatorCounter::kMembersChanged), kReplacements + 1);
}

// One that has fallen behind what is kept will find that it cannot go on: it gives nobody a state.
TEST_F(TrailingLearnerTest, IsNotTakenOutForOneThatHasFallenBehindTheLog) {
  start(3);
  give_decided(2'000);
  coordinator_->start(now_, effects_);
  promise(1, {}, at(2'000));
  report(0, at(5));
  report(1, at(2'000));
  EXPECT_EQ(coordinator_->change(removal(1), now_), ChangeVerdict::kLastState);
}

TEST_F(TrailingLearnerTest, HoldsNobodyUpOnceItIsToBeTakenOut) {
  start(3);
  elect();
  report(0, at(1));
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
  report(1, at(next()));
  EXPECT_EQ(coordinator_->change(change, now_), ChangeVerdict::kAllowed);
}

TEST_F(TrailingLearnerTest, IsTakenOutIfItHasNotBeenHeardOfForLong) {
  be_usual();
  report(0, at(next()), false);
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
  report(1, at(next()));  // it was silent, and is not given up
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
  report(1, at(next()), false);  // lives again, and fetches
  pass(50 * kMillisecond);
  report(1, at(next()));
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
  report(0, at(next()));
  pass(5 * kMillisecond);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
  feed(1);
  EXPECT_GT(next(), stopped);
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

}  // namespace
}  // namespace annulus::consensus
