#include "tools/node_command.h"

#include <sys/random.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "consensus/candidate.h"
#include "tools/config.h"
#include "tools/config_command.h"
#include "tools/members_answer.h"
#include "tools/node.h"
#include "tools/signals.h"
#include "tools/state_answer.h"
#include "tools/telemetry.h"
#include "tools/transports.h"

namespace annulus::tools {
namespace {

constexpr int kFailureCheckMs = 200;
constexpr int kTellsMs = 2'000;
constexpr int kCandidatePollMs = 1;

struct Arguments {
  std::string file;
  std::string name;
  bool bootstrap = false;
  bool join = false;
};

/// The configuration's node of that name, of a kind that the subcommand runs.
Result<const NodeConfig*> find_node(const Config& config, const Arguments& arguments,
                                    bool proxy_only) {
  const NodeConfig* node = config.cluster.find(arguments.name);
  if (node == nullptr) {
    std::vector<std::string> names;
    for (const NodeConfig& one : config.cluster.nodes) names.push_back(one.name);
    const std::string near = nearest_name(arguments.name, names);
    return Error{config.path + ": has no node '" + arguments.name + "'; " +
                 (near.empty() ? "its nodes are: " + config.cluster.names()
                               : "did you mean '" + near + "'?")};
  }
  if (proxy_only && node->kind != NodeKind::kProxy) {
    return Error{config.path + ": '" + node->name + "' is " + with_article(node->kind) +
                 "; start it with: annulus node --config " + config.path + " --name " + node->name};
  }
  return node;
}

/// What the operator should know of how the node runs.
void print_start(const NodeConfig& node, const Config& config, const Cores& cores,
                 const TelemetryServer& telemetry, bool bootstrap) {
  for (const std::string& warning : config.warnings) {
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }
  std::printf("%s: %s %u of cluster %016llx at %s, transport %s, mode %s, durability %s\n",
              node.name.c_str(), to_string(node.kind), consensus::raw(node.id),
              static_cast<unsigned long long>(config.cluster.id),
              dataplane::to_string(node.address).c_str(), to_string(config.cluster.transport),
              to_string(config.cluster.mode), to_string(config.cluster.durability));
  const bool memory = config.cluster.durability == Durability::kMemory;
  if (node.kind == NodeKind::kAcceptor && memory && !bootstrap && !node.joins) {
    std::printf(
        "%s: started without --bootstrap: its votes are lost with its memory, so it asks the "
        "others to admit it anew\n",
        node.name.c_str());
  }
  std::printf("%stelemetry %s\nready\n", cores.text().c_str(), telemetry.path().c_str());
  std::fflush(stdout);
}

/// What has changed of a node's place among the members.
void tell_standing(const std::string& name, consensus::Standing now, consensus::Standing& told) {
  if (now == told) return;
  told = now;
  const char* text = "is a member of the cluster";
  switch (now) {
    case consensus::Standing::kMember:
      break;
    case consensus::Standing::kJoining:
      text = "waits to be admitted";
      break;
    case consensus::Standing::kRemoved:
      text = "was taken out of the cluster, and takes no part any more";
      break;
    case consensus::Standing::kMajorityLost:
      text =
          "so many acceptors have lost their votes that the others are no majority: nothing can be "
          "decided any more. What was acknowledged is with the replicas: read it there, and start "
          "a "
          "new cluster";
      break;
  }
  std::printf("%s: %s\n", name.c_str(), text);
  std::fflush(stdout);
}

/// Waits until the cluster has a place for a replica that is new to it: then `ring` are the
/// members, and `node` has the id that they gave it. False if the process is to stop first.
bool find_place(const Config& config, NodeConfig& node, dataplane::Transport& transport,
                const StopSignals& signals, consensus::Configuration& ring) {
  std::uint64_t incarnation = 0;
  while (incarnation == 0) {
    CHECK(getrandom(&incarnation, sizeof incarnation, 0) == sizeof incarnation);
  }
  std::vector<dataplane::Endpoint> acceptors;
  for (const NodeConfig& each : config.cluster.nodes) {
    if (each.kind == NodeKind::kAcceptor) acceptors.push_back(each.address);
  }
  consensus::ReplicaCandidate candidate({.cluster = config.cluster.id, .epoch = incarnation}, ring,
                                        std::move(acceptors), node.address, incarnation, transport);
  dataplane::TscClock clock;
  auto told = consensus::Standing::kMember;
  for (const Nanos begun = clock.now(); !signals.wait(kCandidatePollMs);) {
    const Nanos now = clock.now();
    candidate.poll(now);
    if (const auto place = candidate.admitted()) {
      ring = candidate.configuration();
      node.id = ring.learners[*place].id;
      tell_standing(node.name, consensus::Standing::kMember, told);
      return true;
    }
    // A member that was started again is told of its place at once.
    if (now - begun > 100 * kMillisecond) {
      tell_standing(node.name, consensus::Standing::kJoining, told);
    }
  }
  return false;
}

Status run(const Config& config, const NodeConfig& listed, const Arguments& arguments) {
  const bool bootstrap = arguments.bootstrap;
  NodeConfig node = listed;
  // Before the transport: DPDK starts threads, which must inherit the mask.
  const StopSignals signals;
  auto transport = open_transport(config.cluster, node);
  if (!transport) return transport.error();
  consensus::Configuration ring = node.kind == NodeKind::kProxy
                                      ? client_configuration(config.cluster)
                                      : ring_configuration(config.cluster);
  if (node.kind == NodeKind::kReplica && node.joins &&
      !find_place(config, node, *transport.value(), signals, ring)) {
    return {};
  }
  std::vector<std::unique_ptr<Node>> nodes;
  auto made = make_node({.cluster = config.cluster,
                         .ring = ring,
                         .node = node,
                         .transport = *transport.value(),
                         .bootstrap = bootstrap,
                         .join = arguments.join},
                        service_factory(config.cluster.services));
  if (!made) return made.error();
  nodes.push_back(std::move(made).value());

  auto cores = Cores::plan(Cores::entries(nodes), config.process, host_of(config.cluster, node));
  if (!cores) return Error{config.path + ": " + cores.error().message};

  dataplane::Registry registry;
  nodes.front()->add_counters(registry);
  cores.value()->add_counters(registry);
  auto telemetry =
      TelemetryServer::start(registry, node.name, config.process.runtime, config.process.metrics);
  if (!telemetry) return telemetry.error();
  if (statemachine::Worker* const worker = nodes.front()->worker(); worker != nullptr) {
    telemetry.value()->answer("/state", StateAnswer(*worker));
  }
  consensus::AcceptorNode* const acceptor = nodes.front()->acceptor();
  if (acceptor != nullptr) telemetry.value()->answer("/members", MembersAnswer(*acceptor, ring));
  cores.value()->start();
  print_start(node, config, *cores.value(), *telemetry.value(), bootstrap);
  bool stopped = false;
  auto standing = nodes.front()->standing();
  while (!stopped && !nodes.front()->failed() && standing != consensus::Standing::kRemoved) {
    stopped = telemetry.value()->serve(signals.descriptor(), kFailureCheckMs);
    tell_standing(node.name, nodes.front()->standing(), standing);
  }
  // The others may have to hear from it yet what it was that took it out.
  const bool tells = acceptor != nullptr && standing == consensus::Standing::kRemoved;
  for (int left = kTellsMs; tells && !stopped && left > 0; left -= kFailureCheckMs) {
    stopped = telemetry.value()->serve(signals.descriptor(), kFailureCheckMs);
  }
  cores.value()->stop();
  if (stopped || standing == consensus::Standing::kRemoved) return {};
  return Error{node.name + " has stopped: its log failed, see above"};
}

int run_command(const Arguments& arguments, bool proxy_only) {
  const Result<Config> config = load_config(arguments.file);
  if (!config) {
    print_error(config.error().message);
    return 1;
  }
  const Result<const NodeConfig*> node = find_node(*config, arguments, proxy_only);
  if (!node) {
    print_error(node.error().message);
    return 1;
  }
  if (const Status status = run(*config, **node, arguments); !status) {
    print_error(status.error().message);
    return 1;
  }
  return 0;
}

}  // namespace

void add_node_commands(CLI::App& app, int& status) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* node = app.add_subcommand(
      "node", "Run one node with the role the configuration gives it, until SIGINT or SIGTERM");
  CLI::App* proxy = app.add_subcommand(
      "proxy", "Run one proxy: Redis clients on its 'listen' address, until SIGINT or SIGTERM");
  for (CLI::App* command : {node, proxy}) {
    command->add_option("--config", arguments->file, "Configuration file")->required();
    command->add_option("--name", arguments->name, "The node's name there")->required();
  }
  node->add_flag("--bootstrap", arguments->bootstrap,
                 "Create the cluster: its acceptors have never voted. Once in a cluster's life, on "
                 "all acceptors; makes their logs if durability is disk");
  node->add_flag(
      "--join", arguments->join,
      "An acceptor whose log is lost, or that never had one: ask the others to admit it, "
      "in the place of the member with its address or after `annulus cluster add`");
  node->callback([arguments, &status] { status = run_command(*arguments, false); });
  proxy->callback([arguments, &status] { status = run_command(*arguments, true); });
}

}  // namespace annulus::tools
