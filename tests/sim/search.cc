#include "tests/sim/search.h"

#include <sys/random.h>

#include <chrono>
#include <cstdio>
#include <numeric>
#include <vector>

#include "dataplane/result.h"
#include "tests/sim/child.h"

namespace annulus::sim {
namespace {

using SteadyClock = std::chrono::steady_clock;

/// "agreement", "liveness", …: what comes before the colon.
std::string kind_of(const std::string& failure) { return failure.substr(0, failure.find(':')); }

}  // namespace

std::string replay_command(const RunOptions& options) {
  std::string text = "annulus sim --seed " + std::to_string(options.seed);
  if (options.schedule != 0) text += " --schedule " + std::to_string(options.schedule);
  if (options.mix) text += " --mix";
  for (std::size_t i = 0; i < options.only.size(); ++i) {
    text += (i == 0 ? " --only " : ",") + std::to_string(options.only[i]);
  }
  return text;
}

bool swarm(double minutes) {
  const auto started = SteadyClock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(SteadyClock::now() - started).count();
  };
  std::uint64_t seeds = 0;
  std::uint64_t failed = 0;
  while (seconds() < minutes * 60) {
    std::uint32_t seed = 0;
    CHECK(getrandom(&seed, sizeof seed, 0) == sizeof seed);
    RunOptions options;
    options.seed = seed;
    options.mix = true;
    const std::string failure = outcome_in_child(options);
    ++seeds;
    if (failure.empty()) continue;
    ++failed;
    std::printf("FAILED %s\n  replay: %s\n", failure.substr(0, 300).c_str(),
                replay_command(options).c_str());
    std::fflush(stdout);
  }
  std::printf("%llu seeds, %llu failed, %.0f s, %.0f seeds an hour\n",
              static_cast<unsigned long long>(seeds), static_cast<unsigned long long>(failed),
              seconds(), static_cast<double>(seeds) * 3'600 / seconds());
  return failed == 0;
}

bool shrink(const RunOptions& whole) {
  const std::string failure = outcome_in_child(whole);
  if (failure.empty()) {
    std::printf("%s does not fail: nothing to shrink\n", replay_command(whole).c_str());
    return false;
  }
  std::printf("%s\n", failure.c_str());
  RunOptions smallest = whole;
  if (smallest.only.empty()) {
    smallest.only.resize(planned_faults(whole));
    std::iota(smallest.only.begin(), smallest.only.end(), 0u);
  }
  // Ever smaller stretches are left out, until no single fault can be.
  for (std::size_t stretch = smallest.only.size(); stretch > 0; stretch /= 2) {
    for (std::size_t first = 0; first < smallest.only.size() && smallest.only.size() > 1;) {
      RunOptions smaller = smallest;
      const auto begin = smaller.only.begin() + static_cast<std::ptrdiff_t>(first);
      const std::size_t count = std::min(stretch, smaller.only.size() - first);
      smaller.only.erase(begin, begin + static_cast<std::ptrdiff_t>(count));
      const bool same =
          !smaller.only.empty() && kind_of(outcome_in_child(smaller)) == kind_of(failure);
      if (same) smallest = smaller;
      if (!same) first += stretch;
    }
    std::printf("%zu faults left\n", smallest.only.size());
    std::fflush(stdout);
  }
  smallest.tell = true;
  const RunReport report = run_seed(smallest);
  std::printf("\ncluster: %s\n", report.plan.c_str());
  for (const std::string& line : report.transcript) std::printf("%s\n", line.c_str());
  std::printf("replay: %s\n", replay_command(smallest).c_str());
  return true;
}

}  // namespace annulus::sim
