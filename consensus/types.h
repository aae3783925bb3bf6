// The nouns of the protocol as distinct types. Ids do not convert into each other or into integers.
#pragma once

#include <compare>
#include <cstdint>

namespace annulus::consensus {

/// Unique for every identity ever admitted to a cluster, at most 24 bits, never reused: bootstrap
/// members take theirs from the config, which has those below kFirstAssignedId; a change of
/// membership gives kFirstAssignedId plus the new epoch. 0 is a client that the config does not
/// list.
enum class NodeId : std::uint32_t {};
constexpr NodeId kNoNode{0};
constexpr std::uint32_t kNodeIdMax = (1u << 24) - 1;
constexpr std::uint32_t kFirstAssignedId = 1u << 20;
/// Who proposes changes of membership: no node, so that no client can seem to.
constexpr NodeId kMembership{kNodeIdMax};

/// Position in the one total order; the first is 1, so that 0 can mean "none".
enum class Instance : std::uint64_t {};
constexpr Instance kFirstInstance{1};
constexpr Instance operator+(Instance a, std::uint64_t by) {
  return Instance{static_cast<std::uint64_t>(a) + by};
}
constexpr Instance operator-(Instance a, std::uint64_t by) {
  return Instance{static_cast<std::uint64_t>(a) - by};
}
constexpr std::uint64_t operator-(Instance a, Instance b) {
  return static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b);
}
constexpr Instance& operator++(Instance& a) { return a = a + 1; }
constexpr std::uint64_t raw(Instance a) { return static_cast<std::uint64_t>(a); }
constexpr std::uint32_t raw(NodeId a) { return static_cast<std::uint32_t>(a); }

/// The papers' "round": ordered by number, unique by the id of the coordinator that made it (T2).
enum class Ballot : std::uint64_t {};
constexpr Ballot kNoBallot{0};
constexpr Ballot make_ballot(std::uint64_t round, NodeId coordinator) {
  return Ballot{(round << 24) | raw(coordinator)};
}
constexpr std::uint64_t raw(Ballot a) { return static_cast<std::uint64_t>(a); }
constexpr std::uint64_t round_of(Ballot a) { return raw(a) >> 24; }
constexpr NodeId coordinator_of(Ballot a) {
  return NodeId{static_cast<std::uint32_t>(raw(a) & kNodeIdMax)};
}

/// Bit p: the value concerns partition p. Part of the value's content (hashed), so that only the
/// mask of a decided value lets a learner skip it.
enum class PartitionMask : std::uint64_t {};
constexpr PartitionMask kAllPartitions{~std::uint64_t{0}};
constexpr bool intersects(PartitionMask a, PartitionMask b) {
  return (static_cast<std::uint64_t>(a) & static_cast<std::uint64_t>(b)) != 0;
}
constexpr std::uint64_t raw(PartitionMask a) { return static_cast<std::uint64_t>(a); }

/// A value's name, apart from any ballot (T1). A proposer never uses an (epoch, sequence) twice,
/// and an epoch outlives restarts (durable counter, or 64 random bits where nothing is durable).
struct ValueId {
  NodeId proposer{};
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
  auto operator<=>(const ValueId&) const = default;
};

/// What is voted on: name, content and extent. Two values are the same iff all fields are.
struct Value {
  ValueId id;
  std::uint64_t content_hash = 0;  // XXH3 of the bytes; 0 for a no-op
  PartitionMask mask{};
  std::uint32_t bytes = 0;
  bool operator==(const Value&) const = default;
  bool noop() const { return bytes == 0; }
  /// A configuration (membership.h), not commands.
  bool membership() const { return id.proposer == kMembership; }
  /// A configuration that others have not overtaken: of several that were proposed to follow one,
  /// only the first that is decided does; the others change nothing.
  bool follows(std::uint32_t epoch) const { return membership() && id.sequence > epoch; }
};
/// Fills holes after a coordinator change (T7). Concerns everyone, does nothing.
constexpr Value kNoopValue{{}, 0, kAllPartitions, 0};

/// A set of acceptors, by their index in the configuration; duplicates in it are harmless.
enum class AcceptorSet : std::uint32_t {};
constexpr AcceptorSet just(std::uint32_t index) { return AcceptorSet{1u << index}; }
constexpr AcceptorSet operator|(AcceptorSet a, AcceptorSet b) {
  return AcceptorSet{static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b)};
}
constexpr std::uint32_t raw(AcceptorSet a) { return static_cast<std::uint32_t>(a); }
constexpr int size(AcceptorSet a) { return __builtin_popcount(raw(a)); }

/// A place in the order that survives merging of rings (checkpoint ids, session floors).
struct Position {
  std::uint16_t ring = 0;
  Instance instance{};
  auto operator<=>(const Position&) const = default;
};

}  // namespace annulus::consensus
