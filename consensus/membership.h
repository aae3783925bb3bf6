// How the members of a cluster change: by values of the one order, each a whole new configuration.
// Here is what such a value says, which changes are allowed, and how configurations get about.
//
// Rules (protocol.md T5, T5b):
// - The configuration decided at instance n governs from n+1 on. Its coordinator proposes nothing
//   past n before everything up to n is decided (the window past a change is 0: it costs one round
//   trip, and leaves no instance in doubt). So an instance is never open to two majorities.
// - A ballot belongs to one configuration. Whoever coordinates under a new one runs Phase 1 anew,
//   among its members. Frames of Phase 1 and 2 count only between nodes of the same epoch.
// - A member takes part in a configuration once it knows everything below `from` to be chosen, and
//   holds it as far back as any acceptor did (`base`). Hence a majority that acts under the new
//   configuration holds what was decided under the old one, and the old members may go.
// - Until then it goes on under the one before, if it had a part in that: were it to leave that one
//   upon mere news, the few who know what was decided could die and leave nobody who may vote in
//   either. With a log, that all before `from` is chosen is kept together with the configuration.
// - Of several changes that were proposed to follow one configuration, by coordinators that did not
//   hear of each other, the first in the order is carried out. The others may still be decided, for
//   Phase 1 proposes them again: they change nothing, and nothing waits for them.
//   Who goes by the order, as acceptors do, sees which was first; replicas, which may come to a
//   place in it with somebody's state, go by the news.
// - One member changes at a time, and an identity is never used twice: a node whose memory is lost
//   is another node. (Replicas vote on nothing: one comes back as who it was, candidate.h.)
//
// Why a memory acceptor that was started again is safe. Let x be the lost one, and C' = C - x + y
// decided at n. Up to n only majorities of C count. x's votes stay in them: cast, and never taken
// back, for nobody speaks as x again. A ballot after x's death is promised by a majority of C
// without x; it meets every majority that decided anything, and not in x, so somebody in it knows.
// Past n nobody can decide under C: whoever leads a ballot of C knows, by Phase 1, that n is
// accepted, proposes it again there, and stops. And before anybody acts under C', a majority of C'
// holds all up to n. So y, who has promised and voted for nothing, has forgotten nothing. Went it
// on as x instead, it could promise a ballot and report as empty an instance that x had completed a
// majority for: that is planted as `amnesiac-votes`. With a majority lost at once nobody can decide
// n, and the cluster stays where it is.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "consensus/effects.h"
#include "consensus/messages.h"
#include "consensus/port.h"
#include "consensus/ring.h"

namespace annulus::consensus {

struct WireConfiguration {
  u32le epoch;
  std::uint8_t acceptors;
  std::uint8_t learners;
  u16le reserved;
  u64le from;
  u64le base;
  std::array<u64le, 8> operations;
  // WireMember[acceptors + learners]
};
struct WireMember {
  u32le id;
  u32le address;
  u16le port;
  u16le reserved;
  u64le incarnation;
  u64le partitions;  // of a learner
};
/// As a message, and as the bytes of a value: it fits one frame.
constexpr std::size_t kConfigurationBytesMax =
    sizeof(WireConfiguration) + (kAcceptorsMax + kLearnersMax) * sizeof(WireMember);
static_assert(kConfigurationBytesMax <= dataplane::kMessageBytesMax);

bool valid_configuration(std::span<const std::byte> bytes);
/// Writes to `out`, which has room for kConfigurationBytesMax; returns how much.
std::size_t encode(const Configuration& configuration, std::span<std::byte> out);
/// What the bytes, which are valid, change of `current`.
Configuration decode(std::span<const std::byte> bytes, const Configuration& current);

struct Change {
  std::uint64_t operation = 0;
  ChangeVerb verb{};
  JoinKind kind{};
  NodeId member{};  // who goes
  Member comes{};   // its id is given to it
  PartitionMask partitions = kAllPartitions;
};
ChangeRequest to_wire(const Change& change);
Change from_wire(const ChangeRequest& wire);

enum class ChangeVerdict : std::uint8_t {
  kAllowed,
  kDone,           // that operation, before
  kNoSuchMember,   // who is to go is none
  kAlreadyMember,  // who is to come is one: its endpoint is taken
  kTooMany,
  kTooFew,     // a cluster keeps an acceptor and a replica
  kBusy,       // another change is under way
  kLastState,  // no other replica has the state yet of the one that is to go
};
const char* to_string(ChangeVerdict verdict);

/// Whether the change may be made of `current`.
ChangeVerdict judge(const Configuration& current, const Change& change);
/// What must be the same in nodes that count each other's promises: `settings`, and the members.
std::uint64_t fingerprint(const Configuration& configuration, std::uint64_t settings);

/// The configuration after it, which is allowed, if its instance is `instance`.
Configuration changed(const Configuration& current, const Change& change, Instance instance,
                      Instance base);

/// A configuration for other threads to read: written by the node's core alone.
class ConfigurationBoard {
 public:
  void publish(const Configuration& configuration);
  /// What was published last, as encode() writes it; empty if nothing was.
  std::vector<std::byte> read() const;

 private:
  static constexpr std::size_t kWords = (kConfigurationBytesMax + 7) / 8;
  // Odd while it is written to. Each release pairs with an acquire of read(), which tries again if
  // it saw an odd number, or not the same one before and after.
  std::atomic<std::uint64_t> turn_{0};
  std::atomic<std::uint64_t> bytes_{0};
  std::array<std::atomic<std::uint64_t>, kWords> words_{};
};

/// What a frame's epoch says of who knows less: asks the sender for its configuration, or tells it
/// this node's. A few times a millisecond at most, for a burst may be of one mind.
class ConfigurationNews {
 public:
  /// `teach`: this kind of node tells others. Needs room for one frame.
  void on_frame(const Received& in, const Configuration& own, bool teach, Nanos now,
                Effects& effects);
  static void tell(const Endpoint& to, const Configuration& configuration, Effects& effects);

 private:
  Nanos quiet_until_ = 0;
};

}  // namespace annulus::consensus
