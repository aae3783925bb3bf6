// The election's rules: when a coordinator is missed, by whom, and what that takes.
#include "consensus/election.h"

#include <gtest/gtest.h>

#include <memory>

#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;

/// One node of a configuration whose acceptor 0 coordinates; the test plays the others.
class ElectionTest : public ::testing::Test {
 protected:
  void start(std::uint32_t acceptors, std::uint32_t self) {
    configuration_ = configuration(acceptors);
    self_ = self;
    election_ = std::make_unique<Election>(configuration_, self, kNoBallot);
    turn();
  }
  void turn() { elected_ |= election_->tick(leads_, now_, effects_); }
  void alive(Ballot of = ballot(1), Nanos within = kMillisecond) {
    election_->on_coordinator(coordinator_of(of), of, within, now_);
  }
  /// Polls as a node does, whenever the election wants to be.
  void pass(Nanos time) {
    const Nanos end = now_ + time;
    for (int polls = 0; now_ < end; ++polls) {
      ASSERT_LT(polls, 100'000) << "wants to be polled all the time";
      now_ = std::clamp(election_->deadline(), now_ + kMicrosecond, end);
      turn();
    }
  }
  /// A coordinator that keeps its word, until nothing of the start is left in the slack.
  void settle() {
    for (int i = 0; i < 40'000; ++i) {
      alive();
      pass(kMillisecond);
    }
    alive();
    effects_.clear();
    EXPECT_EQ(election_->slack(), kMillisecond);
  }
  std::vector<Outgoing*> questions() { return sent(effects_, MessageType::kPreVote); }
  std::uint32_t question() { return message_of<PreVote>(*questions().back()).question; }
  void answer(std::uint32_t from, bool missed, Ballot knows = ballot(1)) {
    election_->on_pre_vote_answer(
        frames_.frame(
            acceptor_id(from), MessageType::kPreVoteAnswer,
            PreVoteAnswer{raw(knows), question(), static_cast<std::uint8_t>(missed ? 1 : 0), {}}),
        now_);
    turn();
  }
  /// What this node answers another one that misses the coordinator of `of`.
  bool grants(std::uint32_t to, Ballot of = ballot(1)) {
    effects_.clear();
    election_->on_pre_vote(
        frames_.frame(acceptor_id(to), MessageType::kPreVote, PreVote{raw(of), 1u}), now_,
        effects_);
    return message_of<PreVoteAnswer>(*sent(effects_, MessageType::kPreVoteAnswer).at(0)).missed ==
           1;
  }
  std::uint64_t count(ElectionCounter which) { return election_->counters()[which].get(); }

  Frames frames_;
  Configuration configuration_;
  std::uint32_t self_ = 0;
  std::unique_ptr<Election> election_;
  Effects effects_;
  bool leads_ = false;
  bool elected_ = false;
  Nanos now_ = kSecond;
};

TEST_F(ElectionTest, WhoeverKeepsItsWordIsNotSuspected) {
  start(3, 1);
  for (int i = 0; i < 1'000; ++i) {
    alive(ballot(1), 20 * kMillisecond);
    pass(20 * kMillisecond);
  }
  EXPECT_EQ(count(ElectionCounter::kSuspected), 0u);
}

TEST_F(ElectionTest, ASilentCoordinatorIsReplacedIfAMajorityMissesIt) {
  start(3, 1);
  settle();
  pass(1'900 * kMicrosecond);
  EXPECT_TRUE(questions().empty());
  pass(200 * kMicrosecond);
  ASSERT_EQ(questions().size(), 2u);
  EXPECT_FALSE(elected_);
  answer(2, true);
  EXPECT_TRUE(elected_);
  EXPECT_EQ(count(ElectionCounter::kStarted), 1u);
}

TEST_F(ElectionTest, WhoAloneMissesItDisturbsNobodyAndAsksLessAndLess) {
  start(3, 1);
  settle();
  for (int i = 0; i < 1'000; ++i) {
    pass(kMillisecond);
    if (!questions().empty()) answer(2, false);
    effects_.clear();
  }
  EXPECT_FALSE(elected_);
  EXPECT_GT(count(ElectionCounter::kSuspected), 10u);
  EXPECT_LT(count(ElectionCounter::kSuspected), 50u);
}

TEST_F(ElectionTest, AMajorityOfFiveIsThree) {
  start(5, 1);
  settle();
  pass(2'100 * kMicrosecond);
  answer(2, true);
  answer(2, true);
  EXPECT_FALSE(elected_);
  answer(3, false);
  EXPECT_FALSE(elected_);
  answer(4, true);
  EXPECT_TRUE(elected_);
}

TEST_F(ElectionTest, FollowersSuspectOneAfterAnother) {
  start(3, 2);
  settle();
  pass(2'900 * kMicrosecond);
  EXPECT_TRUE(questions().empty());
  pass(200 * kMicrosecond);
  EXPECT_EQ(questions().size(), 2u);
}

TEST_F(ElectionTest, WhoeverWasAskedLetsTheOtherTryFirst) {
  start(3, 2);
  settle();
  pass(1'500 * kMicrosecond);
  EXPECT_TRUE(grants(1));
  effects_.clear();
  pass(1'900 * kMicrosecond);
  EXPECT_TRUE(questions().empty());
}

TEST_F(ElectionTest, WhoHearsTheCoordinatorDoesNotMissIt) {
  start(3, 2);
  settle();
  pass(900 * kMicrosecond);
  EXPECT_FALSE(grants(1));
  pass(200 * kMicrosecond);
  EXPECT_TRUE(grants(1));
}

TEST_F(ElectionTest, OfANewerCoordinatorNobodyIsDeprived) {
  start(3, 2);
  settle();
  election_->on_promised(ballot(2, 1), now_);
  pass(20 * kMillisecond);
  EXPECT_FALSE(grants(0, ballot(1)));
  EXPECT_TRUE(grants(0, ballot(2, 1)));
}

TEST_F(ElectionTest, TheCoordinatorDoesNotMissItself) {
  start(3, 0);
  leads_ = true;
  pass(kSecond);
  EXPECT_TRUE(questions().empty());
  EXPECT_FALSE(grants(1));
}

TEST_F(ElectionTest, AnAnswerTellsOfANewerCoordinator) {
  start(3, 1);
  settle();
  pass(2'100 * kMicrosecond);
  answer(2, false, ballot(2, 2));
  effects_.clear();
  pass(10 * kMillisecond);
  EXPECT_TRUE(questions().empty());
  pass(kSecond);
  EXPECT_EQ(message_of<PreVote>(*questions().at(0)).ballot, raw(ballot(2, 2)));
}

TEST_F(ElectionTest, WhoAsksForPromisesIsWaitedForOnce) {
  start(3, 1);
  settle();
  election_->on_promised(ballot(2, 2), now_);
  pass(9 * kMillisecond);
  EXPECT_TRUE(questions().empty());
  election_->on_promised(ballot(2, 2), now_);  // asks again: it hears no answer
  pass(10 * kMillisecond);
  EXPECT_FALSE(questions().empty());
}

TEST_F(ElectionTest, AnOldAnswerOrOneThatComesTooLateElectsNobody) {
  start(3, 1);
  settle();
  pass(2'100 * kMicrosecond);
  alive();
  answer(2, true);
  EXPECT_FALSE(elected_);
}

TEST_F(ElectionTest, ItsOwnAbsenceIsNobodysDeath) {
  start(3, 1);
  settle();
  now_ += 300 * kMillisecond;  // not polled
  turn();
  EXPECT_EQ(count(ElectionCounter::kAbsences), 1u);
  EXPECT_TRUE(questions().empty());
  pass(3 * kMillisecond);
  EXPECT_FALSE(questions().empty());
}

TEST_F(ElectionTest, LatenessRaisesTheSlackAndFades) {
  start(3, 1);
  settle();
  pass(kMillisecond);
  for (int i = 0; i < 8; ++i) pass(kMillisecond);
  alive();  // 8 ms late
  EXPECT_NEAR(static_cast<double>(election_->slack()), 16e6, 1e6);
  for (int i = 0; i < 20'000; ++i) {
    alive();
    pass(kMillisecond);
  }
  EXPECT_EQ(election_->slack(), kMillisecond);
}

TEST_F(ElectionTest, ACoordinatorThatWasWronglyDeposedRaisesTheSlack) {
  start(3, 1);
  settle();
  pass(2'100 * kMicrosecond);
  answer(2, true);
  ASSERT_TRUE(elected_);
  leads_ = true;
  election_->on_promised(ballot(2, 1), now_);
  now_ += 3 * kMillisecond;
  alive(ballot(1));
  EXPECT_EQ(count(ElectionCounter::kHeardAgain), 1u);
  EXPECT_GT(election_->slack(), kMillisecond);
}

TEST_F(ElectionTest, NobodyIsWaitedForMuchLongerThanATakeoverTakes) {
  start(3, 1);
  settle();
  const auto take_over = [&](std::uint32_t round, Nanos time) {
    election_->on_promised(ballot(round, 2), now_);
    pass(time);
    alive(ballot(round, 2));
  };
  for (std::uint32_t round = 2; round < 30; ++round) take_over(round, 500 * kMicrosecond);
  pass(150 * kMillisecond);
  alive(ballot(29, 2));
  EXPECT_NEAR(static_cast<double>(election_->slack()), 2e6, 1e5);
  for (std::uint32_t round = 30; round < 60; ++round) take_over(round, 5 * kMillisecond);
  pass(150 * kMillisecond);
  alive(ballot(59, 2));
  EXPECT_NEAR(static_cast<double>(election_->slack()), 20e6, 1e6);
}

TEST_F(ElectionTest, TakeoversThatComeToNothingAreGivenLonger) {
  start(3, 1);
  settle();
  pass(150 * kMillisecond);
  alive();
  EXPECT_NEAR(static_cast<double>(election_->slack()), 40e6, 1e6);  // none was measured
  for (std::uint32_t round = 2; round < 10; ++round) {
    election_->on_promised(ballot(round, 2), now_);
    pass(5 * kMillisecond);
  }
  alive(ballot(9, 2));
  EXPECT_GT(election_->slack(), 200 * kMillisecond);
}

TEST_F(ElectionTest, ATermOfItsOwnIsNoTakeoverThatCameToNothing) {
  start(3, 1);
  for (std::uint32_t round = 2; round < 20; ++round) {
    leads_ = true;
    election_->on_promised(ballot(2 * round, 1), now_);
    pass(20 * kMillisecond);
    leads_ = false;
    election_->on_promised(ballot(2 * round + 1, 2), now_);
    pass(500 * kMicrosecond);
    alive(ballot(2 * round + 1, 2));
  }
  pass(150 * kMillisecond);
  alive(ballot(39, 2));
  EXPECT_LT(election_->slack(), 3 * kMillisecond);
}

TEST_F(ElectionTest, ASingleAcceptorElectsItself) {
  start(1, 0);
  pass(40 * kMillisecond);
  EXPECT_TRUE(elected_);
}

TEST_F(ElectionTest, WhoStartsWaitsToHearOfACoordinator) {
  start(3, 0);
  pass(10 * kMillisecond);
  EXPECT_TRUE(questions().empty());
  pass(40 * kMillisecond);
  EXPECT_FALSE(questions().empty());
}

TEST_F(ElectionTest, StrangersAndCoordinatorsOfOthersBallotsAreIgnored) {
  start(3, 1);
  settle();
  election_->on_coordinator(acceptor_id(2), ballot(1), kSecond, now_);  // passes on what it heard
  election_->on_pre_vote(frames_.frame(learner_id(0), MessageType::kPreVote, PreVote{1ull, 1u}),
                         now_, effects_);
  EXPECT_EQ(count(ElectionCounter::kDropPreVote), 1u);
  pass(2'100 * kMicrosecond);
  EXPECT_EQ(questions().size(), 2u);
}

TEST_F(ElectionTest, BallotThatItIsOnlyToldOfMeasuresNoTakeover) {
  start(3, 1);
  alive();
  pass(60 * kMillisecond);
  alive();  // so late that only what a takeover takes bounds the slack
  const Nanos before = election_->slack();
  EXPECT_GT(before, 10 * kMillisecond);
  pass(60 * kMillisecond);
  answer(2, false, ballot(3, 2));
  alive(ballot(3, 2));  // which had taken over before
  EXPECT_EQ(election_->slack(), before);
}

}  // namespace
}  // namespace annulus::consensus
