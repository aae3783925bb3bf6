// Which command comes next, from a seed: for both clients the same objects. Lists and groups are
// left for fresh ones before they grow long.
#pragma once

#include <array>
#include <set>

#include "tools/bench/key_chooser.h"
#include "tools/chaos/history.h"

namespace annulus::chaos {

class Mix {
 public:
  explicit Mix(std::uint64_t seed) : random_(seed) {}

  Command draw();
  /// When the next command starts, at `rate` a second: Poisson arrivals.
  Nanos gap(double rate);
  /// All that were drawn.
  const std::set<Object>& objects() const { return objects_; }
  bench::Random& random() { return random_; }

 private:
  static constexpr std::uint32_t kRegisters = 32;
  static constexpr std::uint32_t kCounters = 8;
  static constexpr std::uint32_t kSlots = 4;        // lists, and groups, in use at a time
  static constexpr std::uint32_t kWritesMax = 150;  // of a list or group

  struct Growing {
    Object object;
    std::uint32_t writes = kWritesMax;  // the first draw takes a fresh one
  };
  Object growing(ObjectType type, bool write, std::uint64_t& place);

  bench::Random random_;
  std::uint64_t written_ = 0;
  std::array<std::array<Growing, kSlots>, 2> growing_;  // lists, groups
  std::array<std::uint32_t, 2> fresh_{};
  std::set<Object> objects_;
};

}  // namespace annulus::chaos
