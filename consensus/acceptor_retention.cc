// What an acceptor holds in memory, and for how long: see `retain` and `retain_bytes`.
#include <algorithm>

#include "consensus/acceptor.h"

namespace annulus::consensus {

Acceptor::Slot* Acceptor::admit(Instance instance) {
  if (instance < held_from_) {
    counters_[AcceptorCounter::kDropBehindLog].add();
    return nullptr;
  }
  Slot& place = slot(instance);
  if (place.instance == instance) return &place;
  if (instance >= chosen_below_ + kUndecidedMax) {
    counters_[AcceptorCounter::kDropBeyondLog].add();
    return nullptr;
  }
  // The slot holds an older instance, which leaves memory: legal only once it is chosen, because
  // an accepted value that may be decided must stay readable by Phase 1; and once it is durable,
  // because it is then read from the log.
  if (place.instance != Instance{} &&
      (place.instance >= chosen_below_ || place.number > durable_)) {
    counters_[AcceptorCounter::kDropBeyondLog].add();
    return nullptr;
  }
  if (place.instance != Instance{}) let_go(place);
  place.instance = instance;
  seen_below_ = std::max(seen_below_, instance + 1);
  return &place;
}

/// Of what is chosen, or decided and gone elsewhere.
void Acceptor::let_go(Slot& place) {
  held_from_ = std::max(held_from_, place.instance + 1);
  let_go_bytes_ = std::max(let_go_bytes_, place.bytes_through);
  if (!options_.durable) trimmed_below_ = std::max(trimmed_below_, held_from_);
  place = Slot{};
}

void Acceptor::shed() {
  while (chosen_bytes_ - let_go_bytes_ > options_.retain_bytes && held_from_ < chosen_below_) {
    Slot& place = slot(held_from_);
    CHECK(place.instance == held_from_);
    if (place.number > durable_) return;
    counters_[AcceptorCounter::kShed].add();
    let_go(place);
  }
}

Instance Acceptor::kept_until(Instance from) const {
  const std::uint64_t most = options_.retain_bytes - options_.undecided_bytes;
  const Instance whole = from + (options_.retain - kChangesKept);
  if (chosen_bytes_ - let_go_bytes_ <= most || from >= chosen_below_) return whole;
  const std::uint64_t before =
      from > held_from_ ? std::max(let_go_bytes_, slot(from - 1).bytes_through) : let_go_bytes_;
  return chosen_bytes_ - before <= most ? whole : from;
}

Acceptor::Accepted Acceptor::accepted(Instance instance) const {
  const Slot& place = slot(instance);
  if (place.instance != instance || place.ballot == kNoBallot) return {};
  return {place.ballot, &place.held.value(), &place.held.bytes(), place.chosen};
}

}  // namespace annulus::consensus
