// A file as a Disk: O_DIRECT transfers through io_uring, with the file and the memory registered,
// and completions that are polled. The only user of liburing.
#pragma once

#include <memory>
#include <string>

#include "recovery/disk.h"

namespace annulus::recovery {

/// How a write is made durable. Measured in perf/micro/disk_bench.cc.
enum class SyncMethod : std::uint8_t {
  kWriteThrough,  // each write by itself: RWF_DSYNC; finished by a kernel thread of this very core,
                  // which a polling loop keeps waiting for milliseconds
  kLinkedSync,    // fdatasync linked to each write
  kSharedSync,  // linked to a write that is alone; else one at a time, each for all writes done by
                // the time it begins: under load a disk has fewer syncs to do, and longer ones
};

class UringDisk {
 public:
  /// A new file, filled with zeros so that its blocks exist: writing never allocates. The file
  /// system has the space or this fails.
  static Result<std::unique_ptr<Disk>> create(const std::string& path, std::uint64_t bytes,
                                              SyncMethod sync = SyncMethod::kSharedSync);
  /// An existing one; no other process has it open for writing. One shorter than `bytes` grows.
  static Result<std::unique_ptr<Disk>> open(const std::string& path, std::uint64_t bytes);
  /// For reading only, also while an acceptor writes it.
  static Result<std::unique_ptr<Disk>> open_to_read(const std::string& path);
};

}  // namespace annulus::recovery
