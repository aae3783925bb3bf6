// Whole rings over the in-process switch: the stages of three acceptors and two learners, polled by
// hand, with a proposer that is nothing but frames.
#include "consensus/node.h"

#include <gtest/gtest.h>

#include <cstring>

#include "dataplane/hash.h"
#include "dataplane/local/local_transport.h"

namespace annulus::consensus {
namespace {

using dataplane::LocalSwitch;

constexpr std::uint64_t kCluster = 77;
constexpr Endpoint kGroup{0xef000001, 4000};

Endpoint node_endpoint(std::uint32_t i) { return {0x0a000001 + i, 4000}; }

class RingTest : public testing::Test {
 protected:
  void start(Dissemination dissemination, std::uint32_t mtu = 9'000) {
    configuration_.dissemination = dissemination;
    configuration_.group = kGroup;
    std::vector<Endpoint> endpoints;
    for (std::uint32_t i = 0; i < 6; ++i) endpoints.push_back(node_endpoint(i));
    for (std::uint32_t i = 0; i < 3; ++i) {
      configuration_.acceptors.push_back({NodeId{i + 1}, endpoints[i]});
    }
    for (std::uint32_t i = 3; i < 5; ++i) {
      configuration_.learners.push_back({NodeId{i + 1}, endpoints[i], kAllPartitions});
    }
    switch_ = std::make_unique<LocalSwitch>(
        endpoints, dataplane::LocalOptions{.mtu = mtu, .link_depth = 4'096});
    fragment_ = fragment_bytes(mtu - dataplane::kIpUdpHeaderBytes);
    for (std::uint32_t i = 0; i < 5; ++i) ASSERT_TRUE(switch_->transport(i).join(kGroup).ok());
    for (std::uint32_t i = 0; i < 3; ++i) {
      AcceptorNodeOptions options;
      options.identity = {kCluster, 0, NodeId{i + 1}, 1};
      options.acceptor.fragment_bytes = options.coordinator.fragment_bytes = fragment_;
      options.coordinate = i == 0;
      acceptors_.push_back(
          std::make_unique<AcceptorNode>(options, configuration_, switch_->transport(i)));
    }
    for (std::uint32_t i = 0; i < 2; ++i) {
      deliveries_.push_back(std::make_unique<dataplane::SpscRing<Delivery>>(1'024));
      replies_.push_back(std::make_unique<dataplane::SpscRing<ReplyFrame>>(64));
      proposals_.push_back(std::make_unique<dataplane::SpscRing<Proposal>>(2));
      LearnerNodeOptions options;
      options.identity = {kCluster, 0, NodeId{i + 4}, 1};
      learners_.push_back(std::make_unique<LearnerNode>(
          options, configuration_, switch_->transport(i + 3),
          LearnerNode::Rings{*deliveries_[i], *replies_[i], *proposals_[i]}));
    }
    port_ = std::make_unique<Port>(switch_->transport(5), PortIdentity{kCluster, 0, kNoNode, 9},
                                   configuration_, 65'536);
  }

  ~RingTest() override {
    if (switch_) switch_->clear();
  }

  void submit(std::uint64_t sequence, std::uint32_t bytes, std::uint32_t to = 0) {
    Slice payload = pool_.allocate();
    std::memset(payload.mutable_data(), static_cast<int>(sequence), bytes);
    payload.truncate(bytes);
    const Value value{
        {kNoNode, 9, sequence}, dataplane::hash_bytes(payload.bytes()), kAllPartitions, bytes};
    Effects effects;
    const std::uint32_t count = cut(bytes, fragment_, 0).count;
    for (std::uint32_t i = 0; i < count; ++i) {
      const Fragment fragment = cut(bytes, fragment_, i);
      Outgoing& out = effects.send_now(node_endpoint(to), MessageType::kSubmit,
                                       Submit{to_wire(value), to_wire(fragment), std::uint64_t{1}});
      out.payload =
          payload.part(fragment.offset(), std::min(fragment.bytes, bytes - fragment.offset()));
    }
    port_->send(now_, effects);
  }

  void run(int turns, Nanos step = 10 * kMicrosecond) {
    for (int i = 0; i < turns; ++i) {
      now_ += step;
      for (std::size_t a = 0; a < acceptors_.size(); ++a) {
        if (!stopped_[a]) acceptors_[a]->poll(now_, 64);
      }
      for (auto& learner : learners_) learner->poll(now_, 64);
      for (std::size_t i2 = 0; i2 < deliveries_.size(); ++i2) {
        Delivery delivery;
        while (deliveries_[i2]->pop(delivery)) {
          EXPECT_EQ(dataplane::hash_bytes(delivery.bytes.bytes()), delivery.value.content_hash);
          delivered_[i2].push_back(delivery.value.id.sequence);
        }
      }
      Port::release(port_->receive(now_));
    }
  }

  Configuration configuration_;
  dataplane::BufferPool pool_{4'096, 65'536};
  std::unique_ptr<LocalSwitch> switch_;
  std::uint32_t fragment_ = 0;
  std::vector<std::unique_ptr<AcceptorNode>> acceptors_;
  std::array<bool, 3> stopped_{};
  std::vector<std::unique_ptr<dataplane::SpscRing<Delivery>>> deliveries_;
  std::vector<std::unique_ptr<dataplane::SpscRing<ReplyFrame>>> replies_;
  std::vector<std::unique_ptr<dataplane::SpscRing<Proposal>>> proposals_;
  std::vector<std::unique_ptr<LearnerNode>> learners_;
  std::unique_ptr<Port> port_;
  std::array<std::vector<std::uint64_t>, 2> delivered_;
  Nanos now_ = kSecond;
};

std::vector<std::uint64_t> up_to(std::uint64_t last) {
  std::vector<std::uint64_t> all;
  for (std::uint64_t i = 1; i <= last; ++i) all.push_back(i);
  return all;
}

TEST_F(RingTest, EveryLearnerDeliversEveryValueInOrder) {
  for (const auto dissemination :
       {Dissemination::kMulticast, Dissemination::kFanout, Dissemination::kRing}) {
    SCOPED_TRACE(static_cast<int>(dissemination));
    if (switch_) switch_->clear();
    configuration_ = {};
    acceptors_.clear();
    learners_.clear();
    deliveries_.clear();
    replies_.clear();
    proposals_.clear();
    delivered_ = {};
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
  acceptors_[2]->start_election();
  stopped_[0] = true;
  run(3'000);
  for (std::uint64_t s = 1; s <= 20; ++s) submit(s, 100, 2);
  run(3'000);
  // What was ordered before may be ordered again; sessions execute it once.
  ASSERT_GE(delivered_[0].size(), 10u);
  EXPECT_EQ(delivered_[0], delivered_[1]);
  EXPECT_EQ(delivered_[0].back(), 20u);
  EXPECT_TRUE(acceptors_[2]->coordinator().active());
}

TEST_F(RingTest, MuteAcceptorSaysNothing) {
  start(Dissemination::kMulticast);
  AcceptorNodeOptions options;
  options.identity = {kCluster, 0, NodeId{3}, 2};
  options.acceptor.fragment_bytes = options.coordinator.fragment_bytes = fragment_;
  options.mute = true;
  acceptors_[2] = std::make_unique<AcceptorNode>(options, configuration_, switch_->transport(2));
  stopped_[1] = true;
  run(5);
  submit(1, 100);
  run(2'000);
  EXPECT_TRUE(delivered_[0].empty());
  stopped_[1] = false;
  run(2'000);
  EXPECT_EQ(delivered_[0], up_to(1));
}

}  // namespace
}  // namespace annulus::consensus
