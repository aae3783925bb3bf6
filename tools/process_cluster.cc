#include "tools/process_cluster.h"

#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tools/config_command.h"
#include "tools/dev.h"
#include "tools/redis_link.h"
#include "tools/services.h"
#include "tools/signals.h"

namespace annulus::tools {
namespace {

constexpr std::uint32_t kLoopback = 0x7f000001;
constexpr std::uint32_t kMemifNetwork = 0x0a4d0000;  // 10.77.0.0
constexpr std::uint32_t kAcceptors = 3;
constexpr std::uint32_t kReplicas = 2;
constexpr std::uint16_t kMemifPort = 4'000;
constexpr std::size_t kDirectoryBytesMax = 80;  // sockets in it have paths of at most 107

/// UDP ports that nobody uses now.
std::vector<std::uint16_t> free_ports(std::size_t count) {
  std::vector<std::uint16_t> ports;
  std::vector<int> held;  // until all are chosen, so that they differ
  while (ports.size() < count) {
    const int probe = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    held.push_back(probe);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(kLoopback);
    socklen_t length = sizeof address;
    CHECK(bind(probe, reinterpret_cast<const sockaddr*>(&address), length) == 0);
    CHECK(getsockname(probe, reinterpret_cast<sockaddr*>(&address), &length) == 0);
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int probe : held) close(probe);
  return ports;
}

/// The node's port of the hub in `directory`, and its address there.
void place_on_hub(NodeConfig& node, std::uint32_t number, const std::string& directory) {
  const std::string text = std::to_string(number);
  node.address = {kMemifNetwork + number, kMemifPort};
  node.device = "net_memif0,role=client,id=0,socket=" + directory + "/hub/" + text +
                ".sock,socket-abstract=no,mac=02:00:00:00:00:0" + text;
}

/// As long datagrams as loopback carries: one takes a whole batch, which then is neither cut up nor
/// put together again.
std::uint32_t loopback_mtu() {
  std::uint32_t mtu = 0;
  std::ifstream("/sys/class/net/lo/mtu") >> mtu;
  return mtu == 0 ? ClusterConfig{}.mtu : std::clamp(mtu, dataplane::kMtuMin, dataplane::kMtuMax);
}

Config make_config(const ProcessClusterOptions& options, const std::string& directory) {
  Config config;
  config.path = directory + "/cluster.toml";
  ClusterConfig& cluster = config.cluster;
  CHECK(getrandom(&cluster.id, sizeof cluster.id, 0) == sizeof cluster.id);
  cluster.id = (cluster.id >> 1) | 1;  // TOML integers are signed
  cluster.durability = options.disk ? Durability::kDisk : Durability::kMemory;
  cluster.transport = options.memif ? TransportKind::kDpdk : TransportKind::kUdp;
  if (!options.memif) cluster.mtu = loopback_mtu();
  const std::vector<std::uint16_t> ports = free_ports(kAcceptors + kReplicas + 2);
  const auto group = static_cast<std::uint32_t>(cluster.id & 0xffff);
  cluster.group = {0xefc00000u | group, ports.back()};  // 239.192.0.0/14 is for organisations
  if (options.memif) cluster.group.port = kMemifPort;
  for (const std::string& name : service_names()) cluster.services.push_back({name});
  const auto add = [&](NodeKind kind) {
    NodeConfig node;
    node.kind = kind;
    const auto number = static_cast<std::uint32_t>(cluster.nodes.size() + 1);
    node.id = consensus::NodeId{number};
    node.name = to_string(kind) + std::to_string(cluster.count(kind) + 1);
    node.address = {kLoopback, ports[number - 1]};
    if (options.memif) place_on_hub(node, number, directory);
    if (kind == NodeKind::kProxy) node.listen = {kLoopback, options.port};
    if (kind == NodeKind::kAcceptor && options.disk) {
      node.directory = directory + "/" + node.name;
      node.log_mb = options.log_mb;
    }
    cluster.nodes.push_back(node);
  };
  for (std::uint32_t i = 0; i < kAcceptors; ++i) add(NodeKind::kAcceptor);
  for (std::uint32_t i = 0; i < kReplicas; ++i) add(NodeKind::kReplica);
  add(NodeKind::kProxy);
  config.process.runtime = directory;
  return config;
}

}  // namespace

NodeConfig extra_client(const ClusterConfig& cluster, const std::string& directory) {
  NodeConfig node;
  node.kind = NodeKind::kProxy;
  node.id = consensus::kNoNode;
  node.name = "client";
  node.address = {kLoopback, 0};
  if (cluster.transport == TransportKind::kDpdk) {
    place_on_hub(node, static_cast<std::uint32_t>(cluster.nodes.size()) + 1, directory);
  } else {
    node.address.port = free_ports(1).front();
  }
  return node;
}

Status watch_start(ProcessFamily& family, const ClusterConfig& cluster) {
  const std::string name = family.reap();
  if (name.empty()) return {};
  const Error ended{"'" + name + "' has ended: " + last_line(family.log_path(name))};
  const NodeConfig* node = cluster.find(name);
  if (node == nullptr || node->kind == NodeKind::kProxy) return ended;
  print_error(ended.message);
  return {};
}

Status ProcessCluster::make_directory() {
  const std::string& wanted = options_.directory;
  std::error_code failure;
  std::filesystem::create_directories(wanted + (options_.memif ? "/hub" : ""), failure);
  if (failure) {
    return Error{wanted + ": cannot be created (" + failure.message() +
                 "); name a directory that this user may write to with --dir"};
  }
  directory_ = std::filesystem::canonical(wanted);
  if (directory_.size() > kDirectoryBytesMax) {
    return Error{directory_ +
                 ": too long for the sockets that go there; name a directory of at "
                 "most " +
                 std::to_string(kDirectoryBytesMax) + " bytes with --dir"};
  }
  return {};
}

Status ProcessCluster::take_up() {
  const std::string path = directory_ + "/cluster.toml";
  auto loaded = load_config(path);
  if (!loaded) return loaded.error();
  const bool disk = loaded->cluster.durability == Durability::kDisk;
  const bool memif = loaded->cluster.transport == TransportKind::kDpdk;
  if (!disk && !options_.disk) return {};  // its promises went with its processes
  if (disk != options_.disk || memif != options_.memif) {
    return Error{path + ": is of a cluster with durability " + (disk ? "disk" : "memory") +
                 " over " + (memif ? "memif" : "udp") +
                 "; say so with --durability and --transport, or name another directory with "
                 "--dir"};
  }
  config_ = std::move(loaded).value();
  again_ = true;
  for (NodeConfig& node : config_.cluster.nodes) {
    if (node.kind == NodeKind::kProxy) node.listen.port = options_.port;
  }
  return {};
}

/// Logs that belong to no cluster.toml are of a cluster within one process.
Status ProcessCluster::expect_no_logs() const {
  for (const NodeConfig& node : config_.cluster.nodes) {
    const std::string path = directory_ + "/" + node.name + "/acceptor.log";
    if (node.kind != NodeKind::kAcceptor || !std::filesystem::exists(path)) continue;
    return Error{path +
                 ": is of a cluster that runs in one process; start it without --processes, or "
                 "name another directory with --dir"};
  }
  return {};
}

Result<ProcessCluster> ProcessCluster::prepare(const ProcessClusterOptions& options) {
  ProcessCluster cluster(options);
  if (Status made = cluster.make_directory(); !made) return made.error();
  const std::string& directory = cluster.directory_;
  if (std::filesystem::exists(directory + "/cluster.toml")) {
    if (Status taken = cluster.take_up(); !taken) return taken.error();
  }
  if (!cluster.again_) {
    cluster.config_ = make_config(options, directory);
    if (Status free = cluster.expect_no_logs(); !free) return free.error();
  }
  for (const NodeConfig& node : cluster.config_.cluster.nodes) {
    if (telemetry_pid(directory, node.name) == 0) continue;
    return Error{directory + ": '" + node.name +
                 "' of an earlier cluster still runs there; stop that one, or name another "
                 "directory with --dir"};
  }
  if (RedisLink::connect({kLoopback, options.port})) {
    return Error{"127.0.0.1:" + std::to_string(options.port) +
                 ": another program listens there; stop it, or name another port with --port"};
  }
  const std::string& path = cluster.config_.path;
  std::ofstream file(path);
  file << "# Written by `annulus`"
       << (options.disk ? ".\n" : "; a new cluster each time it starts.\n")
       << to_toml(cluster.config_);
  file.close();
  if (!file) return Error{path + ": cannot be written: " + std::strerror(errno)};
  return cluster;
}

Status ProcessCluster::start_hub(ProcessFamily& family, const StopSignals& signals) const {
  const std::size_t ports = config_.cluster.nodes.size() + options_.hub_ports_more;
  family.start("hub", {"hub", "--dir", directory_ + "/hub", "--ports", std::to_string(ports),
                       "--mtu", std::to_string(config_.cluster.mtu)});
  for (int i = 0; i < 300; ++i) {
    const std::string told = last_line(family.log_path("hub"));
    if (told == "ready") return {};
    if (!family.reap().empty()) return Error{"the hub has ended: " + told};
    if (signals.wait(100)) return Error{"interrupted before the hub served"};
  }
  return Error{"the hub is not ready after 30 s; see " + family.log_path("hub")};
}

std::vector<std::string> ProcessCluster::arguments(const NodeConfig& node, bool bootstrap) const {
  std::vector<std::string> arguments = {node.kind == NodeKind::kProxy ? "proxy" : "node",
                                        "--config", config_.path, "--name", node.name};
  if (node.kind == NodeKind::kAcceptor && bootstrap) arguments.push_back("--bootstrap");
  return arguments;
}

Status ProcessCluster::start(ProcessFamily& family, const StopSignals& signals) const {
  if (options_.memif) {
    if (Status hub = start_hub(family, signals); !hub) return hub;
  }
  for (const NodeConfig& node : config_.cluster.nodes) {
    family.start(node.name, arguments(node, !again_));
  }
  if (Status written = family.write_pids(); !written) return written;
  return wait_until_served({kLoopback, options_.port}, signals,
                           [&] { return watch_start(family, config_.cluster); });
}

}  // namespace annulus::tools
