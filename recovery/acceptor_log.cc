#include "recovery/acceptor_log.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>

#include "dataplane/defect.h"

namespace annulus::recovery {
namespace {

using consensus::Keep;
using consensus::LogProgress;
using consensus::LogRead;
using consensus::LogValue;

/// A group's write takes this much if it can: bigger ones are no faster per byte.
constexpr std::uint32_t kGroupBytes = 256 * 1024;
constexpr std::uint32_t kReadBytes = 128 * 1024;
/// The superblock follows the durable end at this distance, and at rest up to it.
constexpr std::uint64_t kCoverEvery = kUncoveredMax / 4;
constexpr Nanos kCoverAtRest = 2 * kMillisecond;
constexpr std::uint32_t kSuperblockToken = 100;
constexpr std::uint32_t kReadToken = 200;

std::uint32_t group_bytes(const AcceptorLogOptions& options) {
  return std::max(kGroupBytes, record_blocks_max(options.value_bytes_max) * kBlockBytes);
}
std::uint32_t read_bytes(const AcceptorLogOptions& options) {
  return std::max(kReadBytes, record_blocks_max(options.value_bytes_max) * kBlockBytes);
}

std::string mebibytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

void tell_on_stderr(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

// --- Start

Status AcceptorLog::format(Disk& disk, const LogIdentity& identity, std::uint64_t incarnation) {
  std::vector<std::byte> block(kBlockBytes);
  auto& superblock = *reinterpret_cast<Superblock*>(block.data());
  superblock.members = identity.members;
  superblock.incarnation = incarnation;
  superblock.chosen_below = superblock.accepted_below = raw(consensus::kFirstInstance);
  superblock.blocks = disk.bytes() / kBlockBytes - kLogBlocksAt;
  for (std::uint64_t copy = 0; copy < 2; ++copy) {
    seal_block(block, BlockKind::kSuperblock, identity, copy, 0);
    if (Status written = disk.write(kSuperblockAt[copy] * kBlockBytes, block); !written) {
      return written;
    }
  }
  return {};
}

Result<std::unique_ptr<AcceptorLog>> AcceptorLog::open(std::unique_ptr<Disk> disk,
                                                       const LogIdentity& identity,
                                                       const AcceptorLogOptions& options) {
  auto scan = scan_log(*disk, identity);
  if (!scan) return scan.error();
  std::unique_ptr<AcceptorLog> log(
      new AcceptorLog(std::move(disk), identity, options, std::move(scan).value()));
  if (Status begun = log->begin_epoch(); !begun) return begun.error();
  return log;
}

AcceptorLog::AcceptorLog(std::unique_ptr<Disk> disk, const LogIdentity& identity,
                         const AcceptorLogOptions& options, std::unique_ptr<LogScan> scan)
    : disk_(std::move(disk)),
      identity_(identity),
      options_(options),
      recovered_(std::move(scan->recovered)),
      index_(std::move(scan->index)),
      group_bytes_(group_bytes(options)),
      read_bytes_(read_bytes(options)),
      memory_bytes_(kBlockBytes + std::uint64_t{options.depth} * group_bytes_ +
                    std::uint64_t{kReadsMax} * read_bytes_),
      waiting_(options.keeps_max),
      next_block_(scan->tail),
      durable_block_(scan->tail),
      chosen_below_(recovered_.chosen_below),
      accepted_below_(scan->accepted_below),
      superblock_(scan->superblock),
      configuration_(recovered_.configuration),
      covered_(scan->tail),
      values_(kWantedMax, options.value_bytes_max) {
  CHECK(std::has_single_bit(options.keeps_max) && options.depth <= kDepthMax);
  void* memory =
      mmap(nullptr, memory_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  memory_ = static_cast<std::byte*>(memory);
  groups_memory_ = memory_ + kBlockBytes;
  reads_memory_ = groups_memory_ + std::uint64_t{options.depth} * group_bytes_;
  wanted_.reserve(kWantedMax);
  std::uint64_t damaged = 0;
  for (const DamagedBlocks& lost : scan->damage) {
    damaged += lost.below - lost.from;
    findings_ += "log blocks " + std::to_string(lost.from) + " to " +
                 std::to_string(lost.below - 1) + " are damaged (" + to_string(lost.state) + "); ";
  }
  for (const BlockState state : scan->superblocks) {
    if (state != BlockState::kValid) {
      findings_ += std::string("a copy of the superblock was ") + to_string(state) + "; ";
    }
  }
  if (damaged != 0) {
    findings_ += std::to_string(recovered_.missing.size()) +
                 " decided instances were lost and will be had from the other acceptors; ";
  }
  counters_[LogCounter::kDamagedBlocks].set(damaged);
  counters_[LogCounter::kMissingInstances].set(recovered_.missing.size());
}

AcceptorLog::~AcceptorLog() {
  disk_.reset();  // which still has transfers from and to the memory
  munmap(memory_, memory_bytes_);
}

/// Durable before anything is said under the new epoch. Covers all that was read back: what was
/// torn, or left over past the tail, will be taken for stale from now on.
Status AcceptorLog::begin_epoch() {
  superblock_.header.epoch = superblock_.header.epoch + 1;
  superblock_.epoch_start = next_block_;
  superblock_.blocks = disk_->bytes() / kBlockBytes - kLogBlocksAt;
  superblock_covers_ = durable_block_;
  seal_superblock();
  for (const std::uint64_t at : kSuperblockAt) {
    const std::uint64_t copy = at == kSuperblockAt[0] ? 0 : 1;
    seal_block({memory_, kBlockBytes}, BlockKind::kSuperblock, identity_, copy, epoch());
    if (Status written = disk_->write(at * kBlockBytes, {memory_, kBlockBytes}); !written) {
      return written;
    }
  }
  return disk_->attach({memory_, memory_bytes_});
}

/// Into memory: what the next superblock says.
void AcceptorLog::seal_superblock() {
  superblock_.revision = superblock_.revision + 1;
  superblock_.covered = superblock_covers_;
  superblock_.chosen_below = raw(chosen_below_);
  superblock_.accepted_below = raw(accepted_below_);
  std::memset(memory_, 0, kBlockBytes);
  superblock_.configuration_bytes = static_cast<std::uint32_t>(configuration_.size());
  std::memcpy(memory_, &superblock_, sizeof superblock_);
  std::copy(configuration_.begin(), configuration_.end(), memory_ + sizeof superblock_);
  seal_block({memory_, kBlockBytes}, BlockKind::kSuperblock, identity_, 0, epoch());
}

// --- Writing

void AcceptorLog::append(std::span<Keep> keeps) {
  for (Keep& keep : keeps) {
    CHECK(keep.number == last_number_ + 1);
    last_number_ = keep.number;
    if (keep.instance == Instance{}) {
      if (keep.bytes) {
        const auto bytes = keep.bytes.bytes();
        configuration_.assign(bytes.begin(), bytes.end());
        keep.bytes.reset();
      } else {
        superblock_.promised = raw(keep.ballot);
      }
      chosen_below_ = std::max(chosen_below_, keep.chosen_below);
      if (promise_number_ == promise_durable_) promise_waits_ = keep.number;
      if (promise_number_ == superblock_number_) promise_next_ = keep.number;
      promise_number_ = keep.number;
      counters_[LogCounter::kPromises].add();
      continue;
    }
    CHECK(waiting_tail_ - waiting_head_ < waiting_.size());
    waiting_cost_ += consensus::log_cost(keep.value.bytes);
    waiting_[waiting_tail_++ & (waiting_.size() - 1)] = std::move(keep);
  }
}

void AcceptorLog::submit(Nanos now) {
  if (!failure_.empty()) return;
  while (waiting_head_ != waiting_tail_ && start_group(now)) {
  }
  start_superblock(now);
  start_reads();
  disk_->submit();
}

bool AcceptorLog::start_group(Nanos now) {
  if (groups_tail_ - groups_head_ == options_.depth) {
    counters_[LogCounter::kDepthReached].add();
    return false;
  }
  const std::uint64_t room =
      std::min(covered_ + kUncoveredMax, superblock_.blocks.get()) - next_block_;
  const std::uint64_t bytes = std::min<std::uint64_t>(group_bytes_, room * kBlockBytes);
  std::byte* memory = group_memory(groups_tail_ % options_.depth);
  GroupWriter writer({memory, bytes}, next_block_, accepted_below_);
  Group& group = groups_[groups_tail_ % options_.depth];
  group = {.block = next_block_, .begun = now};
  while (waiting_head_ != waiting_tail_) {
    Keep& keep = waiting_[waiting_head_ & (waiting_.size() - 1)];
    RecordPlace place;
    if (!writer.add(keep, place)) break;
    index_.set(keep.instance, place);
    if (group.first_number == 0) group.first_number = keep.number;
    group.last_number = keep.number;
    group.chosen_below = keep.chosen_below;
    counters_[LogCounter::kAccepts].add();
    counters_[LogCounter::kValueBytes].add(keep.value.bytes);
    waiting_cost_ -= consensus::log_cost(keep.value.bytes);
    keep.bytes.reset();
    ++waiting_head_;
  }
  if (writer.empty()) return false;  // until the superblock covers more
  accepted_below_ = writer.accepted_below();
  group_records_.record(writer.records());
  group.blocks = writer.finish(identity_, epoch(), durable_block_);
  next_block_ += group.blocks;
  counters_[LogCounter::kGroups].add();
  counters_[LogCounter::kBlocks].add(group.blocks);
  disk_->start({.write = true,
                .token = static_cast<std::uint32_t>(groups_tail_ % options_.depth),
                .offset = (kLogBlocksAt + group.block) * kBlockBytes,
                .data = memory,
                .bytes = group.blocks * kBlockBytes});
  ++groups_tail_;
  last_write_ = now;
  return true;
}

void AcceptorLog::start_superblock(Nanos now) {
  if (superblock_copies_left_ != 0) return;
  const bool promised = promise_number_ > promise_durable_;
  const bool at_rest = durable_block_ == next_block_ && durable_block_ != covered_ &&
                       now - last_write_ >= kCoverAtRest;
  if (!promised && !at_rest && durable_block_ - covered_ < kCoverEvery) return;
  superblock_number_ = promise_number_;
  superblock_covers_ = durable_block_;
  seal_superblock();
  superblock_copies_left_ = 2;
  counters_[LogCounter::kSuperblocks].add();
  disk_->start({.write = true,
                .token = kSuperblockToken,
                .offset = kSuperblockAt[0] * kBlockBytes,
                .data = memory_,
                .bytes = kBlockBytes});
}

/// The second copy only once the first is durable: one of the two is whole at any time.
void AcceptorLog::superblock_done() {
  if (--superblock_copies_left_ == 1) {
    seal_block({memory_, kBlockBytes}, BlockKind::kSuperblock, identity_, 1, epoch());
    disk_->start({.write = true,
                  .token = kSuperblockToken,
                  .offset = kSuperblockAt[1] * kBlockBytes,
                  .data = memory_,
                  .bytes = kBlockBytes});
    return;
  }
  covered_ = superblock_covers_;
  promise_durable_ = superblock_number_;
  promise_waits_ = promise_next_;
}

void AcceptorLog::group_done(std::uint32_t index, Nanos now) {
  Group& group = groups_[index];
  group.done = true;
  if (DEFECT(kLaterWriteVouches)) {
    for (std::uint64_t i = groups_head_; i % options_.depth != index; ++i) {
      groups_[i % options_.depth].done = true;
    }
  }
  write_ns_.record(static_cast<std::uint64_t>(now - group.begun));
  while (groups_head_ != groups_tail_ && groups_[groups_head_ % options_.depth].done) {
    const Group& first = groups_[groups_head_++ % options_.depth];
    durable_block_ = first.block + first.blocks;
    chosen_below_ = std::max(chosen_below_, first.chosen_below);
  }
}

void AcceptorLog::fail(const std::string& what) {
  failure_ = disk_->name() + ": " + what +
             ". The acceptor has stopped, for it cannot tell what is on disk; mend or replace the "
             "disk. Started again from this file, it knows what was durable";
  options_.tell("error: " + failure_);
}

LogProgress AcceptorLog::poll(Nanos now) {
  std::array<TransferDone, Disk::kTransfersMax> dones;
  std::uint32_t count = 0;
  while (failure_.empty() && (count = disk_->done(dones)) != 0) {
    for (const TransferDone& done : std::span(dones).first(count)) {
      const bool group = done.token < kSuperblockToken;
      const bool superblock = done.token == kSuperblockToken;
      std::int64_t wanted = kBlockBytes;
      if (group) wanted = std::int64_t{groups_[done.token].blocks} * kBlockBytes;
      if (!group && !superblock) {
        Stretch& stretch = stretches_[done.token - kReadToken];
        wanted = std::int64_t{stretch.blocks} * kBlockBytes;
        stretch.reading = false;
      }
      if (done.result != wanted && !DEFECT(kDiskErrorIgnored)) {
        fail(std::string(group        ? "a write of accepts"
                         : superblock ? "a write of the superblock"
                                      : "a read") +
             " failed: " +
             (done.result < 0 ? std::strerror(static_cast<int>(-done.result))
                              : std::to_string(done.result) + " of " + std::to_string(wanted) +
                                    " bytes were transferred"));
        break;
      }
      if (group) group_done(done.token, now);
      if (superblock) superblock_done();
    }
  }
  if (!failure_.empty()) return {.failed = true};
  submit(now);
  warn_of_space();
  const bool reading = std::any_of(stretches_.begin(), stretches_.end(),
                                   [](const Stretch& each) { return each.reading; });
  return {.durable = durable_number(),
          .space = space(),
          .busy = groups_head_ != groups_tail_ || superblock_copies_left_ != 0 || reading ||
                  !wanted_.empty() || covered_ != next_block_,
          .failed = false};
}

std::uint64_t AcceptorLog::durable_number() const {
  std::uint64_t below = last_number_ + 1;
  if (groups_head_ != groups_tail_) {
    below = groups_[groups_head_ % options_.depth].first_number;
  } else if (waiting_head_ != waiting_tail_) {
    below = waiting_[waiting_head_ & (waiting_.size() - 1)].number;
  }
  if (promise_number_ > promise_durable_) {
    below = std::min(below, promise_waits_);
  }
  return below - 1;
}

std::uint64_t AcceptorLog::space() const {
  const std::uint64_t left = (superblock_.blocks - next_block_) * kBlockBytes;
  return left > waiting_cost_ ? left - waiting_cost_ : 0;
}

void AcceptorLog::warn_of_space() {
  if (warned_ || next_block_ < superblock_.blocks - superblock_.blocks / 8) return;
  warned_ = true;
  options_.tell("warning: " + disk_->name() + ": seven eighths of " +
                mebibytes(superblock_.blocks * kBlockBytes) +
                " are used. Nothing of a log can be given up yet; once it is full this acceptor "
                "takes no more commands. Stop it, raise its 'log_mb', and start it again");
}

// --- Reading

bool AcceptorLog::read(const LogRead& wanted) {
  if (index_.at(wanted.instance).blocks == 0) return true;  // lost; the acceptor knows
  if (wanted_.size() == kWantedMax) {
    counters_[LogCounter::kReadsRefused].add();
    return false;
  }
  wanted_.push_back(wanted);
  return true;
}

/// Fetches the stretches that are wanted. Only those give way in which nothing is: else, with more
/// wanted than fits, each would be given up for the next before anybody had read from it.
void AcceptorLog::start_reads() {
  std::array<bool, kReadsMax> needed{};
  for (const LogRead& wanted : wanted_) {
    const RecordPlace place = index_.at(wanted.instance);
    for (std::size_t i = 0; i < needed.size(); ++i) needed[i] |= stretches_[i].holds(place);
  }
  for (const LogRead& wanted : wanted_) {
    const RecordPlace place = index_.at(wanted.instance);
    if (place.block + place.blocks > durable_block_) continue;  // being written
    if (std::any_of(stretches_.begin(), stretches_.end(),
                    [&](const Stretch& each) { return each.holds(place); })) {
      continue;
    }
    Stretch* oldest = nullptr;
    for (std::size_t i = 0; i < needed.size(); ++i) {
      Stretch& each = stretches_[i];
      if (each.reading || needed[i]) continue;
      if (oldest == nullptr || each.used < oldest->used) oldest = &each;
    }
    if (oldest == nullptr) return;
    const std::uint64_t blocks =
        std::min<std::uint64_t>(read_bytes_ / kBlockBytes, durable_block_ - place.block);
    *oldest = {place.block, static_cast<std::uint32_t>(blocks), true, ++read_turn_};
    counters_[LogCounter::kDiskReads].add();
    const auto index = static_cast<std::uint32_t>(oldest - stretches_.data());
    disk_->start({.write = false,
                  .token = kReadToken + index,
                  .offset = (kLogBlocksAt + place.block) * kBlockBytes,
                  .data = stretch_memory(index),
                  .bytes = oldest->blocks * kBlockBytes});
  }
}

bool AcceptorLog::next_read(LogValue& value) {
  for (std::size_t i = 0; i < wanted_.size(); ++i) {
    const LogRead wanted = wanted_[i];
    const RecordPlace place = index_.at(wanted.instance);
    for (Stretch& stretch : stretches_) {
      if (stretch.reading || !stretch.holds(place)) continue;
      stretch.used = ++read_turn_;
      if (!decode(wanted, stretch, place, value)) return false;
      wanted_.erase(wanted_.begin() + static_cast<std::ptrdiff_t>(i));
      return true;
    }
  }
  return false;
}

/// False if there is no memory for the value now.
bool AcceptorLog::decode(const LogRead& wanted, const Stretch& stretch, const RecordPlace& place,
                         LogValue& value) {
  const auto index = static_cast<std::uint64_t>(&stretch - stretches_.data());
  const std::byte* blocks = stretch_memory(index) + (place.block - stretch.block) * kBlockBytes;
  bool whole = true;
  for (std::uint32_t i = 0; i < place.blocks; ++i) {
    whole = whole && check_block({blocks + std::size_t{i} * kBlockBytes, kBlockBytes},
                                 BlockKind::kLog, identity_, place.block + i) == BlockState::kValid;
  }
  const std::span<const std::byte> span{blocks, std::size_t{place.blocks} * kBlockBytes};
  LogRecord record;
  whole = whole && read_record(span, place.offset, record, {}) &&
          record.instance == raw(wanted.instance) && record.value.bytes <= values_.capacity();
  value = {.wanted = wanted};
  if (!whole) {
    counters_[LogCounter::kReadsDamaged].add();
    index_.set(wanted.instance, {});
    return true;
  }
  if (record.value.bytes != 0) {
    dataplane::Slice bytes = values_.allocate();
    if (!bytes) return false;
    bytes.truncate(record.value.bytes);
    CHECK(read_record(span, place.offset, record, {bytes.mutable_data(), bytes.size()}));
    value.bytes = std::move(bytes);
  }
  value.ballot = consensus::Ballot{record.ballot.get()};
  value.value = from_wire(record.value);
  counters_[LogCounter::kValuesRead].add();
  return true;
}

// --- Figures

void AcceptorLog::add_counters(dataplane::Registry& registry, const std::string& node) {
  registry.add(node, "log", counters_);
  registry.add(node, "log_write_ns", write_ns_);
  registry.add(node, "log_group_records", group_records_);
}

std::string AcceptorLog::memory_plan(const AcceptorLogOptions& options, std::uint64_t disk_bytes) {
  const auto line = [](const char* what, std::uint64_t count, std::uint64_t each) {
    return std::string("  ") + what + ": " + std::to_string(count) + " x " + std::to_string(each) +
           " B = " + std::to_string(count * each / 1024) + " KiB\n";
  };
  const std::uint64_t blocks = disk_bytes / kBlockBytes;
  return line("log: write buffers, one a group under way", options.depth, group_bytes(options)) +
         line("log: read-ahead", kReadsMax, read_bytes(options)) +
         line("log: values read, until sent", kWantedMax, options.value_bytes_max) +
         line("log: places of instances, touched as they are logged (blocks x records)",
              blocks * (kBlockBytes / sizeof(LogRecord)), sizeof(std::uint64_t));
}

}  // namespace annulus::recovery

namespace annulus::dataplane {

template <>
const std::array<const char*, static_cast<std::size_t>(recovery::LogCounter::kCount)>
    CounterNames<recovery::LogCounter>::names = {
        "accepts",       "value_bytes",   "promises",         "groups",           "blocks",
        "superblocks",   "depth_reached", "buffers_unlocked", "values_read",      "disk_reads",
        "reads_refused", "reads_damaged", "damaged_blocks",   "missing_instances"};

}  // namespace annulus::dataplane
