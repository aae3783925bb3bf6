// Cost of a frame event without its role: seal, hash, send, receive, open, validate. Estimate: XXH3
// of 200 B 20 ns twice, the switch 20, buffers and validation 20; so 80 ns of the 150 a frame event
// may take. The payload's hash comes on top: 1 KiB about 50 ns a receiver.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <vector>

#include "consensus/messages.h"
#include "consensus/port.h"
#include "dataplane/frame.h"
#include "dataplane/hash.h"
#include "dataplane/local/local_transport.h"

namespace annulus::consensus {
namespace {

using dataplane::BufferPool;
using dataplane::LocalSwitch;

void hash(benchmark::State& state) {
  const std::vector<std::byte> bytes(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(dataplane::hash_bytes(bytes));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(hash)->Arg(64)->Arg(200)->Arg(1024)->Arg(8192);

/// Six nodes on one switch, as in an embedded cluster; the first sends.
struct Cluster {
  Cluster() {
    configuration.group = {0xef000001, 4000};
    std::vector<Endpoint> endpoints;
    for (std::uint32_t i = 0; i < 6; ++i) {
      endpoints.push_back({0x0a000001 + i, 4000});
      if (i < 3) configuration.acceptors.push_back({NodeId{i + 1}, endpoints.back()});
      if (i >= 3) configuration.learners.push_back({NodeId{i + 1}, endpoints.back()});
    }
    net = std::make_unique<LocalSwitch>(endpoints, dataplane::LocalOptions{});
    for (std::uint32_t i = 0; i < 6; ++i) {
      (void)net->transport(i).join(configuration.group).ok();
      const PortIdentity identity{.cluster = 1, .node = NodeId{i + 1}, .epoch = 1};
      ports.push_back(std::make_unique<Port>(net->transport(i), identity, configuration, 65'536));
    }
  }
  BufferPool pool{4, 8'192};
  Configuration configuration;
  std::unique_ptr<LocalSwitch> net;
  std::vector<std::unique_ptr<Port>> ports;
};

/// The coordinator multicasts `range(0)` proposals of `range(1)` bytes to five others; items are
/// frame events: one a frame sent, one a frame received.
void proposals(benchmark::State& state) {
  Cluster cluster;
  Effects effects;
  Slice payload = cluster.pool.allocate();
  payload.truncate(static_cast<std::uint32_t>(state.range(1)));
  Phase2A message{};
  message.instance = 1;
  message.ballot = 1;
  message.decided = to_wire(Decided{});
  message.route = Route(cluster.configuration, 0).wire();
  message.value.bytes = payload.size();
  message.fragment = to_wire(cut(payload.size(), payload.size(), 0));
  const std::uint64_t payload_hash = dataplane::hash_bytes(payload.bytes());
  std::uint64_t received = 0;
  for (auto _ : state) {
    for (std::int64_t i = 0; i < state.range(0); ++i) {
      Outgoing& out = effects.send_to_all_now(MessageType::kPhase2A, message);
      out.payload = payload;
      out.payload_hash = payload_hash;
    }
    cluster.ports[0]->send(0, effects);
    for (std::size_t node = 1; node < cluster.ports.size(); ++node) {
      const std::span<Received> burst = cluster.ports[node]->receive(0);
      received += burst.size();
      cluster.ports[node]->release(burst);
    }
  }
  if (received != 5 * static_cast<std::uint64_t>(state.iterations() * state.range(0))) {
    state.SkipWithError("frames were lost");
  }
  state.SetItemsProcessed(6 * state.iterations() * state.range(0));
}
BENCHMARK(proposals)->Args({1, 1024})->Args({8, 1024})->Args({8, 0})->Args({32, 1024});

/// A vote passes along the ring: one node sends, the next receives; items are frame events.
void votes(benchmark::State& state) {
  Cluster cluster;
  Effects effects;
  struct {
    Phase2B head;
    Phase2BEntry entry;
  } message{};
  message.head.ballot = 1;
  message.head.count = 1;
  message.entry.instance = 1;
  message.entry.acceptors = 1;
  std::uint64_t received = 0;
  for (auto _ : state) {
    for (std::int64_t i = 0; i < state.range(0); ++i) {
      effects.send_now(cluster.configuration.acceptors[1].endpoint, MessageType::kPhase2B, message);
    }
    cluster.ports[0]->send(0, effects);
    const std::span<Received> burst = cluster.ports[1]->receive(0);
    received += burst.size();
    cluster.ports[1]->release(burst);
  }
  if (received != static_cast<std::uint64_t>(state.iterations() * state.range(0))) {
    state.SkipWithError("frames were lost");
  }
  state.SetItemsProcessed(2 * state.iterations() * state.range(0));
}
BENCHMARK(votes)->Arg(1)->Arg(8);

}  // namespace
}  // namespace annulus::consensus

BENCHMARK_MAIN();
