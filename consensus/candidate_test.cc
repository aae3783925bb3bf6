// Replicas come and go: a candidate asks, the members list it; one that they do not list is silent.
#include "consensus/candidate.h"

#include <gtest/gtest.h>

#include "consensus/membership.h"
#include "tests/support/ring_fixture.h"

namespace annulus::consensus {
namespace {

using support::LocalRing;
using support::RingTest;
using support::up_to;

class CandidateTest : public RingTest {
 protected:
  static constexpr std::uint32_t kPlace = LocalRing::kProposer;  // its address

  void begin() {
    start(Dissemination::kMulticast);
    run(5);
  }
  std::unique_ptr<ReplicaCandidate> candidate(std::uint64_t incarnation) {
    PortIdentity identity = LocalRing::identity(kPlace, incarnation);
    return std::make_unique<ReplicaCandidate>(identity, ring_->configuration,
                                              std::vector<Endpoint>{}, LocalRing::endpoint(kPlace),
                                              incarnation, ring_->fabric.transport(kPlace));
  }
  /// As run(), but what arrives at the address is the candidate's.
  void run_with(ReplicaCandidate& candidate, int turns) {
    for (int i = 0; i < turns; ++i) {
      now_ += kMillisecond;
      for (auto& acceptor : ring_->acceptors) acceptor->poll(now_, 64);
      for (auto& learner : ring_->learners) learner->poll(now_, 64);
      candidate.poll(now_);
    }
  }
  void ask(ChangeVerb verb, NodeId member, std::uint64_t operation) {
    ASSERT_TRUE(
        ring_->acceptors[0]->ask_change({.operation = operation,
                                         .verb = verb,
                                         .kind = JoinKind::kReplica,
                                         .member = member,
                                         .comes = {kNoNode, LocalRing::endpoint(kPlace), 0}}));
  }
};

TEST_F(CandidateTest, IsAdmittedWhenTheMembersListItAndNotBefore) {
  begin();
  const auto asks = candidate(41);
  run_with(*asks, 50);
  EXPECT_FALSE(asks->admitted());
  ask(ChangeVerb::kAdd, kNoNode, 7);
  run_with(*asks, 100);
  ASSERT_EQ(asks->admitted(), 2u);
  EXPECT_EQ(asks->configuration().learners[2].id, NodeId{kFirstAssignedId + 2});
}

TEST_F(CandidateTest, IsNotAdmittedWhileItDoesNotAsk) {
  begin();
  auto asks = candidate(41);
  run_with(*asks, 50);
  asks.reset();
  run(1'000, kMillisecond);
  ask(ChangeVerb::kAdd, kNoNode, 7);
  run(100, kMillisecond);
  EXPECT_EQ(ring_->acceptors[0]->epoch(), 1u);
  asks = candidate(42);
  run_with(*asks, 100);
  EXPECT_EQ(asks->admitted(), 2u);
}

TEST_F(CandidateTest, IsNotAdmittedAgainForWhatItAskedBeforeItWasRemoved) {
  begin();
  auto asks = candidate(41);
  ask(ChangeVerb::kAdd, kNoNode, 7);
  run_with(*asks, 100);
  ASSERT_EQ(asks->admitted(), 2u);
  asks.reset();
  ask(ChangeVerb::kRemove, NodeId{kFirstAssignedId + 2}, 8);
  run(50, kMillisecond);
  ASSERT_EQ(ring_->acceptors[0]->epoch(), 3u);
  ask(ChangeVerb::kAdd, kNoNode, 9);
  run(50, kMillisecond);
  EXPECT_EQ(ring_->acceptors[0]->epoch(), 3u);
}

TEST_F(CandidateTest, ComesBackAsWhoTheMembersListAtItsAddress) {
  begin();
  const auto first = candidate(41);
  ask(ChangeVerb::kAdd, kNoNode, 7);
  run_with(*first, 100);
  const auto again = candidate(42);
  run_with(*again, 20);
  ASSERT_EQ(again->admitted(), 2u);
  EXPECT_EQ(ring_->acceptors[0]->epoch(), 2u);  // nothing had to be decided
}

TEST_F(CandidateTest, TakesThePlaceOfWhoItReplaces) {
  begin();
  const auto first = candidate(41);
  ask(ChangeVerb::kReplace, NodeId{LocalRing::kAcceptors + 1}, 7);
  run_with(*first, 1'000);  // until the other one has told its coordinator that it has the state
  ASSERT_EQ(first->admitted(), 0u);  // in the place of who went
  EXPECT_EQ(first->configuration().learners.size(), 2u);
}

TEST_F(CandidateTest, ARemovedReplicaDeliversNothingMore) {
  begin();
  submit(1, 100);
  run(100);
  ask(ChangeVerb::kRemove, NodeId{LocalRing::kAcceptors + 2}, 7);
  run(3'000);
  EXPECT_TRUE(ring_->learners[1]->removed());
  EXPECT_FALSE(ring_->learners[0]->removed());
  for (std::uint64_t s = 2; s <= 9; ++s) submit(s, 100);
  run(200);
  EXPECT_EQ(delivered_[0], up_to(9));
  EXPECT_EQ(delivered_[1], up_to(1));
}

}  // namespace
}  // namespace annulus::consensus
