// The coordinator's part in changes of membership: proposes them, and goes on among the new
// members; see membership.h.
#include "consensus/coordinator.h"
#include "dataplane/defect.h"
#include "dataplane/hash.h"

namespace annulus::consensus {

ChangeVerdict Coordinator::change(const Change& change, Nanos now) {
  const ChangeVerdict verdict = judge(configuration_, change);
  if (verdict != ChangeVerdict::kAllowed) return verdict;
  const bool goes = change.kind == JoinKind::kReplica && change.verb != ChangeVerb::kAdd;
  // One that waits for a replica gives way: that may be who goes. It will be asked for again.
  const bool waits = wanted_ && next_ >= change_below();
  const bool busy = state_ != State::kActive || barrier_ != kNoBarrier ||
                    (wanted_ && wanted_->operation != change.operation && !(goes && waits));
  if (busy) return ChangeVerdict::kBusy;
  if (goes && !may_go(change, now)) return ChangeVerdict::kLastState;
  wanted_ = change;
  return verdict;
}

/// (Configurations are the one thing that is allocated: members seldom change.)
bool Coordinator::propose_change(Nanos now, Effects& effects) {
  Slice bytes = pool_.allocate();
  if (!bytes) return false;
  const Configuration next = changed(configuration_, *wanted_, next_, acceptor_.trimmed_below());
  const std::size_t size = encode(next, {bytes.mutable_data(), bytes.size()});
  bytes.truncate(static_cast<std::uint32_t>(size));
  const Value value{{kMembership, raw(ballot_), next.epoch},
                    dataplane::hash_bytes(bytes.bytes()),
                    kAllPartitions,
                    bytes.size()};
  if (!propose(value, bytes, now, now, effects)) return false;
  wanted_.reset();
  counters_[CoordinatorCounter::kMembersChanged].add();
  return true;
}

void Coordinator::on_configuration(const Configuration& before, std::uint32_t self, Nanos now,
                                   Effects& effects) {
  self_ = self;
  for (std::uint32_t i = 0; i < kLearnersMax; ++i) {
    const bool same = i < before.learners.size() && i < configuration_.learners.size() &&
                      before.learners[i].id == configuration_.learners[i].id;
    if (!same) learners_[i] = Learner{};
  }
  voted_below_.fill(configuration_.from);
  wanted_.reset();
  if (state_ == State::kIdle) return;
  // Somebody else decided it, or it is this node that goes: others are to elect one.
  const bool member = self < configuration_.acceptors.size();
  const bool own = state_ == State::kActive && decided_below_ == configuration_.from;
  if (own) send_decision(true, now, effects);
  if (!own || !member) return retire();
  if (DEFECT(kChangeKeepsBallot)) {
    barrier_ = kNoBarrier;
    return;
  }
  begin_phase1(now, effects);
}

}  // namespace annulus::consensus
