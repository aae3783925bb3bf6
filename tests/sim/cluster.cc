#include "tests/sim/cluster.h"

#include <algorithm>

namespace annulus::sim {

using consensus::NodeId;
using consensus::PartitionMask;

namespace {

constexpr std::uint64_t kFingerprint = 0xf1;
constexpr Endpoint kGroup{0xe0000001, 7'000};
/// Few values, so that a replica that fetches its state slows the others, or begins anew.
constexpr std::uint64_t kValueLogBytes = 256 * 1'024;
/// Sessions and both services at their limits.
constexpr std::uint64_t kStateBytesMax = 600u << 20;

Endpoint endpoint_of(std::uint32_t kind, std::uint32_t index) {
  return {0x0a000000 + (kind << 8) + index + 1, 7'000};
}
NodeId learner_id(std::uint32_t index) { return NodeId{101 + index}; }

template <typename T, std::size_t N>
T pick(Rng& rng, const T (&from)[N]) {
  return from[rng.below(N)];
}

consensus::Configuration configuration_of(const ClusterPlan& plan) {
  consensus::Configuration configuration;
  for (std::uint32_t i = 0; i < plan.acceptors; ++i) {
    configuration.acceptors.push_back({acceptor_id(i), endpoint_of(0, i)});
  }
  for (std::uint32_t i = 0; i < plan.learners.size(); ++i) {
    configuration.learners.push_back({learner_id(i), endpoint_of(1, i), plan.learners[i]});
  }
  configuration.group = kGroup;
  configuration.dissemination = plan.dissemination;
  return configuration;
}

}  // namespace

std::string ClusterPlan::describe() const {
  static constexpr const char* kDissemination[] = {"multicast", "fanout", "ring"};
  std::string text = std::to_string(acceptors) + " acceptors, learners";
  for (const PartitionMask mask : learners) {
    text += " " + (mask == consensus::kAllPartitions ? "all" : std::to_string(raw(mask)));
  }
  return text + ", " + kDissemination[static_cast<std::size_t>(dissemination)] + ", frames " +
         std::to_string(frame_bytes_max) + " B, values " + std::to_string(value_bytes_max) +
         " B, window " + std::to_string(window) + "/" + std::to_string(learner_window) +
         ", background loss " + std::to_string(base.loss_ppm) + " ppm" +
         (durable ? ", disks of " + std::to_string(disk.latency_min / kMicrosecond) + " to " +
                        std::to_string(disk.latency_max / kMicrosecond) + " us"
                  : "");
}

namespace {

/// One seed in three has disks.
void draw_disks(Rng rng, ClusterPlan& plan) {
  plan.durable = rng.chance(333'333);
  plan.disk.latency_min = rng.between(5, 50) * kMicrosecond;
  plan.disk.latency_max = plan.disk.latency_min + rng.between(1, 300) * kMicrosecond;
  if (rng.coin()) plan.disk.slow_ppm = static_cast<std::uint32_t>(rng.below(20'000));
  plan.disk_depth = pick(rng, {1u, 2u, 4u, 4u});
  plan.damaged = static_cast<std::uint32_t>(rng.below(plan.acceptors));
  if (!rng.chance(200'000)) return;
  plan.small = static_cast<std::uint32_t>(rng.below(plan.acceptors));
  // Of three only one may have lost something, or be unable to take it.
  if (plan.acceptors == 3) plan.small = plan.damaged;
  plan.small_blocks = static_cast<std::uint32_t>(rng.between(64, 1'024));
}

}  // namespace

ClusterPlan draw_plan(Rng& rng) {
  ClusterPlan plan;
  plan.acceptors = rng.chance(700'000) ? 3 : 5;
  if (rng.chance(600'000)) {
    plan.learners = {PartitionMask{1}, PartitionMask{2}, PartitionMask{3}, PartitionMask{3}};
  } else {
    plan.learners = {consensus::kAllPartitions, consensus::kAllPartitions};
  }
  plan.dissemination =
      pick(rng, {consensus::Dissemination::kMulticast, consensus::Dissemination::kMulticast,
                 consensus::Dissemination::kFanout, consensus::Dissemination::kRing});
  plan.frame_bytes_max = pick(rng, {1'252u, 1'252u, 1'472u, 8'972u});
  plan.window = pick(rng, {16u, 64u, 256u});
  plan.learner_window = std::max(64u, plan.window * pick(rng, {2u, 4u}));
  plan.ring_capacity = pick(rng, {2u, 8u, 64u});
  plan.split_payloads = rng.coin();
  // Replicas of different partitions see different activity: expiry is for whole ones.
  if (!plan.partitioned() && rng.coin()) plan.session_idle = rng.between(20, 60) * kMillisecond;
  plan.base.latency_min = rng.between(1, 5) * kMicrosecond;
  plan.base.latency_max = plan.base.latency_min + rng.between(1, 40) * kMicrosecond;
  if (rng.coin()) plan.base.loss_ppm = static_cast<std::uint32_t>(rng.below(20'000));
  if (rng.coin()) plan.base.multicast_loss_ppm = static_cast<std::uint32_t>(rng.below(20'000));
  if (rng.coin()) plan.base.duplicate_ppm = static_cast<std::uint32_t>(rng.below(20'000));
  if (rng.coin()) plan.base.reorder_ppm = static_cast<std::uint32_t>(rng.below(30'000));
  if (rng.coin()) plan.base.flip_ppm = static_cast<std::uint32_t>(rng.below(2'000));
  plan.retain = pick(rng, {consensus::kUndecidedMax, 4'096u});
  // From copies: nothing else that a seed decides shifts.
  // Little enough, in some, for what is decided to be too much long before the instances are.
  if (Rng(Rng(rng).next() ^ 0xb17e5).chance(250'000)) {
    plan.window = 16;
    plan.value_bytes_max = 8'192;
    plan.retain_bytes = 2 * std::uint64_t{plan.window} * plan.value_bytes_max;
  }
  draw_disks(Rng(Rng(rng).next() ^ 0xd15c), plan);
  Rng third(Rng(rng).next() ^ 0x57a7e);
  Rng bystanders(Rng(rng).next() ^ 0xb757a);
  plan.changes = bystanders.chance(300'000);
  plan.foreign = bystanders.chance(300'000);
  if (!plan.partitioned() && !plan.durable && third.chance(400'000)) {
    plan.learners.push_back(consensus::kAllPartitions);
    plan.retain = consensus::kUndecidedMax;  // so that a replica that returns finds the log gone
  }
  return plan;
}

void DeliveryTap::note_installed() {
  if (worker_.installed() == installed_) return;
  installed_ = worker_.installed();
  checker_.on_state_installed(learner_, installed_);
}

/// One copy in four is damaged before it is installed, in one bit: it must be refused.
void DeliveryTap::damage_image() {
  if (!rng_.chance(250'000)) return;
  std::byte& hit = state_.memory().data()[rng_.below(state_.image().bytes)];
  hit ^= std::byte{1} << rng_.below(8);
}

dataplane::PollResult DeliveryTap::poll(Nanos, std::uint32_t budget) {
  const Nanos now = world_.now();  // the node's own clock may be wrong
  std::uint32_t work = 0;
  for (; work < budget; ++work) {
    consensus::Delivery* delivery = from_.front();
    if (delivery == nullptr || (to_ != nullptr && to_->room() == 0)) break;
    if (delivery->kind == consensus::DeliveryKind::kInstallState) damage_image();
    if (delivery->kind == consensus::DeliveryKind::kDecided) {
      note_installed();
      world_.trace().mix(TraceEvent::kDelivery, static_cast<std::uint64_t>(now),
                         (std::uint64_t{learner_} << 56) | raw(delivery->instance),
                         delivery->value.content_hash);
      checker_.on_delivery(now, learner_, *delivery);
      first_delivered_(delivery->value);
    }
    if (to_ != nullptr) CHECK(to_->push(std::move(*delivery)));
    from_.pop();
  }
  return {work, kNever};
}

dataplane::PollResult WorkerTurns::poll(Nanos now, std::uint32_t budget) {
  const Nanos busy = busy_until_ - world_.now();  // the node's own clock may be wrong
  if (busy > 0) return {0, now + busy};
  const dataplane::PollResult result = worker_.poll(now, budget);
  if (state_.phase() == consensus::StateExchange::Phase::kCopying) {
    busy_until_ = world_.now() + rng_.between(1'000, 50'000);
  }
  return result;
}

Cluster::Cluster(World& world, const ClusterPlan& plan, const LoadPlan& load, Rng rng)
    : world_(world),
      plan_(plan),
      rng_(rng),
      configuration_(configuration_of(plan)),
      checker_(configuration_, plan.durable, world.failure(), world.trace()),
      transfers_([this](const Fault& fault, NodeId asked, std::uint32_t asking) {
        lose_source(fault, asked, asking);
      }),
      members_(configuration_) {
  add_acceptors();
  add_learners();
  add_clients(load);
  add_raw_clients(load);
  world_.network().observe(&checker_);
  add_bystanders();
  set_links();
  checker_.set_settled(
      [this](std::uint32_t acceptor) { return acceptors_[acceptor].node->acceptor().settled(); });
}

Cluster::~Cluster() { world_.network().forget_observers(); }

std::unique_ptr<SimTransport> Cluster::attach(const Endpoint& endpoint, std::uint32_t buffers) {
  return world_.network().attach(endpoint, plan_.split_payloads, buffers);
}

consensus::AcceptorNodeOptions Cluster::acceptor_options(std::uint32_t acceptor) const {
  consensus::AcceptorNodeOptions options;
  options.identity = {kCluster, 0, acceptor_id(acceptor), 1};
  options.value_bytes_max = plan_.value_bytes_max;
  options.acceptor.retain = plan_.retain;
  options.acceptor.retain_bytes = plan_.retain_bytes;
  options.acceptor.undecided_bytes = std::uint64_t{plan_.window} * plan_.value_bytes_max;
  options.acceptor.fragment_bytes = consensus::fragment_bytes(plan_.frame_bytes_max);
  options.acceptor.fingerprint = kFingerprint;
  options.coordinator.window = plan_.window;
  options.coordinator.learner_window = plan_.learner_window;
  options.coordinator.fragment_bytes = options.acceptor.fragment_bytes;
  options.coordinator.fingerprint = kFingerprint;
  options.coordinator.submit = {32, 32};
  options.coordinate = acceptor == 0;
  return options;
}

void Cluster::add_acceptors() {
  for (std::uint32_t i = 0; i < plan_.acceptors + plan_.changes; ++i) {
    AcceptorMachine machine;
    machine.transport = attach(endpoint_of(0, i), acceptor_buffers());
    CHECK(machine.transport->join(kGroup).ok());
    checker_.set_acceptor(machine.transport->index(), i);
    acceptors_.push_back(std::move(machine));
    consensus::AcceptorNodeOptions options = acceptor_options(i);
    if (i >= plan_.acceptors) options.incarnation = rng_.next() | 1;
    if (plan_.durable) add_platter(i, options.incarnation);
    start_acceptor(i, options);
    ++nodes_;
    ++stages_;
  }
}

/// What is kept and under way; the log holds on to values that others have replaced.
std::uint32_t Cluster::acceptor_buffers() const {
  return (plan_.durable ? 2 : 1) * plan_.retain + 4 * plan_.window + 512;
}

void Cluster::start_acceptor(std::uint32_t acceptor,
                             const consensus::AcceptorNodeOptions& options) {
  AcceptorMachine& machine = acceptors_[acceptor];
  machine.node = std::make_unique<consensus::AcceptorNode>(options, configuration_,
                                                           *machine.transport, machine.log.get());
  machine.node->add_counters(registry_, "acceptor" + std::to_string(acceptor));
  world_.add_stage(machine.node.get(), acceptor, machine.transport->index());
  if (plan_.durable) world_.set_disk(acceptor);
}

void Cluster::add_learners() {
  for (std::uint32_t i = 0; i < plan_.learners.size(); ++i) {
    LearnerMachine machine;
    machine.transport = attach(endpoint_of(1, i), learner_buffers());
    CHECK(machine.transport->join(kGroup).ok());
    learners_.push_back(std::move(machine));
    start_learner(i, nodes_++);
    stages_ += 3;
  }
}

void Cluster::start_learner(std::uint32_t learner, std::uint32_t node) {
  const std::uint32_t i = learner;
  LearnerMachine& machine = learners_[i];
  machine.deliveries = std::make_unique<DeliveryTap::Ring>(plan_.ring_capacity);
  machine.replies = std::make_unique<dataplane::SpscRing<consensus::ReplyFrame>>(64);
  machine.proposals = std::make_unique<dataplane::SpscRing<consensus::Proposal>>(1);
  consensus::LearnerNodeOptions options;
  options.identity = {kCluster, 0, learner_id(i), machine.incarnation};
  options.value_bytes_max = plan_.value_bytes_max;
  options.learner.window = plan_.learner_window;
  options.learner.partitions = plan_.learners[i];
  options.source.chunk_bytes = consensus::fragment_bytes(plan_.frame_bytes_max);
  options.source.first_image = (machine.incarnation << 32) + 1;
  options.receiver = {kValueLogBytes, plan_.value_bytes_max};
  machine.state = std::make_unique<consensus::StateExchange>(kStateBytesMax);
  machine.node = std::make_unique<consensus::LearnerNode>(
      options, configuration_, *machine.transport,
      consensus::LearnerNode::Rings{*machine.deliveries, *machine.replies, *machine.proposals,
                                    machine.state.get()});
  machine.node->add_counters(registry_, "learner" + std::to_string(i));
  machine.tapped = std::make_unique<DeliveryTap::Ring>(plan_.ring_capacity);
  add_replica(i, machine);
  // From a copy: nothing else that a seed decides shifts.
  const auto fork = [&](std::uint64_t which) {
    return Rng(Rng(rng_).next() ^ (which << 48 | std::uint64_t{machine.incarnation} << 8 | i));
  };
  machine.tap = std::make_unique<DeliveryTap>(
      i, *machine.deliveries, machine.tapped.get(), checker_,
      [this](const consensus::Value& value) {
        for (RawMachine& raw : raw_clients_) {
          if (raw.client->options().identity.epoch == value.id.epoch) {
            raw.client->on_delivered(value.id.sequence);
          }
        }
      },
      world_, machine.replica->worker, *machine.state, fork(0));
  machine.turns =
      std::make_unique<WorkerTurns>(world_, machine.replica->worker, *machine.state, fork(1));
  world_.add_stage(machine.node.get(), node, machine.transport->index());
  world_.add_stage(machine.tap.get(), node, kNoEnd);
  const std::uint32_t executing = world_.add_stage(machine.turns.get(), node, kNoEnd);
  if (machine.incarnation == 1) executing_stages_.push_back(executing);
}

statemachine::WorkerOptions Cluster::worker_options(std::uint32_t learner,
                                                    std::uint64_t epoch) const {
  statemachine::WorkerOptions options;
  options.node = learner_id(learner);
  options.epoch = epoch;
  options.sessions = {256, 1u << 20, 256};
  options.reply_bytes_max = kReplyBytesMax;
  options.replies.replica = static_cast<std::uint16_t>(learner);
  options.replies.frame_bytes_max = plan_.frame_bytes_max;
  options.recent_values = 256;  // few, so that some queries find nothing and go to the table
  options.session_idle = plan_.session_idle + learner * kMillisecond;
  options.state_bytes_per_turn = 1;  // a segment a turn
  return options;
}

void Cluster::add_replica(std::uint32_t learner, LearnerMachine& machine) {
  machine.replica = std::make_unique<Replica>(
      worker_options(learner, machine.incarnation),
      Replica::Rings{*machine.tapped, *machine.replies, *machine.proposals, machine.state.get()});
  machine.replica->worker.add_counters(registry_, "learner" + std::to_string(learner));
}

statemachine::kv::KvOptions Replica::kv_options() { return {kKvService, 256u << 20}; }
statemachine::btree::BtreeOptions Replica::btree_options() { return {kBtreeService, 64u << 20}; }

SimClientOptions Cluster::client_options(std::uint32_t index, const LoadPlan& load) {
  SimClientOptions options;
  options.index = index;
  options.kind = static_cast<ClientKind>(index % static_cast<std::uint32_t>(ClientKind::kCount));
  options.client.cluster = kCluster;
  options.client.epoch = rng_.next() | 1;
  options.client.batch_commands = pick(rng_, {1u, 4u, 12u, 50u});
  options.client.batches_in_flight = pick(rng_, {4u, 16u, 64u});
  options.client.value_bytes_max = plan_.value_bytes_max;
  options.client.batch_bytes = plan_.value_bytes_max / 2;
  options.client.session_window_max = 32;
  options.client.buffer_bytes = 16u << 20;
  options.client.retransmit_after = pick(rng_, {2, 20}) * kMillisecond;
  options.client.deadline = 60 * kSecond;
  options.commands = load.commands / load.clients;
  options.think_max = 2 * load.duration / options.commands;
  if (!plan_.partitioned()) return options;
  // Commands of one partition, of the other, across both, and of neither.
  const std::uint32_t which = index % 4;
  options.client.partitions = PartitionMask{which < 2 ? which + 1 : 3};
  if (which < 2) options.space = kPartitionKeys[which];
  options.across = which == 2;
  return options;
}

void Cluster::add_clients(const LoadPlan& load) {
  // Kinds and partitions are dealt apart, so that each meets each over the seeds.
  const auto shift = static_cast<std::uint32_t>(rng_.below(load.clients));
  for (std::uint32_t i = 0; load.commands != 0 && i < load.clients; ++i) {
    ClientMachine machine;
    machine.transport = attach(endpoint_of(2, i), 1'024);
    SimClientOptions options = client_options(i, load);
    options.kind =
        static_cast<ClientKind>((i + shift) % static_cast<std::uint32_t>(ClientKind::kCount));
    options.workload.value_bytes_max = plan_.value_bytes_max * 5 / 8;
    client_of_epoch_[options.client.epoch] = i;
    machine.client = std::make_unique<SimClient>(options, configuration_, *machine.transport,
                                                 rng_.fork(), history_, world_.trace());
    machine.client->client().add_counters(registry_, "client" + std::to_string(i));
    world_.add_stage(machine.client.get(), nodes_++, machine.transport->index());
    ++stages_;
    clients_.push_back(std::move(machine));
  }
}

void Cluster::add_raw_clients(const LoadPlan& load) {
  constexpr std::uint32_t kClients = 2;
  for (std::uint32_t i = 0; load.raw_values != 0 && i < kClients; ++i) {
    RawMachine machine;
    machine.transport = attach(endpoint_of(3, i), 256);
    RawClientOptions options;
    options.identity = {kCluster, 0, consensus::kNoNode, rng_.next() | 1};
    options.masks = {PartitionMask{1}, PartitionMask{2}, PartitionMask{3}};
    options.values = load.raw_values / kClients;
    options.value_bytes_max = plan_.value_bytes_max;
    options.think_max = 2 * load.duration / options.values;
    machine.client =
        std::make_unique<RawClient>(options, configuration_, *machine.transport, rng_.fork());
    world_.add_stage(machine.client.get(), nodes_++, machine.transport->index());
    ++stages_;
    raw_clients_.push_back(std::move(machine));
  }
}

std::vector<std::uint32_t> Cluster::returning_nodes() const {
  // The last replica stays, and with four of them only the third has its partitions.
  std::vector<std::uint32_t> nodes;
  for (std::uint32_t i = plan_.partitioned() ? 2 : 0; i + 1 < plan_.learners.size(); ++i) {
    nodes.push_back(acceptors() + i);
  }
  return nodes;
}

void Cluster::set_links() {
  const std::uint32_t ends = world_.network().ends();
  std::vector<LinkQuality> base(ends * ends, plan_.base);
  for (LinkQuality& link : base) {
    // Some links are always worse than others, and not the same in both directions.
    if (rng_.chance(100'000)) link.slow = static_cast<std::uint32_t>(rng_.between(2, 8));
  }
  world_.set_base(std::move(base));
}

}  // namespace annulus::sim
