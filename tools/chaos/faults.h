// What may go wrong, and to whom: a table, and a plan drawn from a seed that never has more nodes
// out of order than the cluster bears. Every node comes back to what it was, or the run fails.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/bench/key_chooser.h"
#include "tools/config.h"

namespace annulus::chaos {

enum class Medium : std::uint8_t { kUdp = 1, kMemif = 2, kVeth = 4 };

enum class Fault : std::uint8_t {
  kKill,         // kill -9; started again later
  kStop,         // SIGSTOP, and SIGCONT later
  kLinkDown,     // nothing from or to a node
  kOneWay,       // nothing from one node to another
  kNoMulticast,  // what is sent to the group does not reach a node
  kLoss,         // of all links, as are those that follow
  kDelay,
  kReorder,
  kDuplicate,
  kDiskFull,  // killed; no room for its larger log when it starts again; then there is
};

/// Whom a fault is about.
enum class Victim : std::uint8_t { kAcceptor, kReplica, kProxy, kNetwork };

struct FaultRow {
  Fault fault;
  Victim victim;
  const char* name;
  std::uint32_t weight;  // how often, relative to the others
  std::uint8_t media;    // sum of Medium
  int lasts_least_ms;
  int lasts_most_ms;
};
/// Every fault that can be drawn.
std::span<const FaultRow> fault_rows();

enum class Health : std::uint8_t {
  kWhole,
  kFaulty,     // a fault lasts
  kReturning,  // it is over, and the node not yet what it was
  kGone,       // was not whole in time: the run has failed
};

struct Drawn {
  const FaultRow* row = nullptr;
  std::uint32_t node = 0;   // index into the configuration's nodes; the victim
  std::uint32_t other = 0;  // kOneWay: to whom nothing comes
  Nanos lasts = 0;
  double strength = 0;  // of network faults, 0 to 1
};
std::string describe(const Drawn& drawn, const tools::ClusterConfig& cluster);

/// What the plan must know.
struct Situation {
  const tools::ClusterConfig& cluster;
  Medium medium{};
  std::span<const Health> health;           // of each node
  bool network_faulty = false;              // one such fault at a time
  std::optional<std::uint32_t> small_disk;  // the acceptor whose disk may be found full
};

class Plan {
 public:
  explicit Plan(std::uint64_t seed) : random_(seed) {}
  /// The next fault, or nothing if no more can be borne now.
  std::optional<Drawn> draw(const Situation& situation);
  /// How long until the next is drawn.
  Nanos pause();

 private:
  bool bearable(const Situation& situation, const FaultRow& row, std::uint32_t node) const;

  bench::Random random_;
};

}  // namespace annulus::chaos
