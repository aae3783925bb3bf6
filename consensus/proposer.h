// Proposer role: the values of one client or proxy on their way into the order. Sends them to the
// coordinator in sequence, within its credit, repeats what is late or missing, follows redirects,
// and asks other replicas when a reply is late. Pure: messages and time in, effects out.
#pragma once

#include <cstdint>
#include <vector>

#include "consensus/effects.h"
#include "consensus/latency.h"
#include "consensus/messages.h"
#include "consensus/ring.h"
#include "dataplane/counters.h"

namespace annulus::consensus {

struct ProposerOptions {
  NodeId node = kNoNode;
  std::uint64_t epoch = 0;
  PartitionMask partitions = kAllPartitions;  // learners that hold all of these may answer
  std::uint32_t window = 64;                  // values outstanding; a power of two
  std::uint32_t credit_first = 16;        // values past the last answered one that need no credit
  std::uint32_t frame_bytes_max = 1'252;  // of the transport
  Nanos retransmit_after = 20 * kMillisecond;  // until delays have been measured
  bool client_server = false;                  // values go to the first learner, which replies
};

enum class ProposerCounter : std::uint8_t {
  kProposed,
  kReplied,
  kAbandoned,      // given up unanswered
  kRetransmitted,  // values sent again because their time was up
  kGapResent,      // values sent again because the coordinator lacked them
  kRedirected,     // another coordinator was named
  kTargetSilent,   // nothing was heard for long: from then on one value goes on trying
  kProbes,         // other acceptors asked who coordinates
  kQueries,        // replicas asked for a late reply
  kOvertaken,      // values asked for because later ones were answered
  kSlow,           // values that took long: those asked for them were no sooner
  kSuspected,      // replicas whose reply was late
  kDropAckStale,   // SubmitAck of another epoch, or not from whom we send to
  kCount,
};

class Proposer {
 public:
  Proposer(const ProposerOptions& options, const Configuration& configuration);

  /// Whether propose() may be called: window and credit allow one more. A few values may always be
  /// outstanding, since credit comes only in answer to values.
  bool can_propose() const {
    return next_ - oldest_ <= mask_ && (next_ < limit_ || next_ < oldest_ + options_.credit_first);
  }
  /// The sequence that the next value must bear.
  std::uint64_t next_sequence() const { return next_; }
  /// The learner that should answer the next value: in turn, those that have not been late.
  std::uint16_t next_replier(Nanos now);

  /// Sends a value: `value.id` is (node, epoch, next_sequence()). Needs can_propose() and room for
  /// Effects::kPerStepMax frames.
  void propose(const Value& value, Slice bytes, std::uint16_t replier, Nanos now, Effects& effects);

  /// `from` is the sender of the frame. Needs room for kPerStepMax frames.
  void on_submit_ack(NodeId from, const SubmitAck& ack, Nanos now, Effects& effects);

  /// What its configuration refers to has changed from `before`.
  void on_configuration(const Configuration& before, Nanos now);

  /// Something of the value was answered by `replica`, perhaps once it was done: the replica is
  /// alive, and the value was ordered, as were those before it, unless a new coordinator lost them.
  void on_reply(std::uint64_t sequence, std::uint16_t replica, Nanos now);

  /// The value is answered in full.
  void on_replied(std::uint64_t sequence, Nanos now);

  /// Nobody waits for the value any more. It is still repeated while an older one is outstanding,
  /// because the coordinator orders without gaps.
  void abandon(std::uint64_t sequence);

  /// Neither answered nor abandoned.
  bool outstanding(std::uint64_t sequence) const {
    return sequence >= oldest_ && sequence < next_ && !at(sequence).done;
  }
  /// An outstanding value was sent more than once. Two coordinators may each have ordered it.
  bool repeated(std::uint64_t sequence) const { return at(sequence).repeated; }
  std::uint32_t outstanding() const { return static_cast<std::uint32_t>(next_ - oldest_); }
  /// Replicas that can answer.
  std::uint32_t answerers() const { return static_cast<std::uint32_t>(answerers_.size()); }
  /// How often replicas were asked for the replies of an outstanding value.
  std::uint32_t queries(std::uint64_t sequence) const { return at(sequence).queries; }

  /// Repeats what is due, as far as `effects` has room. Call once all input was read, so that an
  /// answer that is already here stops a timer. Returns when to call again.
  Nanos poll(Nanos now, Effects& effects);

  /// Whom values go to.
  NodeId target() const;
  const dataplane::Counters<ProposerCounter>& counters() const { return counters_; }

 private:
  struct Outstanding {
    Value value;
    Slice bytes;
    Nanos first_sent = 0;
    Nanos last_sent = 0;
    Nanos due = kNever;
    Nanos overtaken_at = kNever;  // when it was seen that one sent later was answered
    Nanos asked = 0;              // when a replica was last asked for the reply
    Nanos answer_by = 0;          // when that one has usually answered
    std::uint16_t replier = 0;
    std::uint16_t queries = 0;
    std::uint16_t timeouts = 0;
    bool done = true;        // answered or abandoned
    bool own_reply = false;  // of the replier
    bool repeated = false;
    bool unsent = false;  // to the present target
  };

  Outstanding& at(std::uint64_t sequence) { return values_[sequence & mask_]; }
  const Outstanding& at(std::uint64_t sequence) const { return values_[sequence & mask_]; }
  bool received(std::uint64_t sequence) const { return sequence < received_below_; }
  Endpoint target_endpoint() const;
  template <typename M>
  void send_fragments(const Endpoint& to, MessageType type, M message, const Outstanding& value,
                      Effects& effects);
  void send_submit(Outstanding& value, Nanos now, Effects& effects);
  void send_query(Outstanding& value, Nanos now, Effects& effects);
  void suspect(std::uint16_t replica, Nanos now);
  /// Of those that can answer, `but` not if there is another.
  std::uint16_t last_heard(std::uint16_t but) const;
  void on_time_up(Outstanding& value, Nanos now, Effects& effects);
  void on_own_reply(Outstanding& value, Nanos now);
  Nanos overtaken_patience(std::uint16_t replier) const;
  void hasten_overtaken(Nanos now);
  std::uint64_t speaker() const;
  void probe(Outstanding& value, Effects& effects);
  /// Nothing was heard for long: one value tries, with probes, until somebody answers.
  bool target_silent() const;
  void on_heard();
  void switch_target(std::uint32_t acceptor, Nanos now);
  void forget_received(std::uint64_t sequence, Nanos now);
  void find_answerers();
  void schedule(Outstanding& value, Nanos due);
  static void release(Outstanding& value);
  Nanos patience() const { return 2 * reply_delay_.p99(); }
  Nanos backoff(const Outstanding& value) const;

  const ProposerOptions options_;
  const Configuration& configuration_;
  const std::uint32_t fragment_bytes_;
  const std::uint64_t mask_;
  std::vector<Outstanding> values_;  // by sequence
  std::uint64_t oldest_ = 1;
  std::uint64_t next_ = 1;
  std::uint64_t limit_ = 0;           // as told by the present target
  std::uint64_t received_below_ = 1;  // as told by it, or shown by a reply
  Ballot ballot_{};                   // whose coordinator is the target
  Ballot highest_{};                  // heard of
  std::uint32_t target_ = 0;          // acceptor index of its coordinator
  std::uint32_t probes_ = 0;
  std::uint32_t silent_ = 0;   // the speaker's timeouts since anything was heard
  std::uint32_t unheard_ = 0;  // and since the target answered as the present ballot's coordinator
  bool resume_ = false;        // after silence something was heard: all is sent again
  std::uint32_t replier_ = 0;
  std::array<Nanos, kLearnersMax> suspected_until_{};  // by learner; 0: it is not
  std::array<Nanos, kLearnersMax> suspected_for_{};    // each time, until it is tried
  std::array<Nanos, kLearnersMax> heard_at_{};
  std::vector<std::uint16_t> answerers_;  // learners that hold every partition concerned
  QuantileEstimate reply_delay_;
  Nanos reply_mean_;
  std::array<Nanos, kLearnersMax> lag_{};  // of its own replies behind later ones, mean
  Nanos late_at_ = 0;                      // when a reply was last counted as late
  std::uint64_t overtaken_below_ = 0;      // one sent later than all below was answered
  std::uint64_t hastened_ = 1;             // and all below are due as soon as that allows
  std::uint32_t slow_values_ = 0;          // doublings of overtaken_patience()
  Nanos slow_values_at_ = 0;               // when they changed
  Nanos next_due_ = kNever;
  dataplane::Counters<ProposerCounter> counters_;
};

}  // namespace annulus::consensus
