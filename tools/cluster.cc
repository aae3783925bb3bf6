#include "tools/cluster.h"

#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

#include "consensus/proposer.h"
#include "recovery/uring_disk.h"
#include "tools/log_file.h"

namespace annulus::tools {
namespace {

// In-process addresses are only names.
constexpr std::uint32_t kNetwork = 0x0a000000;  // 10.0.0.0
constexpr std::uint16_t kPort = 4'000;
constexpr std::uint32_t kFirstReplica = 101;
constexpr std::uint32_t kFirstClient = 201;
constexpr dataplane::Endpoint kGroup{0xef0a0001, kPort};  // 239.10.0.1

NodeConfig node_config(NodeKind kind, std::uint32_t id, std::uint32_t number) {
  NodeConfig node;
  node.kind = kind;
  node.id = consensus::NodeId{id};
  node.name = to_string(kind) + std::to_string(number);
  node.address = {kNetwork + id, kPort};
  return node;
}

}  // namespace

Cluster::Cluster(const ClusterOptions& options)
    : process_(options.process),
      clients_max_(options.clients_max),
      services_(options.services),
      gated_(options.gated) {
  CHECK(getrandom(&config_.id, sizeof config_.id, 0) == sizeof config_.id);
  config_.mode = options.mode;
  config_.durability = options.mode == Mode::kSmr ? options.durability : Durability::kMemory;
  config_.transport = TransportKind::kLocal;
  config_.dissemination = options.dissemination;
  if (options.dissemination == consensus::Dissemination::kMulticast) config_.group = kGroup;
  config_.mtu = options.mtu;
  config_.limits = options.limits;
  config_.services = options.service_names;
  const bool smr = options.mode == Mode::kSmr;
  for (std::uint32_t i = 0; smr && i < options.acceptors; ++i) {
    NodeConfig node = node_config(NodeKind::kAcceptor, 1 + i, 1 + i);
    if (options.durability == Durability::kDisk) {
      node.directory = options.directory + "/" + node.name;
    }
    node.log_mb = options.log_mb;
    config_.nodes.push_back(std::move(node));
  }
  for (std::uint32_t i = 0; i < options.replicas; ++i) {
    config_.nodes.push_back(node_config(NodeKind::kReplica, kFirstReplica + i, 1 + i));
  }
  ring_ = ring_configuration(config_);
  std::vector<dataplane::Endpoint> endpoints;
  for (const NodeConfig& node : config_.nodes) endpoints.push_back(node.address);
  for (std::uint32_t i = 0; i < clients_max_; ++i) {
    endpoints.push_back({kNetwork + kFirstClient + i, kPort});
  }
  switch_ = std::make_unique<dataplane::LocalSwitch>(endpoints,
                                                     dataplane::LocalOptions{.mtu = config_.mtu});
}

Result<std::unique_ptr<Cluster>> Cluster::create(const ClusterOptions& options) {
  if (!options.services || options.replicas == 0 ||
      (options.mode == Mode::kSmr && options.acceptors % 2 == 0)) {
    return Error{
        "a cluster needs a service factory, at least one replica, and an odd number of "
        "acceptors; " +
        std::to_string(options.replicas) + " replicas and " + std::to_string(options.acceptors) +
        " acceptors were asked for"};
  }
  if (options.durability == Durability::kDisk && options.directory.empty()) {
    return Error{"durability disk needs a directory for the acceptors' logs"};
  }
  std::unique_ptr<Cluster> cluster(new Cluster(options));
  if (Status found = cluster->find_logs(); !found) return found.error();
  if (Status made = cluster->make_nodes(); !made) return made.error();
  return cluster;
}

Cluster::~Cluster() {
  stop();
  // Frames in flight refer to the nodes' memory and lie in the switch's links.
  switch_->clear();
}

/// An existing log says which cluster this is, and that it is no new one.
Status Cluster::find_logs() {
  if (config_.durability == Durability::kMemory) return {};
  for (const NodeConfig& node : config_.nodes) {
    if (node.kind != NodeKind::kAcceptor || !std::filesystem::exists(log_path(node))) continue;
    auto disk = recovery::UringDisk::open_to_read(log_path(node));
    if (!disk) return disk.error();
    const auto identity = recovery::read_identity(**disk);
    if (!identity) return identity.error();
    config_.id = identity->cluster;
    bootstrap_ = false;
  }
  return {};
}

Result<std::unique_ptr<Node>> Cluster::make(std::uint32_t index) {
  return make_node({.cluster = config_,
                    .ring = ring_,
                    .node = config_.nodes[index],
                    .transport = switch_->transport(index),
                    .bootstrap = bootstrap_},
                   services_);
}

Status Cluster::make_nodes() {
  for (std::uint32_t i = 0; i < config_.nodes.size(); ++i) {
    dataplane::LocalTransport& transport = switch_->transport(i);
    if (config_.group.port != 0) {
      if (Status joined = transport.join(config_.group); !joined) return joined;
    }
    auto node = make(i);
    if (!node) return node.error();
    nodes_.push_back(std::move(node).value());
    nodes_.back()->add_counters(registry_);
  }
  return {};
}

Cluster::ClientPlace Cluster::next_client() {
  CHECK(clients_ < clients_max_);
  const std::uint32_t nodes = switch_->size() - clients_max_;
  return {switch_->transport(nodes + clients_++), client_options(config_, consensus::kNoNode)};
}

statemachine::Client& Cluster::make_client(
    statemachine::CompletionSink& sink,
    const std::function<void(statemachine::ClientOptions&)>& adjust) {
  ClientPlace place = next_client();
  if (adjust) adjust(place.options);
  stage_clients_.push_back(
      std::make_unique<statemachine::Client>(place.options, ring_, place.transport, sink));
  statemachine::Client& client = *stage_clients_.back();
  const std::string name = "client" + std::to_string(clients_);
  registry_.add(name, "client", client.counters());
  registry_.add(name, "proposer", client.proposer_counters());
  registry_.add(name, "transport", place.transport.counters());
  registry_.add(name, "client_ns", client.latency());
  return client;
}

statemachine::BlockingClient& Cluster::make_blocking_client() {
  const ClientPlace place = next_client();
  blocking_clients_.push_back(std::make_unique<statemachine::BlockingClient>(
      place.options, ring_, place.transport, clock_));
  return *blocking_clients_.back();
}

Status Cluster::add_proxy(const dataplane::Endpoint& listen) {
  dataplane::LocalTransport& transport = next_client().transport;
  NodeConfig node = node_config(NodeKind::kProxy, kFirstClient + clients_ - 1, clients_);
  node.listen = listen;
  auto made =
      make_node({.cluster = config_, .ring = ring_, .node = node, .transport = transport}, {});
  if (!made) return made.error();
  nodes_.push_back(std::move(made).value());
  nodes_.back()->add_counters(registry_);
  return {};
}

void Cluster::add_stage(const std::string& name, dataplane::Stage& stage) {
  own_stages_.push_back({name, &stage});
  registry_.add(name, std::string("stage.") + stage.name(), stage.stage_counters());
}

Gate& Cluster::gate(const std::string& node) {
  CHECK(gates_.contains(node));
  return gates_.at(node);
}

std::vector<Cores::Entry> Cluster::node_stages() {
  std::vector<Cores::Entry> entries = Cores::entries(nodes_);
  for (Cores::Entry& entry : entries) {
    if (!gated_) break;
    gated_stages_.push_back(std::make_unique<GatedStage>(*entry.stage, gates_[entry.node]));
    entry.stage = gated_stages_.back().get();
    // What the core counts is the gate's.
    registry_.add(entry.node, std::string("stage.") + entry.stage->name(),
                  entry.stage->stage_counters());
  }
  return entries;
}

Status Cluster::start() {
  std::vector<Cores::Entry> entries = node_stages();
  entries.insert(entries.end(), own_stages_.begin(), own_stages_.end());
  auto cores = Cores::plan(std::move(entries), process_, dataplane::this_host());
  if (!cores) return cores.error();
  cores_ = std::move(cores).value();
  cores_->add_counters(registry_);
  cores_->start();
  return {};
}

Status Cluster::restart_replica(const std::string& name) {
  const NodeConfig* config = config_.find(name);
  if (config == nullptr || config->kind != NodeKind::kReplica || !cores_) {
    return Error{"'" + name +
                 "' is no replica of this cluster, or the cluster does not run; it has " +
                 config_.names()};
  }
  const auto index = static_cast<std::uint32_t>(config - config_.nodes.data());
  auto made = make(index);
  if (!made) return made.error();
  stop();
  cores_->remove_counters(registry_);
  retired_cores_.push_back(std::move(cores_));
  for (auto& stage : gated_stages_) retired_stages_.push_back(std::move(stage));
  gated_stages_.clear();
  switch_->clear();
  registry_.remove(name);
  retired_.push_back(std::exchange(nodes_[index], std::move(made).value()));
  nodes_[index]->add_counters(registry_);
  if (gated_) gates_[name].open();
  return start();
}

void Cluster::stop() {
  if (cores_) cores_->stop();
}

std::uint64_t Cluster::replicas_apart() const {
  std::uint64_t first = 0;
  std::uint64_t last = ~std::uint64_t{0};
  for (const std::unique_ptr<Node>& node : nodes_) {
    if (node->worker() == nullptr) continue;
    const std::uint64_t executed = raw(node->worker()->executed());
    first = std::max(first, executed);
    last = std::min(last, executed);
  }
  return first - last;
}

Result<std::vector<statemachine::StateHashes>> Cluster::state_hashes(Nanos patience) {
  const Nanos until = clock_.now() + patience;
  std::vector<statemachine::Worker*> workers;
  consensus::Instance furthest{0};
  for (const std::unique_ptr<Node>& node : nodes_) {
    if (node->worker() == nullptr) continue;
    workers.push_back(node->worker());
    furthest = std::max(furthest, node->worker()->executed());
  }
  std::vector<std::uint64_t> tickets;
  for (statemachine::Worker* worker : workers)
    tickets.push_back(worker->ask_state_hashes(furthest));
  std::vector<statemachine::StateHashes> hashes(workers.size());
  for (std::size_t i = 0; i < workers.size(); ++i) {
    while (!workers[i]->state_hashes(tickets[i], hashes[i])) {
      if (clock_.now() > until) {
        return Error{"replica " + std::to_string(i + 1) + " has executed " +
                     std::to_string(raw(workers[i]->executed())) + " instances and not reached " +
                     std::to_string(raw(furthest)) +
                     " in time; see its 'learner' counters for what it waits for"};
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  return hashes;
}

}  // namespace annulus::tools
