// A client of the simulated cluster: the production client with an application on top that draws
// commands, and remembers what it asked and what it was told.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "statemachine/client.h"
#include "tests/sim/network.h"
#include "tests/sim/workload.h"
#include "tools/history/linearizability.h"

namespace annulus::sim {

/// How a client behaves.
enum class ClientKind : std::uint8_t {
  kPipelined,  // many commands outstanding, in several sessions
  kSingle,     // one command at a time
  kImpatient,  // short deadlines: some outcomes stay unknown
  kChurning,   // closes its sessions and opens others
  kCount,
};

/// One command in the run's history.
struct Recorded {
  Operation operation;
  std::uint32_t client = 0;
  bool read_only = false;
  std::uint64_t log = 0;  // its session's, in History::sessions
};

/// The commands of one session in the order they were submitted: the one at index i has sequence
/// i + 1.
struct SessionLog {
  std::uint32_t client = 0;
  std::vector<std::uint64_t> operations;  // ids
};

/// What all clients did. Ids are indices into `operations` plus one.
struct History {
  std::vector<Recorded> operations;
  std::deque<SessionLog> sessions;
  /// Numbers that appear in written values, "<client.number>": by number less one, the operation.
  std::vector<std::uint64_t> writers;
  std::uint64_t completed = 0;
  std::uint64_t unknown = 0;
  std::uint64_t replies_dropped = 0;
  std::uint64_t refused_by_session = 0;
};

struct SimClientOptions {
  ClientKind kind = ClientKind::kPipelined;
  statemachine::ClientOptions client;
  std::uint32_t index = 0;
  KeySpace space = kCommonKeys;
  bool across = false;         // commands over both partitions
  std::uint32_t commands = 0;  // to submit before it rests
  Nanos think_max = kMillisecond;
  WorkloadOptions workload;
};

class SimClient final : public dataplane::Stage, public statemachine::CompletionSink {
 public:
  SimClient(const SimClientOptions& options, const consensus::Configuration& configuration,
            dataplane::Transport& transport, Rng rng, History& history, Trace& trace);

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "client"; }
  void on_completions(std::span<const statemachine::Completion> completions, Nanos now) override;

  /// Everything it wanted was submitted and has ended.
  bool done() const { return submitted_ == options_.commands && outstanding_ == 0; }
  std::uint32_t submitted() const { return submitted_; }
  statemachine::Client& client() { return client_; }
  const SimClientOptions& options() const { return options_; }
  std::string describe() const;

 private:
  struct Session {
    statemachine::SessionHandle handle{};
    std::uint64_t log = 0;   // index in History::sessions
    bool used = false;       // its first command was sent
    std::uint32_t left = 0;  // commands until it is closed
  };

  void open_sessions();
  bool submit_one(Nanos now);
  void draw_next();
  void retire(Session& session, Nanos now);

  SimClientOptions options_;
  Rng rng_;
  Workload workload_;
  History& history_;
  Trace& trace_;
  statemachine::Client client_;
  std::vector<Session> sessions_;
  bool has_next_ = false;
  Draw next_;
  std::uint64_t next_writer_ = 0;
  std::size_t next_session_ = 0;
  Nanos submit_at_ = 0;
  std::uint32_t burst_left_ = 0;
  std::uint32_t submitted_ = 0;
  std::uint32_t outstanding_ = 0;
};

}  // namespace annulus::sim
