#include "consensus/coordinator.h"

#include <gtest/gtest.h>

#include "tests/support/coordinator_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

TEST_F(CoordinatorTest, SingleAcceptorDecidesAlone) {
  start(1);
  coordinator_->start(now_, effects_);
  ASSERT_TRUE(coordinator_->active());
  submit(1, 3);
  turn();
  EXPECT_EQ(coordinator_->decided_below(), at(4));
  EXPECT_EQ(acceptor_->chosen_below(), at(4));
  const auto told = sent(effects_, MessageType::kDecision);
  ASSERT_FALSE(told.empty());
  EXPECT_EQ(from_wire(message_of<Decision>(*told.back()).decided).below, at(4));
}

TEST_F(CoordinatorTest, MajorityOfDistinctAcceptorsDecides) {
  start(5);
  elect();
  const Content content = frames_.content(1);
  submit(content);
  turn();
  vote(at(1), content, 0b00010, 1);
  vote(at(1), content, 0b00010, 1);  // the same one again
  vote(at(1), content, 0b00011, 1);  // and with this node's own vote
  EXPECT_EQ(coordinator_->decided_below(), at(1));
  vote(at(1), content, 0b00110, 2);
  EXPECT_EQ(coordinator_->decided_below(), at(2));
}

TEST_F(CoordinatorTest, SpareDecidesWithTheFirstOfTheRingSilentOfThree) {
  start(3);
  elect();
  const Content content = frames_.content(1);
  submit(content);
  turn();
  vote(at(1), content, 0b100, 2);
  EXPECT_EQ(coordinator_->decided_below(), at(2));
  EXPECT_EQ(count(CoordinatorCounter::kDecidedBySpare), 1u);
}

TEST_F(CoordinatorTest, SparesDecideWithTheFirstOfTheRingSilentOfFive) {
  start(5);
  elect();
  const Content content = frames_.content(1);
  submit(content);
  turn();
  vote(at(1), content, 0b01000, 3);
  EXPECT_EQ(coordinator_->decided_below(), at(1));
  vote(at(1), content, 0b10000, 4);
  EXPECT_EQ(coordinator_->decided_below(), at(2));
}

TEST_F(CoordinatorTest, VotesOfStrangersOtherValuesAndOtherBallotsDoNotCount) {
  start(3);
  elect();
  const Content content = frames_.content(1);
  submit(content);
  turn();
  vote(at(1), content, 0b1000, 1);  // nobody of this configuration
  Content other = frames_.content(2);
  vote(at(1), other, 0b010, 1);
  other = content;
  other.value.content_hash ^= 1;
  vote(at(1), other, 0b010, 1);
  vote(at(1), content.value, 0b010, 1, ballot(round_of(coordinator_->ballot()) - 1));
  vote(at(1), content.value, 0b010, 1, ballot(round_of(coordinator_->ballot()) + 1));
  vote(at(2), content, 0b010, 1);  // not proposed yet
  EXPECT_EQ(coordinator_->decided_below(), at(1));
  EXPECT_EQ(count(CoordinatorCounter::kDropMismatchedVote), 2u);
  EXPECT_EQ(count(CoordinatorCounter::kDropStaleVote), 1u);
}

TEST_F(CoordinatorTest, DecisionIsTheContiguousPrefix) {
  start(3);
  elect();
  submit(1, 3);
  turn();
  vote_for(2, 3);
  EXPECT_EQ(coordinator_->decided_below(), at(1));
  vote_for(1, 1);
  EXPECT_EQ(coordinator_->decided_below(), at(4));
  EXPECT_EQ(acceptor_->chosen_below(), at(4));
}

// --- Telling decisions

TEST_F(CoordinatorTest, DecisionIsFlushedAtOnceWhenIdle) {
  start(3);
  elect();
  submit(1, 1);
  turn();
  effects_.clear();
  vote_for(1, 1);
  turn();
  const auto told = sent(effects_, MessageType::kDecision);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_TRUE(told[0]->to_all);
  EXPECT_EQ(from_wire(message_of<Decision>(*told[0]).decided),
            (Decided{coordinator_->ballot(), at(1), at(2)}));
}

TEST_F(CoordinatorTest, DecisionRidesOnProposalsUnderLoad) {
  start(3);
  elect();
  for (std::uint64_t s = 1; s <= 100; ++s) {
    now_ += 2 * kMicrosecond;
    submit(s, s);
    if (s > 2) vote_for(s - 2, s - 2);
    turn();
    keep();
  }
  EXPECT_GT(count(CoordinatorCounter::kDecisionsPiggybacked), 60u);
  EXPECT_LT(count(CoordinatorCounter::kDecisionsFlushed), 20u);
  // And waits for a proposal only so long.
  const std::uint64_t before = count(CoordinatorCounter::kDecisionsFlushed);
  vote_for(99, 99);
  turn();
  pass(30 * kMicrosecond);
  EXPECT_EQ(count(CoordinatorCounter::kDecisionsFlushed), before + 1);
}

TEST_F(CoordinatorTest, HeartbeatRepeatsTheWatermarkSoonAndThenNowAndThen) {
  start(3);
  elect();
  submit(1, 1);
  turn();
  vote_for(1, 1);
  turn();
  effects_.clear();
  pass(2 * kMillisecond);
  auto told = sent(effects_, MessageType::kDecision);
  ASSERT_GE(told.size(), 1u);
  EXPECT_EQ(from_wire(message_of<Decision>(*told[0]).decided).below, at(2));
  EXPECT_TRUE(told[0]->direct);
  pass(100 * kMillisecond);
  effects_.clear();
  pass(200 * kMillisecond);
  told = sent(effects_, MessageType::kDecision);
  EXPECT_GE(told.size(), 8u);
  EXPECT_LE(told.size(), 12u);
}

// --- Repair

TEST_F(CoordinatorTest, UnreadVotesAreNotMissedAndHeartbeatsDoNotWaitForThem) {
  start(3);
  elect();
  submit(frames_.content(1));
  turn();
  effects_.clear();
  for (int turns = 0; turns < 100; ++turns) {
    now_ += 100 * kMicrosecond;
    coordinator_->tick(now_, effects_, false);
  }
  EXPECT_TRUE(sent(effects_, MessageType::kPull).empty());
  EXPECT_TRUE(proposed().empty());
  EXPECT_FALSE(sent(effects_, MessageType::kDecision).empty());
  coordinator_->tick(now_, effects_, true);
  EXPECT_EQ(sent(effects_, MessageType::kPull).size(), 1u);
}

TEST_F(CoordinatorTest, MissingVoteIsPulledFromThePredecessorThenTheProposalRepeated) {
  start(5);
  elect();
  const Content content = frames_.content(1, 3'000);
  submit(content);
  turn();
  effects_.clear();
  pass(5 * kMillisecond);
  const auto pulls = sent(effects_, MessageType::kPull);
  ASSERT_EQ(pulls.size(), 1u);
  EXPECT_EQ(pulls[0]->to, endpoint_of(acceptor_id(2)));  // the ring is {1, 2, 0}
  const auto& m = message_of<Pull>(*pulls[0]);
  EXPECT_EQ(static_cast<PullKind>(m.kind), PullKind::kVote);
  EXPECT_EQ(m.ballot, raw(coordinator_->ballot()));
  frames_.carry(acceptor_id(0), *pulls[0]);
  EXPECT_TRUE(proposed().empty());
  pass(10 * kMillisecond);
  ASSERT_EQ(proposed().size(), Frames::fragments(content));
  for (Outgoing* out : sent(effects_, MessageType::kPhase2A)) {
    EXPECT_TRUE(out->to_all && out->direct);
    frames_.carry(acceptor_id(0), *out);
  }
  vote(at(1), content, 0b00110, 2);
  effects_.clear();
  pass(kSecond);
  EXPECT_TRUE(proposed().empty());
}

TEST_F(CoordinatorTest, FullWindowOfLongValuesIsRepeatedWithinTheEffects) {
  CoordinatorOptions options;
  options.submit.window = 256;
  start(3, options);
  elect();
  for (std::uint64_t s = 1; s <= 256; ++s) submit(frames_.content(s, 60'000));
  for (int i = 0; i < 256; ++i) {
    turn();
    effects_.clear();
  }
  EXPECT_EQ(coordinator_->next_instance(), at(257));
  for (int i = 0; i < 3'000; ++i) {
    now_ += 100 * kMicrosecond;
    turn();
    effects_.clear();
  }
  EXPECT_GT(count(CoordinatorCounter::kProposalsRepeated), 256u);
}

TEST_F(CoordinatorTest, LossDoesNotRaiseTheTimeoutWithoutEnd) {
  start(3);
  elect();
  for (std::uint64_t s = 1; s <= 2'000; ++s) {
    submit(s, s);
    turn();
    if (s % 25 == 0) pass(20 * kMillisecond);  // one vote in 25 comes only when repeated
    now_ += 50 * kMicrosecond;
    vote_for(s, s);
    learners_follow();
    turn();
    effects_.clear();
  }
  submit(2'001, 2'001);
  turn();
  effects_.clear();
  pass(2 * kMillisecond);
  EXPECT_EQ(sent(effects_, MessageType::kPull).size(), 1u);
}

TEST_F(CoordinatorTest, RouteLeadsAroundASilentMember) {
  start(5);
  elect();
  for (std::uint64_t s = 1; s <= 20; ++s) {
    submit(s, s);
    turn();
    vote_for(s, s, 3);  // 1 is dead, so 2 gets no votes to pass on; 3 and 4 are spares
    vote_for(s, s, 4);
    turn();
    keep();
  }
  EXPECT_EQ(count(CoordinatorCounter::kRerouted), 1u);
  submit(21, 21);
  turn();
  const Route route(proposal(0).route);
  EXPECT_EQ(route.at(0), 3u);
  EXPECT_EQ(route.at(1), 4u);
  EXPECT_EQ(route.coordinator(), 0u);
}

TEST_F(CoordinatorTest, RouteStaysWhenSparesAreSilentOrAVoteIsLost) {
  start(5);
  elect();
  for (std::uint64_t s = 1; s <= 200; ++s) {
    submit(s, s);
    turn();
    if (s % 8 == 0) {
      vote_for(s, s, 3);
      vote_for(s, s, 4);
    } else {
      vote_for(s, s, 1);
      vote_for(s, s, 2);
    }
    turn();
    keep();
  }
  EXPECT_EQ(count(CoordinatorCounter::kRerouted), 0u);
}

// --- Window

TEST_F(CoordinatorTest, AtMostAWindowIsUndecided) {
  CoordinatorOptions options;
  options.window = 8;
  start(3, options);
  elect();
  submit(1, 20);
  turn();
  EXPECT_EQ(proposed().size(), 8u);
  EXPECT_EQ(count(CoordinatorCounter::kWindowFull), 1u);
  effects_.clear();
  vote_for(1, 3);
  turn();
  EXPECT_EQ(proposed(), (std::vector<std::uint64_t>{9, 10, 11}));
}

TEST_F(CoordinatorTest, LongValueIsProposedInFragmentsThatEachStandAlone) {
  start(3);
  elect();
  const Content content = frames_.content(1, 49'152, PartitionMask{6});
  submit(content);
  turn();
  const auto frames = sent(effects_, MessageType::kPhase2A);
  ASSERT_EQ(frames.size(), Frames::fragments(content));
  ASSERT_LE(frames.size(), kFragmentsMax);
  std::uint32_t bytes = 0;
  for (std::uint32_t i = 0; i < frames.size(); ++i) {
    const Received received = frames_.carry(acceptor_id(0), *frames[i]);
    EXPECT_EQ(from_wire(message_of<Phase2A>(*frames[i]).value), content.value);
    EXPECT_EQ(message_of<Phase2A>(*frames[i]).fragment.index, i);
    bytes += received.frame.payload.size();
  }
  EXPECT_EQ(bytes, content.value.bytes);
}

TEST_F(CoordinatorTest, CreditComesInVotesAndOldCreditTakesNothingBack) {
  CoordinatorOptions options;
  options.learner_window = 16;
  start(3, options);
  elect();
  const auto credit = [&](std::uint64_t below) {
    coordinator_->on_phase2b(frames_.phase2b(acceptor_id(1), coordinator_->ballot(), {},
                                             {LearnerCredit{0u, kLearnerEpoch, below}}),
                             now_);
  };
  credit(1);
  submit(1, 60);
  turn();
  vote_for(1, 16);
  effects_.clear();
  credit(9);
  credit(3);
  turn();
  EXPECT_EQ(proposed().size(), 8u);
}

TEST_F(CoordinatorTest, CreditOfALearnerThatIsNotConfiguredIsIgnored) {
  start(3);
  elect();
  coordinator_->on_credit(2, kLearnerEpoch, at(1), now_);
  coordinator_->on_credit(kLearnersMax + 5, kLearnerEpoch, at(1), now_);
  EXPECT_EQ(count(CoordinatorCounter::kLearnersBack), 0u);
}

}  // namespace
}  // namespace annulus::consensus
