// An acceptor's dealings with its log: what is given to it, what waits for it, what comes back from
// it when the acceptor starts again, and what it lost.
//
// Damage (after "Protocol-Aware Recovery for Consensus-Based Storage", FAST'18). A log that finds a
// record damaged below its tail knows that an acknowledged accept is gone. To answer Phase 1 with
// "nothing accepted" there, or to cut the log off before it, could unmake a decision: the lost
// accept may have been the one that completed a majority. So:
// - Chosen instances (below chosen_below): others hold the decided value. It is asked for, logged
//   anew, and until then neither served nor reported as empty. An older accept of such an instance
//   that is still readable is not trusted, for the lost record may have replaced it: unless it
//   was known to be chosen before the lost record was written. That one then held the same value
//   at a higher ballot, and Phase 1 may be told of either: from the one that was known on, every
//   ballot has the decided value.
// - Others: Phase 1 is answered, but with the range in which what is not listed is unknown. The
//   coordinator counts the promise for every instance but those, and waits for a majority that
//   knows each of them. The acceptor still accepts there at ballots it may accept at: these are at
//   least the promise, which is kept apart from the log and was not lost, hence above whatever
//   ballot the lost record had; once it has accepted, what it lost there no longer matters.
#include <algorithm>
#include <cstring>

#include "consensus/acceptor.h"

namespace annulus::consensus {
namespace {

/// Who proposes in vain says it again and again.
constexpr Nanos kRefuseAgain = 10 * kMillisecond;

}  // namespace

void Acceptor::restore(const RecoveredAcceptor& recovered) {
  CHECK(options_.durable && number_ == 0 && promised_ == kNoBallot);
  promised_ = recovered.promised;
  unknown_ = recovered.unknown;
  missing_ = recovered.missing;
  chosen_below_ = recovered.chosen_below;
  held_from_ = accepted_below_ = seen_below_ = chosen_below_;
  forget_recent(recovered);
  // Chosen ones stay in memory as far back as it knows them all, and has room for them.
  for (auto each = recovered.accepted.rbegin(); each != recovered.accepted.rend(); ++each) {
    if (each->instance + slots_.size() <= recovered.accepted.back().instance) break;
    if (each->instance + 1 != held_from_) continue;
    if (chosen_bytes_ + kept_bytes(each->value) > options_.retain_bytes) break;
    chosen_bytes_ += kept_bytes(each->value);
    held_from_ = each->instance;
  }
  missing_.reserve(missing_.size() + kUndecidedMax);  // those that a read finds damaged
  std::uint64_t bytes_through = 0;
  for (const RecoveredAcceptor::Accept& accept : recovered.accepted) {
    CHECK(accept.instance < chosen_below_ + kUndecidedMax);
    if (accept.instance < held_from_) continue;
    Slot& place = slot(accept.instance);
    place.instance = accept.instance;
    place.ballot = accept.ballot;
    place.route = default_route(accept.ballot);
    Slice bytes;
    if (!accept.bytes.empty()) {
      bytes = pool_.allocate();
      CHECK(bytes && accept.bytes.size() <= bytes.size());
      std::memcpy(bytes.mutable_data(), accept.bytes.data(), accept.bytes.size());
      bytes.truncate(static_cast<std::uint32_t>(accept.bytes.size()));
    }
    place.held.set(accept.value, bytes);
    place.chosen = accept.instance < recovered.chosen_below;
    if (accept.instance < chosen_below_)
      place.bytes_through = bytes_through += kept_bytes(accept.value);
    accepted_below_ = std::max(accepted_below_, accept.instance + 1);
    seen_below_ = std::max(seen_below_, accept.instance + 1);
  }
  // Nobody may have anything to say to it before it has mended what it lacks.
  if (!missing_.empty() || chosen_below_ < known_decided()) schedule(0);
}

/// Of what it lost lately, others may have the values and not know that they were chosen, as this
/// one did. It goes on from before these, as one that fell behind and cannot tell what it accepted
/// there. Lost earlier than kUndecidedMax instances ago: whoever accepted what came since knows it.
/// (A single acceptor has nobody to ask, and goes on without them.)
void Acceptor::forget_recent(const RecoveredAcceptor& recovered) {
  Instance top = std::max(chosen_below_, unknown_.below);
  if (!recovered.accepted.empty()) top = std::max(top, recovered.accepted.back().instance + 1);
  const auto recent = std::find_if(missing_.begin(), missing_.end(),
                                   [&](Instance lost) { return lost + kUndecidedMax >= top; });
  if (recent == missing_.end() || configuration_.acceptors.size() == 1) return;
  chosen_below_ = held_from_ = accepted_below_ = *recent;
  seen_below_ = missing_.back() + 1;
  schedule(0);
  unknown_ = {*recent, std::max(unknown_.below, missing_.back() + 1)};
  missing_.erase(recent, missing_.end());
}

InstanceRange Acceptor::unknown() const {
  const InstanceRange left{std::max(unknown_.from, chosen_below_), unknown_.below};
  return left.empty() ? InstanceRange{} : left;
}

bool Acceptor::log_has_room(const Value& value) const {
  return !options_.durable || log_space_ >= log_cost(value.bytes);
}

/// What it has promised it may tell only once that is durable.
void Acceptor::refuse(Ballot ballot, const Route& route, Nanos now, Effects& effects) {
  if (now < refuse_at_ || !promise_durable()) return;
  refuse_at_ = now + kRefuseAgain;
  effects.send_now(configuration_.acceptors[route.coordinator()].endpoint, MessageType::kReject,
                   Reject{raw(promised_), raw(ballot)});
}

bool Acceptor::log_takes(const Value& value) {
  if (!options_.durable) return true;
  if (!log_has_room(value)) {
    counters_[AcceptorCounter::kDropLogFull].add();
    return false;
  }
  // Two numbers for each accept at most: its own, and that of a promise.
  if (std::max(number_ - durable_, waiting_tail_ - waiting_head_) + 2 > waiting_.size()) {
    counters_[AcceptorCounter::kDropLogBusy].add();
    return false;
  }
  return true;
}

void Acceptor::keep(Slot& place, Effects& effects) {
  if (!options_.durable) return;
  place.number = ++number_;
  const Value& value = place.held.value();
  log_space_ -= std::min(log_space_, log_cost(value.bytes));
  effects.keep({number_, place.instance, place.ballot, chosen_below_, value, place.held.bytes()});
  waiting_[waiting_tail_++ & (waiting_.size() - 1)] = {place.instance, number_};
}

void Acceptor::on_durable(const LogProgress& progress, Nanos, Effects& effects) {
  durable_ = std::max(durable_, progress.durable);
  log_space_ = progress.space;
  if (answer_.ballot != kNoBallot && promise_durable()) answer_phase1a(effects);
  while (waiting_head_ != waiting_tail_ && effects.room() >= Effects::kPerStepMax) {
    const Waiting& first = waiting_[waiting_head_ & (waiting_.size() - 1)];
    if (first.number > durable_) break;
    Slot& place = slot(first.instance);
    // Unless it has accepted again at a higher ballot, which is waited for further back.
    if (place.instance == first.instance && place.number == first.number) {
      if (!vote_durable(place)) break;
      counters_[AcceptorCounter::kVotesAfterWrite].add();
      vote_accepted(place, effects);
    }
    ++waiting_head_;
  }
}

// --- Values that are not in memory

void Acceptor::on_read(const LogValue& read, Effects& effects) {
  const Instance instance = read.wanted.instance;
  if (read.ballot == kNoBallot) {
    const bool known = std::any_of(mends_.begin(), mends_.end(),
                                   [&](const Mend& mend) { return mend.instance == instance; });
    const bool listed = std::find(missing_.begin(), missing_.end(), instance) != missing_.end();
    if (known || listed || missing_.size() == missing_.capacity()) return;
    missing_.push_back(instance);
    schedule(0);
    return;
  }
  counters_[AcceptorCounter::kValuesFromLog].add();
  send_value(read.wanted.to, {instance, read.ballot, instance < chosen_below_}, read.value,
             read.bytes, read.wanted.fragments, effects);
}

/// Asks the others for what the log lost, a few instances at a time.
void Acceptor::mend_missing(Nanos now, Effects& effects) {
  const auto count = static_cast<std::uint32_t>(configuration_.acceptors.size());
  if (count == 1) return;
  for (Mend& mend : mends_) {
    if (mend.instance == Instance{}) {
      if (missing_.empty()) continue;
      mend = Mend{};
      mend.instance = missing_.back();
      missing_.pop_back();
    }
    if (mend.pull_at <= now && effects.room() >= Effects::kPerStepMax) {
      const std::uint32_t from = (self_ + 1 + mend.pulls % (count - 1)) % count;
      counters_[AcceptorCounter::kValuesPulled].add();
      Outgoing& out = effects.send_now(configuration_.acceptors[from].endpoint, MessageType::kPull,
                                       sizeof(Pull) + sizeof(PullEntry));
      auto& m = *reinterpret_cast<Pull*>(out.message());
      m = {static_cast<std::uint8_t>(PullKind::kValue), 0, std::uint16_t{1}, raw(promised_)};
      *reinterpret_cast<PullEntry*>(&m + 1) = {raw(mend.instance), mend.assembly.missing()};
      mend.pull_at = now + (kPullAgain << std::min(mend.pulls++, 8u));
    }
    schedule(std::max(mend.pull_at, now + 1));
  }
}

/// A fragment of a value that the log lost: true if it was waited for.
bool Acceptor::mend(Instance instance, const Received& in, Effects& effects) {
  if (instance >= held_from_) return false;
  const auto place = std::find_if(mends_.begin(), mends_.end(),
                                  [&](const Mend& each) { return each.instance == instance; });
  if (place == mends_.end()) return false;
  const auto& m = message<ValueMessage>(in.frame);
  const Value value = from_wire(m.value);
  if (m.chosen != 1 || !log_takes(value)) return true;
  if (!place->assembly.started() || place->assembly.value() != value) place->assembly.start(value);
  if (place->assembly.add(value, from_wire(m.fragment), in.frame.payload,
                          in.frame.header->payload_hash, pool_) != AssemblyOutcome::kComplete) {
    return true;
  }
  counters_[AcceptorCounter::kValuesMended].add();
  log_space_ -= std::min(log_space_, log_cost(value.bytes));
  effects.keep(
      {++number_, instance, Ballot{m.ballot.get()}, chosen_below_, value, place->assembly.bytes()});
  *place = Mend{};
  schedule(0);
  return true;
}

}  // namespace annulus::consensus
