// The multicast groups of a port and what IGMP tells the switches about them: a report at once and
// again a second later (one may be lost), and one for every query (RFC 2236, RFC 3376).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "dataplane/clock.h"
#include "dataplane/dpdk/packet.h"

namespace annulus::dataplane {

class Memberships {
 public:
  /// How long a version 1 or 2 querier keeps us to version 2 reports (RFC 3376, 8.12: twice the
  /// default query interval of 125 s, and a response interval of 10 s).
  static constexpr Nanos kOlderQuerierPresent = 260 * kSecond;

  /// Remembers the group; reports are due at once. False when there is no room.
  bool join(std::uint32_t group);

  /// Takes in a query; other IGMP messages are none of a host's business. `delay_seed` differs
  /// between hosts, so that they do not all answer in the same moment. False if it is no query.
  bool on_message(Nanos now, std::span<const std::byte> message, std::uint32_t delay_seed);

  struct Report {
    std::uint32_t group = 0;
    std::uint32_t to = 0;  // where the packet goes
    bool version3 = false;
    bool joined_just_now = false;  // version 3 tells a change from a state
  };
  /// Next report that is due, or false.
  bool next_due(Nanos now, Report& report);

  /// Writes the IGMP message of a report; returns its bytes, at most kReportBytesMax.
  static constexpr std::uint32_t kReportBytesMax = 16;
  static std::uint32_t write(const Report& report, std::span<std::byte> message);

 private:
  struct Group {
    std::uint32_t address = 0;
    std::uint32_t announcements = 0;  // unsolicited reports still to send
    Nanos announce_at = 0;
    Nanos answer_at = kNever;
  };
  std::array<Group, kGroupsMax> groups_;
  std::uint32_t count_ = 0;
  Nanos older_querier_until_ = 0;
};

}  // namespace annulus::dataplane
