#include "consensus/port.h"

#include <gtest/gtest.h>

#include "dataplane/local/local_transport.h"
#include "tests/support/frames.h"

namespace annulus::consensus {
namespace {

using namespace support;
using dataplane::FrameHeader;

/// Three acceptors, two learners and one client on the in-process switch.
class PortTest : public testing::Test {
 protected:
  static constexpr std::uint32_t kNodes = 6;
  void start(Dissemination dissemination) {
    configuration_ = configuration(3);
    configuration_.dissemination = dissemination;
    std::vector<Endpoint> endpoints;
    for (const Member& m : configuration_.acceptors) endpoints.push_back(m.endpoint);
    for (const LearnerMember& m : configuration_.learners) endpoints.push_back(m.endpoint);
    endpoints.push_back(endpoint_of(proposer_id(0)));
    switch_ = std::make_unique<dataplane::LocalSwitch>(
        endpoints, dataplane::LocalOptions{.mtu = 9'000, .link_depth = 256});
    for (std::uint32_t i = 0; i < kNodes; ++i) {
      if (i < 5) {
        ASSERT_TRUE(switch_->transport(i).join(configuration_.group).ok());
      }
      ports_.push_back(std::make_unique<Port>(switch_->transport(i),
                                              PortIdentity{kCluster, 0, node(i), 1}, configuration_,
                                              kValueBytesMax));
    }
  }
  ~PortTest() override {
    if (switch_) switch_->clear();
  }
  static NodeId node(std::uint32_t i) {
    return i < 3 ? acceptor_id(i) : i < 5 ? learner_id(i - 3) : kNoNode;
  }
  std::uint32_t receive(std::uint32_t i) {
    const auto burst = ports_[i]->receive(0);
    const auto count = static_cast<std::uint32_t>(burst.size());
    Port::release(burst);
    return count;
  }
  /// How many frames each node receives until nothing moves any more.
  std::array<std::uint32_t, kNodes> settle() {
    std::array<std::uint32_t, kNodes> got{};
    for (int round = 0; round < 50; ++round) {
      for (std::uint32_t i = 0; i < kNodes; ++i) got[i] += receive(i);
    }
    return got;
  }
  void send_to_all(std::uint32_t from, bool direct = false) {
    Effects effects;
    effects.send_to_all_now(MessageType::kDecision, Decision{to_wire(Decided{}), 0u}).direct =
        direct;
    ports_[from]->send(0, effects);
    EXPECT_EQ(effects.size(), 0u);
  }
  /// Sends bytes as they are to node 0, after `spoil` changed a well-made frame.
  template <typename Spoil>
  void send_spoiled(Spoil spoil, bool seal_again = false, std::uint16_t ring = 0) {
    alignas(8) std::array<std::byte, 2'048> bytes{};
    auto& header = *reinterpret_cast<FrameHeader*>(bytes.data());
    const Decision m{to_wire(Decided{})};
    std::memcpy(bytes.data() + sizeof header, &m, sizeof m);
    const auto seal = [&](std::uint32_t sender) {
      seal_frame(header, static_cast<std::uint8_t>(MessageType::kDecision), sizeof m, 0, 0,
                 {kCluster, sender, ring, 1, 1, 1});
    };
    seal(raw(acceptor_id(1)));
    std::size_t size = sizeof header + sizeof m;
    spoil(header, bytes.data(), size);
    if (seal_again) seal(header.sender);
    dataplane::TxFrame tx{endpoint_of(acceptor_id(0)), {bytes.data(), size}, {}};
    switch_->transport(1).transmit(0, {&tx, 1});
  }
  std::uint64_t count(PortCounter which, std::uint32_t i = 0) {
    return ports_[i]->counters()[which].get();
  }

  using Got = std::array<std::uint32_t, kNodes>;

  Configuration configuration_;
  std::unique_ptr<dataplane::LocalSwitch> switch_;
  std::vector<std::unique_ptr<Port>> ports_;
};

TEST_F(PortTest, MulticastReachesEveryMemberButTheSenderOnce) {
  start(Dissemination::kMulticast);
  send_to_all(0);
  EXPECT_EQ(settle(), (Got{0, 1, 1, 1, 1, 0}));
  EXPECT_EQ(switch_->transport(0).counters()[dataplane::TransportCounter::kTxFrames].get(), 1u);
}

TEST_F(PortTest, FanoutReachesEveryMemberButTheSenderOnce) {
  start(Dissemination::kFanout);
  send_to_all(2);
  EXPECT_EQ(settle(), (Got{1, 1, 0, 1, 1, 0}));
}

TEST_F(PortTest, RingPassesFramesOnAndStopsAtTheirOrigin) {
  start(Dissemination::kRing);
  send_to_all(1);
  EXPECT_EQ(settle(), (Got{1, 0, 1, 1, 1, 0}));
  EXPECT_EQ(count(PortCounter::kRelayed, 2), 1u);
  EXPECT_EQ(count(PortCounter::kRelayed, 0), 0u);  // the last before the origin
  EXPECT_EQ(count(PortCounter::kDropOwnFrame, 1), 0u);
}

TEST_F(PortTest, DirectFramesReachEveryoneThoughANodeOfTheRingIsStopped) {
  start(Dissemination::kRing);
  send_to_all(0, true);
  for (const std::uint32_t i : {2u, 3u, 4u}) EXPECT_EQ(receive(i), 1u);  // 1 never runs
}

TEST_F(PortTest, RelayedFrameOfAStrangerDoesNotGoRoundForEver) {
  start(Dissemination::kRing);
  send_spoiled([](FrameHeader& header, std::byte*, std::size_t&) {
    const Decision m{to_wire(Decided{})};
    seal_frame(header, static_cast<std::uint8_t>(MessageType::kDecision), sizeof m, 0, 0,
               {kCluster, 999u, 0, 1, 1, 1}, dataplane::kRelay);
  });
  EXPECT_EQ(settle(), (Got{1, 0, 0, 0, 0, 0}));
  EXPECT_EQ(count(PortCounter::kRelayed), 0u);
}

TEST_F(PortTest, UnicastReachesItsReceiverAlone) {
  start(Dissemination::kRing);
  Effects effects;
  effects.send_now(endpoint_of(learner_id(0)), MessageType::kTrimmed, Trimmed{5ull});
  ports_[0]->send(0, effects);
  EXPECT_EQ(settle(), (Got{0, 0, 0, 1, 0, 0}));
}

TEST_F(PortTest, EveryReasonToDropIsCountedByName) {
  start(Dissemination::kMulticast);
  const auto counts_once =
      [&](PortCounter which, auto spoil, bool seal_again = false, std::uint16_t ring = 0) {
        send_spoiled(spoil, seal_again, ring);
        EXPECT_EQ(receive(0), 0u);
        EXPECT_EQ(count(which), 1u)
            << dataplane::Counters<PortCounter>::names()[static_cast<int>(which)];
      };
  counts_once(PortCounter::kDropTruncated,
              [](FrameHeader&, std::byte*, std::size_t& size) { size = 40; });
  counts_once(PortCounter::kDropBadMagic,
              [](FrameHeader& h, std::byte*, std::size_t&) { h.magic = 1; });
  counts_once(PortCounter::kDropBadVersion,
              [](FrameHeader& h, std::byte*, std::size_t&) { h.version = 99; });
  counts_once(PortCounter::kDropBadFlags,
              [](FrameHeader& h, std::byte*, std::size_t&) { h.flags = 0x80; });
  counts_once(PortCounter::kDropForeignCluster,
              [](FrameHeader& h, std::byte*, std::size_t&) { h.cluster = 5; });
  counts_once(
      PortCounter::kDropForeignRing, [](FrameHeader&, std::byte*, std::size_t&) {}, false, 3);
  counts_once(PortCounter::kDropTrailingBytes,
              [](FrameHeader&, std::byte*, std::size_t& size) { ++size; });
  counts_once(PortCounter::kDropBadChecksum,
              [](FrameHeader& h, std::byte*, std::size_t&) { h.sequence = 77; });
  counts_once(
      PortCounter::kDropOwnFrame,
      [](FrameHeader& h, std::byte*, std::size_t&) { h.sender = raw(acceptor_id(0)); }, true);
  counts_once(
      PortCounter::kDropBadMessage,
      [](FrameHeader&, std::byte* bytes, std::size_t&) {
        Decision lying{to_wire(Decided{ballot(1), at(9), at(3)})};
        std::memcpy(bytes + sizeof(FrameHeader), &lying, sizeof lying);
      },
      true);
  counts_once(PortCounter::kDropBadPayloadHash, [](FrameHeader& h, std::byte*, std::size_t& size) {
    seal_frame(h, static_cast<std::uint8_t>(MessageType::kDecision), sizeof(Decision), 8, 12345,
               {kCluster, raw(acceptor_id(1)), 0, 1, 1, 1});
    size += 8;
  });
  EXPECT_EQ(count(PortCounter::kRelayed), 0u);
}

TEST(Backlog, NothingIsConcludedBeforeAllIsReadUnlessThatTakesLong) {
  Backlog backlog;
  EXPECT_TRUE(backlog.heard(true));
  for (int round = 0; round < 2; ++round) {
    for (std::uint32_t turn = 0; turn < Backlog::kTurnsMax; ++turn) {
      EXPECT_FALSE(backlog.heard(false));
    }
    EXPECT_TRUE(backlog.heard(false));
  }
  EXPECT_FALSE(backlog.heard(false));
  EXPECT_TRUE(backlog.heard(true));
}

}  // namespace
}  // namespace annulus::consensus
