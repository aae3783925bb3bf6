// What the machine must offer before DPDK can use it, checked beforehand because DPDK's own
// messages do not say how to mend it. Knows no DPDK.
#pragma once

#include <cstdint>
#include <string>

#include "dataplane/result.h"

namespace annulus::dataplane {

/// Whether the device string names a PCI device rather than a virtual one.
bool is_pci_device(const std::string& device);

/// "net_memif0" of "net_memif0,role=client".
std::string device_name(const std::string& device);

/// The value of one argument of a device string; empty when it has none.
std::string device_argument(const std::string& device, const std::string& key);

/// Adds what a memif device string may leave out: that its socket is a file rather than an abstract
/// name, a hardware address of its own, the same at every start, and buffers that hold a frame of
/// `mtu` each.
std::string complete_device(const std::string& device, std::uint32_t own_address,
                            std::uint32_t mtu);

/// Refuses a PCI device that is not there or belongs to a kernel driver. `sys` is /sys.
Status check_pci_device(const std::string& sys, const std::string& device);

/// Refuses when less than `mib` of hugepages is free. `sys` is /sys.
Status check_hugepages(const std::string& sys, std::uint64_t mib);

/// Refuses a kernel network interface (of af_packet and af_xdp) that is not there, is down, or
/// carries less than `mtu`.
Status check_interface(const std::string& interface, std::uint32_t mtu);

/// Refuses device arguments that cannot carry `mtu`; DPDK would drop the long frames silently.
Status check_frame_room(const std::string& device, std::uint32_t mtu);

}  // namespace annulus::dataplane
