#include "recovery/uring_disk.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "recovery/acceptor_log.h"

namespace annulus::recovery {
namespace {

constexpr LogIdentity kIdentity{77, consensus::NodeId{3}, 5};

class UringDiskTest : public testing::Test {
 protected:
  void SetUp() override {
    // Where the build is: /tmp may be a tmpfs, without direct transfers.
    char name[] = "uring-disk-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    path_ = directory_ + "/log";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string directory_;
  std::string path_;
};

TEST_F(UringDiskTest, LogOutlivesItsProcessOnARealFile) {
  for (const SyncMethod sync :
       {SyncMethod::kWriteThrough, SyncMethod::kLinkedSync, SyncMethod::kSharedSync}) {
    auto disk = UringDisk::create(path_, 1u << 20, sync);
    ASSERT_TRUE(disk.ok()) << disk.error().message;
    ASSERT_TRUE(AcceptorLog::format(**disk, kIdentity).ok());
    dataplane::BufferPool pool(64, 65'536);
    for (std::uint64_t life = 1; life <= 3; ++life) {
      auto log = AcceptorLog::open(std::move(disk).value(), kIdentity, {});
      ASSERT_TRUE(log.ok()) << log.error().message;
      EXPECT_EQ((*log)->epoch(), life);
      EXPECT_EQ((*log)->recovered().accepted.size(), 10 * (life - 1));
      for (std::uint64_t i = 1; i <= 10; ++i) {
        consensus::Keep keep{.number = i,
                             .instance = Instance{10 * (life - 1) + i},
                             .ballot = consensus::Ballot{5},
                             .chosen_below = Instance{1},
                             .value = {{}, 0, consensus::kAllPartitions, 10'000},
                             .bytes = pool.allocate()};
        (*log)->append({&keep, 1});
      }
      dataplane::TscClock clock;
      const Nanos end = clock.now() + 10 * kSecond;
      while ((*log)->poll(clock.now()).durable < 10) ASSERT_LT(clock.now(), end);
      log.value().reset();
      disk = UringDisk::open(path_, 1u << 20);
      ASSERT_TRUE(disk.ok()) << disk.error().message;
    }
  }
}

TEST_F(UringDiskTest, WritesThatShareASyncAreEachDoneOnce) {
  constexpr std::uint32_t kWrites = 200;
  constexpr std::uint32_t kAtOnce = 16;
  auto made = UringDisk::create(path_, std::uint64_t{kWrites} * kBlockBytes);
  ASSERT_TRUE(made.ok()) << made.error().message;
  Disk& disk = **made;
  const std::span memory(
      static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBlockBytes * kAtOnce)),
      std::size_t{kBlockBytes} * kAtOnce);
  ASSERT_TRUE(disk.attach(memory).ok());
  std::uint32_t begun = 0;
  std::uint32_t ended = 0;
  std::array<bool, kAtOnce> busy{};
  dataplane::TscClock clock;
  for (const Nanos end = clock.now() + 30 * kSecond; ended < kWrites;) {
    ASSERT_LT(clock.now(), end);
    for (std::uint32_t i = 0; i < kAtOnce && begun < kWrites; ++i) {
      if (std::exchange(busy[i], true)) continue;
      std::byte* block = memory.data() + std::size_t{i} * kBlockBytes;
      std::memset(block, static_cast<int>(begun & 0xff), kBlockBytes);
      disk.start({true, i, std::uint64_t{begun++} * kBlockBytes, block, kBlockBytes});
    }
    disk.submit();
    std::array<TransferDone, Disk::kTransfersMax> done;
    for (const TransferDone& each : std::span(done).first(disk.done(done))) {
      EXPECT_EQ(each.result, kBlockBytes);
      EXPECT_TRUE(std::exchange(busy[each.token], false)) << "done twice";
      ++ended;
    }
  }
  std::vector<std::byte> block(kBlockBytes);
  for (std::uint32_t i = 0; i < kWrites; ++i) {
    ASSERT_TRUE(disk.read(std::uint64_t{i} * kBlockBytes, block).ok());
    EXPECT_EQ(block.front(), static_cast<std::byte>(i & 0xff));
    EXPECT_EQ(block.back(), static_cast<std::byte>(i & 0xff));
  }
  made.value().reset();
  std::free(memory.data());
}

TEST_F(UringDiskTest, SecondProcessIsRefused) {
  auto disk = UringDisk::create(path_, 1u << 20);
  ASSERT_TRUE(disk.ok());
  const auto again = UringDisk::open(path_, 1u << 20);
  ASSERT_FALSE(again.ok());
  EXPECT_NE(again.error().message.find("in use"), std::string::npos);
  EXPECT_TRUE(UringDisk::open_to_read(path_).ok());
}

TEST_F(UringDiskTest, FileGrowsAndNeverShrinks) {
  { ASSERT_TRUE(UringDisk::create(path_, 1u << 20).ok()); }
  { EXPECT_EQ((*UringDisk::open(path_, 2u << 20))->bytes(), 2u << 20); }
  { EXPECT_EQ((*UringDisk::open(path_, 1u << 20))->bytes(), 2u << 20); }
}

TEST_F(UringDiskTest, MissingDirectoryIsExplained) {
  const auto disk = UringDisk::create(directory_ + "/none/log", 1u << 20);
  ASSERT_FALSE(disk.ok());
  EXPECT_NE(disk.error().message.find("'directory'"), std::string::npos);
}

}  // namespace
}  // namespace annulus::recovery
