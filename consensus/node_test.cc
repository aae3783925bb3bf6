// Whole rings over the in-process switch: the stages of three acceptors and two learners, polled by
// hand, with a proposer that is nothing but frames.
#include "consensus/node.h"

#include <gtest/gtest.h>

#include <cstring>

#include "dataplane/hash.h"
#include "tests/support/local_ring.h"

namespace annulus::consensus {
namespace {

using support::LocalRing;

class RingTest : public testing::Test {
 protected:
  void start(Dissemination dissemination) {
    ring_ = std::make_unique<LocalRing>(dataplane::LocalOptions{.mtu = 9'000, .link_depth = 4'096},
                                        dissemination);
    ring_->add_learners();
    port_ = std::make_unique<Port>(ring_->fabric.transport(LocalRing::kProposer),
                                   LocalRing::identity(LocalRing::kProposer, 9),
                                   ring_->configuration, 65'536);
    delivered_ = {};
  }
  ~RingTest() override {
    if (ring_) ring_->fabric.clear();  // of what the port sent, before it goes
  }

  void submit(std::uint64_t sequence, std::uint32_t bytes, std::uint32_t to = 0) {
    Slice payload = pool_.allocate();
    std::memset(payload.mutable_data(), static_cast<int>(sequence), bytes);
    payload.truncate(bytes);
    const Value value{
        {kNoNode, 9, sequence}, dataplane::hash_bytes(payload.bytes()), kAllPartitions, bytes};
    Effects effects;
    const std::uint32_t count = cut(bytes, ring_->fragment, 0).count;
    for (std::uint32_t i = 0; i < count; ++i) {
      const Fragment fragment = cut(bytes, ring_->fragment, i);
      Outgoing& out = effects.send_now(LocalRing::endpoint(to), MessageType::kSubmit,
                                       Submit{to_wire(value), to_wire(fragment), std::uint64_t{1}});
      out.payload =
          payload.part(fragment.offset(), std::min(fragment.bytes, bytes - fragment.offset()));
    }
    port_->send(now_, effects);
  }

  void run(int turns, Nanos step = 10 * kMicrosecond) {
    for (int i = 0; i < turns; ++i) {
      now_ += step;
      for (std::size_t a = 0; a < ring_->acceptors.size(); ++a) {
        if (!stopped_[a]) ring_->acceptors[a]->poll(now_, 64);
      }
      for (auto& learner : ring_->learners) learner->poll(now_, 64);
      for (std::size_t i2 = 0; i2 < ring_->deliveries.size(); ++i2) {
        Delivery delivery;
        while (ring_->deliveries[i2]->pop(delivery)) {
          EXPECT_EQ(dataplane::hash_bytes(delivery.bytes.bytes()), delivery.value.content_hash);
          delivered_[i2].push_back(delivery.value.id.sequence);
        }
      }
      Port::release(port_->receive(now_));
    }
  }

  dataplane::BufferPool pool_{4'096, 65'536};
  std::unique_ptr<LocalRing> ring_;
  std::array<bool, 3> stopped_{};
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

TEST_F(RingTest, MuteAcceptorSaysNothing) {
  start(Dissemination::kMulticast);
  ring_->acceptors[2] = ring_->make_acceptor(2, {.mute = true}, 2);
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
