// The poll-mode transport as the rest of Annulus sees it: config, memory plan, factory. Includes no
// DPDK header, and is there (refusing to open anything) in a build without DPDK.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/counters.h"
#include "dataplane/result.h"
#include "dataplane/transport.h"

namespace annulus::dataplane {

/// DPDK's environment layer; one a process, started by the first port that opens.
struct EalConfig {
  /// Physical ports need hugepages, virtual devices do not. Without them everything runs
  /// unprivileged.
  bool hugepages = false;
  /// Shares no files with other processes, so that any number of nodes runs on a machine. Turned
  /// off, other DPDK programs (dumpcap, proc-info) may attach, and `file_prefix` must be unique.
  bool in_memory = true;
  /// Names the runtime directory, and with it the telemetry socket.
  std::string file_prefix = "annulus";
  /// MiB for all ports of the process; 0 takes what plan_dpdk_memory() says for the first port.
  std::uint32_t memory_mib = 0;
  /// PCI devices to probe besides that of the first port. All others are left alone.
  std::vector<std::string> pci_devices;
  /// Further arguments, passed on as they are: "--log-level=lib.eal:debug".
  std::vector<std::string> arguments;
};

/// One port and who we are on it.
struct DpdkConfig {
  EalConfig eal;
  /// A PCI address ("0000:01:00.0"), or a virtual device with its arguments:
  ///   net_memif0,role=client,id=0,socket=/DIR/1.sock
  ///   net_af_packet0,iface=eth1          (MTU 9000: blocksz=16384,framesz=16384,framecnt=256)
  ///   net_af_xdp0,iface=eth1
  std::string device;
  /// Our address on the port's segment, and the UDP port of the transport. All peers are on the
  /// same segment, or a router there answers ARP for them.
  Endpoint endpoint;
  /// What an IPv4 packet may hold, kMtuMin .. 9000 on networks, up to kMtuMax on memif.
  std::uint32_t mtu = 1500;
  /// Frames that the device queues may hold; rounded to what the device offers.
  std::uint32_t rx_queue_frames = 1024;
  std::uint32_t tx_queue_frames = 1024;
  /// Received frames that the node may hold at once: windows, assembly, queues to its workers.
  /// When they are used up the device drops (rx_drop_no_buffer).
  std::uint32_t rx_frames_held = 4096;
  /// Threads that release frames; each keeps a cache of free ones.
  std::uint32_t threads = 4;
  /// How long to wait for the link at start before that is an error; 0 starts without one.
  std::uint32_t link_wait_ms = 5000;
};

/// What a port allocates, once, as a sum with a reason a term.
struct MemoryPlan {
  struct Term {
    std::string reason;
    std::uint64_t count = 0;
    std::uint64_t bytes_each = 0;
  };
  std::vector<Term> terms;
  std::uint64_t bytes() const;
  std::string to_string() const;
};
MemoryPlan plan_dpdk_memory(const DpdkConfig& config);

/// Starts DPDK if need be, opens and starts the port. The error says what, where, how to mend it.
/// The transport must outlive every slice it hands out, or be destroyed after all threads that
/// hold any have stopped.
Result<std::unique_ptr<Transport>> open_dpdk_transport(const DpdkConfig& config);

/// For threads other than the transport's that drop received frames (workers): lets them keep a
/// cache of free frames. Without it they still may, only slower. Undone when the thread ends.
void register_dpdk_thread();

/// Serves the registry on DPDK's telemetry socket: /annulus/counters lists "node/stage" names,
/// /annulus/counters,NODE/STAGE gives one group, likewise /annulus/latency. After the first port
/// has opened. The registry must live as long as the process.
Status serve_registry_on_telemetry(const Registry& registry);

}  // namespace annulus::dataplane
