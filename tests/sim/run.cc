#include "tests/sim/run.h"

namespace annulus::sim {
namespace {

/// Simulated time within which everything must be done once nothing fails any more: below the
/// clients' deadline of a minute. Most seeds take milliseconds; the slowest are those in which a
/// proposer's delay estimate reached its ceiling, and backing off makes a timeout of 16 seconds.
constexpr Nanos kHealedLimit = 55 * kSecond;
constexpr Nanos kFaultsLimit = 60 * kSecond;

void collect(const dataplane::Registry& registry, RunReport& report) {
  for (const auto& group : registry.groups()) {
    for (std::size_t i = 0; i < group.values.size(); ++i) {
      report.counters[group.stage + "." + group.names[i]] += group.values[i].get();
    }
  }
}

}  // namespace

std::uint64_t RunReport::faults_total() const {
  std::uint64_t sum = 0;
  for (const std::uint64_t count : faults) sum += count;
  return sum;
}

RunReport run_seed(const RunOptions& options) {
  RunReport report;
  report.seed = options.seed;
  Rng rng(options.seed);
  const ClusterPlan plan = draw_plan(rng);
  report.plan = plan.describe();
  World world(rng.next(), plan.frame_bytes_max);
  FaultOptions fault_options;
  fault_options.count = options.faults;
  const Nanos duration = options.faults * fault_options.gap_max / 2;
  Cluster cluster(world, plan, {options.commands, options.commands / 20, duration}, rng.fork());
  fault_options.ends = world.network().ends();
  fault_options.node_ends = cluster.node_ends();
  fault_options.stages = cluster.stages();
  fault_options.acceptors = cluster.acceptors();
  world.set_faults(plan_faults(rng, fault_options));
  world.set_fault_handler([&](const Fault& fault) {
    if (fault.kind == FaultKind::kElection) cluster.start_election(fault.a);
  });

  world.run([&] { return world.faults_over(); }, kFaultsLimit);
  world.heal();
  const Nanos healed = world.now();
  if (!world.failure().failed()) {
    const bool done = world.run([&] { return cluster.clients_done() && cluster.caught_up(); },
                                healed + kHealedLimit);
    if (!done) {
      world.failure().set(
          "liveness: " + std::to_string((world.now() - healed) / kMillisecond) +
          " ms after the last fault there is work left:" + cluster.describe_unfinished());
    }
  }
  if (!world.failure().failed()) cluster.check_end();

  collect(cluster.registry(), report);
  report.failure = world.failure().what();
  report.trace_hash = world.trace().hash();
  report.trace_events = world.trace().events();
  report.simulated = world.now();
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
  return report;
}

}  // namespace annulus::sim
