#include "tests/sim/run.h"

namespace annulus::sim {
namespace {

/// Simulated time within which everything must be done once nothing fails any more. Most seeds take
/// milliseconds; a client that found nobody during the faults tries again every quarter second.
constexpr Nanos kHealedLimit = 10 * kSecond;
constexpr Nanos kFaultsLimit = 60 * kSecond;

void collect(const dataplane::Registry& registry, RunReport& report) {
  for (const auto& group : registry.groups()) {
    for (std::size_t i = 0; i < group.values.size(); ++i) {
      const std::string name = group.stage + "." + group.names[i];
      if (name != kHostCycles) report.counters[name] += group.values[i].get();
    }
  }
}

}  // namespace

std::uint64_t RunReport::faults_total() const {
  std::uint64_t sum = 0;
  for (const std::uint64_t count : faults) sum += count;
  return sum;
}

namespace {

/// Everything that a seed decides before the first poll.
struct Scene {
  explicit Scene(const RunOptions& options)
      : rng(options.seed),
        plan(draw_plan(rng)),
        world(rng.next() ^ options.schedule * 0x9e3779b97f4a7c15ull, plan.frame_bytes_max),
        cluster(world, plan, load(options), rng.fork()) {
    FaultOptions wanted;
    wanted.durable = plan.durable;
    wanted.damaged = plan.damaged;
    if (plan.durable) wanted.weights = kUsualDiskFaults;
    if (options.mix) wanted.weights = draw_weights(rng, plan.durable);
    wanted.count = options.faults;
    wanted.ends = cluster.ends();
    wanted.changes = cluster.changes();
    wanted.node_ends = cluster.node_ends();
    wanted.stages = cluster.stages();
    wanted.acceptors = cluster.acceptors();
    wanted.replicas = cluster.replicas();
    wanted.executing_stages = cluster.executing_stages();
    wanted.nodes = cluster.nodes();
    wanted.returning = cluster.returning_nodes();
    faults = plan_faults(rng, wanted);
  }
  static LoadPlan load(const RunOptions& options) {
    return {.commands = options.commands,
            .raw_values = options.commands / 20,
            .duration = options.faults * FaultOptions{}.gap_max / 2};
  }
  std::vector<Fault> chosen(const std::vector<std::uint32_t>& only) const {
    if (only.empty()) return faults;
    std::vector<Fault> some;
    for (const std::uint32_t number : only) {
      if (number < faults.size()) some.push_back(faults[number]);
    }
    return some;
  }

  Rng rng;
  ClusterPlan plan;
  World world;
  Cluster cluster;
  std::vector<Fault> faults;
};

/// Faults first; then, with everything well that has not crashed, all must be done in bounded time.
Nanos run_phases(Scene& scene, const RunOptions& options) {
  World& world = scene.world;
  Cluster& cluster = scene.cluster;
  world.set_faults(scene.chosen(options.only));
  world.set_fault_handler([&](const Fault& fault) { cluster.on_fault(fault); });
  world.run([&] { return world.faults_over(); }, kFaultsLimit);
  world.heal();
  cluster.restart_all();
  const Nanos healed = world.now();
  world.trace().note(healed, "everything is well that has not crashed");
  if (world.failure().failed()) return healed;
  const auto finished = [&] { return cluster.clients_done() && cluster.caught_up(); };
  if (!world.run(finished, healed + kHealedLimit)) {
    world.failure().set(
        "liveness: " + std::to_string((world.now() - healed) / kMillisecond) +
        " ms after the last fault there is work left:" + cluster.describe_unfinished());
  }
  if (!world.failure().failed()) cluster.check_end();
  return healed;
}

}  // namespace

std::uint32_t planned_faults(const RunOptions& options) {
  return static_cast<std::uint32_t>(Scene(options).faults.size());
}

RunReport run_seed(const RunOptions& options) {
  RunReport report;
  report.seed = options.seed;
  Scene scene(options);
  World& world = scene.world;
  Cluster& cluster = scene.cluster;
  report.plan = scene.plan.describe();
  if (options.tell) world.trace().tell();
  const Nanos healed = run_phases(scene, options);

  collect(cluster.registry(), report);
  report.failure = world.failure().what();
  report.trace_hash = world.trace().hash();
  report.trace_events = world.trace().events();
  report.simulated = world.now();
  report.healed = world.now() - healed;
  report.polls = world.polls();
  for (std::size_t i = 0; i < report.faults.size(); ++i) {
    report.faults[i] = world.faults_begun(static_cast<FaultKind>(i));
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(NetworkEvent::kCount); ++i) {
    const auto event = static_cast<NetworkEvent>(i);
    report.counters[std::string("network.") + to_string(event)] = world.network().count(event);
  }
  cluster.count(report.counters);
  report.commands = cluster.history().completed;
  world.trace().note(world.now(), report.failure.empty() ? "done" : report.failure);
  report.transcript = world.trace().notes();
  return report;
}

}  // namespace annulus::sim
