#include "statemachine/kv/kv_command.h"

namespace annulus::statemachine::kv {

namespace {

/// Which parts of a body an op has.
struct Shape {
  bool known;
  bool key;
  bool value;
  std::uint8_t flags;  // allowed
};

constexpr Shape shape_of(std::uint8_t op) {
  switch (static_cast<KvOp>(op)) {
    case KvOp::kPut:
      return {true, true, true, kNotExists | kExists | kReturnOld};
    case KvOp::kPutMany:
      return {true, false, false, kNotExists};
    case KvOp::kCompareAndSet:
    case KvOp::kAppend:
    case KvOp::kWriteRange:
      return {true, true, true, 0};
    case KvOp::kRead:
    case KvOp::kRemove:
    case KvOp::kReadAndRemove:
    case KvOp::kIncrement:
    case KvOp::kReadRange:
    case KvOp::kLength:
      return {true, true, false, 0};
    case KvOp::kExist:
    case KvOp::kReadMany:
    case KvOp::kRemoveMany:
    case KvOp::kCount:
    case KvOp::kClear:
      return {true, false, false, 0};
  }
  return {};
}

std::int64_t read_integer(const std::byte* from) {
  return static_cast<std::int64_t>(reinterpret_cast<const u64le*>(from)->get());
}

CommandStatus decode_items(Bytes rest, const KvHead& head, KvCommand& command) {
  const bool pairs = command.op == KvOp::kPutMany;
  if (head.key_bytes != 0 || head.value_bytes != 0 || head.extra == 0) {
    return CommandStatus::kMalformed;
  }
  command.items = rest;
  bool too_large = false;
  for (std::uint32_t i = 0; i < head.extra; ++i) {
    if (rest.size() < sizeof(KvItem)) return CommandStatus::kMalformed;
    const auto& item = *reinterpret_cast<const KvItem*>(rest.data());
    const std::size_t bytes = sizeof(KvItem) + item.key_bytes + item.value_bytes;
    if (rest.size() < bytes || item.reserved != 0 || item.key_bytes == 0 ||
        (!pairs && item.value_bytes != 0)) {
      return CommandStatus::kMalformed;
    }
    too_large |= item.key_bytes > kKeyBytesMax || item.value_bytes > kValueBytesMax;
    rest = rest.subspan(bytes);
  }
  if (!rest.empty()) return CommandStatus::kMalformed;
  return too_large ? CommandStatus::kTooLarge : CommandStatus::kOk;
}

}  // namespace

CommandStatus decode(Bytes body, KvCommand& command) {
  if (body.size() < sizeof(KvHead)) return CommandStatus::kMalformed;
  const auto& head = *reinterpret_cast<const KvHead*>(body.data());
  const Shape shape = shape_of(head.op);
  constexpr std::uint8_t kBoth = kNotExists | kExists;
  if (!shape.known || head.reserved != 0 || (head.flags & ~shape.flags) != 0 ||
      (head.flags & kBoth) == kBoth) {
    return CommandStatus::kMalformed;
  }
  command.op = static_cast<KvOp>(head.op);
  command.flags = head.flags;
  command.key = command.value = command.expected = command.items = {};
  command.first = command.last = 0;
  Bytes rest = body.subspan(sizeof(KvHead));
  if (has_items(command.op)) return decode_items(rest, head, command);

  const std::uint32_t arguments = argument_count(command.op);
  const std::size_t bytes =
      arguments * 8 + std::size_t{head.key_bytes} + head.value_bytes + head.extra;
  if (rest.size() != bytes || (head.key_bytes != 0) != shape.key ||
      (head.value_bytes != 0 && !shape.value) ||
      (head.extra != 0 && command.op != KvOp::kCompareAndSet)) {
    return CommandStatus::kMalformed;
  }
  if (arguments >= 1) command.first = read_integer(rest.data());
  if (arguments >= 2) command.last = read_integer(rest.data() + 8);
  rest = rest.subspan(arguments * 8);
  command.key = rest.first(head.key_bytes);
  command.value = rest.subspan(head.key_bytes, head.value_bytes);
  command.expected = rest.subspan(std::size_t{head.key_bytes} + head.value_bytes);
  if (command.op == KvOp::kWriteRange && command.first < 0) return CommandStatus::kMalformed;
  if (head.key_bytes > kKeyBytesMax || head.value_bytes > kValueBytesMax ||
      head.extra > kValueBytesMax) {
    return CommandStatus::kTooLarge;
  }
  return CommandStatus::kOk;
}

}  // namespace annulus::statemachine::kv
