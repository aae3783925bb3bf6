// How far a learner has come, as far as one node knows. Pure; one core owns it.
//
// Rules:
// - A place is that of one start of the learner, told apart by its epoch. One that starts again has
//   nothing, executes anew, and its place goes back: whoever took it for where it was before would
//   let the acceptors forget what it needs.
// - Epochs grow from start to start, so that what comes late of an earlier start, from itself or
//   by an acceptor that heard of no later one, is known for that. They are times, though, and a
//   clock may be set back: any epoch counts once the learner itself names it while nothing new was
//   heard of another for a second.
#pragma once

#include <algorithm>
#include <cstdint>

#include "consensus/types.h"
#include "dataplane/clock.h"

namespace annulus::consensus {

class LearnerPlace {
 public:
  bool known() const { return known_; }
  /// It has delivered, or passed over, every instance below.
  Instance below() const { return below_; }
  std::uint64_t epoch() const { return epoch_; }

  /// Whether what the learner itself says under `epoch` is of its latest start.
  bool heeds(std::uint64_t epoch, Nanos now) const {
    return !known_ || epoch == epoch_ || epoch > top_ || now - heard_ >= kSecond;
  }

  /// By the learner itself. Whether it moved, or started again.
  bool tell(std::uint64_t epoch, Instance below, Nanos now) {
    if (!heeds(epoch, now)) return false;
    heard_ = now;
    return note(epoch, below);
  }

  /// By an acceptor.
  bool pass_on(std::uint64_t epoch, Instance below, Nanos now) {
    if (known_ && epoch != epoch_ && epoch <= top_) return false;
    const bool moved = note(epoch, below);
    if (moved) heard_ = now;  // what is only repeated may be of a start that is over
    return moved;
  }

  /// Nobody told: it needs everything from here on.
  void presume(Instance below) { below_ = below; }

 private:
  bool note(std::uint64_t epoch, Instance below) {
    const bool same = known_ && epoch == epoch_;
    const bool moved = !same || below > below_;
    known_ = true;
    epoch_ = epoch;
    top_ = std::max(top_, epoch);
    below_ = same ? std::max(below_, below) : below;
    return moved;
  }

  bool known_ = false;
  Instance below_ = kFirstInstance;
  std::uint64_t epoch_ = 0;
  std::uint64_t top_ = 0;  // the latest by the clock
  Nanos heard_ = 0;        // anything new of epoch_
};

}  // namespace annulus::consensus
