#include "tools/proxy/request.h"

#include <charconv>
#include <cstdio>
#include <cstring>

namespace annulus::proxy {
namespace {

using statemachine::btree::BtreeOp;
using statemachine::kv::KvOp;

constexpr std::string_view kSyntaxError = "ERR syntax error";
constexpr std::string_view kNotInteger = "ERR value is not an integer or out of range";

statemachine::kv::Bytes bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

/// A key of the B-tree: unsigned decimal; "-" and "+" are the ends of the key space.
bool parse_btree_key(std::string_view text, std::uint64_t& key) {
  if (text == "-" || text == "+") {
    key = text == "-" ? 0 : ~std::uint64_t{0};
    return true;
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), key);
  return !text.empty() && error == std::errc{} && end == text.data() + text.size();
}

/// The options of SET. The expiry options are recognised, so that they are refused by name.
struct SetOptions {
  bool nx = false;
  bool xx = false;
  bool get = false;
  bool keep_ttl = false;
  std::string_view expiry;  // its number, if an expiry was asked for
};

bool parse_set_options(std::span<const std::string_view> arguments, SetOptions& options) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view option = arguments[i];
    const bool expires = equals_ignoring_case(option, "EX") || equals_ignoring_case(option, "PX") ||
                         equals_ignoring_case(option, "EXAT") ||
                         equals_ignoring_case(option, "PXAT");
    if (equals_ignoring_case(option, "NX") && !options.xx) {
      options.nx = true;
    } else if (equals_ignoring_case(option, "XX") && !options.nx) {
      options.xx = true;
    } else if (equals_ignoring_case(option, "GET")) {
      options.get = true;
    } else if (equals_ignoring_case(option, "KEEPTTL") && options.expiry.data() == nullptr) {
      options.keep_ttl = true;
    } else if (expires && !options.keep_ttl && options.expiry.data() == nullptr &&
               i + 1 < arguments.size()) {
      options.expiry = arguments[++i];
    } else {
      return false;
    }
  }
  return true;
}

/// A request as part of an atomic command.
template <typename AnyRequest>
std::uint32_t part_bytes(const AnyRequest& request) {
  return static_cast<std::uint32_t>(sizeof(statemachine::AtomicPart) +
                                    statemachine::padded(body_bytes(request)));
}
template <typename AnyRequest>
void write_part(std::uint8_t service, const AnyRequest& request, std::byte* to) {
  statemachine::AtomicPart part{};
  part.service = service;
  part.bytes = body_bytes(request);
  std::memcpy(to, &part, sizeof(part));
  encode(request, {to + sizeof(part), part.bytes});
}

}  // namespace

std::string_view Request::key_error(std::size_t bytes) {
  if (bytes == 0) return "ERR key is empty: a key has 1 to 250 bytes";
  const int length =
      std::snprintf(error_.data(), error_.size(), "ERR key is too long: %zu bytes, at most %u",
                    bytes, statemachine::kv::kKeyBytesMax);
  return {error_.data(), static_cast<std::size_t>(length)};
}

std::string_view Request::value_error(std::size_t bytes, std::uint32_t bytes_max) {
  const int length =
      std::snprintf(error_.data(), error_.size(), "ERR value is too large: %zu bytes, at most %u",
                    bytes, bytes_max);
  return {error_.data(), static_cast<std::size_t>(length)};
}

std::string_view Request::prepare(const CommandInfo& command, Strings arguments) {
  if (command.id >= CommandId::kBtInsert) return prepare_btree(command.id, arguments);
  service_ = services_.kv;
  kv_ = {};
  if (command.id == CommandId::kGet) {  // the two that matter most, first
    kv_.op = KvOp::kRead;
    kv_.key = bytes_of(arguments[1]);
    shape_ = ReplyShape::kBulk;
    return finish_kv();
  }
  if (command.id == CommandId::kSet) return prepare_set(arguments);
  return prepare_kv(command.id, arguments);
}

/// Checks the lengths and settles flags and size.
std::string_view Request::finish_kv() {
  namespace kv = statemachine::kv;
  if (!kv::encodable(kv_)) {
    if (kv::has_items(kv_.op)) {
      const bool pairs = kv_.op == KvOp::kPutMany;
      for (std::size_t i = 0; i < kv_.items.size(); ++i) {
        const std::size_t bytes = kv_.items[i].size();
        if (pairs && i % 2 == 1) {
          if (bytes > kv::kValueBytesMax) return value_error(bytes, kv::kValueBytesMax);
        } else if (bytes == 0 || bytes > kv::kKeyBytesMax) {
          return key_error(bytes);
        }
      }
    }
    if (kv_.value.size() > kv::kValueBytesMax) {
      return value_error(kv_.value.size(), kv::kValueBytesMax);
    }
    return key_error(kv_.key.size());
  }
  flags_ = kv::read_only(kv_.op) ? statemachine::kReadOnly : 0;
  body_bytes_ = kv::body_bytes(kv_);
  return {};
}

std::string_view Request::prepare_set(Strings arguments) {
  SetOptions options;
  if (arguments.size() > 3) {
    if (!parse_set_options(arguments.subspan(3), options)) return kSyntaxError;
    if (options.expiry.data() != nullptr) {
      std::int64_t amount = 0;
      if (!parse_integer(options.expiry, amount)) return kNotInteger;
      if (amount <= 0) return "ERR invalid expire time in 'set' command";
      return "ERR expiry is not supported: keys do not expire here, use SET without EX, PX, EXAT "
             "and PXAT";
    }
  }
  namespace kv = statemachine::kv;
  kv_.op = KvOp::kPut;
  kv_.key = bytes_of(arguments[1]);
  kv_.value = bytes_of(arguments[2]);
  kv_.flags =
      static_cast<std::uint8_t>((options.nx ? kv::kNotExists : 0) | (options.xx ? kv::kExists : 0) |
                                (options.get ? kv::kReturnOld : 0));
  shape_ = options.get                  ? ReplyShape::kOldValue
           : (options.nx || options.xx) ? ReplyShape::kOkOrNull
                                        : ReplyShape::kOk;
  return finish_kv();
}

std::string_view Request::prepare_kv(CommandId id, Strings arguments) {
  if (arguments.size() > 1) kv_.key = bytes_of(arguments[1]);
  switch (id) {
    case CommandId::kDbSize:
      kv_.op = KvOp::kCount;
      shape_ = ReplyShape::kInteger;
      return finish_kv();
    case CommandId::kFlushAll:
    case CommandId::kFlushDb:
      return prepare_flush(id, arguments);
    case CommandId::kSetNx:
    case CommandId::kGetSet:
      kv_.op = KvOp::kPut;
      kv_.flags =
          id == CommandId::kSetNx ? statemachine::kv::kNotExists : statemachine::kv::kReturnOld;
      kv_.value = bytes_of(arguments[2]);
      shape_ = id == CommandId::kSetNx ? ReplyShape::kOneOrZero : ReplyShape::kOldValue;
      return finish_kv();
    case CommandId::kGetDel:
      kv_.op = KvOp::kReadAndRemove;
      shape_ = ReplyShape::kBulk;
      return finish_kv();
    case CommandId::kStrlen:
      kv_.op = KvOp::kLength;
      shape_ = ReplyShape::kInteger;
      return finish_kv();
    case CommandId::kAppend:
      kv_.op = KvOp::kAppend;
      kv_.value = bytes_of(arguments[2]);
      shape_ = ReplyShape::kInteger;
      return finish_kv();
    case CommandId::kSetRange:
    case CommandId::kGetRange:
      return prepare_range(id, arguments);
    case CommandId::kDel:
    case CommandId::kExists:
    case CommandId::kMget:
    case CommandId::kMset:
    case CommandId::kMsetNx:
      return prepare_many(id, arguments);
    default:
      return prepare_sum(id, arguments);
  }
}

/// FLUSHDB empties the key-value service, FLUSHALL all there is, as one atomic command.
std::string_view Request::prepare_flush(CommandId id, Strings arguments) {
  const bool known = arguments.size() == 1 ||
                     (arguments.size() == 2 && (equals_ignoring_case(arguments[1], "ASYNC") ||
                                                equals_ignoring_case(arguments[1], "SYNC")));
  if (!known) return kSyntaxError;
  kv_.key = {};
  kv_.op = KvOp::kClear;
  shape_ = ReplyShape::kOk;
  const std::string_view error = finish_kv();
  if (id == CommandId::kFlushDb || services_.btree == 0) return error;
  service_ = statemachine::kSystemService;
  btree_ = {.op = BtreeOp::kClear};
  body_bytes_ = sizeof(statemachine::AtomicHead) + part_bytes(kv_) + part_bytes(btree_);
  return {};
}

/// INCR, DECR, INCRBY, DECRBY.
std::string_view Request::prepare_sum(CommandId id, Strings arguments) {
  std::int64_t amount = 1;
  if (id == CommandId::kIncrBy || id == CommandId::kDecrBy) {
    if (!parse_integer(arguments[2], amount)) return kNotInteger;
  }
  if (id == CommandId::kDecr || id == CommandId::kDecrBy) {
    if (amount == INT64_MIN) return "ERR decrement would overflow";
    amount = -amount;
  }
  kv_.op = KvOp::kIncrement;
  kv_.first = amount;
  shape_ = ReplyShape::kIncrement;
  return finish_kv();
}

/// SETRANGE, GETRANGE.
std::string_view Request::prepare_range(CommandId id, Strings arguments) {
  if (!parse_integer(arguments[2], kv_.first)) return kNotInteger;
  if (id == CommandId::kGetRange) {
    if (!parse_integer(arguments[3], kv_.last)) return kNotInteger;
    kv_.op = KvOp::kReadRange;
    shape_ = ReplyShape::kBulk;
    return finish_kv();
  }
  if (kv_.first < 0) return "ERR offset is out of range";
  kv_.op = KvOp::kWriteRange;
  kv_.value = bytes_of(arguments[3]);
  shape_ = ReplyShape::kInteger;
  const std::uint64_t end = static_cast<std::uint64_t>(kv_.first) + kv_.value.size();
  if (!kv_.value.empty() && end > statemachine::kv::kValueBytesMax) {
    return value_error(end, statemachine::kv::kValueBytesMax);
  }
  return finish_kv();
}

/// DEL, EXISTS, MGET, MSET, MSETNX.
std::string_view Request::prepare_many(CommandId id, Strings arguments) {
  const bool pairs = id == CommandId::kMset || id == CommandId::kMsetNx;
  if (pairs && arguments.size() % 2 == 0) {
    return id == CommandId::kMset ? "ERR wrong number of arguments for 'mset' command"
                                  : "ERR wrong number of arguments for 'msetnx' command";
  }
  if (id == CommandId::kDel && arguments.size() == 2) {
    kv_.op = KvOp::kRemove;
    shape_ = ReplyShape::kOneOrZero;
    return finish_kv();
  }
  kv_.key = {};
  for (std::size_t i = 1; i < arguments.size(); ++i) items_[i - 1] = bytes_of(arguments[i]);
  kv_.items = {items_.data(), arguments.size() - 1};
  switch (id) {
    case CommandId::kDel:
      kv_.op = KvOp::kRemoveMany;
      shape_ = ReplyShape::kInteger;
      break;
    case CommandId::kExists:
      kv_.op = KvOp::kExist;
      shape_ = ReplyShape::kInteger;
      break;
    case CommandId::kMget:
      kv_.op = KvOp::kReadMany;
      shape_ = ReplyShape::kValues;
      break;
    default:
      kv_.op = KvOp::kPutMany;
      kv_.flags = id == CommandId::kMsetNx ? statemachine::kv::kNotExists : 0;
      shape_ = id == CommandId::kMsetNx ? ReplyShape::kOneOrZero : ReplyShape::kOk;
  }
  return finish_kv();
}

std::string_view Request::prepare_btree(CommandId id, Strings arguments) {
  namespace btree = statemachine::btree;
  if (services_.btree == 0) {
    return "ERR this cluster has no B-tree service: add it to its configuration";
  }
  service_ = services_.btree;
  btree_ = {};
  if (!parse_btree_key(arguments[1], btree_.key)) return kNotInteger;
  if (id == CommandId::kBtInsert) {
    btree_.op = BtreeOp::kInsert;
    btree_.value = bytes_of(arguments[2]);
    if (btree_.value.size() > btree::kValueBytesMax) {
      return value_error(btree_.value.size(), btree::kValueBytesMax);
    }
    shape_ = ReplyShape::kInteger;
  } else if (id == CommandId::kBtDelete) {
    btree_.op = BtreeOp::kDelete;
    shape_ = ReplyShape::kOneOrZero;
  } else {
    if (!parse_btree_key(arguments[2], btree_.last)) return kNotInteger;
    btree_.op = id == CommandId::kBtRange ? BtreeOp::kRange : BtreeOp::kCount;
    shape_ = id == CommandId::kBtRange ? ReplyShape::kBtreeRange : ReplyShape::kInteger;
    if (arguments.size() > 3) {  // BT.RANGE first last LIMIT count
      if (arguments.size() != 5 || !equals_ignoring_case(arguments[3], "LIMIT")) {
        return kSyntaxError;
      }
      std::int64_t limit = 0;
      if (!parse_integer(arguments[4], limit) || limit <= 0 || limit > UINT32_MAX) {
        return "ERR LIMIT is a count of entries, from 1";
      }
      btree_.limit = static_cast<std::uint32_t>(limit);
    }
  }
  flags_ = btree::read_only(btree_.op) ? statemachine::kReadOnly : 0;
  body_bytes_ = btree::body_bytes(btree_);
  return {};
}

void Request::encode_clear_all(std::span<std::byte> body) const {
  std::memset(body.data(), 0, body.size());  // padding too
  statemachine::AtomicHead head{};
  head.kind = static_cast<std::uint8_t>(statemachine::SystemCommand::kAtomic);
  head.count = 2;
  std::memcpy(body.data(), &head, sizeof(head));
  std::byte* const parts = body.data() + sizeof(head);
  write_part(services_.kv, kv_, parts);
  write_part(services_.btree, btree_, parts + part_bytes(kv_));
}

void Request::encode(std::span<std::byte> body) const {
  if (service_ == statemachine::kSystemService) return encode_clear_all(body);
  if (service_ == services_.kv) {
    statemachine::kv::encode(kv_, body);
  } else {
    statemachine::btree::encode(btree_, body);
  }
}

}  // namespace annulus::proxy
