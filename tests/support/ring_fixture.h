// A whole ring over the in-process switch: the stages of three acceptors and two learners, polled
// by hand, with a proposer that is nothing but frames.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "dataplane/hash.h"
#include "tests/support/local_ring.h"

namespace annulus::support {

using namespace annulus::consensus;

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

inline std::vector<std::uint64_t> up_to(std::uint64_t last) {
  std::vector<std::uint64_t> all;
  for (std::uint64_t i = 1; i <= last; ++i) all.push_back(i);
  return all;
}

}  // namespace annulus::support
