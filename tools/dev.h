// `annulus dev`: a cluster on this machine until interrupted, for trying things out: in one
// process, or one process a node.
#pragma once

#include <cstdint>
#include <string>

#include "dataplane/result.h"
#include "dataplane/transport.h"

namespace CLI {
class App;
}

namespace annulus::tools {

class StopSignals;

void add_dev_command(CLI::App& app, int& status);

/// Of each acceptor of `annulus dev`: a laptop's disk is not to be filled.
constexpr std::uint32_t kDevLogMb = 256;

struct DevProcesses {
  std::string directory;  // of the configuration, pids, logs and sockets
  bool disk = false;      // durability disk; the acceptors' logs are in there too
  bool memif = false;     // over `annulus hub`; otherwise UDP on the loopback interface
  std::uint16_t port = 6379;
};

/// Three acceptors, two replicas and a proxy, each a process, until a signal comes. A disk cluster
/// that the directory holds is started again.
Status run_dev_processes(const DevProcesses& options, const StopSignals& signals);

/// Waits until the Redis port answers a read of the cluster. Fails after 60 s, or when a signal
/// comes first.
Status wait_until_served(const dataplane::Endpoint& proxy, const StopSignals& signals);

}  // namespace annulus::tools
