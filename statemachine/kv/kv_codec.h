// Bodies of the key-value service's commands, and of its replies: what clients and the proxy write
// and read. Fill a KvRequest, ask body_bytes(), write with encode(); read replies with decode_*().
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "dataplane/result.h"
#include "dataplane/wire_int.h"
#include "statemachine/batch.h"

namespace annulus::statemachine::kv {

using Bytes = std::span<const std::byte>;

constexpr std::uint32_t kKeyBytesMax = 250;  // at least 1
constexpr std::uint32_t kValueBytesMax = 48 * 1024;

/// Each line: the fields of KvRequest used beside `key`; the reply under kOk; other outcomes.
/// Every command may also end kMalformed, kTooLarge (key, value or reply over its limit; nothing is
/// changed) or, where it writes, kNoSpace (nothing is changed).
enum class KvOp : std::uint8_t {
  kPut = 1,     // value, flags; nothing, or with kReturnOld decode_old(), also under kRefused
                // and kNotFound. kNotExists and present: kRefused. kExists and absent:
                // kNotFound
  kRead = 2,    // the value; kNotFound
  kRemove = 3,  // nothing; kNotFound
  kReadAndRemove = 4,  // the value; kNotFound
  kCompareAndSet = 5,  // expected, value; nothing; kNotFound; differs: kRefused, the present value
  kIncrement = 6,      // first: the summand; decode_integer(); kRefused, decode_refusal()
  kAppend = 7,         // value; decode_integer(): the new length. Absent counts as empty
  kReadRange = 8,   // first, last: byte positions, closed, below 0 from the end; the bytes, empty
                    // when absent
  kWriteRange = 9,  // first: offset; value; decode_integer(): the new length. Gaps become zeros;
                    // an empty value changes nothing
  kLength = 10,     // decode_integer(); 0 when absent
  kExist = 11,      // items: keys; decode_integer(): how many exist, repeated keys repeatedly
  kReadMany = 12,   // items: keys; ReadManyReply
  kPutMany = 13,  // items: key, value, key, value …; nothing. kNotExists: kRefused, with nothing
                  // changed, if any key is present
  kRemoveMany = 14,  // items: keys; decode_integer(): how many were present
  kCount = 15,       // no key; decode_integer(): keys in the service
  kClear = 16,       // no key; nothing: removes every key
};

enum KvFlag : std::uint8_t {
  kNotExists = 1,  // kPut, kPutMany: only if absent
  kExists = 2,     // kPut: only if present
  kReturnOld = 4,  // kPut: reply with the value before
};

/// Why kIncrement was refused.
enum class KvRefusal : std::uint8_t {
  kNotInteger = 1,  // the value is not a decimal 64-bit integer
  kOverflow = 2,    // the sum would not be one
};

/// One command. What its op does not use stays empty.
struct KvRequest {
  KvOp op{};
  std::uint8_t flags = 0;
  Bytes key;
  Bytes value;
  Bytes expected;
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::span<const Bytes> items;
};

/// First bytes of every body. Then, as the op asks: `first`, `last` (8 bytes each), key, value,
/// expected; or `count` items.
struct KvHead {
  std::uint8_t op;
  std::uint8_t flags;
  std::uint8_t key_bytes;
  std::uint8_t reserved;
  u16le value_bytes;
  u16le extra;  // kCompareAndSet: bytes of `expected`; ops with items: their number
};
static_assert(sizeof(KvHead) == 8);

/// Before each key, or key and value, of an op with items.
struct KvItem {
  u16le value_bytes;
  std::uint8_t key_bytes;
  std::uint8_t reserved;
};
static_assert(sizeof(KvItem) == 4);

constexpr bool has_items(KvOp op) {
  return op == KvOp::kExist || op == KvOp::kReadMany || op == KvOp::kPutMany ||
         op == KvOp::kRemoveMany;
}

/// Changes nothing: set CommandFlag kReadOnly in the command's header.
constexpr bool read_only(KvOp op) {
  return op == KvOp::kRead || op == KvOp::kReadRange || op == KvOp::kLength || op == KvOp::kExist ||
         op == KvOp::kReadMany || op == KvOp::kCount;
}

/// How many 8-byte arguments (`first`, `last`) follow the head.
constexpr std::uint32_t argument_count(KvOp op) {
  if (op == KvOp::kReadRange) return 2;
  return op == KvOp::kIncrement || op == KvOp::kWriteRange ? 1 : 0;
}

/// Whether every length of the request is within the limits; encode() demands it. The number of
/// items is limited to 65,535, and their sum by what a command may hold.
inline bool encodable(const KvRequest& request) {
  if (has_items(request.op)) {
    const bool pairs = request.op == KvOp::kPutMany;
    if (request.items.empty() || request.items.size() > (pairs ? 131'070u : 65'535u)) return false;
    if (pairs && request.items.size() % 2 != 0) return false;
    for (std::size_t i = 0; i < request.items.size(); ++i) {
      const std::size_t bytes = request.items[i].size();
      const bool value = pairs && i % 2 == 1;
      if (value ? bytes > kValueBytesMax : bytes == 0 || bytes > kKeyBytesMax) return false;
    }
    return true;
  }
  const bool keyless = request.op == KvOp::kCount || request.op == KvOp::kClear;
  return request.key.empty() == keyless && request.key.size() <= kKeyBytesMax &&
         request.value.size() <= kValueBytesMax && request.expected.size() <= kValueBytesMax;
}

/// Bytes of the body that encode() writes.
inline std::uint32_t body_bytes(const KvRequest& request) {
  std::size_t bytes = sizeof(KvHead);
  if (!has_items(request.op)) {
    bytes += argument_count(request.op) * 8 + request.key.size() + request.value.size() +
             request.expected.size();
    return static_cast<std::uint32_t>(bytes);
  }
  for (const Bytes item : request.items) bytes += item.size();
  const std::size_t count = request.items.size() / (request.op == KvOp::kPutMany ? 2 : 1);
  return static_cast<std::uint32_t>(bytes + count * sizeof(KvItem));
}

namespace detail {
inline std::byte* write(std::byte* to, Bytes from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
  return to + from.size();
}
inline std::byte* write_integer(std::byte* to, std::int64_t value) {
  const u64le wire = static_cast<std::uint64_t>(value);
  std::memcpy(to, &wire, sizeof(wire));
  return to + sizeof(wire);
}
}  // namespace detail

/// Writes the body. `body` holds body_bytes(request); the request is encodable().
inline void encode(const KvRequest& request, std::span<std::byte> body) {
  DCHECK(encodable(request) && body.size() == body_bytes(request));
  const bool pairs = request.op == KvOp::kPutMany;
  const std::size_t count = request.items.size() / (pairs ? 2 : 1);
  KvHead head{};
  head.op = static_cast<std::uint8_t>(request.op);
  head.flags = request.flags;
  head.key_bytes = static_cast<std::uint8_t>(request.key.size());
  head.value_bytes = static_cast<std::uint16_t>(request.value.size());
  head.extra = static_cast<std::uint16_t>(has_items(request.op) ? count : request.expected.size());
  std::memcpy(body.data(), &head, sizeof(head));
  std::byte* to = body.data() + sizeof(head);
  if (!has_items(request.op)) {
    const std::uint32_t arguments = argument_count(request.op);
    if (arguments >= 1) to = detail::write_integer(to, request.first);
    if (arguments >= 2) to = detail::write_integer(to, request.last);
    to = detail::write(to, request.key);
    to = detail::write(to, request.value);
    detail::write(to, request.expected);
    return;
  }
  for (std::size_t i = 0; i < request.items.size(); i += pairs ? 2 : 1) {
    const Bytes value = pairs ? request.items[i + 1] : Bytes{};
    KvItem item{};
    item.value_bytes = static_cast<std::uint16_t>(value.size());
    item.key_bytes = static_cast<std::uint8_t>(request.items[i].size());
    std::memcpy(to, &item, sizeof(item));
    to = detail::write(to + sizeof(item), request.items[i]);
    to = detail::write(to, value);
  }
}

/// The reply of the ops that answer with a number; 0 if the reply is not one.
inline std::int64_t decode_integer(Bytes reply) {
  u64le value = 0;
  if (reply.size() == sizeof(value)) std::memcpy(&value, reply.data(), sizeof(value));
  return static_cast<std::int64_t>(value.get());
}

/// The reply of kPut with kReturnOld: the value before, or nothing if the key was absent.
inline std::optional<Bytes> decode_old(Bytes reply) {
  if (reply.empty() || reply[0] == std::byte{0}) return std::nullopt;
  return reply.subspan(1);
}

/// The reply of a refused kIncrement.
inline KvRefusal decode_refusal(Bytes reply) {
  return reply.empty() ? KvRefusal::kNotInteger : static_cast<KvRefusal>(reply[0]);
}

/// Walks the reply of kReadMany: one value, or nothing, for each key asked for, in order.
class ReadManyReply {
 public:
  static constexpr std::uint32_t kAbsent = 0xffffffff;

  explicit ReadManyReply(Bytes reply) : rest_(reply) {}
  /// False at the end (or where the bytes stop making sense).
  bool next(std::optional<Bytes>& value) {
    u32le bytes = 0;
    if (rest_.size() < sizeof(bytes)) return false;
    std::memcpy(&bytes, rest_.data(), sizeof(bytes));
    rest_ = rest_.subspan(sizeof(bytes));
    if (bytes == kAbsent) {
      value.reset();
      return true;
    }
    if (rest_.size() < bytes) return false;
    value = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return true;
  }

 private:
  Bytes rest_;
};

}  // namespace annulus::statemachine::kv
