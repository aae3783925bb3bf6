// A replica that is new to a cluster: asks to be admitted until the members list it. From then on
// it is a learner as any other that starts without state (node.h), and fetches one from a peer.
//
// A learner votes on nothing and promises nothing. So, unlike an acceptor, it may come back to its
// place as who it was: whom the members list at its address, it is.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "consensus/effects.h"
#include "consensus/port.h"
#include "consensus/ring.h"

namespace annulus::consensus {

class ReplicaCandidate {
 public:
  /// `founders`: the members that the cluster was created with. `acceptors`: where else one may be
  /// by now. `endpoint`: its own. `incarnation`: drawn at random for this start, never 0.
  ReplicaCandidate(const PortIdentity& identity, const Configuration& founders,
                   std::vector<Endpoint> acceptors, const Endpoint& endpoint,
                   std::uint64_t incarnation, dataplane::Transport& transport);

  /// Returns when next. The transport is its own until it is admitted.
  Nanos poll(Nanos now);
  /// Which learner of configuration() it is; nothing before it is admitted.
  std::optional<std::uint32_t> admitted() const;
  const Configuration& configuration() const { return configuration_; }

 private:
  void adopt(const Configuration& next);

  Configuration configuration_;
  std::vector<Endpoint> acceptors_;  // whom it asks
  const Endpoint endpoint_;
  const std::uint64_t incarnation_;
  Port port_;
  Effects effects_;
  Nanos ask_at_ = 0;
};

}  // namespace annulus::consensus
