#include "tests/sim/faults.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

namespace annulus::sim {

const char* to_string(FaultKind kind) {
  static constexpr const char* kNames[] = {
      "loss",         "node_loss",   "send_loss",    "multicast_loss",  "duplicate",
      "reorder",      "slow_link",   "slow_node",    "bit_flips",       "link_full",
      "partition",    "stall",       "pause",        "clock_jump",      "crash",
      "rejoin",       "election",    "restart",      "power_cut",       "disk_damage",
      "disk_failure", "source_lost", "add_acceptor", "remove_acceptor", "remove_replica"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(FaultKind::kCount));
  return kNames[static_cast<std::size_t>(kind)];
}

namespace {

FaultKind draw_kind(Rng& rng, const FaultWeights& weights) {
  const std::uint32_t total = std::accumulate(weights.begin(), weights.end(), 0u);
  auto pick = static_cast<std::uint32_t>(rng.below(total));
  for (std::uint32_t kind = 0;; ++kind) {
    if (pick < weights[kind]) return static_cast<FaultKind>(kind);
    pick -= weights[kind];
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
      return static_cast<std::uint32_t>(rng.between(5, rng.chance(100'000) ? 1'000 : 100));
    case FaultKind::kClockJump:
      return static_cast<std::uint32_t>(rng.between(100, rng.coin() ? 5'000 : 3'000'000));
    case FaultKind::kCrash:
      return static_cast<std::uint32_t>(rng.below(20));
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

/// Faults in the order in which they were thought of, and what is remembered between them.
struct Plan {
  Rng& rng;
  const FaultOptions& options;
  std::vector<Fault> faults;
  Nanos at = 0;
  std::uint32_t coordinator = 0;  // the acceptor that started Phase 1 last
  std::uint64_t crashed = 0;      // nodes, one bit each

  EndSet all_nodes() const { return (EndSet{1} << options.node_ends) - 1; }
  EndSet all_acceptors() const { return (EndSet{1} << options.acceptors) - 1; }
  std::uint32_t other_acceptor() {
    return (coordinator + 1 + static_cast<std::uint32_t>(rng.below(options.acceptors - 1))) %
           options.acceptors;
  }
  Nanos micros(std::int64_t first, std::int64_t last) {
    return rng.between(first, last) * kMicrosecond;
  }
  void elect(std::uint32_t acceptor) {
    faults.push_back({.kind = FaultKind::kElection, .start = at, .end = at, .a = acceptor});
    coordinator = acceptor;
  }
  void add(FaultKind kind, Nanos start, std::uint32_t node, std::uint32_t amount = 0) {
    faults.push_back({.kind = kind, .start = start, .end = start, .a = node, .amount = amount});
  }
  void cut(Nanos start, Nanos end, EndSet from, EndSet to, std::uint32_t amount) {
    faults.push_back({.kind = FaultKind::kPartition,
                      .start = start,
                      .end = end,
                      .amount = amount,
                      .from = from,
                      .to = to});
  }
};

/// A coordinator whose proposals reach nobody, or few, is deposed without learning what the next
/// one decides; then it, or one that learns of its proposals, takes over. What it proposed in vain
/// makes holes, competing values at one instance, and values of which there are only parts.
void plan_usurpation(Plan& plan) {
  const std::uint32_t deposed = plan.coordinator;
  const std::uint32_t next = plan.other_acceptor();
  const EndSet self = EndSet{1} << deposed;
  EndSet others = plan.all_nodes() & ~self;
  // Often exactly one acceptor hears it, at times the one that will take over.
  if (plan.rng.coin()) others &= ~(EndSet{1} << plan.other_acceptor());
  const std::uint32_t amount =
      plan.rng.coin() ? kAllFrames : static_cast<std::uint32_t>(plan.rng.between(300'000, 950'000));
  const Nanos begin = plan.at;
  plan.at += plan.micros(50, 800);
  plan.elect(next);
  const Nanos deaf = plan.at + plan.micros(5, 150);
  plan.at = deaf + plan.micros(300, 4'000);
  plan.cut(begin, plan.at, self, others, amount);
  plan.cut(deaf, plan.at, plan.all_acceptors() & ~self, self, kAllFrames);
  plan.at += plan.micros(0, 50);
  plan.elect(plan.rng.coin() ? deposed
                             : static_cast<std::uint32_t>(plan.rng.below(plan.options.acceptors)));
}

/// Coordinators change: of their own accord, while one is unheard, or twice in short succession.
void plan_election(Plan& plan) {
  switch (plan.rng.below(5)) {
    case 0:
      plan.elect(static_cast<std::uint32_t>(plan.rng.below(plan.options.acceptors)));
      return;
    case 1: {
      const std::uint32_t deposed = plan.coordinator;
      const Nanos end = plan.at + plan.micros(100, 1'500);
      plan.cut(plan.at, end, EndSet{1} << deposed, ~EndSet{}, 700'000);
      plan.at = end;
      plan.elect(static_cast<std::uint32_t>(plan.rng.below(plan.options.acceptors)));
      return;
    }
    case 2: {
      const std::uint32_t before = plan.coordinator;
      plan.elect(plan.other_acceptor());
      plan.at += plan.micros(10, 500);
      plan.elect(plan.rng.coin() ? before : plan.other_acceptor());
      return;
    }
    default:
      plan_usurpation(plan);
  }
}

/// A node comes back, mostly soon; at times the coordinator has changed meanwhile, or changes to
/// it.
void plan_return(Plan& plan, std::uint32_t node) {
  const Nanos again = plan.at + plan.micros(1, plan.rng.coin() ? 500 : 40'000);
  plan.add(FaultKind::kRestart, again, node);
  if (node >= plan.options.acceptors || plan.rng.coin()) return;
  plan.at = again + plan.micros(0, 2'000);
  plan.elect(plan.rng.coin() ? node : plan.other_acceptor());
}

/// A node dies, if the cluster can live without it: at most f acceptors, and neither the last
/// replica nor the last client. An acceptor may come back: without its memory, or with its disk.
void plan_crash(Plan& plan) {
  const FaultOptions& options = plan.options;
  const auto node = static_cast<std::uint32_t>(plan.rng.below(options.nodes - 1));
  const bool acceptor = node < options.acceptors;
  const auto acceptors_gone =
      static_cast<std::uint32_t>(std::popcount(plan.crashed & plan.all_acceptors()));
  if ((plan.crashed >> node & 1) != 0 || node + 1 == options.acceptors + options.replicas ||
      (acceptor && acceptors_gone == (options.acceptors - 1) / 2)) {
    return;
  }
  plan.crashed |= std::uint64_t{1} << node;
  plan.faults.push_back({.kind = FaultKind::kCrash,
                         .start = plan.at,
                         .end = plan.at,
                         .a = node,
                         .amount = draw_amount(plan.rng, FaultKind::kCrash)});
  if (acceptor && options.durable) {
    plan.crashed &= ~(std::uint64_t{1} << node);
    return plan_return(plan, node);
  }
  if (!acceptor || plan.rng.coin()) return;
  const Nanos again = plan.at + plan.micros(100, 50'000);
  plan.faults.push_back({.kind = FaultKind::kRejoin, .start = again, .end = again, .a = node});
}

/// An acceptor crashes, and is started again soon with nothing; of those with disks always the same
/// one.
void plan_rejoin(Plan& plan) {
  auto acceptor = static_cast<std::uint32_t>(plan.rng.below(plan.options.acceptors));
  if (plan.options.durable) acceptor = plan.options.damaged;
  if ((plan.crashed >> acceptor & 1) != 0) return;
  plan.add(FaultKind::kCrash, plan.at, acceptor, draw_amount(plan.rng, FaultKind::kCrash));
  plan.add(FaultKind::kRejoin, plan.at + plan.micros(100, plan.rng.coin() ? 2'000 : 40'000),
           acceptor);
  if (plan.rng.coin()) plan.elect(plan.other_acceptor());
}

/// A node that has its state from disk crashes in any turn, and comes back.
void plan_restart(Plan& plan) {
  const FaultOptions& options = plan.options;
  auto node = static_cast<std::uint32_t>(plan.rng.below(options.acceptors));
  if (plan.rng.chance(200'000)) {
    node = options.acceptors + static_cast<std::uint32_t>(plan.rng.below(options.replicas));
  }
  plan.add(FaultKind::kCrash, plan.at, node, draw_amount(plan.rng, FaultKind::kCrash));
  plan_return(plan, node);
}

/// Noticed when the log is read back, or when a value is wanted from it.
void plan_damage(Plan& plan) {
  const std::uint32_t acceptor = plan.options.damaged;
  plan.add(FaultKind::kDiskDamage, plan.at, acceptor, static_cast<std::uint32_t>(plan.rng.next()));
  if (plan.rng.chance(300'000)) return;
  plan.add(FaultKind::kCrash, plan.at, acceptor, draw_amount(plan.rng, FaultKind::kCrash));
  plan_return(plan, acceptor);
}

/// Everything loses power at once, and comes back one by one; then somebody is to coordinate.
void plan_power_cut(Plan& plan) {
  const FaultOptions& options = plan.options;
  plan.add(FaultKind::kPowerCut, plan.at, 0, draw_amount(plan.rng, FaultKind::kCrash));
  Nanos last = plan.at;
  for (std::uint32_t node = 0; node < options.acceptors + options.replicas; ++node) {
    const Nanos again = plan.at + plan.micros(1, 10'000);
    plan.add(FaultKind::kRestart, again, node);
    if (node < options.acceptors) last = std::max(last, again);
  }
  plan.at = last + plan.micros(0, 1'000);
  // What was being decided is now below the durable end of a log that is damaged.
  if (plan.rng.coin()) {
    plan_damage(plan);
    plan.at += plan.micros(0, 100);
  }
  plan.elect(static_cast<std::uint32_t>(plan.rng.below(options.acceptors)));
}

void plan_disk_fault(Plan& plan, FaultKind kind) {
  Rng& rng = plan.rng;
  if (kind == FaultKind::kRestart) return plan_restart(plan);
  if (kind == FaultKind::kPowerCut) return plan_power_cut(plan);
  if (kind == FaultKind::kDiskDamage) return plan_damage(plan);
  const auto acceptor = static_cast<std::uint32_t>(rng.below(plan.options.acceptors));
  plan.add(kind, plan.at, acceptor, static_cast<std::uint32_t>(rng.below(4)));
  plan_return(plan, acceptor);
}

/// One link in one direction, or sets of nodes, in one direction or both; what is in neither set
/// still reaches everybody.
void plan_partition(Plan& plan, const Fault& like) {
  Fault cut = like;
  cut.amount = kAllFrames;
  cut.from = EndSet{1} << cut.a;
  cut.to = EndSet{1} << cut.b;
  if (plan.rng.coin()) {
    cut.from = static_cast<EndSet>(plan.rng.next()) & plan.all_nodes();
    cut.to = plan.all_nodes() & ~cut.from;
    if (plan.rng.coin()) cut.to &= static_cast<EndSet>(plan.rng.next());
  }
  plan.faults.push_back(cut);
  if (plan.rng.coin()) return;
  std::swap(cut.from, cut.to);
  plan.faults.push_back(cut);
}

void plan_one(Plan& plan) {
  const FaultOptions& options = plan.options;
  Rng& rng = plan.rng;
  Fault fault;
  fault.kind = draw_kind(rng, options.weights);
  if (fault.kind == FaultKind::kElection) return plan_election(plan);
  if (static_cast<std::size_t>(fault.kind) >= kFirstDiskFault) {
    return plan_disk_fault(plan, fault.kind);
  }
  if (fault.kind == FaultKind::kRejoin) return plan_rejoin(plan);
  if (fault.kind == FaultKind::kCrash) return plan_crash(plan);
  fault.start = plan.at;
  fault.end = plan.at + draw_duration(rng);
  // Links between nodes matter most; a quarter of the faults hits clients too.
  const std::uint32_t ends = rng.chance(250'000) ? options.ends : options.node_ends;
  fault.a = static_cast<std::uint32_t>(rng.below(ends));
  fault.b = static_cast<std::uint32_t>((fault.a + 1 + rng.below(ends - 1)) % ends);
  fault.amount = draw_amount(rng, fault.kind);
  if (fault.kind == FaultKind::kStall) {
    fault.a = static_cast<std::uint32_t>(rng.below(options.stages));
  } else if (fault.kind == FaultKind::kPause) {
    fault.a = static_cast<std::uint32_t>(rng.below(options.nodes));
  } else if (fault.kind == FaultKind::kClockJump) {
    // Clients' clocks are the world's: by them the history is judged.
    fault.a = static_cast<std::uint32_t>(rng.below(options.acceptors + options.replicas));
    fault.end = fault.start;
  } else if (fault.kind == FaultKind::kPartition) {
    return plan_partition(plan, fault);
  }
  plan.faults.push_back(fault);
}

/// What executes at one replica stands still until the others have filled the acceptors' memory.
void plan_slow_replica(Plan& plan) {
  const FaultOptions& options = plan.options;
  const auto replica = static_cast<std::uint32_t>(plan.rng.below(options.replicas));
  const Nanos start = plan.micros(1'000, 40'000);
  plan.faults.push_back({.kind = FaultKind::kStall,
                         .start = start,
                         .end = start + plan.micros(100'000, 400'000),
                         .a = options.executing_stages[replica]});
}

/// Replicas lose their memory and come back. Of two that may, one follows shortly after the other:
/// it is being asked for its state then.
void plan_replica_returns(Plan& plan, Nanos end) {
  Rng& rng = plan.rng;
  const std::vector<std::uint32_t>& nodes = plan.options.returning;
  const bool several = nodes.size() > 1;
  for (std::uint64_t left = rng.between(1, 3) + (several ? 4 : 0); left > 0; --left) {
    // Rather late: until the acceptors forget the first values, the rest can be had from them.
    plan.at = rng.between(end / 3, end);
    auto which = static_cast<std::size_t>(rng.below(nodes.size()));
    for (std::uint64_t crashes = rng.between(1, 3); crashes > 0; --crashes) {
      plan.add(FaultKind::kCrash, plan.at, nodes[which], draw_amount(rng, FaultKind::kCrash));
      const Nanos again = plan.at + plan.micros(100, rng.coin() ? 2'000 : 20'000);
      plan.add(FaultKind::kRestart, again, nodes[which]);
      if (several && rng.coin()) {
        plan.faults.push_back({.kind = FaultKind::kSourceLost,
                               .start = again,
                               .end = again + 40 * kMillisecond,
                               .a = static_cast<std::uint32_t>(rng.below(kWaysToLoseASource)),
                               .amount = static_cast<std::uint32_t>(rng.between(50, 900))});
      }
      plan.at = again + (several ? plan.micros(7'000, 18'000) : plan.micros(1'000, 60'000));
      which = (which + 1) % nodes.size();
    }
  }
}

/// An operator adds and takes out members, one after another.
void plan_changes(Plan& plan, Nanos end) {
  static constexpr FaultKind kKinds[] = {FaultKind::kAddAcceptor, FaultKind::kRemoveAcceptor,
                                         FaultKind::kAddAcceptor, FaultKind::kRemoveAcceptor,
                                         FaultKind::kRemoveReplica};
  Rng& rng = plan.rng;
  for (std::uint64_t left = rng.between(2, 5); left > 0; --left) {
    const FaultKind kind = kKinds[rng.below(std::size(kKinds))];
    plan.add(kind, rng.between(0, end), static_cast<std::uint32_t>(rng.below(16)));
  }
}

}  // namespace

const FaultWeights kUsualFaults = {10, 6, 6, 10, 6, 8, 8, 6, 6, 6, 8, 18, 4, 3, 0, 4, 8};
const FaultWeights kUsualDiskFaults = [] {
  FaultWeights weights = kUsualFaults;
  weights[static_cast<std::size_t>(FaultKind::kRejoin)] = 1;
  weights[static_cast<std::size_t>(FaultKind::kRestart)] = 6;
  weights[static_cast<std::size_t>(FaultKind::kPowerCut)] = 2;
  weights[static_cast<std::size_t>(FaultKind::kDiskDamage)] = 4;
  weights[static_cast<std::size_t>(FaultKind::kDiskFailure)] = 2;
  return weights;
}();

FaultWeights draw_weights(Rng& rng, bool durable) {
  FaultWeights weights{};
  for (std::size_t kind = 0; kind < (durable ? kFirstPlannedFault : kFirstDiskFault); ++kind) {
    if (rng.coin()) weights[kind] = static_cast<std::uint32_t>(rng.between(1, 20));
  }
  weights[rng.below(kFirstDiskFault)] += 5;  // never none
  return weights;
}

std::string describe(const Fault& fault) {
  const auto set = [](EndSet ends) {
    std::string text;
    for (std::uint32_t end = 0; end < kEndsMax; ++end) {
      if ((ends >> end & 1) != 0) text += (text.empty() ? "" : ",") + std::to_string(end);
    }
    return "{" + text + "}";
  };
  std::string text = to_string(fault.kind);
  if (fault.kind == FaultKind::kPartition) {
    text += " from ends " + set(fault.from) + " to " + set(fault.to);
  } else if (fault.kind == FaultKind::kLoss || fault.kind == FaultKind::kDuplicate ||
             fault.kind == FaultKind::kReorder || fault.kind == FaultKind::kSlowLink ||
             fault.kind == FaultKind::kBitFlips || fault.kind == FaultKind::kLinkFull) {
    text += " from end " + std::to_string(fault.a) + " to " + std::to_string(fault.b);
  } else {
    text += " of " + std::to_string(fault.a);
  }
  if (fault.amount != 0) text += ", amount " + std::to_string(fault.amount);
  if (fault.end > fault.start) {
    text += ", for " + std::to_string((fault.end - fault.start) / kMicrosecond) + " us";
  }
  return text;
}

std::vector<Fault> plan_faults(Rng& rng, const FaultOptions& options) {
  CHECK(options.ends <= kEndsMax);
  Plan plan{rng, options, {}};
  for (std::uint32_t i = 0; i < options.count; ++i) {
    plan.at += rng.between(10 * kMicrosecond, options.gap_max);
    plan_one(plan);
  }
  if (rng.chance(100'000)) plan_slow_replica(plan);
  Rng returns(Rng(rng).next() ^ 0xbac6);  // from a copy: nothing else that a seed decides shifts
  if (!options.durable && !options.returning.empty() &&
      returns.chance(options.returning.size() > 1 ? 1'000'000 : 600'000)) {
    Plan more{returns, options, {}};
    plan_replica_returns(more, plan.at);
    plan.faults.insert(plan.faults.end(), more.faults.begin(), more.faults.end());
  }
  if (options.changes) {
    Rng operators(Rng(rng).next() ^ 0xc4a9);
    Plan more{operators, options, {}};
    plan_changes(more, plan.at);
    plan.faults.insert(plan.faults.end(), more.faults.begin(), more.faults.end());
  }
  std::stable_sort(plan.faults.begin(), plan.faults.end(),
                   [](const Fault& a, const Fault& b) { return a.start < b.start; });
  return std::move(plan.faults);
}

}  // namespace annulus::sim
