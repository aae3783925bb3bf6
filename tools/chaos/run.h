// One chaos run: a cluster of processes, load, faults, healing, verification.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tools/chaos/faults.h"
#include "tools/chaos/verify.h"

namespace annulus::tools {
class StopSignals;
}

namespace annulus::chaos {

struct RunOptions {
  double minutes = 1;
  Medium medium = Medium::kUdp;
  bool disk = false;
  std::uint64_t seed = 0;
  double rate = 400;       // commands a second, half through the proxy
  std::string namespaces;  // Medium::kVeth
  std::string directory;   // made before, empty
};

/// One fault that was done.
struct Done {
  Drawn drawn;
  Nanos begun = 0;
  Nanos over = 0;      // when it was undone, 0 while it lasts
  Nanos returned = 0;  // when its node was what it was before, 0 if it never was
};

struct RunReport {
  Nanos begun = 0;
  Nanos ended = 0;
  std::vector<Done> faults;
  std::vector<std::pair<Nanos, Nanos>> stalls;  // of this process: when, how long
  std::uint64_t elections = 0;
  std::uint64_t connections_lost = 0;
  std::uint64_t executed = 0;        // instances, by the replicas compared
  std::uint32_t replicas_equal = 0;  // how many were compared
  History history;
  Verdict verdict;
  std::string proof;  // what became of an acknowledged write that was taken out of the history
  std::vector<std::string> failures;  // beside those of the verdict
  bool interrupted = false;

  bool failed() const { return !failures.empty() || !verdict.violations.empty() || interrupted; }
};

/// The error says why no run took place.
Result<RunReport> run_chaos(const RunOptions& options, const tools::StopSignals& signals);

/// A table for people, and an object for machines.
void print_report(const RunOptions& options, const RunReport& report);
Status write_report(const RunOptions& options, const RunReport& report, const std::string& path);
/// Into the run's directory: the faults, the verdict's evidence, the history.
void keep_evidence(const RunOptions& options, const RunReport& report);

}  // namespace annulus::chaos
