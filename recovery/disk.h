// A file or device of fixed size, in blocks: the one thing of storage that the simulator replaces.
// What lies in the blocks, and what is made of damaged ones, is for those who use it. One core.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "dataplane/result.h"

namespace annulus::recovery {

/// What is written as a whole or found torn; also the alignment of every transfer. A multiple of
/// the sectors of every disk in use, so that writing one block never rewrites part of another.
constexpr std::uint32_t kBlockBytes = 4'096;

/// One read or write under way. Offset and length are multiples of kBlockBytes; `data` lies in the
/// memory that was attached.
struct Transfer {
  bool write = false;
  std::uint32_t token = 0;
  std::uint64_t offset = 0;
  std::byte* data = nullptr;
  std::uint32_t bytes = 0;
};
struct TransferDone {
  std::uint32_t token = 0;
  std::int64_t result = 0;  // bytes moved, or the negative errno
};

class Disk {
 public:
  virtual ~Disk() = default;
  virtual std::uint64_t bytes() const = 0;
  /// For messages: the file's path.
  virtual const std::string& name() const = 0;

  // At start only: these block. What write() wrote is durable, and with it all written before.
  virtual Status read(std::uint64_t offset, std::span<std::byte> into) = 0;
  virtual Status write(std::uint64_t offset, std::span<const std::byte> from) = 0;

  /// The memory of all transfers; once, before the first. Aligned to kBlockBytes.
  virtual Status attach(std::span<std::byte> memory) = 0;
  /// Begins a transfer with the next submit(). A write that is done is durable; several may be done
  /// in any order. At most kTransfersMax are under way.
  virtual void start(const Transfer& transfer) = 0;
  virtual void submit() = 0;  // also what makes writes durable: call it after done(), too
  /// Those that are done since the last call, as many as fit: into room for kTransfersMax, all.
  virtual std::uint32_t done(std::span<TransferDone> into) = 0;

  static constexpr std::uint32_t kTransfersMax = 64;
};

}  // namespace annulus::recovery
