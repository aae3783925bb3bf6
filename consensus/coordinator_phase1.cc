// Phase 1 of the coordinator: promises, the values they brought, and the bytes of those values.
#include <algorithm>
#include <bit>

#include "consensus/coordinator.h"
#include "dataplane/defect.h"

namespace annulus::consensus {
namespace {

/// Phase 1 and the pulls of its values are repeated this often; loss is rare, elections too.
constexpr Nanos kPhase1Retry = 5 * kMillisecond;
/// A value that nobody alive holds was not chosen: after so many rounds of asking, Phase 1 is run
/// again, without whoever reported it and died.
constexpr std::uint32_t kCollectRoundsMax = 20;

}  // namespace

void Coordinator::start(Nanos now, Effects& effects) {
  if (state_ != State::kIdle) retire();  // an earlier term of its own
  begin_phase1(now, effects);
}

/// Under a ballot of its own, whatever was submitted before.
void Coordinator::begin_phase1(Nanos now, Effects& effects) {
  const Ballot highest = std::max(highest_seen_, acceptor_.promised());
  highest_seen_ = make_ballot(round_of(highest) + 1, self_id());
  ballot_ = make_ballot(round_of(highest) + 1,
                        DEFECT(kBallotNotUnique) ? configuration_.acceptors[0].id : self_id());
  counters_[CoordinatorCounter::kElectionsStarted].add();
  CHECK(acceptor_.promise(ballot_, effects));
  state_ = State::kPhase1;
  route_ = Route(configuration_, self_);
  silent_ = {};
  refused_at_ = {};
  in_vain_since_ = 0;
  blocked_ = false;
  tell_by_ = kNever;
  barrier_ = kNoBarrier;
  promises_ = {};
  parts_ = {};
  unknown_ = {};
  collect_rounds_ = 0;
  for (Recovered& place : recovered_) place = Recovered{};
  from_ = recovered_below_ = kFirstInstance;
  merge_own();
  phase1_retry_at_ = kNever;
  on_durable(now, effects);
}

/// What the node's own acceptor would answer.
void Coordinator::merge_own() {
  from_ = std::max(from_, acceptor_.chosen_below());
  recovered_below_ = std::max(recovered_below_, from_);
  for (Instance i = from_; i < acceptor_.accepted_below() && !DEFECT(kPhase1ForgetsOwn); ++i) {
    const Acceptor::Accepted held = acceptor_.accepted(i);
    if (held.ballot != kNoBallot) merge(i, held.ballot, *held.value, self_);
  }
  unknown_[self_] = acceptor_.unknown();
}

/// A ballot that its own acceptor could forget must not be heard of: the same one could then be
/// made again for other values (T2).
void Coordinator::on_durable(Nanos now, Effects& effects) {
  if (state_ == State::kActive) count_own_votes(now);
  if (state_ != State::kPhase1 || own_promise_counted() || !acceptor_.promise_durable()) return;
  send_phase1a(now, effects);
  count_promise(self_, now, effects);
}

void Coordinator::send_phase1a(Nanos now, Effects& effects) {
  const std::uint64_t settings = fingerprint(configuration_, options_.fingerprint);
  for (std::uint32_t i = 0; i < configuration_.acceptors.size(); ++i) {
    // Who did not know all it accepted may have been given it back since.
    if (i == self_ || ((raw(promises_) >> i & 1) != 0 && unknown_[i].empty())) continue;
    effects.send_now(configuration_.acceptors[i].endpoint, MessageType::kPhase1A,
                     Phase1A{raw(ballot_), raw(from_), settings});
  }
  phase1_retry_at_ = now + kPhase1Retry;
  schedule(phase1_retry_at_);
}

/// The own acceptor, too, may have been given back what it did not know.
void Coordinator::retry_phase1(Nanos now, Effects& effects) {
  send_phase1a(now, effects);
  if (own_promise_counted() && !unknown_[self_].empty()) count_promise(self_, now, effects);
}

void Coordinator::merge(Instance instance, Ballot ballot, const Value& value,
                        std::uint32_t holder) {
  Recovered& place = recovered(instance);
  // A lower instance in the same place is one that another acceptor knows chosen.
  if (place.instance > instance) return;
  if (place.instance < instance) place = Recovered{};
  place.instance = instance;
  place.listed = place.listed | just(holder);
  const bool lower = DEFECT(kPhase1TakesLowest) && place.ballot != kNoBallot;
  if (lower ? place.ballot <= ballot : place.ballot >= ballot) return;
  place.ballot = ballot;
  place.holder = holder;
  place.assembly.reset();
  place.assembly.start(value);
  recovered_below_ = std::max(recovered_below_, instance + 1);
}

void Coordinator::on_phase1b(const Received& in, Nanos now, Effects& effects) {
  const auto& m = message<Phase1B>(in.frame);
  const auto acceptor = configuration_.acceptor_index(NodeId{in.frame.header->sender.get()});
  if (state_ != State::kPhase1 || Ballot{m.ballot.get()} != ballot_ || !acceptor) {
    counters_[CoordinatorCounter::kDropStaleVote].add();
    return;
  }
  // Everything below is decided: not to be proposed again, whatever was accepted there.
  from_ = std::max(from_, Instance{m.chosen_below.get()});
  for (const Phase1BEntry& entry : entries<Phase1BEntry>(m, m.count)) {
    merge(Instance{entry.instance.get()}, Ballot{entry.ballot.get()}, from_wire(entry.value),
          *acceptor);
  }
  // Parts of different answers do not add up: what an acceptor knows grows between two of them.
  Parts& parts = parts_[*acceptor];
  if (parts.answer != m.answer) parts = {m.answer, 0};
  unknown_[*acceptor] = {Instance{m.unknown_from.get()}, Instance{m.unknown_below.get()}};
  parts.seen |= std::uint64_t{1} << m.part;
  if (std::popcount(parts.seen) == m.parts) count_promise(*acceptor, now, effects);
}

void Coordinator::count_promise(std::uint32_t acceptor, Nanos now, Effects& effects) {
  promises_ = promises_ | just(acceptor);
  if (!unknown_[self_].empty()) merge_own();  // it may have been given something back since
  const int needed = configuration_.majority() - (DEFECT(kPhase1MinorityEnough) ? 1 : 0);
  if (size(promises_) < needed || state_ != State::kPhase1) return;
  if (!accepts_known()) {
    counters_[CoordinatorCounter::kPhase1Unknown].add();
    return;
  }
  finish_phase1(now, effects);
}

/// Enough promised that none of them can have lost the accept that decided `instance` without
/// another of them telling of it.
bool Coordinator::enough_know(Instance instance) const {
  const Recovered& place = recovered(instance);
  AcceptorSet knowing{};
  for (std::uint32_t i = 0; i < configuration_.acceptors.size(); ++i) {
    if ((raw(promises_) >> i & 1) == 0) continue;
    const bool listed = place.instance == instance && (raw(place.listed) >> i & 1) != 0;
    if (listed || !unknown_[i].contains(instance)) knowing = knowing | just(i);
  }
  // One of them is in every majority that can have decided it.
  const auto all = static_cast<int>(configuration_.acceptors.size());
  return size(knowing) + configuration_.majority() > all;
}

/// Whether that is so wherever somebody's log is damaged. Past the last accept that is known, too:
/// a value that only a damaged log held may be decided there.
bool Coordinator::accepts_known() const {
  for (const InstanceRange& range : unknown_) {
    for (Instance i = std::max(from_, range.from); i < range.below; ++i) {
      if (!enough_know(i)) return false;
    }
  }
  return true;
}

void Coordinator::finish_phase1(Nanos now, Effects& effects) {
  recovered_below_ = std::max(recovered_below_, from_);
  if (recovered_below_ - from_ > recovered_.size()) {
    counters_[CoordinatorCounter::kDropTooFarBehind].add();
    state_ = State::kIdle;
    return;
  }
  for (Instance i = from_; i < recovered_below_; ++i) {
    Recovered& place = recovered(i);
    if (place.instance != i) {
      place = Recovered{};
      place.instance = i;
      place.assembly.set(kNoopValue, {});
      counters_[CoordinatorCounter::kHolesFilled].add();
      continue;
    }
    counters_[CoordinatorCounter::kValuesRecovered].add();
    const Acceptor::Accepted held = acceptor_.accepted(i);
    if (place.assembly.value().noop()) {
      place.assembly.set(place.assembly.value(), {});
    } else if (held.ballot != kNoBallot && *held.value == place.assembly.value()) {
      place.assembly.set(*held.value, *held.bytes);
    }
  }
  state_ = State::kCollecting;
  collect(now, effects);
}

void Coordinator::collect(Nanos now, Effects& effects) {
  if (collect_rounds_++ == kCollectRoundsMax) return start(now, effects);
  bool missing = false;
  for (Instance i = from_; i < recovered_below_; ++i) {
    Recovered& place = recovered(i);
    if (place.assembly.complete()) continue;
    missing = true;
    if (effects.room() < Effects::kPerStepMax) break;
    // First from who reported it; then from anyone who may have accepted the same.
    std::uint32_t from = place.holder;
    const auto count = static_cast<std::uint32_t>(configuration_.acceptors.size());
    if (collect_rounds_ % 3 == 0) from = (place.holder + collect_rounds_ / 3) % count;
    if (from == self_) from = (self_ + 1) % count;
    counters_[CoordinatorCounter::kValuesPulled].add();
    Outgoing& out = effects.send_now(configuration_.acceptors[from].endpoint, MessageType::kPull,
                                     sizeof(Pull) + sizeof(PullEntry));
    auto& m = *reinterpret_cast<Pull*>(out.message());
    m = {static_cast<std::uint8_t>(PullKind::kValue), 0, std::uint16_t{1}, raw(ballot_)};
    *reinterpret_cast<PullEntry*>(&m + 1) = {raw(i), place.assembly.missing()};
  }
  if (missing) {
    phase1_retry_at_ = now + kPhase1Retry;
    schedule(phase1_retry_at_);
    return;
  }
  counters_[CoordinatorCounter::kElectionsWon].add();
  state_ = State::kActive;
  next_ = decided_below_ = told_below_ = own_next_ = from_;
  phase1_retry_at_ = kNever;
  greet_learners(now);
  heartbeat_gap_ = kBusySilence / 2;
  heartbeat_at_ = now;
  schedule(now);
}

void Coordinator::on_value(const Received& in, Nanos now, Effects& effects) {
  if (state_ != State::kCollecting) return;
  const auto& m = message<ValueMessage>(in.frame);
  const Instance instance{m.instance.get()};
  if (instance < from_ || instance >= recovered_below_) return;
  Recovered& place = recovered(instance);
  // Value::operator== in add() makes sure that only the recovered value is taken, at any ballot.
  const AssemblyOutcome outcome =
      place.assembly.add(from_wire(m.value), from_wire(m.fragment), in.frame.payload,
                         in.frame.header->payload_hash, pool_);
  if (outcome != AssemblyOutcome::kComplete) return;
  for (Instance i = from_; i < recovered_below_; ++i) {
    if (!recovered(i).assembly.complete()) return;
  }
  collect(now, effects);
}

}  // namespace annulus::consensus
