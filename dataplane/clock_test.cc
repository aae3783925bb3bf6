// Clocks: the cycle clock agrees with the kernel and never goes back.
#include "dataplane/clock.h"

#include <gtest/gtest.h>
#include <time.h>

#include <cstdlib>

namespace annulus::dataplane {
namespace {

Nanos monotonic() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * kSecond + ts.tv_nsec;
}

TEST(TscClock, AgreesWithTheKernelsMonotonicClock) {
  TscClock clock;
  // Offset and rate: both ends of a while. The reads are not atomic, so take the best of several.
  Nanos worst = 0;
  for (int end = 0; end < 2; ++end) {
    Nanos best = kNever;
    for (int i = 0; i < 50; ++i) best = std::min(best, std::abs(clock.now() - monotonic()));
    worst = std::max(worst, best);
    const timespec pause{0, 50'000'000};
    nanosleep(&pause, nullptr);
  }
  EXPECT_LT(worst, kMillisecond);
}

TEST(TscClock, NeverGoesBackAndInstancesAgree) {
  TscClock one;
  TscClock two;
  Nanos last = one.now();
  for (int i = 0; i < 100'000; ++i) {
    const Nanos now = (i % 2 == 0 ? one : two).now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(TscClock, CyclesPerNanoIsAPlausibleFrequency) {
  TscClock clock;
  EXPECT_GT(TscClock::cycles_per_nano(), 0.01);
  EXPECT_LT(TscClock::cycles_per_nano(), 10.0);
}

TEST(ManualClock, MovesByHandOnly) {
  ManualClock clock;
  EXPECT_EQ(clock.now(), 0);
  clock.set(5 * kSecond);
  clock.advance(kMillisecond);
  EXPECT_EQ(clock.now(), 5'001'000'000);
  EXPECT_EQ(clock.now(), 5'001'000'000);
}

}  // namespace
}  // namespace annulus::dataplane
