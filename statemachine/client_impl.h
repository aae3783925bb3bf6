// The client's inside: the batch being filled, the values in flight, and their ends. See client.h.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "consensus/membership.h"
#include "consensus/port.h"
#include "consensus/proposer.h"
#include "statemachine/block_arena.h"
#include "statemachine/client.h"
#include "statemachine/client_sessions.h"
#include "statemachine/reply_assembly.h"

namespace annulus::statemachine {

class Client::Impl {
 public:
  Impl(const ClientOptions& options, const consensus::Configuration& configuration,
       dataplane::Transport& transport, CompletionSink& sink);

  Result<SessionHandle> open_session(std::uint32_t window, std::uint32_t reply_bytes);
  void close_session(SessionHandle handle);
  SessionState session_state(SessionHandle handle) const;
  SubmitOutcome submit(SessionHandle handle, std::uint8_t service, std::uint8_t flags,
                       std::uint32_t body_bytes, std::uint64_t tag, Nanos now,
                       std::span<std::byte>& body, Nanos deadline);
  dataplane::PollResult poll(Nanos now, std::uint32_t budget);

  void touch_memory() { arena_.touch(options_.buffer_bytes); }
  std::uint32_t outstanding() const { return outstanding_; }
  const dataplane::Transport& transport() const { return transport_; }
  const dataplane::Counters<ClientCounter>& counters() const { return counters_; }
  const consensus::Proposer& proposer() const { return proposer_; }
  const dataplane::Counters<consensus::PortCounter>& port_counters() { return port_.counters(); }
  const dataplane::Histogram& latency() const { return latency_; }

 private:
  enum class Kind : std::uint8_t { kCommand, kOpen, kClose, kKeepAlive };

  /// A command on its way.
  struct Pending {
    std::uint64_t tag = 0;
    std::uint64_t sequence = 0;  // in its session
    Nanos submitted = 0;
    Nanos deadline = 0;
    std::uint32_t session = 0;
    Kind kind{};
    bool done = false;
  };
  /// A value in flight, or the batch being filled. Its place follows from its sequence.
  struct Batch {
    std::uint64_t sequence = 0;
    std::uint32_t count = 0;
    std::uint32_t left = 0;   // commands not done
    bool reordered = false;   // its commands may have been ordered before, in another value
    Nanos deadline = kNever;  // the earliest of its commands'
    dataplane::Slice bytes;
    std::vector<Pending> commands;
  };

  Batch& at(std::uint64_t sequence) { return batches_[sequence & (batches_.size() - 1)]; }
  Batch& filling() { return at(proposer_.next_sequence()); }

  bool begin_batch(std::size_t in_flight_max, Nanos now);
  bool make_room(std::uint32_t bytes, Nanos now);
  Pending* append(const CommandHeader& header, std::span<std::byte>& body);
  bool batch_due(Nanos now) const;
  void propose_batch(Nanos now);

  std::uint32_t receive(Nanos now, std::uint32_t budget, bool& drained);
  void adopt(const consensus::Received& in, Nanos now);
  void on_reply(const consensus::Received& in, Nanos now);
  void take_stream(const consensus::Reply& message, std::span<const std::byte> stream, Nanos now);
  void finish(Batch& batch, Pending& pending, CommandStatus status,
              std::span<const std::byte> reply, Nanos now);
  void finish_own(const Pending& pending, CommandStatus status, std::span<const std::byte> reply);
  void hand_over(Nanos now);

  void check_deadlines(Nanos now);
  void expire(Batch& batch, Nanos now);
  void check_unanswered(Nanos now);
  void reorder(Batch& batch, Nanos now);
  void send_session_commands(Nanos now);
  bool send_own(std::uint32_t index, Kind kind, std::span<const std::byte> body, Nanos now);
  void keep_sessions_alive(Nanos now);

  const ClientOptions options_;
  dataplane::Transport& transport_;
  CompletionSink& sink_;
  consensus::Configuration configuration_;
  consensus::ConfigurationNews news_;
  BlockArena arena_;  // before whatever refers to its blocks
  consensus::Port port_;
  consensus::Proposer proposer_;
  consensus::Effects effects_;
  ClientSessions sessions_;
  ReplyAssembly assembly_;
  std::vector<Batch> batches_;
  std::uint32_t used_ = 0;  // bytes of the batch being filled; 0: none
  Nanos fill_began_ = 0;
  std::vector<Completion> completions_;  // not handed over yet
  std::uint32_t outstanding_ = 0;
  Nanos next_deadline_ = kNever;
  Nanos check_unanswered_at_ = 0;
  Nanos keep_alive_at_ = 0;
  std::uint32_t keep_alive_next_ = 0;  // session to look at
  dataplane::Counters<ClientCounter> counters_;
  dataplane::Histogram latency_;
};

}  // namespace annulus::statemachine
