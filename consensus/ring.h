// The configuration of one ring: who accepts, who learns, along which route votes travel.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "consensus/messages.h"
#include "consensus/types.h"

namespace annulus::consensus {

/// How a frame reaches all acceptors and learners.
enum class Dissemination : std::uint8_t {
  kMulticast,  // one IP multicast: the payload leaves the coordinator once (M-Ring)
  kFanout,     // a unicast copy each
  kRing,       // each node passes it to the next: every link carries the payload once (U-Ring);
               // while a member is not heard of, a copy each
};

/// `incarnation` is what a node that asked to be admitted calls itself: by it, it finds out which
/// id it was given. 0 of bootstrap members.
struct Member {
  NodeId id{};
  Endpoint endpoint;
  std::uint64_t incarnation = 0;
  bool operator==(const Member&) const = default;
};
struct LearnerMember {
  NodeId id{};  // kNoNode: nobody has this place any more
  Endpoint endpoint;
  PartitionMask partitions = kAllPartitions;
  std::uint64_t incarnation = 0;
  bool operator==(const LearnerMember&) const = default;
};

/// An agreed set of members; how it changes is told in membership.h. Indices into `acceptors`
/// travel in messages and hold within an epoch, those into `learners` for as long as the member
/// does.
struct Configuration {
  std::uint32_t epoch = 1;              // of the bootstrap; one more with each change
  Instance from = kFirstInstance;       // governs from here on
  Instance base = kFirstInstance;       // what newcomers must hold, up to `from`
  std::vector<Member> acceptors;        // at most kAcceptorsMax
  std::vector<LearnerMember> learners;  // at most kLearnersMax
  /// The changes made last, by operation id; the newest first.
  std::array<std::uint64_t, 8> operations{};
  // Not subject to change.
  Endpoint group;  // multicast group of the ring
  Dissemination dissemination = Dissemination::kMulticast;

  int majority() const { return static_cast<int>(acceptors.size()) / 2 + 1; }
  std::optional<std::uint32_t> acceptor_index(NodeId id) const;
  std::optional<std::uint32_t> learner_index(NodeId id) const;
};

/// The votes' way through a majority, ending at the coordinator.
class Route {
 public:
  Route() = default;
  /// The majority that ends at `coordinator` (an acceptor index) and starts with the acceptors that
  /// follow it in the configuration's circular order.
  Route(const Configuration& configuration, std::uint32_t coordinator);
  explicit Route(const WireRoute& wire);

  /// True if it names at least one acceptor, and only acceptors of `configuration`.
  bool fits(const Configuration& configuration) const;

  std::uint32_t size() const { return size_; }
  std::uint32_t at(std::uint32_t position) const { return acceptors_[position]; }
  std::uint32_t coordinator() const { return acceptors_[size_ - 1]; }
  bool contains(std::uint32_t acceptor) const { return position(acceptor).has_value(); }
  bool first(std::uint32_t acceptor) const { return size_ > 0 && acceptors_[0] == acceptor; }
  std::optional<std::uint32_t> successor(std::uint32_t acceptor) const;
  std::optional<std::uint32_t> predecessor(std::uint32_t acceptor) const;
  WireRoute wire() const;
  bool operator==(const Route&) const = default;

 private:
  std::optional<std::uint32_t> position(std::uint32_t acceptor) const;
  std::array<std::uint8_t, kRingMax> acceptors_{};
  std::uint32_t size_ = 0;
};

}  // namespace annulus::consensus
