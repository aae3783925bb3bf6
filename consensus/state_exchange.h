// One copy of a replica's state, and whose turn it is: its network stage, which serves or fetches
// the copy, or its worker, which makes or installs it. The worker is asked by a delivery of its own
// kind: what it installs replaces the outcome of the values before, and what it copies contains
// that, and perhaps that of some more.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "consensus/types.h"
#include "dataplane/clock.h"
#include "dataplane/mapping.h"

namespace annulus::consensus {

/// What a copy is: everything that decides later replies, after instance `instance` and before the
/// next.
struct StateImage {
  Instance instance{};
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;
  std::uint32_t segments = 0;
  bool operator==(const StateImage&) const = default;
};

class StateExchange {
 public:
  /// `bytes_max`: of a copy. It takes memory only while there is one.
  explicit StateExchange(std::uint64_t bytes_max) : memory_(bytes_max) {}

  enum class Phase : std::uint8_t {
    kIdle,        // network stage: nothing, or a copy that is being fetched
    kCopying,     // worker: prepares a copy, makes it, hashes it
    kCopied,      // network stage: there to be served
    kInstalling,  // worker
    kInstalled,   // network stage: the worker goes on from image().instance
    kRefused,     // network stage: the copy was damaged or does not fit, and nothing is installed
  };
  Phase phase() const { return phase_.load(std::memory_order_acquire); }  // pairs with pass()
  /// By whose turn it is; what was written to memory and image before is the other's to read.
  void pass(Phase next) { phase_.store(next, std::memory_order_release); }

  /// By the network stage: gives the copy's memory back to the host, a little each time, as that
  /// takes a while. True once all of it is.
  bool give_back() {
    constexpr std::uint64_t kAtOnce = 8 * dataplane::Mapping::kGrain;
    const std::uint64_t to = std::min<std::uint64_t>(given_back_ + kAtOnce, memory_.size());
    memory_.give_back(given_back_, to);
    given_back_ = to;
    if (given_back_ < used_ && given_back_ < memory_.size()) return false;
    given_back_ = used_ = 0;
    return true;
  }
  /// By whose turn it is, of what it writes to: so much of the memory is to be given back.
  void uses(std::uint64_t bytes) { used_ = std::max(used_, bytes); }

  /// By whose turn it is only.
  dataplane::Mapping& memory() { return memory_; }
  StateImage& image() { return image_; }
  /// How long the worker executed nothing, for the copy's sake.
  Nanos& stood_still() { return stood_still_; }

 private:
  dataplane::Mapping memory_;
  StateImage image_;
  Nanos stood_still_ = 0;
  std::uint64_t used_ = 0;
  std::uint64_t given_back_ = 0;
  std::atomic<Phase> phase_{Phase::kIdle};
};

}  // namespace annulus::consensus
