#include "consensus/acceptor.h"

#include <algorithm>
#include <bit>

namespace annulus::consensus {

Acceptor::Acceptor(const Configuration& configuration, std::uint32_t self,
                   const AcceptorOptions& options, dataplane::BufferPool& assembly_pool)
    : configuration_(configuration),
      self_(self),
      options_(options),
      pool_(assembly_pool),
      slots_(options.retain),
      ring_delay_(kMillisecond, options.ring_late_floor, options.ring_late_ceiling) {
  CHECK(std::has_single_bit(options.retain) && options.retain >= kUndecidedMax);
}

// --- Phase 1

bool Acceptor::promise(Ballot ballot) {
  if (ballot < promised_) return false;
  promised_ = ballot;
  counters_[AcceptorCounter::kPromises].add();
  return true;
}

void Acceptor::on_phase1a(const Received& in, Effects& effects) {
  const auto& m = message<Phase1A>(in.frame);
  const Ballot ballot{m.ballot.get()};
  if (m.fingerprint != options_.fingerprint) {
    counters_[AcceptorCounter::kDropFingerprint].add();
    return;
  }
  if (!promise(ballot)) {
    counters_[AcceptorCounter::kDropStaleBallot].add();
    effects.send_now(in.from, MessageType::kReject, Reject{raw(promised_), m.ballot});
    return;
  }
  const Instance from = std::max(Instance{m.from.get()}, chosen_below_);
  std::uint32_t total = 0;
  for (Instance i = from; i < accepted_below_; ++i) total += accepted(i).ballot != kNoBallot;
  const std::uint32_t parts = std::max(1u, (total + kPhase1BEntriesMax - 1) / kPhase1BEntriesMax);
  Instance next = from;
  for (std::uint32_t part = 0; part < parts; ++part) {
    const std::uint32_t count = std::min(total - part * kPhase1BEntriesMax, kPhase1BEntriesMax);
    Outgoing& out = effects.send_after_persist(in.from, MessageType::kPhase1B,
                                               sizeof(Phase1B) + count * sizeof(Phase1BEntry));
    auto& reply = *reinterpret_cast<Phase1B*>(out.message());
    reply = {raw(ballot),
             raw(chosen_below_),
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

Acceptor::Slot* Acceptor::admit(Instance instance) {
  if (instance < trimmed_below_) {
    counters_[AcceptorCounter::kDropBehindLog].add();
    return nullptr;
  }
  Slot& place = slot(instance);
  if (place.instance == instance) return &place;
  if (instance >= chosen_below_ + kUndecidedMax) {
    counters_[AcceptorCounter::kDropBeyondLog].add();
    return nullptr;
  }
  // The slot holds an older instance, which leaves the log: legal only once it is chosen, because
  // an accepted value that may be decided must stay readable by Phase 1.
  if (place.instance != Instance{} && place.instance >= chosen_below_) {
    counters_[AcceptorCounter::kDropBeyondLog].add();
    return nullptr;
  }
  if (place.instance != Instance{}) trimmed_below_ = std::max(trimmed_below_, place.instance + 1);
  place = Slot{};
  place.instance = instance;
  seen_below_ = std::max(seen_below_, instance + 1);
  return &place;
}

Acceptor::Accepted Acceptor::accepted(Instance instance) const {
  const Slot& place = slot(instance);
  if (place.instance != instance || place.ballot == kNoBallot) return {};
  return {place.ballot, &place.held.value(), &place.held.bytes(), place.chosen};
}

void Acceptor::on_phase2a(const Received& in, Nanos now, Effects& effects) {
  const auto& m = message<Phase2A>(in.frame);
  const Ballot ballot{m.ballot.get()};
  if (ballot < promised_) {
    counters_[AcceptorCounter::kDropStaleBallot].add();
    effects.send_now(in.from, MessageType::kReject, Reject{raw(promised_), m.ballot});
    return;
  }
  promised_ = ballot;
  Slot* place = admit(Instance{m.instance.get()});
  const Route route(m.route);
  if (place != nullptr) {
    if (place->ballot == ballot) {
      // Repeated by a coordinator that lacks a vote: give it again.
      counters_[AcceptorCounter::kPhase2ADuplicate].add();
      if (!place->chosen && m.fragment.index == 0) {
        if (route.first(self_)) vote(*place, just(self_), *route.successor(self_), effects);
        if (!route.contains(self_)) vote(*place, just(self_), route.coordinator(), effects);
      }
    } else {
      take_fragment(*place, ballot, from_wire(m.value), from_wire(m.fragment), in, route, now,
                    effects);
    }
  }
  on_decided(from_wire(m.decided), now);
}

bool Acceptor::take_fragment(Slot& place, Ballot ballot, const Value& value,
                             const Fragment& fragment, const Received& in, const Route& route,
                             Nanos now, Effects& effects) {
  if (place.incoming_ballot != ballot) {
    place.incoming_ballot = ballot;
    place.incoming.start(value);
    place.pull_at = 0;
  }
  if (place.ballot != kNoBallot && place.held.value() == value && !place.incoming.partial()) {
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
        return false;
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
  place.chosen = false;
  place.route = route;
  place.pull_at = 0;
  promised_ = std::max(promised_, ballot);
  accepted_now(place, route, now, effects);
  return true;
}

void Acceptor::accepted_now(Slot& place, const Route& route, Nanos now, Effects& effects) {
  counters_[AcceptorCounter::kPhase2AAccepted].add();
  place.accepted_at = now;
  accepted_below_ = std::max(accepted_below_, place.instance + 1);
  if (place.ballot < promised_) return;  // a decided value, kept but not voted for
  if (route.first(self_) && route.size() > 1) {
    counters_[AcceptorCounter::kVotesStarted].add();
    vote(place, just(self_), *route.successor(self_), effects);
  } else if (place.parked_ballot == place.ballot && raw(place.parked) != 0) {
    const auto successor = route.successor(self_);
    counters_[AcceptorCounter::kParkedReleased].add();
    if (successor) vote(place, place.parked | just(self_), *successor, effects);
  } else if (!route.contains(self_)) {
    schedule(now + ring_delay_.p99());
  }
  place.parked = {};
  place.parked_ballot = kNoBallot;
}

bool Acceptor::accept(Instance instance, Ballot ballot, const Value& value, const Slice& bytes,
                      const Route& route, Nanos now) {
  if (ballot < promised_) return false;
  promised_ = ballot;
  Slot* place = admit(instance);
  if (place == nullptr) return false;
  place->held.set(value, bytes);
  place->ballot = ballot;
  place->chosen = false;
  place->route = route;
  place->accepted_at = now;
  place->pull_at = 0;
  place->incoming.reset();
  place->incoming_ballot = kNoBallot;
  place->parked = {};
  accepted_below_ = std::max(accepted_below_, instance + 1);
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
  for (const Phase2BEntry& entry : entries<Phase2BEntry>(m, m.count)) {
    Slot* place = admit(Instance{entry.instance.get()});
    if (place == nullptr) continue;
    const AcceptorSet votes{entry.acceptors.get()};
    if (place->ballot == ballot) {
      // Forward only what is held itself, and only for the very same value.
      if (place->held.value().id != from_wire(entry.value) ||
          place->held.value().content_hash != entry.content_hash) {
        counters_[AcceptorCounter::kDropMismatch].add();
        continue;
      }
      const auto successor = place->route.successor(self_);
      if (!successor) continue;
      counters_[AcceptorCounter::kVotesForwarded].add();
      vote(*place, votes | just(self_), *successor, effects);
    } else {
      counters_[AcceptorCounter::kVotesParked].add();
      place->parked = place->parked_ballot == ballot ? place->parked | votes : votes;
      place->parked_ballot = ballot;
      if (place->pull_at == 0) place->pull_at = now + kPullFirst;
      schedule(place->pull_at);
    }
  }
  const auto* credit =
      reinterpret_cast<const LearnerCredit*>(entries<Phase2BEntry>(m, m.count).data() + m.count);
  for (std::uint32_t i = 0; i < m.credits; ++i) {
    if (credit[i].learner < kLearnersMax) {
      on_learner_status(credit[i].learner, Instance{credit[i].delivered_below.get()});
    }
  }
}

// --- Votes, gathered over a burst

void Acceptor::vote(const Slot& place, AcceptorSet votes, std::uint32_t to, Effects& effects) {
  if (to == self_) return;
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
      std::count_if(credits_.begin(), credits_.end(), [](const Credit& c) { return c.known; }));
}

void Acceptor::append_credits(void* at) const {
  auto* credit = static_cast<LearnerCredit*>(at);
  for (std::uint32_t i = 0; i < kLearnersMax; ++i) {
    if (credits_[i].known) *credit++ = {i, raw(credits_[i].delivered_below)};
  }
}

void Acceptor::flush_votes(Effects& effects) {
  if (votes_count_ == 0) return;
  const std::uint32_t credits = known_credits();
  Outgoing& out = effects.send_after_persist(
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
  if (!credits_changed_ || promised_ == kNoBallot) return;
  credits_changed_ = false;
  const auto coordinator = configuration_.acceptor_index(coordinator_of(promised_));
  if (!coordinator || *coordinator == self_) return;
  const std::uint32_t credits = known_credits();
  Outgoing& out =
      effects.send_now(configuration_.acceptors[*coordinator].endpoint, MessageType::kPhase2B,
                       sizeof(Phase2B) + credits * sizeof(LearnerCredit));
  auto& m = *reinterpret_cast<Phase2B*>(out.message());
  m = {raw(promised_), std::uint16_t{0}, static_cast<std::uint16_t>(credits)};
  append_credits(&m + 1);
}

void Acceptor::on_learner_status(std::uint32_t learner, Instance delivered_below) {
  Credit& credit = credits_[learner];
  if (credit.known && delivered_below <= credit.delivered_below) return;
  credit = {true, delivered_below};
  credits_changed_ = true;
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
    if (place.instance != i || place.ballot != decided.ballot || place.chosen) continue;
    place.chosen = true;
    ring_delay_.record(now - place.accepted_at);
  }
  advance_chosen(now);
}

void Acceptor::advance_chosen(Nanos now) {
  while (chosen_below_ < accepted_below_) {
    Slot& place = slot(chosen_below_);
    if (place.instance != chosen_below_ || place.ballot == kNoBallot) break;
    if (!place.chosen) {
      // Accepted after the decision was heard: the watermark covers it.
      if (place.ballot != decided_.ballot || place.instance < decided_.from ||
          place.instance >= decided_.below) {
        break;
      }
      place.chosen = true;
    }
    ++chosen_below_;
  }
  if (chosen_below_ < decided_.below) schedule(now + kPullAgain);
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::AcceptorCounter::kCount)>
    CounterNames<consensus::AcceptorCounter>::names = {
        "phase2a_accepted", "phase2a_duplicate", "votes_started",      "votes_forwarded",
        "votes_parked",     "parked_released",   "spare_votes",        "vote_resent",
        "values_pulled",    "fragments_pulled",  "pulled_values_sent", "decisions_sent",
        "trimmed_answers",  "drop_stale_ballot", "drop_behind_log",    "drop_beyond_log",
        "drop_no_memory",   "drop_bad_content",  "drop_mismatch",      "drop_unknown_peer",
        "drop_fingerprint", "promises"};

}  // namespace annulus::dataplane
