#include "recovery/log_scan.h"

#include <algorithm>
#include <cstring>

#include "dataplane/defect.h"

namespace annulus::recovery {
namespace {

constexpr std::uint64_t kChunkBlocks = 256;

Error beyond_repair(const Disk& disk, const std::string& what) {
  return Error{disk.name() + ": " + what +
               ". Its promises are lost, so this acceptor must not speak again. Keep the file for "
               "examination; the cluster runs on with a majority of its other acceptors"};
}

/// Goes through the log blocks once; start at `first`, one after another.
class Reader {
 public:
  Reader(Disk& disk, std::uint64_t first, std::uint64_t below)
      : disk_(disk), next_(first), below_(below), chunk_(kChunkBlocks * kBlockBytes) {}
  /// The next block, or empty at the end. Fails with the disk.
  Result<std::span<const std::byte>> next() {
    if (next_ == below_) return std::span<const std::byte>{};
    if (at_ == have_) {
      have_ = std::min(kChunkBlocks, below_ - next_);
      at_ = 0;
      const Status read =
          disk_.read((kLogBlocksAt + next_) * kBlockBytes, {chunk_.data(), have_ * kBlockBytes});
      if (!read) return read.error();
    }
    ++next_;
    return std::span<const std::byte>{chunk_.data() + at_++ * kBlockBytes, kBlockBytes};
  }

 private:
  Disk& disk_;
  std::uint64_t next_;
  std::uint64_t below_;
  std::vector<std::byte> chunk_;
  std::uint64_t at_ = 0;
  std::uint64_t have_ = 0;
};

class Scanner {
 public:
  Scanner(Disk& disk, const LogIdentity& identity, LogScan& scan)
      : disk_(disk), identity_(identity), scan_(scan) {}

  Status run() {
    if (Status read = superblocks(); !read) return read;
    if (Status found = find_tail(); !found) return found;
    Reader reader(disk_, 0, scan_.tail);
    for (std::uint64_t p = 0; p < scan_.tail; ++p) {
      const auto block = reader.next();
      if (!block) return block.error();
      log_block(p, *block);
      if (!DEFECT(kLogCutAtDamage) || !damaged_) continue;
      damaged_ = false;
      scan_.damage.clear();
      scan_.tail = p;
    }
    end_damage(scan_.tail, scan_.accepted_below);
    if (open_left_ != 0) ++scan_.cut_records;
    judge();
    return load_accepted();
  }

 private:
  Status superblocks() {
    std::vector<std::byte> block(kBlockBytes);
    bool found = false;
    for (std::uint64_t copy = 0; copy < 2; ++copy) {
      if (Status read = disk_.read(kSuperblockAt[copy] * kBlockBytes, block); !read) return read;
      BlockState& state = scan_.superblocks[copy];
      state = check_block(block, BlockKind::kSuperblock, identity_, copy);
      if (state != BlockState::kValid) continue;
      const auto& read = *reinterpret_cast<const Superblock*>(block.data());
      if (found && read.revision <= scan_.superblock.revision) continue;
      scan_.superblock = read;
      found = true;
      const std::size_t kept =
          std::min<std::size_t>(read.configuration_bytes, consensus::kConfigurationBytesMax);
      const std::byte* from = block.data() + sizeof(Superblock);
      scan_.recovered.configuration.assign(from, from + kept);
      scan_.recovered.incarnation = read.incarnation;
    }
    if (!found) {
      return beyond_repair(disk_, std::string("neither superblock can be read (") +
                                      to_string(scan_.superblocks[0]) + ", " +
                                      to_string(scan_.superblocks[1]) + ")");
    }
    const Superblock& best = scan_.superblock;
    const auto& kept = scan_.recovered.configuration;
    if (!kept.empty() && !consensus::valid_configuration(kept)) {
      return beyond_repair(disk_, "holds no valid configuration");
    }
    if (best.members != identity_.members && kept.empty() && best.incarnation == 0) {
      return Error{
          disk_.name() +
          ": was written by an acceptor of another set of acceptors; majorities of the two "
          "need not meet. Start the cluster with the [[acceptors]] it was created with; they are "
          "changed by `annulus cluster`"};
    }
    if (best.blocks > blocks_of(disk_) || best.covered > best.blocks ||
        best.epoch_start > best.covered) {
      return beyond_repair(disk_, "is shorter than its superblock says: a part of it is missing");
    }
    chosen_ = std::max(consensus::kFirstInstance, Instance{best.chosen_below.get()});
    scan_.accepted_below = std::max(scan_.accepted_below, Instance{best.accepted_below.get()});
    return {};
  }

  static std::uint64_t blocks_of(const Disk& disk) {
    const std::uint64_t all = disk.bytes() / kBlockBytes;
    return all > kLogBlocksAt ? all - kLogBlocksAt : 0;
  }

  BlockState judge_block(std::uint64_t position, std::span<const std::byte> block) const {
    const BlockState state = check_block(block, BlockKind::kLog, identity_, position);
    if (state != BlockState::kValid) return state;
    const auto& head = *reinterpret_cast<const LogBlock*>(block.data());
    const Superblock& best = scan_.superblock;
    const bool of_now = head.header.epoch == best.header.epoch;
    if (position >= best.epoch_start ? !of_now : head.header.epoch < epoch_) {
      return BlockState::kStale;
    }
    if (head.used < sizeof(LogBlock) || head.used > kBlockBytes || head.group > position ||
        head.begins > head.used) {
      return BlockState::kCorrupt;  // no block of ours, whatever its checksum
    }
    return state;
  }

  /// The end of what was durable, and of what is whole past it.
  Status find_tail() {
    const std::uint64_t covered = scan_.superblock.covered;
    const std::uint64_t limit =
        std::min<std::uint64_t>(scan_.superblock.blocks, covered + kUncoveredMax);
    std::vector<bool> whole(limit - covered);
    std::uint64_t durable = covered;
    Reader reader(disk_, covered, limit);
    for (std::uint64_t p = covered; p < limit; ++p) {
      const auto block = reader.next();
      if (!block) return block.error();
      if (judge_block(p, *block) != BlockState::kValid) continue;
      whole[p - covered] = true;
      const auto& head = *reinterpret_cast<const LogBlock*>(block->data());
      durable = std::max<std::uint64_t>(durable, std::min<std::uint64_t>(head.durable_below, p));
      scan_.accepted_below = std::max(scan_.accepted_below, Instance{head.accepted_below.get()});
    }
    while (durable < limit && whole[durable - covered]) ++durable;
    scan_.tail = durable;
    return {};
  }

  void log_block(std::uint64_t position, std::span<const std::byte> block) {
    const BlockState state = judge_block(position, block);
    ++scan_.blocks[static_cast<std::size_t>(state)];
    if (state != BlockState::kValid) {
      open_left_ = 0;
      if (!damaged_) scan_.damage.push_back({position, position, state, chosen_before_, {}});
      damaged_ = true;
      return;
    }
    const auto& head = *reinterpret_cast<const LogBlock*>(block.data());
    end_damage(position, Instance{head.accepted_below.get()});
    epoch_ = head.header.epoch;
    chosen_before_ = std::max(chosen_before_, Instance{head.chosen_first.get()});
    scan_.accepted_below = std::max(scan_.accepted_below, Instance{head.accepted_below.get()});
    records(position, block, head);
  }

  void end_damage(std::uint64_t position, Instance accepted_below) {
    if (!damaged_) return;
    damaged_ = false;
    scan_.damage.back().below = position;
    scan_.damage.back().accepted_below = accepted_below;
  }

  /// The records that begin in the block, and what the block has of one that began before.
  void records(std::uint64_t position, std::span<const std::byte> block, const LogBlock& head) {
    if (open_left_ != 0) {
      if (head.group == open_group_) {
        take(head, sizeof(LogBlock));
      } else {
        open_left_ = 0;  // cut when an earlier start found the rest missing
        ++scan_.cut_records;
      }
    }
    std::uint32_t offset = head.begins;
    while (offset != 0 && offset + sizeof(LogRecord) <= head.used) {
      std::memcpy(&open_, block.data() + offset, sizeof open_);
      if (open_.kind != kAcceptRecord || open_.value.bytes > (1u << 30)) break;
      if (!scan_.index.fits(Instance{open_.instance.get()}) || open_.instance == 0) break;
      open_group_ = head.group;
      open_place_ = {position, offset, 0};
      open_left_ = open_.value.bytes;
      offset = take(head, offset + static_cast<std::uint32_t>(sizeof(LogRecord)));
      if (open_left_ != 0) break;
    }
  }

  /// The open record's bytes from `offset` of this block on; returns where they end.
  std::uint32_t take(const LogBlock& head, std::uint32_t offset) {
    const std::uint32_t part = std::min<std::uint32_t>(open_left_, head.used - offset);
    open_left_ -= part;
    ++open_place_.blocks;
    if (open_left_ == 0) {
      const Instance instance{open_.instance.get()};
      scan_.index.set(instance, open_place_);
      // Of a whole record: what it takes for chosen was written before it, and is there as well.
      chosen_ = std::max(chosen_, Instance{open_.chosen_below.get()});
      scan_.value_bytes += open_.value.bytes;
      ++scan_.records;
    } else if (head.used != kBlockBytes) {
      open_left_ = 0;  // does not go on
    }
    return offset + part;
  }

  /// Takes back the places that damage has made doubtful.
  void judge() {
    consensus::RecoveredAcceptor& out = scan_.recovered;
    out.promised = consensus::Ballot{scan_.superblock.promised.get()};
    out.chosen_below = chosen_;
    const auto forget = [&](Instance i) {
      scan_.index.set(i, {});
      if (i < chosen_) return;
      if (out.unknown.empty()) out.unknown = {i, i};
      out.unknown.from = std::min(out.unknown.from, i);
      out.unknown.below = std::max(out.unknown.below, i + 1);
    };
    for (const DamagedBlocks& lost : scan_.damage) {
      for (Instance i = lost.chosen_before; i < lost.accepted_below && scan_.index.fits(i); ++i) {
        const RecordPlace place = scan_.index.at(i);
        if (place.blocks == 0 || place.block < lost.from) forget(i);
      }
    }
    for (Instance i = consensus::kFirstInstance; i < chosen_ && scan_.index.fits(i); ++i) {
      if (scan_.index.at(i).blocks == 0) out.missing.push_back(i);
    }
  }

  /// And the last of the chosen ones: a coordinator that has not heard that they are may need the
  /// acceptor's vote for them.
  Status load_accepted() {
    consensus::RecoveredAcceptor& out = scan_.recovered;
    Instance first = out.missing.empty() ? consensus::kFirstInstance : out.missing.back() + 1;
    if (raw(chosen_) > consensus::kUndecidedMax) {
      first = std::max(first, Instance{raw(chosen_) - consensus::kUndecidedMax});
    }
    const Instance below = std::min(scan_.accepted_below, chosen_ + consensus::kUndecidedMax);
    for (Instance i = first; i < below; ++i) {
      const RecordPlace place = scan_.index.at(i);
      if (place.blocks == 0) continue;
      std::vector<std::byte> blocks(std::size_t{place.blocks} * kBlockBytes);
      const Status read = disk_.read((kLogBlocksAt + place.block) * kBlockBytes, blocks);
      if (!read) return read.error();
      LogRecord record;
      if (!read_record(blocks, place.offset, record, {})) continue;
      consensus::RecoveredAcceptor::Accept accept{i, consensus::Ballot{record.ballot.get()},
                                                  from_wire(record.value),
                                                  std::vector<std::byte>(record.value.bytes)};
      CHECK(read_record(blocks, place.offset, record, accept.bytes));
      out.accepted.push_back(std::move(accept));
    }
    return {};
  }

  Disk& disk_;
  const LogIdentity& identity_;
  LogScan& scan_;
  Instance chosen_{};  // the highest chosen_below known
  Instance chosen_before_ = consensus::kFirstInstance;
  std::uint64_t epoch_ = 0;
  bool damaged_ = false;
  LogRecord open_{};
  std::uint64_t open_group_ = 0;
  RecordPlace open_place_;
  std::uint32_t open_left_ = 0;
};

}  // namespace

Result<LogIdentity> read_identity(Disk& disk) {
  std::vector<std::byte> block(kBlockBytes);
  std::string states;
  for (std::uint64_t copy = 0; copy < 2; ++copy) {
    if (Status read = disk.read(kSuperblockAt[copy] * kBlockBytes, block); !read) {
      return read.error();
    }
    const auto& found = *reinterpret_cast<const Superblock*>(block.data());
    const LogIdentity identity{found.header.cluster, consensus::NodeId{found.header.node.get()},
                               found.members};
    const BlockState state = check_block(block, BlockKind::kSuperblock, identity, copy);
    if (state == BlockState::kValid) return identity;
    states += std::string(states.empty() ? "" : ", ") + to_string(state);
  }
  return Error{disk.name() + ": is no acceptor's log: neither superblock can be read (" + states +
               "); name a file that an acceptor wrote"};
}

Result<std::unique_ptr<LogScan>> scan_log(Disk& disk, const LogIdentity& identity) {
  const std::uint64_t blocks = disk.bytes() / kBlockBytes;
  if (blocks <= kLogBlocksAt) {
    return Error{disk.name() +
                 ": is too short to be an acceptor's log; name a file that an "
                 "acceptor wrote"};
  }
  auto scan = std::make_unique<LogScan>(blocks - kLogBlocksAt);
  if (Status done = Scanner(disk, identity, *scan).run(); !done) return done.error();
  return scan;
}

}  // namespace annulus::recovery
