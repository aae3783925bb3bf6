// Learners start again, with nothing: whom the coordinator waits for then.
#include "tests/support/trailing_learner_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

class RestartedLearnerTest : public TrailingLearnerTest {
 protected:
  static constexpr std::uint64_t kAgain = kLearnerEpoch + 1;

  /// As clients do that repeat what was not taken.
  void push(int values) {
    for (int i = 0; i < values; ++i) {
      sequence_ = next() - 1;
      feed(1);
    }
  }
  Instance trimmed() const { return acceptor_->trimmed_below(); }
};

// It executes everything again from the first instance, and may be the last that can.
TEST_F(RestartedLearnerTest, IsWaitedForWhereItIsNotWhereItWas) {
  start(3);
  elect();
  report(0, at(1));
  report(1, at(1));
  for (int i = 0; i < 500; ++i) {
    push(1);
    report(1, at(next()));
  }
  others_report_ = false;  // the other one dies
  constexpr std::uint64_t kPlace = 20;
  for (int i = 0; i < 3'000; ++i) {
    push(1);
    report(1, at(kPlace), true, kAgain);
    coordinator_->on_credit(1, kLearnerEpoch, at(500), now_);  // by an acceptor that does not know
    pass(kMillisecond);
  }
  EXPECT_EQ(next(), kPlace + kRetain);
}

TEST_F(RestartedLearnerTest, IsNotWaitedForBehindTheLog) {
  be_usual();
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t before = next();
    push(1);
    report(1, at(1), true, kAgain);  // it has not noticed yet
    EXPECT_EQ(next(), before + 1);
  }
}

// Nobody else is left; all may be kept though that is as much as is ever let be kept for commands.
TEST_F(RestartedLearnerTest, IsWaitedForAsLongAsAllIsKept) {
  for (const bool by_bytes : {false, true}) {
    sequence_ = 0;
    others_report_ = true;
    retain_bytes_ = by_bytes ? 2 * 100 * 50 : 128u << 20;  // of values of 100 bytes
    begin();
    push(15);
    report(1, at(16));  // and dies, and is given up
    const std::uint64_t end = by_bytes ? 90 : 1'000;
    for (int i = 0; i < 20'000 && next() < end; ++i) {
      push(1);
      pass(100 * kMicrosecond);
    }
    ASSERT_EQ(next(), end);
    ASSERT_EQ(trimmed(), at(1));
    others_report_ = false;
    report(0, at(1), true, kAgain);
    push(2'000);
    EXPECT_EQ(trimmed(), at(1));
  }
}

TEST_F(RestartedLearnerTest, IsNotTakenToLiveAndHaveItsStateForWhatComesLate) {
  be_usual();
  for (int i = 0; i < 400; ++i) push(1);
  pass(30 * kMillisecond);  // the one that trails is cut off
  report(0, at(next()));
  others_report_ = false;
  const std::uint64_t old = next();
  report(0, at(1), true, kAgain);
  for (int i = 0; i < 3'000; ++i) {
    push(1);
    report(0, at(next()), false, kAgain);
    pass(100 * kMicrosecond);
  }
  const std::uint64_t stopped = next();
  report(0, at(old));  // late
  pass(kMillisecond);
  push(100);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersGone), 0u);
  EXPECT_EQ(next(), stopped);
}

// It had the state then, and acceptors still have what the other one needs.
TEST_F(RestartedLearnerTest, OneThatWasGivenUpForItIsWaitedForAgain) {
  be_usual();
  const std::uint64_t has = next();
  exhaust_log();
  pass(20 * kMillisecond);
  other_reports();
  ASSERT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
  push(5);
  others_report_ = false;
  report(0, at(next()), false, kAgain);
  ASSERT_LE(trimmed(), at(has));
  for (int i = 0; i < 2'000; ++i) {
    push(1);
    report(0, at(next()), false, kAgain);
  }
  EXPECT_LE(trimmed(), at(has));
}

// It comes back with its state, and the one it was given up for dies.
TEST_F(RestartedLearnerTest, OneThatComesBackIsWaitedForAsLongAsAllItNeedsIsKept) {
  be_usual();
  const std::uint64_t has = next();
  exhaust_log();
  pass(20 * kMillisecond);
  other_reports();
  ASSERT_EQ(count(CoordinatorCounter::kLearnersGone), 1u);
  push(5);
  others_report_ = false;
  ASSERT_LE(trimmed(), at(has));
  for (int i = 0; i < 4'000; ++i) {
    if (i % 10 == 0) report(1, at(has + 1));
    push(1);
    pass(100 * kMicrosecond);
  }
  EXPECT_LE(trimmed(), at(has + 1));
}

// Near, since what is kept is less than half of its window.
TEST_F(RestartedLearnerTest, IsNotWaitedForBehindTheLogThoughItIsNear) {
  retain_bytes_ = 2 * 100 * 50;  // of values of 100 bytes
  start(3);
  elect();
  for (int i = 0; i < 300; ++i) {
    for (std::uint32_t k = 0; k < 2; ++k) report(k, at(next()));
    push(1);
    pass(kMillisecond);
  }
  ASSERT_GT(trimmed(), at(100));
  for (int i = 0; i < 10; ++i) {
    const std::uint64_t before = next();
    report(1, at(1), true, kAgain);
    report(0, at(before));
    push(1);
    EXPECT_EQ(next(), before + 1);
  }
}

// What it took the start before to die says nothing of how long it takes to come back.
TEST_F(RestartedLearnerTest, StartThatDiesAtOnceMakesNobodyWaitLongerForTheNext) {
  be_usual();
  std::uint64_t epoch = kLearnerEpoch;
  for (int round = 0; round < 4; ++round) {
    Nanos run = 0;
    Nanos longest = 0;
    const std::uint64_t begin = next();
    for (int i = 0; i < 30'000 && next() < begin + 3'000; ++i) {  // it is dead
      const std::uint64_t before = next();
      push(1);
      if (i % 10 == 0) report(0, at(next()));
      run = next() == before ? run + 100 * kMicrosecond : 0;
      longest = std::max(longest, run);
      pass(100 * kMicrosecond);
    }
    EXPECT_LT(longest, 50 * kMillisecond) << round;
    report(1, at(1), true, ++epoch);  // and dies again
    for (int i = 0; i < 500; ++i) {
      report(0, at(next()));
      pass(5 * kMillisecond);
    }
    report(1, at(next()), false, ++epoch);
    pass(20 * kMillisecond);
    report(0, at(next()));
    report(1, at(next()), true, epoch);
    for (int i = 0; i < 100; ++i) {
      push(1);
      report(1, at(next()), true, epoch);
      pass(kMillisecond);
    }
  }
}

TEST_F(RestartedLearnerTest, StateOfAnEarlierStartCountsForNothing) {
  be_usual();
  for (std::uint32_t i = 0; i < 2; ++i) report(i, at(next()));
  coordinator_->on_credit(0, kAgain, at(next()), now_);  // it fetches, and was not heard itself
  EXPECT_EQ(coordinator_->change(removal(1), now_), ChangeVerdict::kLastState);
}

// Cut off from the coordinator, not from the acceptors.
TEST_F(RestartedLearnerTest, IsHeardOfByWayOfAcceptors) {
  start(3);
  elect();
  configuration_.learners.resize(1);
  report(0, at(1));
  others_report_ = false;
  for (int i = 0; i < 3'000; ++i) {
    push(1);
    coordinator_->on_credit(0, kAgain, at(next()), now_);
    coordinator_->on_credit(0, kLearnerEpoch, at(1), now_);  // by one that does not know
    pass(kMillisecond);
  }
  EXPECT_GE(next(), 2'900u);
}

TEST_F(RestartedLearnerTest, EarlierStartPassedOnMovesNothingBack) {
  start(3);
  elect();
  others_hold_ = false;  // the other one lacks its state
  report(0, at(1), false);
  for (int i = 0; i < 500; ++i) {
    push(1);
    coordinator_->on_credit(1, kAgain, at(next()), now_);
  }
  const std::uint64_t has = next();
  push(2'000);
  EXPECT_EQ(next(), has + kRetain);
  coordinator_->on_credit(1, kLearnerEpoch, at(3), now_);
  push(2'000);
  EXPECT_EQ(next(), has + kRetain);
}

}  // namespace
}  // namespace annulus::consensus
