// One seed from beginning to end: cluster, load, faults, healing, checks, report.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "tests/sim/cluster.h"

namespace annulus::sim {

struct RunOptions {
  std::uint64_t seed = 1;
  std::uint32_t commands = 5'000;
  std::uint32_t faults = 60;
};

struct RunReport {
  std::uint64_t seed = 0;
  std::string failure;  // empty: every check passed
  std::string plan;
  std::uint64_t trace_hash = 0;
  std::uint64_t trace_events = 0;
  std::uint64_t commands = 0;
  Nanos simulated = 0;
  std::uint64_t polls = 0;
  std::array<std::uint64_t, static_cast<std::size_t>(FaultKind::kCount)> faults{};
  std::uint64_t faults_total() const;
  /// "group.counter", summed over nodes, from the production registry and the world's own.
  std::map<std::string, std::uint64_t> counters;
};

RunReport run_seed(const RunOptions& options);

}  // namespace annulus::sim
