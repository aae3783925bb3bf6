// `annulus dev`: a cluster on this machine until interrupted, for trying things out: in one
// process, or one process a node.
#pragma once

#include <functional>

#include "dataplane/result.h"
#include "dataplane/transport.h"
#include "tools/process_cluster.h"

namespace CLI {
class App;
}

namespace annulus::tools {

class StopSignals;

void add_dev_command(CLI::App& app, int& status);

/// Three acceptors, two replicas and a proxy, each a process, until a signal comes. A disk cluster
/// that the directory holds is started again.
Status run_dev_processes(const ProcessClusterOptions& options, const StopSignals& signals);

/// Waits until the Redis port answers a read of the cluster. Fails after 60 s, when a signal comes
/// first, and as soon as `watch`, which is called again and again, fails.
Status wait_until_served(const dataplane::Endpoint& proxy, const StopSignals& signals,
                         const std::function<Status()>& watch = {});

}  // namespace annulus::tools
