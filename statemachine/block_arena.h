// Carves slices of varying length from pooled blocks, one after the other: what is written together
// lies together, whatever the longest slice could be. One core owns it.
#pragma once

#include <cstdint>

#include "dataplane/buffer.h"

namespace annulus::statemachine {

class BlockArena {
 public:
  BlockArena(std::uint32_t blocks, std::uint32_t block_bytes) : pool_(blocks, block_bytes) {}

  /// Where the next slice begins, with room() bytes. Null before the first next_block().
  std::byte* at() { return block_ ? block_.mutable_data() + used_ : nullptr; }
  std::uint32_t room() const { return block_ ? block_.size() - used_ : 0; }

  /// Goes on in a fresh block. False when all are still referenced; nothing changed then.
  bool next_block() {
    dataplane::Slice fresh = pool_.allocate();
    if (!fresh) return false;
    block_ = std::move(fresh);
    used_ = 0;
    ++generation_;
    return true;
  }

  /// A reference to the `bytes` written at at(); the next slice begins after them, in a cache line
  /// of its own.
  dataplane::Slice commit(std::uint32_t bytes) {
    dataplane::Slice slice = block_.part(used_, bytes);
    const std::uint32_t taken = (bytes + 63) & ~63u;
    used_ = taken < room() ? used_ + taken : block_.size();
    return slice;
  }

  /// Touches the blocks that are used first, before the first is.
  void touch(std::uint64_t bytes) {
    pool_.touch(static_cast<std::uint32_t>(bytes / pool_.capacity()), bytes);
  }

  const dataplane::Slice& block() const { return block_; }
  /// Counts blocks begun: names the present one.
  std::uint32_t generation() const { return generation_; }
  std::uint32_t block_bytes() const { return pool_.capacity(); }

 private:
  dataplane::BufferPool pool_;
  dataplane::Slice block_;
  std::uint32_t used_ = 0;
  std::uint32_t generation_ = 0;
};

}  // namespace annulus::statemachine
