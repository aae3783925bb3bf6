// Opens the transport that a configuration names for a node.
#pragma once

#include <memory>

#include "dataplane/core_map.h"
#include "dataplane/result.h"
#include "dataplane/transport.h"
#include "tools/config.h"

namespace annulus::tools {

/// For `udp` and `dpdk`; `local` is for embedded clusters, whose switch makes the transports
/// (cluster.h). Members of the ring join its multicast group.
Result<std::unique_ptr<dataplane::Transport>> open_transport(const ClusterConfig& cluster,
                                                             const NodeConfig& node);

/// This machine as `node` finds it: shared with the nodes that have its IPv4 address, or, on memif
/// devices, with all that have such a device.
dataplane::Host host_of(const ClusterConfig& cluster, const NodeConfig& node);

}  // namespace annulus::tools
