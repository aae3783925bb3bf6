#include "consensus/learner.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;

class LearnerTest : public testing::Test {
 protected:
  void start(std::uint32_t acceptors = 3, PartitionMask partitions = kAllPartitions,
             std::uint32_t self = 0) {
    configuration_ = configuration(acceptors);
    LearnerOptions options;
    options.partitions = partitions;
    learner_ = std::make_unique<Learner>(configuration_, self, options, pool_);
    route_ = Route(configuration_, 0);
  }
  void propose(Instance instance, const Content& content, Ballot of = ballot(1),
               const Decided& decided = {}) {
    for (std::uint32_t i = 0; i < Frames::fragments(content); ++i) {
      fragment(instance, content, i, of, decided);
    }
  }
  void fragment(Instance instance, const Content& content, std::uint32_t index,
                Ballot of = ballot(1), const Decided& decided = {}) {
    learner_->on_phase2a(frames_.phase2a(instance, of, content, route_, decided, index), now_);
  }
  void decide(Ballot of, std::uint64_t from, std::uint64_t below) {
    learner_->on_decision(frames_.decision({of, at(from), at(below)}), now_);
  }
  void value(Instance instance, Ballot of, const Content& content, bool chosen,
             const Decided& decided = {}) {
    for (std::uint32_t i = 0; i < Frames::fragments(content); ++i) {
      learner_->on_value(frames_.value(acceptor_id(1), instance, of, content, chosen, decided, i),
                         now_);
    }
  }
  std::vector<std::uint64_t> delivered() {
    std::vector<std::uint64_t> all;
    Delivery delivery;
    while (learner_->next(delivery)) {
      EXPECT_EQ(dataplane::hash_bytes(delivery.bytes.bytes()), delivery.value.content_hash);
      all.push_back(delivery.value.id.sequence);
    }
    return all;
  }
  /// Polls whenever the learner wants to be, until `time` has passed.
  void pass(Nanos time) {
    const Nanos end = now_ + time;
    for (int polls = 0; now_ < end; ++polls) {
      ASSERT_LT(polls, 100'000) << "wants to be polled all the time";
      now_ = std::clamp(learner_->deadline(), now_ + kMicrosecond, end);
      learner_->tick(now_, effects_);
      if (effects_.room() < Effects::kPerStepMax) effects_.clear();
    }
  }
  struct Asked {
    PullKind kind;
    std::uint64_t instance;
    std::uint64_t fragments;
    std::uint32_t whom;
  };
  std::vector<Asked> asked() {
    std::vector<Asked> all;
    for (Outgoing* out : sent(effects_, MessageType::kPull)) {
      frames_.carry(learner_id(0), *out);
      const auto& m = message_of<Pull>(*out);
      for (const auto& entry : entries<PullEntry>(m, m.count)) {
        all.push_back({static_cast<PullKind>(m.kind), entry.instance, entry.fragments,
                       out->to.address - 0x0a000001});
      }
    }
    effects_.clear();
    return all;
  }
  std::uint64_t count(LearnerCounter which) { return learner_->counters()[which].get(); }

  using Sequences = std::vector<std::uint64_t>;

  dataplane::BufferPool pool_{2'048, kValueBytesMax};
  Frames frames_;
  Configuration configuration_;
  std::unique_ptr<Learner> learner_;
  Route route_;
  Effects effects_;
  Nanos now_ = kSecond;
};

// --- What is decided

TEST_F(LearnerTest, DeliversInInstanceOrderWhatIsDecidedAndHeld) {
  start();
  propose(at(2), frames_.content(2));
  propose(at(1), frames_.content(1));
  propose(at(3), frames_.content(3));
  EXPECT_TRUE(delivered().empty());
  decide(ballot(1), 1, 3);
  EXPECT_EQ(delivered(), (Sequences{1, 2}));
  decide(ballot(1), 1, 4);
  EXPECT_EQ(delivered(), (Sequences{3}));
  propose(at(2), frames_.content(2));  // the past
  EXPECT_TRUE(delivered().empty());
  EXPECT_EQ(count(LearnerCounter::kDuplicates), 1u);
}

TEST_F(LearnerTest, DecisionMayComeBeforeTheValueOrOnALaterProposal) {
  start();
  decide(ballot(1), 1, 2);
  EXPECT_TRUE(delivered().empty());
  propose(at(1), frames_.content(1));
  EXPECT_EQ(delivered(), (Sequences{1}));
  propose(at(2), frames_.content(2));
  propose(at(3), frames_.content(3), ballot(1), {ballot(1), at(1), at(3)});
  EXPECT_EQ(delivered(), (Sequences{2}));
}

TEST_F(LearnerTest, NeverTakesTheLatestValueForTheDecidedOne) {
  start();
  propose(at(1), frames_.content(1), ballot(1));
  decide(ballot(2), 1, 2);  // decided, but at another ballot: perhaps another value
  EXPECT_TRUE(delivered().empty());
  propose(at(1), frames_.content(9), ballot(2));
  EXPECT_EQ(delivered(), (Sequences{9}));
}

TEST_F(LearnerTest, StaleDecisionOfALowerBallotDoesNotChooseANewerValue) {
  start();
  propose(at(1), frames_.content(1), ballot(2));
  decide(ballot(1), 1, 2);
  EXPECT_TRUE(delivered().empty());
  propose(at(1), frames_.content(7), ballot(1));  // a late one of the old ballot
  EXPECT_TRUE(delivered().empty());
  decide(ballot(2), 1, 2);
  EXPECT_EQ(delivered(), (Sequences{1}));
}

TEST_F(LearnerTest, DecisionCoversNothingBelowItsBallotsFirstInstance) {
  start();
  propose(at(1), frames_.content(1), ballot(2));
  propose(at(2), frames_.content(2), ballot(2));
  decide(ballot(2), 2, 3);
  EXPECT_TRUE(delivered().empty());
  value(at(1), ballot(1), frames_.content(5), true);
  EXPECT_EQ(delivered(), (Sequences{5, 2}));
}

TEST_F(LearnerTest, ChosenValueIsTakenFromAnAcceptor) {
  start();
  propose(at(1), frames_.content(1), ballot(3));
  const Content content = frames_.content(2, 5'000);
  value(at(1), ballot(2), content, false);  // lower, and not known chosen
  EXPECT_TRUE(delivered().empty());
  value(at(1), ballot(2), content, true);
  EXPECT_EQ(delivered(), (Sequences{2}));
  EXPECT_EQ(count(LearnerCounter::kValuesRepaired), 1u);
}

TEST_F(LearnerTest, ChosenValueIsNotReplacedByALaterProposal) {
  start();
  const Content content = frames_.content(1, 5'000);
  learner_->on_value(frames_.value(acceptor_id(1), at(1), ballot(1), content, true, {}, 0), now_);
  propose(at(1), frames_.content(2), ballot(5));
  value(at(1), ballot(1), content, false);  // the rest, of one that does not know it chosen
  EXPECT_EQ(delivered(), (Sequences{1}));
}

TEST_F(LearnerTest, PulledValueOfTheDecidedBallotNeedsNoOneToCallItChosen) {
  start();
  decide(ballot(1), 1, 2);
  value(at(1), ballot(1), frames_.content(1), false);
  EXPECT_EQ(delivered(), (Sequences{1}));
}

// --- Partitions

TEST_F(LearnerTest, SkipsOnlyByTheMaskOfTheDecidedValue) {
  start(3, PartitionMask{0b01});
  propose(at(1), frames_.content(1, 100, PartitionMask{0b10}), ballot(1));
  propose(at(2), frames_.content(2, 100, PartitionMask{0b01}), ballot(1));
  EXPECT_TRUE(delivered().empty());
  EXPECT_EQ(learner_->delivered_below(), at(1));
  // Another ballot decides another value there, which does concern this partition.
  propose(at(1), frames_.content(3, 100, PartitionMask{0b11}), ballot(2));
  propose(at(2), frames_.content(2, 100, PartitionMask{0b01}), ballot(2));
  decide(ballot(2), 1, 3);
  EXPECT_EQ(delivered(), (Sequences{3, 2}));
}

TEST_F(LearnerTest, SkipsWhatIsDecidedForOthersWithoutItsBytesAndSkipsNoops) {
  start(3, PartitionMask{0b01});
  fragment(at(1), frames_.content(1, 9'000, PartitionMask{0b10}), 0);
  propose(at(2), Frames::noop());
  propose(at(3), frames_.content(3, 100, PartitionMask{0b01}));
  decide(ballot(1), 1, 4);
  EXPECT_EQ(delivered(), (Sequences{3}));
  EXPECT_EQ(count(LearnerCounter::kSkippedPartition), 1u);
  EXPECT_EQ(count(LearnerCounter::kSkippedNoop), 1u);
  EXPECT_EQ(learner_->delivered_below(), at(4));
}

// --- Repair

TEST_F(LearnerTest, MissingFragmentIsPulledByItself) {
  start();
  const Content content = frames_.content(1, 10'000);
  for (std::uint32_t i = 0; i < Frames::fragments(content); ++i) {
    if (i != 2 && i != 5) fragment(at(1), content, i);
  }
  decide(ballot(1), 1, 2);
  pass(kMillisecond);
  const auto pulls = asked();
  ASSERT_GE(pulls.size(), 1u);
  EXPECT_EQ(pulls[0].kind, PullKind::kValue);
  EXPECT_EQ(pulls[0].fragments, 0b100100u);
  EXPECT_EQ(pulls[0].whom, 0u);
}

TEST_F(LearnerTest, MissingValueIsPulledSoonEvenIfEverythingWasQuietBefore) {
  start();
  pass(100 * kMillisecond);
  asked();
  decide(ballot(1), 1, 2);
  pass(kMillisecond);
  const auto pulls = asked();
  ASSERT_GE(pulls.size(), 1u);
  EXPECT_EQ(pulls[0].kind, PullKind::kValue);
  EXPECT_EQ(pulls[0].instance, 1u);
}

TEST_F(LearnerTest, LostDecisionIsPulledWithoutAnyFurtherMessage) {
  start();
  pass(100 * kMillisecond);
  asked();
  propose(at(1), frames_.content(1));
  pass(4 * kMillisecond);
  const auto pulls = asked();
  ASSERT_GE(pulls.size(), 1u);
  EXPECT_EQ(pulls[0].kind, PullKind::kDecision);
}

TEST_F(LearnerTest, LostDecisionIsPulledSoonThoughThoseBeforeCameAfterAPause) {
  start();
  for (std::uint64_t i = 1; i <= 600; ++i) propose(at(i), frames_.content(i));
  now_ += 600 * kMillisecond;  // it stands still
  decide(ballot(1), 1, 601);
  ASSERT_EQ(delivered().size(), 600u);
  asked();
  propose(at(601), frames_.content(601));
  pass(60 * kMillisecond);
  const auto pulls = asked();
  ASSERT_GE(pulls.size(), 1u);
  EXPECT_EQ(pulls[0].kind, PullKind::kDecision);
}

TEST_F(LearnerTest, GapBelowAnUndecidedProposalIsPulled) {
  start();
  propose(at(2), frames_.content(2));
  pass(2 * kMillisecond);
  const auto pulls = asked();
  ASSERT_GE(pulls.size(), 1u);
  EXPECT_EQ(pulls[0].kind, PullKind::kValue);
  EXPECT_EQ(pulls[0].instance, 1u);
}

TEST_F(LearnerTest, EveryAcceptorIsAskedInTurnHoweverManyInstancesLack) {
  // Three lacking instances and three acceptors: a turn that each took would come back to the same.
  for (const std::uint32_t lacking : {1u, 2u, 3u, 6u}) {
    start();
    decide(ballot(1), 1, 1 + lacking);
    std::set<std::uint32_t> whom;
    for (int round = 0; round < 10; ++round) {
      pass(5 * kMillisecond);
      for (const Asked& pull : asked()) whom.insert(pull.whom);
    }
    EXPECT_EQ(whom.size(), 3u) << lacking;
  }
}

TEST_F(LearnerTest, LoadOfPullsSpreadsOverTheAcceptors) {
  std::set<std::uint32_t> first;
  for (std::uint32_t self = 0; self < 2; ++self) {
    start(3, kAllPartitions, self);
    decide(ballot(1), 1, 2);
    pass(kMillisecond);
    first.insert(asked().at(0).whom);
  }
  EXPECT_EQ(first.size(), 2u);
}

TEST_F(LearnerTest, RepairOfTheWholeWindowFitsOneFrameAtATimeAndEnds) {
  start();
  const Decided decided{ballot(1), at(1), at(2'001)};
  decide(ballot(1), 1, 2'001);
  std::uint64_t last = 0;
  for (int round = 0; round < 500 && last < 2'000; ++round) {
    pass(3 * kMillisecond);
    for (const Asked& pull : asked()) {
      ASSERT_LE(pull.instance, 2'000u);
      value(at(pull.instance), ballot(1), frames_.content(pull.instance), true, decided);
    }
    for (const std::uint64_t sequence : delivered()) EXPECT_EQ(sequence, ++last);
  }
  EXPECT_EQ(last, 2'000u);
}

TEST_F(LearnerTest, AsksForNoMoreThanBuffersHoldAndForTheRestAsItComes) {
  start();
  constexpr std::uint64_t kLast = 201;
  constexpr std::uint32_t kBytes = 20'000;
  const std::uint32_t fragments = Frames::fragments(frames_.content(1, kBytes));
  propose(at(kLast), frames_.content(kLast, kBytes));  // shows how long values are
  const Decided decided{ballot(1), at(1), at(kLast + 1)};
  decide(ballot(1), 1, kLast + 1);
  std::uint64_t last = 0;
  pass(kMillisecond);
  for (int answers = 0; answers < 100 && last < kLast; ++answers) {
    const auto pulls = asked();
    EXPECT_LE(pulls.size() * fragments, kAskedMax);
    for (const Asked& pull : pulls) {
      value(at(pull.instance), ballot(1), frames_.content(pull.instance, kBytes), true, decided);
    }
    for (const std::uint64_t sequence : delivered()) EXPECT_EQ(sequence, ++last);
    // An answer makes room for the next question at once.
    now_ += 10 * kMicrosecond;
    learner_->tick(now_, effects_);
  }
  EXPECT_EQ(last, kLast);
}

TEST_F(LearnerTest, ManyLateValuesDoNotDelayTheRepairOfTheNext) {
  start();
  for (std::uint64_t i = 1; i <= 1'000; ++i) {
    decide(ballot(1), 1, i + 1);
    pass(kMillisecond);
    ASSERT_EQ(asked().at(0).instance, i);
    value(at(i), ballot(1), frames_.content(i), false);
    ASSERT_EQ(delivered(), (Sequences{i}));
  }
  decide(ballot(1), 1, 1'002);
  pass(kMillisecond);
  ASSERT_EQ(asked().size(), 1u);  // and the answer is lost
  pass(10 * kMillisecond);
  const auto again = asked();
  ASSERT_GE(again.size(), 1u);
  EXPECT_EQ(again[0].instance, 1'001u);
}

TEST_F(LearnerTest, WhatWaitsToBeReadIsNotMissed) {
  start();
  decide(ballot(1), 1, 2);
  now_ += 10 * kMillisecond;
  learner_->tick(now_, effects_, false);
  EXPECT_TRUE(asked().empty());
  learner_->tick(now_, effects_, true);  // looks for the first time
  pass(kMillisecond);
  EXPECT_EQ(asked().size(), 1u);
}

TEST_F(LearnerTest, BeyondTheWindowIsDroppedAndPulledLater) {
  start();
  propose(at(1'025), frames_.content(1'025));
  EXPECT_EQ(count(LearnerCounter::kDropBeyondWindow), 1u);
  EXPECT_TRUE(delivered().empty());
}

TEST_F(LearnerTest, TrimmedIsKnownAsBehindTheLog) {
  start();
  learner_->on_trimmed(Trimmed{1ull});
  EXPECT_FALSE(learner_->behind_log());
  learner_->on_trimmed(Trimmed{500ull});
  EXPECT_TRUE(learner_->behind_log());
  EXPECT_EQ(count(LearnerCounter::kTrimmed), 1u);
}

TEST_F(LearnerTest, WhatLacksNothingIsPulledAfterAllIfItIsReplacedOrGoneBackTo) {
  start();
  for (std::uint64_t i = 1; i <= 3; ++i) propose(at(i), frames_.content(i));
  decide(ballot(1), 1, 4);
  pass(10 * kMillisecond);
  EXPECT_TRUE(asked().empty());
  const Content other = frames_.content(7, 5'000);
  learner_->on_value(frames_.value(acceptor_id(1), at(2), ballot(2), other, true, {}, 0), now_);
  effects_.clear();
  pass(10 * kMillisecond);
  std::vector<Asked> pulls = asked();
  ASSERT_FALSE(pulls.empty());
  for (const Asked& pull : pulls) EXPECT_EQ(pull.instance, 2u);
  value(at(2), ballot(2), other, true);
  EXPECT_EQ(delivered(), (std::vector<std::uint64_t>{1, 7, 3}));
  learner_->restart_at(at(1));
  effects_.clear();
  pass(10 * kMillisecond);
  pulls = asked();
  ASSERT_FALSE(pulls.empty());
  EXPECT_EQ(pulls[0].instance, 1u);
}

TEST_F(LearnerTest, BadContentIsThrownAwayAndPulledAnew) {
  start();
  Content lying = frames_.content(1, 5'000);
  lying.value.content_hash ^= 1;
  propose(at(1), lying);
  decide(ballot(1), 1, 2);
  EXPECT_TRUE(delivered().empty());
  EXPECT_EQ(count(LearnerCounter::kDropBadContent), 1u);
}

// --- Credit

TEST_F(LearnerTest, CreditIsToldAnEighthOfTheWindowAheadAndRepeatedWhenIdle) {
  start();
  learner_->tick(now_, effects_);
  effects_.clear();
  for (std::uint64_t i = 1; i <= 128; ++i) {
    propose(at(i), frames_.content(i), ballot(1), {ballot(1), at(1), at(i)});
  }
  decide(ballot(1), 1, 129);
  delivered();
  learner_->tick(now_, effects_);
  auto told = sent(effects_, MessageType::kLearnerStatus);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(message_of<LearnerStatus>(*told[0]).delivered_below, 129u);
  EXPECT_EQ(told[0]->to, endpoint_of(acceptor_id(0)));
  effects_.clear();
  // Whether it lives may be what others wait to hear.
  pass(50 * kMillisecond);
  EXPECT_GE(sent(effects_, MessageType::kLearnerStatus).size(), 9u);
  effects_.clear();
  pass(500 * kMillisecond);
  told = sent(effects_, MessageType::kLearnerStatus);
  EXPECT_GE(told.size(), 8u);
  EXPECT_LE(told.size(), 13u);
}

TEST_F(LearnerTest, OneThatCannotMoveTellsTheCoordinatorThatItLives) {
  start();
  propose(at(2), frames_.content(2), ballot(1, 2), {ballot(1, 2), at(1), at(2)});
  pass(kMillisecond);
  effects_.clear();
  pass(100 * kMillisecond);
  std::map<std::uint32_t, int> told;
  for (Outgoing* out : sent(effects_, MessageType::kLearnerStatus)) ++told[out->to.address];
  EXPECT_GE(told[endpoint_of(acceptor_id(2)).address], 15);
  EXPECT_LE(told[endpoint_of(acceptor_id(2)).address], 25);
}

// Only what a learner says itself shows that it lives.
TEST_F(LearnerTest, OneThatMovesTellsTheCoordinatorToo) {
  start();
  for (std::uint64_t i = 1; i <= 1'024; ++i) {
    propose(at(i), frames_.content(i), ballot(1, 2), {ballot(1, 2), at(1), at(i)});
    delivered();
    learner_->tick(now_, effects_);
  }
  std::map<std::uint32_t, int> told;
  for (Outgoing* out : sent(effects_, MessageType::kLearnerStatus)) ++told[out->to.address];
  EXPECT_GE(told[endpoint_of(acceptor_id(0)).address], 6);
  EXPECT_GE(told[endpoint_of(acceptor_id(2)).address], 8);
}

TEST_F(LearnerTest, OneThatIsDoneTellsTheCoordinatorThatItLives) {
  start(5);
  propose(at(1), frames_.content(2), ballot(1, 2), {ballot(1, 2), at(1), at(2)});
  delivered();
  pass(3 * kSecond);
  std::map<std::uint32_t, int> told;
  for (Outgoing* out : sent(effects_, MessageType::kLearnerStatus)) ++told[out->to.address];
  EXPECT_EQ(told.size(), 5u);
  EXPECT_GT(told[endpoint_of(acceptor_id(2)).address], 30);
}

TEST_F(LearnerTest, CreditGoesToOthersTooForThePreferentialAcceptorMayBeDead) {
  start(5);
  pass(3 * kSecond);
  std::map<std::uint32_t, int> told;
  for (Outgoing* out : sent(effects_, MessageType::kLearnerStatus)) ++told[out->to.address];
  EXPECT_EQ(told.size(), 5u);
  EXPECT_GT(told[endpoint_of(acceptor_id(0)).address], 30);
}

}  // namespace
}  // namespace annulus::consensus
