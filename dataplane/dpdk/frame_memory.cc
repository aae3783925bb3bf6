#include "dataplane/dpdk/frame_memory.h"

#include <algorithm>
#include <cstdlib>

#include "dataplane/dpdk/dpdk_transport.h"
#include "dataplane/dpdk/host_checks.h"

namespace annulus::dataplane {
namespace {

std::uint32_t cached(const DpdkConfig& config) {
  // Plus the thread that opened the port: it has a cache as well.
  return (config.threads + 1) * MbufPool::kCachedMax;
}

/// af_xdp keeps its fill ring full of them, whatever queue size was asked for, and copies what it
/// sends into them: a ring each of XSK_RING_PROD__DEFAULT_NUM_DESCS.
std::uint32_t device_rings(const DpdkConfig& config) {
  return device_name(config.device).starts_with("net_af_xdp") ? 2 * 2048 : 0;
}

}  // namespace

FrameCounts frame_counts(const DpdkConfig& config) {
  return {.rx = device_rings(config) + config.rx_queue_frames + config.rx_frames_held +
                DpdkTransport::kBurst + cached(config),
          .tx = config.tx_queue_frames + 2 * DpdkTransport::kBurst + cached(config)};
}

std::uint32_t frame_data_bytes(const std::string& device, std::uint32_t mtu) {
  // Drivers of real ports write in units of 1 KiB and want 2 KiB at least.
  std::uint32_t bytes = std::max(2048u, mtu + EthernetDevice::kFramingBytes);
  if (device_name(device).starts_with("net_af_packet")) {
    // Its receive queue demands room for a whole frame of the kernel's ring.
    const std::string given = device_argument(device, "framesz");
    if (!given.empty()) {
      bytes = std::max(bytes, static_cast<std::uint32_t>(std::strtoul(given.c_str(), nullptr, 10)));
    }
  }
  return bytes;
}

std::uint32_t eal_memory_mib(std::uint64_t bytes) {
  constexpr std::uint64_t kMib = 1024 * 1024;
  // A sixteenth for the allocator, 24 MiB for drivers: rings, statistics, device tables.
  return static_cast<std::uint32_t>((bytes + bytes / 16 + kMib - 1) / kMib + 24);
}

MemoryPlan plan_dpdk_memory(const DpdkConfig& config) {
  const std::uint64_t frame =
      MbufPool::mbuf_bytes(frame_data_bytes(config.device, config.mtu), config.eal.hugepages);
  const std::uint64_t reference = MbufPool::mbuf_bytes(0, config.eal.hugepages);
  const std::uint64_t caches = cached(config);
  return {{{"frames in the receive queue", config.rx_queue_frames, frame},
           {"frames in rings of the device's own", device_rings(config), frame},
           {"received frames that the node holds", config.rx_frames_held, frame},
           {"the burst in hand, received", DpdkTransport::kBurst, frame},
           {"free frames in the threads' caches, received", caches, frame},
           {"frames in the transmit queue", config.tx_queue_frames, frame},
           {"the burst in hand, and answers to it, sent", 2 * DpdkTransport::kBurst, frame},
           {"free frames in the threads' caches, sent", caches, frame},
           {"references to payloads of all frames sent", frame_counts(config).tx, reference}}};
}

std::uint64_t MemoryPlan::bytes() const {
  std::uint64_t sum = 0;
  for (const Term& term : terms) sum += term.count * term.bytes_each;
  return sum;
}

std::string MemoryPlan::to_string() const {
  std::string text;
  for (const Term& term : terms) {
    text += std::to_string(term.count) + " x " + std::to_string(term.bytes_each) +
            " bytes: " + term.reason + "\n";
  }
  return text + "together " + std::to_string(bytes()) + " bytes\n";
}

}  // namespace annulus::dataplane
