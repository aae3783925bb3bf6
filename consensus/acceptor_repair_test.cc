// What an acceptor does about losses: decisions, pulls and credits.
#include <gtest/gtest.h>

#include <set>

#include "tests/support/acceptor_fixture.h"

namespace annulus::consensus {
namespace {

using namespace support;

// --- Decisions

TEST_F(AcceptorTest, DecisionOfAnotherBallotChoosesNothing) {
  start(3, 1);
  propose(at(1), frames_.content(1), ballot(1));
  acceptor_->on_decided({ballot(2), at(1), at(2)}, now_);
  EXPECT_FALSE(acceptor_->accepted(at(1)).chosen);
  EXPECT_EQ(acceptor_->chosen_below(), at(1));
}

TEST_F(AcceptorTest, DecisionReachesWhatArrivesAfterIt) {
  start(3, 1);
  acceptor_->on_decided({ballot(1), at(1), at(3)}, now_);
  propose(at(2), frames_.content(2));
  EXPECT_TRUE(acceptor_->accepted(at(2)).chosen);
  EXPECT_EQ(acceptor_->chosen_below(), at(1));
  propose(at(1), frames_.content(1));
  EXPECT_EQ(acceptor_->chosen_below(), at(3));
}

TEST_F(AcceptorTest, OldDecisionDoesNotTakeBackANewerOne) {
  start(3, 1);
  acceptor_->on_decided({ballot(2), at(1), at(5)}, now_);
  acceptor_->on_decided({ballot(1), at(1), at(9)}, now_);
  acceptor_->on_decided({ballot(2), at(1), at(3)}, now_);
  EXPECT_EQ(acceptor_->decided(), (Decided{ballot(2), at(1), at(5)}));
}

// Above the promise, too: whoever sends it may have it from members of a configuration not known
// here yet, and then its ballot is theirs (T5b).
TEST_F(AcceptorTest, ChosenValueIsStoredButNeitherPromisedNorVotedFor) {
  for (const std::uint64_t promised : {9u, 2u}) {
    start(3, 1);
    phase1a(ballot(promised));
    effects_.clear();
    const Content content = frames_.content(1);
    acceptor_->on_value(frames_.value(acceptor_id(2), at(1), ballot(4), content, true), now_,
                        effects_);
    EXPECT_TRUE(acceptor_->accepted(at(1)).chosen);
    EXPECT_EQ(acceptor_->chosen_below(), at(2));
    EXPECT_EQ(acceptor_->promised(), ballot(promised));
    EXPECT_TRUE(votes_sent(0).empty());
  }
}

TEST_F(AcceptorTest, VotesThatTheRingBringsForAChosenValuePromiseNothingEither) {
  start(5, 2);  // the middle of the ring {1, 2, 0}
  phase1a(ballot(2));
  effects_.clear();
  const Content content = frames_.content(1);
  acceptor_->on_value(frames_.value(acceptor_id(3), at(1), ballot(4), content, true), now_,
                      effects_);
  vote(at(1), content, just(1), 1, ballot(4));
  EXPECT_TRUE(votes_sent(0).empty());
}

// Whoever is given it must be able to tell that nothing accepted at a lower ballot matters.
TEST_F(AcceptorTest, ChosenValueIsNotHeldAtALowerBallotAgain) {
  start(5, 2);
  phase1a(ballot(2));
  const Content content = frames_.content(1);
  acceptor_->on_value(frames_.value(acceptor_id(3), at(1), ballot(4), content, true), now_,
                      effects_);
  propose(at(1), content, ballot(2));  // repeated by one that was deposed
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, ballot(4));
  EXPECT_TRUE(acceptor_->accept(at(1), ballot(3), content.value, content.bytes,
                                Route(configuration_, 2), now_, effects_));
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, ballot(4));
}

// --- Repair

TEST_F(AcceptorTest, MissingFragmentIsPulledByItselfFromTheCoordinator) {
  start(3, 1);
  const Content content = frames_.content(1, 10'000);
  for (std::uint32_t i = 0; i < Frames::fragments(content); ++i) {
    if (i != 3) fragment(at(1), content, i);
  }
  pass(60 * kMicrosecond);
  const auto pulls = sent(effects_, MessageType::kPull);
  ASSERT_EQ(pulls.size(), 1u);
  EXPECT_EQ(pulls[0]->to, endpoint_of(acceptor_id(0)));
  const auto& m = message_of<Pull>(*pulls[0]);
  EXPECT_EQ(entries<PullEntry>(m, m.count)[0].fragments, std::uint64_t{1} << 3);
  acceptor_->on_value(frames_.value(acceptor_id(0), at(1), ballot(1), content, false, {}, 3), now_,
                      effects_);
  EXPECT_EQ(acceptor_->accepted(at(1)).ballot, ballot(1));
}

TEST_F(AcceptorTest, GapIsPulledWithoutWaitingForTheDecision) {
  start(3, 1);
  propose(at(1), frames_.content(1));
  propose(at(3), frames_.content(3));
  effects_.clear();
  pass(60 * kMicrosecond);
  pass(60 * kMicrosecond);
  const auto pulls = sent(effects_, MessageType::kPull);
  ASSERT_EQ(pulls.size(), 1u);
  const auto& m = message_of<Pull>(*pulls[0]);
  EXPECT_EQ(entries<PullEntry>(m, m.count)[0].instance, 2u);
}

TEST_F(AcceptorTest, EveryLackingInstanceAsksEveryAcceptorInTurn) {
  // As many instances as others to ask: a shared turn would ask the same one for ever.
  for (const std::uint32_t lacking : {1u, 2u, 3u, 4u}) {
    start(3, 1);
    acceptor_->on_decided({ballot(1), at(1), at(1) + lacking}, now_);
    std::map<std::uint64_t, std::set<std::uint32_t>> asked;
    for (int round = 0; round < 12; ++round) {
      pass(100 * kMillisecond);
      for (Outgoing* out : sent(effects_, MessageType::kPull)) {
        const auto& m = message_of<Pull>(*out);
        for (const PullEntry& entry : entries<PullEntry>(m, m.count)) {
          asked[entry.instance].insert(out->to.address);
        }
      }
      effects_.clear();
    }
    EXPECT_EQ(asked.size(), lacking);
    for (const auto& [instance, acceptors] : asked) EXPECT_EQ(acceptors.size(), 2u) << lacking;
  }
}

TEST_F(AcceptorTest, AsksForNoMoreThanBuffersHoldAndForTheRestAsItComes) {
  start(3, 1);
  constexpr std::uint64_t kLast = 101;
  constexpr std::uint32_t kBytes = 20'000;
  const std::uint32_t fragments = Frames::fragments(frames_.content(1, kBytes));
  propose(at(kLast), frames_.content(kLast, kBytes));
  pass(60 * kMicrosecond);
  std::set<std::uint64_t> asked;
  for (int answers = 0; answers < 100 && asked.size() < kLast - 1; ++answers) {
    pass(60 * kMicrosecond);
    std::vector<std::uint64_t> now;
    for (Outgoing* out : sent(effects_, MessageType::kPull)) {
      const auto& m = message_of<Pull>(*out);
      for (const auto& entry : entries<PullEntry>(m, m.count)) now.push_back(entry.instance);
    }
    effects_.clear();
    EXPECT_LE(now.size() * fragments, kAskedMax);
    for (const std::uint64_t instance : now) {
      EXPECT_TRUE(asked.insert(instance).second) << instance;
      const Content content = frames_.content(instance, kBytes);
      for (std::uint32_t i = 0; i < fragments; ++i) {
        acceptor_->on_value(
            frames_.value(acceptor_id(0), at(instance), ballot(1), content, false, {}, i), now_,
            effects_);
      }
      EXPECT_EQ(acceptor_->accepted(at(instance)).ballot, ballot(1));
      effects_.clear();
    }
  }
  EXPECT_EQ(asked.size(), kLast - 1);
}

TEST_F(AcceptorTest, PullIsAnsweredWithTheFragmentsWantedAndTheDecisionKnown) {
  start(3, 1);
  const Content content = frames_.content(1, 10'000);
  propose(at(1), content);
  acceptor_->on_decided({ballot(1), at(1), at(2)}, now_);
  effects_.clear();
  acceptor_->on_pull(frames_.pull(learner_id(0), PullKind::kValue, kNoBallot, {{1ull, 0b101ull}}),
                     effects_);
  const auto values = sent(effects_, MessageType::kValue);
  ASSERT_EQ(values.size(), 2u);
  EXPECT_EQ(message_of<ValueMessage>(*values[1]).fragment.index, 2u);
  EXPECT_EQ(message_of<ValueMessage>(*values[1]).chosen, 1u);
  EXPECT_EQ(from_wire(message_of<ValueMessage>(*values[1]).decided),
            (Decided{ballot(1), at(1), at(2)}));
  for (Outgoing* out : values) frames_.carry(acceptor_id(1), *out);
}

TEST_F(AcceptorTest, PullForEverythingStaysWithinTheEffects) {
  start(3, 1);
  std::vector<PullEntry> wanted;
  for (std::uint64_t i = 1; i <= kPullEntriesMax; ++i) {
    propose(at(i), frames_.content(i, 60'000));
    votes_sent(0);
    effects_.clear();
    wanted.push_back({i, ~0ull});
  }
  acceptor_->on_pull(frames_.pull(learner_id(0), PullKind::kValue, kNoBallot, wanted), effects_);
  EXPECT_LE(effects_.size(), Effects::kCapacity - 1);
  EXPECT_GE(sent(effects_, MessageType::kValue).size(), 100u);
}

TEST_F(AcceptorTest, AcceptorThatMissedMoreThanTheLogCatchesUp) {
  start(3, 1);
  propose(at(1), frames_.content(1));
  // Others decided 3,000 instances meanwhile, and keep only the last 1,024.
  const Decided decided{ballot(1), at(1), at(3'001)};
  acceptor_->on_decided(decided, now_);
  for (int round = 0; round < 2'000 && acceptor_->chosen_below() < at(3'001); ++round) {
    pass(kMillisecond);
    std::vector<Outgoing*> pulls = sent(effects_, MessageType::kPull);
    std::vector<std::uint64_t> wanted;
    for (Outgoing* out : pulls) {
      const auto& m = message_of<Pull>(*out);
      for (const PullEntry& entry : entries<PullEntry>(m, m.count))
        wanted.push_back(entry.instance);
    }
    effects_.clear();
    for (const std::uint64_t instance : wanted) {
      if (instance <= 3'000 - 1'024) {
        acceptor_->on_trimmed(Trimmed{3'001ull - 1'024}, now_);
      } else {
        acceptor_->on_value(frames_.value(acceptor_id(0), at(instance), ballot(1),
                                          frames_.content(instance), true, decided),
                            now_, effects_);
      }
    }
    effects_.clear();
  }
  EXPECT_EQ(acceptor_->chosen_below(), at(3'001));
  EXPECT_EQ(acceptor_->trimmed_below(), at(3'001 - 1'024));
}

TEST_F(AcceptorTest, TrimmedLetsWhatWasDecidedAboveItThrough) {
  start(3, 1);
  propose(at(5), frames_.content(5));
  acceptor_->on_decided({ballot(1), at(1), at(6)}, now_);
  EXPECT_EQ(acceptor_->chosen_below(), at(1));
  acceptor_->on_trimmed(Trimmed{5ull}, now_);
  EXPECT_EQ(acceptor_->chosen_below(), at(6));
}

TEST_F(AcceptorTest, TrimmedGivesBackTheMemoryOfWhatIsBelow) {
  start(3, 1);
  std::uint32_t free = 0;
  for (std::uint64_t i = 1; i <= 4; ++i) propose(at(i), frames_.content(i, 3'000));
  std::vector<Slice> taken;
  while (Slice next = pool_.allocate()) taken.push_back(std::move(next));
  acceptor_->on_decided({ballot(1), at(1), at(3)}, now_);
  acceptor_->on_trimmed(Trimmed{4ull}, now_);
  while (Slice next = pool_.allocate()) {
    taken.push_back(std::move(next));
    ++free;
  }
  EXPECT_EQ(free, 3u);
}

// T5b: whoever sends it may have accepted it among earlier members.
TEST_F(AcceptorTest, PulledValueIsTakenOnlyAtABallotHeardOfAmongThePresentMembers) {
  start(3, 1);
  propose(at(1), frames_.content(1));
  acceptor_->on_decided({ballot(1), at(1), at(2)}, now_);
  const Configuration before = configuration_;
  configuration_.from = at(2);
  acceptor_->on_configuration(before, 1, now_);
  ASSERT_TRUE(acceptor_->settled());
  const auto pull = [&] {
    acceptor_->on_value(frames_.value(acceptor_id(2), at(3), ballot(1), frames_.content(3), false),
                        now_, effects_);
    return acceptor_->accepted(at(3)).ballot;
  };
  EXPECT_EQ(pull(), kNoBallot);
  propose(at(2), frames_.content(2));
  EXPECT_EQ(pull(), ballot(1));
}

// T5b: part of what the present members decided brings a route for what it accepted before them.
TEST_F(AcceptorTest, SpareVotesForNothingThatItAcceptedAmongEarlierMembers) {
  for (const bool among_these : {false, true}) {
    start(3, 2);
    propose(at(1), frames_.content(1));
    propose(at(2), frames_.content(2));
    acceptor_->on_decided({ballot(1), at(1), at(2)}, now_);
    const Configuration before = configuration_;
    configuration_.from = at(2);
    if (!among_these) acceptor_->on_configuration(before, 2, now_);
    effects_.clear();
    acceptor_->on_value(
        frames_.value(acceptor_id(1), at(2), ballot(2), frames_.content(9, 5'000), true), now_,
        effects_);
    effects_.clear();
    now_ += 100 * kMillisecond;
    acceptor_->tick(now_, effects_);
    EXPECT_EQ(votes_sent(0).empty(), !among_these);
    effects_.clear();
  }
}

// --- Credits

TEST_F(AcceptorTest, CreditRidesOnVotesAndGoesAloneWhenThereIsNone) {
  start(3, 1);
  propose(at(1), frames_.content(1));
  acceptor_->on_learner_status(0, kLearnerEpoch, at(7), now_);
  votes_sent(0);
  ASSERT_EQ(sent(effects_, MessageType::kPhase2B).size(), 1u);
  EXPECT_EQ(message_of<Phase2B>(effects_.frames()[0]).credits, 1u);
  effects_.clear();
  acceptor_->on_learner_status(0, kLearnerEpoch, at(8), now_);
  votes_sent(0);
  ASSERT_EQ(sent(effects_, MessageType::kPhase2B).size(), 1u);
  EXPECT_EQ(message_of<Phase2B>(effects_.frames()[0]).count, 0u);
  effects_.clear();
  votes_sent(0);
  EXPECT_EQ(effects_.size(), 0u);
}

TEST_F(AcceptorTest, CreditRepeatedByALearnerIsPassedOnAgain) {
  start(3, 1);
  phase1a(ballot(1));
  acceptor_->on_learner_status(0, kLearnerEpoch, at(7), now_);
  votes_sent(0);
  effects_.clear();  // lost
  acceptor_->on_learner_status(0, kLearnerEpoch, at(7), now_);
  votes_sent(0);
  EXPECT_EQ(sent(effects_, MessageType::kPhase2B).size(), 1u);
  effects_.clear();
  acceptor_->on_learner_status(0, kLearnerEpoch, at(3), now_);  // an old one is not
  votes_sent(0);
  EXPECT_EQ(effects_.size(), 0u);
}

TEST_F(AcceptorTest, CreditOfALearnerThatStartsAgainGoesBack) {
  start(3, 1);
  phase1a(ballot(1));
  acceptor_->on_learner_status(0, kLearnerEpoch, at(7), now_);
  votes_sent(0);
  effects_.clear();
  acceptor_->on_learner_status(0, kLearnerEpoch + 1, at(1), now_);
  votes_sent(0);
  ASSERT_EQ(sent(effects_, MessageType::kPhase2B).size(), 1u);
  const auto* credit =
      reinterpret_cast<const LearnerCredit*>(&message_of<Phase2B>(effects_.frames()[0]) + 1);
  EXPECT_EQ(credit->epoch, kLearnerEpoch + 1);
  EXPECT_EQ(credit->delivered_below, 1u);
}

TEST_F(AcceptorTest, SteadyStateAllocatesNoBuffersForSmallValues) {
  start(3, 1);
  for (std::uint64_t i = 1; i <= 3'000; ++i) {
    propose(at(i), frames_.content(i), ballot(1), {ballot(1), at(1), at(i)});
    votes_sent(0);
    effects_.clear();
  }
  std::vector<Slice> all;
  for (std::uint32_t i = 0; i < pool_.count(); ++i) all.push_back(pool_.allocate());
  EXPECT_TRUE(all.back());
}

// It may never have heard of a learner that fell silent, and have nothing to propose before it has.
TEST_F(AcceptorTest, NewCoordinatorIsToldOfEveryLearner) {
  start(3, 1);
  phase1a(ballot(1));
  acceptor_->on_learner_status(1, kLearnerEpoch, at(7), now_);
  acceptor_->flush(effects_);
  effects_.clear();
  acceptor_->flush(effects_);
  EXPECT_TRUE(sent(effects_, MessageType::kPhase2B).empty());
  phase1a(ballot(2, 2));
  effects_.clear();
  acceptor_->flush(effects_);
  const auto told = sent(effects_, MessageType::kPhase2B);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0]->to, endpoint_of(acceptor_id(2)));
  EXPECT_EQ(message_of<Phase2B>(*told[0]).credits, 1u);
}

}  // namespace
}  // namespace annulus::consensus
