#include "recovery/shared_sync.h"

#include <gtest/gtest.h>

#include <vector>

namespace annulus::recovery {
namespace {

constexpr std::int64_t kBytes = kBlockBytes;

class SharedSyncTest : public testing::Test {
 protected:
  void write(std::uint32_t token) {
    sync_.write_begun();
    sync_.write_ended({token, kBytes});
  }
  /// Tokens of those that the sync under way told of; each with `expected` as its result.
  std::vector<std::uint32_t> end(std::int64_t result, std::int64_t expected) {
    std::array<TransferDone, Disk::kTransfersMax> done;
    std::vector<std::uint32_t> tokens;
    for (const TransferDone& each : std::span(done).first(sync_.end(result, done))) {
      EXPECT_EQ(each.result, expected);
      tokens.push_back(each.token);
    }
    return tokens;
  }
  SharedSync sync_;
};

TEST_F(SharedSyncTest, CoversOnlyWritesThatHadEndedWhenItBegan) {
  sync_.write_begun();  // 1
  sync_.write_begun();  // 2
  EXPECT_FALSE(sync_.wanted());
  sync_.write_ended({1, kBytes});
  ASSERT_TRUE(sync_.wanted());
  sync_.begin();
  sync_.write_ended({2, kBytes});
  write(3);
  EXPECT_FALSE(sync_.wanted());  // one at a time
  EXPECT_EQ(end(0, kBytes), (std::vector<std::uint32_t>{1}));
  ASSERT_TRUE(sync_.wanted());
  sync_.begin();
  EXPECT_EQ(end(0, kBytes), (std::vector<std::uint32_t>{2, 3}));
  EXPECT_TRUE(sync_.at_rest());
}

TEST_F(SharedSyncTest, WriteThatFailedWaitsForNoSync) {
  sync_.write_begun();
  sync_.write_failed();
  EXPECT_FALSE(sync_.wanted());
  EXPECT_TRUE(sync_.at_rest());
}

TEST_F(SharedSyncTest, NothingIsDurableOnceASyncHasFailed) {
  write(1);
  sync_.begin();
  write(2);
  EXPECT_EQ(end(-5, -5), (std::vector<std::uint32_t>{1}));
  sync_.begin();
  EXPECT_EQ(end(0, -5), (std::vector<std::uint32_t>{2}));
}

TEST_F(SharedSyncTest, AsManyMayWaitAsThereAreTransfers) {
  for (std::uint32_t i = 0; i < Disk::kTransfersMax; ++i) write(i);
  sync_.begin();
  EXPECT_EQ(sync_.covered(), Disk::kTransfersMax);
  EXPECT_EQ(end(0, kBytes).size(), Disk::kTransfersMax);
}

}  // namespace
}  // namespace annulus::recovery
