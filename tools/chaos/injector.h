// Does the faults of a plan to the nodes of a cluster, undoes them, and sees to it that whoever was
// hit comes back. Driven by the main thread, a tick every few milliseconds.
#pragma once

#include <cstdio>
#include <map>
#include <optional>

#include "tools/chaos/run.h"
#include "tools/chaos/site.h"
#include "tools/chaos/small_disk.h"
#include "tools/chaos/watch.h"

namespace annulus::chaos {

/// The acceptor with a disk of its own that may be found full.
struct SmallDiskOf {
  std::uint32_t node = 0;  // index into the configuration's nodes
  std::uint32_t log_mb = 0;
  SmallDisk disk;
};

class Injector {
 public:
  /// `small` is null when nothing is to find its disk full. All outlive the injector.
  Injector(const RunOptions& options, Site& site, tools::ProcessFamily& family, SmallDiskOf* small,
           RunReport& report);
  ~Injector();

  /// `inject`: new faults may begin.
  void tick(Nanos now, bool inject);
  /// Undoes all faults with the next tick.
  void heal(Nanos now);
  /// Every node serves. Before, one that is killed may not even have made its log: it would not be
  /// taken back.
  bool all_started() const;
  /// No fault lasts, and all who can be whole are.
  bool all_well() const;
  /// Replicas that must agree at the end, by their names.
  std::vector<std::string> whole_replicas() const;
  /// Who is not well, for a message.
  std::string unwell() const;

 private:
  struct Node {
    const tools::NodeConfig* config = nullptr;
    Health health = Health::kWhole;
    bool stopped = false;        // by SIGSTOP: its telemetry would not answer
    bool dying = false;          // killed, and not gone yet: the kernel may take long over it
    bool starts_again = false;   // it is a new process: its counters begin at 0
    std::uint64_t baseline = 0;  // acceptors: accepted, replicas: to be executed, when over
    bool has_baseline = false;
    Nanos since = 0;       // kReturning: when that began
    std::size_t done = 0;  // of report.faults: the last about it
    std::string file;      // another configuration to be started with
    std::map<pid_t, std::uint64_t> elections;
  };

  void begin(const Drawn& drawn, Nanos now);
  void kill(Node& node);
  /// `done` has lasted for its time, and cannot end yet.
  bool waits(const Done& done, Nanos now);
  void end(Done& done, Nanos now);
  Status fill_disk(Node& node);
  void look_at_full_disk(const Node& node);
  void look_for_ends(Nanos now);
  void has_ended(Node& node, Nanos now);
  void look_for_returns(Nanos now);
  bool has_returned(Node& node, const Reading& reading);
  void count_elections();
  std::optional<Reading> read(const Node& node) const;
  void fail(const std::string& what);
  void note(Nanos now, const std::string& what);

  const RunOptions& options_;
  Site& site_;
  tools::ProcessFamily& family_;
  SmallDiskOf* small_;
  RunReport& report_;
  Plan plan_;
  std::vector<Node> nodes_;
  bool network_faulty_ = false;
  bool disk_was_full_ = false;
  std::string may_end_;  // who is expected to end by itself, as its disk is full,
  Nanos full_by_ = 0;    // before then
  Nanos next_fault_ = 0;
  Nanos next_look_ = 0;
  Nanos next_count_ = 0;
  std::FILE* log_;
};

}  // namespace annulus::chaos
