// What goes wrong, when and where: a plan drawn from the seed before the run, so that the same
// faults hit whatever the protocol does.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tests/sim/network.h"
#include "tests/sim/rng.h"

namespace annulus::sim {

enum class FaultKind : std::uint8_t {
  kLoss,           // one directed link loses frames
  kNodeLoss,       // every link into one node loses frames
  kSendLoss,       // every link out of a node loses frames
  kMulticastLoss,  // one receiver misses frames sent to the group
  kDuplicate,
  kReorder,
  kSlowLink,  // one direction only
  kSlowNode,  // every link from and to a node
  kBitFlips,
  kLinkFull,
  kCutOneWay,
  kStall,     // a stage is not polled
  kElection,  // another acceptor starts Phase 1
  kCount,
};
const char* to_string(FaultKind kind);

struct Fault {
  FaultKind kind{};
  Nanos start = 0;
  Nanos end = 0;
  std::uint32_t a = 0;  // end, stage or acceptor
  std::uint32_t b = 0;  // the other end of a link
  std::uint32_t amount = 0;
};

struct FaultOptions {
  std::uint32_t count = 55;
  Nanos gap_max = 8 * kMillisecond;
  std::uint32_t ends = 0;
  std::uint32_t node_ends = 0;  // the first ends are nodes, the rest clients
  std::uint32_t stages = 0;
  std::uint32_t acceptors = 0;
};

/// Ordered by start.
std::vector<Fault> plan_faults(Rng& rng, const FaultOptions& options);

/// Sets every link of `network` to `base` with the faults that are active at `now` on top.
void apply_faults(SimNetwork& network, std::span<const LinkQuality> base,
                  std::span<const Fault> faults, Nanos now);

}  // namespace annulus::sim
