// The network stages of a node: a transport, a port and the roles behind it. AcceptorNode holds an
// acceptor and, beside it, a coordinator and an election; LearnerNode is a replica's side towards
// the network.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "consensus/acceptor.h"
#include "consensus/coordinator.h"
#include "consensus/delivery.h"
#include "consensus/election.h"
#include "consensus/learner.h"
#include "consensus/membership.h"
#include "consensus/port.h"
#include "consensus/state_receiver.h"
#include "consensus/state_source.h"
#include "dataplane/clock.h"
#include "dataplane/spsc_ring.h"
#include "dataplane/stage.h"

namespace annulus::consensus {

enum class NodeCounter : std::uint8_t {
  kRedirects,          // submits answered with the coordinator's name
  kDropNoCoordinator,  // submits to an acceptor that knows of no coordinator
  kDropNotForUs,       // a valid message that this kind of node does not handle
  kDropUnknownPeer,    // a sender that the configuration does not list
  kDropNoMember,       // received while without a place among the members
  kDropOtherEpoch,     // of Phase 1 or 2, from a node of another configuration
  kDropUnsettled,      // asked to vote before it knew all that was decided earlier
  kConfigurations,     // adopted
  kJoinsAsked,         // to be admitted
  kJoinsSeen,          // of others
  kChangesRefused,     // asked for, and not allowed
  kRepliesSent,
  kQueriesReceived,
  kDropQueryNoMemory,
  kProposalsSent,
  kDropProposal,           // no coordinator is known to send it to
  kDropQueryWithoutState,  // the replica is fetching its state
  kUpkeepCycles,  // of elections, heartbeats and repair: timers, and messages that serve these
  kCount,
};

/// Counts the cycles of a stretch of code as upkeep, if it `is` that: where nothing is due, not
/// even the counter of cycles is read.
class Upkeep {
 public:
  Upkeep(bool is, dataplane::Counters<NodeCounter>& counters)
      : counters_(counters), is_(is), begun_(is ? dataplane::cycles_now() : 0) {}
  Upkeep(const Upkeep&) = delete;
  Upkeep& operator=(const Upkeep&) = delete;
  ~Upkeep() {
    if (is_) counters_[NodeCounter::kUpkeepCycles].add(dataplane::cycles_now() - begun_);
  }

 private:
  dataplane::Counters<NodeCounter>& counters_;
  const bool is_;
  const std::uint64_t begun_;
};

struct AcceptorNodeOptions {
  PortIdentity identity;
  std::uint32_t value_bytes_max = 65'536;
  AcceptorOptions acceptor;
  CoordinatorOptions coordinator;
  /// Runs Phase 1 as soon as it is polled: one acceptor of a bootstrap, so that nobody has to be
  /// missed first.
  bool coordinate = false;
  /// 0: it is the member that the configuration lists, and knows all it said. Otherwise it is new,
  /// or has lost its promises and votes with its memory, and asks to be admitted under another
  /// identity (T5); a random number that no other start of a process has. Only the explicit
  /// bootstrap of a new cluster starts acceptors that speak at once.
  std::uint64_t incarnation = 0;
};

/// A node's place among the members.
enum class Standing : std::uint8_t {
  kMember,
  kJoining,       // asks to be admitted
  kRemoved,       // was a member, and is none any more: it only tells the others, as long as it
                  // runs, what it knows. Started again it is silent for good
  kMajorityLost,  // as kMember, but so many acceptors have lost their votes that nothing can be
                  // decided any more
};

class AcceptorNode final : public dataplane::Stage {
 public:
  /// With a log, the acceptor is durable, and starts from what the log recovered.
  AcceptorNode(const AcceptorNodeOptions& options, const Configuration& configuration,
               dataplane::Transport& transport, AcceptorLog* log = nullptr);

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "acceptor"; }
  /// None with a log, for what that has written wakes nobody.
  int wait_descriptor() const override {
    return log_ == nullptr ? port_.transport().wait_descriptor() : -1;
  }

  /// Touches the memory, of `bytes`, of values that came in several frames and are kept. Before the
  /// first poll.
  void touch_memory(std::uint64_t bytes) { pool_.touch(options_.acceptor.retain, bytes); }

  /// Makes this node run Phase 1 at its next poll.
  void start_election() { start_election_ = true; }

  /// Asks the coordinator, whoever that is, for a change of members: again until the configuration
  /// has it. One thread at a time; false while it is still at the last one.
  bool ask_change(const Change& change);

  /// Its log failed: it says nothing any more. Any thread.
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  /// Any thread.
  Standing standing() const { return standing_.load(std::memory_order_relaxed); }
  /// Any thread: the configuration as encode() writes it.
  const ConfigurationBoard& board() const { return board_; }
  bool settled() const { return settled_.load(std::memory_order_relaxed); }
  /// Its log may not have room for another value.
  bool log_full() const;

  const Acceptor& acceptor() const { return acceptor_; }
  std::uint32_t epoch() const { return configuration_.epoch; }
  const Coordinator& coordinator() const { return coordinator_; }
  void add_counters(dataplane::Registry& registry, const std::string& node);
  /// Bytes of all pools and tables, as a sum with its terms.
  static std::string memory_plan(const AcceptorNodeOptions& options);

 private:
  void handle(const Received& in, Nanos now);
  void take(const Received& in, Nanos now);
  bool is_upkeep(const Received& in) const;
  void keep_up(bool heard, Nanos now);
  Nanos deadline() const;
  void drain(Nanos now);
  bool poll_log(Nanos now);
  Nanos submit_log(Nanos now);
  bool member() const {
    return standing() == Standing::kMember || standing() == Standing::kMajorityLost;
  }
  /// It speaks as somebody: as a member, or as the one it was until it was taken out.
  bool named() const { return port_.identity().node != kNoNode; }
  static bool concerns_votes(MessageType type);
  bool may_vote(const Received& in, Nanos now);
  bool passes_over(const Received& in, Nanos now);
  void adopt(const Configuration& next, Nanos now);
  void adopt_chosen(Nanos now);
  void keep_adopted(Nanos now);
  void carry_out(const Configuration& next, Nanos now);
  void take_place();
  void begin_membership(Nanos now);
  void on_configuration_news(const Received& in, Nanos now);
  Nanos poll_stranger(Nanos now);
  void on_join(const Received& in, Nanos now);
  void note_lost(const Endpoint& endpoint, Nanos now);
  void note_candidate(const Received& in, Nanos now);
  void on_change(Change change, Nanos now);
  void forward_change(Nanos now);
  void elect(Nanos now);
  void on_phase1a(const Received& in, Nanos now);
  void on_decision(const Received& in, Nanos now);
  void on_pull(const Received& in, Nanos now);
  void on_submit(const Received& in, Nanos now);
  void on_learner_status(const Received& in, Nanos now);

  Configuration configuration_;
  const AcceptorNodeOptions options_;
  std::uint32_t self_;  // as long as it is a member
  dataplane::BufferPool pool_;
  Port port_;
  Backlog backlog_;
  Acceptor acceptor_;
  Coordinator coordinator_;
  Election election_;
  Effects effects_;
  AcceptorLog* const log_;  // null: votes live in memory
  LogProgress progress_;
  std::atomic<bool> failed_{false};  // only ever becomes true: nothing is published through it
  bool start_election_;

  // Membership.
  std::atomic<Standing> standing_;         // told to other threads; nothing is published through it
  std::atomic<bool> settled_{false};       // likewise
  std::optional<Configuration> newer_;     // heard of, and not all that was decided before it
  std::optional<Configuration> adopting_;  // once it is durable
  bool kept_ = false;                      // it was given to the log
  ConfigurationNews news_;
  ConfigurationBoard board_;
  std::uint64_t incarnation_ = 0;
  Nanos join_at_ = 0;
  struct Lost {
    Endpoint endpoint;  // of a member that asked to be admitted anew
    Nanos heard = 0;
  };
  std::array<Lost, kAcceptorsMax> lost_{};
  /// Asked to be admitted, and are no members: an operator's change may name them.
  struct Candidate {
    Endpoint endpoint;
    std::uint64_t incarnation = 0;
    JoinKind kind{};
    Nanos heard = 0;
  };
  std::array<Candidate, 8> candidates_{};
  dataplane::SpscRing<Change> changes_{2};  // from ask_change()
  Nanos change_at_ = kNever;
  dataplane::Counters<NodeCounter> counters_;
};

struct LearnerNodeOptions {
  PortIdentity identity;
  std::uint32_t value_bytes_max = 65'536;
  LearnerOptions learner;
  SubmitOptions submit;  // client-server mode only
  /// No replication: values come straight from clients and are executed as they arrive.
  bool client_server = false;
  StateSourceOptions source;
  StateReceiverOptions receiver;
};

class LearnerNode final : public dataplane::Stage {
 public:
  /// The rings that join it to its worker: `deliveries` leads there, the others come back.
  struct Rings {
    dataplane::SpscRing<Delivery>& deliveries;
    dataplane::SpscRing<ReplyFrame>& replies;
    dataplane::SpscRing<Proposal>& proposals;
    StateExchange* state = nullptr;  // null: state is neither given nor taken
  };
  LearnerNode(const LearnerNodeOptions& options, const Configuration& configuration,
              dataplane::Transport& transport, const Rings& rings);

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "learner"; }
  int wait_descriptor() const override { return port_.transport().wait_descriptor(); }

  const Learner& learner() const { return learner_; }
  /// All that it has learned is with the worker, or on its way there.
  bool current() const { return transfer_ == nullptr || transfer_->receiver.current(); }
  /// The members do not list it any more: it says nothing, and executes nothing. Any thread.
  bool removed() const { return removed_.load(std::memory_order_relaxed); }
  void add_counters(dataplane::Registry& registry, const std::string& node);
  static std::string memory_plan(const LearnerNodeOptions& options);

 private:
  struct PendingQuery {
    Assembly assembly;
    std::uint64_t used = 0;  // turn of last use; the longest unused one is given up first
  };
  static constexpr std::uint32_t kQueriesMax = 16;
  struct Transfer {
    StateSource source;
    StateReceiver receiver;
  };

  void handle(const Received& in, Nanos now);
  void on_query(const Received& in, Nanos now);
  std::uint32_t send_replies(Nanos now, std::uint32_t budget);
  void send_proposals(Nanos now);
  std::uint32_t deliver(Nanos now);
  void adopt(const Configuration& next);
  std::uint32_t poll_removed(Nanos now);
  bool next_learned(Delivery& delivery);
  std::uint32_t deliver_directly(std::uint32_t room);
  bool on_state_message(const Received& in, Nanos now);
  std::unique_ptr<Transfer> make_transfer();
  Nanos tick_transfer(Nanos now, bool heard);
  void add_transfer_counters(dataplane::Registry& registry, const std::string& node);
  static std::string transfer_memory_plan(const LearnerNodeOptions& options);
  std::uint32_t ask_worker(Nanos now);
  std::uint32_t keep_learned();

  const LearnerNodeOptions options_;
  Configuration configuration_;
  ConfigurationNews news_;
  const std::uint32_t self_;
  std::atomic<bool> removed_{false};  // only ever becomes true: nothing is published through it
  dataplane::BufferPool pool_;
  Port port_;
  Backlog backlog_;
  Learner learner_;
  SubmitStreams direct_;
  Instance direct_next_ = kFirstInstance;
  std::array<PendingQuery, kQueriesMax> queries_;
  std::uint64_t query_turn_ = 0;
  const Rings rings_;
  std::unique_ptr<Transfer> transfer_;  // null without an exchange
  Effects effects_;
  dataplane::Counters<NodeCounter> counters_;
};

}  // namespace annulus::consensus
