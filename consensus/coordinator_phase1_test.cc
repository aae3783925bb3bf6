// Phase 1: promises, recovered values, holes, and who may coordinate.
#include <gtest/gtest.h>

#include "tests/support/coordinator_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

using Phase1Test = CoordinatorTest;

TEST_F(Phase1Test, StartsAfterAMajorityOfPromisesOfItsBallot) {
  for (const std::uint32_t acceptors : {1u, 3u, 5u, 7u}) {
    SCOPED_TRACE(acceptors);
    start(acceptors);
    coordinator_->start(now_, effects_);
    EXPECT_EQ(sent(effects_, MessageType::kPhase1A).size(), acceptors - 1);
    for (std::uint32_t i = 1; i < (acceptors + 1) / 2; ++i) {
      EXPECT_FALSE(coordinator_->active());
      promise(i, {});
      promise(i, {});  // a duplicate counts once
    }
    EXPECT_TRUE(coordinator_->active());
    effects_.clear();
  }
}

TEST_F(Phase1Test, PromiseOfAnotherBallotOrAStrangerDoesNotCount) {
  start(3);
  coordinator_->start(now_, effects_);
  const Phase1B other{raw(ballot(9)),
                      1ull,
                      1ull,
                      0ull,
                      0ull,
                      to_wire(Decided{}),
                      std::uint16_t{0},
                      std::uint16_t{1},
                      std::uint16_t{0}};
  coordinator_->on_phase1b(
      frames_.list<Phase1B, Phase1BEntry>(acceptor_id(1), MessageType::kPhase1B, other, {}), now_,
      effects_);
  Phase1B mine = other;
  mine.ballot = raw(coordinator_->ballot());
  coordinator_->on_phase1b(
      frames_.list<Phase1B, Phase1BEntry>(learner_id(1), MessageType::kPhase1B, mine, {}), now_,
      effects_);
  EXPECT_FALSE(coordinator_->active());
  EXPECT_EQ(count(CoordinatorCounter::kDropStaleVote), 2u);
}

TEST_F(Phase1Test, LostPromiseIsAskedForAgainOfThoseThatOweIt) {
  start(5);
  coordinator_->start(now_, effects_);
  promise(3, {});
  effects_.clear();
  pass(6 * kMillisecond);
  const auto asked = sent(effects_, MessageType::kPhase1A);
  ASSERT_EQ(asked.size(), 3u);
  for (Outgoing* out : asked) EXPECT_NE(out->to, endpoint_of(acceptor_id(3)));
}

TEST_F(Phase1Test, PartsMayBeReorderedDuplicatedAndLost) {
  start(3);
  coordinator_->start(now_, effects_);
  const Content one = frames_.content(1);
  const Content two = frames_.content(2);
  const Content three = frames_.content(3);
  const std::vector<Phase1BEntry> first{accepted(at(1), ballot(1, 1), one.value)};
  const std::vector<Phase1BEntry> second{accepted(at(2), ballot(1, 1), two.value)};
  const std::vector<Phase1BEntry> third{accepted(at(3), ballot(1, 1), three.value)};
  promise(1, third, at(1), 2, 3);
  promise(1, third, at(1), 2, 3);
  promise(1, first, at(1), 0, 3);
  EXPECT_EQ(count(CoordinatorCounter::kValuesRecovered), 0u);
  promise(1, second, at(1), 1, 3);
  EXPECT_EQ(count(CoordinatorCounter::kValuesRecovered), 3u);
}

TEST_F(Phase1Test, PartsOfDifferentAnswersDoNotAddUp) {
  start(3);
  coordinator_->start(now_, effects_);
  const Content content = frames_.content(1);
  // Answer 1 had three parts, the last of which was lost. Meanwhile the acceptor learned that
  // instance 1 is chosen, so that answer 2 has two, and says in its second part what was lost.
  promise(1, {accepted(at(1), ballot(1, 1), content.value)}, at(1), 0, 3, 1);
  promise(1, {accepted(at(2), ballot(1, 1), content.value)}, at(1), 1, 3, 1);
  promise(1, {accepted(at(2), ballot(1, 1), content.value)}, at(2), 0, 2, 2);
  EXPECT_EQ(count(CoordinatorCounter::kValuesRecovered), 0u);
  promise(1, {accepted(at(3), ballot(1, 1), content.value)}, at(2), 1, 2, 2);
  EXPECT_EQ(count(CoordinatorCounter::kValuesRecovered), 2u);
}

TEST_F(Phase1Test, HighestBallotsValueIsProposedAgainUnderItsOwnId) {
  start(5);
  const Content low = frames_.content(1);
  const Content high = frames_.content(2, 5'000, PartitionMask{2});
  const Content own = frames_.content(3);
  acceptor_->accept(at(1), ballot(3, 1), own.value, own.bytes, Route(configuration_, 1), now_,
                    effects_);
  acceptor_->promise(ballot(7, 2), effects_);
  coordinator_->start(now_, effects_);
  promise(1, {accepted(at(1), ballot(2, 1), low.value)});
  promise(2, {accepted(at(1), ballot(7, 2), high.value)});
  EXPECT_FALSE(coordinator_->active());
  const auto pulls = sent(effects_, MessageType::kPull);
  ASSERT_EQ(pulls.size(), 1u);
  EXPECT_EQ(pulls[0]->to, endpoint_of(acceptor_id(2)));
  value(1, at(1), ballot(2, 1), low);  // not what is wanted
  EXPECT_FALSE(coordinator_->active());
  value(2, at(1), ballot(7, 2), high);
  ASSERT_TRUE(coordinator_->active());
  turn();
  EXPECT_EQ(from_wire(proposal(0).value), high.value);
  EXPECT_EQ(proposal(0).ballot, raw(coordinator_->ballot()));
  EXPECT_GT(coordinator_->ballot(), ballot(7, 2));
  EXPECT_EQ(dataplane::hash_bytes(acceptor_->accepted(at(1)).bytes->bytes()),
            high.value.content_hash);
}

// T5b: it stops at the first change that follows its configuration, and at no other.
TEST_F(Phase1Test, RecoveredChangeThatAnotherHasOvertakenHoldsNothingUp) {
  for (const std::uint32_t ahead : {0u, 1u}) {
    start(3);
    Content change = frames_.content(50);
    change.value.id = {kMembership, raw(ballot(1, 1)), configuration_.epoch + ahead};
    coordinator_->start(now_, effects_);
    submit(1, 2);
    promise(1, {accepted(at(1), ballot(1, 1), change.value)});
    value(1, at(1), ballot(1, 1), change);
    ASSERT_TRUE(coordinator_->active());
    turn();
    EXPECT_EQ(proposed().size(), ahead == 1 ? 1u : 3u);
    effects_.clear();
  }
}

TEST_F(Phase1Test, HolesAreFilledWithNoopsAndNothingElse) {
  start(3);
  const Content content = frames_.content(50);
  coordinator_->start(now_, effects_);
  submit(1, 5);  // waiting commands must not slip into holes (T7)
  promise(1, {accepted(at(4), ballot(1, 1), content.value)});
  value(1, at(4), ballot(1, 1), content);
  ASSERT_TRUE(coordinator_->active());
  turn();
  const auto instances = proposed();
  ASSERT_EQ(instances, (std::vector<std::uint64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(from_wire(proposal(i).value), kNoopValue);
  EXPECT_EQ(from_wire(proposal(3).value), content.value);
  for (std::uint64_t i = 4; i < 9; ++i) EXPECT_EQ(proposal(i).value.id.sequence, i - 3);
  EXPECT_EQ(count(CoordinatorCounter::kHolesFilled), 3u);
}

TEST_F(Phase1Test, NothingIsProposedBelowWhatIsKnownDecided) {
  start(3);
  const Content content = frames_.content(1);
  coordinator_->start(now_, effects_);
  promise(1, {accepted(at(12), ballot(1, 1), content.value)}, at(11));
  value(1, at(12), ballot(1, 1), content);
  ASSERT_TRUE(coordinator_->active());
  turn();
  EXPECT_EQ(proposed(), (std::vector<std::uint64_t>{11, 12}));
  EXPECT_EQ(from_wire(proposal(0).decided), (Decided{coordinator_->ballot(), at(11), at(11)}));
}

TEST_F(Phase1Test, WhatOnlyThisNodeDoesNotKnowChosenIsProposedAgain) {
  // Acceptor 1 is the only one alive that knows 1..3 decided; it reports them as long as it can.
  start(3);
  const Content content = frames_.content(1);
  acceptor_->accept(at(1), ballot(1, 1), content.value, content.bytes, Route(configuration_, 1),
                    now_, effects_);
  coordinator_->start(now_, effects_);
  promise(1, {accepted(at(1), ballot(1, 1), content.value)}, at(1));
  ASSERT_TRUE(coordinator_->active());
  turn();
  EXPECT_EQ(proposed(), (std::vector<std::uint64_t>{1}));
  EXPECT_EQ(from_wire(proposal(0).value), content.value);
}

TEST_F(Phase1Test, ValueThatNobodyAliveHoldsLeadsToAnotherPhase1) {
  start(5);
  const Content content = frames_.content(1);
  coordinator_->start(now_, effects_);
  promise(1, {accepted(at(1), ballot(1, 4), content.value)});
  promise(2, {});
  const Ballot first = coordinator_->ballot();
  pass(200 * kMillisecond);  // acceptor 1 died, and 4 was dead already
  EXPECT_GT(coordinator_->ballot(), first);
  promise(2, {});
  promise(3, {});
  ASSERT_TRUE(coordinator_->active());
  turn();
  EXPECT_EQ(coordinator_->next_instance(), at(1));
}

TEST_F(Phase1Test, LostPullOfARecoveredValueIsRepeatedAndAlsoElsewhere) {
  start(5);
  const Content content = frames_.content(1);
  coordinator_->start(now_, effects_);
  promise(1, {accepted(at(1), ballot(1, 4), content.value)});
  promise(2, {});
  effects_.clear();
  pass(50 * kMillisecond);
  std::map<std::uint32_t, int> asked;
  for (Outgoing* out : sent(effects_, MessageType::kPull)) ++asked[out->to.address];
  EXPECT_GE(asked.size(), 2u);
  EXPECT_GE(asked[endpoint_of(acceptor_id(1)).address], 4);
}

TEST_F(Phase1Test, RecoveredLogOfTheFullSizeStaysWithinTheEffects) {
  start(3);
  coordinator_->start(now_, effects_);
  std::vector<Content> contents;
  const std::uint32_t parts = (kUndecidedMax + kPhase1BEntriesMax - 1) / kPhase1BEntriesMax;
  for (std::uint32_t part = 0; part < parts; ++part) {
    std::vector<Phase1BEntry> list;
    for (std::uint32_t n = 0; n < kPhase1BEntriesMax && contents.size() < kUndecidedMax; ++n) {
      contents.push_back(frames_.content(contents.size() + 1));
      list.push_back(accepted(at(contents.size()), ballot(1, 1), contents.back().value));
    }
    promise(1, list, at(1), static_cast<std::uint16_t>(part), static_cast<std::uint16_t>(parts));
  }
  for (int round = 0; round < 2'000 && coordinator_->decided_below() <= at(kUndecidedMax);
       ++round) {
    std::vector<std::uint64_t> wanted;
    for (Outgoing* out : sent(effects_, MessageType::kPull)) {
      const auto& m = message_of<Pull>(*out);
      if (static_cast<PullKind>(m.kind) != PullKind::kValue) continue;
      for (const auto& e : entries<PullEntry>(m, m.count)) wanted.push_back(e.instance);
    }
    std::vector<std::uint64_t> voted = proposed();
    effects_.clear();
    for (const std::uint64_t i : wanted) {
      value(1, at(i), ballot(1, 1), contents[i - 1]);
      effects_.clear();
    }
    for (const std::uint64_t i : voted) vote(at(i), contents[i - 1], 0b010, 1);
    now_ += kMillisecond;
    turn();
  }
  EXPECT_EQ(coordinator_->decided_below(), at(kUndecidedMax + 1));
}

TEST_F(Phase1Test, BallotsAreUniqueAndGrow) {
  start(3);
  coordinator_->start(now_, effects_);
  const Ballot first = coordinator_->ballot();
  EXPECT_EQ(coordinator_of(first), acceptor_id(0));
  coordinator_->start(now_, effects_);
  EXPECT_GT(coordinator_->ballot(), first);
  const Ballot other = ballot(round_of(coordinator_->ballot()) + 5, 2);
  coordinator_->observe(other);
  EXPECT_TRUE(coordinator_->idle());
  coordinator_->start(now_, effects_);
  EXPECT_GT(coordinator_->ballot(), other);
  EXPECT_EQ(coordinator_of(coordinator_->ballot()), acceptor_id(0));
}

TEST_F(Phase1Test, HigherBallotEndsTheTermAndALowerOneDoesNot) {
  start(3);
  elect();
  coordinator_->observe(ballot(0, 2));
  EXPECT_TRUE(coordinator_->active());
  coordinator_->observe(ballot(100, 2));
  EXPECT_TRUE(coordinator_->idle());
  EXPECT_EQ(count(CoordinatorCounter::kSteppedDown), 1u);
  submit(1, 3);
  turn();
  EXPECT_TRUE(proposed().empty());
}

TEST_F(Phase1Test, PromiseGivenToAnotherEndsTheTermAtTheNextProposal) {
  start(3);
  elect();
  acceptor_->promise(ballot(50, 2), effects_);
  submit(1, 3);
  turn();
  EXPECT_TRUE(proposed().empty());
  EXPECT_TRUE(coordinator_->idle());
}

TEST_F(Phase1Test, OwnAcceptorThatLagsBlocksProposalsButLosesNone) {
  start(3);
  const Content content = frames_.content(77);
  coordinator_->start(now_, effects_);
  // The others are 1,100 instances ahead: the own log has no room yet.
  promise(1, {accepted(at(1'100), ballot(1, 1), content.value)}, at(1'100));
  value(1, at(1'100), ballot(1, 1), content);
  ASSERT_TRUE(coordinator_->active());
  submit(1, 2);
  turn();
  EXPECT_TRUE(proposed().empty());
  acceptor_->on_trimmed(Trimmed{1'090ull}, now_);
  learners_follow();
  turn();
  ASSERT_EQ(proposed(), (std::vector<std::uint64_t>{1'100, 1'101, 1'102}));
  EXPECT_EQ(from_wire(proposal(0).value), content.value);
  EXPECT_EQ(proposal(1).value.id.sequence, 1u);
}

}  // namespace
}  // namespace annulus::consensus
