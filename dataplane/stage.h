// A stage: what every running thing is. A core polls its stages in turn; the simulator polls the
// same stages in an order drawn from a seed.
#pragma once

#include <cstdint>
#include <string>

#include "dataplane/clock.h"
#include "dataplane/counters.h"

namespace annulus::dataplane {

struct PollResult {
  /// Items done: frames, batches, completions. 0 is an idle turn.
  std::uint32_t work = 0;
  /// When this stage next needs a turn if nothing arrives; kNever when only input matters.
  Nanos deadline = kNever;
};

/// Kept for each stage by whoever polls it.
enum class StageCounter : std::uint8_t {
  kTurns,
  kUsefulTurns,  // turns that did work
  kItems,
  kUsefulCycles,  // cycles of useful turns
  kIdleCycles,
  kLongestTurnCycles,
  kCount,
};

class Stage {
 public:
  virtual ~Stage() = default;

  /// Does at most `budget` items of work and returns. Never blocks, never reads a clock.
  virtual PollResult poll(Nanos now, std::uint32_t budget) = 0;

  /// "network", "worker": the role in the core map and the label of its counters.
  virtual const char* name() const = 0;

  /// A descriptor that polls readable when input may wait, or -1 (see Transport).
  virtual int wait_descriptor() const { return -1; }

  Counters<StageCounter>& stage_counters() { return stage_counters_; }
  const Counters<StageCounter>& stage_counters() const { return stage_counters_; }

 private:
  Counters<StageCounter> stage_counters_;
};

}  // namespace annulus::dataplane
