#include "consensus/acceptor.h"

#include <algorithm>
#include <bit>

#include "consensus/membership.h"
#include "dataplane/defect.h"
#include "dataplane/hash.h"

namespace annulus::consensus {

Acceptor::Acceptor(const Configuration& configuration, std::uint32_t self,
                   const AcceptorOptions& options, dataplane::BufferPool& assembly_pool)
    : configuration_(configuration),
      self_(self),
      options_(options),
      pool_(assembly_pool),
      slots_(options.retain),
      ring_delay_(kMillisecond, options.ring_late_floor, options.ring_late_ceiling),
      waiting_(options.durable ? options.retain : 0) {
  CHECK(std::has_single_bit(options.retain) && options.retain >= kUndecidedMax);
  CHECK(options.retain_bytes >= 2 * options.undecided_bytes);
}

// --- Phase 1

void Acceptor::raise_promise(Ballot ballot, Effects& effects) {
  if (ballot < promised_) return;
  promised_here_ = true;
  if (ballot == promised_) return;
  flush_votes(effects);  // cast before, and told of by the promise: they must not seem to follow it
  promised_ = ballot;
  if (!options_.durable || DEFECT(kPromiseNotKept)) return;
  promise_number_ = ++number_;
  // Whoever has taken part must not come back as one that may not, yet.
  const Instance chosen_below = settled() ? configuration_.from : kFirstInstance;
  effects.keep({.number = number_, .ballot = ballot, .chosen_below = chosen_below});
}

bool Acceptor::promise(Ballot ballot, Effects& effects) {
  if (ballot < promised_) return false;
  raise_promise(ballot, effects);
  counters_[AcceptorCounter::kPromises].add();
  return true;
}

void Acceptor::on_phase1a(const Received& in, Effects& effects) {
  const auto& m = message<Phase1A>(in.frame);
  const Ballot ballot{m.ballot.get()};
  const bool same = m.fingerprint == fingerprint(configuration_, options_.fingerprint);
  if (!same && !DEFECT(kOtherEpochVotes)) {
    counters_[AcceptorCounter::kDropFingerprint].add();
    return;
  }
  if (!promise(ballot, effects)) {
    counters_[AcceptorCounter::kDropStaleBallot].add();
    effects.send_now(in.from, MessageType::kReject, Reject{raw(promised_), m.ballot});
    return;
  }
  credits_changed_ = true;  // it may never have heard of a learner that fell silent
  answer_ = {in.from, ballot, Instance{m.from.get()}};
  if (promise_durable()) answer_phase1a(effects);
}

void Acceptor::answer_phase1a(Effects& effects) {
  const Answer asked = std::exchange(answer_, {});
  if (asked.ballot != promised_) return;  // overtaken: whoever asked will hear so when it repeats
  // Reported is also what is known chosen, while memory has it and the answer has room for it.
  const std::uint64_t room = std::min<std::uint64_t>(kUndecidedMax, raw(accepted_below_));
  const Instance below =
      std::min(chosen_below_, std::max({asked.from, held_from_, accepted_below_ - room}));
  send_phase1b(asked.to, asked.ballot, below, std::max(asked.from, below), effects);
}

void Acceptor::send_phase1b(const Endpoint& to, Ballot ballot, Instance chosen_below, Instance from,
                            Effects& effects) {
  std::uint32_t total = 0;
  const InstanceRange lost = DEFECT(kDamageDenied) ? InstanceRange{} : unknown();
  std::uint64_t answer = raw(chosen_below) ^ raw(lost.below);
  for (Instance i = from; i < accepted_below_; ++i) {
    const Accepted held = accepted(i);
    if (held.ballot == kNoBallot) continue;
    const Phase1BEntry entry{raw(i), raw(held.ballot), to_wire(*held.value)};
    answer = dataplane::hash_bytes(std::as_bytes(std::span(&entry, 1)), answer);
    ++total;
  }
  if (DEFECT(kPhase1ForgetsAccepted)) total = 0;
  const std::uint32_t parts = std::max(1u, (total + kPhase1BEntriesMax - 1) / kPhase1BEntriesMax);
  Instance next = from;
  for (std::uint32_t part = 0; part < parts; ++part) {
    const std::uint32_t count = std::min(total - part * kPhase1BEntriesMax, kPhase1BEntriesMax);
    Outgoing& out =
        effects.send_now(to, MessageType::kPhase1B, sizeof(Phase1B) + count * sizeof(Phase1BEntry));
    auto& reply = *reinterpret_cast<Phase1B*>(out.message());
    reply = {raw(ballot),
             answer,
             raw(chosen_below),
             raw(lost.from),
             raw(lost.below),
             to_wire(decided_),
             static_cast<std::uint16_t>(part),
             static_cast<std::uint16_t>(parts),
             static_cast<std::uint16_t>(count)};
    auto* entry = reinterpret_cast<Phase1BEntry*>(&reply + 1);
    for (std::uint32_t n = 0; n < count; ++next) {
      const Accepted held = accepted(next);
      if (held.ballot == kNoBallot) continue;
      entry[n++] = {raw(next), raw(held.ballot), to_wire(*held.value)};
    }
  }
}

// --- Phase 2

void Acceptor::on_phase2a(const Received& in, Nanos now, Effects& effects) {
  const auto& m = message<Phase2A>(in.frame);
  const Ballot ballot{m.ballot.get()};
  if (ballot < promised_ && !DEFECT(kAcceptorForgetsPromise)) {
    counters_[AcceptorCounter::kDropStaleBallot].add();
    effects.send_now(in.from, MessageType::kReject, Reject{raw(promised_), m.ballot});
    return;
  }
  const Route route(m.route);
  if (!route.fits(configuration_)) {
    counters_[AcceptorCounter::kDropMismatch].add();
    return;
  }
  raise_promise(ballot, effects);
  const Value value = from_wire(m.value);
  const Instance instance{m.instance.get()};
  const bool gap = instance > seen_below_;
  Slot* place = admit(instance);
  if (place != nullptr && gap) schedule(now + kPullFirst);
  if (place != nullptr) {
    if (place->chosen && place->ballot > ballot) {
      counters_[AcceptorCounter::kPhase2ADuplicate].add();  // decided, and held at a later ballot
    } else if (place->ballot == ballot) {
      counters_[AcceptorCounter::kPhase2ADuplicate].add();
      if (m.fragment.index == 0 && vote_durable(*place)) {
        vote(*place, just(self_), route.coordinator(), effects);
      }
    } else {
      take_fragment(*place, ballot, value, from_wire(m.fragment), in, route, now, effects);
    }
  }
  const bool accepted = place != nullptr && place->ballot == ballot;
  if (!accepted && !log_has_room(value)) refuse(ballot, route, now, effects);
  on_decided(from_wire(m.decided), now);
}

bool Acceptor::take_fragment(Slot& place, Ballot ballot, const Value& value,
                             const Fragment& fragment, const Received& in, const Route& route,
                             Nanos now, Effects& effects) {
  const bool held = place.ballot != kNoBallot && place.held.value() == value;
  if (place.chosen && !held) {
    counters_[AcceptorCounter::kDropMismatch].add();
    return false;
  }
  if (!log_takes(value)) return false;
  fragments_usual_ = std::max<std::uint32_t>(fragment.count, 1);
  if (place.incoming_ballot != ballot) {
    place.incoming_ballot = ballot;
    // The same value under another ballot: the fragments that are here stay good.
    if (!place.incoming.started() ||
        (place.incoming.value() != value && !DEFECT(kFragmentOfAnyValue))) {
      place.incoming.start(value);
      place.pull_at = 0;
    }
  }
  if (held) {
    // The same value again under a higher ballot: its bytes are here already.
    place.incoming.set(value, place.held.bytes());
  } else {
    switch (place.incoming.add(value, fragment, in.frame.payload, in.frame.header->payload_hash,
                               pool_)) {
      case AssemblyOutcome::kComplete:
        break;
      case AssemblyOutcome::kPartial:
        place.route = route;
        if (place.pull_at == 0) place.pull_at = now + kPullFirst;
        schedule(place.pull_at);
        if (!DEFECT(kAcceptorVotesWithoutValue)) return false;
        break;
      case AssemblyOutcome::kDuplicate:
        return false;
      case AssemblyOutcome::kMismatch:
        counters_[AcceptorCounter::kDropMismatch].add();
        return false;
      case AssemblyOutcome::kNoMemory:
        counters_[AcceptorCounter::kDropNoMemory].add();
        return false;
      case AssemblyOutcome::kBadContent:
        counters_[AcceptorCounter::kDropBadContent].add();
        return false;
    }
  }
  place.held = std::move(place.incoming);
  place.incoming.reset();
  place.incoming_ballot = kNoBallot;
  place.ballot = ballot;
  place.route = route;
  place.pull_at = 0;
  accepted_now(place, now, effects);
  return true;
}

void Acceptor::accepted_now(Slot& place, Nanos now, Effects& effects) {
  counters_[AcceptorCounter::kPhase2AAccepted].add();
  place.accepted_at = now;
  place.voted_at = 0;
  accepted_below_ = std::max(accepted_below_, place.instance + 1);
  keep(place, effects);
  if (covered(place)) place.chosen = true;
  if (place.chosen) advance_chosen(now);
  if (vote_durable(place) || DEFECT(kVoteBeforeWrite)) vote_accepted(place, effects);
}

/// The vote for what is held, and durable.
void Acceptor::vote_accepted(Slot& place, Effects& effects) {
  if (place.ballot != promised_) return;  // a decided value, kept but not voted for
  const Route& route = place.route;
  if (route.size() == 0) return;
  const auto successor = route.successor(self_);
  if (route.first(self_) && successor) {
    counters_[AcceptorCounter::kVotesStarted].add();
    vote(place, just(self_), *successor, effects);
  } else if (place.votes_match() && successor) {
    counters_[AcceptorCounter::kParkedReleased].add();
    vote(place, place.votes | just(self_), *successor, effects);
  } else if (!route.contains(self_)) {
    // Passed on from node to node, a proposal is known to come round only if all it reaches say so.
    if (configuration_.dissemination == Dissemination::kRing) {
      vote(place, just(self_), route.coordinator(), effects);
    }
    schedule(place.accepted_at + ring_delay_.p99());
  }
}

bool Acceptor::accept(Instance instance, Ballot ballot, const Value& value, const Slice& bytes,
                      const Route& route, Nanos now, Effects& effects) {
  if (ballot < promised_ || !log_takes(value)) return false;
  raise_promise(ballot, effects);
  Slot* place = admit(instance);
  if (place == nullptr) return false;
  if (place->chosen && place->held.value() != value) {
    counters_[AcceptorCounter::kDropMismatch].add();
    return false;
  }
  if (place->chosen && place->ballot > ballot) return true;
  place->held.set(value, bytes);
  place->ballot = ballot;
  place->route = route;
  place->accepted_at = now;
  place->pull_at = 0;
  place->incoming.reset();
  place->incoming_ballot = kNoBallot;
  accepted_below_ = std::max(accepted_below_, instance + 1);
  keep(*place, effects);
  counters_[AcceptorCounter::kPhase2AAccepted].add();
  return true;
}

void Acceptor::on_phase2b(const Received& in, Nanos now, Effects& effects) {
  const auto& m = message<Phase2B>(in.frame);
  const Ballot ballot{m.ballot.get()};
  if (ballot < promised_) {
    counters_[AcceptorCounter::kDropStaleBallot].add();
    return;
  }
  const auto sender = configuration_.acceptor_index(NodeId{in.frame.header->sender.get()});
  if (!sender) {
    counters_[AcceptorCounter::kDropUnknownPeer].add();
    return;
  }
  promised_here_ |= ballot == promised_ && m.count > 0;
  for (const Phase2BEntry& entry : entries<Phase2BEntry>(m, m.count)) {
    take_votes(entry, ballot, *sender, now, effects);
  }
  const auto* credit =
      reinterpret_cast<const LearnerCredit*>(entries<Phase2BEntry>(m, m.count).data() + m.count);
  for (std::uint32_t i = 0; i < m.credits; ++i) {
    if (credit[i].learner >= kLearnersMax) continue;
    const Instance below{credit[i].delivered_below.get()};
    credits_changed_ |= learners_[credit[i].learner].pass_on(credit[i].epoch, below, now);
  }
}

void Acceptor::take_votes(const Phase2BEntry& entry, Ballot ballot, std::uint32_t sender, Nanos now,
                          Effects& effects) {
  Slot* place = admit(Instance{entry.instance.get()});
  if (place == nullptr || ballot < place->votes_ballot) return;
  const ValueId id = from_wire(entry.value);
  const bool held = place->ballot == ballot;
  const bool same = place->votes_ballot == ballot && place->votes_id == id &&
                    place->votes_hash == entry.content_hash;
  // Forward only what is held itself, and only for the very same value.
  if (held ? place->held.value().id != id || place->held.value().content_hash != entry.content_hash
           : place->votes_ballot == ballot && !same) {
    counters_[AcceptorCounter::kDropMismatch].add();
    return;
  }
  const AcceptorSet votes{entry.acceptors.get()};
  place->votes = same ? place->votes | votes : votes;
  place->votes_ballot = ballot;
  place->votes_id = id;
  place->votes_hash = entry.content_hash;
  place->votes_from = sender;
  if (!held) {
    counters_[AcceptorCounter::kVotesParked].add();
    if (place->pull_at == 0) place->pull_at = now + kPullFirst;
    schedule(place->pull_at);
  } else if (place->ballot != promised_) {
    return;  // a decided value, kept but not voted for
  } else if (!vote_durable(*place) && !DEFECT(kVoteBeforeWrite)) {
    return;  // on_durable() forwards them
  } else if (const auto successor = place->route.successor(self_)) {
    counters_[AcceptorCounter::kVotesForwarded].add();
    vote(*place, place->votes | just(self_), *successor, effects);
  }
}

// --- Votes, gathered over a burst

void Acceptor::vote(const Slot& place, AcceptorSet votes, std::uint32_t to, Effects& effects) {
  // What an earlier configuration governs is decided. One that is not settled (again) is given
  // values that are: at the ballot it promised, too.
  if (to == self_ || place.instance < configuration_.from) return;
  if (!settled() && !DEFECT(kUnsettledVotes)) return;
  if (!promised_here_) return;  // accepted among earlier members, and not proposed among these
  if (votes_count_ == kPhase2BEntriesMax || votes_to_ != to || votes_ballot_ != place.ballot) {
    flush_votes(effects);
    votes_to_ = to;
    votes_ballot_ = place.ballot;
  }
  votes_[votes_count_++] = {raw(place.instance), to_wire(place.held.value().id),
                            place.held.value().content_hash, raw(votes)};
}

std::uint32_t Acceptor::known_credits() const {
  return static_cast<std::uint32_t>(
      std::ranges::count_if(learners_, [](const LearnerPlace& place) { return place.known(); }));
}

void Acceptor::append_credits(void* at) const {
  auto* credit = static_cast<LearnerCredit*>(at);
  for (std::uint32_t i = 0; i < kLearnersMax; ++i) {
    const LearnerPlace& place = learners_[i];
    if (place.known()) *credit++ = {i, place.epoch(), raw(place.below())};
  }
}

void Acceptor::flush_votes(Effects& effects) {
  if (votes_count_ == 0) return;
  const std::uint32_t credits = known_credits();
  Outgoing& out = effects.send_now(
      configuration_.acceptors[votes_to_].endpoint, MessageType::kPhase2B,
      sizeof(Phase2B) + votes_count_ * sizeof(Phase2BEntry) + credits * sizeof(LearnerCredit));
  auto& m = *reinterpret_cast<Phase2B*>(out.message());
  m = {raw(votes_ballot_), static_cast<std::uint16_t>(votes_count_),
       static_cast<std::uint16_t>(credits)};
  auto* entry = reinterpret_cast<Phase2BEntry*>(&m + 1);
  std::copy_n(votes_.begin(), votes_count_, entry);
  append_credits(entry + votes_count_);
  votes_count_ = 0;
  credits_changed_ = false;
}

void Acceptor::flush(Effects& effects) {
  flush_votes(effects);
  // Credits travel with votes; but a coordinator that waits for credit proposes nothing to vote on.
  if (!credits_changed_ || promised_ == kNoBallot || !promise_durable()) return;
  credits_changed_ = false;
  const auto coordinator = configuration_.acceptor_index(coordinator_of(promised_));
  const std::uint32_t credits = known_credits();
  if (!coordinator || *coordinator == self_ || credits == 0) return;
  Outgoing& out =
      effects.send_now(configuration_.acceptors[*coordinator].endpoint, MessageType::kPhase2B,
                       sizeof(Phase2B) + credits * sizeof(LearnerCredit));
  auto& m = *reinterpret_cast<Phase2B*>(out.message());
  m = {raw(promised_), std::uint16_t{0}, static_cast<std::uint16_t>(credits)};
  append_credits(&m + 1);
}

void Acceptor::on_learner_status(std::uint32_t learner, std::uint64_t epoch,
                                 Instance delivered_below, Nanos now) {
  LearnerPlace& place = learners_[learner];
  // A learner that repeats itself may be waited for: what was passed on may have been lost.
  credits_changed_ |= place.tell(epoch, delivered_below, now) || place.below() == delivered_below;
}

// --- Decisions

void Acceptor::on_decided(const Decided& decided, Nanos now) {
  if (decided.ballot < decided_.ballot ||
      (decided.ballot == decided_.ballot && decided.below <= decided_.below)) {
    return;
  }
  const bool same = decided.ballot == decided_.ballot;
  const Instance from = same ? std::max(decided_.below, decided.from) : decided.from;
  decided_ = decided;
  for (Instance i = std::max(from, chosen_below_); i < decided.below && i < accepted_below_; ++i) {
    Slot& place = slot(i);
    if (place.instance != i || place.chosen) continue;
    if (place.ballot != decided.ballot && !DEFECT(kDecisionAcrossBallots)) continue;
    place.chosen = true;
    if (place.voted_at == 0) ring_delay_.record(now - place.accepted_at);
    if (place.voted_at != 0) ring_delay_.record_late();
  }
  advance_chosen(now);
}

/// True if the decisions heard say that what the slot holds was chosen.
bool Acceptor::covered(const Slot& place) const {
  return place.ballot == decided_.ballot && place.instance >= decided_.from &&
         place.instance < decided_.below;
}

void Acceptor::advance_chosen(Nanos now) {
  const bool knew = chosen_below_ >= configuration_.from;
  while (chosen_below_ < accepted_below_) {
    Slot& place = slot(chosen_below_);
    if (place.instance != chosen_below_ || place.ballot == kNoBallot) break;
    if (!place.chosen || place.configuration(configuration_) != nullptr) break;
    place.bytes_through = chosen_bytes_ += kept_bytes(place.held.value());
    ++chosen_below_;
  }
  shed();
  if (!knew && chosen_below_ >= configuration_.from) settled_at_ = number_;
  if (chosen_below_ < known_decided()) schedule(now + kPullAgain);
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::AcceptorCounter::kCount)>
    CounterNames<consensus::AcceptorCounter>::names = {"phase2a_accepted",   "phase2a_duplicate",
                                                       "votes_started",      "votes_forwarded",
                                                       "votes_parked",       "parked_released",
                                                       "spare_votes",        "vote_resent",
                                                       "values_pulled",      "fragments_pulled",
                                                       "pulled_values_sent", "decisions_sent",
                                                       "trimmed_answers",    "shed",
                                                       "drop_stale_ballot",  "drop_behind_log",
                                                       "drop_beyond_log",    "drop_no_memory",
                                                       "drop_bad_content",   "drop_mismatch",
                                                       "drop_unknown_peer",  "drop_fingerprint",
                                                       "promises",           "votes_after_write",
                                                       "values_from_log",    "values_mended",
                                                       "drop_log_busy",      "drop_log_full"};

}  // namespace annulus::dataplane
