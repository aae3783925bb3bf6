#include "tests/sim/cluster.h"

#include <algorithm>

namespace annulus::sim {

using consensus::NodeId;
using consensus::PartitionMask;

namespace {

constexpr std::uint64_t kCluster = 0x5eed;
constexpr std::uint64_t kFingerprint = 0xf1;
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
    machine.tap = std::make_unique<DeliveryTap>(
        i, *machine.deliveries, nullptr, checker_,
        [this](const consensus::Value& value) {
          for (RawMachine& raw : raw_clients_) {
            if (raw.client->options().identity.epoch == value.id.epoch) {
              raw.client->on_delivered(value.id.sequence);
            }
          }
        },
        world_.trace());
    world_.add_stage(machine.node.get(), nodes_, machine.transport->index());
    world_.add_stage(machine.tap.get(), nodes_++, kNoEnd);
    stages_ += 2;
    learners_.push_back(std::move(machine));
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
  return std::all_of(raw_clients_.begin(), raw_clients_.end(),
                     [](const RawMachine& machine) { return machine.client->done(); });
}

bool Cluster::caught_up() const {
  consensus::Instance top{};
  for (const LearnerMachine& machine : learners_) {
    top = std::max(top, machine.node->learner().delivered_below());
    top = std::max(top, machine.node->learner().decided_below());
    if (machine.deliveries->size() != 0) return false;
  }
  return std::all_of(learners_.begin(), learners_.end(), [&](const LearnerMachine& machine) {
    return machine.node->learner().delivered_below() == top;
  });
}

void Cluster::check_end() { checker_.check_complete(); }

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
  for (const RawMachine& machine : raw_clients_) text += "\n  " + machine.client->describe();
  return text;
}

}  // namespace annulus::sim
