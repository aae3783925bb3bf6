// Reads an acceptor's log back: where its tail is, what each instance's last record is, and what
// damage has made unknown. Used when an acceptor starts, and by `annulus inspect`.
//
// A block that cannot be read is torn or damaged. Below what was known durable (the superblock's
// `covered`, or `durable_below` of a block written later) it is damaged: something acknowledged was
// lost. At or above, nothing that depends on it was ever said, and the log is cut there. Blocks
// past the cut are forgotten: their writes were under way together with the one that is missing.
//
// What was in a damaged block cannot be read, but it can be bounded, for each block says what was
// chosen and how far accepts reached when it was written: the one before the damage what could not
// change any more, the one after it the highest instance that the damage can have held. Of the
// instances between, a record from before the damage may have been replaced in it. Those that are
// chosen are missing (the others have them); the rest is unknown.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "consensus/log.h"
#include "recovery/log_format.h"

namespace annulus::recovery {

/// Log blocks past Superblock::covered that may be in use: the log waits with further ones.
constexpr std::uint64_t kUncoveredMax = 8'192;

/// The place of each instance's last record. Sized for the smallest records; its memory is touched
/// as instances are logged.
class LogIndex {
 public:
  explicit LogIndex(std::uint64_t blocks)
      : capacity_(blocks * (kBlockBytes / sizeof(LogRecord)) + consensus::kUndecidedMax),
        places_(static_cast<std::uint64_t*>(std::calloc(capacity_, sizeof(std::uint64_t)))) {
    CHECK(places_ != nullptr);
  }
  bool fits(Instance instance) const { return raw(instance) < capacity_; }
  RecordPlace at(Instance instance) const {
    return RecordPlace::unpack(fits(instance) ? places_.get()[raw(instance)] : 0);
  }
  void set(Instance instance, const RecordPlace& place) {
    CHECK(fits(instance));
    places_.get()[raw(instance)] = place.packed();
  }
  std::uint64_t bytes() const { return capacity_ * sizeof(std::uint64_t); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::uint64_t capacity_;
  std::unique_ptr<std::uint64_t, Free> places_;
};

struct DamagedBlocks {
  std::uint64_t from = 0;  // half open
  std::uint64_t below = 0;
  BlockState state{};  // of the first
  Instance chosen_before{};
  Instance accepted_below{};  // of all records up to its end
};

struct LogScan {
  explicit LogScan(std::uint64_t blocks_in_file) : index(blocks_in_file) {}
  std::array<BlockState, 2> superblocks{};
  Superblock superblock{};  // the newest that is valid
  std::uint64_t tail = 0;   // where the next record goes
  std::array<std::uint64_t, static_cast<std::size_t>(BlockState::kCount)> blocks{};  // below tail
  std::vector<DamagedBlocks> damage;
  std::uint64_t records = 0;
  std::uint64_t cut_records = 0;  // began below the tail, and went on past it
  std::uint64_t value_bytes = 0;
  Instance accepted_below = consensus::kFirstInstance;  // of all records, damaged ones too
  LogIndex index;
  consensus::RecoveredAcceptor recovered;
};

/// The first valid superblock's word on whose log this is. For those who are not told.
Result<LogIdentity> read_identity(Disk& disk);

/// Fails when the disk cannot be read, or when the damage is beyond repair.
Result<std::unique_ptr<LogScan>> scan_log(Disk& disk, const LogIdentity& identity);

}  // namespace annulus::recovery
