#include "tools/bench/workload.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <map>
#include <thread>

#include "dataplane/core_loop.h"
#include "tools/cluster.h"

namespace annulus::bench {
namespace {

using dataplane::Histogram;
using dataplane::Registry;

/// Useful cycles of all stages so far, by role.
std::map<std::string, std::uint64_t> useful_cycles(const Registry& registry) {
  std::map<std::string, std::uint64_t> cycles;
  for (const Registry::Group& group : registry.groups()) {
    if (!group.stage.starts_with("stage.")) continue;
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      if (std::strcmp(group.names[i], "useful_cycles") == 0) {
        cycles[group.stage.substr(6)] += group.values[i].get();
      }
    }
  }
  return cycles;
}

/// Times in which a core stood still, merged over cores.
Histogram::Snapshot stalls(const Registry& registry) {
  Histogram::Snapshot merged;
  for (const Registry::NamedHistogram& named : registry.histograms()) {
    if (named.name == "stall_ns") merged.merge(named.histogram->snapshot());
  }
  return merged;
}

struct Reading {
  Nanos at = 0;
  std::uint64_t commands = 0;
  std::uint64_t scanned = 0;
  std::map<std::string, std::uint64_t> cycles;
  Histogram::Snapshot latency;
  Histogram::Snapshot stalls;
};

Reading read(const Load& load, const Registry& registry) {
  dataplane::TscClock clock;
  return {clock.now(),
          load.counters()[LoadCounter::kCommands].get(),
          load.counters()[LoadCounter::kScannedEntries].get(),
          useful_cycles(registry),
          load.latency().snapshot(),
          stalls(registry)};
}

bool await_settled(const Load& load, double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  // A phase takes effect at the stage's next poll.
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  while (!load.settled()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

/// Segments for the records of one replica, with room for split segments half full.
std::uint32_t service_memory_mb(const LoadOptions& load) {
  const std::uint64_t record = 32 + load.key_bytes + load.value_bytes;
  return static_cast<std::uint32_t>(256 + (3 * record * load.keys >> 20));
}

tools::ClusterOptions cluster_options(const WorkloadOptions& options) {
  tools::ClusterOptions cluster;
  cluster.acceptors = options.acceptors;
  cluster.replicas = options.replicas;
  cluster.mode = options.mode;
  cluster.dissemination = options.dissemination;
  cluster.mtu = options.mtu;
  const std::uint32_t memory = service_memory_mb(options.load);
  const bool kv = options.load.service == ServiceKind::kKv;
  cluster.service_names = {{"kv", kv ? memory : 64}, {"btree", kv ? 64 : memory}};
  cluster.services = tools::service_factory(cluster.service_names);
  return cluster;
}

std::map<std::string, std::string> describe(const WorkloadOptions& options) {
  const Mix& mix = options.load.mix;
  std::string shares;
  const auto share = [&](const char* name, std::uint32_t percent) {
    if (percent != 0) shares += (shares.empty() ? "" : " ") + std::to_string(percent) + name;
  };
  share("% read", mix.read);
  share("% update", mix.update);
  share("% insert", mix.insert);
  share("% scan", mix.scan);
  share("% read-modify-write", mix.read_modify_write);
  share("% remove", mix.remove);
  constexpr const char* kDistributions[] = {"uniform", "zipfian", "latest"};
  return {
      {"service", options.load.service == ServiceKind::kKv ? "kv" : "btree"},
      {"mix", shares},
      {"distribution", kDistributions[static_cast<int>(options.load.distribution)]},
      {"key_bytes", std::to_string(options.load.key_bytes)},
      {"value_bytes", std::to_string(options.load.value_bytes)},
      {"keys", std::to_string(options.load.keys)},
      {"batch", std::to_string(options.batch)},
      {"clients", std::to_string(options.load.clients)},
      {"window", std::to_string(options.load.window)},
      {"rate", options.load.rate > 0 ? std::to_string(options.load.rate) : "closed loop"},
      {"mode", tools::to_string(options.mode)},
      {"dissemination", tools::to_string(options.dissemination)},
      {"durability", "memory"},
      {"transport", "local"},
      {"mtu", std::to_string(options.mtu)},
      {"acceptors", std::to_string(options.acceptors)},
      {"replicas", std::to_string(options.replicas)},
      {"seconds", std::to_string(options.seconds)},
      {"cores", std::to_string(dataplane::this_host().cpus.size()) + ", load generator included"}};
}

void summarise(const Reading& before, const Reading& after, Result& result) {
  const double seconds = static_cast<double>(after.at - before.at) / 1e9;
  const auto commands = static_cast<double>(after.commands - before.commands);
  result.per_second = commands / seconds;
  result.latency = latency_figures(after.latency.since(before.latency));
  for (const auto& [role, cycles] : after.cycles) {
    const auto earlier = before.cycles.find(role);
    const std::uint64_t base = earlier == before.cycles.end() ? 0 : earlier->second;
    result.cpu_ns_per_command[role] =
        static_cast<double>(cycles - base) / dataplane::TscClock::cycles_per_nano() / commands;
  }
  const Histogram::Snapshot stalled = after.stalls.since(before.stalls);
  result.extra["machine_stalls"] = static_cast<double>(stalled.count);
  result.extra["machine_stall_max_us"] = static_cast<double>(stalled.at(1.0)) / 1e3;
  if (after.scanned != before.scanned) {
    result.extra["entries_scanned_per_second"] =
        static_cast<double>(after.scanned - before.scanned) / seconds;
  }
}

}  // namespace

annulus::Result<Result> run_workload(const WorkloadOptions& options) {
  Load load(options.load);
  auto made = tools::Cluster::create(cluster_options(options));
  if (!made) return made.error();
  tools::Cluster& cluster = *made.value();
  load.attach(cluster.make_client(load.sink(), [&](statemachine::ClientOptions& client) {
    client.sessions_max = options.load.clients;
    client.session_window_max = std::bit_ceil(options.load.window);
    client.batch_commands = options.batch;
    client.batch_bytes = options.batch_bytes;
  }));
  cluster.add_stage("load", load);
  cluster.registry().add("load", "stage.client", load.stage_counters());
  if (Status started = cluster.start(); !started) return started.error();

  load.set_phase(Load::Phase::kLoading);
  if (!await_settled(load, 300)) {
    return Error{"the records were not loaded within 300 s: see `annulus top` for what waits"};
  }
  load.set_phase(Load::Phase::kRunning);
  std::this_thread::sleep_for(std::chrono::duration<double>(options.warmup));
  const Reading before = read(load, cluster.registry());
  std::this_thread::sleep_for(std::chrono::duration<double>(options.seconds));
  const Reading after = read(load, cluster.registry());
  load.set_phase(Load::Phase::kIdle);
  if (!await_settled(load, 30)) return Error{"commands were left without a reply"};

  Result result;
  result.experiment = options.experiment;
  result.label = options.label;
  result.config = describe(options);
  summarise(before, after, result);
  const std::uint64_t wrong = load.counters()[LoadCounter::kWrong].get();
  const std::uint64_t failed = load.counters()[LoadCounter::kFailed].get();
  if (wrong + failed != 0) {
    return Error{std::to_string(wrong) + " replies were wrong and " + std::to_string(failed) +
                 " commands failed: the run is void"};
  }
  if (options.mode == tools::Mode::kSmr) {
    const auto hashes = cluster.state_hashes();
    if (!hashes) return hashes.error();
    result.hashes_compared = true;
    result.state_hashes_equal = true;
    for (const statemachine::StateHashes& each : hashes.value()) {
      result.state_hashes_equal = result.state_hashes_equal && each.kept == each.recomputed &&
                                  each.recomputed == hashes.value()[0].recomputed;
    }
  }
  cluster.stop();
  return result;
}

}  // namespace annulus::bench
