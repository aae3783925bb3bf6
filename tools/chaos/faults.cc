#include "tools/chaos/faults.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace annulus::chaos {
namespace {

using tools::ClusterConfig;
using tools::NodeKind;

constexpr auto kUdp = static_cast<std::uint8_t>(Medium::kUdp);
constexpr auto kMemif = static_cast<std::uint8_t>(Medium::kMemif);
constexpr auto kVeth = static_cast<std::uint8_t>(Medium::kVeth);
constexpr std::uint8_t kAll = kUdp | kMemif | kVeth;
constexpr std::uint8_t kLinks = kMemif | kVeth;

// clang-format off
constexpr FaultRow kRows[] = {
    {Fault::kKill, Victim::kAcceptor, "acceptor killed", 20, kAll, 50, 2000},
    {Fault::kKill, Victim::kReplica, "replica killed", 12, kAll, 50, 2000},
    {Fault::kKill, Victim::kProxy, "proxy killed", 6, kAll, 50, 500},
    {Fault::kStop, Victim::kAcceptor, "acceptor stopped", 16, kAll, 10, 1500},
    {Fault::kStop, Victim::kReplica, "replica stopped", 12, kAll, 10, 1500},
    {Fault::kStop, Victim::kProxy, "proxy stopped", 6, kAll, 10, 1500},
    {Fault::kLinkDown, Victim::kAcceptor, "acceptor's link down", 14, kLinks, 20, 1500},
    {Fault::kLinkDown, Victim::kReplica, "replica's link down", 10, kLinks, 20, 1500},
    {Fault::kOneWay, Victim::kAcceptor, "acceptor unheard by one", 8, kMemif, 100, 2000},
    {Fault::kNoMulticast, Victim::kAcceptor, "acceptor without multicast", 8, kVeth, 100, 2000},
    {Fault::kNoMulticast, Victim::kReplica, "replica without multicast", 8, kVeth, 100, 2000},
    {Fault::kLoss, Victim::kNetwork, "frames lost", 8, kMemif, 200, 2000},
    {Fault::kDelay, Victim::kNetwork, "frames delayed", 8, kMemif, 200, 2000},
    {Fault::kReorder, Victim::kNetwork, "frames reordered", 8, kMemif, 200, 2000},
    {Fault::kDuplicate, Victim::kNetwork, "frames duplicated", 4, kMemif, 200, 2000},
    {Fault::kDiskFull, Victim::kAcceptor, "disk full", 25, kUdp | kMemif, 300, 1500},
};
// clang-format on

NodeKind kind_of(Victim victim) {
  return victim == Victim::kAcceptor  ? NodeKind::kAcceptor
         : victim == Victim::kReplica ? NodeKind::kReplica
                                      : NodeKind::kProxy;
}

}  // namespace

std::span<const FaultRow> fault_rows() { return kRows; }

bool Plan::bearable(const Situation& situation, const FaultRow& row, std::uint32_t node) const {
  const ClusterConfig& cluster = situation.cluster;
  const NodeKind kind = cluster.nodes[node].kind;
  if (kind != kind_of(row.victim) || situation.health[node] != Health::kWhole) return false;
  if (row.fault == Fault::kDiskFull && situation.small_disk != node) return false;
  std::uint32_t out_of_order = 0;
  for (std::uint32_t i = 0; i < cluster.nodes.size(); ++i) {
    out_of_order += cluster.nodes[i].kind == kind && situation.health[i] != Health::kWhole ? 1 : 0;
  }
  const std::uint32_t all = cluster.count(kind);
  const std::uint32_t most = kind == NodeKind::kAcceptor  ? (all - 1) / 2  // f of 2f + 1
                             : kind == NodeKind::kReplica ? all - 1
                                                          : all;
  return out_of_order < most;
}

std::optional<Drawn> Plan::draw(const Situation& situation) {
  struct Choice {
    const FaultRow* row;
    std::vector<std::uint32_t> nodes;
  };
  std::vector<Choice> choices;
  std::uint64_t sum = 0;
  for (const FaultRow& row : kRows) {
    if ((row.media & static_cast<std::uint8_t>(situation.medium)) == 0) continue;
    Choice choice{&row, {}};
    if (row.victim == Victim::kNetwork) {
      if (situation.network_faulty) continue;
    } else {
      const bool of_network = row.fault == Fault::kLinkDown || row.fault == Fault::kOneWay ||
                              row.fault == Fault::kNoMulticast;
      if (of_network && situation.network_faulty) continue;
      for (std::uint32_t i = 0; i < situation.cluster.nodes.size(); ++i) {
        if (bearable(situation, row, i)) choice.nodes.push_back(i);
      }
      if (choice.nodes.empty()) continue;
    }
    sum += row.weight;
    choices.push_back(std::move(choice));
  }
  if (choices.empty()) return std::nullopt;
  std::uint64_t at = random_.below(sum);
  auto chosen = choices.begin();
  while (at >= chosen->row->weight) at -= (chosen++)->row->weight;
  Drawn drawn{.row = chosen->row};
  if (!chosen->nodes.empty()) drawn.node = chosen->nodes[random_.below(chosen->nodes.size())];
  const auto others = situation.cluster.nodes.size() - 1;
  drawn.other = (drawn.node + 1 + static_cast<std::uint32_t>(random_.below(others))) %
                static_cast<std::uint32_t>(others + 1);
  // Short ones are as likely as long ones, by orders of magnitude.
  const double least_ms = drawn.row->lasts_least_ms;
  const double ratio = drawn.row->lasts_most_ms / least_ms;
  drawn.lasts = static_cast<Nanos>(kMillisecond * least_ms * std::pow(ratio, random_.unit()));
  drawn.strength = random_.unit();
  return drawn;
}

Nanos Plan::pause() {
  return 100 * kMillisecond + static_cast<Nanos>(-std::log1p(-random_.unit()) * 700e6);
}

std::string describe(const Drawn& drawn, const ClusterConfig& cluster) {
  char text[160];
  const bool all = drawn.row->victim == Victim::kNetwork;
  std::snprintf(text, sizeof text, "%s: %s%s%s, %.0f ms", drawn.row->name,
                all ? "all links" : cluster.nodes[drawn.node].name.c_str(),
                drawn.row->fault == Fault::kOneWay ? " to " : "",
                drawn.row->fault == Fault::kOneWay ? cluster.nodes[drawn.other].name.c_str() : "",
                static_cast<double>(drawn.lasts) / 1e6);
  return text;
}

}  // namespace annulus::chaos
