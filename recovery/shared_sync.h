// Which writes a sync makes durable: several share one. A sync vouches for those that had ended
// when it began, and for no other.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <utility>

#include "recovery/disk.h"

namespace annulus::recovery {

/// Told of writes and syncs as they begin and end; one sync is under way at a time. Once a sync has
/// failed nothing is durable any more: the system may have dropped what it could not write, and the
/// next sync would know nothing of it.
class SharedSync {
 public:
  void write_begun() { ++writing_; }
  void write_failed() { --writing_; }
  /// `whole`: what is to be told of it once it is durable.
  void write_ended(const TransferDone& whole) {
    --writing_;
    ended_[count_++] = whole;
  }
  /// Whether a sync is to begin: one is not under way, and something waits for it.
  bool wanted() const { return !syncing_ && count_ != 0; }
  void begin() {
    syncing_ = true;
    covered_ = count_;
  }
  /// Nothing waits and nothing is under way.
  bool at_rest() const { return !syncing_ && writing_ == 0 && count_ == 0; }
  /// Writes that the sync under way vouches for: the room that end() needs.
  std::uint32_t covered() const { return covered_; }
  /// The sync ended; the writes that it covered are durable, or failed with it.
  std::uint32_t end(std::int64_t result, std::span<TransferDone> into) {
    syncing_ = false;
    if (failure_ == 0 && result != 0) failure_ = result;
    for (std::uint32_t i = 0; i < covered_; ++i) {
      into[i] = {ended_[i].token, failure_ == 0 ? ended_[i].result : failure_};
    }
    std::copy(ended_.begin() + covered_, ended_.begin() + count_, ended_.begin());
    count_ -= covered_;
    return std::exchange(covered_, 0);
  }

 private:
  std::uint32_t writing_ = 0;
  std::array<TransferDone, Disk::kTransfersMax> ended_;  // not durable yet, in that order
  std::uint32_t count_ = 0;
  std::uint32_t covered_ = 0;  // of these
  bool syncing_ = false;
  std::int64_t failure_ = 0;  // of the first sync that failed
};

}  // namespace annulus::recovery
