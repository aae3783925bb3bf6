// The YCSB core workloads (Cooper et al., SoCC 2010) as mixes of the general experiment.
#pragma once

#include <optional>

#include "tools/bench/workload.h"

namespace annulus::bench {

/// Workload 'A' to 'F' on as many records and for as long as `base` says: keys of 24 B in hashed
/// order, values of ten fields of 100 B, of which reads and scans return all and updates write one;
/// A to D and F on the key-value service, E (scans) on the B-tree. Nothing for another letter.
std::optional<WorkloadOptions> ycsb_workload(char letter, const WorkloadOptions& base);

}  // namespace annulus::bench
