#include "tools/bench/disk_probe.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "recovery/uring_disk.h"

namespace annulus::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kFileBytes = 1u << 30;
constexpr std::uint64_t kWriteBytes = 1u << 20;  // longer ones are no faster
constexpr std::uint32_t kWriters = 4;            // as many under way at once saturate a disk
constexpr std::uint32_t kSyncs = 300;

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Block = std::unique_ptr<std::byte, FreeMemory>;

Block block_of(std::uint64_t bytes) {
  Block block(static_cast<std::byte*>(std::aligned_alloc(recovery::kBlockBytes, bytes)));
  std::memset(block.get(), 0x5a, bytes);
  return block;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// False with errno set. Each writer takes the next part that nobody has.
bool write_all(int file) {
  std::atomic<std::uint64_t> next{0};  // relaxed: the parts are independent of each other
  std::atomic<int> failure{0};
  std::vector<std::thread> writers;
  for (std::uint32_t i = 0; i < kWriters; ++i) {
    writers.emplace_back([&] {
      const Block block = block_of(kWriteBytes);
      while (true) {
        const std::uint64_t at = next.fetch_add(kWriteBytes, std::memory_order_relaxed);
        if (at >= kFileBytes) return;
        if (pwrite(file, block.get(), kWriteBytes, static_cast<off_t>(at)) !=
            static_cast<ssize_t>(kWriteBytes)) {
          failure.store(errno != 0 ? errno : ENOSPC, std::memory_order_relaxed);
          return;
        }
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  errno = failure.load(std::memory_order_relaxed);
  return errno == 0 && fdatasync(file) == 0;
}

bool time_syncs(int file, std::vector<double>& took_us) {
  const Block block = block_of(recovery::kBlockBytes);
  for (std::uint32_t i = 0; i < kSyncs; ++i) {
    const Clock::time_point start = Clock::now();
    const off_t at = static_cast<off_t>(i) * recovery::kBlockBytes;
    if (pwrite(file, block.get(), recovery::kBlockBytes, at) !=
            static_cast<ssize_t>(recovery::kBlockBytes) ||
        fdatasync(file) != 0) {
      return false;
    }
    took_us.push_back(1e6 * seconds_since(start));
  }
  std::sort(took_us.begin(), took_us.end());
  return true;
}

/// As many files as there are logs, written as AcceptorLog writes them.
class LogProbe {
 public:
  Status open(const std::string& path, std::uint32_t logs) {
    for (std::uint32_t i = 0; i < logs; ++i) {
      auto made = recovery::UringDisk::create(path + "-" + std::to_string(i), kLogBytes);
      if (!made) return made.error();
      unlink(made.value()->name().c_str());
      files_.push_back({std::move(made).value(), block_of(kDepth * kGroupBytes), 0});
      File& file = files_.back();
      if (Status attached = file.disk->attach({file.memory.get(), kDepth * kGroupBytes});
          !attached) {
        return attached;
      }
    }
    return {};
  }

  /// Bytes a second over all of them; 0 if a write failed.
  double groups(double seconds) {
    const Clock::time_point start = Clock::now();
    for (File& file : files_) {
      for (std::uint32_t i = 0; i < kDepth; ++i) write(file, i, kGroupBytes);
    }
    std::uint64_t bytes = 0;
    for (std::uint32_t under_way = kDepth * static_cast<std::uint32_t>(files_.size());
         under_way != 0;) {
      const bool more = seconds_since(start) < seconds;
      for (File& file : files_) {
        std::array<recovery::TransferDone, recovery::Disk::kTransfersMax> dones;
        for (const auto& done : std::span(dones).first(file.disk->done(dones))) {
          if (done.result != kGroupBytes) return 0;
          bytes += kGroupBytes;
          if (more) {
            write(file, done.token, kGroupBytes);
          } else {
            --under_way;
          }
        }
        file.disk->submit();
      }
      std::this_thread::yield();
    }
    return static_cast<double>(bytes) / seconds_since(start);
  }

  /// Until most of them have a block more; 0 if a write failed.
  double majority_us() {
    const Clock::time_point start = Clock::now();
    double took = 0;
    for (File& file : files_) {
      write(file, 0, recovery::kBlockBytes);
      file.disk->submit();
    }
    for (std::size_t durable = 0; durable < files_.size();) {
      for (File& file : files_) {
        std::array<recovery::TransferDone, recovery::Disk::kTransfersMax> dones;
        for (const auto& done : std::span(dones).first(file.disk->done(dones))) {
          if (done.result != recovery::kBlockBytes) return 0;
          if (++durable == files_.size() / 2 + 1) took = 1e6 * seconds_since(start);
        }
        file.disk->submit();
      }
      std::this_thread::yield();
    }
    return took;
  }

 private:
  static constexpr std::uint64_t kLogBytes = 256u << 20;
  static constexpr std::uint32_t kGroupBytes = 256u << 10;
  static constexpr std::uint32_t kDepth = 8;
  struct File {
    std::unique_ptr<recovery::Disk> disk;
    Block memory;
    std::uint64_t next = 0;
  };

  static void write(File& file, std::uint32_t token, std::uint32_t bytes) {
    if (file.next + bytes > kLogBytes) file.next = 0;
    std::byte* data = file.memory.get() + std::size_t{token} * kGroupBytes;
    file.disk->start({true, token, file.next, data, bytes});
    file.next += bytes;
  }

  std::vector<File> files_;
};

Status probe_logs(const std::string& path, std::uint32_t logs, DiskFigures& figures) {
  LogProbe probe;
  if (Status opened = probe.open(path, logs); !opened) return opened;
  std::vector<double> took_us;
  for (std::uint32_t i = 0; i < kSyncs; ++i) took_us.push_back(probe.majority_us());
  std::sort(took_us.begin(), took_us.end());
  figures.majority_p50_us = took_us[kSyncs / 2];
  figures.group_bytes_per_second = probe.groups(1);
  if (took_us[0] != 0 && figures.group_bytes_per_second != 0) return {};
  return Error{path + ": a write failed; see the kernel's log for the disk's state"};
}

}  // namespace

annulus::Result<DiskFigures> probe_disk(const std::string& directory, std::uint32_t logs) {
  const std::string path = directory + "/annulus-bench-disk-" + std::to_string(getpid());
  // As the logs are made: filled, so that no write allocates.
  if (auto made = recovery::UringDisk::create(path, kFileBytes); !made) return made.error();
  const int file = open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC);
  unlink(path.c_str());
  DiskFigures figures;
  std::vector<double> syncs;
  const Clock::time_point start = Clock::now();
  bool done = file >= 0 && write_all(file);
  figures.bytes_per_second = static_cast<double>(kFileBytes) / seconds_since(start);
  done = done && time_syncs(file, syncs);
  const int error = errno;
  if (file >= 0) close(file);
  if (!done) {
    return Error{path + ": cannot be written (" + std::strerror(error) +
                 "); see the kernel's log for the disk's state"};
  }
  figures.sync_p50_us = syncs[syncs.size() / 2];
  figures.sync_p99_us = syncs[syncs.size() * 99 / 100];
  if (Status probed = probe_logs(path, logs, figures); !probed) return probed.error();
  return figures;
}

}  // namespace annulus::bench
