// From the decided order to a witness: which command of which value is which operation of the
// clients' history, and which of its appearances executes.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/client.h"
#include "tests/sim/protocol_checker.h"
#include "tools/history/linearizability.h"

namespace annulus::sim {

/// Walks the order as a replica must: each command of a session executes where it first appears,
/// unless its session is closed or it lies below the session's floor.
class Replay {
 public:
  /// `client_of_epoch`: the clients' names as proposers.
  Replay(const History& history, const std::map<std::uint64_t, std::uint32_t>& client_of_epoch,
         Failure& failure);

  void run(const std::vector<ProtocolChecker::Chosen>& order);
  /// The history and its witness, for check_witness().
  const std::vector<Operation>& operations() const { return operations_; }
  const std::vector<Placed>& placed() const { return placed_; }

  std::uint64_t duplicates() const { return duplicates_; }
  std::uint64_t repeated_reads() const { return repeated_reads_; }
  std::uint64_t stale() const { return stale_; }
  std::uint64_t after_close() const { return after_close_; }
  std::uint64_t unjudged() const { return unjudged_; }

 private:
  static constexpr std::uint64_t kUnknownLog = ~std::uint64_t{0};
  struct Session {
    std::uint64_t log = kUnknownLog;
    std::uint64_t floor = 0;
    std::uint64_t last_activity = 0;
    bool closed = false;
    std::set<std::uint64_t> executed;
  };
  struct Command {
    std::uint64_t session;
    std::uint64_t sequence;
    std::uint64_t acked_distance;
    std::uint8_t service;
    std::uint8_t flags;
    std::string body;
    bool system() const;  // of the engine, and not an atomic group
  };

  void run_value(std::uint64_t instance, const ProtocolChecker::Chosen& value);
  void run_system(std::uint64_t instance, const Command& command);
  void run_command(std::uint32_t client, std::uint64_t instance, const Command& command,
                   Nanos delivered);
  void match_unnamed_sessions(const std::vector<ProtocolChecker::Chosen>& order);
  void give_up_unnamed_sessions();
  void find_log(const Command& command);
  std::vector<Command> commands_of(const ProtocolChecker::Chosen& value) const;

  const History& history_;
  const std::map<std::uint64_t, std::uint32_t>& client_of_epoch_;
  Failure& failure_;
  std::vector<Operation> operations_;
  std::vector<Placed> placed_;
  std::map<std::uint64_t, Session> sessions_;
  std::set<std::uint64_t> reads_seen_;
  std::uint64_t duplicates_ = 0;
  std::uint64_t repeated_reads_ = 0;
  std::uint64_t stale_ = 0;
  std::uint64_t after_close_ = 0;
  std::uint64_t unjudged_ = 0;
};

}  // namespace annulus::sim
