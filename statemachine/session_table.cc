#include "statemachine/session_table.h"

#include <algorithm>
#include <string>

namespace annulus::statemachine {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};

/// What a record of such a session needs; more than 32 bits can hold must not wrap.
std::uint64_t record_bytes(std::uint64_t window, std::uint32_t reply_bytes) {
  return sizeof(SessionRecord) + window * entry_bytes(reply_bytes);
}

bool possible_window(std::uint32_t window) {
  return std::has_single_bit(window) && window <= kSessionWindowMax;
}

}  // namespace

SessionTable::SessionTable(const SessionTableOptions& options)
    : store_(kSystemService, options.segment_bytes, options.segments_max),
      records_(options.sessions_max),
      record_hashes_(options.sessions_max),
      free_slots_((options.sessions_max + 63) / 64),
      openers_(std::bit_ceil(options.sessions_max * 2)),
      class_hashes_(key_classes()),
      open_segments_(kSessionClasses * kRecordSizes),
      touched_(options.sessions_max) {
  CHECK(options.sessions_max > 0 && options.sessions_max <= kSessionSlotsMax);
  touched_list_.reserve(options.sessions_max);
  reset();
}

void SessionTable::reset() {
  store_.clear();
  reset_index();
  root_ = *store_.create(kSessionRootClass);
  have_root_ = true;
  store_.header(root_).used_bytes = sizeof(SegmentHeader) + sizeof(SessionRoot);
  class_hashes_[kSessionRootClass].add(hash_root(0));
}

void SessionTable::reset_index() {
  std::fill(records_.begin(), records_.end(), nullptr);
  std::fill(record_hashes_.begin(), record_hashes_.end(), 0);
  std::fill(free_slots_.begin(), free_slots_.end(), 0);
  for (std::uint32_t slot = 0; slot < slots(); ++slot) {
    free_slots_[slot / 64] |= std::uint64_t{1} << (slot % 64);
  }
  free_hint_ = 0;
  count_ = 0;
  std::fill(openers_.begin(), openers_.end(), 0);
  std::fill(class_hashes_.begin(), class_hashes_.end(), ContentHash{});
  std::fill(open_segments_.begin(), open_segments_.end(), kNone);
  have_root_ = false;
  std::fill(touched_.begin(), touched_.end(), 0);
  touched_list_.clear();
}

std::uint64_t SessionTable::hash_record(const SessionRecord& record) {
  const std::uint64_t shape = (std::uint64_t{record.window} << 16) | record.reply_bytes;
  const std::uint64_t opener =
      mix(mix(record.opener_epoch, record.opener_sequence), record.opener_node);
  return mix(mix(record.id, record.floor), mix(mix(record.last_activity, shape), opener));
}

std::uint64_t SessionTable::hash_root(std::uint64_t opened) { return mix(opened, ~opened); }

SessionTable::Admitted SessionTable::look_up(std::uint64_t session, std::uint64_t sequence) const {
  SessionRecord* record = find(session);
  if (record == nullptr || sequence < record->floor || sequence - record->floor >= record->window) {
    return {.admission = Admission::kNoSuchSession};
  }
  const WindowEntry& entry = entry_of(*record, sequence);
  const auto state = static_cast<EntryState>(entry.state);
  if (entry.sequence != sequence || state == EntryState::kEmpty || state == EntryState::kPending) {
    return {.admission = Admission::kNoSuchSession};
  }
  return answer(entry);
}

CommandStatus SessionTable::open(const SessionOpener& opener, std::uint32_t window,
                                 std::uint32_t reply_bytes, consensus::Instance instance,
                                 std::uint64_t& id) {
  id = opened_by(opener);
  if (id != 0) return CommandStatus::kOk;
  if (!possible_window(window) || reply_bytes > 0xffff) return CommandStatus::kRefused;
  const std::uint64_t wanted = record_bytes(window, reply_bytes);
  if (wanted > store_.segment_bytes() / 2) return CommandStatus::kRefused;
  const std::uint32_t slot = take_slot();
  if (slot == kNone) return CommandStatus::kSessionsFull;
  SessionRecord* record =
      allocate(slot % kSessionClasses, record_size(static_cast<std::uint32_t>(wanted)).bytes);
  if (record == nullptr) {
    free_slots_[slot / 64] |= std::uint64_t{1} << (slot % 64);
    free_hint_ = std::min(free_hint_, slot / 64);
    return CommandStatus::kSessionsFull;
  }
  class_hashes_[kSessionRootClass].remove(hash_root(root().opened));
  root().opened = root().opened + 1;
  class_hashes_[kSessionRootClass].add(hash_root(root().opened));
  id = (root().opened << kSlotBits) | slot;

  record->id = id;
  record->opener_epoch = opener.epoch;
  record->opener_sequence = opener.sequence;
  record->opener_node = raw(opener.node);
  record->window = window;
  record->floor = 1;
  record->last_activity = raw(instance);
  record->entry_bytes = entry_bytes(reply_bytes);
  record->reply_bytes = static_cast<std::uint16_t>(reply_bytes);
  records_[slot] = record;
  ++count_;
  index_opener(*record);
  record_hashes_[slot] = hash_record(*record);
  class_hashes_[class_of(id)].add(record_hashes_[slot]);
  return CommandStatus::kOk;
}

bool SessionTable::close(std::uint64_t session) {
  SessionRecord* record = find(session);
  if (record == nullptr || session == 0) return false;
  remove(*record);
  return true;
}

bool SessionTable::expire(std::uint64_t session, consensus::Instance last_activity) {
  SessionRecord* record = find(session);
  if (record == nullptr || session == 0 ||
      (record->last_activity != raw(last_activity) && !DEFECT(kExpiryIgnoresActivity))) {
    return false;
  }
  remove(*record);
  return true;
}

bool SessionTable::keep_alive(std::uint64_t session, consensus::Instance instance) {
  SessionRecord* record = find(session);
  if (record == nullptr || session == 0) return false;
  record->last_activity = raw(instance);
  touch(*record);
  return true;
}

void SessionTable::remove(SessionRecord& record) {
  const std::uint64_t id = record.id;
  const std::uint32_t slot = slot_of(id);
  hash_away(record);
  forget_opener(record);
  records_[slot] = nullptr;
  free_slots_[slot / 64] |= std::uint64_t{1} << (slot % 64);
  free_hint_ = std::min(free_hint_, slot / 64);
  --count_;
  free(record);
}

void SessionTable::hash_away(const SessionRecord& record) {
  ContentHash& hash = class_hashes_[class_of(record.id)];
  hash.remove(record_hashes_[slot_of(record.id)]);
  auto& mutable_record = const_cast<SessionRecord&>(record);
  for (std::uint32_t i = 0; i < record.window; ++i) {
    const WindowEntry& entry = entry_of(mutable_record, i);
    if (static_cast<EntryState>(entry.state) != EntryState::kEmpty) hash.remove(entry.hash);
  }
}

void SessionTable::end_batch() {
  for (const std::uint32_t slot : touched_list_) {
    touched_[slot] = 0;
    const SessionRecord* record = records_[slot];
    if (record == nullptr) continue;  // closed in the same value
    ContentHash& hash = class_hashes_[slot % kSessionClasses];
    hash.remove(record_hashes_[slot]);
    record_hashes_[slot] = hash_record(*record);
    hash.add(record_hashes_[slot]);
  }
  touched_list_.clear();
}

// The lowest free slot: a choice that follows from which sessions there are, and so is the same on
// a replica that installed them.
std::uint32_t SessionTable::take_slot() {
  for (; free_hint_ < free_slots_.size(); ++free_hint_) {
    std::uint64_t& word = free_slots_[free_hint_];
    if (word == 0) continue;
    const auto bit = static_cast<std::uint32_t>(std::countr_zero(word));
    word &= word - 1;
    return free_hint_ * 64 + bit;
  }
  return kNone;
}

SessionSegmentHeader& SessionTable::head_of(SegmentId segment) {
  return *reinterpret_cast<SessionSegmentHeader*>(store_.at(segment) + sizeof(SegmentHeader));
}

SegmentId SessionTable::segment_of(const SessionRecord& record) const {
  const auto offset = reinterpret_cast<const std::byte*>(&record) - store_.at(SegmentId{0});
  return SegmentId{
      static_cast<std::uint32_t>(static_cast<std::uint64_t>(offset) / store_.segment_bytes())};
}

bool SessionTable::has_room(SegmentId segment) {
  return store_.header(segment).used_bytes + head_of(segment).record_bytes <=
         store_.segment_bytes();
}

SessionRecord* SessionTable::allocate(std::uint32_t key_class, std::uint32_t bytes) {
  std::uint32_t& open = open_segment(key_class, bytes);
  if (open == kNone) {
    const auto created = store_.create(key_class);
    if (!created) return nullptr;
    store_.header(*created).used_bytes = kSessionRecordsAt;
    head_of(*created).record_bytes = bytes;
    open = static_cast<std::uint32_t>(*created);
  }
  const SegmentId segment{open};
  SegmentHeader& header = store_.header(segment);
  auto* record = reinterpret_cast<SessionRecord*>(store_.at(segment) + header.used_bytes);
  std::memset(static_cast<void*>(record), 0, bytes);
  header.used_bytes = header.used_bytes + bytes;
  if (!has_room(segment)) open = kNone;
  return record;
}

/// The last record of the segment with room fills the gap; of this one, if that is empty or all are
/// full.
void SessionTable::free(SessionRecord& record) {
  const SegmentId segment = segment_of(record);
  const std::uint32_t bytes = head_of(segment).record_bytes;
  std::uint32_t& open = open_segment(store_.header(segment).key_class, bytes);
  SegmentId from = segment;
  if (open != kNone && SegmentId{open} != segment) {
    // One without records is kept while it is the one with room, so that opening and closing a
    // session costs no clearing.
    if (store_.header(SegmentId{open}).used_bytes == kSessionRecordsAt) {
      store_.destroy(SegmentId{open});
    } else {
      from = SegmentId{open};
    }
  }
  open = static_cast<std::uint32_t>(from);
  SegmentHeader& header = store_.header(from);
  header.used_bytes = header.used_bytes - bytes;
  auto* last = reinterpret_cast<SessionRecord*>(store_.at(from) + header.used_bytes);
  if (last == &record) return;
  std::memcpy(static_cast<void*>(&record), last, bytes);
  records_[slot_of(record.id)] = &record;
}

SessionOpener SessionTable::opener_of(const SessionRecord& record) {
  return {consensus::NodeId{record.opener_node.get()}, record.opener_epoch, record.opener_sequence};
}

std::size_t SessionTable::opener_home(const SessionOpener& opener) const {
  return mix(mix(opener.epoch, opener.sequence), raw(opener.node)) & (openers_.size() - 1);
}

std::uint64_t SessionTable::opened_by(const SessionOpener& opener) const {
  const std::size_t mask = openers_.size() - 1;
  for (std::size_t at = opener_home(opener); openers_[at] != 0; at = (at + 1) & mask) {
    const SessionRecord& record = *records_[openers_[at] - 1];
    if (opener_of(record) == opener) return record.id;
  }
  return 0;
}

void SessionTable::index_opener(const SessionRecord& record) {
  std::size_t at = opener_home(opener_of(record));
  while (openers_[at] != 0) at = (at + 1) & (openers_.size() - 1);
  openers_[at] = slot_of(record.id) + 1;
}

void SessionTable::forget_opener(const SessionRecord& record) {
  const std::size_t mask = openers_.size() - 1;
  std::size_t at = opener_home(opener_of(record));
  while (openers_[at] != slot_of(record.id) + 1) at = (at + 1) & mask;
  openers_[at] = 0;
  // Those that probed past the gap move into it, so that no search ends early.
  for (std::size_t next = (at + 1) & mask; openers_[next] != 0; next = (next + 1) & mask) {
    const std::size_t home = opener_home(opener_of(*records_[openers_[next] - 1]));
    if (((next - home) & mask) < ((next - at) & mask)) continue;
    openers_[at] = openers_[next];
    openers_[next] = 0;
    at = next;
  }
}

void SessionTable::hashes(std::span<ContentHash> per_class) const {
  std::copy(class_hashes_.begin(), class_hashes_.end(), per_class.begin());
}

void SessionTable::recompute_hashes(std::span<ContentHash> per_class) const {
  std::fill(per_class.begin(), per_class.end(), ContentHash{});
  for (std::uint32_t i = 0; i < store_.id_end(); ++i) {
    const SegmentId segment{i};
    if (!store_.live(segment)) continue;
    const SegmentHeader& header = store_.header(segment);
    ContentHash& hash = per_class[header.key_class];
    const std::byte* base = store_.at(segment);
    if (header.key_class == kSessionRootClass) {
      hash.add(hash_root(reinterpret_cast<const SessionRoot*>(base + sizeof(header))->opened));
      continue;
    }
    const auto& head = *reinterpret_cast<const SessionSegmentHeader*>(base + sizeof(header));
    for (std::uint32_t at = kSessionRecordsAt; at < header.used_bytes; at += head.record_bytes) {
      const auto& record = *reinterpret_cast<const SessionRecord*>(base + at);
      hash.add(hash_record(record));
      for (std::uint32_t k = 0; k < record.window; ++k) {
        const WindowEntry& entry = entry_of(const_cast<SessionRecord&>(record), k);
        if (static_cast<EntryState>(entry.state) == EntryState::kEmpty) continue;
        hash.add(hash_entry(record.id, entry));
      }
    }
  }
}

void SessionTable::before_segments_installed() { reset_index(); }

Status SessionTable::adopt_root(SegmentId segment) {
  const std::uint32_t used = store_.header(segment).used_bytes;
  if (have_root_ || used != sizeof(SegmentHeader) + sizeof(SessionRoot)) {
    return Error{"session segments: the root segment is there twice or has a wrong length"};
  }
  have_root_ = true;
  root_ = segment;
  class_hashes_[kSessionRootClass].add(hash_root(root().opened));
  return {};
}

Status SessionTable::on_segment_installed(SegmentId segment) {
  const SegmentHeader& header = store_.header(segment);
  if (header.key_class == kSessionRootClass) return adopt_root(segment);
  const Error broken{"session segment " + std::to_string(static_cast<std::uint32_t>(segment)) +
                     ": contents do not fit together; fetch it again from another replica"};
  if (header.key_class >= kSessionClasses || header.used_bytes < kSessionRecordsAt) return broken;
  const std::uint32_t bytes = head_of(segment).record_bytes;
  if (bytes < 128 || bytes > store_.segment_bytes() || record_size(bytes).bytes != bytes ||
      (header.used_bytes - kSessionRecordsAt) % bytes != 0) {
    return broken;
  }
  for (std::uint32_t at = kSessionRecordsAt; at < header.used_bytes; at += bytes) {
    auto& record = *reinterpret_cast<SessionRecord*>(store_.at(segment) + at);
    if (!adopt_record(segment, record)) return broken;
  }
  if (!has_room(segment)) return {};
  std::uint32_t& open = open_segment(header.key_class, bytes);
  if (open != kNone) return broken;
  open = static_cast<std::uint32_t>(segment);
  return {};
}

Status SessionTable::on_segments_installed() {
  if (!have_root_) return Error{"session segments: the root segment is missing"};
  return {};
}

bool SessionTable::adopt_record(SegmentId segment, SessionRecord& record) {
  const std::uint32_t slot = record.id & (kSessionSlotsMax - 1);
  if (record.id == 0 || slot >= slots() || records_[slot] != nullptr) return false;
  if (slot % kSessionClasses != store_.header(segment).key_class) return false;
  if (!possible_window(record.window) || record.entry_bytes != entry_bytes(record.reply_bytes) ||
      record_bytes(record.window, record.reply_bytes) > head_of(segment).record_bytes) {
    return false;
  }
  ContentHash& hash = class_hashes_[class_of(record.id)];
  for (std::uint32_t k = 0; k < record.window; ++k) {
    WindowEntry& entry = entry_of(record, k);
    if (entry.state > static_cast<std::uint8_t>(EntryState::kDropped) ||
        entry.bytes > record.reply_bytes) {
      return false;
    }
    entry.hash = hash_entry(record.id, entry);
    if (static_cast<EntryState>(entry.state) != EntryState::kEmpty) hash.add(entry.hash);
  }
  records_[slot] = &record;
  free_slots_[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
  ++count_;
  index_opener(record);
  record_hashes_[slot] = hash_record(record);
  hash.add(record_hashes_[slot]);
  return true;
}

}  // namespace annulus::statemachine
