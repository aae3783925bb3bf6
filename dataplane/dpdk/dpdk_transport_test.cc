// Transports on DPDK's own virtual devices inside one process: rings that join two ports. Includes
// DPDK headers to make the rings.
#include "dataplane/dpdk/dpdk_transport.h"

#include <gtest/gtest.h>
#include <rte_eth_ring.h>
#include <rte_ring.h>

#include <cstring>
#include <optional>
#include <thread>

#include "dataplane/dpdk/eal.h"
#include "dataplane/dpdk/frame_memory.h"

namespace annulus::dataplane {
namespace {

constexpr Endpoint kA{0x0a4d0001, 4000};
constexpr Endpoint kB{0x0a4d0002, 4001};
constexpr Endpoint kGroup{0xef4d0001, 4100};

DpdkConfig config(const std::string& device, const Endpoint& endpoint, std::uint32_t mtu = 1500) {
  return {.eal = {.file_prefix = "annulus_test", .memory_mib = 256},
          .device = device,
          .endpoint = endpoint,
          .mtu = mtu,
          .rx_queue_frames = 256,
          .tx_queue_frames = 256,
          .rx_frames_held = 256,
          .threads = 2};
}

/// Two ports, each receiving what the other sends. Rings outlive their ports, so each pair is new.
std::pair<std::string, std::string> joined_ports() {
  static int pairs = 0;
  const std::string name = std::string("j").append(std::to_string(pairs++));
  rte_ring* there = rte_ring_create((name + "t").c_str(), 1024, 0, RING_F_SP_ENQ | RING_F_SC_DEQ);
  rte_ring* back = rte_ring_create((name + "b").c_str(), 1024, 0, RING_F_SP_ENQ | RING_F_SC_DEQ);
  CHECK(there != nullptr && back != nullptr);
  CHECK(rte_eth_from_rings((name + "a").c_str(), &back, 1, &there, 1, 0) >= 0);
  CHECK(rte_eth_from_rings((name + "z").c_str(), &there, 1, &back, 1, 0) >= 0);
  return {"net_ring_" + name + "a", "net_ring_" + name + "z"};
}

class DpdkTransportTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const Status status = start_eal(config("", kA).eal, 256);
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  void open(std::uint32_t mtu = 1500) {
    const auto [first, second] = joined_ports();
    auto opened_a = DpdkTransport::open(config(first, kA, mtu));
    ASSERT_TRUE(opened_a) << opened_a.error().message;
    auto opened_b = DpdkTransport::open(config(second, kB, mtu));
    ASSERT_TRUE(opened_b) << opened_b.error().message;
    a = std::move(opened_a).value();
    b = std::move(opened_b).value();
  }
  /// Polls both sides, so that each learns where the other is.
  void introduce() {
    std::vector<TxFrame> frames(1);
    frames[0] = {.to = kB, .head = std::as_bytes(std::span{"hello"})};
    a->transmit(now, frames);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(poll(*b).size(), 0u);
      EXPECT_EQ(poll(*a).size(), 0u);
    }
  }
  std::vector<RxFrame> poll(Transport& transport) {
    std::vector<RxFrame> frames(64);
    frames.resize(transport.receive(now, frames));
    return frames;
  }
  void send(Transport& from, const Endpoint& to, std::span<const std::byte> head, Slice payload) {
    TxFrame frame{.to = to, .head = head, .payload = std::move(payload)};
    from.transmit(now, {&frame, 1});
    EXPECT_FALSE(frame.payload);
  }
  static std::uint64_t count(const Transport& transport, TransportCounter which) {
    return transport.counters()[which].get();
  }

  Nanos now = 0;
  std::unique_ptr<Transport> a;
  std::unique_ptr<Transport> b;
};

std::vector<std::byte> pattern(std::size_t bytes, int seed) {
  std::vector<std::byte> data(bytes);
  for (std::size_t i = 0; i < bytes; ++i) data[i] = std::byte(i * 31 + seed);
  return data;
}

Slice filled(BufferPool& pool, const std::vector<std::byte>& bytes) {
  Slice slice = pool.allocate();
  std::memcpy(slice.mutable_data(), bytes.data(), bytes.size());
  slice.truncate(static_cast<std::uint32_t>(bytes.size()));
  return slice;
}

TEST_F(DpdkTransportTest, FirstFrameWaitsForArpAndIsCounted) {
  open();
  introduce();
  EXPECT_EQ(count(*a, TransportCounter::kTxDropNoRoute), 1u);
  const auto head = pattern(90, 1);
  send(*a, kB, head, {});
  const auto received = poll(*b);
  ASSERT_EQ(received.size(), 1u);
  EXPECT_EQ(received[0].from, kA);
  EXPECT_TRUE(std::ranges::equal(received[0].head.bytes(), head));
  EXPECT_EQ(count(*a, TransportCounter::kTxFrames), 1u);
  EXPECT_EQ(count(*a, TransportCounter::kTxBytes), 90u);
  EXPECT_EQ(count(*b, TransportCounter::kRxBytes), 90u);
}

TEST_F(DpdkTransportTest, HeadAndPayloadOfEveryLengthArriveWhole) {
  for (const std::uint32_t mtu : {1500u, 9000u}) {
    open(mtu);
    introduce();
    BufferPool pool(64, mtu);
    const std::uint32_t most = a->frame_bytes_max();
    EXPECT_EQ(most, mtu - 28);
    for (const std::uint32_t bytes : {0u, 1u, 255u, 256u, 257u, 1001u, most - 81}) {
      const auto head = pattern(81, static_cast<int>(bytes));
      const auto body = pattern(bytes, 7);
      Slice payload = filled(pool, body);
      send(*a, kB, head, std::move(payload));
      const auto received = poll(*b);
      ASSERT_EQ(received.size(), 1u) << bytes;
      ASSERT_EQ(received[0].head.size(), head.size() + bytes);
      EXPECT_TRUE(std::ranges::equal(received[0].head.bytes().first(81), head));
      EXPECT_TRUE(std::ranges::equal(received[0].head.bytes().subspan(81), body));
    }
    const auto head = pattern(most + 1, 0);
    send(*a, kB, head, {});
    EXPECT_EQ(count(*a, TransportCounter::kTxDropTooLong), 1u);
    a.reset();
    b.reset();
  }
}

TEST_F(DpdkTransportTest, PayloadIsReleasedOnceItIsSent) {
  open();
  introduce();
  BufferPool pool(1, 1024);
  const auto body = pattern(1000, 3);
  for (int i = 0; i < 100; ++i) {
    Slice payload = filled(pool, body);
    ASSERT_TRUE(payload) << i;
    send(*a, kB, {}, std::move(payload));
    ASSERT_EQ(poll(*b).size(), 1u);
  }
}

TEST_F(DpdkTransportTest, APayloadSentToManyIsSharedAndComesBack) {
  open();
  introduce();
  BufferPool pool(1, 1024);
  const auto body = pattern(900, 3);
  {
    Slice payload = filled(pool, body);
    std::vector<TxFrame> frames(10);
    for (TxFrame& frame : frames) frame = {.to = kB, .payload = payload};
    a->transmit(now, frames);
  }
  EXPECT_FALSE(pool.allocate());  // frames on the way refer to it
  const auto received = poll(*b);
  ASSERT_EQ(received.size(), 10u);
  for (const RxFrame& frame : received) {
    EXPECT_TRUE(std::ranges::equal(frame.head.bytes(), body));
  }
  EXPECT_TRUE(pool.allocate());
}

TEST_F(DpdkTransportTest, ReceivedFramesAreReferredToUntilDropped) {
  open();
  introduce();
  const auto head = pattern(100, 1);
  std::vector<Slice> kept;
  std::uint64_t received = 0;
  for (int i = 0; i < 2000; ++i) {
    send(*a, kB, head, {});
    for (RxFrame& frame : poll(*b)) {
      ++received;
      kept.push_back(std::move(frame.head));
    }
  }
  // The pool bounds what can be held; the rest was dropped and counted, not lost track of.
  EXPECT_LT(received, 2000u);
  EXPECT_EQ(received + count(*a, TransportCounter::kTxDropNoBuffer), 2000u);
  for (const Slice& slice : kept) EXPECT_TRUE(std::ranges::equal(slice.bytes(), head));
  std::thread([&] {  // another core drops them
    register_dpdk_thread();
    kept.clear();
  })
      .join();
  send(*a, kB, head, {});
  EXPECT_EQ(poll(*b).size(), 1u);
}

TEST_F(DpdkTransportTest, MulticastReachesMembersOnly) {
  open();
  const auto head = pattern(50, 2);
  send(*a, kGroup, head, {});
  EXPECT_EQ(poll(*b).size(), 0u);
  EXPECT_EQ(count(*b, TransportCounter::kRxDropNotOurs), 1u);
  ASSERT_TRUE(b->join(kGroup).ok());
  send(*a, kGroup, head, {});
  EXPECT_EQ(poll(*b).size(), 1u);
  EXPECT_FALSE(b->join({0x0a000001, 1}).ok());
  EXPECT_FALSE(b->join({kGroup.address, 0}).ok());
}

TEST_F(DpdkTransportTest, AFullLinkDropsAndCounts) {
  open();
  introduce();
  const auto head = pattern(50, 2);
  std::uint64_t sent = 0;
  for (;
       sent < 4000 &&
       count(*a, TransportCounter::kTxDropFull) + count(*a, TransportCounter::kTxDropNoBuffer) == 0;
       ++sent) {
    send(*a, kB, head, {});
  }
  EXPECT_LT(sent, 4000u);
  std::uint64_t received = 0;
  while (true) {
    const auto frames = poll(*b);
    if (frames.empty()) break;
    received += frames.size();
  }
  EXPECT_EQ(received, sent - 1);
}

TEST_F(DpdkTransportTest, EveryCounterGroupIsRegistered) {
  open();
  Registry registry;
  a->register_counters(registry, "n1");
  std::vector<std::string> stages;
  for (const Registry::Group& group : registry.groups()) stages.push_back(group.stage);
  EXPECT_EQ(stages, (std::vector<std::string>{"transport", "packet", "net_stack"}));
}

TEST_F(DpdkTransportTest, TheMemoryPlanIsASumThatHolds) {
  const MemoryPlan plan = plan_dpdk_memory(config("net_null0", kA, 9000));
  std::uint64_t sum = 0;
  for (const MemoryPlan::Term& term : plan.terms) sum += term.count * term.bytes_each;
  EXPECT_EQ(plan.bytes(), sum);
  for (const char* device : {"net_null0", "net_af_xdp0"}) {
    const FrameCounts counts = frame_counts(config(device, kA));
    std::uint64_t frames = 0;
    for (const MemoryPlan::Term& term : plan_dpdk_memory(config(device, kA)).terms) {
      frames += term.count;
    }
    EXPECT_EQ(frames, counts.rx + 2 * counts.tx);
  }
  auto pool = MbufPool::create("plan_check", 1000, 9018);
  ASSERT_TRUE(pool);
  const rte_mempool* mempool = pool->get();
  const std::uint64_t real = mempool->header_size + mempool->elt_size + mempool->trailer_size;
  EXPECT_LE(real, MbufPool::mbuf_bytes(9018, true));
}

}  // namespace
}  // namespace annulus::dataplane
