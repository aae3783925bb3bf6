// What an acceptor may say before its log has written, and what it knows after it was read back.
#include <gtest/gtest.h>

#include "tests/support/acceptor_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

constexpr std::uint64_t kPlenty = 1ull << 40;

class DurableAcceptorTest : public AcceptorTest {
 protected:
  void start_durable(std::uint32_t acceptors, std::uint32_t self,
                     const RecoveredAcceptor& recovered = {}, std::uint32_t retain = 1'024,
                     Instance from = kFirstInstance) {
    configuration_ = configuration(acceptors);
    configuration_.from = from;
    AcceptorOptions options;
    options.retain = retain;
    options.retain_bytes = retain_bytes_;
    options.undecided_bytes = retain_bytes_ / 2;
    options.fragment_bytes = Frames::kFragment;
    options.fingerprint = 5;
    options.durable = true;
    acceptor_ = std::make_unique<Acceptor>(configuration_, self, options, pool_);
    acceptor_->restore(recovered);
    route_ = Route(configuration_, 0);
    written(0);
  }
  /// The log has written everything up to `number`.
  void written(std::uint64_t number, std::uint64_t space = kPlenty) {
    acceptor_->on_durable({.durable = number, .space = space}, now_, effects_);
  }
  /// Values that it asks for though nobody has said anything to it.
  std::size_t pulls_at_once() {
    EXPECT_LE(acceptor_->deadline(), now_);
    acceptor_->tick(now_, effects_);
    return sent(effects_, MessageType::kPull).size();
  }
  std::uint64_t last_kept() {
    return effects_.keeps().empty() ? 0 : effects_.keeps().back().number;
  }
  static RecoveredAcceptor::Accept accept(Instance instance, Ballot of, const Content& content) {
    const auto bytes = content.bytes.bytes();
    return {instance, of, content.value, {bytes.begin(), bytes.end()}};
  }
};

TEST_F(DurableAcceptorTest, PromiseIsToldOnlyOnceItIsDurable) {
  start_durable(3, 1);
  phase1a(ballot(5));
  EXPECT_EQ(effects_.size(), 0u);
  ASSERT_EQ(effects_.keeps().size(), 1u);
  EXPECT_EQ(effects_.keeps()[0].ballot, ballot(5));
  EXPECT_EQ(effects_.keeps()[0].instance, Instance{});
  phase1a(ballot(5));  // repeated: kept once, and still not told
  EXPECT_EQ(effects_.keeps().size(), 1u);
  EXPECT_EQ(effects_.size(), 0u);
  written(1);
  EXPECT_EQ(sent(effects_, MessageType::kPhase1B).size(), 1u);
}

TEST_F(DurableAcceptorTest, OvertakenPromiseIsNotTold) {
  start_durable(3, 1);
  phase1a(ballot(5));
  phase1a(ballot(6, 2));
  written(1);
  EXPECT_EQ(effects_.size(), 0u);
  written(2);
  const auto answers = sent(effects_, MessageType::kPhase1B);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(message_of<Phase1B>(*answers[0]).ballot, raw(ballot(6, 2)));
}

TEST_F(DurableAcceptorTest, WriteStartsWithThePhase2AAndTheVoteFollowsIt) {
  start_durable(3, 1);
  const Content content = frames_.content(1);
  propose(at(1), content);
  ASSERT_EQ(effects_.keeps().size(), 2u);  // the promise that the proposal implies, and the accept
  EXPECT_EQ(effects_.keeps()[1].instance, at(1));
  EXPECT_EQ(effects_.keeps()[1].value, content.value);
  EXPECT_TRUE(votes_sent(0).empty());
  written(1);
  EXPECT_TRUE(votes_sent(0).empty());
  written(2);
  EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 0b010}}));
}

TEST_F(DurableAcceptorTest, ValueNotWhollyThereIsNotKept) {
  start_durable(3, 1);
  fragment(at(1), frames_.content(1, 3'000), 0);
  ASSERT_EQ(effects_.keeps().size(), 1u);
  EXPECT_EQ(effects_.keeps()[0].instance, Instance{});
}

TEST_F(DurableAcceptorTest, VotesOfTheRingWaitForTheOwnWrite) {
  start_durable(5, 2);  // the middle of the ring {1, 2, 0}
  const Content content = frames_.content(1);
  propose(at(1), content);
  vote(at(1), content, just(1), 1);
  EXPECT_TRUE(votes_sent(0).empty());
  written(last_kept());
  EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 0b110}}));
}

TEST_F(DurableAcceptorTest, NeitherPulledNorRepeatedNorLateVotesPassTheWrite) {
  start_durable(3, 2);  // a spare
  const Content content = frames_.content(1);
  propose(at(1), content);
  propose(at(1), content);
  acceptor_->on_pull(frames_.pull(acceptor_id(0), PullKind::kVote, ballot(1), {{1ull, 0ull}}),
                     effects_);
  pass(kSecond);
  EXPECT_TRUE(votes_sent(0).empty());
  written(last_kept());
  pass(kSecond);
  EXPECT_EQ(votes_sent(0), (std::map<std::uint64_t, std::uint32_t>{{1, 0b100}}));
}

TEST_F(DurableAcceptorTest, AcceptThatWasReplacedBeforeItWasWrittenIsNotVotedFor) {
  start_durable(3, 1);
  propose(at(1), frames_.content(1));
  const std::uint64_t first = last_kept();
  route_ = Route(configuration_, 2);
  propose(at(1), frames_.content(2), ballot(2, 2));
  const std::uint64_t second = last_kept();
  written(first);
  EXPECT_TRUE(votes_sent(0).empty());
  EXPECT_TRUE(votes_sent(2).empty());
  written(second);
  acceptor_->flush(effects_);
  // Acceptor 2 coordinates: its ring is {0, 2}, and this one a spare.
  pass(kSecond);
  EXPECT_EQ(votes_sent(2), (std::map<std::uint64_t, std::uint32_t>{{1, 0b010}}));
}

TEST_F(DurableAcceptorTest, FullLogTakesNoProposalsButPromises) {
  start_durable(3, 1);
  written(0, 1'000);
  propose(at(1), frames_.content(1));
  EXPECT_EQ(count(AcceptorCounter::kDropLogFull), 1u);
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, kNoBallot);
  phase1a(ballot(3));
  EXPECT_EQ(effects_.keeps().back().ballot, ballot(3));
  written(last_kept());
  propose(at(1), frames_.content(1), ballot(3));
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, ballot(3));
}

TEST_F(DurableAcceptorTest, FullLogTellsNowAndThenWhoProposesThatItWasHeard) {
  start_durable(3, 1);
  written(0, 1'000);
  propose(at(1), frames_.content(1));
  EXPECT_TRUE(sent(effects_, MessageType::kReject).empty()) << "of a promise that may be forgotten";
  written(1, 1'000);
  propose(at(1), frames_.content(1));
  propose(at(2), frames_.content(2));
  auto answers = sent(effects_, MessageType::kReject);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0]->to, endpoint_of(acceptor_id(0)));
  EXPECT_EQ(message_of<Reject>(*answers[0]).promised, raw(ballot(1)));
  EXPECT_EQ(message_of<Reject>(*answers[0]).refused, raw(ballot(1)));
  effects_.clear();
  pass(10 * kMillisecond);
  propose(at(5'000), frames_.content(3));  // the others have long gone on without it
  EXPECT_EQ(sent(effects_, MessageType::kReject).size(), 1u);
  effects_.clear();
  written(1);
  pass(10 * kMillisecond);
  propose(at(1), frames_.content(1));
  fragment(at(2), frames_.content(2, 3'000), 0);
  EXPECT_TRUE(sent(effects_, MessageType::kReject).empty());
}

TEST_F(DurableAcceptorTest, NothingLeavesMemoryBeforeItIsDurable) {
  start_durable(3, 1, {}, 1'024);
  std::uint64_t i = 1;
  for (; i <= 1'022; ++i) {
    propose(at(i), frames_.content(i), ballot(1), {ballot(1), at(1), at(i)});
    effects_.clear();
  }
  EXPECT_EQ(count(AcceptorCounter::kDropLogBusy), 0u);
  for (; i <= 1'100; ++i) propose(at(i), frames_.content(i), ballot(1), {ballot(1), at(1), at(i)});
  EXPECT_GT(count(AcceptorCounter::kDropLogBusy), 0u);
  EXPECT_NE(acceptor_->accepted(at(1)).ballot, kNoBallot);
  written(1'023);
  while (acceptor_->awaits_log() && effects_.size() != 0) {
    effects_.clear();
    written(1'023);
  }
  for (i = 1'023; i <= 1'100; ++i) {
    propose(at(i), frames_.content(i), ballot(1), {ballot(1), at(1), at(i)});
    effects_.clear();
  }
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, kNoBallot);
  EXPECT_EQ(acceptor_->trimmed_below(), kFirstInstance);  // T22: it is in the log
  acceptor_->on_pull(frames_.pull(learner_id(0), PullKind::kValue, kNoBallot, {{1ull, ~0ull}}),
                     effects_);
  ASSERT_EQ(effects_.reads().size(), 1u);
  EXPECT_EQ(effects_.reads()[0].instance, at(1));
  EXPECT_TRUE(sent(effects_, MessageType::kTrimmed).empty());
}

TEST_F(DurableAcceptorTest, ValueReadFromTheLogIsSentAsChosen) {
  RecoveredAcceptor recovered;
  recovered.chosen_below = at(100);
  start_durable(3, 1, recovered);
  const Content content = frames_.content(7, 3'500);
  acceptor_->on_read(
      {{at(7), 0b101, endpoint_of(learner_id(0))}, ballot(1), content.value, content.bytes},
      effects_);
  const auto values = sent(effects_, MessageType::kValue);
  ASSERT_EQ(values.size(), 2u);
  EXPECT_EQ(message_of<ValueMessage>(*values[0]).chosen, 1);
  frames_.carry(acceptor_id(1), *values[0]);
}

TEST_F(DurableAcceptorTest, RestoredAcceptorSpeaksWithItsPromiseAndVotes) {
  const Content content = frames_.content(1);
  RecoveredAcceptor recovered;
  recovered.promised = ballot(5);
  recovered.chosen_below = at(10);
  recovered.accepted = {accept(at(10), ballot(4), content), accept(at(12), ballot(5), content)};
  start_durable(3, 1, recovered);
  propose(at(11), frames_.content(3), ballot(4));
  EXPECT_EQ(sent(effects_, MessageType::kReject).size(), 1u);
  phase1a(ballot(6));
  written(last_kept());
  const auto all = reported();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].instance, 10u);
  EXPECT_EQ(all[0].ballot, raw(ballot(4)));
  EXPECT_EQ(all[1].instance, 12u);
  EXPECT_EQ(from_wire(all[1].value), content.value);
  // What is below is decided, and must not be taken for empty.
  EXPECT_EQ(message_of<Phase1B>(*sent(effects_, MessageType::kPhase1B)[0]).chosen_below, 10u);
  EXPECT_EQ(acceptor_->accepted(at(12)).bytes->size(), 100u);
}

TEST_F(DurableAcceptorTest, RestoredAcceptorVotesForTheDecidedValuesThatItHolds) {
  const Content content = frames_.content(1);
  RecoveredAcceptor recovered;
  recovered.promised = ballot(5);
  recovered.chosen_below = at(10);
  for (const std::uint64_t i : {6, 8, 9}) {
    recovered.accepted.push_back(accept(at(i), ballot(5), content));
  }
  start_durable(3, 1, recovered);
  propose(at(6), content, ballot(6));  // what was between is not known
  EXPECT_EQ(count(AcceptorCounter::kDropBehindLog), 1u);
  propose(at(9), frames_.content(2), ballot(6));
  EXPECT_EQ(count(AcceptorCounter::kDropMismatch), 1u);
  EXPECT_EQ(count(AcceptorCounter::kPhase2AAccepted), 0u);
  propose(at(8), content, ballot(6));
  EXPECT_EQ(count(AcceptorCounter::kPhase2AAccepted), 1u);
  // A promise tells of them again, for whoever asks from there on.
  phase1a(ballot(7));
  written(last_kept());
  const auto all = reported();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].instance, 8u);
  EXPECT_EQ(all[0].ballot, raw(ballot(6)));
}

// T5b: whoever took part in a configuration does so again.
TEST_F(DurableAcceptorTest, RestoredAcceptorHoldsInMemoryWhatThereIsRoomFor) {
  RecoveredAcceptor recovered{.promised = ballot(1), .chosen_below = at(10), .accepted = {}};
  for (std::uint64_t i = 1; i <= 12; ++i)
    recovered.accepted.push_back(accept(at(i), ballot(1), frames_.content(i, 1'000)));
  retain_bytes_ = 4'000;
  start_durable(3, 1, recovered);
  EXPECT_EQ(acceptor_->accepted(at(5)).ballot, kNoBallot);  // it is read from the log
  for (std::uint64_t i = 6; i <= 12; ++i) EXPECT_EQ(acceptor_->accepted(at(i)).ballot, ballot(1));
  EXPECT_EQ(acceptor_->kept_until(at(8)), at(8 + 1'024 - Acceptor::kChangesKept));
  EXPECT_EQ(acceptor_->kept_until(at(7)), at(7));
}

// Else one that takes no part before it has it would never do so again.
TEST_F(DurableAcceptorTest, WhatFindsItsPlaceTakenByAnUnwrittenOneIsAskedForAfterThat) {
  start_durable(3, 1);
  for (std::uint64_t i = 2; i <= 1'024; ++i) {
    propose(at(i), frames_.content(i));
    written(last_kept());
    effects_.clear();
  }
  propose(at(1), frames_.content(1));
  acceptor_->on_decided({ballot(1), at(1), at(1'026)}, now_);
  pass(5 * kMillisecond);
  EXPECT_TRUE(sent(effects_, MessageType::kPull).empty());
  written(last_kept());
  effects_.clear();
  pass(5 * kMillisecond);
  EXPECT_FALSE(sent(effects_, MessageType::kPull).empty());
}

TEST_F(DurableAcceptorTest, PromiseSaysThatItsAcceptorWasSettled) {
  RecoveredAcceptor recovered;
  recovered.chosen_below = at(20);
  start_durable(3, 1, recovered, 1'024, at(12));
  phase1a(ballot(6));
  EXPECT_EQ(effects_.keeps().back().chosen_below, at(12));
  recovered.chosen_below = at(10);
  start_durable(3, 1, recovered, 1'024, at(12));
  phase1a(ballot(6));  // (which its node would not have passed on)
  EXPECT_EQ(effects_.keeps().back().chosen_below, kFirstInstance);
}

TEST_F(DurableAcceptorTest, TakesPartOnlyOnceWhatItLackedIsDurable) {
  RecoveredAcceptor recovered;
  recovered.chosen_below = at(11);
  start_durable(3, 1, recovered, 1'024, at(12));
  acceptor_->on_value(frames_.value(acceptor_id(2), at(11), ballot(4), frames_.content(1), true),
                      now_, effects_);
  EXPECT_EQ(acceptor_->chosen_below(), at(12));
  EXPECT_FALSE(acceptor_->settled());
  written(last_kept());
  EXPECT_TRUE(acceptor_->settled());
}

// Nobody may be left who leads, and says anything.
TEST_F(DurableAcceptorTest, RestoredAcceptorAsksUnaskedForWhatWasDecidedEarlier) {
  RecoveredAcceptor recovered;
  recovered.chosen_below = at(10);
  recovered.accepted = {accept(at(10), ballot(4), frames_.content(1))};
  start_durable(3, 1, recovered, 1'024, at(12));
  EXPECT_EQ(pulls_at_once(), 2u);
}

TEST_F(DurableAcceptorTest, AsksUnaskedForWhatWasDecidedBeforeAConfigurationItHeardOf) {
  RecoveredAcceptor recovered;
  recovered.chosen_below = at(10);
  start_durable(3, 1, recovered);
  Configuration newer = configuration_;
  newer.epoch = 2;
  newer.from = at(11);
  acceptor_->set_newer(&newer);
  EXPECT_EQ(pulls_at_once(), 1u);
}

// T5b: the log holds what it says is chosen.
TEST_F(DurableAcceptorTest, ConfigurationIsKeptWithWhatWasKnownWhenItsWriteWasAwaited) {
  RecoveredAcceptor recovered;
  recovered.chosen_below = at(10);
  start_durable(3, 1, recovered, 1'024, at(14));
  const auto pull = [&](std::uint64_t instance) {
    acceptor_->on_value(
        frames_.value(acceptor_id(2), at(instance), ballot(4), frames_.content(1), true), now_,
        effects_);
  };
  pull(10);
  acceptor_->mark(at(13));
  const std::uint64_t marked = last_kept();
  pull(11);
  pull(12);
  written(marked);
  ASSERT_TRUE(acceptor_->marked_durable());
  acceptor_->keep_configuration(pool_.allocate(), effects_);
  EXPECT_EQ(effects_.keeps().back().chosen_below, at(11));
  pull(13);
  const std::uint64_t last = last_kept();
  const Configuration before = configuration_;
  configuration_.epoch = 2;
  acceptor_->on_configuration(before, 1, now_);
  EXPECT_EQ(acceptor_->chosen_below(), at(14));
  written(last - 1);
  EXPECT_FALSE(acceptor_->settled());
  written(last);
  EXPECT_TRUE(acceptor_->settled());
}

TEST_F(DurableAcceptorTest, DamagedRangeIsReportedUnknownUntilAcceptedAgain) {
  RecoveredAcceptor recovered;
  recovered.promised = ballot(5);
  recovered.chosen_below = at(10);
  recovered.unknown = {at(8), at(20)};
  start_durable(3, 1, recovered);
  phase1a(ballot(6));
  written(last_kept());
  auto answers = sent(effects_, MessageType::kPhase1B);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(message_of<Phase1B>(*answers[0]).unknown_from, 10u);
  EXPECT_EQ(message_of<Phase1B>(*answers[0]).unknown_below, 20u);
  effects_.clear();
  // At the ballot promised it may accept: whatever it lost was at a lower one.
  propose(at(11), frames_.content(1), ballot(6));
  phase1a(ballot(7));
  written(last_kept());
  ASSERT_EQ(reported().size(), 1u);
  EXPECT_EQ(reported()[0].instance, 11u);
}

TEST_F(DurableAcceptorTest, LostChosenValuesAreAskedForAndKeptAgain) {
  RecoveredAcceptor recovered;
  recovered.promised = ballot(5);
  recovered.chosen_below = at(10 + kUndecidedMax);
  recovered.missing = {at(3), at(4)};
  start_durable(3, 1, recovered);
  pass(kMillisecond);
  ASSERT_EQ(sent(effects_, MessageType::kPull).size(), 2u);
  effects_.clear();
  const Content content = frames_.content(3, 3'000);
  for (std::uint32_t i = 0; i < Frames::fragments(content); ++i) {
    EXPECT_TRUE(effects_.keeps().empty());
    acceptor_->on_value(frames_.value(acceptor_id(2), at(3), ballot(2), content, true, {}, i), now_,
                        effects_);
  }
  ASSERT_EQ(effects_.keeps().size(), 1u);
  EXPECT_EQ(effects_.keeps()[0].instance, at(3));
  EXPECT_EQ(effects_.keeps()[0].value, content.value);
  EXPECT_EQ(count(AcceptorCounter::kValuesMended), 1u);
  // One that nobody knows chosen is not taken for the decided one.
  acceptor_->on_value(frames_.value(acceptor_id(2), at(4), ballot(2), frames_.content(4), false),
                      now_, effects_);
  EXPECT_EQ(effects_.keeps().size(), 1u);
}

// The others may hold them and not know that they were chosen: nobody would ever tell it.
TEST_F(DurableAcceptorTest, GoesOnFromBeforeWhatItLostLately) {
  RecoveredAcceptor recovered{.promised = ballot(5), .chosen_below = at(10), .accepted = {}};
  recovered.missing = {at(3), at(5)};
  for (std::uint64_t i = 6; i <= 10; ++i)
    recovered.accepted.push_back(accept(at(i), ballot(5), frames_.content(i)));
  start_durable(3, 1, recovered);
  EXPECT_EQ(acceptor_->chosen_below(), at(3));
  EXPECT_EQ(pulls_at_once(), 0u);  // nobody may have anything to say to it
  pass(kMillisecond);
  EXPECT_EQ(sent(effects_, MessageType::kPull).size(), 3u);
  effects_.clear();
  phase1a(ballot(6), at(3));
  written(last_kept());
  auto answers = sent(effects_, MessageType::kPhase1B);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(message_of<Phase1B>(*answers[0]).chosen_below, 3u);
  EXPECT_EQ(message_of<Phase1B>(*answers[0]).unknown_from, 3u);
  EXPECT_EQ(message_of<Phase1B>(*answers[0]).unknown_below, 6u);
  EXPECT_EQ(reported().size(), 5u);
  effects_.clear();
  for (std::uint64_t i = 3; i <= 5; ++i) propose(at(i), frames_.content(i), ballot(6));
  acceptor_->on_decided({ballot(6), at(3), at(6)}, now_);
  EXPECT_EQ(acceptor_->chosen_below(), at(10));
}

TEST_F(DurableAcceptorTest, VotesNotForTheDecidedValuesThatSettleIt) {
  RecoveredAcceptor recovered{.promised = ballot(5), .chosen_below = at(10), .accepted = {}};
  recovered.missing = {at(3), at(9)};
  start_durable(3, 1, recovered, 1'024, at(8));
  EXPECT_FALSE(acceptor_->settled());
  acceptor_->on_value(frames_.value(acceptor_id(2), at(9), ballot(5), frames_.content(9), true),
                      now_, effects_);
  written(last_kept());
  EXPECT_TRUE(votes_sent(0).empty());
  EXPECT_EQ(acceptor_->accepted(at(9)).ballot, ballot(5));
}

TEST_F(DurableAcceptorTest, VoteWaitsForAPromiseThatWasMadeAfterTheAccept) {
  RecoveredAcceptor recovered;
  recovered.chosen_below = at(11);
  start_durable(3, 1, recovered, 1'024, at(12));
  for (const std::uint64_t i : {12, 11}) {  // decided: kept before it takes part, without a promise
    acceptor_->on_value(frames_.value(acceptor_id(2), at(i), ballot(1), frames_.content(i), true),
                        now_, effects_);
  }
  written(last_kept());
  ASSERT_TRUE(acceptor_->settled());
  propose(at(12), frames_.content(12));
  EXPECT_EQ(effects_.keeps().back().instance, Instance{}) << "the promise";
  EXPECT_TRUE(votes_sent(0).empty());
  written(last_kept());
  propose(at(12), frames_.content(12));
  EXPECT_EQ(votes_sent(0).size(), 1u);
}

TEST_F(DurableAcceptorTest, ValueThatAReadFindsDamagedIsMended) {
  RecoveredAcceptor recovered;
  recovered.chosen_below = at(10);
  start_durable(3, 1, recovered);
  acceptor_->on_read({{at(3), 1, endpoint_of(learner_id(0))}, kNoBallot, {}, {}}, effects_);
  EXPECT_TRUE(sent(effects_, MessageType::kValue).empty());
  pass(kMillisecond);
  EXPECT_EQ(sent(effects_, MessageType::kPull).size(), 1u);
}

}  // namespace
}  // namespace annulus::consensus
