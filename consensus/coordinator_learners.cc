// The coordinator's dealings with learners: how far each lets proposals go, and who is waited for.
#include <algorithm>

#include "consensus/coordinator.h"
#include "dataplane/defect.h"

namespace annulus::consensus {
namespace {

/// A learner is silent after four times the longest silence of it lately, at least this: a few of
/// the times that one with something to do reports in. At most a part of what it takes one that was
/// given up to come back: it is served meanwhile, while nobody is served as long as it is waited
/// for.
constexpr Nanos kLearnerSilentMin = 10 * kMillisecond;
constexpr Nanos kReturnShare = 8;
constexpr Nanos kLearnerSilentMax = kSecond;
/// One that stands still for so long leaves the set though votes, too, are late these days: what it
/// misses the acceptors keep, and it pulls, while clients that wait for it wait in vain.
constexpr Nanos kLearnerLeavesMax = 10 * kMillisecond;
/// One that reports and does not move is stuck.
constexpr Nanos kLearnerIdleMax = kSecond;
/// A learner that had to fetch its state is spared this many times as long as that took, and waited
/// for as long as it takes: so it spends a small part of its time so, however often its host makes
/// it wait.
constexpr Nanos kSpared = 4;
/// One that has delivered everything reports every 50 ms: whoever lives is heard within this.
constexpr Nanos kAliveWithin = 200 * kMillisecond;
/// What one says of itself is old after this, however slow votes are: it may have died since. (One
/// that moves reports every millisecond.)
constexpr Nanos kWordOld = 2 * kMillisecond;
/// While a learner that fell behind moves, proposals go on as fast as it does less one part in so
/// many: it comes near again, however much there is to do, and costs the others no more than that.
constexpr std::uint64_t kPaceShare = 10;

}  // namespace

/// How far a learner lets proposals go.
Instance Coordinator::credit_below(const Learner& learner) const {
  if (learner.standing == Standing::kGone) return Instance{~std::uint64_t{0}};
  if (learner.standing == Standing::kTrailing && DEFECT(kTrailingOutrun)) {
    return Instance{~std::uint64_t{0}};
  }
  // What was proposed before went as far as it was let. (A replica that had been given up then, and
  // so counts as lost, may be outrun by the bytes of it.)
  const Instance kept = next_ < recovered_below_ ? acceptor_.kept_for_changes(learner.place.below())
                                                 : acceptor_.kept_until(learner.place.below());
  const bool trails = learner.standing == Standing::kTrailing;
  if (trails && learner.reach == kUnbounded) return kept;
  return std::min(kept, learner.place.below() + (trails ? learner.reach : options_.learner_window));
}

/// (One that is to be taken out holds nobody up any more.)
bool Coordinator::waits_for(std::size_t learner) const {
  return learners_[learner].standing != Standing::kGone &&
         !(replica_goes() && configuration_.learners[learner].id == wanted_->member);
}

bool Coordinator::replica_goes() const {
  return wanted_ && wanted_->kind == JoinKind::kReplica && wanted_->verb != ChangeVerb::kAdd;
}

Instance Coordinator::credit_below() const {
  Instance below{~std::uint64_t{0}};
  for (std::size_t i = 0; i < configuration_.learners.size(); ++i) {
    if (waits_for(i)) below = std::min(below, credit_below(learners_[i]));
  }
  return below;
}

/// How far changes of members may go: past commands, for a replica that is waited for may need an
/// acceptor replaced, but not past what that replica still needs. The last places are for those
/// that take a replica out, or two that are dead would keep each other in.
Instance Coordinator::change_below() const {
  Instance below{~std::uint64_t{0}};
  if (acceptor_.keeps_all()) return below;
  const std::uint32_t left =
      replica_goes() && wanted_->verb == ChangeVerb::kRemove ? 0 : kLearnersMax;
  for (std::size_t i = 0; i < configuration_.learners.size(); ++i) {
    if (!waits_for(i)) continue;
    const Instance kept = acceptor_.kept_for_changes(learners_[i].place.below());
    below = std::min(below, Instance{raw(kept) - left});
  }
  return below;
}

void Coordinator::on_learner_status(std::uint32_t learner, std::uint64_t epoch,
                                    Instance delivered_below, bool holds_state, Nanos now) {
  if (learner >= configuration_.learners.size()) return;
  Learner& state = learners_[learner];
  if (!state.place.heeds(epoch, now)) return;  // it has died since
  note_heard(state, now);
  const LearnerPlace before = state.place;
  if (state.place.tell(epoch, delivered_below, now)) note_moved(state, before, now);
  state.stated = state.heard;
  state.state = !holds_state            ? StateOf::kLacking
                : lost(delivered_below) ? StateOf::kUnknown  // it is about to notice
                                        : StateOf::kHeld;
  if (state.standing != Standing::kGone && holds_state) note_near(state);
  // That this one lives may be what is waited for, to go on without another.
  if (blocked_) schedule(now);
}

void Coordinator::note_heard(Learner& learner, Nanos now) {
  const Nanos awake = attention_.awake(now);
  learner.silences.fade(now);
  if (learner.given_up) {
    if (learner.returned == 0) learner.returned = awake;
  } else if (learner.place.below() < decided_below_) {  // one without work has nothing to tell
    learner.silences.note(awake - learner.heard, now);
  }
  learner.heard = awake;
}

void Coordinator::on_credit(std::uint32_t learner, std::uint64_t epoch, Instance delivered_below,
                            Nanos now) {
  if (learner >= configuration_.learners.size()) return;
  Learner& state = learners_[learner];
  const LearnerPlace before = state.place;
  if (!state.place.pass_on(epoch, delivered_below, now)) return;
  note_heard(state, now);
  note_moved(state, before, now);
}

void Coordinator::note_moved(Learner& learner, const LearnerPlace& before, Nanos now) {
  const Instance below = learner.place.below();
  learner.progressed = attention_.awake(now);
  const bool again = before.known() && learner.place.epoch() != before.epoch();
  const bool first = again || !before.known();
  if (again) {  // as if it had not been there
    wait_again();
    learner.standing = Standing::kGone;
    learner.state = StateOf::kUnknown;
    learner.hopeless = 0;
    if (learner.given_up) learner.returned = learner.progressed;
  }
  Instance fastest = below;
  for (const Learner& other : learners_) fastest = std::max(fastest, other.place.below());
  for (std::size_t i = 0; i < configuration_.learners.size(); ++i) {
    leave_behind(learners_[i], fastest);
  }
  if (learner.standing == Standing::kInSet) return;
  const bool near = below + options_.learner_window / 2 >= fastest;
  // With logs it may have all there ever was to execute first: nobody waits for it then, however
  // far the others are. In memory, as long as acceptors have what it needs.
  const Instance kept = acceptor_.kept_until(below) + Acceptor::kChangesKept;
  if (near && (acceptor_.keeps_all() ? kept > next_ : !lost(below))) {
    learner.standing = Standing::kInSet;
    counters_[CoordinatorCounter::kLearnersBack].add();
  } else if (learner.standing == Standing::kTrailing) {
    pace(learner, first ? 0 : below - before.below());
  } else if (!acceptor_.keeps_all() ? !lost(below)
                                    : kept > next_ + (first ? 0 : Acceptor::kChangesKept)) {
    trail(learner);
  }
}

/// A replica has lost its state. Others may have been given up because it had that, and acceptors
/// still have what they need.
void Coordinator::wait_again() {
  if (acceptor_.keeps_all()) return;
  for (std::size_t i = 0; i < configuration_.learners.size(); ++i) {
    Learner& learner = learners_[i];
    const bool gone =
        learner.standing == Standing::kGone && configuration_.learners[i].id != kNoNode;
    if (gone && learner.place.known() && !lost(learner.place.below())) trail(learner);
  }
}

/// One that is further behind another than a window (and a few changes of members) was not in the
/// set of whoever let that happen: it starts again, or was given up in an earlier term. With logs
/// it may have all there ever was to execute first, and nobody waits for it if that is more than
/// memory keeps.
void Coordinator::leave_behind(Learner& learner, Instance front) {
  const Instance below = learner.place.below();
  const bool far = below + options_.learner_window + Acceptor::kChangesKept < front;
  if (learner.standing == Standing::kInSet && far) {
    trail(learner);
    counters_[CoordinatorCounter::kLearnersLeft].add();
  }
  const bool beyond = acceptor_.keeps_all() && !within_memory(learner);
  if (learner.standing == Standing::kTrailing && beyond) learner.standing = Standing::kGone;
}

/// Whether the order has gone no further past it than for one that is waited for.
bool Coordinator::within_memory(const Learner& learner) const {
  return acceptor_.kept_for_changes(learner.place.below()) > next_;
}

void Coordinator::trail(Learner& learner) {
  learner.standing = Standing::kTrailing;
  learner.reach = kUnbounded;
}

/// It moves. From now on proposals get half a window further ahead of it at most than they are,
/// and less with every step that it takes.
void Coordinator::pace(Learner& learner, std::uint64_t progress) {
  const std::uint64_t near = options_.learner_window / 2;
  const std::uint64_t ahead = next_ > learner.place.below() ? next_ - learner.place.below() : 0;
  if (learner.reach == kUnbounded) {
    learner.reach = ahead + near;
    learner.steps = 0;
    counters_[CoordinatorCounter::kLearnersAwaited].add();
    return;
  }
  learner.steps += progress;
  const std::uint64_t nearer = std::min(learner.reach, learner.steps / kPaceShare);
  learner.steps %= kPaceShare;
  learner.reach = std::max({learner.reach - nearer, ahead, near});
}

/// Whoever was given up is near again, with its state: what that took says how long it is to be
/// spared.
void Coordinator::note_near(Learner& learner) {
  if (!learner.given_up) return;
  learner.given_up = false;
  const Nanos took = std::min(learner.heard - learner.returned, kLearnerSilentMax);
  learner.spared_until = learner.heard + kSpared * took;
  return_time_ += (took - return_time_) / 4;
}

/// Of those that have delivered everything: until something is decided, they need not move.
void Coordinator::note_debtors(Nanos now) {
  for (std::size_t i = 0; i < configuration_.learners.size(); ++i) {
    Learner& learner = learners_[i];
    if (learner.place.below() >= decided_below_) learner.progressed = attention_.awake(now);
  }
}

/// A new term: what was heard of them in an earlier one, or not, says nothing of whether they live
/// and have their state, and only where they have been, not where they are. One that this node
/// never heard of may be the last that has its state.
void Coordinator::greet_learners(Nanos now) {
  for (std::uint32_t i = 0; i < configuration_.learners.size(); ++i) {
    Learner& learner = learners_[i];
    learner.progressed = learner.heard = attention_.awake(now);
    learner.given_up = false;
    learner.state = StateOf::kUnknown;
    const LearnerPlace& told = acceptor_.place_of(i);
    if (told.known() && !lost(told.below())) {
      learner.place.pass_on(told.epoch(), told.below(), now);
    }
    if (!learner.place.known()) learner.place.presume(acceptor_.trimmed_below());
    leave_behind(learner, next_);
    if (learner.standing != Standing::kGone || configuration_.learners[i].id == kNoNode) continue;
    const bool waited = acceptor_.keeps_all() ? learner.place.known() && within_memory(learner)
                                              : !lost(learner.place.below());
    if (waited) trail(learner);
  }
}

/// Whether one that has delivered no more cannot go on by itself.
bool Coordinator::lost(Instance delivered_below) const {
  return !acceptor_.keeps_all() && delivered_below < acceptor_.trimmed_below();
}

Nanos Coordinator::learner_stall() const {
  return std::clamp<Nanos>(8 * vote_delay_.p99(), 2 * kMillisecond, 200 * kMillisecond);
}

/// Whether it would be given up if it blocked. What others have counts as they say from then on,
/// and lately: who had its state may have died since it said so. So this is found out before it
/// blocks, and mostly it need not block at all.
bool Coordinator::hopeless(Learner& learner, Nanos now) const {
  const Nanos idle = idle_time(learner, now);
  // (One that lacks its state and more than is kept fetches both from another.)
  const bool fetches = learner.state == StateOf::kLacking && lost(learner.place.below());
  const bool alive = silence(learner, now) < patience(learner, now) && idle < kLearnerIdleMax;
  const bool none = idle >= learner_stall() && (fetches || !alive);
  if (!none) {
    learner.hopeless = 0;
  } else if (learner.hopeless == 0) {
    learner.hopeless = attention_.awake(now);
  }
  return none;
}

Nanos Coordinator::idle_time(const Learner& learner, Nanos now) const {
  const bool owes = learner.place.below() < decided_below_;
  return owes ? attention_.awake(now) - learner.progressed : 0;
}

void Coordinator::await_learners(Nanos now) {
  for (Learner& learner : learners_) {
    if (learner.standing == Standing::kTrailing) hopeless(learner, now);
  }
  if (!blocked_) return;
  for (Learner& learner : learners_) {
    if (credit_below(learner) <= next_) await(learner, now);
  }
}

/// Decides about a learner that blocks.
void Coordinator::await(Learner& learner, Nanos now) {
  const Nanos idle = idle_time(learner, now);
  const Nanos stall = learner_stall();
  const Nanos leaves = std::min(stall, kLearnerLeavesMax);
  if (learner.standing == Standing::kInSet) {
    if (idle < leaves) return schedule(now + leaves - idle);
    trail(learner);
    counters_[CoordinatorCounter::kLearnersLeft].add();
    if (credit_below(learner) > next_) return;
  }
  if (idle < leaves) return schedule(now + leaves - idle);
  // It does not move: others go on as far as what it lacks is kept.
  learner.reach = kUnbounded;
  if (credit_below(learner) > next_) return;
  if (idle < stall) return schedule(now + stall - idle);
  if (!hopeless(learner, now)) return schedule(now + kMillisecond);
  const Nanos since = std::max(learner.hopeless, attention_.awake(now) - kWordOld);
  // One that nobody could give its state to again is spared for longer, and the last one that has
  // it for ever. (One that lacks its state has none to lose; nor has any, if logs keep all.)
  const bool precious = learner.state != StateOf::kLacking && !acceptor_.keeps_all() &&
                        !replaceable(learner, since, now);
  const bool last = precious && (idle < kLearnerSilentMax || !covered(learner, since, now));
  if (last) return schedule(now + kMillisecond);
  learner.standing = Standing::kGone;
  learner.hopeless = 0;
  learner.given_up = true;
  learner.returned = 0;
  counters_[CoordinatorCounter::kLearnersGone].add();
}

Nanos Coordinator::silence(const Learner& learner, Nanos now) const {
  return attention_.awake(now) - learner.heard;
}

Nanos Coordinator::patience(const Learner& learner, Nanos now) const {
  const bool spared = attention_.awake(now) < learner.spared_until;
  if (spared) return std::max(return_time_, kLearnerSilentMin);
  const Nanos most = std::max(return_time_ / kReturnShare, kLearnerSilentMin);
  return std::clamp(4 * learner.silences.get(), kLearnerSilentMin, most);
}

/// Whether it lives, was heard of since `since`, and has its state; one that is fetching it has
/// none yet.
bool Coordinator::has_state(const Learner& learner, Nanos since, Nanos now) const {
  const LearnerMember& member = configuration_.learners[place_of(learner)];
  if (member.id == kNoNode || learner.standing == Standing::kGone) return false;
  // What acceptors tell of it may be older than its death.
  if (learner.stated < since) return false;
  if (learner.state != StateOf::kHeld) return false;
  const bool current = learner.place.below() >= decided_below_;
  return silence(learner, now) < (current ? kAliveWithin : patience(learner, now));
}

/// Whether another one can give it its state. Only those that execute the same partitions give it
/// to each other.
bool Coordinator::replaceable(const Learner& learner, Nanos since, Nanos now) const {
  const auto& members = configuration_.learners;
  const PartitionMask partitions = members[place_of(learner)].partitions;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const Learner& other = learners_[i];
    if (&other != &learner && members[i].partitions == partitions && has_state(other, since, now)) {
      return true;
    }
  }
  return false;
}

/// Whether others have all that it has, if divided among them in another way. While they have not,
/// it is waited for, however long: if it had to fetch its state itself, that would be lost.
bool Coordinator::covered(const Learner& learner, Nanos since, Nanos now) const {
  const auto& members = configuration_.learners;
  std::uint64_t left = raw(members[place_of(learner)].partitions);
  for (std::size_t i = 0; i < members.size(); ++i) {
    const Learner& other = learners_[i];
    if (&other != &learner && has_state(other, since, now)) left &= ~raw(members[i].partitions);
  }
  return left == 0;
}

/// Whether a replica may be taken out: not while it is the last that has its state, unless it has
/// not been heard of for so long that nobody gets it from there. Who comes in its place is to have
/// that state.
bool Coordinator::may_go(const Change& change, Nanos now) const {
  const auto place = configuration_.learner_index(change.member);
  if (!place) return true;
  const Learner& learner = learners_[*place];
  const bool others_have_it =
      change.verb == ChangeVerb::kReplace ? replaceable(learner, 0, now) : covered(learner, 0, now);
  return others_have_it || silence(learner, now) > kLearnerSilentMax;
}

}  // namespace annulus::consensus
