#include "recovery/acceptor_log.h"

#include "tests/support/log_fixture.h"

namespace annulus::recovery {
namespace {

using support::LogTest;

TEST_F(LogTest, EpochIsDurableAndRisesWithEveryStart) {
  format(64);
  for (std::uint64_t epoch = 1; epoch <= 3; ++epoch) {
    ASSERT_EQ(open(), "");
    EXPECT_EQ(log_->epoch(), epoch);
  }
}

TEST_F(LogTest, WhatWasKeptIsReadBackInTheNextEpoch) {
  format(256);
  ASSERT_EQ(open(), "");
  promise(50);
  accept(1, 50, 1, 100);
  accept(2, 50, 1, 30'000);  // over many blocks
  accept(3, 50, 2, 0);       // a no-op
  accept(4, 51, 3, 4'000);
  rest();
  EXPECT_EQ(poll().durable, 5u);
  ASSERT_EQ(open(), "");
  EXPECT_EQ(log_->findings(), "");
  const auto& recovered = log_->recovered();
  EXPECT_EQ(recovered.promised, consensus::Ballot{50});
  EXPECT_EQ(recovered.chosen_below, Instance{3});
  EXPECT_TRUE(recovered.missing.empty());
  EXPECT_TRUE(recovered.unknown.empty());
  ASSERT_EQ(recovered.accepted.size(), 4u);
  EXPECT_EQ(recovered.accepted[0].instance, Instance{1});
  EXPECT_EQ(recovered.accepted[3].bytes, content(4, 51, 4'000));
  for (std::uint64_t i = 1; i <= 4; ++i) EXPECT_EQ(read(i), i < 4 ? 50u : 51u);
  EXPECT_EQ(read(5), 0u);
}

TEST_F(LogTest, OfTheChosenOnesTheLastComeBack) {
  format(2'048);
  ASSERT_EQ(open(), "");
  constexpr std::uint64_t kLast = consensus::kUndecidedMax + 100;
  for (std::uint64_t i = 1; i <= kLast; ++i) accept(i, 50, i - 1, 100);
  rest();
  ASSERT_EQ(open(), "");
  EXPECT_EQ(log_->recovered().accepted.front().instance,
            Instance{kLast - 1 - consensus::kUndecidedMax});
  EXPECT_EQ(log_->recovered().accepted.back().instance, Instance{kLast});
}

TEST_F(LogTest, LastAcceptOfAnInstanceCounts) {
  format(256);
  ASSERT_EQ(open(), "");
  accept(7, 50, 1, 100);
  accept(7, 60, 1, 200);
  rest();
  EXPECT_EQ(read(7), 60u);
  ASSERT_EQ(open(), "");
  EXPECT_EQ(read(7), 60u);
  ASSERT_EQ(log_->recovered().accepted.size(), 1u);
}

TEST_F(LogTest, NothingIsDurableBeforeItsWriteIsDone) {
  format(256);
  ASSERT_EQ(open(), "");
  disk_->hold = true;
  accept(1, 50, 1, 100);
  log_->submit(now_);
  accept(2, 50, 1, 100);
  log_->submit(now_);
  EXPECT_EQ(poll().durable, 0u);
  ASSERT_EQ(disk_->writes().size(), 2u);
  disk_->complete(1);  // the later one first
  EXPECT_EQ(poll().durable, 0u);
  disk_->complete(0);
  EXPECT_EQ(poll().durable, 2u);
}

TEST_F(LogTest, PromiseIsDurableOnlyInBothCopiesAndHoldsBackWhatFollows) {
  format(256);
  ASSERT_EQ(open(), "");
  accept(1, 50, 1, 100);
  poll();
  poll();
  disk_->hold = true;
  promise(60);
  accept(2, 60, 1, 100);
  log_->submit(now_);
  ASSERT_EQ(disk_->writes().size(), 2u);
  disk_->complete(0);
  EXPECT_EQ(poll().durable, 1u);
  disk_->complete(0);  // one of these two is the first copy of the superblock
  EXPECT_EQ(poll().durable, 1u);
  ASSERT_EQ(disk_->writes().size(), 1u);
  promise(70);
  disk_->complete(0);
  EXPECT_EQ(poll().durable, 3u);  // and the next promise is being written
  EXPECT_EQ(disk_->writes().size(), 1u);
}

TEST_F(LogTest, AcceptsThatWaitAreWrittenAsOneGroup) {
  format(1'024);
  ASSERT_EQ(open(2), "");
  disk_->hold = true;
  for (std::uint64_t i = 1; i <= 100; ++i) {
    accept(i, 50, 1, 100);
    log_->submit(now_);
  }
  ASSERT_EQ(disk_->writes().size(), 2u);  // one accept each; 98 wait
  disk_->complete(0);
  poll();
  ASSERT_EQ(disk_->writes().size(), 2u);
  EXPECT_EQ(disk_->writes()[1].data.size(), 5u * kBlockBytes);
  EXPECT_EQ(log_->counters()[LogCounter::kGroups].get(), 3u);
}

TEST_F(LogTest, FailedWriteStopsTheLogForGood) {
  for (const std::int64_t result : {std::int64_t{-EIO}, std::int64_t{512}}) {
    format(256);
    ASSERT_EQ(open(), "");
    disk_->hold = true;
    accept(1, 50, 1, 100);
    log_->submit(now_);
    disk_->complete(0, result);
    EXPECT_TRUE(poll().failed);
    EXPECT_TRUE(poll().failed);
    EXPECT_NE(log_->failure().find("stopped"), std::string::npos);
    promise(60);
    log_->submit(now_);
    EXPECT_TRUE(disk_->writes().empty());
  }
}

TEST_F(LogTest, SpaceRunsOutBeforeTheLogDoes) {
  format(40);
  ASSERT_EQ(open(), "");
  std::uint64_t i = 0;
  while (poll().space >= consensus::log_cost(5'000)) accept(++i, 50, 1, 5'000);
  EXPECT_GT(i, 10u);
  rest();
  promise(60);  // still kept
  rest();
  ASSERT_EQ(open(), "");
  EXPECT_EQ(log_->recovered().accepted.size(), i);
  EXPECT_EQ(log_->recovered().promised, consensus::Ballot{60});
  // A longer file has room again.
  platter_->bytes.resize(platter_->bytes.size() + 40 * kBlockBytes);
  ASSERT_EQ(open(), "");
  EXPECT_GT(poll().space, 40u * kBlockBytes);
  accept(++i, 60, 1, 5'000);
  rest();
  ASSERT_EQ(open(), "");
  EXPECT_EQ(log_->recovered().accepted.size(), i);
}

TEST_F(LogTest, LogWaitsForTheSuperblockToCover) {
  format(kUncoveredMax + 4'096);
  ASSERT_EQ(open(), "");
  for (std::uint64_t i = 1; i <= 700; ++i) {
    accept(i, 50, i, 60'000);
    poll();
  }
  rest();
  EXPECT_GT(log_->counters()[LogCounter::kBlocks].get(), kUncoveredMax);
  ASSERT_EQ(open(), "");
  EXPECT_EQ(log_->findings(), "");
  EXPECT_EQ(log_->recovered().chosen_below, Instance{700});
  EXPECT_EQ(read(1), 50u);
  EXPECT_EQ(read(700), 50u);
}

TEST_F(LogTest, ReadsOfNeighboursCostOneTransfer) {
  format(256);
  ASSERT_EQ(open(), "");
  for (std::uint64_t i = 1; i <= 200; ++i) accept(i, 50, i, 100);
  rest();
  for (std::uint64_t i = 1; i <= 200; ++i) EXPECT_EQ(read(i), 50u);
  EXPECT_EQ(log_->counters()[LogCounter::kDiskReads].get(), 1u);
}

TEST_F(LogTest, ReadsOfMoreStretchesThanFitAllEnd) {
  format(2'048);
  ASSERT_EQ(open(), "");
  constexpr std::uint64_t kInstances = 100;
  for (std::uint64_t i = 1; i <= kInstances; ++i) {
    accept(i, 50, i, 60'000);
    poll();
  }
  rest();
  // As two replicas ask that start again: everything at once, from both ends.
  for (std::uint64_t i = 1; i <= kInstances; ++i) log_->read({Instance{i}, 1, {}});
  for (std::uint64_t i = kInstances; i > 0; --i) log_->read({Instance{i}, 1, {}});
  std::uint64_t ended = 0;
  for (int turn = 0; turn < 200; ++turn) {
    poll();
    consensus::LogValue value;
    while (log_->next_read(value)) ended += value.ballot == consensus::Ballot{50};
  }
  EXPECT_EQ(ended, 2 * kInstances);
  // Nothing was fetched, given up unread, and fetched again.
  EXPECT_LE(log_->counters()[LogCounter::kDiskReads].get(), 2 * kInstances / 4 + 2);
}

}  // namespace
}  // namespace annulus::recovery
