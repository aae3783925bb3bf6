#include "statemachine/kv/kv.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace annulus::statemachine::kv {

namespace {

/// Answers with `size` bytes, or kTooLarge if no reply holds them.
bool answer(Replies& replies, CommandStatus status, Bytes bytes) {
  const std::span<std::byte> room = replies.reserve(static_cast<std::uint32_t>(bytes.size()));
  if (room.size() < bytes.size()) {
    replies.done(CommandStatus::kTooLarge);
    return false;
  }
  if (!bytes.empty()) std::memcpy(room.data(), bytes.data(), bytes.size());
  replies.done(status, static_cast<std::uint32_t>(bytes.size()));
  return true;
}

void answer_integer(Replies& replies, std::uint64_t value) {
  const u64le wire = value;
  answer(replies, CommandStatus::kOk, std::as_bytes(std::span{&wire, 1}));
}

void answer_refusal(Replies& replies, KvRefusal why) {
  const auto byte = static_cast<std::byte>(why);
  answer(replies, CommandStatus::kRefused, {&byte, 1});
}

/// A decimal integer as Redis wants it: no space, no plus, no leading zero, within 64 bits.
bool parse_integer(Bytes text, std::int64_t& value) {
  const char* first = reinterpret_cast<const char*>(text.data());
  const char* const last = first + text.size();
  if (text.empty() || text.size() > 20) return false;
  const char* const digits = *first == '-' ? first + 1 : first;
  if (digits == last || (*digits == '0' && text.size() > 1)) return false;
  const auto [end, error] = std::from_chars(first, last, value);
  return error == std::errc{} && end == last;
}

/// Cuts `value` to the closed range of positions, counted from the end where negative.
Bytes cut(Bytes value, std::int64_t first, std::int64_t last) {
  const auto size = static_cast<std::int64_t>(value.size());
  if (first < 0 && last < 0 && first > last) return {};
  if (first < 0) first = std::max<std::int64_t>(first + size, 0);
  if (last < 0) last = std::max<std::int64_t>(last + size, 0);
  last = std::min(last, size - 1);
  if (size == 0 || first > last) return {};
  return value.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first + 1));
}

/// Bytes of the entry that a command will read or write, for prefetching.
std::uint32_t touched_bytes(const KvCommand& command) {
  return entry_bytes(command.key.size(), command.value.size());
}

}  // namespace

KvService::KvService(const KvOptions& options)
    : table_(options.service, options.limit_bytes), scratch_(new std::byte[kValueBytesMax]) {}

void KvService::footprint(std::span<const std::byte> body, Footprint& footprint) const {
  KvCommand command;
  if (decode(body, command) != CommandStatus::kOk) return;
  const bool write = !read_only(command.op);
  if (!command.key.empty()) {
    const std::uint64_t hash = KvTable::hash_of(command.key);
    footprint.add({hash, hash, write});
  } else if (has_items(command.op)) {
    Bytes key;
    Bytes value;
    for (ItemReader items(command); items.next(key, value);) {
      const std::uint64_t hash = KvTable::hash_of(key);
      footprint.add({hash, hash, write});
    }
  } else {
    footprint.add({0, ~std::uint64_t{0}, write});
  }
}

void KvService::execute(std::span<const Command> commands, Replies& replies) {
  for (std::size_t begin = 0; begin < commands.size(); begin += kStaged) {
    const std::size_t size = std::min<std::size_t>(commands.size() - begin, kStaged);
    // Loop by loop over all commands, so that each loop's cache misses overlap.
    for (std::size_t i = 0; i < size; ++i) {
      Staged& staged = staged_[i];
      staged.status = decode(commands[begin + i].body, staged.command);
      if (single_key(staged)) staged.probe.hash = KvTable::hash_of(staged.command.key);
    }
    for (std::size_t i = 0; i < size; ++i) {
      Staged& staged = staged_[i];
      if (single_key(staged)) staged.probe = table_.locate(staged.probe.hash);
    }
    for (std::size_t i = 0; i < size; ++i) {
      if (single_key(staged_[i])) table_.prefetch_bucket(staged_[i].probe);
    }
    for (std::size_t i = 0; i < size; ++i) {
      if (!single_key(staged_[i])) continue;
      table_.prefetch_entry(staged_[i].probe, touched_bytes(staged_[i].command));
    }
    const std::uint64_t version = table_.version();
    for (std::size_t i = 0; i < size; ++i) {
      Staged& staged = staged_[i];
      if (staged.status != CommandStatus::kOk) {
        replies.done(staged.status);
        continue;
      }
      // Segments have split or merged since: what was found for the rest may have moved.
      if (version != table_.version() && single_key(staged)) {
        staged.probe = table_.locate(staged.probe.hash);
      }
      run(staged.command, staged.probe, replies);
    }
  }
}

void KvService::run(const KvCommand& command, const KvTable::Probe& probe, Replies& replies) {
  switch (command.op) {
    case KvOp::kPut:
      return put(command, probe, replies);
    case KvOp::kRead:
      return read(command, probe, replies);
    case KvOp::kRemove:
    case KvOp::kReadAndRemove:
      return remove(command, probe, replies);
    case KvOp::kCompareAndSet:
      return compare_and_set(command, probe, replies);
    case KvOp::kIncrement:
      return increment(command, probe, replies);
    case KvOp::kAppend: {
      const KvEntry* const entry = table_.find(probe, command.key);
      return write_range(command, probe, entry == nullptr ? 0 : entry->value_bytes, replies);
    }
    case KvOp::kReadRange:
      return read_range(command, probe, replies);
    case KvOp::kWriteRange:
      return write_range(command, probe, static_cast<std::uint64_t>(command.first), replies);
    case KvOp::kLength: {
      const KvEntry* const entry = table_.find(probe, command.key);
      return answer_integer(replies, entry == nullptr ? 0 : entry->value_bytes);
    }
    case KvOp::kExist:
      return exist(command, replies);
    case KvOp::kReadMany:
      return read_many(command, replies);
    case KvOp::kPutMany:
      return put_many(command, replies);
    case KvOp::kRemoveMany:
      return remove_many(command, replies);
    case KvOp::kCount:
      return answer_integer(replies, table_.count());
    case KvOp::kClear:
      table_.clear();
      return replies.done(CommandStatus::kOk);
  }
}

void KvService::put(const KvCommand& command, const KvTable::Probe& probe, Replies& replies) {
  if (command.flags == 0) {
    const bool stored = table_.store(probe, command.key, command.value);
    return replies.done(stored ? CommandStatus::kOk : CommandStatus::kNoSpace);
  }
  const KvEntry* const entry = table_.find(probe, command.key);
  std::uint32_t reply_bytes = 0;
  if ((command.flags & kReturnOld) != 0 && entry != nullptr) {
    reply_bytes = 1u + entry->value_bytes;
    const std::span<std::byte> room = replies.reserve(reply_bytes);
    if (room.size() < reply_bytes) return replies.done(CommandStatus::kTooLarge);
    room[0] = std::byte{1};
    std::memcpy(room.data() + 1, entry->value(), entry->value_bytes);
  }
  if ((command.flags & kNotExists) != 0 && entry != nullptr) {
    return replies.done(CommandStatus::kRefused, reply_bytes);
  }
  if ((command.flags & kExists) != 0 && entry == nullptr) {
    return replies.done(CommandStatus::kNotFound);
  }
  if (!table_.store(probe, command.key, command.value)) {
    return replies.done(CommandStatus::kNoSpace);
  }
  replies.done(CommandStatus::kOk, reply_bytes);
}

void KvService::read(const KvCommand& command, const KvTable::Probe& probe, Replies& replies) {
  const KvEntry* const entry = table_.find(probe, command.key);
  if (entry == nullptr) return replies.done(CommandStatus::kNotFound);
  answer(replies, CommandStatus::kOk, entry->value_span());
}

void KvService::read_range(const KvCommand& command, const KvTable::Probe& probe,
                           Replies& replies) {
  const KvEntry* const entry = table_.find(probe, command.key);
  const Bytes value = entry == nullptr ? Bytes{} : entry->value_span();
  answer(replies, CommandStatus::kOk, cut(value, command.first, command.last));
}

void KvService::remove(const KvCommand& command, const KvTable::Probe& probe, Replies& replies) {
  const KvEntry* const entry = table_.find(probe, command.key);
  if (entry == nullptr) return replies.done(CommandStatus::kNotFound);
  const Bytes value = command.op == KvOp::kReadAndRemove ? entry->value_span() : Bytes{};
  if (answer(replies, CommandStatus::kOk, value)) table_.remove(probe, command.key);
}

void KvService::compare_and_set(const KvCommand& command, const KvTable::Probe& probe,
                                Replies& replies) {
  const KvEntry* const entry = table_.find(probe, command.key);
  if (entry == nullptr) return replies.done(CommandStatus::kNotFound);
  const Bytes value = entry->value_span();
  if (!std::equal(value.begin(), value.end(), command.expected.begin(), command.expected.end())) {
    answer(replies, CommandStatus::kRefused, value);
    return;
  }
  const bool stored = table_.store(probe, command.key, command.value);
  replies.done(stored ? CommandStatus::kOk : CommandStatus::kNoSpace);
}

void KvService::increment(const KvCommand& command, const KvTable::Probe& probe, Replies& replies) {
  const KvEntry* const entry = table_.find(probe, command.key);
  std::int64_t value = 0;
  if (entry != nullptr && !parse_integer(entry->value_span(), value)) {
    return answer_refusal(replies, KvRefusal::kNotInteger);
  }
  if (__builtin_add_overflow(value, command.first, &value)) {
    return answer_refusal(replies, KvRefusal::kOverflow);
  }
  char text[24];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  const Bytes bytes = std::as_bytes(std::span{text, static_cast<std::size_t>(end - text)});
  if (!table_.store(probe, command.key, bytes)) return replies.done(CommandStatus::kNoSpace);
  answer_integer(replies, static_cast<std::uint64_t>(value));
}

void KvService::write_range(const KvCommand& command, const KvTable::Probe& probe,
                            std::uint64_t offset, Replies& replies) {
  const KvEntry* const entry = table_.find(probe, command.key);
  const std::size_t old_bytes = entry == nullptr ? 0 : entry->value_bytes;
  if (command.op == KvOp::kWriteRange && command.value.empty()) {
    return answer_integer(replies, old_bytes);
  }
  if (offset > kValueBytesMax || offset + command.value.size() > kValueBytesMax) {
    return replies.done(CommandStatus::kTooLarge);
  }
  const std::size_t bytes = std::max<std::size_t>(old_bytes, offset + command.value.size());
  std::byte* const scratch = scratch_.get();
  if (old_bytes > 0) std::memcpy(scratch, entry->value(), old_bytes);
  if (offset > old_bytes) std::memset(scratch + old_bytes, 0, offset - old_bytes);
  if (!command.value.empty()) {
    std::memcpy(scratch + offset, command.value.data(), command.value.size());
  }
  if (!table_.store(probe, command.key, {scratch, bytes})) {
    return replies.done(CommandStatus::kNoSpace);
  }
  answer_integer(replies, bytes);
}

/// Calls `visit(key, value, probe)` for the items in order, until it returns false. Looks up
/// several ahead.
template <typename Visit>
void KvService::for_each_item(const KvCommand& command, Visit&& visit) {
  constexpr std::uint32_t kGroup = 32;
  struct Item {
    Bytes key;
    Bytes value;
    KvTable::Probe probe;
  };
  std::array<Item, kGroup> items;
  ItemReader reader(command);
  for (std::uint32_t size = kGroup; size == kGroup;) {
    size = 0;
    while (size < kGroup && reader.next(items[size].key, items[size].value)) {
      items[size].probe = table_.locate(KvTable::hash_of(items[size].key));
      table_.prefetch_bucket(items[size].probe);
      ++size;
    }
    for (std::uint32_t i = 0; i < size; ++i) {
      table_.prefetch_entry(items[i].probe,
                            entry_bytes(items[i].key.size(), items[i].value.size()));
    }
    const std::uint64_t version = table_.version();
    for (std::uint32_t i = 0; i < size; ++i) {
      Item& item = items[i];
      if (version != table_.version()) item.probe = table_.locate(item.probe.hash);
      if (!visit(item.key, item.value, item.probe)) return;
    }
  }
}

void KvService::exist(const KvCommand& command, Replies& replies) {
  std::uint64_t count = 0;
  for_each_item(command, [&](Bytes key, Bytes, const KvTable::Probe& probe) {
    count += table_.find(probe, key) != nullptr ? 1 : 0;
    return true;
  });
  answer_integer(replies, count);
}

void KvService::read_many(const KvCommand& command, Replies& replies) {
  std::uint32_t used = 0;
  bool fits = true;
  const std::span<std::byte> room = replies.reserve(replies.reply_bytes_max());
  for_each_item(command, [&](Bytes key, Bytes, const KvTable::Probe& probe) {
    const KvEntry* const entry = table_.find(probe, key);
    const u32le bytes = entry == nullptr ? ReadManyReply::kAbsent : entry->value_bytes;
    const std::uint32_t value_bytes = entry == nullptr ? 0 : entry->value_bytes;
    fits = used + sizeof(bytes) + value_bytes <= room.size();
    if (!fits) return false;
    std::memcpy(room.data() + used, &bytes, sizeof(bytes));
    used += sizeof(bytes);
    if (value_bytes > 0) std::memcpy(room.data() + used, entry->value(), value_bytes);
    used += value_bytes;
    return true;
  });
  if (!fits) return replies.done(CommandStatus::kTooLarge);
  replies.done(CommandStatus::kOk, used);
}

/// Whether the classes have room for all items, as if all were new: a command is executed whole or
/// not at all.
bool KvService::room_for_items(const KvCommand& command) {
  bool room = true;
  for_each_item(command, [&](Bytes key, Bytes value, const KvTable::Probe& probe) {
    std::uint64_t& wanted = wanted_[class_of(probe.hash)];
    wanted += KvTable::weight_of(key.size(), value.size());
    room = room && wanted <= table_.room(class_of(probe.hash));
    return true;
  });
  wanted_.fill(0);
  return room;
}

void KvService::put_many(const KvCommand& command, Replies& replies) {
  if ((command.flags & kNotExists) != 0) {
    bool any = false;
    for_each_item(command, [&](Bytes key, Bytes, const KvTable::Probe& probe) {
      any = table_.find(probe, key) != nullptr;
      return !any;
    });
    if (any) return replies.done(CommandStatus::kRefused);
  }
  if (!room_for_items(command)) return replies.done(CommandStatus::kNoSpace);
  for_each_item(command, [&](Bytes key, Bytes value, const KvTable::Probe& probe) {
    CHECK(table_.store(probe, key, value));
    return true;
  });
  replies.done(CommandStatus::kOk);
}

void KvService::remove_many(const KvCommand& command, Replies& replies) {
  std::uint64_t count = 0;
  for_each_item(command, [&](Bytes key, Bytes, const KvTable::Probe& probe) {
    count += table_.remove(probe, key) ? 1 : 0;
    return true;
  });
  answer_integer(replies, count);
}

}  // namespace annulus::statemachine::kv
