#include "dataplane/dpdk/burst_guard.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace annulus::dataplane {

std::array<BurstGuard::Turn, BurstGuard::kPortsMax> BurstGuard::turns_{};

void BurstGuard::await_bursts() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::array<std::uint64_t, kPortsMax> counts;
  for (std::size_t i = 0; i < kPortsMax; ++i) {
    counts[i] = turns_[i].count.load(std::memory_order_acquire);
    const bool own = turns_[i].thread.load(std::memory_order_relaxed) == pthread_self();
    if (counts[i] % 2 != 0 && own) return;
  }
  for (std::size_t i = 0; i < kPortsMax; ++i) {
    if (counts[i] % 2 == 0) continue;
    while (turns_[i].count.load(std::memory_order_acquire) == counts[i]) sched_yield();
  }
}

}  // namespace annulus::dataplane

/// In place of the C library's, for every library of the process.
extern "C" int munmap(void* address, std::size_t bytes) noexcept {
  annulus::dataplane::BurstGuard::await_bursts();
  return static_cast<int>(syscall(SYS_munmap, address, bytes));
}
