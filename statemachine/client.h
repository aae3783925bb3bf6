// Native client: sessions, pipelining, deadlines, retransmission, back-pressure. A stage of its
// own, for a poll loop; BlockingClient (blocking_client.h) wraps it for code that would rather
// wait.
//
// One core owns a client. Guaranteed: commands of one client are ordered as they were submitted,
// and a command that changes state is executed at most once. Not guaranteed: that a read repeated
// because its replica died still sees the state before the commands submitted after it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "consensus/port.h"
#include "consensus/proposer.h"
#include "consensus/ring.h"
#include "dataplane/stage.h"
#include "dataplane/transport.h"
#include "statemachine/batch.h"

namespace annulus::statemachine {

struct ClientOptions {
  std::uint64_t cluster = 0;
  std::uint16_t ring = 0;
  consensus::NodeId node = consensus::kNoNode;  // set for proxies the config lists
  std::uint64_t epoch = 0;                      // 0: 64 random bits from the system
  // What its commands concern; sessions concern all. A replica that holds all of it replies.
  consensus::PartitionMask partitions = consensus::kAllPartitions;
  std::uint32_t sessions_max = 64;
  std::uint32_t session_window_max = 1'024;  // a power of two, at most kSessionWindowMax
  std::uint32_t batch_commands = 50;         // a batch closes at this many commands,
  std::uint32_t batch_bytes = 56'000;        // or this many bytes,
  Nanos batch_wait = 20 * kMicrosecond;      // or this long after its first command; at once when
                                             // nothing is in flight
  std::uint32_t batches_in_flight = 64;
  std::uint32_t value_bytes_max = 65'536;
  std::uint64_t buffer_bytes = 128u << 20;     // for batches in flight; address space until used.
                                               // In-process transports hold sent batches by
                                               // reference until every node has let go of them
  std::uint64_t pinned_bytes = 0;              // and more, for what nodes that do not run any more
                                               // never let go of
  Nanos retransmit_after = 20 * kMillisecond;  // first; then adaptive (about twice the p99)
  Nanos deadline = 5 * kSecond;                // default for commands that set none
  Nanos keepalive = 20 * kSecond;              // a session without writes for so long is kept open
  bool client_server = false;  // no replication: batches go to the first learner itself
};

/// A session as its client sees it; an index, valid until closed.
enum class SessionHandle : std::uint32_t {};

enum class SessionState : std::uint8_t {
  kClosed,   // no such handle, or closed by its user
  kOpening,  // not ordered yet; retried until it is
  kReady,
  kExpired,  // the cluster no longer knows it: close the handle and open another
  kRefused,  // the cluster's session table is full: close the handle and try again later
};

/// The end of one command. `reply` is valid during the callback only.
struct Completion {
  std::uint64_t tag = 0;
  SessionHandle session{};
  CommandStatus status{};
  std::span<const std::byte> reply;
  Nanos latency = 0;  // from submit to reply
};

/// Receives completions, in bursts, from within Client::poll(). May submit from there.
class CompletionSink {
 public:
  virtual ~CompletionSink() = default;
  virtual void on_completions(std::span<const Completion> completions, Nanos now) = 0;
};

enum class SubmitOutcome : std::uint8_t {
  kAccepted,
  kSessionNotReady,  // still opening, expired or closed
  kWindowFull,       // the session has its window of commands outstanding
  kBusy,             // no batch can be started: the cluster pushes back. Poll, then try again
  kTooLarge,         // never fits: over value_bytes_max
};

enum class ClientCounter : std::uint8_t {
  kCommands,          // submitted
  kCompletions,       // answered
  kOutcomeUnknown,    // ended by their deadline
  kBatches,           // values proposed
  kBatchBytes,        // in them
  kReordered,         // batches proposed again under another id, because no replica could answer
  kKeepAlives,        // sent
  kSubmitBusy,        // submit() answered kBusy
  kSubmitWindowFull,  // submit() answered kWindowFull
  kReplyStreams,      // taken
  kReplyDropUnknown,  // replies for values that are not in flight (any more)
  kReplyDropMalformed,
  kReplyDropNoBuffer,    // too many long streams arriving at once
  kReplyDropUnwanted,    // entries for commands already answered
  kMessageDropUnwanted,  // messages that are not for clients
  kCount,
};

/// Over an in-process transport the cluster's nodes refer to the client's batches: destroy them
/// (and clear the switch) first.
class Client final : public dataplane::Stage {
 public:
  Client(const ClientOptions& options, const consensus::Configuration& configuration,
         dataplane::Transport& transport, CompletionSink& sink);
  ~Client() override;

  /// Asks the cluster for a session with at most `window` commands outstanding (a power of two, at
  /// most session_window_max), which keeps replies of up to `reply_bytes` for the case that one is
  /// lost with its replica. Ready once session_ready(); opening costs one ordered command.
  Result<SessionHandle> open_session(std::uint32_t window, std::uint32_t reply_bytes = 64);
  SessionState session_state(SessionHandle session) const;
  bool session_ready(SessionHandle session) const {
    return session_state(session) == SessionState::kReady;
  }
  /// Its commands outstanding still complete; the handle may be given out again after them.
  void close_session(SessionHandle session, Nanos now);

  /// Starts a command of `body_bytes`. On kAccepted, `body` is where to write the whole body before
  /// the next call of any member. `tag` comes back in the completion. `deadline` counts from now.
  SubmitOutcome submit(SessionHandle session, std::uint8_t service, std::uint8_t flags,
                       std::uint32_t body_bytes, std::uint64_t tag, Nanos now,
                       std::span<std::byte>& body, Nanos deadline = 0);

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "client"; }
  int wait_descriptor() const override;

  /// Touches all memory for batches. Pays where the transport is in-process, for that holds them
  /// until every node has let go of them; before the first poll().
  void touch_memory();
  std::uint32_t outstanding() const;  // commands without a completion

  const dataplane::Counters<ClientCounter>& counters() const;
  const dataplane::Counters<consensus::ProposerCounter>& proposer_counters() const;
  const dataplane::Counters<consensus::PortCounter>& port_counters() const;
  const dataplane::Histogram& latency() const;  // submit to reply, of answered commands
  void add_counters(dataplane::Registry& registry, const std::string& node);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace annulus::statemachine
