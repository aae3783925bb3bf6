// The parser against every header fault, and what we build against what we parse.
#include "dataplane/dpdk/packet.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <vector>

namespace annulus::dataplane {
namespace {

constexpr MacAddress kOurMac{{2, 0, 0, 0, 0, 1}};
constexpr MacAddress kPeerMac{{2, 0, 0, 0, 0, 2}};
constexpr Endpoint kOwn{0x0a4d0001, 4000};
constexpr Endpoint kPeer{0x0a4d0002, 5000};
constexpr Endpoint kGroup{0xef010203, 6000};

PacketFilter filter() {
  PacketFilter filter{.mac = kOurMac, .own = kOwn};
  filter.groups[filter.group_count++] = kGroup;
  return filter;
}

std::vector<std::byte> datagram(const Endpoint& to, const MacAddress& to_mac,
                                std::size_t body_bytes) {
  std::vector<std::byte> bytes(sizeof(UdpHeaders) + body_bytes);
  for (std::size_t i = 0; i < body_bytes; ++i) bytes[sizeof(UdpHeaders) + i] = std::byte(i * 7 + 1);
  auto& headers = *reinterpret_cast<UdpHeaders*>(bytes.data());
  build_udp(headers, kPeerMac, to_mac, kPeer, to, static_cast<std::uint32_t>(body_bytes));
  headers.ip.checksum = ipv4_checksum(headers.ip);
  const auto body = std::span<const std::byte>(bytes).subspan(sizeof(UdpHeaders));
  // An odd split: head and payload need not meet at a word.
  const std::size_t split = body_bytes / 3;
  headers.udp.checksum = udp_checksum(headers, body.first(split), body.subspan(split));
  return bytes;
}

PacketFault parse(const std::vector<std::byte>& bytes, DeviceVerified verified = {}) {
  // An exact heap copy, so that AddressSanitizer sees any read past the end.
  const std::vector<std::byte> exact(bytes);
  Packet packet;
  return parse_packet(exact, filter(), verified, packet);
}

/// Breaks one thing of a good datagram, with or without mending the IPv4 checksum afterwards.
PacketFault broken(const std::function<void(UdpHeaders&)>& change, bool mend = true) {
  auto bytes = datagram(kOwn, kOurMac, 100);
  auto& headers = *reinterpret_cast<UdpHeaders*>(bytes.data());
  change(headers);
  if (mend) {
    headers.ip.checksum = std::uint16_t{0};
    headers.ip.checksum = ipv4_checksum(headers.ip);
  }
  return parse(bytes);
}

TEST(Packet, WhatIsBuiltParses) {
  for (std::size_t body = 0; body <= 67; ++body) {
    const auto bytes = datagram(kOwn, kOurMac, body);
    Packet packet;
    ASSERT_EQ(parse_packet(bytes, filter(), {}, packet), PacketFault::kNone) << body;
    EXPECT_EQ(packet.kind, PacketKind::kUdp);
    EXPECT_EQ(packet.from, kPeer);
    EXPECT_EQ(packet.body.size(), body);
    EXPECT_EQ(packet.body.data(), bytes.data() + sizeof(UdpHeaders));
  }
}

TEST(Packet, BytesOfADatagram) {
  const auto bytes = datagram({0x0a4d0001, 4000}, kOurMac, 2);
  const unsigned char expected[] = {
      2,    0,    0,    0,    0, 1,  2,    0,    0,  0,  0,    2,    8,  0,  // Ethernet
      0x45, 0,    0,    30,   0, 0,  0x40, 0,    64, 17, 0x26, 0x33, 10, 77,
      0,    2,    10,   77,   0, 1,                       // IPv4
      0x13, 0x88, 0x0f, 0xa0, 0, 10, 0xc7, 0x0d, 1,  8};  // UDP and body
  ASSERT_EQ(bytes.size(), sizeof expected);
  for (std::size_t i = 0; i < sizeof expected; ++i) {
    EXPECT_EQ(static_cast<unsigned>(bytes[i]), expected[i]) << "byte " << i;
  }
}

TEST(Packet, EveryTruncationIsRefused) {
  const auto bytes = datagram(kOwn, kOurMac, 33);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(parse({bytes.begin(), bytes.begin() + length}), PacketFault::kNone) << length;
  }
}

TEST(Packet, EthernetPaddingIsCutOff) {
  auto bytes = datagram(kOwn, kOurMac, 3);
  bytes.resize(60);
  Packet packet;
  ASSERT_EQ(parse_packet(bytes, filter(), {}, packet), PacketFault::kNone);
  EXPECT_EQ(packet.body.size(), 3u);
}

TEST(Packet, EveryBitOfHeadersAndBodyIsGuarded) {
  const auto good = datagram(kOwn, kOurMac, 40);
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    auto bytes = good;
    bytes[bit / 8] ^= std::byte(1u << (bit % 8));
    const PacketFault fault = parse(bytes);
    // The sender's hardware address is guarded by the Ethernet checksum alone; a multicast bit in
    // our own makes it a multicast.
    const bool source_mac = bit / 8 >= 6 && bit / 8 < 12;
    const bool group_bit = bit == 0;
    if (!source_mac && !group_bit) {
      EXPECT_NE(fault, PacketFault::kNone) << "bit " << bit;
    }
  }
}

TEST(Packet, HeaderFaultsByName) {
  using enum PacketFault;
  EXPECT_EQ(broken([](auto& h) { h.ethernet.from = kOurMac; }), kOwnFrame);
  EXPECT_EQ(broken([](auto& h) { h.ethernet.to = kPeerMac; }), kForeignMac);
  EXPECT_EQ(broken([](auto& h) { h.ethernet.type = std::uint16_t{0x86dd}; }), kForeignType);
  EXPECT_EQ(broken([](auto& h) { h.ip.version_words = 0x65; }), kBadVersion);
  EXPECT_EQ(broken([](auto& h) { h.ip.version_words = 0x44; }), kBadHeaderLength);
  EXPECT_EQ(broken([](auto& h) { h.ip.total_bytes = std::uint16_t{19}; }), kBadLength);
  EXPECT_EQ(broken([](auto& h) { h.ip.total_bytes = std::uint16_t{129}; }), kBadLength);
  EXPECT_EQ(broken([](auto& h) { h.ip.fragment = std::uint16_t{0x2000}; }), kFragment);
  EXPECT_EQ(broken([](auto& h) { h.ip.fragment = std::uint16_t{1}; }), kFragment);
  EXPECT_EQ(broken([](auto& h) { h.ip.ttl = 0; }), kTtlZero);
  EXPECT_EQ(broken([](auto& h) { h.ip.ttl = 63; }, false), kBadIpChecksum);
  EXPECT_EQ(broken([](auto& h) { h.ip.to = kOwn.address + 9; }), kForeignAddress);
  EXPECT_EQ(broken([](auto& h) { h.ip.to = 0xef010204u; }), kForeignAddress);
  EXPECT_EQ(broken([](auto& h) { h.ip.from = 0xef010203u; }), kBadSource);
  EXPECT_EQ(broken([](auto& h) { h.ip.from = 0xffffffffu; }), kBadSource);
  EXPECT_EQ(broken([](auto& h) { h.ip.protocol = 6; }), kForeignProtocol);
  EXPECT_EQ(broken([](auto& h) { h.udp.to_port = std::uint16_t{4001}; }), kForeignPort);
  EXPECT_EQ(broken([](auto& h) { h.udp.bytes = std::uint16_t{7}; }), kBadUdpLength);
  EXPECT_EQ(broken([](auto& h) { h.udp.bytes = std::uint16_t{109}; }), kBadUdpLength);
  EXPECT_EQ(broken([](auto& h) { h.udp.checksum = h.udp.checksum ^ 1; }), kBadUdpChecksum);
  EXPECT_EQ(broken([](auto& h) { h.ip.protocol = kProtocolIcmp; }), kBadIcmp);
  EXPECT_EQ(broken([](auto& h) { h.ip.protocol = kProtocolIgmp; }), kBadIgmp);
}

TEST(Packet, HeaderLengthBeyondThePacketIsRefused) {
  auto bytes = datagram(kOwn, kOurMac, 0);
  reinterpret_cast<UdpHeaders*>(bytes.data())->ip.version_words = 0x4f;  // 60 bytes of 28
  EXPECT_EQ(parse(bytes), PacketFault::kBadHeaderLength);
}

TEST(Packet, OptionsAreSkipped) {
  auto bytes = datagram(kOwn, kOurMac, 20);
  const std::byte options[4] = {std::byte{1}, std::byte{1}, std::byte{1}, std::byte{0}};
  bytes.insert(bytes.begin() + sizeof(EthernetHeader) + sizeof(Ipv4Header), options, options + 4);
  auto& ip = *reinterpret_cast<Ipv4Header*>(bytes.data() + sizeof(EthernetHeader));
  ip.version_words = 0x46;
  ip.total_bytes = static_cast<std::uint16_t>(ip.total_bytes + 4);
  ip.checksum = std::uint16_t{0};
  InternetChecksum checksum;
  checksum.add({bytes.data() + sizeof(EthernetHeader), sizeof(Ipv4Header) + 4});
  ip.checksum = checksum.checksum();
  Packet packet;
  ASSERT_EQ(parse_packet(bytes, filter(), {}, packet), PacketFault::kNone);
  EXPECT_EQ(packet.body.size(), 20u);
}

TEST(Packet, ZeroUdpChecksumMeansNone) {
  EXPECT_EQ(broken([](auto& h) { h.udp.checksum = std::uint16_t{0}; }), PacketFault::kNone);
}

TEST(Packet, WhatTheDeviceVerifiedIsNotSummedAgain) {
  auto bytes = datagram(kOwn, kOurMac, 8);
  auto& headers = *reinterpret_cast<UdpHeaders*>(bytes.data());
  headers.ip.checksum = headers.ip.checksum ^ 1;
  headers.udp.checksum = headers.udp.checksum ^ 1;
  EXPECT_EQ(parse(bytes), PacketFault::kBadIpChecksum);
  EXPECT_EQ(parse(bytes, {.ip = true}), PacketFault::kBadUdpChecksum);
  EXPECT_EQ(parse(bytes, {.ip = true, .udp = true}), PacketFault::kNone);
}

TEST(Packet, MulticastOnlyOfJoinedGroupsAndPorts) {
  EXPECT_EQ(parse(datagram(kGroup, multicast_mac(kGroup.address), 9)), PacketFault::kNone);
  EXPECT_EQ(parse(datagram({kGroup.address, 6001}, multicast_mac(kGroup.address), 9)),
            PacketFault::kForeignPort);
  EXPECT_EQ(parse(datagram({kGroup.address ^ 1, 6000}, multicast_mac(kGroup.address ^ 1), 9)),
            PacketFault::kForeignAddress);
}

TEST(Packet, MulticastMacKeepsTheLow23Bits) {
  EXPECT_EQ(to_string(multicast_mac(0xefffee01)), "01:00:5e:7f:ee:01");
  EXPECT_EQ(to_string(multicast_mac(0xe0000016)), "01:00:5e:00:00:16");
}

TEST(Packet, ArpFaults) {
  struct {
    EthernetHeader ethernet;
    ArpMessage arp;
  } good{.ethernet = {.to = kBroadcastMac, .from = kPeerMac, .type = kEtherTypeArp},
         .arp = {.hardware_type = std::uint16_t{1},
                 .protocol_type = kEtherTypeIpv4,
                 .hardware_bytes = 6,
                 .protocol_bytes = 4,
                 .operation = std::uint16_t{1},
                 .sender_mac = kPeerMac,
                 .sender_address = kPeer.address,
                 .target_address = kOwn.address}};
  const auto fault = [](const auto& packet, std::size_t cut = 0) {
    const auto bytes = std::as_bytes(std::span{&packet, 1});
    return parse({bytes.begin(), bytes.end() - static_cast<std::ptrdiff_t>(cut)});
  };
  EXPECT_EQ(fault(good), PacketFault::kNone);
  EXPECT_EQ(fault(good, 1), PacketFault::kTruncated);
  auto bad = good;
  bad.arp.hardware_type = std::uint16_t{6};
  EXPECT_EQ(fault(bad), PacketFault::kBadArp);
  bad = good;
  bad.arp.operation = std::uint16_t{3};
  EXPECT_EQ(fault(bad), PacketFault::kBadArp);
  bad = good;
  bad.arp.sender_mac = kBroadcastMac;
  EXPECT_EQ(fault(bad), PacketFault::kBadArp);
  bad = good;
  bad.arp.sender_mac = MacAddress{{2, 0, 0, 0, 0, 9}};  // not the station that sent it
  EXPECT_EQ(fault(bad), PacketFault::kBadArp);
  bad = good;
  bad.arp.sender_address = 0xe0000001u;
  EXPECT_EQ(fault(bad), PacketFault::kBadArp);
  bad = good;
  bad.arp.sender_address = 0u;  // a probe
  EXPECT_EQ(fault(bad), PacketFault::kNone);
}

TEST(Packet, DeviceCompletesFromThePseudoSum) {
  // A device sums the UDP datagram with the pseudo sum in its field; the result must be ours.
  const auto bytes = datagram(kOwn, kOurMac, 31);
  auto headers = *reinterpret_cast<const UdpHeaders*>(bytes.data());
  const std::uint16_t expected = headers.udp.checksum;
  headers.udp.checksum = udp_pseudo_sum(headers);
  InternetChecksum device;
  device.add(std::as_bytes(std::span{&headers.udp, 1}));
  device.add(std::span(bytes).subspan(sizeof(UdpHeaders)));
  EXPECT_EQ(device.checksum(), expected);
}

}  // namespace
}  // namespace annulus::dataplane
