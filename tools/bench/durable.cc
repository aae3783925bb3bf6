// Durable acceptors beside acceptors in memory, and both beside the disk itself. They take turns,
// so that what the machine does to one it does to the others.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tools/bench/disk_probe.h"
#include "tools/bench/experiment.h"
#include "tools/bench/workload.h"

namespace annulus::bench {
namespace {

struct Options {
  WorkloadOptions load;  // updates of 1 KiB, many at once
  WorkloadOptions idle;  // one at a time
  std::uint32_t rounds = 3;
};

/// What one round measured.
struct Round {
  DiskFigures disk;
  Result memory;
  Result durable;
  Result memory_idle;
  Result durable_idle;

  double ratio() const { return durable.per_second / memory.per_second; }
  /// Of all logs, blocks as they were written.
  double log_rate() const { return durable.extra.at("log_bytes_per_second"); }
  double logs_share() const { return log_rate() / disk.group_bytes_per_second; }
  double disk_share() const { return log_rate() / disk.bytes_per_second; }
  double added_us() const { return durable_idle.latency.p50_us - memory_idle.latency.p50_us; }
  double added_syncs() const { return added_us() / disk.sync_p50_us; }
  double added_majorities() const { return added_us() / disk.majority_p50_us; }
};

annulus::Result<Result> run_with(const WorkloadOptions& options, tools::Durability durability) {
  WorkloadOptions one = options;
  one.durability = durability;
  one.label += durability == tools::Durability::kDisk ? "disk" : "memory";
  return run_workload(one);
}

/// What all records take, and what the disk can write in the time that there is load: a log that is
/// larger only takes longer to be filled with zeros, and one that is full takes no commands.
std::uint32_t log_mb(const WorkloadOptions& load, const DiskFigures& disk) {
  const std::uint64_t records = load.load.keys * (load.load.key_bytes + load.load.value_bytes + 64);
  const double seconds = load.warmup + load.seconds + 0.5;
  const double written = seconds * disk.bytes_per_second / load.acceptors;
  return 64 + static_cast<std::uint32_t>((static_cast<double>(records) + written) * 1.25 / 1e6);
}

annulus::Result<Round> run_round(const Options& options) {
  Round round;
  auto disk = probe_disk(options.load.directory, options.load.acceptors);
  if (!disk) return disk.error();
  round.disk = disk.value();
  WorkloadOptions load = options.load;
  if (load.log_mb == 0) load.log_mb = log_mb(load, round.disk);
  const auto fill = [&](const WorkloadOptions& what, Result& memory, Result& durable) -> Status {
    for (const auto& [durability, into] :
         {std::pair{tools::Durability::kMemory, &memory}, {tools::Durability::kDisk, &durable}}) {
      auto result = run_with(what, durability);
      if (!result) return result.error();
      *into = std::move(result).value();
    }
    return {};
  };
  if (Status run = fill(load, round.memory, round.durable); !run) return run.error();
  Status run = fill(options.idle, round.memory_idle, round.durable_idle);
  if (!run) return run.error();
  return round;
}

struct Spread {
  double least = 0;
  double median = 0;
  double most = 0;
};

template <typename Figure>
Spread spread(const std::vector<Round>& rounds, Figure figure) {
  std::vector<double> values;
  for (const Round& round : rounds) values.push_back(figure(round));
  std::sort(values.begin(), values.end());
  return {values.front(), values[values.size() / 2], values.back()};
}

void note(Result& result, const std::string& name, const Spread& values) {
  result.extra[name] = values.median;
  result.extra[name + "_least"] = values.least;
  result.extra[name + "_most"] = values.most;
}

/// Of the rounds' results that one whose rate is the median.
Result median_of(const std::vector<Round>& rounds, Result Round::*which) {
  std::vector<const Result*> results;
  for (const Round& round : rounds) results.push_back(&(round.*which));
  std::sort(results.begin(), results.end(),
            [](const Result* a, const Result* b) { return a->per_second < b->per_second; });
  return *results[results.size() / 2];
}

Status report_disk(const std::vector<Round>& rounds, Report& report) {
  Result result;
  result.experiment = "durable";
  result.label = "the disk by itself";
  result.unit = "B/s";
  result.has_latency = false;
  const auto rate = spread(rounds, [](const Round& r) { return r.disk.bytes_per_second; });
  result.per_second = rate.median;
  note(result, "bytes_per_second", rate);
  note(result, "sync_p50_us", spread(rounds, [](const Round& r) { return r.disk.sync_p50_us; }));
  note(result, "sync_p99_us", spread(rounds, [](const Round& r) { return r.disk.sync_p99_us; }));
  note(result, "logs_bytes_per_second",
       spread(rounds, [](const Round& r) { return r.disk.group_bytes_per_second; }));
  note(result, "majority_p50_us",
       spread(rounds, [](const Round& r) { return r.disk.majority_p50_us; }));
  return report.add(result);
}

Status report_load(const std::vector<Round>& rounds, Report& report) {
  if (Status added = report.add(median_of(rounds, &Round::memory)); !added) return added;
  Result result = median_of(rounds, &Round::durable);
  const Spread ratio = spread(rounds, [](const Round& r) { return r.ratio(); });
  const Spread share = spread(rounds, [](const Round& r) { return r.disk_share(); });
  note(result, "ratio_to_memory", ratio);
  note(result, "share_of_disk", share);
  note(result, "share_of_logs_alone",
       spread(rounds, [](const Round& r) { return r.logs_share(); }));
  note(result, "log_bytes_per_second", spread(rounds, [](const Round& r) { return r.log_rate(); }));
  result.targets.push_back(
      {"70 % of memory or, over all logs, 80 % of the disk, whichever is lower",
       "a group of 4 batches is written while the next is gathered: the disk or the cores limit",
       ratio.median >= 0.7 || share.median >= 0.8});
  return report.add(result);
}

Status report_idle(const std::vector<Round>& rounds, Report& report) {
  if (Status added = report.add(median_of(rounds, &Round::memory_idle)); !added) return added;
  Result result = median_of(rounds, &Round::durable_idle);
  const Spread syncs = spread(rounds, [](const Round& r) { return r.added_syncs(); });
  note(result, "added_p50_us", spread(rounds, [](const Round& r) { return r.added_us(); }));
  note(result, "added_in_syncs", syncs);
  note(result, "added_in_majorities",
       spread(rounds, [](const Round& r) { return r.added_majorities(); }));
  result.targets.push_back({"median added latency at idle at most 1.5x one sync",
                            "all acceptors write when the proposal arrives, at once: 1.0-1.2",
                            syncs.median <= 1.5});
  return report.add(result);
}

Status run_durable(const Options& options, Report& report) {
  std::vector<Round> rounds;
  for (std::uint32_t i = 0; i < options.rounds; ++i) {
    auto round = run_round(options);
    if (!round) return round.error();
    rounds.push_back(std::move(round).value());
  }
  if (Status added = report_disk(rounds, report); !added) return added;
  if (Status added = report_load(rounds, report); !added) return added;
  return report_idle(rounds, report);
}

}  // namespace

Experiment durable_experiment() {
  const auto options = std::make_shared<Options>();
  WorkloadOptions& load = options->load;
  load.experiment = "durable";
  load.label = "batch 50 x 1 KiB, ";
  load.load.value_bytes = 1'024;
  load.load.keys = 100'000;
  load.seconds = 1;
  load.warmup = 0.5;
  load.log_mb = 0;
  // A busy host's disk has been seen to stand still for seconds. That is to show as latency.
  load.deadline = options->idle.deadline = 30 * kSecond;
  WorkloadOptions& idle = options->idle;
  idle.experiment = "durable";
  idle.label = "one at a time, ";
  idle.load.clients = idle.load.window = 1;
  idle.load.keys = 1'000;
  idle.log_mb = 256;
  idle.seconds = 1;
  idle.warmup = 0.3;
  idle.separate_stalls = true;
  return {
      "durable",
      "durable acceptors beside acceptors in memory, at load and at idle, and beside what the "
      "disk does by itself",
      "90 s",
      [options](CLI::App& app) {
        app.add_option("--rounds", options->rounds, "each of all")
            ->check(CLI::Range(1, 1'000))
            ->capture_default_str();
        app.add_option("--dir", options->load.directory,
                       "where the logs and the probe's file are while it runs")
            ->capture_default_str();
        app.add_option("--log-mb", options->load.log_mb,
                       "of each acceptor, at load; 0: what the disk can write meanwhile")
            ->capture_default_str();
        app.add_option("--keys", options->load.load.keys, "records")->capture_default_str();
        app.add_option("--seconds", options->load.seconds, "of load measured, a round")
            ->capture_default_str();
        app.add_option("--warmup", options->load.warmup, "seconds before")->capture_default_str();
      },
      [options](Report& report) {
        options->idle.directory = options->load.directory;
        return run_durable(*options, report);
      }};
}

}  // namespace annulus::bench
