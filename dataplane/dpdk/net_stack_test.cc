// ARP, ICMP and IGMP replies, checked byte by byte or by parsing them as a neighbour would.
#include "dataplane/dpdk/net_stack.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace annulus::dataplane {
namespace {

constexpr MacAddress kOurMac{{2, 0, 0, 0, 0, 1}};
constexpr MacAddress kPeerMac{{2, 0, 0, 0, 0, 2}};
constexpr std::uint32_t kOurs = 0x0a4d0001;
constexpr std::uint32_t kPeer = 0x0a4d0002;
constexpr std::uint32_t kGroup = 0xef010203;

using Bytes = std::vector<std::byte>;

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

class NetStackTest : public testing::Test, public PacketSink {
 public:
  void send_packet(std::span<const std::byte> packet) override {
    sent.emplace_back(packet.begin(), packet.end());
  }

 protected:
  PacketFault receive(Nanos now, const Bytes& bytes) {
    PacketFilter filter{.mac = kOurMac, .own = {kOurs, 4000}};
    filter.groups[filter.group_count++] = {kGroup, 6000};
    Packet packet;
    const PacketFault fault = parse_packet(bytes, filter, {}, packet);
    if (fault == PacketFault::kNone) stack.on_packet(now, packet);
    return fault;
  }
  Bytes arp(std::uint16_t operation, std::uint32_t sender, std::uint32_t target) {
    struct {
      EthernetHeader ethernet;
      ArpMessage arp;
    } packet{.ethernet = {.to = operation == 1 ? kBroadcastMac : kOurMac,
                          .from = kPeerMac,
                          .type = kEtherTypeArp},
             .arp = {.hardware_type = std::uint16_t{1},
                     .protocol_type = kEtherTypeIpv4,
                     .hardware_bytes = 6,
                     .protocol_bytes = 4,
                     .operation = operation,
                     .sender_mac = kPeerMac,
                     .sender_address = sender,
                     .target_address = target}};
    const auto bytes = std::as_bytes(std::span{&packet, 1});
    return {bytes.begin(), bytes.end()};
  }
  /// An IPv4 packet of `message`, whose checksum is filled in at offset 2.
  Bytes ip_packet(std::uint8_t protocol, std::uint32_t to, Bytes message) {
    InternetChecksum checksum;
    checksum.add(message);
    const u16be wire = checksum.checksum();
    std::memcpy(message.data() + 2, &wire, 2);
    Bytes bytes(sizeof(EthernetHeader) + sizeof(Ipv4Header));
    auto& ethernet = *reinterpret_cast<EthernetHeader*>(bytes.data());
    ethernet = {.to = Endpoint{to, 0}.multicast() ? multicast_mac(to) : kOurMac,
                .from = kPeerMac,
                .type = kEtherTypeIpv4};
    auto& ip = *reinterpret_cast<Ipv4Header*>(&ethernet + 1);
    build_ipv4(ip, protocol, kPeer, to, static_cast<std::uint32_t>(message.size()));
    ip.checksum = ipv4_checksum(ip);
    bytes.insert(bytes.end(), message.begin(), message.end());
    return bytes;
  }
  std::uint64_t count(NetStackCounter which) { return stack.counters()[which].get(); }

  std::vector<Bytes> sent;
  NetStack stack{kOurMac, kOurs, 1500, *this};
};

TEST_F(NetStackTest, AnnouncesItselfTwiceAtStart) {
  for (Nanos now = 0; now < 5 * kSecond; now += 5 * kMillisecond) stack.tick(now);
  ASSERT_EQ(sent.size(), 2u);
  const Bytes expected = bytes_of({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,  0,  0, 0, 0, 1, 8, 6,  //
                                   0,    1,    8,    0,    6,    4,    0,  1,                     //
                                   2,    0,    0,    0,    0,    1,    10, 77, 0, 1,              //
                                   0,    0,    0,    0,    0,    0,    10, 77, 0, 1});
  EXPECT_EQ(sent[0], expected);
  EXPECT_EQ(sent[1], expected);
}

TEST_F(NetStackTest, AnswersArpRequestsForItsAddressOnly) {
  EXPECT_EQ(receive(0, arp(1, kPeer, kOurs + 5)), PacketFault::kNone);
  EXPECT_TRUE(sent.empty());
  EXPECT_EQ(receive(0, arp(1, kPeer, kOurs)), PacketFault::kNone);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0], bytes_of({2, 0, 0, 0, 0, 2, 2,  0,  0, 0, 0, 1, 8, 6,  //
                               0, 1, 8, 0, 6, 4, 0,  2,                     //
                               2, 0, 0, 0, 0, 1, 10, 77, 0, 1,              //
                               2, 0, 0, 0, 0, 2, 10, 77, 0, 2}));
}

TEST_F(NetStackTest, AnswersAProbeWithoutLearningFromIt) {
  receive(0, arp(1, 0, kOurs));
  EXPECT_EQ(sent.size(), 1u);
  EXPECT_EQ(count(NetStackCounter::kArpLearned), 0u);
}

TEST_F(NetStackTest, ResolvesAPeerAndAsksNoMoreThanItMay) {
  EXPECT_EQ(stack.resolve(0, kPeer), nullptr);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0], bytes_of({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,  0,  0, 0, 0, 1, 8, 6,  //
                               0,    1,    8,    0,    6,    4,    0,  1,                     //
                               2,    0,    0,    0,    0,    1,    10, 77, 0, 1,              //
                               0,    0,    0,    0,    0,    0,    10, 77, 0, 2}));
  // 50, 100, 200, 400, 800 ms, then every second: 14 requests in the first ten seconds at most.
  for (Nanos now = 0; now < 10 * kSecond; now += kMillisecond) stack.resolve(now, kPeer);
  EXPECT_GE(sent.size(), 10u);
  EXPECT_LE(sent.size(), 15u);
  receive(10 * kSecond, arp(2, kPeer, kOurs));
  const MacAddress* mac = stack.resolve(10 * kSecond, kPeer);
  ASSERT_NE(mac, nullptr);
  EXPECT_EQ(*mac, kPeerMac);
}

TEST_F(NetStackTest, RepliesNobodyAskedForTeachNothingNew) {
  receive(0, arp(2, kPeer, kOurs));
  EXPECT_EQ(stack.resolve(0, kPeer), nullptr);
}

TEST_F(NetStackTest, WhoAsksForUsIsKnownAtOnce) {
  receive(0, arp(1, kPeer, kOurs));
  ASSERT_NE(stack.resolve(0, kPeer), nullptr);
}

TEST_F(NetStackTest, AnotherStationWithOurAddressIsCountedAndNotLearned) {
  receive(0, arp(1, kOurs, kOurs));
  EXPECT_EQ(count(NetStackCounter::kArpConflicts), 1u);
  EXPECT_TRUE(sent.empty());
}

TEST_F(NetStackTest, ASilentNeighbourIsAskedAgainAndThenForgotten) {
  receive(0, arp(1, kPeer, kOurs));
  sent.clear();
  Nanos now = NeighbourTable::kConfirmAfter;
  ASSERT_NE(stack.resolve(now, kPeer), nullptr);
  ASSERT_EQ(sent.size(), 1u);  // to the station itself, not to all
  EXPECT_EQ(reinterpret_cast<const EthernetHeader*>(sent[0].data())->to, kPeerMac);
  for (int i = 0; i < 3000 && stack.resolve(now, kPeer) != nullptr; ++i) now += kMillisecond;
  EXPECT_EQ(stack.resolve(now, kPeer), nullptr);
  EXPECT_EQ(reinterpret_cast<const EthernetHeader*>(sent.back().data())->to, kBroadcastMac);
}

TEST_F(NetStackTest, ManyNeighboursEvictOnlyTheLongestUnused) {
  NeighbourTable table;
  for (std::uint32_t i = 1; i <= NeighbourTable::kSets * NeighbourTable::kWays; ++i) {
    table.learn(i, 0x0a000000 + i, kPeerMac, true);
  }
  EXPECT_NE(table.find(5000, 0x0a000001).mac, nullptr);  // in use again
  table.learn(6000, 0x0a000001 + 1024, kPeerMac, true);  // same set
  EXPECT_NE(table.find(7000, 0x0a000001).mac, nullptr);
  EXPECT_NE(table.find(7000, 0x0a000001 + 1024).mac, nullptr);
  EXPECT_EQ(table.find(7000, 0x0a000001 + 128).mac, nullptr);
}

TEST_F(NetStackTest, AnswersEcho) {
  EXPECT_EQ(receive(0, ip_packet(kProtocolIcmp, kOurs,
                                 bytes_of({8, 0, 0, 0, 0x12, 0x34, 0, 7, 'a', 'b', 'c'}))),
            PacketFault::kNone);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(
      sent[0],
      bytes_of({2,    0,  0,    0,    0,    2,    2,    0, 0,   0,   0,    1,    8,  0,         //
                0x45, 0,  0,    31,   0,    0,    0x40, 0, 64,  1,   0x26, 0x42, 10, 77, 0, 1,  //
                10,   77, 0,    2,                                                              //
                0,    0,  0x29, 0x62, 0x12, 0x34, 0,    7, 'a', 'b', 'c'}));
}

TEST_F(NetStackTest, EchoRepliesAreBoundedPerSecond) {
  const Bytes request = ip_packet(kProtocolIcmp, kOurs, bytes_of({8, 0, 0, 0, 0, 1, 0, 1}));
  for (std::uint32_t i = 0; i < NetStack::kEchoRepliesPerSecond + 5; ++i) receive(i, request);
  EXPECT_EQ(sent.size(), NetStack::kEchoRepliesPerSecond);
  EXPECT_EQ(count(NetStackCounter::kIcmpDropRate), 5u);
  receive(kSecond, request);
  EXPECT_EQ(sent.size(), NetStack::kEchoRepliesPerSecond + 1);
}

TEST_F(NetStackTest, OtherIcmpIsDropped) {
  receive(0, ip_packet(kProtocolIcmp, kOurs, bytes_of({0, 0, 0, 0, 0, 1, 0, 1})));
  receive(0, ip_packet(kProtocolIcmp, kGroup, bytes_of({8, 0, 0, 0, 0, 1, 0, 1})));
  EXPECT_TRUE(sent.empty());
  EXPECT_EQ(count(NetStackCounter::kIcmpDropOther), 2u);
}

TEST_F(NetStackTest, ReportsAGroupTwiceAfterJoining) {
  ASSERT_TRUE(stack.join(kGroup));
  ASSERT_TRUE(stack.join(kGroup));  // a second port
  for (Nanos now = 0; now < 5 * kSecond; now += 5 * kMillisecond) stack.tick(now);
  EXPECT_EQ(count(NetStackCounter::kIgmpReportsSent), 2u);
  const Bytes expected =
      bytes_of({1,    0, 0x5e, 0,    0, 0x16, 2,    0, 0, 0, 0,    1,    8,    0,  //
                0x46, 0, 0,    40,   0, 0,    0x40, 0, 1, 2, 0xfa, 0x6b, 10,   77, 0, 1,
                0xe0, 0, 0,    0x16,  //
                0x94, 4, 0,    0,     //
                0x22, 0, 0xe8, 0xf9, 0, 0,    0,    1, 4, 0, 0,    0,    0xef, 1,  2, 3});
  EXPECT_EQ(sent[1], expected);  // after the gratuitous ARP
  PacketFilter router{.mac = kPeerMac, .own = {0xe0000016, 0}};
  Packet packet;
  EXPECT_EQ(parse_packet(sent[1], router, {}, packet), PacketFault::kNone);
  EXPECT_EQ(packet.kind, PacketKind::kIgmp);
}

TEST_F(NetStackTest, AnswersAVersion3QueryWithinItsResponseTime) {
  stack.join(kGroup);
  for (Nanos now = 0; now < 2 * kSecond; now += 5 * kMillisecond) stack.tick(now);
  sent.clear();
  const Nanos asked = 2 * kSecond;
  receive(asked, ip_packet(kProtocolIgmp, 0xe0000001,
                           bytes_of({0x11, 20, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0})));
  for (Nanos now = asked; now <= asked + 2 * kSecond + 20 * kMillisecond; now += kMillisecond) {
    stack.tick(now);
  }
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].size(), 14u + 24 + 16);
  EXPECT_EQ(sent[0][14 + 24 + 8], std::byte{2});  // the state, not a change
}

TEST_F(NetStackTest, AnswersAVersion2QueryInVersion2ToTheGroup) {
  stack.join(kGroup);
  for (Nanos now = 0; now < 2 * kSecond; now += 5 * kMillisecond) stack.tick(now);
  sent.clear();
  receive(2 * kSecond,
          ip_packet(kProtocolIgmp, 0xe0000001, bytes_of({0x11, 10, 0, 0, 0, 0, 0, 0})));
  for (Nanos now = 2 * kSecond; now <= 4 * kSecond; now += kMillisecond) stack.tick(now);
  ASSERT_EQ(sent.size(), 1u);
  const Bytes& report = sent[0];
  ASSERT_EQ(report.size(), 14u + 24 + 8);
  EXPECT_EQ(reinterpret_cast<const EthernetHeader*>(report.data())->to, multicast_mac(kGroup));
  EXPECT_EQ(Bytes(report.begin() + 38, report.end()),
            bytes_of({0x16, 0, 0xf8, 0xfa, 0xef, 1, 2, 3}));
}

TEST_F(NetStackTest, AQueryForAnotherGroupIsNotAnswered) {
  stack.join(kGroup);
  for (Nanos now = 0; now < 2 * kSecond; now += 5 * kMillisecond) stack.tick(now);
  sent.clear();
  receive(2 * kSecond,
          ip_packet(kProtocolIgmp, 0xe0000001, bytes_of({0x11, 1, 0, 0, 0xef, 1, 2, 9})));
  for (Nanos now = 2 * kSecond; now <= 4 * kSecond; now += kMillisecond) stack.tick(now);
  EXPECT_TRUE(sent.empty());
}

}  // namespace
}  // namespace annulus::dataplane
