// One hash over everything replicas must agree on, at a stated instance: asked for by any thread,
// answered by the worker between two values.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "consensus/types.h"
#include "statemachine/segment.h"

namespace annulus::statemachine {

struct StateHashes {
  consensus::Instance executed{};  // everything up to here is in the hashes
  std::uint64_t kept = 0;          // as maintained while executing
  std::uint64_t recomputed = 0;    // from the segments' bytes alone (T19): what replicas compare
  std::uint32_t sessions = 0;
};

/// Folds the class hashes of one service into `hash`.
std::uint64_t fold_hashes(std::uint64_t hash, std::span<const ContentHash> classes);

/// The question and its answer. One thread asks at a time.
class StateHashExchange {
 public:
  /// Asking thread. The answer is taken between two values: as soon as `at` is executed and before
  /// anything after it, or at once when the worker is past it (`at` 0: at once). Returns a ticket.
  std::uint64_t ask(consensus::Instance at) {
    at_.store(raw(at), std::memory_order_relaxed);
    return asked_.fetch_add(1, std::memory_order_release) + 1;  // pairs with pending()
  }
  /// Asking thread. True when the question with this ticket is answered.
  bool answered(std::uint64_t ticket, StateHashes& out) const {
    if (answered_.load(std::memory_order_acquire) < ticket) return false;  // pairs with answer()
    out = hashes_;
    return true;
  }

  /// Worker. Whether a question waits; `at` is its instance.
  bool pending(consensus::Instance& at) const {
    if (asked_.load(std::memory_order_acquire) == answered_.load(std::memory_order_relaxed)) {
      return false;
    }
    at = consensus::Instance{at_.load(std::memory_order_relaxed)};
    return true;
  }
  void answer(const StateHashes& hashes) {
    hashes_ = hashes;
    answered_.store(answered_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }

 private:
  std::atomic<std::uint64_t> asked_{0};  // written by the asking thread
  std::atomic<std::uint64_t> at_{0};
  alignas(64) std::atomic<std::uint64_t> answered_{0};  // written by the worker
  StateHashes hashes_;                                  // written before answered_ is
};

}  // namespace annulus::statemachine
