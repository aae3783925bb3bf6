// The composition root: configuration -> stages of a node -> core loops on threads. Nothing else in
// the tree starts threads for stages, so the simulator runs the same stages on one.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "consensus/node.h"
#include "consensus/ring.h"
#include "dataplane/core_loop.h"
#include "dataplane/core_map.h"
#include "dataplane/counters.h"
#include "dataplane/stage.h"
#include "dataplane/transport.h"
#include "statemachine/client.h"
#include "statemachine/worker.h"
#include "tools/config.h"
#include "tools/services.h"

namespace annulus::tools {

/// What a node is made from. All of it outlives the node.
struct NodeSetup {
  const ClusterConfig& cluster;
  const consensus::Configuration& ring;  // lists a replica under node.id
  const NodeConfig& node;
  dataplane::Transport& transport;
  /// Acceptors: this is the bootstrap of a new cluster. Otherwise an acceptor of a memory cluster
  /// has lost its votes and asks to be admitted anew, and one of a disk cluster reads them from its
  /// log.
  bool bootstrap = false;
  /// Acceptors of a disk cluster: without a log, this is one that asks to be admitted.
  bool join = false;
};

/// The stages of one node, without threads.
class Node {
 public:
  virtual ~Node() = default;
  const std::string& name() const { return name_; }
  /// In polling order.
  virtual std::vector<dataplane::Stage*> stages() = 0;
  virtual void add_counters(dataplane::Registry& registry) = 0;
  /// It has stopped for good and says nothing any more: an acceptor whose log failed.
  virtual bool failed() const { return false; }
  /// Its place among the members. One that is removed takes no part any more.
  virtual consensus::Standing standing() const { return consensus::Standing::kMember; }
  /// The worker of a replica, null of others.
  virtual statemachine::Worker* worker() { return nullptr; }
  /// The stage of an acceptor, null of others.
  virtual consensus::AcceptorNode* acceptor() { return nullptr; }

 protected:
  explicit Node(std::string name) : name_(std::move(name)) {}

 private:
  std::string name_;
};

/// `services` is called for replicas only. Fails when a proxy cannot listen, or a log not be
/// opened.
Result<std::unique_ptr<Node>> make_node(const NodeSetup& setup, const ServiceFactory& services);

/// What a native client needs to know of the cluster.
statemachine::ClientOptions client_options(const ClusterConfig& cluster, consensus::NodeId node);

/// Memory of a node by pools and tables, each with its reason.
std::string memory_plan(const ClusterConfig& cluster, const NodeConfig& node);

/// Stages on threads, one thread a CPU.
class Cores {
 public:
  struct Entry {
    std::string node;
    dataplane::Stage* stage;
  };
  static std::vector<Entry> entries(const std::vector<std::unique_ptr<Node>>& nodes);

  /// Places the stages by the [cores] table and the machine; starts nothing yet.
  static Result<std::unique_ptr<Cores>> plan(std::vector<Entry> entries,
                                             const ProcessConfig& process,
                                             const dataplane::Host& host);
  Cores(const Cores&) = delete;
  Cores& operator=(const Cores&) = delete;
  ~Cores() { stop(); }

  /// The plan, a line a core.
  const std::string& text() const { return text_; }
  void add_counters(dataplane::Registry& registry);
  void remove_counters(dataplane::Registry& registry);
  void start();
  /// Waits until every loop has ended its turn. The stages may then be destroyed.
  void stop();

 private:
  struct Core {
    std::uint32_t cpu;
    std::unique_ptr<dataplane::CoreLoop> loop;
    std::vector<Entry> entries;
  };
  Cores() = default;

  dataplane::TscClock clock_;
  std::vector<Core> cores_;
  std::vector<std::thread> threads_;
  std::string text_;
};

/// The same without stages: the plan of a process that runs only `node` on `host`.
Result<std::string> core_plan_text(const ProcessConfig& process, const NodeConfig& node,
                                   const dataplane::Host& host);

}  // namespace annulus::tools
