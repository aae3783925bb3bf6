// How far a learner has come, as far as one node knows. Pure; one core owns it.
//
// Rules:
// - A place is that of one start of the learner, told apart by its epoch. One that starts again has
//   nothing, executes anew, and its place goes back: whoever took it for where it was before would
//   let the acceptors forget what it needs.
// - What a learner says itself goes before what acceptors pass on, which may be of an earlier
// start.
//   Of an earlier start, too, is what comes late from it: for a second that is not heeded.
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

  /// By the learner itself. Whether it moved, forth or back.
  bool tell(std::uint64_t epoch, Instance below, Nanos now) {
    const bool same = known_ && epoch == epoch_;
    if (!same && own_) {
      if (epoch == earlier_ && now < late_until_) return false;
      earlier_ = epoch_;
      late_until_ = now + kSecond;
    }
    own_ = true;
    return same ? advance(below) : put(epoch, below);
  }

  /// By an acceptor. Of two starts of which neither was heard, the one that is less far counts.
  bool pass_on(std::uint64_t epoch, Instance below) {
    if (known_ && epoch == epoch_) return advance(below);
    if (own_) return false;
    return put(epoch, known_ ? std::min(below, below_) : below);
  }

  /// Nobody told: it needs everything from here on.
  void presume(Instance below) { below_ = below; }

 private:
  bool advance(Instance below) {
    const bool moved = below > below_;
    below_ = std::max(below_, below);
    return moved;
  }
  bool put(std::uint64_t epoch, Instance below) {
    const bool moved = !known_ || below != below_;
    known_ = true;
    epoch_ = epoch;
    below_ = below;
    return moved;
  }

  bool known_ = false;
  bool own_ = false;  // by its own word
  Instance below_ = kFirstInstance;
  std::uint64_t epoch_ = 0;
  std::uint64_t earlier_ = 0;
  Nanos late_until_ = 0;
};

}  // namespace annulus::consensus
