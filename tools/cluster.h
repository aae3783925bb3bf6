// A whole cluster in one process, over the in-process network, on the cores of this machine: for
// embedding a replicated service, for `annulus dev` and `demo`, for benchmarks and tests.
//
//   ClusterOptions options;
//   options.services = [] {                     // once for each replica
//     Services services(2);                     // index 0 is the engine's own
//     services[1] = std::make_unique<MyService>();
//     return services;
//   };
//   auto cluster = Cluster::create(options);    // Result: check it
//   statemachine::BlockingClient& client = cluster.value()->make_blocking_client();
//   if (Status started = cluster.value()->start(); !started) ...
//   auto reply = client.call(1, 0, body);
//
// Guaranteed: every command answered kOk was executed by the majority-decided order, at most once,
// in the same order by every replica. With durability disk, a cluster that is created again over
// the same directory executes all of these anew from the acceptors' logs. Not guaranteed: that
// anything survives the process otherwise.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dataplane/local/local_transport.h"
#include "statemachine/blocking_client.h"
#include "statemachine/client.h"
#include "statemachine/state_hash.h"
#include "tools/gate.h"
#include "tools/node.h"

namespace annulus::tools {

struct ClusterOptions {
  std::uint32_t acceptors = 3;
  std::uint32_t replicas = 2;
  std::uint32_t clients_max = 4;  // clients and proxies that may be added
  Mode mode = Mode::kSmr;
  consensus::Dissemination dissemination = consensus::Dissemination::kMulticast;
  Durability durability = Durability::kMemory;
  std::string directory = {};    // with disk: of the acceptors' logs; made by the first start
  std::uint32_t log_mb = 1'024;  // of each acceptor
  std::uint32_t mtu = dataplane::kMtuMax;
  // More is retained than elsewhere: values stay where clients wrote them, and take no other
  // memory.
  Limits limits{.retain = 8'192};
  std::vector<ServiceConfig> service_names = {};  // for proxies: which service is which
  ServiceFactory services;
  ProcessConfig process;  // cores and idle policy
  bool gated = false;     // nodes can be made to fail: see gate()
};

class Cluster {
 public:
  /// Makes the nodes; no thread runs yet.
  static Result<std::unique_ptr<Cluster>> create(const ClusterOptions& options);
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;
  ~Cluster();

  // Before start():
  /// A client that the caller polls from a stage of its own, or gives to add_stage() to have it
  /// polled by itself. `sink` is called by whoever polls.
  /// `adjust` may change what the cluster's configuration proposes.
  statemachine::Client& make_client(
      statemachine::CompletionSink& sink,
      const std::function<void(statemachine::ClientOptions&)>& adjust = {});
  /// A client for one calling thread at a time.
  statemachine::BlockingClient& make_blocking_client();
  /// What a client that the caller makes itself needs: a place in the network, and what the
  /// cluster's configuration proposes. Such a client goes after stop() and before the cluster.
  struct ClientPlace {
    dataplane::LocalTransport& transport;
    statemachine::ClientOptions options;
  };
  ClientPlace next_client();
  /// Serves Redis clients on `listen`. Needs `service_names`.
  Status add_proxy(const dataplane::Endpoint& listen);
  /// A stage to be polled on the cluster's cores. It outlives the threads: stop() before it goes.
  void add_stage(const std::string& name, dataplane::Stage& stage);

  /// Places all stages on cores, and runs them.
  Status start();
  /// Ends all threads. Called by the destructor too.
  void stop();

  /// What a process that was killed is when it is started again: a replica with an empty memory, in
  /// place of the one of that name, which fetches its state from another one. All threads stop for
  /// a moment. Of a running cluster; what the old replica took of memory stays taken.
  Status restart_replica(const std::string& node);

  /// Makes the node "acceptor1", "replica2" ... fail. Any thread; of a gated cluster only.
  Gate& gate(const std::string& node);

  /// Where the stages run, a line a core. After start().
  const std::string& plan() const { return cores_->text(); }
  dataplane::Registry& registry() { return registry_; }
  const ClusterConfig& config() const { return config_; }
  const consensus::Configuration& ring() const { return ring_; }

  /// The state hash of each replica, all at the instance that the furthest has reached. While
  /// running; needs no more writes to be on their way than `patience` lets finish.
  Result<std::vector<statemachine::StateHashes>> state_hashes(Nanos patience = 10 * kSecond);
  /// How many instances the replica that has executed most is ahead of the one that has least.
  std::uint64_t replicas_apart() const;

 private:
  explicit Cluster(const ClusterOptions& options);
  Status find_logs();
  Status make_nodes();
  Result<std::unique_ptr<Node>> make(std::uint32_t index);
  std::vector<Cores::Entry> node_stages();

  ClusterConfig config_;
  ProcessConfig process_;
  consensus::Configuration ring_;
  std::uint32_t clients_max_;
  std::uint32_t clients_ = 0;
  bool bootstrap_ = true;  // no acceptor has a log yet
  dataplane::TscClock clock_;
  dataplane::Registry registry_;
  std::unique_ptr<dataplane::LocalSwitch> switch_;
  ServiceFactory services_;
  std::vector<std::unique_ptr<Node>> nodes_;
  // Others may still refer to what these sent, and to what those counted.
  std::vector<std::unique_ptr<Node>> retired_;
  std::vector<std::unique_ptr<Cores>> retired_cores_;
  std::vector<std::unique_ptr<statemachine::Client>> stage_clients_;
  std::vector<std::unique_ptr<statemachine::BlockingClient>> blocking_clients_;
  std::vector<Cores::Entry> own_stages_;
  const bool gated_;
  std::map<std::string, Gate> gates_;  // by node
  std::vector<std::unique_ptr<GatedStage>> gated_stages_;
  std::vector<std::unique_ptr<GatedStage>> retired_stages_;
  std::unique_ptr<Cores> cores_;
};

}  // namespace annulus::tools
