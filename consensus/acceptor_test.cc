#include "consensus/acceptor.h"

#include <gtest/gtest.h>

#include "tests/support/acceptor_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

// --- Promise

TEST_F(AcceptorTest, PromiseIsRespectedByPhase2A) {
  start(3, 1);
  phase1a(ballot(5));
  effects_.clear();
  const Content content = frames_.content(1);
  propose(at(1), content, ballot(4));
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, kNoBallot);
  ASSERT_EQ(sent(effects_, MessageType::kReject).size(), 1u);
  EXPECT_EQ(message_of<Reject>(effects_.frames()[0]).promised, raw(ballot(5)));
  EXPECT_EQ(message_of<Reject>(effects_.frames()[0]).refused, raw(ballot(4)));
  propose(at(1), content, ballot(5));
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, ballot(5));
  propose(at(2), content, ballot(6, 2));
  EXPECT_EQ(acceptor_->promised(), ballot(6, 2));
}

TEST_F(AcceptorTest, PromiseIsRespectedBetweenTheFragmentsOfAProposal) {
  start(3, 1);
  const Content content = frames_.content(1, 2'000);
  fragment(at(1), content, 0, ballot(4));
  phase1a(ballot(5));
  fragment(at(1), content, 1, ballot(4));
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, kNoBallot);
}

TEST_F(AcceptorTest, PromiseIsRespectedByPhase2B) {
  start(5, 2);  // the middle of the ring {1, 2, 0}
  const Content content = frames_.content(1);
  propose(at(1), content, ballot(4));
  phase1a(ballot(5));
  effects_.clear();
  vote(at(1), content, just(1), 1, ballot(4));
  EXPECT_TRUE(votes_sent(0).empty());
  EXPECT_EQ(count(AcceptorCounter::kDropStaleBallot), 1u);
}

TEST_F(AcceptorTest, PromiseIsRespectedByPulledVotesAndValues) {
  start(3, 1);
  const Content content = frames_.content(1);
  propose(at(1), content, ballot(4));
  votes_sent(0);
  phase1a(ballot(5));
  effects_.clear();
  acceptor_->on_pull(frames_.pull(acceptor_id(0), PullKind::kVote, ballot(4), {{1ull, 0ull}}),
                     effects_);
  EXPECT_TRUE(votes_sent(0).empty());
  acceptor_->on_value(frames_.value(acceptor_id(2), at(2), ballot(4), content, false), now_,
                      effects_);
  EXPECT_EQ(acceptor_->accepted(at(2)).ballot, kNoBallot);
}

TEST_F(AcceptorTest, LowerPhase1AIsRejectedAndARepeatedOneAnsweredAgain) {
  start(3, 1);
  phase1a(ballot(5));
  phase1a(ballot(5));
  EXPECT_EQ(sent(effects_, MessageType::kPhase1B).size(), 2u);
  phase1a(ballot(4));
  EXPECT_EQ(sent(effects_, MessageType::kReject).size(), 1u);
  EXPECT_EQ(acceptor_->promised(), ballot(5));
}

TEST_F(AcceptorTest, AnotherConfigurationIsRefused) {
  start(3, 1);
  phase1a(ballot(5), at(1), 6);
  EXPECT_EQ(effects_.size(), 0u);
  EXPECT_EQ(acceptor_->promised(), kNoBallot);
  EXPECT_EQ(count(AcceptorCounter::kDropFingerprint), 1u);
}

// --- Phase 1 report

TEST_F(AcceptorTest, Phase1BReportsEveryAcceptedInstanceInParts) {
  start(3, 1);
  std::vector<Content> contents;
  for (std::uint64_t i = 1; i <= 300; ++i) {
    contents.push_back(frames_.content(i));
    if (i % 10 != 0) propose(at(i), contents.back(), i % 2 == 0 ? ballot(1) : ballot(1));
  }
  effects_.clear();
  phase1a(ballot(2, 1));
  const auto all = reported();
  ASSERT_EQ(all.size(), 270u);
  for (const Phase1BEntry& entry : all) {
    EXPECT_NE(entry.instance % 10, 0u);
    EXPECT_EQ(entry.ballot, raw(ballot(1)));
    EXPECT_EQ(from_wire(entry.value), contents[entry.instance - 1].value);
  }
  const auto parts = sent(effects_, MessageType::kPhase1B);
  EXPECT_EQ(parts.size(), (270 + kPhase1BEntriesMax - 1) / kPhase1BEntriesMax);
  for (Outgoing* part : parts) {
    EXPECT_EQ(message_of<Phase1B>(*part).answer, message_of<Phase1B>(*parts[0]).answer);
  }
}

TEST_F(AcceptorTest, Phase1BAnswersOfDifferentContentHaveDifferentNames) {
  start(3, 1);
  propose(at(1), frames_.content(1));
  phase1a(ballot(2));
  propose(at(2), frames_.content(2), ballot(2));
  phase1a(ballot(3));
  const auto answers = sent(effects_, MessageType::kPhase1B);
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_NE(message_of<Phase1B>(*answers[0]).answer, message_of<Phase1B>(*answers[1]).answer);
}

TEST_F(AcceptorTest, Phase1BReportsWhatItKnowsChosenWhileItHasIt) {
  start(3, 1);
  for (std::uint64_t i = 1; i <= 10; ++i) propose(at(i), frames_.content(i));
  acceptor_->on_decided({ballot(1), at(1), at(11)}, now_);
  ASSERT_EQ(acceptor_->chosen_below(), at(11));
  effects_.clear();
  phase1a(ballot(2, 2), at(4));
  const auto all = reported();
  ASSERT_EQ(all.size(), 7u);
  EXPECT_EQ(all[0].instance, 4u);
  EXPECT_EQ(message_of<Phase1B>(*sent(effects_, MessageType::kPhase1B)[0]).chosen_below, 4u);
}

TEST_F(AcceptorTest, VotesGatheredBeforeAPromiseLeaveBeforeIt) {
  start(3, 1);
  propose(at(1), frames_.content(1));
  phase1a(ballot(2, 2), at(1));
  ASSERT_EQ(effects_.size(), 2u);
  EXPECT_EQ(effects_.frames()[0].type, MessageType::kPhase2B);
  EXPECT_EQ(effects_.frames()[1].type, MessageType::kPhase1B);
}

TEST_F(AcceptorTest, Phase1BSaysTrimmedNeverEmpty) {
  start(3, 1);
  for (std::uint64_t i = 1; i <= 2'000; ++i) {
    propose(at(i), frames_.content(i), ballot(1), {ballot(1), at(1), at(i)});
    effects_.clear();
  }
  acceptor_->flush(effects_);
  effects_.clear();
  EXPECT_EQ(acceptor_->trimmed_below(), at(2'000 - 1'024 + 1));
  phase1a(ballot(2, 2));
  const auto& m = message_of<Phase1B>(effects_.frames()[0]);
  EXPECT_EQ(m.chosen_below, 2'000u - 1'024 + 1);
  EXPECT_EQ(reported().size(), 1'024u);
  EXPECT_EQ(reported().front().instance, m.chosen_below);
  for (Outgoing& out : effects_.frames()) frames_.carry(acceptor_id(1), out);  // valid, each part
}

TEST_F(AcceptorTest, WhatIsChosenIsLetGoOnceItTakesTooManyBytes) {
  retain_bytes_ = 10 * 1'000;
  start(3, 1);
  for (std::uint64_t i = 1; i <= 30; ++i) propose(at(i), frames_.content(i, 1'000));
  EXPECT_EQ(acceptor_->trimmed_below(), at(1));  // it may be decided, or not
  acceptor_->on_decided({ballot(1), at(1), at(21)}, now_);
  EXPECT_EQ(acceptor_->trimmed_below(), at(11));
  EXPECT_EQ(acceptor_->accepted(at(10)).ballot, kNoBallot);
  EXPECT_EQ(acceptor_->accepted(at(11)).ballot, ballot(1));
  EXPECT_EQ(count(AcceptorCounter::kShed), 10u);
  for (std::uint64_t i = 31; i <= 40; ++i) propose(at(i), frames_.content(i, 10));
  acceptor_->on_decided({ballot(1), at(1), at(41)}, now_);
  EXPECT_EQ(acceptor_->trimmed_below(), at(22));  // small ones take more instances
}

TEST_F(AcceptorTest, KeepsWhatFollowsUntilHalfOfTheBytesAreTaken) {
  retain_bytes_ = 10 * 1'000;
  start(3, 1);
  for (std::uint64_t i = 1; i <= 5; ++i) propose(at(i), frames_.content(i, 1'000));
  acceptor_->on_decided({ballot(1), at(1), at(6)}, now_);
  EXPECT_EQ(acceptor_->kept_until(at(1)), at(1 + 1'024 - Acceptor::kChangesKept));
  propose(at(6), frames_.content(6, 1'000), ballot(1), {ballot(1), at(1), at(6)});
  acceptor_->on_decided({ballot(1), at(1), at(7)}, now_);
  EXPECT_EQ(acceptor_->kept_until(at(1)), at(1));
  EXPECT_EQ(acceptor_->kept_until(at(2)), at(2 + 1'024 - Acceptor::kChangesKept));
  EXPECT_EQ(acceptor_->kept_until(at(7)), at(7 + 1'024 - Acceptor::kChangesKept));
}

// --- Voting

TEST_F(AcceptorTest, FirstOfTheRingStartsTheVote) {
  start(3, 1);
  propose(at(1), frames_.content(1));
  EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 0b010}}));
}

TEST_F(AcceptorTest, VotesOnlyForACompleteValue) {
  start(3, 1);
  const Content content = frames_.content(1, 49'152);
  const std::uint32_t fragments = Frames::fragments(content);
  ASSERT_GT(fragments, 30u);
  for (std::uint32_t i = fragments; i-- > 1;) fragment(at(1), content, i);
  EXPECT_TRUE(votes_sent(0).empty());
  fragment(at(1), content, 0);
  EXPECT_EQ(votes_sent(0).size(), 1u);
  EXPECT_EQ(dataplane::hash_bytes(acceptor_->accepted(at(1)).bytes->bytes()),
            content.value.content_hash);
}

TEST_F(AcceptorTest, ParkedVoteIsReleasedWhenItsValueArrives) {
  start(5, 2);
  const Content content = frames_.content(1);
  vote(at(1), content, just(1), 1);
  EXPECT_TRUE(votes_sent(0).empty());
  EXPECT_EQ(count(AcceptorCounter::kVotesParked), 1u);
  propose(at(1), content);
  EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 0b110}}));
}

TEST_F(AcceptorTest, ValueOfAParkedVoteIsPulledFromThePredecessor) {
  start(5, 2);
  const Content content = frames_.content(1);
  vote(at(1), content, just(1), 1);
  pass(10 * kMicrosecond);
  EXPECT_TRUE(sent(effects_, MessageType::kPull).empty());  // it may only be late
  pass(50 * kMicrosecond);
  const auto pulls = sent(effects_, MessageType::kPull);
  ASSERT_EQ(pulls.size(), 1u);
  EXPECT_EQ(pulls[0]->to, endpoint_of(acceptor_id(1)));
  effects_.clear();
  acceptor_->on_value(frames_.value(acceptor_id(1), at(1), ballot(1), content, false), now_,
                      effects_);
  EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 0b110}}));
}

TEST_F(AcceptorTest, ParkedVoteForAnotherValueIsNotReleased) {
  start(5, 2);
  vote(at(1), frames_.content(1), just(1), 1);
  propose(at(1), frames_.content(1, 100, kAllPartitions, 0, 7));
  EXPECT_TRUE(votes_sent(0).empty());
}

TEST_F(AcceptorTest, Phase2BIsForwardedOnlyForTheSameIdAndHash) {
  start(5, 2);
  const Content content = frames_.content(1);
  propose(at(1), content);
  Content other_hash = content;
  other_hash.value.content_hash ^= 1;
  Content other_id = content;
  other_id.value.id.sequence = 2;
  vote(at(1), other_hash, just(1), 1);
  vote(at(1), other_id, just(1), 1);
  EXPECT_TRUE(votes_sent(0).empty());
  EXPECT_EQ(count(AcceptorCounter::kDropMismatch), 2u);
  vote(at(1), content, just(1), 1);
  EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 0b110}}));
}

TEST_F(AcceptorTest, MiddleOfTheRingDoesNotVoteUnasked) {
  start(5, 2);
  propose(at(1), frames_.content(1));
  EXPECT_TRUE(votes_sent(0).empty());
  pass(kSecond);
  EXPECT_TRUE(votes_sent(0).empty());
}

TEST_F(AcceptorTest, DuplicateVotesAreHarmless) {
  start(7, 2);  // the ring is {1, 2, 3, 0}
  const Content content = frames_.content(1);
  propose(at(1), content);
  vote(at(1), content, just(1), 1);
  vote(at(1), content, just(1), 1);
  EXPECT_EQ(votes_sent(3), (std::map<std::uint64_t, std::uint32_t>{{1, 0b110}}));
}

TEST_F(AcceptorTest, SpareVotesWhenTheRingIsLateAndAgainUntilDecided) {
  start(5, 3);
  const Content content = frames_.content(1);
  propose(at(1), content);
  EXPECT_TRUE(votes_sent(0).empty());
  pass(acceptor_->ring_p99() / 2);
  EXPECT_TRUE(votes_sent(0).empty());
  pass(acceptor_->ring_p99());
  EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 0b1000}}));
  effects_.clear();
  pass(2 * acceptor_->ring_p99());
  EXPECT_EQ(votes_sent(0).size(), 1u);
  acceptor_->on_decided({ballot(1), at(1), at(2)}, now_);
  effects_.clear();
  pass(kSecond);
  EXPECT_TRUE(votes_sent(0).empty());
}

TEST_F(AcceptorTest, RepeatedProposalIsAnsweredToTheCoordinatorByEveryone) {
  // First of the ring, middle, spare: whoever the ring would have passed may be dead.
  for (std::uint32_t self = 1; self < 5; ++self) {
    start(5, self);
    const Content content = frames_.content(1);
    propose(at(1), content);
    votes_sent(0);
    effects_.clear();
    propose(at(1), content);
    EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 1u << self}})) << self;
    effects_.clear();
  }
}

TEST_F(AcceptorTest, RepeatedProposalOfAChosenValueIsVotedForToo) {
  start(3, 1);
  const Content content = frames_.content(1);
  propose(at(1), content);
  acceptor_->on_decided({ballot(1), at(1), at(2)}, now_);
  votes_sent(0);
  effects_.clear();
  route_ = Route(configuration_, 2);  // of the new coordinator: {0, 2}
  propose(at(1), content, ballot(2, 2));
  propose(at(1), content, ballot(2, 2));
  EXPECT_EQ(votes_sent(2).size(), 1u);
  EXPECT_TRUE(acceptor_->accepted(at(1)).chosen);
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, ballot(2, 2));
}

// T5b: it waits for the first change that follows its configuration, and for no other.
TEST_F(AcceptorTest, ChangeThatAnotherHasOvertakenIsPassedOver) {
  for (const std::uint32_t ahead : {0u, 1u}) {
    start(3, 1);
    Content change = frames_.content(1);
    change.value.id = {kMembership, raw(ballot(1)), configuration_.epoch + ahead};
    propose(at(1), change);
    propose(at(2), frames_.content(2));
    acceptor_->on_decided({ballot(1), at(1), at(3)}, now_);
    EXPECT_EQ(acceptor_->chosen_configuration() != nullptr, ahead == 1);
    EXPECT_EQ(acceptor_->chosen_below(), ahead == 1 ? at(1) : at(3));
  }
}

// They are proposed while a replica is waited for, past what bytes allow of commands.
TEST_F(AcceptorTest, ChangesOfMembersTakeNothingOfTheBytesThatAreKept) {
  retain_bytes_ = 10 * 1'000;
  start(3, 1);
  for (std::uint64_t i = 1; i <= 30; ++i) {
    Content change = frames_.content(i, 1'000);
    change.value.id = {kMembership, i, configuration_.epoch};  // overtaken by others
    propose(at(i), change);
  }
  acceptor_->on_decided({ballot(1), at(1), at(31)}, now_);
  EXPECT_EQ(acceptor_->trimmed_below(), at(1));
  EXPECT_EQ(acceptor_->kept_until(at(1)), at(1 + 1'024) - Acceptor::kChangesKept);
}

TEST_F(AcceptorTest, ChosenValueIsNeverReplaced) {
  start(3, 1);
  const Content content = frames_.content(1);
  propose(at(1), content);
  acceptor_->on_decided({ballot(1), at(1), at(2)}, now_);
  propose(at(1), frames_.content(2), ballot(2));
  EXPECT_EQ(*acceptor_->accepted(at(1)).value, content.value);
  EXPECT_EQ(count(AcceptorCounter::kDropMismatch), 1u);
}

TEST_F(AcceptorTest, PulledVoteCarriesAllThatTheRingBrought) {
  start(5, 2);
  const Content content = frames_.content(1);
  propose(at(1), content);
  vote(at(1), content, just(1), 1);
  votes_sent(0);
  effects_.clear();
  acceptor_->on_pull(frames_.pull(acceptor_id(0), PullKind::kVote, ballot(1), {{1ull, 0ull}}),
                     effects_);
  EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 0b110}}));
}

TEST_F(AcceptorTest, RouteOfStrangersIsRefused) {
  start(3, 1);
  WireRoute wire;
  wire.acceptor.fill(kRouteEnd);
  wire.acceptor[0] = 1;
  wire.acceptor[1] = 9;
  route_ = Route(wire);
  propose(at(1), frames_.content(1));
  EXPECT_TRUE(votes_sent(0).empty());
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, kNoBallot);
  EXPECT_EQ(count(AcceptorCounter::kDropMismatch), 1u);
}

// --- Past, present, future

TEST_F(AcceptorTest, ProposalsBeyondTheUndecidedLimitAndBehindTheLogAreDropped) {
  start(3, 1);
  propose(at(kUndecidedMax + 1), frames_.content(1));
  EXPECT_EQ(count(AcceptorCounter::kDropBeyondLog), 1u);
  for (std::uint64_t i = 1; i <= 1'100; ++i) {
    propose(at(i), frames_.content(i), ballot(1), {ballot(1), at(1), at(i)});
    effects_.clear();
  }
  propose(at(10), frames_.content(10));
  EXPECT_EQ(count(AcceptorCounter::kDropBehindLog), 1u);
}

TEST_F(AcceptorTest, HigherBallotReplacesAnUndecidedValueAndKeepsItsBytesIfEqual) {
  start(3, 1);
  const Content old = frames_.content(1, 3'000);
  const Content fresh = frames_.content(2, 3'000);
  propose(at(1), old);
  propose(at(1), fresh, ballot(2));
  EXPECT_EQ(*acceptor_->accepted(at(1)).value, fresh.value);
  fragment(at(1), fresh, 0, ballot(3));  // one frame is enough: the bytes are here
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, ballot(3));
}

TEST_F(AcceptorTest, FragmentsOfAnotherValueAreNotJoined) {
  start(3, 1);
  const Content one = frames_.content(1, 2'000);
  const Content two = frames_.content(2, 2'000);
  fragment(at(1), one, 0);
  fragment(at(1), two, 1);
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, kNoBallot);
  EXPECT_EQ(count(AcceptorCounter::kDropMismatch), 1u);
  fragment(at(1), one, 1);
  EXPECT_EQ(*acceptor_->accepted(at(1)).value, one.value);
}

}  // namespace
}  // namespace annulus::consensus
