// One core's loop: polls its stages in turn, keeps their cycle counters, rests as the idle policy
// says, and notices when the machine stood still. Threads are started by tools/node.cc only.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "dataplane/clock.h"
#include "dataplane/counters.h"
#include "dataplane/result.h"
#include "dataplane/stage.h"

namespace annulus::dataplane {

/// What a core does between turns.
enum class IdlePolicy : std::uint8_t {
  kSpin,   // never leaves: for a core that nothing else wants. Catastrophic on a shared one.
  kYield,  // offers the core to others every 50 us, and whenever idle while others take the offer
  // Rests in the kernel as soon as it is idle, and never yields: for a core that others want as
  // well, since the kernel may take a yield for leave to run them for whole slices. Where no
  // stage's input can be waited for, as kYield, and rests once idle for a while.
  kSleep,
};
const char* to_string(IdlePolicy policy);
/// "spin", "yield" or "sleep".
Result<IdlePolicy> parse_idle_policy(const std::string& text);

enum class LoopCounter : std::uint8_t {
  kTurns,
  kIdleTurns,  // no stage had work
  kYields,     // times the core was offered to others
  kSleeps,     // times the loop rested in the kernel
  kSleptNanos,
  kStalls,        // turns that began later than the threshold after the last (stalls())
  kStalledNanos,  // their sum
  kCount,
};

struct LoopOptions {
  IdlePolicy idle = IdlePolicy::kYield;
  /// Items a stage may do in one turn.
  std::uint32_t budget = 32;
  /// A longer gap between turns, less what was slept on purpose, is a stall.
  Nanos stall_threshold = kMillisecond;
};

class CoreLoop {
 public:
  /// Stages, clock and registry readers outlive the loop. Stages are polled in the order given.
  CoreLoop(std::vector<Stage*> stages, const LoopOptions& options, Clock& clock);
  CoreLoop(const CoreLoop&) = delete;
  CoreLoop& operator=(const CoreLoop&) = delete;

  /// Runs on the calling thread until stop(). Allocates nothing once running.
  void run();

  /// Any thread. run() returns after the turn it is in, at most 10 ms later.
  void stop() { stopped_.store(true, std::memory_order_relaxed); }

  const std::vector<Stage*>& stages() const { return stages_; }
  const LoopOptions& options() const { return options_; }
  const Counters<LoopCounter>& counters() const { return counters_; }
  /// Length of every stall, in nanoseconds. The machine's doing, or a turn that took too long:
  /// StageCounter::kLongestTurnCycles tells which.
  const Histogram& stalls() const { return stalls_; }

 private:
  struct Turn {
    std::uint64_t work = 0;
    Nanos deadline = kNever;
  };
  Turn turn(Nanos now);
  void note_gap(Nanos gap);
  void yield(Nanos now);
  void sleep(Nanos now, Nanos deadline);

  std::vector<Stage*> stages_;
  LoopOptions options_;
  Clock& clock_;
  bool woken_ = false;                // some stage's input ends a rest
  std::atomic<bool> stopped_{false};  // the loop only stops: nothing is published through it
  Nanos last_yield_ = 0;
  bool contended_ = true;  // somebody else ran during the last yield
  Nanos slept_until_ = 0;  // when the rest before this turn was meant to end; 0 without one
  Counters<LoopCounter> counters_;
  Histogram stalls_;
};

}  // namespace annulus::dataplane
