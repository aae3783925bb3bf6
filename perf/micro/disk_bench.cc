// What one durable write costs, by how it is made durable, how long it is, and how many are under
// way: this chose SyncMethod and the depth of AcceptorLog. The file is in the working directory.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdlib>

#include "recovery/uring_disk.h"

namespace annulus::recovery {
namespace {

constexpr std::uint64_t kFileBytes = 64u << 20;

void durable_writes(benchmark::State& state, SyncMethod sync) {
  const auto bytes = static_cast<std::uint32_t>(state.range(0));
  const auto depth = static_cast<std::uint32_t>(state.range(1));
  const std::string path = "disk-bench-" + std::to_string(getpid());
  auto made = UringDisk::create(path, kFileBytes, sync);
  unlink(path.c_str());
  if (!made) return state.SkipWithError(made.error().message.c_str());
  Disk& disk = **made;
  auto* memory =
      static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, std::size_t{bytes} * depth));
  CHECK(disk.attach({memory, std::size_t{bytes} * depth}).ok());
  std::uint64_t offset = 0;
  const auto start = [&](std::uint32_t token) {
    disk.start({true, token, offset, memory + std::size_t{token} * bytes, bytes});
    offset = offset + 2 * bytes > kFileBytes ? 0 : offset + bytes;
  };
  for (std::uint32_t i = 0; i < depth; ++i) start(i);
  disk.submit();
  TransferDone done[Disk::kTransfersMax];
  std::uint32_t ready = 0;
  for (auto _ : state) {  // one write done, and the next begun
    while (ready == 0) {
      ready = disk.done(done);
      if (ready == 0) disk.submit();
    }
    CHECK(done[ready - 1].result == bytes);
    start(done[--ready].token);
    disk.submit();
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * bytes);
  for (std::uint32_t left = depth - ready; left != 0; disk.submit()) left -= disk.done(done);
  made.value().reset();
  std::free(memory);
}

BENCHMARK_CAPTURE(durable_writes, write_through, SyncMethod::kWriteThrough)
    ->ArgNames({"bytes", "depth"})
    ->ArgsProduct({{4'096, 65'536, 262'144}, {1, 2, 4, 8}})
    ->UseRealTime();
BENCHMARK_CAPTURE(durable_writes, linked_fdatasync, SyncMethod::kLinkedSync)
    ->ArgNames({"bytes", "depth"})
    ->ArgsProduct({{4'096, 65'536, 262'144}, {1, 2, 4, 8}})
    ->UseRealTime();
BENCHMARK_CAPTURE(durable_writes, shared_fdatasync, SyncMethod::kSharedSync)
    ->ArgNames({"bytes", "depth"})
    ->ArgsProduct({{4'096, 65'536, 262'144}, {1, 2, 4, 8}})
    ->UseRealTime();

}  // namespace
}  // namespace annulus::recovery

BENCHMARK_MAIN();
