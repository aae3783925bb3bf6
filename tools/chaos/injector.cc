#include "tools/chaos/injector.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

namespace annulus::chaos {
namespace {

using tools::NodeKind;

/// A node that was hit must be whole so soon, and a replica may have all that was ever executed to
/// execute again, in less than a quarter of the time.
constexpr Nanos kReturnWithin = 60 * kSecond;
constexpr Nanos kReplaySpeed = 4;
constexpr Nanos kLookEvery = 50 * kMillisecond;
constexpr Nanos kCountEvery = 300 * kMillisecond;
/// So soon it must have found that its disk is full.
constexpr Nanos kFullWithin = 20 * kSecond;
/// By how much the log of the one with the small disk is to grow.
constexpr std::uint32_t kGrowthMb = 64;

}  // namespace

Injector::Injector(const RunOptions& options, Site& site, tools::ProcessFamily& family,
                   SmallDiskOf* small, RunReport& report)
    : options_(options),
      site_(site),
      family_(family),
      small_(small),
      report_(report),
      plan_(options.seed),
      log_(std::fopen((options.directory + "/chaos.log").c_str(), "w")) {
  for (const tools::NodeConfig& node : site.config().cluster.nodes) {
    nodes_.push_back({.config = &node});
  }
}

Injector::~Injector() {
  if (log_ != nullptr) std::fclose(log_);
}

void Injector::fail(const std::string& what) { report_.failures.push_back(what); }

void Injector::note(Nanos now, const std::string& what) {
  if (log_ == nullptr) return;
  std::fprintf(log_, "%.3f %s\n", static_cast<double>(now - report_.begun) / kSecond, what.c_str());
  std::fflush(log_);
}

std::optional<Reading> Injector::read(const Node& node) const {
  if (node.stopped || node.dying) return std::nullopt;
  const pid_t pid = family_.pid(node.config->name);
  if (pid == 0) return std::nullopt;
  const auto reading = read_node(options_.directory, node.config->name);
  return reading && reading->pid == pid ? reading : std::nullopt;
}

void Injector::tick(Nanos now, bool inject) {
  look_for_ends(now);
  for (Done& done : report_.faults) {
    if (done.over != 0 || now < done.begun + done.drawn.lasts) continue;
    if (!waits(done, now)) end(done, now);
  }
  if (now >= next_look_) {
    next_look_ = now + kLookEvery;
    look_for_returns(now);
  }
  if (now >= next_count_) {
    next_count_ = now + kCountEvery;
    count_elections();
  }
  if (!inject || now < next_fault_) return;
  next_fault_ = now + plan_.pause();
  std::vector<Health> health;
  for (const Node& node : nodes_) health.push_back(node.health);
  std::optional<std::uint32_t> small_disk;
  if (small_ != nullptr && !disk_was_full_) small_disk = small_->node;
  const auto drawn = plan_.draw({.cluster = site_.config().cluster,
                                 .medium = options_.medium,
                                 .health = health,
                                 .network_faulty = network_faulty_,
                                 .small_disk = small_disk});
  if (drawn) begin(*drawn, now);
}

void Injector::begin(const Drawn& drawn, Nanos now) {
  note(now, describe(drawn, site_.config().cluster));
  Node& node = nodes_[drawn.node];
  Status done;
  switch (drawn.row->fault) {
    case Fault::kKill:
      kill(node);
      break;
    case Fault::kStop:
      family_.signal(node.config->name, SIGSTOP);
      node.stopped = true;
      break;
    case Fault::kDiskFull:
      kill(node);
      done = fill_disk(node);
      break;
    default:
      done = site_.break_network(drawn);
      network_faulty_ = true;
  }
  if (!done) fail(done.error().message);
  report_.faults.push_back({drawn, now, 0, 0});
  if (drawn.row->victim == Victim::kNetwork) return;
  node.health = Health::kFaulty;
  node.done = report_.faults.size() - 1;
}

void Injector::kill(Node& node) {
  family_.signal(node.config->name, SIGKILL);
  node.dying = true;
}

/// It is to start again with a log so large that its disk has no room for it.
Status Injector::fill_disk(Node& node) {
  disk_was_full_ = true;
  tools::Config larger = site_.config();
  for (tools::NodeConfig& each : larger.cluster.nodes) {
    if (each.name == node.config->name) each.log_mb += kGrowthMb;
  }
  node.file = options_.directory + "/larger.toml";
  std::ofstream file(node.file);
  file << tools::to_toml(larger);
  file.close();
  if (!file) return Error{node.file + ": cannot be written: " + std::strerror(errno)};
  may_end_ = node.config->name;
  return {};
}

bool Injector::waits(const Done& done, Nanos now) {
  const Fault fault = done.drawn.row->fault;
  if (fault != Fault::kKill && fault != Fault::kDiskFull) return false;
  Node& node = nodes_[done.drawn.node];
  // Who finds its disk full needs time to start before it can say so.
  const bool runs = !node.dying && family_.pid(node.config->name) != 0;
  if (runs && now >= full_by_) {
    fail(node.config->name + " runs, though its disk has no room for its log");
    kill(node);
  }
  return runs || node.dying;
}

/// It must have said that there is no room, and ended.
void Injector::look_at_full_disk(const Node& node) {
  const std::string& name = node.config->name;
  may_end_.clear();
  const std::string told = tools::last_line(family_.log_path(name));
  if (told.find("make room") == std::string::npos) {
    fail(name + " found its disk full, and does not say so but: " + told);
  }
}

void Injector::end(Done& done, Nanos now) {
  const Drawn& drawn = done.drawn;
  Node& node = nodes_[drawn.node];
  done.over = now;
  Status ended;
  bool killed = false;
  switch (drawn.row->fault) {
    case Fault::kDiskFull:
      look_at_full_disk(node);
      ended = small_->disk.resize(small_->log_mb + 2 * kGrowthMb);
      [[fallthrough]];
    case Fault::kKill:
      site_.restart(family_, *node.config, node.file);
      killed = true;
      break;
    case Fault::kStop:
      family_.signal(node.config->name, SIGCONT);
      node.stopped = false;
      break;
    default:
      ended = site_.mend_network(drawn);
      network_faulty_ = false;
  }
  if (!ended) fail(ended.error().message);
  if (drawn.row->victim == Victim::kNetwork) {
    done.returned = now;
    return;
  }
  node.health = Health::kReturning;
  node.starts_again = killed;
  node.has_baseline = false;
  node.since = now;
}

void Injector::look_for_ends(Nanos now) {
  for (std::string name; !(name = family_.reap()).empty();) {
    const auto node =
        std::ranges::find_if(nodes_, [&](const Node& each) { return each.config->name == name; });
    if (node != nodes_.end() && node->dying) {
      has_ended(*node, now);
    } else if (name != may_end_) {
      fail(name + " has ended by itself: " + tools::last_line(family_.log_path(name)));
    }
  }
}

void Injector::has_ended(Node& node, Nanos now) {
  node.dying = false;
  note(now, node.config->name + " has ended");
  if (node.config->name != may_end_) return;
  site_.restart(family_, *node.config, node.file);
  full_by_ = now + kFullWithin;
}

/// An acceptor accepts again, a replica has executed what another had when it was looked at first,
/// a proxy serves.
bool Injector::has_returned(Node& node, const Reading& reading) {
  if (node.config->kind == NodeKind::kProxy) return true;
  const bool acceptor = node.config->kind == NodeKind::kAcceptor;
  if (!node.has_baseline) {
    if (acceptor) {
      node.baseline = node.starts_again ? 0 : reading.accepted;
    } else {
      for (const Node& other : nodes_) {
        if (other.config->kind != NodeKind::kReplica || &other == &node) continue;
        const auto told = read(other);
        if (!told) return false;
        node.baseline = told->executed;
      }
    }
    node.has_baseline = true;
  }
  return acceptor ? reading.accepted > node.baseline : reading.executed >= node.baseline;
}

void Injector::look_for_returns(Nanos now) {
  for (Node& node : nodes_) {
    if (node.health != Health::kReturning) continue;
    const auto reading = read(node);
    if (reading && has_returned(node, *reading)) {
      node.health = Health::kWhole;
      report_.faults[node.done].returned = now;
      note(now, node.config->name + " is whole");
    } else if (now > node.since + kReturnWithin + (node.since - report_.begun) / kReplaySpeed) {
      fail(node.config->name + " was not whole " + std::to_string((now - node.since) / kSecond) +
           " s after a fault: " + report_.faults[node.done].drawn.row->name);
      node.health = Health::kGone;
    }
  }
}

void Injector::count_elections() {
  for (Node& node : nodes_) {
    if (node.config->kind != NodeKind::kAcceptor) continue;
    if (const auto reading = read(node)) node.elections[reading->pid] = reading->elections_won;
  }
  report_.elections = 0;
  for (const Node& node : nodes_) {
    for (const auto& [pid, won] : node.elections) report_.elections += won;
  }
}

void Injector::heal(Nanos now) {
  for (Done& done : report_.faults) {
    if (done.over == 0) done.drawn.lasts = std::min(done.drawn.lasts, now - done.begun);
  }
  note(now, "healed");
}

bool Injector::all_started() const {
  return std::ranges::all_of(nodes_, [&](const Node& node) { return read(node).has_value(); });
}

bool Injector::all_well() const {
  if (std::ranges::any_of(report_.faults, [](const Done& done) { return done.over == 0; })) {
    return false;
  }
  return std::ranges::all_of(nodes_, [](const Node& node) {
    return node.health == Health::kWhole || node.health == Health::kGone;
  });
}

std::string Injector::unwell() const {
  std::string names;
  for (const Node& node : nodes_) {
    if (node.health == Health::kWhole || node.health == Health::kGone) continue;
    names += (names.empty() ? "" : ", ") + node.config->name;
  }
  return names;
}

std::vector<std::string> Injector::whole_replicas() const {
  std::vector<std::string> names;
  for (const Node& node : nodes_) {
    if (node.config->kind == NodeKind::kReplica && node.health == Health::kWhole) {
      names.push_back(node.config->name);
    }
  }
  return names;
}

}  // namespace annulus::chaos
