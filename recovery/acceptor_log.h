// The durable log of one acceptor: group commit of accepts into log blocks, promises and
// configurations into the superblock, values read back for those who are behind. Polled by its
// acceptor's node, on whose core it lives. Everything but the raw Disk is the same in production
// and in the simulator.
//
// T22: nothing is ever trimmed, because no checkpoint covers it: a full log takes no accepts, which
// is back-pressure, while promises, votes for what it holds and reads go on.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "consensus/log.h"
#include "dataplane/counters.h"
#include "recovery/log_scan.h"

namespace annulus::recovery {

enum class LogCounter : std::uint8_t {
  kAccepts,
  kValueBytes,
  kPromises,
  kGroups,  // writes of accepts; those done meanwhile share a sync
  kBlocks,
  kSuperblocks,      // written, each twice
  kDepthReached,     // accepts waited because as many groups as may be were under way
  kBuffersUnlocked,  // 1: transfers are slower, because their memory could not be registered
  kValuesRead,
  kDiskReads,
  kReadsRefused,  // too many at once
  kReadsDamaged,
  kDamagedBlocks,     // found at start
  kMissingInstances,  // chosen ones that these held
  kCount,
};

void tell_on_stderr(const std::string& text);

struct AcceptorLogOptions {
  std::uint32_t value_bytes_max = 65'536;
  std::uint32_t keeps_max = 2'048;  // accepts given and not durable yet, a power of two
  std::uint32_t depth = 8;          // groups under way at once
  /// Told what an operator should know: why it stopped, that it will soon be full.
  void (*tell)(const std::string& text) = tell_on_stderr;
};

class AcceptorLog final : public consensus::AcceptorLog {
 public:
  /// Makes an empty log, epoch 0, of everything past the disk's current contents. `incarnation`: of
  /// an acceptor that is to be admitted, a random number.
  static Status format(Disk& disk, const LogIdentity& identity, std::uint64_t incarnation = 0);
  /// Reads it back, and begins a new durable epoch.
  static Result<std::unique_ptr<AcceptorLog>> open(std::unique_ptr<Disk> disk,
                                                   const LogIdentity& identity,
                                                   const AcceptorLogOptions& options);
  ~AcceptorLog() override;

  /// Of this incarnation; one more than the last (T1, T2).
  std::uint64_t epoch() const { return superblock_.header.epoch; }
  const consensus::RecoveredAcceptor& recovered() const override { return recovered_; }
  /// What reading it back found, for the operator; "" if all is well.
  const std::string& findings() const { return findings_; }
  /// Why it failed; once poll() has said so.
  const std::string& failure() const { return failure_; }
  static std::string memory_plan(const AcceptorLogOptions& options, std::uint64_t disk_bytes);

  void append(std::span<consensus::Keep> keeps) override;
  void submit(Nanos now) override;
  consensus::LogProgress poll(Nanos now) override;
  bool read(const consensus::LogRead& wanted) override;
  bool next_read(consensus::LogValue& value) override;
  void add_counters(dataplane::Registry& registry, const std::string& node) override;
  dataplane::Counters<LogCounter>& counters() { return counters_; }

 private:
  static constexpr std::uint32_t kDepthMax = 16;
  static constexpr std::uint32_t kReadsMax = 4;
  static constexpr std::uint32_t kWantedMax = 256;

  /// One write of accepts.
  struct Group {
    std::uint64_t block = 0;
    std::uint32_t blocks = 0;
    std::uint64_t first_number = 0;
    std::uint64_t last_number = 0;
    Instance chosen_below{};
    Nanos begun = 0;
    bool done = false;
  };
  /// One stretch of the log in memory: read ahead, for others will want what follows.
  struct Stretch {
    std::uint64_t block = 0;
    std::uint32_t blocks = 0;
    bool reading = false;
    std::uint64_t used = 0;  // turn of last use
    bool holds(const RecordPlace& place) const {
      return place.block >= block && place.block + place.blocks <= block + blocks;
    }
  };

  AcceptorLog(std::unique_ptr<Disk> disk, const LogIdentity& identity,
              const AcceptorLogOptions& options, std::unique_ptr<LogScan> scan);
  Status begin_epoch();
  void seal_superblock();
  bool start_group(Nanos now);
  void start_superblock(Nanos now);
  void superblock_done();
  void start_reads();
  void group_done(std::uint32_t index, Nanos now);
  void fail(const std::string& what);
  void warn_of_space();
  std::uint64_t durable_number() const;
  std::uint64_t space() const;
  bool decode(const consensus::LogRead& wanted, const Stretch& stretch, const RecordPlace& place,
              consensus::LogValue& value);
  std::byte* group_memory(std::uint64_t index) { return groups_memory_ + index * group_bytes_; }
  std::byte* stretch_memory(std::uint64_t index) { return reads_memory_ + index * read_bytes_; }

  std::unique_ptr<Disk> disk_;
  const LogIdentity identity_;
  const AcceptorLogOptions options_;
  consensus::RecoveredAcceptor recovered_;
  LogIndex index_;
  std::string findings_;
  std::string failure_;

  // Memory of all transfers.
  std::uint32_t group_bytes_;
  std::uint32_t read_bytes_;
  std::uint64_t memory_bytes_;
  std::byte* memory_ = nullptr;
  std::byte* groups_memory_ = nullptr;
  std::byte* reads_memory_ = nullptr;

  // Accepts: waiting to be written, and being written; both in order.
  std::vector<consensus::Keep> waiting_;  // a ring
  std::uint64_t waiting_head_ = 0;
  std::uint64_t waiting_tail_ = 0;
  std::uint64_t waiting_cost_ = 0;
  std::array<Group, kDepthMax> groups_;
  std::uint64_t groups_head_ = 0;  // oldest under way
  std::uint64_t groups_tail_ = 0;
  std::uint64_t next_block_ = 0;
  std::uint64_t durable_block_ = 0;
  Instance chosen_below_{};    // of what is durable: nobody is asked for what is only being written
  Instance accepted_below_{};  // one past the highest instance written
  std::uint64_t last_number_ = 0;
  Nanos last_write_ = 0;

  // The superblock: what the next one says, and the write of one.
  Superblock superblock_{};
  std::vector<std::byte> configuration_;
  std::uint64_t promise_number_ = 0;          // of the last promise
  std::uint64_t promise_durable_ = 0;         // promises numbered up to here are durable
  std::uint64_t promise_waits_ = 0;           // the first that is not
  std::uint64_t promise_next_ = 0;            // the first that the write under way does not have
  std::uint64_t superblock_number_ = 0;       // promise_number_ as it was when the write began
  std::uint64_t superblock_covers_ = 0;       // and durable_block_
  std::uint64_t covered_ = 0;                 // by the superblock on disk
  std::uint32_t superblock_copies_left_ = 0;  // of the one being written

  // Reads.
  std::array<Stretch, kReadsMax> stretches_;
  std::vector<consensus::LogRead> wanted_;
  dataplane::BufferPool values_;
  std::uint64_t read_turn_ = 0;

  bool warned_ = false;
  dataplane::Counters<LogCounter> counters_;
  dataplane::Histogram write_ns_;       // from the start of a group's write to its end
  dataplane::Histogram group_records_;  // accepts in one
};

}  // namespace annulus::recovery
