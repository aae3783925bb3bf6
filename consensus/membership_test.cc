// Changes of members: what is allowed, how configurations are written, and whole rings that change.
#include "consensus/membership.h"

#include <gtest/gtest.h>

#include "tests/support/ring_fixture.h"

namespace annulus::consensus {
namespace {

using support::LocalRing;
using support::RingTest;
using support::up_to;

Configuration three() {
  Configuration configuration;
  for (std::uint32_t i = 1; i <= 3; ++i) {
    configuration.acceptors.push_back({NodeId{i}, {0x0a000000 + i, 4'000}});
  }
  configuration.learners.push_back({NodeId{11}, {0x0a000011, 4'000}, PartitionMask{1}});
  configuration.learners.push_back({NodeId{12}, {0x0a000012, 4'000}, PartitionMask{3}});
  return configuration;
}

Change replacement(std::uint32_t member, std::uint64_t operation = 7) {
  return {.operation = operation,
          .verb = ChangeVerb::kReplace,
          .kind = JoinKind::kAcceptor,
          .member = NodeId{member},
          .comes = {kNoNode, {0x0a000000 + member, 4'000}, 99}};
}

TEST(Membership, WrittenAndReadBackIsTheSame) {
  const Configuration before = changed(three(), replacement(2), Instance{40}, Instance{5});
  std::array<std::byte, kConfigurationBytesMax> bytes;
  const std::size_t size = encode(before, bytes);
  ASSERT_TRUE(valid_configuration(std::span(bytes).first(size)));
  const Configuration after = decode(std::span(bytes).first(size), three());
  EXPECT_EQ(after.epoch, 2u);
  EXPECT_EQ(after.from, Instance{41});
  EXPECT_EQ(after.base, Instance{5});
  EXPECT_EQ(after.acceptors, before.acceptors);
  EXPECT_EQ(after.learners, before.learners);
  EXPECT_EQ(after.operations, before.operations);
}

TEST(Membership, DamagedConfigurationIsRefused) {
  std::array<std::byte, kConfigurationBytesMax> bytes;
  const std::size_t size = encode(three(), bytes);
  const auto refused = [&](std::size_t at, int value, std::size_t length) {
    auto copy = bytes;
    copy[at] = std::byte(value);
    return !valid_configuration(std::span(copy).first(length));
  };
  EXPECT_FALSE(refused(0, 1, size));
  EXPECT_TRUE(refused(0, 1, size - 1));
  EXPECT_TRUE(refused(0, 0, size));                               // epoch 0
  EXPECT_TRUE(refused(4, 0, size));                               // no acceptor
  EXPECT_TRUE(refused(4, 16, size));                              // too many
  EXPECT_TRUE(refused(sizeof(WireConfiguration), 2, size));       // an id twice
  EXPECT_TRUE(refused(sizeof(WireConfiguration), 0, size));       // an acceptor without one
  EXPECT_TRUE(refused(sizeof(WireConfiguration) + 10, 1, size));  // reserved
  for (std::size_t length = 0; length < size; ++length) {
    EXPECT_FALSE(valid_configuration(std::span(bytes).first(length)));
  }
}

TEST(Membership, EveryChangeGivesANewIdentityAndEpoch) {
  Configuration now = three();
  std::vector<NodeId> ids;
  for (std::uint64_t i = 1; i <= 12; ++i) {
    const NodeId goes = now.acceptors[i % 3].id;
    Change change = replacement(1, i);
    change.member = goes;
    change.comes.endpoint = now.acceptors[i % 3].endpoint;
    ASSERT_EQ(judge(now, change), ChangeVerdict::kAllowed);
    now = changed(now, change, Instance{10 * i}, kFirstInstance);
    ids.push_back(now.acceptors[i % 3].id);
    EXPECT_EQ(now.epoch, 1 + i);
    EXPECT_FALSE(now.acceptor_index(goes));
  }
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
}

TEST(Membership, OperationIsDoneOnce) {
  const Change change = replacement(2);
  const Configuration after = changed(three(), change, Instance{4}, kFirstInstance);
  EXPECT_EQ(judge(after, change), ChangeVerdict::kDone);
}

TEST(Membership, WhatIsNotAllowedIsRefusedByName) {
  Configuration now = three();
  EXPECT_EQ(judge(now, replacement(9)), ChangeVerdict::kNoSuchMember);
  Change add = replacement(2);
  add.verb = ChangeVerb::kAdd;
  EXPECT_EQ(judge(now, add), ChangeVerdict::kAlreadyMember);
  add.comes.endpoint.port = 1;
  EXPECT_EQ(judge(now, add), ChangeVerdict::kAllowed);
  Change remove{.operation = 8,
                .verb = ChangeVerb::kRemove,
                .kind = JoinKind::kReplica,
                .member = NodeId{11},
                .comes = {}};
  EXPECT_EQ(judge(now, remove), ChangeVerdict::kAllowed);
  now = changed(now, remove, Instance{3}, kFirstInstance);
  EXPECT_EQ(now.learners[0].id, kNoNode);
  EXPECT_EQ(now.learner_index(NodeId{12}), 1u);  // keeps its place
  remove.member = NodeId{12};
  remove.operation = 9;
  EXPECT_EQ(judge(now, remove), ChangeVerdict::kTooFew);
  Configuration one = now;
  one.acceptors.resize(1);
  EXPECT_EQ(judge(one, replacement(1)), ChangeVerdict::kTooFew);  // the new one had nobody to ask
  while (now.acceptors.size() < kAcceptorsMax) {
    now.acceptors.push_back({NodeId{100 + static_cast<std::uint32_t>(now.acceptors.size())}, {}});
  }
  EXPECT_EQ(judge(now, add), ChangeVerdict::kTooMany);
}

TEST(Membership, BoardShowsWhatWasPublishedLast) {
  ConfigurationBoard board;
  board.publish(three());
  board.publish(changed(three(), replacement(3), Instance{4}, kFirstInstance));
  const std::vector<std::byte> bytes = board.read();
  ASSERT_TRUE(valid_configuration(bytes));
  EXPECT_EQ(decode(bytes, three()).epoch, 2u);
}

class ChangingRing : public RingTest {
 protected:
  void begin() {
    start(Dissemination::kMulticast);
    run(5);
    for (std::uint64_t s = 1; s <= 10; ++s) submit(s, 100);
    run(20);
    ASSERT_EQ(delivered_[0], up_to(10));
  }
  void restart_without_memory(std::uint32_t i, std::uint64_t incarnation) {
    ring_->acceptors[i] = ring_->make_acceptor(i, {.incarnation = incarnation}, incarnation);
    stopped_[i] = false;
  }
  Change removal(std::uint32_t i) const {
    return {.operation = 3,
            .verb = ChangeVerb::kRemove,
            .kind = JoinKind::kAcceptor,
            .member = ring_->configuration.acceptors[i].id,
            .comes = {}};
  }
  const Configuration& members(std::uint32_t i) {
    shown_ = decode(ring_->acceptors[i]->board().read(), ring_->configuration);
    return shown_;
  }
  Configuration shown_;
};

TEST_F(ChangingRing, AcceptorWithoutMemoryIsAdmittedUnderAnotherIdentity) {
  begin();
  restart_without_memory(2, 1'234);
  EXPECT_EQ(ring_->acceptors[2]->standing(), Standing::kJoining);
  run(200);
  EXPECT_EQ(ring_->acceptors[2]->standing(), Standing::kMember);
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(members(i).epoch, 2u) << i;
    EXPECT_EQ(members(i).acceptors[2].id, NodeId{kFirstAssignedId + 2});
    EXPECT_TRUE(ring_->acceptors[i]->acceptor().settled()) << i;
  }
  EXPECT_EQ(ring_->acceptors[0]->standing(), Standing::kMember);
  restart_without_memory(0, 1'235);
  run(3'000);
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(ring_->acceptors[i]->standing(), Standing::kMember) << i;
  }
}

TEST_F(ChangingRing, ClusterIsAtFullStrengthOnceItIsAdmitted) {
  begin();
  restart_without_memory(2, 1'234);
  run(200);
  stopped_[1] = true;
  for (std::uint64_t s = 11; s <= 20; ++s) submit(s, 100);
  run(2'000);
  EXPECT_EQ(delivered_[0], up_to(20));
  EXPECT_EQ(delivered_[1], up_to(20));
}

TEST_F(ChangingRing, NewcomerHoldsWhatTheOthersRetain) {
  begin();
  restart_without_memory(1, 55);
  run(300);
  const Acceptor& newcomer = ring_->acceptors[1]->acceptor();
  ASSERT_TRUE(newcomer.settled());
  for (Instance i = kFirstInstance; i < newcomer.chosen_below(); ++i) {
    EXPECT_TRUE(newcomer.accepted(i).chosen) << raw(i);
  }
}

TEST_F(ChangingRing, CoordinatorWithoutMemoryIsReplacedByTheNextOne) {
  begin();
  stopped_[0] = true;
  run(3'000);
  restart_without_memory(0, 77);
  run(3'000);
  EXPECT_EQ(ring_->acceptors[0]->standing(), Standing::kMember);
  EXPECT_EQ(members(0).epoch, 2u);
  const std::uint32_t leads = ring_->acceptors[1]->coordinator().active() ? 1 : 2;
  for (std::uint64_t s = 1; s <= 20; ++s) submit(s, 100, leads);
  run(2'000);
  EXPECT_EQ(delivered_[0].size(), delivered_[1].size());
  EXPECT_EQ(delivered_[0].back(), 20u);
}

// Else the few who know what was decided before it could be gone, and nobody be left who may vote.
TEST_F(ChangingRing, MereNewsTakesNobodyOutOfItsConfiguration) {
  begin();
  const Configuration news =
      changed(ring_->configuration, replacement(3), Instance{500}, kFirstInstance);
  Effects effects;
  for (const Member& each : ring_->configuration.acceptors) {
    ConfigurationNews::tell(each.endpoint, news, effects);
  }
  port_->send(now_, effects);
  run(20);
  for (std::uint64_t s = 11; s <= 20; ++s) submit(s, 100);
  run(1'000);
  EXPECT_EQ(delivered_[0], up_to(20));
  EXPECT_EQ(members(1).epoch, 1u);
}

// In the order it may be one that another has overtaken, which a replica that fetched its state
// cannot tell.
TEST_F(ChangingRing, ReplicaGoesByTheNewsAndNotByTheOrder) {
  begin();
  stopped_ = {true, true, true};
  const Instance at = ring_->learners[0]->learner().delivered_below();
  const Ballot ballot = ring_->acceptors[0]->coordinator().ballot();
  const Change change{.operation = 4,
                      .verb = ChangeVerb::kRemove,
                      .kind = JoinKind::kReplica,
                      .member = ring_->configuration.learners[0].id,
                      .comes = {}};
  const Configuration next = changed(ring_->configuration, change, at, kFirstInstance);
  Slice bytes = pool_.allocate();
  bytes.truncate(
      static_cast<std::uint32_t>(encode(next, {bytes.mutable_data(), kConfigurationBytesMax})));
  const Value value{{kMembership, raw(ballot), next.epoch},
                    dataplane::hash_bytes(bytes.bytes()),
                    kAllPartitions,
                    bytes.size()};
  Phase2A m{};
  m.instance = raw(at);
  m.ballot = raw(ballot);
  m.value = to_wire(value);
  m.decided = to_wire(Decided{});
  m.fragment = to_wire(cut(bytes.size(), ring_->fragment, 0));
  m.route = Route(ring_->configuration, 0).wire();
  const Endpoint learner = ring_->configuration.learners[0].endpoint;
  Effects effects;
  effects.send_now(learner, MessageType::kPhase2A, m).payload = bytes;
  effects.send_now(learner, MessageType::kDecision,
                   Decision{to_wire(Decided{ballot, at, at + 1}), 0u});
  port_->send(now_, effects);
  run(5);
  EXPECT_EQ(ring_->learners[0]->learner().delivered_below(), at + 1);
  EXPECT_FALSE(ring_->learners[0]->removed());
  ConfigurationNews::tell(learner, next, effects);
  port_->send(now_, effects);
  run(5);
  EXPECT_TRUE(ring_->learners[0]->removed());
}

TEST_F(ChangingRing, MajorityWithoutMemoryIsNotAdmitted) {
  begin();
  restart_without_memory(1, 55);
  restart_without_memory(2, 56);
  run(3'000);
  for (std::uint64_t s = 11; s <= 12; ++s) submit(s, 100);
  run(3'000);
  EXPECT_EQ(delivered_[0], up_to(10));
  EXPECT_EQ(ring_->acceptors[0]->standing(), Standing::kMajorityLost);
  EXPECT_EQ(ring_->acceptors[1]->standing(), Standing::kJoining);
  EXPECT_EQ(members(0).epoch, 1u);
}

TEST_F(ChangingRing, OneAfterAnotherMayLoseItsMemory) {
  begin();
  for (std::uint32_t round = 0; round < 9; ++round) {
    const std::uint32_t i = 1 + round % 2;  // the coordinator stays
    restart_without_memory(i, 100 + round);
    run(400);
    ASSERT_EQ(ring_->acceptors[i]->standing(), Standing::kMember) << round;
    ASSERT_EQ(members(0).epoch, 2 + round);
  }
  for (std::uint64_t s = 11; s <= 20; ++s) submit(s, 100);
  run(1'000);
  EXPECT_EQ(delivered_[1], up_to(20));
}

TEST_F(ChangingRing, MemberThatIsRemovedVotesNoMore) {
  begin();
  ASSERT_TRUE(ring_->acceptors[2]->ask_change(removal(1)));  // whoever is asked passes it on
  run(200);
  EXPECT_EQ(ring_->acceptors[1]->standing(), Standing::kRemoved);
  EXPECT_EQ(members(0).acceptors.size(), 2u);
  for (std::uint64_t s = 11; s <= 20; ++s) submit(s, 100);
  run(1'000);
  EXPECT_EQ(delivered_[0], up_to(20));
  // Two of two are a majority, one is none.
  stopped_[2] = true;
  for (std::uint64_t s = 21; s <= 22; ++s) submit(s, 100);
  run(2'000);
  EXPECT_EQ(delivered_[0], up_to(20));
}

// It may be the only one yet that knows of what took it out.
TEST_F(ChangingRing, MemberThatIsRemovedTellsWhatItKnows) {
  begin();
  ASSERT_TRUE(ring_->acceptors[1]->ask_change(removal(1)));
  run(400);
  ASSERT_EQ(ring_->acceptors[1]->standing(), Standing::kRemoved);
  const auto answers = [&](PullKind kind) {
    Effects effects;
    Outgoing& out = effects.send_now(LocalRing::endpoint(1), MessageType::kPull,
                                     sizeof(Pull) + sizeof(PullEntry));
    auto& m = *reinterpret_cast<Pull*>(out.message());
    m = {static_cast<std::uint8_t>(kind), 0, std::uint16_t{1}, 0ull};
    *reinterpret_cast<PullEntry*>(&m + 1) = {std::uint64_t{3}, ~std::uint64_t{0}};
    port_->send(now_, effects);
    std::vector<MessageType> types;
    for (int i = 0; i < 5; ++i) {
      now_ += 10 * kMicrosecond;
      ring_->acceptors[1]->poll(now_, 64);
      const std::span<Received> burst = port_->receive(now_);
      for (const Received& in : burst) types.push_back(in.type);
      Port::release(burst);
    }
    return types;
  };
  ASSERT_FALSE(answers(PullKind::kConfiguration).empty());
  EXPECT_EQ(answers(PullKind::kValue), std::vector{MessageType::kValue});
}

TEST_F(ChangingRing, RemovedCoordinatorLeavesItToTheOthers) {
  begin();
  ASSERT_TRUE(ring_->acceptors[0]->ask_change(removal(0)));
  run(5'000);
  EXPECT_EQ(ring_->acceptors[0]->standing(), Standing::kRemoved);
  const std::uint32_t leads = ring_->acceptors[1]->coordinator().active() ? 1 : 2;
  EXPECT_TRUE(ring_->acceptors[leads]->coordinator().active());
  for (std::uint64_t s = 1; s <= 20; ++s) submit(s, 100, leads);
  run(2'000);
  EXPECT_EQ(delivered_[0].back(), 20u);
  EXPECT_EQ(delivered_[0], delivered_[1]);
}

}  // namespace
}  // namespace annulus::consensus
