// CPU of the ordering path alone: one value through coordinator, three acceptors and two learners,
// all polled by one thread over the in-process switch; submitted as frames, delivered with its hash
// checked. The figure to hold against: events x cost of a frame event, plus the hashes.
#include <benchmark/benchmark.h>

#include <cstring>

#include "consensus/node.h"
#include "dataplane/hash.h"
#include "dataplane/local/local_transport.h"

namespace annulus::consensus {
namespace {

using dataplane::BufferPool;
using dataplane::LocalSwitch;

constexpr std::uint64_t kCluster = 1;
constexpr Endpoint kGroup{0xef000001, 4000};
constexpr std::uint32_t kProposer = 5;

Endpoint endpoint(std::uint32_t i) { return {0x0a000001 + i, 4000}; }

struct Ring {
  explicit Ring(std::uint32_t value_bytes)
      : pool(8'192, value_bytes),
        fabric(endpoints(), dataplane::LocalOptions{.mtu = 65'535, .link_depth = 1'024}) {
    configuration.group = kGroup;
    for (std::uint32_t i = 0; i < 3; ++i)
      configuration.acceptors.push_back({NodeId{i + 1}, endpoint(i)});
    for (std::uint32_t i = 3; i < 5; ++i) {
      configuration.learners.push_back({NodeId{i + 1}, endpoint(i), kAllPartitions});
    }
    for (std::uint32_t i = 0; i < 5; ++i) CHECK(fabric.transport(i).join(kGroup).ok());
    const std::uint32_t fragment = fragment_bytes(fabric.transport(0).frame_bytes_max());
    for (std::uint32_t i = 0; i < 3; ++i) {
      AcceptorNodeOptions options;
      options.identity = {kCluster, 0, NodeId{i + 1}, 1};
      options.acceptor.fragment_bytes = options.coordinator.fragment_bytes = fragment;
      options.coordinate = i == 0;
      acceptors.push_back(
          std::make_unique<AcceptorNode>(options, configuration, fabric.transport(i)));
    }
    for (std::uint32_t i = 0; i < 2; ++i) {
      deliveries.push_back(std::make_unique<dataplane::SpscRing<Delivery>>(1'024));
      replies.push_back(std::make_unique<dataplane::SpscRing<ReplyFrame>>(64));
      proposals.push_back(std::make_unique<dataplane::SpscRing<Proposal>>(2));
      LearnerNodeOptions options;
      options.identity = {kCluster, 0, NodeId{i + 4}, 1};
      learners.push_back(std::make_unique<LearnerNode>(
          options, configuration, fabric.transport(i + 3),
          LearnerNode::Rings{*deliveries[i], *replies[i], *proposals[i]}));
    }
    port = std::make_unique<Port>(fabric.transport(kProposer),
                                  PortIdentity{kCluster, 0, kNoNode, 9}, configuration, 65'536);
  }
  ~Ring() { fabric.clear(); }

  static std::vector<Endpoint> endpoints() {
    std::vector<Endpoint> all;
    for (std::uint32_t i = 0; i < 6; ++i) all.push_back(endpoint(i));
    return all;
  }

  void submit(std::uint64_t sequence, std::uint32_t bytes) {
    Slice payload = pool.allocate();
    std::memcpy(payload.mutable_data(), &sequence, sizeof sequence);
    payload.truncate(bytes);
    const Value value{
        {kNoNode, 9, sequence}, dataplane::hash_bytes(payload.bytes()), kAllPartitions, bytes};
    Outgoing& out =
        effects.send_now(endpoint(0), MessageType::kSubmit,
                         Submit{to_wire(value), to_wire(cut(bytes, 65'000, 0)), std::uint64_t{1}});
    out.payload_hash = value.content_hash;
    out.payload = std::move(payload);
  }

  void poll(Nanos now) {
    for (auto& acceptor : acceptors) acceptor->poll(now, 64);
    for (auto& learner : learners) learner->poll(now, 64);
    for (std::size_t i = 0; i < 2; ++i) {
      Delivery delivery;
      while (deliveries[i]->pop(delivery)) delivered[i] = delivery.value.id.sequence;
    }
    Port::release(port->receive(now));
  }

  Configuration configuration;
  BufferPool pool;
  LocalSwitch fabric;
  std::vector<std::unique_ptr<AcceptorNode>> acceptors;
  std::vector<std::unique_ptr<dataplane::SpscRing<Delivery>>> deliveries;
  std::vector<std::unique_ptr<dataplane::SpscRing<ReplyFrame>>> replies;
  std::vector<std::unique_ptr<dataplane::SpscRing<Proposal>>> proposals;
  std::vector<std::unique_ptr<LearnerNode>> learners;
  std::unique_ptr<Port> port;
  Effects effects;
  std::array<std::uint64_t, 2> delivered{};
};

void order(benchmark::State& state) {
  const auto bytes = static_cast<std::uint32_t>(state.range(0));
  const auto burst = static_cast<std::uint64_t>(state.range(1));
  Ring ring(bytes);
  dataplane::TscClock clock;
  ring.poll(clock.now());
  std::uint64_t sequence = 0;
  for (auto _ : state) {
    for (std::uint64_t i = 0; i < burst; ++i) ring.submit(++sequence, bytes);
    ring.port->send(clock.now(), ring.effects);
    while (ring.delivered[0] < sequence || ring.delivered[1] < sequence) ring.poll(clock.now());
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(sequence));
  state.SetBytesProcessed(static_cast<std::int64_t>(sequence * bytes));
}
BENCHMARK(order)->ArgNames({"bytes", "burst"})->ArgsProduct({{64, 2'560, 8'192, 53'000}, {1, 16}});

}  // namespace
}  // namespace annulus::consensus
BENCHMARK_MAIN();
