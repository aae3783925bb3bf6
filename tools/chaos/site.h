// Where a chaos run takes place: how the nodes of its cluster are started on one of the media, and
// how the network between them is broken.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tools/chaos/faults.h"
#include "tools/process_cluster.h"

namespace annulus::tools {
class StopSignals;
}

namespace annulus::chaos {

struct SiteOptions {
  Medium medium{};
  std::string directory;
  std::string namespaces;  // kVeth: see VethSite
  bool disk = false;
  std::uint32_t log_mb = 0;  // of each acceptor
  std::uint16_t port = 0;    // of the proxy
};

class Site {
 public:
  virtual ~Site() = default;
  /// Starts every node, and waits until the proxy serves.
  virtual Status start(tools::ProcessFamily& family, const tools::StopSignals& signals) = 0;
  /// Starts one that was killed. `config`: another file than the one it was first started with.
  virtual void restart(tools::ProcessFamily& family, const tools::NodeConfig& node,
                       const std::string& config) = 0;
  virtual Status break_network(const Drawn& drawn) = 0;
  virtual Status mend_network(const Drawn& drawn) = 0;

  /// As the native client, and whoever reads telemetry, must know it.
  virtual const tools::Config& config() const = 0;
  /// The native client's own address.
  virtual tools::NodeConfig client() const = 0;
};

/// Loopback, or memif through a hub.
Result<std::unique_ptr<Site>> make_local_site(const SiteOptions& options);
/// Acceptors and replicas with DPDK ports on the network namespaces PREFIX-1 to PREFIX-5 that
/// tests/cluster/netns.sh made; the proxy, with kernel sockets, where this process runs: in
/// PREFIX-6. PREFIX-bridge joins them. Root only.
Result<std::unique_ptr<Site>> make_veth_site(const SiteOptions& options);

}  // namespace annulus::chaos
