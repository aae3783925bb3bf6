// What the simulated disk keeps, loses and spoils.
#include "tests/sim/disk.h"

#include <gtest/gtest.h>

#include <cstring>

#include "recovery/log_format.h"

namespace annulus::sim {
namespace {

using recovery::kBlockBytes;
using recovery::kLogBlocksAt;

constexpr std::uint64_t kBlocks = kLogBlocksAt + 64;

/// Lets simulated time pass.
class Idle final : public dataplane::Stage {
 public:
  dataplane::PollResult poll(Nanos, std::uint32_t) override { return {1, kNever}; }
  const char* name() const override { return "idle"; }
};

class SimDiskTest : public testing::Test {
 protected:
  SimDiskTest() { world_.add_stage(&idle_, 0, kNoEnd); }

  void start(std::uint64_t seed = 1) {
    platter_ = std::make_shared<Platter>(kBlocks, DiskQuality{}, Rng(seed));
    disk_ = std::make_unique<SimDisk>(platter_, world_, world_.failure(), [this] { ++failed_; });
    ASSERT_TRUE(disk_->attach(memory_).ok());
  }
  void fill(std::size_t slot, int byte) { std::memset(at(slot), byte, kBlockBytes); }
  std::byte* at(std::size_t slot) { return memory_.data() + slot * kBlockBytes; }
  void write(std::uint32_t slot, std::uint64_t block) {
    disk_->start({true, slot, block * kBlockBytes, at(slot), kBlockBytes});
  }
  void pass(Nanos time) {
    const Nanos end = world_.now() + time;
    world_.run([] { return false; }, end);
  }
  std::vector<recovery::TransferDone> done() {
    std::vector<recovery::TransferDone> all(8);
    all.resize(disk_->done(all));
    return all;
  }
  /// Sectors of a block that hold `byte`.
  int sectors(std::uint64_t block, int byte) {
    std::vector<std::byte> read(kBlockBytes);
    platter_->read(block * kBlockBytes, read);
    int count = 0;
    for (std::size_t i = 0; i < kBlockBytes; i += Platter::kSectorBytes) {
      count += read[i] == static_cast<std::byte>(byte);
    }
    return count;
  }

  World world_{1, 1'500};
  Idle idle_;
  std::vector<std::byte> memory_ = std::vector<std::byte>(8 * kBlockBytes);
  std::shared_ptr<Platter> platter_;
  std::unique_ptr<SimDisk> disk_;
  int failed_ = 0;
};

TEST_F(SimDiskTest, AWriteIsOnThePlatterOnceItIsDone) {
  start();
  fill(0, 7);
  write(0, 20);
  EXPECT_TRUE(done().empty());
  EXPECT_EQ(sectors(20, 7), 0);
  pass(kMillisecond);
  const auto all = done();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].result, kBlockBytes);
  EXPECT_EQ(sectors(20, 7), 8);
}

TEST_F(SimDiskTest, WritesOvertakeEachOther) {
  start();
  for (int i = 0; i < 50; ++i) {
    for (std::uint32_t slot = 0; slot < 8; ++slot) write(slot, 20 + slot);
    pass(kMillisecond);
    ASSERT_EQ(done().size(), 8u);
  }
  EXPECT_GT(platter_->count(DiskEvent::kOvertaken), 100u);
}

TEST_F(SimDiskTest, MemoryMustNotChangeWhileItIsWritten) {
  start();
  write(0, 20);
  fill(0, 1);
  pass(kMillisecond);
  done();
  EXPECT_TRUE(world_.failure().failed());
}

TEST_F(SimDiskTest, ACrashKeepsLosesAndTearsWhatIsUnderWayAndNothingElse) {
  int kept = 0;
  int lost = 0;
  int torn = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    start(seed);
    fill(0, 5);
    write(0, 19);
    pass(kMillisecond);
    ASSERT_EQ(done().size(), 1u);
    fill(1, 7);
    write(1, 20);
    disk_->lose_power();
    const int left = sectors(20, 7);
    EXPECT_EQ(left + sectors(20, 0), 8);
    EXPECT_EQ(sectors(19, 5), 8);
    (left == 8 ? kept : left == 0 ? lost : torn) += 1;
  }
  EXPECT_GT(kept, 10);
  EXPECT_GT(lost, 50);
  EXPECT_GT(torn, 50);
}

TEST_F(SimDiskTest, AFailedWriteIsTold) {
  start();
  platter_->fail_writes(1);
  write(0, 20);
  pass(kMillisecond);
  EXPECT_EQ(done()[0].result, kBlockBytes);
  write(1, 21);
  pass(kMillisecond);
  EXPECT_NE(done()[0].result, kBlockBytes);
  EXPECT_EQ(failed_, 1);
  write(2, 22);
  pass(kMillisecond);
  EXPECT_EQ(done()[0].result, kBlockBytes);
}

TEST_F(SimDiskTest, OnlyWhatTheSuperblocksCoverIsDamaged) {
  const recovery::LogIdentity whose{1, consensus::NodeId{2}, 3};
  constexpr std::uint64_t kCovered = 20;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    start();
    std::vector<std::byte> block(kBlockBytes);
    for (std::uint64_t copy = 0; copy < 2; ++copy) {
      auto& superblock = *reinterpret_cast<recovery::Superblock*>(block.data());
      superblock = {};
      superblock.members = whose.members;
      superblock.covered = copy == 0 ? kCovered : kCovered + 10;  // the second is newer
      recovery::seal_block(block, recovery::BlockKind::kSuperblock, whose, copy, 1);
      platter_->write(recovery::kSuperblockAt[copy] * kBlockBytes, block);
    }
    for (std::uint64_t i = 0; i < 40; ++i) {
      fill(0, static_cast<int>(i + 1));
      platter_->write((kLogBlocksAt + i) * kBlockBytes, {at(0), kBlockBytes});
    }
    platter_->damage(seed);
    platter_->damage(seed + 1'000);
    int superblocks = 0;
    for (std::uint64_t copy = 0; copy < 2; ++copy) {
      platter_->read(recovery::kSuperblockAt[copy] * kBlockBytes, block);
      superblocks += recovery::check_block(block, recovery::BlockKind::kSuperblock, whose, copy) ==
                     recovery::BlockState::kValid;
    }
    EXPECT_GE(superblocks, 1);
    for (std::uint64_t i = kCovered; i < 40; ++i) {
      EXPECT_EQ(sectors(kLogBlocksAt + i, static_cast<int>(i + 1)), 8);
    }
  }
}

}  // namespace
}  // namespace annulus::sim
