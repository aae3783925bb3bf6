// Collects the fragments of one value. A value of one fragment is kept by reference; a longer one
// is copied, once, into a contiguous buffer.
#pragma once

#include <cstdint>

#include "consensus/messages.h"
#include "dataplane/buffer.h"

namespace annulus::consensus {

enum class AssemblyOutcome : std::uint8_t {
  kComplete,    // the fragment was the last one missing
  kPartial,     // taken; others are missing
  kDuplicate,   // was here already
  kMismatch,    // belongs to another value, or is cut differently
  kNoMemory,    // the pool is exhausted: treat as lost
  kBadContent,  // complete, but the bytes do not have the value's hash: everything was discarded
};

class Assembly {
 public:
  /// Forgets everything and waits for fragments of `value`.
  void start(const Value& value) {
    value_ = value;
    bytes_.reset();
    have_ = 0;
    count_ = 0;
    started_ = true;
  }
  void reset() {
    bytes_.reset();
    have_ = 0;
    count_ = 0;
    started_ = false;
  }

  /// Adds one validated fragment. `payload_hash` is that of the frame, already verified against the
  /// payload. `pool` gives the buffer of a longer value.
  AssemblyOutcome add(const Value& value, const Fragment& fragment, const dataplane::Slice& payload,
                      std::uint64_t payload_hash, dataplane::BufferPool& pool);
  /// Takes a value that is complete elsewhere on this node.
  void set(const Value& value, const dataplane::Slice& bytes) {
    value_ = value;
    bytes_ = bytes;
    have_ = ~std::uint64_t{0};
    count_ = 1;
    started_ = true;
  }

  bool started() const { return started_; }
  bool complete() const { return started_ && count_ != 0 && (have_ & all()) == all(); }
  /// Bit i: fragment i is missing; all ones while the count is not known.
  std::uint64_t missing() const { return count_ == 0 ? ~std::uint64_t{0} : all() & ~have_; }
  bool partial() const { return have_ != 0 && !complete(); }
  /// True if it holds a buffer of its own, not a frame's.
  bool copied() const { return count_ > 1; }
  const Value& value() const { return value_; }
  /// The whole value, once complete (empty for a no-op).
  const dataplane::Slice& bytes() const { return bytes_; }

 private:
  std::uint64_t all() const {
    return count_ == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count_) - 1;
  }

  Value value_;
  dataplane::Slice bytes_;
  std::uint64_t have_ = 0;
  std::uint32_t fragment_bytes_ = 0;
  std::uint16_t count_ = 0;
  bool started_ = false;
};

}  // namespace annulus::consensus
