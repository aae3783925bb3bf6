#include "dataplane/dpdk/packet.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace annulus::dataplane {
namespace {

constexpr std::uint8_t kTtlUnicast = 64;
constexpr std::uint8_t kTtlMulticast = 1;  // members share one Ethernet segment

template <typename Header>
const Header* header_at(std::span<const std::byte> bytes) {
  return reinterpret_cast<const Header*>(bytes.data());
}

void add_pseudo_header(InternetChecksum& checksum, const Ipv4Header& ip, std::uint16_t udp_bytes) {
  checksum.add(std::as_bytes(std::span{&ip.from, 1}));
  checksum.add(std::as_bytes(std::span{&ip.to, 1}));
  checksum.add(kProtocolUdp);
  checksum.add(udp_bytes);
}

bool message_intact(std::span<const std::byte> message) {
  InternetChecksum checksum;
  checksum.add(message);
  return message.size() >= sizeof(IcmpHeader) && checksum.sum() == 0xffff;
}

/// Loopback, broadcast, class D and E, and "this host" name no sender.
bool impossible_source(std::uint32_t address) {
  return address == 0 || (address >> 24) == 127 || (address >> 28) >= 0xe;
}

PacketFault parse_arp(std::span<const std::byte> body, const EthernetHeader& ethernet,
                      Packet& packet) {
  if (body.size() < sizeof(ArpMessage)) return PacketFault::kTruncated;
  const auto* arp = header_at<ArpMessage>(body);
  if (arp->hardware_type != 1 || arp->protocol_type != kEtherTypeIpv4 || arp->hardware_bytes != 6 ||
      arp->protocol_bytes != 4 || (arp->operation != 1 && arp->operation != 2) ||
      arp->sender_mac.multicast() || arp->sender_mac != ethernet.from) {
    return PacketFault::kBadArp;
  }
  // A probe (RFC 5227) has no sender address yet.
  if (arp->sender_address != 0 && impossible_source(arp->sender_address)) {
    return PacketFault::kBadArp;
  }
  packet.kind = PacketKind::kArp;
  packet.body = body.first(sizeof(ArpMessage));
  return PacketFault::kNone;
}

PacketFault parse_udp(std::span<const std::byte> datagram, const PacketFilter& filter,
                      DeviceVerified verified, Packet& packet) {
  if (datagram.size() < sizeof(UdpHeader)) return PacketFault::kBadUdpLength;
  const auto* udp = header_at<UdpHeader>(datagram);
  if (udp->bytes < sizeof(UdpHeader) || udp->bytes > datagram.size()) {
    return PacketFault::kBadUdpLength;
  }
  const Endpoint to{packet.ip->to, udp->to_port};
  const auto groups = std::span{filter.groups}.first(filter.group_count);
  if (to != filter.own && std::find(groups.begin(), groups.end(), to) == groups.end()) {
    return PacketFault::kForeignPort;
  }
  datagram = datagram.first(udp->bytes);
  // Zero means that the sender made none (RFC 768); the frame carries a hash of its own.
  if (!verified.udp && udp->checksum != 0) {
    InternetChecksum checksum;
    add_pseudo_header(checksum, *packet.ip, udp->bytes);
    checksum.add(datagram);
    if (checksum.sum() != 0xffff) return PacketFault::kBadUdpChecksum;
  }
  packet.kind = PacketKind::kUdp;
  packet.from.port = udp->from_port;
  packet.body = datagram.subspan(sizeof(UdpHeader));
  return PacketFault::kNone;
}

PacketFault parse_ipv4(std::span<const std::byte> bytes, const PacketFilter& filter,
                       DeviceVerified verified, Packet& packet) {
  if (bytes.size() < sizeof(Ipv4Header)) return PacketFault::kTruncated;
  const auto* ip = header_at<Ipv4Header>(bytes);
  if ((ip->version_words >> 4) != 4) return PacketFault::kBadVersion;
  const std::uint32_t header_bytes = ip->header_bytes();
  if (header_bytes < sizeof(Ipv4Header) || header_bytes > bytes.size()) {
    return PacketFault::kBadHeaderLength;
  }
  if (ip->total_bytes < header_bytes || ip->total_bytes > bytes.size()) {
    return PacketFault::kBadLength;
  }
  if (!verified.ip) {
    InternetChecksum checksum;
    checksum.add(bytes.first(header_bytes));
    if (checksum.sum() != 0xffff) return PacketFault::kBadIpChecksum;
  }
  if (ip->to != filter.own.address && !filter.joined(ip->to)) return PacketFault::kForeignAddress;
  // All but "may fragment", "do not fragment" and the reserved bit: more fragments, or an offset.
  if ((ip->fragment & 0x3fff) != 0) return PacketFault::kFragment;
  if (ip->ttl == 0) return PacketFault::kTtlZero;
  packet.ip = ip;
  packet.from.address = ip->from;
  const auto body = bytes.first(ip->total_bytes).subspan(header_bytes);
  // A querier that has no address yet asks from 0.0.0.0; everybody else has one.
  if (ip->protocol == kProtocolIgmp) {
    packet.kind = PacketKind::kIgmp;
    packet.body = body;
    return message_intact(body) ? PacketFault::kNone : PacketFault::kBadIgmp;
  }
  if (impossible_source(ip->from)) return PacketFault::kBadSource;
  if (ip->protocol == kProtocolUdp) return parse_udp(body, filter, verified, packet);
  if (ip->protocol != kProtocolIcmp) return PacketFault::kForeignProtocol;
  packet.kind = PacketKind::kIcmp;
  packet.body = body;
  return message_intact(body) ? PacketFault::kNone : PacketFault::kBadIcmp;
}

}  // namespace

template <>
const std::array<const char*, static_cast<std::size_t>(PacketFault::kCount)>
    CounterNames<PacketFault>::names = {"none",
                                        "rx_drop_truncated",
                                        "rx_drop_own_frame",
                                        "rx_drop_foreign_mac",
                                        "rx_drop_foreign_type",
                                        "rx_drop_bad_arp",
                                        "rx_drop_bad_version",
                                        "rx_drop_bad_header_length",
                                        "rx_drop_bad_length",
                                        "rx_drop_fragment",
                                        "rx_drop_ttl_zero",
                                        "rx_drop_bad_source",
                                        "rx_drop_bad_ip_checksum",
                                        "rx_drop_foreign_address",
                                        "rx_drop_foreign_protocol",
                                        "rx_drop_foreign_port",
                                        "rx_drop_bad_udp_length",
                                        "rx_drop_bad_udp_checksum",
                                        "rx_drop_bad_icmp",
                                        "rx_drop_bad_igmp"};

std::string to_string(const MacAddress& mac) {
  char text[18];
  std::snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", mac.bytes[0], mac.bytes[1],
                mac.bytes[2], mac.bytes[3], mac.bytes[4], mac.bytes[5]);
  return text;
}

MacAddress multicast_mac(std::uint32_t group) {
  return {{0x01, 0x00, 0x5e, static_cast<std::uint8_t>((group >> 16) & 0x7f),
           static_cast<std::uint8_t>(group >> 8), static_cast<std::uint8_t>(group)}};
}

bool not_ours(PacketFault fault) {
  switch (fault) {
    case PacketFault::kOwnFrame:
    case PacketFault::kForeignMac:
    case PacketFault::kForeignType:
    case PacketFault::kForeignAddress:
    case PacketFault::kForeignProtocol:
    case PacketFault::kForeignPort:
      return true;
    default:
      return false;
  }
}

bool PacketFilter::joined(std::uint32_t address) const {
  constexpr std::uint32_t kAllHosts = 0xe0000001;  // IGMP general queries
  if (address == kAllHosts) return true;
  const auto members = std::span{groups}.first(group_count);
  return std::any_of(members.begin(), members.end(),
                     [&](const Endpoint& group) { return group.address == address; });
}

void InternetChecksum::add(std::span<const std::byte> bytes) {
  // 32-bit words into a 64-bit sum: no carry to propagate before 2^32 words, and it vectorises.
  std::uint64_t sum = 0;
  const std::size_t words = bytes.size() / 4;
  for (std::size_t i = 0; i < words; ++i) {
    std::uint32_t word;
    std::memcpy(&word, bytes.data() + 4 * i, sizeof word);
    sum += word;
  }
  std::uint32_t tail = 0;
  if (bytes.size() % 4 != 0) std::memcpy(&tail, bytes.data() + 4 * words, bytes.size() % 4);
  sum += tail;
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  // Bytes at odd offsets count in the other half of the word.
  sum_ += odd_ ? __builtin_bswap16(static_cast<std::uint16_t>(sum)) : sum;
  odd_ ^= (bytes.size() & 1) != 0;
}

std::uint16_t InternetChecksum::sum() const {
  std::uint64_t sum = sum_;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return __builtin_bswap16(static_cast<std::uint16_t>(sum));
}

PacketFault parse_packet(std::span<const std::byte> bytes, const PacketFilter& filter,
                         DeviceVerified verified, Packet& packet) {
  packet = {};
  if (bytes.size() < sizeof(EthernetHeader)) return PacketFault::kTruncated;
  const auto* ethernet = header_at<EthernetHeader>(bytes);
  if (ethernet->from == filter.mac) return PacketFault::kOwnFrame;
  if (ethernet->to != filter.mac && !ethernet->to.multicast()) return PacketFault::kForeignMac;
  packet.ethernet = ethernet;
  const auto body = bytes.subspan(sizeof(EthernetHeader));
  if (ethernet->type == kEtherTypeIpv4) return parse_ipv4(body, filter, verified, packet);
  if (ethernet->type == kEtherTypeArp) return parse_arp(body, *ethernet, packet);
  return PacketFault::kForeignType;
}

void build_ipv4(Ipv4Header& ip, std::uint8_t protocol, std::uint32_t from, std::uint32_t to,
                std::uint32_t body_bytes) {
  const bool multicast = Endpoint{to, 0}.multicast();
  ip = {.version_words = 0x45,
        .service = 0,
        .total_bytes = static_cast<std::uint16_t>(sizeof(Ipv4Header) + body_bytes),
        .id = std::uint16_t{0},  // RFC 6864: without meaning on what must not be fragmented
        .fragment = kDontFragment,
        .ttl = multicast ? kTtlMulticast : kTtlUnicast,
        .protocol = protocol,
        .checksum = std::uint16_t{0},
        .from = from,
        .to = to};
}

std::uint16_t ipv4_checksum(const Ipv4Header& ip) {
  InternetChecksum checksum;
  checksum.add(std::as_bytes(std::span{&ip, 1}));
  return checksum.checksum();
}

void build_udp(UdpHeaders& headers, const MacAddress& from_mac, const MacAddress& to_mac,
               const Endpoint& from, const Endpoint& to, std::uint32_t body_bytes) {
  headers.ethernet = {.to = to_mac, .from = from_mac, .type = kEtherTypeIpv4};
  const auto udp_bytes = static_cast<std::uint16_t>(sizeof(UdpHeader) + body_bytes);
  build_ipv4(headers.ip, kProtocolUdp, from.address, to.address, udp_bytes);
  headers.udp = {
      .from_port = from.port, .to_port = to.port, .bytes = udp_bytes, .checksum = std::uint16_t{0}};
}

std::uint16_t udp_checksum(const UdpHeaders& headers, std::span<const std::byte> head,
                           std::span<const std::byte> payload) {
  InternetChecksum checksum;
  add_pseudo_header(checksum, headers.ip, headers.udp.bytes);
  checksum.add(std::as_bytes(std::span{&headers.udp, 1}));
  checksum.add(head);
  checksum.add(payload);
  // Zero would mean "none" (RFC 768); its ones' complement twin says the same number.
  return checksum.checksum() == 0 ? 0xffff : checksum.checksum();
}

std::uint16_t udp_pseudo_sum(const UdpHeaders& headers) {
  InternetChecksum checksum;
  add_pseudo_header(checksum, headers.ip, headers.udp.bytes);
  return checksum.sum();
}

}  // namespace annulus::dataplane
