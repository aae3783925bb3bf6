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
    if (place.instance != held_from_) {
      ++held_from_;  // it was never here
      continue;
    }
    if (place.number > durable_) return;
    counters_[AcceptorCounter::kShed].add();
    let_go(place);
  }
}

/// What is undecided takes half of `retain_bytes` at most.
Instance Acceptor::kept_until(Instance from) const {
  std::uint64_t before = let_go_bytes_;
  if (from >= chosen_below_) {
    before = chosen_bytes_;
  } else if (from > held_from_) {
    before = std::max(before, slot(from - 1).bytes_through);
  }
  return chosen_bytes_ - before > options_.retain_bytes / 2 ? from : from + options_.retain;
}

Acceptor::Accepted Acceptor::accepted(Instance instance) const {
  const Slot& place = slot(instance);
  if (place.instance != instance || place.ballot == kNoBallot) return {};
  return {place.ballot, &place.held.value(), &place.held.bytes(), place.chosen};
}

}  // namespace annulus::consensus
