#include "dataplane/dpdk/host_checks.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>

namespace annulus::dataplane {
namespace {

constexpr std::uint32_t kAfXdpMtuMax = 3000;  // a frame and its mbuf must fit one page
constexpr std::uint32_t kAfPacketFrameDefault = 2048;
/// What af_packet's ring puts in front of a frame: TPACKET2_HDRLEN, aligned, and a VLAN tag.
constexpr std::uint32_t kAfPacketOverhead = 96;
constexpr std::uint32_t kEthernetBytes = 14;
constexpr std::uint32_t kFramingBytes = kEthernetBytes + 4;
constexpr std::uint32_t kMemifBufferDefault = 2048;

std::uint64_t number_in(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::uint64_t number = 0;
  in >> number;
  return number;
}

/// A frame could span several buffers, but the driver of DPDK 22.11 then writes past the free ones
/// when the ring is nearly full, and its peer receives old frames again.
Status check_memif_buffers(const std::string& device, std::uint32_t mtu) {
  const std::string given = device_argument(device, "bsize");
  const bool server = device_argument(device, "role") == "server";  // its client sets the size
  const std::uint64_t buffer =
      given.empty() ? kMemifBufferDefault : std::strtoull(given.c_str(), nullptr, 10);
  if (server || buffer >= mtu + kFramingBytes) return {};
  return Error{"device '" + device + "': buffers of " + std::to_string(buffer) +
               " bytes cannot carry an MTU of " + std::to_string(mtu) +
               "; leave bsize out, or raise it to " + std::to_string(mtu + kFramingBytes)};
}

}  // namespace

bool is_pci_device(const std::string& device) {
  static const std::regex kAddress("([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\\.[0-7](,.*)?");
  return std::regex_match(device, kAddress);
}

std::string device_name(const std::string& device) { return device.substr(0, device.find(',')); }

std::string device_argument(const std::string& device, const std::string& key) {
  const std::size_t at = device.find("," + key + "=");
  if (at == std::string::npos) return {};
  const std::size_t begin = at + key.size() + 2;
  return device.substr(begin, device.find(',', begin) - begin);
}

std::string complete_device(const std::string& device, std::uint32_t own_address,
                            std::uint32_t mtu) {
  if (!device_name(device).starts_with("net_memif")) return device;
  std::string complete = device;
  if (device_argument(device, "socket").starts_with('/') &&
      device_argument(device, "socket-abstract").empty()) {
    complete += ",socket-abstract=no";
  }
  if (device_argument(device, "mac").empty()) {
    char mac[32];
    std::snprintf(mac, sizeof mac, ",mac=02:00:%02x:%02x:%02x:%02x", own_address >> 24,
                  own_address >> 16 & 0xff, own_address >> 8 & 0xff, own_address & 0xff);
    complete += mac;
  }
  if (device_argument(device, "bsize").empty() && mtu + kFramingBytes > kMemifBufferDefault) {
    complete += ",bsize=" + std::to_string((mtu + kFramingBytes + 63) / 64 * 64);
    // 1024 buffers a ring, the default, would be 128 MiB of the longest frames.
    if (device_argument(device, "rsize").empty() && mtu > 16'384) complete += ",rsize=8";
  }
  return complete;
}

Status check_pci_device(const std::string& sys, const std::string& device) {
  namespace fs = std::filesystem;
  std::string address = device_name(device);
  if (std::count(address.begin(), address.end(), ':') == 1) address = "0000:" + address;
  const fs::path entry = fs::path(sys) / "bus/pci/devices" / address;
  std::error_code failure;
  if (!fs::exists(entry, failure)) {
    return Error{"device '" + device + "': this machine has no such PCI device; " +
                 "'dpdk-devbind.py --status-dev net' lists the network ports it has"};
  }
  const fs::path link = fs::read_symlink(entry / "driver", failure);
  const std::string driver = failure ? "" : link.filename().string();
  // These let DPDK and the kernel share the port; all others must be bound to a user-space driver.
  for (const char* usable : {"vfio-pci", "uio_pci_generic", "igb_uio", "mlx4_core", "mlx5_core"}) {
    if (driver == usable) return {};
  }
  return Error{"device '" + device + "': it is bound to " +
               (driver.empty() ? "no driver" : "the kernel's driver '" + driver + "'") +
               ", and DPDK needs vfio-pci; 'modprobe vfio-pci && dpdk-devbind.py --bind=vfio-pci " +
               address + "' takes it away from the kernel"};
}

Status check_hugepages(const std::string& sys, std::uint64_t mib) {
  namespace fs = std::filesystem;
  std::uint64_t free_kib = 0;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(fs::path(sys) / "kernel/mm/hugepages", failure)) {
    // "hugepages-2048kB"
    const std::string name = entry.path().filename().string();
    const std::uint64_t page_kib = std::strtoull(name.c_str() + name.find('-') + 1, nullptr, 10);
    free_kib += page_kib * number_in(entry.path() / "free_hugepages");
  }
  if (free_kib / 1024 >= mib) return {};
  return Error{"hugepages: " + std::to_string(free_kib / 1024) + " MiB are free and " +
               std::to_string(mib) +
               " MiB are needed; 'sysctl -w vm.nr_hugepages=" + std::to_string((mib + 1) / 2) +
               "' reserves them in pages of 2 MiB, or set hugepages = false, which virtual devices "
               "do without"};
}

Status check_interface(const std::string& interface, std::uint32_t mtu) {
  ifreq request{};
  if (interface.empty() || interface.size() >= sizeof request.ifr_name) {
    return Error{"interface '" + interface +
                 "': not a name; write iface=NAME among the device's arguments, with a name that "
                 "'ip link' lists"};
  }
  std::memcpy(request.ifr_name, interface.c_str(), interface.size() + 1);
  const int descriptor = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return Error{std::string("socket: ") + std::strerror(errno)};
  const bool present = ioctl(descriptor, SIOCGIFFLAGS, &request) == 0;
  const bool up = (request.ifr_flags & IFF_UP) != 0;
  const bool measured = present && ioctl(descriptor, SIOCGIFMTU, &request) == 0;
  close(descriptor);
  if (!present) {
    return Error{"interface '" + interface +
                 "': there is none of that name here; 'ip link' lists those of this network "
                 "namespace"};
  }
  if (!up) {
    return Error{"interface '" + interface + "': it is down; 'ip link set " + interface +
                 " up' brings it up"};
  }
  if (measured && request.ifr_mtu < static_cast<int>(mtu)) {
    return Error{"interface '" + interface + "': its MTU is " + std::to_string(request.ifr_mtu) +
                 " and the config says " + std::to_string(mtu) + "; 'ip link set " + interface +
                 " mtu " + std::to_string(mtu) + "' raises it (on the other end, too)"};
  }
  return {};
}

Status check_frame_room(const std::string& device, std::uint32_t mtu) {
  const std::string name = device_name(device);
  if (name.starts_with("net_af_xdp") && mtu > kAfXdpMtuMax) {
    return Error{"device '" + device + "': af_xdp carries an MTU of " +
                 std::to_string(kAfXdpMtuMax) + " at most and the config says " +
                 std::to_string(mtu) + "; lower mtu, or use net_af_packet"};
  }
  if (name.starts_with("net_memif")) return check_memif_buffers(device, mtu);
  if (!name.starts_with("net_af_packet")) return {};
  const std::string given = device_argument(device, "framesz");
  const std::uint64_t frame =
      given.empty() ? kAfPacketFrameDefault : std::strtoull(given.c_str(), nullptr, 10);
  if (frame >= mtu + kEthernetBytes + kAfPacketOverhead) return {};
  return Error{"device '" + device + "': frames of " + std::to_string(frame) +
               " bytes cannot carry an MTU of " + std::to_string(mtu) +
               "; add blocksz=16384,framesz=16384,framecnt=256 to its arguments"};
}

}  // namespace annulus::dataplane
