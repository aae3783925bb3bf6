// One seed from beginning to end: cluster, load, faults, healing, checks, report.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/sim/cluster.h"

namespace annulus::sim {

struct RunOptions {
  std::uint64_t seed = 1;
  /// 0, or another order of polls and other luck on the network for the same cluster, load and
  /// faults: a neighbour of the run that the seed is by itself.
  std::uint64_t schedule = 0;
  std::uint32_t commands = 5'000;
  std::uint32_t faults = 60;
  /// Which kinds of fault occur, and how often, is drawn from the seed too; nodes may crash.
  bool mix = false;
  /// If not empty, only these of the planned faults happen, by number; what else the seed decides
  /// stays as it is.
  std::vector<std::uint32_t> only;
  bool tell = false;  // keep a transcript
};

struct RunReport {
  std::uint64_t seed = 0;
  std::string failure;  // empty: every check passed
  std::string plan;
  std::uint64_t trace_hash = 0;
  std::uint64_t trace_events = 0;
  std::uint64_t commands = 0;
  Nanos simulated = 0;
  Nanos healed = 0;  // of it, after the last fault
  std::uint64_t polls = 0;
  std::array<std::uint64_t, static_cast<std::size_t>(FaultKind::kCount)> faults{};
  std::uint64_t faults_total() const;
  std::vector<std::string> transcript;
  /// "group.counter", summed over nodes, from the production registry and the world's own.
  std::map<std::string, std::uint64_t> counters;
};

RunReport run_seed(const RunOptions& options);

/// How many faults the seed plans.
std::uint32_t planned_faults(const RunOptions& options);

}  // namespace annulus::sim
