// The coordinator's rules about learners: their credit, and how far proposals go without them.
#include <gtest/gtest.h>

#include "tests/support/trailing_learner_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

TEST_F(CoordinatorTest, SlowLearnerSlowsAndAStoppedOneLeavesTheSetAndReturns) {
  CoordinatorOptions options;
  options.learner_window = 16;
  start(3, options);
  elect();
  coordinator_->on_credit(0, kLearnerEpoch, at(1), now_);
  coordinator_->on_credit(1, kLearnerEpoch, at(1), now_);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersBack), 2u);
  submit(1, 60);
  turn();
  EXPECT_EQ(proposed().size(), 16u);  // slowed
  vote_for(1, 16);
  effects_.clear();
  coordinator_->on_credit(0, kLearnerEpoch, at(17), now_);
  coordinator_->on_credit(1, kLearnerEpoch, at(5), now_);
  turn();
  EXPECT_EQ(proposed().size(), 4u);  // as far as the slower of the two allows
  vote_for(17, 20);
  effects_.clear();
  // The slow one makes progress: it goes on slowing, and stays.
  for (std::uint64_t i = 6; i <= 10; ++i) {
    pass(kMillisecond);
    coordinator_->on_credit(1, kLearnerEpoch, at(i), now_);
  }
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 0u);
  effects_.clear();
  coordinator_->on_credit(0, kLearnerEpoch, at(21), now_);
  pass(25 * kMillisecond);  // it stopped
  EXPECT_EQ(count(CoordinatorCounter::kLearnersLeft), 1u);
  EXPECT_EQ(coordinator_->next_instance(), at(21 + 16));    // the other one counts as before
  coordinator_->on_credit(1, kLearnerEpoch, at(11), now_);  // alive, but too far behind
  EXPECT_EQ(count(CoordinatorCounter::kLearnersBack), 2u);
  coordinator_->on_credit(1, kLearnerEpoch, at(14), now_);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersBack), 3u);
}

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

// A replica cut off may be the last that has its state, while acceptors come and go.
TEST_F(TrailingLearnerTest, IsOutrunNeitherByCommandsNorByChangesOfMembers) {
  fall_behind();
  for (std::uint32_t i = 0; i < kReplacements; ++i) {
    ASSERT_TRUE(replace_acceptor()) << i;
    feed(1);
  }
  EXPECT_EQ(next(), kFirst + kRetain + kReplacements);
  EXPECT_FALSE(replace_acceptor());
  EXPECT_LE(acceptor_->trimmed_below(), at(kFirst));
  pass(kMillisecond);
  report(1, at(kFirst + 1));
  turn();
  EXPECT_EQ(next(), kFirst + kRetain + kReplacements + 1);
}

// They were let then, and nothing is forgotten for them; but what is new waits.
TEST_F(TrailingLearnerTest, HoldsUpNothingThatIsProposedAgainAndAllThatFollows) {
  retain_bytes_ = 2 * 32 * 100;  // of values of 100 bytes: 32 undecided, and as many more
  CoordinatorOptions options;
  options.window = 32;
  start(3, options);
  coordinator_->start(now_, effects_);
  promise(1, give_decided(65));
  for (std::uint32_t i = 0; i < configuration_.learners.size(); ++i) {
    report(i, at(1));
  }
  ASSERT_EQ(acceptor_->kept_until(at(1)), at(1));
  submit(1, 100);
  for (const std::uint64_t end : {33, 64, 65}) {  // the last one with room for commands after it
    turn();
    EXPECT_EQ(next(), end);
    vote_for(raw(coordinator_->decided_below()), end == 33 ? 31 : end - 1);
    effects_.clear();
  }
  EXPECT_EQ(acceptor_->trimmed_below(), at(1));  // which both learners need
}

// What its acceptor heard of a learner that has been silent since counts when it takes over.
TEST_F(TrailingLearnerTest, CountsAsItsAcceptorKnewItWhenATermBegins) {
  start(3);
  give_decided(1'100);  // its memory is full, as usual
  acceptor_->on_learner_status(0, kLearnerEpoch, at(1'100), now_);
  acceptor_->on_learner_status(1, kLearnerEpoch, at(1'090), now_);
  coordinator_->start(now_, effects_);
  promise(1, {}, at(1'100));
  ASSERT_TRUE(coordinator_->active());
  submit(1, 1);
  pass(kMillisecond);
  EXPECT_EQ(next(), 1'101u);
}

// Else a new coordinator would stand still for as long as coming near takes.
TEST_F(TrailingLearnerTest, IsNotInTheSetIfItIsFarBackWhenATermBegins) {
  begin();
  coordinator_->resign();
  const Instance next = at(500);
  acceptor_->on_trimmed({kFirst}, now_);
  acceptor_->on_decided({ballot(9), at(1), next}, now_);
  coordinator_->start(now_, effects_);
  promise(1, {}, next);
  ASSERT_TRUE(coordinator_->active());
  report(0, next);
  report(1, at(kFirst + 1));
  submit(1, 1);
  pass(kMillisecond);
  EXPECT_EQ(coordinator_->next_instance(), next + 1);
  report(1, next);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersBack), 4u);
}

// As much as there is to do: it would stay a log behind for ever.
TEST_F(TrailingLearnerTest, ComesNearOnceItMovesAtTheCostOfATenth) {
  fall_behind();
  std::uint64_t delivered = kFirst;
  std::uint64_t steps = 0;
  const std::uint64_t before = next();
  for (; count(CoordinatorCounter::kLearnersBack) < 3 && steps < 20 * kRetain; ++steps) {
    report(1, at(++delivered));
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
    report(1, at(kFirst + i));
    feed(2);
    pass(kMillisecond);
  }
  const std::uint64_t before = next();
  EXPECT_LE(before, kFirst + 40 + kRetain / 2 + 8);
  feed(20);
  EXPECT_LE(next(), before + 2);
  report(1, at(kFirst + 40));  // it lives, and stands still
  pass(25 * kMillisecond);
  feed(100);
  EXPECT_GE(next(), before + 100);
}

TEST_F(TrailingLearnerTest, KeepsNoCoordinatorAwakeThatHasResigned) {
  fall_behind();
  coordinator_->resign();
  report(0, at(next()));
  EXPECT_EQ(coordinator_->deadline(), kNever);
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
