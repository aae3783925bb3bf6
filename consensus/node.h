// The network stages of a node: a transport, a port and the roles behind it. AcceptorNode holds an
// acceptor and, beside it, a coordinator and an election; LearnerNode is a replica's side towards
// the network.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "consensus/acceptor.h"
#include "consensus/coordinator.h"
#include "consensus/delivery.h"
#include "consensus/election.h"
#include "consensus/learner.h"
#include "consensus/port.h"
#include "dataplane/spsc_ring.h"
#include "dataplane/stage.h"

namespace annulus::consensus {

enum class NodeCounter : std::uint8_t {
  kRedirects,          // submits answered with the coordinator's name
  kDropNoCoordinator,  // submits to an acceptor that knows of no coordinator
  kDropNotForUs,       // a valid message that this kind of node does not handle
  kDropUnknownPeer,    // a sender that the configuration does not list
  kDropMute,           // received while mute
  kRepliesSent,
  kQueriesReceived,
  kDropQueryNoMemory,
  kProposalsSent,
  kDropProposal,  // no coordinator is known to send it to
  kCount,
};

struct AcceptorNodeOptions {
  PortIdentity identity;
  std::uint32_t value_bytes_max = 65'536;
  AcceptorOptions acceptor;
  CoordinatorOptions coordinator;
  /// Runs Phase 1 as soon as it is polled: one acceptor of a bootstrap, so that nobody has to be
  /// missed first.
  bool coordinate = false;
  /// A memory acceptor that was started again has lost its promises and votes, and stays silent
  /// (T5). Only the explicit bootstrap of a new cluster starts acceptors that speak.
  bool mute = false;
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

  /// Makes this node run Phase 1 at its next poll.
  void start_election() { start_election_ = true; }

  /// Its log failed: it says nothing any more. Any thread.
  bool failed() const { return failed_.load(std::memory_order_relaxed); }

  const Acceptor& acceptor() const { return acceptor_; }
  const Coordinator& coordinator() const { return coordinator_; }
  void add_counters(dataplane::Registry& registry, const std::string& node);
  /// Bytes of all pools and tables, as a sum with its terms.
  static std::string memory_plan(const AcceptorNodeOptions& options);

 private:
  void handle(const Received& in, Nanos now);
  void drain(Nanos now);
  bool poll_log(Nanos now);
  bool mute() const;
  bool log_full() const;
  void elect(Nanos now);
  void on_phase1a(const Received& in, Nanos now);
  void on_submit(const Received& in, Nanos now);
  void on_learner_status(const Received& in, Nanos now);

  const Configuration& configuration_;
  const AcceptorNodeOptions options_;
  const std::uint32_t self_;
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
  dataplane::Counters<NodeCounter> counters_;
};

struct LearnerNodeOptions {
  PortIdentity identity;
  std::uint32_t value_bytes_max = 65'536;
  LearnerOptions learner;
  SubmitOptions submit;  // client-server mode only
  /// No replication: values come straight from clients and are executed as they arrive.
  bool client_server = false;
};

class LearnerNode final : public dataplane::Stage {
 public:
  /// The rings that join it to its worker: `deliveries` leads there, the others come back.
  struct Rings {
    dataplane::SpscRing<Delivery>& deliveries;
    dataplane::SpscRing<ReplyFrame>& replies;
    dataplane::SpscRing<Proposal>& proposals;
  };
  LearnerNode(const LearnerNodeOptions& options, const Configuration& configuration,
              dataplane::Transport& transport, const Rings& rings);

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "learner"; }
  int wait_descriptor() const override { return port_.transport().wait_descriptor(); }

  const Learner& learner() const { return learner_; }
  void add_counters(dataplane::Registry& registry, const std::string& node);
  static std::string memory_plan(const LearnerNodeOptions& options);

 private:
  struct PendingQuery {
    Assembly assembly;
    std::uint64_t used = 0;  // turn of last use; the longest unused one is given up first
  };
  static constexpr std::uint32_t kQueriesMax = 16;

  void handle(const Received& in, Nanos now);
  void on_query(const Received& in, Nanos now);
  std::uint32_t send_replies(Nanos now, std::uint32_t budget);
  void send_proposals(Nanos now);
  std::uint32_t deliver(Nanos now);

  const LearnerNodeOptions options_;
  const Configuration& configuration_;
  const std::uint32_t self_;
  dataplane::BufferPool pool_;
  Port port_;
  Backlog backlog_;
  Learner learner_;
  SubmitStreams direct_;
  Instance direct_next_ = kFirstInstance;
  std::array<PendingQuery, kQueriesMax> queries_;
  std::uint64_t query_turn_ = 0;
  const Rings rings_;
  Effects effects_;
  dataplane::Counters<NodeCounter> counters_;
};

}  // namespace annulus::consensus
