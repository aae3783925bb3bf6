// The replicated B-tree beside an unreplicated map of the same records.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#ifdef ANNULUS_ABSL
#include <absl/container/btree_map.h>
#endif

#include "tools/bench/experiment.h"
#include "tools/bench/workload.h"

namespace annulus::bench {
namespace {

constexpr std::uint32_t kRangeEntries = 1'000;

Status run_replicated(const WorkloadOptions& options, Report& report) {
  auto made = Rig::create(options);
  if (!made) return made.error();
  Rig& rig = *made.value();
  auto inserts = rig.load();
  if (!inserts) return inserts.error();
  inserts->label = "replicated inserts";
  if (Status added = report.add(inserts.value()); !added) return added;
  auto ranges = rig.measure({.update = 0, .scan = 100});
  if (!ranges) return ranges.error();
  ranges->label = "replicated ranges of 1,000";
  if (Status finished = rig.finish(ranges.value()); !finished) return finished;
  return report.add(ranges.value());
}

#ifdef ANNULUS_ABSL
double seconds_since(Nanos start, dataplane::TscClock& clock) {
  return static_cast<double>(clock.now() - start) / 1e9;
}

/// Function calls of one thread: no client, no order, no copy elsewhere.
Status run_alone(const WorkloadOptions& options, Report& report) {
  dataplane::TscClock clock;
  const std::uint64_t keys = options.load.keys;
  absl::btree_map<std::uint64_t, std::uint64_t> map;
  Result result;
  result.experiment = options.experiment;
  result.label = "absl::btree_map inserts";
  result.has_latency = false;
  result.config = {{"keys", std::to_string(keys)}, {"value_bytes", "8"}, {"mode", "one thread"}};
  Nanos start = clock.now();
  for (std::uint64_t record = 0; record < keys; ++record) map.emplace(btree_key(record), ~record);
  result.per_second = static_cast<double>(map.size()) / seconds_since(start, clock);
  if (Status added = report.add(result); !added) return added;

  // Entries are copied out, as a reply has to.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> reply(kRangeEntries);
  Random random(options.load.seed);
  std::uint64_t ranges = 0;
  std::uint64_t entries = 0;
  start = clock.now();
  while (seconds_since(start, clock) < options.seconds) {
    auto at = map.lower_bound(btree_key(random.below(keys)));
    std::uint32_t count = 0;
    for (; count < kRangeEntries && at != map.end(); ++at) reply[count++] = *at;
    if (reply[0].second != ~btree_record(reply[0].first)) {
      return Error{"absl::btree_map lost a value"};
    }
    entries += count;
    ++ranges;
  }
  const double seconds = seconds_since(start, clock);
  result.label = "absl::btree_map ranges of 1,000";
  result.per_second = static_cast<double>(ranges) / seconds;
  result.extra["entries_scanned_per_second"] = static_cast<double>(entries) / seconds;
  return report.add(result);
}
#else
Status run_alone(const WorkloadOptions&, Report&) {
  std::printf("btree absl::btree_map: absl not built in (libabsl-dev)\n");
  return {};
}
#endif

}  // namespace

Experiment btree_experiment() {
  const auto options = std::make_shared<WorkloadOptions>();
  options->experiment = "btree";
  options->warmup = 1;
  LoadOptions& load = options->load;
  load.service = ServiceKind::kBtree;
  load.keys = 10'000'000;
  load.scan_entries_max = kRangeEntries;
  return {"btree",
          "inserts of 10 M keys into the replicated B-tree, then ranges of 1,000 entries; beside "
          "absl::btree_map unreplicated",
          "50 s",
          [options](CLI::App& app) {
            app.add_option("--keys", options->load.keys, "records")
                ->check(CLI::Range(2, 1'000'000'000))
                ->capture_default_str();
            app.add_option("--seconds", options->seconds, "of ranges")->capture_default_str();
            app.add_option("--warmup", options->warmup, "seconds of ranges before")
                ->capture_default_str();
          },
          [options](Report& report) -> Status {
            if (Status done = run_replicated(*options, report); !done) return done;
            return run_alone(*options, report);
          }};
}

}  // namespace annulus::bench
