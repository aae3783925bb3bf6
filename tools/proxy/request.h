// From the arguments of a Redis command to the body of a replicated one. A Request refers to the
// arguments it was prepared from and is used at once.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "statemachine/btree/btree_codec.h"
#include "statemachine/kv/kv_codec.h"
#include "tools/proxy/command_table.h"
#include "tools/proxy/resp_parser.h"

namespace annulus::proxy {

/// Ids of the two services in the cluster's config.
struct ServiceIds {
  std::uint8_t kv = 0;
  std::uint8_t btree = 0;  // 0: the cluster has none
};

/// How the cluster's answer becomes a Redis reply (see render_reply()).
enum class ReplyShape : std::uint8_t {
  kOk,           // +OK
  kOkOrNull,     // +OK, or null when a condition was not met
  kOneOrZero,    // 1, or 0 when a condition was not met or the key was absent
  kInteger,      // the number in the reply
  kIncrement,    // the same; refused with Redis' texts
  kBulk,         // the bytes, or null when the key was absent
  kOldValue,     // the value before the command, or null
  kValues,       // an array of bulk strings and nulls
  kBtreeRange,   // an array of keys and values
  kTransaction,  // an array of such replies (see transaction.h)
};

class Request {
 public:
  explicit Request(ServiceIds services) : services_(services) {}

  /// Reads the arguments (the command's name first; their number fits its arity). Empty on success,
  /// otherwise the error for the client, valid until the next call.
  std::string_view prepare(const CommandInfo& command, std::span<const std::string_view> arguments);

  /// The system service for what is an atomic command itself (FLUSHALL).
  std::uint8_t service() const { return service_; }
  std::uint8_t flags() const { return flags_; }  // of statemachine::CommandFlag
  ReplyShape shape() const { return shape_; }
  std::uint32_t body_bytes() const { return body_bytes_; }
  /// Writes the whole body: body_bytes() of them.
  void encode(std::span<std::byte> body) const;

 private:
  using Strings = std::span<const std::string_view>;

  std::string_view prepare_kv(CommandId id, Strings arguments);
  std::string_view prepare_set(Strings arguments);
  std::string_view prepare_sum(CommandId id, Strings arguments);
  std::string_view prepare_range(CommandId id, Strings arguments);
  std::string_view prepare_flush(CommandId id, Strings arguments);
  std::string_view prepare_many(CommandId id, Strings arguments);
  std::string_view prepare_btree(CommandId id, Strings arguments);
  std::string_view finish_kv();
  void encode_clear_all(std::span<std::byte> body) const;
  std::string_view key_error(std::size_t bytes);
  std::string_view value_error(std::size_t bytes, std::uint32_t bytes_max);

  ServiceIds services_;
  std::uint8_t service_ = 0;
  std::uint8_t flags_ = 0;
  ReplyShape shape_{};
  std::uint32_t body_bytes_ = 0;
  statemachine::kv::KvRequest kv_;
  statemachine::btree::BtreeRequest btree_;
  std::array<statemachine::kv::Bytes, kArgumentsMax> items_;
  std::array<char, 160> error_;
};

}  // namespace annulus::proxy
