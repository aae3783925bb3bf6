// The configuration file: what all nodes of a cluster must agree on, and what concerns the process
// that reads it. Read once, at start-up; every mistake is reported with its line.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "consensus/ring.h"
#include "dataplane/result.h"
#include "dataplane/transport.h"

namespace annulus::tools {

enum class Mode : std::uint8_t {
  kSmr,           // replicated: every command is ordered
  kClientServer,  // not replicated: the first replica serves alone; the baseline of comparisons
};
enum class TransportKind : std::uint8_t { kLocal, kUdp, kDpdk };
/// What an acceptor's promises and votes survive.
enum class Durability : std::uint8_t {
  kMemory,  // nothing: an acceptor that is started again is admitted as a new one
  kDisk,    // its end and the loss of power: they are on disk before anybody hears of them
};
enum class NodeKind : std::uint8_t { kAcceptor, kReplica, kProxy };

const char* to_string(Mode mode);
const char* to_string(TransportKind kind);
const char* to_string(Durability durability);
const char* to_string(NodeKind kind);
/// "an acceptor", "a replica".
std::string with_article(NodeKind kind);
const char* to_string(consensus::Dissemination dissemination);

/// Sizes of windows, logs and tables: everything that memory is reserved for at start.
struct Limits {
  std::uint32_t window = 256;               // instances proposed and not yet decided
  std::uint32_t retain = 2'048;             // decided instances kept for those who missed them,
  std::uint32_t retain_mb = 128;            // as long as their values take no more than this
  std::uint32_t value_bytes = 65'536;       // the largest batch, in bytes
  std::uint32_t sessions = 131'072;         // client sessions open at once
  std::uint32_t session_memory_mb = 1'024;  // their windows and the replies kept for them
};

/// One replicated service. Its id is its place in the list, from 1.
struct ServiceConfig {
  std::string name;               // see service_names()
  std::uint32_t memory_mb = 512;  // state it may hold, in segments
};

struct NodeConfig {
  NodeKind kind{};
  consensus::NodeId id{};
  std::string name;
  dataplane::Endpoint address;
  consensus::PartitionMask partitions = consensus::kAllPartitions;  // replicas only
  dataplane::Endpoint listen;                                       // proxies only: Redis clients
  bool joins = false;  // acceptors and replicas: none of those that the cluster was created with
  // Acceptors with durability disk: where the log is, and how much of that disk it takes at start.
  std::string directory;
  std::uint32_t log_mb = 1'024;
  // With the dpdk transport: which device, and what else the EAL is told.
  std::string device;
  std::vector<std::string> eal;
};

/// The same in every process of a cluster; its fingerprint travels in Phase 1.
struct ClusterConfig {
  std::uint64_t id = 0;
  Mode mode = Mode::kSmr;
  Durability durability = Durability::kMemory;
  TransportKind transport = TransportKind::kUdp;
  consensus::Dissemination dissemination = consensus::Dissemination::kMulticast;
  dataplane::Endpoint group;  // set iff dissemination is multicast
  std::uint32_t mtu = 1'500;
  Limits limits;
  std::vector<ServiceConfig> services;
  std::vector<NodeConfig> nodes;  // acceptors, then replicas, then proxies; each in file order

  std::uint32_t count(NodeKind kind) const;
  const NodeConfig* find(const std::string& name) const;
  /// The nodes' names, for messages: "acceptor1, acceptor2, replica1".
  std::string names() const;
};

/// The keys of [cores] are these stages of all nodes, or one node's: "replica1.worker".
constexpr const char* kCoreRoles[] = {"acceptor", "learner", "worker", "proxy", "client"};

/// May differ between processes.
struct ProcessConfig {
  /// Role to CPU list ("2-5,9") or "auto"; roles not named are "auto".
  std::map<std::string, std::string> cores;
  std::string idle = "auto";    // spin, yield, sleep; or auto: chosen from the core plan
  std::string runtime = "";     // directory of the telemetry sockets; "" is chosen from $TMPDIR
  dataplane::Endpoint metrics;  // Prometheus text over HTTP; port 0 is none
};

struct Config {
  std::string path;
  ClusterConfig cluster;
  ProcessConfig process;
  std::vector<std::string> warnings;  // allowed, but hardly meant
};

/// Reads and validates a file. The error lists every mistake, each as `file:line: what; how to
/// mend it`.
Result<Config> load_config(const std::string& path);
/// As load_config, for text; `path` appears in messages only.
Result<Config> parse_config(const std::string& text, const std::string& path);

/// The effective configuration as a file that load_config accepts.
std::string to_toml(const Config& config);

/// Hash of what must be equal in every acceptor and replica, but for the members, which change.
std::uint64_t fingerprint(const ClusterConfig& cluster);

/// The members that the cluster is created with: what the roles start from.
consensus::Configuration ring_configuration(const ClusterConfig& cluster);
/// The same for a client, which has no part in it: every acceptor of the file may be one by now.
/// Of epoch 0, so that whoever answers tells who the members are.
consensus::Configuration client_configuration(const ClusterConfig& cluster);

/// The name among `known` that is fewest edits away from `word`, or "" when none is near.
std::string nearest_name(const std::string& word, const std::vector<std::string>& known);

}  // namespace annulus::tools
