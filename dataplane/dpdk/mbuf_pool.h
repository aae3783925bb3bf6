// Packet memory: DPDK's pools of mbufs, each with room for the Buffer by which the rest of Annulus
// refers to it. Includes DPDK headers; for dataplane/dpdk only.
#pragma once

#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <cstdint>
#include <string>

#include "dataplane/buffer.h"
#include "dataplane/result.h"

namespace annulus::dataplane {

/// Lies in the private area of every mbuf of every MbufPool, so that one may pass between ports.
struct MbufPrivate {
  Buffer buffer;                          // this mbuf, referred to by received slices
  Slice payload;                          // what this mbuf refers to when it is sent
  rte_mbuf_ext_shared_info payload_info;  // tells DPDK how to drop `payload`
};
static_assert(sizeof(MbufPrivate) % RTE_MBUF_PRIV_ALIGN == 0);

class MbufPool {
 public:
  /// Free mbufs that a registered thread keeps for itself; it returns them from 1.5 times as many.
  static constexpr std::uint32_t kCache = 128;
  static constexpr std::uint32_t kCachedMax = kCache * 3 / 2;

  /// `count` mbufs that hold `data_bytes` each behind the headroom.
  static Result<MbufPool> create(const std::string& name, std::uint32_t count,
                                 std::uint32_t data_bytes);
  MbufPool(MbufPool&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)) {}
  MbufPool& operator=(MbufPool&& other) noexcept {
    std::swap(pool_, other.pool_);
    return *this;
  }
  /// Frees the memory, unless slices still refer to it: then it stays until the process ends.
  ~MbufPool();

  rte_mbuf* allocate() { return rte_pktmbuf_alloc(pool_); }
  rte_mempool* get() { return pool_; }
  /// What one mbuf takes, everything included. Without hugepages none crosses a page that it could
  /// lie in whole, and larger ones take whole pages.
  static std::uint64_t mbuf_bytes(std::uint32_t data_bytes, bool hugepages);

 private:
  explicit MbufPool(rte_mempool* pool) : pool_(pool) {}
  rte_mempool* pool_;
};

/// A slice of `length` bytes from `offset` of the mbuf's data; takes the mbuf over.
Slice adopt_mbuf(rte_mbuf* mbuf, std::uint32_t offset, std::uint32_t length);

/// Makes `mbuf`, which holds no data, refer to the payload, and takes that over. DPDK drops it
/// when the frame has been sent.
void attach_payload(rte_mbuf* mbuf, Slice&& payload);

}  // namespace annulus::dataplane
