// What an acceptor tells of the cluster's members over the telemetry socket, and the changes of
// them that it is asked for there: `GET /members`, `GET /members?operation=7&verb=1&...`.
#pragma once

#include <cstdint>
#include <string>

#include "consensus/node.h"

namespace annulus::tools {

/// One thread. Both outlive it.
class MembersAnswer {
 public:
  MembersAnswer(consensus::AcceptorNode& node, const consensus::Configuration& ring)
      : node_(node), ring_(ring) {}

  /// {"epoch", "from", "settled", "standing", "operations", "verdict",
  ///  "acceptors": [{"id", "address"}], "replicas": [{"id", "address", "partitions"}]}.
  /// With a query, which is a change as to_query() writes it, the node is asked for that as well.
  std::string operator()(const std::string& query);

 private:
  consensus::AcceptorNode& node_;
  const consensus::Configuration& ring_;
};

std::string to_query(const consensus::Change& change);

}  // namespace annulus::tools
