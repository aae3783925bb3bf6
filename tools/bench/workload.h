// The general experiment: an embedded cluster under generated load, measured after a warm-up, with
// every reply checked and the replicas' state hashes compared at the end.
#pragma once

#include <cstdint>
#include <string>

#include "dataplane/result.h"
#include "tools/bench/load.h"
#include "tools/bench/report.h"
#include "tools/config.h"

namespace annulus::bench {

struct WorkloadOptions {
  std::string experiment = "workload";
  std::string label;
  LoadOptions load;
  std::uint32_t batch = 50;
  std::uint32_t batch_bytes = 56'000;
  std::uint32_t acceptors = 3;
  std::uint32_t replicas = 2;
  std::uint32_t mtu = 65'535;
  tools::Mode mode = tools::Mode::kSmr;
  consensus::Dissemination dissemination = consensus::Dissemination::kMulticast;
  double seconds = 5;
  double warmup = 2;
};

/// Fails when the cluster cannot be made, or the load does not come to rest.
annulus::Result<Result> run_workload(const WorkloadOptions& options);

}  // namespace annulus::bench
