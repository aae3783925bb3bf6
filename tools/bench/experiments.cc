// The experiments that are the general one with other parameters.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tools/bench/experiment.h"
#include "tools/bench/workload.h"
#include "tools/bench/ycsb.h"

namespace annulus::bench {
namespace {

/// What every experiment over an embedded cluster lets one change.
void add_cluster_options(CLI::App& app, WorkloadOptions& options) {
  LoadOptions& load = options.load;
  app.add_option("--keys", load.keys, "records")
      ->check(CLI::Range(2, 1'000'000'000))
      ->capture_default_str();
  app.add_option("--batch", options.batch, "commands a batch")->capture_default_str();
  app.add_option("--acceptors", options.acceptors, "2f+1")->capture_default_str();
  app.add_option("--replicas", options.replicas, "that execute")->capture_default_str();
  app.add_option("--mtu", options.mtu, "of the in-process network")->capture_default_str();
  app.add_option("--cores", options.cores, "CPUs used, load included; 0: all")
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--durability",
         [&options](const std::string& durability) {
           options.durability =
               durability == "disk" ? tools::Durability::kDisk : tools::Durability::kMemory;
         },
         "memory or disk: of the acceptors' votes")
      ->check(CLI::IsMember({"memory", "disk"}));
  app.add_option("--dir", options.directory,
                 "with disk: where the acceptors' logs are while it runs")
      ->capture_default_str();
  app.add_option("--log-mb", options.log_mb, "with disk: of each acceptor")->capture_default_str();
  app.add_option("--seconds", options.seconds, "measured")->capture_default_str();
  app.add_option("--warmup", options.warmup, "seconds before")->capture_default_str();
}

void add_traffic_options(CLI::App& app, LoadOptions& load) {
  app.add_option("--clients", load.clients, "sessions")->capture_default_str();
  app.add_option("--window", load.window, "commands outstanding a session")->capture_default_str();
}

void add_workload_options(CLI::App& app, WorkloadOptions& options) {
  LoadOptions& load = options.load;
  add_cluster_options(app, options);
  add_traffic_options(app, load);
  app.add_option("--key-bytes", load.key_bytes, "of each key (kv)")->capture_default_str();
  app.add_option("--value-bytes", load.value_bytes, "of each value")->capture_default_str();
  app.add_option("--rate", load.rate, "commands a second, open loop; 0: closed loop");
  app.add_option("--seed", load.seed, "of the choice of keys")->capture_default_str();
  app.add_option_function<std::string>(
         "--mode",
         [&options](const std::string& mode) {
           options.mode = mode == "smr" ? tools::Mode::kSmr : tools::Mode::kClientServer;
         },
         "smr or client-server")
      ->check(CLI::IsMember({"smr", "client-server"}));
  app.add_option_function<std::string>(
         "--service",
         [&load](const std::string& name) {
           load.service = name == "kv" ? ServiceKind::kKv : ServiceKind::kBtree;
         },
         "kv or btree")
      ->check(CLI::IsMember({"kv", "btree"}));
  Mix& mix = load.mix;
  app.add_option("--read", mix.read, "percent of commands");
  app.add_option("--update", mix.update, "percent of commands")->capture_default_str();
  app.add_option("--insert", mix.insert, "percent of commands");
  app.add_option("--scan", mix.scan, "percent of commands (btree)");
  app.add_option("--remove", mix.remove, "percent of commands");
}

/// The workload and, as a baseline in the same run, the same without replication.
Status run_with_baseline(const WorkloadOptions& options, Report& report,
                         const std::function<void(Result&)>& set_targets) {
  for (const tools::Mode mode : {tools::Mode::kSmr, tools::Mode::kClientServer}) {
    WorkloadOptions one = options;
    one.mode = mode;
    const bool replicated = mode == tools::Mode::kSmr;
    one.label = options.label + (replicated ? "replicated" : "client-server");
    auto result = run_workload(one);
    if (!result) return result.error();
    if (replicated) set_targets(result.value());
    if (Status added = report.add(result.value()); !added) return added;
  }
  return {};
}

void set_update_targets(const WorkloadOptions& options, Result& result) {
  result.targets.push_back({"elections, heartbeats and repair at most 1 % of the cluster's cycles",
                            "10 heartbeats and 4,000 timers a second of 1 us on each node: 0.5 %",
                            result.extra["upkeep_percent"] <= 1});
  if (options.batch != 50) return;
  const bool small = options.load.value_bytes == 8;
  if (small && options.load.keys >= 10'000'000) {
    result.targets.push_back({"at least 3.0 M commands/s",
                              "350-500 ns of CPU a command on two cores: 4-5.7 M",
                              result.per_second >= 3e6});
  }
  if (small) {
    double ordering = 0;
    for (const char* role : {"acceptor", "learner"}) ordering += result.cpu_ns_per_command[role];
    result.extra["ordering_cpu_ns_per_command"] = ordering;
    result.targets.push_back({"ordering path at most 100 ns of CPU a command",
                              "12 frame events of 150 ns and 1 us of hashing, over 50: 56 ns",
                              ordering <= 100});
  } else if (options.load.keys >= 1'000'000) {
    result.targets.push_back({"at least 1.0 M commands/s",
                              "cold writes on two replicas 570 ns with prefetch, hashes 200, the "
                              "rest 300: 1.8 M",
                              result.per_second >= 1e6});
  }
}

/// Resident memory of this process, in bytes.
double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  double total = 0;
  double resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

Status run_memory(WorkloadOptions options, std::uint32_t minutes, Report& report) {
  auto made = Rig::create(options);
  if (!made) return made.error();
  Rig& rig = *made.value();
  if (auto loaded = rig.load(); !loaded) return loaded.error();
  double first = 0;
  for (std::uint32_t minute = 1; minute <= minutes; ++minute) {
    auto result = rig.measure(options.load.mix);
    if (!result) return result.error();
    const double resident = resident_bytes();
    if (minute == 1) first = resident;
    result->label = "minute " + std::to_string(minute);
    result->extra["resident_bytes"] = resident;
    if (minute == minutes) {
      if (Status finished = rig.finish(result.value()); !finished) return finished;
      result->extra["resident_growth_percent"] = 100 * (resident / first - 1);
      result->targets.push_back({"RSS at the end at most 1 % above that after the first minute",
                                 "the steady state allocates nothing: 0 %",
                                 resident <= 1.01 * first});
    }
    if (Status added = report.add(result.value()); !added) return added;
  }
  return {};
}

}  // namespace

Experiment workload_experiment() {
  const auto options = std::make_shared<WorkloadOptions>();
  return {"workload", "the general experiment: any mix of one service's commands", "10 s",
          [options](CLI::App& app) { add_workload_options(app, *options); },
          [options](Report& report) -> Status {
            const Mix& m = options->load.mix;
            if (m.read + m.update + m.insert + m.scan + m.remove != 100) {
              return Error{"--read, --update, --insert, --scan and --remove come to " +
                           std::to_string(m.read + m.update + m.insert + m.scan + m.remove) +
                           " percent: they must come to 100 (--update is 100 unless it is given)"};
            }
            auto result = run_workload(*options);
            return result ? report.add(result.value()) : Status(result.error());
          }};
}

Experiment updates_experiment() {
  const auto options = std::make_shared<WorkloadOptions>();
  options->experiment = "updates";
  options->load.keys = 10'000'000;
  return {"updates",
          "updates of 8 B values, and of 1 KiB values in a tenth of the keys; beside client-server",
          "100 s",
          [options](CLI::App& app) {
            add_cluster_options(app, *options);
            add_traffic_options(app, options->load);
          },
          [options](Report& report) -> Status {
            for (const std::uint32_t bytes : {8u, 1'024u}) {
              WorkloadOptions one = *options;
              one.load.value_bytes = bytes;
              if (bytes != 8) one.load.keys = std::max<std::uint64_t>(one.load.keys / 10, 2);
              one.label = (bytes == 8 ? "8 B " : "1 KiB ");
              const Status done = run_with_baseline(
                  one, report, [&](Result& result) { set_update_targets(one, result); });
              if (!done) return done;
            }
            return {};
          }};
}

Experiment latency_experiment() {
  const auto options = std::make_shared<WorkloadOptions>();
  options->experiment = "latency";
  options->load.clients = options->load.window = 1;
  options->load.keys = 10'000;
  options->cores = 1;  // a hop to another core costs more than it saves while nothing waits
  options->separate_stalls = true;
  return {"latency",
          "one command at a time, idle cluster, outside stalls of the machine (a core that did not "
          "run for 1 ms) and with them; beside client-server",
          "15 s", [options](CLI::App& app) { add_cluster_options(app, *options); },
          [options](Report& report) {
            return run_with_baseline(*options, report, [](Result& result) {
              const char* hops = "six hops of at most 0.7 us: 4.2";
              result.targets.push_back(
                  {"median at most 5 us outside stalls", hops, result.latency.p50_us <= 5});
              result.targets.push_back(
                  {"p99 at most 15 us outside stalls", hops, result.latency.p99_us <= 15});
            });
          }};
}

Experiment ycsb_experiment() {
  struct Options {
    std::string letters = "ABCDEF";
    WorkloadOptions workload;
  };
  const auto options = std::make_shared<Options>();
  return {
      "ycsb", "YCSB core workloads A to F: 1 M records of 1,000 B", "75 s",
      [options](CLI::App& app) {
        app.add_option("--workloads", options->letters, "letters of A to F")->capture_default_str();
        add_cluster_options(app, options->workload);
        add_traffic_options(app, options->workload.load);
      },
      [options](Report& report) -> Status {
        for (const char letter : options->letters) {
          const auto workload = ycsb_workload(letter, options->workload);
          if (!workload) {
            return Error{std::string("--workloads ") + letter +
                         ": no such workload; letters are A to F"};
          }
          auto result = run_workload(*workload);
          if (!result) return result.error();
          if (Status added = report.add(result.value()); !added) return added;
        }
        return {};
      }};
}

Experiment memory_experiment(std::shared_ptr<std::uint32_t> minutes) {
  const auto options = std::make_shared<WorkloadOptions>();
  options->experiment = "memory";
  options->load.value_bytes = 100;
  options->load.mix = {.read = 40, .update = 50, .remove = 10};
  options->warmup = 0;
  options->seconds = 60;
  return {"memory", "resident memory each minute of full load, with keys that come and go", "125 s",
          [options, minutes](CLI::App& app) {
            app.add_option("--minutes", *minutes, "of load")
                ->check(CLI::Range(2, 10'000))
                ->capture_default_str();
            app.add_option("--keys", options->load.keys, "records")->capture_default_str();
          },
          [options, minutes](Report& report) { return run_memory(*options, *minutes, report); }};
}

}  // namespace annulus::bench
