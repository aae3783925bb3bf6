// Exactly-once: which commands of which sessions were executed, and what they were answered.
// Replicated state, in segments. The worker asks admit() before it executes a command and calls
// record() after; sessions open, close and expire only by ordered command (T9).
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "consensus/types.h"
#include "dataplane/defect.h"
#include "dataplane/hash.h"
#include "statemachine/batch.h"
#include "statemachine/service.h"
#include "statemachine/session_segment.h"

namespace annulus::statemachine {

struct SessionTableOptions {
  std::uint32_t sessions_max = 131'072;    // at most kSessionSlotsMax
  std::uint32_t segment_bytes = 1u << 20;  // a session's record must fit
  std::uint32_t segments_max = 4'096;
};

/// Who asked for a session: a repeated request finds the session it opened.
struct SessionOpener {
  consensus::NodeId node{};
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
  bool operator==(const SessionOpener&) const = default;
};

class SessionTable {
 public:
  static constexpr std::uint32_t kSlotBits = 20;
  static constexpr std::uint32_t kSessionSlotsMax = 1u << kSlotBits;

  enum class Admission : std::uint8_t {
    kExecute,        // new: execute it, then record()
    kRepeat,         // executed before: `status` and `reply` are its answer
    kNoSuchSession,  // never opened, closed or expired
    kStale,          // below the session's floor: never executed from now on
    kBeyondWindow,   // its client has more commands outstanding than it asked for
    kInProgress,     // its place is held by a command that was admitted but not recorded yet
  };
  struct Admitted {
    Admission admission{};
    CommandStatus status{};
    std::span<const std::byte> reply;
    SessionRecord* session = nullptr;  // kExecute: for record()
    WindowEntry* entry = nullptr;
  };

  explicit SessionTable(const SessionTableOptions& options);

  /// Starts loading what admit() will read. Three rounds over a batch, each depending on the last.
  void prefetch_place(std::uint64_t session) const {
    __builtin_prefetch(&records_[slot_of(session)]);
  }
  void prefetch_session(std::uint64_t session) const {
    __builtin_prefetch(records_[slot_of(session)]);
  }
  void prefetch_entry(std::uint64_t session, std::uint64_t sequence) const {
    SessionRecord* record = find(session);
    if (record != nullptr) __builtin_prefetch(&entry_of(*record, sequence), 1);
  }

  /// Decides about one command, in delivery order. Raises the session's floor first.
  Admitted admit(const CommandHeader& command) {
    return admit(command.session, command.sequence, command.acked_distance);
  }
  Admitted admit(std::uint64_t session, std::uint64_t sequence, std::uint16_t acked_distance);

  /// Keeps the outcome of a command that admit() let through.
  void record(const Admitted& admitted, CommandStatus status, std::span<const std::byte> reply,
              consensus::Instance instance);

  /// What is known of a command without changing anything: kRepeat, or kNoSuchSession for anything
  /// that was not executed here.
  Admitted look_up(std::uint64_t session, std::uint64_t sequence) const;

  /// kOk with the id; kRefused when window or reply length are not possible; kSessionsFull.
  CommandStatus open(const SessionOpener& opener, std::uint32_t window, std::uint32_t reply_bytes,
                     consensus::Instance instance, std::uint64_t& id);
  /// The session that the request opened, or 0.
  std::uint64_t opened_by(const SessionOpener& opener) const;
  bool close(std::uint64_t session);
  /// Closes the session if its last activity still is what the proposer saw.
  bool expire(std::uint64_t session, consensus::Instance last_activity);
  bool keep_alive(std::uint64_t session, consensus::Instance instance);

  /// As if nothing had ever been opened.
  void reset();

  /// Ends a value: brings the hashes of the sessions it touched up to date.
  void end_batch();

  std::uint32_t count() const { return count_; }
  std::uint32_t slots() const { return static_cast<std::uint32_t>(records_.size()); }
  /// The session in a place, or null; to look for idle ones.
  const SessionRecord* in_slot(std::uint32_t slot) const { return records_[slot]; }

  /// As Service's members of these names.
  SegmentStore& segments() { return store_; }
  /// Installing takes turns: first this, then each segment, then all.
  void before_segments_installed();
  Status on_segment_installed(SegmentId segment);
  Status on_segments_installed();
  static constexpr std::uint32_t key_classes() { return kSessionClasses + 1; }
  void hashes(std::span<ContentHash> per_class) const;
  void recompute_hashes(std::span<ContentHash> per_class) const;

 private:
  static std::uint32_t slot_of(std::uint64_t session, std::uint32_t slots) {
    const std::uint32_t slot = session & (kSessionSlotsMax - 1);
    return slot < slots ? slot : 0;
  }
  std::uint32_t slot_of(std::uint64_t session) const { return slot_of(session, slots()); }
  static std::uint32_t class_of(std::uint64_t session) { return session & (kSessionClasses - 1); }

  SessionRecord* find(std::uint64_t session) const {
    SessionRecord* record = records_[slot_of(session)];
    return record != nullptr && record->id == session ? record : nullptr;
  }
  static WindowEntry& entry_of(SessionRecord& record, std::uint64_t sequence) {
    const std::uint64_t index = sequence & (record.window - 1u);
    return *reinterpret_cast<WindowEntry*>(reinterpret_cast<std::byte*>(&record + 1) +
                                           index * record.entry_bytes);
  }
  static std::span<const std::byte> reply_of(const WindowEntry& entry) {
    return {reinterpret_cast<const std::byte*>(&entry + 1), entry.bytes};
  }
  static Admitted answer(const WindowEntry& entry);
  static std::uint64_t hash_entry(std::uint64_t session, const WindowEntry& entry);
  static std::uint64_t hash_record(const SessionRecord& record);
  static std::uint64_t hash_root(std::uint64_t opened);
  void touch(SessionRecord& record) {
    const std::uint32_t slot = slot_of(record.id);
    if (touched_[slot] != 0) return;
    touched_[slot] = 1;
    touched_list_.push_back(slot);
  }
  void remove(SessionRecord& record);
  void hash_away(const SessionRecord& record);

  std::uint32_t take_slot();
  SessionRecord* allocate(std::uint32_t key_class, std::uint32_t bytes);
  void free(SessionRecord& record);
  SegmentId segment_of(const SessionRecord& record) const;
  SessionSegmentHeader& head_of(SegmentId segment);
  bool has_room(SegmentId segment);
  std::uint32_t& open_segment(std::uint32_t key_class, std::uint32_t record_bytes) {
    return open_segments_[key_class * kRecordSizes + record_size(record_bytes).index];
  }

  std::size_t opener_home(const SessionOpener& opener) const;
  static SessionOpener opener_of(const SessionRecord& record);
  void index_opener(const SessionRecord& record);
  void forget_opener(const SessionRecord& record);

  void reset_index();
  Status adopt_root(SegmentId segment);
  bool adopt_record(SegmentId segment, SessionRecord& record);
  SessionRoot& root() { return *reinterpret_cast<SessionRoot*>(store_.at(root_) + 64); }
  const SessionRoot& root() const {
    return *reinterpret_cast<const SessionRoot*>(store_.at(root_) + 64);
  }

  SegmentStore store_;
  SegmentId root_{};
  bool have_root_ = false;
  // Beside the segments, rebuilt from them when they are installed.
  std::vector<SessionRecord*> records_;       // by slot
  std::vector<std::uint64_t> record_hashes_;  // by slot: as counted in class_hashes_
  std::vector<std::uint64_t> free_slots_;     // bit set: free
  std::uint32_t free_hint_ = 0;               // no free slot in words below
  std::uint32_t count_ = 0;
  std::vector<std::uint32_t> openers_;  // open addressing: slot + 1
  std::vector<ContentHash> class_hashes_;
  // By key class and record size: the one segment with room, if there is one. All others of a kind
  // are full, so that their number, and with it when there is no room for a session, follows from
  // which sessions there are, as it must on every replica.
  std::vector<std::uint32_t> open_segments_;
  // Sessions whose record changed since end_batch().
  std::vector<std::uint8_t> touched_;
  std::vector<std::uint32_t> touched_list_;
};

/// Folds two words into one; both count fully.
inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  const Uint128 product =
      static_cast<Uint128>(a ^ 0x9e3779b97f4a7c15ull) * (b ^ 0xd1b54a32d192ed03ull);
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

inline std::uint64_t SessionTable::hash_entry(std::uint64_t session, const WindowEntry& entry) {
  const auto reply = reply_of(entry);
  std::uint64_t content = 0;
  if (reply.size() <= 8) {
    std::memcpy(&content, reply.data(), 8 * (reply.size() != 0));  // padded with zeros
  } else {
    content = dataplane::hash_bytes(reply);
  }
  const std::uint64_t shape =
      (std::uint64_t{entry.status} << 24) | (std::uint64_t{entry.state} << 16) | entry.bytes;
  return mix(mix(session, entry.sequence), mix(shape, content));
}

inline SessionTable::Admitted SessionTable::answer(const WindowEntry& entry) {
  Admitted result;
  result.admission = Admission::kRepeat;
  const bool kept = static_cast<EntryState>(entry.state) == EntryState::kKept;
  result.status = kept ? static_cast<CommandStatus>(entry.status) : CommandStatus::kReplyDropped;
  if (kept) result.reply = reply_of(entry);
  return result;
}

inline SessionTable::Admitted SessionTable::admit(std::uint64_t session, std::uint64_t sequence,
                                                  std::uint16_t acked_distance) {
  Admitted result;
  SessionRecord* record = find(session);
  if (record == nullptr) {
    result.admission = Admission::kNoSuchSession;
    return result;
  }
  const std::uint64_t acked_below =
      sequence - (acked_distance < sequence ? acked_distance : sequence);
  if (acked_below > record->floor) {
    record->floor = acked_below;
    touch(*record);
  }
  const bool stale = sequence < record->floor;
  if (stale && !DEFECT(kStaleExecuted)) {
    result.admission = Admission::kStale;
    return result;
  }
  if (!stale && sequence - record->floor >= record->window) {
    result.admission = Admission::kBeyondWindow;
    return result;
  }
  WindowEntry& entry = entry_of(*record, sequence);
  if (static_cast<EntryState>(entry.state) == EntryState::kPending) {
    result.admission = Admission::kInProgress;
    return result;
  }
  if (DEFECT(kSessionKeepsMaximum)) {
    for (std::uint64_t later = sequence + 1; later < record->floor + record->window; ++later) {
      if (entry_of(*record, later).sequence == later) return answer(entry);
    }
  }
  if (entry.sequence == sequence && !DEFECT(kDuplicateExecuted)) {
    return answer(DEFECT(kCachedReplyOfNeighbour) ? entry_of(*record, sequence + 1) : entry);
  }
  if (static_cast<EntryState>(entry.state) != EntryState::kEmpty) {
    class_hashes_[class_of(session)].remove(entry.hash);
  }
  entry.sequence = sequence;
  entry.state = static_cast<std::uint8_t>(EntryState::kPending);
  result.admission = Admission::kExecute;
  result.session = record;
  result.entry = &entry;
  return result;
}

inline void SessionTable::record(const Admitted& admitted, CommandStatus status,
                                 std::span<const std::byte> reply, consensus::Instance instance) {
  SessionRecord& session = *admitted.session;
  WindowEntry& entry = *admitted.entry;
  const bool kept = reply.size() <= session.reply_bytes;
  entry.status = static_cast<std::uint8_t>(status);
  entry.state = static_cast<std::uint8_t>(kept ? EntryState::kKept : EntryState::kDropped);
  entry.bytes = static_cast<std::uint16_t>(kept ? reply.size() : 0);
  if (kept && !reply.empty()) {
    auto* place = reinterpret_cast<std::byte*>(&entry + 1);
    // The last word first: its padding must be zero whatever was there.
    std::memset(place + padded(entry.bytes) - 8, 0, 8);
    std::memcpy(place, reply.data(), reply.size());
  }
  entry.hash = hash_entry(session.id, entry);
  class_hashes_[class_of(session.id)].add(entry.hash);
  session.last_activity = raw(instance);
  touch(session);
}

}  // namespace annulus::statemachine
