// Bodies of the B-tree service's commands, and of its replies: what clients and the proxy write and
// read. Fill a BtreeRequest, ask body_bytes(), write with encode(); read replies with decode_*().
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "dataplane/result.h"
#include "dataplane/wire_int.h"
#include "statemachine/batch.h"

namespace annulus::statemachine::btree {

using Bytes = std::span<const std::byte>;

constexpr std::uint32_t kValueBytesMax = 1024;

/// Each line: the fields of BtreeRequest used; the reply under kOk; other outcomes. Every command
/// may also end kMalformed or kTooLarge (value over its limit); kInsert also kNoSpace. Keys are
/// ordered as unsigned integers.
enum class BtreeOp : std::uint8_t {
  kInsert = 1,  // key, value; decode_integer(): 1 if the key is new, 0 if its value was replaced
  kDelete = 2,  // key; nothing; kNotFound
  kRead = 3,    // key; the value; kNotFound
  kRange = 4,   // key .. last (closed), limit, bytes_limit; RangeReply
  kCount = 5,   // key .. last (closed); decode_integer(): how many keys
  kClear = 6,   // no key; nothing: removes every key
};

/// One command. What its op does not use stays zero.
struct BtreeRequest {
  BtreeOp op{};
  std::uint64_t key = 0;
  std::uint64_t last = 0;
  std::uint32_t limit = 0;        // most entries of a range; 0: as many as the reply may hold
  std::uint32_t bytes_limit = 0;  // most bytes of its reply; 0: as many as the reply may hold
  Bytes value;
};

/// First bytes of every body. kInsert: the value follows. kRange and kCount: a BtreeRange follows.
struct BtreeHead {
  std::uint8_t op;
  std::uint8_t reserved;
  u16le value_bytes;
  u32le limit;
  u64le key;
};
static_assert(sizeof(BtreeHead) == 16);
struct BtreeRange {
  u64le last;
  u32le bytes_limit;
  u32le reserved;
};
static_assert(sizeof(BtreeRange) == 16);

/// Changes nothing: set CommandFlag kReadOnly in the command's header.
constexpr bool read_only(BtreeOp op) { return op >= BtreeOp::kRead && op <= BtreeOp::kCount; }

/// Bytes of the body that encode() writes.
inline std::uint32_t body_bytes(const BtreeRequest& request) {
  if (request.op == BtreeOp::kRange || request.op == BtreeOp::kCount) {
    return sizeof(BtreeHead) + sizeof(BtreeRange);
  }
  return static_cast<std::uint32_t>(sizeof(BtreeHead) + request.value.size());
}

/// Writes the body. `body` holds body_bytes(request); the value is at most kValueBytesMax.
inline void encode(const BtreeRequest& request, std::span<std::byte> body) {
  DCHECK(body.size() == body_bytes(request) && request.value.size() <= kValueBytesMax);
  BtreeHead head{};
  head.op = static_cast<std::uint8_t>(request.op);
  head.value_bytes = static_cast<std::uint16_t>(request.value.size());
  head.limit = request.limit;
  head.key = request.key;
  std::memcpy(body.data(), &head, sizeof(head));
  std::byte* const rest = body.data() + sizeof(head);
  if (request.op == BtreeOp::kRange || request.op == BtreeOp::kCount) {
    BtreeRange range{};
    range.last = request.last;
    range.bytes_limit = request.bytes_limit;
    std::memcpy(rest, &range, sizeof(range));
  } else if (!request.value.empty()) {
    std::memcpy(rest, request.value.data(), request.value.size());
  }
}

/// The reply of kInsert and kCount; 0 if the reply is not a number.
inline std::int64_t decode_integer(Bytes reply) {
  u64le value = 0;
  if (reply.size() == sizeof(value)) std::memcpy(&value, reply.data(), sizeof(value));
  return static_cast<std::int64_t>(value.get());
}

/// First bytes of a kRange reply. `count` entries follow, in key order.
struct RangeHead {
  u32le count;
  u32le more;  // 1: a limit ended the reply; go on from the last key + 1
};
struct RangeEntry {
  u64le key;
  u16le value_bytes;  // the value follows
};
static_assert(sizeof(RangeHead) == 8 && sizeof(RangeEntry) == 10);

/// A smaller bytes_limit counts as this, so that one entry always fits.
constexpr std::uint32_t kRangeBytesLeast = sizeof(RangeHead) + sizeof(RangeEntry) + kValueBytesMax;

/// Walks the reply of kRange.
class RangeReply {
 public:
  explicit RangeReply(Bytes reply) : rest_(reply) {
    RangeHead head{};
    if (rest_.size() < sizeof(head)) return;
    std::memcpy(&head, rest_.data(), sizeof(head));
    rest_ = rest_.subspan(sizeof(head));
    count_ = head.count;
    more_ = head.more != 0;
  }
  std::uint32_t count() const { return count_; }
  bool more() const { return more_; }
  /// False at the end (or where the bytes stop making sense).
  bool next(std::uint64_t& key, Bytes& value) {
    RangeEntry entry{};
    if (rest_.size() < sizeof(entry)) return false;
    std::memcpy(&entry, rest_.data(), sizeof(entry));
    if (rest_.size() - sizeof(entry) < entry.value_bytes) return false;
    key = entry.key;
    value = rest_.subspan(sizeof(entry), entry.value_bytes);
    rest_ = rest_.subspan(sizeof(entry) + entry.value_bytes);
    return true;
  }

 private:
  Bytes rest_;
  std::uint32_t count_ = 0;
  bool more_ = false;
};

}  // namespace annulus::statemachine::btree
