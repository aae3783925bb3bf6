// The switch behind `annulus hub`: joins memif ports of processes on one machine, forwards by
// hardware address, floods multicast by reference count, and does to frames what bad networks do.
// Includes no DPDK header; in a build without DPDK open() refuses.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dataplane/counters.h"
#include "dataplane/dpdk/dpdk.h"
#include "dataplane/result.h"
#include "dataplane/stage.h"

namespace annulus::dataplane {

/// What happens to frames from one port to another. Probabilities are 0 .. 1, drawn for every
/// receiver of a multicast apart.
struct LinkFaults {
  double loss = 0;
  double duplicate = 0;
  double reorder = 0;  // held back by `reorder_by`, so that later frames overtake
  Nanos reorder_by = 0;
  Nanos delay_min = 0;  // every frame waits, uniformly between the two
  Nanos delay_max = 0;
  bool cut = false;  // nothing passes
};

struct SwitchConfig {
  EalConfig eal;
  /// Holds a socket a port, 1.sock, 2.sock and so on (switch_socket()).
  std::string directory;
  std::uint32_t ports = 0;
  std::uint32_t mtu = 9000;
  std::uint64_t seed = 1;  // of what faults draw
  /// Frames that `delay` and `reorder` may hold back at once; beyond that they are dropped.
  std::uint32_t delayed_frames_max = 4096;
};

constexpr std::uint32_t kSwitchPortsMax = 64;

/// What one port of the switch counts. Drops and faults are counted at the receiving port.
enum class SwitchCounter : std::uint8_t {
  kRxFrames,
  kRxBytes,
  kTxFrames,
  kTxBytes,
  kRxFlooded,   // multicast, broadcast, or a station that has not spoken yet
  kRxDropBad,   // shorter than an Ethernet header
  kTxDropFull,  // its process polls too slowly, or is not there
  kFaultLost,
  kFaultCut,
  kFaultDuplicated,
  kFaultDelayed,
  kTxDropDelayFull,  // more held back than delayed_frames_max
  kCount,
};

/// The socket of a port, counted from 1, and the device string of the process that connects to it.
std::string switch_socket(const std::string& directory, std::uint32_t port);
std::string switch_client_device(const std::string& directory, std::uint32_t port);

class SoftwareSwitch : public Stage {
 public:
  /// Starts DPDK if need be and serves all ports. Sockets that a killed switch left are replaced;
  /// those that another switch serves are not.
  static Result<std::unique_ptr<SoftwareSwitch>> open(const SwitchConfig& config);

  const char* name() const override { return "switch"; }
  virtual std::uint32_t ports() const = 0;
  /// Ports count from 1. Takes effect for frames that arrive from now on.
  virtual LinkFaults& faults(std::uint32_t from, std::uint32_t to) = 0;
  virtual const Counters<SwitchCounter>& port_counters(std::uint32_t port) const = 0;
};

}  // namespace annulus::dataplane
