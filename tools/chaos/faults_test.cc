#include "tools/chaos/faults.h"

#include <gtest/gtest.h>

#include <map>

namespace annulus::chaos {
namespace {

using tools::ClusterConfig;
using tools::Durability;
using tools::NodeKind;

ClusterConfig cluster(Durability durability) {
  ClusterConfig config;
  config.durability = durability;
  const auto add = [&](NodeKind kind) {
    tools::NodeConfig node;
    node.kind = kind;
    node.name = std::string(to_string(kind)) + std::to_string(config.count(kind) + 1);
    config.nodes.push_back(node);
  };
  for (int i = 0; i < 3; ++i) add(NodeKind::kAcceptor);
  for (int i = 0; i < 2; ++i) add(NodeKind::kReplica);
  add(NodeKind::kProxy);
  return config;
}

std::uint32_t faulty(const ClusterConfig& config, const std::vector<Health>& health,
                     NodeKind kind) {
  std::uint32_t count = 0;
  for (std::size_t i = 0; i < health.size(); ++i) {
    count += config.nodes[i].kind == kind && health[i] != Health::kWhole ? 1 : 0;
  }
  return count;
}

/// Draws without end to anything, until no more can be borne.
std::vector<Health> exhaust(Plan& plan, const ClusterConfig& config) {
  std::vector<Health> health(config.nodes.size(), Health::kWhole);
  while (true) {
    const auto drawn =
        plan.draw({.cluster = config, .medium = Medium::kUdp, .health = health, .small_disk = 1});
    if (!drawn) return health;
    EXPECT_EQ(health[drawn->node], Health::kWhole);
    health[drawn->node] = Health::kFaulty;
  }
}

TEST(ChaosPlan, NeverDisturbsMoreThanTheClusterBears) {
  const ClusterConfig config = cluster(Durability::kDisk);
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Plan plan(seed);
    const std::vector<Health> health = exhaust(plan, config);
    EXPECT_EQ(faulty(config, health, NodeKind::kAcceptor), 1u);
    EXPECT_EQ(faulty(config, health, NodeKind::kReplica), 1u);
    EXPECT_EQ(faulty(config, health, NodeKind::kProxy), 1u);
  }
}

TEST(ChaosPlan, KillsEveryKindOfNodeWithoutDisks) {
  const ClusterConfig config = cluster(Durability::kMemory);
  std::map<NodeKind, int> kills;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    const std::vector<Health> health(config.nodes.size(), Health::kWhole);
    const auto drawn =
        Plan(seed).draw({.cluster = config, .medium = Medium::kMemif, .health = health});
    ASSERT_TRUE(drawn);
    if (drawn->row->fault == Fault::kKill) ++kills[config.nodes[drawn->node].kind];
  }
  for (const NodeKind kind : {NodeKind::kAcceptor, NodeKind::kReplica, NodeKind::kProxy}) {
    EXPECT_GT(kills[kind], 0) << to_string(kind);
  }
}

TEST(ChaosPlan, TheSameSeedDrawsTheSame) {
  const ClusterConfig config = cluster(Durability::kDisk);
  const std::vector<Health> health(config.nodes.size(), Health::kWhole);
  Plan one(5);
  Plan other(5);
  for (int i = 0; i < 50; ++i) {
    const auto a = one.draw({.cluster = config, .medium = Medium::kVeth, .health = health});
    const auto b = other.draw({.cluster = config, .medium = Medium::kVeth, .health = health});
    ASSERT_TRUE(a && b);
    EXPECT_EQ(describe(*a, config), describe(*b, config));
    EXPECT_EQ(one.pause(), other.pause());
    EXPECT_NE(a->node, a->other);
    EXPECT_GE(a->lasts, a->row->lasts_least_ms * kMillisecond);
    EXPECT_LE(a->lasts, a->row->lasts_most_ms * kMillisecond);
  }
}

}  // namespace
}  // namespace annulus::chaos
