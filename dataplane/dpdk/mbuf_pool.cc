#include "dataplane/dpdk/mbuf_pool.h"

#include <rte_errno.h>
#include <rte_lcore.h>

#include <new>

#include "dataplane/dpdk/eal.h"

namespace annulus::dataplane {
namespace {

MbufPrivate& private_of(rte_mbuf* mbuf) {
  return *static_cast<MbufPrivate*>(rte_mbuf_to_priv(mbuf));
}

void construct(rte_mempool*, void*, void* object, unsigned) {
  auto* mbuf = static_cast<rte_mbuf*>(object);
  MbufPrivate* area = new (rte_mbuf_to_priv(mbuf)) MbufPrivate{};
  area->buffer.owner = mbuf;
  area->buffer.release = [](Buffer* buffer) {
    rte_pktmbuf_free(static_cast<rte_mbuf*>(buffer->owner));
  };
  area->payload_info.free_cb = [](void*, void* mbuf_sent) {
    private_of(static_cast<rte_mbuf*>(mbuf_sent)).payload.reset();
  };
  area->payload_info.fcb_opaque = mbuf;
}

}  // namespace

Result<MbufPool> MbufPool::create(const std::string& name, std::uint32_t count,
                                  std::uint32_t data_bytes) {
  const EalLog said;
  // Threads that release frames may share a core and be preempted in the middle of it: "rts" lets
  // the others finish meanwhile, where the default ring makes them wait for their turn on the CPU.
  rte_mempool* pool = rte_pktmbuf_pool_create_by_ops(
      name.c_str(), count, kCache, sizeof(MbufPrivate),
      static_cast<std::uint16_t>(data_bytes + RTE_PKTMBUF_HEADROOM), SOCKET_ID_ANY, "ring_mt_rts");
  if (pool == nullptr) {
    return Error{
        "dpdk: no memory for " + std::to_string(count) + " frames of " +
        std::to_string(data_bytes) + " bytes (pool " + name + ": " + rte_strerror(rte_errno) +
        "); raise memory_mib, or lower rx_frames_held and the queue sizes" + said.quoted()};
  }
  rte_mempool_obj_iter(pool, &construct, nullptr);
  return MbufPool(pool);
}

MbufPool::~MbufPool() {
  if (pool_ != nullptr && rte_mempool_full(pool_)) rte_mempool_free(pool_);
}

std::uint64_t MbufPool::mbuf_bytes(std::uint32_t data_bytes, bool hugepages) {
  const std::uint64_t element =
      sizeof(rte_mbuf) + sizeof(MbufPrivate) + data_bytes + RTE_PKTMBUF_HEADROOM;
  // Objects are cache-line aligned behind a header of one line, with up to one line more so that
  // they start on different memory channels; plus the slot in the pool's ring.
  const std::uint64_t whole = (element + 63) / 64 * 64 + 2 * 64;
  constexpr std::uint64_t kPage = 4'096;
  const std::uint64_t paged =
      whole <= kPage ? kPage / (kPage / whole) : (whole + kPage - 1) / kPage * kPage;
  return (hugepages ? whole : paged) + 2 * sizeof(void*);
}

Slice adopt_mbuf(rte_mbuf* mbuf, std::uint32_t offset, std::uint32_t length) {
  Buffer& buffer = private_of(mbuf).buffer;
  buffer.data = rte_pktmbuf_mtod(mbuf, std::byte*);
  buffer.capacity = rte_pktmbuf_data_len(mbuf);
  buffer.references.store(1, std::memory_order_relaxed);
  return Slice::adopt(&buffer, offset, length);
}

void attach_payload(rte_mbuf* mbuf, Slice&& payload) {
  MbufPrivate& area = private_of(mbuf);
  area.payload = std::move(payload);
  rte_mbuf_ext_refcnt_set(&area.payload_info, 1);
  auto* data = const_cast<std::byte*>(area.payload.data());
  const auto bytes = static_cast<std::uint16_t>(area.payload.size());
  // Only virtual devices get referenced payloads; they read by address, so that is the IOVA.
  rte_pktmbuf_attach_extbuf(mbuf, data, reinterpret_cast<rte_iova_t>(data), bytes,
                            &area.payload_info);
  mbuf->data_len = bytes;
  mbuf->pkt_len = bytes;
}

}  // namespace annulus::dataplane
