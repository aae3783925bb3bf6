// What goes wrong, when and where: a plan drawn from the seed before the run, so that the same
// faults hit whatever the protocol does.
#pragma once

#include <array>
#include <cstdint>
#include <string>
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
  kPartition,  // links from a set of ends to another lose frames, mostly all
  kStall,      // a stage is not polled
  kPause,      // no stage of a node is polled
  kClockJump,  // a node's clock goes forward at once
  kCrash,      // a node is never polled again, from the midst of its next turn on
  kRejoin,     // a crashed acceptor is started again, without what it promised and accepted
  kElection,   // another acceptor starts Phase 1
  // Drawn of clusters with disks only.
  kRestart,      // a node that crashed or stopped starts again, with what its disk holds, if any
  kPowerCut,     // every acceptor and replica crashes
  kDiskDamage,   // blocks of one acceptor's disk rot, or are overwritten with others
  kDiskFailure,  // a write of one acceptor's disk fails
  // Never drawn by weight: planned where they mean something.
  kSourceLost,      // a replica that is asked for its state dies, pauses or is cut off midway
  kAddAcceptor,     // an operator asks for a change of members
  kRemoveAcceptor,  // likewise
  kRemoveReplica,   // likewise, and stops it then
  kCount,
};
constexpr auto kFirstDiskFault = static_cast<std::size_t>(FaultKind::kRestart);
constexpr auto kFirstPlannedFault = static_cast<std::size_t>(FaultKind::kSourceLost);
/// Of kSourceLost, in `a`.
constexpr std::uint32_t kWaysToLoseASource = 4;
const char* to_string(FaultKind kind);

constexpr std::uint32_t kAllFrames = 1'000'000;  // as a loss: so many of a million

/// Network ends, one bit each.
using EndSet = std::uint32_t;
constexpr std::uint32_t kEndsMax = 32;

struct Fault {
  FaultKind kind{};
  Nanos start = 0;
  Nanos end = 0;
  std::uint32_t a = 0;  // end, node, stage or acceptor
  std::uint32_t b = 0;  // the other end of a link
  std::uint32_t amount = 0;
  EndSet from{};  // of a partition
  EndSet to{};
};

/// How often each kind occurs, by kind.
using FaultWeights = std::array<std::uint32_t, static_cast<std::size_t>(FaultKind::kCount)>;
extern const FaultWeights kUsualFaults;
extern const FaultWeights kUsualDiskFaults;
/// A random subset of all kinds, crashes included, with random weights.
FaultWeights draw_weights(Rng& rng, bool durable);

struct FaultOptions {
  FaultWeights weights = kUsualFaults;
  std::uint32_t count = 55;
  Nanos gap_max = 8 * kMillisecond;
  std::uint32_t ends = 0;
  std::uint32_t node_ends = 0;  // the first ends are nodes, the rest clients
  std::uint32_t stages = 0;
  std::uint32_t acceptors = 0;
  std::uint32_t nodes = 0;     // the first are acceptors, then replicas, then clients
  std::uint32_t replicas = 0;  // the last of them never crashes for good
  bool durable = false;        // what crashed may come back
  std::uint32_t damaged = 0;   // the one acceptor whose disk may be damaged
  std::vector<std::uint32_t> executing_stages;  // one of each replica
  /// Of clusters without disks: replicas that may crash and start again with nothing.
  std::vector<std::uint32_t> returning;
  bool changes = false;  // of members, by an operator
};

/// One line for people.
std::string describe(const Fault& fault);

/// Ordered by start.
std::vector<Fault> plan_faults(Rng& rng, const FaultOptions& options);

/// Sets every link of `network` to `base` with the faults that are active at `now` on top.
void apply_faults(SimNetwork& network, std::span<const LinkQuality> base,
                  std::span<const Fault> faults, Nanos now);

}  // namespace annulus::sim
