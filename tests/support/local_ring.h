// The stages of a ring over the in-process switch, for tests and benchmarks that poll them by hand:
// three acceptors, two learners if wanted, and one more address for whoever proposes.
#pragma once

#include <memory>
#include <vector>

#include "consensus/node.h"
#include "dataplane/local/local_transport.h"

namespace annulus::support {

class LocalRing {
 public:
  static constexpr std::uint64_t kCluster = 77;
  static constexpr std::uint32_t kAcceptors = 3;
  static constexpr std::uint32_t kLearners = 2;
  static constexpr std::uint32_t kProposer = kAcceptors + kLearners;

  /// Node `i`: acceptors, then learners, then the proposer.
  static consensus::Endpoint endpoint(std::uint32_t i) { return {0x0a000001 + i, 4'000}; }
  static consensus::PortIdentity identity(std::uint32_t i, std::uint64_t epoch = 1) {
    return {kCluster, 0, i == kProposer ? consensus::kNoNode : consensus::NodeId{i + 1}, epoch};
  }

  /// Makes the acceptors; the first is to coordinate.
  explicit LocalRing(const dataplane::LocalOptions& options = {},
                     consensus::Dissemination dissemination = consensus::Dissemination::kMulticast)
      : configuration(make_configuration(dissemination)),
        fabric(endpoints(), options),
        fragment(consensus::fragment_bytes(fabric.transport(0).frame_bytes_max())) {
    for (std::uint32_t i = 0; i < kProposer; ++i) {
      CHECK(fabric.transport(i).join(configuration.group).ok());
    }
    for (std::uint32_t i = 0; i < kAcceptors; ++i) {
      acceptors.push_back(make_acceptor(i, {.coordinate = i == 0}));
    }
  }
  LocalRing(const LocalRing&) = delete;
  LocalRing& operator=(const LocalRing&) = delete;
  /// Frames in flight lie in the switch's links and refer to the nodes' memory.
  ~LocalRing() { fabric.clear(); }

  std::unique_ptr<consensus::AcceptorNode> make_acceptor(std::uint32_t i,
                                                         consensus::AcceptorNodeOptions options,
                                                         std::uint64_t epoch = 1,
                                                         consensus::AcceptorLog* log = nullptr) {
    options.identity = identity(i, epoch);
    options.acceptor.fragment_bytes = options.coordinator.fragment_bytes = fragment;
    return std::make_unique<consensus::AcceptorNode>(options, configuration, fabric.transport(i),
                                                     log);
  }
  void add_learners() {
    for (std::uint32_t i = 0; i < kLearners; ++i) {
      deliveries.push_back(std::make_unique<dataplane::SpscRing<consensus::Delivery>>(1'024));
      replies.push_back(std::make_unique<dataplane::SpscRing<consensus::ReplyFrame>>(64));
      proposals.push_back(std::make_unique<dataplane::SpscRing<consensus::Proposal>>(2));
      consensus::LearnerNodeOptions options;
      options.identity = identity(kAcceptors + i);
      learners.push_back(std::make_unique<consensus::LearnerNode>(
          options, configuration, fabric.transport(kAcceptors + i),
          consensus::LearnerNode::Rings{*deliveries[i], *replies[i], *proposals[i]}));
    }
  }

  const consensus::Configuration configuration;
  dataplane::LocalSwitch fabric;
  const std::uint32_t fragment;  // bytes of a value that a frame holds
  std::vector<std::unique_ptr<consensus::AcceptorNode>> acceptors;
  std::vector<std::unique_ptr<dataplane::SpscRing<consensus::Delivery>>> deliveries;
  std::vector<std::unique_ptr<dataplane::SpscRing<consensus::ReplyFrame>>> replies;
  std::vector<std::unique_ptr<dataplane::SpscRing<consensus::Proposal>>> proposals;
  std::vector<std::unique_ptr<consensus::LearnerNode>> learners;

 private:
  static std::vector<consensus::Endpoint> endpoints() {
    std::vector<consensus::Endpoint> all;
    for (std::uint32_t i = 0; i <= kProposer; ++i) all.push_back(endpoint(i));
    return all;
  }
  static consensus::Configuration make_configuration(consensus::Dissemination dissemination) {
    consensus::Configuration made;
    made.dissemination = dissemination;
    made.group = {0xef000001, 4'000};
    for (std::uint32_t i = 0; i < kAcceptors; ++i) {
      made.acceptors.push_back({identity(i).node, endpoint(i)});
    }
    for (std::uint32_t i = kAcceptors; i < kProposer; ++i) {
      made.learners.push_back({identity(i).node, endpoint(i), consensus::kAllPartitions});
    }
    return made;
  }
};

}  // namespace annulus::support
