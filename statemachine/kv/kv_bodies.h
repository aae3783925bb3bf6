// For tests: bodies of key-value commands from strings.
#pragma once

#include <string>
#include <vector>

#include "statemachine/kv/kv_codec.h"
#include "statemachine/kv/kv_table.h"
#include "statemachine/service_harness.h"

namespace annulus::statemachine::kv {

inline Bytes bytes(const std::string& text) { return std::as_bytes(std::span{text}); }
inline std::string text(Bytes b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }
inline std::string integer(std::int64_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

inline std::string body_of(const KvRequest& request) {
  std::string body(body_bytes(request), '\0');
  encode(request, std::as_writable_bytes(std::span{body}));
  return body;
}
inline std::string put_body(const std::string& key, const std::string& value,
                            std::uint8_t flags = 0) {
  return body_of({.op = KvOp::kPut, .flags = flags, .key = bytes(key), .value = bytes(value)});
}
inline std::string key_body(KvOp op, const std::string& key) {
  return body_of({.op = op, .key = bytes(key)});
}
inline std::string items_body(KvOp op, const std::vector<std::string>& items,
                              std::uint8_t flags = 0) {
  std::vector<Bytes> spans;
  for (const std::string& item : items) spans.push_back(bytes(item));
  return body_of({.op = op, .flags = flags, .items = spans});
}

const Answer kDone{CommandStatus::kOk, ""};
const Answer kAbsent{CommandStatus::kNotFound, ""};

/// Whether every segment of the service passes the check that foreign ones have to.
inline bool all_sound(Service& service) {
  SegmentStore& segments = service.segments();
  for (std::uint32_t i = 0; i < segments.id_end(); ++i) {
    if (!segments.live(SegmentId{i})) continue;
    if (!reinterpret_cast<const KvSegment*>(segments.at(SegmentId{i}))->sound()) return false;
  }
  return true;
}

}  // namespace annulus::statemachine::kv
