// Whole rings over the in-process switch, polled by hand.
#include "consensus/node.h"

#include <gtest/gtest.h>

#include "tests/support/ring_fixture.h"

namespace annulus::consensus {
namespace {

using support::LocalRing;
using support::RingTest;
using support::up_to;

TEST_F(RingTest, EveryLearnerDeliversEveryValueInOrder) {
  for (const auto dissemination :
       {Dissemination::kMulticast, Dissemination::kFanout, Dissemination::kRing}) {
    SCOPED_TRACE(static_cast<int>(dissemination));
    start(dissemination);
    run(5);
    for (std::uint64_t s = 1; s <= 200; ++s) {
      submit(s, s % 3 == 0 ? 30'000 : 100);
      run(1);
    }
    run(200);
    EXPECT_EQ(delivered_[0], up_to(200));
    EXPECT_EQ(delivered_[1], up_to(200));
  }
}

TEST_F(RingTest, ValuesOfOneProposerKeepTheirOrderWhenSubmitsAreReordered) {
  start(Dissemination::kMulticast);
  run(5);
  for (const std::uint64_t s : {2, 1, 4, 3, 5}) submit(s, 100);
  run(100);
  EXPECT_EQ(delivered_[0], up_to(5));
}

TEST_F(RingTest, SpareVotesWhenTheRingIsLate) {
  start(Dissemination::kMulticast);
  run(5);
  stopped_[1] = true;  // the ring is {2, 1}: its first member is silent
  for (std::uint64_t s = 1; s <= 20; ++s) submit(s, 100);
  run(2'000);
  EXPECT_EQ(delivered_[0], up_to(20));
  EXPECT_EQ(delivered_[1], up_to(20));
}

TEST_F(RingTest, NewCoordinatorProposesAgainWhatWasAccepted) {
  start(Dissemination::kMulticast);
  run(5);
  for (std::uint64_t s = 1; s <= 10; ++s) submit(s, 30'000);
  run(1);
  ring_->acceptors[2]->start_election();
  stopped_[0] = true;
  run(3'000);
  for (std::uint64_t s = 1; s <= 20; ++s) submit(s, 100, 2);
  run(3'000);
  // What was ordered before may be ordered again; sessions execute it once.
  ASSERT_GE(delivered_[0].size(), 10u);
  EXPECT_EQ(delivered_[0], delivered_[1]);
  EXPECT_EQ(delivered_[0].back(), 20u);
  EXPECT_TRUE(ring_->acceptors[2]->coordinator().active());
}

TEST_F(RingTest, CoordinatorStepsDownWhenItsAcceptorTakesAPulledValueOfAHigherBallot) {
  start(Dissemination::kMulticast);
  run(5);
  ASSERT_TRUE(ring_->acceptors[0]->coordinator().active());
  stopped_[1] = stopped_[2] = true;
  Slice bytes = pool_.allocate();
  bytes.truncate(100);
  const Value value{
      {kNoNode, 9, 1}, dataplane::hash_bytes(bytes.bytes()), kAllPartitions, bytes.size()};
  ValueMessage pulled{};
  pulled.instance = raw(kFirstInstance);
  pulled.ballot = raw(make_ballot(5, LocalRing::identity(1).node));
  pulled.value = to_wire(value);
  pulled.fragment = to_wire(cut(bytes.size(), ring_->fragment, 0));
  pulled.decided = to_wire(Decided{});
  // It knows by a vote that the ballot is of these members.
  Effects effects;
  Outgoing& votes = effects.send_now(LocalRing::endpoint(0), MessageType::kPhase2B,
                                     sizeof(Phase2B) + sizeof(Phase2BEntry));
  auto& vote = *reinterpret_cast<Phase2B*>(votes.message());
  vote = {pulled.ballot, std::uint16_t{1}, std::uint16_t{0}};
  *reinterpret_cast<Phase2BEntry*>(&vote + 1) = {pulled.instance, pulled.value.id,
                                                 pulled.value.content_hash, 0b10u};
  effects.send_now(LocalRing::endpoint(0), MessageType::kValue, pulled).payload = bytes;
  Port port(ring_->fabric.transport(1), LocalRing::identity(1, 9), ring_->configuration, 65'536);
  port.send(now_, effects);
  run(1);
  EXPECT_FALSE(ring_->acceptors[0]->coordinator().active());
}

}  // namespace
}  // namespace annulus::consensus
