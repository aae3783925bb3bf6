// Cost of a frame over the in-process switch: unicast and multicast on one core, empty polls, and
// the round trip and stream between two cores. Print the machine's cache-line round trip beside it.
#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "dataplane/core_map.h"
#include "dataplane/local/local_transport.h"

namespace annulus::dataplane {
namespace {

constexpr std::uint32_t kBurst = 32;
const Endpoint kGroup{0xef000001, 4000};

std::vector<Endpoint> endpoints(std::uint32_t count) {
  std::vector<Endpoint> list;
  for (std::uint32_t i = 0; i < count; ++i) list.push_back({0x0a000001 + i, 4000});
  return list;
}

/// A burst of frames with heads of `head_bytes` and, if `pool` is given, a shared payload.
struct Burst {
  Burst(std::uint32_t count, std::size_t head_bytes, const Endpoint& destination)
      : head(head_bytes), to(destination), frames(count) {}
  void send(Transport& from, const Slice& payload) {
    for (TxFrame& frame : frames) frame = {to, head, payload};
    from.transmit(0, frames);
  }
  std::vector<std::byte> head;
  Endpoint to;
  std::vector<TxFrame> frames;
};

/// One thread sends and receives bursts between two endpoints of eight.
void unicast_same_core(benchmark::State& state) {
  const auto burst = static_cast<std::uint32_t>(state.range(0));
  BufferPool pool(4, 1024);
  LocalSwitch net(endpoints(8), {});
  std::array<RxFrame, kBurst> rx;
  Burst out(burst, 200, net.transport(1).endpoint());
  const Slice payload = pool.allocate();
  for (auto _ : state) {
    out.send(net.transport(0), payload);
    benchmark::DoNotOptimize(net.transport(1).receive(0, rx));
  }
  state.SetItemsProcessed(state.iterations() * burst);
}
BENCHMARK(unicast_same_core)->Arg(1)->Arg(8)->Arg(32);

/// One thread multicasts to `range(1)` receivers of eight endpoints; items are frames received.
void multicast_same_core(benchmark::State& state) {
  const auto burst = static_cast<std::uint32_t>(state.range(0));
  const auto receivers = static_cast<std::uint32_t>(state.range(1));
  BufferPool pool(4, 1024);
  LocalSwitch net(endpoints(8), {});
  for (std::uint32_t i = 0; i <= receivers; ++i) (void)net.transport(i).join(kGroup).ok();
  std::vector<std::array<RxFrame, kBurst>> rx(receivers + 1);
  Burst out(burst, 250, kGroup);
  const Slice payload = pool.allocate();
  for (auto _ : state) {
    out.send(net.transport(0), payload);
    for (std::uint32_t i = 1; i <= receivers; ++i) {
      benchmark::DoNotOptimize(net.transport(i).receive(0, rx[i]));
    }
  }
  state.SetItemsProcessed(state.iterations() * burst * receivers);
}
BENCHMARK(multicast_same_core)->Args({1, 5})->Args({8, 5})->Args({32, 5});

void empty_poll(benchmark::State& state) {
  LocalSwitch net(endpoints(static_cast<std::uint32_t>(state.range(0))), {});
  std::array<RxFrame, kBurst> rx;
  for (auto _ : state) benchmark::DoNotOptimize(net.transport(1).receive(0, rx));
}
BENCHMARK(empty_poll)->Arg(2)->Arg(8)->Arg(16);

/// A second core that sends every received frame back until told to stop.
class Echo {
 public:
  Echo(LocalTransport& transport, std::size_t head_bytes)
      : thread_([this, &transport, head_bytes] {
          (void)pin_this_thread(1).ok();
          std::vector<std::byte> head(head_bytes);
          std::array<RxFrame, kBurst> rx;
          std::array<TxFrame, kBurst> tx;
          while (!stop_.load(std::memory_order_relaxed)) {
            const std::uint32_t count = transport.receive(0, rx);
            for (std::uint32_t i = 0; i < count; ++i) {
              std::memcpy(head.data(), rx[i].head.data(), head.size());
              tx[i] = {rx[i].from, head, std::move(rx[i].payload)};
              rx[i] = {};
            }
            if (count != 0) transport.transmit(0, {tx.data(), count});
          }
        }) {}
  ~Echo() {
    stop_.store(true, std::memory_order_relaxed);
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

/// Round trips between two cores with `range(0)` frames in flight; items are round trips.
void round_trip_two_cores(benchmark::State& state) {
  const auto window = static_cast<std::uint32_t>(state.range(0));
  BufferPool pool(4, 1024);
  LocalSwitch net(endpoints(8), {});
  std::vector<RxFrame> rx(kBurst);
  (void)pin_this_thread(0).ok();
  const Slice payload = pool.allocate();
  std::vector<std::byte> head(200);
  std::vector<TxFrame> tx(window);
  const Endpoint to = net.transport(1).endpoint();
  Echo echo(net.transport(1), head.size());
  std::uint32_t credit = window;
  std::int64_t trips = 0;
  for (auto _ : state) {
    for (std::uint32_t i = 0; i < credit; ++i) tx[i] = {to, head, payload};
    net.transport(0).transmit(0, {tx.data(), credit});
    credit = 0;
    while (credit == 0) credit = net.transport(0).receive(0, rx);
    for (std::uint32_t i = 0; i < credit; ++i) {
      std::memcpy(head.data(), rx[i].head.data(), head.size());
    }
    trips += credit;
  }
  state.SetItemsProcessed(trips);
}
BENCHMARK(round_trip_two_cores)->Arg(1)->Arg(8)->Arg(32)->UseRealTime();

/// The floor of any hop between two cores: one line written there and back.
void cache_line_round_trip(benchmark::State& state) {
  alignas(64) static std::atomic<std::int64_t> ping{0};
  alignas(64) static std::atomic<std::int64_t> pong{0};
  ping = pong = 0;
  (void)pin_this_thread(0).ok();
  std::thread other([] {
    (void)pin_this_thread(1).ok();
    for (std::int64_t turn = 1;; ++turn) {
      std::int64_t seen;
      while ((seen = ping.load(std::memory_order_acquire)) != turn && seen >= 0) {
      }
      if (seen < 0) return;
      pong.store(turn, std::memory_order_release);
    }
  });
  std::int64_t turn = 0;
  for (auto _ : state) {
    ping.store(++turn, std::memory_order_release);
    while (pong.load(std::memory_order_acquire) != turn) {
    }
  }
  ping.store(-1, std::memory_order_release);
  other.join();
}
BENCHMARK(cache_line_round_trip)->UseRealTime();

}  // namespace
}  // namespace annulus::dataplane

BENCHMARK_MAIN();
