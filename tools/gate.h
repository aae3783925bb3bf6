// Makes nodes of an embedded cluster stop or slow down, for experiments and tests: what a killed
// process, a paused one, or one on an overloaded host is to the others.
#pragma once

#include <atomic>
#include <cstdint>

#include "dataplane/stage.h"

namespace annulus::tools {

/// One for all stages of a node. Set by any thread; each stage sees it at its next turn.
class Gate {
 public:
  /// The stages are not polled any more. What is sent to them waits in their links, and is lost
  /// once these are full.
  void stop() { slowness_.store(kStopped, std::memory_order_relaxed); }
  /// A turn that took a time is followed by `factor` - 1 times as long without one.
  void slow(std::uint32_t factor) { slowness_.store(factor, std::memory_order_relaxed); }
  void open() { slowness_.store(1, std::memory_order_relaxed); }

  std::uint32_t slowness() const { return slowness_.load(std::memory_order_relaxed); }
  static constexpr std::uint32_t kStopped = 0;

 private:
  std::atomic<std::uint32_t> slowness_{1};
};

class GatedStage final : public dataplane::Stage {
 public:
  GatedStage(dataplane::Stage& stage, const Gate& gate) : stage_(stage), gate_(gate) {}

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override {
    const std::uint32_t slowness = gate_.slowness();
    if (slowness == Gate::kStopped) return {0, now + kLookAgain};
    if (slowness == 1) return stage_.poll(now, budget);
    if (now < rests_until_) return {0, rests_until_};
    const Nanos begun = clock_.now();
    const dataplane::PollResult polled = stage_.poll(now, budget);
    rests_until_ = now + slowness * (clock_.now() - begun);
    return {polled.work, polled.deadline};
  }
  const char* name() const override { return stage_.name(); }
  int wait_descriptor() const override { return stage_.wait_descriptor(); }

 private:
  static constexpr Nanos kLookAgain = kMillisecond;
  dataplane::Stage& stage_;
  const Gate& gate_;
  dataplane::TscClock clock_;
  Nanos rests_until_ = 0;
};

}  // namespace annulus::tools
