#include "tools/bench/workload.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <thread>

#include "dataplane/core_loop.h"
#include "recovery/disk.h"

namespace annulus::bench {
namespace {

using dataplane::Histogram;
using dataplane::Registry;

/// Sum of one counter over all nodes that have it.
std::uint64_t sum_of(const Registry& registry, const char* stage, const char* name) {
  std::uint64_t sum = 0;
  for (const Registry::Group& group : registry.groups()) {
    if (group.stage != stage) continue;
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      if (std::strcmp(group.names[i], name) == 0) sum += group.values[i].get();
    }
  }
  return sum;
}

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

std::vector<const dataplane::Counter*> stall_counters(const Registry& registry) {
  std::vector<const dataplane::Counter*> counters;
  for (const Registry::Group& group : registry.groups()) {
    if (group.stage != "core") continue;
    counters.push_back(&group.values[static_cast<std::size_t>(dataplane::LoopCounter::kStalls)]);
  }
  return counters;
}

/// Times in which a core stood still, merged over cores.
Histogram::Snapshot stalls(const Registry& registry) {
  Histogram::Snapshot merged;
  for (const Registry::NamedHistogram& named : registry.histograms()) {
    if (named.name == "stall_ns") merged.merge(named.histogram->snapshot());
  }
  return merged;
}

/// Segments for the records of one replica, with room for split segments half full.
std::uint32_t service_memory_mb(const LoadOptions& load) {
  const std::uint64_t record = 32 + load.key_bytes + load.value_bytes;
  return static_cast<std::uint32_t>(256 + (3 * record * load.keys >> 20));
}

std::vector<std::uint32_t> cpus_used(const WorkloadOptions& options) {
  std::vector<std::uint32_t> cpus = dataplane::this_host().cpus;
  if (options.cores != 0 && options.cores < cpus.size()) cpus.resize(options.cores);
  return cpus;
}

/// The load is in this process, so no CPU need be left to anybody: the stages of each role take all
/// of them in turn, so that replicas, which have the most to do, lie apart.
tools::ProcessConfig process_config(const WorkloadOptions& options) {
  const std::string all = dataplane::to_cpu_list(cpus_used(options));
  tools::ProcessConfig process;
  for (const char* role : {"acceptor", "client", "learner", "worker"}) process.cores[role] = all;
  process.idle = "yield";
  return process;
}

tools::ClusterOptions cluster_options(const WorkloadOptions& options) {
  tools::ClusterOptions cluster;
  cluster.acceptors = options.acceptors;
  cluster.replicas = options.replicas;
  cluster.mode = options.mode;
  cluster.dissemination = options.dissemination;
  cluster.durability = options.durability;
  cluster.log_mb = options.log_mb;
  cluster.mtu = options.mtu;
  cluster.process = process_config(options);
  cluster.gated = options.gated;
  const std::uint32_t memory = service_memory_mb(options.load);
  const bool kv = options.load.service == ServiceKind::kKv;
  cluster.service_names = {{"kv", kv ? memory : 64}, {"btree", kv ? 64 : memory}};
  cluster.services = tools::service_factory(cluster.service_names);
  return cluster;
}

std::map<std::string, std::string> describe(const WorkloadOptions& options, const Mix& mix) {
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
  return {{"service", options.load.service == ServiceKind::kKv ? "kv" : "btree"},
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
          {"durability", tools::to_string(options.durability)},
          {"transport", "local"},
          {"mtu", std::to_string(options.mtu)},
          {"acceptors", std::to_string(options.acceptors)},
          {"replicas", std::to_string(options.replicas)},
          {"seconds", std::to_string(options.seconds)},
          {"cores", std::to_string(cpus_used(options).size()) + ", load generator included"}};
}

}  // namespace

Reading Reading::since(const Reading& earlier) const {
  Reading counted{time - earlier.time,
                  commands - earlier.commands,
                  scanned - earlier.scanned,
                  log_bytes - earlier.log_bytes,
                  log_groups - earlier.log_groups,
                  log_accepts - earlier.log_accepts,
                  upkeep_cycles - earlier.upkeep_cycles,
                  cycles,
                  latency.since(earlier.latency),
                  stalled_latency.since(earlier.stalled_latency),
                  stalls.since(earlier.stalls)};
  for (const auto& [role, before] : earlier.cycles) counted.cycles[role] -= before;
  return counted;
}

void Reading::add(const Reading& other) {
  time += other.time;
  commands += other.commands;
  scanned += other.scanned;
  log_bytes += other.log_bytes;
  log_groups += other.log_groups;
  log_accepts += other.log_accepts;
  upkeep_cycles += other.upkeep_cycles;
  for (const auto& [role, more] : other.cycles) cycles[role] += more;
  latency.merge(other.latency);
  stalled_latency.merge(other.stalled_latency);
  stalls.merge(other.stalls);
}

Rig::Rig(const WorkloadOptions& options) : options_(options), load_(options.load) {}
Rig::~Rig() = default;

Rig::Scratch::~Scratch() {
  std::error_code ignored;
  if (!path.empty()) std::filesystem::remove_all(path, ignored);
}

annulus::Result<std::unique_ptr<Rig>> Rig::create(const WorkloadOptions& options) {
  std::unique_ptr<Rig> rig(new Rig(options));
  tools::ClusterOptions wanted = cluster_options(options);
  if (options.durability == tools::Durability::kDisk) {
    std::string scratch = options.directory + "/annulus-bench-XXXXXX";
    if (mkdtemp(scratch.data()) == nullptr) {
      return Error{options.directory + ": no directory for the logs can be made there (" +
                   std::strerror(errno) + "); name one that this user may write to with --dir"};
    }
    rig->scratch_.path = wanted.directory = scratch;
  }
  auto made = tools::Cluster::create(wanted);
  if (!made) return made.error();
  rig->cluster_ = std::move(made).value();
  tools::Cluster& cluster = *rig->cluster_;
  statemachine::Client& client =
      cluster.make_client(rig->load_.sink(), [&](statemachine::ClientOptions& its) {
        its.sessions_max = options.load.clients;
        its.session_window_max = std::bit_ceil(options.load.window);
        its.batch_commands = options.batch;
        its.batch_bytes = options.batch_bytes;
        its.deadline = options.deadline;
      });
  client.touch_memory();
  rig->load_.attach(client);
  cluster.add_stage("load", rig->load_);
  if (Status started = cluster.start(); !started) return started.error();
  if (options.separate_stalls) rig->load_.watch_stalls(stall_counters(cluster.registry()));
  return rig;
}

Reading Rig::reading() const {
  dataplane::TscClock clock;
  return {clock.now(),
          load_.counters()[LoadCounter::kCommands].get(),
          load_.counters()[LoadCounter::kScannedEntries].get(),
          recovery::kBlockBytes * sum_of(cluster_->registry(), "log", "blocks"),
          sum_of(cluster_->registry(), "log", "groups"),
          sum_of(cluster_->registry(), "log", "accepts"),
          sum_of(cluster_->registry(), "node", "upkeep_cycles"),
          useful_cycles(cluster_->registry()),
          load_.latency().snapshot(),
          load_.stalled_latency().snapshot(),
          stalls(cluster_->registry())};
}

Status Rig::come_to_rest(double seconds) const {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!load_.settled()) {
    if (std::chrono::steady_clock::now() > end) {
      return Error{"after " + std::to_string(static_cast<int>(seconds)) +
                   " s there are commands without a reply: 'annulus top' shows what waits"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const std::uint64_t wrong = load_.counters()[LoadCounter::kWrong].get();
  const std::uint64_t failed = load_.counters()[LoadCounter::kFailed].get();
  if (wrong + failed == 0) return {};
  return Error{std::to_string(wrong) + " replies were wrong and " + std::to_string(failed) +
               " commands failed: the run is void"};
}

Result Rig::result_of(const Mix& mix, const Reading& counted) const {
  Result result;
  result.experiment = options_.experiment;
  result.label = options_.label;
  result.config = describe(options_, mix);
  const double seconds = static_cast<double>(counted.time) / 1e9;
  const auto commands = static_cast<double>(counted.commands);
  result.per_second = commands / seconds;
  result.latency = latency_figures(counted.latency.since(counted.stalled_latency));
  if (options_.separate_stalls) {
    const LatencyFigures all = latency_figures(counted.latency);
    result.extra["commands_during_stalls"] = static_cast<double>(counted.stalled_latency.count);
    result.extra["p50_with_stalls_us"] = all.p50_us;
    result.extra["p99_with_stalls_us"] = all.p99_us;
    result.extra["p999_with_stalls_us"] = all.p999_us;
  }
  for (const auto& [role, cycles] : counted.cycles) {
    result.cpu_ns_per_command[role] =
        static_cast<double>(cycles) / dataplane::TscClock::cycles_per_nano() / commands;
  }
  result.extra["machine_stalls"] = static_cast<double>(counted.stalls.count);
  result.extra["machine_stall_max_us"] = static_cast<double>(counted.stalls.at(1.0)) / 1e3;
  if (options_.durability == tools::Durability::kDisk) {
    result.extra["log_bytes_per_second"] = static_cast<double>(counted.log_bytes) / seconds;
  }
  if (counted.log_groups != 0) {
    result.extra["log_batches_a_group"] =
        static_cast<double>(counted.log_accepts) / static_cast<double>(counted.log_groups);
  }
  if (options_.mode == tools::Mode::kSmr) {
    // Of what the cluster itself does; the load generator is none of it.
    double useful = 0;
    for (const char* role : {"acceptor", "learner", "worker"}) {
      useful += static_cast<double>(counted.cycles.at(role));
    }
    result.extra["upkeep_percent"] = 100 * static_cast<double>(counted.upkeep_cycles) / useful;
  }
  if (counted.scanned != 0) {
    result.extra["entries_scanned_per_second"] = static_cast<double>(counted.scanned) / seconds;
  }
  return result;
}

annulus::Result<Result> Rig::load() {
  if (Status opened = come_to_rest(30); !opened) return opened.error();
  const Reading before = reading();
  load_.set_phase(Load::Phase::kLoading);
  if (Status loaded = come_to_rest(600); !loaded) return loaded.error();
  const Reading counted = reading().since(before);
  load_.set_phase(Load::Phase::kIdle);
  return result_of({.update = 0, .insert = 100}, counted);
}

annulus::Result<Result> Rig::measure(const Mix& mix) {
  if (Status idle = come_to_rest(30); !idle) return idle.error();
  load_.set_mix(mix);
  load_.set_phase(Load::Phase::kRunning);
  std::this_thread::sleep_for(std::chrono::duration<double>(options_.warmup));
  const Reading before = reading();
  std::this_thread::sleep_for(std::chrono::duration<double>(options_.seconds));
  const Reading counted = reading().since(before);
  load_.set_phase(Load::Phase::kIdle);
  if (Status rested = come_to_rest(30); !rested) return rested.error();
  return result_of(mix, counted);
}

Status Rig::run(double rate, Timeline* timeline) {
  if (Status idle = come_to_rest(30); !idle) return idle;
  load_.set_rate(rate);
  load_.set_timeline(timeline);
  load_.set_phase(Load::Phase::kRunning);
  return {};
}

Status Rig::rest() {
  load_.set_phase(Load::Phase::kIdle);
  return come_to_rest(30);
}

Status Rig::finish(Result& result) {
  if (options_.mode == tools::Mode::kSmr) {
    const auto hashes = cluster_->state_hashes(60 * kSecond);
    if (!hashes) return hashes.error();
    result.hashes_compared = true;
    result.state_hashes_equal = true;
    for (const statemachine::StateHashes& each : hashes.value()) {
      result.state_hashes_equal = result.state_hashes_equal && each.kept == each.recomputed &&
                                  each.recomputed == hashes.value()[0].recomputed;
    }
  }
  cluster_->stop();
  return {};
}

annulus::Result<Result> run_workload(const WorkloadOptions& options) {
  auto made = Rig::create(options);
  if (!made) return made.error();
  Rig& rig = *made.value();
  if (auto loaded = rig.load(); !loaded) return loaded.error();
  auto result = rig.measure(options.load.mix);
  if (!result) return result.error();
  if (Status finished = rig.finish(result.value()); !finished) return finished.error();
  return result;
}

}  // namespace annulus::bench
