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

/// Makes the log if this is the bootstrap of a new cluster, reads it back otherwise. An acceptor
/// that should have one and has none has lost its votes: an error.
Result<std::unique_ptr<recovery::AcceptorLog>> open_log(const ClusterConfig& cluster,
                                                        const consensus::Configuration& ring,
                                                        const NodeConfig& node, bool bootstrap);

/// Memory of the log of `node`.
std::string log_memory_plan(const ClusterConfig& cluster, const NodeConfig& node);

}  // namespace annulus::tools
