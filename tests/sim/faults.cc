#include "tests/sim/faults.h"

#include <algorithm>

namespace annulus::sim {

const char* to_string(FaultKind kind) {
  static constexpr const char* kNames[] = {
      "loss",      "node_loss", "send_loss", "multicast_loss", "duplicate", "reorder", "slow_link",
      "slow_node", "bit_flips", "link_full", "cut_one_way",    "stall",     "election"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(FaultKind::kCount));
  return kNames[static_cast<std::size_t>(kind)];
}

namespace {

/// Weights of the kinds, in their order.
constexpr std::uint32_t kWeights[] = {10, 6, 6, 10, 6, 8, 8, 6, 6, 6, 6, 18, 8};
static_assert(std::size(kWeights) == static_cast<std::size_t>(FaultKind::kCount));

FaultKind draw_kind(Rng& rng) {
  std::uint32_t total = 0;
  for (const std::uint32_t weight : kWeights) total += weight;
  auto pick = static_cast<std::uint32_t>(rng.below(total));
  for (std::uint32_t kind = 0;; ++kind) {
    if (pick < kWeights[kind]) return static_cast<FaultKind>(kind);
    pick -= kWeights[kind];
  }
}

/// Short faults are common; one in eight lasts long enough for every timer to expire.
Nanos draw_duration(Rng& rng) {
  const Nanos longest = rng.chance(125'000) ? 60 * kMillisecond : 6 * kMillisecond;
  return rng.between(50 * kMicrosecond, longest);
}

std::uint32_t draw_amount(Rng& rng, FaultKind kind) {
  switch (kind) {
    case FaultKind::kSlowLink:
    case FaultKind::kSlowNode:
      return static_cast<std::uint32_t>(rng.between(5, 100));
    case FaultKind::kLinkFull:
      return static_cast<std::uint32_t>(rng.between(1, 8));
    case FaultKind::kBitFlips:
      return static_cast<std::uint32_t>(rng.between(20'000, 300'000));
    case FaultKind::kSendLoss:
    case FaultKind::kMulticastLoss:
      return static_cast<std::uint32_t>(rng.between(100'000, 1'000'000));
    default:
      return static_cast<std::uint32_t>(rng.between(20'000, 400'000));
  }
}

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
    case FaultKind::kCutOneWay:
      link.cut = true;
      return;
    case FaultKind::kStall:
    case FaultKind::kElection:
    case FaultKind::kCount:
      return;
  }
}

}  // namespace

std::vector<Fault> plan_faults(Rng& rng, const FaultOptions& options) {
  std::vector<Fault> plan;
  Nanos at = 0;
  std::uint32_t coordinator = 0;  // the acceptor that started Phase 1 last
  for (std::uint32_t i = 0; i < options.count; ++i) {
    at += rng.between(10 * kMicrosecond, options.gap_max);
    Fault fault;
    fault.kind = draw_kind(rng);
    fault.start = at;
    fault.end = at + draw_duration(rng);
    // Links between nodes matter most; a quarter of the faults hits clients too.
    const std::uint32_t ends = rng.chance(250'000) ? options.ends : options.node_ends;
    fault.a = static_cast<std::uint32_t>(rng.below(ends));
    fault.b = static_cast<std::uint32_t>((fault.a + 1 + rng.below(ends - 1)) % ends);
    fault.amount = draw_amount(rng, fault.kind);
    if (fault.kind == FaultKind::kStall) {
      fault.a = static_cast<std::uint32_t>(rng.below(options.stages));
    } else if (fault.kind == FaultKind::kElection) {
      fault.a = static_cast<std::uint32_t>(rng.below(options.acceptors));
      fault.end = fault.start;
      // Half of the coordinators are deposed while their proposals reach nobody: that makes holes.
      if (rng.coin()) {
        Fault silent{FaultKind::kSendLoss, fault.start, fault.start, coordinator, 0, 700'000};
        silent.end += rng.between(100, 1'500) * kMicrosecond;
        plan.push_back(silent);
        at = fault.start = fault.end = silent.end;
        ++i;
      }
      coordinator = fault.a;
    }
    plan.push_back(fault);
  }
  return plan;
}

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
      default:
        worsen(network.link(fault.a, fault.b), fault);
    }
  }
}

}  // namespace annulus::sim
