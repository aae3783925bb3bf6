#include "tools/transports.h"

#include <cstdio>

#include "dataplane/dpdk/dpdk.h"
#include "dataplane/udp/udp_transport.h"

namespace annulus::tools {
namespace {

using TransportResult = Result<std::unique_ptr<dataplane::Transport>>;

bool is_memif(const NodeConfig& node) { return node.device.rfind("net_memif", 0) == 0; }

/// Frames that a node's window, log and assembly may hold at once.
std::uint32_t frames_held(const ClusterConfig& cluster, const NodeConfig& node) {
  const Limits& limits = cluster.limits;
  const bool retains = node.kind == NodeKind::kAcceptor;
  return (retains ? limits.retain + 2 * limits.window : 10 * limits.window) + 2'048;
}

TransportResult open_udp(const ClusterConfig& cluster, const NodeConfig& node) {
  dataplane::UdpOptions options;
  options.local = node.address;
  options.mtu = cluster.mtu;
  options.receive_buffers = frames_held(cluster, node);
  auto opened = dataplane::UdpTransport::open(options);
  if (!opened) return opened.error();
  for (const std::string& warning : opened.value()->warnings()) {
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }
  return std::unique_ptr<dataplane::Transport>(std::move(opened).value());
}

TransportResult open_dpdk(const ClusterConfig& cluster, const NodeConfig& node) {
  dataplane::DpdkConfig config;
  // A virtual device runs without hugepages, a physical one does not.
  config.eal.hugepages = node.device.rfind("net_", 0) != 0;
  config.eal.file_prefix = "annulus-" + node.name;
  config.eal.arguments = node.eal;
  config.device = node.device;
  config.endpoint = node.address;
  config.mtu = cluster.mtu;
  config.rx_frames_held = frames_held(cluster, node);
  return dataplane::open_dpdk_transport(config);
}

}  // namespace

TransportResult open_transport(const ClusterConfig& cluster, const NodeConfig& node) {
  if (cluster.transport == TransportKind::kLocal) {
    return Error{"transport 'local' joins nodes of one process only; for " + node.name +
                 " as a process of its own, set transport = \"udp\" or \"dpdk\" in [cluster]"};
  }
  TransportResult opened =
      cluster.transport == TransportKind::kUdp ? open_udp(cluster, node) : open_dpdk(cluster, node);
  if (opened && node.kind != NodeKind::kProxy && cluster.group.port != 0) {
    if (Status joined = opened.value()->join(cluster.group); !joined) return joined.error();
  }
  return opened;
}

dataplane::Host host_of(const ClusterConfig& cluster, const NodeConfig& node) {
  dataplane::Host host = dataplane::this_host();
  host.processes = 0;
  // What a log has written wakes nobody; and who yields gets little beside those who never do, so
  // that all nodes do the same.
  host.wakes =
      cluster.transport == TransportKind::kUdp && cluster.durability == Durability::kMemory;
  for (const NodeConfig& other : cluster.nodes) {
    const bool here =
        other.address.address == node.address.address || (is_memif(other) && is_memif(node));
    if (!here) continue;
    if (other.name == node.name) host.process = host.processes;
    ++host.processes;
  }
  return host;
}

}  // namespace annulus::tools
