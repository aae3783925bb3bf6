// What a service author implements to have a deterministic service replicated.
//
// Guaranteed by the engine: every replica calls execute() with the same commands in the same order
// (commands with disjoint footprints may swap, once execution is parallel); a command with a
// session is executed at most once; nothing else touches the service's segments.
//
// Required of the service: the outcome of a command and the state it leaves depend only on the
// command's bytes and on the state that its footprint names. No clock, no randomness, no threads,
// no iteration in an order that differs between replicas (addresses, hash seeds), no floating point
// whose result depends on the machine. All state that matters lives in segments (segment.h).
// footprint() names every key that execute() reads or writes.
//
// Not guaranteed: that a read-only command runs on every replica (one suffices), or that execute()
// is called with more than one command at a time.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "statemachine/batch.h"
#include "statemachine/segment.h"

namespace annulus::statemachine {

/// One part of the state a command touches: the closed range [first, last] of the service's 64-bit
/// footprint space. Services addressed by hash use the key's hash and first == last; ordered
/// services use the key itself.
struct Access {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  bool write = false;
};

/// The accesses of one command. More than it holds becomes one access to everything.
class Footprint {
 public:
  static constexpr std::uint32_t kAccessesMax = 64;
  void read(std::uint64_t key) { add({key, key, false}); }
  void write(std::uint64_t key) { add({key, key, true}); }
  void add(const Access& access) {
    if (size_ < kAccessesMax) {
      accesses_[size_++] = access;
      return;
    }
    bool write = access.write;
    for (const Access& a : accesses()) write |= a.write;
    accesses_[0] = {0, ~std::uint64_t{0}, write};
    size_ = 1;
  }
  std::span<const Access> accesses() const { return {accesses_.data(), size_}; }
  void clear() { size_ = 0; }

 private:
  std::array<Access, kAccessesMax> accesses_;
  std::uint32_t size_ = 0;
};

/// The limit on replies is at least this: counts and the like need not ask whether they fit.
constexpr std::uint32_t kReplyBytesLeast = 64;

/// Where execute() puts its answers: one for each command, in order. Written by the worker's core
/// only. Bytes live until the worker has copied them into frames and the session table.
class Replies {
 public:
  struct Entry {
    CommandStatus status;
    std::uint32_t offset;
    std::uint32_t bytes;
  };
  /// `reply_bytes_max` limits each reply. `memory` has room for `entries.size()` replies of that
  /// size (of which only what is written is ever touched), so that no reply's room depends on the
  /// replies before it: replicas may cut runs differently.
  Replies(std::span<std::byte> memory, std::span<Entry> entries, std::uint32_t reply_bytes_max)
      : memory_(memory), entries_(entries), reply_bytes_max_(reply_bytes_max) {
    CHECK(reply_bytes_max >= kReplyBytesLeast &&
          memory.size() >= std::uint64_t{padded(reply_bytes_max)} * entries.size());
  }

  /// Where the current command's reply goes: exactly min(wanted, limit) bytes. What fits no reply
  /// is answered kTooLarge. Finish with done(). May be called again with more wanted; what was
  /// written is kept.
  std::span<std::byte> reserve(std::uint32_t wanted) {
    DCHECK(count_ < entries_.size());
    return memory_.subspan(used_, wanted < reply_bytes_max_ ? wanted : reply_bytes_max_);
  }
  std::uint32_t reply_bytes_max() const { return reply_bytes_max_; }
  /// Ends the current command's reply: status and the first `bytes` of what reserve() returned.
  void done(CommandStatus status, std::uint32_t bytes = 0) {
    DCHECK(count_ < entries_.size() && bytes <= reply_bytes_max_);
    entries_[count_++] = {status, static_cast<std::uint32_t>(used_), bytes};
    used_ += padded(bytes);
  }
  std::uint32_t count() const { return count_; }
  std::span<const Entry> entries() const { return entries_.first(count_); }
  std::span<const std::byte> bytes(const Entry& entry) const {
    return memory_.subspan(entry.offset, entry.bytes);
  }
  void clear() { used_ = 0, count_ = 0; }

 private:
  std::span<std::byte> memory_;
  std::span<Entry> entries_;
  std::uint32_t reply_bytes_max_;
  std::size_t used_ = 0;
  std::uint32_t count_ = 0;
};

class Service {
 public:
  virtual ~Service() = default;

  /// Short lower-case name, as in the config ("kv").
  virtual const char* name() const = 0;

  /// Adds what the command reads and writes. Pure: may run on any machine, before ordering, with
  /// malformed bytes (then it adds nothing, and execute() answers kMalformed).
  virtual void footprint(std::span<const std::byte> body, Footprint& footprint) const = 0;

  /// Executes a run of commands in order, and answers each with exactly one replies.done(). Called
  /// per burst, so that a service can prefetch for all commands before it touches the first.
  virtual void execute(std::span<const Command> commands, Replies& replies) = 0;

  /// All of the service's state. The engine reads it for hashes, checkpoints and transfer.
  virtual SegmentStore& segments() = 0;

  /// One segment was installed from outside; when all are, on_segments_installed() follows. For
  /// services whose checks take long: what is checked here, in a turn of its own, need not be
  /// checked then. After a failure as after one there.
  virtual Status on_segment_installed(SegmentId) { return {}; }

  /// Segments were installed or removed from outside: check their bytes, and rebuild whatever is
  /// kept beside them (directories, indexes). After a failure only SegmentStore::clear() and
  /// another call may follow.
  virtual Status on_segments_installed() = 0;

  /// How many key classes there are; the same on all replicas.
  virtual std::uint32_t key_classes() const = 0;

  /// Content hash of each of the key_classes() as maintained by execute(), and the same recomputed
  /// from the segments' bytes alone; replicas compare the second, tests compare both (T19).
  virtual void hashes(std::span<ContentHash> per_class) const = 0;
  virtual void recompute_hashes(std::span<ContentHash> per_class) const = 0;
};

}  // namespace annulus::statemachine
