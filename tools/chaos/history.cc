#include "tools/chaos/history.h"

#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "statemachine/btree/btree_codec.h"
#include "statemachine/kv/kv_codec.h"

namespace annulus::chaos {
namespace {

using history::as_bytes;
using history::Outcome;
using statemachine::CommandStatus;
using statemachine::btree::BtreeOp;
using statemachine::btree::BtreeRequest;
using statemachine::kv::KvOp;
using statemachine::kv::KvRequest;

std::uint64_t tree_key(const Object& group, std::uint64_t place) {
  return std::uint64_t{group.number} << 32 | place;
}

template <typename Request>
std::string encoded(const Request& request) {
  std::string body(body_bytes(request), '\0');
  encode(request, std::as_writable_bytes(std::span{body}));
  return body;
}

std::string eight_bytes(std::uint64_t number) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &number, 8);
  return bytes;
}

std::uint64_t decimal(std::string_view text) {
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

/// Takes a line of a reply in wire form, without its type and end.
std::string_view take_line(std::string_view& rest) {
  const std::size_t end = std::min(rest.find("\r\n"), rest.size());
  const std::string_view line = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 2, rest.size()));
  return line;
}
bool take_bulk(std::string_view& rest, std::string_view& bulk) {
  const std::string_view head = take_line(rest);
  if (head.empty() || head[0] != '$' || head == "$-1") return false;
  const auto bytes = static_cast<std::size_t>(decimal(head.substr(1)));
  if (rest.size() < bytes) return false;
  bulk = rest.substr(0, bytes);
  rest.remove_prefix(std::min(bytes + 2, rest.size()));
  return true;
}

/// A range as the native client would have had it.
bool range_outcome(std::string_view reply, Outcome& outcome) {
  const std::uint64_t entries = decimal(take_line(reply).substr(1)) / 2;
  outcome.reply = eight_bytes(entries);
  std::string_view key;
  std::string_view value;
  for (std::uint64_t i = 0; i < entries; ++i) {
    if (!take_bulk(reply, key) || !take_bulk(reply, value)) return false;
    outcome.reply += eight_bytes(decimal(key));
    const auto bytes = static_cast<std::uint16_t>(value.size());
    outcome.reply.append(reinterpret_cast<const char*>(&bytes), sizeof bytes);
    outcome.reply += value;
  }
  return true;
}

End error_end(std::string_view error) {
  if (error.starts_with("ERR outcome unknown")) return End::kUnknown;
  if (error.starts_with("ERR not executed")) return End::kNotExecuted;
  if (error.starts_with("ERR executed")) return End::kExecuted;
  return End::kRefused;
}

std::string reply_text(const Entry& entry) {
  const Outcome& outcome = entry.operation.outcome;
  const Object& object = entry.command.object;
  if (outcome.status == CommandStatus::kNotFound) return "not found";
  if (entry.command.write) {
    return object.type == ObjectType::kRegister ? "ok"
                                                : std::to_string(reply_number(outcome.reply));
  }
  if (object.type != ObjectType::kGroup) return outcome.reply;
  std::string text;
  for (const std::uint64_t place : places_of(object, outcome.reply)) {
    text += (text.empty() ? "" : " ") + std::to_string(place);
  }
  return text;
}

}  // namespace

std::string name_of(const Object& object) {
  return "rclg"[static_cast<int>(object.type)] + std::to_string(object.number);
}

std::uint64_t value_number(std::string_view value) {
  return value.starts_with('v') ? decimal(value.substr(1)) : 0;
}
std::string value_text(std::uint64_t number) { return "v" + std::to_string(number); }
std::string element_text(std::uint64_t number) {
  char text[kElementBytes + 1];
  std::snprintf(text, sizeof text, "%08" PRIx32 ";", static_cast<std::uint32_t>(number));
  return text;
}
std::uint64_t counter_number(std::string_view text) { return decimal(text); }
std::uint64_t reply_number(std::string_view reply) {
  std::uint64_t number = 0;
  if (reply.size() == 8) std::memcpy(&number, reply.data(), 8);
  return number;
}

std::vector<std::uint64_t> places_of(const Object& group, const std::string& reply) {
  std::vector<std::uint64_t> places;
  statemachine::btree::RangeReply range(as_bytes(reply));
  std::uint64_t key = 0;
  statemachine::btree::Bytes value;
  while (range.next(key, value)) places.push_back(key - tree_key(group, 0));
  return places;
}

std::uint8_t service_of(const Command& command) {
  return command.object.type == ObjectType::kGroup ? history::kBtreeService : history::kKvService;
}

std::string body_of(const Command& command) {
  const std::string key = name_of(command.object);
  const std::string value = value_text(command.number);
  if (command.object.type == ObjectType::kGroup) {
    BtreeRequest request{.op = BtreeOp::kRange,
                         .key = tree_key(command.object, 0),
                         .last = tree_key(command.object, UINT32_MAX)};
    if (command.write) {
      request = {.op = BtreeOp::kInsert,
                 .key = tree_key(command.object, command.number),
                 .value = as_bytes(value)};
    }
    return encoded(request);
  }
  const std::string element = element_text(command.number);
  KvRequest request{.op = KvOp::kRead, .key = as_bytes(key)};
  if (!command.write) return encoded(request);
  switch (command.object.type) {
    case ObjectType::kRegister:
      request.op = KvOp::kPut;
      request.value = as_bytes(value);
      break;
    case ObjectType::kCounter:
      request.op = KvOp::kIncrement;
      request.first = 1;
      break;
    default:
      request.op = KvOp::kAppend;
      request.value = as_bytes(element);
  }
  return encoded(request);
}

std::vector<std::string> words_of(const Command& command) {
  const std::string key = name_of(command.object);
  switch (command.object.type) {
    case ObjectType::kRegister:
      if (command.write) return {"SET", key, value_text(command.number)};
      break;
    case ObjectType::kCounter:
      if (command.write) return {"INCR", key};
      break;
    case ObjectType::kList:
      if (command.write) return {"APPEND", key, element_text(command.number)};
      break;
    case ObjectType::kGroup:
      if (command.write) {
        return {"BT.INSERT", std::to_string(tree_key(command.object, command.number)),
                value_text(command.number)};
      }
      return {"BT.RANGE", std::to_string(tree_key(command.object, 0)),
              std::to_string(tree_key(command.object, UINT32_MAX))};
  }
  return {"GET", key};
}

End end_of(const statemachine::Completion& completion, Outcome& outcome) {
  outcome.status = completion.status;
  switch (completion.status) {
    case CommandStatus::kOk:
    case CommandStatus::kNotFound:
      outcome.reply = history::as_string(completion.reply);
      return End::kAnswered;
    case CommandStatus::kOutcomeUnknown:
    case CommandStatus::kNoSuchSession:
    case CommandStatus::kStaleSequence:
      return End::kUnknown;
    case CommandStatus::kReplyDropped:
      return End::kExecuted;
    case CommandStatus::kNotSent:
      return End::kNotExecuted;
    default:
      outcome.reply = to_string(completion.status);
      return End::kRefused;
  }
}

End end_of(const Command& command, std::string_view reply, Outcome& outcome) {
  const char type = reply.empty() ? '-' : reply[0];
  const std::string_view rest = reply.substr(std::min<std::size_t>(1, reply.size()));
  bool understood = false;
  if (type == '-') {
    outcome.reply = rest;
    return error_end(rest);
  }
  if (reply.starts_with("$-1")) {
    outcome.status = CommandStatus::kNotFound;
    understood = !command.write && command.object.type != ObjectType::kGroup;
  } else if (!command.write) {
    std::string_view whole = reply;
    std::string_view bulk;
    if (command.object.type == ObjectType::kGroup) {
      understood = type == '*' && range_outcome(reply, outcome);
    } else if (take_bulk(whole, bulk)) {
      outcome.reply = bulk;
      understood = true;
    }
  } else if (command.object.type == ObjectType::kRegister) {
    understood = reply.starts_with("+OK");
  } else if (type == ':') {
    outcome.reply = eight_bytes(decimal(rest));
    understood = true;
  }
  if (understood) return End::kAnswered;
  outcome.reply = reply;
  return End::kRefused;
}

std::string describe(const Entry& entry, Nanos begin, std::size_t reply_most) {
  const auto at = [begin](Nanos time) {
    char text[40];
    std::snprintf(text, sizeof text, "%.6f", static_cast<double>(time - begin) / kSecond);
    return std::string(text);
  };
  std::string text = entry.native ? "native " : "proxy  ";
  for (const std::string& word : words_of(entry.command)) text += word + " ";
  text += "sent " + at(entry.operation.invoked);
  switch (entry.end) {
    case End::kAnswered: {
      const std::string reply = reply_text(entry);
      text += " answered " + at(entry.ended) + ": ";
      if (reply.size() <= reply_most) return text + reply;
      return text + reply.substr(0, reply_most / 2) + " ... " +
             reply.substr(reply.size() - reply_most / 2) + " (" + std::to_string(reply.size()) +
             " characters)";
    }
    case End::kExecuted:
      return text + " executed, reply lost, " + at(entry.ended);
    case End::kNotExecuted:
      return text + " refused, not executed, " + at(entry.ended);
    case End::kRefused:
      return text + " refused " + at(entry.ended) + ": " + entry.operation.outcome.reply;
    default:
      return text + " outcome unknown";
  }
}

std::uint64_t History::begin(const Command& command, bool native, Nanos intended, Nanos now) {
  Entry& entry = entries_.emplace_back();
  entry.command = command;
  entry.native = native;
  entry.intended = intended;
  entry.operation.id = entries_.size();
  entry.operation.invoked = now;
  entry.operation.service = service_of(command);
  entry.operation.body = body_of(command);
  return entry.operation.id;
}

void History::finish(std::uint64_t id, End end, Outcome outcome, Nanos now) {
  Entry& entry = entries_[id - 1];
  entry.end = end;
  entry.ended = now;
  entry.operation.outcome = std::move(outcome);
  entry.operation.reply_known = end == End::kAnswered;
  if (end == End::kAnswered || end == End::kExecuted) entry.operation.returned = now;
}

}  // namespace annulus::chaos
