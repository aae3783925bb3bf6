// One DPDK port: found or created from its device string, configured, started, and stopped again.
// Includes DPDK headers; for dataplane/dpdk only.
#pragma once

#include <rte_ethdev.h>

#include <cstdint>
#include <span>
#include <string>

#include "dataplane/dpdk/burst_guard.h"
#include "dataplane/dpdk/packet.h"
#include "dataplane/result.h"

namespace annulus::dataplane {

struct DeviceConfig {
  std::string device;
  std::uint32_t mtu = 1500;
  std::uint32_t rx_queue_frames = 1024;
  std::uint32_t tx_queue_frames = 1024;
  std::uint32_t link_wait_ms = 0;
};

class EthernetDevice {
 public:
  /// Bytes in front of and behind what the MTU counts: Ethernet header, and a VLAN tag or FCS that
  /// a device may deliver.
  static constexpr std::uint32_t kFramingBytes = 14 + 4;

  /// After start_eal(). `rx_pool` receives; it must outlive the device.
  static Result<EthernetDevice> open(const DeviceConfig& config, rte_mempool* rx_pool);
  EthernetDevice(EthernetDevice&& other) noexcept;
  EthernetDevice& operator=(EthernetDevice&&) = delete;
  ~EthernetDevice();

  std::uint16_t receive(std::span<rte_mbuf*> burst) {
    if (!running_) return 0;
    const auto frames = static_cast<std::uint16_t>(burst.size());
    if (!memif_) return rte_eth_rx_burst(id_, 0, burst.data(), frames);
    const BurstGuard guard(id_);
    return rte_eth_rx_burst(id_, 0, burst.data(), frames);
  }
  /// Sends what the device takes; returns how many. The rest stays the caller's.
  std::uint16_t transmit(std::span<rte_mbuf*> burst) {
    if (!running_) return 0;
    const auto frames = static_cast<std::uint16_t>(burst.size());
    if (!memif_) return rte_eth_tx_burst(id_, 0, burst.data(), frames);
    const BurstGuard guard(id_);
    return rte_eth_tx_burst(id_, 0, burst.data(), frames);
  }

  /// Lets frames of these multicast addresses in, by the finest filter that the device has.
  Status admit_multicast(std::span<const MacAddress> groups);

  const MacAddress& mac() const { return mac_; }
  bool rx_verifies_ip() const { return (rx_offloads_ & RTE_ETH_RX_OFFLOAD_IPV4_CKSUM) != 0; }
  bool rx_verifies_udp() const { return (rx_offloads_ & RTE_ETH_RX_OFFLOAD_UDP_CKSUM) != 0; }
  bool tx_completes_checksums() const { return (tx_offloads_ & kTxChecksums) == kTxChecksums; }
  /// Whether a frame may refer to payload memory that DPDK does not know. A physical device would
  /// need it mapped for DMA; a virtual one reads it with the CPU.
  bool tx_refers_to_memory() const {
    return !physical_ && (tx_offloads_ & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) != 0;
  }
  bool link_up() const;
  /// A memif client does not look for its peer again by itself: tries once, if the link is down.
  void reconnect();
  /// Frames that the device could not receive for want of memory, and could not send.
  struct Drops {
    std::uint64_t no_buffer = 0;
    std::uint64_t tx_errors = 0;
  };
  Drops drops() const;

 private:
  static constexpr std::uint64_t kTxChecksums =
      RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;

  static_assert(RTE_MAX_ETHPORTS <= BurstGuard::kPortsMax);

  EthernetDevice() = default;
  Status find(const std::string& device);
  Status configure(const DeviceConfig& config, rte_mempool* rx_pool);
  Status start(const DeviceConfig& config);

  std::uint16_t id_ = RTE_MAX_ETHPORTS;
  bool probed_here_ = false;
  bool physical_ = false;
  bool memif_ = false;
  bool memif_client_ = false;
  bool running_ = false;
  std::uint64_t rx_offloads_ = 0;
  std::uint64_t tx_offloads_ = 0;
  MacAddress mac_;
};

}  // namespace annulus::dataplane
