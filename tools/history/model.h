// What the replicated services must answer, as plainly as it can be said: maps of strings, no
// segments, no hashing. Written from the command encodings alone, so that it shares no bug with the
// services.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "statemachine/batch.h"

namespace annulus::history {

using Bytes = std::span<const std::byte>;
using statemachine::CommandStatus;

/// Service ids, as the simulator and `annulus dev` configure them.
constexpr std::uint8_t kKvService = 1;
constexpr std::uint8_t kBtreeService = 2;

struct Outcome {
  CommandStatus status = CommandStatus::kOk;
  std::string reply;
  bool operator==(const Outcome&) const = default;
};

/// The state of both services, and what a command does to it. Copies are cheap while it is small,
/// as in the histories that the general checker searches.
class Model {
 public:
  /// `reply_bytes_max` as the replicas have it.
  explicit Model(std::uint32_t reply_bytes_max = 64 * 1024) : reply_bytes_max_(reply_bytes_max) {}

  /// Executes one command of a service, or an atomic group of the engine.
  Outcome apply(std::uint8_t service, Bytes body);

  /// Order of insertion does not matter; equal states have equal hashes.
  std::uint64_t hash() const;
  std::size_t entries() const { return kv_.size() + btree_.size(); }

 private:
  Outcome apply_kv(Bytes body);
  Outcome apply_kv_items(Bytes body);
  Outcome apply_btree(Bytes body);
  Outcome apply_atomic(Bytes body);
  Outcome put(std::uint8_t flags, const std::string& key, std::string value);
  Outcome increment(const std::string& key, std::int64_t by);
  Outcome write_range(const std::string& key, std::int64_t offset, const std::string& value);
  Outcome range(std::uint64_t first, std::uint64_t last, std::uint32_t limit,
                std::uint32_t bytes_limit) const;

  std::map<std::string, std::string> kv_;
  std::map<std::uint64_t, std::string> btree_;
  std::uint32_t reply_bytes_max_;
};

/// What of the state a command can see or change, for splitting a history into independent parts:
/// names of keys; "*kv" and "*bt" stand for all of a service.
std::vector<std::string> touched(std::uint8_t service, Bytes body);

/// True if the command changes nothing, whatever the state.
bool changes_nothing(std::uint8_t service, Bytes body);

inline Bytes as_bytes(const std::string& text) { return std::as_bytes(std::span{text}); }
inline std::string as_string(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace annulus::history
