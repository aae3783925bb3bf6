// What a replica tells of its state over the telemetry socket: `GET /state?at=N`, the hashes that
// replicas compare.
#pragma once

#include <cstdint>
#include <string>

#include "statemachine/worker.h"

namespace annulus::tools {

/// Asks a worker for its hashes at an instance. One thread.
class StateAnswer {
 public:
  explicit StateAnswer(statemachine::Worker& worker) : worker_(worker) {}

  /// {"executed", "kept", "recomputed", "sessions"}, taken as soon as instance `at` is executed (0:
  /// now); {"pending": true} when that takes longer than 150 ms: ask the same again.
  std::string operator()(const std::string& query);

 private:
  statemachine::Worker& worker_;
  bool asked_ = false;
  std::uint64_t at_ = 0;
  std::uint64_t ticket_ = 0;
};

/// One answer, read back.
struct StateTold {
  std::uint64_t executed = 0;
  std::uint64_t kept = 0;
  std::uint64_t recomputed = 0;
};
/// Of the replica that serves `socket_path`; fails when it has not got there yet.
Result<StateTold> fetch_state(const std::string& socket_path, std::uint64_t at);

}  // namespace annulus::tools
