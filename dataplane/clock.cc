#include "dataplane/clock.h"

#include <time.h>

namespace annulus::dataplane {
namespace {

Nanos monotonic() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * kSecond + ts.tv_nsec;
}

struct Calibration {
  std::uint64_t base_cycles;
  Nanos base_nanos;
  double nanos_per_cycle;
};

Calibration calibrate() {
  const Nanos start = monotonic();
  const std::uint64_t start_cycles = cycles_now();
  Nanos end = start;
  while (end - start < 10 * kMillisecond) end = monotonic();
  const std::uint64_t end_cycles = cycles_now();
  return {start_cycles, start,
          static_cast<double>(end - start) / static_cast<double>(end_cycles - start_cycles)};
}

const Calibration& calibration() {
  static const Calibration instance = calibrate();
  return instance;
}

}  // namespace

TscClock::TscClock() { calibration(); }

Nanos TscClock::now() {
  const Calibration& c = calibration();
  const auto elapsed = static_cast<std::int64_t>(cycles_now() - c.base_cycles);
  return c.base_nanos + static_cast<Nanos>(static_cast<double>(elapsed) * c.nanos_per_cycle);
}

double TscClock::cycles_per_nano() { return 1.0 / calibration().nanos_per_cycle; }

}  // namespace annulus::dataplane
