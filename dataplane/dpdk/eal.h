// DPDK's environment layer: started once a process, its log captured so that errors can quote it.
#pragma once

#include <string>

#include "dataplane/dpdk/dpdk.h"
#include "dataplane/result.h"

namespace annulus::dataplane {

/// Starts the EAL with `memory_mib` for everything, or does nothing if it runs already. Keeps the
/// caller's CPU affinity. The EAL is shut down when the process exits.
Status start_eal(const EalConfig& config, std::uint32_t memory_mib);

/// While one exists, DPDK's log is kept instead of printed, and text() is what it said. Otherwise
/// warnings and errors go to stderr.
class EalLog {
 public:
  EalLog();
  ~EalLog();
  EalLog(const EalLog&) = delete;
  EalLog& operator=(const EalLog&) = delete;
  /// All lines, or " (DPDK: last lines)" for an error message; empty when DPDK said nothing.
  std::string text() const;
  std::string quoted() const;
};

}  // namespace annulus::dataplane
