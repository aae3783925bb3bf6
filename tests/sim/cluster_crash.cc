// How the machines of a cluster die and what they are when they come back: acceptors that lost what
// they said as strangers who ask to be admitted, others as their disk has it, replicas with
// nothing: they execute everything once more, or fetch the state of another one.
#include "tests/sim/cluster.h"

namespace annulus::sim {

namespace {

constexpr recovery::LogIdentity log_identity(std::uint32_t acceptor) {
  return {kCluster, acceptor_id(acceptor), 7};
}

/// Enough for every value of a run, several times.
constexpr std::uint64_t kDiskBlocks = 32'768;

}  // namespace

void Cluster::on_fault(const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kCrash:
      if (may_crash(fault.a)) crash(fault.a, fault.amount);
      return;
    case FaultKind::kRejoin:
      if (may_lose(fault.a)) rejoin(fault.a);
      return;
    case FaultKind::kElection:
      if (!acceptors_[fault.a].crashed) acceptors_[fault.a].node->start_election();
      return;
    case FaultKind::kRestart:
      return restart(fault.a);
    case FaultKind::kPowerCut:
      for (std::uint32_t node = 0; node < node_ends(); ++node) crash(node, fault.amount);
      return;
    case FaultKind::kDiskDamage:
      checker_.set_damaged(fault.a);
      return acceptors_[fault.a].platter->damage(fault.amount);
    case FaultKind::kSourceLost:
      return transfers_.arm(fault);
    case FaultKind::kAddAcceptor:
    case FaultKind::kRemoveAcceptor:
    case FaultKind::kRemoveReplica:
      return wanted_changes_.push_back(fault);
    case FaultKind::kDiskFailure:
      return acceptors_[fault.a].platter->fail_writes(fault.amount);
    default:
      return;
  }
}

/// Whether an acceptor that is down may come back without what it said: with disks, only if all the
/// others have theirs.
bool Cluster::may_lose(std::uint32_t acceptor) const {
  if (!acceptors_[acceptor].crashed) return false;
  if (!plan_.durable) return true;
  for (std::uint32_t i = 0; i < acceptors_.size(); ++i) {
    const AcceptorMachine& other = acceptors_[i];
    if (i == acceptor || !member_of(members(), i)) continue;
    if (!whole(other) || other.node->epoch() != newest_epoch()) return false;
  }
  return acceptor == plan_.damaged;
}

/// Of memory acceptors a majority keeps what it said, and of replicas one the state: with more
/// lost, nothing can be promised.
bool Cluster::may_crash(std::uint32_t node) const {
  if (plan_.durable) return true;  // logs keep everything
  if (node < acceptors_.size()) return majority_without(node);
  const std::size_t learner = node - acceptors_.size();
  return learner >= learners_.size() || replaceable(learner);
}

/// Whether another replica can give the state of this one to whoever lost it: not one that is cut
/// off for longer than it is waited for, or that learns only now that it was not.
bool Cluster::replaceable(std::size_t learner) const {
  consensus::Instance trimmed{};
  for (const AcceptorMachine& machine : acceptors_) {
    if (!machine.crashed) trimmed = std::max(trimmed, machine.node->acceptor().trimmed_below());
  }
  for (std::size_t i = 0; i < learners_.size(); ++i) {
    const LearnerMachine& other = learners_[i];
    if (i == learner || other.crashed || plan_.learners[i] != plan_.learners[learner]) continue;
    if (other.node->removed() || other.silent_until > world_.now()) continue;
    if (!other.node->current()) continue;
    if (other.node->learner().delivered_below() >= trimmed) return true;
  }
  return false;
}

std::uint32_t Cluster::newest_epoch() const {
  std::uint32_t epoch = 0;
  for (const AcceptorMachine& machine : acceptors_) {
    if (machine.node != nullptr) epoch = std::max(epoch, machine.node->epoch());
  }
  return epoch;
}

void Cluster::crash(std::uint32_t node, std::uint32_t frames_left) {
  world_.crash(node, frames_left);
  std::size_t index = node;
  if (index < acceptors_.size()) {
    acceptors_[index].crashed = true;
    return;
  }
  index -= acceptors_.size();
  if (index < learners_.size()) {
    learners_[index].crashed = true;
    checker_.set_absent_learner(static_cast<std::uint32_t>(index));
    return;
  }
  index -= learners_.size();
  if (index < clients_.size()) {
    clients_[index].crashed = true;
    return;
  }
  raw_clients_[index - clients_.size()].crashed = true;
}

/// Its counters so far are counted, and its memory is given up.
void Cluster::forget(const std::string& node) {
  for (const auto& group : registry_.groups()) {
    if (group.node != node) continue;
    for (std::size_t i = 0; i < group.values.size(); ++i) {
      const std::string name = group.stage + "." + group.names[i];
      if (name != kHostCycles) counted_[name] += group.values[i].get();
    }
  }
  registry_.remove(node);
}

/// Takes the machine down for good; its address is free for another.
void Cluster::bury_acceptor(std::uint32_t acceptor) {
  AcceptorMachine& machine = acceptors_[acceptor];
  const std::uint32_t end = machine.transport->index();
  if (!machine.crashed) world_.crash(acceptor, 0);
  machine.crashed = true;
  world_.bury(acceptor);
  forget("acceptor" + std::to_string(acceptor));
  if (machine.disk != nullptr) machine.disk->lose_power();
  if (machine.platter != nullptr) machine.platter->mend();
  machine.disk = nullptr;
  machine.node.reset();
  machine.log.reset();
  machine.transport = world_.network().transport_of(end, plan_.split_payloads, acceptor_buffers());
  ++machine.incarnation;
}

/// An acceptor starts again without memory or disk: it has forgotten what it promised and accepted,
/// knows it, and asks to be admitted as another.
void Cluster::rejoin(std::uint32_t acceptor) {
  bury_acceptor(acceptor);
  AcceptorMachine& machine = acceptors_[acceptor];
  const std::uint64_t incarnation = rng_.next() | 1;
  if (plan_.durable) add_platter(acceptor, incarnation);
  world_.network().revive(machine.transport->index());
  consensus::AcceptorNodeOptions options = acceptor_options(acceptor);
  options.identity.epoch = machine.incarnation;
  options.coordinate = false;
  options.incarnation = incarnation;
  machine.crashed = false;
  checker_.set_stranger(acceptor);
  start_acceptor(acceptor, options);
}

// --- Disks

void Cluster::add_platter(std::uint32_t acceptor, std::uint64_t incarnation) {
  const std::uint64_t blocks = acceptor == plan_.small ? plan_.small_blocks : kDiskBlocks;
  acceptors_[acceptor].platter =
      std::make_shared<Platter>(recovery::kLogBlocksAt + blocks, plan_.disk, rng_.fork());
  SimDisk disk(acceptors_[acceptor].platter, world_, world_.failure(), [] {});
  CHECK(recovery::AcceptorLog::format(disk, log_identity(acceptor), incarnation).ok());
  CHECK(open_log(acceptor));
}

/// False if its log cannot be read any more, which is right only of the one that was damaged.
bool Cluster::open_log(std::uint32_t acceptor) {
  AcceptorMachine& machine = acceptors_[acceptor];
  auto disk = std::make_unique<SimDisk>(
      machine.platter, world_, world_.failure(),
      [this, acceptor] { checker_.set_silent(acceptor, "whose disk failed"); });
  machine.disk = disk.get();
  auto opened = recovery::AcceptorLog::open(std::move(disk), log_identity(acceptor),
                                            {.value_bytes_max = plan_.value_bytes_max,
                                             .keeps_max = plan_.retain,
                                             .depth = plan_.disk_depth,
                                             .tell = [](const std::string&) {}});
  if (opened) {
    machine.log = std::move(opened).value();
    return true;
  }
  machine.disk = nullptr;
  world_.trace().note(world_.now(), opened.error().message);
  if (acceptor != plan_.damaged) {
    world_.failure().set("recovery: acceptor " + std::to_string(acceptor) +
                         ", whose disk was not damaged: " + opened.error().message);
  }
  return false;
}

void Cluster::restart_all() {
  transfers_.disarm();
  healed_ = true;
  if (!plan_.durable) return;
  for (AcceptorMachine& machine : acceptors_) {
    if (machine.platter != nullptr) machine.platter->mend();
  }
  for (std::uint32_t node = 0; node < node_ends(); ++node) restart(node);
}

void Cluster::restart(std::uint32_t node) {
  if (node < acceptors_.size()) {
    if (!plan_.durable) return;
    const AcceptorMachine& machine = acceptors_[node];
    if (machine.crashed || machine.node->failed()) restart_acceptor(node);
  } else if (const LearnerMachine& machine = learners_[node - acceptors_.size()];
             machine.crashed && !machine.removed) {
    restart_learner(node - static_cast<std::uint32_t>(acceptors_.size()));
  }
}

void Cluster::restart_acceptor(std::uint32_t acceptor) {
  bury_acceptor(acceptor);
  if (!open_log(acceptor)) return;
  AcceptorMachine& machine = acceptors_[acceptor];
  machine.crashed = false;
  world_.network().revive(machine.transport->index());
  checker_.set_restarted(acceptor, machine.log->recovered());
  consensus::AcceptorNodeOptions options = acceptor_options(acceptor);
  options.identity.epoch = machine.log->epoch();
  start_acceptor(acceptor, options);
}

void Cluster::restart_learner(std::uint32_t learner) {
  const auto node = static_cast<std::uint32_t>(acceptors_.size()) + learner;
  LearnerMachine& machine = learners_[learner];
  const std::uint32_t end = machine.transport->index();
  world_.bury(node);
  forget("learner" + std::to_string(learner));
  machine.tap.reset();
  machine.turns.reset();
  machine.replica.reset();
  machine.node.reset();
  machine.state.reset();
  machine.deliveries.reset();  // what lies in a ring is memory of the transport
  machine.tapped.reset();
  machine.transport = world_.network().transport_of(end, plan_.split_payloads, learner_buffers());
  world_.network().revive(end);
  ++machine.incarnation;
  machine.crashed = false;
  checker_.set_restarted_learner(learner);
  start_learner(learner, node);
}

}  // namespace annulus::sim
