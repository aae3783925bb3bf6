// What a plan of faults may hold.
#include "tests/sim/faults.h"

#include <gtest/gtest.h>

namespace annulus::sim {
namespace {

FaultOptions options_of(std::uint32_t acceptors) {
  FaultOptions options;
  options.count = 200;
  options.acceptors = acceptors;
  options.replicas = 4;
  options.node_ends = acceptors + 4;
  options.ends = options.node_ends + 6;
  options.nodes = options.ends;
  options.stages = options.nodes + 8;
  for (std::uint32_t i = 0; i < options.replicas; ++i) {
    options.executing_stages.push_back(acceptors + 3 * i + 2);
  }
  return options;
}

TEST(FaultsTest, CrashesLeaveAMajorityOfAcceptorsTheLastReplicaAndAClient) {
  std::uint32_t crashes = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    FaultOptions options = options_of(seed % 2 == 0 ? 3 : 5);
    options.weights[static_cast<std::size_t>(FaultKind::kCrash)] = 50;
    std::vector<bool> dead(options.nodes);
    std::uint32_t acceptors = 0;
    for (const Fault& fault : plan_faults(rng, options)) {
      if (fault.kind != FaultKind::kCrash) continue;
      ++crashes;
      EXPECT_FALSE(dead[fault.a]) << "seed " << seed << ": node " << fault.a << " dies twice";
      dead[fault.a] = true;
      acceptors += fault.a < options.acceptors;
    }
    EXPECT_LE(acceptors, (options.acceptors - 1) / 2) << "seed " << seed;
    EXPECT_FALSE(dead[options.acceptors + options.replicas - 1]) << "seed " << seed;
    EXPECT_FALSE(dead[options.nodes - 1]) << "seed " << seed;
  }
  EXPECT_GT(crashes, 1'000u);
}

TEST(FaultsTest, OnlyACrashedAcceptorComesBackAndItIsMute) {
  std::uint32_t returns = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    FaultOptions options = options_of(5);
    options.weights[static_cast<std::size_t>(FaultKind::kMuteReturn)] = 50;
    std::vector<bool> dead(options.nodes);
    for (const Fault& fault : plan_faults(rng, options)) {
      if (fault.kind == FaultKind::kCrash) dead[fault.a] = true;
      if (fault.kind != FaultKind::kMuteReturn) continue;
      ++returns;
      EXPECT_TRUE(fault.a < options.acceptors && dead[fault.a]) << "seed " << seed;
    }
  }
  EXPECT_GT(returns, 50u);
}

TEST(FaultsTest, ClocksOfClientsDoNotJump) {
  Rng rng(1);
  FaultOptions options = options_of(3);
  options.weights = {};
  options.weights[static_cast<std::size_t>(FaultKind::kClockJump)] = 1;
  for (const Fault& fault : plan_faults(rng, options)) {
    EXPECT_EQ(fault.kind, FaultKind::kClockJump);
    EXPECT_LT(fault.a, options.acceptors + options.replicas);
  }
}

TEST(FaultsTest, AMixIsNeverEmptyAndComesFromTheSeedAlone) {
  for (std::uint64_t seed = 1; seed <= 1'000; ++seed) {
    Rng one(seed);
    Rng other(seed);
    const FaultWeights weights = draw_weights(one);
    EXPECT_EQ(weights, draw_weights(other));
    EXPECT_NE(weights, FaultWeights{});
  }
}

}  // namespace
}  // namespace annulus::sim
