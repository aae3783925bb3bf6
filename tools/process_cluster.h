// A cluster of processes on this machine, one a node: its configuration, its directory, its hub,
// and the start of them all. For `annulus dev --processes` and `annulus chaos`.
#pragma once

#include <cstdint>
#include <string>

#include "tools/config.h"
#include "tools/process_family.h"

namespace annulus::tools {

class StopSignals;

/// Of each acceptor of `annulus dev`: a laptop's disk is not to be filled.
constexpr std::uint32_t kDevLogMb = 256;

struct ProcessClusterOptions {
  std::string directory;  // of the configuration, pids, logs and sockets
  bool disk = false;      // durability disk; the acceptors' logs are in there too
  bool memif = false;     // over `annulus hub`; otherwise UDP on the loopback interface
  std::uint16_t port = 6379;
  std::uint32_t log_mb = kDevLogMb;
  std::uint32_t hub_ports_more = 0;  // of the hub, beside those of the nodes
  int death_signal = SIGTERM;        // see ProcessFamily
};

/// The addresses of a native client that is none of the nodes, on the hub's next port.
NodeConfig extra_client(const ClusterConfig& cluster, const std::string& directory);

/// Of a cluster that is being started: says which process has ended. Fails if nothing can be served
/// without it: others are missed only when there are too few.
Status watch_start(ProcessFamily& family, const ClusterConfig& cluster);

/// Three acceptors, two replicas and a proxy.
class ProcessCluster {
 public:
  /// Makes the directory and writes DIR/cluster.toml; a disk cluster that is there is taken up
  /// again, and never written over.
  static Result<ProcessCluster> prepare(const ProcessClusterOptions& options);

  /// Starts the hub and all nodes in `family`, and waits until the proxy serves.
  Status start(ProcessFamily& family, const StopSignals& signals) const;
  /// What a node is started with.
  std::vector<std::string> arguments(const NodeConfig& node, bool bootstrap) const;

  const std::string& directory() const { return directory_; }
  const Config& config() const { return config_; }

 private:
  explicit ProcessCluster(const ProcessClusterOptions& options) : options_(options) {}
  Status make_directory();
  Status take_up();
  Status expect_no_logs() const;
  Status start_hub(ProcessFamily& family, const StopSignals& signals) const;

  ProcessClusterOptions options_;
  std::string directory_;  // canonical
  Config config_;
  bool again_ = false;  // the directory holds a cluster whose acceptors have logs
};

}  // namespace annulus::tools
