#include "tests/sim/sim.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/sim/run.h"

namespace annulus::sim {
namespace {
void print(const RunReport& report, bool verbose) {
  std::printf(
      "seed %llu: %s, trace %016llx (%llu events), %llu faults, %lld ms simulated, %llu polls\n",
      static_cast<unsigned long long>(report.seed), report.failure.empty() ? "ok" : "FAILED",
      static_cast<unsigned long long>(report.trace_hash),
      static_cast<unsigned long long>(report.trace_events),
      static_cast<unsigned long long>(report.faults_total()),
      static_cast<long long>(report.simulated / kMillisecond),
      static_cast<unsigned long long>(report.polls));
  if (!report.failure.empty())
    std::printf("  %s\n  %s\n", report.failure.c_str(), report.plan.c_str());
  if (verbose) {
    std::printf("  %s\n", report.plan.c_str());
    for (const auto& [name, value] : report.counters) {
      std::printf("  %-40s %llu\n", name.c_str(), static_cast<unsigned long long>(value));
    }
  }
}
}  // namespace

int run_sim(int argc, char** argv) {
  std::uint64_t first = 1, last = 1;
  bool verbose = false;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--seed")) first = last = std::strtoull(argv[++i], nullptr, 10);
    if (!std::strcmp(argv[i], "--seeds")) {
      first = std::strtoull(argv[++i], nullptr, 10);
      last = std::strtoull(std::strstr(argv[i], "..") + 2, nullptr, 10);
    }
    if (!std::strcmp(argv[i], "--verbose")) verbose = true;
  }
  int failed = 0;
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    const RunReport report = run_seed({seed});
    failed += !report.failure.empty();
    print(report, verbose);
  }
  return failed != 0;
}

}  // namespace annulus::sim
