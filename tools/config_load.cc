// Reads and validates the configuration file: load_config and parse_config of config.h.
#include "tools/config.h"

#include <algorithm>
#include <bit>
#include <fstream>
#include <set>
#include <sstream>

#include "consensus/messages.h"
#include "dataplane/core_map.h"
#include "statemachine/session_table.h"
#include "tools/services.h"
#include "tools/toml_reader.h"

namespace annulus::tools {
namespace {

using consensus::NodeId;
using dataplane::Endpoint;

const std::vector<std::string> kIdlePolicies = {"auto", "spin", "yield", "sleep"};
constexpr std::uint64_t kPartitionLast = 63;

std::string quoted(const std::string& text) { return "'" + text + "'"; }

bool plain_name(const std::string& name) {
  return !name.empty() && name.size() <= 64 &&
         std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_'; });
}

/// Reads one file's tables into a Config. Order of the calls is the order of the file's sections.
class Loader {
 public:
  Loader(const toml::table& root, Config& config)
      : mistakes_(config.path), root_(mistakes_, &root, "the file"), config_(config) {}

  Status load() {
    cluster();
    limits();
    services();
    nodes("acceptors", NodeKind::kAcceptor);
    nodes("replicas", NodeKind::kReplica);
    nodes("proxies", NodeKind::kProxy);
    process();
    root_.finish();
    whole();
    if (!mistakes_.none()) return Error{mistakes_.text()};
    return {};
  }

 private:
  template <typename Enum>
  void choose(TomlReader& reader, const char* key, std::size_t count, Enum& out) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < count; ++i) names.emplace_back(to_string(static_cast<Enum>(i)));
    auto index = static_cast<std::size_t>(out);
    reader.choice(key, names, index);
    out = static_cast<Enum>(index);
  }

  void cluster() {
    ClusterConfig& out = config_.cluster;
    TomlReader reader(mistakes_, root_.table("cluster"), "[cluster]");
    reader.require("id", "0x5ca1ab1e0ddba11 (any random number; equal on all nodes)");
    reader.number("id", 1, INT64_MAX, out.id);
    choose(reader, "mode", 2, out.mode);
    choose(reader, "transport", 3, out.transport);
    choose(reader, "dissemination", 3, out.dissemination);
    reader.number("mtu", dataplane::kMtuMin, dataplane::kMtuMax, out.mtu);
    choose(reader, "durability", 2, out.durability);
    const bool multicast =
        out.mode == Mode::kSmr && out.dissemination == consensus::Dissemination::kMulticast;
    reader.endpoint("group", out.group);
    if (multicast) reader.require("group", "\"239.10.0.1:4100\"");
    if (reader.has("group") && out.group.port != 0 && !out.group.multicast()) {
      reader.note("group", dataplane::to_string(out.group) +
                               " is not a multicast address; choose one in 239.0.0.0/8, or "
                               "dissemination = \"fanout\"");
    }
    if (reader.has("group") && !multicast) {
      reader.note("group",
                  "'group' has no meaning without dissemination = \"multicast\"; remove "
                  "it");
    }
    reader.finish();
  }

  void limits() {
    Limits& out = config_.cluster.limits;
    TomlReader reader(mistakes_, root_.table("limits"), "[limits]");
    reader.number("window", 1, consensus::kUndecidedMax / 2, out.window);
    reader.number("retain", consensus::kUndecidedMax, 1u << 20, out.retain);
    reader.number("retain_mb", 1, 1u << 20, out.retain_mb);
    // A value travels in a limited number of frames.
    const std::uint32_t value_bytes_max =
        consensus::kFragmentsMax *
        consensus::fragment_bytes(config_.cluster.mtu - dataplane::kIpUdpHeaderBytes);
    reader.number("value_bytes", 1'024, value_bytes_max, out.value_bytes);
    reader.number("sessions", 1, statemachine::SessionTable::kSessionSlotsMax, out.sessions);
    reader.number("session_memory_mb", 1, 4'096, out.session_memory_mb);
    for (const char* key : {"window", "retain"}) {
      const std::uint32_t value = key == std::string("window") ? out.window : out.retain;
      if (std::has_single_bit(value)) continue;
      reader.note(key, quoted(key) + " in [limits] is " + std::to_string(value) +
                           "; it must be a power of two, such as " +
                           std::to_string(std::bit_ceil(value)));
    }
    const std::uint64_t in_flight = std::uint64_t{out.window} * out.value_bytes;
    const std::uint64_t least = (2 * in_flight + (1u << 20) - 1) >> 20;
    if (out.retain_mb < least) {
      reader.note("retain_mb", "'retain_mb' in [limits] is " + std::to_string(out.retain_mb) +
                                   "; it must be at least " + std::to_string(least) +
                                   ", twice what 'window' values of 'value_bytes' take");
    }
    reader.finish();
  }

  void services() {
    const std::vector<const toml::table*> tables = root_.tables("services");
    std::set<std::string> seen;
    for (const toml::table* table : tables) {
      TomlReader reader(mistakes_, table, "[[services]]");
      ServiceConfig service;
      reader.require("name", "\"kv\"");
      std::size_t which = service_names().size();
      reader.choice("name", service_names(), which);
      reader.number("memory_mb", 1, 1u << 20, service.memory_mb);
      if (which < service_names().size()) {
        service.name = service_names()[which];
        if (!seen.insert(service.name).second) {
          reader.note("name", "service " + quoted(service.name) + " is listed twice");
        }
      }
      reader.finish();
      config_.cluster.services.push_back(service);
    }
    if (tables.empty()) {
      for (const std::string& name : service_names()) config_.cluster.services.push_back({name});
    }
  }

  void nodes(const char* key, NodeKind kind) {
    const std::string where = "[[" + std::string(key) + "]]";
    for (const toml::table* table : root_.tables(key)) {
      TomlReader reader(mistakes_, table, where);
      NodeConfig node;
      node.kind = kind;
      node.name = std::string(to_string(kind)) + std::to_string(count(kind) + 1);
      reader.text("name", node.name);
      if (!plain_name(node.name)) {
        reader.note("name", quoted(node.name) +
                                " is not a node name: use letters, digits, '-' and '_'; it becomes "
                                "part of file names");
      }
      std::uint32_t id = 0;
      reader.require("id", "1");
      reader.number("id", 1, consensus::kFirstAssignedId - 1, id);
      node.id = NodeId{id};
      reader.require("address", "\"10.0.0.1:4000\"");
      reader.endpoint("address", node.address);
      if (node.address.multicast()) {
        reader.note("address", "'address' in " + where +
                                   " is a multicast address; a node needs "
                                   "one of its own");
      }
      if (kind == NodeKind::kReplica) partitions(reader, node);
      if (kind == NodeKind::kProxy) {
        reader.require("listen", "\"127.0.0.1:6379\"");
        reader.endpoint("listen", node.listen);
      }
      if (kind == NodeKind::kAcceptor) storage(reader, node);
      if (kind != NodeKind::kProxy) reader.boolean("joins", node.joins);
      device(reader, node);
      distinct(reader, node);
      reader.finish();
      config_.cluster.nodes.push_back(node);
    }
  }

  void partitions(TomlReader& reader, NodeConfig& node) {
    std::vector<std::uint64_t> list;
    if (!reader.numbers("partitions", kPartitionLast, list)) return;
    std::uint64_t mask = 0;
    for (const std::uint64_t partition : list) mask |= std::uint64_t{1} << partition;
    if (mask == 0) {
      reader.note("partitions",
                  "'partitions' of " + quoted(node.name) +
                      " is empty: it would execute nothing; leave the key out for all partitions");
    }
    node.partitions = consensus::PartitionMask{mask};
  }

  void storage(TomlReader& reader, NodeConfig& node) {
    const bool disk = config_.cluster.durability == Durability::kDisk;
    reader.text("directory", node.directory);
    reader.number("log_mb", 1, 1u << 20, node.log_mb);
    if (disk) reader.require("directory", "\"/var/lib/annulus/acceptor1\"");
    for (const char* key : {"directory", "log_mb"}) {
      if (!disk && reader.has(key)) {
        reader.note(key, quoted(key) + " has no meaning without durability = \"disk\"; remove it");
      }
    }
  }

  void device(TomlReader& reader, NodeConfig& node) {
    const bool dpdk = config_.cluster.transport == TransportKind::kDpdk;
    reader.text("device", node.device);
    reader.texts("eal", node.eal);
    if (dpdk) {
      reader.require("device",
                     "\"0000:01:00.0\" or \"net_memif0,role=client,socket=/run/a1.sock\"");
    }
    for (const char* key : {"device", "eal"}) {
      if (!dpdk && reader.has(key)) {
        reader.note(key, quoted(key) + " has no meaning without transport = \"dpdk\"; remove it");
      }
    }
  }

  void distinct(TomlReader& reader, const NodeConfig& node) {
    for (const NodeConfig& other : config_.cluster.nodes) {
      const std::string by = " is already used by " + quoted(other.name) + "; ";
      if (other.name == node.name) {
        reader.note("name",
                    "node name " + quoted(node.name) + " is used twice; give each node its own");
      }
      if (other.id == node.id && consensus::raw(node.id) != 0) {
        reader.note("id", "node id " + std::to_string(consensus::raw(node.id)) + by +
                              "ids are never shared nor reused");
      }
      if (other.address == node.address && node.address.port != 0) {
        reader.note("address", "address " + dataplane::to_string(node.address) + by +
                                   "give each node its own address or port");
      }
      if (other.directory == node.directory && !node.directory.empty()) {
        reader.note("directory",
                    "directory " + quoted(node.directory) + by + "an acceptor's log is its own");
      }
      if (node.kind == NodeKind::kProxy && other.kind == NodeKind::kProxy &&
          other.listen == node.listen && node.listen.port != 0) {
        reader.note("listen", "address " + dataplane::to_string(node.listen) + by +
                                  "give each proxy its own");
      }
    }
  }

  /// Every key that [cores] may have.
  std::vector<std::string> core_roles() const {
    std::vector<std::string> roles(std::begin(kCoreRoles), std::end(kCoreRoles));
    for (const NodeConfig& node : config_.cluster.nodes) {
      for (const char* role : kCoreRoles) roles.push_back(node.name + "." + role);
    }
    return roles;
  }

  void process() {
    ProcessConfig& out = config_.process;
    TomlReader cores(mistakes_, root_.table("cores"), "[cores]");
    const std::vector<std::uint32_t> online = dataplane::this_host().online;
    for (const std::string& role : core_roles()) {
      std::string list;
      cores.text(role.c_str(), list);
      if (list.empty()) continue;
      out.cores[role] = list;
      if (list == "auto") continue;
      const Result<std::vector<std::uint32_t>> parsed = dataplane::parse_cpu_list(list);
      if (!parsed) {
        cores.note(role.c_str(), quoted(role) + " in [cores]: " + parsed.error().message);
        continue;
      }
      for (const std::uint32_t cpu : *parsed) {
        if (std::find(online.begin(), online.end(), cpu) != online.end()) continue;
        cores.note(role.c_str(), quoted(role) + " in [cores] names core " + std::to_string(cpu) +
                                     "; this machine has cores " + dataplane::to_cpu_list(online));
      }
    }
    cores.finish();
    TomlReader reader(mistakes_, root_.table("process"), "[process]");
    std::size_t idle = 0;
    reader.choice("idle", kIdlePolicies, idle);
    out.idle = kIdlePolicies[idle];
    reader.text("runtime", out.runtime);
    reader.endpoint("metrics", out.metrics);
    reader.finish();
  }

  /// Checks that concern the file as a whole.
  void whole() {
    const std::uint32_t acceptors = count(NodeKind::kAcceptor);
    const std::uint32_t replicas = count(NodeKind::kReplica);
    if (replicas == 0) {
      mistakes_.note(nullptr, "no [[replicas]]: nothing would execute commands; list at least one");
    }
    if (replicas > consensus::kLearnersMax) {
      mistakes_.note(nullptr, std::to_string(replicas) + " [[replicas]]; at most " +
                                  std::to_string(consensus::kLearnersMax));
    }
    if (acceptors > consensus::kAcceptorsMax) {
      mistakes_.note(nullptr, std::to_string(acceptors) + " [[acceptors]]; at most " +
                                  std::to_string(consensus::kAcceptorsMax));
    }
    if (replicas > 0 && founders(NodeKind::kReplica) == 0) {
      mistakes_.note(nullptr,
                     "every one of the [[replicas]] has joins = true: leave it out of those that "
                     "the cluster is created with, one at least");
    }
    if (config_.cluster.mode == Mode::kClientServer && founders(NodeKind::kReplica) < replicas) {
      mistakes_.note(nullptr,
                     "joins = true has no meaning with mode = \"client-server\": there are no "
                     "acceptors to ask for a place");
    }
    if (config_.cluster.mode != Mode::kClientServer) ring(acceptors, founders(NodeKind::kAcceptor));
  }

  /// Those that the cluster is created with.
  std::uint32_t founders(NodeKind kind) const {
    const auto& nodes = config_.cluster.nodes;
    return static_cast<std::uint32_t>(
        std::count_if(nodes.begin(), nodes.end(),
                      [kind](const NodeConfig& node) { return node.kind == kind && !node.joins; }));
  }

  void ring(std::uint32_t acceptors, std::uint32_t founders) {
    if (acceptors == 0) {
      mistakes_.note(nullptr,
                     "no [[acceptors]]: a ring needs a majority of 2f+1 acceptors to survive f "
                     "failures; list 3, or mode = \"client-server\" to do without replication");
    } else if (founders % 2 == 0) {
      mistakes_.note(nullptr, std::to_string(founders) +
                                  " [[acceptors]]: an even number split in halves has no majority, "
                                  "and survives no more failures than " +
                                  std::to_string(founders - 1) +
                                  "; list 2f+1 (3, 5, 7), beside those with joins = true");
    } else if (founders == 1) {
      config_.warnings.push_back(
          config_.path + ": a single acceptor survives no failure; list 3 outside of experiments");
    }
  }

  std::uint32_t count(NodeKind kind) const { return config_.cluster.count(kind); }

  Mistakes mistakes_;
  TomlReader root_;
  Config& config_;
};

}  // namespace

Result<Config> parse_config(const std::string& text, const std::string& path) {
  Config config;
  config.path = path;
  try {
    const toml::table root = toml::parse(text, path);
    const Status status = Loader(root, config).load();
    if (!status) return status.error();
  } catch (const toml::parse_error& error) {
    return Error{path + ":" + std::to_string(error.source().begin.line) + ": " +
                 std::string(error.description()) +
                 "; this is TOML: key = value, [table], "
                 "[[array of tables]]"};
  }
  return config;
}

Result<Config> load_config(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) {
    return Error{path +
                 ": cannot be read; give --config a file that exists (annulus dev "
                 "--processes --dir D writes one to start from)"};
  }
  return parse_config(text.str(), path);
}

}  // namespace annulus::tools
