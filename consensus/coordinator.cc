#include "consensus/coordinator.h"

#include <algorithm>
#include <bit>

#include "dataplane/defect.h"

namespace annulus::consensus {
namespace {

/// How long a decision may wait for a proposal to ride on, if one is expected that soon.
constexpr Nanos kTellWithin = 20 * kMicrosecond;
/// Instances decided in a row without the vote of a ring member before the ring goes around it.
constexpr std::uint32_t kSilentMax = 16;
/// How long a ring that failed is not used; longer if it fails again at once.
constexpr Nanos kBrokenFirst = 100 * kMillisecond;
constexpr Nanos kBrokenMax = 10 * kSecond;
/// A proposal repeated this often, and no majority answers: whoever coordinates is not heard.
constexpr std::uint32_t kRepeatsMax = 10;
/// With one, but without their votes, it is repeated at this distance: a log may get room.
constexpr Nanos kRepeatRefused = kSecond;
/// So long it stays at most. (First a second, then twice as long each time, until something is
/// decided: others who do not hear it may be a majority among themselves.)
constexpr Nanos kStayMax = 600 * kSecond;
/// So long an answer counts that an acceptor cannot accept: the next one or two may be lost.
constexpr Nanos kRefusedFor = 4 * kRepeatRefused;

}  // namespace

Coordinator::Coordinator(const Configuration& configuration, std::uint32_t self,
                         const CoordinatorOptions& options, Acceptor& acceptor,
                         dataplane::BufferPool& assembly_pool)
    : configuration_(configuration),
      self_(self),
      options_(options),
      acceptor_(acceptor),
      pool_(assembly_pool),
      streams_(options.submit, assembly_pool),
      slots_(options.window),
      recovered_(kUndecidedMax),
      vote_delay_(2 * kMillisecond, 100 * kMicrosecond, 500 * kMillisecond) {
  CHECK(std::has_single_bit(options.window) && options.window <= kUndecidedMax / 2);
}

void Coordinator::observe(Ballot ballot) {
  highest_seen_ = std::max(highest_seen_, ballot);
  if (state_ == State::kIdle || ballot <= ballot_) return;
  counters_[CoordinatorCounter::kSteppedDown].add();
  retire();
}

/// It proposes, and a majority does not answer: perhaps it is heard and cannot hear. Once it is
/// silent, somebody else is elected.
void Coordinator::resign() {
  counters_[CoordinatorCounter::kResigned].add();
  retire();
}

void Coordinator::retire() {
  state_ = State::kIdle;
  deadline_ = kNever;
  blocked_ = false;
  streams_.clear();
  wanted_.reset();
  for (Slot& place : slots_) place.bytes.reset();
  for (Recovered& place : recovered_) place = Recovered{};
}

// --- Phase 2

void Coordinator::on_submit(const Received& in, Nanos now) { streams_.on_submit(in, now); }

void Coordinator::propose_all(Nanos now, Effects& effects) {
  Instance credit = credit_below();
  bool blocked = false;
  while (effects.room() >= Effects::kPerStepMax) {
    if (next_ >= barrier_ && !DEFECT(kProposesPastChange)) break;
    const bool recovering = next_ < recovered_below_ &&
                            !(DEFECT(kHoleTakesCommand) && recovered(next_).ballot == kNoBallot);
    const SubmitStreams::Ready* ready = recovering ? nullptr : streams_.front();
    if (!recovering && ready == nullptr && !wanted_) break;
    if (next_ - decided_below_ >= options_.window) {
      counters_[CoordinatorCounter::kWindowFull].add();
      break;
    }
    const bool change = !recovering && wanted_;
    if (next_ >= (change ? change_below() : credit)) {
      counters_[CoordinatorCounter::kCreditBlocked].add();
      blocked = true;
      break;
    }
    if (change) {
      if (!propose_change(now, effects)) break;
    } else if (recovering) {
      Recovered& place = recovered(next_);
      if (!propose(place.assembly.value(), place.assembly.bytes(), now, now, effects)) break;
      place = Recovered{};
      if (next_ == recovered_below_) credit = credit_below();  // commands follow
    } else {
      if (!propose(ready->value, ready->bytes, ready->received, now, effects)) break;
      streams_.pop();
    }
  }
  if (effects.room() < Effects::kPerStepMax) schedule(now);
  if (blocked && !blocked_) schedule(now);  // whoever has long stood still need not be waited for
  blocked_ = blocked;
}

bool Coordinator::propose(const Value& value, const Slice& bytes, Nanos received, Nanos now,
                          Effects& effects) {
  const Instance instance = next_;
  if (!acceptor_.accept(instance, ballot_, value, bytes, route_, now, effects)) {
    // Its log is full, or full of undecided instances, or it promised to another coordinator.
    observe(acceptor_.promised());
    return false;
  }
  ++next_;
  if (value.follows(configuration_.epoch)) barrier_ = next_;
  counters_[CoordinatorCounter::kProposals].add();
  Slot& place = slot(instance);
  place = Slot{value, bytes, {}, received, now, now + 2 * vote_delay_.p99(), 0, false};
  send_proposal(instance, place, false, now, effects);
  schedule(place.repeat_at);
  proposal_gap_ += (std::min(now - last_proposed_, kMillisecond) - proposal_gap_) / 8;
  last_proposed_ = now;
  if (told_below_ < decided_below_) counters_[CoordinatorCounter::kDecisionsPiggybacked].add();
  told_below_ = decided_below_;
  tell_by_ = kNever;
  proposed_this_burst_ = true;
  count_own_votes(now);
  return true;
}

/// Its own vote counts as any other: once the accept is durable. It accepts, and its log keeps, in
/// the order of the instances.
void Coordinator::count_own_votes(Nanos now) {
  for (; own_next_ < next_ && acceptor_.accept_durable(own_next_); ++own_next_) {
    if (own_next_ >= decided_below_) add_votes(own_next_, just(self_), now);
  }
}

void Coordinator::send_proposal(Instance instance, const Slot& place, bool repeated, Nanos now,
                                Effects& effects) {
  heartbeat_gap_ = kBusySilence / 2;
  heartbeat_at_ = now + heartbeat_gap_;
  schedule(heartbeat_at_);
  const std::uint32_t count = cut(place.value.bytes, options_.fragment_bytes, 0).count;
  Phase2A m{};
  m.instance = raw(instance);
  m.ballot = raw(ballot_);
  m.value = to_wire(place.value);
  m.decided = to_wire(decided());
  m.route = route_.wire();
  for (std::uint32_t i = 0; i < count; ++i) {
    const Fragment fragment = cut(place.value.bytes, options_.fragment_bytes, i);
    m.fragment = to_wire(fragment);
    Outgoing& out = effects.send_to_all_now(MessageType::kPhase2A, m);
    out.direct = repeated || !ring_whole(now);
    if (place.value.noop()) continue;
    const std::uint32_t offset = fragment.offset();
    out.payload = place.bytes.part(offset, std::min(fragment.bytes, place.value.bytes - offset));
    if (count == 1) out.payload_hash = place.value.content_hash;
  }
}

/// Whether frames may go from one member to the next (Dissemination::kRing). A dead member passes
/// nothing on: then everybody is sent a copy, until the ring is tried again.
bool Coordinator::ring_whole(Nanos now) const {
  if (now < broken_until_) return false;
  for (std::uint32_t i = 0; i < configuration_.acceptors.size(); ++i) {
    if (i != self_ && voted_below_[i] + kSilentMax < decided_below_) return false;
  }
  for (std::size_t i = 0; i < configuration_.learners.size(); ++i) {
    if (configuration_.learners[i].id == kNoNode) continue;
    if (learners_[i].standing != Standing::kInSet) return false;
  }
  return true;
}

/// Late votes count as well: they show who got the proposal.
void Coordinator::note_voters(const Phase2BEntry& entry) {
  const Instance below = Instance{entry.instance.get()} + 1;
  for (std::uint32_t i = 0; i < configuration_.acceptors.size(); ++i) {
    if ((entry.acceptors >> i & 1) != 0) voted_below_[i] = std::max(voted_below_[i], below);
  }
}

/// A proposal did not come round, nor did its votes when they were asked for.
void Coordinator::note_broken(Nanos now) {
  if (now < broken_until_) return;
  broken_for_ = now - broken_until_ > broken_for_ ? kBrokenFirst : 2 * broken_for_;
  broken_for_ = std::min(broken_for_, kBrokenMax);
  broken_until_ = now + broken_for_;
}

void Coordinator::on_phase2b(const Received& in, Nanos now) {
  const auto& m = message<Phase2B>(in.frame);
  if (state_ == State::kActive && Ballot{m.ballot.get()} == ballot_) {
    for (const Phase2BEntry& entry : entries<Phase2BEntry>(m, m.count)) {
      const Instance instance{entry.instance.get()};
      if (configuration_.dissemination == Dissemination::kRing) note_voters(entry);
      if (instance < decided_below_ || instance >= next_) {
        counters_[CoordinatorCounter::kDropStaleVote].add();
        continue;
      }
      const Value& value = slot(instance).value;
      if (value.id != from_wire(entry.value) || value.content_hash != entry.content_hash) {
        counters_[CoordinatorCounter::kDropMismatchedVote].add();
        continue;
      }
      add_votes(instance, AcceptorSet{entry.acceptors.get()}, now);
    }
  }
  const auto* credit =
      reinterpret_cast<const LearnerCredit*>(entries<Phase2BEntry>(m, m.count).data() + m.count);
  for (std::uint32_t i = 0; i < m.credits; ++i) {
    on_credit(credit[i].learner, credit[i].epoch, Instance{credit[i].delivered_below.get()}, now);
  }
}

void Coordinator::on_reject(const Received& in, Nanos now) {
  const auto& m = message<Reject>(in.frame);
  const auto acceptor = configuration_.acceptor_index(NodeId{in.frame.header->sender.get()});
  if (Ballot{m.promised.get()} > ballot_ || m.refused != raw(ballot_) || !acceptor) {
    return observe(Ballot{m.promised.get()});
  }
  counters_[CoordinatorCounter::kRefused].add();
  refused_at_[*acceptor] = attention_.awake(now);
}

void Coordinator::add_votes(Instance instance, AcceptorSet votes, Nanos now) {
  Slot& place = slot(instance);
  if (place.decided) return;
  const std::uint32_t members = (1u << configuration_.acceptors.size()) - 1;
  place.votes = AcceptorSet{(raw(place.votes) | raw(votes)) & members};
  const bool half = DEFECT(kHalfEnough) && configuration_.acceptors.size() % 2 == 0;
  const int needed = configuration_.majority() - (DEFECT(kQuorumOneTooFew) || half ? 1 : 0);
  if (size(place.votes) < needed) return;
  place.decided = true;
  counters_[CoordinatorCounter::kDecided].add();
  note_decided(place, now);
  place.bytes.reset();
  if (instance == decided_below_) advance_decided(now);
}

/// What a decision says of the ring: how long its votes take, and who does not vote.
void Coordinator::note_decided(const Slot& place, Nanos now) {
  in_vain_since_ = 0;
  stay_ = kStayFirst;
  if (place.repeats == 0) vote_delay_.record(now - place.proposed);
  if (place.repeats != 0) vote_delay_.record_late();
  ordered_ns_.record(static_cast<std::uint64_t>(now - place.received));
  bool bypassed = false;
  bool broken = false;
  for (std::uint32_t i = 0; i < configuration_.acceptors.size(); ++i) {
    const bool voted = (raw(place.votes) >> i & 1) != 0;
    silent_[i] = voted ? 0 : silent_[i] + 1;
    bypassed |= voted && !route_.contains(i);
    broken |= route_.contains(i) && silent_[i] >= kSilentMax;
  }
  if (bypassed) counters_[CoordinatorCounter::kDecidedBySpare].add();
  if (broken) reroute();
}

/// Leads the votes of later proposals through those that were heard last. Needs no Phase 1, since
/// the route is none of the quorum's business.
void Coordinator::reroute() {
  const auto count = static_cast<std::uint32_t>(configuration_.acceptors.size());
  WireRoute wire;
  wire.acceptor.fill(kRouteEnd);
  AcceptorSet taken = just(self_);
  for (std::uint32_t place = 0; place + 1 < route_.size(); ++place) {
    std::uint32_t best = self_;
    for (std::uint32_t i = 1; i < count; ++i) {
      const std::uint32_t acceptor = (self_ + i) % count;
      if ((raw(taken) >> acceptor & 1) != 0) continue;
      if (best == self_ || silent_[acceptor] < silent_[best]) best = acceptor;
    }
    taken = taken | just(best);
    wire.acceptor[place] = static_cast<std::uint8_t>(best);
  }
  wire.acceptor[route_.size() - 1] = static_cast<std::uint8_t>(self_);
  silent_ = {};
  if (Route(wire) == route_) return;
  route_ = Route(wire);
  counters_[CoordinatorCounter::kRerouted].add();
}

void Coordinator::advance_decided(Nanos now) {
  note_debtors(now);
  while (decided_below_ < next_ && slot(decided_below_).decided) ++decided_below_;
  acceptor_.on_decided(decided(), now);
}

void Coordinator::flush(Nanos now, Effects& effects) {
  if (state_ == State::kActive) {
    proposed_this_burst_ = false;
    propose_all(now, effects);
    if (state_ == State::kActive) tell_decisions(now, effects);
  }
  // An acknowledgement tells the ballot, which must not be one that all may forget, nor that of a
  // coordinator that is cut off from the others.
  if (state_ == State::kActive || state_ == State::kCollecting)
    streams_.flush(ballot_, now, effects);
}

void Coordinator::tell_decisions(Nanos now, Effects& effects) {
  if (told_below_ == decided_below_) return;
  const bool soon = next_ > decided_below_ && proposal_gap_ < kTellWithin;
  if (soon && tell_by_ == kNever) tell_by_ = now + kTellWithin;
  if (soon && now < tell_by_) {
    schedule(tell_by_);
    return;
  }
  counters_[CoordinatorCounter::kDecisionsFlushed].add();
  heartbeat_gap_ = kBusySilence / 2;
  send_decision(false, now, effects);
}

void Coordinator::send_decision(bool repeated, Nanos now, Effects& effects) {
  // One heartbeat may be lost.
  const auto within_us = static_cast<std::uint32_t>(2 * heartbeat_gap_ / kMicrosecond);
  effects.send_to_all_now(MessageType::kDecision, Decision{to_wire(decided()), within_us}).direct =
      repeated;
  told_below_ = decided_below_;
  tell_by_ = kNever;
  heartbeat_at_ = now + heartbeat_gap_;
  schedule(heartbeat_at_);
}

// --- Timers

void Coordinator::tick(Nanos now, Effects& effects, bool heard) {
  if (now < deadline_ || state_ == State::kIdle) return;
  attention_.on_timer(deadline_, now);
  deadline_ = kNever;
  if (state_ == State::kPhase1 && now >= phase1_retry_at_) retry_phase1(now, effects);
  if (state_ == State::kCollecting && now >= phase1_retry_at_) collect(now, effects);
  if (state_ != State::kActive) {
    schedule(phase1_retry_at_);
    return;
  }
  if (!heard) schedule(now);
  if (heard) await_learners(now);
  if (heard) repeat_undecided(now, effects);
  if (state_ != State::kActive) return;
  if (now >= heartbeat_at_) {
    counters_[CoordinatorCounter::kHeartbeats].add();
    heartbeat_gap_ = std::min(2 * heartbeat_gap_, options_.heartbeat);
    send_decision(true, now, effects);
  }
  schedule(heartbeat_at_);
  if (told_below_ != decided_below_) schedule(tell_by_);
}

void Coordinator::repeat_undecided(Nanos now, Effects& effects) {
  bool pull = false;
  for (Instance i = decided_below_; i < next_; ++i) {
    Slot& place = slot(i);
    if (place.decided) continue;
    if (place.repeat_at > now) {
      schedule(place.repeat_at);
      continue;
    }
    if (effects.room() < Effects::kPerStepMax) {
      schedule(now);
      break;
    }
    const bool in_vain = place.repeats == kRepeatsMax;
    if (in_vain && !stays(place, now)) return resign();
    if (!in_vain) ++place.repeats;
    const Nanos wait = in_vain ? kRepeatRefused : vote_delay_.p99() << std::min(place.repeats, 6u);
    if (place.repeats == 1 && route_.size() > 1) {
      pull = true;
    } else {
      counters_[CoordinatorCounter::kProposalsRepeated].add();
      note_broken(now);
      send_proposal(i, place, true, now, effects);
    }
    place.repeat_at = now + std::min<Nanos>(wait, kSecond);
    schedule(place.repeat_at);
  }
  if (pull) pull_votes(now, effects);
}

/// Though a proposal was repeated in vain: a majority has accepted it, or says that it cannot. One
/// that is deaf hears neither.
bool Coordinator::stays(const Slot& place, Nanos now) {
  AcceptorSet heard = place.votes;
  for (std::uint32_t i = 0; i < configuration_.acceptors.size(); ++i) {
    const Nanos at = refused_at_[i];
    if (at != 0 && attention_.awake(now) - at < kRefusedFor) heard = heard | just(i);
  }
  if (size(heard) < configuration_.majority()) return false;
  const Nanos awake = attention_.awake(now);
  if (in_vain_since_ == 0) in_vain_since_ = awake;
  if (awake - in_vain_since_ < stay_) return true;
  stay_ = std::min(2 * stay_, kStayMax);
  return false;
}

void Coordinator::pull_votes(Nanos, Effects& effects) {
  const auto predecessor = route_.predecessor(self_);
  if (!predecessor) return;
  Outgoing& out = effects.send_now(configuration_.acceptors[*predecessor].endpoint,
                                   MessageType::kPull, sizeof(Pull));
  auto& m = *reinterpret_cast<Pull*>(out.message());
  auto* entry = reinterpret_cast<PullEntry*>(&m + 1);
  std::uint32_t count = 0;
  for (Instance i = decided_below_; i < next_ && count < kPullEntriesMax; ++i) {
    const Slot& place = slot(i);
    if (place.decided || place.repeats != 1) continue;
    entry[count++] = {raw(i), ~std::uint64_t{0}};
  }
  m = {static_cast<std::uint8_t>(PullKind::kVote), 0, static_cast<std::uint16_t>(count),
       raw(ballot_)};
  out.message_bytes = static_cast<std::uint16_t>(sizeof(Pull) + count * sizeof(PullEntry));
  counters_[CoordinatorCounter::kVotesPulled].add(count);
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::CoordinatorCounter::kCount)>
    CounterNames<consensus::CoordinatorCounter>::names = {"elections_started",
                                                          "elections_won",
                                                          "stepped_down",
                                                          "resigned",
                                                          "refused",
                                                          "proposals",
                                                          "decided",
                                                          "decided_by_spare",
                                                          "decisions_piggybacked",
                                                          "decisions_flushed",
                                                          "heartbeats",
                                                          "votes_pulled",
                                                          "proposals_repeated",
                                                          "rerouted",
                                                          "window_full",
                                                          "credit_blocked",
                                                          "learners_left",
                                                          "learners_back",
                                                          "learners_awaited",
                                                          "learners_gone",
                                                          "values_recovered",
                                                          "holes_filled",
                                                          "values_pulled",
                                                          "members_changed",
                                                          "phase1_unknown",
                                                          "drop_stale_vote",
                                                          "drop_mismatched_vote",
                                                          "drop_too_far_behind"};

}  // namespace annulus::dataplane
