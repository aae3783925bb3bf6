#include "dataplane/dpdk/net_stack.h"

#include <cstring>

namespace annulus::dataplane {
namespace {

constexpr Nanos kTick = 10 * kMillisecond;
constexpr std::uint16_t kArpRequest = 1;
constexpr std::uint16_t kArpReply = 2;
constexpr std::uint8_t kEchoRequest = 8;
constexpr std::uint8_t kEchoReply = 0;

struct ArpPacket {
  EthernetHeader ethernet;
  ArpMessage arp;
};

/// IGMP demands the router alert option (RFC 2236, 2).
struct IgmpHeaders {
  EthernetHeader ethernet;
  Ipv4Header ip;
  u32be router_alert;
};
constexpr std::uint32_t kRouterAlert = 0x94040000;

}  // namespace

template <>
const std::array<const char*, static_cast<std::size_t>(NetStackCounter::kCount)>
    CounterNames<NetStackCounter>::names = {
        "arp_requests_sent", "arp_replies_sent", "arp_learned",     "arp_conflicts",
        "icmp_replies_sent", "icmp_drop_rate",   "icmp_drop_other", "igmp_reports_sent",
        "igmp_queries",      "igmp_drop_other"};

NetStack::NetStack(const MacAddress& mac, std::uint32_t address, std::uint32_t mtu,
                   PacketSink& sink)
    : mac_(mac), address_(address), sink_(sink), scratch_(sizeof(EthernetHeader) + mtu) {}

void NetStack::on_packet(Nanos now, const Packet& packet) {
  switch (packet.kind) {
    case PacketKind::kArp:
      on_arp(now, *reinterpret_cast<const ArpMessage*>(packet.body.data()));
      break;
    case PacketKind::kIcmp:
      on_icmp(now, packet);
      break;
    case PacketKind::kIgmp:
      counters_[memberships_.on_message(now, packet.body, address_)
                    ? NetStackCounter::kIgmpQueries
                    : NetStackCounter::kIgmpDropOther]
          .add();
      break;
    case PacketKind::kUdp:
      CHECK(false);  // the transport's
  }
}

const MacAddress* NetStack::resolve(Nanos now, std::uint32_t address) {
  const NeighbourTable::Route route = neighbours_.find(now, address);
  if (route.request_due) {
    counters_[NetStackCounter::kArpRequestsSent].add();
    send_arp(kArpRequest, route.mac != nullptr ? *route.mac : kBroadcastMac, address);
  }
  return route.mac;
}

void NetStack::on_arp(Nanos now, const ArpMessage& arp) {
  if (arp.sender_address == address_) {
    counters_[NetStackCounter::kArpConflicts].add();
    return;
  }
  const bool for_us = arp.target_address == address_;
  if (arp.sender_address != 0) {
    counters_[NetStackCounter::kArpLearned].add();
    // Whoever asks for us is about to send to us and will want an answer (RFC 826).
    neighbours_.learn(now, arp.sender_address, arp.sender_mac,
                      for_us && arp.operation == kArpRequest);
  }
  if (!for_us || arp.operation != kArpRequest) return;
  counters_[NetStackCounter::kArpRepliesSent].add();
  send_arp(kArpReply, arp.sender_mac, arp.sender_address);
}

void NetStack::on_icmp(Nanos now, const Packet& packet) {
  const auto& request = *reinterpret_cast<const IcmpHeader*>(packet.body.data());
  if (request.type != kEchoRequest || request.code != 0 || packet.ip->to != address_) {
    counters_[NetStackCounter::kIcmpDropOther].add();
    return;
  }
  if (echo_second_ == INT64_MIN || now - echo_second_ >= kSecond) {
    echo_second_ = now;
    echo_replies_ = 0;
  }
  const std::size_t bytes = sizeof(EthernetHeader) + sizeof(Ipv4Header) + packet.body.size();
  if (echo_replies_ == kEchoRepliesPerSecond || bytes > scratch_.size()) {
    counters_[NetStackCounter::kIcmpDropRate].add();
    return;
  }
  ++echo_replies_;
  auto& ethernet = *reinterpret_cast<EthernetHeader*>(scratch_.data());
  auto& ip = *reinterpret_cast<Ipv4Header*>(&ethernet + 1);
  auto& icmp = *reinterpret_cast<IcmpHeader*>(&ip + 1);
  ethernet = {.to = packet.ethernet->from, .from = mac_, .type = kEtherTypeIpv4};
  build_ipv4(ip, kProtocolIcmp, address_, packet.from.address,
             static_cast<std::uint32_t>(packet.body.size()));
  ip.checksum = ipv4_checksum(ip);
  std::memcpy(&icmp, packet.body.data(), packet.body.size());
  icmp.type = kEchoReply;
  icmp.checksum = std::uint16_t{0};
  InternetChecksum checksum;
  checksum.add({reinterpret_cast<const std::byte*>(&icmp), packet.body.size()});
  icmp.checksum = checksum.checksum();
  counters_[NetStackCounter::kIcmpRepliesSent].add();
  sink_.send_packet({scratch_.data(), bytes});
}

void NetStack::run_timers(Nanos now) {
  next_tick_ = now + kTick;
  if (announcements_ > 0 && now >= announce_at_) {
    // Gratuitous ARP (RFC 5227, 2.3): neighbours that knew this address elsewhere relearn it.
    --announcements_;
    announce_at_ = now + kSecond;
    counters_[NetStackCounter::kArpRequestsSent].add();
    send_arp(kArpRequest, kBroadcastMac, address_);
  }
  Memberships::Report report;
  while (memberships_.next_due(now, report)) send_report(report);
}

void NetStack::send_arp(std::uint16_t operation, const MacAddress& to,
                        std::uint32_t target_address) {
  const ArpPacket packet{.ethernet = {.to = to, .from = mac_, .type = kEtherTypeArp},
                         .arp = {.hardware_type = std::uint16_t{1},
                                 .protocol_type = kEtherTypeIpv4,
                                 .hardware_bytes = 6,
                                 .protocol_bytes = 4,
                                 .operation = operation,
                                 .sender_mac = mac_,
                                 .sender_address = address_,
                                 .target_mac = operation == kArpReply ? to : MacAddress{},
                                 .target_address = target_address}};
  sink_.send_packet(std::as_bytes(std::span{&packet, 1}));
}

void NetStack::send_report(const Memberships::Report& report) {
  struct {
    IgmpHeaders headers;
    std::array<std::byte, Memberships::kReportBytesMax> message;
  } packet;
  const std::uint32_t bytes = Memberships::write(report, packet.message);
  packet.headers.ethernet = {.to = multicast_mac(report.to), .from = mac_, .type = kEtherTypeIpv4};
  Ipv4Header& ip = packet.headers.ip;
  build_ipv4(ip, kProtocolIgmp, address_, report.to, sizeof packet.headers.router_alert + bytes);
  ip.version_words = 0x46;
  packet.headers.router_alert = kRouterAlert;
  InternetChecksum checksum;
  checksum.add(std::as_bytes(std::span{&ip, 1}));
  checksum.add(std::as_bytes(std::span{&packet.headers.router_alert, 1}));
  ip.checksum = checksum.checksum();
  counters_[NetStackCounter::kIgmpReportsSent].add();
  sink_.send_packet(std::as_bytes(std::span{&packet, 1}).first(sizeof(IgmpHeaders) + bytes));
}

}  // namespace annulus::dataplane
