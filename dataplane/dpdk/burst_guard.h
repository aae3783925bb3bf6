// Keeps memory that is shared with a peer mapped while a burst uses it.
//
// When the peer of a memif port dies, DPDK's interrupt thread marks the port as disconnected and
// unmaps what they shared, without a look at the thread that polls it (drivers/net/memif,
// memif_disconnect(), in 22.11): a burst that is copying there ends the process with SIGSEGV, a
// whole hub for one dead node. So the process gets a munmap() that first waits for the bursts which
// are under way. Those that begin later find the port disconnected.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace annulus::dataplane {

/// Lives as long as one burst of a port. A port is polled by one thread at a time.
class BurstGuard {
 public:
  static constexpr std::size_t kPortsMax = 32;

  explicit BurstGuard(std::uint16_t port) : turn_(turns_[port]) {
    turn_.thread.store(pthread_self(), std::memory_order_relaxed);
    turn_.count.store(turn_.count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    // Either await_bursts() sees this, or the burst sees what was written before that was called.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  BurstGuard(const BurstGuard&) = delete;
  BurstGuard& operator=(const BurstGuard&) = delete;
  ~BurstGuard() {
    turn_.count.store(turn_.count.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }

  /// Returns once every burst has ended that was under way when it was called: at once if one of
  /// them is the caller's.
  static void await_bursts();

 private:
  struct alignas(64) Turn {
    std::atomic<std::uint64_t> count;  // odd: under way
    std::atomic<pthread_t> thread;
  };
  static std::array<Turn, kPortsMax> turns_;
  Turn& turn_;
};

}  // namespace annulus::dataplane
