#include "dataplane/dpdk/neighbour_table.h"

#include <algorithm>

namespace annulus::dataplane {

NeighbourTable::Route NeighbourTable::find(Nanos now, std::uint32_t address) {
  Entry* found = lookup(address);
  Entry& entry = found != nullptr ? *found : replace(now, address);
  entry.used_at = now;
  const bool fresh = entry.resolved && now - entry.confirmed_at < kConfirmAfter;
  if (fresh) return {.mac = &entry.mac};
  Route route{.mac = entry.resolved ? &entry.mac : nullptr};
  if (now < entry.request_at) return route;
  if (entry.resolved && entry.unanswered == kUnansweredMax) {
    // Gone, or it has another hardware address now: ask everybody from here on.
    entry.resolved = false;
    route.mac = nullptr;
  }
  entry.unanswered = std::min(entry.unanswered + 1, kUnansweredMax);
  entry.request_at = now + entry.retry;
  entry.retry = std::min(2 * entry.retry, kRetryLongest);
  route.request_due = true;
  return route;
}

void NeighbourTable::learn(Nanos now, std::uint32_t address, const MacAddress& mac, bool insert) {
  Entry* found = lookup(address);
  if (found == nullptr && !insert) return;
  Entry& entry = found != nullptr ? *found : replace(now, address);
  entry.resolved = true;
  entry.unanswered = 0;
  entry.mac = mac;
  entry.confirmed_at = now;
  entry.request_at = now;
  entry.retry = kRetryFirst;
}

std::span<NeighbourTable::Entry> NeighbourTable::set_of(std::uint32_t address) {
  // Neighbours of one subnet differ in the low bits, so these alone spread them evenly.
  return std::span{entries_}.subspan((address % kSets) * kWays, kWays);
}

NeighbourTable::Entry* NeighbourTable::lookup(std::uint32_t address) {
  for (Entry& entry : set_of(address)) {
    if (entry.address == address) return &entry;
  }
  return nullptr;
}

NeighbourTable::Entry& NeighbourTable::replace(Nanos now, std::uint32_t address) {
  const auto set = set_of(address);
  // A free entry counts as used longest ago.
  auto victim = std::min_element(set.begin(), set.end(), [](const Entry& a, const Entry& b) {
    return (a.address == 0 ? INT64_MIN : a.used_at) < (b.address == 0 ? INT64_MIN : b.used_at);
  });
  *victim = Entry{.address = address, .used_at = now, .request_at = now};
  return *victim;
}

}  // namespace annulus::dataplane
