// The in-process switch: delivery, shared memory, drops, fairness, threads.
#include "dataplane/local/local_transport.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace annulus::dataplane {
namespace {

const Endpoint kGroup{0xef000001, 4000};

std::vector<Endpoint> endpoints(std::uint32_t count) {
  std::vector<Endpoint> list;
  for (std::uint32_t i = 0; i < count; ++i) list.push_back({0x0a000001 + i, 4000});
  return list;
}

void send(LocalTransport& from, const Endpoint& to, const std::string& head, Slice payload = {}) {
  TxFrame frame{to, std::as_bytes(std::span(head)), std::move(payload)};
  from.transmit(0, {&frame, 1});
  EXPECT_FALSE(frame.payload);
}

std::string text(const Slice& slice) {
  return {reinterpret_cast<const char*>(slice.data()), slice.size()};
}

std::uint64_t count(const LocalTransport& transport, TransportCounter which) {
  return transport.counters()[which].get();
}

TEST(LocalTransport, CarriesHeadAndPayloadToOne) {
  BufferPool pool(1, 64);
  LocalSwitch net(endpoints(2), {});
  Slice payload = pool.allocate();
  std::memcpy(payload.mutable_data(), "...value", 8);
  const std::byte* place = payload.data();
  send(net.transport(0), net.transport(1).endpoint(), "head", payload.part(3, 5));
  payload.reset();
  EXPECT_FALSE(pool.allocate());  // the link holds it

  std::array<RxFrame, 4> rx;
  EXPECT_EQ(net.transport(0).receive(0, rx), 0u);
  ASSERT_EQ(net.transport(1).receive(0, rx), 1u);
  EXPECT_EQ(rx[0].from, net.transport(0).endpoint());
  EXPECT_EQ(text(rx[0].head), "head");
  EXPECT_EQ(text(rx[0].payload), "value");
  EXPECT_EQ(rx[0].payload.data(), place + 3);  // not copied
  EXPECT_EQ(count(net.transport(0), TransportCounter::kTxBytes), 9u);
  EXPECT_EQ(count(net.transport(1), TransportCounter::kRxBytes), 9u);
  rx[0] = {};
  EXPECT_TRUE(pool.allocate());
}

TEST(LocalTransport, ASenderReachesItselfByUnicast) {
  LocalSwitch net(endpoints(1), {});
  send(net.transport(0), net.transport(0).endpoint(), "self");
  std::array<RxFrame, 1> rx;
  ASSERT_EQ(net.transport(0).receive(0, rx), 1u);
  EXPECT_EQ(text(rx[0].head), "self");
}

TEST(LocalTransport, MulticastReachesEveryMemberButTheSenderAndSharesMemory) {
  BufferPool pool(1, 64);
  LocalSwitch net(endpoints(4), {});
  for (const std::uint32_t member : {0, 1, 3}) {
    ASSERT_TRUE(net.transport(member).join(kGroup));
    ASSERT_TRUE(net.transport(member).join(kGroup));  // twice is once
  }
  send(net.transport(0), kGroup, "head", pool.allocate());
  std::array<std::array<RxFrame, 2>, 4> rx;
  EXPECT_EQ(net.transport(0).receive(0, rx[0]), 0u);
  EXPECT_EQ(net.transport(1).receive(0, rx[1]), 1u);
  EXPECT_EQ(net.transport(2).receive(0, rx[2]), 0u);
  EXPECT_EQ(net.transport(3).receive(0, rx[3]), 1u);
  EXPECT_EQ(rx[1][0].head.data(), rx[3][0].head.data());
  EXPECT_EQ(rx[1][0].payload.data(), rx[3][0].payload.data());
  EXPECT_EQ(rx[1][0].head.buffer()->references.load(), 2u);
  rx[1][0] = {};
  EXPECT_FALSE(pool.allocate());
  rx[3][0] = {};
  EXPECT_TRUE(pool.allocate());
}

TEST(LocalTransport, ANonMemberMaySendToAGroup) {
  LocalSwitch net(endpoints(3), {});
  ASSERT_TRUE(net.transport(1).join(kGroup));
  ASSERT_TRUE(net.transport(2).join(kGroup));
  send(net.transport(0), kGroup, "x");
  std::array<RxFrame, 1> rx;
  EXPECT_EQ(net.transport(1).receive(0, rx), 1u);
  EXPECT_EQ(net.transport(2).receive(0, rx), 1u);
}

TEST(LocalTransport, AGroupOfOnlyTheSenderSwallowsThePayload) {
  BufferPool pool(1, 64);
  LocalSwitch net(endpoints(1), {});
  ASSERT_TRUE(net.transport(0).join(kGroup));
  send(net.transport(0), kGroup, "x", pool.allocate());
  EXPECT_TRUE(pool.allocate());
}

TEST(LocalTransport, FullLinkDropsAndCountsOnlyThere) {
  BufferPool pool(8, 64);
  LocalSwitch net(endpoints(3), {.link_depth = 4});
  ASSERT_TRUE(net.transport(1).join(kGroup));
  ASSERT_TRUE(net.transport(2).join(kGroup));
  for (int i = 0; i < 4; ++i) send(net.transport(0), net.transport(1).endpoint(), "old");
  send(net.transport(0), net.transport(1).endpoint(), "lost", pool.allocate());
  EXPECT_EQ(count(net.transport(0), TransportCounter::kTxDropFull), 1u);
  send(net.transport(0), kGroup, "new", pool.allocate());
  EXPECT_EQ(count(net.transport(0), TransportCounter::kTxDropFull), 2u);

  std::array<RxFrame, 8> rx;
  EXPECT_EQ(net.transport(2).receive(0, rx), 1u);
  EXPECT_EQ(text(rx[0].head), "new");
  EXPECT_EQ(net.transport(1).receive(0, rx), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(text(rx[i].head), "old");
  for (RxFrame& frame : rx) frame = {};
  std::vector<Slice> all;
  while (Slice slice = pool.allocate()) all.push_back(std::move(slice));
  EXPECT_EQ(all.size(), 8u);  // nothing leaked by the drops
}

TEST(LocalTransport, AllLinksFullWhileTheReceiverHoldsBurstsStillHasHeads) {
  LocalSwitch net(endpoints(3), {.link_depth = 8});
  std::vector<std::array<RxFrame, 256>> held(4);
  for (auto& burst : held) {
    for (int i = 0; i < 256; ++i) {
      send(net.transport(0), net.transport(1).endpoint(), "held");
      ASSERT_EQ(net.transport(1).receive(0, std::span(burst).subspan(i, 1)), 1u);
    }
  }
  for (int i = 0; i < 8; ++i) {
    send(net.transport(0), net.transport(0).endpoint(), "x");
    send(net.transport(0), net.transport(1).endpoint(), "x");
    send(net.transport(0), net.transport(2).endpoint(), "x");
  }
  EXPECT_EQ(count(net.transport(0), TransportCounter::kTxDropNoBuffer), 0u);
  EXPECT_EQ(count(net.transport(0), TransportCounter::kTxDropFull), 0u);
}

TEST(LocalTransport, DropsWhatIsTooLongOrHasNoRoute) {
  BufferPool pool(1, 4096);
  LocalSwitch net(endpoints(2), {.mtu = 1500});
  EXPECT_EQ(net.transport(0).frame_bytes_max(), 1472u);
  const Endpoint to = net.transport(1).endpoint();
  send(net.transport(0), to, "1234", pool.allocate().part(0, 1469));
  EXPECT_EQ(count(net.transport(0), TransportCounter::kTxDropTooLong), 1u);
  send(net.transport(0), to, "1234", pool.allocate().part(0, 1468));
  EXPECT_EQ(count(net.transport(0), TransportCounter::kTxFrames), 1u);
  send(net.transport(0), to, std::string(kHeadBytesMax + 1, 'h'));
  EXPECT_EQ(count(net.transport(0), TransportCounter::kTxDropTooLong), 2u);
  send(net.transport(0), {0x0a0000ff, 4000}, "x");
  send(net.transport(0), {to.address, 4001}, "x");
  send(net.transport(0), kGroup, "x");
  EXPECT_EQ(count(net.transport(0), TransportCounter::kTxDropNoRoute), 3u);
}

TEST(LocalTransport, RefusesToJoinWhatIsNoGroup) {
  LocalSwitch net(endpoints(1), {});
  const Status status = net.transport(0).join({0x0a000001, 4000});
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("10.0.0.1:4000"), std::string::npos);
  EXPECT_NE(status.error().message.find("239.255.255.255"), std::string::npos);
}

TEST(LocalTransport, ManyGroupsAndEndpointsKeepTheirRoutes) {
  LocalSwitch net(endpoints(9), {.link_depth = 2});
  for (std::uint32_t group = 0; group < 50; ++group) {
    ASSERT_TRUE(net.transport(group % 9).join({0xef000000 + group, 4000}));
  }
  std::array<RxFrame, 4> rx;
  for (std::uint32_t group = 0; group < 50; ++group) {
    send(net.transport((group + 1) % 9), {0xef000000 + group, 4000}, "x");
    EXPECT_EQ(net.transport(group % 9).receive(0, rx), 1u) << group;
  }
  for (std::uint32_t i = 0; i < 9; ++i) {
    send(net.transport(0), net.transport(i).endpoint(), "x");
    EXPECT_EQ(net.transport(i).receive(0, rx), 1u) << i;
  }
}

TEST(LocalTransport, ABusySourceDoesNotStarveOthers) {
  LocalSwitch net(endpoints(4), {.link_depth = 64});
  const Endpoint to = net.transport(3).endpoint();
  std::array<int, 4> received{};
  std::array<RxFrame, 8> rx;
  for (int turn = 0; turn < 30; ++turn) {
    for (int i = 0; i < 64; ++i) send(net.transport(0), to, "flood");
    send(net.transport(1), to, "b");
    send(net.transport(2), to, "c");
    const std::uint32_t filled = net.transport(3).receive(0, rx);
    for (std::uint32_t i = 0; i < filled; ++i) ++received[rx[i].from.address - 0x0a000001];
  }
  // Each source's link is drained at least every other turn.
  EXPECT_GE(received[1], 28);
  EXPECT_GE(received[2], 28);
  EXPECT_GT(received[0], 80);
}

TEST(LocalTransport, ClearDropsWhatIsInFlight) {
  BufferPool pool(2, 64);
  LocalSwitch net(endpoints(2), {});
  send(net.transport(0), net.transport(1).endpoint(), "x", pool.allocate());
  send(net.transport(1), net.transport(0).endpoint(), "x", pool.allocate());
  EXPECT_FALSE(pool.allocate());
  net.clear();
  EXPECT_TRUE(pool.allocate());
  std::array<RxFrame, 1> rx;
  EXPECT_EQ(net.transport(1).receive(0, rx), 0u);
}

// Three threads, each with its transport: one multicasts numbered payloads and answers nothing, the
// others echo each to the sender. Run under TSan it checks the hand-over of head and payload.
TEST(LocalTransport, ThreadsExchangeMulticastAndReplies) {
  constexpr std::uint32_t kFrames = 5'000;
  BufferPool pool(64, 64);
  LocalSwitch net(endpoints(3), {.link_depth = 32});
  ASSERT_TRUE(net.transport(1).join(kGroup));
  ASSERT_TRUE(net.transport(2).join(kGroup));
  auto echo = [&](std::uint32_t me) {
    LocalTransport& transport = net.transport(me);
    std::array<RxFrame, 8> rx;
    std::uint32_t expected = 0;
    while (expected < kFrames) {
      const std::uint32_t filled = transport.receive(0, rx);
      if (filled == 0) std::this_thread::yield();
      for (std::uint32_t i = 0; i < filled; ++i) {
        std::uint32_t number;
        std::memcpy(&number, rx[i].payload.data(), 4);
        ASSERT_EQ(number, expected++);
        ASSERT_EQ(text(rx[i].head), "multicast");
        TxFrame reply{rx[i].from, rx[i].head.bytes(), rx[i].payload};
        transport.transmit(0, {&reply, 1});
      }
    }
  };
  std::thread first(echo, 1);
  std::thread second(echo, 2);
  std::array<RxFrame, 8> rx;
  std::array<std::uint32_t, 3> echoed{};
  std::uint32_t sent = 0;
  const std::string head = "multicast";
  while (echoed[1] < kFrames || echoed[2] < kFrames) {
    if (sent < kFrames && sent < std::min(echoed[1], echoed[2]) + 16) {
      if (Slice payload = pool.allocate()) {
        std::memcpy(payload.mutable_data(), &sent, 4);
        ++sent;
        send(net.transport(0), kGroup, head, std::move(payload));
      }
    }
    const std::uint32_t filled = net.transport(0).receive(0, rx);
    if (filled == 0) std::this_thread::yield();
    for (std::uint32_t i = 0; i < filled; ++i) {
      std::uint32_t number;
      std::memcpy(&number, rx[i].payload.data(), 4);
      ASSERT_EQ(number, echoed[rx[i].from.address - 0x0a000001]++);
    }
    for (RxFrame& frame : rx) frame = {};
  }
  first.join();
  second.join();
}

}  // namespace
}  // namespace annulus::dataplane
