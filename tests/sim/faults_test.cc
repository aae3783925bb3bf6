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

// Who comes back may crash again: the cluster sees to it that a majority is whole then.
TEST(FaultsTest, CrashesForGoodLeaveAMajorityOfAcceptorsTheLastReplicaAndAClient) {
  std::uint32_t crashes = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    FaultOptions options = options_of(seed % 2 == 0 ? 3 : 5);
    options.weights[static_cast<std::size_t>(FaultKind::kCrash)] = 50;
    options.weights[static_cast<std::size_t>(FaultKind::kRejoin)] = 0;
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

TEST(FaultsTest, OnlyACrashedAcceptorComesBackWithoutMemory) {
  std::uint32_t returns = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    FaultOptions options = options_of(5);
    options.weights[static_cast<std::size_t>(FaultKind::kRejoin)] = 50;
    std::vector<bool> dead(options.nodes);
    for (const Fault& fault : plan_faults(rng, options)) {
      if (fault.kind == FaultKind::kCrash) dead[fault.a] = true;
      if (fault.kind != FaultKind::kRejoin) continue;
      ++returns;
      EXPECT_TRUE(fault.a < options.acceptors && dead[fault.a]) << "seed " << seed;
    }
  }
  EXPECT_GT(returns, 50u);
}

TEST(FaultsTest, WhatHasADiskComesBackAfterEveryCrash) {
  std::uint32_t restarts = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    FaultOptions options = options_of(3);
    options.durable = true;
    options.damaged = 1;
    options.weights = kUsualDiskFaults;
    options.weights[static_cast<std::size_t>(FaultKind::kCrash)] = 3;
    std::vector<bool> down(options.acceptors);
    for (const Fault& fault : plan_faults(rng, options)) {
      const bool loses = fault.kind == FaultKind::kRejoin || fault.kind == FaultKind::kDiskDamage;
      EXPECT_TRUE(!loses || fault.a == options.damaged);
      if (fault.kind == FaultKind::kPowerCut) down.assign(down.size(), true);
      if (fault.a >= options.acceptors) continue;
      if (fault.kind == FaultKind::kCrash) down[fault.a] = true;
      if (fault.kind == FaultKind::kRejoin) down[fault.a] = false;
      if (fault.kind != FaultKind::kRestart) continue;
      ++restarts;
      down[fault.a] = false;
    }
    EXPECT_EQ(down, std::vector<bool>(down.size())) << "seed " << seed;
  }
  EXPECT_GT(restarts, 1'000u);
}

TEST(FaultsTest, DisksFailOnlyWhereThereAreDisks) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    FaultOptions options = options_of(3);
    options.weights = draw_weights(rng, false);
    for (const Fault& fault : plan_faults(rng, options)) {
      EXPECT_LT(static_cast<std::size_t>(fault.kind), kFirstDiskFault);
    }
  }
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
    const bool durable = seed % 3 == 0;
    const FaultWeights weights = draw_weights(one, durable);
    EXPECT_EQ(weights, draw_weights(other, durable));
    EXPECT_NE(weights, FaultWeights{});
  }
}

}  // namespace
}  // namespace annulus::sim
