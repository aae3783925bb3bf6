// How many frames of which size a port needs: the sums behind MemoryPlan. Knows no DPDK.
#pragma once

#include <cstdint>
#include <string>

#include "dataplane/dpdk/dpdk.h"

namespace annulus::dataplane {

/// An mbuf counts its bytes in 16 bits, headroom and framing included.
constexpr std::uint32_t kDpdkMtuMax = 65'280;

struct FrameCounts {
  std::uint32_t rx = 0;
  std::uint32_t tx = 0;
};
FrameCounts frame_counts(const DpdkConfig& config);

/// Bytes that one frame buffer must hold for this device and MTU.
std::uint32_t frame_data_bytes(const std::string& device, std::uint32_t mtu);

/// What the EAL must be given so that `bytes` of pools fit: drivers and allocator take the rest.
std::uint32_t eal_memory_mib(std::uint64_t bytes);

}  // namespace annulus::dataplane
