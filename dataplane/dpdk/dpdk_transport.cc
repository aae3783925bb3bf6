#include "dataplane/dpdk/dpdk_transport.h"

#include <rte_prefetch.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "dataplane/dpdk/eal.h"
#include "dataplane/dpdk/frame_memory.h"
#include "dataplane/dpdk/host_checks.h"
#include "dataplane/frame.h"

namespace annulus::dataplane {
namespace {

constexpr Nanos kLookAtDeviceEvery = kSecond / 2;

Status check_config(const DpdkConfig& config) {
  if (config.mtu < kMtuMin || config.mtu > kDpdkMtuMax) {
    return Error{"device '" + config.device + "': mtu = " + std::to_string(config.mtu) +
                 " is not between " + std::to_string(kMtuMin) + " and " +
                 std::to_string(kDpdkMtuMax) + "; networks carry 1500, or 9000 as jumbo frames"};
  }
  if (config.endpoint.address == 0 || config.endpoint.port == 0 || config.endpoint.multicast()) {
    return Error{"device '" + config.device + "': '" + to_string(config.endpoint) +
                 "' is not an endpoint of a host; write its own address and port, such as "
                 "10.77.0.1:4000"};
  }
  const std::pair<const char*, std::uint32_t> queues[] = {
      {"rx_queue_frames", config.rx_queue_frames}, {"tx_queue_frames", config.tx_queue_frames}};
  for (const auto& [name, frames] : queues) {
    if (frames >= 64 && frames <= 32'768) continue;
    return Error{"device '" + config.device + "': " + name + " = " + std::to_string(frames) +
                 " is not between 64 and 32768; 1024 suits most devices"};
  }
  return {};
}

/// The device's own, or for one that has none (ring) a locally administered one of our address.
MacAddress own_mac(const MacAddress& of_device, std::uint32_t address) {
  if (of_device != MacAddress{}) return of_device;
  return {{0x02, 0x00, static_cast<std::uint8_t>(address >> 24),
           static_cast<std::uint8_t>(address >> 16), static_cast<std::uint8_t>(address >> 8),
           static_cast<std::uint8_t>(address)}};
}

}  // namespace

Result<std::unique_ptr<Transport>> open_dpdk_transport(const DpdkConfig& config) {
  return DpdkTransport::open(config);
}

Result<std::unique_ptr<Transport>> DpdkTransport::open(const DpdkConfig& config) {
  if (Status status = check_config(config); !status) return status.error();
  EalConfig eal = config.eal;
  if (is_pci_device(config.device)) eal.pci_devices.push_back(config.device);
  const std::uint32_t memory_mib =
      eal.memory_mib != 0 ? eal.memory_mib : eal_memory_mib(plan_dpdk_memory(config).bytes());
  if (Status status = start_eal(eal, memory_mib); !status) return status.error();
  const FrameCounts counts = frame_counts(config);
  const std::uint32_t data_bytes = frame_data_bytes(config.device, config.mtu);
  const std::string name = device_name(config.device);
  auto rx_pool = MbufPool::create(name + "_rx", counts.rx, data_bytes);
  if (!rx_pool) return rx_pool.error();
  auto tx_pool = MbufPool::create(name + "_tx", counts.tx, data_bytes);
  if (!tx_pool) return tx_pool.error();
  auto reference_pool = MbufPool::create(name + "_ref", counts.tx, 0);
  if (!reference_pool) return reference_pool.error();
  auto device = EthernetDevice::open(
      {.device = complete_device(config.device, config.endpoint.address, config.mtu),
       .mtu = config.mtu,
       .rx_queue_frames = config.rx_queue_frames,
       .tx_queue_frames = config.tx_queue_frames,
       .link_wait_ms = config.link_wait_ms},
      rx_pool->get());
  if (!device) return device.error();
  return std::unique_ptr<Transport>(
      new DpdkTransport(config, std::move(rx_pool).value(), std::move(tx_pool).value(),
                        std::move(reference_pool).value(), std::move(device).value()));
}

DpdkTransport::DpdkTransport(const DpdkConfig& config, MbufPool rx_pool, MbufPool tx_pool,
                             MbufPool reference_pool, EthernetDevice device)
    : rx_pool_(std::move(rx_pool)),
      tx_pool_(std::move(tx_pool)),
      reference_pool_(std::move(reference_pool)),
      device_(std::move(device)),
      mtu_(config.mtu),
      filter_{.mac = own_mac(device_.mac(), config.endpoint.address), .own = config.endpoint},
      stack_(filter_.mac, config.endpoint.address, config.mtu, *this) {
  // memif offers its peer no buffers before the first poll; what arrives that early is lost, as
  // anything sent to a host that is not up yet.
  std::array<rte_mbuf*, kBurst> early;
  const std::uint16_t count = device_.receive(early);
  rte_pktmbuf_free_bulk(early.data(), count);
}

std::uint32_t DpdkTransport::receive(Nanos now, std::span<RxFrame> frames) {
  register_dpdk_thread();
  stack_.tick(now);
  if (now >= next_look_at_device_) look_at_device(now);
  std::array<rte_mbuf*, kBurst> burst;
  const std::size_t room = std::min<std::size_t>(burst.size(), frames.size());
  const std::uint16_t received = device_.receive(std::span{burst}.first(room));
  for (std::uint16_t i = 0; i < received; ++i) rte_prefetch0(rte_pktmbuf_mtod(burst[i], void*));
  std::uint32_t admitted = 0;
  for (std::uint16_t i = 0; i < received; ++i) {
    if (admit(now, burst[i], frames[admitted])) ++admitted;
  }
  return admitted;
}

bool DpdkTransport::admit(Nanos now, rte_mbuf* mbuf, RxFrame& frame) {
  if (mbuf->nb_segs > 1) mbuf = in_one_piece(mbuf);
  if (mbuf == nullptr) return false;
  const std::byte* data = rte_pktmbuf_mtod(mbuf, const std::byte*);
  Packet packet;
  const PacketFault fault =
      parse_packet({data, rte_pktmbuf_data_len(mbuf)}, filter_, verified(*mbuf), packet);
  if (fault == PacketFault::kNone && packet.kind == PacketKind::kUdp) {
    counters_[TransportCounter::kRxFrames].add();
    counters_[TransportCounter::kRxBytes].add(packet.body.size());
    frame.from = packet.from;
    frame.head = adopt_mbuf(mbuf, static_cast<std::uint32_t>(packet.body.data() - data),
                            static_cast<std::uint32_t>(packet.body.size()));
    frame.payload.reset();
    return true;
  }
  if (fault == PacketFault::kNone) {
    stack_.on_packet(now, packet);
  } else {
    faults_[fault].add();
    counters_[not_ours(fault) ? TransportCounter::kRxDropNotOurs
                              : TransportCounter::kRxDropBadHeader]
        .add();
  }
  rte_pktmbuf_free(mbuf);
  return false;
}

rte_mbuf* DpdkTransport::in_one_piece(rte_mbuf* mbuf) {
  rte_mbuf* whole = rx_pool_.allocate();
  const std::uint32_t bytes = rte_pktmbuf_pkt_len(mbuf);
  if (whole == nullptr || bytes > rte_pktmbuf_tailroom(whole)) {
    counters_[whole == nullptr ? TransportCounter::kRxDropNoBuffer
                               : TransportCounter::kRxDropBadHeader]
        .add();
    rte_pktmbuf_free(whole);
    rte_pktmbuf_free(mbuf);
    return nullptr;
  }
  for (const rte_mbuf* part = mbuf; part != nullptr; part = part->next) {
    std::memcpy(rte_pktmbuf_append(whole, part->data_len), rte_pktmbuf_mtod(part, const void*),
                part->data_len);
  }
  whole->ol_flags |= mbuf->ol_flags & (RTE_MBUF_F_RX_IP_CKSUM_MASK | RTE_MBUF_F_RX_L4_CKSUM_MASK);
  rte_pktmbuf_free(mbuf);
  return whole;
}

DeviceVerified DpdkTransport::verified(const rte_mbuf& mbuf) const {
  const std::uint64_t ip = mbuf.ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK;
  const std::uint64_t udp = mbuf.ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;
  // "None" says that the field is not filled in yet, but the data never left this machine. What is
  // found bad is summed again, which finds the fault and names it.
  return {.ip = device_.rx_verifies_ip() && ip == RTE_MBUF_F_RX_IP_CKSUM_GOOD,
          .udp = device_.rx_verifies_udp() &&
                 (udp == RTE_MBUF_F_RX_L4_CKSUM_GOOD || udp == RTE_MBUF_F_RX_L4_CKSUM_NONE)};
}

void DpdkTransport::transmit(Nanos now, std::span<TxFrame> frames) {
  std::array<rte_mbuf*, kBurst> burst;
  std::array<std::uint32_t, kBurst> bytes;
  while (!frames.empty()) {
    const auto part = frames.first(std::min<std::size_t>(frames.size(), kBurst));
    std::size_t built = 0;
    for (TxFrame& frame : part) {
      rte_mbuf* mbuf = build(now, frame);
      frame.payload.reset();
      if (mbuf == nullptr) continue;
      bytes[built] = mbuf->pkt_len - static_cast<std::uint32_t>(sizeof(UdpHeaders));
      burst[built++] = mbuf;
    }
    const std::uint32_t sent = send(std::span{burst}.first(built));
    counters_[TransportCounter::kTxFrames].add(sent);
    counters_[TransportCounter::kTxBytes].add(
        std::accumulate(bytes.begin(), bytes.begin() + sent, std::uint64_t{0}));
    frames = frames.subspan(part.size());
  }
}

rte_mbuf* DpdkTransport::build(Nanos now, TxFrame& frame) {
  const std::uint64_t body_bytes = frame.head.size() + frame.payload.size();
  if (body_bytes > frame_bytes_max()) {
    counters_[TransportCounter::kTxDropTooLong].add();
    return nullptr;
  }
  MacAddress to;
  if (frame.to.multicast()) {
    to = multicast_mac(frame.to.address);
  } else {
    const MacAddress* known = frame.to.address == filter_.own.address || frame.to.address == 0
                                  ? nullptr
                                  : stack_.resolve(now, frame.to.address);
    if (known == nullptr) {
      counters_[TransportCounter::kTxDropNoRoute].add();
      return nullptr;
    }
    to = *known;
  }
  const bool by_reference =
      device_.tx_refers_to_memory() && frame.payload.size() > kCopiedPayloadMax;
  rte_mbuf* mbuf = fill(frame, to, by_reference);
  if (mbuf == nullptr) {
    counters_[TransportCounter::kTxDropNoBuffer].add();
    return nullptr;
  }
  if (by_reference) {
    rte_mbuf* tail = mbuf->next;
    attach_payload(tail, std::move(frame.payload));
    mbuf->pkt_len += tail->pkt_len;
  }
  return mbuf;
}

/// Headers and head, and behind them the payload or an empty mbuf that is to refer to it.
rte_mbuf* DpdkTransport::fill(const TxFrame& frame, const MacAddress& to, bool by_reference) {
  rte_mbuf* mbuf = tx_pool_.allocate();
  if (mbuf == nullptr) return nullptr;
  const std::size_t copied = by_reference ? 0 : frame.payload.size();
  auto* data = rte_pktmbuf_mtod(mbuf, std::byte*);
  auto& headers = *reinterpret_cast<UdpHeaders*>(data);
  build_udp(headers, filter_.mac, to, filter_.own, frame.to,
            static_cast<std::uint32_t>(frame.head.size() + frame.payload.size()));
  std::byte* head = data + sizeof(UdpHeaders);
  if (!frame.head.empty()) std::memcpy(head, frame.head.data(), frame.head.size());
  if (copied > 0) std::memcpy(head + frame.head.size(), frame.payload.data(), copied);
  mbuf->data_len = static_cast<std::uint16_t>(sizeof(UdpHeaders) + frame.head.size() + copied);
  mbuf->pkt_len = mbuf->data_len;
  complete_checksums(mbuf, headers, frame);
  if (by_reference) {
    mbuf->next = reference_pool_.allocate();
    if (mbuf->next == nullptr) {
      rte_pktmbuf_free(mbuf);
      return nullptr;
    }
    mbuf->nb_segs = 2;
  }
  return mbuf;
}

void DpdkTransport::complete_checksums(rte_mbuf* mbuf, UdpHeaders& headers, const TxFrame& frame) {
  if (device_.tx_completes_checksums()) {
    headers.udp.checksum = udp_pseudo_sum(headers);
    mbuf->ol_flags |= RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_UDP_CKSUM;
    mbuf->l2_len = sizeof(EthernetHeader);
    mbuf->l3_len = sizeof(Ipv4Header);
    return;
  }
  headers.ip.checksum = ipv4_checksum(headers.ip);
  headers.udp.checksum = udp_checksum(headers, frame.head, frame.payload.bytes());
}

std::uint32_t DpdkTransport::send(std::span<rte_mbuf*> burst) {
  if (burst.empty()) return 0;
  const std::uint16_t sent = device_.transmit(burst);
  const auto left = burst.subspan(sent);
  if (!left.empty()) {
    counters_[TransportCounter::kTxDropFull].add(left.size());
    rte_pktmbuf_free_bulk(left.data(), static_cast<unsigned>(left.size()));
  }
  return sent;
}

void DpdkTransport::send_packet(std::span<const std::byte> packet) {
  rte_mbuf* mbuf = tx_pool_.allocate();
  if (mbuf == nullptr) {
    counters_[TransportCounter::kTxDropNoBuffer].add();
    return;
  }
  std::memcpy(rte_pktmbuf_append(mbuf, static_cast<std::uint16_t>(packet.size())), packet.data(),
              packet.size());
  send({&mbuf, 1});
}

Status DpdkTransport::join(const Endpoint& group) {
  const auto joined = std::span{filter_.groups}.first(filter_.group_count);
  if (std::find(joined.begin(), joined.end(), group) != joined.end()) return {};
  if (!group.multicast() || group.port == 0) {
    return Error{std::string("group '").append(dataplane::to_string(group)) +
                 "' is not a multicast group with a port; write one of 224.0.0.0/4, such as "
                 "239.77.0.1:4100"};
  }
  if (joined.size() == kGroupsMax || !stack_.join(group.address)) {
    return Error{"group " + dataplane::to_string(group) + ": a port joins at most " +
                 std::to_string(kGroupsMax) + " groups; let partitions share some"};
  }
  filter_.groups[filter_.group_count++] = group;
  std::array<MacAddress, kGroupsMax + 1> macs{multicast_mac(0xe0000001)};  // where queries go
  for (std::uint32_t i = 0; i < filter_.group_count; ++i) {
    macs[i + 1] = multicast_mac(filter_.groups[i].address);
  }
  return device_.admit_multicast(std::span{macs}.first(filter_.group_count + 1));
}

void DpdkTransport::register_counters(Registry& registry, const std::string& node) const {
  registry.add(node, "transport", counters_);
  registry.add(node, "packet", faults_);
  registry.add(node, "net_stack", stack_.counters());
}

void DpdkTransport::look_at_device(Nanos now) {
  next_look_at_device_ = now + kLookAtDeviceEvery;
  device_.reconnect();
  const EthernetDevice::Drops drops = device_.drops();
  counters_[TransportCounter::kRxDropNoBuffer].add(drops.no_buffer - device_drops_.no_buffer);
  counters_[TransportCounter::kTxDropError].add(drops.tx_errors - device_drops_.tx_errors);
  device_drops_ = drops;
}

}  // namespace annulus::dataplane
