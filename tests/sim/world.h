// The simulated world: every stage of a cluster and its clients on one thread, polled in an order
// and with budgets drawn from the seed, over a clock that jumps to the next deadline when all is
// idle.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "dataplane/clock.h"
#include "dataplane/stage.h"
#include "tests/sim/faults.h"
#include "tests/sim/network.h"
#include "tests/sim/protocol_checker.h"
#include "tests/sim/rng.h"
#include "tests/sim/trace.h"

namespace annulus::sim {

constexpr std::uint32_t kNoEnd = ~std::uint32_t{0};

/// Runs stages. Knows nothing of what they do: the cluster adds them, and says when it is done.
class World {
 public:
  World(std::uint64_t seed, std::uint32_t frame_bytes_max);

  /// Stages of one node share rings: what one does wakes the others. `end` is the network end that
  /// the stage receives from, or kNoEnd. Takes the place of one that was buried, if there is one.
  std::uint32_t add_stage(dataplane::Stage* stage, std::uint32_t node, std::uint32_t end);
  /// The node's stages have a disk: they are polled while it works, though not without pause.
  void set_disk(std::uint32_t node) {
    for (Scheduled& stage : stages_) stage.disk |= stage.node == node;
  }
  /// The node's stages are polled once more at most, and of what that turn sends only
  /// `frames_left` frames leave. Nobody is told.
  void crash(std::uint32_t node, std::uint32_t frames_left);
  /// A crashed node's stages are gone for good; others may take its place.
  void bury(std::uint32_t node);
  void set_base(std::vector<LinkQuality> base);
  void set_faults(std::vector<Fault> faults) { faults_ = std::move(faults); }
  /// One more, which follows from what happens; not before now.
  void plan(const Fault& fault);
  /// Carries out faults that are not the network's or the schedule's: elections, later crashes.
  void set_fault_handler(std::function<void(const Fault&)> handler) {
    on_fault_ = std::move(handler);
  }

  /// Polls until `done` says so, a failure is seen, or simulated time reaches `limit`.
  /// Returns whether `done` did.
  bool run(const std::function<bool()>& done, Nanos limit);
  /// All faults end, links become perfect and stalled stages wake.
  void heal();
  bool faults_over() const { return next_fault_ == faults_.size() && active_until_ <= now_; }

  Nanos now() const { return now_; }
  SimNetwork& network() { return network_; }
  Trace& trace() { return trace_; }
  Failure& failure() { return failure_; }
  Rng fork_rng() { return rng_.fork(); }
  std::uint64_t polls() const { return polls_; }
  std::uint64_t faults_begun(FaultKind kind) const {
    return begun_[static_cast<std::size_t>(kind)];
  }

 private:
  struct Scheduled {
    dataplane::Stage* stage = nullptr;
    std::uint32_t node = 0;
    std::uint32_t end = kNoEnd;
    bool ready = true;  // did work last time, or a sibling did
    Nanos wake = 0;
    Nanos stalled_until = 0;
    bool last_turn = false;  // its node crashes in it
    bool disk = false;       // asks to be polled at once while its disk works
  };

  /// When the stage next has something to do.
  Nanos due(const Scheduled& stage) const;
  void poll(Scheduled& stage);
  void begin_fault(const Fault& fault);
  void begin_faults();
  bool pick_and_poll();

  Rng rng_;
  Trace trace_;
  Failure failure_;
  SimNetwork network_;
  std::vector<LinkQuality> base_;
  std::vector<Fault> faults_;
  std::function<void(const Fault&)> on_fault_;
  std::vector<Scheduled> stages_;
  std::vector<Nanos> clock_ahead_;  // by node
  std::vector<Nanos> due_;          // by stage
  bool due_known_ = false;          // nothing was done since they were found
  std::vector<std::uint32_t> candidates_;
  std::size_t next_fault_ = 0;
  Nanos active_until_ = 0;
  Nanos next_change_ = kNever;  // when a fault begins or ends
  bool healed_ = false;
  Nanos now_ = 0;
  std::uint64_t polls_ = 0;
  std::array<std::uint64_t, static_cast<std::size_t>(FaultKind::kCount)> begun_{};
};

}  // namespace annulus::sim
