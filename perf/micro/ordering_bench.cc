// CPU of the ordering path alone: one value through coordinator, three acceptors and two learners,
// all polled by one thread over the in-process switch; submitted as frames, delivered with its hash
// checked. The figure to hold against: events x cost of a frame event, plus the hashes.
#include <benchmark/benchmark.h>

#include <cstring>

#include "dataplane/hash.h"
#include "tests/support/local_ring.h"

namespace annulus::consensus {
namespace {

using dataplane::BufferPool;
using support::LocalRing;

struct Ring {
  explicit Ring(std::uint32_t value_bytes)
      : pool(8'192, value_bytes),
        ring({.mtu = 65'535, .link_depth = 1'024}),
        port(ring.fabric.transport(LocalRing::kProposer),
             LocalRing::identity(LocalRing::kProposer, 9), ring.configuration, 65'536) {
    ring.add_learners();
  }
  ~Ring() { ring.fabric.clear(); }  // of what the port sent, before it goes

  void submit(std::uint64_t sequence, std::uint32_t bytes) {
    Slice payload = pool.allocate();
    std::memcpy(payload.mutable_data(), &sequence, sizeof sequence);
    payload.truncate(bytes);
    const Value value{
        {kNoNode, 9, sequence}, dataplane::hash_bytes(payload.bytes()), kAllPartitions, bytes};
    Outgoing& out =
        effects.send_now(LocalRing::endpoint(0), MessageType::kSubmit,
                         Submit{to_wire(value), to_wire(cut(bytes, 65'000, 0)), std::uint64_t{1}});
    out.payload_hash = value.content_hash;
    out.payload = std::move(payload);
  }

  void poll(Nanos now) {
    for (auto& acceptor : ring.acceptors) acceptor->poll(now, 64);
    for (auto& learner : ring.learners) learner->poll(now, 64);
    for (std::size_t i = 0; i < 2; ++i) {
      Delivery delivery;
      while (ring.deliveries[i]->pop(delivery)) delivered[i] = delivery.value.id.sequence;
    }
    Port::release(port.receive(now));
  }

  BufferPool pool;
  LocalRing ring;
  Port port;
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
    ring.port.send(clock.now(), ring.effects);
    while (ring.delivered[0] < sequence || ring.delivered[1] < sequence) ring.poll(clock.now());
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(sequence));
  state.SetBytesProcessed(static_cast<std::int64_t>(sequence * bytes));
}
BENCHMARK(order)->ArgNames({"bytes", "burst"})->ArgsProduct({{64, 2'560, 8'192, 53'000}, {1, 16}});

}  // namespace
}  // namespace annulus::consensus
BENCHMARK_MAIN();
