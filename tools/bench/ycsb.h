// The YCSB core workloads (Cooper et al., SoCC 2010) as mixes of the general experiment.
#pragma once

#include <optional>

#include "tools/bench/workload.h"

namespace annulus::bench {

/// Workload 'A' to 'F': 1,000 B values; A to D and F on the key-value service, E (scans) on the
/// B-tree. Nothing for another letter.
std::optional<WorkloadOptions> ycsb_workload(char letter, std::uint64_t records);

}  // namespace annulus::bench
