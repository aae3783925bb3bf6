// Which hardware address answers for which IPv4 address: a fixed table, filled by ARP, written by
// the net stack and read on every transmitted frame.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "dataplane/clock.h"
#include "dataplane/dpdk/packet.h"

namespace annulus::dataplane {

class NeighbourTable {
 public:
  static constexpr std::uint32_t kWays = 8;
  static constexpr std::uint32_t kSets = 128;
  /// First pause between two requests for one address; doubles up to the longest.
  static constexpr Nanos kRetryFirst = 50 * kMillisecond;
  static constexpr Nanos kRetryLongest = kSecond;
  /// A neighbour in use is asked again when it has not been heard for this long ...
  static constexpr Nanos kConfirmAfter = 30 * kSecond;
  /// ... and forgotten when that many requests in a row had no answer.
  static constexpr std::uint32_t kUnansweredMax = 5;

  struct Route {
    const MacAddress* mac = nullptr;  // null while unresolved; valid until the next call
    bool request_due = false;         // the caller sends an ARP request, to `mac` if it is known
  };
  /// Where to send a frame for `address`. Makes an entry if there is none, in place of the one of
  /// its set that was used longest ago.
  Route find(Nanos now, std::uint32_t address);

  /// `address` has announced `mac`. Only known addresses are updated, unless `insert`: otherwise
  /// anybody could fill the table.
  void learn(Nanos now, std::uint32_t address, const MacAddress& mac, bool insert);

 private:
  struct Entry {
    std::uint32_t address = 0;  // 0: free
    bool resolved = false;
    std::uint32_t unanswered = 0;
    MacAddress mac;
    Nanos used_at = 0;
    Nanos confirmed_at = 0;
    Nanos request_at = 0;  // not before
    Nanos retry = kRetryFirst;
  };
  std::span<Entry> set_of(std::uint32_t address);
  Entry* lookup(std::uint32_t address);
  Entry& replace(Nanos now, std::uint32_t address);

  std::array<Entry, kSets * kWays> entries_;
};

}  // namespace annulus::dataplane
