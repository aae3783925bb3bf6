#include "tools/proxy/command_table.h"

#include <array>
#include <cstring>

namespace annulus::proxy {
namespace {

using Id = CommandId;
constexpr auto kLocal = CommandKind::kLocal;
constexpr auto kContainer = CommandKind::kContainer;
constexpr auto kTransaction = CommandKind::kTransaction;
constexpr auto kReplicated = CommandKind::kReplicated;
constexpr std::uint8_t kFastRead = kReads | kFast;
constexpr std::uint8_t kFastWrite = kWrites | kDenyOom | kFast;
constexpr std::uint8_t kPlainWrite = kWrites | kDenyOom;

// clang-format off
constexpr CommandInfo kCommands[] = {
    {Id::kGet, kReplicated, "get", 2, kFastRead, 1, 1, 1, "1.0.0", "string",
     "Get the value of a key"},
    {Id::kSet, kReplicated, "set", -3, kPlainWrite, 1, 1, 1, "1.0.0", "string",
     "Set the string value of a key"},
    {Id::kIncr, kReplicated, "incr", 2, kFastWrite, 1, 1, 1, "1.0.0", "string",
     "Increment the integer value of a key by one"},
    {Id::kDel, kReplicated, "del", -2, kWrites, 1, -1, 1, "1.0.0", "generic", "Delete a key"},
    {Id::kExists, kReplicated, "exists", -2, kFastRead, 1, -1, 1, "1.0.0", "generic",
     "Determine if a key exists"},
    {Id::kMget, kReplicated, "mget", -2, kFastRead, 1, -1, 1, "1.0.0", "string",
     "Get the values of all the given keys"},
    {Id::kMset, kReplicated, "mset", -3, kPlainWrite, 1, -1, 2, "1.0.1", "string",
     "Set multiple keys to multiple values"},
    {Id::kMsetNx, kReplicated, "msetnx", -3, kPlainWrite, 1, -1, 2, "1.0.1", "string",
     "Set multiple keys to multiple values, only if none of the keys exist"},
    {Id::kSetNx, kReplicated, "setnx", 3, kFastWrite, 1, 1, 1, "1.0.0", "string",
     "Set the value of a key, only if the key does not exist"},
    {Id::kGetSet, kReplicated, "getset", 3, kFastWrite, 1, 1, 1, "1.0.0", "string",
     "Set the string value of a key and return its old value"},
    {Id::kGetDel, kReplicated, "getdel", 2, kWrites | kFast, 1, 1, 1, "6.2.0", "string",
     "Get the value of a key and delete the key"},
    {Id::kDecr, kReplicated, "decr", 2, kFastWrite, 1, 1, 1, "1.0.0", "string",
     "Decrement the integer value of a key by one"},
    {Id::kIncrBy, kReplicated, "incrby", 3, kFastWrite, 1, 1, 1, "1.0.0", "string",
     "Increment the integer value of a key by the given amount"},
    {Id::kDecrBy, kReplicated, "decrby", 3, kFastWrite, 1, 1, 1, "1.0.0", "string",
     "Decrement the integer value of a key by the given number"},
    {Id::kAppend, kReplicated, "append", 3, kFastWrite, 1, 1, 1, "2.0.0", "string",
     "Append a value to a key"},
    {Id::kStrlen, kReplicated, "strlen", 2, kFastRead, 1, 1, 1, "2.2.0", "string",
     "Get the length of the value stored in a key"},
    {Id::kSetRange, kReplicated, "setrange", 4, kPlainWrite, 1, 1, 1, "2.2.0", "string",
     "Overwrite part of a string at key starting at the specified offset"},
    {Id::kGetRange, kReplicated, "getrange", 4, kReads, 1, 1, 1, "2.4.0", "string",
     "Get a substring of the string stored at a key"},
    {Id::kBtInsert, kReplicated, "bt.insert", 3, kFastWrite, 0, 0, 0, "0.1.0", "btree",
     "Insert a 64-bit key, or replace its value: 1 if it is new, 0 if not"},
    {Id::kBtDelete, kReplicated, "bt.delete", 2, kWrites | kFast, 0, 0, 0, "0.1.0", "btree",
     "Delete a 64-bit key: 1 if it was present, 0 if not"},
    {Id::kBtRange, kReplicated, "bt.range", -3, kReads, 0, 0, 0, "0.1.0", "btree",
     "The entries from one key to another, both included; LIMIT count ends it earlier"},
    {Id::kBtCount, kReplicated, "bt.count", 3, kReads, 0, 0, 0, "0.1.0", "btree",
     "How many keys lie from one key to another, both included"},
    {Id::kMulti, kTransaction, "multi", 1, kFast, 0, 0, 0, "1.2.0", "transactions",
     "Mark the start of a transaction block"},
    {Id::kExec, kTransaction, "exec", 1, 0, 0, 0, 0, "1.2.0", "transactions",
     "Execute all commands issued after MULTI"},
    {Id::kDiscard, kTransaction, "discard", 1, kFast, 0, 0, 0, "2.0.0", "transactions",
     "Discard all commands issued after MULTI"},
    {Id::kPing, kLocal, "ping", -1, kFast, 0, 0, 0, "1.0.0", "connection", "Ping the server"},
    {Id::kEcho, kLocal, "echo", 2, kFast, 0, 0, 0, "1.0.0", "connection",
     "Echo the given string"},
    {Id::kHello, kLocal, "hello", -1, kFast | kNotInMulti, 0, 0, 0, "6.0.0", "connection",
     "Handshake with Redis"},
    {Id::kAuth, kLocal, "auth", -2, kFast, 0, 0, 0, "1.0.0", "connection",
     "Authenticate to the server"},
    {Id::kSelect, kLocal, "select", 2, kFast, 0, 0, 0, "1.0.0", "connection",
     "Change the selected database for the current connection"},
    {Id::kQuit, kLocal, "quit", -1, kFast, 0, 0, 0, "1.0.0", "connection",
     "Close the connection"},
    {Id::kInfo, kLocal, "info", -1, 0, 0, 0, 0, "1.0.0", "server",
     "Get information and statistics about the server"},
    {Id::kDbSize, kReplicated, "dbsize", 1, kFastRead, 0, 0, 0, "1.0.0", "server",
     "Return the number of keys in the selected database"},
    {Id::kFlushAll, kReplicated, "flushall", -1, kWrites, 0, 0, 0, "1.0.0", "server",
     "Remove all keys from all databases"},
    {Id::kFlushDb, kReplicated, "flushdb", -1, kWrites, 0, 0, 0, "1.0.0", "server",
     "Remove all keys from the current database"},
    {Id::kClient, kContainer, "client", -2, 0, 0, 0, 0, "2.4.0", "connection",
     "A container for client connection commands"},
    {Id::kCommand, kContainer, "command", -1, 0, 0, 0, 0, "2.8.13", "server",
     "Get array of Redis command details"},
    {Id::kConfig, kContainer, "config", -2, 0, 0, 0, 0, "2.0.0", "server",
     "A container for server configuration commands"},
    {Id::kClientId, kLocal, "client|id", 2, 0, 0, 0, 0, "5.0.0", "connection",
     "Returns the client ID for the current connection"},
    {Id::kClientGetName, kLocal, "client|getname", 2, 0, 0, 0, 0, "2.6.9", "connection",
     "Get the current connection name"},
    {Id::kClientSetName, kLocal, "client|setname", 3, 0, 0, 0, 0, "2.6.9", "connection",
     "Set the current connection name"},
    {Id::kClientSetInfo, kLocal, "client|setinfo", 4, 0, 0, 0, 0, "7.2.0", "connection",
     "Set client or connection specific info"},
    {Id::kClientList, kLocal, "client|list", -2, 0, 0, 0, 0, "2.4.0", "connection",
     "Get the list of client connections"},
    {Id::kClientInfo, kLocal, "client|info", 2, 0, 0, 0, 0, "6.2.0", "connection",
     "Returns information about the current client connection."},
    {Id::kClientNoEvict, kLocal, "client|no-evict", 3, 0, 0, 0, 0, "7.0.0", "connection",
     "Set client eviction mode for the current connection"},
    {Id::kClientNoTouch, kLocal, "client|no-touch", 3, 0, 0, 0, 0, "7.2.0", "connection",
     "Controls whether commands sent by the client affect the LRU/LFU of accessed keys."},
    {Id::kCommandCount, kLocal, "command|count", 2, 0, 0, 0, 0, "2.8.13", "server",
     "Get total number of Redis commands"},
    {Id::kCommandDocs, kLocal, "command|docs", -2, 0, 0, 0, 0, "7.0.0", "server",
     "Get array of specific Redis command documentation"},
    {Id::kCommandInfo, kLocal, "command|info", -2, 0, 0, 0, 0, "2.8.13", "server",
     "Get array of specific Redis command details, or all when no argument is given."},
    {Id::kCommandList, kLocal, "command|list", -2, 0, 0, 0, 0, "7.0.0", "server",
     "Get an array of Redis command names"},
    {Id::kConfigGet, kLocal, "config|get", -3, 0, 0, 0, 0, "2.0.0", "server",
     "Get the values of configuration parameters"},
};
// clang-format on

/// A name of up to 16 bytes, case folded, as two words: equal keys are equal names.
struct NameKey {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  bool operator==(const NameKey&) const = default;
};
constexpr std::size_t kNameBytesMax = 16;

constexpr std::uint64_t fold_case(std::uint64_t word) {
  constexpr std::uint64_t kOnes = 0x0101010101010101ull;
  // Bit 7 of each byte: the byte is at least 'A', and is more than 'Z' (bytes over 127 are
  // neither).
  const std::uint64_t low_bits = word & (0x7f * kOnes);
  const std::uint64_t from_a = low_bits + (0x80 - 'A') * kOnes;
  const std::uint64_t past_z = low_bits + (0x7f - 'Z') * kOnes;
  const std::uint64_t upper = (from_a & ~past_z & ~word) & (0x80 * kOnes);
  return word | (upper >> 2);
}

/// `bytes` (at most 8) at `text` as a word, without reading beyond them.
std::uint64_t load_word(const char* text, std::size_t bytes) {
  std::uint64_t word = 0;
  if (bytes == 8) {
    std::memcpy(&word, text, 8);
  } else if (bytes >= 4) {
    std::uint32_t first = 0, last = 0;
    std::memcpy(&first, text, 4);
    std::memcpy(&last, text + bytes - 4, 4);
    word = first | (std::uint64_t{last} << ((bytes - 4) * 8));
  } else {
    for (std::size_t i = 0; i < bytes; ++i) {
      word |= std::uint64_t{static_cast<std::uint8_t>(text[i])} << (i * 8);
    }
  }
  return word;
}

NameKey key_of(std::string_view name) {
  if (name.size() <= 8) return {fold_case(load_word(name.data(), name.size())), 0};
  return {fold_case(load_word(name.data(), 8)),
          fold_case(load_word(name.data() + 8, name.size() - 8))};
}

/// Open addressing, a quarter full at most: nearly every lookup ends at its first slot.
class NameTable {
 public:
  NameTable() {
    for (const CommandInfo& command : kCommands) {
      if (is_subcommand(command)) continue;
      const NameKey key = key_of(command.name);
      std::size_t at = slot_of(key);
      while (slots_[at].command != nullptr) at = (at + 1) % kSlots;
      slots_[at] = {key, &command};
    }
  }
  const CommandInfo* find(std::string_view name) const {
    if (name.empty() || name.size() > kNameBytesMax) return nullptr;
    const NameKey key = key_of(name);
    for (std::size_t at = slot_of(key);; at = (at + 1) % kSlots) {
      const Slot& slot = slots_[at];
      if (slot.command == nullptr) return nullptr;
      if (slot.key == key && slot.command->name.size() == name.size()) return slot.command;
    }
  }

 private:
  static constexpr std::size_t kSlots = 256;
  struct Slot {
    NameKey key;
    const CommandInfo* command = nullptr;
  };
  static std::size_t slot_of(const NameKey& key) {
    return ((key.low + key.high * 31) * 0x9e3779b97f4a7c15ull) >> 56;
  }
  std::array<Slot, kSlots> slots_{};
};
static_assert(std::size(kCommands) * 4 < 256);

const NameTable kTable;

}  // namespace

std::span<const CommandInfo> all_commands() { return kCommands; }

bool is_subcommand(const CommandInfo& command) {
  return command.name.find('|') != std::string_view::npos;
}

const CommandInfo* find_command(std::string_view name) { return kTable.find(name); }

const CommandInfo* find_subcommand(const CommandInfo& container, std::string_view name) {
  const std::size_t prefix = container.name.size();
  for (const CommandInfo& command : kCommands) {
    if (command.name.size() == prefix + 1 + name.size() && command.name[prefix] == '|' &&
        command.name.starts_with(container.name) &&
        equals_ignoring_case(command.name.substr(prefix + 1), name)) {
      return &command;
    }
  }
  return nullptr;
}

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (lower(a[i]) != lower(b[i])) return false;
  }
  return true;
}

}  // namespace annulus::proxy
