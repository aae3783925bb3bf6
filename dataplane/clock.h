// Time: nanoseconds as an argument. A core reads its clock once a turn; roles never do.
#pragma once

#include <compare>
#include <cstdint>

namespace annulus {

/// Nanoseconds since an arbitrary start; also durations. Signed, so that differences are plain.
using Nanos = std::int64_t;

constexpr Nanos kMicrosecond = 1'000;
constexpr Nanos kMillisecond = 1'000'000;
constexpr Nanos kSecond = 1'000'000'000;
/// A deadline that never comes.
constexpr Nanos kNever = INT64_MAX;

namespace dataplane {

/// The cycle counter; the unit of every busy-cycle figure.
inline std::uint64_t cycles_now() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();  // of no header: <x86intrin.h> takes a second to compile
#else
  std::uint64_t ticks;
  asm volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#endif
}

/// Source of time for a core's loop. Virtual: read once a turn, never per item.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Nanos now() = 0;
};

/// The cycle counter, calibrated against CLOCK_MONOTONIC at construction (about 10 ms, once a
/// process). All instances agree.
class TscClock final : public Clock {
 public:
  TscClock();
  Nanos now() override;
  static double cycles_per_nano();
};

/// Moved by hand: simulation and tests.
class ManualClock final : public Clock {
 public:
  Nanos now() override { return now_; }
  void set(Nanos now) { now_ = now; }
  void advance(Nanos by) { now_ += by; }

 private:
  Nanos now_ = 0;
};

}  // namespace dataplane
}  // namespace annulus
