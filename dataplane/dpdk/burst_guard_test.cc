#include "dataplane/dpdk/burst_guard.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <optional>
#include <thread>

namespace annulus::dataplane {
namespace {

class BurstGuardTest : public testing::Test {
 protected:
  static constexpr std::size_t kBytes = 4'096;

  BurstGuardTest()
      : page_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    EXPECT_NE(page_, MAP_FAILED);
  }
  void unmap() {
    EXPECT_EQ(munmap(page_, kBytes), 0);
    unmapped_ = true;
  }

  void* page_;
  std::atomic<bool> unmapped_{false};
};

TEST_F(BurstGuardTest, SharedLibrariesUnmapThroughIt) {
  EXPECT_EQ(dlsym(RTLD_DEFAULT, "munmap"), reinterpret_cast<void*>(&munmap));
  Dl_info found;
  ASSERT_NE(dladdr(reinterpret_cast<void*>(&munmap), &found), 0);
  EXPECT_EQ(std::string(found.dli_fname).find("libc.so"), std::string::npos);
  unmap();
}

TEST_F(BurstGuardTest, UnmappingWaitsForABurstUnderWay) {
  std::optional<BurstGuard> burst(3);
  std::thread other([&] { unmap(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(unmapped_);
  *static_cast<int*>(page_) = 1;  // what a burst does
  burst.reset();
  other.join();
  EXPECT_TRUE(unmapped_);
}

TEST_F(BurstGuardTest, WhoeverIsInABurstDoesNotWaitForItself) {
  const BurstGuard burst(3);
  unmap();
}

TEST_F(BurstGuardTest, LaterBurstsAreNotWaitedFor) {
  std::atomic<bool> stop{false};
  std::atomic<int> bursts{0};
  std::thread poller([&] {
    for (; !stop; ++bursts) const BurstGuard burst(3);
  });
  while (bursts < 1'000) std::this_thread::yield();
  unmap();
  stop = true;
  poller.join();
}

}  // namespace
}  // namespace annulus::dataplane
