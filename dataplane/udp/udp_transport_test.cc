// Kernel UDP on loopback: delivery, multicast, sizes, losses that are counted, start-up errors.
#include "dataplane/udp/udp_transport.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace annulus::dataplane {
namespace {

/// Loopback addresses, ports and groups of this process alone, so that tests may run side by side.
Endpoint node(std::uint8_t number) {
  const auto pid = static_cast<std::uint32_t>(getpid());
  return {0x7f000000u | ((pid & 0x3fff) + 1) << 8 | number, 4000};
}
Endpoint group(std::uint8_t number) {
  const auto pid = static_cast<std::uint32_t>(getpid());
  return {0xef000000u | (pid & 0xffff) << 8 | number,
          static_cast<std::uint16_t>(5000 + pid % 20'000)};
}

std::unique_ptr<UdpTransport> open_at(const Endpoint& local, std::uint32_t mtu = 1500) {
  Result<std::unique_ptr<UdpTransport>> opened = UdpTransport::open({.local = local, .mtu = mtu});
  EXPECT_TRUE(opened) << opened.error().message;
  return std::move(opened).value();
}

void send(UdpTransport& from, const Endpoint& to, const std::string& head, Slice payload = {}) {
  TxFrame frame{to, std::as_bytes(std::span(head)), std::move(payload)};
  from.transmit(0, {&frame, 1});
  EXPECT_FALSE(frame.payload);
}

/// What arrives within a second, until `count` frames are there.
std::vector<RxFrame> receive(UdpTransport& transport, std::size_t count) {
  std::vector<RxFrame> frames;
  std::vector<RxFrame> burst(32);
  while (frames.size() < count) {
    const std::uint32_t got = transport.receive(0, burst);
    pollfd wait{transport.wait_descriptor(), POLLIN, 0};
    if (got == 0 && poll(&wait, 1, 1'000) <= 0) break;
    std::move(burst.begin(), burst.begin() + got, std::back_inserter(frames));
  }
  return frames;
}

/// Nothing is waiting, and nothing was on its way: loopback delivers before the sender returns.
void expect_silence(UdpTransport& transport) {
  std::vector<RxFrame> burst(4);
  EXPECT_EQ(transport.receive(0, burst), 0u);
  pollfd wait{transport.wait_descriptor(), POLLIN, 0};
  EXPECT_EQ(poll(&wait, 1, 0), 0);
}

std::string text(const Slice& slice) {
  return {reinterpret_cast<const char*>(slice.data()), slice.size()};
}

std::uint64_t count(const UdpTransport& transport, TransportCounter which) {
  return transport.counters()[which].get();
}

TEST(UdpTransport, CarriesHeadAndPayloadInOneDatagram) {
  BufferPool pool(1, 64);
  auto a = open_at(node(1));
  auto b = open_at(node(2));
  Slice payload = pool.allocate();
  std::memcpy(payload.mutable_data(), "...value", 8);
  send(*a, node(2), "head+", payload.part(3, 5));
  const std::vector<RxFrame> got = receive(*b, 1);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].from, node(1));
  EXPECT_EQ(text(got[0].head), "head+value");
  EXPECT_FALSE(got[0].payload);
  EXPECT_EQ(count(*a, TransportCounter::kTxFrames), 1u);
  EXPECT_EQ(count(*a, TransportCounter::kTxBytes), 10u);
  EXPECT_EQ(count(*b, TransportCounter::kRxFrames), 1u);
  EXPECT_EQ(count(*b, TransportCounter::kRxBytes), 10u);
  payload.reset();
  EXPECT_TRUE(pool.allocate());  // the transport kept no reference
  send(*b, got[0].from, "answer");
  EXPECT_EQ(receive(*a, 1).size(), 1u);
}

TEST(UdpTransport, MulticastReachesMembersButNotTheSender) {
  std::vector<std::unique_ptr<UdpTransport>> nodes;
  for (std::uint8_t i = 1; i <= 4; ++i) nodes.push_back(open_at(node(i)));
  for (int member : {0, 1, 2}) {
    ASSERT_TRUE(nodes[member]->join(group(1)));
    ASSERT_TRUE(nodes[member]->join(group(1)));  // twice is once
  }
  for (int i = 0; i < 3; ++i) send(*nodes[0], group(1), "multicast" + std::to_string(i));
  for (int member : {1, 2}) {
    const std::vector<RxFrame> got = receive(*nodes[member], 3);
    ASSERT_EQ(got.size(), 3u);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(text(got[i].head), "multicast" + std::to_string(i));
      EXPECT_EQ(got[i].from, node(1));
    }
  }
  expect_silence(*nodes[0]);
  expect_silence(*nodes[3]);
  // What the filter keeps out is not a loss.
  std::vector<RxFrame> burst(1);
  EXPECT_EQ(nodes[0]->receive(kSecond, burst), 0u);
  EXPECT_EQ(count(*nodes[0], TransportCounter::kRxDropNoBuffer), 0u);
}

TEST(UdpTransport, GroupsOnOnePortStayApartAndANonMemberMaySend) {
  auto a = open_at(node(1));
  auto b = open_at(node(2));
  Endpoint other = group(2);
  ASSERT_TRUE(a->join(group(1)));
  ASSERT_TRUE(b->join(other));
  send(*a, other, "other");
  EXPECT_EQ(receive(*b, 1).size(), 1u);
  send(*b, group(1), "one");
  const std::vector<RxFrame> got = receive(*a, 1);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(text(got[0].head), "one");
  expect_silence(*a);
  expect_silence(*b);
}

TEST(UdpTransport, CrossesProcesses) {
  auto a = open_at(node(1));
  const Endpoint members = group(1);
  const Endpoint child_node = node(2);
  ASSERT_TRUE(a->join(members));
  const pid_t child = fork();
  if (child == 0) {
    auto opened = UdpTransport::open({.local = child_node});
    if (!opened || !opened.value()->join(members)) _exit(1);
    send(*opened.value(), members, "hello");
    const std::vector<RxFrame> got = receive(*opened.value(), 1);
    _exit(got.size() == 1 && text(got[0].head) == "welcome" ? 0 : 2);
  }
  const std::vector<RxFrame> got = receive(*a, 1);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].from, child_node);
  send(*a, members, "welcome");
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(UdpTransport, CarriesFullFramesOfEveryMtu) {
  BufferPool pool(1, 65'535);
  const Slice block = pool.allocate();
  for (const std::uint32_t mtu : {1280u, 1500u, 9000u, 65'535u}) {
    auto a = open_at(node(1), mtu);
    auto b = open_at(node(2), mtu);
    const std::uint32_t full = std::min(mtu - 28, 65'507u);
    ASSERT_EQ(a->frame_bytes_max(), full);
    Slice writable = block;
    for (std::uint32_t i = 0; i < full; ++i) writable.mutable_data()[i] = std::byte(i % 251);
    send(*a, node(2), "head", block.part(0, full - 4));
    send(*a, node(2), "head", block.part(0, full - 3));
    EXPECT_EQ(count(*a, TransportCounter::kTxDropTooLong), 1u);
    const std::vector<RxFrame> got = receive(*b, 1);
    ASSERT_EQ(got.size(), 1u) << mtu;
    ASSERT_EQ(got[0].head.size(), full);
    EXPECT_EQ(std::memcmp(got[0].head.data() + 4, block.data(), full - 4), 0);
    expect_silence(*b);
  }
}

TEST(UdpTransport, KeepsABurstInOrderPerDestination) {
  auto a = open_at(node(1));
  auto b = open_at(node(2));
  auto c = open_at(node(3));
  std::vector<std::string> heads;
  std::vector<TxFrame> frames;
  for (int i = 0; i < 200; ++i) heads.push_back("frame " + std::to_string(i));
  for (int i = 0; i < 200; ++i) {
    frames.push_back({i % 3 == 0 ? node(3) : node(2), std::as_bytes(std::span(heads[i])), {}});
  }
  a->transmit(0, frames);
  std::vector<RxFrame> at_b = receive(*b, 133);
  std::vector<RxFrame> at_c = receive(*c, 67);
  ASSERT_EQ(at_b.size(), 133u);
  ASSERT_EQ(at_c.size(), 67u);
  std::size_t next_b = 0;
  std::size_t next_c = 0;
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(text((i % 3 == 0 ? at_c[next_c++] : at_b[next_b++]).head), heads[i]);
  }
  EXPECT_EQ(count(*a, TransportCounter::kTxFrames), 200u);
}

// Full fragments and a shorter last one, twice, and a frame to someone else in between: crosses as
// few messages, arrives as the frames that were sent.
TEST(UdpTransport, FragmentsOfValuesArriveAsSent) {
  BufferPool pool(1, 65'535);
  Slice value = pool.allocate();
  for (std::uint32_t i = 0; i < value.size(); ++i) value.mutable_data()[i] = std::byte(i % 251);
  auto a = open_at(node(1));
  auto b = open_at(node(2));
  ASSERT_TRUE(a->join(group(1)));
  ASSERT_TRUE(b->join(group(1)));
  for (const Endpoint& to : {node(2), group(1)}) {
    std::vector<std::string> heads;
    std::vector<std::uint32_t> sizes;
    for (int i = 0; i < 120; ++i) {
      heads.push_back("head" + std::to_string(1000 + i));
      sizes.push_back(i % 60 == 59 ? 700 : 1400);
    }
    std::vector<TxFrame> frames;
    for (int i = 0; i < 120; ++i) {
      if (i == 30) frames.push_back({node(1), std::as_bytes(std::span(heads[0])), {}});
      frames.push_back({to, std::as_bytes(std::span(heads[i])), value.part(i * 100, sizes[i])});
    }
    a->transmit(0, frames);
    const std::vector<RxFrame> got = receive(*b, 120);
    ASSERT_EQ(got.size(), 120u);
    for (int i = 0; i < 120; ++i) {
      ASSERT_EQ(got[i].head.size(), 8 + sizes[i]) << i;
      ASSERT_EQ(text(got[i].head.part(0, 8)), heads[i]);
      ASSERT_EQ(std::memcmp(got[i].head.data() + 8, value.data() + i * 100, sizes[i]), 0);
      ASSERT_EQ(got[i].from, node(1));
    }
    EXPECT_EQ(receive(*a, 1).size(), 1u);
    expect_silence(*a);
  }
  EXPECT_EQ(count(*a, TransportCounter::kTxFrames), 242u);
  EXPECT_EQ(count(*b, TransportCounter::kRxFrames), 240u);
  EXPECT_EQ(count(*a, TransportCounter::kTxBytes),
            count(*b, TransportCounter::kRxBytes) + 2 * std::strlen("head1000"));
  std::vector<RxFrame> burst(1);
  EXPECT_EQ(a->receive(kSecond, burst), 0u);
  EXPECT_EQ(count(*a, TransportCounter::kRxDropNoBuffer), 0u);
}

TEST(UdpTransport, HandsOnLessThanAMessageHoldsWithoutLosingTheRest) {
  auto a = open_at(node(1));
  auto b = open_at(node(2));
  std::vector<std::string> heads;
  for (int i = 0; i < 40; ++i) heads.push_back("frame" + std::to_string(100 + i));
  std::vector<TxFrame> frames;
  for (const std::string& head : heads) {
    frames.push_back({node(2), std::as_bytes(std::span(head)), {}});
  }
  a->transmit(0, frames);
  std::vector<RxFrame> got(40);
  std::uint32_t filled = 0;
  while (filled < 40) {
    const std::uint32_t some = b->receive(0, std::span(got).subspan(filled).first(1));
    ASSERT_EQ(some, 1u);
    filled += some;
  }
  for (int i = 0; i < 40; ++i) EXPECT_EQ(text(got[i].head), heads[i]);
  expect_silence(*b);
}

TEST(UdpTransport, CountsWhatItCannotSendAndSendsTheRest) {
  auto a = open_at(node(1));
  auto b = open_at(node(2));
  const std::string head = "x";
  const auto bytes = std::as_bytes(std::span(head));
  // Loopback sources cannot reach 8.8.8.8: the kernel refuses, in the middle of the burst.
  std::vector<TxFrame> frames{{node(2), bytes, {}},
                              {{0x08080808, 53}, bytes, {}},
                              {{node(2).address, 0}, bytes, {}},
                              {node(2), bytes, {}}};
  a->transmit(0, frames);
  EXPECT_EQ(receive(*b, 2).size(), 2u);
  EXPECT_EQ(count(*a, TransportCounter::kTxFrames), 2u);
  EXPECT_GE(count(*a, TransportCounter::kTxDropNoRoute), 1u);
  EXPECT_EQ(count(*a, TransportCounter::kTxDropNoRoute) + count(*a, TransportCounter::kTxDropError),
            2u);
}

TEST(UdpTransport, DropsAndCountsDatagramsLongerThanItsMtu) {
  BufferPool pool(1, 8'192);
  auto small = open_at(node(1), 1500);
  auto big = open_at(node(2), 9000);
  send(*big, node(1), "head", pool.allocate());
  send(*big, node(1), "next");
  const std::vector<RxFrame> got = receive(*small, 1);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(text(got[0].head), "next");
  EXPECT_EQ(count(*small, TransportCounter::kRxDropTooLong), 1u);
}

TEST(UdpTransport, AnExhaustedPoolLeavesDatagramsToTheKernel) {
  auto a = open_at(node(1));
  Result<std::unique_ptr<UdpTransport>> opened =
      UdpTransport::open({.local = node(2), .receive_buffers = 65});
  ASSERT_TRUE(opened);
  UdpTransport& b = *opened.value();
  for (int i = 0; i < 100; ++i) send(*a, node(2), "frame " + std::to_string(i));
  std::vector<RxFrame> held(100);
  std::uint32_t got = 0;
  for (int call = 0; call < 10; ++call) got += b.receive(0, std::span(held).subspan(got));
  EXPECT_EQ(got, 65u);
  for (RxFrame& frame : held) frame = {};
  const std::vector<RxFrame> rest = receive(b, 35);
  ASSERT_EQ(rest.size(), 35u);
  EXPECT_EQ(text(rest.back().head), "frame 99");
}

TEST(UdpTransport, CountsWhatTheKernelDropsForWantOfRoom) {
  auto a = open_at(node(1));
  Result<std::unique_ptr<UdpTransport>> opened =
      UdpTransport::open({.local = node(2), .socket_buffer_bytes = 16'384});
  ASSERT_TRUE(opened);
  UdpTransport& b = *opened.value();
  std::vector<RxFrame> burst(32);
  EXPECT_EQ(b.receive(0, burst), 0u);
  for (int i = 0; i < 500; ++i) send(*a, node(2), std::string(1000, 'x'));
  std::uint64_t got = 0;
  while (const std::uint32_t some = b.receive(0, burst)) got += some;
  EXPECT_LT(got, 500u);
  EXPECT_EQ(b.receive(kSecond, burst), 0u);
  EXPECT_EQ(got + count(b, TransportCounter::kRxDropNoBuffer), 500u);
}

TEST(UdpTransport, SaysWhenTheKernelClampsItsBuffers) {
  // More than any limit: not even the privileged option can grant it.
  Result<std::unique_ptr<UdpTransport>> opened =
      UdpTransport::open({.local = node(1), .socket_buffer_bytes = 0x7fffffff});
  ASSERT_TRUE(opened);
  EXPECT_EQ(count(*opened.value(), TransportCounter::kSocketBuffersClamped), 2u);
  ASSERT_EQ(opened.value()->warnings().size(), 2u);
  EXPECT_NE(opened.value()->warnings()[0].find("sysctl -w net.core.rmem_max=2147483647"),
            std::string::npos);
  EXPECT_NE(opened.value()->warnings()[1].find("net.core.wmem_max"), std::string::npos);
}

TEST(UdpTransport, StartUpErrorsSayWhatToDo) {
  auto taken = open_at(node(1));
  const auto error_of = [](const UdpOptions& options) {
    const auto opened = UdpTransport::open(options);
    return opened ? std::string("opened") : opened.error().message;
  };
  EXPECT_EQ(error_of({.local = node(1)}),
            to_string(node(1)) +
                " is in use; stop the process that has it (`ss -ulpn`) or choose another port");
  EXPECT_EQ(error_of({.local = {0x08080808, 4000}}),
            "8.8.8.8 is not an address of this machine; give the node one that `ip address` lists");
  EXPECT_EQ(error_of({.local = {0, 4000}}),
            "0.0.0.0:4000 cannot be a node's endpoint; give the one address at which others reach "
            "it");
  EXPECT_NE(error_of({.local = group(1)}).find("cannot be a node's endpoint"), std::string::npos);

  const Status status = taken->join(node(2));
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("not a multicast group"), std::string::npos);
}

}  // namespace
}  // namespace annulus::dataplane
