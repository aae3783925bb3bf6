// The Redis protocol front end: a stage that owns an epoll set of TCP connections and drives a
// native client of the cluster. One core owns it. Many connections share a few sessions; commands
// of one connection are ordered as sent, because one client submits them all in that order.
//
// Key-value and B-tree commands work on separate key spaces, so WRONGTYPE does not arise, and
// FLUSHDB empties the first only; FLUSHALL empties both, as one atomic command.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dataplane/counters.h"
#include "dataplane/stage.h"
#include "statemachine/client.h"
#include "tools/proxy/connection.h"
#include "tools/proxy/index_queue.h"
#include "tools/proxy/local_commands.h"
#include "tools/proxy/request.h"

namespace annulus::proxy {

struct ProxyOptions {
  std::string address = "127.0.0.1";
  std::uint16_t port = 6379;  // 0: any free one, see Proxy::port()
  bool share_port = false;    // several proxies of one machine on one port (SO_REUSEPORT)
  std::uint32_t clients_max = 10'000;
  std::uint32_t sessions = 8;          // shared by all connections,
  std::uint32_t session_window = 512;  // each with at most so many commands outstanding
  Nanos deadline = 5 * kSecond;  // of a command, from when the cluster takes it; and until then
  Nanos output_stall = 30 * kSecond;  // a client that reads nothing for so long is closed
  /// Reply memory of all connections, in Chunks of 2 KiB, touched as far as it is used. For 4,096
  /// commands outstanding (sessions x window) with replies of 64 KiB each, 256 MiB; and 64 MiB for
  /// replies that their clients have not read, of which each connection gets a share.
  std::uint32_t output_chunks = 163'840;
  ServiceIds services;
};

class Proxy final : public dataplane::Stage, private statemachine::CompletionSink {
 public:
  /// Listens at once. `transport` is the client's; both live on the proxy's core.
  static Result<std::unique_ptr<Proxy>> create(const ProxyOptions& options,
                                               const statemachine::ClientOptions& client_options,
                                               const consensus::Configuration& configuration,
                                               dataplane::Transport& transport);
  ~Proxy() override;

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "proxy"; }
  int wait_descriptor() const override;

  std::uint16_t port() const { return port_; }
  const statemachine::Client& client() const { return client_; }
  /// See Client::touch_memory().
  void touch_memory() { client_.touch_memory(); }
  const dataplane::Counters<ProxyCounter>& counters() const { return counters_; }

 private:
  /// Why a connection's input was not followed further.
  enum class Progress : std::uint8_t {
    kStarved,  // no whole command is left
    kQuantum,  // its share of this turn is used
    kWaiting,  // the cluster takes no command now
    kPaused,   // too many replies unread or outstanding
    kClosing,
  };
  class InTransaction;

  Proxy(const ProxyOptions& options, const statemachine::ClientOptions& client_options,
        const consensus::Configuration& configuration, dataplane::Transport& transport);

  // proxy.cc: turns and upkeep.
  Status listen();
  void keep_sessions(Nanos now);
  void retry_waiting(Nanos now);
  std::uint32_t serve_ready(Nanos now);
  Nanos next_deadline(Nanos now, Nanos client_deadline) const;

  // proxy_connections.cc: the kernel's side of a connection.
  std::uint32_t take_events(Nanos now);
  void accept_some(Nanos now);
  void admit(int descriptor, Nanos now);
  Progress serve(Connection& connection, Nanos now);
  Progress receive(Connection& connection, Nanos now);
  void keep_input(Connection& connection, std::string_view left);
  std::string_view stored_input(const Connection& connection) const;
  void flush_dirty(Nanos now);
  void flush(Connection& connection, Nanos now);
  void drop_stalled(Nanos now);
  void close_after_replies(Connection& connection, ProxyCounter reason);
  void abort(Connection& connection, ProxyCounter reason);
  void destroy(Connection& connection, ProxyCounter reason);
  void mark_ready(Connection& connection);
  void mark_dirty(Connection& connection);

  // proxy_commands.cc: commands and replies.
  Progress run(Connection& connection, std::string_view input, std::size_t& consumed, Nanos now);
  bool may_take_command(Connection& connection);
  // These are false when the connection must wait, and the command be looked at again.
  bool execute(Connection& connection, Nanos now);
  bool execute_known(Connection& connection, const CommandInfo& command, Nanos now);
  bool submit_request(Connection& connection, Nanos now);
  bool control_transaction(Connection& connection, const CommandInfo& command, Nanos now);
  bool run_transaction(Connection& connection, Nanos now);
  statemachine::SubmitOutcome submit(Connection& connection, std::uint8_t service,
                                     std::uint8_t flags, std::uint32_t body_bytes, Nanos now,
                                     std::uint32_t& slot, std::span<std::byte>& body);
  void queue_command(Connection& connection, const CommandInfo& command);
  template <typename Write>
  void answer(Connection& connection, Write write);
  void answer_ok(Connection& connection);
  void answer_error(Connection& connection, std::string_view error);
  void answer_too_large(Connection& connection, std::uint32_t bytes);
  void reject(Connection& connection, std::string_view error);
  void reject_arity(Connection& connection, const CommandInfo& command);
  void reject_unknown(Connection& connection, const CommandInfo* container);
  std::uint32_t take_slot(Connection& connection);
  void give_back(std::uint32_t slot);
  void pop_slot(Connection& connection);
  void append_slot(Connection& connection, std::uint32_t slot);
  void keep_reply(Slot& slot, ByteChain& reply);
  void deliver_done(Connection& connection);
  void complete(const statemachine::Completion& completion, Nanos now);
  void render(Connection& connection, Slot& slot, const statemachine::Completion& completion,
              Nanos now, RespWriter& writer);
  void check_output(Connection& connection, const RespWriter& writer);
  void on_completions(std::span<const statemachine::Completion> completions, Nanos now) override;

  char* input_block(const Connection& connection) const;

  const ProxyOptions options_;
  const std::uint32_t body_bytes_max_;
  statemachine::Client client_;
  const int transport_descriptor_;
  int epoll_ = -1;
  int listener_ = -1;
  Nanos accept_again_at_ = kNever;
  std::uint16_t port_ = 0;
  bool started_ = false;

  std::vector<statemachine::SessionHandle> sessions_;
  std::uint32_t session_ = 0;  // the one to try first
  Nanos sessions_checked_at_ = 0;
  bool cluster_silent_ = false;  // it let a command's time pass; until it answers one, do not wait

  ChunkPool chunks_;
  std::vector<Slot> slots_;
  std::uint32_t slots_free_ = kNone;
  std::vector<Connection> connections_;
  std::vector<std::uint32_t> connections_free_;
  std::uint64_t connection_id_last_ = 0;
  char* input_blocks_ = nullptr;

  IndexQueue ready_;    // have input to look at
  IndexQueue waiting_;  // stopped at a command that the cluster did not take, oldest first
  IndexQueue dirty_;    // have replies to send, or are to be closed
  IndexQueue stalled_;  // have replies that the kernel did not take, longest first
  struct Stall {
    Nanos since;
    std::uint64_t id;
    std::uint64_t bytes_sent;
  };
  std::vector<Stall> stalls_;  // of each connection in stalled_

  dataplane::Counters<ProxyCounter> counters_;
  LocalCommands local_;
  // Used within one call at a time; kept here because of their size.
  std::unique_ptr<Arguments> arguments_;
  std::unique_ptr<Request> request_;
  ByteChain scratch_reply_;
  std::array<epoll_event, 256> events_;
  std::array<char, kArgumentBytesMax> scratch_;
  std::array<char, 4'096 + 65'536> receive_buffer_;
};

}  // namespace annulus::proxy
