// Finds sessions that did nothing for long, by the replica's own clock, and makes the values that
// propose to expire them. The decision is the order's: a session that acted meanwhile stays. Part
// of the worker.
#pragma once

#include <cstdint>
#include <vector>

#include "consensus/delivery.h"
#include "dataplane/buffer.h"
#include "dataplane/spsc_ring.h"
#include "statemachine/session_table.h"

namespace annulus::statemachine {

struct IdleSessionsOptions {
  consensus::NodeId node{};
  std::uint64_t epoch = 0;
  Nanos idle_after = 60 * kSecond;
};

class IdleSessions {
 public:
  IdleSessions(const IdleSessionsOptions& options, const SessionTable& table,
               dataplane::SpscRing<consensus::Proposal>& out);

  /// Looks at the next few sessions; proposes, or repeats what is not decided yet. Where more are
  /// idle than one proposal holds, as when many clients vanish at once, the next follows as soon as
  /// that is decided. Returns when to be called again.
  Nanos poll(Nanos now);

  /// Every delivered value: one's own proposal is done with.
  void on_delivered(const consensus::ValueId& id) {
    if (id.proposer == options_.node && id.epoch == options_.epoch && id.sequence == sequence_) {
      forget_proposal();
    }
  }
  /// The state was replaced: whether one's own proposal was decided will not be heard.
  void forget_proposal() {
    proposal_.reset();
    if (waiting_) scan_at_ = 0;
    waiting_ = false;
  }
  std::uint64_t proposals() const { return proposals_; }

 private:
  struct Seen {
    std::uint64_t id = 0;
    std::uint64_t activity = 0;
    Nanos since = 0;
  };
  static constexpr std::uint32_t kSlotsPerPoll = 1'024;
  static constexpr std::uint32_t kExpiriesMax = 16;  // of one proposal: it must fit one frame

  void scan(Nanos now);
  void propose(Nanos now);

  const IdleSessionsOptions options_;
  const SessionTable& table_;
  dataplane::SpscRing<consensus::Proposal>& out_;
  dataplane::BufferPool pool_;
  std::vector<Seen> seen_;  // by slot
  std::uint32_t next_slot_ = 0;
  Nanos scan_at_ = 0;
  bool waiting_ = false;  // there are more, to be proposed once proposal_ is decided
  std::vector<const SessionRecord*> idle_;
  std::uint64_t sequence_ = 0;
  dataplane::Slice proposal_;  // undecided
  consensus::Value value_;
  Nanos propose_at_ = kNever;
  std::uint64_t proposals_ = 0;
};

}  // namespace annulus::statemachine
