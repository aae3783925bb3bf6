// The key-value service alone, through execute() in runs of 50 commands with random keys; the time
// includes drawing the keys and writing the bodies. Estimate for 8 B / 8 B with 10 M keys: two
// cache misses a command (bucket, entry), of which 50 overlap some ten deep, 20 ns, and 40 ns of
// hashing, decoding and replies: 16 M/s. For 1 KiB values: 17 lines in and out of memory at 10
// GB/s, 220 ns, and 60 ns of hash: 3.6 M/s.
#include <absl/container/flat_hash_map.h>
#include <benchmark/benchmark.h>

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "statemachine/kv/kv.h"

namespace annulus::statemachine::kv {
namespace {

constexpr std::uint32_t kRun = 50;
constexpr std::uint32_t kReplyBytesMax = 64 * 1024;

std::uint64_t next_key(std::uint64_t& random, std::uint64_t keys) {
  random ^= random << 13;
  random ^= random >> 7;
  random ^= random << 17;
  return static_cast<std::uint64_t>(static_cast<Uint128>(random) * keys >> 64);
}

/// A loaded service and what one run needs.
class Bench {
 public:
  Bench(std::uint64_t keys, std::uint32_t value_bytes)
      : keys_(keys),
        service_(KvOptions{.limit_bytes = std::uint64_t{4} << 30}),
        memory_(new std::byte[kRun * kReplyBytesMax]),
        value_(value_bytes, std::byte{7}),
        bodies_(kRun * (sizeof(KvHead) + 8 + value_bytes)) {
    for (std::uint64_t key = 0; key < keys;) {
      start();
      while (key < keys && count_ < kRun) add(KvOp::kPut, key++);
      execute();
    }
  }

  void start() { count_ = 0, used_ = 0; }
  void add(KvOp op, std::uint64_t key) {
    const std::uint64_t number = ++counter_;
    std::memcpy(value_.data(), &number, sizeof(number));
    const KvRequest request{.op = op,
                            .key = std::as_bytes(std::span{&key, 1}),
                            .value = op == KvOp::kPut ? Bytes{value_} : Bytes{}};
    const std::uint32_t bytes = body_bytes(request);
    const std::span body{bodies_.data() + used_, bytes};
    encode(request, body);
    commands_[count_++] = {&header_, body};
    used_ += bytes;
  }
  void execute() {
    replies_.clear();
    service_.execute({commands_.data(), count_}, replies_);
    for (const Replies::Entry& entry : replies_.entries()) {
      CHECK(entry.status == CommandStatus::kOk);
    }
  }
  std::uint64_t random_key() { return next_key(random_, keys_); }
  std::uint32_t segments() { return service_.segments().count(); }

 private:
  std::uint64_t keys_;
  KvService service_;
  std::unique_ptr<std::byte[]> memory_;
  std::array<Replies::Entry, kRun> entries_;
  Replies replies_{{memory_.get(), kRun* kReplyBytesMax}, entries_, kReplyBytesMax};
  std::vector<std::byte> value_;
  std::vector<std::byte> bodies_;
  std::array<Command, kRun> commands_;
  CommandHeader header_{};
  std::uint32_t count_ = 0;
  std::size_t used_ = 0;
  std::uint64_t counter_ = 0;
  std::uint64_t random_ = 0x2545f4914f6cdd1d;
};

/// Loading takes seconds, and a benchmark is called several times.
Bench& loaded(std::uint64_t keys, std::uint32_t value_bytes) {
  static std::unique_ptr<Bench> bench;
  static std::uint64_t loaded_keys = 0;
  if (loaded_keys != keys) {
    bench.reset();
    bench = std::make_unique<Bench>(keys, value_bytes);
    loaded_keys = keys;
  }
  return *bench;
}

void run(benchmark::State& state, KvOp op) {
  Bench& bench = loaded(static_cast<std::uint64_t>(state.range(0)),
                        static_cast<std::uint32_t>(state.range(1)));
  for (auto _ : state) {
    bench.start();
    for (std::uint32_t i = 0; i < kRun; ++i) bench.add(op, bench.random_key());
    bench.execute();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * kRun);
  state.counters["segments"] = bench.segments();
}

void update(benchmark::State& state) { run(state, KvOp::kPut); }
void read(benchmark::State& state) { run(state, KvOp::kRead); }

/// What a hash map in memory does with the same keys, one after the other.
void flat_hash_map_update(benchmark::State& state) {
  static absl::flat_hash_map<std::uint64_t, std::uint64_t> map;
  const auto keys = static_cast<std::uint64_t>(state.range(0));
  for (std::uint64_t key = map.size(); key < keys; ++key) map[key] = key;
  std::uint64_t random = 0x2545f4914f6cdd1d;
  for (auto _ : state) map[next_key(random, keys)] = random;
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()));
}

constexpr std::int64_t kManyKeys = 10'000'000;
BENCHMARK(update)->Args({kManyKeys / 100, 8})->ArgNames({"keys", "value"});  // the brief run
BENCHMARK(update)->Args({kManyKeys, 8})->ArgNames({"keys", "value"});
BENCHMARK(read)->Args({kManyKeys, 8})->ArgNames({"keys", "value"});
BENCHMARK(update)->Args({kManyKeys / 10, 1024})->ArgNames({"keys", "value"});
BENCHMARK(read)->Args({kManyKeys / 10, 1024})->ArgNames({"keys", "value"});
BENCHMARK(flat_hash_map_update)->Args({kManyKeys, 8})->ArgNames({"keys", "value"});

}  // namespace
}  // namespace annulus::statemachine::kv

BENCHMARK_MAIN();
