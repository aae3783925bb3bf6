#include "tools/proxy/reply.h"

#include <optional>

namespace annulus::proxy {
namespace {

using statemachine::CommandStatus;

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void render_old_value(CommandStatus status, std::span<const std::byte> reply, RespWriter& writer) {
  const auto old = statemachine::kv::decode_old(reply);
  if (old && (status == CommandStatus::kOk || status == CommandStatus::kRefused)) {
    writer.bulk(text_of(*old));
  } else {
    writer.null();
  }
}

void render_values(std::span<const std::byte> reply, RespWriter& writer) {
  std::optional<statemachine::kv::Bytes> value;
  std::uint64_t count = 0;
  for (statemachine::kv::ReadManyReply walk(reply); walk.next(value);) ++count;
  writer.array(count);
  for (statemachine::kv::ReadManyReply walk(reply); walk.next(value);) {
    value ? writer.bulk(text_of(*value)) : writer.null();
  }
}

/// Keys and values in turn; pairs of them in RESP3, as ZRANGE ... WITHSCORES answers.
void render_range(std::span<const std::byte> reply, RespWriter& writer) {
  statemachine::btree::RangeReply range(reply);
  writer.array(writer.resp3() ? range.count() : 2ull * range.count());
  std::uint64_t key = 0;
  statemachine::btree::Bytes value;
  while (range.next(key, value)) {
    if (writer.resp3()) writer.array(2);
    char digits[20];
    const char* end = std::to_chars(digits, digits + sizeof(digits), key).ptr;
    writer.bulk({digits, static_cast<std::size_t>(end - digits)});
    writer.bulk(text_of(value));
  }
}

void render_refused_increment(std::span<const std::byte> reply, RespWriter& writer) {
  writer.error(statemachine::kv::decode_refusal(reply) == statemachine::kv::KvRefusal::kOverflow
                   ? "ERR increment or decrement would overflow"
                   : "ERR value is not an integer or out of range");
}

void render_ok(ReplyShape shape, std::span<const std::byte> reply, RespWriter& writer) {
  switch (shape) {
    case ReplyShape::kOk:
    case ReplyShape::kOkOrNull:
      return writer.ok();
    case ReplyShape::kOneOrZero:
      return writer.integer(1);
    case ReplyShape::kInteger:
    case ReplyShape::kIncrement:
      return writer.integer(statemachine::kv::decode_integer(reply));
    case ReplyShape::kBulk:
      return writer.bulk(text_of(reply));
    case ReplyShape::kOldValue:
      return render_old_value(CommandStatus::kOk, reply, writer);
    case ReplyShape::kValues:
      return render_values(reply, writer);
    case ReplyShape::kBtreeRange:
      return render_range(reply, writer);
    case ReplyShape::kTransaction:
      CHECK(false);  // transaction.h renders these
  }
}

}  // namespace

void render_reply(ReplyShape shape, CommandStatus status, std::span<const std::byte> reply,
                  RespWriter& writer) {
  if (status == CommandStatus::kOk) return render_ok(shape, reply, writer);
  if (status == CommandStatus::kNotFound || status == CommandStatus::kRefused) {
    if (shape == ReplyShape::kOneOrZero) return writer.integer(0);
    if (shape == ReplyShape::kBulk || shape == ReplyShape::kOkOrNull) return writer.null();
    if (shape == ReplyShape::kOldValue) return render_old_value(status, reply, writer);
    if (shape == ReplyShape::kIncrement) return render_refused_increment(reply, writer);
  }
  writer.error(error_text(status));
}

std::string_view error_text(CommandStatus status) {
  switch (status) {
    case CommandStatus::kTooLarge:
      return "ERR key, value or reply is too large: a key has at most 250 bytes, a value 49152; a "
             "reply has the limit that the cluster's configuration sets";
    case CommandStatus::kNoSpace:
      return "OOM command not allowed: the service's state is at its configured limit";
    case CommandStatus::kOutcomeUnknown:
      return "ERR outcome unknown: no reply before the deadline; the command may or may not have "
             "been executed";
    case CommandStatus::kNoSuchSession:
    case CommandStatus::kStaleSequence:
      return "ERR outcome unknown: the proxy's session expired; the command may or may not have "
             "been executed";
    case CommandStatus::kReplyDropped:
      return "ERR executed, but its reply is no longer held: read the state to learn the outcome";
    case CommandStatus::kNotSent:
      return "ERR not executed: the cluster did not take the command before its deadline";
    default:
      return "ERR the cluster refused the command; this is a fault of the proxy, please report it";
  }
}

}  // namespace annulus::proxy
