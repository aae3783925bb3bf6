// The coordinator role: runs Phase 1 for all instances from some point on, then gives each value an
// instance, proposes it to everyone, counts votes and tells decisions. Pure; on the core of the
// node's acceptor, whose vote it casts with its own proposal.
//
// Rules (protocol.md sections 2 and 3):
// - Phase 1 covers every instance from the first not known chosen. Of each instance the value
//   accepted at the highest ballot is proposed again, under its own id; a hole below the top
//   accepted instance becomes a no-op, and nothing else ever fills one (T7).
// - Any majority of distinct acceptors that accepted the same (instance, ballot, value) decides.
// - Decisions ride on later proposals; when none is to be expected soon they are told at once.
// - At most `window` instances are undecided, and none is more than `learner_window` past the
//   slowest learner in the credit set. A slow learner slows; one that blocks the window without
//   progress for some milliseconds leaves the set, and comes back when it is within half a window
//   of the fastest. One that is further back when a term begins is not in it.
// - Whoever has left the set and moves again comes near, however much there is to do: proposals go
//   on at nine tenths of its pace at most, until it is. If it stops, nobody waits for it to move.
// - But it is still waited for before the acceptors forget what it needs, as long as it is heard
//   of: only a learner that is silent for several times as long as it usually is,
//   and at most for as long as coming back takes, or stands still for long, loses its place. It
//   comes back by state transfer; lest that happen over and over to one that its host makes wait,
//   it is waited for longer for some time afterwards. Nobody is given up unless another one, that
//   lives, has the same state to give.
// - A missing vote is pulled from the ring predecessor first, then the proposal is repeated.
// - A ring member whose votes stay out is left out of the route of later proposals.
// - A change of members is a value; nothing is proposed past it before all up to it is decided, and
//   Phase 1 is then run anew among the new members (membership.h). It goes ahead of commands that
//   wait for a learner, into what the acceptors keep for that, but outruns no learner either.
// - It is never silent for longer than it said it would be (election.h), unless it resigns: when no
//   majority answers, though it is perhaps heard. That an acceptor's log is full is an answer:
//   mostly another coordinator would get no other, and each new ballot fills the logs that are not.
//   So it stays, for twice as long each time.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "consensus/acceptor.h"
#include "consensus/membership.h"
#include "consensus/submit_streams.h"

namespace annulus::consensus {

struct CoordinatorOptions {
  std::uint32_t window = 256;            // undecided instances, a power of two
  std::uint32_t learner_window = 1'024;  // instances a learner can hold undelivered
  std::uint32_t fragment_bytes = 1'200;
  std::uint64_t fingerprint = 0;
  SubmitOptions submit;
  Nanos heartbeat = 20 * kMillisecond;  // longest silence of an idle coordinator
};

enum class CoordinatorCounter : std::uint8_t {
  kElectionsStarted,
  kElectionsWon,
  kSteppedDown,
  kResigned,  // no majority answered
  kRefused,   // answers of acceptors that cannot accept: their logs are full
  kProposals,
  kDecided,
  kDecidedBySpare,        // a vote came from outside the ring
  kDecisionsPiggybacked,  // told by a proposal
  kDecisionsFlushed,      // told by a message of their own
  kHeartbeats,
  kVotesPulled,
  kProposalsRepeated,
  kRerouted,  // the ring was led around a silent member
  kWindowFull,
  kCreditBlocked,
  kLearnersLeft,     // the credit set
  kLearnersBack,     // in it
  kLearnersAwaited,  // moved again, and proposals with them, a little slower, until they are near
  kLearnersGone,     // nobody waits for them any more
  kValuesRecovered,
  kHolesFilled,
  kValuesPulled,
  kMembersChanged,
  kPhase1Unknown,  // a majority has promised, but what it accepted is unknown where logs are
                   // damaged
  kDropStaleVote,
  kDropMismatchedVote,
  kDropTooFarBehind,
  kCount,
};

class Coordinator {
 public:
  Coordinator(const Configuration& configuration, std::uint32_t self,
              const CoordinatorOptions& options, Acceptor& acceptor,
              dataplane::BufferPool& assembly_pool);

  /// Its place among the acceptors, when a node starts.
  void set_self(std::uint32_t self) { self_ = self; }
  /// Starts Phase 1 with a ballot above every one seen.
  void start(Nanos now, Effects& effects);
  bool active() const { return state_ == State::kActive; }
  bool idle() const { return state_ == State::kIdle; }
  Ballot ballot() const { return ballot_; }
  /// Of any coordinator, as far as heard.
  Ballot highest_seen() const { return highest_seen_; }

  /// Another coordinator's ballot was seen: a higher one ends this coordinator's term.
  void observe(Ballot ballot);
  /// Falls silent, for others to elect one that can do better.
  void resign();

  void on_submit(const Received& in, Nanos now);
  /// Counts the promise and the votes of the node's own acceptor that have become durable.
  void on_durable(Nanos now, Effects& effects);
  void on_phase1b(const Received& in, Nanos now, Effects& effects);
  void on_phase2b(const Received& in, Nanos now);
  /// An acceptor has promised to another, or cannot accept.
  void on_reject(const Received& in, Nanos now);
  void on_value(const Received& in, Nanos now, Effects& effects);
  /// Proposes the change, if it is allowed. It may still come to nothing when another coordinator
  /// takes over: whoever wants it asks again, by the same operation id.
  ChangeVerdict change(const Change& change, Nanos now);
  /// The node's configuration has changed from `before`, and this acceptor's place to `self`.
  /// Whoever decided that goes on under the new one; needs room for Effects::kPerStepMax frames.
  void on_configuration(const Configuration& before, std::uint32_t self, Nanos now,
                        Effects& effects);

  /// A learner's progress, as an acceptor passes it on.
  void on_credit(std::uint32_t learner, std::uint64_t epoch, Instance delivered_below, Nanos now);
  /// A learner's own report: shows that it lives, even without progress.
  /// `holds_state`: of all before `delivered_below`; others can have it from there.
  void on_learner_status(std::uint32_t learner, std::uint64_t epoch, Instance delivered_below,
                         bool holds_state, Nanos now);

  /// Proposes what may be proposed, tells decisions, acknowledges. Once per burst.
  void flush(Nanos now, Effects& effects);
  /// `heard`: all that has arrived was read. Until then nothing is taken for lost, and nobody for
  /// silent.
  void tick(Nanos now, Effects& effects, bool heard = true);
  Nanos deadline() const { return deadline_; }

  Instance decided_below() const { return decided_below_; }
  Instance next_instance() const { return next_; }
  dataplane::Counters<CoordinatorCounter>& counters() { return counters_; }
  dataplane::Counters<SubmitCounter>& submit_counters() { return streams_.counters(); }
  /// From a value's first frame to its decision.
  const dataplane::Histogram& ordered_ns() const { return ordered_ns_; }

 private:
  enum class State : std::uint8_t { kIdle, kPhase1, kCollecting, kActive };

  struct Slot {
    Value value;
    Slice bytes;
    AcceptorSet votes{};
    Nanos received = 0;
    Nanos proposed = 0;
    Nanos repeat_at = 0;
    std::uint32_t repeats = 0;
    bool decided = false;
  };
  struct Recovered {
    Instance instance{};
    Ballot ballot{};
    Assembly assembly;
    std::uint32_t holder = 0;  // an acceptor that reported it
    AcceptorSet listed{};      // all that reported an accept
  };
  enum class Standing : std::uint8_t {
    kGone,      // not waited for
    kTrailing,  // waited for before the acceptors forget what it needs, and to come near
    kInSet,     // waited for before its window overflows
  };
  /// Whether a learner has the state of before `delivered_below`: as it said itself last.
  enum class StateOf : std::uint8_t { kUnknown, kHeld, kLacking };
  static constexpr std::uint64_t kUnbounded = ~std::uint64_t{0};
  /// Times are by attention_.
  struct Learner {
    LearnerPlace place;
    StateOf state = StateOf::kUnknown;
    Standing standing = Standing::kGone;
    std::uint64_t reach = kUnbounded;  // trailing: how far ahead of it proposals may get
    std::uint64_t steps = 0;           // that it took since reach became less
    Nanos progressed = 0;              // or since when it has something to deliver
    Nanos heard = 0;                   // of it, by whomever
    Nanos stated = 0;                  // `state`, by itself
    WorstDelay silences{0, kSecond};   // but for those it was given up for
    bool given_up = false;             // and has not come near since
    Nanos returned = 0;                // when it was heard again
    Nanos spared_until = 0;            // that long it is not given up for a mere silence
    Nanos hopeless = 0;                // since when it would be given up; 0: it is not to be
  };

  Slot& slot(Instance instance) { return slots_[raw(instance) & (slots_.size() - 1)]; }
  Recovered& recovered(Instance instance) {
    return recovered_[raw(instance) & (recovered_.size() - 1)];
  }
  const Recovered& recovered(Instance instance) const {
    return recovered_[raw(instance) & (recovered_.size() - 1)];
  }
  void retire();
  void begin_phase1(Nanos now, Effects& effects);
  bool propose_change(Nanos now, Effects& effects);
  void send_phase1a(Nanos now, Effects& effects);
  void retry_phase1(Nanos now, Effects& effects);
  void merge(Instance instance, Ballot ballot, const Value& value, std::uint32_t holder);
  void count_promise(std::uint32_t acceptor, Nanos now, Effects& effects);
  void merge_own();
  bool enough_know(Instance instance) const;
  bool accepts_known() const;
  void count_own_votes(Nanos now);
  void finish_phase1(Nanos now, Effects& effects);
  void collect(Nanos now, Effects& effects);
  void propose_all(Nanos now, Effects& effects);
  /// False, with nothing proposed, if the node's own acceptor does not accept.
  bool propose(const Value& value, const Slice& bytes, Nanos received, Nanos now, Effects& effects);
  void send_proposal(Instance instance, const Slot& slot, bool repeated, Nanos now,
                     Effects& effects);
  bool ring_whole(Nanos now) const;
  void note_voters(const Phase2BEntry& entry);
  void note_broken(Nanos now);
  void add_votes(Instance instance, AcceptorSet votes, Nanos now);
  void note_decided(const Slot& slot, Nanos now);
  void reroute();
  void advance_decided(Nanos now);
  void tell_decisions(Nanos now, Effects& effects);
  void send_decision(bool repeated, Nanos now, Effects& effects);
  void repeat_undecided(Nanos now, Effects& effects);
  bool stays(const Slot& slot, Nanos now);
  void pull_votes(Nanos now, Effects& effects);
  void note_heard(Learner& learner, Nanos now);
  void note_moved(Learner& learner, const LearnerPlace& before, Nanos now);
  void wait_again();
  Instance credit_below(const Learner& learner) const;
  Instance credit_below() const;
  Instance change_below() const;
  bool replica_goes() const;
  bool waits_for(std::size_t learner) const;
  void await_learners(Nanos now);
  void await(Learner& learner, Nanos now);
  void leave_behind(Learner& learner, Instance front);
  bool within_memory(const Learner& learner) const;
  bool lost(Instance delivered_below) const;
  bool hopeless(Learner& learner, Nanos now) const;
  Nanos idle_time(const Learner& learner, Nanos now) const;
  void trail(Learner& learner);
  void pace(Learner& learner, std::uint64_t progress);
  Decided decided() const { return {ballot_, from_, decided_below_}; }
  Nanos learner_stall() const;
  Nanos silence(const Learner& learner, Nanos now) const;
  Nanos patience(const Learner& learner, Nanos now) const;
  std::size_t place_of(const Learner& learner) const {
    return static_cast<std::size_t>(&learner - learners_.data());
  }
  bool has_state(const Learner& learner, Nanos since, Nanos now) const;
  bool replaceable(const Learner& learner, Nanos since, Nanos now) const;
  bool covered(const Learner& learner, Nanos since, Nanos now) const;
  bool may_go(const Change& change, Nanos now) const;
  void note_near(Learner& learner);
  void note_debtors(Nanos now);
  void greet_learners(Nanos now);
  bool own_promise_counted() const { return (raw(promises_) >> self_ & 1) != 0; }
  void schedule(Nanos at) { deadline_ = at < deadline_ ? at : deadline_; }
  NodeId self_id() const { return configuration_.acceptors[self_].id; }

  const Configuration& configuration_;
  std::uint32_t self_;
  const CoordinatorOptions options_;
  Acceptor& acceptor_;
  dataplane::BufferPool& pool_;
  SubmitStreams streams_;

  State state_ = State::kIdle;
  Ballot ballot_{};
  Ballot highest_seen_{};
  Route route_;
  std::array<std::uint32_t, kAcceptorsMax> silent_{};  // decided in a row without its vote
  // Times are by attention_, 0 for never.
  std::array<Nanos, kAcceptorsMax> refused_at_{};
  Nanos in_vain_since_ = 0;  // in this term
  static constexpr Nanos kStayFirst = kSecond;
  Nanos stay_ = kStayFirst;                  // so long in vain at most, this time
  Instance from_ = kFirstInstance;           // first instance of this ballot
  Instance next_ = kFirstInstance;           // next to propose
  Instance decided_below_ = kFirstInstance;  // contiguous
  Instance told_below_ = kFirstInstance;
  Instance own_next_ = kFirstInstance;  // next whose own vote is to be counted
  static constexpr Instance kNoBarrier{~std::uint64_t{0}};
  Instance barrier_ = kNoBarrier;  // nothing is proposed from here on: members change
  std::optional<Change> wanted_;
  std::vector<Slot> slots_;

  // Phase 1.
  AcceptorSet promises_{};
  struct Parts {
    std::uint64_t answer = 0;
    std::uint64_t seen = 0;
  };
  std::array<Parts, kAcceptorsMax> parts_{};
  std::array<InstanceRange, kAcceptorsMax> unknown_{};  // see Phase1B
  std::vector<Recovered> recovered_;
  Instance recovered_below_ = kFirstInstance;
  Nanos phase1_retry_at_ = kNever;
  std::uint32_t collect_rounds_ = 0;

  // Timers.
  Nanos deadline_ = kNever;
  QuantileEstimate vote_delay_;
  Nanos last_proposed_ = 0;
  Nanos proposal_gap_ = kSecond;  // running mean of the time between proposals
  Nanos tell_by_ = kNever;
  Nanos heartbeat_at_ = kNever;
  Nanos heartbeat_gap_ = kBusySilence / 2;
  std::array<Instance, kAcceptorsMax> voted_below_{};  // by acceptor; see ring_whole()
  Nanos broken_until_ = 0;
  Nanos broken_for_ = 0;
  Attention attention_;
  bool blocked_ = false;  // a learner's credit keeps values from being proposed
  bool proposed_this_burst_ = false;

  std::array<Learner, kLearnersMax> learners_{};
  Nanos return_time_ = 160 * kMillisecond;  // of learners that were given up; running mean
  dataplane::Counters<CoordinatorCounter> counters_;
  dataplane::Histogram ordered_ns_;
};

}  // namespace annulus::consensus
