// The B-tree service alone, through execute(), beside absl::btree_map with the same keys: 10 M
// random 64-bit keys, 8-byte values, in random order. The service's time includes writing the
// bodies of the commands and their replies. Estimate: a command misses the cache on its segment's
// root, one line of separators and eight of leaf, of which 50 commands overlap some ten deep: 110
// ns, and 60 ns of search, move and hash; 6 M/s. A range of 1,000 reads 52 leaves, 26 KB, at 10
// GB/s 2.7 us, and writes 18 KB: 200 k/s.
#include <absl/container/btree_map.h>
#include <benchmark/benchmark.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "statemachine/btree/btree.h"

namespace annulus::statemachine::btree {
namespace {

constexpr std::uint32_t kRun = 50;
constexpr std::uint32_t kReplyBytesMax = 64 * 1024;
constexpr std::uint32_t kRangeEntries = 1'000;

/// The n-th of the keys, which are all different: an invertible mix of n.
std::uint64_t key_of(std::uint64_t n) {
  n = (n ^ (n >> 31)) * 0x9e3779b97f4a7c15;
  n = (n ^ (n >> 29)) * 0xbf58476d1ce4e5b9;
  return n ^ (n >> 32);
}

std::uint64_t next(std::uint64_t& random) {
  random ^= random << 13;
  random ^= random >> 7;
  random ^= random << 17;
  return random;
}

/// The service and what one run of commands needs.
class Bench {
 public:
  void add(BtreeOp op, std::uint64_t key) {
    const std::uint64_t value = key;
    const bool insert = op == BtreeOp::kInsert;
    const bool range = op == BtreeOp::kRange;
    const BtreeRequest request{.op = op,
                               .key = key,
                               .last = range ? ~std::uint64_t{0} : 0,
                               .limit = range ? kRangeEntries : 0,
                               .value = insert ? std::as_bytes(std::span{&value, 1}) : Bytes{}};
    const std::span body{bodies_[count_].data(), body_bytes(request)};
    encode(request, body);
    commands_[count_++] = {&header_, body};
  }
  void execute() {
    replies_.clear();
    service_.execute({commands_.data(), count_}, replies_);
    for (const Replies::Entry& entry : replies_.entries()) {
      CHECK(entry.status == CommandStatus::kOk);
    }
    count_ = 0;
  }

 private:
  BtreeService service_{BtreeOptions{.limit_bytes = std::uint64_t{4} << 30}};
  std::unique_ptr<std::byte[]> memory_{new std::byte[kRun * kReplyBytesMax]};
  std::array<Replies::Entry, kRun> entries_;
  Replies replies_{{memory_.get(), kRun* kReplyBytesMax}, entries_, kReplyBytesMax};
  std::array<std::array<std::byte, 48>, kRun> bodies_;
  std::array<Command, kRun> commands_;
  CommandHeader header_{};
  std::uint32_t count_ = 0;
};

using Map = absl::btree_map<std::uint64_t, std::uint64_t>;

std::unique_ptr<Bench> loaded_service;
std::uint64_t loaded_keys = 0;
std::unique_ptr<Map> loaded_map;

/// Inserts all keys into an empty tree; leaves it for the benchmarks that follow.
void service_insert(benchmark::State& state) {
  loaded_keys = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) {
    state.PauseTiming();
    loaded_service.reset();
    loaded_service = std::make_unique<Bench>();
    state.ResumeTiming();
    for (std::uint64_t n = 0; n < loaded_keys;) {
      for (std::uint32_t i = 0; i < kRun && n < loaded_keys; ++i) {
        loaded_service->add(BtreeOp::kInsert, key_of(n++));
      }
      loaded_service->execute();
    }
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void absl_insert(benchmark::State& state) {
  loaded_keys = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) {
    state.PauseTiming();
    loaded_map.reset();
    loaded_map = std::make_unique<Map>();
    state.ResumeTiming();
    for (std::uint64_t n = 0; n < loaded_keys; ++n) {
      const std::uint64_t key = key_of(n);
      loaded_map->insert({key, key});
    }
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(loaded_keys));
}

void service_run(benchmark::State& state, BtreeOp op, std::uint32_t run) {
  std::uint64_t random = 0x2545f4914f6cdd1d;
  for (auto _ : state) {
    for (std::uint32_t i = 0; i < run; ++i) {
      loaded_service->add(op, key_of(next(random) % loaded_keys));
    }
    loaded_service->execute();
  }
  state.SetItemsProcessed(state.iterations() * run);
}
void service_read(benchmark::State& state) { service_run(state, BtreeOp::kRead, kRun); }
void service_update(benchmark::State& state) { service_run(state, BtreeOp::kInsert, kRun); }
void service_range_1000(benchmark::State& state) { service_run(state, BtreeOp::kRange, 10); }

void absl_read(benchmark::State& state) {
  std::uint64_t random = 0x2545f4914f6cdd1d;
  for (auto _ : state) {
    benchmark::DoNotOptimize(loaded_map->find(key_of(next(random) % loaded_keys))->second);
  }
  state.SetItemsProcessed(state.iterations());
}

/// Copies the entries out, as the service does.
void absl_range_1000(benchmark::State& state) {
  std::uint64_t random = 0x2545f4914f6cdd1d;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> reply(kRangeEntries);
  for (auto _ : state) {
    auto at = loaded_map->lower_bound(key_of(next(random) % loaded_keys));
    std::uint32_t count = 0;
    for (; count < kRangeEntries && at != loaded_map->end(); ++at) reply[count++] = *at;
    benchmark::DoNotOptimize(reply.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations());
}

/// In this order: the inserts load what the others read.
void register_for(std::int64_t keys) {
  const std::string suffix = "/keys:" + std::to_string(keys);
  const auto add = [&](const char* name, void (*function)(benchmark::State&)) {
    return benchmark::RegisterBenchmark((name + suffix).c_str(), function);
  };
  const auto load = [&](const char* name, void (*function)(benchmark::State&)) {
    add(name, function)->Arg(keys)->Iterations(1)->Unit(benchmark::kMillisecond);
  };
  load("service_insert", service_insert);
  add("service_read", service_read);
  add("service_update", service_update);
  add("service_range_1000", service_range_1000);
  load("absl_insert", absl_insert);
  add("absl_read", absl_read);
  add("absl_range_1000", absl_range_1000);
}

}  // namespace
}  // namespace annulus::statemachine::btree

int main(int argc, char** argv) {
  annulus::statemachine::btree::register_for(100'000);  // for the brief run
  annulus::statemachine::btree::register_for(10'000'000);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
