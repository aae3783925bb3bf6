// How an acceptor mends losses, its own and those of others: values, votes and decisions asked for
// and sent again, and the votes of a spare when the ring is late.
#include <algorithm>
#include <bit>

#include "consensus/acceptor.h"

namespace annulus::consensus {

// A value is sent without waiting for the log: it stands for the proposal it came with, or for what
// others decided, and for no vote of this acceptor.
void Acceptor::send_value(const Endpoint& to, const Told& told, const Value& value,
                          const Slice& bytes, std::uint64_t fragments, Effects& effects) {
  const std::uint32_t count = cut(value.bytes, options_.fragment_bytes, 0).count;
  for (std::uint32_t i = 0; i < count; ++i) {
    if ((fragments >> i & 1) == 0) continue;
    const Fragment fragment = cut(value.bytes, options_.fragment_bytes, i);
    ValueMessage m{};
    m.instance = raw(told.instance);
    m.ballot = raw(told.ballot);
    m.value = to_wire(value);
    m.fragment = to_wire(fragment);
    m.decided = to_wire(decided_);
    m.chosen = told.chosen ? 1 : 0;
    Outgoing& out = effects.send_now(to, MessageType::kValue, m);
    if (value.bytes != 0) {
      const std::uint32_t offset = fragment.offset();
      out.payload = bytes.part(offset, std::min(fragment.bytes, value.bytes - offset));
      if (count == 1) out.payload_hash = value.content_hash;
    }
    counters_[AcceptorCounter::kPulledValuesSent].add();
  }
}

void Acceptor::on_pull(const Received& in, Effects& effects) {
  const auto& m = message<Pull>(in.frame);
  const auto kind = static_cast<PullKind>(m.kind);
  if (kind == PullKind::kDecision) {
    counters_[AcceptorCounter::kDecisionsSent].add();
    effects.send_now(in.from, MessageType::kDecision, Decision{to_wire(decided_), 0u});
    return;
  }
  bool told_trimmed = false;
  for (const PullEntry& entry : entries<PullEntry>(m, m.count)) {
    if (effects.room() < kFragmentsMax + 2) break;  // the rest will be asked for again
    const Instance instance{entry.instance.get()};
    if (instance < trimmed_below_) {
      if (!told_trimmed) {
        counters_[AcceptorCounter::kTrimmedAnswers].add();
        effects.send_now(in.from, MessageType::kTrimmed, Trimmed{raw(trimmed_below_)});
      }
      told_trimmed = true;
      continue;
    }
    if (kind == PullKind::kVote) {
      resend_vote(in, instance, Ballot{m.ballot.get()}, effects);
      continue;
    }
    const Slot& place = slot(instance);
    if (place.instance == instance && place.ballot != kNoBallot) {
      send_value(in.from, {place.instance, place.ballot, place.chosen}, place.held.value(),
                 place.held.bytes(), entry.fragments, effects);
    } else if (options_.durable && instance < held_from_) {
      effects.read({instance, entry.fragments, in.from});
    }
  }
}

void Acceptor::resend_vote(const Received& in, Instance instance, Ballot ballot, Effects& effects) {
  const auto asker = configuration_.acceptor_index(NodeId{in.frame.header->sender.get()});
  if (!asker) {
    counters_[AcceptorCounter::kDropUnknownPeer].add();
    return;
  }
  const Slot& place = slot(instance);
  if (place.instance != instance || place.ballot != ballot || ballot != promised_) return;
  promised_here_ |= in.frame.header->config_epoch == configuration_.epoch;
  if (!vote_durable(place)) return;
  counters_[AcceptorCounter::kVoteResent].add();
  vote(place, place.votes_match() ? place.votes | just(self_) : just(self_), *asker, effects);
}

void Acceptor::on_value(const Received& in, Nanos now, Effects& effects) {
  const auto& m = message<ValueMessage>(in.frame);
  const Ballot ballot{m.ballot.get()};
  if (mend(Instance{m.instance.get()}, in, effects)) return;
  Slot* place = admit(Instance{m.instance.get()});
  if (place == nullptr) return;
  const Value value = from_wire(m.value);
  const bool chosen = m.chosen == 1;
  // (Whoever sends it may have accepted it among earlier members: the ballot must be of these.)
  const bool of_these = ballot == promised_ ? promised_here_ : place->votes_ballot == ballot;
  const bool votes = !chosen && ballot >= promised_ && of_these && takes_part_with(in);
  if (place->ballot >= ballot) {
    // At a higher ballot only the decided value can have been proposed again.
    if (chosen && place->held.value() == value) place->chosen = true;
  } else if (!place->chosen && (votes || chosen)) {
    // A pulled value stands for the Phase2A that was lost. One known to be decided may be stored
    // whatever was promised, and by whom: no other value can be chosen there any more. It binds
    // nobody: whoever sends it may have it from members of a later configuration.
    if (votes) raise_promise(ballot, effects);
    const Route route = place->incoming_ballot == ballot ? place->route : default_route(ballot);
    take_fragment(*place, ballot, value, from_wire(m.fragment), in, route, now, effects);
    if (place->ballot == ballot && chosen) place->chosen = true;
    if (place->ballot == ballot) schedule(now);  // there is room to ask for more
  }
  on_decided(from_wire(m.decided), now);
  advance_chosen(now);
}

void Acceptor::on_trimmed(const Trimmed& trimmed, Nanos now) {
  // Decided and gone everywhere it was asked for: nothing here can matter any more.
  const Instance below{trimmed.trimmed_below.get()};
  for (; held_from_ < std::min(below, seen_below_); ++held_from_) {
    Slot& place = slot(held_from_);
    if (place.instance != held_from_) continue;
    let_go_bytes_ = std::max(let_go_bytes_, place.bytes_through);
    place = Slot{};
  }
  if (chosen_below_ <= below) let_go_bytes_ = chosen_bytes_;
  trimmed_below_ = std::max(trimmed_below_, below);
  held_from_ = std::max(held_from_, trimmed_below_);
  chosen_below_ = std::max(chosen_below_, trimmed_below_);
  accepted_below_ = std::max(accepted_below_, trimmed_below_);
  seen_below_ = std::max(seen_below_, trimmed_below_);
  advance_chosen(now);
}

Route Acceptor::default_route(Ballot ballot) const {
  const auto coordinator = configuration_.acceptor_index(coordinator_of(ballot));
  return coordinator ? Route(configuration_, *coordinator) : Route{};
}

void Acceptor::pull_missing(Slot& place, const Endpoint& from, Nanos now, Effects& effects) {
  // Once decided under another ballot, others may hold another value: its every fragment is wanted.
  const bool partial = place.incoming.partial() && (place.instance >= known_decided() ||
                                                    place.incoming_ballot == decided_.ballot);
  counters_[partial ? AcceptorCounter::kFragmentsPulled : AcceptorCounter::kValuesPulled].add();
  Outgoing& out = effects.send_now(from, MessageType::kPull, sizeof(Pull) + sizeof(PullEntry));
  auto& m = *reinterpret_cast<Pull*>(out.message());
  m = {static_cast<std::uint8_t>(PullKind::kValue), 0, std::uint16_t{1}, raw(promised_)};
  *reinterpret_cast<PullEntry*>(&m + 1) = {raw(place.instance),
                                           partial ? place.incoming.missing() : ~std::uint64_t{0}};
  place.pull_at = now + (kPullAgain << std::min(place.pulls++, 5u));
}

/// First who must hold the value: who sent its votes, else who proposed it. Then the others in
/// turn, for these may be gone; also those who were not members yet when it was decided.
Endpoint Acceptor::whom_to_ask(const Slot& place) const {
  const auto& members = configuration_.acceptors;
  if (place.pulls % 2 == 0) {
    if (place.parked()) return members[place.votes_from].endpoint;
    const Ballot proposed = std::max(place.incoming_ballot, promised_);
    const auto coordinator = configuration_.acceptor_index(coordinator_of(proposed));
    if (coordinator && *coordinator != self_) return members[*coordinator].endpoint;
  }
  const std::uint32_t turn = place.pulls / 2;
  if (newer_ != nullptr && turn % 2 == 0) {
    const Member& newer = newer_->acceptors[turn / 2 % newer_->acceptors.size()];
    if (newer.id != members[self_].id) return newer.endpoint;
  }
  const auto count = static_cast<std::uint32_t>(members.size());
  return members[(self_ + 1 + turn % (count - 1)) % count].endpoint;
}

void Acceptor::tick(Nanos now, Effects& effects) {
  if (now < deadline_) return;
  deadline_ = kNever;
  asked_ = 0;
  mend_missing(now, effects);
  const Instance end =
      std::min(std::max(seen_below_, known_decided()), chosen_below_ + kUndecidedMax);
  for (Instance i = chosen_below_; i < end; ++i) {
    if (effects.room() < Effects::kPerStepMax) {
      schedule(now);
      break;
    }
    // Never heard of, yet later ones are: nobody will send it again by itself.
    Slot* place = slot(i).instance == i ? &slot(i) : admit(i);
    if (place == nullptr) {
      schedule(now + kPullAgain);  // its place is taken by what is not durable yet
      continue;
    }
    repair(*place, i, now, effects);
    vote_if_late(*place, now, effects);
  }
  flush_votes(effects);
}

/// Asks for what the slot lacks, if anything.
void Acceptor::repair(Slot& place, Instance instance, Nanos now, Effects& effects) {
  if (place.chosen || configuration_.acceptors.size() == 1) return;
  const bool decided = instance < known_decided();
  const bool missing =
      place.ballot == kNoBallot || place.incoming.partial() || (place.parked() && !decided);
  // Decided, perhaps at another ballot than that of the value held, and as another value.
  const bool doubtful = decided && !covered(place);
  if (!missing && !doubtful) return;
  if (place.pull_at == 0) place.pull_at = decided ? now : now + kPullFirst;
  // (What there is no room for is asked for when something has come in.)
  if ((place.pulls > 0 || place.pull_at <= now) && !may_ask(place)) return;
  if (place.pull_at <= now) pull_missing(place, whom_to_ask(place), now, effects);
  schedule(place.pull_at);
}

/// Whether the answers will fit with those on their way, counting these among them.
bool Acceptor::may_ask(const Slot& place) {
  const std::uint32_t wanted =
      place.incoming.partial() ? static_cast<std::uint32_t>(std::popcount(place.incoming.missing()))
                               : fragments_usual_;
  if (asked_ > 0 && asked_ + wanted > kAskedMax) return false;
  asked_ += wanted;
  return true;
}

void Acceptor::vote_if_late(Slot& place, Nanos now, Effects& effects) {
  if (place.chosen || place.ballot == kNoBallot || place.ballot != promised_) return;
  if (place.instance < configuration_.from) return;  // decided, under earlier members
  if (place.route.size() == 0 || place.route.contains(self_)) return;
  if (place.number > durable_) return;  // its vote will be cast, and awaited, from then on
  const Nanos late = ring_delay_.p99();
  if (!vote_durable(place)) return schedule(now + late);
  const Nanos due = std::max(place.accepted_at, place.voted_at) + late;
  if (due > now) {
    schedule(due);
    return;
  }
  place.voted_at = now;
  counters_[AcceptorCounter::kSpareVotes].add();
  vote(place, just(self_), place.route.coordinator(), effects);
  schedule(now + late);
}

}  // namespace annulus::consensus
