// What the faults that are active make of each link.
#include <algorithm>

#include "tests/sim/faults.h"

namespace annulus::sim {
namespace {

void worsen(LinkQuality& link, const Fault& fault) {
  switch (fault.kind) {
    case FaultKind::kLoss:
    case FaultKind::kNodeLoss:
    case FaultKind::kSendLoss:
      link.loss_ppm = std::max(link.loss_ppm, fault.amount);
      return;
    case FaultKind::kMulticastLoss:
      link.multicast_loss_ppm = std::max(link.multicast_loss_ppm, fault.amount);
      return;
    case FaultKind::kDuplicate:
      link.duplicate_ppm = std::max(link.duplicate_ppm, fault.amount);
      return;
    case FaultKind::kReorder:
      link.reorder_ppm = std::max(link.reorder_ppm, fault.amount);
      return;
    case FaultKind::kSlowLink:
    case FaultKind::kSlowNode:
      link.slow = std::max(link.slow, fault.amount);
      return;
    case FaultKind::kBitFlips:
      link.flip_ppm = std::max(link.flip_ppm, fault.amount);
      return;
    case FaultKind::kLinkFull:
      link.frames_max = std::min(link.frames_max, fault.amount);
      return;
    case FaultKind::kPartition:
      link.cut |= fault.amount >= kAllFrames;
      link.loss_ppm = std::max(link.loss_ppm, fault.amount);
      return;
    case FaultKind::kStall:
    case FaultKind::kPause:
    case FaultKind::kClockJump:
    case FaultKind::kCrash:
    case FaultKind::kRejoin:
    case FaultKind::kElection:
    case FaultKind::kRestart:
    case FaultKind::kPowerCut:
    case FaultKind::kDiskDamage:
    case FaultKind::kDiskFailure:
    case FaultKind::kSourceLost:
    case FaultKind::kAddAcceptor:
    case FaultKind::kRemoveAcceptor:
    case FaultKind::kRemoveReplica:
    case FaultKind::kCount:
      return;
  }
}

}  // namespace

void apply_faults(SimNetwork& network, std::span<const LinkQuality> base,
                  std::span<const Fault> faults, Nanos now) {
  const std::uint32_t ends = network.ends();
  for (std::uint32_t from = 0; from < ends; ++from) {
    for (std::uint32_t to = 0; to < ends; ++to) network.link(from, to) = base[from * ends + to];
  }
  for (const Fault& fault : faults) {
    if (fault.start > now || fault.end <= now) continue;
    switch (fault.kind) {
      case FaultKind::kSlowNode:
        for (std::uint32_t other = 0; other < ends; ++other) {
          worsen(network.link(fault.a, other), fault);
          worsen(network.link(other, fault.a), fault);
        }
        break;
      case FaultKind::kSendLoss:
        for (std::uint32_t other = 0; other < ends; ++other) {
          worsen(network.link(fault.a, other), fault);
        }
        break;
      case FaultKind::kNodeLoss:
      case FaultKind::kMulticastLoss:
        for (std::uint32_t other = 0; other < ends; ++other) {
          worsen(network.link(other, fault.a), fault);
        }
        break;
      case FaultKind::kPartition:
        for (std::uint32_t from = 0; from < ends; ++from) {
          for (std::uint32_t to = 0; to < ends; ++to) {
            const bool hit = (fault.from >> from & fault.to >> to & 1) != 0;
            if (hit && from != to) worsen(network.link(from, to), fault);
          }
        }
        break;
      default:
        worsen(network.link(fault.a, fault.b), fault);
    }
  }
}

}  // namespace annulus::sim
