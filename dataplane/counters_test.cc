// Counters, histograms (bucket arithmetic, quantile error bound) and the registry.
#include "dataplane/counters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "dataplane/stage.h"
#include "dataplane/transport.h"

namespace annulus::dataplane {
namespace {

TEST(Histogram, BucketsCoverAllValuesInOrderWithinThreePercent) {
  for (std::uint32_t bucket = 0; bucket < Histogram::kBuckets; ++bucket) {
    const std::uint64_t top = Histogram::bucket_top(bucket);
    ASSERT_EQ(Histogram::bucket_of(top), bucket);
    if (bucket + 1 == Histogram::kBuckets) break;
    ASSERT_EQ(Histogram::bucket_of(top + 1), bucket + 1);
    const std::uint64_t bottom = top + 1;  // of the next bucket
    ASSERT_LE(Histogram::bucket_top(bucket + 1) - bottom, bottom / 32);
  }
  EXPECT_EQ(Histogram::bucket_of(UINT64_MAX), Histogram::kBuckets - 1);
  EXPECT_EQ(Histogram::bucket_top(Histogram::kBuckets - 1), UINT64_MAX);
}

TEST(Histogram, QuantilesAreAtMostThreePercentAboveTheTrueOnes) {
  std::mt19937_64 random(7);
  for (const std::uint64_t range : {50u, 5'000u, 1'000'000'000u}) {
    Histogram histogram;
    std::vector<std::uint64_t> values;
    for (int i = 0; i < 20'000; ++i) {
      values.push_back(random() % range);
      histogram.record(values.back());
    }
    std::sort(values.begin(), values.end());
    const Histogram::Snapshot snapshot = histogram.snapshot();
    EXPECT_EQ(snapshot.count, values.size());
    EXPECT_EQ(snapshot.max, values.back());
    EXPECT_EQ(snapshot.at(1.0), values.back());
    for (const double quantile : {0.001, 0.25, 0.5, 0.9, 0.99, 0.999}) {
      const std::uint64_t exact =
          values[static_cast<std::size_t>(quantile * static_cast<double>(values.size())) - 1];
      const std::uint64_t reported = snapshot.at(quantile);
      EXPECT_GE(reported, exact) << quantile;
      EXPECT_LE(reported, exact + exact / 32) << quantile;
    }
  }
}

TEST(Histogram, EmptyAndSingle) {
  Histogram histogram;
  EXPECT_EQ(histogram.snapshot().at(0.5), 0u);
  histogram.record(0);
  EXPECT_EQ(histogram.snapshot().at(0.5), 0u);
  EXPECT_EQ(histogram.snapshot().count, 1u);
  histogram.record(UINT64_MAX);
  EXPECT_EQ(histogram.snapshot().at(1.0), UINT64_MAX);
  EXPECT_EQ(histogram.snapshot().at(0.0), 0u);
}

TEST(Histogram, SinceAndMerge) {
  Histogram one;
  one.record(10);
  one.record(20);
  const Histogram::Snapshot earlier = one.snapshot();
  one.record(30);
  one.record(30);
  Histogram::Snapshot recent = one.snapshot().since(earlier);
  EXPECT_EQ(recent.count, 2u);
  EXPECT_EQ(recent.at(0.01), 30u);

  Histogram two;
  two.record(1'000);
  recent.merge(two.snapshot());
  EXPECT_EQ(recent.count, 3u);
  EXPECT_EQ(recent.at(1.0), 1'000u);
  Histogram::Snapshot none;
  none.merge(two.snapshot());
  EXPECT_EQ(none.at(0.5), 1'000u);
}

TEST(Counters, AreReadWhileTheyAreWritten) {
  Counters<StageCounter> counters;
  static_assert(alignof(Counters<StageCounter>) == 64);
  std::thread writer([&] {
    for (int i = 0; i < 100'000; ++i) counters[StageCounter::kItems].add();
  });
  std::uint64_t last = 0;
  while (last < 100'000) {
    const std::uint64_t seen = counters[StageCounter::kItems].get();
    ASSERT_GE(seen, last);
    last = seen;
    std::this_thread::yield();
  }
  writer.join();
  EXPECT_EQ(counters[StageCounter::kTurns].get(), 0u);
}

TEST(Registry, KeepsNamesAndValuesTogetherAndForgetsANode) {
  Registry registry;
  Counters<StageCounter> stage;
  Counters<TransportCounter> transport;
  Histogram ordered;
  registry.add("acceptor1", "network", stage);
  registry.add("acceptor2", "transport", transport);
  registry.add("acceptor1", "ordered_ns", ordered);
  transport[TransportCounter::kTxDropFull].add(7);

  const std::vector<Registry::Group> groups = registry.groups();
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[1].node, "acceptor2");
  EXPECT_EQ(groups[1].stage, "transport");
  ASSERT_EQ(groups[1].names.size(), groups[1].values.size());
  const auto at =
      std::find(groups[1].names.begin(), groups[1].names.end(), std::string_view("tx_drop_full"));
  ASSERT_NE(at, groups[1].names.end());
  EXPECT_EQ(groups[1].values[at - groups[1].names.begin()].get(), 7u);
  EXPECT_EQ(registry.histograms().size(), 1u);

  registry.remove("acceptor1");
  EXPECT_EQ(registry.groups().size(), 1u);
  EXPECT_TRUE(registry.histograms().empty());
}

}  // namespace
}  // namespace annulus::dataplane
