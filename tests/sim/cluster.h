// One simulated cluster: a configuration drawn from the seed, and the production stages of its
// acceptors, replicas and clients, joined by the simulated network.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "consensus/node.h"
#include "recovery/acceptor_log.h"
#include "statemachine/btree/btree.h"
#include "statemachine/kv/kv.h"
#include "statemachine/worker.h"
#include "tests/sim/client.h"
#include "tests/sim/disk.h"
#include "tests/sim/foreigner.h"
#include "tests/sim/raw_client.h"
#include "tests/sim/transfer_watch.h"
#include "tests/sim/world.h"

namespace annulus::sim {

constexpr std::uint32_t kReplyBytesMax = 128 * 1024;
constexpr std::uint64_t kCluster = 0x5eed;
/// The one counter that is of this machine, not of the simulated ones: it differs from run to run.
constexpr const char* kHostCycles = "node.upkeep_cycles";
constexpr consensus::NodeId acceptor_id(std::uint32_t index) {
  return consensus::NodeId{1 + index};
}

/// What a seed decides about the cluster itself.
struct ClusterPlan {
  std::uint32_t acceptors = 3;
  std::vector<consensus::PartitionMask> learners;
  consensus::Dissemination dissemination{};
  std::uint32_t frame_bytes_max = 1'252;
  std::uint32_t value_bytes_max = 32'768;
  std::uint32_t window = 64;
  std::uint32_t learner_window = 256;
  std::uint32_t retain = 4'096;
  std::uint64_t retain_bytes = 128u << 20;
  std::uint32_t ring_capacity = 16;  // between learner and worker
  LinkQuality base;                  // every link starts from this
  bool split_payloads = false;
  Nanos session_idle = 3'600 * kSecond;
  bool changes = false;  // an operator adds and takes out members; one more acceptor waits for that
  bool foreign = false;  // a node of another wire version speaks
  bool durable = false;  // acceptors have disks
  DiskQuality disk;
  std::uint32_t disk_depth = 4;
  std::uint32_t damaged = 0;  // the one acceptor whose disk may be damaged
  std::uint32_t small = ~0u;  // the one whose disk will be full, if any
  std::uint32_t small_blocks = 0;
  bool partitioned() const { return learners[0] != consensus::kAllPartitions; }
  std::string describe() const;
};
ClusterPlan draw_plan(Rng& rng);

/// Stands between learner and worker: shows every delivery to the checker, in a stage of its own.
class DeliveryTap final : public dataplane::Stage {
 public:
  using Ring = dataplane::SpscRing<consensus::Delivery>;
  DeliveryTap(std::uint32_t learner, Ring& from, Ring* to, ProtocolChecker& checker,
              std::function<void(const consensus::Value&)> first_delivered, World& world,
              const statemachine::Worker& worker, consensus::StateExchange& state, Rng rng)
      : learner_(learner),
        from_(from),
        to_(to),
        checker_(checker),
        first_delivered_(std::move(first_delivered)),
        world_(world),
        worker_(worker),
        state_(state),
        rng_(rng) {}

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "tap"; }
  /// Tells the checker of a state that was installed.
  void note_installed();

 private:
  void damage_image();

  std::uint32_t learner_;
  Ring& from_;
  Ring* to_;
  ProtocolChecker& checker_;
  std::function<void(const consensus::Value&)> first_delivered_;
  World& world_;
  const statemachine::Worker& worker_;
  consensus::StateExchange& state_;
  Rng rng_;
  consensus::Instance installed_{};
};

/// The worker's turns. While it makes a copy of its state each takes a while, as with much state,
/// so that what is executed in between is seen, where nothing may be.
class WorkerTurns final : public dataplane::Stage {
 public:
  WorkerTurns(World& world, statemachine::Worker& worker, const consensus::StateExchange& state,
              Rng rng)
      : world_(world), worker_(worker), state_(state), rng_(rng) {}

  dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
  const char* name() const override { return "worker"; }

 private:
  World& world_;
  statemachine::Worker& worker_;
  const consensus::StateExchange& state_;
  Rng rng_;
  Nanos busy_until_ = 0;
};

/// What executes: the services and the worker that owns them.
struct Replica {
  using Rings = statemachine::Worker::Rings;
  Replica(const statemachine::WorkerOptions& options, const Rings& rings)
      : kv(kv_options()), btree(btree_options()), worker(options, {nullptr, &kv, &btree}, rings) {}
  static statemachine::kv::KvOptions kv_options();
  static statemachine::btree::BtreeOptions btree_options();

  statemachine::kv::KvService kv;
  statemachine::btree::BtreeService btree;
  statemachine::Worker worker;
};

/// What a machine holds comes and goes with it, but for the platter.
struct AcceptorMachine {
  bool crashed = false;
  std::uint64_t incarnation = 1;
  std::shared_ptr<Platter> platter;
  std::unique_ptr<SimTransport> transport;
  std::unique_ptr<recovery::AcceptorLog> log;
  SimDisk* disk = nullptr;  // the log's
  std::unique_ptr<consensus::AcceptorNode> node;
};
struct LearnerMachine {
  bool crashed = false;
  bool removed = false;    // by a change of members; it does not come back
  Nanos silent_until = 0;  // cut off from others for longer than they wait for it
  std::uint64_t incarnation = 1;
  std::unique_ptr<SimTransport> transport;
  std::unique_ptr<DeliveryTap::Ring> deliveries;
  std::unique_ptr<dataplane::SpscRing<consensus::ReplyFrame>> replies;
  std::unique_ptr<dataplane::SpscRing<consensus::Proposal>> proposals;
  std::unique_ptr<consensus::LearnerNode> node;
  std::unique_ptr<DeliveryTap> tap;
  std::unique_ptr<DeliveryTap::Ring> tapped;  // from the tap to the worker
  std::unique_ptr<consensus::StateExchange> state;
  std::unique_ptr<Replica> replica;
  std::unique_ptr<WorkerTurns> turns;  // of the replica's worker
};
struct ClientMachine {
  bool crashed = false;
  std::unique_ptr<SimTransport> transport;
  std::unique_ptr<SimClient> client;
};
struct RawMachine {
  bool crashed = false;
  std::unique_ptr<SimTransport> transport;
  std::unique_ptr<RawClient> client;
};

struct LoadPlan {
  std::uint32_t commands = 0;  // in all, over all clients
  std::uint32_t clients = 4;
  std::uint32_t raw_values = 0;  // in all, over all raw clients
  Nanos duration = 0;            // over which the load is spread
};

class Cluster {
 public:
  Cluster(World& world, const ClusterPlan& plan, const LoadPlan& load, Rng rng);
  ~Cluster();

  /// Carries out a fault that is not the world's.
  void on_fault(const Fault& fault);
  /// All that have their state from disk and are down start again.
  void restart_all();
  /// All clients have what they wanted.
  bool clients_done() const;
  /// Every learner has delivered as far as any other, and some acceptor coordinates.
  bool caught_up() const;
  /// Agreement at the end, completeness, nothing held that should be free.
  void check_end();
  const History& history() const { return history_; }
  /// What the checkers counted, under their own names.
  void count(std::map<std::string, std::uint64_t>& counters) const;
  /// Who is not done, for a liveness failure.
  std::string describe_unfinished() const;

  std::uint32_t acceptors() const { return static_cast<std::uint32_t>(acceptors_.size()); }
  /// Network ends of acceptors and learners; the clients' follow.
  std::uint32_t node_ends() const {
    return static_cast<std::uint32_t>(acceptors_.size() + learners_.size());
  }
  /// Of nodes and clients.
  std::uint32_t ends() const { return node_ends() + clients(); }
  bool changes() const { return plan_.changes; }
  std::uint32_t stages() const { return stages_; }
  /// That of each replica which executes.
  const std::vector<std::uint32_t>& executing_stages() const { return executing_stages_; }
  /// Replicas, as nodes, that may lose their memory: another one of the same partitions never does.
  std::vector<std::uint32_t> returning_nodes() const;
  std::uint32_t nodes() const { return nodes_; }
  std::uint32_t replicas() const { return static_cast<std::uint32_t>(learners_.size()); }
  ProtocolChecker& checker() { return checker_; }
  dataplane::Registry& registry() { return registry_; }
  std::uint64_t raw_retransmitted() const;

 private:
  std::uint32_t clients() const {
    return static_cast<std::uint32_t>(clients_.size() + raw_clients_.size());
  }
  /// Polls now and then what the operator is to do.
  class Operator final : public dataplane::Stage {
   public:
    Operator(Cluster& cluster, Rng rng) : cluster_(cluster), rng_(rng) {}
    dataplane::PollResult poll(Nanos now, std::uint32_t budget) override;
    const char* name() const override { return "operator"; }

   private:
    Cluster& cluster_;
    Rng rng_;
    Nanos next_ = 0;
  };

  const consensus::Configuration& members() const;
  bool member_of(const consensus::Configuration& members, std::uint32_t acceptor) const;
  std::size_t whole_members(const consensus::Configuration& members, std::uint32_t without) const;
  bool joins(const AcceptorMachine& machine) const;
  bool majority_without(std::uint32_t acceptor) const;
  bool can_spare(const consensus::Configuration& members, consensus::NodeId acceptor) const;
  std::optional<consensus::Change> wanted_change(const Fault& fault,
                                                 const consensus::Configuration& members);
  bool in_vain(const consensus::Configuration& members) const;
  void operate(Rng& rng, Nanos now);
  void finish_change(const consensus::Configuration& members);
  void lose_source(const Fault& fault, consensus::NodeId asked, std::uint32_t asking);
  void add_bystanders();
  void add_acceptors();
  consensus::AcceptorNodeOptions acceptor_options(std::uint32_t acceptor) const;
  std::uint32_t acceptor_buffers() const;
  std::uint32_t learner_buffers() const { return 2 * plan_.learner_window + 1'024; }
  void crash(std::uint32_t node, std::uint32_t frames_left);
  void bury_acceptor(std::uint32_t acceptor);
  void rejoin(std::uint32_t acceptor);
  bool whole(const AcceptorMachine& machine) const;
  bool left_behind(std::uint32_t learner) const;
  bool may_crash(std::uint32_t node) const;
  bool replaceable(std::size_t learner) const;
  bool may_lose(std::uint32_t acceptor) const;
  std::uint32_t newest_epoch() const;
  void add_platter(std::uint32_t acceptor, std::uint64_t incarnation = 0);
  bool open_log(std::uint32_t acceptor);
  void start_acceptor(std::uint32_t acceptor, const consensus::AcceptorNodeOptions& options);
  void restart(std::uint32_t node);
  void restart_acceptor(std::uint32_t acceptor);
  void restart_learner(std::uint32_t learner);
  void forget(const std::string& node);
  void add_learners();
  void start_learner(std::uint32_t learner, std::uint32_t node);
  statemachine::WorkerOptions worker_options(std::uint32_t learner, std::uint64_t epoch) const;
  statemachine::StateHashes reference_hashes(consensus::PartitionMask partitions);
  void add_replica(std::uint32_t learner, LearnerMachine& machine);
  void add_clients(const LoadPlan& load);
  SimClientOptions client_options(std::uint32_t index, const LoadPlan& load);
  void check_linearizable();
  void check_states();
  void check_memory();
  void add_raw_clients(const LoadPlan& load);
  void set_links();
  std::unique_ptr<SimTransport> attach(const Endpoint& endpoint, std::uint32_t buffers);

  World& world_;
  ClusterPlan plan_;
  Rng rng_;
  consensus::Configuration configuration_;
  ProtocolChecker checker_;
  dataplane::Registry registry_;
  std::vector<AcceptorMachine> acceptors_;
  std::vector<LearnerMachine> learners_;
  std::vector<ClientMachine> clients_;
  std::vector<RawMachine> raw_clients_;
  History history_;
  std::map<std::uint64_t, std::uint32_t> client_of_epoch_;
  std::map<std::string, std::uint64_t> counted_;
  TransferWatch transfers_;
  std::unique_ptr<SimTransport> foreign_transport_;
  std::unique_ptr<Foreigner> foreigner_;
  std::unique_ptr<Operator> operator_;
  std::deque<Fault> wanted_changes_;
  std::optional<consensus::Change> changing_;  // asked for, and not known to be made
  std::uint64_t comes_incarnation_ = 0;        // of whom it is to add, when it was asked for
  Nanos ask_at_ = 0;
  bool healed_ = false;
  mutable consensus::Configuration members_;  // the newest that anybody acts under
  std::uint32_t stages_ = 0;
  std::vector<std::uint32_t> executing_stages_;
  std::uint32_t nodes_ = 0;
};

}  // namespace annulus::sim
