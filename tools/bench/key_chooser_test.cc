// The choice of records is that of YCSB: how popular the popular ones are, that inserts do not move
// them, and that only records known to exist are chosen.
#include "tools/bench/key_chooser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "tools/bench/load.h"
#include "tools/bench/ycsb.h"

namespace annulus::bench {
namespace {

constexpr std::uint64_t kRecords = 1'000;
constexpr int kDraws = 200'000;

std::map<std::uint64_t, int> histogram(KeyChooser& chooser) {
  std::map<std::uint64_t, int> counts;
  for (int i = 0; i < kDraws; ++i) ++counts[chooser.next()];
  return counts;
}

std::uint64_t most_popular(KeyChooser& chooser) {
  const auto counts = histogram(chooser);
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

TEST(KeyChooser, UniformReachesEveryRecordAboutEquallyOften) {
  KeyChooser chooser(Distribution::kUniform, kRecords, 1, 1);
  const auto counts = histogram(chooser);
  ASSERT_EQ(counts.size(), kRecords);
  for (const auto& [record, count] : counts) {
    EXPECT_LT(record, kRecords);
    EXPECT_NEAR(count, kDraws / kRecords, 100) << record;
  }
}

TEST(KeyChooser, ScrambledZipfianHasTheHeadOfTenThousandMillionItems) {
  KeyChooser chooser(Distribution::kZipfian, kRecords, 1, 1);
  const auto counts = histogram(chooser);
  const int most = counts.at(most_popular(chooser));
  // 1 / 26.47 of the ranks, of which a tenth falls to records not inserted yet; the tail of the
  // ranks is spread over all records and adds about a thousandth.
  EXPECT_NEAR(most / double{kDraws}, 0.041, 0.005);
}

TEST(KeyChooser, InsertsDoNotChangeWhichRecordsArePopular) {
  KeyChooser chooser(Distribution::kZipfian, kRecords, 1, 1);
  const std::uint64_t before = most_popular(chooser);
  for (int i = 0; i < 50; ++i) chooser.acknowledge(chooser.insert());
  EXPECT_EQ(chooser.records(), kRecords + 50);
  EXPECT_EQ(most_popular(chooser), before);
}

TEST(KeyChooser, LatestPrefersTheNewestRecord) {
  KeyChooser chooser(Distribution::kLatest, kRecords, 1, 1);
  EXPECT_EQ(most_popular(chooser), kRecords - 1);
  chooser.acknowledge(chooser.insert());
  EXPECT_EQ(most_popular(chooser), kRecords);
}

TEST(KeyChooser, ARecordIsChosenOnlyOnceItAndAllBeforeAreAcknowledged) {
  KeyChooser chooser(Distribution::kLatest, kRecords, 1, 4);
  std::vector<std::uint64_t> inserted;
  while (chooser.can_insert()) inserted.push_back(chooser.insert());
  ASSERT_EQ(inserted, (std::vector<std::uint64_t>{1'000, 1'001, 1'002, 1'003}));
  chooser.acknowledge(1'002);
  chooser.acknowledge(1'001);
  EXPECT_EQ(chooser.records(), kRecords);
  EXPECT_FALSE(chooser.can_insert());
  chooser.acknowledge(1'000);
  EXPECT_EQ(chooser.records(), 1'003u);
  EXPECT_EQ(histogram(chooser).rbegin()->first, 1'002u);
  EXPECT_TRUE(chooser.can_insert());
}

TEST(Load, BtreeKeysAreDistinctAndTellTheirRecord) {
  for (std::uint64_t record = 0; record < 1'000'000; record += 37) {
    ASSERT_EQ(btree_record(btree_key(record)), record);
  }
  EXPECT_GT(btree_key(1), btree_key(2));  // not in the order of records
}

TEST(Ycsb, WorkloadsHaveTheSharesAndDistributionsOfTheCoreWorkloads) {
  const auto of = [](char letter) { return ycsb_workload(letter, {})->load; };
  const auto shares = [](const Mix& m) {
    return std::vector<std::uint32_t>{m.read,  m.update, m.insert, m.scan, m.read_modify_write,
                                      m.remove};
  };
  using Shares = std::vector<std::uint32_t>;
  EXPECT_EQ(shares(of('A').mix), (Shares{50, 50, 0, 0, 0, 0}));
  EXPECT_EQ(shares(of('B').mix), (Shares{95, 5, 0, 0, 0, 0}));
  EXPECT_EQ(shares(of('C').mix), (Shares{100, 0, 0, 0, 0, 0}));
  EXPECT_EQ(shares(of('D').mix), (Shares{95, 0, 5, 0, 0, 0}));
  EXPECT_EQ(shares(of('E').mix), (Shares{0, 0, 5, 95, 0, 0}));
  EXPECT_EQ(shares(of('F').mix), (Shares{50, 0, 0, 0, 50, 0}));
  for (const char letter : {'A', 'B', 'C', 'E', 'F'}) {
    EXPECT_EQ(of(letter).distribution, Distribution::kZipfian) << letter;
  }
  EXPECT_EQ(of('D').distribution, Distribution::kLatest);
  EXPECT_EQ(of('E').scan_entries_max, 100u);
  EXPECT_TRUE(of('E').scan_length_uniform);
  EXPECT_EQ(of('A').field_bytes, 100u);
  EXPECT_FALSE(ycsb_workload('G', {}).has_value());
}

}  // namespace
}  // namespace annulus::bench
