// Nodes in network namespaces, each with a DPDK port on one end of a veth pair. The kernel breaks
// the links: down, or passing no multicast.
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "tools/chaos/site.h"
#include "tools/dev.h"
#include "tools/services.h"

namespace annulus::chaos {
namespace {

using tools::Config;
using tools::NodeConfig;
using tools::NodeKind;

constexpr std::uint32_t kNetwork = 0x0a4d0000;  // 10.77.0.0
constexpr std::uint16_t kPort = 4'000;
constexpr std::uint32_t kHere = 6;  // the namespace of the proxy and this process
constexpr const char* kDevice = "net_af_packet0,iface=e0,blocksz=4096,framesz=2048,framecnt=512";

/// Runs a program until it ends well.
Status run_program(const std::vector<std::string>& words) {
  std::vector<char*> raw;
  std::string line;
  for (const std::string& word : words) {
    raw.push_back(const_cast<char*>(word.c_str()));
    line += word + " ";
  }
  raw.push_back(nullptr);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    execvp(raw[0], raw.data());
    _exit(127);
  }
  int status = 0;
  if (waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    return {};
  }
  return Error{"'" + line + "' failed: it needs root, iproute2 and the namespaces of netns.sh"};
}

Status write(const Config& config) {
  std::ofstream file(config.path);
  file << "# Written by `annulus chaos`.\n" << tools::to_toml(config);
  file.close();
  if (!file) return Error{config.path + ": cannot be written: " + std::strerror(errno)};
  return {};
}

class VethSite final : public Site {
 public:
  explicit VethSite(const SiteOptions& options) : options_(options) {
    tools::ClusterConfig& cluster = kernel_.cluster;
    CHECK(getrandom(&cluster.id, sizeof cluster.id, 0) == sizeof cluster.id);
    cluster.id = (cluster.id >> 1) | 1;
    cluster.durability = options.disk ? tools::Durability::kDisk : tools::Durability::kMemory;
    cluster.group = {0xef4d0001, 4'100};
    for (const std::string& name : tools::service_names()) cluster.services.push_back({name});
    for (const NodeKind kind : {NodeKind::kAcceptor, NodeKind::kAcceptor, NodeKind::kAcceptor,
                                NodeKind::kReplica, NodeKind::kReplica, NodeKind::kProxy}) {
      NodeConfig node;
      node.kind = kind;
      const auto number = static_cast<std::uint32_t>(cluster.nodes.size() + 1);
      node.id = consensus::NodeId{number};
      node.name = to_string(kind) + std::to_string(cluster.count(kind) + 1);
      node.address = {kNetwork + number, kPort};
      if (kind == NodeKind::kProxy) node.listen = {0x7f000001, options.port};
      if (kind == NodeKind::kAcceptor && options.disk) {
        node.directory = options.directory + "/" + node.name;
        node.log_mb = options.log_mb;
      }
      cluster.nodes.push_back(node);
    }
    kernel_.process.runtime = options.directory;
    kernel_.process.idle = "yield";  // addresses of their own, but not cores
    kernel_.path = options.directory + "/kernel.toml";
    nodes_ = kernel_;
    nodes_.path = options.directory + "/nodes.toml";
    nodes_.cluster.transport = tools::TransportKind::kDpdk;
    std::erase_if(nodes_.cluster.nodes,
                  [](const NodeConfig& node) { return node.kind == NodeKind::kProxy; });
    for (NodeConfig& node : nodes_.cluster.nodes) node.device = kDevice;
  }

  Status prepare() {
    if (Status written = write(kernel_); !written) return written;
    return write(nodes_);
  }

  Status start(tools::ProcessFamily& family, const tools::StopSignals& signals) override {
    for (const NodeConfig& node : kernel_.cluster.nodes) start_node(family, node, true);
    return tools::wait_until_served({0x7f000001, options_.port}, signals,
                                    [&] { return tools::watch_start(family, kernel_.cluster); });
  }
  void restart(tools::ProcessFamily& family, const NodeConfig& node, const std::string&) override {
    start_node(family, node, false);
  }
  const Config& config() const override { return kernel_; }
  NodeConfig client() const override {
    NodeConfig node;
    node.kind = NodeKind::kProxy;
    node.id = consensus::kNoNode;
    node.name = "client";
    node.address = {kNetwork + kHere, kPort + 1};
    return node;
  }

  Status break_network(const Drawn& drawn) override { return change(drawn, true); }
  Status mend_network(const Drawn& drawn) override { return change(drawn, false); }

 private:
  Status change(const Drawn& drawn, bool broken) const {
    const std::string port = "port" + std::to_string(drawn.node + 1);
    std::vector<std::string> words = {"ip", "-n", options_.namespaces + "-bridge", "link", "set"};
    if (drawn.row->fault == Fault::kLinkDown) {
      words.insert(words.end(), {"dev", port, broken ? "down" : "up"});
    } else {
      words.insert(words.end(),
                   {"dev", port, "type", "bridge_slave", "mcast_flood", broken ? "off" : "on"});
    }
    return run_program(words);
  }

  void start_node(tools::ProcessFamily& family, const NodeConfig& node, bool first) const {
    const bool proxy = node.kind == NodeKind::kProxy;
    std::vector<std::string> arguments = {proxy ? "proxy" : "node", "--config",
                                          proxy ? kernel_.path : nodes_.path, "--name", node.name};
    if (first && node.kind == NodeKind::kAcceptor) arguments.push_back("--bootstrap");
    std::vector<std::string> prefix;
    if (!proxy) {
      prefix = {"ip", "netns", "exec",
                options_.namespaces + "-" + std::to_string(consensus::raw(node.id))};
    }
    family.start(node.name, std::move(arguments), std::move(prefix));
  }

  const SiteOptions options_;
  Config kernel_;  // of processes with kernel sockets
  Config nodes_;   // of those with DPDK ports
};

}  // namespace

Result<std::unique_ptr<Site>> make_veth_site(const SiteOptions& options) {
  if (options.namespaces.empty()) {
    return Error{
        "--transport veth needs --namespaces: run it under tests/cluster/netns.sh, in the "
        "last of its namespaces"};
  }
  auto site = std::make_unique<VethSite>(options);
  if (Status prepared = site->prepare(); !prepared) return prepared.error();
  return std::unique_ptr<Site>(std::move(site));
}

}  // namespace annulus::chaos
