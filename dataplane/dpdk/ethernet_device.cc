#include "dataplane/dpdk/ethernet_device.h"

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "dataplane/dpdk/eal.h"
#include "dataplane/dpdk/host_checks.h"

namespace annulus::dataplane {
namespace {

std::string reason(int result) { return rte_strerror(result < 0 ? -result : result); }

/// These report a largest frame of 1518 bytes and yet carry what fits their buffers; asking them
/// for more is refused, so they are left at their default (check_frame_room() has looked at the
/// buffers).
bool understates_mtu(const char* driver) {
  return std::strcmp(driver, "net_af_packet") == 0 || std::strcmp(driver, "net_memif") == 0 ||
         std::strcmp(driver, "net_tap") == 0;
}

Error step_error(const DeviceConfig& config, const char* step, int result, const EalLog& said) {
  return {"device '" + config.device + "': " + step + " failed (" + reason(result) +
          "); lower mtu or the queue sizes, or see what the driver says" + said.quoted()};
}

Error link_error(const DeviceConfig& config) {
  const std::string waited = "device '" + config.device + "': no link after " +
                             std::to_string(config.link_wait_ms) + " ms";
  const std::string socket = device_argument(config.device, "socket");
  if (device_name(config.device).starts_with("net_memif")) {
    return {waited + ": nobody serves " + (socket.empty() ? "its socket" : socket) +
            "; start 'annulus hub' on that directory first"};
  }
  return {waited +
          "; check cable, switch port and the other end, or set link_wait_ms = 0 to start "
          "without a link"};
}

}  // namespace

Result<EthernetDevice> EthernetDevice::open(const DeviceConfig& config, rte_mempool* rx_pool) {
  const std::string interface = device_argument(config.device, "iface");
  const std::string name = device_name(config.device);
  if (name.starts_with("net_af_")) {
    if (Status status = check_interface(interface, config.mtu); !status) return status.error();
  }
  if (Status status = check_frame_room(config.device, config.mtu); !status) return status.error();
  EthernetDevice device;
  if (Status status = device.find(config.device); !status) return status.error();
  if (Status status = device.configure(config, rx_pool); !status) return status.error();
  if (Status status = device.start(config); !status) return status.error();
  return device;
}

EthernetDevice::EthernetDevice(EthernetDevice&& other) noexcept
    : id_(std::exchange(other.id_, RTE_MAX_ETHPORTS)),
      probed_here_(other.probed_here_),
      physical_(other.physical_),
      memif_(other.memif_),
      memif_client_(other.memif_client_),
      running_(other.running_),
      rx_offloads_(other.rx_offloads_),
      tx_offloads_(other.tx_offloads_),
      mac_(other.mac_) {}

EthernetDevice::~EthernetDevice() {
  if (id_ == RTE_MAX_ETHPORTS) return;
  const EalLog quiet;
  rte_eth_dev_info info;
  const bool known = rte_eth_dev_info_get(id_, &info) == 0;
  if (running_) rte_eth_dev_stop(id_);
  rte_eth_dev_close(id_);
  if (known && probed_here_ && info.device != nullptr) rte_dev_remove(info.device);
}

Status EthernetDevice::find(const std::string& device) {
  const std::string name = device_name(device);
  if (rte_eth_dev_get_port_by_name(name.c_str(), &id_) == 0) return {};
  const EalLog said;
  const int result = rte_dev_probe(device.c_str());
  if (result < 0 || rte_eth_dev_get_port_by_name(name.c_str(), &id_) != 0) {
    id_ = RTE_MAX_ETHPORTS;
    if (is_pci_device(device)) {
      return Error{"device '" + device +
                   "': DPDK has no driver for it, or it was not in "
                   "pci_devices when the first port opened" +
                   said.quoted()};
    }
    return Error{"device '" + device + "': no such port (" + reason(result) +
                 "); write a PCI address, or a virtual device such as "
                 "net_memif0,role=client,socket=DIR/1.sock,socket-abstract=no or "
                 "net_af_packet0,iface=eth1, with arguments that its driver knows" +
                 said.quoted()};
  }
  probed_here_ = true;
  return {};
}

Status EthernetDevice::configure(const DeviceConfig& config, rte_mempool* rx_pool) {
  const auto failed = [&](const char* step, int result, const EalLog& said) {
    return step_error(config, step, result, said);
  };
  const EalLog said;
  rte_eth_dev_info info;
  if (int r = rte_eth_dev_info_get(id_, &info); r != 0)
    return failed("asking its abilities", r, said);
  const rte_bus* bus = info.device == nullptr ? nullptr : rte_dev_bus(info.device);
  memif_ = std::strcmp(info.driver_name, "net_memif") == 0;
  memif_client_ = memif_ && device_argument(config.device, "role") != "server";
  physical_ = bus != nullptr && std::strcmp(rte_bus_name(bus), "vdev") != 0;
  rx_offloads_ =
      info.rx_offload_capa & (RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
  tx_offloads_ = info.tx_offload_capa & (kTxChecksums | RTE_ETH_TX_OFFLOAD_MULTI_SEGS);
  rte_eth_conf conf{};
  conf.rxmode.offloads = rx_offloads_;
  conf.txmode.offloads = tx_offloads_;
  if (!understates_mtu(info.driver_name)) {
    if (config.mtu > info.max_mtu) {
      return Error{"device '" + config.device + "': it carries an MTU of " +
                   std::to_string(info.max_mtu) + " at most and the config says " +
                   std::to_string(config.mtu) + "; lower mtu"};
    }
    conf.rxmode.mtu = config.mtu;
  }
  if (int r = rte_eth_dev_configure(id_, 1, 1, &conf); r != 0)
    return failed("configuring it", r, said);
  auto rx_frames = static_cast<std::uint16_t>(config.rx_queue_frames);
  auto tx_frames = static_cast<std::uint16_t>(config.tx_queue_frames);
  if (int r = rte_eth_dev_adjust_nb_rx_tx_desc(id_, &rx_frames, &tx_frames); r != 0) {
    return failed("sizing its queues", r, said);
  }
  const unsigned socket = static_cast<unsigned>(std::max(rte_eth_dev_socket_id(id_), 0));
  if (int r = rte_eth_rx_queue_setup(id_, 0, rx_frames, socket, nullptr, rx_pool); r != 0) {
    return failed("setting up its receive queue", r, said);
  }
  if (int r = rte_eth_tx_queue_setup(id_, 0, tx_frames, socket, nullptr); r != 0) {
    return failed("setting up its transmit queue", r, said);
  }
  rte_ether_addr mac;
  if (int r = rte_eth_macaddr_get(id_, &mac); r != 0) return failed("reading its address", r, said);
  std::memcpy(mac_.bytes.data(), mac.addr_bytes, mac_.bytes.size());
  return {};
}

Status EthernetDevice::start(const DeviceConfig& config) {
  constexpr std::uint32_t kStepMs = 5;
  const EalLog said;
  int result = rte_eth_dev_start(id_);
  const bool patient = config.link_wait_ms > 0;
  for (std::uint32_t waited = 0; patient && (result != 0 || !link_up()); waited += kStepMs) {
    // A memif client starts only once its peer listens; for all others failing once is failing.
    if (result != 0 && !memif_client_) break;
    if (waited >= config.link_wait_ms) return link_error(config);
    const timespec step{.tv_sec = 0, .tv_nsec = kStepMs * kMillisecond};
    nanosleep(&step, nullptr);
    if (result != 0) result = rte_eth_dev_start(id_);
  }
  running_ = result == 0;
  if (running_) return {};
  return memif_client_ ? link_error(config) : step_error(config, "starting it", result, said);
}

void EthernetDevice::reconnect() {
  if (!memif_client_ || link_up()) return;
  const EalLog quiet;  // nobody listens yet, most of the time
  if (running_) rte_eth_dev_stop(id_);
  running_ = rte_eth_dev_start(id_) == 0;
}

bool EthernetDevice::link_up() const {
  rte_eth_link link;
  return rte_eth_link_get_nowait(id_, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

Status EthernetDevice::admit_multicast(std::span<const MacAddress> groups) {
  const EalLog quiet;
  std::vector<rte_ether_addr> addresses(groups.size());
  for (std::size_t i = 0; i < groups.size(); ++i) {
    std::memcpy(addresses[i].addr_bytes, groups[i].bytes.data(), groups[i].bytes.size());
  }
  int result = rte_eth_dev_set_mc_addr_list(id_, addresses.data(),
                                            static_cast<std::uint32_t>(addresses.size()));
  if (result != 0) result = rte_eth_allmulticast_enable(id_);
  if (result != 0) result = rte_eth_promiscuous_enable(id_);
  // A device without any filter (memif, ring) lets everything in.
  if (result == 0 || result == -ENOTSUP) return {};
  return Error{"its multicast filter cannot be set (" + reason(result) +
               "); use dissemination = \"fanout\" or \"ring\", which need no multicast"};
}

EthernetDevice::Drops EthernetDevice::drops() const {
  rte_eth_stats stats;
  if (rte_eth_stats_get(id_, &stats) != 0) return {};
  return {.no_buffer = stats.imissed + stats.rx_nombuf, .tx_errors = stats.oerrors};
}

}  // namespace annulus::dataplane
