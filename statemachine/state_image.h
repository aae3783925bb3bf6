// Copies a replica's whole state into one piece of memory, and installs such a copy: all segments
// of the session table and of the services, as they lie. Both in steps, so that what shares the
// core gets its turns. Part of the worker.
//
// Nothing may be executed between the steps that copy, so they do nothing else: memory that the
// host has not given yet takes up to thirty times as long to write to, so it is touched before, and
// what was copied is hashed afterwards.
//
// What is not in segments decides no reply: which values were executed lately only lets a replica
// answer from memory (recent_values.h), and how long a session was idle is each replica's own
// opinion, which the order confirms or not (idle_sessions.h).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "consensus/state_exchange.h"
#include "dataplane/wire_int.h"
#include "statemachine/service.h"
#include "statemachine/session_table.h"

namespace annulus::statemachine {

/// Before each segment's used bytes, which are filled up to a multiple of eight.
struct ImageSegment {
  u32le bytes;
  std::uint8_t service;
  std::uint8_t reserved[3];
  u64le hash;  // XXH3 of the padded bytes, seeded by that of the fields above, seeded by the hash
               // of the segment before; of the first by the instance. The last is the copy's
};
static_assert(sizeof(ImageSegment) == 16);

/// How much memory a copy can take: every segment full.
std::uint64_t state_bytes_max(std::uint32_t segment_bytes, std::uint32_t segments_max);

/// What a copy is made of: the session table and the services by id, null where none is. All
/// outlive it.
struct StateParts {
  SessionTable& sessions;
  const std::vector<Service*>& services;
  SegmentStore* store(std::uint32_t service) const;
  std::uint32_t count() const {
    return std::max<std::uint32_t>(static_cast<std::uint32_t>(services.size()), 1);
  }
};

class StateCopier {
 public:
  enum class Pass : std::uint8_t { kTouch, kCopy, kHash, kDone };

  StateCopier(const StateParts& parts, consensus::StateExchange& exchange)
      : parts_(parts), exchange_(exchange) {}
  /// What the next step does. From kCopy on the state must stay as it is, and the image's instance
  /// be set to what it is the state of; from kHash on it may change again.
  Pass pass() const { return pass_; }
  /// Does about `bytes` more, of this pass only.
  void step(std::uint64_t bytes);

 private:
  bool next(const SegmentStore*& store, SegmentId& id);
  std::uint64_t bytes_in_use() const;
  void go_on(Pass pass);
  void touch(std::uint64_t bytes);
  void copy(std::uint64_t bytes);
  void copy(const SegmentStore& store, SegmentId id);
  void hash(std::uint64_t bytes);

  const StateParts parts_;
  consensus::StateExchange& exchange_;
  Pass pass_ = Pass::kTouch;
  std::uint32_t service_ = 0;
  std::uint32_t segment_ = 0;
  std::uint64_t expected_ = 0;  // bytes that the copy will take, as far as they were counted
  std::uint64_t touched_ = 0;
  std::uint64_t in_use_ = 0;  // by the state, when touch() was there last
  std::uint64_t hashed_ = 0;
};

class StateInstaller {
 public:
  enum class Outcome : std::uint8_t { kWorking, kInstalled, kRefused };

  StateInstaller(const StateParts& parts, consensus::StateExchange& exchange)
      : parts_(parts), exchange_(exchange), counts_(parts.count()) {}
  /// First looks at about `bytes` more of the copy; once all of it is what the peer said, replaces
  /// the state by it. Refused: the copy is damaged, or does not fit. Until then nothing has
  /// changed; should a service still find its segments unsound, everything is empty.
  Outcome step(std::uint64_t bytes);
  bool emptied() const { return emptied_; }

 private:
  enum class Pass : std::uint8_t { kVerify, kInstall, kAdopt };

  const ImageSegment* next_segment();
  bool verify(const ImageSegment& segment);
  bool verified() const;
  bool install(const ImageSegment& segment);
  void empty_all();
  bool adopt(std::uint32_t service);

  const StateParts parts_;
  consensus::StateExchange& exchange_;
  Pass pass_ = Pass::kVerify;
  std::uint64_t at_ = 0;
  std::uint32_t seen_ = 0;     // segments
  std::uint32_t adopted_ = 0;  // services
  bool emptied_ = false;
  std::uint64_t hash_ = 0;
  std::vector<std::uint32_t> counts_;  // of segments, by service
};

}  // namespace annulus::statemachine
