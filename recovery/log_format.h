// How an acceptor's log lies on disk: two copies of a superblock, then log blocks. Each block
// carries who wrote it, where and when under one checksum, so that torn, stale, misdirected and
// corrupt blocks are told apart. Records (accepts) run through the blocks of one group, which is
// what was written at once; a group begins with a new block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "consensus/log.h"
#include "consensus/membership.h"
#include "consensus/messages.h"
#include "dataplane/wire_int.h"
#include "recovery/disk.h"

namespace annulus::recovery {

using consensus::Instance;

constexpr std::uint32_t kLogMagic = 0x474f4c41;  // "ALOG"
constexpr std::uint8_t kLogVersion = 1;
/// Where the copies of the superblock lie, and the first log block.
constexpr std::uint64_t kSuperblockAt[] = {0, 8};
constexpr std::uint64_t kLogBlocksAt = 16;

enum class BlockKind : std::uint8_t { kSuperblock = 1, kLog = 2 };

/// Whose log it is.
struct LogIdentity {
  std::uint64_t cluster = 0;
  consensus::NodeId node{};
  std::uint64_t members = 0;  // hash of the bootstrap's acceptors' ids
  bool operator==(const LogIdentity&) const = default;
};

struct BlockHeader {
  u64le checksum;  // XXH3 of the rest of the block
  u32le magic;
  std::uint8_t version;
  std::uint8_t kind;
  u16le reserved;
  u64le cluster;
  u32le node;
  u32le reserved2;
  u64le position;  // log blocks count from 0; of a superblock the copy
  u64le epoch;     // the incarnation that wrote it
};

/// Rewritten in place, the second copy after the first is durable: whatever copy is readable is at
/// least as new as what was last acted upon.
struct Superblock {
  BlockHeader header;
  u64le members;
  u64le revision;     // of two copies the higher one counts
  u64le promised;     // the highest ballot promised; kept here, where no damage to the log reaches
  u64le epoch_start;  // log blocks from here on are of this epoch, or stale
  u64le covered;      // log blocks below are durable: one that is unreadable is damaged, not torn
  u64le chosen_below;
  u64le accepted_below;  // one past the highest instance of all records
  u64le blocks;          // log blocks in the file
  u64le incarnation;     // under which its acceptor asked to be admitted; 0 of the bootstrap's
  u32le configuration_bytes;
  u32le reserved;
  // The configuration under which the acceptor acts, as consensus::encode() writes it; none of the
  // bootstrap's.
};
static_assert(sizeof(Superblock) + consensus::kConfigurationBytesMax <= kBlockBytes);

struct LogBlock {
  BlockHeader header;
  u64le group;           // position of the group's first block
  u64le durable_below;   // blocks below were durable when this one was written
  u64le chosen_first;    // Keep::chosen_below of the group's first record
  u64le accepted_below;  // one past the highest instance of all records up to the group's last
  u16le begins;          // offset of the first record that begins in this block; 0: none does
  u16le used;            // bytes of the block, headers included
  u32le reserved;
};

/// Followed by `value.bytes` bytes, which go on after the header of the group's next blocks. Its
/// own fields never straddle blocks.
struct LogRecord {
  u32le kind;  // kAcceptRecord
  u64le instance;
  u64le ballot;
  u64le chosen_below;
  consensus::WireValue value;
};
constexpr std::uint32_t kAcceptRecord = 1;
constexpr std::uint32_t kBlockPayload = kBlockBytes - sizeof(LogBlock);
static_assert(sizeof(BlockHeader) == 48 && sizeof(LogBlock) == 88 && sizeof(LogRecord) == 68);

/// Blocks that a value's record takes at most, in a group of its own.
constexpr std::uint32_t record_blocks_max(std::uint32_t value_bytes) {
  return 1 + (value_bytes + sizeof(LogRecord)) / kBlockPayload;
}

enum class BlockState : std::uint8_t {
  kValid,
  kBlank,  // zeros: never written
  kCorrupt,
  kForeign,      // of another log or version
  kMisdirected,  // meant for another position
  kStale,        // left over from an earlier epoch
  kCount,
};
const char* to_string(BlockState state);

/// Everything but the epoch, which is judged against the blocks around it.
BlockState check_block(std::span<const std::byte> block, BlockKind kind,
                       const LogIdentity& identity, std::uint64_t position);
/// Fills the block's header.
void seal_block(std::span<std::byte> block, BlockKind kind, const LogIdentity& identity,
                std::uint64_t position, std::uint64_t epoch);

/// Where a record lies: its first block, offset there, and number of blocks. 0 is nowhere.
struct RecordPlace {
  std::uint64_t block = 0;
  std::uint32_t offset = 0;
  std::uint32_t blocks = 0;
  static constexpr std::uint32_t kBlocksMax = 0xffff;
  std::uint64_t packed() const { return block << 28 | std::uint64_t{offset} << 16 | blocks; }
  static RecordPlace unpack(std::uint64_t packed) {
    return {packed >> 28, static_cast<std::uint32_t>(packed >> 16 & 0xfff),
            static_cast<std::uint32_t>(packed & 0xffff)};
  }
};

/// Writes records into the blocks of one group.
class GroupWriter {
 public:
  /// `memory` is what the group may fill.
  GroupWriter(std::span<std::byte> memory, std::uint64_t position, Instance accepted_below)
      : memory_(memory), position_(position), accepted_below_(accepted_below) {}
  /// False, with nothing written, if the group has no room left for it.
  bool add(const consensus::Keep& keep, RecordPlace& place);
  bool empty() const { return records_ == 0; }
  std::uint32_t records() const { return records_; }
  Instance accepted_below() const { return accepted_below_; }
  /// Seals the blocks; returns how many there are.
  std::uint32_t finish(const LogIdentity& identity, std::uint64_t epoch,
                       std::uint64_t durable_below);

 private:
  LogBlock& block(std::uint32_t index) {
    return *reinterpret_cast<LogBlock*>(memory_.data() + std::size_t{index} * kBlockBytes);
  }
  void open_block();

  std::span<std::byte> memory_;
  std::uint64_t position_;
  Instance accepted_below_;
  std::uint32_t blocks_ = 0;
  std::uint32_t offset_ = kBlockBytes;  // in the last block: where the next byte goes
  std::uint32_t records_ = 0;
  Instance chosen_first_{};
};

/// The record at `offset` of the first of these valid blocks of one group; its value's bytes go to
/// `into` if that is not empty. False if it is none, or goes on past the blocks.
bool read_record(std::span<const std::byte> blocks, std::uint32_t offset, LogRecord& record,
                 std::span<std::byte> into);

}  // namespace annulus::recovery
