// What an operator does to a cluster: adds acceptors and takes out members by the ordered change,
// one at a time, whatever fails meanwhile; and what disturbs it besides crashes.
#include <algorithm>

#include "tests/sim/cluster.h"

namespace annulus::sim {

using consensus::Change;
using consensus::ChangeVerb;
using consensus::Configuration;
using consensus::JoinKind;

namespace {

constexpr Nanos kAskAgain = 10 * kMillisecond;
constexpr std::size_t kAcceptorsKept = 3;  // so that one may fail at any time

}  // namespace

dataplane::PollResult Cluster::Operator::poll(Nanos now, std::uint32_t) {
  if (now < next_) return {0, next_};
  next_ = now + rng_.between(1, 2) * kMillisecond;
  cluster_.operate(rng_, now);
  return {0, next_};
}

const Configuration& Cluster::members() const {
  for (const AcceptorMachine& machine : acceptors_) {
    if (machine.node == nullptr || machine.node->epoch() <= members_.epoch) continue;
    members_ = consensus::decode(machine.node->board().read(), configuration_);
  }
  return members_;
}

bool Cluster::member_of(const Configuration& members, std::uint32_t acceptor) const {
  return std::any_of(members.acceptors.begin(), members.acceptors.end(), [&](const auto& each) {
    return each.endpoint == acceptors_[acceptor].transport->endpoint();
  });
}

/// Whether it will hold what it must as soon as the members let it. Not if it has lost its memory
/// since the change was asked for: what may be decided admits whom it was then.
bool Cluster::joins(const AcceptorMachine& machine) const {
  return changing_ && machine.transport->endpoint() == changing_->comes.endpoint &&
         machine.incarnation == comes_incarnation_;
}

/// Of the members, those that are up and hold what they must, or are about to, without one.
std::size_t Cluster::whole_members(const Configuration& members, std::uint32_t without) const {
  std::size_t count = 0;
  for (std::uint32_t i = 0; i < acceptors_.size(); ++i) {
    const AcceptorMachine& machine = acceptors_[i];
    if (i == without || !member_of(members, i) || machine.crashed) continue;
    count += joins(machine) || (whole(machine) && machine.node->epoch() == newest_epoch());
  }
  return count;
}

/// Whether a majority is left without it, of the members as they are and as they are about to be.
bool Cluster::majority_without(std::uint32_t acceptor) const {
  const auto enough = [&](const Configuration& members) {
    return whole_members(members, acceptor) >= static_cast<std::size_t>(members.majority());
  };
  const Configuration& now = members();
  if (!enough(now)) return false;
  const bool pending =
      changing_ && consensus::judge(now, *changing_) == consensus::ChangeVerdict::kAllowed;
  return !pending || enough(consensus::changed(now, *changing_, {}, {}));
}

/// Whether those that are left decide even with one's log full and what another one said lost: of
/// five both may be, and of four only one.
bool Cluster::can_spare(const Configuration& members, consensus::NodeId acceptor) const {
  std::size_t able = 0;
  for (std::uint32_t i = 0; i < acceptors_.size(); ++i) {
    if (i == plan_.small || i == plan_.damaged) continue;
    const Endpoint& endpoint = acceptors_[i].transport->endpoint();
    able += std::any_of(members.acceptors.begin(), members.acceptors.end(), [&](const auto& each) {
      return each.endpoint == endpoint && each.id != acceptor;
    });
  }
  return 2 * able > members.acceptors.size() - 1;
}

/// What the operator wants next, if there is somebody to do it with. It is asked for with everybody
/// up, as operators are told to.
std::optional<Change> Cluster::wanted_change(const Fault& fault, const Configuration& members) {
  Change change{.operation = rng_.next() | 1};
  if (fault.kind == FaultKind::kRemoveReplica) {
    const auto nodes = returning_nodes();
    const std::uint32_t learner = nodes.empty() ? 0 : nodes[0] - acceptors();
    if (nodes.empty() || learners_[learner].removed) return std::nullopt;
    change.verb = ChangeVerb::kRemove;
    change.kind = JoinKind::kReplica;
    change.member = members.learners[learner].id;
    return change;
  }
  change.kind = JoinKind::kAcceptor;
  change.verb = fault.kind == FaultKind::kAddAcceptor ? ChangeVerb::kAdd : ChangeVerb::kRemove;
  if (change.verb == ChangeVerb::kRemove) {
    if (members.acceptors.size() <= kAcceptorsKept) return std::nullopt;
    change.member = members.acceptors[fault.a % members.acceptors.size()].id;
    if (!can_spare(members, change.member)) return std::nullopt;
    return change;
  }
  for (std::uint32_t i = 0; i < acceptors_.size(); ++i) {
    const AcceptorMachine& machine = acceptors_[i];
    if (machine.crashed || member_of(members, i) ||
        machine.node->standing() != consensus::Standing::kJoining) {
      continue;
    }
    change.comes.endpoint = machine.transport->endpoint();
    comes_incarnation_ = machine.incarnation;
    return change;
  }
  return std::nullopt;
}

/// What was asked for cannot be any more: another change came first; or who is to be added is down,
/// and nothing comes back.
bool Cluster::in_vain(const Configuration& members) const {
  if (consensus::judge(members, *changing_) != consensus::ChangeVerdict::kAllowed) return true;
  if (!healed_ || changing_->verb != ChangeVerb::kAdd) return false;
  return std::any_of(acceptors_.begin(), acceptors_.end(), [&](const AcceptorMachine& machine) {
    return machine.crashed && machine.transport->endpoint() == changing_->comes.endpoint;
  });
}

/// Asks for a change until somebody who is up says that it was made; then for the next one.
void Cluster::operate(Rng& rng, Nanos now) {
  const Configuration& newest = members();
  const auto& done = newest.operations;
  if (changing_ && std::find(done.begin(), done.end(), changing_->operation) != done.end()) {
    finish_change(newest);
  }
  if (changing_ && in_vain(newest)) changing_.reset();
  if (!changing_ && !wanted_changes_.empty() &&
      whole_members(newest, ~0u) == newest.acceptors.size()) {
    changing_ = wanted_change(wanted_changes_.front(), newest);
    wanted_changes_.pop_front();
    ask_at_ = now;
    if (changing_) {
      world_.trace().note(world_.now(),
                          "an operator asks for change " + std::to_string(changing_->operation));
    }
  }
  if (!changing_ || now < ask_at_) return;
  ask_at_ = now + kAskAgain;
  AcceptorMachine& asked = acceptors_[rng.below(acceptors_.size())];
  if (!asked.crashed) (void)asked.node->ask_change(*changing_);
}

void Cluster::finish_change(const Configuration& members) {
  const bool added = changing_->verb == ChangeVerb::kAdd;
  ++counted_[added                                    ? "order.acceptors_added"
             : changing_->kind == JoinKind::kAcceptor ? "order.acceptors_removed"
                                                      : "order.replicas_removed"];
  changing_.reset();
  for (std::uint32_t i = 0; i < learners_.size(); ++i) {
    if (members.learners[i].id != consensus::kNoNode || learners_[i].removed) continue;
    learners_[i].removed = true;  // and stopped
    crash(acceptors() + i, 0);
  }
}

/// A replica that is asked for its state is lost to the one that asks, a part of the copy being
/// here.
void Cluster::lose_source(const Fault& fault, consensus::NodeId asked, std::uint32_t asking) {
  std::uint32_t learner = 0;
  while (learner < learners_.size() && configuration_.learners[learner].id != asked) ++learner;
  if (learner == learners_.size() || learners_[learner].crashed) return;
  const std::uint32_t node = acceptors() + learner;
  const Nanos now = world_.now();
  const Nanos silent = now + rng_.between(520, 700) * kMillisecond;
  const auto nodes = returning_nodes();
  const bool returns = std::find(nodes.begin(), nodes.end(), node) != nodes.end();
  world_.trace().note(now, "the state of replica " + std::to_string(learner) + " is midway");
  if (fault.a < 2 && returns && may_crash(node)) {
    crash(node, 0);
    const Nanos again = fault.a == 0 ? silent : now + rng_.between(1, 20) * kMillisecond;
    world_.plan({.kind = FaultKind::kRestart, .start = again, .end = again, .a = node});
    return;
  }
  learners_[learner].silent_until = silent;
  if (fault.a == 2) {
    world_.plan({.kind = FaultKind::kPause, .start = now, .end = silent, .a = node});
  } else {
    world_.plan({.kind = FaultKind::kPartition,
                 .start = now,
                 .end = silent,
                 .amount = kAllFrames,
                 .from = EndSet{1} << learners_[learner].transport->index(),
                 .to = EndSet{1} << asking});
  }
}

/// After clients and all: their numbers are those that faults are planned with.
void Cluster::add_bystanders() {
  if (plan_.foreign) {
    foreign_transport_ = attach(Endpoint{0x0a00ff01, 7'000}, 64);
    foreigner_ = std::make_unique<Foreigner>(*foreign_transport_, rng_.fork());
    world_.network().observe(foreigner_.get());
    world_.add_stage(foreigner_.get(), nodes_, foreign_transport_->index());
  }
  if (plan_.changes) {
    operator_ = std::make_unique<Operator>(*this, rng_.fork());
    world_.add_stage(operator_.get(), nodes_ + 1, kNoEnd);
  }
  world_.network().observe(&transfers_);
}

}  // namespace annulus::sim
