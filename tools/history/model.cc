#include "tools/history/model.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "dataplane/hash.h"
#include "dataplane/result.h"
#include "statemachine/btree/btree_codec.h"
#include "statemachine/kv/kv_codec.h"

namespace annulus::history {
namespace {

using statemachine::SystemCommand;
using statemachine::btree::BtreeOp;
using statemachine::kv::KvOp;

/// Takes wire fields off the front of a body; the simulator only makes well-formed ones.
class Reader {
 public:
  explicit Reader(Bytes bytes) : rest_(bytes) {}
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t value = 0;
    CHECK(rest_.size() >= bytes);
    std::memcpy(&value, rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
    return value;
  }
  std::string text(std::size_t bytes) { return as_string(take(bytes)); }
  Bytes take(std::size_t bytes) {
    CHECK(rest_.size() >= bytes);
    const Bytes taken = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return taken;
  }

 private:
  Bytes rest_;
};

void append_number(std::string& to, std::uint64_t value, std::size_t bytes) {
  to.append(reinterpret_cast<const char*>(&value), bytes);
}
Outcome number(std::uint64_t value) {
  Outcome outcome;
  append_number(outcome.reply, value, 8);
  return outcome;
}
std::optional<std::int64_t> parse_integer(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || std::to_string(value) != text) return std::nullopt;
  return value;
}
KvOp kv_op(Bytes body) { return static_cast<KvOp>(body[0]); }

/// Calls `each(key, value)` for the items of a kv body that has them.
template <typename F>
void for_items(Bytes body, F each) {
  Reader reader(body);
  reader.number(6);
  const auto count = reader.number(2);
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto value_bytes = reader.number(2);
    const auto key_bytes = reader.number(1);
    reader.number(1);
    std::string key = reader.text(key_bytes);
    each(std::move(key), reader.text(value_bytes));
  }
}

/// Calls `each(service, body)` for the parts of an atomic command.
template <typename F>
void for_parts(Bytes body, F each) {
  Reader reader(body);
  reader.number(4);
  const auto count = reader.number(4);
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto service = static_cast<std::uint8_t>(reader.number(1));
    reader.number(3);
    const auto bytes = static_cast<std::uint32_t>(reader.number(4));
    each(service, reader.take(bytes));
    reader.take(statemachine::padded(bytes) - bytes);
  }
}
bool is_atomic(Bytes body) {
  return !body.empty() && body[0] == std::byte{static_cast<std::uint8_t>(SystemCommand::kAtomic)};
}

}  // namespace

Outcome Model::apply(std::uint8_t service, Bytes body) {
  Outcome outcome;
  if (service == kKvService) {
    outcome = statemachine::kv::has_items(kv_op(body)) ? apply_kv_items(body) : apply_kv(body);
  } else if (service == kBtreeService) {
    outcome = apply_btree(body);
  } else {
    CHECK(is_atomic(body));
    outcome = apply_atomic(body);
  }
  return outcome;
}

Outcome Model::put(std::uint8_t flags, const std::string& key, std::string value) {
  const auto found = kv_.find(key);
  const bool present = found != kv_.end();
  Outcome outcome;
  if (flags & statemachine::kv::kReturnOld) {
    outcome.reply = present ? std::string(1, '\1') + found->second : std::string();
  }
  if ((flags & statemachine::kv::kNotExists) && present) {
    outcome.status = CommandStatus::kRefused;
  } else if ((flags & statemachine::kv::kExists) && !present) {
    outcome.status = CommandStatus::kNotFound;
  } else {
    kv_[key] = std::move(value);
  }
  return outcome;
}

Outcome Model::increment(const std::string& key, std::int64_t by) {
  const auto found = kv_.find(key);
  const auto before = found == kv_.end() ? std::int64_t{0} : parse_integer(found->second);
  std::int64_t after = 0;
  if (!before) return {CommandStatus::kRefused, std::string(1, '\1')};
  if (__builtin_add_overflow(*before, by, &after)) {
    return {CommandStatus::kRefused, std::string(1, '\2')};
  }
  kv_[key] = std::to_string(after);
  return number(static_cast<std::uint64_t>(after));
}

Outcome Model::write_range(const std::string& key, std::int64_t offset, const std::string& value) {
  const auto found = kv_.find(key);
  if (value.empty()) return number(found == kv_.end() ? 0 : found->second.size());
  CHECK(offset >= 0);
  const auto from = static_cast<std::size_t>(offset);
  if (from + value.size() > statemachine::kv::kValueBytesMax) return {CommandStatus::kTooLarge, ""};
  std::string& text = kv_[key];
  if (text.size() < from + value.size()) text.resize(from + value.size());
  text.replace(from, value.size(), value);
  return number(text.size());
}

Outcome Model::apply_kv(Bytes body) {
  Reader reader(body);
  const auto op = static_cast<KvOp>(reader.number(1));
  const auto flags = static_cast<std::uint8_t>(reader.number(1));
  const auto key_bytes = reader.number(1);
  reader.number(1);
  const auto value_bytes = reader.number(2);
  const auto expected_bytes = reader.number(2);
  const std::uint32_t arguments = statemachine::kv::argument_count(op);
  const auto first = static_cast<std::int64_t>(arguments >= 1 ? reader.number(8) : 0);
  const auto last = static_cast<std::int64_t>(arguments >= 2 ? reader.number(8) : 0);
  const std::string key = reader.text(key_bytes);
  const std::string value = reader.text(value_bytes);
  const std::string expected = reader.text(expected_bytes);
  const auto found = kv_.find(key);
  const bool present = found != kv_.end();
  switch (op) {
    case KvOp::kPut:
      return put(flags, key, value);
    case KvOp::kRead:
      if (!present) return {CommandStatus::kNotFound, ""};
      return {CommandStatus::kOk, found->second};
    case KvOp::kRemove:
      return {kv_.erase(key) != 0 ? CommandStatus::kOk : CommandStatus::kNotFound, ""};
    case KvOp::kReadAndRemove: {
      if (!present) return {CommandStatus::kNotFound, ""};
      Outcome outcome{CommandStatus::kOk, found->second};
      kv_.erase(found);
      return outcome;
    }
    case KvOp::kCompareAndSet:
      if (!present) return {CommandStatus::kNotFound, ""};
      if (found->second != expected) return {CommandStatus::kRefused, found->second};
      found->second = value;
      return {};
    case KvOp::kIncrement:
      return increment(key, first);
    case KvOp::kAppend: {
      const std::size_t before = present ? found->second.size() : 0;
      if (before + value.size() > statemachine::kv::kValueBytesMax) {
        return {CommandStatus::kTooLarge, ""};
      }
      return number((kv_[key] += value).size());
    }
    case KvOp::kReadRange: {
      const auto size = static_cast<std::int64_t>(present ? found->second.size() : 0);
      const std::int64_t from = std::max<std::int64_t>(first < 0 ? first + size : first, 0);
      std::int64_t to = last < 0 ? std::max<std::int64_t>(last + size, 0) : last;
      to = std::min(to, size - 1);
      // Both ends beyond the beginning name nothing, as in GETRANGE.
      if (size == 0 || from > to || (first < 0 && last < 0 && first > last)) return {};
      return {CommandStatus::kOk, found->second.substr(static_cast<std::size_t>(from),
                                                       static_cast<std::size_t>(to - from + 1))};
    }
    case KvOp::kWriteRange:
      return write_range(key, first, value);
    case KvOp::kLength:
      return number(present ? found->second.size() : 0);
    case KvOp::kCount:
      return number(kv_.size());
    case KvOp::kClear:
      kv_.clear();
      return {};
    default:
      CHECK(!"a kv command that the model does not know");
  }
}

Outcome Model::apply_kv_items(Bytes body) {
  const KvOp op = kv_op(body);
  const auto flags = std::to_integer<std::uint8_t>(body[1]);
  std::uint64_t present = 0;
  std::string many;
  for_items(body, [&](const std::string& key, const std::string&) {
    const auto found = kv_.find(key);
    append_number(many, found == kv_.end() ? 0xffffffff : found->second.size(), 4);
    if (found == kv_.end()) return;
    many += found->second;
    ++present;
    if (op == KvOp::kRemoveMany) kv_.erase(found);
  });
  switch (op) {
    case KvOp::kExist:
    case KvOp::kRemoveMany:
      return number(present);
    case KvOp::kReadMany:
      if (many.size() > reply_bytes_max_) return {CommandStatus::kTooLarge, ""};
      return {CommandStatus::kOk, many};
    case KvOp::kPutMany:
      if ((flags & statemachine::kv::kNotExists) && present != 0) {
        return {CommandStatus::kRefused, ""};
      }
      for_items(body, [&](std::string key, std::string value) {
        kv_[std::move(key)] = std::move(value);
      });
      return {};
    default:
      CHECK(!"a kv command that the model does not know");
  }
}

Outcome Model::range(std::uint64_t first, std::uint64_t last, std::uint32_t limit,
                     std::uint32_t bytes_limit) const {
  const std::uint32_t wanted = std::max(bytes_limit, statemachine::btree::kRangeBytesLeast);
  const std::uint32_t room =
      bytes_limit == 0 ? reply_bytes_max_ : std::min(wanted, reply_bytes_max_);
  std::string entries;
  std::uint32_t count = 0;
  bool more = false;
  for (auto at = btree_.lower_bound(first); at != btree_.end() && at->first <= last; ++at) {
    if ((limit != 0 && count == limit) || 8 + entries.size() + 10 + at->second.size() > room) {
      more = true;
      break;
    }
    append_number(entries, at->first, 8);
    append_number(entries, at->second.size(), 2);
    entries += at->second;
    ++count;
  }
  Outcome outcome;
  append_number(outcome.reply, count, 4);
  append_number(outcome.reply, more ? 1 : 0, 4);
  outcome.reply += entries;
  return outcome;
}

Outcome Model::apply_btree(Bytes body) {
  Reader reader(body);
  const auto op = static_cast<BtreeOp>(reader.number(1));
  reader.number(1);
  const auto value_bytes = reader.number(2);
  const auto limit = static_cast<std::uint32_t>(reader.number(4));
  const std::uint64_t key = reader.number(8);
  const auto found = btree_.find(key);
  const auto absent = found == btree_.end();
  switch (op) {
    case BtreeOp::kInsert:
      btree_[key] = reader.text(value_bytes);
      return number(absent ? 1 : 0);
    case BtreeOp::kDelete:
      return {btree_.erase(key) != 0 ? CommandStatus::kOk : CommandStatus::kNotFound, ""};
    case BtreeOp::kRead:
      if (absent) return {CommandStatus::kNotFound, ""};
      return {CommandStatus::kOk, found->second};
    case BtreeOp::kRange: {
      const std::uint64_t last = reader.number(8);
      return range(key, last, limit, static_cast<std::uint32_t>(reader.number(4)));
    }
    case BtreeOp::kCount: {
      const std::uint64_t last = reader.number(8);
      if (last < key) return number(0);
      return number(static_cast<std::uint64_t>(
          std::distance(btree_.lower_bound(key), btree_.upper_bound(last))));
    }
    case BtreeOp::kClear:
      btree_.clear();
      return {};
  }
  CHECK(!"a btree command that the model does not know");
}

Outcome Model::apply_atomic(Bytes body) {
  Outcome outcome;
  for_parts(body, [&](std::uint8_t service, Bytes part) {
    const Outcome one = apply(service, part);
    append_number(outcome.reply, 0, 2);
    append_number(outcome.reply, static_cast<std::uint8_t>(one.status), 2);
    append_number(outcome.reply, one.reply.size(), 4);
    outcome.reply += one.reply;
    outcome.reply.resize((outcome.reply.size() + 7) & ~std::size_t{7});
  });
  return outcome;
}

std::uint64_t Model::hash() const {
  std::uint64_t sum = 0;
  for (const auto& [key, value] : kv_) {
    sum += dataplane::hash_bytes(as_bytes(value), dataplane::hash_bytes(as_bytes(key), 1));
  }
  for (const auto& [key, value] : btree_) {
    sum += dataplane::hash_bytes(as_bytes(value), key * 0x9e3779b97f4a7c15ull + 2);
  }
  return sum;
}

std::vector<std::string> touched(std::uint8_t service, Bytes body) {
  std::vector<std::string> keys;
  if (service == kKvService) {
    const KvOp op = kv_op(body);
    if (op == KvOp::kCount || op == KvOp::kClear) return {"*kv"};
    if (statemachine::kv::has_items(op)) {
      for_items(body, [&](std::string key, const std::string&) { keys.push_back("kv " + key); });
      return keys;
    }
    Reader reader(body);
    reader.number(2);
    const auto key_bytes = reader.number(1);
    reader.number(5);
    for (std::uint32_t i = 0; i < statemachine::kv::argument_count(op); ++i) reader.number(8);
    return {"kv " + reader.text(key_bytes)};
  }
  if (service == kBtreeService) {
    const auto op = static_cast<BtreeOp>(body[0]);
    if (op >= BtreeOp::kRange) return {"*bt"};
    Reader reader(body);
    reader.number(8);
    return {"bt " + std::to_string(reader.number(8))};
  }
  for_parts(body, [&](std::uint8_t part_service, Bytes part) {
    for (std::string& key : touched(part_service, part)) keys.push_back(std::move(key));
  });
  return keys;
}

bool changes_nothing(std::uint8_t service, Bytes body) {
  if (service == kKvService) return statemachine::kv::read_only(kv_op(body));
  if (service == kBtreeService) {
    return statemachine::btree::read_only(static_cast<BtreeOp>(body[0]));
  }
  bool nothing = true;
  for_parts(body, [&](std::uint8_t part_service, Bytes part) {
    nothing &= changes_nothing(part_service, part);
  });
  return nothing;
}

}  // namespace annulus::history
