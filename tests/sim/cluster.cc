#include "tests/sim/cluster.h"

#include <algorithm>
#include <cstring>

#include "tests/sim/replay.h"

namespace annulus::sim {

using consensus::NodeId;
using consensus::PartitionMask;

namespace {

constexpr std::uint64_t kCluster = 0x5eed;
constexpr std::uint64_t kFingerprint = 0xf1;
constexpr std::uint32_t kClients = 4;
constexpr std::uint32_t kReplyBytesMax = 128 * 1024;
constexpr std::uint16_t kAbsentReplica = 0x7fff;  // replies to nobody
constexpr Endpoint kGroup{0xe0000001, 7'000};

Endpoint endpoint_of(std::uint32_t kind, std::uint32_t index) {
  return {0x0a000000 + (kind << 8) + index + 1, 7'000};
}
NodeId acceptor_id(std::uint32_t index) { return NodeId{1 + index}; }
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
         ", background loss " + std::to_string(base.loss_ppm) + " ppm";
}

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
  return plan;
}

dataplane::PollResult DeliveryTap::poll(Nanos now, std::uint32_t budget) {
  std::uint32_t work = 0;
  for (; work < budget; ++work) {
    consensus::Delivery* delivery = from_.front();
    if (delivery == nullptr || (to_ != nullptr && to_->room() == 0)) break;
    if (delivery->kind == consensus::DeliveryKind::kDecided) {
      trace_.mix(TraceEvent::kDelivery, static_cast<std::uint64_t>(now),
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

Cluster::Cluster(World& world, const ClusterPlan& plan, const LoadPlan& load, Rng rng)
    : world_(world),
      plan_(plan),
      rng_(rng),
      configuration_(configuration_of(plan)),
      checker_(configuration_, world.failure()) {
  add_acceptors();
  add_learners();
  add_clients(load);
  add_raw_clients(load);
  set_links();
  world_.network().observe(&checker_);
}

Cluster::~Cluster() { world_.network().observe(nullptr); }

std::unique_ptr<SimTransport> Cluster::attach(const Endpoint& endpoint, std::uint32_t buffers) {
  return world_.network().attach(endpoint, plan_.split_payloads, buffers);
}

void Cluster::add_acceptors() {
  for (std::uint32_t i = 0; i < plan_.acceptors; ++i) {
    AcceptorMachine machine;
    machine.transport = attach(endpoint_of(0, i), plan_.retain + 4 * plan_.window + 512);
    CHECK(machine.transport->join(kGroup).ok());
    checker_.set_acceptor(machine.transport->index(), i);
    consensus::AcceptorNodeOptions options;
    options.identity = {kCluster, 0, acceptor_id(i), 1};
    options.value_bytes_max = plan_.value_bytes_max;
    options.acceptor.retain = plan_.retain;
    options.acceptor.fragment_bytes = consensus::fragment_bytes(plan_.frame_bytes_max);
    options.acceptor.fingerprint = kFingerprint;
    options.coordinator.window = plan_.window;
    options.coordinator.learner_window = plan_.learner_window;
    options.coordinator.fragment_bytes = options.acceptor.fragment_bytes;
    options.coordinator.fingerprint = kFingerprint;
    options.coordinator.submit = {32, 32};
    options.coordinate = i == 0;
    machine.node =
        std::make_unique<consensus::AcceptorNode>(options, configuration_, *machine.transport);
    machine.node->add_counters(registry_, "acceptor" + std::to_string(i));
    world_.add_stage(machine.node.get(), nodes_++, machine.transport->index());
    ++stages_;
    acceptors_.push_back(std::move(machine));
  }
}

void Cluster::add_learners() {
  for (std::uint32_t i = 0; i < plan_.learners.size(); ++i) {
    LearnerMachine machine;
    machine.transport = attach(endpoint_of(1, i), 2 * plan_.learner_window + 1'024);
    CHECK(machine.transport->join(kGroup).ok());
    machine.deliveries = std::make_unique<DeliveryTap::Ring>(plan_.ring_capacity);
    machine.replies = std::make_unique<dataplane::SpscRing<consensus::ReplyFrame>>(64);
    machine.proposals = std::make_unique<dataplane::SpscRing<consensus::Proposal>>(1);
    consensus::LearnerNodeOptions options;
    options.identity = {kCluster, 0, learner_id(i), 1};
    options.value_bytes_max = plan_.value_bytes_max;
    options.learner.window = plan_.learner_window;
    options.learner.partitions = plan_.learners[i];
    machine.node = std::make_unique<consensus::LearnerNode>(
        options, configuration_, *machine.transport,
        consensus::LearnerNode::Rings{*machine.deliveries, *machine.replies, *machine.proposals});
    machine.node->add_counters(registry_, "learner" + std::to_string(i));
    machine.tapped = std::make_unique<DeliveryTap::Ring>(plan_.ring_capacity);
    add_replica(i, machine);
    machine.tap = std::make_unique<DeliveryTap>(
        i, *machine.deliveries, machine.tapped.get(), checker_,
        [this](const consensus::Value& value) {
          for (RawMachine& raw : raw_clients_) {
            if (raw.client->options().identity.epoch == value.id.epoch) {
              raw.client->on_delivered(value.id.sequence);
            }
          }
        },
        world_.trace());
    world_.add_stage(machine.node.get(), nodes_, machine.transport->index());
    world_.add_stage(machine.tap.get(), nodes_, kNoEnd);
    world_.add_stage(&machine.replica->worker, nodes_++, kNoEnd);
    stages_ += 3;
    learners_.push_back(std::move(machine));
  }
}

statemachine::WorkerOptions Cluster::worker_options(std::uint32_t learner) const {
  statemachine::WorkerOptions options;
  options.node = learner_id(learner);
  options.epoch = 1;
  options.sessions = {256, 1u << 20, 256};
  options.reply_bytes_max = kReplyBytesMax;
  options.replies.replica = static_cast<std::uint16_t>(learner);
  options.replies.frame_bytes_max = plan_.frame_bytes_max;
  options.recent_values = 256;  // few, so that some queries find nothing and go to the table
  options.session_idle = plan_.session_idle + learner * kMillisecond;
  return options;
}

void Cluster::add_replica(std::uint32_t learner, LearnerMachine& machine) {
  machine.replica = std::make_unique<Replica>(
      worker_options(learner),
      Replica::Rings{*machine.tapped, *machine.replies, *machine.proposals});
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
  options.commands = load.commands / kClients;
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
  const auto shift = static_cast<std::uint32_t>(rng_.below(kClients));
  for (std::uint32_t i = 0; load.commands != 0 && i < kClients; ++i) {
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

void Cluster::set_links() {
  const std::uint32_t ends = world_.network().ends();
  std::vector<LinkQuality> base(ends * ends, plan_.base);
  for (LinkQuality& link : base) {
    // Some links are always worse than others, and not the same in both directions.
    if (rng_.chance(100'000)) link.slow = static_cast<std::uint32_t>(rng_.between(2, 8));
  }
  world_.set_base(std::move(base));
}

bool Cluster::clients_done() const {
  const auto done = [](const auto& machine) { return machine.client->done(); };
  return std::all_of(clients_.begin(), clients_.end(), done) &&
         std::all_of(raw_clients_.begin(), raw_clients_.end(), done);
}

bool Cluster::caught_up() const {
  consensus::Instance top{};
  for (const LearnerMachine& machine : learners_) {
    top = std::max(top, machine.node->learner().delivered_below());
    top = std::max(top, machine.node->learner().decided_below());
    if (machine.deliveries->size() != 0 || machine.tapped->size() != 0) return false;
  }
  return std::all_of(learners_.begin(), learners_.end(), [&](const LearnerMachine& machine) {
    return machine.node->learner().delivered_below() == top;
  });
}

void Cluster::check_end() {
  checker_.check_complete();
  if (!world_.failure().failed()) check_linearizable();
  if (!world_.failure().failed()) check_states();
  if (!world_.failure().failed()) check_memory();
}

void Cluster::check_linearizable() {
  Replay replay(history_, client_of_epoch_, world_.failure());
  replay.run(checker_.order());
  counted_["history.duplicates_ordered"] = replay.duplicates();
  counted_["history.repeated_reads"] = replay.repeated_reads();
  counted_["history.stale_ordered"] = replay.stale();
  counted_["history.after_close"] = replay.after_close();
  counted_["history.unjudged"] = replay.unjudged();
  if (world_.failure().failed()) return;
  const std::string wrong = check_witness(replay.operations(), replay.placed(), kReplyBytesMax);
  if (!wrong.empty()) return world_.failure().set("linearizability: " + wrong);
  // A second opinion, which knows nothing of the order, on the parts short enough for it.
  for (const auto& part : independent_parts(replay.operations())) {
    if (part.size() > 40) continue;
    const Verdict verdict = search_order(part, 20'000, kReplyBytesMax);
    ++counted_[verdict == Verdict::kGaveUp ? "history.searches_given_up" : "history.searches"];
    if (verdict == Verdict::kNotLinearizable) {
      world_.failure().set("linearizability: no order explains the history of " +
                           describe(part.front()));
    }
  }
}

/// What a replica of these partitions holds that is fed the decided order without a cluster.
statemachine::StateHashes Cluster::reference_hashes(PartitionMask partitions) {
  DeliveryTap::Ring deliveries(2);
  dataplane::SpscRing<consensus::ReplyFrame> replies(2);
  dataplane::SpscRing<consensus::Proposal> proposals(1);
  statemachine::WorkerOptions options = worker_options(0);
  options.replies.replica = kAbsentReplica;
  options.session_idle = kSecond * 1'000'000;
  Replica replica(options, {deliveries, replies, proposals});
  dataplane::BufferPool pool(4, plan_.value_bytes_max);
  const auto& order = checker_.order();
  for (std::uint64_t i = 0; i < order.size(); ++i) {
    if (!order[i].known || !intersects(order[i].value.mask, partitions)) continue;
    dataplane::Slice bytes = pool.allocate();
    std::memcpy(bytes.mutable_data(), order[i].bytes.data(), order[i].bytes.size());
    bytes.truncate(static_cast<std::uint32_t>(order[i].bytes.size()));
    CHECK(deliveries.push({consensus::DeliveryKind::kDecided, consensus::Instance{i},
                           order[i].value, std::move(bytes), 0}));
    replica.worker.poll(0, 1);
  }
  statemachine::StateHashes hashes;
  const std::uint64_t ticket = replica.worker.ask_state_hashes();
  replica.worker.poll(0, 1);
  CHECK(replica.worker.state_hashes(ticket, hashes));
  return hashes;
}

void Cluster::check_states() {
  std::map<PartitionMask, std::uint64_t> expected;
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    const PartitionMask partitions = plan_.learners[i];
    if (!expected.contains(partitions)) {
      expected[partitions] = reference_hashes(partitions).recomputed;
    }
    statemachine::Worker& worker = learners_[i].replica->worker;
    statemachine::StateHashes hashes;
    const std::uint64_t ticket = worker.ask_state_hashes();
    worker.poll(world_.now(), 1);
    CHECK(worker.state_hashes(ticket, hashes));
    world_.trace().mix(TraceEvent::kState, i, hashes.kept, hashes.recomputed);
    if (hashes.kept != hashes.recomputed) {
      world_.failure().set("state: replica " + std::to_string(i) +
                           " keeps other hashes than its segments have");
    }
    if (hashes.recomputed != expected[partitions]) {
      world_.failure().set("state: replica " + std::to_string(i) +
                           " differs from one that was fed the same order");
    }
  }
}

/// At rest, nodes hold what they retain and nothing else.
void Cluster::check_memory() {
  const auto check = [&](const std::string& who, SimTransport& transport, std::uint64_t limit) {
    const std::uint32_t held = transport.buffers_held();
    if (held > limit) {
      world_.failure().set("memory: " + who + " holds " + std::to_string(held) +
                           " receive buffers at rest, " + std::to_string(limit) + " expected");
    }
    if (transport.counters()[dataplane::TransportCounter::kRxDropNoBuffer].get() != 0) {
      world_.failure().set("memory: " + who + " ran out of receive buffers");
    }
  };
  for (std::uint32_t i = 0; i < acceptors_.size(); ++i) {
    const auto& acceptor = acceptors_[i].node->acceptor();
    // Every accepted instance, and what clients submitted out of turn.
    const std::uint64_t retained = acceptor.accepted_below() - acceptor.trimmed_below();
    check("acceptor " + std::to_string(i), *acceptors_[i].transport, retained + 256);
  }
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    check("learner " + std::to_string(i), *learners_[i].transport, 16);
  }
  for (std::uint32_t i = 0; i < clients_.size(); ++i) {
    check("client " + std::to_string(i), *clients_[i].transport, 16);
  }
}

void Cluster::count(std::map<std::string, std::uint64_t>& counters) const {
  for (const auto& [name, value] : counted_) counters[name] += value;
  counters["history.completed"] = history_.completed;
  counters["history.unknown"] = history_.unknown;
  counters["history.replies_dropped"] = history_.replies_dropped;
  counters["history.refused_by_session"] = history_.refused_by_session;
  counters["order.delivered"] = checker_.delivered();
  counters["order.ballots"] = checker_.ballots();
  counters["order.masked"] = checker_.masked_deliveries();
  counters["order.repeated_values"] = checker_.repeated_values();
  counters["order.proposer_reorders"] = checker_.proposer_reorders();
  counters["raw.retransmitted"] = raw_retransmitted();
}

std::uint64_t Cluster::raw_retransmitted() const {
  std::uint64_t sum = 0;
  for (const RawMachine& machine : raw_clients_) sum += machine.client->retransmitted();
  return sum;
}

std::string Cluster::describe_unfinished() const {
  std::string text;
  consensus::Instance lowest{~std::uint64_t{0}};
  for (const AcceptorMachine& machine : acceptors_) {
    lowest = std::min(lowest, machine.node->acceptor().chosen_below());
  }
  for (std::uint32_t i = 0; i < acceptors_.size(); ++i) {
    const auto& node = *acceptors_[i].node;
    const auto held = node.acceptor().accepted(lowest);
    if (held.ballot != consensus::kNoBallot) {
      text += "\n  acceptor " + std::to_string(i) + " holds at " + std::to_string(raw(lowest)) +
              ": sequence " + std::to_string(held.value->id.sequence) + ", " +
              std::to_string(held.value->bytes) + " B, round " +
              std::to_string(consensus::round_of(held.ballot)) + "." +
              std::to_string(raw(consensus::coordinator_of(held.ballot))) +
              (held.chosen ? ", chosen" : "");
    }
    text += "\n  acceptor " + std::to_string(i) + ": chosen below " +
            std::to_string(raw(node.acceptor().chosen_below())) + ", accepted below " +
            std::to_string(raw(node.acceptor().accepted_below())) + ", promised round " +
            std::to_string(consensus::round_of(node.acceptor().promised())) + "." +
            std::to_string(raw(consensus::coordinator_of(node.acceptor().promised())));
    if (node.coordinator().idle()) continue;
    text += node.coordinator().active() ? ", coordinates" : ", in phase 1";
    text += " round " + std::to_string(consensus::round_of(node.coordinator().ballot())) +
            ", decided below " + std::to_string(raw(node.coordinator().decided_below())) +
            ", next " + std::to_string(raw(node.coordinator().next_instance()));
  }
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    const auto& learner = learners_[i].node->learner();
    text += "\n  learner " + std::to_string(i) + ": delivered below " +
            std::to_string(raw(learner.delivered_below())) + ", decided below " +
            std::to_string(raw(learner.decided_below())) +
            (learner.behind_log() ? ", behind the log" : "");
  }
  for (const ClientMachine& machine : clients_) text += "\n  " + machine.client->describe();
  for (const RawMachine& machine : raw_clients_) text += "\n  " + machine.client->describe();
  return text;
}

}  // namespace annulus::sim
