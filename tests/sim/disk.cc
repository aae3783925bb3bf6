#include "tests/sim/disk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "recovery/log_format.h"

namespace annulus::sim {

using recovery::BlockKind;
using recovery::kBlockBytes;
using recovery::kLogBlocksAt;
using recovery::kSuperblockAt;
using recovery::Superblock;
using recovery::Transfer;
using recovery::TransferDone;

const char* to_string(DiskEvent event) {
  static constexpr const char* kNames[] = {"written", "read",   "overtaken", "lost_at_crash",
                                           "torn",    "failed", "corrupted", "misdirected"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(DiskEvent::kCount));
  return kNames[static_cast<std::size_t>(event)];
}

// --- Platter

void Platter::read(std::uint64_t offset, std::span<std::byte> into) const {
  CHECK(offset % kBlockBytes == 0 && into.size() % kBlockBytes == 0);
  for (std::size_t at = 0; at < into.size(); at += kBlockBytes) {
    const auto& block = blocks_.at((offset + at) / kBlockBytes);
    if (block == nullptr) std::memset(into.data() + at, 0, kBlockBytes);
    if (block != nullptr) std::memcpy(into.data() + at, block->data(), kBlockBytes);
  }
}

void Platter::write(std::uint64_t offset, std::span<const std::byte> from) {
  CHECK(offset % kSectorBytes == 0 && from.size() % kSectorBytes == 0);
  for (std::size_t at = 0; at < from.size(); at += kSectorBytes) {
    auto& block = blocks_.at((offset + at) / kBlockBytes);
    if (block == nullptr) block = std::make_unique<Block>(Block{});
    std::memcpy(block->data() + (offset + at) % kBlockBytes, from.data() + at, kSectorBytes);
  }
}

void Platter::damage(std::uint64_t choice_seed) {
  Rng choice(choice_seed);
  std::uint64_t covered = ~std::uint64_t{0};
  for (const std::uint64_t at : kSuperblockAt) {
    std::array<std::byte, kBlockBytes> block;
    read(at * kBlockBytes, block);
    const auto& found = *reinterpret_cast<const Superblock*>(block.data());
    const recovery::LogIdentity whose{found.header.cluster,
                                      consensus::NodeId{found.header.node.get()}, found.members};
    const std::uint64_t copy = at == kSuperblockAt[0] ? 0 : 1;
    // One is damaged or being written: not the other too, nor what only it says is durable.
    if (recovery::check_block(block, BlockKind::kSuperblock, whose, copy) !=
        recovery::BlockState::kValid) {
      return;
    }
    covered = std::min<std::uint64_t>(covered, found.covered);
  }
  if (choice.chance(200'000)) return damage_block(kSuperblockAt[choice.below(2)], choice, 0);
  if (covered == 0) return;
  const std::uint64_t count = choice.between(1, 3);
  // Mostly near the end, where what was not decided yet is.
  const std::uint64_t first =
      choice.coin() ? choice.below(covered) : covered - 1 - choice.below(std::min(covered, 16ul));
  for (std::uint64_t i = first; i < std::min(first + count, covered); ++i) {
    damage_block(kLogBlocksAt + i, choice, covered);
  }
}

/// Some of its sectors rot; or another block's write lands on it.
void Platter::damage_block(std::uint64_t block, Rng& choice, std::uint64_t log_blocks) {
  std::array<std::byte, kBlockBytes> bytes;
  if (log_blocks != 0 && choice.chance(300'000)) {
    add(DiskEvent::kMisdirected);
    read((kLogBlocksAt + choice.below(log_blocks)) * kBlockBytes, bytes);
    return write(block * kBlockBytes, bytes);
  }
  add(DiskEvent::kCorrupted);
  read(block * kBlockBytes, bytes);
  const std::uint64_t hit = choice.below(kBlockBytes / kSectorBytes);
  for (std::uint64_t sector = 0; sector < kBlockBytes / kSectorBytes; ++sector) {
    if (sector != hit && choice.chance(700'000)) continue;
    const std::uint64_t at = sector * kSectorBytes + choice.below(kSectorBytes);
    bytes[at] ^= static_cast<std::byte>(choice.between(1, 255));
    if (choice.coin()) std::memset(bytes.data() + sector * kSectorBytes, 0, kSectorBytes);
  }
  write(block * kBlockBytes, bytes);
}

// --- SimDisk

Status SimDisk::read(std::uint64_t offset, std::span<std::byte> into) {
  platter_->read(offset, into);
  return {};
}

Status SimDisk::write(std::uint64_t offset, std::span<const std::byte> from) {
  platter_->write(offset, from);
  return {};
}

Status SimDisk::attach(std::span<std::byte> memory) {
  memory_ = memory;
  return {};
}

void SimDisk::start(const Transfer& transfer) {
  CHECK(transfer.offset % kBlockBytes == 0 && transfer.bytes % kBlockBytes == 0);
  CHECK(transfer.bytes != 0 && transfer.offset + transfer.bytes <= bytes());
  CHECK(transfer.data >= memory_.data() &&
        transfer.data + transfer.bytes <= memory_.data() + memory_.size());
  CHECK(pending_.size() < kTransfersMax);
  Rng& rng = platter_->rng;
  const DiskQuality& quality = platter_->quality;
  Nanos takes = rng.between(quality.latency_min, quality.latency_max);
  if (rng.chance(quality.slow_ppm)) takes *= rng.between(2, 100);
  Pending begun{transfer, {}, world_.now() + takes};
  if (transfer.write) begun.data.assign(transfer.data, transfer.data + transfer.bytes);
  pending_.push_back(std::move(begun));
}

std::uint32_t SimDisk::done(std::span<TransferDone> into) {
  std::uint32_t count = 0;
  while (count < into.size()) {
    const auto first =
        std::min_element(pending_.begin(), pending_.end(),
                         [](const Pending& a, const Pending& b) { return a.due < b.due; });
    if (first == pending_.end() || first->due > world_.now()) break;
    if (first != pending_.begin()) platter_->add(DiskEvent::kOvertaken);
    into[count++] = {first->transfer.token, finish(*first)};
    pending_.erase(first);
  }
  return count;
}

/// What the transfer moved, or the error.
std::int64_t SimDisk::finish(const Pending& pending) {
  const Transfer& transfer = pending.transfer;
  if (!transfer.write) {
    platter_->add(DiskEvent::kRead);
    platter_->read(transfer.offset, {transfer.data, transfer.bytes});
    return transfer.bytes;
  }
  if (std::memcmp(transfer.data, pending.data.data(), transfer.bytes) != 0) {
    failure_.set("disk: memory was changed while it was being written");
  }
  if (platter_->fail_after != 0 && --platter_->fail_after == 0) {
    platter_->add(DiskEvent::kFailed);
    keep_part(pending);
    failed_();
    return platter_->rng.coin() ? -EIO : transfer.bytes - std::int64_t{kBlockBytes};
  }
  platter_->add(DiskEvent::kWritten);
  platter_->write(transfer.offset, pending.data);
  return transfer.bytes;
}

/// Nothing of it is on the platter, or any part, in sectors.
void SimDisk::keep_part(const Pending& write) {
  Rng& rng = platter_->rng;
  const auto kept = static_cast<std::uint32_t>(rng.below(1'000'000));
  const bool nothing = rng.chance(400'000);
  platter_->add(nothing ? DiskEvent::kLost : DiskEvent::kTorn);
  for (std::size_t at = 0; !nothing && at < write.data.size(); at += Platter::kSectorBytes) {
    if (!rng.chance(kept)) continue;
    platter_->write(write.transfer.offset + at,
                    std::span(write.data).subspan(at, Platter::kSectorBytes));
  }
}

void SimDisk::lose_power() {
  Rng& rng = platter_->rng;
  const bool all_kept = rng.chance(100'000);
  for (const Pending& pending : pending_) {
    if (!pending.transfer.write) continue;
    if (all_kept || rng.chance(200'000)) {
      platter_->write(pending.transfer.offset, pending.data);
    } else {
      keep_part(pending);
    }
  }
  pending_.clear();
}

}  // namespace annulus::sim
