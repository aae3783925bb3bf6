#include "tests/sim/light.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "tests/sim/cluster.h"

namespace annulus::sim {
namespace {

/// Of one client: a light load.
constexpr double kCommandsPerSecond = 10;
/// What a client has not submitted by then it submits within so long.
constexpr Nanos finish_within(Nanos simulated) { return 10 * kSecond + simulated; }

}  // namespace

bool run_light(double seconds) {
  const auto simulated = static_cast<Nanos>(seconds * static_cast<double>(kSecond));
  LoadPlan load;
  load.commands = std::max(1u, static_cast<std::uint32_t>(seconds * kCommandsPerSecond));
  load.clients = 1;
  load.duration = simulated;
  ClusterPlan plan;
  plan.learners = {consensus::kAllPartitions, consensus::kAllPartitions};
  Rng rng(1);
  World world(rng.next(), plan.frame_bytes_max);
  Cluster cluster(world, plan, load, rng.fork());
  const auto started = std::chrono::steady_clock::now();
  world.run([] { return false; }, simulated);
  const double real =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  const std::uint64_t polls = world.polls();
  const auto finished = [&] { return cluster.clients_done() && cluster.caught_up(); };
  if (!world.run(finished, world.now() + finish_within(simulated))) {
    world.failure().set("liveness: commands of a healthy cluster are not answered:" +
                        cluster.describe_unfinished());
  }
  if (!world.failure().failed()) cluster.check_end();
  std::printf(
      "3 acceptors, 2 replicas, 1 client, %u commands: %.3g s simulated in %.3g s, "
      "%.0f times real time; %.3g million polls, %.0f ns each\n",
      load.commands, seconds, real, seconds / real, static_cast<double>(polls) / 1e6,
      real * 1e9 / static_cast<double>(std::max<std::uint64_t>(polls, 1)));
  if (world.failure().failed()) std::printf("FAILED %s\n", world.failure().what().c_str());
  return !world.failure().failed();
}

}  // namespace annulus::sim
