// How sessions lie in segments: records of one size a segment, each a head and its window of
// commands, without gaps. Written by SessionTable only; what lies here is the replicated state.
#pragma once

#include <bit>
#include <cstdint>

#include "statemachine/segment.h"

namespace annulus::statemachine {

/// A session's key class is its place in the table modulo this; the table's own record has the
/// class after the last.
constexpr std::uint32_t kSessionClasses = 16;
constexpr std::uint32_t kSessionRootClass = kSessionClasses;

/// Follows the SegmentHeader of a segment of sessions.
struct SessionSegmentHeader {
  u32le record_bytes;
  std::uint8_t pad[60];
};
static_assert(sizeof(SessionSegmentHeader) == 64);
constexpr std::uint32_t kSessionRecordsAt = sizeof(SegmentHeader) + sizeof(SessionSegmentHeader);

/// Follows the SegmentHeader of the root segment.
struct SessionRoot {
  u64le opened;  // sessions ever opened: makes every id unique
};

/// Followed by `window` entries.
struct SessionRecord {
  u64le id;
  u64le opener_epoch;  // with opener_node and opener_sequence: whose request opened it
  u64le opener_sequence;
  u32le opener_node;
  u32le window;
  u64le floor;          // commands below are refused: answered, or given up
  u64le last_activity;  // instance of the last command that was recorded
  u32le entry_bytes;
  u16le reply_bytes;  // longest reply kept
  u16le zero;
  u64le zero2;
};
static_assert(sizeof(SessionRecord) == 64);

enum class EntryState : std::uint8_t {
  kEmpty = 0,
  kKept = 1,     // executed; the reply follows
  kDropped = 2,  // executed; the reply was too long to keep
  kPending = 3,  // being executed: never in a segment between two values
};

/// What became of the command whose sequence modulo the window leads here. Followed by the reply.
struct WindowEntry {
  u64le sequence;
  u64le hash;  // of the entry's content
  u16le bytes;
  std::uint8_t status;
  std::uint8_t state;  // EntryState
  u32le zero;
};
static_assert(sizeof(WindowEntry) == 24);

constexpr std::uint32_t entry_bytes(std::uint32_t reply_bytes) {
  return static_cast<std::uint32_t>(sizeof(WindowEntry)) + ((reply_bytes + 7) & ~7u);
}

/// Record sizes: eight an octave, so that at most an eighth is wasted.
struct RecordSize {
  std::uint32_t index;
  std::uint32_t bytes;
};
constexpr std::uint32_t kRecordSizes = 105;
constexpr RecordSize record_size(std::uint32_t bytes) {
  if (bytes <= 128) return {0, 128};
  const auto octave = static_cast<std::uint32_t>(std::bit_width((bytes - 1) >> 7));
  const std::uint32_t base = 64u << octave;
  const std::uint32_t step = base / 8;
  const std::uint32_t steps = (bytes - base + step - 1) / step;
  return {(octave - 1) * 8 + steps, base + steps * step};
}
static_assert(record_size(129).bytes == 144 && record_size(129).index == 1);
static_assert(record_size(256).bytes == 256 && record_size(257).bytes == 288);
static_assert(record_size(1u << 20).index == kRecordSizes - 1);

}  // namespace annulus::statemachine
