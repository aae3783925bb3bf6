// Ethernet, ARP, IPv4, UDP, ICMP and IGMP as they lie on the wire: layouts, checksums, the parser
// of everything received and the builder of everything sent. Knows no DPDK; the transport, the
// net stack, the tests and the fuzzer call it.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "dataplane/counters.h"
#include "dataplane/transport.h"

namespace annulus::dataplane {

/// An integer in network order, alignment 1.
template <std::unsigned_integral T>
class NetInt {
 public:
  NetInt() = default;
  constexpr NetInt(T value) : bytes_(std::bit_cast<Bytes>(swapped(value))) {}  // NOLINT: implicit
  constexpr operator T() const { return swapped(std::bit_cast<T>(bytes_)); }   // NOLINT: implicit

 private:
  struct Bytes {
    std::byte b[sizeof(T)];
  };
  static constexpr T swapped(T value) {
    return sizeof(T) == 2 ? static_cast<T>(__builtin_bswap16(static_cast<std::uint16_t>(value)))
                          : static_cast<T>(__builtin_bswap32(static_cast<std::uint32_t>(value)));
  }
  Bytes bytes_{};
};
using u16be = NetInt<std::uint16_t>;
using u32be = NetInt<std::uint32_t>;

struct MacAddress {
  std::array<std::uint8_t, 6> bytes{};
  bool operator==(const MacAddress&) const = default;
  bool multicast() const { return (bytes[0] & 1) != 0; }
};
constexpr MacAddress kBroadcastMac{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
/// "02:00:00:00:00:01"
std::string to_string(const MacAddress& mac);
/// RFC 1112: the low 23 bits of the group behind 01:00:5e.
MacAddress multicast_mac(std::uint32_t group);

constexpr std::uint16_t kEtherTypeIpv4 = 0x0800;
constexpr std::uint16_t kEtherTypeArp = 0x0806;
constexpr std::uint8_t kProtocolIcmp = 1;
constexpr std::uint8_t kProtocolIgmp = 2;
constexpr std::uint8_t kProtocolUdp = 17;
constexpr std::uint16_t kDontFragment = 0x4000;

struct EthernetHeader {
  MacAddress to;
  MacAddress from;
  u16be type;
};
static_assert(sizeof(EthernetHeader) == 14 && alignof(EthernetHeader) == 1);

struct ArpMessage {
  u16be hardware_type;  // 1, Ethernet
  u16be protocol_type;  // kEtherTypeIpv4
  std::uint8_t hardware_bytes;
  std::uint8_t protocol_bytes;
  u16be operation;  // 1 request, 2 reply
  MacAddress sender_mac;
  u32be sender_address;
  MacAddress target_mac;
  u32be target_address;
};
static_assert(sizeof(ArpMessage) == 28 && alignof(ArpMessage) == 1);

struct Ipv4Header {
  std::uint8_t version_words;  // 4 << 4 | header length in 32-bit words
  std::uint8_t service;
  u16be total_bytes;
  u16be id;
  u16be fragment;  // flags and offset
  std::uint8_t ttl;
  std::uint8_t protocol;
  u16be checksum;
  u32be from;
  u32be to;
  std::uint32_t header_bytes() const { return (version_words & 0xfu) * 4; }
};
static_assert(sizeof(Ipv4Header) == 20 && alignof(Ipv4Header) == 1);

struct UdpHeader {
  u16be from_port;
  u16be to_port;
  u16be bytes;  // header included
  u16be checksum;
};
static_assert(sizeof(UdpHeader) == 8 && alignof(UdpHeader) == 1);

struct IcmpHeader {
  std::uint8_t type;
  std::uint8_t code;
  u16be checksum;
  u32be rest;  // echo: id and sequence
};
static_assert(sizeof(IcmpHeader) == 8 && alignof(IcmpHeader) == 1);

/// Everything in front of a datagram that we send.
struct UdpHeaders {
  EthernetHeader ethernet;
  Ipv4Header ip;
  UdpHeader udp;
};
static_assert(sizeof(UdpHeaders) == 42 && alignof(UdpHeaders) == 1);

/// The internet checksum (RFC 1071) of parts that follow each other, of any length each.
class InternetChecksum {
 public:
  void add(std::span<const std::byte> bytes);
  void add(std::uint16_t value) {
    const u16be wire = value;
    add(std::as_bytes(std::span{&wire, 1}));
  }
  /// The sum itself, not complemented: 0xffff over bytes that hold a right checksum.
  std::uint16_t sum() const;
  /// What belongs into a checksum field that was zero while summed.
  std::uint16_t checksum() const { return static_cast<std::uint16_t>(~sum()); }

 private:
  std::uint64_t sum_ = 0;  // of 16-bit words in host order; swapped once, in sum()
  bool odd_ = false;
};

/// Why a received packet was dropped; each is a counter of its transport.
enum class PacketFault : std::uint8_t {
  kNone = 0,
  kTruncated,        // shorter than its headers
  kOwnFrame,         // our own multicast came back
  kForeignMac,       // for another station
  kForeignType,      // neither IPv4 nor ARP
  kBadArp,           // not Ethernet and IPv4, or an impossible sender
  kBadVersion,       // IPv4 type, but not version 4
  kBadHeaderLength,  // IPv4 header shorter than 20 bytes or longer than the packet
  kBadLength,        // total length shorter than the header or longer than the packet
  kFragment,         // IP fragments are not reassembled; frames never need them
  kTtlZero,
  kBadSource,  // a source address that nobody can have
  kBadIpChecksum,
  kForeignAddress,   // neither our address nor a group that was joined
  kForeignProtocol,  // not UDP, ICMP or IGMP
  kForeignPort,
  kBadUdpLength,
  kBadUdpChecksum,
  kBadIcmp,  // truncated or checksum wrong
  kBadIgmp,  // truncated or checksum wrong
  kCount,
};
/// Whether the sender meant somebody else, rather than sent something broken.
bool not_ours(PacketFault fault);

constexpr std::uint32_t kGroupsMax = 16;

/// What a receiver admits.
struct PacketFilter {
  MacAddress mac;
  Endpoint own;
  std::array<Endpoint, kGroupsMax> groups{};
  std::uint32_t group_count = 0;
  bool joined(std::uint32_t address) const;
};

/// What the device has verified already and need not be summed again.
struct DeviceVerified {
  bool ip = false;
  bool udp = false;
};

enum class PacketKind : std::uint8_t { kUdp, kArp, kIcmp, kIgmp };

/// A validated packet; refers to the bytes it was parsed from.
struct Packet {
  PacketKind kind = PacketKind::kUdp;
  const EthernetHeader* ethernet = nullptr;
  const Ipv4Header* ip = nullptr;   // not for ARP
  Endpoint from;                    // UDP; the port is 0 otherwise
  std::span<const std::byte> body;  // UDP payload; or the ARP, ICMP or IGMP message
};

/// Validates one Ethernet frame. Reads nothing outside `bytes` whatever they hold.
PacketFault parse_packet(std::span<const std::byte> bytes, const PacketFilter& filter,
                         DeviceVerified verified, Packet& packet);

/// Fills an IPv4 header without options but for `checksum`, which is left zero.
void build_ipv4(Ipv4Header& ip, std::uint8_t protocol, std::uint32_t from, std::uint32_t to,
                std::uint32_t body_bytes);
std::uint16_t ipv4_checksum(const Ipv4Header& ip);

/// Fills all headers of one datagram; both checksums are left zero.
void build_udp(UdpHeaders& headers, const MacAddress& from_mac, const MacAddress& to_mac,
               const Endpoint& from, const Endpoint& to, std::uint32_t body_bytes);
/// The UDP checksum of the datagram `head` + `payload` behind `headers`, whose own field is zero.
std::uint16_t udp_checksum(const UdpHeaders& headers, std::span<const std::byte> head,
                           std::span<const std::byte> payload);
/// What a device that completes checksums wants in the field: the pseudo header's sum.
std::uint16_t udp_pseudo_sum(const UdpHeaders& headers);

}  // namespace annulus::dataplane
