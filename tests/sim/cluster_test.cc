// What a cluster does that a plan, not a seed, describes: mostly with acceptors whose logs fill.
#include "tests/sim/cluster.h"

#include <gtest/gtest.h>

namespace annulus::sim {
namespace {

constexpr std::uint64_t kPlentyOfBlocks = 4'096;
/// The last acceptor is the one that may lose what it said, the one before it never does.
constexpr std::uint32_t kDamaged = 4;
constexpr std::uint32_t kOther = 3;

class ClusterTest : public testing::Test {
 protected:
  void start(std::uint32_t acceptors, std::uint32_t small, std::uint32_t blocks) {
    plan_.acceptors = acceptors;
    plan_.learners = {consensus::kAllPartitions, consensus::kAllPartitions};
    plan_.durable = blocks != 0;
    if (plan_.durable) plan_.damaged = std::min(kDamaged, acceptors - 1);
    plan_.small = small;
    plan_.small_blocks = blocks;
    LoadPlan load;
    load.commands = 2'000;
    load.duration = 4 * kSecond;
    world_ = std::make_unique<World>(1, plan_.frame_bytes_max);
    cluster_ = std::make_unique<Cluster>(*world_, plan_, load, Rng(2));
  }
  void pass(Nanos time) {
    world_->run([] { return false; }, world_->now() + time);
    ASSERT_EQ(world_->failure().what(), "");
  }
  void cut(const std::vector<std::pair<std::uint32_t, std::uint32_t>>& links) {
    const std::size_t ends = world_->network().ends();
    std::vector<LinkQuality> base(ends * ends, plan_.base);
    for (const auto& [a, b] : links) base[a * ends + b].cut = base[b * ends + a].cut = true;
    world_->set_base(base);
  }
  void happen(FaultKind kind, std::uint32_t which) {
    cluster_->on_fault({.kind = kind, .a = which});
  }
  /// Of the cluster, and of its nodes as long as they live.
  std::uint64_t count(const std::string& name) {
    std::map<std::string, std::uint64_t> counters;
    cluster_->count(counters);
    for (const auto& group : cluster_->registry().groups()) {
      for (std::size_t i = 0; i < group.values.size(); ++i) {
        counters[group.stage + "." + group.names[i]] += group.values[i].get();
      }
    }
    return counters[name];
  }
  /// Whether an operator of five acceptors takes out this one.
  bool takes_out(std::uint32_t small, std::uint32_t acceptor) {
    plan_.changes = true;
    start(5, small, kPlentyOfBlocks);
    happen(FaultKind::kRemoveAcceptor, acceptor);
    pass(500 * kMillisecond);
    const bool done = count("order.acceptors_removed") == 1;
    cluster_.reset();
    return done;
  }
  void finish() {
    const auto finished = [&] { return cluster_->clients_done() && cluster_->caught_up(); };
    EXPECT_TRUE(world_->run(finished, world_->now() + 30 * kSecond))
        << cluster_->describe_unfinished();
    cluster_->check_end();
    EXPECT_EQ(world_->failure().what(), "");
  }

  ClusterPlan plan_;
  std::unique_ptr<World> world_;
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(ClusterTest, OperatorLeavesAMajorityThatNeedsNeitherAFullLogNorALostOne) {
  EXPECT_FALSE(takes_out(kOther, 0)) << "three of four, of which two may be unable";
  EXPECT_TRUE(takes_out(kOther, kOther));
  EXPECT_TRUE(takes_out(kOther, kDamaged));
  EXPECT_TRUE(takes_out(kDamaged, 0)) << "it is one and the same that may be unable";
  EXPECT_TRUE(takes_out(~0u, 0));
}

// What admits the sixth may have been proposed; then four of six are needed, and it is none of
// them.
TEST_F(ClusterTest, CrashesLeaveAMajorityWithoutWhoLostItsMemoryBeforeItWasAdmitted) {
  constexpr std::uint32_t kSixth = 5;
  plan_.changes = true;
  start(5, ~0u, 0);
  pass(20 * kMillisecond);
  std::vector<std::pair<std::uint32_t, std::uint32_t>> all;
  for (std::uint32_t i = 0; i < 15; ++i) all.emplace_back(i / 5, i % 5 == i / 5 ? kSixth : i % 5);
  cut(all);
  happen(FaultKind::kAddAcceptor, 0);
  pass(5 * kMillisecond);
  happen(FaultKind::kCrash, kSixth);
  happen(FaultKind::kRejoin, kSixth);
  happen(FaultKind::kCrash, 2);
  happen(FaultKind::kCrash, 1);
  const std::string now = cluster_->describe_unfinished();
  EXPECT_NE(now.find("acceptor 2 crashed"), std::string::npos) << now;
  EXPECT_EQ(now.find("acceptor 1 crashed"), std::string::npos) << now;
  cut({});
  finish();
  EXPECT_EQ(count("order.acceptors_added"), 1u);
}

TEST_F(ClusterTest, ElectionsAreRareWhereAFullLogKeepsAllFromDeciding) {
  start(3, 2, 64);
  pass(2 * kSecond);
  ASSERT_GT(count("acceptor.drop_log_full"), 0u);
  happen(FaultKind::kCrash, 1);
  pass(kSecond);
  const std::uint64_t ballots = count("order.ballots");
  const std::uint64_t logged = count("log.accepts");
  const std::uint64_t decided = count("coordinator.decided");
  pass(20 * kSecond);
  EXPECT_EQ(count("coordinator.decided"), decided);
  EXPECT_LE(count("order.ballots"), ballots + 5) << "after 1, 2, 4, 8 s";
  EXPECT_LE(count("log.accepts"), logged + 5 * plan_.window);
  happen(FaultKind::kRestart, 1);
  finish();
}

// 2, 3 and 4 are whole, and hear each other.
TEST_F(ClusterTest, CoordinatorThatStaysForAFullLogGivesWayToAMajorityThatDoesNotHearIt) {
  start(5, 1, 64);
  pass(1'500 * kMillisecond);
  ASSERT_GT(count("acceptor.drop_log_full"), 0u);
  cut({{0, 3}, {0, 4}});
  pass(kSecond);
  const std::uint64_t decided = count("coordinator.decided");
  pass(8 * kSecond);
  EXPECT_GT(count("coordinator.decided"), decided + 100);
  cut({});
  finish();
}

}  // namespace
}  // namespace annulus::sim
