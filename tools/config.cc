#include "tools/config.h"

#include <algorithm>
#include <sstream>

#include "dataplane/hash.h"

namespace annulus::tools {
namespace {

constexpr const char* kModes[] = {"smr", "client-server"};
constexpr const char* kTransports[] = {"local", "udp", "dpdk"};
constexpr const char* kDisseminations[] = {"multicast", "fanout", "ring"};
constexpr const char* kDurabilities[] = {"memory", "disk"};
constexpr const char* kNodeKinds[] = {"acceptor", "replica", "proxy"};

/// Optimal string alignment: insertions, deletions, substitutions, neighbours swapped.
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<std::size_t>> cost(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  for (std::size_t j = 0; j <= b.size(); ++j) cost[0][j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t differs = a[i - 1] == b[j - 1] ? 0 : 1;
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + differs});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

/// As a TOML basic string.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

/// Writes the effective configuration, section by section.
class Writer {
 public:
  void cluster(const ClusterConfig& cluster) {
    out_ << "[cluster]\nid = " << cluster.id << "\nmode = \"" << to_string(cluster.mode)
         << "\"\ntransport = \"" << to_string(cluster.transport) << "\"\ndurability = \""
         << to_string(cluster.durability) << "\"\n";
    out_ << "dissemination = \"" << to_string(cluster.dissemination) << "\"\n";
    if (cluster.group.port != 0) out_ << "group = \"" << to_string(cluster.group) << "\"\n";
    out_ << "mtu = " << cluster.mtu << "\n\n[limits]\n";
    const Limits& limits = cluster.limits;
    out_ << "window = " << limits.window << "\nretain = " << limits.retain
         << "\nretain_mb = " << limits.retain_mb << "\nvalue_bytes = " << limits.value_bytes
         << "\nsessions = " << limits.sessions
         << "\nsession_memory_mb = " << limits.session_memory_mb << "\n";
    for (const ServiceConfig& service : cluster.services) {
      out_ << "\n[[services]]\nname = \"" << service.name << "\"\nmemory_mb = " << service.memory_mb
           << "\n";
    }
  }

  void node(const NodeConfig& node) {
    constexpr const char* kTables[] = {"acceptors", "replicas", "proxies"};
    out_ << "\n[[" << kTables[static_cast<std::size_t>(node.kind)] << "]]\nname = \"" << node.name
         << "\"\nid = " << consensus::raw(node.id) << "\naddress = \"" << to_string(node.address)
         << "\"\n";
    if (node.partitions != consensus::kAllPartitions) {
      out_ << "partitions = [";
      const char* separator = "";
      for (std::uint32_t partition = 0; partition < 64; ++partition) {
        if ((consensus::raw(node.partitions) >> partition & 1) == 0) continue;
        out_ << separator << partition;
        separator = ", ";
      }
      out_ << "]\n";
    }
  }

  /// What of a node only the machine it runs on cares about.
  void placement(const NodeConfig& node) {
    if (node.joins) out_ << "joins = true\n";
    if (node.kind == NodeKind::kProxy) {
      out_ << "listen = \"" << to_string(node.listen) << "\"\n";
    }
    if (!node.directory.empty()) {
      out_ << "directory = " << quoted(node.directory) << "\nlog_mb = " << node.log_mb << "\n";
    }
    if (node.device.empty()) return;
    out_ << "device = " << quoted(node.device) << "\neal = [";
    const char* separator = "";
    for (const std::string& argument : node.eal) {
      out_ << separator << quoted(argument);
      separator = ", ";
    }
    out_ << "]\n";
  }

  void process(const ProcessConfig& process) {
    out_ << "\n[cores]\n";
    for (const auto& [role, list] : process.cores) {
      out_ << quoted(role) << " = " << quoted(list) << "\n";
    }
    out_ << "\n[process]\nidle = \"" << process.idle << "\"\n";
    if (!process.runtime.empty()) out_ << "runtime = " << quoted(process.runtime) << "\n";
    if (process.metrics.port != 0) {
      out_ << "metrics = \"" << to_string(process.metrics) << "\"\n";
    }
  }

  std::string text() const { return out_.str(); }

 private:
  std::ostringstream out_;
};

}  // namespace

const char* to_string(Mode mode) { return kModes[static_cast<std::size_t>(mode)]; }
const char* to_string(TransportKind kind) { return kTransports[static_cast<std::size_t>(kind)]; }
const char* to_string(Durability durability) {
  return kDurabilities[static_cast<std::size_t>(durability)];
}
const char* to_string(NodeKind kind) { return kNodeKinds[static_cast<std::size_t>(kind)]; }
std::string with_article(NodeKind kind) {
  return std::string(kind == NodeKind::kAcceptor ? "an " : "a ") + to_string(kind);
}
const char* to_string(consensus::Dissemination dissemination) {
  return kDisseminations[static_cast<std::size_t>(dissemination)];
}

std::uint32_t ClusterConfig::count(NodeKind kind) const {
  return static_cast<std::uint32_t>(std::count_if(
      nodes.begin(), nodes.end(), [kind](const NodeConfig& node) { return node.kind == kind; }));
}

const NodeConfig* ClusterConfig::find(const std::string& name) const {
  for (const NodeConfig& node : nodes) {
    if (node.name == name) return &node;
  }
  return nullptr;
}

std::string ClusterConfig::names() const {
  std::string names;
  for (const NodeConfig& node : nodes) names += (names.empty() ? "" : ", ") + node.name;
  return names;
}

std::string nearest_name(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  // A third of the word wrong is a slip; more is another word.
  std::size_t least = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& name : known) {
    const std::size_t distance = edit_distance(word, name);
    if (distance < least) {
      least = distance;
      best = name;
    }
  }
  return best;
}

consensus::Configuration ring_configuration(const ClusterConfig& cluster) {
  consensus::Configuration ring;
  ring.group = cluster.group;
  ring.dissemination = cluster.dissemination;
  for (const NodeConfig& node : cluster.nodes) {
    if (node.kind == NodeKind::kAcceptor && !node.joins) {
      ring.acceptors.push_back({node.id, node.address});
    }
    if (node.kind == NodeKind::kReplica && !node.joins) {
      ring.learners.push_back({node.id, node.address, node.partitions});
    }
  }
  return ring;
}

consensus::Configuration client_configuration(const ClusterConfig& cluster) {
  consensus::Configuration ring = ring_configuration(cluster);
  ring.epoch = 0;
  for (const NodeConfig& node : cluster.nodes) {
    if (node.kind == NodeKind::kAcceptor && node.joins) {
      ring.acceptors.push_back({node.id, node.address});
    }
  }
  return ring;
}

std::string to_toml(const Config& config) {
  Writer writer;
  writer.cluster(config.cluster);
  for (const NodeConfig& node : config.cluster.nodes) {
    writer.node(node);
    writer.placement(node);
  }
  writer.process(config.process);
  return writer.text();
}

std::uint64_t fingerprint(const ClusterConfig& cluster) {
  Writer writer;
  writer.cluster(cluster);
  const std::string text = writer.text();
  return dataplane::hash_bytes(std::as_bytes(std::span(text)));
}

}  // namespace annulus::tools
