#include "recovery/uring_disk.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "recovery/shared_sync.h"

namespace annulus::recovery {
namespace {

constexpr std::size_t kFillBytes = 1u << 20;
constexpr int kLockTries = 200;  // 10 ms apart

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Aligned = std::unique_ptr<std::byte, FreeMemory>;
Aligned aligned(std::size_t bytes) {
  return Aligned(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, bytes)));
}

Error failed(const std::string& path, const std::string& what, int error,
             const std::string& remedy) {
  return Error{path + ": " + what + ": " + std::strerror(error) + "; " + remedy};
}

class FileDisk final : public Disk {
 public:
  FileDisk(std::string path, int file, std::uint64_t bytes, SyncMethod sync)
      : path_(std::move(path)), file_(file), bytes_(bytes), sync_(sync) {}
  ~FileDisk() override {
    if (ring_made_) io_uring_queue_exit(&ring_);
    close(file_);
  }
  std::uint64_t bytes() const override { return bytes_; }
  const std::string& name() const override { return path_; }

  Status read(std::uint64_t offset, std::span<std::byte> into) override {
    const Aligned memory = aligned(into.size());
    for (std::size_t have = 0; have < into.size();) {
      const ssize_t got =
          pread(file_, memory.get() + have, into.size() - have, static_cast<off_t>(offset + have));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        return failed(path_, "cannot be read at byte " + std::to_string(offset + have),
                      got == 0 ? ENODATA : errno, "see the kernel's log for the disk's state");
      }
      have += static_cast<std::size_t>(got);
    }
    std::memcpy(into.data(), memory.get(), into.size());
    return {};
  }

  Status write(std::uint64_t offset, std::span<const std::byte> from) override {
    const Aligned memory = aligned(from.size());
    std::memcpy(memory.get(), from.data(), from.size());
    const ssize_t put = pwrite(file_, memory.get(), from.size(), static_cast<off_t>(offset));
    if (put != static_cast<ssize_t>(from.size()) || fdatasync(file_) != 0) {
      return failed(path_, "cannot be written at byte " + std::to_string(offset),
                    put >= 0 && put < static_cast<ssize_t>(from.size()) ? ENOSPC : errno,
                    "see the kernel's log for the disk's state");
    }
    return {};
  }

  Status attach(std::span<std::byte> memory) override {
    // Twice as many: a sync is an entry of its own.
    int error = -io_uring_queue_init(2 * kTransfersMax, &ring_, 0);
    if (error != 0) {
      return failed(path_, "io_uring cannot be set up", error,
                    "the kernel must have it, and /proc/sys/kernel/io_uring_disabled be 0");
    }
    ring_made_ = true;
    error = -io_uring_register_files(&ring_, &file_, 1);
    if (error != 0) return failed(path_, "cannot be registered with io_uring", error, "");
    const iovec range{memory.data(), memory.size()};
    registered_ = io_uring_register_buffers(&ring_, &range, 1) == 0;
    if (!registered_) {
      std::fprintf(stderr,
                   "warning: %s: its %zu KiB of buffers cannot be registered, so transfers cost "
                   "more; raise the limit of locked memory (ulimit -l)\n",
                   path_.c_str(), memory.size() >> 10);
    }
    return {};
  }

  void start(const Transfer& transfer) override {
    io_uring_sqe* entry = next_entry();
    if (transfer.write && registered_) {
      io_uring_prep_write_fixed(entry, 0, transfer.data, transfer.bytes, transfer.offset, 0);
    } else if (transfer.write) {
      io_uring_prep_write(entry, 0, transfer.data, transfer.bytes, transfer.offset);
    } else if (registered_) {
      io_uring_prep_read_fixed(entry, 0, transfer.data, transfer.bytes, transfer.offset, 0);
    } else {
      io_uring_prep_read(entry, 0, transfer.data, transfer.bytes, transfer.offset);
    }
    const std::uint64_t about = transfer.token | std::uint64_t{transfer.bytes} << 32;
    entry->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(entry, about);
    if (!transfer.write) return;
    if (sync_ == SyncMethod::kWriteThrough) {
      entry->rw_flags = RWF_DSYNC;
    } else if (sync_ == SyncMethod::kLinkedSync || (linked_ == 0 && shared_.at_rest())) {
      // Done is the pair: the write tells of a failure or a short write, the sync of success.
      entry->flags |= IOSQE_IO_LINK;
      io_uring_sqe_set_data64(entry, about | kLinkedWrite);
      start_sync(about | kLinkedFsync);
      ++linked_;
    } else {
      io_uring_sqe_set_data64(entry, about | kWrite);
      shared_.write_begun();
    }
  }

  void submit() override {
    if (linked_ == 0 && shared_.wanted()) {
      shared_.begin();
      start_sync(kSharedFsync);
    }
    if (io_uring_sq_ready(&ring_) == 0) return;
    // What it does not take now, for want of memory, it is given again.
    const int submitted = io_uring_submit(&ring_);
    CHECK(submitted >= 0 || submitted == -EAGAIN || submitted == -EBUSY || submitted == -EINTR);
  }

  std::uint32_t done(std::span<TransferDone> into) override {
    std::uint32_t count = 0;
    io_uring_cqe* entry = nullptr;
    while (count < into.size() && io_uring_peek_cqe(&ring_, &entry) == 0) {
      const std::uint64_t data = io_uring_cqe_get_data64(entry);
      const TransferDone whole{static_cast<std::uint32_t>(data & 0xffff),
                               static_cast<std::int64_t>(data >> 32)};
      const std::int64_t result = entry->res;
      if ((data & kSharedFsync) != 0) {
        if (into.size() - count < shared_.covered()) break;
        count += shared_.end(result, into.subspan(count));
      } else if ((data & kLinkedFsync) != 0) {
        --linked_;
        into[count++] = {whole.token, result == 0 ? whole.result : result};
      } else if ((data & (kLinkedWrite | kWrite)) == 0 || result != whole.result) {
        into[count++] = {whole.token, result};
      }
      if ((data & kWrite) != 0 && result == whole.result) shared_.write_ended(whole);
      if ((data & kWrite) != 0 && result != whole.result) shared_.write_failed();
      io_uring_cqe_seen(&ring_, entry);
    }
    return count;
  }

 private:
  static constexpr std::uint64_t kLinkedWrite = 1u << 16;
  static constexpr std::uint64_t kLinkedFsync = 1u << 17;
  static constexpr std::uint64_t kWrite = 1u << 18;  // durable with the next shared sync
  static constexpr std::uint64_t kSharedFsync = 1u << 19;

  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    CHECK(entry != nullptr);
    return entry;
  }
  void start_sync(std::uint64_t about) {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_fsync(entry, 0, IORING_FSYNC_DATASYNC);
    entry->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(entry, about);
  }

  std::string path_;
  int file_;
  std::uint64_t bytes_;
  SyncMethod sync_;
  io_uring ring_{};
  bool ring_made_ = false;
  bool registered_ = false;
  std::uint32_t linked_ = 0;  // writes under way, each with a sync of its own
  SharedSync shared_;
};

Result<int> open_file(const std::string& path, int flags) {
  const int file = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (file >= 0) return file;
  if (errno == EINVAL) {
    return failed(path, "cannot be opened for direct transfers", errno,
                  "put it on a file system that has O_DIRECT, such as ext4 or xfs");
  }
  return failed(path, "cannot be opened", errno,
                "'directory' of the acceptor must exist, and this user may write to it");
}

/// Writes zeros to [from, below), so that the blocks are allocated and marked as written.
Status fill(const std::string& path, int file, std::uint64_t from, std::uint64_t below) {
  const std::string room = std::to_string((below - from) >> 20) + " MiB";
  const std::string remedy = "make room for " + room + " there, or lower the acceptor's 'log_mb'";
  // Space is taken first, so that a disk that is too small is found at once.
  if (posix_fallocate(file, static_cast<off_t>(from), static_cast<off_t>(below - from)) != 0) {
    return failed(path, "has no room for the log", ENOSPC, remedy);
  }
  const Aligned zeros = aligned(kFillBytes);
  std::memset(zeros.get(), 0, kFillBytes);
  for (std::uint64_t at = from; at < below; at += kFillBytes) {
    const std::size_t part = std::min<std::uint64_t>(kFillBytes, below - at);
    const ssize_t put = pwrite(file, zeros.get(), part, static_cast<off_t>(at));
    if (put != static_cast<ssize_t>(part)) {
      return failed(path, "cannot be filled", put < 0 ? errno : ENOSPC, remedy);
    }
  }
  if (fsync(file) != 0) return failed(path, "cannot be made durable", errno, remedy);
  return {};
}

/// The lock belongs to the file that was registered with the ring, which outlives its process until
/// the last transfer is done: who gets the lock reads what the one before it wrote. So a lock that
/// is held is waited for a little.
Status lock(const std::string& path, int file) {
  for (int i = 0; i < kLockTries; ++i) {
    if (flock(file, LOCK_EX | LOCK_NB) == 0) return {};
    usleep(10'000);
  }
  return Error{path + ": is in use by another process; an acceptor runs once. Stop the other one"};
}

}  // namespace

Result<std::unique_ptr<Disk>> UringDisk::create(const std::string& path, std::uint64_t bytes,
                                                SyncMethod sync) {
  const auto file = open_file(path, O_RDWR | O_DIRECT | O_CREAT | O_TRUNC);
  if (!file) return file.error();
  auto disk = std::make_unique<FileDisk>(path, *file, bytes, sync);
  if (Status locked = lock(path, *file); !locked) return locked.error();
  if (Status filled = fill(path, *file, 0, bytes); !filled) {
    unlink(path.c_str());
    return filled.error();
  }
  return std::unique_ptr<Disk>(std::move(disk));
}

Result<std::unique_ptr<Disk>> UringDisk::open(const std::string& path, std::uint64_t bytes) {
  const auto file = open_file(path, O_RDWR | O_DIRECT);
  if (!file) return file.error();
  struct stat about {};
  CHECK(fstat(*file, &about) == 0);
  const std::uint64_t size = static_cast<std::uint64_t>(about.st_size) / kBlockBytes * kBlockBytes;
  auto disk =
      std::make_unique<FileDisk>(path, *file, std::max(size, bytes), SyncMethod::kSharedSync);
  if (Status locked = lock(path, *file); !locked) return locked.error();
  if (size < bytes) {
    if (Status grown = fill(path, *file, size, bytes); !grown) return grown.error();
  }
  return std::unique_ptr<Disk>(std::move(disk));
}

Result<std::unique_ptr<Disk>> UringDisk::open_to_read(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return failed(path, "cannot be read", errno, "name an acceptor's log");
  struct stat about {};
  CHECK(fstat(file, &about) == 0);
  const std::uint64_t size = static_cast<std::uint64_t>(about.st_size) / kBlockBytes * kBlockBytes;
  return std::unique_ptr<Disk>(
      std::make_unique<FileDisk>(path, file, size, SyncMethod::kSharedSync));
}

}  // namespace annulus::recovery
