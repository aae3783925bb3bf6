// Which stage runs on which CPU: the [cores] table of a config and this machine give a plan, one
// thread a CPU. Start-up only; the plan is printed when a node starts and by `annulus config show`.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dataplane/core_loop.h"
#include "dataplane/result.h"

namespace annulus::dataplane {

/// "2-5,9" -> 2 3 4 5 9: ascending, each once.
Result<std::vector<std::uint32_t>> parse_cpu_list(const std::string& text);
/// 2 3 4 5 9 -> "2-5,9"; takes any order.
std::string to_cpu_list(std::vector<std::uint32_t> cpus);

/// The machine as a process finds it, and how many processes of a cluster share it.
struct Host {
  std::vector<std::uint32_t> online;    // every CPU there is
  std::vector<std::uint32_t> cpus;      // those this process may use, the best ones first
  std::vector<std::uint32_t> isolated;  // kept from the scheduler (isolcpus)
  std::uint32_t processes = 1;          // nodes of the cluster that run here, each a process
  std::uint32_t process = 0;            // which of them this is
  bool wakes = false;  // all that nodes wait for wakes them; the same for all of them
};
/// Reads affinity mask and topology. CPUs that share a physical core come last, before them the
/// lowest CPU, which serves most interrupts.
Host this_host();

/// A stage that wants a CPU.
struct Placement {
  std::string node;          // "replica1"
  std::string stage;         // "worker"
  std::uint32_t weight = 1;  // expected work, relative to the others
};

/// The [cores] table.
struct CoreMap {
  /// Role -> CPUs, in the order to be used. A role is a stage's name, or "node.stage", which wins.
  /// Stages of one role take the list's CPUs in turn. Stages without an entry are placed
  /// automatically, on CPUs that no entry names if there are such.
  std::map<std::string, std::vector<std::uint32_t>> roles;
  /// For every core; unset: chosen from the plan.
  std::optional<IdlePolicy> idle;
};

struct CorePlan {
  struct Core {
    std::uint32_t cpu = 0;
    IdlePolicy idle = IdlePolicy::kYield;
    std::vector<std::uint32_t> placements;  // indices into what was planned, in polling order
  };
  std::vector<Core> cores;  // ascending by CPU; none is empty
};

/// Explicit entries first, the rest spread by weight over this process's share of the machine,
/// which leaves one CPU of several to everything else. A core spins if its CPU is isolated, or if
/// the map names it and CPUs are left over for everything else on this host. It sleeps if processes
/// of the cluster must share CPUs, the one core has all stages of its process and what arrives
/// wakes it. Otherwise it yields. Fails when an entry names a CPU that does not exist or may not be
/// used.
Result<CorePlan> plan_cores(const CoreMap& map, std::span<const Placement> placements,
                            const Host& host);

/// One line a core: "cpu 2  spin   replica1.worker replica2.worker".
std::string to_string(const CorePlan& plan, std::span<const Placement> placements);

/// Binds the calling thread.
Status pin_this_thread(std::uint32_t cpu);

}  // namespace annulus::dataplane
