// The general experiment: an embedded cluster under generated load, measured after a warm-up, with
// every reply checked and the replicas' state hashes compared at the end.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "dataplane/counters.h"
#include "dataplane/result.h"
#include "tools/bench/load.h"
#include "tools/bench/report.h"
#include "tools/cluster.h"
#include "tools/config.h"

namespace annulus::bench {

struct WorkloadOptions {
  std::string experiment = "workload";
  std::string label;
  LoadOptions load;
  std::uint32_t batch = 50;
  std::uint32_t batch_bytes = 56'000;
  std::uint32_t acceptors = 3;
  std::uint32_t replicas = 2;
  std::uint32_t mtu = 65'535;
  tools::Mode mode = tools::Mode::kSmr;
  tools::Durability durability = tools::Durability::kMemory;
  std::string directory = ".";   // with disk: where the logs are while it runs
  std::uint32_t log_mb = 2'048;  // of each acceptor
  consensus::Dissemination dissemination = consensus::Dissemination::kMulticast;
  std::uint32_t cores = 0;  // CPUs for cluster and load; 0: all there are
  double seconds = 5;
  double warmup = 2;
  Nanos deadline = 5 * kSecond;  // of a command; one that passes it makes the run void
  /// Latency figures leave out commands during which a core stood still (CoreLoop::stalls); those
  /// of all commands are beside them.
  bool separate_stalls = false;
  bool gated = false;  // nodes can be made to fail
};

/// What cluster and load had counted at some moment; or in some time, or in several.
struct Reading {
  Nanos time = 0;
  std::uint64_t commands = 0;
  std::uint64_t scanned = 0;
  std::uint64_t log_bytes = 0;
  std::uint64_t log_groups = 0;
  std::uint64_t log_accepts = 0;
  std::uint64_t upkeep_cycles = 0;
  std::map<std::string, std::uint64_t> cycles;  // useful ones, by role
  dataplane::Histogram::Snapshot latency;
  dataplane::Histogram::Snapshot stalled_latency;
  dataplane::Histogram::Snapshot stalls;

  Reading since(const Reading& earlier) const;
  void add(const Reading& other);
};

/// An embedded cluster and the load on it. Calls in this order: create, load, then measurements
/// with nothing outstanding between them, finish.
class Rig {
 public:
  /// Fails when the cluster cannot be made.
  static annulus::Result<std::unique_ptr<Rig>> create(const WorkloadOptions& options);
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;
  ~Rig();

  /// Inserts every record once, and comes to rest. The figures are those of the inserts.
  annulus::Result<Result> load();
  /// The mix for warm-up and measurement; then comes to rest.
  annulus::Result<Result> measure(const Mix& mix);
  /// For experiments that do something meanwhile: the load runs until rest().
  Status run(double rate, Timeline* timeline);
  Status rest();
  tools::Cluster& cluster() { return *cluster_; }
  Reading reading() const;
  /// The figures of the time in which that was counted.
  Result result_of(const Reading& counted) const { return result_of(options_.load.mix, counted); }

  /// Compares the replicas' states and ends all threads. Puts the verdict into `result`.
  Status finish(Result& result);

 private:
  explicit Rig(const WorkloadOptions& options);
  /// Waits until nothing is outstanding. Fails if that takes longer, or a reply was wrong.
  Status come_to_rest(double seconds) const;
  Result result_of(const Mix& mix, const Reading& counted) const;

  /// Removed, with what is in it, when the rig is.
  struct Scratch {
    std::string path;
    ~Scratch();
  };

  const WorkloadOptions options_;
  Scratch scratch_;
  Load load_;  // the cluster polls it and goes first
  std::unique_ptr<tools::Cluster> cluster_;
};

/// All of it: load, measure, finish.
annulus::Result<Result> run_workload(const WorkloadOptions& options);

}  // namespace annulus::bench
