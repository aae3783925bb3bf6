#include "tests/sim/sim.h"

#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "tests/sim/light.h"
#include "tests/sim/planted.h"
#include "tests/sim/rare_paths.h"
#include "tests/sim/run.h"
#include "tests/sim/search.h"

namespace annulus::sim {
namespace {

using Counts = std::map<std::string, std::uint64_t>;

constexpr const char* kUsage =
    "usage: annulus sim [--seed S | --seeds A..B] [--mix] [--only LIST] [--verbose]\n"
    "       annulus sim --swarm MINUTES | --shrink S [--mix]\n"
    "       annulus sim --planted [NAME] | --replay-planted [I/N] | --twice S [--mix]\n"
    "       annulus sim --light SECONDS\n"
    "\n"
    "  --seed S          one simulated run; the same seed gives the same trace hash\n"
    "  --seeds A..B      a range; fails if a rare path was never taken in 40 seeds or more\n"
    "  --mix             draw from the seed which kinds of fault occur and how often; nodes may\n"
    "                    crash. Before --seed, --seeds, --shrink or --twice\n"
    "  --schedule K      the seed's cluster, load and faults under another order of polls\n"
    "  --only LIST       of the planned faults only these happen: numbers, separated by commas.\n"
    "                    Before --seed or --shrink\n"
    "  --verbose         print every counter, and of a single seed a transcript\n"
    "  --swarm MINUTES   random seeds, each with a random mix of faults, for so long\n"
    "  --shrink S        fewest faults with which a failing seed still fails in the same way, and\n"
    "                    a transcript of what then happens\n"
    "  --twice S         run a seed twice and compare the trace hashes\n"
    "  --planted [NAME]  find each planted defect, or the one named, within 2,000 seeds\n"
    "  --replay-planted  run each planted defect with its recorded seed and with others like it;\n"
    "                    of N parts of the defects the I-th\n"
    "  --light SECONDS   so long of a five-node cluster with one client and no faults; tells how\n"
    "                    much faster than real time that is\n";

struct Options {
  RunOptions run;
  std::uint64_t first = 1;
  std::uint64_t last = 1;
  bool verbose = false;
};

unsigned long long ull(std::uint64_t value) { return value; }

void print(const RunOptions& run, const RunReport& report) {
  std::printf(
      "seed %llu: %s, trace %016llx, %llu commands, %llu faults, %lld ms simulated, %lld after the "
      "faults\n",
      ull(report.seed), report.failure.empty() ? "ok" : "FAILED", ull(report.trace_hash),
      ull(report.commands), ull(report.faults_total()),
      static_cast<long long>(report.simulated / kMillisecond),
      static_cast<long long>(report.healed / kMillisecond));
  if (report.failure.empty()) return;
  std::printf("  %s\n  cluster: %s\n  replay: %s\n", report.failure.c_str(), report.plan.c_str(),
              replay_command(run).c_str());
}

void print_faults(const Counts& faults) {
  std::printf("faults:");
  for (const auto& [name, count] : faults) std::printf(" %s %llu", name.c_str(), ull(count));
  std::printf("\n");
}

/// False if one stayed at zero.
bool print_rare_paths(const Counts& counters) {
  bool all = true;
  for (const RarePath& path : kRarePaths) {
    const auto found = counters.find(path.counter);
    const std::uint64_t count = found == counters.end() ? 0 : found->second;
    std::printf("  %-48s %llu%s\n", path.what, ull(count), count == 0 ? "  NEVER" : "");
    all &= count != 0;
  }
  return all;
}

int run_range(const Options& options) {
  const auto started = std::chrono::steady_clock::now();
  Counts counters;
  Counts faults;
  std::uint64_t failed = 0;
  Nanos slowest = 0;
  for (std::uint64_t seed = options.first; seed <= options.last; ++seed) {
    RunOptions run = options.run;
    run.seed = seed;
    run.tell = options.verbose && options.first == options.last;
    const RunReport report = run_seed(run);
    failed += !report.failure.empty();
    slowest = std::max(slowest, report.healed);
    print(run, report);
    for (const std::string& line : report.transcript) std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    for (const auto& [name, value] : report.counters) counters[name] += value;
    for (std::size_t i = 0; i < report.faults.size(); ++i) {
      faults[to_string(static_cast<FaultKind>(i))] += report.faults[i];
    }
  }
  const std::uint64_t seeds = options.last - options.first + 1;
  print_faults(faults);
  std::printf("slowest to finish after the last fault: %lld ms\n",
              static_cast<long long>(slowest / kMillisecond));
  const bool all = print_rare_paths(counters);
  if (options.verbose) {
    for (const auto& [name, value] : counters) {
      std::printf("  %-48s %llu\n", name.c_str(), ull(value));
    }
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  const bool judged = seeds >= kSeedsForRarePaths;
  std::printf("%llu seeds, %llu failed%s, %.1f s, %.0f seeds an hour\n", ull(seeds), ull(failed),
              judged && !all ? ", a rare path was never taken" : "", seconds,
              static_cast<double>(seeds) * 3'600 / seconds);
  return failed != 0 || (judged && !all) ? 1 : 0;
}

int run_twice(const RunOptions& run) {
  const RunReport first = run_seed(run);
  const RunReport second = run_seed(run);
  print(run, first);
  print(run, second);
  const bool same = first.trace_hash == second.trace_hash && first.counters == second.counters;
  std::printf("%s\n", same ? "the same twice" : "NOT DETERMINISTIC");
  return same && first.failure.empty() && second.failure.empty() ? 0 : 1;
}

bool parse_number(const char* text, std::uint64_t& number) {
  char* end = nullptr;
  number = std::strtoull(text, &end, 10);
  return end != text && *end == '\0';
}

/// "2/3"; nothing is 1/1.
bool parse_part(const char* text, std::uint64_t& part, std::uint64_t& parts) {
  if (*text == '\0') return true;
  char* end = nullptr;
  part = std::strtoull(text, &end, 10);
  return *end == '/' && parse_number(end + 1, parts) && part >= 1 && part <= parts;
}

bool parse_range(const char* text, Options& options) {
  char* end = nullptr;
  options.first = options.last = std::strtoull(text, &end, 10);
  if (end != text && std::strncmp(end, "..", 2) == 0)
    options.last = std::strtoull(end + 2, &end, 10);
  return end != text && *end == '\0' && options.first <= options.last;
}

/// "3,17,40"; false if it is not such a list.
bool parse_list(const char* text, std::vector<std::uint32_t>& list) {
  for (char* end = nullptr;; text = end + 1) {
    list.push_back(static_cast<std::uint32_t>(std::strtoul(text, &end, 10)));
    if (end == text) return false;
    if (*end != ',') return *end == '\0';
  }
}

int usage_error(const std::string& what) {
  std::fprintf(stderr, "annulus sim: %s\n\n%s", what.c_str(), kUsage);
  return 2;
}

}  // namespace

int run_sim(int argc, char** argv) {
  // Nodes come and go, and use little of their pools: clearing huge pages would be half of a run.
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--help") {
      std::printf("%s", kUsage);
      return 0;
    }
    if (option == "--planted") return find_planted(*value == '\0' ? nullptr : value, 2'000) ? 0 : 1;
    if (option == "--replay-planted") {
      std::uint64_t part = 1, parts = 1;
      if (!parse_part(value, part, parts)) {
        return usage_error("--replay-planted '" + std::string(value) + "' is not a part as 1/2");
      }
      return replay_planted(part - 1, parts) ? 0 : 1;
    }
    if (option == "--verbose" || option == "--mix") {
      (option == "--mix" ? options.run.mix : options.verbose) = true;
      continue;
    }
    ++i;
    if (option == "--only") {
      if (parse_list(value, options.run.only)) continue;
      return usage_error("--only '" + std::string(value) + "' is not a list such as 3,17,40");
    }
    if (option == "--schedule") {
      if (parse_number(value, options.run.schedule)) continue;
      return usage_error("--schedule '" + std::string(value) + "' is not a number");
    }
    if (option == "--swarm" || option == "--light") {
      char* end = nullptr;
      const double length = std::strtod(value, &end);
      if (end == value || *end != '\0' || !(length > 0)) {
        return usage_error(option + " '" + value + "' is not a length of time");
      }
      return (option == "--swarm" ? swarm(length) : run_light(length)) ? 0 : 1;
    }
    if (option != "--seed" && option != "--seeds" && option != "--twice" && option != "--shrink") {
      return usage_error("'" + option + "' is not an option");
    }
    if (!parse_range(value, options)) {
      return usage_error(option + " '" + value + "' is not a seed, or a range such as 1..500");
    }
    options.run.seed = options.first;
    if (option == "--twice") return run_twice(options.run);
    if (option == "--shrink") return shrink(options.run) ? 0 : 1;
  }
  return run_range(options);
}

}  // namespace annulus::sim
