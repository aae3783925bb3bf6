// Where an acceptor's log lies, and when it is made.
#pragma once

#include <memory>
#include <string>

#include "consensus/ring.h"
#include "recovery/acceptor_log.h"
#include "tools/config.h"

namespace annulus::tools {

/// "DIRECTORY/acceptor.log".
std::string log_path(const NodeConfig& node);

enum class LogStart : std::uint8_t {
  kBootstrap,  // of a new cluster: there must be no log, and one is made
  kJoin,       // of one that asks to be admitted: made if there is none
  kAgain,      // there must be one: without it, the acceptor has lost its votes
};
/// Makes the log, or reads it back.
Result<std::unique_ptr<recovery::AcceptorLog>> open_log(const ClusterConfig& cluster,
                                                        const consensus::Configuration& ring,
                                                        const NodeConfig& node, LogStart start);

/// Memory of the log of `node`.
std::string log_memory_plan(const ClusterConfig& cluster, const NodeConfig& node);

}  // namespace annulus::tools
