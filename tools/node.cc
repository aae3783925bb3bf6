#include "tools/node.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "consensus/proposer.h"
#include "dataplane/frame.h"
#include "dataplane/local/local_transport.h"
#include "dataplane/spsc_ring.h"
#include "tools/log_file.h"
#include "tools/proxy/proxy.h"

namespace annulus::tools {
namespace {

using consensus::AcceptorNode;
using consensus::AcceptorNodeOptions;
using consensus::LearnerNode;
using consensus::LearnerNodeOptions;
using dataplane::Stage;
using statemachine::Worker;
using statemachine::WorkerOptions;

constexpr std::uint32_t kReplyRing = 1'024;  // reply frames on their way out of a worker
constexpr std::uint32_t kProposalRing = 4;   // a worker has one value of its own undecided

/// Names a sender's incarnation; memory nodes have nothing durable to count in.
std::uint64_t random_epoch() {
  std::uint64_t epoch = 0;
  while (epoch == 0) CHECK(getrandom(&epoch, sizeof epoch, 0) == sizeof epoch);
  return epoch;
}

/// Names a start of a replica: a later one is higher, as long as its clock goes on.
std::uint64_t start_epoch() {
  timespec now{};
  CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
  return static_cast<std::uint64_t>(now.tv_sec * kSecond + now.tv_nsec);
}

std::uint32_t frame_bytes(const ClusterConfig& cluster) {
  return cluster.mtu - dataplane::kIpUdpHeaderBytes;
}

/// Instances that a learner may hold undelivered. The coordinator stops proposing beyond it, and
/// whoever is further behind finds the rest in the acceptors' log.
std::uint32_t learner_window(const Limits& limits) {
  return std::min(4 * limits.window, limits.retain);
}

std::uint64_t retained_bytes(const Limits& limits) {
  return std::min(std::uint64_t{limits.retain} * limits.value_bytes,
                  std::uint64_t{limits.retain_mb} << 20);
}
std::uint64_t undecided_bytes(const Limits& limits) {
  return std::uint64_t{limits.window} * limits.value_bytes;
}

/// What clients sent that stays in the hands of nodes of their own process that do not run any
/// more, while the others go on: in those nodes themselves, and in the links to them.
std::uint64_t pinned_bytes(const ClusterConfig& cluster) {
  const Limits& limits = cluster.limits;
  const std::uint64_t link =
      std::uint64_t{dataplane::LocalOptions{}.link_depth} * limits.value_bytes;
  // By its learner, and on their way from there to its worker.
  const std::uint64_t learned = std::uint64_t{2} * learner_window(limits) * limits.value_bytes;
  const std::uint32_t acceptors = cluster.count(NodeKind::kAcceptor);
  const std::uint32_t dead_acceptors = acceptors - std::min(acceptors, acceptors / 2 + 1);
  const std::uint32_t dead_replicas = cluster.count(NodeKind::kReplica) - 1;
  return dead_acceptors * (retained_bytes(limits) + link) + dead_replicas * (learned + link);
}

/// Memory that full load takes is touched at start, if it is a small part of the machine's: else
/// the first seconds of load go into that. Only by nodes of a new cluster, for nobody waits for
/// these.
bool touches(std::uint64_t bytes) {
  const auto pages = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES));
  return bytes <= pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) / 16;
}

consensus::PortIdentity identity(const ClusterConfig& cluster, const NodeConfig& node,
                                 std::uint64_t epoch) {
  return {.cluster = cluster.id, .ring = 0, .node = node.id, .epoch = epoch};
}

AcceptorNodeOptions acceptor_options(const ClusterConfig& cluster, const NodeConfig& node) {
  AcceptorNodeOptions options;
  options.identity = identity(cluster, node, 0);
  options.value_bytes_max = cluster.limits.value_bytes;
  options.acceptor.retain = cluster.limits.retain;
  options.acceptor.retain_bytes = retained_bytes(cluster.limits);
  options.acceptor.undecided_bytes = undecided_bytes(cluster.limits);
  options.acceptor.fragment_bytes = consensus::fragment_bytes(frame_bytes(cluster));
  options.acceptor.fingerprint = fingerprint(cluster);
  options.coordinator.window = cluster.limits.window;
  options.coordinator.learner_window = learner_window(cluster.limits);
  options.coordinator.fragment_bytes = options.acceptor.fragment_bytes;
  options.coordinator.fingerprint = options.acceptor.fingerprint;
  return options;
}

LearnerNodeOptions learner_options(const ClusterConfig& cluster, const NodeConfig& node) {
  LearnerNodeOptions options;
  options.identity = identity(cluster, node, 0);
  options.value_bytes_max = cluster.limits.value_bytes;
  options.learner.window = learner_window(cluster.limits);
  options.learner.partitions = node.partitions;
  options.client_server = cluster.mode == Mode::kClientServer;
  options.source.chunk_bytes = consensus::fragment_bytes(frame_bytes(cluster));
  options.receiver.value_bytes_max = cluster.limits.value_bytes;
  return options;
}

WorkerOptions worker_options(const ClusterConfig& cluster, const NodeConfig& node) {
  WorkerOptions options;
  options.node = node.id;
  options.sessions.sessions_max = cluster.limits.sessions;
  options.sessions.segments_max = cluster.limits.session_memory_mb;
  options.replies.frame_bytes_max = frame_bytes(cluster);
  return options;
}

class AcceptorHost final : public Node {
 public:
  /// `log` is null of a memory cluster.
  AcceptorHost(const NodeSetup& setup, std::unique_ptr<recovery::AcceptorLog> log)
      : Node(setup.node.name),
        log_(std::move(log)),
        stage_(options(setup, log_.get()), setup.ring, setup.transport, log_.get()) {
    if (setup.bootstrap) touch_memory(setup);
  }
  bool failed() const override { return stage_.failed(); }
  consensus::Standing standing() const override { return stage_.standing(); }
  consensus::AcceptorNode* acceptor() override { return &stage_; }
  std::vector<Stage*> stages() override { return {&stage_}; }
  void add_counters(dataplane::Registry& registry) override {
    stage_.add_counters(registry, name());
  }

 private:
  /// Where values lie while they are kept: as they were received, if a frame takes a whole one.
  void touch_memory(const NodeSetup& setup) {
    const Limits& limits = setup.cluster.limits;
    const std::uint32_t kept = limits.retain + limits.window;
    const std::uint64_t bytes = retained_bytes(limits) + undecided_bytes(limits);
    if (!touches(bytes)) return;
    if (frame_bytes(setup.cluster) >= statemachine::ClientOptions{}.batch_bytes) {
      setup.transport.touch_memory(kept, bytes);
    } else {
      stage_.touch_memory(bytes);
    }
  }
  static AcceptorNodeOptions options(const NodeSetup& setup, const recovery::AcceptorLog* log) {
    AcceptorNodeOptions options = acceptor_options(setup.cluster, setup.node);
    options.identity.epoch = log != nullptr ? log->epoch() : random_epoch();
    if (!setup.bootstrap && log == nullptr) options.incarnation = options.identity.epoch;
    options.coordinate = setup.bootstrap && setup.ring.acceptor_index(setup.node.id) == 0;
    return options;
  }

  std::unique_ptr<recovery::AcceptorLog> log_;
  AcceptorNode stage_;
};

Result<std::unique_ptr<Node>> make_acceptor(const NodeSetup& setup) {
  if (setup.bootstrap && setup.node.joins) {
    return Error{
        setup.node.name +
        ": has joins = true, so it is none of those that the cluster is created with: start "
        "it without --bootstrap, and have it admitted with `annulus cluster add`"};
  }
  std::unique_ptr<recovery::AcceptorLog> log;
  if (setup.cluster.durability == Durability::kDisk) {
    auto opened = open_log(setup.cluster, setup.ring, setup.node,
                           setup.bootstrap                  ? LogStart::kBootstrap
                           : setup.join || setup.node.joins ? LogStart::kJoin
                                                            : LogStart::kAgain);
    if (!opened) return opened.error();
    log = std::move(opened).value();
  }
  return std::unique_ptr<Node>(std::make_unique<AcceptorHost>(setup, std::move(log)));
}

/// What all segments of the services can hold.
std::uint64_t services_bytes(const Services& services) {
  std::uint64_t bytes = 0;
  for (const auto& service : services) {
    if (service == nullptr) continue;
    const statemachine::SegmentStore& store = service->segments();
    bytes += statemachine::state_bytes_max(store.segment_bytes(), store.count_max());
  }
  return bytes;
}

/// Of a copy of the state: all of it.
std::uint64_t copy_bytes(const ClusterConfig& cluster, std::uint64_t services) {
  const statemachine::SessionTableOptions sessions = worker_options(cluster, {}).sessions;
  return services + statemachine::state_bytes_max(sessions.segment_bytes, sessions.segments_max);
}

/// Of the values that wait for such a copy: as many bytes as the services' state has, for values
/// and copy come over one network and at best at one pace; and what comes in a tenth of a second,
/// in which a small state is asked for and copied.
std::uint64_t value_log_bytes(const ClusterConfig& cluster, std::uint64_t services) {
  const std::uint64_t least =
      std::max(std::uint64_t{64} << 20, 16 * consensus::ValueLog::cost(cluster.limits.value_bytes));
  return std::max(services, least);
}

class ReplicaHost final : public Node {
 public:
  ReplicaHost(const NodeSetup& setup, Services services)
      : Node(setup.node.name),
        services_(std::move(services)),
        state_(copy_bytes(setup.cluster, services_bytes(services_))),
        deliveries_(learner_window(setup.cluster.limits)),
        replies_(kReplyRing),
        proposals_(kProposalRing),
        epoch_(start_epoch()),
        learner_(learner(setup), setup.ring, setup.transport,
                 LearnerNode::Rings{deliveries_, replies_, proposals_, &state_}),
        worker_(worker(setup), borrowed(),
                Worker::Rings{deliveries_, replies_, proposals_, &state_}) {}
  std::vector<Stage*> stages() override { return {&learner_, &worker_}; }
  Worker* worker() override { return &worker_; }
  consensus::Standing standing() const override {
    return learner_.removed() ? consensus::Standing::kRemoved : consensus::Standing::kMember;
  }
  void add_counters(dataplane::Registry& registry) override {
    learner_.add_counters(registry, name());
    worker_.add_counters(registry, name());
    registry.add(
        {name(), "worker", "executed_instance", [this] { return raw(worker_.executed()); }});
    registry.add({name(), "stage.worker", "deliveries_waiting",
                  [this] { return std::uint64_t{deliveries_.size()}; }});
    registry.add({name(), "stage.learner", "replies_waiting",
                  [this] { return std::uint64_t{replies_.size()}; }});
  }

 private:
  LearnerNodeOptions learner(const NodeSetup& setup) const {
    LearnerNodeOptions options = learner_options(setup.cluster, setup.node);
    options.identity.epoch = epoch_;
    options.source.chunk_bytes = consensus::fragment_bytes(setup.transport.frame_bytes_max());
    options.source.first_image = (epoch_ >> 16) + 1;
    options.receiver.log_bytes = value_log_bytes(setup.cluster, services_bytes(services_));
    return options;
  }
  WorkerOptions worker(const NodeSetup& setup) const {
    WorkerOptions options = worker_options(setup.cluster, setup.node);
    options.epoch = epoch_;
    const auto replica = setup.ring.learner_index(setup.node.id);
    CHECK(replica.has_value());
    options.replies.replica = static_cast<std::uint16_t>(*replica);
    // The first replica proposes to expire an idle session; the next only if it did not.
    options.session_idle += options.replies.replica * kSecond;
    options.replies.frame_bytes_max = setup.transport.frame_bytes_max();
    return options;
  }
  std::vector<statemachine::Service*> borrowed() const {
    std::vector<statemachine::Service*> services;
    for (const auto& service : services_) services.push_back(service.get());
    return services;
  }

  Services services_;
  consensus::StateExchange state_;
  dataplane::SpscRing<consensus::Delivery> deliveries_;
  dataplane::SpscRing<consensus::ReplyFrame> replies_;
  dataplane::SpscRing<consensus::Proposal> proposals_;
  std::uint64_t epoch_;
  LearnerNode learner_;
  Worker worker_;
};

class ProxyHost final : public Node {
 public:
  ProxyHost(const NodeSetup& setup, std::unique_ptr<proxy::Proxy> stage)
      : Node(setup.node.name), transport_(setup.transport), stage_(std::move(stage)) {}
  std::vector<Stage*> stages() override { return {stage_.get()}; }
  void add_counters(dataplane::Registry& registry) override {
    registry.add(name(), "stage.proxy", stage_->stage_counters());
    registry.add(name(), "proxy", stage_->counters());
    registry.add(name(), "client", stage_->client().counters());
    registry.add(name(), "proposer", stage_->client().proposer_counters());
    registry.add(name(), "port", stage_->client().port_counters());
    registry.add(name(), "transport", transport_.counters());
    registry.add(name(), "client_ns", stage_->client().latency());
  }

 private:
  dataplane::Transport& transport_;
  std::unique_ptr<proxy::Proxy> stage_;
};

Result<std::unique_ptr<Node>> make_proxy(const NodeSetup& setup) {
  proxy::ProxyOptions options;
  const std::string listen = dataplane::to_string(setup.node.listen);
  options.address = listen.substr(0, listen.rfind(':'));
  options.port = setup.node.listen.port;
  options.services = {.kv = service_id(setup.cluster.services, "kv"),
                      .btree = service_id(setup.cluster.services, "btree")};
  auto made = proxy::Proxy::create(options, client_options(setup.cluster, setup.node.id),
                                   setup.ring, setup.transport);
  if (!made) return made.error();
  if (setup.cluster.transport == TransportKind::kLocal &&
      touches(client_options(setup.cluster, setup.node.id).buffer_bytes)) {
    made.value()->touch_memory();
  }
  return std::unique_ptr<Node>(std::make_unique<ProxyHost>(setup, std::move(made).value()));
}

/// Relative work of a stage: what executes and what speaks to clients outweighs what orders.
std::uint32_t weight(const std::string& stage) {
  return stage == "worker" || stage == "client" || stage == "proxy" ? 3 : 2;
}

Result<dataplane::CorePlan> plan_stages(const ProcessConfig& process,
                                        const std::vector<dataplane::Placement>& placements,
                                        const dataplane::Host& host) {
  dataplane::CoreMap map;
  for (const auto& [role, list] : process.cores) {
    if (list == "auto") continue;
    auto cpus = dataplane::parse_cpu_list(list);
    if (!cpus) return cpus.error();
    map.roles[role] = std::move(cpus).value();
  }
  if (process.idle != "auto") {
    const auto idle = dataplane::parse_idle_policy(process.idle);
    if (!idle) return idle.error();
    map.idle = idle.value();
  }
  return dataplane::plan_cores(map, placements, host);
}

}  // namespace

statemachine::ClientOptions client_options(const ClusterConfig& cluster, consensus::NodeId node) {
  statemachine::ClientOptions options;
  options.cluster = cluster.id;
  options.node = node;
  options.value_bytes_max = cluster.limits.value_bytes;
  options.batch_bytes = std::min(options.batch_bytes, options.value_bytes_max);
  options.client_server = cluster.mode == Mode::kClientServer;
  // In one process, what acceptors retain is what clients sent, in its place.
  if (cluster.transport == TransportKind::kLocal) {
    options.buffer_bytes = std::max(
        options.buffer_bytes, retained_bytes(cluster.limits) + 2 * undecided_bytes(cluster.limits));
    options.pinned_bytes = pinned_bytes(cluster);
  }
  return options;
}

Result<std::unique_ptr<Node>> make_node(const NodeSetup& setup, const ServiceFactory& services) {
  switch (setup.node.kind) {
    case NodeKind::kAcceptor:
      return make_acceptor(setup);
    case NodeKind::kReplica:
      return std::unique_ptr<Node>(std::make_unique<ReplicaHost>(setup, services()));
    case NodeKind::kProxy:
      return make_proxy(setup);
  }
  __builtin_unreachable();
}

namespace {

std::string replica_memory_plan(const ClusterConfig& cluster, const NodeConfig& node) {
  std::uint64_t services = 0;
  for (const ServiceConfig& service : cluster.services) {
    services += std::uint64_t{service.memory_mb} << 20;
  }
  LearnerNodeOptions learner = learner_options(cluster, node);
  learner.receiver.log_bytes = value_log_bytes(cluster, services);
  return LearnerNode::memory_plan(learner) + Worker::memory_plan(worker_options(cluster, node)) +
         std::to_string(copy_bytes(cluster, services)) +
         " bytes: a copy of the state, given or fetched (touched only then, and given back)\n";
}

}  // namespace

std::string memory_plan(const ClusterConfig& cluster, const NodeConfig& node) {
  std::string text;
  switch (node.kind) {
    case NodeKind::kAcceptor:
      text = AcceptorNode::memory_plan(acceptor_options(cluster, node));
      if (cluster.durability == Durability::kDisk) text += log_memory_plan(cluster, node);
      return text;
    case NodeKind::kReplica:
      text = replica_memory_plan(cluster, node);
      for (const ServiceConfig& service : cluster.services) {
        text += std::to_string(std::uint64_t{service.memory_mb} << 20) + " bytes: segments of '" +
                service.name + "', touched as it fills\n";
      }
      return text;
    case NodeKind::kProxy:
      return std::to_string(client_options(cluster, node.id).buffer_bytes) +
             " bytes: batches in flight, touched as they are sent\n";
  }
  return text;
}

std::vector<Cores::Entry> Cores::entries(const std::vector<std::unique_ptr<Node>>& nodes) {
  std::vector<Entry> entries;
  for (const std::unique_ptr<Node>& node : nodes) {
    for (Stage* stage : node->stages()) entries.push_back({node->name(), stage});
  }
  return entries;
}

Result<std::unique_ptr<Cores>> Cores::plan(std::vector<Entry> entries, const ProcessConfig& process,
                                           const dataplane::Host& host) {
  std::vector<dataplane::Placement> placements;
  for (const Entry& entry : entries) {
    placements.push_back({entry.node, entry.stage->name(), weight(entry.stage->name())});
  }
  const Result<dataplane::CorePlan> plan = plan_stages(process, placements, host);
  if (!plan) return plan.error();
  std::unique_ptr<Cores> cores(new Cores);
  cores->text_ = dataplane::to_string(plan.value(), placements);
  for (const dataplane::CorePlan::Core& planned : plan.value().cores) {
    Core core{planned.cpu, nullptr, {}};
    std::vector<Stage*> stages;
    for (const std::uint32_t index : planned.placements) {
      core.entries.push_back(entries[index]);
      stages.push_back(entries[index].stage);
    }
    core.loop = std::make_unique<dataplane::CoreLoop>(
        std::move(stages), dataplane::LoopOptions{.idle = planned.idle}, cores->clock_);
    cores->cores_.push_back(std::move(core));
  }
  return cores;
}

void Cores::add_counters(dataplane::Registry& registry) {
  for (const Core& core : cores_) {
    const std::string name = "cpu" + std::to_string(core.cpu);
    registry.add(name, "core", core.loop->counters());
    registry.add(name, "stall_ns", core.loop->stalls());
    for (const Entry& entry : core.entries) {
      registry.add({entry.node, std::string("stage.") + entry.stage->name(), "cpu",
                    [cpu = core.cpu] { return std::uint64_t{cpu}; }});
    }
  }
}

void Cores::remove_counters(dataplane::Registry& registry) {
  for (const Core& core : cores_) registry.remove("cpu" + std::to_string(core.cpu));
}

void Cores::start() {
  for (const Core& core : cores_) {
    threads_.emplace_back([&core] {
      // Without its own CPU a core still works, only slower: say so and go on.
      if (const Status pinned = dataplane::pin_this_thread(core.cpu); !pinned) {
        std::fprintf(stderr, "warning: %s\n", pinned.error().message.c_str());
      }
      core.loop->run();
    });
  }
}

void Cores::stop() {
  for (const Core& core : cores_) core.loop->stop();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

Result<std::string> core_plan_text(const ProcessConfig& process, const NodeConfig& node,
                                   const dataplane::Host& host) {
  std::vector<dataplane::Placement> placements;
  switch (node.kind) {
    case NodeKind::kAcceptor:
      placements = {{node.name, "acceptor", weight("acceptor")}};
      break;
    case NodeKind::kReplica:
      placements = {{node.name, "learner", weight("learner")},
                    {node.name, "worker", weight("worker")}};
      break;
    case NodeKind::kProxy:
      placements = {{node.name, "proxy", weight("proxy")}};
      break;
  }
  const Result<dataplane::CorePlan> plan = plan_stages(process, placements, host);
  if (!plan) return plan.error();
  return dataplane::to_string(plan.value(), placements);
}

}  // namespace annulus::tools
