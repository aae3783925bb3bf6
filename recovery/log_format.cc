#include "recovery/log_format.h"

#include <algorithm>
#include <cstring>

#include "dataplane/defect.h"
#include "dataplane/hash.h"

namespace annulus::recovery {
namespace {

std::uint64_t checksum_of(std::span<const std::byte> block) {
  return dataplane::hash_bytes(block.subspan(sizeof(BlockHeader::checksum)));
}

}  // namespace

const char* to_string(BlockState state) {
  constexpr const char* kNames[] = {"valid", "blank", "corrupt", "foreign", "misdirected", "stale"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(BlockState::kCount));
  return kNames[static_cast<std::size_t>(state)];
}

BlockState check_block(std::span<const std::byte> block, BlockKind kind,
                       const LogIdentity& identity, std::uint64_t position) {
  CHECK(block.size() == kBlockBytes);
  const auto& header = *reinterpret_cast<const BlockHeader*>(block.data());
  if (header.magic != kLogMagic) {
    const bool zeros = std::all_of(block.begin(), block.end(),
                                   [](std::byte byte) { return byte == std::byte{0}; });
    return zeros ? BlockState::kBlank : BlockState::kCorrupt;
  }
  if (header.checksum != checksum_of(block) && !DEFECT(kLogChecksumIgnored))
    return BlockState::kCorrupt;
  if (header.version != kLogVersion || header.kind != static_cast<std::uint8_t>(kind) ||
      header.cluster != identity.cluster || header.node != raw(identity.node)) {
    return BlockState::kForeign;
  }
  if (header.position != position) return BlockState::kMisdirected;
  return BlockState::kValid;
}

void seal_block(std::span<std::byte> block, BlockKind kind, const LogIdentity& identity,
                std::uint64_t position, std::uint64_t epoch) {
  auto& header = *reinterpret_cast<BlockHeader*>(block.data());
  header = {};
  header.magic = kLogMagic;
  header.version = kLogVersion;
  header.kind = static_cast<std::uint8_t>(kind);
  header.cluster = identity.cluster;
  header.node = raw(identity.node);
  header.position = position;
  header.epoch = epoch;
  header.checksum = checksum_of(block);
}

void GroupWriter::open_block() {
  LogBlock& opened = block(blocks_++);
  opened = {};
  offset_ = sizeof(LogBlock);
}

bool GroupWriter::add(const consensus::Keep& keep, RecordPlace& place) {
  const std::uint32_t bytes = keep.value.bytes;
  const bool fresh = kBlockBytes - offset_ < sizeof(LogRecord);
  const std::uint32_t first = fresh ? blocks_ : blocks_ - 1;
  const std::uint32_t offset = fresh ? sizeof(LogBlock) : offset_;
  const std::uint32_t here = kBlockBytes - offset - static_cast<std::uint32_t>(sizeof(LogRecord));
  const std::uint32_t more = bytes <= here ? 0 : (bytes - here - 1) / kBlockPayload + 1;
  if (std::size_t{first + 1 + more} * kBlockBytes > memory_.size()) return false;
  if (1 + more > RecordPlace::kBlocksMax) return false;

  if (fresh) open_block();
  LogBlock& begun = block(first);
  if (begun.begins == 0) begun.begins = static_cast<std::uint16_t>(offset);
  const LogRecord record{kAcceptRecord, raw(keep.instance), raw(keep.ballot),
                         raw(keep.chosen_below), to_wire(keep.value)};
  std::memcpy(reinterpret_cast<std::byte*>(&begun) + offset, &record, sizeof record);
  offset_ = offset + static_cast<std::uint32_t>(sizeof record);
  block(first).used = static_cast<std::uint16_t>(offset_);
  const std::byte* from = bytes == 0 ? nullptr : keep.bytes.data();
  for (std::uint32_t left = bytes; left != 0;) {
    if (offset_ == kBlockBytes) open_block();
    const std::uint32_t part = std::min(left, kBlockBytes - offset_);
    std::memcpy(reinterpret_cast<std::byte*>(&block(blocks_ - 1)) + offset_, from, part);
    from += part;
    left -= part;
    offset_ += part;
    block(blocks_ - 1).used = static_cast<std::uint16_t>(offset_);
  }
  if (records_++ == 0) chosen_first_ = keep.chosen_below;
  accepted_below_ = std::max(accepted_below_, keep.instance + 1);
  place = {position_ + first, offset, 1 + more};
  return true;
}

std::uint32_t GroupWriter::finish(const LogIdentity& identity, std::uint64_t epoch,
                                  std::uint64_t durable_below) {
  for (std::uint32_t i = 0; i < blocks_; ++i) {
    LogBlock& each = block(i);
    each.group = position_;
    each.durable_below = durable_below;
    each.chosen_first = raw(chosen_first_);
    each.accepted_below = raw(accepted_below_);
    auto* bytes = reinterpret_cast<std::byte*>(&each);
    std::memset(bytes + each.used, 0, kBlockBytes - each.used);
    seal_block({bytes, kBlockBytes}, BlockKind::kLog, identity, position_ + i, epoch);
  }
  return blocks_;
}

bool read_record(std::span<const std::byte> blocks, std::uint32_t offset, LogRecord& record,
                 std::span<std::byte> into) {
  if (blocks.size() < kBlockBytes || offset < sizeof(LogBlock)) return false;
  if (offset + sizeof(LogRecord) > kBlockBytes) return false;
  const auto& head = *reinterpret_cast<const LogBlock*>(blocks.data());
  if (offset + sizeof(LogRecord) > head.used || head.used > kBlockBytes) return false;
  std::memcpy(&record, blocks.data() + offset, sizeof record);
  if (record.kind != kAcceptRecord) return false;
  std::uint32_t left = record.value.bytes;
  std::byte* to = into.data();
  if (!into.empty() && into.size() < left) return false;
  offset += static_cast<std::uint32_t>(sizeof record);
  for (std::size_t at = 0; left != 0; at += kBlockBytes, offset = sizeof(LogBlock)) {
    if (at + kBlockBytes > blocks.size()) return false;
    const auto& block = *reinterpret_cast<const LogBlock*>(blocks.data() + at);
    if (block.group != head.group || block.used > kBlockBytes || block.used < offset) return false;
    const std::uint32_t part = std::min<std::uint32_t>(left, block.used - offset);
    if (part < left && block.used != kBlockBytes) return false;
    if (to != nullptr) {
      std::memcpy(to, blocks.data() + at + offset, part);
      to += part;
    }
    left -= part;
  }
  return true;
}

}  // namespace annulus::recovery
