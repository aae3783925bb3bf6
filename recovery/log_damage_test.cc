// Damage to blocks that were durable is told from torn writes, and bounded: what is chosen is
// missing, what is not is unknown, and nothing readable is given up.
#include "tests/support/log_fixture.h"

namespace annulus::recovery {
namespace {

using consensus::NodeId;
using support::LogTest;

class LogDamageTest : public LogTest {
 protected:
  /// Instances first..last, each a group of its own in the block numbered as it, less one.
  void write(std::uint64_t first, std::uint64_t last, std::uint64_t lag = 2) {
    for (std::uint64_t i = first; i <= last; ++i) {
      accept(i, 50, i > lag ? i - lag : 1, 3'000);
      poll();
      poll();
    }
    rest();
  }
  std::vector<std::uint64_t> missing() {
    std::vector<std::uint64_t> all;
    for (const Instance i : log_->recovered().missing) all.push_back(raw(i));
    return all;
  }
};

TEST_F(LogDamageTest, ChosenInstancesOfADamagedBlockAreMissingAndNothingElse) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 50);
  corrupt(9);
  ASSERT_EQ(open(), "");
  EXPECT_NE(log_->findings(), "");
  EXPECT_EQ(log_->recovered().chosen_below, Instance{48});
  // Those before it were not known chosen by then, so that it might have replaced them.
  EXPECT_EQ(missing(), (std::vector<std::uint64_t>{7, 8, 9, 10}));
  EXPECT_EQ(read(6), 50u);
  EXPECT_EQ(read(10), 0u);
  EXPECT_EQ(read(11), 50u);  // never truncated past
  EXPECT_EQ(read(50), 50u);
  EXPECT_EQ(log_->recovered().accepted.size(), 40u);  // past the last missing one
  EXPECT_TRUE(log_->recovered().unknown.empty());
}

TEST_F(LogDamageTest, MendedInstanceIsWholeAfterTheNextStart) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 50);
  corrupt(9);
  ASSERT_EQ(open(), "");
  for (const std::uint64_t i : missing()) accept(i, 50, 48, 3'000);
  rest();
  EXPECT_EQ(read(10), 50u);
  ASSERT_EQ(open(), "");
  EXPECT_TRUE(missing().empty());
  EXPECT_EQ(read(10), 50u);
}

TEST_F(LogDamageTest, UndecidedInstancesOfADamagedBlockAreUnknownNotEmpty) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 50, 40);  // from 11 on nothing is known chosen
  corrupt(29);       // instance 30
  ASSERT_EQ(open(), "");
  EXPECT_EQ(log_->recovered().chosen_below, Instance{10});
  const auto unknown = log_->recovered().unknown;
  EXPECT_TRUE(unknown.contains(Instance{30}));
  std::map<std::uint64_t, bool> listed;
  for (const auto& accepted : log_->recovered().accepted) listed[raw(accepted.instance)] = true;
  EXPECT_FALSE(listed[30]);
  // Those after the damage are known whatever it held; those before might have been replaced.
  for (std::uint64_t i = 31; i <= 50; ++i) EXPECT_TRUE(listed[i]) << i;
  EXPECT_FALSE(listed[29]);
}

TEST_F(LogDamageTest, AcceptThatDamageMayHaveReplacedIsNotTrusted) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 20);
  accept(20, 60, 18, 3'000);  // block 20: another value at a higher ballot
  rest();
  write(21, 60);
  corrupt(20);
  ASSERT_EQ(open(), "");
  // The one at ballot 50 is readable, but is not what was chosen.
  const auto lost = missing();
  EXPECT_NE(std::find(lost.begin(), lost.end(), 20u), lost.end());
  EXPECT_EQ(read(20), 0u);
}

TEST_F(LogDamageTest, AcceptThatWasKnownChosenBeforeTheDamageIsKept) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 20);               // all below 18 is known chosen
  accept(17, 60, 18, 3'000);  // block 20: the decided value once more, at a higher ballot
  rest();
  accept(21, 60, 18, 3'000);
  rest();
  corrupt(20);
  ASSERT_EQ(open(), "");
  EXPECT_EQ(read(17), 50u);
  const auto lost = missing();
  EXPECT_EQ(std::find(lost.begin(), lost.end(), 17u), lost.end());
  EXPECT_FALSE(log_->recovered().unknown.contains(Instance{17}));
}

TEST_F(LogDamageTest, DamagedTailThatWasCoveredIsNotTakenForTorn) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 50);
  corrupt(49);
  ASSERT_EQ(open(), "");
  EXPECT_TRUE(log_->recovered().unknown.contains(Instance{50}));
  EXPECT_EQ(log_->recovered().accepted.size(), 0u);  // 48 and 49 might have been replaced
  accept(50, 60, 48, 3'000);                         // goes behind the damage, not into it
  rest();
  ASSERT_EQ(open(), "");
  ASSERT_EQ(log_->recovered().accepted.size(), 1u);
  EXPECT_EQ(log_->recovered().accepted[0].instance, Instance{50});
}

TEST_F(LogDamageTest, TornTailIsCutAndWrittenOver) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 50);
  disk_->hold = true;
  accept(51, 50, 49, 3'000);
  log_->submit(now_);
  auto torn = disk_->writes()[0];
  std::memcpy(log_block(50), torn.data.data(), 512);
  ASSERT_EQ(open(), "");
  EXPECT_EQ(log_->findings(), "");
  EXPECT_TRUE(log_->recovered().unknown.empty());
  EXPECT_EQ(read(51), 0u);
  accept(51, 60, 49, 3'000);
  rest();
  ASSERT_EQ(open(), "");
  EXPECT_EQ(read(51), 60u);
}

TEST_F(LogDamageTest, LeftoversOfAnEarlierEpochAreStale) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 10);
  disk_->hold = true;
  for (std::uint64_t i = 11; i <= 13; ++i) {
    accept(i, 50, 9, 3'000);
    log_->submit(now_);
  }
  disk_->complete(2);  // block 12 is on disk, blocks 10 and 11 are not
  disk_->complete(1);
  ASSERT_EQ(open(), "");
  EXPECT_EQ(read(12), 0u);
  accept(11, 60, 9, 3'000);  // block 10, of the new epoch
  rest();
  ASSERT_EQ(open(), "");
  EXPECT_EQ(log_->findings(), "");
  EXPECT_EQ(read(11), 60u);
  EXPECT_EQ(read(12), 0u);
  EXPECT_EQ(read(13), 0u);
}

TEST_F(LogDamageTest, MisdirectedForeignAndLostWritesAreSeen) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 50);
  const auto whole = platter_->bytes;
  std::memcpy(log_block(9), log_block(10), kBlockBytes);  // misdirected
  auto& foreign = *reinterpret_cast<BlockHeader*>(log_block(19));
  foreign.node = 4u;
  foreign.checksum = dataplane::hash_bytes({log_block(19) + 8, kBlockBytes - 8});
  std::memset(log_block(29), 0, kBlockBytes);  // lost
  support::MemoryDisk disk(platter_);
  auto scan = scan_log(disk, kIdentity);
  ASSERT_TRUE(scan.ok());
  ASSERT_EQ((*scan)->damage.size(), 3u);
  EXPECT_EQ((*scan)->damage[0].state, BlockState::kMisdirected);
  EXPECT_EQ((*scan)->damage[1].state, BlockState::kForeign);
  EXPECT_EQ((*scan)->damage[2].state, BlockState::kBlank);
  ASSERT_EQ(open(), "");
  EXPECT_EQ(missing(), (std::vector<std::uint64_t>{7, 8, 9, 10, 17, 18, 19, 20, 27, 28, 29, 30}));
}

TEST_F(LogDamageTest, BlockThatRotsWhileTheLogIsOpenIsFoundByTheReader) {
  format(256);
  ASSERT_EQ(open(), "");
  write(1, 50);
  corrupt(9);
  EXPECT_EQ(read(10), 0u);
  EXPECT_EQ(log_->counters()[LogCounter::kReadsDamaged].get(), 1u);
}

TEST_F(LogDamageTest, EitherSuperblockIsEnoughAndIsRestored) {
  for (const std::uint64_t copy : {0, 1}) {
    format(256);
    ASSERT_EQ(open(), "");
    promise(60);
    rest();
    platter_->block(kSuperblockAt[copy])[100] ^= std::byte{1};
    ASSERT_EQ(open(), "");
    EXPECT_EQ(log_->recovered().promised, consensus::Ballot{60});
    EXPECT_NE(log_->findings(), "");
    ASSERT_EQ(open(), "");
    EXPECT_EQ(log_->findings(), "");
  }
}

TEST_F(LogDamageTest, LostPromiseIsBeyondRepairAndSaysWhatToDo) {
  format(256);
  ASSERT_EQ(open(), "");
  promise(60);
  rest();
  for (const std::uint64_t at : kSuperblockAt) platter_->block(at)[100] ^= std::byte{1};
  const std::string told = open();
  EXPECT_NE(told.find("must not speak again"), std::string::npos) << told;
}

TEST_F(LogDamageTest, LogOfOtherAcceptorsOrAnotherMembershipIsRefused) {
  format(256);
  for (const LogIdentity& other : {LogIdentity{78, NodeId{3}, 5}, LogIdentity{77, NodeId{4}, 5},
                                   LogIdentity{77, NodeId{3}, 6}}) {
    support::MemoryDisk disk(platter_);
    EXPECT_FALSE(scan_log(disk, other).ok());
  }
}

TEST_F(LogDamageTest, WholeChunkLostIsMissingOrUnknown) {
  format(4'096);
  ASSERT_EQ(open(), "");
  for (std::uint64_t i = 1; i <= 3'000; ++i) {
    accept(i, 50, i, 3'000);
    if (i % 16 == 0) poll();
  }
  rest();
  for (std::uint64_t p = 1'000; p < 2'000; ++p) std::memset(log_block(p), 0xee, kBlockBytes);
  ASSERT_EQ(open(), "");
  for (std::uint64_t i = 1; i <= 3'000; ++i) {
    const auto& lost = log_->recovered().missing;
    const bool gone = std::find(lost.begin(), lost.end(), Instance{i}) != lost.end();
    EXPECT_EQ(read(i) == 50, !gone) << i;
  }
  EXPECT_LT(log_->recovered().missing.size(), 1'400u);  // 1,000 of 2,300 blocks held 1,334
}

}  // namespace
}  // namespace annulus::recovery
