#include "tools/top.h"

#include <gtest/gtest.h>

#include "dataplane/stage.h"
#include "tools/telemetry.h"

namespace annulus::tools {
namespace {

using dataplane::StageCounter;

bool any_line_has(const std::vector<std::string>& lines, const std::vector<std::string>& parts) {
  for (const std::string& line : lines) {
    bool all = true;
    for (const std::string& part : parts) all = all && line.find(part) != std::string::npos;
    if (all) return true;
  }
  return false;
}

TEST(Top, ShowsWhatHappenedBetweenTwoSnapshots) {
  dataplane::Registry registry;
  dataplane::Counters<StageCounter> stage;
  dataplane::Counters<dataplane::TransportCounter> transport;
  dataplane::Histogram hop;
  registry.add("replica1", "worker", stage);
  registry.add("replica1", "learner", transport);
  registry.add("replica1", "executed_ns", hop);
  registry.add({"replica1", "worker", "cpu", [] { return std::uint64_t{1}; }});
  registry.add({"replica1", "worker", "deliveries_waiting", [] { return std::uint64_t{9}; }});
  stage[StageCounter::kItems].add(1'000'000);
  hop.record(50'000'000);
  const std::string before = snapshot_json(registry, "replica1");

  stage[StageCounter::kItems].add(400);
  stage[StageCounter::kUsefulTurns].add(100);
  hop.record(2'000);
  transport[dataplane::TransportCounter::kTxDropFull].add(3);
  const std::vector<std::string> lines =
      render_top({before}, {snapshot_json(registry, "replica1")});
  EXPECT_TRUE(any_line_has(lines, {"replica1", "worker", "  4.0 ", "deliveries_waiting=9"}));
  EXPECT_TRUE(any_line_has(lines, {"replica1", "executed_ns", " 1 ", " 2.0 "}))
      << "the earlier record is not of this interval";
  EXPECT_TRUE(any_line_has(lines, {"replica1", "tx_drop_full", "3 (+3)"}));
  EXPECT_TRUE(any_line_has(lines, {"replica1", "core", "1"}));
}

TEST(Top, AProcessStartedAgainCountsFromZero) {
  dataplane::Registry registry;
  dataplane::Counters<StageCounter> stage;
  registry.add("acceptor1", "acceptor", stage);
  stage[StageCounter::kItems].add(500);
  std::string before = snapshot_json(registry, "acceptor1");
  const std::size_t pid = before.find("\"pid\":");
  before.insert(pid + 6, "1");  // another process
  stage[StageCounter::kItems].set(20);
  const std::vector<std::string> lines =
      render_top({before}, {snapshot_json(registry, "acceptor1")});
  EXPECT_TRUE(any_line_has(lines, {"acceptor1", "acceptor", " 20 "}));
}

}  // namespace
}  // namespace annulus::tools
