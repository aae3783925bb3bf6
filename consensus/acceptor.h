// The acceptor role: promises, accepts, votes along the ring, and keeps what it accepted for those
// who lost it. Pure: messages and time in, effects out. One core owns it.
//
// Rules (protocol.md sections 2 and 3):
// - Promise: never accept or vote below the highest ballot promised.
// - Vote only for a value held completely: a Phase2B that arrives before its value is parked, and
//   the value is pulled from the ring predecessor, which must hold it.
// - The ring is a route: its first member starts the vote, each adds itself, the last one counts.
//   A spare accepts everything, and votes to the coordinator by itself when the ring is late: when
//   an instance stays undecided for the measured p99 of the ring. A repeated proposal says that the
//   ring failed: everyone answers it to the coordinator directly.
// - What was accepted is kept for `retain` instances, of what is chosen as long as it takes no more
//   than `retain_bytes`; below that the answer is "trimmed", never "empty" (T15).
// - `chosen` is set only for the value that was proposed at the ballot a decision names (T6).
// - Of a configuration known chosen, nothing past it is taken for chosen before the node has
// adopted
//   it, durably if it is durable; votes are cast only where the present one governs (membership.h).
// - Durable: promise, vote and value are on stable storage before anybody hears of them. The write
//   starts with the Phase2A; promises are told and votes cast from on_durable() (T5).
// - A full log: who proposes is told that it was heard, and that this acceptor cannot accept. Else
//   it would take itself for unheard, and the next one would propose as much in vain.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "consensus/assembly.h"
#include "consensus/effects.h"
#include "consensus/latency.h"
#include "consensus/learner_place.h"
#include "consensus/log.h"
#include "consensus/port.h"
#include "consensus/ring.h"
#include "dataplane/defect.h"

namespace annulus::consensus {

struct AcceptorOptions {
  // Instances kept, a power of two, at least twice the window; see kChangesKept.
  std::uint32_t retain = 1'024;
  // Bytes of chosen values kept, changes of members aside: at least twice those that may be
  // undecided at once.
  std::uint64_t retain_bytes = 128u << 20;
  std::uint64_t undecided_bytes = 16u << 20;  // the most that these can be
  std::uint32_t fragment_bytes = 1'200;
  std::uint64_t fingerprint = 0;  // of the cluster-wide config
  Nanos ring_late_floor = 100 * kMicrosecond;
  Nanos ring_late_ceiling = 500 * kMillisecond;
  bool durable = false;  // what must be kept is among the effects, and waited for
};

enum class AcceptorCounter : std::uint8_t {
  kPhase2AAccepted,
  kPhase2ADuplicate,
  kVotesStarted,  // as the first of the ring
  kVotesForwarded,
  kVotesParked,  // Phase2B before its value
  kParkedReleased,
  kSpareVotes,        // the ring was late and was bypassed
  kVoteResent,        // pulled or repeated
  kValuesPulled,      // values this acceptor asked for
  kFragmentsPulled,   // single fragments it asked for
  kPulledValuesSent,  // frames sent because somebody asked
  kDecisionsSent,
  kTrimmedAnswers,
  kShed,             // chosen values let go before their time, for what they take
  kDropStaleBallot,  // below the promise
  kDropBehindLog,    // instance below the retained log
  kDropBeyondLog,    // instance too far ahead
  kDropNoMemory,
  kDropBadContent,
  kDropMismatch,
  kDropUnknownPeer,
  kDropFingerprint,  // Phase1A of a cluster with another config
  kPromises,
  kVotesAfterWrite,  // that had to wait for the log
  kValuesFromLog,    // answered from there, being no longer in memory
  kValuesMended,     // that the log had lost, and others gave back
  kDropLogBusy,      // too much is being written already
  kDropLogFull,
  kCount,
};

class Acceptor {
 public:
  Acceptor(const Configuration& configuration, std::uint32_t self, const AcceptorOptions& options,
           dataplane::BufferPool& assembly_pool);

  /// Before anything else: what it knew when it last ran.
  void restore(const RecoveredAcceptor& recovered);
  /// Before anything else, of one newly admitted: it has accepted nothing, and is to hold what was
  /// decided from the configuration's `base` on.
  void begin(Nanos now);

  /// Its place among the acceptors, when a node starts.
  void set_self(std::uint32_t self) { self_ = self; }
  /// A configuration that is known chosen, for the node to adopt: null if there is none.
  const Slice* chosen_configuration() const {
    const Slot& place = slot(chosen_below_);
    return place.instance == chosen_below_ && place.chosen && place.ballot != kNoBallot
               ? place.configuration(configuration_)
               : nullptr;
  }
  /// Before a configuration that governs from `from` on is kept: notes what was accepted so far,
  /// and what is known chosen. marked_durable() tells when the former is on stable storage.
  void mark(Instance from);
  bool marked_durable() const { return marked_ <= durable_; }
  /// Keeps it on stable storage, with what was marked; promise_durable() tells when it is.
  void keep_configuration(const Slice& bytes, Effects& effects);
  /// One that the node heard of, and does not act under yet: its members are asked for what was
  /// decided before it, at once, for nobody may have anything else to say. Null: none.
  void set_newer(const Configuration* newer) {
    newer_ = newer;
    if (newer != nullptr) schedule(0);
  }
  /// The node's configuration has changed from `before`, and this acceptor's place to `self`.
  void on_configuration(const Configuration& before, std::uint32_t self, Nanos now);
  /// It knows and holds everything that was decided before the present configuration governs. Until
  /// then it must take no part in it.
  bool settled() const { return chosen_below_ >= configuration_.from && settled_at_ <= durable_; }
  /// Whether what the frame says counts for this acceptor's own promises and votes.
  bool takes_part_with(const Received& in) const {
    return (settled() || DEFECT(kUnsettledVotes)) &&
           (in.frame.header->config_epoch == configuration_.epoch || DEFECT(kOtherEpochVotes));
  }

  void on_phase1a(const Received& in, Effects& effects);
  void on_phase2a(const Received& in, Nanos now, Effects& effects);
  void on_phase2b(const Received& in, Nanos now, Effects& effects);
  void on_decided(const Decided& decided, Nanos now);
  void on_value(const Received& in, Nanos now, Effects& effects);
  void on_pull(const Received& in, Effects& effects);
  void on_trimmed(const Trimmed& trimmed, Nanos now);
  void on_learner_status(std::uint32_t learner, std::uint64_t epoch, Instance delivered_below,
                         Nanos now);

  /// For the coordinator on the same node: promise to its own ballot, accept its own proposal.
  /// False if a higher ballot was promised meanwhile.
  bool promise(Ballot ballot, Effects& effects);
  bool accept(Instance instance, Ballot ballot, const Value& value, const Slice& bytes,
              const Route& route, Nanos now, Effects& effects);
  /// Only what is durable may be counted: the promise made last, the accept of an instance.
  bool promise_durable() const { return promise_number_ <= durable_; }
  bool accept_durable(Instance instance) const {
    const Slot& place = slot(instance);
    return place.instance != instance || place.number <= durable_;  // none leaves memory before
  }

  /// What the log has done: tells the promises and casts the votes that waited for it. May stop for
  /// want of room in the effects; call it again with every turn.
  void on_durable(const LogProgress& progress, Nanos now, Effects& effects);
  /// Something given to the log is not durable yet, or waits to be told.
  bool awaits_log() const { return number_ != durable_ || waiting_head_ != waiting_tail_; }
  /// A value that on_pull() wanted read.
  void on_read(const LogValue& value, Effects& effects);

  /// Sends the votes gathered since the last call; once per burst.
  void flush(Effects& effects);
  /// Timers: late ring, missing values. `deadline()` says when to call next.
  void tick(Nanos now, Effects& effects);
  Nanos deadline() const { return deadline_; }

  Ballot promised() const { return promised_; }
  const Decided& decided() const { return decided_; }
  /// Every instance below is known chosen and held here (or was, and is trimmed).
  Instance chosen_below() const { return chosen_below_; }
  Instance trimmed_below() const { return trimmed_below_; }
  /// Nothing is ever trimmed: it has a log.
  bool keeps_all() const { return options_.durable; }
  /// Where not listing an accept does not mean that there was none; empty of an undamaged log.
  InstanceRange unknown() const;
  /// One past the highest instance accepted.
  Instance accepted_below() const { return accepted_below_; }
  struct Accepted {
    Ballot ballot{};
    const Value* value = nullptr;
    const Slice* bytes = nullptr;
    bool chosen = false;
  };
  /// What is held for `instance`; ballot 0 if nothing was accepted.
  Accepted accepted(Instance instance) const;

  const LearnerPlace& place_of(std::uint32_t learner) const { return learners_[learner]; }

  std::uint32_t retain() const { return options_.retain; }
  /// Of `retain`, what commands leave to changes of members: so many acceptors can die and be
  /// replaced while a replica is waited for that must not miss anything, but for kLearnersMax:
  /// these are for changes that take a replica out.
  static constexpr std::uint32_t kChangesKept = 64;
  /// How far commands may let the order grow while everything from `from` on stays in memory:
  /// further, once it has grown so far, if that took few bytes.
  Instance kept_until(Instance from) const;
  /// And how far by changes of members alone, while commands wait.
  Instance kept_for_changes(Instance from) const { return from + options_.retain; }
  Nanos ring_p99() const { return ring_delay_.p99(); }
  dataplane::Counters<AcceptorCounter>& counters() { return counters_; }

 private:
  /// How long a missing piece is waited for before it is asked for: reordering is not loss.
  static constexpr Nanos kPullFirst = 50 * kMicrosecond;
  static constexpr Nanos kPullAgain = 1 * kMillisecond;

  struct Slot {
    Instance instance{};
    Ballot ballot{};  // at which `held` was accepted; 0: nothing accepted
    Assembly held;
    Ballot incoming_ballot{};
    Assembly incoming;  // fragments of a proposal not complete yet
    bool chosen = false;
    std::uint64_t bytes_through = 0;  // of chosen values up to this one, once all those are known
    std::uint64_t number = 0;         // of the accept in the log
    // Votes that the ring brought, and what they are for; parked until the value is held.
    Ballot votes_ballot{};
    AcceptorSet votes{};
    ValueId votes_id;
    std::uint64_t votes_hash = 0;
    std::uint32_t votes_from = 0;  // the ring predecessor: it holds the value
    Nanos accepted_at = 0;
    Nanos voted_at = 0;  // last own vote past the ring
    Nanos pull_at = 0;   // when to ask (again) for what is missing; 0: nothing is
    std::uint32_t pulls = 0;
    Route route;

    /// What it holds, if that is a configuration that follows `present`.
    const Slice* configuration(const Configuration& present) const {
      return held.value().follows(present.epoch) && instance >= present.from ? &held.bytes()
                                                                             : nullptr;
    }
    bool parked() const { return votes_ballot > ballot; }
    bool votes_match() const {
      return votes_ballot == ballot && votes_id == held.value().id &&
             votes_hash == held.value().content_hash;
    }
  };

  Slot& slot(Instance instance) { return slots_[raw(instance) & (slots_.size() - 1)]; }
  const Slot& slot(Instance instance) const { return slots_[raw(instance) & (slots_.size() - 1)]; }
  Slot* admit(Instance instance);
  void let_go(Slot& slot);
  void shed();
  void send_phase1b(const Endpoint& to, Ballot ballot, Instance chosen_below, Instance from,
                    Effects& effects);
  void take_votes(const Phase2BEntry& entry, Ballot ballot, std::uint32_t sender, Nanos now,
                  Effects& effects);
  bool take_fragment(Slot& slot, Ballot ballot, const Value& value, const Fragment& fragment,
                     const Received& in, const Route& route, Nanos now, Effects& effects);
  void accepted_now(Slot& slot, Nanos now, Effects& effects);
  void vote_accepted(Slot& slot, Effects& effects);
  /// A vote says two things: that this was accepted, and that nothing lower will be. The promise is
  /// kept later than the accept where a decided value was kept before its ballot was promised.
  bool vote_durable(const Slot& place) const {
    return place.number <= durable_ && (promise_durable() || place.ballot != promised_);
  }
  void raise_promise(Ballot ballot, Effects& effects);
  bool log_has_room(const Value& value) const;
  bool log_takes(const Value& value);
  void refuse(Ballot ballot, const Route& route, Nanos now, Effects& effects);
  void keep(Slot& slot, Effects& effects);
  void answer_phase1a(Effects& effects);
  void forget_recent(const RecoveredAcceptor& recovered);
  bool mend(Instance instance, const Received& in, Effects& effects);
  void mend_missing(Nanos now, Effects& effects);
  void vote(const Slot& slot, AcceptorSet votes, std::uint32_t to, Effects& effects);
  struct Told {
    Instance instance{};
    Ballot ballot{};
    bool chosen = false;
  };
  void send_value(const Endpoint& to, const Told& told, const Value& value, const Slice& bytes,
                  std::uint64_t fragments, Effects& effects);
  void pull_missing(Slot& slot, const Endpoint& from, Nanos now, Effects& effects);
  Endpoint whom_to_ask(const Slot& slot) const;
  void resend_vote(const Received& in, Instance instance, Ballot ballot, Effects& effects);
  bool covered(const Slot& slot) const;
  /// Everything below is decided, whether or not this acceptor knows as what.
  Instance known_decided() const {
    return std::max(decided_.below, (newer_ != nullptr ? *newer_ : configuration_).from);
  }
  /// Changes of members are few, and may be proposed where bytes no longer allow commands.
  static std::uint64_t kept_bytes(const Value& value) {
    return value.membership() ? 0 : value.bytes;
  }
  void advance_chosen(Nanos now);
  void schedule(Nanos at) { deadline_ = at < deadline_ ? at : deadline_; }
  void flush_votes(Effects& effects);
  Route default_route(Ballot ballot) const;
  void repair(Slot& slot, Instance instance, Nanos now, Effects& effects);
  bool may_ask(const Slot& slot);
  void vote_if_late(Slot& slot, Nanos now, Effects& effects);
  std::uint32_t known_credits() const;
  void append_credits(void* at) const;

  const Configuration& configuration_;
  const Configuration* newer_ = nullptr;
  std::uint32_t self_;
  const AcceptorOptions options_;
  dataplane::BufferPool& pool_;
  std::vector<Slot> slots_;
  Ballot promised_{};
  // It was heard of among the present members: a ballot belongs to one configuration.
  bool promised_here_ = false;
  Decided decided_;
  Instance chosen_below_ = kFirstInstance;
  Instance accepted_below_ = kFirstInstance;
  Instance seen_below_ = kFirstInstance;  // one past the highest slot in use
  Instance trimmed_below_ = kFirstInstance;
  Instance held_from_ = kFirstInstance;  // from here on in memory, as far as known chosen
  std::uint64_t chosen_bytes_ = 0;       // of values below chosen_below_, and of those of them
  std::uint64_t let_go_bytes_ = 0;       // that are below held_from_
  Nanos deadline_ = kNever;
  std::uint32_t fragments_usual_ = 1;  // of a value
  std::uint32_t asked_ = 0;            // fragments asked for and still to come, as this tick found
  QuantileEstimate ring_delay_;

  // Votes of this burst, all to one destination at one ballot.
  std::array<Phase2BEntry, kPhase2BEntriesMax> votes_;
  std::uint32_t votes_count_ = 0;
  std::uint32_t votes_to_ = 0;
  Ballot votes_ballot_{};

  // Durability. Numbers count what was given to the log.
  struct Waiting {
    Instance instance{};
    std::uint64_t number = 0;
  };
  struct Answer {
    Endpoint to;
    Ballot ballot{};
    Instance from{};
  };
  std::uint64_t number_ = 0;          // given last
  std::uint64_t marked_ = 0;          // given when a configuration was to be kept
  Instance marked_below_{};           // known chosen then
  std::uint64_t settled_at_ = 0;      // given when everything before the present one was known
  std::uint64_t durable_ = 0;         // on stable storage up to here
  std::uint64_t promise_number_ = 0;  // of the promise made last
  std::uint64_t log_space_ = 0;
  std::vector<Waiting> waiting_;  // accepts to vote for, a ring by count
  std::uint64_t waiting_head_ = 0;
  std::uint64_t waiting_tail_ = 0;
  Answer answer_;        // the Phase1A to answer once the promise is durable; ballot 0: none
  Nanos refuse_at_ = 0;  // not again before
  InstanceRange unknown_;
  struct Mend {
    Instance instance{};
    Assembly assembly;
    Nanos pull_at = 0;
    std::uint32_t pulls = 0;
  };
  static constexpr std::size_t kMendsMax = 16;
  std::array<Mend, kMendsMax> mends_;
  std::vector<Instance> missing_;  // chosen, but lost by the log; not being mended yet

  std::array<LearnerPlace, kLearnersMax> learners_{};
  bool credits_changed_ = false;
  dataplane::Counters<AcceptorCounter> counters_;
};

}  // namespace annulus::consensus
