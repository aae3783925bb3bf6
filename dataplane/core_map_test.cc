// CPU lists and core plans on machines of several shapes, and the errors they give.
#include "dataplane/core_map.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

namespace annulus::dataplane {
namespace {

using Cpus = std::vector<std::uint32_t>;

Host host(std::uint32_t cpus) {
  Host host;
  for (std::uint32_t cpu = 0; cpu < cpus; ++cpu) host.online.push_back(cpu);
  host.cpus = host.online;
  return host;
}

const Placement kReplica[] = {{"replica1", "network"}, {"replica1", "worker"}};

TEST(CpuList, ParsesNumbersAndRanges) {
  EXPECT_EQ(parse_cpu_list("3").value(), (Cpus{3}));
  EXPECT_EQ(parse_cpu_list("2-5,9").value(), (Cpus{2, 3, 4, 5, 9}));
  EXPECT_EQ(parse_cpu_list(" 9 , 2 - 3 ,3").value(), (Cpus{2, 3, 9}));
}

TEST(CpuList, RefusesAnythingElse) {
  for (const char* text : {"", " ", ",", "1,", ",1", "1-", "-1", "5-2", "1--2", "a", "1 2", "1.5",
                           "0-99999", "99999999999"}) {
    const Result<Cpus> list = parse_cpu_list(text);
    ASSERT_FALSE(list) << text;
    EXPECT_NE(list.error().message.find("2-5,9"), std::string::npos);
  }
}

TEST(CpuList, PrintsRanges) {
  EXPECT_EQ(to_cpu_list({9, 2, 4, 3}), "2-4,9");
  EXPECT_EQ(to_cpu_list({0, 2}), "0,2");
  EXPECT_EQ(to_cpu_list({}), "");
}

TEST(CorePlan, FollowsTheMapAndSpinsWhenCpusAreLeftOver) {
  const Placement placements[] = {{"replica1", "network"},
                                  {"replica1", "worker"},
                                  {"replica1", "worker"},
                                  {"replica1", "worker"}};
  const Result<CorePlan> plan =
      plan_cores({.roles = {{"network", {1}}, {"worker", {2, 3}}}}, placements, host(8));
  ASSERT_TRUE(plan);
  EXPECT_EQ(to_string(plan.value(), placements),
            "cpu 1   spin  replica1.network\n"
            "cpu 2   spin  replica1.worker replica1.worker\n"
            "cpu 3   spin  replica1.worker\n");
}

TEST(CorePlan, ANodesOwnRoleWins) {
  const Placement placements[] = {{"replica1", "worker"}, {"replica2", "worker"}};
  const Result<CorePlan> plan =
      plan_cores({.roles = {{"worker", {1}}, {"replica2.worker", {3}}}}, placements, host(4));
  ASSERT_TRUE(plan);
  EXPECT_EQ(to_string(plan.value(), placements),
            "cpu 1   spin  replica1.worker\n"
            "cpu 3   spin  replica2.worker\n");
}

TEST(CorePlan, AllStagesMayShareOneCpu) {
  const Result<CorePlan> plan =
      plan_cores({.roles = {{"network", {0}}, {"worker", {0}}}}, kReplica, host(1));
  ASSERT_TRUE(plan);
  EXPECT_EQ(to_string(plan.value(), kReplica), "cpu 0   yield replica1.network replica1.worker\n");
}

TEST(CorePlan, IsolatedCpusSpinAndTheConfigOverrules) {
  Host both = host(2);
  both.isolated = {1};
  const CoreMap map{.roles = {{"network", {0}}, {"worker", {1}}}};
  const Result<CorePlan> plan = plan_cores(map, kReplica, both);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan.value().cores[0].idle, IdlePolicy::kYield);
  EXPECT_EQ(plan.value().cores[1].idle, IdlePolicy::kSpin);

  CoreMap sleepy = map;
  sleepy.idle = IdlePolicy::kSleep;
  const Result<CorePlan> resting = plan_cores(sleepy, kReplica, both);
  ASSERT_TRUE(resting);
  for (const auto& core : resting.value().cores) EXPECT_EQ(core.idle, IdlePolicy::kSleep);
}

TEST(CorePlan, AutoGivesEachStageACpuWhileThereAreEnough) {
  const Result<CorePlan> plan = plan_cores({}, kReplica, host(8));
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan.value().cores.size(), 2u);
  for (const auto& core : plan.value().cores) {
    EXPECT_EQ(core.placements.size(), 1u);
    EXPECT_EQ(core.idle, IdlePolicy::kYield);
  }
}

TEST(CorePlan, AutoAvoidsCpusThatTheMapNames) {
  Host three = host(3);
  const Result<CorePlan> plan = plan_cores({.roles = {{"worker", {0}}}}, kReplica, three);
  ASSERT_TRUE(plan);
  EXPECT_EQ(to_string(plan.value(), kReplica),
            "cpu 0   spin  replica1.worker\ncpu 1   yield replica1.network\n");
  const Result<CorePlan> one = plan_cores({.roles = {{"worker", {0}}}}, kReplica, host(1));
  ASSERT_TRUE(one);
  EXPECT_EQ(one.value().cores.size(), 1u);
}

TEST(CorePlan, AutoBalancesByWeight) {
  const Placement placements[] = {{"client1", "client", 3},
                                  {"acceptor1", "network", 1},
                                  {"acceptor2", "network", 1},
                                  {"replica1", "worker", 4}};
  const Result<CorePlan> plan = plan_cores({}, placements, host(3));
  ASSERT_TRUE(plan);
  EXPECT_EQ(to_string(plan.value(), placements),
            "cpu 0   yield acceptor2.network replica1.worker\n"
            "cpu 1   yield client1.client acceptor1.network\n");
}

TEST(CorePlan, AutoLeavesOneCpuToEverythingElse) {
  const Result<CorePlan> plan = plan_cores({}, kReplica, host(2));
  ASSERT_TRUE(plan);
  EXPECT_EQ(to_string(plan.value(), kReplica), "cpu 0   yield replica1.network replica1.worker\n");
}

TEST(CorePlan, ProcessesOfOneHostTakeTheirShareAndYield) {
  Host shared = host(2);
  shared.processes = 6;
  std::array<int, 2> uses{};
  for (shared.process = 0; shared.process < 6; ++shared.process) {
    const Result<CorePlan> plan = plan_cores({}, kReplica, shared);
    ASSERT_TRUE(plan);
    ASSERT_EQ(plan.value().cores.size(), 1u);  // its stages share one thread
    EXPECT_EQ(plan.value().cores[0].idle, IdlePolicy::kYield);
    ++uses[plan.value().cores[0].cpu];
  }
  EXPECT_EQ(uses, (std::array<int, 2>{3, 3}));
}

TEST(CorePlan, ProcessesThatShareCpusSleepIfWhatArrivesWakesThem) {
  Host shared = host(2);
  shared.wakes = true;
  const auto idle = [&](const CoreMap& map) {
    const Result<CorePlan> plan = plan_cores(map, kReplica, shared);
    EXPECT_TRUE(plan);
    return plan.value().cores[0].idle;
  };
  shared.processes = 2;
  EXPECT_EQ(idle({}), IdlePolicy::kYield);  // a CPU for each
  shared.processes = 3;
  EXPECT_EQ(idle({}), IdlePolicy::kSleep);
  EXPECT_EQ(idle({.idle = IdlePolicy::kYield}), IdlePolicy::kYield);
  // What one stage gives to another wakes nobody on another CPU.
  EXPECT_EQ(idle({.roles = {{"network", {0}}, {"worker", {1}}}}), IdlePolicy::kYield);
}

TEST(CorePlan, ProcessesWithRoomDoNotOverlap) {
  Host shared = host(8);
  shared.processes = 2;
  Cpus used;
  for (shared.process = 0; shared.process < 2; ++shared.process) {
    const Result<CorePlan> plan = plan_cores({}, kReplica, shared);
    ASSERT_TRUE(plan);
    for (const auto& core : plan.value().cores) {
      used.push_back(core.cpu);
    }
  }
  EXPECT_EQ(to_cpu_list(used), "0-1,4-5");
}

TEST(CorePlan, ErrorsNameRoleCpuAndWhatThereIs) {
  const Result<CorePlan> absent = plan_cores({.roles = {{"worker", {7}}}}, kReplica, host(2));
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().message, "[cores] worker: there is no CPU 7; this machine has 0-1");

  Host limited = host(4);
  limited.cpus = {2, 3};
  const Result<CorePlan> barred =
      plan_cores({.roles = {{"replica1.network", {1}}}}, kReplica, limited);
  ASSERT_FALSE(barred);
  EXPECT_NE(barred.error().message.find("[cores] replica1.network"), std::string::npos);
  EXPECT_NE(barred.error().message.find("only on 2-3"), std::string::npos);
}

TEST(Host, OfThisMachineHoldsTogether) {
  const Host here = this_host();
  ASSERT_FALSE(here.cpus.empty());
  for (const std::uint32_t cpu : here.cpus) {
    EXPECT_EQ(std::count(here.online.begin(), here.online.end(), cpu), 1);
  }
}

TEST(Host, PinsAThreadOrSaysWhyNot) {
  std::thread([] {
    const std::uint32_t cpu = this_host().cpus.front();
    ASSERT_TRUE(pin_this_thread(cpu));
    EXPECT_EQ(sched_getcpu(), static_cast<int>(cpu));
    for (const std::uint32_t absent : {4'000u, 1'000'000u}) {
      const Status status = pin_this_thread(absent);
      ASSERT_FALSE(status);
      EXPECT_NE(status.error().message.find(std::to_string(absent)), std::string::npos);
    }
  }).join();
}

}  // namespace
}  // namespace annulus::dataplane
