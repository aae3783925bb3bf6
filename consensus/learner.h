// The learner role: collects proposals and decisions, repairs what was lost, and gives back the
// decided values in instance order. Pure; one core owns it.
//
// Rules (protocol.md sections 2, 3 and 5):
// - Instance i is delivered when i's value is known decided, held completely, and every lower
//   instance was delivered or, by the mask of its *decided* value, does not concern this learner.
// - A value is taken for decided only if it was proposed at the very ballot whose decisions cover
//   the instance, or if an acceptor says that it was chosen. Never "the latest value" (T6).
// - What is missing is asked of a preferential acceptor, another one each time it does not help; no
//   more at once than receive buffers hold, and the rest as it comes in.
#pragma once

#include <cstdint>
#include <vector>

#include "consensus/assembly.h"
#include "consensus/delivery.h"
#include "consensus/effects.h"
#include "consensus/latency.h"
#include "consensus/port.h"
#include "consensus/ring.h"
#include "dataplane/defect.h"

namespace annulus::consensus {

struct LearnerOptions {
  std::uint32_t window = 1'024;  // instances held undelivered, a power of two
  PartitionMask partitions = kAllPartitions;
  Nanos status_interval = 1 * kMillisecond;  // longest delay of a changed credit
};

enum class LearnerCounter : std::uint8_t {
  kDelivered,
  kSkippedNoop,
  kSkippedPartition,  // decided, but of other partitions
  kFragmentsWaited,   // values that came in several frames
  kValuesPulled,
  kFragmentsPulled,
  kDecisionsPulled,
  kValuesRepaired,  // completed by an acceptor's answer
  kStatusSent,
  kBackPressure,  // the worker's ring was full
  kDuplicates,
  kDropBeyondWindow,
  kDropNoMemory,
  kDropBadContent,
  kDropMismatch,
  kTrimmed,   // behind the retained log: state transfer is needed
  kRestarts,  // went on elsewhere in the order
  kCount,
};

class Learner {
 public:
  Learner(const Configuration& configuration, std::uint32_t self, const LearnerOptions& options,
          dataplane::BufferPool& assembly_pool);

  void on_phase2a(const Received& in, Nanos now);
  void on_decision(const Received& in, Nanos now);
  void on_value(const Received& in, Nanos now);
  void on_trimmed(const Trimmed& trimmed);

  /// Whether next() has anything to look at: cheap, for turns in which nothing came.
  bool next_chosen() const {
    const Slot& place = slots_[raw(next_) & (slots_.size() - 1)];
    return (place.instance == next_ && place.chosen) || DEFECT(kSkipUndecidedMask) ||
           DEFECT(kReplyBeforePrefix);
  }
  /// The next value in order that concerns this learner, if it is ready. Instances that do not
  /// concern it are passed over.
  bool next(Delivery& delivery);
  void count_back_pressure() { counters_[LearnerCounter::kBackPressure].add(); }

  /// Forgets what it has not delivered below `next`, and goes on from there: the state as of the
  /// instance before is to be had elsewhere. May go back.
  void restart_at(Instance next);

  /// Reports credit and, once all that has arrived was `heard`, asks for what is missing: what
  /// still waits to be read is not lost. Once per burst.
  void tick(Nanos now, Effects& effects, bool heard = true);
  Nanos deadline() const { return deadline_; }

  /// What lies before next_ is not here, and is to be had from another learner. Its reports say so,
  /// to every acceptor, for whoever coordinates is not to take it for one that can give it.
  void set_lacks_state(bool lacks);

  /// Every instance below was delivered or passed over.
  Instance delivered_below() const { return next_; }
  /// Instances below are decided, as far as this learner heard.
  Instance decided_below() const { return decided_below_; }
  /// Instances below were heard of: proposals for some may be held that nobody will decide.
  Instance seen_below() const { return seen_below_; }
  /// The acceptors hold nothing below, as far as they said so.
  Instance trimmed_below() const { return trimmed_below_; }
  /// The highest ballot whose decisions were heard; names the coordinator.
  Ballot ballot() const { return decided_.ballot; }
  /// The acceptors no longer hold what comes next here.
  bool behind_log() const { return next_ < trimmed_below_; }
  dataplane::Counters<LearnerCounter>& counters() { return counters_; }

 private:
  struct Slot {
    Instance instance{};
    Ballot ballot{};  // of the proposal held; 0: nothing yet
    Assembly assembly;
    bool chosen = false;
    Nanos first_seen = 0;
    Nanos pull_at = 0;
    Nanos asked_at = 0;
    std::uint32_t pulls = 0;
    bool decision_asked = false;
  };
  Slot& slot(Instance instance) { return slots_[raw(instance) & (slots_.size() - 1)]; }
  Slot* admit(Instance instance, Nanos now);
  void add_fragment(Slot& slot, const Value& value, const Fragment& fragment, const Received& in,
                    Nanos now);
  void on_decided(const Decided& decided, Nanos now);
  void mark_chosen(Slot& slot, Nanos now);
  bool needs_bytes(const Slot& slot) const {
    return intersects(slot.assembly.value().mask, options_.partitions);
  }
  void report(Nanos now, Effects& effects);
  void repair(Nanos now, Effects& effects);
  Slot& place_of(Instance instance, Nanos now);
  bool lacks(Slot& slot, Instance instance, PullEntry& entry, PullKind& kind) const;
  void note_repaired(const Slot& slot, Nanos now);
  std::uint32_t fragments(const PullEntry& entry) const;
  Nanos value_patience(const Slot& slot) const;
  void pull(PullKind kind, std::span<const PullEntry> list, Effects& effects);
  void schedule(Nanos at) { deadline_ = at < deadline_ ? at : deadline_; }

  const Configuration& configuration_;
  const std::uint32_t self_;
  const LearnerOptions options_;
  dataplane::BufferPool& pool_;
  std::vector<Slot> slots_;
  Instance next_ = kFirstInstance;
  // Below it nothing lacks: what waits for the worker is not looked through over and over.
  Instance whole_below_ = kFirstInstance;
  Instance seen_below_ = kFirstInstance;     // one past the highest instance heard of
  Instance decided_below_ = kFirstInstance;  // highest watermark over all ballots
  Instance trimmed_below_ = kFirstInstance;
  Decided decided_;                 // at the highest ballot heard
  Instance reported_ = Instance{};  // credit told last
  bool lacks_state_ = false;
  Nanos report_at_ = 0;
  std::uint32_t reports_ = 0;
  Nanos moved_at_ = 0;                 // as was reported
  std::uint32_t acceptor_turn_ = 0;    // 0 is the preferential acceptor
  QuantileEstimate decision_delay_;    // from a value's first frame to its decision
  QuantileEstimate pull_delay_;        // from asking for a value to having it
  std::uint32_t fragments_usual_ = 1;  // of a value
  Nanos deadline_ = 0;
  dataplane::Counters<LearnerCounter> counters_;
};

}  // namespace annulus::consensus
