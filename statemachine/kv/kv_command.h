// Reads the body of a key-value command, from anyone: the other side of kv_codec.h.
#pragma once

#include <cstdint>

#include "statemachine/kv/kv_codec.h"

namespace annulus::statemachine::kv {

/// A checked command. Its spans refer to the body.
struct KvCommand {
  KvOp op{};
  std::uint8_t flags = 0;
  Bytes key;
  Bytes value;
  Bytes expected;
  std::int64_t first = 0;
  std::int64_t last = 0;
  Bytes items;
};

/// Fills all of `command`. kOk, or kMalformed or kTooLarge for a body that is no command, whatever
/// its bytes.
CommandStatus decode(Bytes body, KvCommand& command);

/// Walks the items of a checked command.
class ItemReader {
 public:
  explicit ItemReader(const KvCommand& command) : rest_(command.items) {}
  bool next(Bytes& key, Bytes& value) {
    if (rest_.empty()) return false;
    const auto& item = *reinterpret_cast<const KvItem*>(rest_.data());
    key = rest_.subspan(sizeof(KvItem), item.key_bytes);
    value = rest_.subspan(sizeof(KvItem) + item.key_bytes, item.value_bytes);
    rest_ = rest_.subspan(sizeof(KvItem) + key.size() + value.size());
    return true;
  }

 private:
  Bytes rest_;
};

}  // namespace annulus::statemachine::kv
