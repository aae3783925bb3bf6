// The transport over a DPDK port. A received mbuf is referenced up to the worker; a sent payload is
// referenced where the device can follow, and copied where it cannot. Made by open_dpdk_transport()
// (dpdk.h), owned and polled by one core.
#pragma once

#include <array>
#include <memory>

#include "dataplane/dpdk/dpdk.h"
#include "dataplane/dpdk/ethernet_device.h"
#include "dataplane/dpdk/mbuf_pool.h"
#include "dataplane/dpdk/net_stack.h"

namespace annulus::dataplane {

class DpdkTransport final : public Transport, private PacketSink {
 public:
  static constexpr std::uint32_t kBurst = 32;
  /// A payload up to this long is copied behind its head: cheaper than a second mbuf.
  static constexpr std::uint32_t kCopiedPayloadMax = 256;

  static Result<std::unique_ptr<Transport>> open(const DpdkConfig& config);
  ~DpdkTransport() override = default;

  std::uint32_t receive(Nanos now, std::span<RxFrame> frames) override;
  void transmit(Nanos now, std::span<TxFrame> frames) override;
  Status join(const Endpoint& group) override;
  Endpoint endpoint() const override { return filter_.own; }
  std::uint32_t frame_bytes_max() const override { return mtu_ - kHeadersInMtu; }
  void register_counters(Registry& registry, const std::string& node) const override;

 private:
  static constexpr std::uint32_t kHeadersInMtu = sizeof(Ipv4Header) + sizeof(UdpHeader);

  DpdkTransport(const DpdkConfig& config, MbufPool rx_pool, MbufPool tx_pool,
                MbufPool reference_pool, EthernetDevice device);
  bool admit(Nanos now, rte_mbuf* mbuf, RxFrame& frame);
  rte_mbuf* in_one_piece(rte_mbuf* mbuf);
  DeviceVerified verified(const rte_mbuf& mbuf) const;
  rte_mbuf* build(Nanos now, TxFrame& frame);
  rte_mbuf* fill(const TxFrame& frame, const MacAddress& to, bool by_reference);
  void complete_checksums(rte_mbuf* mbuf, UdpHeaders& headers, const TxFrame& frame);
  std::uint32_t send(std::span<rte_mbuf*> burst);
  void send_packet(std::span<const std::byte> packet) override;
  void look_at_device(Nanos now);

  // In order of construction: the device goes before the pools that it receives into.
  MbufPool rx_pool_;
  MbufPool tx_pool_;
  MbufPool reference_pool_;
  EthernetDevice device_;
  const std::uint32_t mtu_;
  PacketFilter filter_;
  NetStack stack_;
  Nanos next_look_at_device_ = INT64_MIN;
  EthernetDevice::Drops device_drops_;  // counted so far
  Counters<PacketFault> faults_;
};

}  // namespace annulus::dataplane
