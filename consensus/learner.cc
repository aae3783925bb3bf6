#include "consensus/learner.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace annulus::consensus {
namespace {

/// Reordering is not loss: a gap this young is not asked for.
constexpr Nanos kPullFirst = 200 * kMicrosecond;
constexpr Nanos kPullAgain = 2 * kMillisecond;
/// The longest that anything is waited for, whatever delays were seen: a learner that misses one
/// decision moves no more, and everybody may come to wait for it.
constexpr Nanos kPullAgainMax = 50 * kMillisecond;
/// A learner without news says where it is this often, for coordinators that are new.
constexpr Nanos kStatusIdle = 50 * kMillisecond;
/// And this often while it has something to do, lest it be taken for dead, and for a while longer:
/// the others may wait to hear that it lives.
constexpr Nanos kStatusWaiting = 5 * kMillisecond;

}  // namespace

Learner::Learner(const Configuration& configuration, std::uint32_t self,
                 const LearnerOptions& options, dataplane::BufferPool& assembly_pool)
    : configuration_(configuration),
      self_(self),
      options_(options),
      pool_(assembly_pool),
      slots_(options.window),
      decision_delay_(kMillisecond, 50 * kMicrosecond, kPullAgainMax / 2),
      pull_delay_(kMillisecond, kPullAgain / 2, kPullAgainMax / 2) {
  CHECK(std::has_single_bit(options.window));
}

Learner::Slot* Learner::admit(Instance instance, Nanos now) {
  if (instance < next_) {
    counters_[LearnerCounter::kDuplicates].add();
    return nullptr;
  }
  if (instance >= next_ + slots_.size()) {
    counters_[LearnerCounter::kDropBeyondWindow].add();
    seen_below_ = std::max(seen_below_, instance + 1);
    return nullptr;
  }
  Slot& place = slot(instance);
  if (place.instance != instance) {
    place = Slot{};
    place.instance = instance;
    place.first_seen = now;
  }
  seen_below_ = std::max(seen_below_, instance + 1);
  // If the next instance is still missing by then, it is asked for.
  schedule(now + kPullFirst);
  return &place;
}

void Learner::on_phase2a(const Received& in, Nanos now) {
  const auto& m = message<Phase2A>(in.frame);
  const Ballot ballot{m.ballot.get()};
  if (Slot* place = admit(Instance{m.instance.get()}, now)) {
    if (place->chosen ? place->assembly.value() == from_wire(m.value) : place->ballot <= ballot) {
      if (!place->chosen && place->ballot != ballot) {
        // A higher ballot's proposal replaces an undecided one; the same value keeps its bytes.
        if (!place->assembly.started() || place->assembly.value() != from_wire(m.value)) {
          place->assembly.start(from_wire(m.value));
        }
        place->ballot = ballot;
      }
      add_fragment(*place, from_wire(m.value), from_wire(m.fragment), in, now);
      mark_chosen(*place, now);
    }
  }
  on_decided(from_wire(m.decided), now);
}

void Learner::add_fragment(Slot& place, const Value& value, const Fragment& fragment,
                           const Received& in, Nanos now) {
  if (place.assembly.complete() || !needs_bytes(place)) return;
  fragments_usual_ = std::max<std::uint32_t>(fragment.count, 1);
  if (fragment.count > 1 && !place.assembly.partial()) {
    counters_[LearnerCounter::kFragmentsWaited].add();
  }
  switch (
      place.assembly.add(value, fragment, in.frame.payload, in.frame.header->payload_hash, pool_)) {
    case AssemblyOutcome::kComplete:
      if (in.type == MessageType::kValue) note_repaired(place, now);
      break;
    case AssemblyOutcome::kPartial:
      break;
    case AssemblyOutcome::kDuplicate:
      counters_[LearnerCounter::kDuplicates].add();
      break;
    case AssemblyOutcome::kMismatch:
      counters_[LearnerCounter::kDropMismatch].add();
      break;
    case AssemblyOutcome::kNoMemory:
      counters_[LearnerCounter::kDropNoMemory].add();
      break;
    case AssemblyOutcome::kBadContent:
      counters_[LearnerCounter::kDropBadContent].add();
      break;
  }
}

void Learner::note_repaired(const Slot& place, Nanos now) {
  counters_[LearnerCounter::kValuesRepaired].add();
  if (place.pulls == 1) pull_delay_.record(now - place.asked_at);
  if (place.pulls > 1) pull_delay_.record_late();
  schedule(now);  // there is room to ask for more
}

void Learner::mark_chosen(Slot& place, Nanos now) {
  if (place.chosen || place.ballot == kNoBallot) return;
  if (place.ballot != decided_.ballot && !DEFECT(kLearnerTakesLatestValue)) return;
  if (place.instance < decided_.from || place.instance >= decided_.below) return;
  place.chosen = true;
  if (place.pulls == 0) decision_delay_.record(now - place.first_seen);
  // (A value that was late says nothing of decisions.)
  if (place.decision_asked) decision_delay_.record_late();
}

void Learner::on_decided(const Decided& decided, Nanos now) {
  decided_below_ = std::max(decided_below_, decided.below);
  if (decided.ballot < decided_.ballot ||
      (decided.ballot == decided_.ballot && decided.below <= decided_.below)) {
    return;
  }
  const Instance from =
      decided.ballot == decided_.ballot ? std::max(decided.from, decided_.below) : decided.from;
  decided_ = decided;
  if (decided.below > next_) schedule(now + kPullFirst);
  const Instance end = std::min(decided.below, next_ + slots_.size());
  for (Instance i = std::max(from, next_); i < end; ++i) {
    Slot& place = slot(i);
    if (place.instance == i) mark_chosen(place, now);
  }
}

void Learner::on_decision(const Received& in, Nanos now) {
  on_decided(from_wire(message<Decision>(in.frame).decided), now);
}

void Learner::on_value(const Received& in, Nanos now) {
  const auto& m = message<ValueMessage>(in.frame);
  const Ballot ballot{m.ballot.get()};
  const Value value = from_wire(m.value);
  if (Slot* place = admit(Instance{m.instance.get()}, now)) {
    const bool chosen = m.chosen == 1 || DEFECT(kPulledTakenAsDecided);
    const bool same = place->assembly.started() && place->assembly.value() == value;
    if (chosen || (!place->chosen && ballot >= place->ballot) || same) {
      if (!same) {
        place->assembly.start(value);
        whole_below_ = std::min(whole_below_, place->instance);
      }
      if (!place->chosen) place->ballot = std::max(place->ballot, ballot);
      place->chosen |= chosen;
      add_fragment(*place, value, from_wire(m.fragment), in, now);
      mark_chosen(*place, now);
    }
  }
  on_decided(from_wire(m.decided), now);
}

void Learner::on_trimmed(const Trimmed& trimmed) {
  const Instance below{trimmed.trimmed_below.get()};
  if (below <= next_) return;
  counters_[LearnerCounter::kTrimmed].add();
  trimmed_below_ = std::max(trimmed_below_, below);
}

void Learner::restart_at(Instance next) {
  counters_[LearnerCounter::kRestarts].add();
  next_ = whole_below_ = next;
  for (Slot& place : slots_) {
    if (place.instance < next || place.instance >= next + slots_.size()) place = Slot{};
  }
  schedule(0);
}

bool Learner::next(Delivery& delivery) {
  while (true) {
    Slot& place = slot(next_);
    if (DEFECT(kSkipUndecidedMask) && place.instance == next_ && place.ballot != kNoBallot &&
        !needs_bytes(place)) {
      ++next_;
      continue;
    }
    const Slot& after = slot(next_ + 1);
    if (DEFECT(kReplyBeforePrefix) && place.instance != next_ && after.instance == next_ + 1 &&
        after.chosen) {
      ++next_;
      continue;
    }
    if (place.instance != next_ || !place.chosen) return false;
    const Value& value = place.assembly.value();
    const bool concerns = intersects(value.mask, options_.partitions);
    if (concerns && !place.assembly.complete()) return false;
    const Instance instance = next_;
    ++next_;
    if (value.noop()) {
      counters_[LearnerCounter::kSkippedNoop].add();
    } else if (!concerns) {
      counters_[LearnerCounter::kSkippedPartition].add();
    } else {
      counters_[LearnerCounter::kDelivered].add();
      delivery.kind = DeliveryKind::kDecided;
      delivery.instance = instance;
      delivery.value = value;
      delivery.bytes = place.assembly.bytes();
      delivery.received = place.first_seen;
      place.assembly.reset();
      return true;
    }
    place.assembly.reset();
  }
}

void Learner::tick(Nanos now, Effects& effects, bool heard) {
  // Credit is told after an eighth of the window, or after a while if less has moved.
  const std::uint64_t moved = next_ - reported_;
  if (moved >= slots_.size() / 8 || now >= report_at_) report(now, effects);
  if (now < deadline_ || !heard) return;
  deadline_ = report_at_;
  repair(now, effects);
}

void Learner::report(Nanos now, Effects& effects) {
  const bool changed = reported_ != next_;
  const bool waiting = next_ < std::max(seen_below_, decided_below_);
  reported_ = next_;
  if (changed) moved_at_ = now;
  const bool lately = waiting || now - moved_at_ < kStatusIdle;
  report_at_ = now + (changed ? options_.status_interval : lately ? kStatusWaiting : kStatusIdle);
  schedule(report_at_);
  counters_[LearnerCounter::kStatusSent].add();
  // Every fourth report goes to another acceptor: the preferential one may be dead.
  const std::size_t count = configuration_.acceptors.size();
  const std::size_t other = reports_++ % 4 == 3 ? reports_ / 4 % count : 0;
  const std::size_t to = (self_ + other) % count;
  // And each to the coordinator: nobody else can pass on that this learner lives.
  const auto coordinator = configuration_.acceptor_index(coordinator_of(decided_.ballot));
  const LearnerStatus status{raw(next_), lacks_state_, {}};
  for (std::size_t i = 0; i < count; ++i) {
    if (i != to && coordinator != i && !lacks_state_) continue;
    effects.send_now(configuration_.acceptors[i].endpoint, MessageType::kLearnerStatus, status);
  }
}

void Learner::set_lacks_state(bool lacks) {
  if (std::exchange(lacks_state_, lacks) == lacks) return;
  report_at_ = 0;
  schedule(report_at_);
}

/// Whether the slot of `instance` lacks something, and how to ask for it.
bool Learner::lacks(Slot& place, Instance instance, PullEntry& entry, PullKind& kind) const {
  entry = {raw(instance), ~std::uint64_t{0}};
  kind = PullKind::kValue;
  if (place.instance != instance || place.ballot == kNoBallot) return true;
  if (!place.chosen) {
    // Decided, but not as what is held; or simply not known to be decided yet.
    if (instance >= decided_below_) kind = PullKind::kDecision;
    return true;
  }
  if (place.assembly.complete() || !needs_bytes(place)) return false;
  entry.fragments = place.assembly.missing();
  return true;
}

Learner::Slot& Learner::place_of(Instance instance, Nanos now) {
  Slot& place = slot(instance);
  if (place.instance != instance) {
    place = Slot{};
    place.instance = instance;
    place.first_seen = now;
  }
  return place;
}

/// How many frames the answer to `entry` takes, as far as is known.
std::uint32_t Learner::fragments(const PullEntry& entry) const {
  if (entry.fragments.get() == ~std::uint64_t{0}) return fragments_usual_;
  return static_cast<std::uint32_t>(std::popcount(entry.fragments.get()));
}

/// How long to wait for an answer, longer after each that did not come.
Nanos Learner::value_patience(const Slot& place) const {
  const Nanos once = std::max(kPullAgain, 2 * pull_delay_.p99());
  return std::min(once << std::min(place.pulls, 4u), kPullAgainMax);
}

void Learner::repair(Nanos now, Effects& effects) {
  std::array<PullEntry, kPullEntriesMax> values;
  std::uint32_t count = 0;
  std::uint32_t asked = 0;  // fragments that are to come
  bool decision = false;
  bool again = false;
  const Instance known = std::max(seen_below_, decided_below_);
  const Instance end = std::min(known, next_ + slots_.size());
  const Nanos patience = std::max(kPullFirst, 2 * decision_delay_.p99());
  whole_below_ = std::max(whole_below_, next_);
  for (Instance i = whole_below_; i < end && count < values.size(); ++i) {
    Slot& place = place_of(i, now);
    PullEntry entry;
    PullKind kind;
    if (!lacks(place, i, entry, kind)) {
      if (i == whole_below_) ++whole_below_;
      continue;
    }
    const bool wait_for_decision = kind == PullKind::kDecision;
    if (place.pull_at == 0) {
      place.pull_at = place.first_seen + (wait_for_decision ? patience : kPullFirst);
    }
    if (!wait_for_decision && (place.pulls > 0 || place.pull_at <= now)) {
      if (asked > 0 && asked + fragments(entry) > kAskedMax) break;
      asked += fragments(entry);
    }
    if (place.pull_at > now) {
      schedule(place.pull_at);
      // Later instances were heard of later.
      if (wait_for_decision) break;
      continue;
    }
    place.pull_at =
        now + (wait_for_decision ? std::max(kPullAgain, patience) : value_patience(place));
    schedule(place.pull_at);
    place.asked_at = now;
    again |= place.pulls++ > 0;
    if (wait_for_decision) {
      place.decision_asked = true;
      decision = true;
      break;
    }
    const bool part = place.assembly.partial();
    counters_[part ? LearnerCounter::kFragmentsPulled : LearnerCounter::kValuesPulled].add();
    values[count++] = entry;
  }
  // Once a round, whatever is missing: else as many instances as acceptors would ask the same one.
  if (again) ++acceptor_turn_;
  if (count > 0) pull(PullKind::kValue, {values.data(), count}, effects);
  if (decision) {
    counters_[LearnerCounter::kDecisionsPulled].add();
    const PullEntry entry{raw(next_), ~std::uint64_t{0}};
    pull(PullKind::kDecision, {&entry, 1}, effects);
  }
  // Wake up for what has been heard of but is too young to be missed.
  if (known > next_) schedule(now + patience);
}

void Learner::pull(PullKind kind, std::span<const PullEntry> list, Effects& effects) {
  const std::size_t acceptor = (self_ + acceptor_turn_) % configuration_.acceptors.size();
  Outgoing& out = effects.send_now(configuration_.acceptors[acceptor].endpoint, MessageType::kPull,
                                   sizeof(Pull) + list.size_bytes());
  auto& m = *reinterpret_cast<Pull*>(out.message());
  m = {static_cast<std::uint8_t>(kind), 0, static_cast<std::uint16_t>(list.size()), 0ull};
  std::copy(list.begin(), list.end(), reinterpret_cast<PullEntry*>(&m + 1));
}

}  // namespace annulus::consensus

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(consensus::LearnerCounter::kCount)>
    CounterNames<consensus::LearnerCounter>::names = {
        "delivered",      "skipped_noop",     "skipped_partition", "fragments_waited",
        "values_pulled",  "fragments_pulled", "decisions_pulled",  "values_repaired",
        "status_sent",    "back_pressure",    "duplicates",        "drop_beyond_window",
        "drop_no_memory", "drop_bad_content", "drop_mismatch",     "trimmed",
        "restarts"};

}  // namespace annulus::dataplane
