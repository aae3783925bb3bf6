// What a host on an Ethernet segment owes its neighbours and the kernel would otherwise do: ARP
// answered and asked, ICMP echo answered, group memberships reported. Owned by one transport.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dataplane/clock.h"
#include "dataplane/counters.h"
#include "dataplane/dpdk/memberships.h"
#include "dataplane/dpdk/neighbour_table.h"
#include "dataplane/dpdk/packet.h"

namespace annulus::dataplane {

enum class NetStackCounter : std::uint8_t {
  kArpRequestsSent,
  kArpRepliesSent,
  kArpLearned,
  kArpConflicts,  // another station claims our address
  kIcmpRepliesSent,
  kIcmpDropRate,   // more echo requests than are answered per second
  kIcmpDropOther,  // not an echo request to us
  kIgmpReportsSent,
  kIgmpQueries,
  kIgmpDropOther,  // not a query
  kCount,
};

/// Where a net stack's own packets go.
class PacketSink {
 public:
  virtual ~PacketSink() = default;
  /// Sends one Ethernet frame, copied before this returns. Best effort.
  virtual void send_packet(std::span<const std::byte> packet) = 0;
};

class NetStack {
 public:
  static constexpr std::uint32_t kEchoRepliesPerSecond = 1000;

  /// `mtu` bounds the echo replies; longer requests cannot arrive.
  NetStack(const MacAddress& mac, std::uint32_t address, std::uint32_t mtu, PacketSink& sink);

  /// Reports the group from the next tick on. False when there is no room.
  bool join(std::uint32_t group) { return memberships_.join(group); }

  /// An ARP, ICMP or IGMP packet that parse_packet() found valid.
  void on_packet(Nanos now, const Packet& packet);

  /// Timers: the announcement at start, membership reports. Cheap; call it on every receive.
  void tick(Nanos now) {
    if (now >= next_tick_) run_timers(now);
  }

  /// The hardware address of a unicast neighbour, or null while it is not known (then it has been
  /// asked for). Valid until the next call.
  const MacAddress* resolve(Nanos now, std::uint32_t address);

  Counters<NetStackCounter>& counters() { return counters_; }
  const Counters<NetStackCounter>& counters() const { return counters_; }

 private:
  void on_arp(Nanos now, const ArpMessage& arp);
  void on_icmp(Nanos now, const Packet& packet);
  void run_timers(Nanos now);
  void send_arp(std::uint16_t operation, const MacAddress& to, std::uint32_t target_address);
  void send_report(const Memberships::Report& report);

  const MacAddress mac_;
  const std::uint32_t address_;
  PacketSink& sink_;
  NeighbourTable neighbours_;
  Memberships memberships_;
  std::vector<std::byte> scratch_;  // one outgoing packet
  Nanos next_tick_ = INT64_MIN;
  std::uint32_t announcements_ = 2;
  Nanos announce_at_ = INT64_MIN;
  Nanos echo_second_ = INT64_MIN;  // start of the second that echo_replies_ counts
  std::uint32_t echo_replies_ = 0;
  Counters<NetStackCounter> counters_;
};

}  // namespace annulus::dataplane
