// Running estimate of a high quantile of a delay: what "late" means to timers that adapt.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dataplane/clock.h"

namespace annulus::consensus {

/// Follows the 99th percentile: a sample above raises the estimate by 1/8 of the excess, at least
/// 1/16 of itself; one below lowers it by 1/1024 of itself. In balance about one sample in a
/// hundred is above. Between `floor` and `ceiling`.
class QuantileEstimate {
 public:
  QuantileEstimate(Nanos first, Nanos floor, Nanos ceiling)
      : estimate_(first), floor_(floor), ceiling_(ceiling) {}

  void record(Nanos sample) {
    if (sample > estimate_) {
      estimate_ += std::max((sample - estimate_) / 8, estimate_ / 16);
    } else {
      estimate_ -= estimate_ / 1024;
    }
    estimate_ = std::clamp(estimate_, floor_, ceiling_);
    if (late_ > 0) --late_;
  }
  /// The delay contains a timeout that this estimate set, so it says nothing about the network, and
  /// recording it would let a little loss raise the estimate without end. But when more than one in
  /// nine is late, the estimate itself is taken to be too low, and doubles.
  void record_late() {
    if ((late_ += 8) < 256) return;
    late_ = 0;
    estimate_ = std::min(2 * estimate_, ceiling_);
  }
  Nanos p99() const { return estimate_; }

 private:
  Nanos estimate_;
  Nanos floor_;
  Nanos ceiling_;
  std::uint32_t late_ = 0;
};

/// The worst of the delays seen lately: one counts for less and less, by a factor e in kFade.
class WorstDelay {
 public:
  /// Delays longer than `most` count as that.
  WorstDelay(Nanos first, Nanos most) : worst_(first), most_(most) {}

  void note(Nanos delay, Nanos now) {
    fade(now);
    worst_ = std::clamp(delay, worst_, most_);
  }
  void fade(Nanos now) {
    const Nanos passed = now - faded_;
    if (passed < kFadeStep) return;
    faded_ = now;
    worst_ -= worst_ * std::min(passed, kFade) / kFade;
  }
  Nanos get() const { return worst_; }

 private:
  static constexpr Nanos kFade = 2 * kSecond;
  static constexpr Nanos kFadeStep = 10 * kMillisecond;
  Nanos worst_;
  Nanos most_;
  Nanos faded_ = 0;
};

/// A clock that stands still while its owner does not run, so that nobody is blamed for what could
/// not be heard. Hosts make processes wait, and cores pause, for milliseconds. What tells is a
/// timer that fires late.
class Attention {
 public:
  /// `deadline` is when the owner wanted to run at the latest. True if it ran much later.
  bool on_timer(Nanos deadline, Nanos now) {
    if (now - deadline <= kMillisecond) return false;
    absent_ += now - deadline;
    return true;
  }
  Nanos awake(Nanos now) const { return now - absent_; }

 private:
  Nanos absent_ = 0;  // in all
};

}  // namespace annulus::consensus
