// Knows from the frames alone how far each transfer of a state has come, so that a fault can wait
// for one that is midway.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>

#include "consensus/types.h"
#include "tests/sim/faults.h"

namespace annulus::sim {

class TransferWatch final : public NetworkObserver {
 public:
  /// Told of the fault, of the replica that is asked for its state, and of the end that asks.
  using Midway = std::function<void(const Fault&, consensus::NodeId asked, std::uint32_t asking)>;
  explicit TransferWatch(Midway midway) : midway_(std::move(midway)) {}

  /// Strikes once, if a transfer comes as far as `fault.amount` of a thousand parts before it ends.
  void arm(const Fault& fault) { armed_ = fault; }
  void disarm() { armed_.reset(); }

  void on_transmit(Nanos, std::uint32_t, const Endpoint&, std::span<const std::byte>,
                   std::span<const std::byte>) override {}
  void on_deliver(Nanos now, std::uint32_t receiver, std::span<const std::byte> head) override;

 private:
  struct Transfer {
    std::uint64_t image = 0;
    std::uint64_t pieces = 0;
    std::uint64_t here = 0;
  };

  Midway midway_;
  std::optional<Fault> armed_;
  std::map<std::uint32_t, Transfer> transfers_;  // by the end that asks
};

}  // namespace annulus::sim
